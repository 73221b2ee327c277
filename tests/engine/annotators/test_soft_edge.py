"""Soft edges: a network's logits as gray, whatever size it takes."""

from pathlib import Path

import numpy as np
import pytest

from fluxserve.engine.annotators.onnx import OnnxNetwork
from fluxserve.engine.annotators.soft_edge import SoftEdge
from tests.engine.annotators import networks


def test_a_picture_is_shown_blue_first_less_the_mean_and_the_last_answer_counts(tmp_path: Path) -> None:
    annotate = SoftEdge(OnnxNetwork(networks.brightest_blue(tmp_path / "edges.onnx")))
    pixels = np.zeros((48, 64, 3), np.uint8)
    pixels[:, :32] = (0, 0, 126)  # 103.5 is the mean of blue: a logit of 2.5
    edges = annotate(pixels)
    assert edges.shape == (48, 64, 3)
    assert edges[20, 10, 0] == round(255 / (1 + np.exp(-2.5)))
    assert edges[20, 60, 0] == 0


@pytest.mark.parametrize("size", [(50, 70), (256, 256), (9, 300)])
def test_any_size_goes_in_and_comes_out(tmp_path: Path, size: tuple[int, int]) -> None:
    annotate = SoftEdge(OnnxNetwork(networks.brightest_blue(tmp_path / "edges.onnx")))
    assert annotate(np.zeros((size[1], size[0], 3), np.uint8)).shape == (size[1], size[0], 3)


def test_a_network_of_one_size_is_shown_that(tmp_path: Path) -> None:
    logits = np.full((1, 1, 32, 32), -20, np.float32)
    logits[..., :16] = 20
    annotate = SoftEdge(OnnxNetwork(networks.constant(tmp_path / "edges.onnx", (32, 32), logits)))
    edges = annotate(np.zeros((100, 200, 3), np.uint8))
    assert edges[50, 20, 0] == 255
    assert edges[50, 180, 0] == 0

"""From a PNG file to the map that a control network follows, at the size that is drawn."""

from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from fluxserve.domain.catalog import AnnotatorWeights
from fluxserve.domain.generation import ControlType
from fluxserve.engine.annotators import Annotators
from fluxserve.engine.sources import CannotDraw, Sources
from tests.engine.annotators import networks
from tests.engine.annotators.test_depth import build_depth

WEIGHTS = AnnotatorWeights("mini/soft_edge.onnx", "mini/depth", "mini/pose.onnx")


def square() -> bytes:
    """A yellow square on navy, half as large as it is drawn below."""
    image = Image.new("RGB", (128, 64), "navy")
    image.paste("yellow", (32, 16, 96, 48))
    file = BytesIO()
    image.save(file, "PNG")
    return file.getvalue()


@pytest.fixture
def annotators(tmp_path: Path) -> Annotators:
    networks.brightest_blue(tmp_path / "soft_edge.onnx")
    build_depth(tmp_path / "depth")
    flat = np.zeros((1, 17, 64), np.float32)
    networks.constant(tmp_path / "pose.onnx", (64, 64), flat, flat)
    return Annotators(WEIGHTS, Sources(tmp_path), torch.device("cpu"))


@pytest.mark.parametrize("control", ["canny", "soft_edge", "depth", "openpose"])
def test_every_control_type_gives_a_map_of_the_asked_size(annotators: Annotators, control: ControlType) -> None:
    drawn = annotators.annotate(control, square(), (256, 128))
    assert drawn.shape == (128, 256, 3)
    assert drawn.dtype == np.uint8


def test_canny_draws_white_lines_where_a_square_has_its_edges(annotators: Annotators) -> None:
    lines = annotators.annotate("canny", square(), (256, 128))
    assert set(np.unique(lines)) == {0, 255}
    rows, columns = np.nonzero(lines[..., 0])
    assert abs(rows.min() - 32) <= 2
    assert abs(columns.max() - 192) <= 2
    assert not lines[40:90, 80:180].any()
    assert len(rows) < 2 * (128 + 64) * 1.2


def test_a_network_is_loaded_once(annotators: Annotators, tmp_path: Path) -> None:
    first = annotators.annotate("soft_edge", square(), (64, 32))
    (tmp_path / "soft_edge.onnx").unlink()
    assert np.array_equal(annotators.annotate("soft_edge", square(), (64, 32)), first)


def test_without_its_network_a_map_can_not_be_drawn_and_the_message_names_no_path(tmp_path: Path) -> None:
    with pytest.raises(CannotDraw, match=r"^mini/pose\.onnx is not here$"):
        Annotators(WEIGHTS, Sources(tmp_path), torch.device("cpu")).annotate("openpose", square(), (64, 64))

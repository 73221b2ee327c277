"""Depth: the nearest is white and the farthest black, at the picture's own size."""

from pathlib import Path

import numpy as np
import torch
from transformers import DepthAnythingConfig, DepthAnythingForDepthEstimation, Dinov2Config, DPTImageProcessorPil

from fluxserve.engine.annotators.depth import Depth


def build_depth(folder: Path) -> None:
    """A Depth Anything of random weights."""
    torch.manual_seed(4)
    stages = ["stage1", "stage2", "stage3", "stage4"]
    seen = Dinov2Config(  # type: ignore[call-arg]
        hidden_size=16, num_hidden_layers=4, num_attention_heads=2, image_size=32, patch_size=8, out_features=stages,
        reshape_hidden_states=False,
    )  # fmt: skip
    config = DepthAnythingConfig(
        backbone_config=seen, patch_size=8, reassemble_hidden_size=16, neck_hidden_sizes=[8, 8, 8, 8],
        fusion_hidden_size=8, head_hidden_size=8,
    )  # fmt: skip
    network = DepthAnythingForDepthEstimation(config)
    for parameter in network.head.conv3.parameters():
        torch.nn.init.normal_(parameter, 1.0, 0.1)
    network.save_pretrained(folder)
    DPTImageProcessorPil(size={"height": 32, "width": 32}, ensure_multiple_of=8).save_pretrained(folder)


def test_depth_fills_the_range_from_black_to_white(tmp_path: Path) -> None:
    build_depth(tmp_path)
    pixels = np.random.default_rng(0).integers(0, 255, (60, 100, 3)).astype(np.uint8)
    near = Depth(tmp_path, torch.device("cpu"))(pixels)
    assert near.shape == (60, 100, 3)
    assert near.min() == 0
    assert near.max() == 255
    assert np.array_equal(near[..., 0], near[..., 2])


def test_a_picture_without_any_depth_is_no_error(tmp_path: Path) -> None:
    build_depth(tmp_path)
    depth = Depth(tmp_path, torch.device("cpu"))
    for parameter in depth._network.head.parameters():
        parameter.data.zero_()
    assert not depth(np.zeros((40, 40, 3), np.uint8)).any()

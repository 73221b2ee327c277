"""Blocks are compiled once, whatever comes: another size, another task, another member, a LoRA."""

from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch
from torch._dynamo import config, reset
from torch._dynamo.utils import counters

from fluxserve.engine.network import ControlNetwork, Precision, Transformer
from fluxserve.engine.network.layers import layer_at
from tests.engine.network.networks import SHAPE, made, step


@pytest.fixture(autouse=True)
def _anew() -> Iterator[None]:
    reset()
    counters.clear()
    yield
    reset()


@pytest.mark.parametrize("precision", ["whole", "fp8", "nf4"])
@torch.inference_mode()
def test_two_compilations_serve_everything(precision: Precision) -> None:
    dev = made(Transformer, SHAPE, precision, seed=1)
    schnell = made(Transformer, replace(SHAPE, takes_guidance=False), precision, seed=2)
    fill = made(Transformer, replace(SHAPE, channels_in=40), precision, seed=3)
    control = made(ControlNetwork, replace(SHAPE, doubles=1, singles=0), precision, seed=4)
    for network in (dev, schnell, fill, control):
        network.trunk.compile_blocks("eager")
    step(dev, 8, 8, 24)
    assert counters["stats"]["unique_graphs"] == 2

    with config.patch(error_on_recompile=True):
        for rows, columns, words in ((8, 8, 24), (4, 12, 24), (16, 16, 512), (3, 5, 77)):
            for network in (dev, schnell, fill, control):
                step(network, rows, columns, words)
        step(dev, 8, 8, 24 + 196)  # a picture among the words
        step(dev, 8, 8, 24, reference=64)  # a picture to be edited
        layer = layer_at(dev, "trunk.singles.1.into")
        layer.fill(0, torch.randn(len(layer.bias), 128), None)  # a LoRA
        step(dev, 8, 8, 24)
    assert counters["stats"]["unique_graphs"] == 2


@pytest.mark.nightly
@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")  # torch's own compiler uses it
@pytest.mark.parametrize("precision", ["whole", "fp8", "nf4"])
@torch.inference_mode()
def test_compiled_blocks_answer_as_others_do(precision: Precision) -> None:
    plain, compiled = (made(Transformer, SHAPE, precision, seed=1) for _ in range(2))
    compiled.trunk.compile_blocks()
    for rows, columns in ((8, 8), (4, 12)):
        expected = step(plain, rows, columns, 24)
        assert torch.dist(step(compiled, rows, columns, 24), expected) <= 0.02 * expected.norm()

"""Blocks are compiled once, whatever comes: another size, another task, another member, a LoRA."""

from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch
from torch._dynamo import config, reset
from torch._dynamo.utils import counters

from fluxserve.engine.latents import positions
from fluxserve.engine.network import ControlNetwork, Keeping, Precision, Residuals, Shape, Transformer
from fluxserve.engine.network.layers import Layer, layer_at

CPU = torch.device("cpu")
SHAPE = Shape(16, 16, 32, 32, 2, 64, doubles=2, singles=3, takes_guidance=True, axes=(16, 24, 24))


@pytest.fixture(autouse=True)
def _anew() -> Iterator[None]:
    reset()
    counters.clear()
    yield
    reset()


Network = Transformer | ControlNetwork


def made(kind: type[Network], shape: Shape, precision: Precision, seed: int) -> Network:
    generator = torch.Generator().manual_seed(seed)
    network = kind(shape, Keeping(CPU, torch.float32, precision))
    for path, layer in network.named_modules():
        if hasattr(layer, "fill"):
            size = layer.bias.shape[0], _width_in(layer_at(network, path))
            layer.fill(0, 0.1 * torch.randn(size, generator=generator), torch.randn(size[0], generator=generator))
    for name, weight in network.named_parameters():
        if name.endswith("_norm"):
            weight.fill_(1)
    return network


def _width_in(layer: Layer) -> int:
    return layer.weight.shape[1] * (2 if layer.weight.dtype == torch.uint8 else 1)


def step(network: Network, rows: int, columns: int, words: int, reference: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    places = torch.cat((positions(rows, columns), positions(1, reference, 1)))
    said, pooled = torch.randn(1, words, 32, generator=generator), torch.randn(1, 32, generator=generator)
    told = network.trunk.tell(said, pooled, torch.tensor([900.0, 500.0]), 3.5, places)
    tokens = torch.randn(1, rows * columns + reference, network.trunk.shape.channels_in, generator=generator)
    if isinstance(network, ControlNetwork):
        return network.forward(tokens, network.map_in(tokens), told, 1, 0.5).doubles[0]
    answer: torch.Tensor = network(tokens, told, 1, Residuals(), rows * columns)
    return answer


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

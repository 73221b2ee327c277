"""Blocks compiled by inductor answer as others do, and are compiled once, whatever comes."""

from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch
from torch._dynamo import config, reset
from torch._dynamo.utils import counters

from fluxserve.engine.network import ControlNetwork, Precision, Shape, Transformer
from fluxserve.engine.network.layers import layer_at
from tests.engine.network.networks import SHAPE, Network, made, step

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),  # torch's own compiler uses some that is to go
    pytest.mark.filterwarnings("ignore:TensorFloat32 tensor cores:UserWarning"),
]


@pytest.fixture(autouse=True)
def _anew() -> Iterator[None]:
    reset()
    counters.clear()
    yield
    reset()


# Eight bits round what comes in too: what was rounded otherwise before is then a whole step away.
@pytest.mark.parametrize(("precision", "error"), [("whole", 0.03), ("fp8", 0.15), ("nf4", 0.03)])
@torch.inference_mode()
def test_two_compilations_serve_everything_and_answer_as_blocks_do_that_are_not(
    device: torch.device, precision: Precision, error: float
) -> None:
    kinds: tuple[tuple[type[Network], Shape], ...] = (
        (Transformer, SHAPE),
        (Transformer, replace(SHAPE, takes_guidance=False)),
        (Transformer, replace(SHAPE, channels_in=40)),
        (ControlNetwork, replace(SHAPE, doubles=1, singles=0)),
    )
    pairs = [
        [made(kind, shape, precision, seed, device, torch.bfloat16) for _ in range(2)]
        for seed, (kind, shape) in enumerate(kinds)
    ]
    for _, compiled in pairs:
        compiled.trunk.compile_blocks()

    def assert_alike(pair: list[Network], *size: int) -> None:
        expected, answer = (step(network, *size).float() for network in pair)
        assert torch.dist(answer, expected) <= error * expected.norm()

    assert_alike(pairs[0], 8, 8, 24)
    assert counters["stats"]["unique_graphs"] == 2
    with config.patch(error_on_recompile=True):
        for rows, columns, words in ((8, 8, 24), (4, 12, 24), (16, 16, 512), (3, 5, 77)):
            for pair in pairs:
                assert_alike(pair, rows, columns, words)
        assert_alike(pairs[0], 8, 8, 24 + 196)  # a picture among the words
        assert_alike(pairs[0], 8, 8, 24, 64)  # a picture to be edited
        addition = 0.1 * torch.randn(128, 128, generator=torch.Generator().manual_seed(9))
        for network in pairs[0]:
            layer_at(network, "trunk.singles.1.into").fill(0, addition.to(device), None)  # a LoRA
        assert_alike(pairs[0], 8, 8, 24)
    assert counters["stats"]["unique_graphs"] == 2


@pytest.mark.parametrize("precision", ["whole", "fp8", "nf4"])
@torch.inference_mode()
def test_a_network_that_comes_after_another_has_gone_is_not_compiled_anew(
    device: torch.device, precision: Precision
) -> None:
    for seed in range(3):
        network = made(Transformer, SHAPE, precision, seed, device, torch.bfloat16)
        network.trunk.compile_blocks()
        step(network, 8, 8, 24)
        del network
    assert counters["stats"]["unique_graphs"] == 2

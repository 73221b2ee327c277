"""Layers that keep their weights in few bits, where the device computes in them."""

import pytest
import torch
from torch.nn import functional as F
from torch.profiler import ProfilerActivity, profile

from fluxserve.engine.network import Keeping, Precision
from fluxserve.engine.network.eight_bits import MULTIPLIES, Fp8Linear
from fluxserve.engine.network.layers import large
from tests.engine.network.test_layers import numbers

pytestmark = pytest.mark.gpu


@pytest.fixture
def multiplying(gpu: torch.device) -> torch.device:
    if torch.cuda.get_device_capability(gpu) < MULTIPLIES:
        pytest.skip("this GPU does not multiply in eight bits")
    return gpu


def eight_bits(device: torch.device) -> Fp8Linear:
    layer = Fp8Linear(256, 384, device, torch.bfloat16)
    layer.fill(0, numbers(384, 256).to(device), numbers(384, seed=1).to(device))
    return layer


@torch.inference_mode()
def test_products_are_made_in_eight_bits(multiplying: torch.device) -> None:
    layer, states = eight_bits(multiplying), numbers(1, 100, 256, seed=2).to(multiplying, torch.bfloat16)
    layer(states)
    with profile(activities=[ProfilerActivity.CPU]) as profiled:
        layer(states)
    called = {event.key for event in profiled.key_averages()}
    assert "aten::_scaled_mm" in called
    assert "aten::linear" not in called


@torch.inference_mode()
def test_products_in_eight_bits_agree_with_weights_brought_back(device: torch.device) -> None:
    layer, bringing = eight_bits(device), eight_bits(device)
    bringing._multiplies = False
    states = numbers(1, 100, 256, seed=2).to(device, torch.bfloat16)
    expected = bringing(states).float()
    assert torch.dist(layer(states).float(), expected) <= 0.05 * expected.norm()


@pytest.mark.parametrize("tokens", [1, 7, 4097])
@pytest.mark.parametrize(("precision", "error"), [("whole", 0.01), ("fp8", 0.05), ("nf4", 0.15)])
@torch.inference_mode()
def test_a_layer_answers_for_any_number_of_tokens(
    device: torch.device, precision: Precision, error: float, tokens: int
) -> None:
    weight, bias, states = numbers(192, 64), numbers(192, seed=1), numbers(1, tokens, 64, seed=2)
    layer = large(64, 192, Keeping(device, torch.bfloat16, precision))
    layer.fill(0, weight.to(device), bias.to(device))
    answer, expected = layer(states.to(device, torch.bfloat16)), F.linear(states, weight, bias)
    assert torch.dist(answer.cpu().float(), expected) <= error * expected.norm()

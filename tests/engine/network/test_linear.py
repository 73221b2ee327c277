"""Layers that keep their weights in eight bits, and are filled by rows."""

import pytest
import torch
from torch.nn import functional as F

from fluxserve.engine.network.linear import FP8, Fp8Linear, Linear, in_eight_bits

CPU = torch.device("cpu")


def numbers(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(("kind", "error"), [(Linear, 1e-6), (Fp8Linear, 0.05)])
def test_a_layer_filled_by_rows_answers_as_one_with_all_of_them(
    kind: type[Linear] | type[Fp8Linear], error: float
) -> None:
    layer = kind(64, 48, CPU, torch.float32)
    weight, bias, states = numbers(48, 64), numbers(48, seed=1), numbers(1, 5, 64, seed=2)
    layer.fill(0, weight[:16], bias[:16])
    layer.fill(16, weight[16:], bias[16:])
    expected = F.linear(states, weight, bias)
    with torch.inference_mode():
        assert torch.dist(layer(states), expected) <= error * expected.norm()


def test_a_layer_without_a_bias_adds_none() -> None:
    layer = Linear(4, 4, CPU, torch.float32)
    layer.fill(0, torch.eye(4), torch.ones(4))
    layer.fill(0, torch.eye(4), None)
    assert torch.equal(layer(torch.arange(4.0)), torch.arange(4.0))


def test_rows_filled_anew_leave_the_others_where_they_are() -> None:
    layer = Fp8Linear(64, 48, CPU, torch.float32)
    layer.fill(0, numbers(48, 64), None)
    before, where = layer.weight.float().clone(), layer.weight.data_ptr()
    layer.fill(16, numbers(8, 64, seed=5), None)
    assert layer.weight.data_ptr() == where
    changed = (layer.weight.float() != before).any(1).nonzero().flatten().tolist()
    assert changed == list(range(16, 24))


def test_what_was_in_eight_bits_already_loses_nothing() -> None:
    already = numbers(16, 64).clamp(-400, 400).to(FP8)
    small, scale = in_eight_bits(already.float())
    assert torch.equal(small.float() * scale, already.float())


@pytest.mark.parametrize("size", [1e-9, 1.0, 1e6])
def test_eight_bits_hold_a_row_of_any_size_to_an_eighth(size: float) -> None:
    rows = numbers(8, 256) * size
    small, scale = in_eight_bits(rows)
    error = (small.float() * scale - rows).abs()
    assert (error <= rows.abs() / 16 + rows.abs().amax(1, keepdim=True) * 2**-16).all()


def test_a_row_of_zeros_stays_one() -> None:
    small, scale = in_eight_bits(torch.zeros(2, 4))
    assert torch.equal(small.float() * scale, torch.zeros(2, 4))

"""Layers, however they keep their weights, are filled by rows and answer alike."""

import pytest
import torch
from torch.nn import functional as F

from fluxserve.engine.network import Keeping, Precision, linear
from fluxserve.engine.network.eight_bits import FP8, Fp8Linear, in_eight_bits
from fluxserve.engine.network.four_bits import FourBitLinear
from fluxserve.engine.network.layers import large
from fluxserve.engine.network.linear import HostLinear, Linear, LongLinear

CPU = torch.device("cpu")


def numbers(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(("precision", "error"), [("whole", 1e-6), ("fp8", 0.05), ("nf4", 0.15)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_layer_filled_by_rows_answers_as_one_with_all_of_them(
    precision: Precision, error: float, dtype: torch.dtype
) -> None:
    layer = large(64, 48, Keeping(CPU, dtype, precision))
    weight, bias, states = (numbers(*shape, seed=n).to(dtype) for n, shape in enumerate(((48, 64), (48,), (1, 5, 64))))
    layer.fill(0, weight[:16], bias[:16])
    layer.fill(16, weight[16:], bias[16:])
    expected = F.linear(states.float(), weight.float(), bias.float())
    with torch.inference_mode():
        answer = layer(states)
    assert answer.dtype == dtype
    assert torch.dist(answer.float(), expected) <= max(error, torch.finfo(dtype).eps) * expected.norm()


def test_a_layer_too_narrow_for_blocks_keeps_its_weights_whole() -> None:
    assert isinstance(large(40, 8, Keeping(CPU, torch.float32, "nf4")), Linear)


@pytest.mark.parametrize("precision", ["whole", "fp8", "nf4"])
def test_a_layer_without_a_bias_adds_none(precision: Precision) -> None:
    layer = large(64, 64, Keeping(CPU, torch.float32, precision))
    layer.fill(0, torch.eye(64), torch.ones(64))
    layer.fill(0, torch.eye(64), None)
    assert torch.equal(layer(torch.ones(1, 1, 64)), torch.ones(1, 1, 64))


@pytest.mark.parametrize("precision", ["whole", "fp8", "nf4"])
def test_rows_filled_anew_leave_the_others_where_they_are(precision: Precision) -> None:
    layer = large(64, 48, Keeping(CPU, torch.float32, precision))
    layer.fill(0, numbers(48, 64), None)
    before, where = layer.weight.float().clone(), layer.weight.data_ptr()
    layer.fill(16, numbers(8, 64, seed=5), None)
    assert layer.weight.data_ptr() == where
    changed = (layer.weight.float() != before).any(1).nonzero().flatten().tolist()
    assert changed == list(range(16, 24))


@pytest.mark.parametrize("kind", [LongLinear, HostLinear])
def test_a_long_layer_answers_piece_by_piece(monkeypatch: pytest.MonkeyPatch, kind: type[Linear]) -> None:
    ours, whole = (made(64, 50, CPU, torch.float32) for made in (kind, Linear))
    for layer in (ours, whole):
        layer.fill(0, numbers(50, 64), numbers(50, seed=1))
    monkeypatch.setattr(linear, "MOST_AT_ONCE", 7 * 64 * 4)  # seven rows
    states = numbers(3, 64, seed=2)
    torch.testing.assert_close(ours(states), whole(states))


def test_eight_and_four_bits_take_half_and_a_quarter_of_the_room() -> None:
    def room(precision: Precision) -> int:
        layer = large(1024, 1024, Keeping(CPU, torch.bfloat16, precision))
        return sum(part.numel() * part.itemsize for part in layer.parameters())

    whole = room("whole")
    assert room("fp8") == pytest.approx(whole / 2, rel=0.01)
    assert room("nf4") == pytest.approx(whole / 4, rel=0.07)


def test_what_was_in_eight_bits_already_loses_nothing() -> None:
    already = numbers(16, 64).clamp(-400, 400).to(FP8)
    small, scale = in_eight_bits(already.float())
    assert torch.equal(small.float() * scale, already.float())


def test_eight_bits_are_brought_back_where_the_device_does_not_multiply_them() -> None:
    multiplying, bringing = (Fp8Linear(64, 48, CPU, torch.float32) for _ in range(2))
    bringing._multiplies = False
    for layer in (multiplying, bringing):
        layer.fill(0, numbers(48, 64), numbers(48, seed=1))
    states = numbers(1, 5, 64, seed=2)
    expected = F.linear(states, numbers(48, 64), numbers(48, seed=1))
    with torch.inference_mode():
        assert torch.dist(bringing(states), expected) < torch.dist(multiplying(states), expected)


def test_four_bits_hold_their_own_levels_exactly() -> None:
    layer = FourBitLinear(64, 1, CPU, torch.float32)
    levels = layer.levels.repeat(4)
    layer.fill(0, levels[None] * 3, None)
    answer = layer(torch.eye(64)[None])
    assert torch.equal(answer[0, :, 0], levels * 3)


@pytest.mark.parametrize("size", [1e-9, 1.0, 1e6])
def test_eight_bits_hold_a_row_of_any_size_to_a_sixteenth(size: float) -> None:
    rows = numbers(8, 256) * size
    small, scale = in_eight_bits(rows)
    error = (small.float() * scale - rows).abs()
    assert (error <= rows.abs() / 16 + rows.abs().amax(1, keepdim=True) * 2**-16).all()


@pytest.mark.parametrize("precision", ["fp8", "nf4"])
def test_rows_of_zeros_stay_zeros(precision: Precision) -> None:
    layer = large(64, 2, Keeping(CPU, torch.float32, precision))
    layer.fill(0, torch.zeros(2, 64), None)
    assert torch.equal(layer(torch.ones(1, 1, 64)), torch.zeros(1, 1, 2))

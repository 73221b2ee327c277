"""The host is a step ahead of the GPU and no more, and what comes from the GPU has come when it is read."""

from dataclasses import replace

import pytest
import torch

from fluxserve.domain.generation import Generation
from fluxserve.engine.denoise import StoppedError, denoise
from fluxserve.engine.transfer import Arriving, Lead, to_device
from tests.engine.test_denoise import prepared
from tests.gpu.conftest import LoaderOf

pytestmark = pytest.mark.gpu

LONG = 100_000_000  # cycles: some fifty milliseconds


def sleep(cycles: int) -> None:
    torch.cuda._sleep(cycles)  # type: ignore[no-untyped-call]


def is_over(event: torch.cuda.Event) -> bool:
    return bool(event.query())  # type: ignore[no-untyped-call]


class Steps:
    """Steps that take their time, and whether each of them is over."""

    def __init__(self) -> None:
        self._ends: list[torch.cuda.Event] = []

    def begin(self) -> None:
        sleep(LONG)
        self._ends.append(torch.cuda.Event())  # type: ignore[no-untyped-call]
        self._ends[-1].record()

    def are_over(self) -> list[bool]:
        return [is_over(end) for end in self._ends]


def test_the_host_leads_by_one_step(gpu: torch.device) -> None:
    lead, steps = Lead(gpu), Steps()
    for number in range(5):
        steps.begin()
        lead.step()
        assert steps.are_over() == [True] * number + [False]


def test_a_wish_to_cancel_is_heeded_within_two_steps(loader_of: LoaderOf, cat: Generation, gpu: torch.device) -> None:
    first, steps = prepared(loader_of().load("dev"), replace(cat, steps=50)), Steps()
    over_when_wished: list[bool] = []

    def slow(latents: torch.Tensor, _step: int) -> torch.Tensor:
        steps.begin()
        return torch.zeros_like(latents)

    def on_step(step: int, *_: object) -> None:
        if step == 5:
            over_when_wished.extend(steps.are_over())

    torch.cuda.synchronize(gpu)
    with torch.inference_mode(), pytest.raises(StoppedError):
        denoise(replace(first, velocity=slow), 1, on_step, lambda: bool(over_when_wished))
    assert len(steps.are_over()) == 5
    assert over_when_wished.count(False) <= 1


@pytest.mark.parametrize("side", [16, 1024, 2000])
@torch.inference_mode()
def test_pixels_that_arrive_are_those_that_were_sent(device: torch.device, side: int) -> None:
    generator = torch.Generator().manual_seed(side)
    expected = torch.randint(256, (side, side, 3), generator=generator, dtype=torch.uint8)
    # Memory that it may fetch from by itself is asked for, which may take as long as it computes; then it is kept.
    # Kernels are loaded at their first use, which waits for the others.
    first = [Arriving(to_device(expected, device) + 0) for _ in range(4)]
    assert all((pixels() == expected.numpy()).all() for pixels in first)
    del first
    arriving = []
    for turn in range(4):
        levels = to_device(expected, device)
        if device.type == "cuda":
            sleep(LONG)
        levels = levels + turn  # made only after that
        arriving.append(Arriving(levels))
        if device.type == "cuda":
            event = arriving[-1]._event
            assert event is not None
            assert not is_over(event)
            levels.zero_()  # and used for something else at once
        del levels
    for turn, pixels in enumerate(arriving):
        assert (pixels() == (expected + turn).numpy()).all()


@torch.inference_mode()
@pytest.mark.usefixtures("gpu")
def test_pixels_arrive_from_a_gpu_that_is_not_the_current_one() -> None:
    if torch.cuda.device_count() < 2:
        pytest.skip("there is one GPU")
    other = torch.device("cuda", 1 - torch.cuda.current_device())
    with torch.cuda.device(other):
        sleep(LONG)
    arriving = Arriving(torch.full((1000, 1000, 3), 7, dtype=torch.uint8, device=other) + 1)
    assert (arriving() == 8).all()


@torch.inference_mode()
def test_what_goes_to_the_device_is_what_it_was(device: torch.device) -> None:
    sent = [torch.full((1000, 100), float(number)) for number in range(50)]
    there = [to_device(tensor.clone(), device) for tensor in sent]
    assert all(torch.equal(tensor.cpu(), expected) for tensor, expected in zip(there, sent, strict=True))

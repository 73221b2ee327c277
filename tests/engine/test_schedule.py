import pytest
import torch

from fluxserve.engine.flux import Flux
from fluxserve.engine.schedule import schedule

CPU = torch.device("cpu")


def test_without_shifting_noise_levels_are_evenly_spaced(schnell: Flux) -> None:
    sigmas = schedule(schnell.own.scheduler, steps=4, tokens=64).sigmas
    assert sigmas.tolist() == pytest.approx([1.0, 0.75, 0.5, 0.25, 0.0])


def test_with_dynamic_shifting_more_tokens_stay_noisy_for_longer(dev: Flux) -> None:
    few = schedule(dev.own.scheduler, steps=4, tokens=64).sigmas
    many = schedule(dev.own.scheduler, steps=4, tokens=1024).sigmas
    assert (many[1:4] > few[1:4]).all()
    assert few[0] == many[0] == 1
    assert few[4] == many[4] == 0


def test_the_pattern_stays_as_it_was(dev: Flux) -> None:
    before = dev.own.scheduler.sigmas.clone()
    scheduler = schedule(dev.own.scheduler, steps=3, tokens=64)
    scheduler.step(torch.zeros(1, 4, 4), scheduler.timesteps[0], torch.zeros(1, 4, 4))
    assert torch.equal(dev.own.scheduler.sigmas, before)
    assert dev.own.scheduler.step_index is None

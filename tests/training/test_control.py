"""The control network's program: nothing added at first, then a folder that ControlNet's loader reads."""

import torch
from diffusers import FluxControlNetModel

from tests.training.family import MINUTES, Family
from training import control
from training.flow import Reader, Shown, noisy_times, read_member, velocity


def test_untaught_it_adds_nothing(family: Family) -> None:
    assert family.folder.exists()
    dev, batch = read_member("dev"), control.mapped_shelf().any()
    network = control.untaught(dev).to(torch.bfloat16)
    shown = Shown(Reader().read([""] * len(batch.scenes)), torch.ones(1))
    noisy, t = torch.randn_like(batch.latents.float()), noisy_times(len(batch.scenes))
    one = torch.ones(len(batch.scenes))
    with torch.no_grad():
        controlled = control.controlled_velocity(dev, network, noisy, t, batch, shown, one, 3 * one)
        assert torch.equal(controlled, velocity(dev, noisy, t, batch, shown, one))


def test_it_goes_on_from_its_checkpoint_into_a_folder_that_diffusers_reads(family: Family) -> None:
    control.train(MINUTES)
    steps = family.steps("control")
    control.train(MINUTES)
    assert family.steps("control") > steps > 0
    network = FluxControlNetModel.from_pretrained(family.folder / "control")
    assert network.config.num_mode == len(control.MODES)
    assert any(part.weight.any() for part in network.controlnet_blocks)

"""What the engine tells of a machine, in a process of its own."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from fluxserve.domain import device
from fluxserve.domain.device import Device
from fluxserve.domain.machine import Machine, load
from fluxserve.engine.devices import find
from fluxserve.engine.doctor import foresee
from fluxserve.engine.needs import FLUX1
from fluxserve.executors.workers import mini_folder

GB = 10**9
CARD = Device("cuda:0", "a card", 24 * GB, 24 * GB, has_bfloat16=True, has_fp8=True)


def told(*arguments: str) -> Machine:
    command = [sys.executable, "-m", "fluxserve.engine.doctor", *arguments]
    return load(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


def test_it_tells_of_this_machine_and_how_the_family_that_ships_is_kept_on_it() -> None:
    machine = told("--family", "mini", "--mini-folder", str(mini_folder()), "--emptied")

    assert machine.torch == torch.__version__
    assert [each.name for each in machine.devices] == [each.name for each in find()]
    assert len(machine.plans) == 3 * len(machine.devices)
    assert all(plan.fits for plan in machine.plans)
    assert not machine.is_full_size
    assert machine.plans[0].transformers >= 4


def test_of_a_card_that_is_not_here_it_tells_flux1s_plans_at_full_size() -> None:
    machine = told("--imagine", device.dump([CARD]))

    assert machine.devices == (CARD,)
    assert machine.is_full_size
    assert machine.plans == tuple(foresee(FLUX1, [CARD]))
    exact, fast, fastest = machine.plans
    assert exact.concessions == ("t5", "modulation", "tiles")
    assert exact.on_host == FLUX1.t5 + FLUX1.modulation
    assert fast.concessions == fastest.concessions == ("t5",)
    assert all(plan.fits and plan.transformers == 1 for plan in machine.plans)


def test_where_weights_are_missing_the_plans_are_those_at_full_size(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))

    machine = told("--family", "flux1", "--mini-folder", str(mini_folder()), "--weights-folder", str(tmp_path))

    assert machine.is_full_size
    assert machine.unreadable is None
    assert [plan.speed for plan in machine.plans if plan.device == "cpu"] == ["exact", "fast", "fastest"]
    assert not any(plan.peak < FLUX1.large / 4 for plan in machine.plans)

"""What this machine can draw on."""

import os
import subprocess
import sys

import pytest
import torch

from fluxserve.domain.device import load
from fluxserve.engine.devices import find, find_one


def test_the_cpu_is_last_and_every_gpu_that_torch_sees_before_it() -> None:
    found = find()

    assert found[-1].name == "cpu"
    assert len(found) - 1 == torch.cuda.device_count() + torch.backends.mps.is_available()


def test_it_is_told_on_one_line_and_cards_that_are_hidden_are_not() -> None:
    told = subprocess.run(
        [sys.executable, "-m", "fluxserve.engine.devices"],
        env={**os.environ, "CUDA_VISIBLE_DEVICES": "", "HIP_VISIBLE_DEVICES": ""},
        capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip

    assert told.count("\n") == 1
    assert [device.name for device in load(told) if device.name.startswith("cuda")] == []


@pytest.mark.parametrize("name", ["cpu", "cpu:0"])
def test_a_device_is_known_by_each_of_its_names(name: str) -> None:
    assert find_one(torch.device(name)).name == "cpu"


def test_a_device_that_is_not_here_is_named() -> None:
    for name in ("cuda:77", "xpu"):
        with pytest.raises(LookupError, match=f"there is no {name} here"):
            find_one(torch.device(name))

"""What is told of a machine arrives as it was told."""

import pytest

from fluxserve.domain.device import Device
from fluxserve.domain.machine import Foreseen, Machine, dump, load

CARD = Device("cuda:0", "a card", 24, 23, has_bfloat16=True, has_fp8=True)
PLAN = Foreseen("cuda:0", "fast", "as it can be", True, ("t5", "4 bits"), 19, 4, on_host=9, transformers=1)


def test_a_machine_crosses_as_a_line() -> None:
    machine = Machine("2.13.0", "CUDA 13.0", None, "3.6.0", (CARD,), (PLAN,), is_full_size=True)
    assert "\n" not in dump(machine)
    assert load(dump(machine)) == machine


@pytest.mark.parametrize("line", ["hello", "[]", '{"devices": []}', '{"devices": [], "plans": []}', "7"])
def test_what_is_no_machine_is_refused(line: str) -> None:
    with pytest.raises((ValueError, KeyError, TypeError)):
        load(line)

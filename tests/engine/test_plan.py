"""What fits which card: FLUX.1 at full size, on devices that nobody here has."""

from dataclasses import replace

import pytest
import torch

from fluxserve.domain.device import Device
from fluxserve.domain.speeds import SPEEDS, SpeedName
from fluxserve.engine.needs import FLUX1, split
from fluxserve.engine.network import Shape
from fluxserve.engine.plan import Plan, plans

GB = 10**9
SHAPE = Shape(64, 64, 4096, 768, 24, 128, 19, 38, takes_guidance=True)  # of FLUX.1's transformers


def card(gigabytes: float, **more: object) -> Device:
    device = Device("cuda:0", "a card", 0, round(gigabytes * GB), has_bfloat16=True, has_fp8=True)
    return replace(device, **more)  # type: ignore[arg-type]


def chosen(device: Device, speed: SpeedName = "exact") -> Plan:
    return plans(FLUX1, device, SPEEDS[speed])[0]


def kept(plan: Plan) -> tuple[str, str, str]:
    return plan.precision, plan.t5, plan.modulation


def transformers(plan: Plan) -> int:
    """How many fit at once."""
    return plan.guests // plan.transformer


def test_flux1_has_the_parameters_that_its_makers_say() -> None:
    large, modulation, other = split(SHAPE)
    assert (large, modulation, other) == (FLUX1.large, FLUX1.modulation, FLUX1.other)
    assert (large + modulation + other) / 2 == pytest.approx(11.9e9, rel=0.001)
    assert modulation / 2 == pytest.approx(3.24e9, rel=0.01)


@pytest.mark.parametrize(
    ("gigabytes", "exact", "fast"),
    [
        (140, ("whole", "device", "device"), ("fp8", "device", "device")),
        (79, ("whole", "device", "device"), ("fp8", "device", "device")),
        (47, ("whole", "device", "device"), ("fp8", "device", "device")),
        (31, ("whole", "host", "device"), ("fp8", "device", "device")),
        (23.5, ("whole", "host", "host"), ("fp8", "host", "device")),
        (15.5, ("fp8", "host", "host"), ("fp8", "host", "host")),
        (11.5, ("fp8", "host", "host"), ("fp8", "host", "host")),
        (7.5, ("nf4", "host", "host"), ("nf4", "host", "host")),
    ],
)
def test_each_card_has_its_plan(gigabytes: float, exact: tuple[str, str, str], fast: tuple[str, str, str]) -> None:
    for speed, expected in (("exact", exact), ("fast", fast)):
        plan = chosen(card(gigabytes), speed)  # type: ignore[arg-type]
        assert kept(plan) == expected
        assert plan.fits
        assert plan.peak <= gigabytes * GB


def test_a_large_card_has_room_for_all_four_transformers_at_once() -> None:
    assert transformers(chosen(card(140))) >= 4
    assert transformers(chosen(card(79), "fast")) >= 4


def test_without_fp8_in_hardware_speed_does_not_ask_for_it_but_room_may() -> None:
    old = card(47, has_fp8=False)
    assert chosen(old, "fast").precision == "whole"
    assert chosen(replace(old, free_bytes=round(15.5 * GB)), "fast").precision == "fp8"


def test_where_memory_is_the_hosts_nothing_is_moved_to_it() -> None:
    mac = card(34, name="mps", has_fp8=False)
    assert kept(chosen(mac)) == ("nf4", "device", "device")
    assert kept(chosen(replace(mac, free_bytes=60 * GB))) == ("whole", "device", "device")
    for free in (10, 30, 60, 100):
        for plan in plans(FLUX1, replace(mac, free_bytes=free * GB), SPEEDS["fastest"]):
            assert (plan.t5, plan.modulation) == ("device", "device")
            assert plan.precision != "fp8"  # which Apple's devices don't know


@pytest.mark.parametrize(
    ("gigabytes", "speed", "has_bfloat16", "expected"),
    [
        (120, "exact", True, (torch.float32, "whole")),
        (120, "fast", True, (torch.bfloat16, "whole")),
        (120, "fast", False, (torch.float32, "whole")),
        (60, "exact", True, (torch.bfloat16, "whole")),
        (28, "exact", False, (torch.bfloat16, "nf4")),
    ],
)
def test_a_cpu_computes_in_float32_unless_speed_or_room_are_wanted(
    gigabytes: int, speed: SpeedName, has_bfloat16: bool, expected: tuple[torch.dtype, str]
) -> None:
    plan = chosen(card(gigabytes, name="cpu", has_bfloat16=has_bfloat16, has_fp8=False), speed)
    assert (plan.dtype, plan.precision) == expected


def test_each_plan_needs_less_than_the_one_before() -> None:
    for gigabytes in (140, 47, 23.5, 11.5, 3):
        peaks = [plan.peak for plan in plans(FLUX1, card(gigabytes), SPEEDS["exact"])]
        assert peaks == sorted(set(peaks), reverse=True)
        assert peaks


def test_where_nothing_fits_the_smallest_plan_is_tried() -> None:
    (plan,) = plans(FLUX1, card(3), SPEEDS["exact"])
    assert not plan.fits
    assert kept(plan) == ("nf4", "host", "host")
    assert "GB too many" in str(plan)


def test_a_plan_says_what_it_is() -> None:
    assert str(chosen(card(23.5))).startswith(
        "large layers in bfloat16, T5 on the host, modulation on the host, pictures decoded in tiles: at most "
    )
    assert str(chosen(card(140))).startswith("large layers in bfloat16: at most 3")

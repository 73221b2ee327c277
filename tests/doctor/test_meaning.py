"""A plan that is not the first choice says what that means for whoever waits."""

import pytest

from fluxserve.doctor import meanings
from fluxserve.domain.device import Device
from fluxserve.domain.machine import Foreseen
from tests.doctor.machines import CPU, MAC, card, machine


def plan(device: Device, speed: str = "exact") -> Foreseen:
    return next(plan for plan in machine(device).plans if plan.speed == speed)


def test_the_first_choice_needs_no_words() -> None:
    assert meanings(plan(card(140)), members=4) == []


def test_what_is_conceded_is_told_with_what_it_costs() -> None:
    told = meanings(plan(card(24)), members=4)
    assert [line.partition(":")[0] for line in told] == [
        "T5 on the host",
        "modulation on the host",
        "decoded in tiles",
        "16.0 GB of the host's memory are used instead",
        "not all transformers fit at once",
    ]
    assert "takes about a second more" in told[0]


def test_one_transformer_is_enough_where_there_is_but_one() -> None:
    assert not any("transformers" in line for line in meanings(plan(card(24)), members=1))


@pytest.mark.parametrize(
    ("device", "begins"),
    [
        (card(8), "4 bits: "),
        (card(16), "fp8 instead of bfloat16: "),
        (CPU, "bfloat16 instead of float32: "),
        (MAC, "not all transformers fit at once"),
    ],
)
def test_fewer_bits_than_wished_for_are_told_first(device: Device, begins: str) -> None:
    assert meanings(plan(device), members=4)[0].startswith(begins)


def test_fp8_is_no_concession_where_it_is_asked_for() -> None:
    assert meanings(plan(card(48), "fast"), members=1) == []


def test_what_does_not_fit_says_how_much_is_missing() -> None:
    (told,) = meanings(plan(card(4)), members=4)
    assert told.startswith("it does not fit: 2.7 GB are missing")

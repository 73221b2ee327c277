"""Who goes where, as a table."""

import pytest

from fluxserve.dispatch.placement import place
from fluxserve.executors import Slot

A0, A1, B0, B1 = Slot("a", 0), Slot("a", 1), Slot("b", 0), Slot("b", 1)


@pytest.mark.parametrize(
    ("waiting", "slots", "pairs"),
    [
        ([], [A0], []),
        (["1"], [], []),
        (["1"], [A0, A1], [("1", A0)]),
        (["1"], [A1, B0], [("1", B0)]),
        (["1", "2"], [A0, A1, B0, B1], [("1", A0), ("2", B0)]),
        (["1", "2", "3"], [A0, A1, B1], [("1", A0), ("2", A1), ("3", B1)]),
        (["1", "2", "3", "4"], [B1, A1], [("1", A1), ("2", B1)]),
    ],
    ids=[
        "nothing waits",
        "nothing is free",
        "the first place comes before the one behind it",
        "an idle worker comes before a place behind another job",
        "both workers get one before either gets two",
        "the oldest task gets the idle worker",
        "as many as there are places",
    ],
)
def test_place(waiting: list[str], slots: list[Slot], pairs: list[tuple[str, Slot]]) -> None:
    assert place(waiting, slots) == pairs

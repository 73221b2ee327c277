"""Who goes where, as a table."""

import pytest

from fluxserve.dispatch.placement import place
from fluxserve.domain.task import PUBLIC, Waiting
from fluxserve.executors import Slot

A0, A1, B0, B1 = Slot("a", 0), Slot("a", 1), Slot("b", 0), Slot("b", 1)
OWN = Slot("own", 0, pool="x")


def waiting(number: int, account: str = "x", *, turn: int = 0, work: int = 10, pool: str = PUBLIC) -> Waiting:
    return Waiting(str(number), account, pool, number, work, turn)


@pytest.mark.parametrize(
    ("tasks", "slots", "pairs"),
    [
        ([], [A0], []),
        ([waiting(1)], [], []),
        ([waiting(1)], [A0, A1], [("1", A0)]),
        ([waiting(1)], [A1, B0], [("1", B0)]),
        ([waiting(1), waiting(2)], [A0, A1, B0, B1], [("1", A0), ("2", B0)]),
        ([waiting(1), waiting(2), waiting(3)], [A0, A1, B1], [("1", A0), ("2", A1), ("3", B1)]),
        ([waiting(4), waiting(2), waiting(3), waiting(1)], [B1, A1], [("1", A1), ("2", B1)]),
        ([waiting(1), waiting(2), waiting(3, "y")], [A0, B0], [("1", A0), ("3", B0)]),
        ([waiting(1, turn=5), waiting(2, "y", turn=4)], [A0], [("2", A0)]),
        (
            [waiting(1, work=1), waiting(2, work=1), waiting(3, work=1), waiting(4, "y", work=2), waiting(5, "y")],
            [A0, A1, B0, B1],
            [("1", A0), ("4", B0), ("2", A1), ("3", B1)],
        ),
        ([waiting(1, pool="x"), waiting(2, "y")], [A0, OWN], [("2", A0), ("1", OWN)]),
        (
            [waiting(1, pool="x"), waiting(2), waiting(3, "y")],
            [Slot("a", 0, pool="x"), B0],
            [("1", Slot("a", 0, pool="x")), ("2", B0)],
        ),
        ([waiting(1, "y")], [OWN], []),
        ([waiting(1, pool="x")], [A0], []),
    ],
    ids=[
        "nothing waits",
        "nothing is free",
        "the first place comes before the one behind it",
        "an idle worker comes before a place behind another job",
        "both workers get one before either gets two",
        "the oldest task gets the idle worker",
        "as many as there are places",
        "a single task goes before another account's second",
        "the account that has had less goes first",
        "small tasks count for little",
        "a private task goes to its account's own worker",
        "what its own worker draws costs an account no turn",
        "an account's own worker draws nobody else's",
        "a private task waits for its own worker",
    ],
)
def test_place(tasks: list[Waiting], slots: list[Slot], pairs: list[tuple[str, Slot]]) -> None:
    assert [(task.task_id, slot) for task, slot in place(tasks, slots)] == pairs

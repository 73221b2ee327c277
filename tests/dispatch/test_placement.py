"""Who goes where, as a table and over many random afternoons."""

import random
from collections import Counter, deque
from collections.abc import Iterable, Iterator
from dataclasses import replace

import pytest

from fluxserve.dispatch.placement import MOST_LEAD, Placed, place
from fluxserve.domain.task import PUBLIC, Waiting
from fluxserve.executors import Slot

pytestmark = pytest.mark.untraced  # to trace these would take longer than to run them

A0, A1, B0, B1 = Slot("a", 0), Slot("a", 1), Slot("b", 0), Slot("b", 1)
OWN = Slot("own", 0, pool="x")
DEV0, DEV1 = Slot("a", 0, members=frozenset({"dev"})), Slot("a", 1, members=frozenset({"dev"}))
FILL0, FILL1 = Slot("b", 0, members=frozenset({"fill"})), Slot("b", 1, members=frozenset({"fill"}))
NEAR, FAR = MOST_LEAD // 2, MOST_LEAD // 2 + 1  # of two accounts


def waiting(
    number: int, account: str = "x", *, turn: int = 0, work: int = 10, pool: str = PUBLIC, member: str = "schnell"
) -> Waiting:
    return Waiting(str(number), account, pool, number, work, turn, member)


def dev(number: int, account: str = "x", *, turn: int = 0) -> Waiting:
    return waiting(number, account, turn=turn, member="dev")


def fill(number: int, account: str = "x", *, turn: int = 0) -> Waiting:
    return waiting(number, account, turn=turn, member="fill")


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
        ([fill(1)], [DEV0, FILL0], [("1", FILL0)]),
        (
            [fill(1), dev(2), fill(3), dev(4)],
            [DEV0, FILL0, DEV1, FILL1],
            [("1", FILL0), ("2", DEV0), ("3", FILL1), ("4", DEV1)],
        ),
        ([fill(1)], [DEV0, FILL1], [("1", DEV0)]),
        ([fill(1), dev(2, "y", turn=NEAR)], [DEV0], [("2", DEV0)]),
        ([fill(1), dev(2, "y", turn=FAR)], [DEV0], [("1", DEV0)]),
        ([fill(1), dev(2, "y", turn=1)], [FILL0, DEV0], [("1", FILL0), ("2", DEV0)]),
        ([fill(1), fill(2), dev(3, "y", turn=1), dev(4, "y")], [DEV0, DEV1], [("3", DEV0), ("4", DEV1)]),
        ([fill(1), fill(2), dev(3, "y", turn=FAR)], [DEV0, DEV1], [("1", DEV0), ("2", DEV1)]),
        ([waiting(1), dev(2, "y", turn=FAR)], [DEV0, FILL0], [("1", FILL0), ("2", DEV0)]),
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
        "the worker that has its member loaded is taken",
        "each goes where its member is, in their order",
        "an idle worker comes before one that has its member loaded and another job",
        "who stands a little higher goes first, if its member is loaded",
        "who stands much higher does not",
        "nobody goes first where every member is loaded somewhere",
        "who goes first goes on so, while it stands but a little higher",
        "what was loaded for one task is there for the next",
        "what is loaded anew takes the place of what nobody waits for",
    ],
)
def test_place(tasks: list[Waiting], slots: list[Slot], pairs: list[tuple[str, Slot]]) -> None:
    assert [(each.task.task_id, each.slot) for each in place(tasks, slots)] == pairs


def test_only_who_goes_before_somebody_lower_is_early() -> None:
    tasks = [fill(1), dev(2, "y", turn=5), waiting(3, "x", pool="x")]

    placed = place(tasks, [DEV0, DEV1, OWN])

    assert [(each.task.task_id, each.is_early) for each in placed] == [("2", True), ("1", False), ("3", False)]


# ---------------------------------------------------------------- many random afternoons

PICTURE = 1024 * 1024 * 25
LARGEST = 2 * PICTURE


class Afternoon:
    """Accounts with tasks of one member each, and workers that have room for so many members: placed over and over as
    the dispatcher does, with the turns that the queue would keep.
    """

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.chance = chance = random.Random(seed)
        members = ["schnell", "dev", "fill", "edit"][: chance.randint(1, 4)]
        self.room = chance.choice((1, 1, 2, 4))
        self.loaded: dict[str, deque[str]] = {
            f"worker {number}": deque(chance.sample(members, chance.randint(0, 1)), maxlen=self.room)
            for number in range(chance.choice((1, 1, 2, 3)))
        }
        self.member_of = {f"account {number}": chance.choice(members) for number in range(chance.randint(1, 8))}
        self.served = dict.fromkeys(self.member_of, 0)
        self.last = 0  # turn of a task that was not early
        self.tasks: list[Waiting] = []
        self.given: Counter[tuple[str, str]] = Counter()  # to the second of two, since both have waited
        self._number = 0

    def come(self) -> None:
        for account, member in self.member_of.items():
            if self.chance.random() < 0.5:
                for _ in range(self.chance.choice((1, 1, 2, 6))):
                    self._number += 1
                    work = self.chance.randint(1, 8) * LARGEST // 8
                    self.tasks.append(waiting(self._number, account, work=work, member=member))

    def seen(self) -> list[Waiting]:
        """As the queue tells it."""
        turns = {account: max(served, self.last) for account, served in self.served.items()}
        return [replace(task, turn=turns[task.account_id]) for task in self.tasks]

    def slots(self) -> list[Slot]:
        every = [
            Slot(worker, ahead, members=frozenset(loaded)) for worker, loaded in self.loaded.items() for ahead in (0, 1)
        ]
        return self.chance.sample(every, self.chance.randint(1, len(every)))

    def take(self, placed: Iterable[Placed]) -> None:
        for each in placed:
            account = each.task.account_id
            turn = max(self.served[account], self.last)
            self.served[account] = turn + each.task.work
            self.last = self.last if each.is_early else turn
            self.tasks = [task for task in self.tasks if task.number != each.task.number]
            for other in {task.account_id for task in self.tasks} - {account}:
                self.given[other, account] += each.task.work
            self._forget_those_that_do_not_wait()
            loaded = self.loaded[each.slot.worker]
            if each.task.member not in loaded:
                loaded.append(each.task.member)

    def _forget_those_that_do_not_wait(self) -> None:
        wait = {task.account_id for task in self.tasks}
        self.given = Counter({pair: work for pair, work in self.given.items() if set(pair) <= wait})


def rounds(number: int) -> Iterator[Afternoon]:
    """So many of each of 300 afternoons; at each some tasks have come."""
    for afternoon in map(Afternoon, range(300)):
        for _ in range(number):
            afternoon.come()
            yield afternoon


def test_every_place_that_can_be_used_is_used_idle_workers_first() -> None:
    for afternoon in rounds(20):
        tasks, slots = afternoon.seen(), afternoon.slots()
        placed = place(tasks, slots)

        assert len(placed) == min(len(tasks), len(slots)), afternoon.seed
        assert len({each.slot for each in placed} & set(slots)) == len(placed)
        assert sorted(each.slot.ahead for each in placed) == sorted(slot.ahead for slot in slots)[: len(placed)]
        for account in afternoon.member_of:
            numbers = [each.task.number for each in placed if each.task.account_id == account]
            assert numbers == sorted(task.number for task in tasks if task.account_id == account)[: len(numbers)]
        afternoon.take(placed)


def test_nobody_is_given_much_more_than_another_who_waits_whatever_is_loaded() -> None:
    """Two that both wait are given the same, but for one task of each and the lead that each may have."""
    for afternoon in rounds(60):
        afternoon.take(place(afternoon.seen(), afternoon.slots()))

        for (one, other), work in afternoon.given.items():
            assert work - afternoon.given[other, one] <= 2 * (LARGEST + MOST_LEAD // 2), (afternoon.seed, one, other)


@pytest.mark.parametrize("others", [1, 3, 20])
def test_what_goes_before_one_that_waits_is_the_lead_and_a_task_of_each(others: int) -> None:
    """However many others there are, each with tasks without end whose member is loaded."""
    tasks = [dev(number, f"account {number % others}") for number in range(1000)]
    tasks = [replace(task, work=PICTURE) for task in tasks]
    served: Counter[str] = Counter()
    before = 0
    alone = replace(fill(1000, "alone"), turn=0)
    while True:
        (each,) = place([alone, *(replace(task, turn=served[task.account_id]) for task in tasks)], [DEV0])
        if each.task is alone:
            break
        tasks = [task for task in tasks if task.number != each.task.number]
        served[each.task.account_id] += each.task.work
        before += each.task.work

    assert MOST_LEAD / 2 <= before <= MOST_LEAD + others * PICTURE


def test_two_accounts_with_different_members_make_a_worker_load_seldom() -> None:
    tasks = [replace(dev(number) if number % 2 else fill(number, "y"), work=PICTURE) for number in range(400)]
    served: Counter[str] = Counter()
    last, loads, loaded = 0, 0, "dev"
    while tasks:
        turns = {account: max(served[account], last) for account in "xy"}
        slot = Slot("a", 0, members=frozenset({loaded}))
        (each,) = place([replace(task, turn=turns[task.account_id]) for task in tasks], [slot])
        tasks = [task for task in tasks if task.number != each.task.number]
        served[each.task.account_id] = turns[each.task.account_id] + PICTURE
        last = last if each.is_early else turns[each.task.account_id]
        loads += each.task.member != loaded
        loaded = each.task.member

    assert loads <= 50

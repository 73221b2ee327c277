"""Who goes where: waiting tasks and free slots to pairs. It knows no clock and changes nothing."""

from collections import defaultdict, deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from fluxserve.domain.task import Waiting
from fluxserve.executors import Slot

# In the unit of turns, pixels times steps: what a big GPU draws in 25 s or so, eight pictures of flux1-dev. Loading a
# transformer of 12B takes it 2 to 10 s.
MOST_LEAD = 200_000_000


@dataclass(frozen=True, slots=True)
class Placed:
    """A task and its slot. It is early if its account stands higher than another that waits."""

    task: Waiting
    slot: Slot
    is_early: bool = False


def place(waiting: Sequence[Waiting], slots: Sequence[Slot]) -> list[Placed]:
    """Pair tasks with slots of their pools.

    An idle worker is taken before a place behind another job, so that a task never waits behind one while some device
    has nothing to do. The account that stands lowest is next, with its oldest task, and then stands higher by the work
    in it: one with a thousand tasks keeps nobody with a single one waiting. It is given a worker that has the task's
    member loaded.

    Where none has, an account that stands little higher goes first if one has its task's member, so that workers do not
    load anew for every task when two accounts want different members. Little is `MOST_LEAD`, shared by all accounts
    that wait: however many they are, those that go before another because of what is loaded are given that much, and
    one task each, and then it is next.
    """
    placed = []
    for pool in dict.fromkeys(slot.pool for slot in slots):
        tasks_of_pool = [task for task in waiting if task.pool == pool]
        placed += _place(tasks_of_pool, [slot for slot in slots if slot.pool == pool])
    return placed


def _place(waiting: Sequence[Waiting], slots: Sequence[Slot]) -> list[Placed]:
    """All of one pool."""
    turns = {task.account_id: task.turn for task in waiting}
    lines: dict[str, deque[Waiting]] = defaultdict(deque)
    for task in sorted(waiting, key=lambda task: task.number):
        lines[task.account_id].append(task)
    free = sorted(slots, key=lambda slot: (slot.ahead, slot.worker))
    loaded = {slot.worker: slot.members for slot in slots}
    placed = []
    while free and (heads := [line[0] for line in lines.values() if line]):
        nearest = [slot for slot in free if slot.ahead == free[0].ahead]
        task, slot = _next(heads, turns, nearest, loaded)
        is_early = turns[task.account_id] > min(turns[head.account_id] for head in heads)
        placed.append(Placed(task, slot, is_early))
        lines[task.account_id].popleft()
        turns[task.account_id] += task.work
        free.remove(slot)
        if task.member not in loaded[slot.worker]:
            loaded[slot.worker] = frozenset((task.member,))  # any other may have to make room for it
    return placed


def _next(
    heads: Sequence[Waiting], turns: Mapping[str, int], slots: Sequence[Slot], loaded: Mapping[str, frozenset[str]]
) -> tuple[Waiting, Slot]:
    lowest, *others = sorted(heads, key=lambda head: (turns[head.account_id], head.number))
    high = turns[lowest.account_id] + MOST_LEAD // len(heads)
    for head in (lowest, *others):
        if turns[head.account_id] > high:
            break
        for slot in slots:
            if head.member in loaded[slot.worker]:
                return head, slot
    wanted = {head.member for head in others}
    return lowest, min(slots, key=lambda slot: len(wanted & loaded[slot.worker]))  # where the others miss the least

"""Who goes where: waiting tasks and free slots to pairs. It knows no clock and changes nothing."""

from collections import defaultdict, deque
from collections.abc import Sequence

from fluxserve.domain.task import Waiting
from fluxserve.executors import Slot


def place(waiting: Sequence[Waiting], slots: Sequence[Slot]) -> list[tuple[Waiting, Slot]]:
    """Pair tasks with slots of their pools.

    An idle worker is taken before a place behind another job, so that a task never waits behind one while some device
    has nothing to do. The account that stands lowest is next, with its oldest task, and then stands higher by the work
    in it: one with a thousand tasks keeps nobody with a single one waiting.
    """
    turns = {(task.pool, task.account_id): task.turn for task in waiting}
    lines: dict[tuple[str, str], deque[Waiting]] = defaultdict(deque)
    for task in sorted(waiting, key=lambda task: task.number):
        lines[task.pool, task.account_id].append(task)
    pairs = []
    for slot in sorted(slots, key=lambda slot: (slot.ahead, slot.worker)):
        heads = [line[0] for (pool, _), line in lines.items() if pool == slot.pool and line]
        if not heads:
            continue
        task = min(heads, key=lambda head: (turns[head.pool, head.account_id], head.number))
        lines[task.pool, task.account_id].popleft()
        turns[task.pool, task.account_id] += task.work
        pairs.append((task, slot))
    return pairs

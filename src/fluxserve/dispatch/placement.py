"""Who goes where: a pure function from waiting tasks and free slots to pairs."""

from collections.abc import Sequence

from fluxserve.executors import Slot


def place(waiting: Sequence[str], slots: Sequence[Slot]) -> list[tuple[str, Slot]]:
    """Pair task ids, oldest first, with slots.

    An idle worker is taken before a place behind another job, so that a task never waits behind one while some device
    has nothing to do.
    """
    return list(zip(waiting, sorted(slots, key=lambda slot: (slot.ahead, slot.worker)), strict=False))

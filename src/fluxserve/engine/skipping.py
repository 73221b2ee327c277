"""Steps that are not computed: between two steps of a long schedule the direction changes little, and steadily.

What a skipped step goes by is the straight line through the directions of the last two that were computed: what
Adams and Bashforth's second method does, on a grid that is finer than its evaluations.
"""

import torch

FIRST, LAST = 2, 1  # always computed: a line needs two points, and the last step settles the detail
FEWEST = 8  # steps; a schedule as short as that has none to spare


def computed(steps: int, stride: int) -> list[bool]:
    """For each step, whether it is computed: of those in the middle, the last of each `stride`."""
    if steps < FEWEST:
        return [True] * steps
    return [step < FIRST or step >= steps - LAST or (step - FIRST) % stride == stride - 1 for step in range(steps)]


class Trend:
    """The directions of the last two computed steps, and where they lead. One for each picture."""

    def __init__(self) -> None:
        self._known: list[tuple[float, torch.Tensor]] = []

    def note(self, timestep: float, velocity: torch.Tensor) -> None:
        self._known = [*self._known[-1:], (timestep, velocity)]

    def at(self, timestep: float) -> torch.Tensor:
        """The direction to be expected at a later timestep."""
        (first, earlier), (second, later) = self._known
        return torch.lerp(earlier, later, (timestep - first) / (second - first))

"""Where the small family of the tests lies."""

from dataclasses import dataclass
from pathlib import Path

import torch

MINUTES = 1 / 60  # of a sitting, by the clock below: some steps


class Clock:
    """Goes on by a tenth of a second whenever it is looked at, so that a sitting has as many steps on any machine."""

    def __init__(self) -> None:
        self._now = 0.0

    def monotonic(self) -> float:
        self._now += 0.1
        return self._now


@dataclass(frozen=True)
class Family:
    """The folders of weights and of checkpoints."""

    folder: Path
    runs: Path

    def steps(self, name: str) -> int:
        """How many steps the checkpoint `name` has behind it."""
        steps: int = torch.load(self.runs / f"{name}.pt", weights_only=True)["steps"]
        return steps

"""Where the small family of the tests lies."""

from dataclasses import dataclass
from pathlib import Path

import torch


@dataclass(frozen=True)
class Family:
    """The folders of weights and of checkpoints."""

    folder: Path
    runs: Path

    def steps(self, name: str) -> int:
        """How many steps the checkpoint `name` has behind it."""
        steps: int = torch.load(self.runs / f"{name}.pt", weights_only=True)["steps"]
        return steps

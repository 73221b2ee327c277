"""A sitting: a stretch of training that ends after some minutes and can be taken up again.

Every program trains the same way: `Sitting.lasts()` is true until the time is up, `learning_rate` warms up, holds
and falls to zero over the sitting's last part (so that whatever a sitting leaves behind is good to use), and `save`
writes a checkpoint that the next sitting starts from. The time begins with the first step, and there always is one.

Several processes may sit together, each with a part of the batch (``python -m torch.distributed.run --nproc-per-node
2 -m training.flow base``): on a CPU two of one thread each do nearly twice the work of one with two threads. They share
one clock and the mean of their gradients; the first alone writes.
"""

import json
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from diffusers import ModelMixin
from torch import distributed

from fluxserve.engine.memory import keep_freed_memory

RUNS = Path(__file__).with_name("runs")  # checkpoints; not in the repository
FAMILY = Path(__file__).parents[1] / "models" / "mini"
WEIGHTS = FAMILY / "shared"  # what every member uses: VAE, CLIP, T5, tokenizers
WARM_UP_SECONDS = 60.0
FALLING_PART = 0.3
SAVE_EVERY_SECONDS = 180.0


class Sitting:
    """One stretch of work on one member, named `name`, for `minutes`."""

    def __init__(self, name: str, minutes: float, peak_rate: float) -> None:
        self.path = RUNS / f"{name}.pt"
        self.name = name
        self.seconds = minutes * 60
        self.peak_rate = peak_rate
        self.steps = 0
        self._losses: list[float] = []
        self.began: float | None = None
        self.saved = self._said = time.monotonic()
        self.elapsed = 0.0

    def lasts(self) -> bool:
        """Whether there is time for another step. Asked once a step; moves the clock that all processes go by."""
        if self.began is None:  # what was prepared before the first step is not training
            self.began = self.saved = self._said = time.monotonic()
            return True
        self.elapsed = float(mean_of_all(torch.tensor(time.monotonic() - self.began, device=device())))
        return self.elapsed < self.seconds

    def learning_rate(self) -> float:
        warm = min(1.0, self.elapsed / WARM_UP_SECONDS)
        left = max(0.0, 1 - self.elapsed / self.seconds)
        return self.peak_rate * warm * min(1.0, left / FALLING_PART)

    def load(self) -> dict[str, Any] | None:
        """The last checkpoint, or None at the very beginning."""
        if not self.path.exists():
            return None
        state: dict[str, Any] = torch.load(self.path, weights_only=True, map_location="cpu")
        self.steps = state["steps"]
        print(f"{self.name}: going on from step {self.steps}", flush=True)
        return state

    def step(self, optimizer: torch.optim.Optimizer, loss: torch.Tensor, parameters: list[torch.nn.Parameter]) -> None:
        """Backward and one update."""
        optimizer.zero_grad(set_to_none=True)
        torch.autograd.backward(loss)
        self.update((optimizer,), float(loss.detach()), parameters)

    def update(
        self, optimizers: Sequence[torch.optim.Optimizer], loss: float, parameters: list[torch.nn.Parameter]
    ) -> None:
        """One update by the gradients that are there, at this moment's learning rate."""
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        for optimizer in optimizers:
            for group in optimizer.param_groups:
                group["lr"] = self.learning_rate()
            optimizer.step()
        self.steps += 1
        self._losses.append(loss)
        if is_first() and time.monotonic() - self._said > 15:
            mean = sum(self._losses) / len(self._losses)
            pace = len(self._losses) / (time.monotonic() - self._said)
            print(
                f"{self.name} {self.elapsed / 60:6.1f} min  step {self.steps:7d}  {pace:5.2f}/s  loss {mean:.5f}",
                flush=True,
            )
            self._said, self._losses = time.monotonic(), []

    def save(self, *, at_once: bool = True, **state: Any) -> None:
        """Write a checkpoint; with `at_once=False` only when the last one is some minutes old."""
        if not is_first() or (not at_once and time.monotonic() - self.saved < SAVE_EVERY_SECONDS):
            return
        self.saved = time.monotonic()
        self.path.parent.mkdir(exist_ok=True)
        partial = self.path.with_suffix(".partial")
        torch.save({"steps": self.steps, **state}, partial)
        partial.replace(self.path)


class Average:
    """An exponential moving average of a model's weights: what is kept, judged and shipped."""

    def __init__(self, model: torch.nn.Module, decay: float) -> None:
        self.decay = decay
        self.weights = {name: weight.detach().clone() for name, weight in model.state_dict().items()}
        self.updates = 0

    @torch.no_grad()
    def update(self, model: torch.nn.Module) -> None:
        self.updates += 1
        decay = min(self.decay, self.updates / (self.updates + 9))
        for name, weight in model.state_dict().items():
            self.weights[name].lerp_(weight, 1 - decay)


def publish(model: ModelMixin, folder: Path) -> None:
    """Save a model in bfloat16, in files of at most 15 MB, without the path of the folder that it was read from."""
    torch.nn.Module.to(model, torch.bfloat16)
    model.save_pretrained(folder, max_shard_size="15MB")
    config = folder / "config.json"
    values = json.loads(config.read_text())
    values.pop("_name_or_path", None)
    config.write_text(json.dumps(values, indent=2, sort_keys=True) + "\n")


def sit_together() -> None:
    """Join the other processes, if this one was started as one of several, and make ready for long work."""
    keep_freed_memory()
    if "RANK" in os.environ:
        distributed.init_process_group("nccl" if torch.cuda.is_available() else "gloo")


def rank() -> int:
    """Which of the processes this one is, from 0."""
    return distributed.get_rank() if distributed.is_initialized() else 0


def processes() -> int:
    """How many there are."""
    return distributed.get_world_size() if distributed.is_initialized() else 1


def is_first() -> bool:
    return rank() == 0


def mean_of_all(values: torch.Tensor) -> torch.Tensor:
    """The mean of what every process gives; waits for all of them."""
    if distributed.is_initialized():
        distributed.all_reduce(values)
        values /= processes()
    return values


def device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")

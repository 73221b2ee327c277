"""What comes and goes on a device: transformers, control networks, what reads pictures. They come at their first use,
stay as long as there is room, and go when another needs it, the one used longest ago first."""

import gc
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import torch

from fluxserve.engine.checkpoint import Checkpoint
from fluxserve.engine.needs import bytes_of
from fluxserve.engine.network import Keeping, Transformer

Part = TypeVar("Part")
MakeRoom = Callable[[int], None]
"""Told how many bytes are wanted, before they are taken."""


@dataclass(frozen=True, slots=True)
class Guest:
    """`size` is how many bytes it takes."""

    part: Any
    size: int


class Guests:
    """`room` is how many bytes there are for all of them."""

    def __init__(self, device: torch.device, room: int) -> None:
        self.device = device
        self.room = room
        self._here: OrderedDict[str, Guest] = OrderedDict()
        self._spare: Checkpoint | None = None
        self._spare_bytes = 0

    @property
    def taken(self) -> int:
        """How many bytes of the room."""
        return sum(guest.size for guest in self._here.values()) + self._spare_bytes

    def __contains__(self, name: str) -> bool:
        return name in self._here

    def would_fit(self, size: int) -> bool:
        """Whether there is room for one more; there always is for the first."""
        return not self._here or self.taken + size <= self.room

    def get(self, name: str, needed: set[str], load: Callable[[MakeRoom], Part]) -> Part:
        """What is here under that name, loaded if need be. What is `needed` beside it stays."""
        if name not in self._here:
            size = 0

            def make_room(wanted: int) -> None:
                nonlocal size
                size = wanted
                self._make_room(size, needed)

            self._here[name] = Guest(load(make_room), size)
        self._here.move_to_end(name)
        part: Part = self._here[name].part
        return part

    def _make_room(self, size: int, needed: set[str]) -> None:
        """Let guests go until another of `size` bytes has room, or only those are left that are `needed`."""
        if self.taken + size <= self.room:
            return
        self._set_spare(None, 0)
        for name in [name for name in self._here if name not in needed]:
            if self.taken + size <= self.room:
                break
            del self._here[name]
        let_go(self.device)

    def clear(self) -> None:
        self._set_spare(None, 0)
        self._here.clear()

    # ------------------------------------------------------------ a second copy, for LoRAs

    @property
    def spare(self) -> Checkpoint | None:
        """The checkpoint whose weights are on the device as they came, too."""
        return self._spare

    def keep_spare(self, checkpoint: Checkpoint, dtype: torch.dtype) -> None:
        """Keep a transformer's weights as they came on the device too, if there is room: from there a LoRA is put on in
        milliseconds, from the host's memory in a second or more. On a CPU they are there already."""
        if self.device.type == "cpu" or checkpoint is self._spare:
            return
        size = bytes_of(Transformer, checkpoint.shape, Keeping(self.device, dtype))
        if self.taken - self._spare_bytes + size <= self.room:
            self._set_spare(checkpoint, size)
            checkpoint.keep_on(self.device, dtype)

    def _set_spare(self, checkpoint: Checkpoint | None, size: int) -> None:
        if self._spare is not None:
            self._spare.forget()
        self._spare, self._spare_bytes = checkpoint, size


def let_go(device: torch.device) -> None:
    """Of what nobody has any more: compiled networks refer to themselves, so that only the collector frees them."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
    elif device.type == "mps":
        torch.mps.empty_cache()

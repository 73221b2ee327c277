"""How much memory tensors take: everything that an operation makes is followed until it is gone."""

import weakref
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class Followed(TorchDispatchMode):
    """While it is entered. `peak` and `now` are bytes of what was made within."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.now = self.peak = 0
        self._followed: set[int] = set()

    def __torch_dispatch__(
        self,
        operation: Callable[..., Any],
        _types: object,
        arguments: Sequence[Any] = (),
        named: Mapping[str, Any] | None = None,
    ) -> Any:
        named = named or {}
        given = {leaf.untyped_storage()._cdata for leaf in tree_leaves((arguments, named)) if _is_tensor(leaf)}
        answer = operation(*arguments, **named)
        for leaf in tree_leaves(answer):
            if _is_tensor(leaf) and leaf.untyped_storage()._cdata not in given:
                self._follow(leaf.untyped_storage())
        return answer

    def _follow(self, storage: torch.UntypedStorage) -> None:
        key, size = storage._cdata, storage.nbytes()
        if key in self._followed:
            return

        def gone() -> None:
            self._followed.discard(key)
            self.now -= size

        weakref.finalize(storage, gone)
        self._followed.add(key)
        self.now += size
        self.peak = max(self.peak, self.now)


def _is_tensor(leaf: object) -> bool:
    return isinstance(leaf, torch.Tensor)


def kept(*networks: torch.nn.Module) -> int:
    """Bytes of their weights."""
    return sum(weight.numel() * weight.itemsize for network in networks for weight in network.parameters())

"""How a device is put to use: which of the ways to draw faster it is given. What each is worth is measured by
`benchmarks.flux_full`; docs/speed.md has the figures."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from fluxserve.domain.speeds import Attention, Compilation, Speed

BACKENDS = {  # as torch itself prefers them, among those that it may use, on Hopper and later
    "cudnn": SDPBackend.CUDNN_ATTENTION,
    "flash": SDPBackend.FLASH_ATTENTION,
    "efficient": SDPBackend.EFFICIENT_ATTENTION,
    "math": SDPBackend.MATH,
}


@dataclass(frozen=True, slots=True)
class Tuning:
    """`stride` as `skipping` has it; `compiles` whether blocks are compiled, `replays` whether steps of small pictures
    are CUDA graphs; `backends` of attention, of which the first is taken that can do it, or torch's choice if there are
    none."""

    stride: int = 1
    compiles: bool = False
    replays: bool = False
    backends: tuple[SDPBackend, ...] = ()


def tuned(device: torch.device, speed: Speed, compilation: Compilation, attention: Attention) -> Tuning:
    is_cuda = device.type == "cuda"
    compiles = is_cuda if compilation == "auto" else compilation == "on"
    return Tuning(
        stride=speed.stride,
        compiles=compiles,
        replays=is_cuda and compiles,
        backends=_backends(attention),
    )


@contextmanager
def attending(tuning: Tuning) -> Iterator[None]:
    """Attention within goes by the tuning's backends; torch's own choice where it names none."""
    if not tuning.backends:
        yield
        return
    with sdpa_kernel(list(tuning.backends), set_priority=True):
        yield


def _backends(attention: Attention) -> tuple[SDPBackend, ...]:
    """The one that is asked for and others to follow, for not each can do what every network asks for. Never one before
    it: torch puts cuDNN's first at a process's first attention, whatever order it was told."""
    if attention == "auto":
        return ()
    names = list(BACKENDS)
    return tuple(BACKENDS[name] for name in names[names.index(attention) :])

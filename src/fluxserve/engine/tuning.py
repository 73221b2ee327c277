"""How a device is put to use: which of the ways to draw faster it is given. What each is worth is measured by
`benchmarks.flux_full`; docs/speed.md has the figures."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from fluxserve.domain.speeds import Attention, Compilation, Speed
from fluxserve.engine.network import Precision

HAS_FP8 = (8, 9)  # compute capability
PREFERS_CUDNN = (9, 0)  # its attention is there as fast as FlashAttention 3, which has no wheel
BACKENDS = {
    "cudnn": SDPBackend.CUDNN_ATTENTION,
    "flash": SDPBackend.FLASH_ATTENTION,
    "efficient": SDPBackend.EFFICIENT_ATTENTION,
    "math": SDPBackend.MATH,
}


@dataclass(frozen=True, slots=True)
class Tuning:
    """`precision` of the large layers; `stride` as `skipping` has it; `compiles` whether blocks are compiled, `replays`
    whether steps of small pictures are CUDA graphs; `backends` of attention, the first that can do it is taken."""

    precision: Precision = "whole"
    stride: int = 1
    compiles: bool = False
    replays: bool = False
    backends: tuple[SDPBackend, ...] = ()


def tuned(device: torch.device, speed: Speed, compilation: Compilation, attention: Attention) -> Tuning:
    is_cuda = device.type == "cuda"
    compiles = is_cuda if compilation == "auto" else compilation == "on"
    return Tuning(
        precision="fp8" if speed.eight_bits and has_fp8(device) else "whole",
        stride=speed.stride,
        compiles=compiles,
        replays=is_cuda and compiles,
        backends=_backends(device, attention),
    )


def has_fp8(device: torch.device) -> bool:
    """Whether it multiplies in eight bits."""
    return device.type == "cuda" and torch.cuda.get_device_capability(device) >= HAS_FP8


@contextmanager
def attending(tuning: Tuning) -> Iterator[None]:
    """Attention within goes by the tuning's backends; torch's own choice where it names none."""
    if not tuning.backends:
        yield
        return
    with sdpa_kernel(list(tuning.backends), set_priority=True):
        yield


def _backends(device: torch.device, attention: Attention) -> tuple[SDPBackend, ...]:
    if attention != "auto":
        first = [attention]
    elif device.type == "cuda" and torch.cuda.get_device_capability(device) >= PREFERS_CUDNN:
        first = ["cudnn"]
    else:
        return ()
    # The others follow: not each can do what every network asks for.
    return tuple(BACKENDS[name] for name in [*first, *(name for name in BACKENDS if name not in first)])

"""What fits: how a family's networks are kept on a device, from the memory that it has free.

Everything stays on the device if it can. If not, the text encoders go to the host, which costs a second for a prompt
that was not read lately, and then a transformer's modulation, which is asked once a picture; then weights are kept in
fewer bits. Nothing is loaded or measured here.
"""

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import torch

from fluxserve.domain.device import Device
from fluxserve.domain.speeds import Speed
from fluxserve.engine.network import Precision
from fluxserve.engine.network.four_bits import BLOCK

Place = Literal["device", "host"]

SPARED = 1 / 20  # of the free memory, for what no one counts: kernels' own memory, and gaps
# Bytes in use at most beside the weights, found by following every tensor of FLUX.1's networks at full size.
PER_TOKEN = 19  # of a transformer: times its width and its type's bytes
PER_PIXEL = 6  # of the autoencoder as it decodes: times the channels that it has there and its type's bytes
PROMPTS_KEPT = 64  # encoded; at FLUX.1's size one has 4 MB
MOST_STEPS = 40  # whose modulation is made at once
TILE = 512 * 512  # pixels
GB = 10**9


@dataclass(frozen=True, slots=True)
class Needs:
    """Bytes of a family's networks in bfloat16, and the largest picture that it draws.

    `large` are those of a transformer's large layers, `modulation` those of what steers them, `other` the rest of it;
    `prompts` those of all encoded prompts that are kept. `channels` are the autoencoder's at its full size.
    """

    large: int
    modulation: int
    other: int
    encoders: int
    autoencoder: int
    prompts: int
    width: int
    channels: int
    most_tokens: int
    most_pixels: int


@dataclass(frozen=True, slots=True)
class Plan:
    """How a family is kept. `is_tiled`: the autoencoder works tile by tile.

    `transformer` is how many bytes one takes, and `guests` how many there are for all that comes and goes:
    transformers, control networks, what reads pictures. `peak` is how many are in use at most with one transformer and
    no other guest.
    """

    dtype: torch.dtype
    precision: Precision = "whole"
    encoders: Place = "device"
    modulation: Place = "device"
    is_tiled: bool = False
    transformer: int = 0
    peak: int = 0
    guests: int = sys.maxsize

    @property
    def fits(self) -> bool:
        return self.transformer <= self.guests

    def __str__(self) -> str:
        kinds = {"whole": str(self.dtype).removeprefix("torch."), "fp8": "fp8", "nf4": "4 bits"}
        parts = [f"large layers in {kinds[self.precision]}"]
        if self.encoders == "host":
            parts.append("text encoders on the host")
        if self.modulation == "host":
            parts.append("modulation on the host")
        if self.is_tiled:
            parts.append("pictures decoded in tiles")
        more = (self.guests - self.transformer) / GB
        room = f"room for {more:.1f} GB more" if self.fits else f"{-more:.1f} GB too many"
        return f"{', '.join(parts)}: at most {self.peak / GB:.1f} GB with one transformer, {room}"


def plans(needs: Needs, device: Device, speed: Speed) -> list[Plan]:
    """From the first that fits on, each needing less than the one before; the smallest of all if none fits."""
    made = [
        _plan(needs, device, dtype, precision, encoders, modulation, is_tiled)
        for dtype, precision in _kinds(device, speed)
        for encoders, modulation, is_tiled in _places(device)
    ]
    fitting = [plan for plan in made if plan.fits] or [min(made, key=lambda plan: plan.peak)]
    chosen = fitting[:1]
    for plan in fitting[1:]:
        if plan.peak < chosen[-1].peak:
            chosen.append(plan)
    return chosen


def _kinds(device: Device, speed: Speed) -> Iterator[tuple[torch.dtype, Precision]]:
    if device.name == "cpu":
        if speed.is_exact or not device.has_bfloat16:
            yield torch.float32, "whole"
        yield torch.bfloat16, "whole"
        yield torch.bfloat16, "nf4"
        return
    if speed.is_exact or not device.has_fp8:
        yield torch.bfloat16, "whole"
    if device.name != "mps":  # which does not know the type
        yield torch.bfloat16, "fp8"
    yield torch.bfloat16, "nf4"


def _places(device: Device) -> Iterator[tuple[Place, Place, bool]]:
    yield "device", "device", False
    if device.name not in ("cpu", "mps"):  # their memory is the host's
        yield "host", "device", False
        yield "host", "host", True


def _plan(
    needs: Needs,
    device: Device,
    dtype: torch.dtype,
    precision: Precision,
    encoders: Place,
    modulation: Place,
    is_tiled: bool,
) -> Plan:
    times = dtype.itemsize / 2
    bits = {"whole": 8 * dtype.itemsize, "fp8": 8, "nf4": 4 + 8 * dtype.itemsize / BLOCK}[precision]
    transformer = needs.large * bits / 16 + needs.other * times
    if modulation == "device":
        transformer += needs.modulation * times
    fixed = (needs.autoencoder + needs.prompts) * times
    if encoders == "device":
        fixed += needs.encoders * times
    pixels = min(TILE, needs.most_pixels) if is_tiled else needs.most_pixels
    told = needs.modulation / needs.width * MOST_STEPS * times
    denoising = needs.most_tokens * needs.width * PER_TOKEN * dtype.itemsize + told
    decoding = pixels * needs.channels * PER_PIXEL * dtype.itemsize
    fixed += max(denoising, decoding)
    return Plan(
        dtype,
        precision,
        encoders,
        modulation,
        is_tiled,
        transformer=round(transformer),
        peak=round(fixed + transformer),
        guests=round(device.free_bytes * (1 - SPARED) - fixed),
    )

"""What fits: how a family's networks are kept on a device, from the memory that it has free.

Everything stays on the device if it can. If not, the text encoders go to the host, which costs a second for a prompt
that was not read lately, and then a transformer's modulation, which is asked once a picture; then weights are kept in
fewer bits. Nothing is loaded or measured here.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import torch

from fluxserve.domain.device import Device
from fluxserve.engine.network import Precision

Place = Literal["device", "host"]

SPARED = 1 / 20  # of the free memory, for what no one counts: kernels' own memory, and gaps
# Bytes in use at most beside the weights, found by following every tensor of FLUX.1's networks at full size.
PER_TOKEN = 19  # of a transformer: times its width and its type's bytes
PER_PIXEL = 6  # of the autoencoder as it decodes: times the channels that it has there and its type's bytes
MOST_STEPS = 40  # whose modulation is made at once
TILE = 512 * 512  # pixels
GB = 10**9


@dataclass(frozen=True, slots=True)
class Needs:
    """Bytes of a family's networks in bfloat16, and the largest picture that it draws.

    `large` are those of a transformer's large layers, `modulation` those of what steers them, `other` the rest of it.
    `channels` are the autoencoder's at its full size.
    """

    large: int
    modulation: int
    other: int
    encoders: int
    autoencoder: int
    width: int
    channels: int
    most_tokens: int
    most_pixels: int


@dataclass(frozen=True, slots=True)
class Plan:
    """`is_tiled`: the autoencoder works tile by tile. `peak` is how many bytes are in use at most with one transformer,
    and `room` how many are left for more of them, control networks and whatever else comes and goes."""

    dtype: torch.dtype
    precision: Precision
    encoders: Place
    modulation: Place
    is_tiled: bool
    peak: int
    room: int

    @property
    def fits(self) -> bool:
        return self.room >= 0

    def __str__(self) -> str:
        kinds = {"whole": str(self.dtype).removeprefix("torch."), "fp8": "fp8", "nf4": "4 bits"}
        parts = [f"large layers in {kinds[self.precision]}"]
        if self.encoders == "host":
            parts.append("text encoders on the host")
        if self.modulation == "host":
            parts.append("modulation on the host")
        if self.is_tiled:
            parts.append("pictures decoded in tiles")
        more = f"{self.room / GB:.1f} GB for more" if self.fits else f"{-self.room / GB:.1f} GB too many"
        return f"{', '.join(parts)}: {self.peak / GB:.1f} GB at most with one transformer, {more}"


def plans(needs: Needs, device: Device, *, wants_eight_bits: bool, wants_speed: bool) -> list[Plan]:
    """From the one that needs most to the one that needs least."""
    free = round(device.free_bytes * (1 - SPARED))
    made = []
    for dtype, precision in _kinds(device, wants_eight_bits, wants_speed):
        for encoders, modulation, is_tiled in _places(device):
            peak = _peak(needs, dtype, precision, encoders, modulation, is_tiled)
            made.append(Plan(dtype, precision, encoders, modulation, is_tiled, peak, free - peak))
    return made


def _kinds(device: Device, wants_eight_bits: bool, wants_speed: bool) -> Iterator[tuple[torch.dtype, Precision]]:
    if device.name == "cpu":
        if not (wants_speed and device.has_bfloat16):
            yield torch.float32, "whole"
        yield torch.bfloat16, "whole"
        yield torch.bfloat16, "nf4"
        return
    if not (wants_eight_bits and device.has_fp8):
        yield torch.bfloat16, "whole"
    if device.name != "mps":  # which does not know the type
        yield torch.bfloat16, "fp8"
    yield torch.bfloat16, "nf4"


def _places(device: Device) -> Iterator[tuple[Place, Place, bool]]:
    yield "device", "device", False
    if device.name != "cpu":
        yield "host", "device", False
        yield "host", "host", True


def _peak(
    needs: Needs, dtype: torch.dtype, precision: Precision, encoders: Place, modulation: Place, is_tiled: bool
) -> int:
    # Bits a weight; the scales of fewer bits are with them.
    bits = {"whole": 8 * dtype.itemsize, "fp8": 8, "nf4": 4 + dtype.itemsize * 8 / 64}[precision]
    times = dtype.itemsize / 2
    weights = needs.large * bits / 16 + needs.other * times + needs.autoencoder * times
    weights += needs.modulation * times if modulation == "device" else 0
    weights += needs.encoders * times if encoders == "device" else 0
    pixels = min(TILE, needs.most_pixels) if is_tiled else needs.most_pixels
    told = needs.modulation // needs.width * MOST_STEPS * times
    denoising = needs.most_tokens * needs.width * PER_TOKEN * dtype.itemsize + told
    decoding = pixels * needs.channels * PER_PIXEL * dtype.itemsize
    return round(weights + max(denoising, decoding))

"""Speeds: how much of a picture's exactness may be given for time. What each one costs in quality is measured, and
written in docs/speed.md."""

from dataclasses import dataclass
from typing import Literal, get_args

Compilation = Literal["auto", "on", "off"]
Attention = Literal["auto", "cudnn", "flash", "efficient", "math"]
COMPILATIONS, ATTENTIONS = get_args(Compilation), get_args(Attention)


@dataclass(frozen=True, slots=True)
class Speed:
    """`eight_bits`: large layers compute in fp8, on devices that do so. `stride`: of the steps in the middle of a
    drawing one in so many is computed, and the others are continued from the ones before; 1 computes them all."""

    eight_bits: bool
    stride: int


SpeedName = Literal["exact", "fast", "fastest"]
SPEEDS: dict[SpeedName, Speed] = {
    "exact": Speed(eight_bits=False, stride=1),
    "fast": Speed(eight_bits=True, stride=2),
    "fastest": Speed(eight_bits=True, stride=4),
}

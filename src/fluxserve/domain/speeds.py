"""Speeds: how much of a picture's exactness may be given for time. What each one costs in quality is measured, and
written in docs/speed.md."""

from dataclasses import dataclass
from typing import Literal, get_args

Compilation = Literal["auto", "on", "off"]
Attention = Literal["auto", "cudnn", "flash", "efficient", "math"]
COMPILATIONS, ATTENTIONS = get_args(Compilation), get_args(Attention)


@dataclass(frozen=True, slots=True)
class Speed:
    """`is_exact`: networks compute in the type that is usual for the device; if not, in fewer bits where that is faster
    (GPUs in fp8, CPUs in bfloat16). `stride`: of the steps in the middle of a drawing one in so many is computed, and
    the others are continued from the ones before; 1 computes them all."""

    is_exact: bool
    stride: int


SpeedName = Literal["exact", "fast", "fastest"]
SPEEDS: dict[SpeedName, Speed] = {
    "exact": Speed(is_exact=True, stride=1),
    "fast": Speed(is_exact=False, stride=2),
    "fastest": Speed(is_exact=False, stride=4),
}

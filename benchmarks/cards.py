"""FLUX.1 at full size on cards that are not here: how it is kept, and how long a picture takes. Computed, not measured.

    python -m benchmarks.cards

The plan is the engine's own, for the card's memory less what a driver takes. The time is that of the products of all
computed steps, T5 and the autoencoder at half of the dense rate that the card's maker names, which is what others have
measured of a compiled FLUX.1; what else is moved or waited for is not in it. A figure that `flux_full` measured beats
one from here.
"""

import argparse
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.results import RESULTS, Result, this_machine
from fluxserve.domain.device import Device
from fluxserve.domain.speeds import SPEEDS, SpeedName
from fluxserve.engine.needs import FLUX1
from fluxserve.engine.plan import Plan, plans
from fluxserve.engine.skipping import computed

GB = 10**9
TAKEN = 0.7 * GB  # by a driver
SHARE = 0.5  # of the maker's rate: 4.2 s for 28 steps on an H100, compiled (diffusers-torchao)
ATTENTION = 14.87e12  # operations of a step at 1024x1024 with 512 words, of 74.38e12: it stays in bfloat16
STEP, TEXT, DECODING = 74.38e12, 4.85e12, 10.47e12
STEPS = {"schnell": 4, "dev": 28}


@dataclass(frozen=True, slots=True)
class Card:
    """`memory` is in GB; `bfloat16` and `fp8` are the maker's dense rates in TFLOP/s, `fp8` 0 where it has none."""

    name: str
    memory: float
    bfloat16: float
    fp8: float = 0


# The makers' data sheets; for GeForce the rates with float32 sums, as such products are taken.
CARDS = (
    Card("H200", 141, 989, 1979),
    Card("H100 SXM", 80, 989, 1979),
    Card("A100", 80, 312),
    Card("L40S", 48, 362, 733),
    Card("RTX 6000 Ada", 48, 182, 364),
    Card("A6000", 48, 155),
    Card("RTX 5090", 32, 209, 419),
    Card("RTX 4090", 24, 165, 330),
    Card("RTX 3090", 24, 71),
    Card("RTX 4080", 16, 97, 195),
    Card("RTX 4060 Ti", 16, 44, 88),
    Card("RTX 3060", 12, 25),
    Card("RTX 4060", 8, 30, 60),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=Path, default=RESULTS, help="where the figures are written")
    chosen = parser.parse_args()
    figures = [row for card in CARDS for row in rows(card)]
    notes = [
        "Computed, not measured: 1024x1024, schnell at 4 steps and dev at 28, at "
        f"{SHARE:.0%} of the maker's dense rates, attention in bfloat16. Loading another member comes on top.",
    ]
    Result("cards", figures, notes, this_machine()).show_and_write(chosen.results)


def rows(card: Card) -> Iterator[dict[str, Any]]:
    for speed in SPEEDS:
        plan = plan_of(card, speed)
        yield {
            "card": card.name,
            "GB": card.memory,
            "speed": speed,
            "large layers": {"whole": "bfloat16", "fp8": "fp8", "nf4": "4 bits"}[plan.precision],
            "on the host": ", ".join(
                name for name, place in (("T5", plan.t5), ("modulation", plan.modulation)) if place == "host"
            ),
            "transformers at once": max(1, min(4, plan.guests // plan.transformer)),
            **{f"{member} s": round(seconds(card, plan, steps, speed), 1) for member, steps in STEPS.items()},
        }


def plan_of(card: Card, speed: SpeedName) -> Plan:
    device = Device("cuda:0", card.name, 0, round(card.memory * GB - TAKEN), has_bfloat16=True, has_fp8=card.fp8 > 0)
    return plans(FLUX1, device, SPEEDS[speed])[0]


def seconds(card: Card, plan: Plan, steps: int, speed: SpeedName) -> float:
    rate = SHARE * card.bfloat16 * 1e12
    fast = SHARE * card.fp8 * 1e12 if plan.precision == "fp8" and card.fp8 else rate
    step = (STEP - ATTENTION) / fast + ATTENTION / rate
    return sum(computed(steps, SPEEDS[speed].stride)) * step + (TEXT + DECODING) / rate


if __name__ == "__main__":
    main()

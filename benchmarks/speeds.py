"""What each named speed brings in time and costs in quality, with the family that ships, on the CPU.

    python -m benchmarks.speeds [--pictures 200] [--threads 2]

Every side draws the same held-out scenes of the world that the family was trained on, with the same prompts and seeds,
each with an engine as a worker makes it. All are in one process and take turns, picture by picture.

    exact            every step computed, in float32
    fast, fastest    some steps continued from those before, and bfloat16 where the CPU has it
    fast, float32    and so on: as on a CPU without bfloat16, so that only skipping tells it from exact
    N steps          exact, asked for only as many steps as a speed computes: what a user would do instead

A judge says what is right in each picture (see `training.judge`); the last column is how near a picture comes to the
one that exact draws of the same scene in the same number of steps.
"""

import argparse
import functools
import math
import os
import statistics
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks.results import RESULTS, Result, this_machine
from fluxserve.domain.catalog import ANNOTATORS, FAMILIES, LORA_FILES, MODELS, SHORTEST_SIDE
from fluxserve.domain.device import Device
from fluxserve.domain.generation import Generation, TextToImage
from fluxserve.domain.speeds import SPEEDS, SpeedName
from fluxserve.engine.memory import keep_freed_memory
from fluxserve.engine.png import Pixels
from fluxserve.engine.worker import least_picture
from fluxserve.executors.workers import mini_folder

if TYPE_CHECKING:
    from fluxserve.engine.engine import Engine
    from training.world import Scene

SIDE = 256
MEASURES = ("thing", "background", "place", "size", "colour", "all")
SHOWN_EVERY = 10  # pictures


@dataclass(frozen=True, slots=True)
class Case:
    """What is asked for."""

    model: str
    steps: int


CASES = (
    Case("flux1-dev", 28),  # what FLUX.1's own examples take
    Case("flux1-dev", MODELS["flux1-dev"].default_steps),
    Case("flux1-schnell", MODELS["flux1-schnell"].default_steps),
)


@dataclass(frozen=True, slots=True)
class Side:
    """One way to draw a case. Of its `steps` as many are `computed` as the speed does not skip."""

    name: str
    speed: SpeedName
    steps: int
    computed: int
    is_float32: bool = False


@dataclass(frozen=True, slots=True)
class Turns:
    """One side's pictures, (n, 256, 256, 3), and the seconds that each took."""

    pictures: Pixels
    seconds: list[float]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", type=int, default=200, help="of each side in each case")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1, help="torch threads")
    parser.add_argument("--results", type=Path, default=RESULTS, help="where the figures are written")
    chosen = parser.parse_args()
    os.environ["OMP_WAIT_POLICY"] = "PASSIVE"  # as in a worker; it must be said before torch is imported
    keep_freed_memory()
    machine = this_machine()
    from training.evaluate import held_out_prompts, held_out_scenes

    scenes = held_out_scenes(chosen.pictures)
    prompts = held_out_prompts(scenes)
    turns = {case: draw(case, sides_of(case), prompts, chosen.threads) for case in CASES}
    Result("speeds", figures(turns, scenes), notes(chosen), machine).show_and_write(chosen.results)


def figures(turns: Mapping[Case, Mapping[Side, Turns]], scenes: "list[Scene]") -> list[dict[str, Any]]:
    from training.evaluate import shares_by
    from training.judge import verdicts

    # All at once: most of the judge's work is the same for any number of pictures.
    judged = iter(verdicts(np.concatenate([each.pictures for sides in turns.values() for each in sides.values()])))
    rows = []
    for case, sides in turns.items():
        exact, *_ = sides.values()
        for side, drawn in sides.items():
            percent = shares_by(scenes, list(islice(judged, len(scenes))))
            seconds = statistics.median(drawn.seconds)
            rows.append(
                {
                    "model": case.model,
                    "steps": case.steps,
                    "side": side.name,
                    "computed": side.computed,
                    "s": round(seconds, 4),
                    "exact / it": round(statistics.median(exact.seconds) / seconds, 2),
                    **{f"{measure} %": _rounded(percent.get(measure)) for measure in MEASURES},
                    "PSNR dB": None if drawn is exact else _rounded(psnr(drawn.pictures, exact.pictures)),
                }
            )
    return rows


def sides_of(case: Case) -> list[Side]:
    """The speeds, exact first, and what a user would do instead of those that skip steps."""
    from fluxserve.engine.skipping import computed

    sides = [
        Side(name, name, case.steps, computed=sum(computed(case.steps, speed.stride))) for name, speed in SPEEDS.items()
    ]
    skipping = [side for side in sides if side.computed < case.steps]
    return [
        *sides,
        *(replace(side, name=f"{side.name}, float32", is_float32=True) for side in skipping),
        *(Side(f"{side.computed} steps", "exact", side.computed, side.computed) for side in skipping),
    ]


def draw(case: Case, sides: Sequence[Side], prompts: Sequence[str], threads: int) -> dict[Side, Turns]:
    """What each side draws of all prompts; the one that goes first changes."""
    # Each has an engine of its own, or one side would have read a prompt already when another asks the same.
    engines = [engine_of(case, side, threads) for side in sides]
    pictures: list[list[Pixels]] = [[] for _ in sides]
    seconds: list[list[float]] = [[] for _ in sides]
    for number, prompt in enumerate(prompts):
        for turn in range(len(sides)):
            which = (number + turn) % len(sides)
            asked = Generation(
                case.model,
                TextToImage(prompt),
                SIDE,
                SIDE,
                sides[which].steps,
                MODELS[case.model].default_guidance,
                seed=number,
            )
            began = time.perf_counter()
            (drawn,) = engines[which].generate(asked, {}, lambda *_: None, lambda: False)
            pictures[which].append(drawn.pixels)
            seconds[which].append(time.perf_counter() - began)
        if (number + 1) % SHOWN_EVERY == 0:
            told = f"{case.model}, {case.steps} steps: {number + 1} of {len(prompts)} pictures"
            print(told, file=sys.stderr, flush=True)
    return {side: Turns(np.stack(drawn), taken) for side, drawn, taken in zip(sides, pictures, seconds, strict=True)}


def engine_of(case: Case, side: Side, threads: int) -> "Engine":
    """As a worker makes it, loaded, and with its first picture behind it."""
    import torch

    from fluxserve.engine.annotators import Annotators
    from fluxserve.engine.engine import Engine
    from fluxserve.engine.loras import Loras, finder
    from fluxserve.engine.needs import needs_of
    from fluxserve.engine.plan import plans
    from fluxserve.engine.sources import Sources
    from fluxserve.engine.tuning import tuned
    from fluxserve.engine.weights import Loader

    torch.set_num_threads(threads)
    rows, sources, device, speed = FAMILIES["mini"], Sources(mini_folder()), torch.device("cpu"), SPEEDS[side.speed]
    told = replace(this_cpu(), has_bfloat16=False) if side.is_float32 else this_cpu()
    tuning = tuned(device, speed, "auto", "auto")
    loader = Loader(rows, sources, device, plans(needs_of(rows, sources), told, speed), tuning)
    loras = Loras(finder(LORA_FILES["mini"], sources, None))
    engine = Engine(loader, loras, Annotators(ANNOTATORS["mini"], sources, device), safety=None)
    if first := least_picture((MODELS[case.model].member,), SHORTEST_SIDE):
        engine.generate(first, {}, lambda *_: None, lambda: False)
    return engine


@functools.cache
def this_cpu() -> Device:
    from fluxserve.engine.devices import find

    return next(device for device in find() if device.name == "cpu")


def psnr(pictures: Pixels, wanted: Pixels) -> float:
    """The median over the pictures, in decibels; infinite where most are the same."""
    errors = np.square(pictures.astype(np.float32) - wanted).mean((1, 2, 3))
    with np.errstate(divide="ignore"):
        return float(np.median(10 * np.log10(255**2 / errors)))


def notes(chosen: argparse.Namespace) -> list[str]:
    from fluxserve.engine.skipping import FEWEST, computed

    steps = CASES[0].steps
    counts = ", ".join(f"{name} {sum(computed(steps, speed.stride))}" for name, speed in SPEEDS.items())
    return [
        f"{chosen.pictures} pictures of {SIDE}x{SIDE} for each row; {chosen.threads} torch threads; seconds are "
        "medians, from the wish to the pixels.",
        "Exact computes in float32. This CPU has bfloat16, and fast and fastest compute in it: schnell's rows, where "
        "no step is skipped, show what that alone does, and those in float32 what skipping alone does."
        if this_cpu().has_bfloat16
        else "All speeds compute in float32, for this CPU has no bfloat16.",
        f"Of {steps} steps are computed: {counts}. Schedules of fewer than {FEWEST} are computed whole.",
        "The judge's columns are percent of the pictures in which this is right, of the colour those that have one; "
        f"one picture is {100 / chosen.pictures:.3g} %. PSNR is the median against exact's picture of the same scene.",
        "The small family's world is easy: flat things on plain backgrounds, one to a picture. A loss that shows here "
        "is to be expected of FLUX.1 too; that little is lost here does not say that little is lost there.",
        "FLUX.1's own loss is reported by others: cache-dit's docs (bench/README.md) have a table for FLUX.1-dev with "
        "50 steps and several ways to skip. By ImageReward about twice as fast is nearly free (1.01 to 1.04, all steps "
        "have 1.04), three to four times is good (0.97 to 1.02, all steps have 0.99 to 1.04), and over five times can "
        "be seen (0.72 to 0.99, most below 0.92). Just fewer steps have 0.97 with 60 % of them, 0.95 with 34 %, 0.82 "
        "with 22 %.",
    ]


def _rounded(value: float | None) -> float | None:
    return None if value is None or math.isinf(value) else round(value, 1)


if __name__ == "__main__":
    main()

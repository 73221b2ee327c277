"""From starting a process to its first picture: a worker, with and without compiled networks, and a plain script.

    python -m benchmarks.start [--rounds 3] [--kinds plain,worker,cold,warm] [--threads 2]

Every turn is a process of its own, from its start to a first picture of 256x256, of the same prompt and seed on all
sides, which take turns; all pictures are compared. A worker is spoken to over its pipe, as a server speaks to it.

    plain    a script that imports diffusers, loads FluxPipeline over the same weights, draws, and saves a PNG
    worker   a worker as it is on CPUs, not compiled
    cold     a worker that compiles, with an empty folder for what it compiles
    warm     the same with the folder that the cold one left
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import IO, Any, TypeVar

import numpy as np
from PIL import Image

from benchmarks.plain_start import DRAWN, LOADED, PROMPT, SEED
from benchmarks.results import RESULTS, Result, this_machine
from fluxserve.domain.catalog import MODELS
from fluxserve.domain.generation import Generation, TextToImage
from fluxserve.domain.job import LENGTH, Done, Failed, Job, Message, Ready, dump, load
from fluxserve.executors.workers import ENGINE, mini_folder

NAMES = ("flux1-schnell", "flux1-dev")
KINDS = ("plain", "worker", "cold", "warm")
SIDE = 256
MOST_DIFFERENCE = 2  # of 255: what two orders of rounding may make

Wanted = TypeVar("Wanted", Ready, Done)


@dataclass(frozen=True, slots=True)
class Turn:
    """Seconds from the process's start until it can draw, from then to its first picture, and the picture."""

    ready_seconds: float
    picture_seconds: float
    picture: bytes


Turns = dict[tuple[str, str], list[Turn]]
"""Those of each model and kind."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3, help="turns of each kind with each model")
    parser.add_argument("--kinds", type=_kinds, default=KINDS, help="by commas; warm goes with cold")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1, help="torch threads on each side")
    parser.add_argument("--results", type=Path, default=RESULTS, help="where the figures are written")
    chosen = parser.parse_args()
    os.environ |= {"OMP_WAIT_POLICY": "PASSIVE", "HF_HUB_OFFLINE": "1"}  # for both sides, which inherit it
    os.environ.pop("TORCHINDUCTOR_CACHE_DIR", None)  # a worker would take it before its own folder
    machine = this_machine()
    turns: Turns = {(name, kind): [] for name in NAMES for kind in chosen.kinds}
    with tempfile.TemporaryDirectory(prefix="benchmark-") as folder:
        for number in range(chosen.rounds):
            for name in NAMES:
                measure(turns, name, chosen.kinds, chosen.threads, Path(folder) / f"{name}-{number}")
    difference = max(most_difference([turn for kind in chosen.kinds for turn in turns[name, kind]]) for name in NAMES)
    if difference > MOST_DIFFERENCE:
        sys.exit(f"pictures differ by {difference} of 255: the figures compare nothing")
    Result("start", figures(turns, chosen.kinds), notes(chosen, difference), machine).show_and_write(chosen.results)


def measure(turns: Turns, name: str, kinds: Sequence[str], threads: int, folder: Path) -> None:
    """A turn of each kind. Files that no turn has read before are read by one that is not counted."""
    folder.mkdir()
    if not turns[name, kinds[0]]:
        start_plainly(name, threads, folder)
    for kind in kinds:
        if kind == "plain":
            turn = start_plainly(name, threads, folder)
        else:
            turn = start_worker(name, threads, None if kind == "worker" else folder / "compiled")
        told = f"{name}, {kind}: ready after {turn.ready_seconds:.2f} s, a picture {turn.picture_seconds:.2f} s later"
        print(told, file=sys.stderr, flush=True)
        turns[name, kind].append(turn)


def figures(turns: Turns, kinds: Sequence[str]) -> list[dict[str, Any]]:
    rows = []
    for name in NAMES:
        whole = {
            kind: statistics.median(turn.ready_seconds + turn.picture_seconds for turn in turns[name, kind])
            for kind in kinds
        }
        for kind in kinds:
            rows.append(
                {
                    "model": name,
                    "side": kind,
                    "ready s": round(statistics.median(turn.ready_seconds for turn in turns[name, kind]), 3),
                    "first picture s": round(statistics.median(turn.picture_seconds for turn in turns[name, kind]), 3),
                    "both s": round(whole[kind], 3),
                    "it / plain": round(whole[kind] / whole["plain"], 2) if "plain" in whole else None,
                }
            )
    return rows


def notes(chosen: argparse.Namespace, difference: int) -> list[str]:
    steps = ", ".join(f"{name} with {MODELS[name].default_steps} steps" for name in NAMES)
    return [
        f"Medians of {chosen.rounds} turns of each kind, each a process of its own; {steps}; {chosen.threads} torch "
        "threads. A turn before them is not counted: it reads the files, so that the disk is in nobody's figures.",
        "A worker is ready when it has loaded both models and drawn a picture that nobody asked for, so that a "
        "caller's is not the slow first one. The plain script is ready when the one model it draws with is loaded.",
        "Each cold turn has a folder of its own for compiled networks, and the warm one after it finds it there.",
        f"All pictures of a model are the same: they differ by {difference} of 255 at most.",
    ]


def most_difference(turns: Sequence[Turn]) -> int:
    first, *others = (np.asarray(Image.open(BytesIO(turn.picture)), np.int16) for turn in turns)
    return max((int(np.abs(first - other).max()) for other in others), default=0)


# ---------------------------------------------------------------- the two sides


def start_plainly(name: str, threads: int, folder: Path) -> Turn:
    model, picture = MODELS[name], folder / "plain.png"
    asked = (model.member, str(model.default_steps), str(model.default_guidance or 0.0))
    command = (sys.executable, "-m", "benchmarks.plain_start", *asked)
    began = time.perf_counter()
    with subprocess.Popen(
        [*command, "--threads", str(threads), "--picture", str(picture)], stdout=subprocess.PIPE, text=True
    ) as script:
        assert script.stdout is not None
        moments = [time.perf_counter() for line in script.stdout if line.strip() in (LOADED, DRAWN)]
    if script.returncode != 0:
        sys.exit(f"the plain script ended with status {script.returncode}")
    ready, drawn = moments
    return Turn(ready - began, drawn - ready, picture.read_bytes())


def start_worker(name: str, threads: int, compiled: Path | None) -> Turn:
    """Compiled if there is a folder for it."""
    members = sorted(MODELS[each].member for each in NAMES)
    command = [
        sys.executable, "-m", ENGINE,
        "--family", "mini",
        "--mini-folder", str(mini_folder()),
        "--device", "cpu",
        "--threads", str(threads),
        "--members", ",".join(members),
        *(("--compilation", "on", "--compiled-folder", str(compiled)) if compiled else ("--compilation", "off")),
    ]  # fmt: skip
    model = MODELS[name]
    asked = Generation(name, TextToImage(PROMPT), SIDE, SIDE, model.default_steps, model.default_guidance, SEED)
    began = time.perf_counter()
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as worker:
        assert worker.stdin is not None
        assert worker.stdout is not None
        wait_for(Ready, worker.stdout)
        ready = time.perf_counter()
        worker.stdin.write(dump(Job("first", asked)))
        worker.stdin.flush()
        done = wait_for(Done, worker.stdout)
        drawn = time.perf_counter()
        worker.stdin.close()  # it ends when this does
    return Turn(ready - began, drawn - ready, done.pictures[0].data)


def wait_for(wanted: type[Wanted], pipe: IO[bytes]) -> Wanted:
    """The next event of that kind, whatever is told before it."""
    while True:
        event = receive(pipe)
        if isinstance(event, wanted):
            return event
        if isinstance(event, Failed):
            sys.exit(f"the worker could not draw: {event.message}")


def receive(pipe: IO[bytes]) -> Message:
    start = pipe.read(LENGTH.size)
    if len(start) < LENGTH.size:
        sys.exit("the worker ended before its picture")
    return load(pipe.read(*LENGTH.unpack(start)))


def _kinds(text: str) -> tuple[str, ...]:
    """In the order in which they take their turns."""
    named = text.split(",")
    if unknown := set(named) - set(KINDS):
        raise argparse.ArgumentTypeError(f"no kind is called {', '.join(unknown)}; there are {', '.join(KINDS)}")
    if "warm" in named and "cold" not in named:
        raise argparse.ArgumentTypeError("warm needs what cold leaves")
    return tuple(kind for kind in KINDS if kind in named)


if __name__ == "__main__":
    main()

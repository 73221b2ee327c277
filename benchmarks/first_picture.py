"""From asking for a picture to having it, by the server and by a plain diffusers script, alone and many at once.

    python -m benchmarks.first_picture [--alone 7] [--together 3] [--threads 2]

The same pictures (model, prompts, seeds, steps, sizes) in the same run on both sides, which take turns; while one works
the other is idle, and each has its warm process with as many torch threads. Both draw at 256x256, as these models do,
and resample to the asked size.

    ours    POST /api/v1/task to a server process, GET the task again and again until it is completed, GET the
            picture. Many at once: all are posted at once, and the time ends when the last picture is here.
    plain   FluxPipeline, Pillow's LANCZOS, Pillow's PNG, a file. Many at once: one after another.

No prompt comes twice, so what the server remembers of earlier ones helps it nothing. All pictures are compared: a
benchmark of two different things would be none.
"""

import argparse
import asyncio
import json
import multiprocessing
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from io import BytesIO
from itertools import count, islice
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
from PIL import Image

from benchmarks import plain
from benchmarks.connection import Connection
from benchmarks.plain import Wanted
from benchmarks.results import RESULTS, Result, this_machine
from fluxserve.domain.catalog import MODELS
from fluxserve.executors.workers import mini_folder
from tests.end_to_end.serving import KEY, body, running

TASKS = "/api/v1/task"
STEPS = MODELS["flux1-schnell"].default_steps
SIDES = (256, 1024)
MOST_DIFFERENCE = 2  # of 255: what two orders of rounding may make
TARGET_ALONE, TARGET_TOGETHER = 1.1, 1.0  # ours / plain
# Seconds between two looks at a task. Each look takes the drawing some CPU, so that more often is later.
POLL_ALONE, POLL_TOGETHER = 0.02, 0.1
IDLE_SECONDS = 0.2  # between the turns, for what the one before left to do


@dataclass(frozen=True, slots=True)
class Turn:
    """One side's work on one set of pictures. `inner_seconds`: the plain side's in the pipeline, ours in processing."""

    seconds: float
    inner_seconds: float
    pictures: list[bytes]


@dataclass(frozen=True, slots=True)
class Case:
    """One row of the table: so many times, `at_once` pictures of `side` pixels a side."""

    side: int
    at_once: int
    repetitions: int


Draw = Callable[[Sequence[Wanted]], Turn]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--alone", type=int, default=7, help="repetitions for a picture alone")
    parser.add_argument("--together", type=int, default=3, help="repetitions for many at once")
    parser.add_argument("--pictures", type=int, default=16, help="how many are many")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1, help="torch threads on each side")
    parser.add_argument("--results", type=Path, default=RESULTS, help="where the figures are written")
    chosen = parser.parse_args()
    os.environ["OMP_WAIT_POLICY"] = "PASSIVE"  # for both sides, which inherit it: threads that spin disturb the other
    machine = this_machine()
    cases = [Case(side, 1, chosen.alone) for side in SIDES]
    cases += [Case(side, chosen.pictures, chosen.together) for side in SIDES]
    with (
        tempfile.TemporaryDirectory(prefix="benchmark-") as folder,
        ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as script,
        running(Path(folder) / "server", FLUXSERVE_THREADS=str(chosen.threads), FLUXSERVE_DEVICES="cpu") as server,
    ):
        ours = partial(draw_ours, server.url)
        plainly = partial(draw_plainly, script, chosen.threads, Path(folder))
        seeds = count(1)
        for side in SIDES:
            measure(Case(side, 2, 1), ours, plainly, seeds)  # both warm up
        measured = [measure(case, ours, plainly, seeds) for case in cases]
    difference = max(most_difference(pair) for turns in measured for pair in turns)
    if difference > MOST_DIFFERENCE:
        sys.exit(f"the two sides' pictures differ by {difference} of 255: the figures compare nothing")
    figures = [figure(case, turns) for case, turns in zip(cases, measured, strict=True)]
    Result("first_picture", figures, notes(chosen, difference), machine).show_and_write(chosen.results)


def measure(case: Case, ours: Draw, plainly: Draw, seeds: Iterator[int]) -> list[tuple[Turn, Turn]]:
    """(ours, plain) of each repetition; the one that goes first changes."""
    pairs = []
    for repetition in range(case.repetitions):
        wanted = [
            Wanted(f"picture {seed}, a little red circle", seed, case.side, STEPS)
            for seed in islice(seeds, case.at_once)
        ]
        turns = {}
        for draw in (ours, plainly) if repetition % 2 else (plainly, ours):
            time.sleep(IDLE_SECONDS)
            turns[draw] = draw(wanted)
        pairs.append((turns[ours], turns[plainly]))
    return pairs


def figure(case: Case, turns: list[tuple[Turn, Turn]]) -> dict[str, Any]:
    ours, plainly = (statistics.median(turn.seconds for turn in side) for side in zip(*turns, strict=True))
    in_pipeline = statistics.median(plain.inner_seconds for _, plain in turns)
    in_processing = statistics.median(ours.inner_seconds for ours, _ in turns)
    return {
        "side": case.side,
        "at once": case.at_once,
        "ours s": round(ours, 4),
        "plain s": round(plainly, 4),
        "ours / plain": round(ours / plainly, 3),
        "target": TARGET_ALONE if case.at_once == 1 else TARGET_TOGETHER,
        "ours pictures/s": round(case.at_once / ours, 2),
        "plain pictures/s": round(case.at_once / plainly, 2),
        "ours outside pipeline": round(1 - in_pipeline / ours, 3),
        "ours outside processing s": round(ours - in_processing, 4) if case.at_once == 1 else None,
    }


def notes(chosen: argparse.Namespace, difference: int) -> list[str]:
    return [
        f"Medians of {chosen.alone} repetitions alone and {chosen.together} together; {STEPS} steps; on each side "
        f"{chosen.threads} torch threads, OMP_WAIT_POLICY=PASSIVE; a look at the task every {1000 * POLL_ALONE:g} ms, "
        f"every {1000 * POLL_TOGETHER:g} ms with many at once.",
        f"The pictures of both sides are the same: as finished PNGs they differ by {difference} of 255 at most.",
        "Outside pipeline: the share of our time beyond the bare calls of diffusers' pipeline, as the plain side "
        "takes for the same pictures. Below 0, our whole way is shorter than those calls.",
        "Outside processing: our time less that between the task's started_at and ended_at: HTTP, the queue, polling, "
        "fetching.",
    ]


def most_difference(turns: tuple[Turn, Turn]) -> int:
    ours, plainly = ([np.asarray(Image.open(BytesIO(data)), np.int16) for data in turn.pictures] for turn in turns)
    return max(int(np.abs(one - other).max()) for one, other in zip(ours, plainly, strict=True))


# ---------------------------------------------------------------- the two sides


def draw_plainly(script: ProcessPoolExecutor, threads: int, folder: Path, wanted: Sequence[Wanted]) -> Turn:
    drawn = script.submit(plain.draw, mini_folder(), threads, folder, wanted).result()
    return Turn(
        sum(each.seconds for each in drawn),
        sum(each.pipeline_seconds for each in drawn),
        [each.file.read_bytes() for each in drawn],
    )


def draw_ours(url: str, wanted: Sequence[Wanted]) -> Turn:
    return asyncio.run(_draw_ours(url, POLL_ALONE if len(wanted) == 1 else POLL_TOGETHER, wanted))


async def _draw_ours(url: str, pause: float, wanted: Sequence[Wanted]) -> Turn:
    bodies = [
        json.dumps(body(each.prompt, seed=each.seed, width=each.side, height=each.side, steps=each.steps)).encode()
        for each in wanted
    ]
    connections = [await Connection.open(url) for _ in wanted]
    began = time.perf_counter()
    answers = await asyncio.gather(
        *(_task(connection, "POST", TASKS, body) for connection, body in zip(connections, bodies, strict=True))
    )
    pictures, processing = [], 0.0
    # They are drawn in about this order, so that only one at a time need be asked after; and by one connection, for
    # the server closes those that are idle.
    connection = connections[0]
    for task in answers:
        while task["status"] not in ("completed", "failed"):
            await asyncio.sleep(pause)
            task = await _task(connection, "GET", f"{TASKS}/{task['task_id']}")
        if task["status"] == "failed":
            raise RuntimeError(task["error"])
        processing += (_moment(task["meta"]["ended_at"]) - _moment(task["meta"]["started_at"])).total_seconds()
        pictures.append((await connection.request("GET", urlsplit(task["output"]["image_url"]).path, KEY))[1])
    seconds = time.perf_counter() - began
    for each in connections:
        each.close()
    return Turn(seconds, processing, pictures)


async def _task(connection: Connection, method: str, path: str, body: bytes = b"") -> dict[str, Any]:
    status, answer = await connection.request(method, path, KEY, body)
    if status != 200:
        raise RuntimeError(f"{path} answered {status}: {answer.decode(errors='replace')}")
    data: dict[str, Any] = json.loads(answer)["data"]
    return data


def _moment(text: str) -> datetime:
    return datetime.fromisoformat(text)


if __name__ == "__main__":
    main()

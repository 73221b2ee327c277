"""Rounds of `kill -9` under writers, and what the database says afterwards.

    python -m tests.end_to_end.kill_rounds --rounds 50 --seed 1 --json kills.json

Each round kills the server or its worker at a random moment: while pictures are drawn, or while the victim is still
starting. Eight writers submit throughout, hurrying just before a kill so that submits are in flight when it strikes;
they note every task id that was answered. When the queue is full they cancel one of their own, so that submits go on
however slowly pictures are drawn. A server that was killed is started again on the same folder. In the end everything
is left to finish, and the database is held against what the writers were told.
"""

import argparse
import io
import json
import random
import signal
import sqlite3
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import asdict, dataclass, field
from os import kill
from pathlib import Path
from typing import Literal

import httpx2 as httpx
from PIL import Image

from fluxserve.tasks import open_engine
from fluxserve.tasks.audit import audit
from tests.end_to_end.serving import Server, body, free_port, still_running, until

WRITERS = 8
ORPHAN_SECONDS = 10.0
FINISH_SECONDS = 180.0
HURRY_SECONDS = 0.1  # before a kill


@dataclass(frozen=True)
class Blow:
    """One kill, `after` seconds from the moment the server can draw; or from its start, to strike while it starts."""

    victim: Literal["server", "worker"]
    while_starting: bool
    after: float


@dataclass
class Report:
    """The figures of a run; everything under `faults` should be empty."""

    rounds: int
    seed: int
    server_kills: int = 0
    worker_kills: int = 0
    kills_while_starting: int = 0
    accepted: int = 0  # tasks whose submit was answered 2xx
    unanswered: int = 0  # submits that a kill cut off
    refused: int = 0  # 429: the queue was full
    tasks: int = 0  # in the database at the end
    completed: int = 0
    cancelled: int = 0  # by its writer
    abandoned: int = 0  # failed after three losses
    pictures: int = 0  # fetched and decoded
    recovery_seconds: list[float] = field(default_factory=list)  # from a kill to the next finished task
    orphan_seconds: list[float] = field(default_factory=list)  # from a server's kill to its last worker's end
    seconds: float = 0.0
    lost: list[str] = field(default_factory=list)  # accepted, and not in the database
    doubled: list[str] = field(default_factory=list)  # not exactly one hold and one end of it
    faults: list[str] = field(default_factory=list)  # anything else that is not as promised

    def __str__(self) -> str:
        return "\n".join(
            (
                f"seed {self.seed}: {self.rounds} kills in {self.seconds:.0f} s, {self.server_kills} of the server and "
                f"{self.worker_kills} of its worker, {self.kills_while_starting} of them while starting",
                f"accepted {self.accepted}, unanswered {self.unanswered}, refused for a full queue {self.refused}",
                f"in the database {self.tasks}: completed {self.completed}, cancelled {self.cancelled}, "
                f"abandoned {self.abandoned}",
                f"pictures fetched {self.pictures}",
                f"lost {len(self.lost)}, doubled {len(self.doubled)}, other faults {len(self.faults)}",
                f"kill to next finished task: {_spread(self.recovery_seconds)}",
                f"server's kill to its workers' end: {_spread(self.orphan_seconds)}",
                *self.faults,
            )
        )


def run(folder: Path, rounds: int, seed: int) -> Report:
    began = time.monotonic()
    report = Report(rounds, seed)
    chance = random.Random(seed)
    server = Server(
        folder / "data",
        free_port(),
        FLUXSERVE_MOST_STAGED="16",
        FLUXSERVE_THREADS="1",
        FLUXSERVE_REQUESTS_PER_MINUTE="0",
    )
    server.start()
    try:
        server.wait_until("/healthz")
        with _writing(server, seed) as writers:
            kills = [_strike(server, _next_blow(chance), report, writers.hurry) for _ in range(rounds)]
            server.wait_until("/healthz")
        _sum_up(writers, report)
        _wait_until_finished(server)
        _fetch_pictures(server, writers.accepted, report)
        if status := server.stop():
            report.faults.append(f"the last stop ended with status {status}")
        _examine(folder / "data" / "fluxserve.sqlite", writers, kills, report)
    except BaseException:
        print(f"seed {seed}; the end of the server's log:", server.log.read_text()[-20_000:], file=sys.stderr)
        raise
    finally:
        if server.process is not None and server.process.poll() is None:
            server.kill()
    report.seconds = time.monotonic() - began
    return report


# ---------------------------------------------------------------- the blows


def _next_blow(chance: random.Random) -> Blow:
    victim: Literal["server", "worker"] = "server" if chance.random() < 0.5 else "worker"
    while_starting = chance.random() < 0.25
    return Blow(victim, while_starting, chance.uniform(0.0, 3.0 if while_starting else 2.0))


def _strike(server: Server, blow: Blow, report: Report, hurry: threading.Event) -> float:
    """Carry out one blow and start what must be started again. Returns the moment of the kill, by the wall clock."""
    if not blow.while_starting:
        server.wait_until("/healthz")
    until(server.worker_pids, 60, "a worker was started")
    time.sleep(max(0.0, blow.after - HURRY_SECONDS))  # the moment is meant to be random
    hurry.set()
    time.sleep(min(blow.after, HURRY_SECONDS))
    report.kills_while_starting += blow.while_starting
    workers = server.worker_pids()
    at = time.time()
    if blow.victim == "server":
        report.server_kills += 1
        server.kill()
        hurry.clear()
        report.orphan_seconds.append(until(lambda: not server.worker_pids(), ORPHAN_SECONDS, "the orphans ended"))
        server.start()
    else:
        report.worker_kills += 1
        for pid in workers:
            with suppress(ProcessLookupError):
                kill(pid, signal.SIGKILL)
        hurry.clear()
        until(lambda: not still_running(workers), ORPHAN_SECONDS, "the killed worker ended")
    return at


# ---------------------------------------------------------------- the writers


@dataclass
class Writers:
    """What the writers were told."""

    hurry: threading.Event = field(default_factory=threading.Event)
    end: threading.Event = field(default_factory=threading.Event)
    accepted: list[str] = field(default_factory=list)
    unanswered: list[str] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)
    cancelled: set[str] = field(default_factory=set)  # or at least asked to be
    surprises: list[str] = field(default_factory=list)

    def write(self, server: Server, name: str, chance: random.Random) -> None:
        """Submit until the end; when a server is gone, try again soon; when its queue is full, make room."""
        mine: list[str] = []
        number = 0
        with server.client() as client:
            while not self.end.is_set():
                number += 1
                pause = chance.uniform(0.0, 0.3)
                try:
                    answer = client.post("/api/v1/task", json=body(f"circle {number} of writer {name}", steps=1))
                    if answer.status_code == 200:
                        mine.append(answer.json()["data"]["task_id"])
                        self.accepted.append(mine[-1])
                    elif answer.status_code == 429:
                        self.refused.append(name)
                        self._cancel_one(client, mine)
                    else:
                        self.surprises.append(f"a submit was answered {answer.status_code}: {answer.text}")
                except httpx.TransportError:
                    self.unanswered.append(name)
                    pause = 0.05
                if not self.hurry.is_set():
                    self.end.wait(pause)

    def _cancel_one(self, client: httpx.Client, mine: list[str]) -> None:
        """The newest, for the oldest are being drawn."""
        if mine:
            self.cancelled.add(mine[-1])
            answer = client.delete(f"/api/v1/task/{mine.pop()}")
            if answer.status_code not in (200, 400):  # 400: it was finished meanwhile
                self.surprises.append(f"a cancel was answered {answer.status_code}: {answer.text}")


@contextmanager
def _writing(server: Server, seed: int) -> Iterator[Writers]:
    writers = Writers()
    threads = [
        threading.Thread(target=writers.write, args=(server, str(number), random.Random(f"{seed} {number}")))
        for number in range(WRITERS)
    ]
    for thread in threads:
        thread.start()
    try:
        yield writers
    finally:
        writers.end.set()
        for thread in threads:
            thread.join()


# ---------------------------------------------------------------- the reckoning


def _sum_up(writers: Writers, report: Report) -> None:
    report.accepted = len(writers.accepted)
    report.unanswered = len(writers.unanswered)
    report.refused = len(writers.refused)
    report.faults += writers.surprises


def _wait_until_finished(server: Server) -> None:
    """Tasks whose submit was cut off are waited for too: nobody knows their ids but the database."""
    with closing(sqlite3.connect(server.data_dir / "fluxserve.sqlite")) as database:

        def none_is_open() -> bool:
            (still_open,) = database.execute(
                "SELECT COUNT(*) FROM tasks WHERE state NOT IN ('completed', 'failed')"
            ).fetchone()
            return not still_open

        until(none_is_open, FINISH_SECONDS, "every task was finished")


def _fetch_pictures(server: Server, accepted: list[str], report: Report) -> None:
    """Of the tasks that were accepted, and of those that were completed though their submit was cut off."""
    completed = [task_id for (task_id,) in server.rows("SELECT id FROM tasks WHERE state = 'completed'")]
    with server.client() as client:
        for task_id in dict.fromkeys([*accepted, *completed]):
            answer = client.get(f"/api/v1/task/{task_id}")
            if answer.status_code != 200:
                report.faults.append(f"task {task_id}: {answer.status_code} {answer.text}")
                continue
            task = answer.json()["data"]
            if task["status"] != "completed":
                continue
            picture = client.get(task["output"]["image_url"])
            if picture.status_code != 200:
                report.faults.append(f"task {task_id}: its picture is answered {picture.status_code}")
                continue
            with Image.open(io.BytesIO(picture.content), formats=("PNG",)) as image:
                image.load()
                if image.size != (256, 256):
                    report.faults.append(f"task {task_id}: its picture is {image.size}")
            report.pictures += 1


def _examine(path: Path, writers: Writers, kills: list[float], report: Report) -> None:
    with closing(sqlite3.connect(path)) as database:
        states = dict(database.execute("SELECT id, state FROM tasks"))
        codes = dict(database.execute("SELECT id, error_code FROM tasks WHERE state = 'failed'"))
        endings = [
            at for (at,) in database.execute("SELECT ended_at FROM tasks WHERE state = 'completed' ORDER BY ended_at")
        ]
        phases: dict[str, list[str]] = {task_id: [] for task_id in states}
        for task_id, phase in database.execute("SELECT task_id, phase FROM ledger WHERE task_id IS NOT NULL"):
            phases[task_id].append(phase)
        (integrity,) = database.execute("PRAGMA integrity_check").fetchone()

    report.tasks = len(states)
    report.completed = sum(state == "completed" for state in states.values())
    report.abandoned = sum(code == "abandoned" for code in codes.values())
    report.lost = [task_id for task_id in writers.accepted if task_id not in states]
    report.cancelled = sum(code == "cancelled" for code in codes.values())
    report.doubled = [
        task_id
        for task_id, state in states.items()
        if sorted(phases[task_id]) != ["hold", "settle" if state == "completed" else "release"]
    ]
    report.recovery_seconds = _recoveries(kills, endings)
    report.faults += [f"task {task_id} is {state}" for task_id, state in states.items() if state not in _FINAL]
    report.faults += [
        f"task {task_id} failed: {code}"
        for task_id, code in codes.items()
        if code != "abandoned" and not (code == "cancelled" and task_id in writers.cancelled)
    ]
    if integrity != "ok":
        report.faults.append(f"integrity_check: {integrity}")
    engine = open_engine(path)
    with engine.connect() as connection:
        report.faults += audit(connection)
    engine.dispose()


_FINAL = ("completed", "failed")


def _recoveries(kills: list[float], endings: list[float]) -> list[float]:
    """For each kill the time to the next finished task. When another kill came first, that one counts instead."""
    recoveries = []
    for number, at in enumerate(kills):
        ended = next((ending for ending in endings if ending > at), None)
        following = kills[number + 1] if number + 1 < len(kills) else float("inf")
        if ended is not None and ended < following:
            recoveries.append(ended - at)
    return recoveries


def _spread(seconds: list[float]) -> str:
    if not seconds:
        return "never measured"
    return f"median {statistics.median(seconds):.1f} s, at most {max(seconds):.1f} s, {len(seconds)} times"


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.end_to_end.kill_rounds", description="Kill and count.")
    parser.add_argument("--rounds", type=int, default=50)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", type=Path, help="a file for the figures")
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        report = run(Path(folder), chosen.rounds, chosen.seed)
    print(report)
    if chosen.json is not None:
        figures = asdict(report) | {
            "recovery_median": statistics.median(report.recovery_seconds) if report.recovery_seconds else None,
            "recovery_most": max(report.recovery_seconds, default=None),
        }
        chosen.json.write_text(json.dumps(figures, indent=1) + "\n")
    if report.lost or report.doubled or report.faults:
        sys.exit(1)


if __name__ == "__main__":
    main()

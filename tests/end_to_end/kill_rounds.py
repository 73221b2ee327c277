"""Rounds of `kill -9` under writers, and what the database says afterwards.

    python -m tests.end_to_end.kill_rounds --rounds 50 --seed 1 --json kills.json
    python -m tests.end_to_end.kill_rounds --rounds 30 --database postgresql
    python -m tests.end_to_end.kill_rounds --rounds 15 --database postgresql --servers 2

Each round kills a server, its worker, or PostgreSQL with all its processes, at a random moment: while pictures are
drawn, or while the victim is still starting; or it restarts PostgreSQL in immediate mode. Eight writers submit
throughout, hurrying just before a blow so that submits are in flight when it strikes; they note every task id that was
answered. A submit that was cut off, or answered with 503, they send again with the same Idempotency-Key, to another
server if there is one. When the queue is full they cancel one of their own, so that submits go on however slowly
pictures are drawn. What was killed is started again on the same folder. In the end everything is left to finish, and
the database is held against what the writers were told.
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
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import asdict, dataclass, field
from os import kill
from pathlib import Path
from typing import Any, Literal, get_args

import httpx2 as httpx
import psycopg
from PIL import Image

from fluxserve.tasks import open_postgresql, open_sqlite
from fluxserve.tasks.audit import audit
from tests.end_to_end.serving import Server, body, free_port, still_running, until
from tests.postgresql import Postgres, postgres

WRITERS = 8
ORPHAN_SECONDS = 30.0
START_SECONDS = 300.0
FINISH_SECONDS = 300.0
REFUSED_SECONDS = 0.5  # until a writer that was told to wait asks again: sooner than it was told, but not at once
HURRY_SECONDS = 0.1  # before a kill
LEASE_SECONDS = "5"  # where several servers may share a database: what a dead one held waits for it to run out

DatabaseName = Literal["sqlite", "postgresql"]
Victim = Literal["server", "worker", "database", "database restarted"]


@dataclass(frozen=True)
class Blow:
    """One kill, `after` seconds from the moment the server can draw; or from its start, to strike while it starts."""

    victim: Victim
    server: int
    while_starting: bool
    after: float


@dataclass
class Report:
    """The figures of a run; everything under `faults` should be empty."""

    rounds: int
    seed: int
    database: DatabaseName = "sqlite"
    servers: int = 1
    kills: dict[str, int] = field(default_factory=lambda: dict.fromkeys(get_args(Victim), 0))
    kills_while_starting: int = 0
    accepted: int = 0  # tasks whose submit was answered 2xx
    unanswered: int = 0  # submits that a kill cut off
    told_to_wait: int = 0  # 503: the database was gone
    refused: int = 0  # 429: the queue was full
    tasks: int = 0  # in the database at the end
    completed: int = 0
    cancelled: int = 0  # by its writer
    abandoned: int = 0  # failed after three losses
    pictures: int = 0  # fetched and decoded
    recovery_seconds: list[float] = field(default_factory=list)  # from a kill to the next finished task
    database_seconds: list[float] = field(default_factory=list)  # from PostgreSQL's start until it answered
    serving_seconds: list[float] = field(default_factory=list)  # from then to the next accepted submit
    orphan_seconds: list[float] = field(default_factory=list)  # from a server's kill to its last worker's end
    seconds: float = 0.0
    lost: list[str] = field(default_factory=list)  # accepted, and not in the database
    doubled: list[str] = field(default_factory=list)  # not one hold and one end of it; or one request, several tasks
    faults: list[str] = field(default_factory=list)  # anything else that is not as promised

    def __str__(self) -> str:
        kills = ", ".join(f"{victim} {count}" for victim, count in self.kills.items() if count)
        return "\n".join(
            (
                f"{self.database}, servers {self.servers}, seed {self.seed}: {self.rounds} blows in "
                f"{self.seconds:.0f} s ({kills}), {self.kills_while_starting} of them while starting",
                f"accepted {self.accepted}, unanswered {self.unanswered}, told to wait {self.told_to_wait}, "
                f"refused for a full queue {self.refused}",
                f"in the database {self.tasks}: completed {self.completed}, cancelled {self.cancelled}, "
                f"abandoned {self.abandoned}",
                f"pictures fetched {self.pictures}",
                f"lost {len(self.lost)}, doubled {len(self.doubled)}, other faults {len(self.faults)}",
                f"kill to next finished task: {_spread(self.recovery_seconds)}",
                *(
                    (
                        f"PostgreSQL's start to its first answer: {_spread(self.database_seconds)}",
                        f"from then to the next accepted task: {_spread(self.serving_seconds)}",
                    )
                    if self.database_seconds
                    else ()
                ),
                f"server's kill to its workers' end: {_spread(self.orphan_seconds)}",
                *self.faults,
            )
        )


@dataclass
class House:
    """What is struck: servers that share a database, and PostgreSQL if it is one. `rows` asks it."""

    servers: list[Server]
    postgresql: Postgres | None
    address: str

    def rows(self, query: str) -> list[Any]:
        if self.postgresql is None:
            return self.servers[0].rows(query)
        with psycopg.connect(self.address) as connection:
            return connection.execute(query.encode()).fetchall()

    def findings(self) -> list[str]:
        """What the audit finds, and SQLite's own check."""
        if self.postgresql is None:
            path = self.servers[0].data_dir / "fluxserve.sqlite"
            engine = open_sqlite(path)
            with closing(sqlite3.connect(path)) as database:
                (integrity,) = database.execute("PRAGMA integrity_check").fetchone()
        else:
            engine, integrity = open_postgresql(self.address), "ok"
        with engine.connect() as connection:
            findings = audit(connection)
        engine.dispose()
        return findings if integrity == "ok" else [*findings, f"integrity_check: {integrity}"]

    def all_can_draw(self) -> None:
        for server in self.servers:
            server.wait_until("/healthz", START_SECONDS)


@contextmanager
def _house(folder: Path, database: DatabaseName, servers: int) -> Iterator[House]:
    usual = {"FLUXSERVE_MOST_STAGED": "16", "FLUXSERVE_THREADS": "1", "FLUXSERVE_REQUESTS_PER_MINUTE": "0"}
    with ExitStack() as stack:
        server_of_all = stack.enter_context(postgres()) if database == "postgresql" else None
        address = "" if server_of_all is None else server_of_all.fresh(template="template1")
        if server_of_all is not None:
            usual |= {
                "FLUXSERVE_DATABASE_URL": address,
                "FLUXSERVE_PICTURES_FOLDER": str(folder / "pictures"),
                "FLUXSERVE_LEASE_SECONDS": LEASE_SECONDS,
            }
        house = House(
            [Server(folder / f"data-{number}", free_port(), **usual) for number in range(servers)],
            server_of_all,
            address,
        )
        try:
            for server in house.servers:
                server.start()
            yield house
        except BaseException:
            for server in house.servers:
                print("the end of a server's log:", server.log.read_text()[-20_000:], file=sys.stderr)
            raise
        finally:
            for server in house.servers:
                if server.process is not None and server.process.poll() is None:
                    server.kill()


def run(folder: Path, rounds: int, seed: int, database: DatabaseName = "sqlite", servers: int = 1) -> Report:
    began = time.monotonic()
    report = Report(rounds, seed, database, servers)
    chance = random.Random(seed)
    with _house(folder, database, servers) as house:
        house.all_can_draw()
        with _writing(house, seed) as writers:
            kills = [_strike(house, _next_blow(chance, house), report, writers) for _ in range(rounds)]
            house.all_can_draw()
        _sum_up(writers, report)
        _wait_until_finished(house)
        _fetch_pictures(house, writers.accepted, report)
        for server in house.servers:
            if status := server.stop():
                report.faults.append(f"the last stop ended with status {status}")
        _examine(house, writers, kills, report)
    report.seconds = time.monotonic() - began
    return report


# ---------------------------------------------------------------- the blows


def _next_blow(chance: random.Random, house: House) -> Blow:
    victims: list[Victim] = ["server", "worker"]
    if len(house.servers) > 1:
        victims = ["server"]
    elif house.postgresql is not None:
        victims = list(get_args(Victim))
    victim = chance.choice(victims)
    while_starting = victim in ("server", "worker") and chance.random() < 0.25
    return Blow(
        victim, chance.randrange(len(house.servers)), while_starting, chance.uniform(0, 3 if while_starting else 2)
    )


def _strike(house: House, blow: Blow, report: Report, writers: "Writers") -> float:
    """Carry out one blow and start what must be started again. Returns the moment of the kill, by the wall clock."""
    server = house.servers[blow.server]
    if not blow.while_starting:
        house.all_can_draw()
    until(server.worker_pids, 60, "a worker was started")
    time.sleep(max(0.0, blow.after - HURRY_SECONDS))  # the moment is meant to be random
    writers.hurry.set()
    time.sleep(min(blow.after, HURRY_SECONDS))
    report.kills[blow.victim] += 1
    report.kills_while_starting += blow.while_starting
    workers = server.worker_pids()
    at = time.time()
    match blow.victim:
        case "server":
            server.kill()
            writers.hurry.clear()
            report.orphan_seconds.append(until(lambda: not server.worker_pids(), ORPHAN_SECONDS, "the orphans ended"))
            server.start()
        case "worker":
            for pid in workers:
                with suppress(ProcessLookupError):
                    kill(pid, signal.SIGKILL)
            writers.hurry.clear()
            until(lambda: not still_running(workers), ORPHAN_SECONDS, "the killed worker ended")
        case _:
            assert house.postgresql is not None
            if blow.victim == "database":
                house.postgresql.kill()
            else:
                house.postgresql.stop_at_once()
            writers.hurry.clear()
            report.database_seconds.append(house.postgresql.start_again())
            ready = time.time()
            until(lambda: writers.accepted_at > ready, 60, "a task was accepted again")
            report.serving_seconds.append(writers.accepted_at - ready)
    return at


# ---------------------------------------------------------------- the writers


@dataclass
class Writers:
    """What the writers were told."""

    hurry: threading.Event = field(default_factory=threading.Event)
    end: threading.Event = field(default_factory=threading.Event)
    accepted: list[str] = field(default_factory=list)
    accepted_at: float = 0.0  # the last one, by the wall clock
    unanswered: list[str] = field(default_factory=list)
    told_to_wait: list[str] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)
    cancelled: set[str] = field(default_factory=set)  # or at least asked to be
    surprises: list[str] = field(default_factory=list)

    def write(self, servers: list[Server], name: int, chance: random.Random) -> None:
        """Submit until the end; when a server is gone, ask again soon, or the next one; when its queue is full, make
        room."""
        mine: list[str] = []
        number, turn = 0, name
        with ExitStack() as stack:
            clients = [stack.enter_context(server.client()) for server in servers]
            while not self.end.is_set():
                pause = chance.uniform(0.0, 0.3)
                client = clients[turn % len(clients)]
                try:
                    if self._submit(client, f"circle {number} of writer {name}", mine):
                        number += 1
                    else:
                        turn, pause = turn + 1, REFUSED_SECONDS
                except httpx.TransportError:
                    self.unanswered.append(str(name))
                    turn, pause = turn + 1, 0.05
                if not self.hurry.is_set() or pause == REFUSED_SECONDS:
                    self.end.wait(pause)

    def _submit(self, client: httpx.Client, prompt: str, mine: list[str]) -> bool:
        """Whether the answer tells what became of it."""
        answer = client.post("/api/v1/task", json=body(prompt, steps=1), headers={"Idempotency-Key": prompt})
        match answer.status_code:
            case 200:
                mine.append(answer.json()["data"]["task_id"])
                self.accepted.append(mine[-1])
                self.accepted_at = time.time()
            case 429:
                self.refused.append(prompt)
                self._cancel_one(client, mine)
            case 503 if "Retry-After" in answer.headers:
                self.told_to_wait.append(prompt)
                return False
            case 409:  # its twin is still on its way
                return False
            case _:
                self.surprises.append(f"a submit was answered {answer.status_code}: {answer.text}")
        return True

    def _cancel_one(self, client: httpx.Client, mine: list[str]) -> None:
        """The newest, for the oldest are being drawn."""
        if mine:
            self.cancelled.add(mine[-1])
            answer = client.delete(f"/api/v1/task/{mine.pop()}")
            if answer.status_code not in (200, 400, 503):  # 400: it was finished meanwhile
                self.surprises.append(f"a cancel was answered {answer.status_code}: {answer.text}")


@contextmanager
def _writing(house: House, seed: int) -> Iterator[Writers]:
    writers = Writers()
    threads = [
        threading.Thread(target=writers.write, args=(house.servers, number, random.Random(f"{seed} {number}")))
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
    report.told_to_wait = len(writers.told_to_wait)
    report.refused = len(writers.refused)
    report.faults += writers.surprises


def _wait_until_finished(house: House) -> None:
    """Tasks whose submit was cut off are waited for too: nobody knows their ids but the database."""
    open_tasks = "SELECT 1 FROM tasks WHERE state NOT IN ('completed', 'failed') LIMIT 1"
    until(lambda: not house.rows(open_tasks), FINISH_SECONDS, "every task was finished")


def _fetch_pictures(house: House, accepted: list[str], report: Report) -> None:
    """Of the tasks that were accepted, and of those that were completed though their submit was cut off. Each server
    in its turn, whoever drew them."""
    completed = [task_id for (task_id,) in house.rows("SELECT id FROM tasks WHERE state = 'completed'")]
    with ExitStack() as stack:
        clients = [stack.enter_context(server.client()) for server in house.servers]
        for number, task_id in enumerate(dict.fromkeys([*accepted, *completed])):
            client = clients[number % len(clients)]
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


def _examine(house: House, writers: Writers, kills: list[float], report: Report) -> None:
    states = dict(house.rows("SELECT id, state FROM tasks"))
    codes = dict(house.rows("SELECT id, error_code FROM tasks WHERE state = 'failed'"))
    endings = [at for (at,) in house.rows("SELECT ended_at FROM tasks WHERE state = 'completed' ORDER BY ended_at")]
    requests = [json.loads(request)["input"]["prompt"] for (request,) in house.rows("SELECT request FROM tasks")]
    phases: dict[str, list[str]] = {task_id: [] for task_id in states}
    for task_id, phase in house.rows("SELECT task_id, phase FROM ledger WHERE task_id IS NOT NULL"):
        phases[task_id].append(phase)

    report.tasks = len(states)
    report.completed = sum(state == "completed" for state in states.values())
    report.abandoned = sum(code == "abandoned" for code in codes.values())
    report.lost = [task_id for task_id in writers.accepted if task_id not in states]
    report.cancelled = sum(code == "cancelled" for code in codes.values())
    report.doubled = [
        task_id
        for task_id, state in states.items()
        if sorted(phases[task_id]) != ["hold", "settle" if state == "completed" else "release"]
    ] + [prompt for prompt, count in Counter(requests).items() if count > 1]
    report.recovery_seconds = _recoveries(kills, endings)
    report.faults += [f"task {task_id} is {state}" for task_id, state in states.items() if state not in _FINAL]
    report.faults += [
        f"task {task_id} failed: {code}"
        for task_id, code in codes.items()
        if code != "abandoned" and not (code == "cancelled" and task_id in writers.cancelled)
    ]
    report.faults += house.findings()


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
    parser.add_argument("--database", choices=get_args(DatabaseName), default="sqlite")
    parser.add_argument("--servers", type=int, default=1, help="several share one PostgreSQL")
    parser.add_argument("--json", type=Path, help="a file for the figures")
    chosen = parser.parse_args()
    if chosen.servers > 1 and chosen.database == "sqlite":
        parser.error("--servers: several need --database postgresql")
    with tempfile.TemporaryDirectory() as folder:
        report = run(Path(folder), chosen.rounds, chosen.seed, chosen.database, chosen.servers)
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

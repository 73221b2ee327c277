"""How many tasks a second the server accepts, each durable before it is answered, and how long a caller waits for that.

    python -m benchmarks.accept [--seconds 2] [--rounds 3]

Three things on the same disk, taking turns in several rounds:

    commits   SQLite alone, one row a commit (WAL, synchronous=FULL): what the disk gives without sharing
    queue     `Queue.submit`, by callers in this process: shared commits, no HTTP
    HTTP      POST /api/v1/task to a server process, by keep-alive clients in another process

Nothing is drawn meanwhile: the server runs whole, but its worker process is stopped (SIGSTOP), so that it takes no CPU
and the tasks stay in the queue. Every request comes from the next of many accounts, so that all stay below the default
limits and nobody's queue is longer than it can be in use. At the end the rows in the database are counted and audited.
"""

import argparse
import asyncio
import contextlib
import itertools
import json
import multiprocessing
import os
import signal
import sqlite3
import statistics
import sys
import tempfile
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, func, insert, select

from benchmarks.load import Ask, Load, keep_asking, post
from benchmarks.results import RESULTS, Result, this_machine
from fluxserve.config import AccountSettings, QueueSettings, load
from fluxserve.domain.generation import Generation, TextToImage
from fluxserve.domain.task import Submission
from fluxserve.tasks import Database, Queue, Rules, ledger, open_database, open_sqlite
from fluxserve.tasks.accounts import key_hash, key_id, new_key
from fluxserve.tasks.schema import accounts, api_keys, tasks
from tests.end_to_end.serving import Server, body, running

PATH = "/api/v1/task"
BODY = json.dumps(body("a little red circle on a big blue square", width=1024, height=1024)).encode()
GENERATION = Generation("flux1-schnell", TextToImage("a little red circle"), 1024, 1024, 4, None, seed=1)
HTTP_CALLERS = (1, 4, 16, 64)
QUEUE_CALLERS = (1, 16, 64)
CONCURRENCY = AccountSettings().first_concurrency
TASKS_OF_AN_ACCOUNT = CONCURRENCY + QueueSettings().most_staged
POINTS = TASKS_OF_AN_ACCOUNT * 1_000_000
MOST_PER_SECOND = 5000  # for which there shall be accounts enough
WARM_UP_SECONDS = 0.5
NEVER = "100000"


@dataclass(frozen=True, slots=True)
class Customer:
    account_id: str
    key: str


@dataclass(frozen=True, slots=True)
class Measure:
    """One row of the table, and how to get a figure for it."""

    what: str
    callers: int
    run: Callable[[], Load]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=2.0, help="of each measurement in each round")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--folder", type=Path, default=load().server.data_dir, help="a folder on the disk to measure")
    parser.add_argument("--results", type=Path, default=RESULTS, help="where the figures are written")
    chosen = parser.parse_args()
    machine = this_machine()
    chosen.folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="benchmark-", dir=chosen.folder) as folder:
        figures, notes = measure_all(Path(folder), chosen.seconds, chosen.rounds)
    Result("accept", figures, notes, machine).show_and_write(chosen.results)


def measure_all(folder: Path, seconds: float, rounds: int) -> tuple[list[dict[str, Any]], list[str]]:
    """The table's rows, and what must be said beside them."""
    accounts_needed = 64 + int(seconds * rounds * len(HTTP_CALLERS) * MOST_PER_SECOND / TASKS_OF_AN_ACCOUNT)
    queue_file, server_folder = folder / "queue.sqlite", folder / "server"
    server_file = load(data_dir=server_folder).database_path
    customers = open_accounts(queue_file, accounts_needed)
    keys = deque(customer.key for customer in open_accounts(server_file, accounts_needed))
    served: list[Load] = []
    with (
        closing(Database(open_sqlite(queue_file))) as database,
        running(server_folder, FLUXSERVE_SILENCE_SECONDS=NEVER, FLUXSERVE_STALL_SECONDS=NEVER) as server,
        not_drawing(server),
        # The clients' process begins anew instead of being forked: this one has threads.
        ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as clients,
    ):
        submit = submitting(Queue(database, Rules()), customers)

        def over_http(callers: int, seconds: float) -> Load:
            seen = clients.submit(post, server.url, PATH, BODY, list(keys), callers, seconds).result()
            keys.rotate(-len(seen.latencies))
            served.append(seen)
            return seen

        def directly(callers: int) -> Load:
            return asyncio.run(keep_asking([submit] * callers, seconds))

        measures = [
            Measure("commits", 1, lambda: bare_commits(folder / "commits.sqlite", seconds)),
            *(Measure("queue", callers, partial(directly, callers)) for callers in QUEUE_CALLERS),
            *(Measure("HTTP", callers, partial(over_http, callers, seconds)) for callers in HTTP_CALLERS),
        ]
        over_http(max(HTTP_CALLERS), min(seconds, WARM_UP_SECONDS))
        seen = [[measure.run() for measure in measures] for _ in range(rounds)]
        server.stop()
    return [figure(measure, loads) for measure, loads in zip(measures, zip(*seen, strict=True), strict=True)], [
        checked(server_file, sum(len(load.latencies) for load in served)),
        f"Per second: the median of {rounds} rounds of {seconds:g} s, which take turns. Percentiles: over all rounds.",
        "CPU: of the process that asks, in cores. For HTTP it is the clients'; near 1 they would be what limits.",
    ]


def figure(measure: Measure, loads: Sequence[Load]) -> dict[str, Any]:
    latencies = sorted(latency for load in loads for latency in load.latencies)
    return {
        "what": measure.what,
        "callers": measure.callers,
        "per second": round(statistics.median(load.per_second for load in loads), 1),
        "p50 ms": round(1000 * latencies[len(latencies) // 2], 2),
        "p99 ms": round(1000 * latencies[len(latencies) * 99 // 100], 2),
        "CPU": round(sum(load.cpu_seconds for load in loads) / sum(load.seconds for load in loads), 2),
    }


def checked(file: Path, acknowledged: int) -> str:
    """Every task that was acknowledged is in the database, and no other, and all invariants hold."""
    with closing(Database(open_sqlite(file))) as database:
        rows = database.submit(
            lambda connection: connection.execute(select(func.count(tasks.c.id))).scalar_one()
        ).result()
        findings = asyncio.run(Queue(database, Rules()).audit())
    if rows != acknowledged or findings:
        sys.exit(f"{acknowledged} tasks were acknowledged and {rows} are there; audit: {findings}")
    return f"{acknowledged} tasks were acknowledged over HTTP, {rows} are in the database, and its audit finds nothing."


def submitting(queue: Queue, customers: Sequence[Customer]) -> Ask:
    turns, request = itertools.cycle(customers), json.loads(BODY)

    async def ask() -> None:
        await queue.submit(Submission(next(turns).account_id, request, GENERATION))

    return ask


def open_accounts(place: Path | str, count: int) -> list[Customer]:
    """In a SQLite file or at PostgreSQL's address, `count` accounts as the server makes its first one, each with a
    key."""
    address, file = (place, Path()) if isinstance(place, str) else (None, place)
    with closing(open_database(address, file)) as database:
        return database.submit(
            lambda connection: [_open_account(connection, number) for number in range(count)]
        ).result()


def _open_account(connection: Connection, number: int) -> Customer:
    customer, now = Customer(f"customer-{number}", new_key()), time.time()
    account = {"id": customer.account_id, "name": customer.account_id, "max_concurrent": CONCURRENCY}
    connection.execute(insert(accounts).values(**account, balance=0, frozen=0, created_at=now))
    ledger.deposit(connection, now, customer.account_id, POINTS)
    hashes = {"id": key_id(customer.key), "key_hash": key_hash(customer.key)}
    connection.execute(
        insert(api_keys).values(**hashes, account_id=customer.account_id, is_first=False, created_at=now)
    )
    return customer


@contextlib.contextmanager
def not_drawing(server: Server) -> Iterator[None]:
    workers = server.worker_pids()
    for pid in workers:
        os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        for pid in workers:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)


def bare_commits(file: Path, seconds: float) -> Load:
    with closing(sqlite3.connect(file, isolation_level=None)) as connection:
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=FULL")
        connection.execute("CREATE TABLE IF NOT EXISTS requests (number INTEGER PRIMARY KEY, body BLOB)")

        async def ask() -> None:
            connection.execute("INSERT INTO requests (body) VALUES (?)", (BODY,))

        return asyncio.run(keep_asking([ask], seconds))


if __name__ == "__main__":
    main()

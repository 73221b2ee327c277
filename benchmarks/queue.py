"""How many tasks a queue accepts a second, and how many it takes from submit to done, when there is nothing to draw.

    python -m benchmarks.queue [--seconds 5] [--rounds 3] [--sides ours-sqlite,bentoml]

    ours-sqlite        POST /api/v1/task to a server process; keys, credits and a durable commit on, and every finished
    ours-postgresql    "picture" is flushed to the disk before its task is completed
    bentoml            BentoML's task queue over HTTP (SQLite, not flushed; a result is lost with its service)
    cog                Cog's asynchronous predictions over HTTP (in memory); their ends come by webhook
    procrastinate      jobs on PostgreSQL, which client and worker reach without HTTP: the floor of a durable queue

All do the same nothing with the same words, one worker process each. Servers, workers and databases are kept to the
machine's first core and clients to the others, if there are any.

    accepted    callers submit again as soon as they are answered; the worker works meanwhile
    done        callers submit, ask every 10 ms whether it is done (for cog: are told), and submit again

Peers are installed at their first use, each in an environment of its own under ``.peers/``.
"""

import argparse
import asyncio
import contextlib
import itertools
import json
import multiprocessing
import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import psutil

from benchmarks import peers
from benchmarks.accept import open_accounts
from benchmarks.connection import Connection
from benchmarks.results import RESULTS, Result, this_machine
from tests.end_to_end.serving import body, free_port
from tests.postgresql import postgres

PROMPT = "a little red circle on a big blue square"
ACCOUNTS = 1200  # enough that no account's limits are met
POLL_SECONDS = 0.01
START_SECONDS = 120
PATIENCE_SECONDS = 30
BUSY = 409
TYPE = "\r\nContent-Type: application/json"
CORES = sorted(os.sched_getaffinity(0))
SERVERS, CLIENTS = set(CORES[:1]), set(CORES[1:] or CORES)


@dataclass(frozen=True, slots=True)
class Door:
    """How to speak with a running side. `id_in` finds a task's id in the answer to a submit, and `is_done` tells from
    the answer to a poll of `path_of` it; without these its ends come by webhook."""

    url: str
    path: str
    body: bytes
    more: str
    keys: tuple[str, ...]
    id_in: str
    path_of: str = ""
    is_done: str = ""


@dataclass(slots=True)
class Seen:
    """Seconds of each answer or end, and of the whole run."""

    latencies: list[float] = field(default_factory=list)
    seconds: float = 0.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=5.0, help="of each measurement in each round")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--callers", type=int, default=16)
    parser.add_argument("--sides", default=",".join(SIDES), help=f"some of {', '.join(SIDES)}, by commas")
    parser.add_argument("--results", type=Path, default=RESULTS, help="where the figures are written")
    chosen = parser.parse_args()
    sides = chosen.sides.split(",")
    if unknown := set(sides) - set(SIDES):
        parser.error(f"--sides: there is no {', '.join(sorted(unknown))}")
    machine = this_machine()
    seen: dict[tuple[str, str], list[Seen]] = {(side, what): [] for side in sides for what in ("accepted", "done")}
    for _ in range(chosen.rounds):
        for side in sides:
            print(f"{side} …", file=sys.stderr, flush=True)
            with tempfile.TemporaryDirectory(prefix="benchmark-", ignore_cleanup_errors=True) as folder:
                for what, one in SIDES[side](Path(folder), chosen.callers, chosen.seconds).items():
                    seen[side, what].append(one)
    notes = [
        f"{chosen.callers} callers; medians of {chosen.rounds} rounds of {chosen.seconds:g} s, in which the sides take "
        "turns; percentiles over all rounds.",
        "Survives kill -9 and power loss, with every accepted task: ours. procrastinate's jobs survive on PostgreSQL. "
        "BentoML's are in a SQLite file that is not flushed and belongs to the running service. Cog's are in memory.",
    ]
    Result("queue", figures(seen), notes, machine).show_and_write(chosen.results)


def figures(seen: dict[tuple[str, str], list[Seen]]) -> list[dict[str, Any]]:
    rows = []
    for (side, what), rounds in seen.items():
        latencies = sorted(latency for one in rounds for latency in one.latencies)
        rows.append(
            {
                "what": what,
                "side": side,
                "per second": round(statistics.median(len(one.latencies) / one.seconds for one in rounds), 1),
                "p50 ms": round(1000 * latencies[len(latencies) // 2], 2),
                "p99 ms": round(1000 * latencies[len(latencies) * 99 // 100], 2),
            }
        )
    return sorted(rows, key=lambda row: str(row["what"]))


# ---------------------------------------------------------------- the sides


def ours(folder: Path, callers: int, seconds: float, address: str | None = None) -> dict[str, Seen]:
    data_dir, port = folder / "data", free_port()
    database = {"FLUXSERVE_DATABASE_URL": address} if address else {}
    customers = open_accounts(address or data_dir / "fluxserve.sqlite", ACCOUNTS)
    environment = {
        "FLUXSERVE_DATA_DIR": str(data_dir),
        "FLUXSERVE_PORT": str(port),
        "FLUXSERVE_REQUESTS_PER_MINUTE": "0",
        **database,
    }
    with served([sys.executable, "-m", "benchmarks.idle_server"], f"http://127.0.0.1:{port}/healthz", environment):
        door = Door(
            url=f"http://127.0.0.1:{port}",
            path="/api/v1/task",
            body=json.dumps(body(PROMPT)).encode(),
            more="",
            keys=tuple(customer.key for customer in customers),
            id_in='"task_id":"([^"]+)"',
            path_of="/api/v1/task/{}",
            is_done='"status":"completed"',
        )
        return measured(door, callers, seconds)


def ours_on_sqlite(folder: Path, callers: int, seconds: float) -> dict[str, Seen]:
    return ours(folder, callers, seconds)


def ours_on_postgresql(folder: Path, callers: int, seconds: float) -> dict[str, Seen]:
    with postgres() as server:
        on_the_first_core(server.pid)
        return ours(folder, callers, seconds, server.fresh())


def bentoml(folder: Path, callers: int, seconds: float) -> dict[str, Seen]:
    programs, port = peers.install("bentoml"), free_port()
    shutil.copy(Path(peers.__file__).with_name("bentoml_service.py"), folder / "service.py")
    command = [str(programs / "bentoml"), "serve", "service:Nothing", "--port", str(port)]
    environment = {"BENTOML_HOME": str(folder / "home"), "BENTOML_DO_NOT_TRACK": "True"}
    with served(command, f"http://127.0.0.1:{port}/readyz", environment, folder):
        door = Door(
            url=f"http://127.0.0.1:{port}",
            path="/draw/submit",
            body=json.dumps({"prompt": PROMPT}).encode(),
            more=TYPE,
            keys=("",),
            id_in='"task_id": ?"([^"]+)"',
            path_of="/draw/status?task_id={}",
            is_done='"status": ?"completed"',
        )
        return measured(door, callers, seconds)


def cog(folder: Path, callers: int, seconds: float) -> dict[str, Seen]:
    programs, port = peers.install("cog"), free_port()
    shutil.copy(Path(peers.__file__).with_name("cog_predictor.py"), folder / "predict.py")
    environment = {
        "PATH": f"{programs}:{os.environ['PATH']}",
        "PORT": str(port),
        "COG_PREDICT_TYPE_STUB": "predict.py:Predictor",
        "COG_MAX_CONCURRENCY": str(4 * callers),  # a place is free a moment after its end was told
    }
    command = [str(programs / "python"), "-m", "cog.server.http", "--host", "127.0.0.1"]
    with served(command, f"http://127.0.0.1:{port}/health-check", environment, folder, '"READY"'):
        door = Door(
            url=f"http://127.0.0.1:{port}",
            path="/predictions",
            body=json.dumps(
                {"input": {"prompt": PROMPT}, "webhook": "WEBHOOK", "webhook_events_filter": ["completed"]}
            ).encode(),
            more=f"{TYPE}\r\nPrefer: respond-async",
            keys=("",),
            id_in='"id": ?"([^"]+)"',
        )
        return measured(door, callers, seconds)


def procrastinate(folder: Path, callers: int, seconds: float) -> dict[str, Seen]:
    del folder
    programs = peers.install("procrastinate")
    program = Path(peers.__file__).with_name("procrastinate_run.py")
    with postgres() as server:
        on_the_first_core(server.pid)
        command = [str(programs / "python"), str(program), server.fresh(template="template1")]
        with subprocess.Popen([*command, "work", str(callers)], stdout=subprocess.PIPE, preexec_fn=_serve) as worker:
            assert worker.stdout is not None
            worker.stdout.readline()  # it is ready
            call = [*command, "call", str(callers), str(seconds)]
            called = subprocess.run(call, capture_output=True, text=True, check=True, preexec_fn=on_the_clients_cores)
            worker.kill()
    return {what: Seen(latencies, seconds) for what, latencies in json.loads(called.stdout).items()}


SIDES: dict[str, Callable[[Path, int, float], dict[str, Seen]]] = {
    "ours-sqlite": ours_on_sqlite,
    "ours-postgresql": ours_on_postgresql,
    "bentoml": bentoml,
    "cog": cog,
    "procrastinate": procrastinate,
}


@contextmanager
def served(
    command: Sequence[str], ready: str, environment: dict[str, str], folder: Path | None = None, word: str = ""
) -> Iterator[None]:
    """A server process and all that it starts, on the first core, once `ready` answers (with this word in it)."""
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(
            command,
            env={**os.environ, **environment},
            cwd=folder,
            stdout=log,
            stderr=log,
            start_new_session=True,
            preexec_fn=_serve,
        )
        try:
            asyncio.run(_until_ready(ready, word, process, log))
            yield
        finally:
            for each in (*psutil.Process(process.pid).children(recursive=True), process):
                with contextlib.suppress(psutil.NoSuchProcess, ProcessLookupError):
                    each.kill()
            process.wait()


async def _until_ready(ready: str, word: str, process: subprocess.Popen[bytes], log: Any) -> None:
    url, path = re.match(r"(http://[^/]+)(.*)", ready).groups()  # type: ignore[union-attr]
    deadline = time.monotonic() + START_SECONDS
    while process.poll() is None and time.monotonic() < deadline:
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            connection = await Connection.open(url)
            status, answer = await connection.request("GET", path, "")
            connection.close()
            if status == 200 and word in answer.decode():
                return
        await asyncio.sleep(0.2)
    log.seek(0)
    sys.exit(f"{ready} did not answer:\n{log.read().decode(errors='replace')[-3000:]}")


def _serve() -> None:
    os.sched_setaffinity(0, SERVERS)


def on_the_clients_cores() -> None:
    os.sched_setaffinity(0, CLIENTS)


def on_the_first_core(pid: int) -> None:
    """A process that has started already; those that it starts from now on follow it."""
    os.sched_setaffinity(pid, SERVERS)


# ---------------------------------------------------------------- the clients


def measured(door: Door, callers: int, seconds: float) -> dict[str, Seen]:
    """In a process of its own, which begins anew instead of being forked."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as clients:
        return clients.submit(_measured, door, callers, seconds).result()


def _measured(door: Door, callers: int, seconds: float) -> dict[str, Seen]:
    on_the_clients_cores()
    return asyncio.run(_both(door, callers, seconds))


async def _both(door: Door, callers: int, seconds: float) -> dict[str, Seen]:
    async with _ends_of(door) as (told, asked):
        connections = [await Connection.open(asked.url) for _ in range(callers)]
        keys = itertools.cycle(asked.keys)

        async def submit(connection: Connection, key: str) -> str:
            status, answer = await connection.request("POST", asked.path, key, asked.body, asked.more)
            while status == BUSY and not asked.path_of:  # cog has no queue: it refuses what it has no place for
                await asyncio.sleep(0.001)
                status, answer = await connection.request("POST", asked.path, key, asked.body, asked.more)
            if status not in (200, 201, 202):
                raise RuntimeError(f"{asked.path} answered {status}: {answer.decode(errors='replace')}")
            return re.search(asked.id_in, answer.decode())[1]  # type: ignore[index]

        async def accept(connection: Connection) -> None:
            await submit(connection, next(keys))

        async def finish(connection: Connection) -> None:
            key = next(keys)
            task = await submit(connection, key)
            if not asked.path_of:
                async with asyncio.timeout(PATIENCE_SECONDS):
                    await told.setdefault(task, asyncio.Event()).wait()
                del told[task]
                return
            began, answer = time.monotonic(), b""
            while not re.search(asked.is_done, answer.decode()):
                if time.monotonic() - began > PATIENCE_SECONDS:
                    raise RuntimeError(f"a task is not done: {answer.decode(errors='replace')}")
                await asyncio.sleep(POLL_SECONDS)
                _, answer = await connection.request("GET", asked.path_of.format(task), key)

        await _run(finish, connections, min(1.0, seconds))  # to warm up
        done = await _run(finish, connections, seconds)
        return {"done": done, "accepted": await _run(accept, connections, seconds)}


async def _run(act: Callable[[Connection], Any], connections: Sequence[Connection], seconds: float) -> Seen:
    seen, began = Seen(), time.perf_counter()

    async def caller(connection: Connection) -> None:
        while time.perf_counter() - began < seconds:
            asked = time.perf_counter()
            await act(connection)
            seen.latencies.append(time.perf_counter() - asked)

    await asyncio.gather(*(caller(connection) for connection in connections))
    seen.seconds = time.perf_counter() - began
    return seen


@asynccontextmanager
async def _ends_of(door: Door) -> AsyncIterator[tuple[dict[str, asyncio.Event], Door]]:
    """Where webhooks arrive, for a side that needs it: an event by task, and the door with that address in its body."""
    told: dict[str, asyncio.Event] = {}

    async def hear(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
                length = int(re.search(r"content-length: *(\d+)", head)[1])  # type: ignore[index]
                said = (await reader.readexactly(length)).decode()
                told.setdefault(re.search(door.id_in, said)[1], asyncio.Event()).set()  # type: ignore[index]
                writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
        writer.close()

    if door.path_of:
        yield told, door
        return
    server = await asyncio.start_server(hear, "127.0.0.1", 0)
    address = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/"
    async with server:
        yield told, replace(door, body=door.body.replace(b"WEBHOOK", address.encode()))


if __name__ == "__main__":
    main()

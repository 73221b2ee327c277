"""Everybody floods the queue at once: what it has room for is taken in, the rest is refused early and clearly, and who
asks for one now and then is answered as quickly as ever.

    python -m tests.end_to_end.flood --requests 100000 --json flood.json

A hundred accounts post without a pause over many connections, until each has as much waiting as it may, and then on.
One more account, with room, posts four times a second, and the time it waits for its answers is taken. A real server,
whose worker draws meanwhile.
"""

import argparse
import asyncio
import contextlib
import itertools
import json
import tempfile
import time
from collections import Counter
from dataclasses import asdict, dataclass, field
from pathlib import Path

import psutil

from benchmarks.accept import open_accounts
from benchmarks.connection import Connection
from tests.end_to_end.serving import KEY, Server, body, running

ACCOUNTS = 100
CONNECTIONS = 64
QUIET_SECONDS = 0.25
MOST_GROWTH = 100_000_000  # bytes of memory
MOST_WAIT = 0.25  # seconds, of 99 in 100 quiet requests


@dataclass
class Report:
    """`statuses` are the flood's; `waits` the quiet account's, in seconds; `memory` the server's, in bytes, at its
    start, half way and at the end."""

    statuses: dict[int, int] = field(default_factory=dict)
    quiet: dict[int, int] = field(default_factory=dict)
    waits: list[float] = field(default_factory=list)
    memory: list[int] = field(default_factory=list)
    rows: int = 0  # tasks in the database
    findings: list[str] = field(default_factory=list)  # of the audit
    seconds: float = 0.0

    @property
    def accepted(self) -> int:
        return self.statuses.get(200, 0) + self.quiet.get(200, 0)

    @property
    def others(self) -> int:
        """Answers that are neither of the two that may be."""
        told = Counter(self.statuses) + Counter(self.quiet)
        return sum(count for status, count in told.items() if status not in (200, 429))

    @property
    def p99(self) -> float:
        return sorted(self.waits)[len(self.waits) * 99 // 100]

    @property
    def growth(self) -> int:
        return self.memory[-1] - self.memory[0]

    def __str__(self) -> str:
        return (
            f"{sum(self.statuses.values())} requests of {ACCOUNTS} accounts in {self.seconds:.0f} s: "
            f"{self.statuses.get(200, 0)} accepted, {self.statuses.get(429, 0)} told to come later, {self.others} "
            f"answered otherwise; one more account asked {len(self.waits)} times and waited {1000 * self.p99:.0f} ms "
            f"at the 99th percentile; {self.rows} tasks for {self.accepted} answers; the server's memory: "
            f"{', '.join(f'{size >> 20} MB' for size in self.memory)}; the audit finds {self.findings or 'nothing'}"
        )


def run(folder: Path, requests: int) -> Report:
    report = Report()
    customers = open_accounts(folder / "data" / "fluxserve.sqlite", ACCOUNTS)
    settings = {"FLUXSERVE_FIRST_CONCURRENCY": "100000", "FLUXSERVE_THREADS": "1", "FLUXSERVE_ADMIN_KEY": "admin"}
    with running(folder / "data", **settings) as server:
        began = time.monotonic()
        asyncio.run(_flood(server, [customer.key for customer in customers], requests, report))
        report.seconds = time.monotonic() - began
        with server.client() as client:
            report.findings = client.get("/admin/audit", headers={"X-API-Key": "admin"}).json()
        ((report.rows,),) = server.rows("SELECT count(*) FROM tasks")
    return report


async def _flood(server: Server, keys: list[str], requests: int, report: Report) -> None:
    assert server.process is not None
    process = psutil.Process(server.process.pid)
    asked, statuses, quiet, is_over = itertools.count(), Counter[int](), Counter[int](), False
    asks = json.dumps(body()).encode()
    report.memory.append(process.memory_info().rss)

    async def flood() -> None:
        with contextlib.closing(await Connection.open(server.url)) as connection:
            while (number := next(asked)) < requests:
                status, _ = await connection.request("POST", "/api/v1/task", keys[number % len(keys)], asks)
                statuses[status] += 1
                if number == requests // 2:
                    report.memory.append(process.memory_info().rss)

    async def ask_now_and_then() -> None:
        with contextlib.closing(await Connection.open(server.url)) as connection:
            while not is_over:
                began = time.perf_counter()
                status, _ = await connection.request("POST", "/api/v1/task", KEY, asks)
                report.waits.append(time.perf_counter() - began)
                quiet[status] += 1
                await asyncio.sleep(QUIET_SECONDS)

    asking = asyncio.create_task(ask_now_and_then())
    await asyncio.gather(*(flood() for _ in range(CONNECTIONS)))
    is_over = True
    await asking
    report.memory.append(process.memory_info().rss)
    report.statuses, report.quiet = dict(statuses), dict(quiet)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=100_000)
    parser.add_argument("--json", type=Path)
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        report = run(Path(folder), chosen.requests)
    print(report)
    if chosen.json:
        chosen.json.write_text(json.dumps(asdict(report), indent=2) + "\n")
    if (
        report.others
        or report.rows != report.accepted
        or report.findings
        or report.growth > MOST_GROWTH
        or report.p99 > MOST_WAIT
    ):
        raise SystemExit("a bound was passed")


if __name__ == "__main__":
    main()

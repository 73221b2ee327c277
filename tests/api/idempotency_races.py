"""Twins at the same time: one request with one Idempotency-Key, sent twenty times at once, makes one task.

    python -m tests.api.idempotency_races --races 1000 --seed 1

Two whole apps on one database take them in, as two servers would; on PostgreSQL each has its own connections. A twin
that is told to come back does. In the end all have the same answer to the last byte, and there is one task and one
hold.
"""

import argparse
import asyncio
import random
import sys
import tempfile
import time
from collections import Counter
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path

import httpx2 as httpx
from sqlalchemy import Connection, Engine, text

from fluxserve.api import create_app
from fluxserve.server import SWITCH_SECONDS
from fluxserve.tasks import migrate, open_postgresql, open_sqlite
from tests.api.conftest import KEY, Door, cat, open_door
from tests.postgresql import postgres

TWINS = 20
SOONEST = 0.002  # seconds until a twin that was told to comes back: a real one waits for a whole one


@dataclass
class Report:
    """`statuses` are those of all answers, of which a race wants the last twenty."""

    database: str
    seed: int
    races: int = 0
    tasks: int = 0
    holds: int = 0
    statuses: Counter[int] = field(default_factory=Counter)
    faults: list[str] = field(default_factory=list)
    seconds: float = 0.0

    def __str__(self) -> str:
        return (
            f"{self.database}, seed {self.seed}: {self.races} races of {TWINS} twins in {self.seconds:.1f} s made "
            f"{self.tasks} tasks and {self.holds} holds; answers {dict(self.statuses)}; {len(self.faults)} faults"
        )


async def race(engines: list[Engine], folder: Path, *, races: int, seed: int) -> Report:
    sys.setswitchinterval(SWITCH_SECONDS)  # as the server does, for all that come back all the time
    report, chance = Report(engines[0].dialect.name, seed), random.Random(seed)
    began = time.monotonic()
    async with AsyncExitStack() as stack:
        doors = [await stack.enter_async_context(open_door(engine, folder)) for engine in engines]
        clients = [door.client for door in doors]
        if len(doors) == 1:
            clients.append(await stack.enter_async_context(_another_app(doors[0])))
        await doors[0].accounts.limit(doors[0].account_id, 100_000)
        await doors[0].accounts.credit(doors[0].account_id, 1000)
        for number in range(races):
            body = cat(prompt=f"cat {number}", batch_size=chance.randint(1, 4))
            headers = {"Idempotency-Key": f"race-{number}"}
            twins = [_answered(chance.choice(clients), body, headers, report.statuses) for _ in range(TWINS)]
            answers = set(await asyncio.gather(*twins))
            report.races += 1
            if len(answers) != 1:
                report.faults.append(f"race {number}: {len(answers)} different answers")
        report.tasks, report.holds = await doors[0].queue._database.read(_counted)
    report.seconds = time.monotonic() - began
    return report


def _another_app(door: Door) -> httpx.AsyncClient:
    """On the same database: it knows nothing of what the first one has in hand."""
    app = create_app(door.context)
    return httpx.AsyncClient(
        transport=httpx.ASGITransport(app), base_url="http://fluxserve.test", headers={"X-API-Key": KEY}
    )


async def _answered(
    client: httpx.AsyncClient, body: dict[str, object], headers: dict[str, str], statuses: Counter[int]
) -> bytes:
    while True:
        answer = await client.post("/api/v1/task", json=body, headers=headers)
        statuses[answer.status_code] += 1
        if answer.status_code != 409:
            return answer.content
        await asyncio.sleep(SOONEST)


def _counted(connection: Connection) -> tuple[int, int]:
    tasks: int = connection.execute(text("SELECT COUNT(*) FROM tasks")).scalar_one()
    holds: int = connection.execute(text("SELECT COUNT(*) FROM ledger WHERE phase = 'hold'")).scalar_one()
    return tasks, holds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--races", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=1)
    chosen = parser.parse_args()
    is_bad = False
    with tempfile.TemporaryDirectory() as folder, postgres() as server:
        file = open_sqlite(Path(folder) / "queue.sqlite")
        migrate(file)
        address = server.fresh()
        for engines in ([file], [open_postgresql(address), open_postgresql(address)]):
            report = asyncio.run(race(engines, Path(folder), races=chosen.races, seed=chosen.seed))
            print(report)
            is_bad |= bool(report.faults) or not report.tasks == report.holds == report.races
    raise SystemExit(is_bad)


if __name__ == "__main__":
    main()

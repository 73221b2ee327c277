"""A storm of webhooks to good and bad receivers, while `kill -9` strikes their sender.

    python -m tests.end_to_end.webhook_storm --webhooks 10000 --kills 100 --database postgresql --json storm.json

Tasks with webhooks go through the queue's own verbs at a steady rate. Sixty of a hundred webhooks are for good
receivers; the others go to some that fail, hang, answer a byte a second, redirect inside or never come to an end, a
hundred tarpits among them. The sender is a process of its own; it is killed at random moments and started again. In the
end every webhook must have reached its receiver, if that is a good one.

How long they took is to be asked on PostgreSQL. On SQLite the sender waits for this process, as it never would within a
server: for the lock on the file, and up to two seconds for want of a signal.
"""

import argparse
import asyncio
import contextlib
import json
import random
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path

from rich.progress import Progress
from sqlalchemy import select

from fluxserve.config import WebhookSettings
from fluxserve.domain.generation import Generation, TextToImage
from fluxserve.domain.task import Completed, Output, Submission, Webhook
from fluxserve.tasks import Accounts, Database, Held, Queue, Rules, migrate, open_postgresql, open_sqlite
from fluxserve.tasks.schema import webhooks as webhooks_table
from fluxserve.webhooks import sender as sending
from tests.end_to_end.storm_receivers import KINDS
from tests.postgresql import postgres

SECRETS = ("whsec_MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=", "a plain secret")
PICTURE = Generation("flux1-schnell", TextToImage("a little cat"), 256, 256, 4, None, 1)
MAKERS = 8
ARRIVE_SECONDS = 900.0  # after the last one was made, for what a kill has left in a lease; a busy machine takes long


@dataclass(frozen=True)
class Pace:
    """`rate` webhooks are made a second; the rest is how the sender is set."""

    rate: float = 20.0
    seconds: float = WebhookSettings().webhook_seconds
    lease_extra: float = sending.LEASE_EXTRA_SECONDS
    gaps: tuple[float, ...] = WebhookSettings().gaps


@dataclass
class Report:
    """The figures of a run; `missing`, `unverified`, `followed` and `faults` should be nothing. Times in seconds."""

    kills: int
    seed: int
    made: int = 0
    to_good: int = 0  # of them, to good receivers
    received: int = 0  # of those, at least once
    missing: list[str] = field(default_factory=list)
    duplicates: int = 0  # received once more than needed
    unverified: int = 0  # whose signature the reference library refused
    followed: int = 0  # redirects
    most_tarpits: int = 0  # held open at once
    undisturbed: int = 0  # received without a kill, or a sender that was not there, between event and receipt
    undisturbed_p50: float = 0.0
    undisturbed_p99: float = 0.0
    p50: float = 0.0
    p99: float = 0.0
    seconds: float = 0.0
    faults: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        return "\n".join(
            (
                f"seed {self.seed}: {self.made} webhooks and {self.kills} kills in {self.seconds:.0f} s, "
                f"{self.most_tarpits} tarpits open at once",
                f"to good receivers {self.to_good}, received {self.received}, missing {len(self.missing)}, "
                f"received twice {self.duplicates}",
                f"signatures refused {self.unverified}, redirects followed {self.followed}",
                f"event to receipt: median {self.p50:.2f} s, p99 {self.p99:.2f} s",
                f"of the {self.undisturbed} that no kill disturbed: median {self.undisturbed_p50:.2f} s, "
                f"p99 {self.undisturbed_p99:.2f} s",
                *self.faults,
            )
        )


def run(folder: Path, webhooks: int, kills: int, seed: int, pace: Pace = Pace(), address: str | None = None) -> Report:
    """`address` is that of an empty, migrated PostgreSQL database; without one it is SQLite in `folder`."""
    began = time.monotonic()
    report = Report(kills, seed)
    if address:
        engine = open_postgresql(address)
    else:
        engine = open_sqlite(folder / "storm.sqlite")
        migrate(engine)
    database = Database(engine)
    try:
        asyncio.run(_storm(database, address or str(folder / "storm.sqlite"), webhooks, pace, report))
    finally:
        database.close()
    report.seconds = time.monotonic() - began
    return report


async def _storm(database: Database, address: str, webhooks: int, pace: Pace, report: Report) -> None:
    account = await Accounts(database).ensure_first(credits_usd=1e6, max_concurrent=1_000_000)
    queue = Queue(database, Rules())
    chance = random.Random(report.seed)
    with _receivers() as receivers, Progress(disable=not sys.stderr.isatty()) as progress:
        urls: dict[str, list[str]] = json.loads(await _line(receivers))
        kinds = chance.choices([*KINDS], [kind.of_hundred for kind in KINDS.values()], k=webhooks)
        targets = [chance.choice(urls[kind]) for kind in kinds]
        bar = progress.add_task("webhooks", total=webhooks)
        sender = Sender(address, pace)
        await sender.start()
        striking = asyncio.create_task(_strike(sender, report.kills, webhooks / pace.rate, chance))
        try:
            events = await _make_all(queue, account.id, targets, pace.rate, lambda: progress.advance(bar))
            await striking
            report.faults += await _left_undelivered(database, urls["good"])
        finally:
            striking.cancel()
            sender.kill()
        assert receivers.stdin is not None
        receivers.stdin.close()
        heard = json.loads(await _line(receivers))
    report.made = len(events)
    report.unverified, report.followed, report.most_tarpits = (
        heard[name] for name in ("unverified", "followed", "most_tarpits")
    )
    report.faults += await queue.audit()
    good = {task_id: at for (task_id, at), kind in zip(events, kinds, strict=True) if kind == "good"}
    _reckon(good, heard["received"], sender.absences, report)


# ---------------------------------------------------------------- the processes


@contextlib.contextmanager
def _receivers() -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-m", "tests.end_to_end.storm_receivers"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


class Sender:
    """The sender's process. `absences` are the times from each kill until the next one was ready."""

    def __init__(self, address: str, pace: Pace) -> None:
        gaps = ",".join(str(gap) for gap in pace.gaps)
        self._command = [
            *(sys.executable, "-m", "tests.end_to_end.storm_sender"),
            *(address, str(pace.seconds), str(pace.lease_extra), gaps),
        ]
        self.absences: list[tuple[float, float]] = []
        self._killed_at = 0.0

    async def start(self) -> None:
        self._process = await asyncio.to_thread(self._launched)
        await _line(self._process)
        if self._killed_at:
            self.absences.append((self._killed_at, time.monotonic()))

    def _launched(self) -> subprocess.Popen[str]:
        return subprocess.Popen(self._command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def kill(self) -> None:
        """As a power switch would."""
        self._killed_at = time.monotonic()
        self._process.kill()
        self._process.communicate()


async def _line(process: subprocess.Popen[str]) -> str:
    """The next that it prints."""
    assert process.stdout is not None
    line = await asyncio.to_thread(process.stdout.readline)
    if not line:
        raise RuntimeError(f"{process.args!r} has ended")
    return line


async def _strike(sender: Sender, kills: int, seconds: float, chance: random.Random) -> None:
    """Kill it at random moments, some of them just after its start."""
    for _ in range(kills):
        await asyncio.sleep(chance.uniform(0, 1.2 * seconds / kills))
        sender.kill()
        await sender.start()


# ---------------------------------------------------------------- the events


async def _make_all(
    queue: Queue, account_id: str, targets: list[str], rate: float, advance: Callable[[], None]
) -> list[tuple[str, float]]:
    """A finished task for each target, `rate` a second. Returns their ids, and when each was about to be finished."""
    began = time.monotonic()
    places = asyncio.Semaphore(MAKERS)

    async def one(number: int, url: str) -> tuple[str, float]:
        await asyncio.sleep(began + number / rate - time.monotonic())
        async with places:
            secret = SECRETS[number % len(SECRETS)]
            task = await queue.submit(Submission(account_id, {}, PICTURE, webhook=Webhook(url, secret)))
            (claimed,) = await queue.claim([task.id])
            output = Output(uuid.uuid4().hex, f"{task.id}.png", "image/png", 3, 256, 256, 1, time.time() + 86_400)
            at = time.monotonic()
            await queue.finish(Held(task.id, claimed.attempt), Completed((output,)))
            advance()
            return task.id, at

    return await asyncio.gather(*(one(number, url) for number, url in enumerate(targets)))


async def _left_undelivered(database: Database, urls: list[str]) -> list[str]:
    """Wait until nothing is left for these receivers. Returns what is after all."""
    left = select(webhooks_table.c.id).where(webhooks_table.c.delivered_at.is_(None), webhooks_table.c.url.in_(urls))
    deadline = time.monotonic() + ARRIVE_SECONDS
    while ids := await database.read(lambda connection: connection.execute(left).scalars().all()):
        if time.monotonic() > deadline:
            return [f"{each} is not delivered" for each in ids]
        await asyncio.sleep(0.2)
    return []


# ---------------------------------------------------------------- the reckoning


def _reckon(
    good: dict[str, float], received: list[tuple[str, float]], absences: list[tuple[float, float]], report: Report
) -> None:
    firsts: dict[str, float] = {}
    for task_id, at in received:
        firsts.setdefault(task_id, at)
    report.to_good = len(good)
    report.received = len(firsts.keys() & good.keys())
    report.missing = [task_id for task_id in good if task_id not in firsts]
    report.duplicates = len(received) - len(firsts)
    report.faults += [f"task {task_id} was told to another's receiver" for task_id in firsts.keys() - good.keys()]
    waits = {task_id: (good[task_id], at) for task_id, at in firsts.items() if task_id in good}
    undisturbed = [
        (made, at) for made, at in waits.values() if not any(gone < at and made < back for gone, back in absences)
    ]
    report.undisturbed = len(undisturbed)
    report.p50, report.p99 = _percentiles([at - made for made, at in waits.values()])
    report.undisturbed_p50, report.undisturbed_p99 = _percentiles([at - made for made, at in undisturbed])


def _percentiles(seconds: list[float]) -> tuple[float, float]:
    """The median, and what 99 of a hundred do not exceed."""
    ordered = sorted(seconds) or [0.0]
    return ordered[len(ordered) // 2], ordered[len(ordered) * 99 // 100]


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.end_to_end.webhook_storm", description="Send and count.")
    parser.add_argument("--webhooks", type=int, default=10_000)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--database", choices=("sqlite", "postgresql"), default="sqlite")
    parser.add_argument("--json", type=Path, help="a file for the figures")
    chosen = parser.parse_args()
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        address = stack.enter_context(postgres()).fresh() if chosen.database == "postgresql" else None
        report = run(folder, chosen.webhooks, chosen.kills, chosen.seed, address=address)
    print(report)
    if chosen.json is not None:
        chosen.json.write_text(json.dumps(asdict(report), indent=1) + "\n")
    if report.missing or report.unverified or report.followed or report.faults:
        sys.exit(1)


if __name__ == "__main__":
    main()

"""Jobs of every type in random order at a real server: each is completed, and the worker's memory stays flat.

    python -m tests.end_to_end.mixed_jobs --jobs 200 --seed 1 --json mixed.json

The jobs are the examples of the vendor's pages that the models that ship can draw, each as often as any other. The
worker's resident memory is read after every job; the first ones load what the others use again.
"""

import argparse
import json
import random
import tempfile
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path

import httpx2 as httpx
import psutil

from fluxserve.domain.catalog import abilities
from tests.end_to_end import pages
from tests.end_to_end.serving import finished, running

WARM_UP = 50  # jobs, until everything is loaded
MOST_DRIFT = 0.05  # of the memory then
WAITING = 4  # jobs in the queue: the worker is never without one
JOB_SECONDS = 300.0


@dataclass
class Report:
    """`memory` is the worker's, in bytes, after each job."""

    seed: int
    types: dict[str, int] = field(default_factory=dict)
    failed: list[str] = field(default_factory=list)
    memory: list[int] = field(default_factory=list)
    workers: int = 0  # processes that drew: 1 unless one was lost
    seconds: float = 0.0

    @property
    def drift(self) -> float:
        """How far memory went from what it was after the warm-up, as a part of that; 0 for a run no longer than it."""
        then = self.memory[min(WARM_UP, len(self.memory)) - 1]
        return max(abs(now - then) / then for now in self.memory[WARM_UP - 1 :] or [then])

    def __str__(self) -> str:
        shown = [f"{self.memory[number] >> 20} MB after {number + 1}" for number in self._told()]
        return (
            f"seed {self.seed}: {sum(self.types.values())} jobs in {self.seconds:.0f} s, {len(self.failed)} failed "
            f"({', '.join(f'{name} {count}' for name, count in sorted(self.types.items()))}); the worker's memory: "
            f"{', '.join(shown)}; {100 * self.drift:.1f} % from what it was after {WARM_UP} at most"
        )

    def _told(self) -> list[int]:
        return sorted({0, *range(WARM_UP - 1, len(self.memory), WARM_UP), len(self.memory) - 1})


def run(folder: Path, jobs: int, seed: int) -> Report:
    chance, report = random.Random(seed), Report(seed)
    known = [each for each in (*pages.EXAMPLES, *pages.UNSHOWN) if each.needs <= abilities("mini")]
    asked = [known[number % len(known)] for number in range(jobs)]
    chance.shuffle(asked)
    began, workers = time.monotonic(), set[int]()
    with running(folder / "data") as server, server.client() as client:
        tasks: list[tuple[str, str]] = []
        for number in range(jobs):
            while asked and len(tasks) - number < WAITING:
                example = asked.pop()
                tasks.append((example.name, _create(client, example)))
            name, task = tasks[number]
            data = finished(client, task, JOB_SECONDS)
            report.types[name] = report.types.get(name, 0) + 1
            if data["status"] != "completed":
                report.failed.append(f"{name}: {data['error']}")
            (worker,) = server.worker_pids()
            workers.add(worker)
            report.memory.append(psutil.Process(worker).memory_info().rss)
    report.workers, report.seconds = len(workers), time.monotonic() - began
    return report


def _create(client: httpx.Client, example: pages.Example) -> str:
    answer = client.post("/api/v1/task", json=example.body)
    assert answer.status_code == 200, answer.text
    task: str = answer.json()["data"]["task_id"]
    return task


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", type=int, default=200)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", type=Path)
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        report = run(Path(folder), chosen.jobs, chosen.seed)
    print(report)
    if chosen.json:
        chosen.json.write_text(json.dumps(asdict(report), indent=2) + "\n")
    if report.failed or report.workers != 1 or report.drift > MOST_DRIFT:
        raise SystemExit("\n".join([*report.failed, f"{report.workers} workers, drift {report.drift:.1%}"]))


if __name__ == "__main__":
    main()

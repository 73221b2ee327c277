"""Whatever is done to the queue, it does what the model foretells, and no law is broken (G2, G3, G6, G7, G14)."""

import random
import time

import pytest

from tests.postgresql import Postgres
from tests.tasks import machine
from tests.tasks.machine import Ground, PostgresqlGround, sqlite_ground

pytestmark = pytest.mark.untraced  # to trace these would take longer than to run them


def play(ground: Ground, steps: int, seed: int) -> None:
    print(f"seed {seed}", flush=True)
    began = time.monotonic()
    tally = machine.run(ground, steps, seed)
    print(f"{tally.total:,} steps in {len(tally.steps):,} histories, {time.monotonic() - began:.1f} s")
    assert tally.total >= steps


def test_the_queue_does_what_the_model_foretells_on_sqlite() -> None:
    with sqlite_ground() as ground:
        play(ground, 12_000, seed=1)


def test_the_queue_does_what_the_model_foretells_on_postgresql(postgresql: Postgres) -> None:
    ground = PostgresqlGround(postgresql)
    play(ground, 2000, seed=2)
    ground.close()


@pytest.mark.nightly
@pytest.mark.timeout(6 * 3600)
def test_the_queue_does_what_the_model_foretells_for_five_million_steps(postgresql: Postgres) -> None:
    seed = random.SystemRandom().randrange(2**32)
    with sqlite_ground() as ground:
        play(ground, 4_900_000, seed)
    ground = PostgresqlGround(postgresql)
    play(ground, 100_000, seed)
    ground.close()

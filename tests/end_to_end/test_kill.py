"""What was accepted survives `kill -9` of a server, its worker or the database, and is finished exactly once.

G1, G3, G5, G12.
"""

import random
from pathlib import Path

import pytest

from tests.end_to_end import kill_rounds
from tests.end_to_end.kill_rounds import Report


def check(report: Report) -> None:
    print(report)
    assert report.lost == []
    assert report.doubled == []
    assert report.faults == []
    assert report.tasks >= report.accepted > 0 < report.completed
    assert report.completed + report.cancelled + report.abandoned == report.tasks
    assert report.pictures == report.completed
    assert all(seconds < 10 for seconds in report.serving_seconds)


def test_what_was_accepted_is_finished_exactly_once_whatever_is_killed(tmp_path: Path) -> None:
    check(kill_rounds.run(tmp_path, rounds=4, seed=30))


@pytest.mark.timeout(600)
def test_what_was_accepted_is_finished_exactly_once_if_postgresql_is_killed_too(tmp_path: Path) -> None:
    report = kill_rounds.run(tmp_path, rounds=3, seed=14, database="postgresql")

    check(report)
    assert report.kills["database"] > 0
    assert report.kills["database restarted"] > 0


@pytest.mark.timeout(600)
def test_what_two_servers_accepted_is_finished_exactly_once_whichever_is_killed(tmp_path: Path) -> None:
    check(kill_rounds.run(tmp_path, rounds=2, seed=1, database="postgresql", servers=2))


@pytest.mark.nightly
@pytest.mark.timeout(4 * 3600)
def test_what_was_accepted_is_finished_exactly_once_over_five_hundred_kills(tmp_path: Path) -> None:
    check(kill_rounds.run(tmp_path, rounds=500, seed=random.SystemRandom().randrange(2**32)))


@pytest.mark.nightly
@pytest.mark.timeout(4 * 3600)
@pytest.mark.parametrize(("rounds", "servers"), [(200, 1), (100, 2)], ids=["one server", "two servers"])
def test_what_was_accepted_on_postgresql_is_finished_exactly_once_over_hundreds_of_kills(
    tmp_path: Path, rounds: int, servers: int
) -> None:
    check(kill_rounds.run(tmp_path, rounds, random.SystemRandom().randrange(2**32), "postgresql", servers))

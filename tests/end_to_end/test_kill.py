"""What was accepted survives `kill -9` of the server and of its worker, and is finished exactly once (G1, G3, G5)."""

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


def test_what_was_accepted_is_finished_exactly_once_whatever_is_killed(tmp_path: Path) -> None:
    check(kill_rounds.run(tmp_path, rounds=5, seed=30))


@pytest.mark.nightly
@pytest.mark.timeout(4 * 3600)
def test_what_was_accepted_is_finished_exactly_once_over_five_hundred_kills(tmp_path: Path) -> None:
    check(kill_rounds.run(tmp_path, rounds=500, seed=random.SystemRandom().randrange(2**32)))

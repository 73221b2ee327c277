"""Jobs of every type in random order are all completed, by one worker whose memory stays flat."""

from pathlib import Path

import pytest

from tests.end_to_end import mixed_jobs


def test_jobs_of_every_type_are_completed_by_one_worker(tmp_path: Path) -> None:
    report = mixed_jobs.run(tmp_path, jobs=6, seed=2)
    assert report.failed == []
    assert report.workers == 1
    assert len(report.memory) == 6


@pytest.mark.nightly
@pytest.mark.timeout(2 * 3600)
def test_the_workers_memory_stays_flat_over_two_hundred_jobs(tmp_path: Path) -> None:
    report = mixed_jobs.run(tmp_path, jobs=200, seed=1)
    print(report)
    assert report.failed == []
    assert report.workers == 1
    assert report.drift <= mixed_jobs.MOST_DRIFT

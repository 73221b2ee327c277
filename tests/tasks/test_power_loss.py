"""A power loss loses no accepted task (G1): what a commit returned for is there when the disk is read again."""

import random
from pathlib import Path

import pytest

from tests.tasks import power_loss
from tests.tasks.power_loss import Disk, Report, Sync, Write


def check(report: Report) -> None:
    print(report)
    assert report.lost == []
    assert report.faults == []
    assert report.promised > 10 * report.crashes


def test_no_power_loss_loses_an_accepted_task(tmp_path: Path) -> None:
    check(power_loss.run(tmp_path, crashes=2000, seed=1))


def test_the_same_crashes_lose_accepted_tasks_under_sqlites_popular_setting(tmp_path: Path) -> None:
    report = power_loss.run(tmp_path, crashes=200, seed=1, synchronous="NORMAL")

    print(report)
    assert report.crashes_that_lost > 50
    assert report.faults == []  # it forgets, but what it remembers is whole


def test_a_history_meets_a_checkpoint_among_its_crashes(tmp_path: Path) -> None:
    log, first = power_loss.record(tmp_path, 2, "FULL", until_checkpoint=True)

    assert any(isinstance(step, Write) and step.file == power_loss.NAME for step in log[first:-200])


def test_the_imagined_disk_keeps_what_was_synced_and_may_tear_what_was_not() -> None:
    disk = Disk()
    disk.follow(power_loss.Create("wal", syncs_folder=True))
    disk.follow(Write("wal", 0, b"a" * 2048))
    disk.follow(Sync("wal"))
    disk.follow(Write("wal", 512, b"b" * 2048))
    images = [disk.after_power_loss(random.Random(seed))["wal"] for seed in range(200)]

    assert all(image[:512] == b"a" * 512 for image in images)
    assert any(image == b"a" * 2048 for image in images)
    assert any(image == b"a" * 512 + b"b" * 2048 for image in images)
    assert any({b"a" * 512, b"b" * 512} <= {image[at : at + 512] for at in (512, 1024, 1536)} for image in images)


@pytest.mark.nightly
@pytest.mark.timeout(4 * 3600)
def test_no_power_loss_of_a_hundred_thousand_loses_an_accepted_task(tmp_path: Path) -> None:
    check(power_loss.run(tmp_path, crashes=100_000, seed=random.SystemRandom().randrange(2**32)))

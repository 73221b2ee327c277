"""Every webhook reaches its receiver, if that is a good one, though its sender is killed again and again (G9, G10)."""

import random
from pathlib import Path

import pytest

from tests.end_to_end import webhook_storm
from tests.end_to_end.webhook_storm import Pace, Report
from tests.postgresql import Postgres

# A machine that is busy makes attempts fail; there are enough for none to be given up.
HASTY = Pace(rate=60, seconds=3.0, lease_extra=0.5, gaps=(1.0,) * 100)


def check(report: Report) -> None:
    print(report)
    assert report.missing == []
    assert report.faults == []
    assert report.received == report.to_good > 0
    assert (report.unverified, report.followed) == (0, 0)


def test_no_webhook_is_missing_whenever_the_sender_is_killed(tmp_path: Path) -> None:
    check(webhook_storm.run(tmp_path, webhooks=200, kills=3, seed=1, pace=HASTY))


@pytest.mark.nightly
@pytest.mark.timeout(3600)
def test_no_webhook_is_missing_or_late_over_a_hundred_kills(tmp_path: Path, postgresql: Postgres) -> None:
    seed = random.SystemRandom().randrange(2**32)

    report = webhook_storm.run(tmp_path, webhooks=10_000, kills=100, seed=seed, address=postgresql.fresh())

    check(report)
    assert report.most_tarpits >= 90
    assert report.undisturbed_p99 < 5

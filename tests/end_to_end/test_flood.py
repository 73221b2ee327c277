"""A flood is refused early and clearly, and holds up nobody else (G8)."""

from pathlib import Path

import pytest

from tests.end_to_end import flood


def test_what_there_is_no_room_for_is_refused_and_the_rest_is_kept(tmp_path: Path) -> None:
    report = flood.run(tmp_path, 8000)

    assert report.others == 0
    assert report.statuses[429] > 0
    assert report.rows == report.accepted
    assert report.findings == []


@pytest.mark.nightly
@pytest.mark.timeout(3600)
def test_a_hundred_thousand_requests_cost_others_no_patience_and_the_server_no_memory(tmp_path: Path) -> None:
    report = flood.run(tmp_path, 100_000)
    print(report)

    assert report.others == 0
    assert report.rows == report.accepted
    assert report.findings == []
    assert report.growth <= flood.MOST_GROWTH
    assert report.p99 <= flood.MOST_WAIT

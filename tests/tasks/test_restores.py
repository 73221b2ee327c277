"""A backup of a database that is written to is whole (G20)."""

from pathlib import Path

from tests.postgresql import Postgres
from tests.tasks import restores
from tests.tasks.restores import Report


def is_whole(report: Report) -> None:
    print(report)
    assert report.tasks <= report.restored <= report.tasks + report.accepted
    assert report.findings == []


def test_a_backup_of_sqlite_under_load_is_whole(tmp_path: Path) -> None:
    is_whole(restores.run_on_sqlite(tmp_path, 3000))


def test_a_backup_of_postgresql_under_load_is_whole(tmp_path: Path, postgresql: Postgres) -> None:
    is_whole(restores.run_on_postgresql(tmp_path, 3000, postgresql))

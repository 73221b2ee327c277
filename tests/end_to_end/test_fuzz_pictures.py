"""A damaged picture is drawn from or refused; the server goes on."""

import json
import random
from pathlib import Path

import pytest

from tests.end_to_end import fuzz_pictures
from tests.end_to_end.fuzz_pictures import Report


def check(report: Report) -> None:
    print(report)
    assert report.wrong == []
    assert report.sent == report.taken + sum(report.refused.values())
    assert report.taken > 0 < len(report.refused)
    assert [reason for reason in report.refused if reason.startswith("it is damaged")]
    assert json.loads(json.dumps(vars(report)))["sent"] == report.sent


def test_damaged_pictures_do_a_server_no_harm(tmp_path: Path) -> None:
    check(fuzz_pictures.run(tmp_path, minutes=0.05, seed=3))


@pytest.mark.nightly
@pytest.mark.timeout(3600)
def test_damaged_pictures_do_a_server_no_harm_in_half_an_hour(tmp_path: Path) -> None:
    check(fuzz_pictures.run(tmp_path, minutes=30, seed=random.SystemRandom().randrange(2**32)))


def test_a_png_has_its_checksums_again() -> None:
    good = fuzz_pictures.good_pictures()[0]
    broken = bytearray(good)
    broken[33 + 10] ^= 1
    assert fuzz_pictures.with_checksums(good) == good
    assert fuzz_pictures.with_checksums(bytes(broken)) != bytes(broken)

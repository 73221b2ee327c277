"""Whether there is room is asked of the real disk: a tiny one, where this user can make one."""

import time
from collections import namedtuple
from pathlib import Path
from types import SimpleNamespace

import pytest

from fluxserve.domain.errors import NoRoom
from fluxserve.storage import Room, Shelf, room
from tests.conftest import SMALL

Usage = namedtuple("Usage", "total used free")


@pytest.mark.parametrize(
    ("least", "total", "free", "is_roomy"),
    [
        (1000, 10**6, 1000, True),
        (1000, 10**6, 999, False),
        (1000, 10_000, 500, True),  # a twentieth of a small disk is enough
        (1000, 10_000, 499, False),
        (0, 10_000, 0, True),  # it is not to be looked at
    ],
)
def test_there_is_room_while_enough_is_free_or_a_twentieth_of_the_disk(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, least: int, total: int, free: int, is_roomy: bool
) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda _: Usage(total, total - free, free))

    if is_roomy:
        Room([tmp_path], least).check()
    else:
        with pytest.raises(NoRoom, match="disk is nearly full"):
            Room([tmp_path], least).check()


def test_there_is_none_where_no_folder_is(tmp_path: Path) -> None:
    with pytest.raises(NoRoom, match="or gone"):
        Room([tmp_path / "not mounted"], 1).check()


def test_every_folder_must_have_room_and_all_are_looked_at_once_a_second(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    looks: list[Path] = []

    def usage(folder: Path) -> Usage:
        looks.append(folder)
        return Usage(100, 50, 50 if folder == tmp_path else 0)

    monkeypatch.setattr("shutil.disk_usage", usage)
    both = [tmp_path, tmp_path / "pictures"]
    rooms = Room(both, 10)
    now = time.monotonic()
    monkeypatch.setattr(room, "time", SimpleNamespace(monotonic=lambda: now))
    for _ in range(5):
        with pytest.raises(NoRoom):
            rooms.check()
    assert looks == both

    now += 1.0
    with pytest.raises(NoRoom):
        rooms.check()
    assert looks == both * 2


def test_a_disk_that_fills_up_is_noticed_and_one_that_has_room_again_too(
    small_disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(room, "LOOK_SECONDS", 0.0)
    rooms = Room([small_disk], 10**9)
    rooms.check()
    (small_disk / "ballast").write_bytes(b"0" * (SMALL - SMALL // 40))
    with pytest.raises(NoRoom):
        rooms.check()
    (small_disk / "ballast").unlink()
    rooms.check()


def test_a_shelf_that_is_really_full_keeps_what_it_has_and_leaves_no_halves(small_disk: Path) -> None:
    shelf = Shelf(small_disk / "pictures")
    kept: list[str] = []

    def put_for_ever() -> None:
        while True:
            shelf.put(f"picture-{len(kept)}.png", b"0" * 300_000)
            kept.append(f"picture-{len(kept)}.png")

    with pytest.raises(OSError, match="No space left"):
        put_for_ever()

    files = [path.name for path in (small_disk / "pictures").rglob("*") if path.is_file()]
    assert sorted(files) == sorted(kept)
    assert all(path.stat().st_size == 300_000 for path in (small_disk / "pictures").rglob("*.png"))
    shelf.delete("picture-0.png")
    shelf.put("picture-new.png", b"0" * 300_000)

"""The shelf keeps bytes whole, under safe names."""

import os
from pathlib import Path

import pytest

from fluxserve.storage import Shelf


@pytest.fixture
def shelf(tmp_path: Path) -> Shelf:
    return Shelf(tmp_path / "pictures")


def test_what_is_put_can_be_opened_and_deleted(shelf: Shelf) -> None:
    shelf.put("ab12-1-0.png", b"bytes")
    assert shelf.path("ab12-1-0.png").read_bytes() == b"bytes"

    shelf.delete("ab12-1-0.png")
    assert not shelf.path("ab12-1-0.png").exists()
    shelf.delete("ab12-1-0.png")


def test_putting_again_replaces_all_of_it(shelf: Shelf) -> None:
    shelf.put("ab12.png", b"a long first one")
    shelf.put("ab12.png", b"short")
    assert shelf.path("ab12.png").read_bytes() == b"short"


@pytest.mark.parametrize(
    "key",
    [
        "",
        "..",
        "../x.png",
        "a/b.png",
        "/etc/passwd",
        "ab.png/..",
        "ab\0.png",
        "ab\\c.png",
        ".ab.png",
        "ab",
        "ab.PNG",
        "é.png",
    ],
)
def test_a_key_that_is_not_ours_is_refused(shelf: Shelf, key: str) -> None:
    for act in (shelf.path, shelf.delete, lambda key: shelf.put(key, b"")):
        with pytest.raises(ValueError, match="not a key"):
            act(key)


def test_bytes_are_on_the_disk_before_they_have_their_name(shelf: Shelf, monkeypatch: pytest.MonkeyPatch) -> None:
    order: list[str] = []
    rename = Path.replace

    def note_rename(path: Path, target: Path) -> Path:
        order.append("rename")
        return rename(path, target)

    monkeypatch.setattr(os, "fsync", lambda descriptor: order.append(_kind(descriptor)))
    monkeypatch.setattr(Path, "replace", note_rename)

    shelf.put("ab12.png", b"bytes")

    assert order == ["folder", "file", "rename", "folder"]


def test_a_failed_write_leaves_nothing_behind(shelf: Shelf, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    shelf.put("ab11.png", b"")
    monkeypatch.setattr(os, "fsync", full)

    with pytest.raises(OSError, match="No space"):
        shelf.put("ab12.png", b"bytes")
    assert [path.name for path in shelf.path("ab12.png").parent.iterdir()] == ["ab11.png"]


def test_what_nobody_keeps_is_cleared_and_what_is_not_ours_stays(shelf: Shelf) -> None:
    for key in ("ab12.png", "ab13.png", "cd12.webp"):
        shelf.put(key, b"bytes")
    folder = shelf.path("ab12.png").parent
    (folder / ".0123456789abcdef.partial").write_bytes(b"half")
    (folder / "README").write_text("a person's own")

    assert shelf.keep_only({"ab12.png"}, untouched_seconds=60) == 0  # they are too young
    assert shelf.keep_only({"ab12.png"}, untouched_seconds=0) == 3

    assert sorted(path.name for path in folder.iterdir()) == ["README", "ab12.png"]
    assert not shelf.path("cd12.webp").exists()


def _kind(descriptor: int) -> str:
    import stat

    return "folder" if stat.S_ISDIR(os.fstat(descriptor).st_mode) else "file"

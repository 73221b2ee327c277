"""Bytes in a folder, each under a key, durable once `put` returns.

Keys are made by us, never by a caller; even so, one that could leave the folder is refused.
"""

import math
import os
import re
import secrets
import time
from collections.abc import Set
from pathlib import Path

KEY = re.compile(r"[A-Za-z0-9_-]{2,100}\.[a-z]{3,4}")
PARTIAL = re.compile(r"\.[0-9a-f]{16}\.partial")
OWNER_FILE = "owner"


class Shelf:
    """Blocking: call it from a thread."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder.resolve()
        self._folder.mkdir(parents=True, exist_ok=True)

    def put(self, key: str, data: bytes) -> None:
        """Write `data` under `key`: all of it, on the disk itself, or nothing."""
        path = self.path(key)
        if not path.parent.exists():
            path.parent.mkdir(exist_ok=True)
            _flush_folder(self._folder)
        partial = path.with_name(f".{secrets.token_hex(8)}.partial")
        try:
            with partial.open("xb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            partial.replace(path)
        except BaseException:
            partial.unlink(missing_ok=True)
            raise
        _flush_folder(path.parent)

    def path(self, key: str) -> Path:
        """Where `key` lies or would lie: in one of some hundred folders, by its beginning."""
        if not KEY.fullmatch(key):
            raise ValueError(f"not a key of the shelf: {key!r}")
        return self._folder / key[:2] / key

    def delete(self, key: str) -> None:
        """Whether or not it was there."""
        self.path(key).unlink(missing_ok=True)

    @property
    def owner(self) -> str | None:
        """Whose folder this is, as `own` wrote it; None if nobody's yet."""
        try:
            return (self._folder / OWNER_FILE).read_text().strip()
        except FileNotFoundError:
            return None

    def own(self, owner: str) -> None:
        partial = self._folder / f".{secrets.token_hex(8)}.partial"
        partial.write_text(f"{owner}\n")
        partial.replace(self._folder / OWNER_FILE)

    def keep_only(self, kept: Set[str], untouched_seconds: float) -> int:
        """Delete what has lain here for so long under any other key, and what a crash left half written. Returns how
        much it was.

        Files that are not ours stay.
        """
        oldest_kept = time.time() - untouched_seconds
        deleted = 0
        for path in self._folder.glob("??/*"):
            is_ours = KEY.fullmatch(path.name) or PARTIAL.fullmatch(path.name)
            if is_ours and path.name not in kept and _touched_at(path) <= oldest_kept:
                path.unlink(missing_ok=True)
                deleted += 1
        return deleted


def _touched_at(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except FileNotFoundError:
        return math.inf  # swept meanwhile


def _flush_folder(folder: Path) -> None:
    """A rename is on the disk only when its folder is."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)

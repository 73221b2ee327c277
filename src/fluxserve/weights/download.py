"""Brings one file over HTTP: goes on where it was cut off, now or at the next try, and keeps only what is whole.

It does not choose what is brought or where to, and asks no permission.
"""

import hashlib
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import httpx2

from fluxserve.weights.errors import PullError

PAUSES = (1.0, 3.0, 9.0, 27.0)  # seconds between tries that bring nothing
TIMEOUT = 30.0  # seconds without a byte
NOT_JUST_NOW = (408, 425, 429, 500, 502, 503, 504)
PART = ".part"


@dataclass(frozen=True, slots=True)
class Remote:
    """A file as its source tells of it. `name` is its place in a folder; `sha256` is None where none is told."""

    name: str
    url: str
    size: int
    sha256: str | None


class StatusError(Exception):
    """The source does not give the file; its status says why."""

    def __init__(self, status: int) -> None:
        super().__init__(f"it was answered with status {status}")
        self.status = status


class Downloads:
    """One client for many files. `on_bytes` is told how many more bytes are here, or fewer: some may be thrown away."""

    def __init__(self, on_bytes: Callable[[int], None], pauses: Sequence[float] = PAUSES) -> None:
        self._on_bytes = on_bytes
        self._pauses = pauses
        # It takes the token off when a redirect leads to another host, where signed addresses speak for themselves.
        self._client = httpx2.Client(follow_redirects=True, timeout=TIMEOUT)

    def close(self) -> None:
        self._client.close()

    def bring(self, remote: Remote, headers: Mapping[str, str], to: Path) -> None:
        """Have the file at `to`. Raises `StatusError`, or `PullError` when it is not what was told, or never comes."""
        to.parent.mkdir(parents=True, exist_ok=True)
        part = to.with_name(to.name + PART)
        tries = 0
        while not self._is_all(remote, part):
            had = size_of(part)
            try:
                self._go_on(remote, headers, part)
                break
            except (httpx2.TransportError, _NotJustNowError) as error:
                tries = 0 if size_of(part) > had else tries + 1  # a line that is cut again and again does get on
                if tries > len(self._pauses):
                    raise PullError(
                        f"{remote.name} can't be brought: {error or type(error).__name__}; what is here is kept, and "
                        "the next pull goes on from there"
                    ) from None
                time.sleep(self._pauses[max(tries - 1, 0)] if self._pauses else 0)
        self._check(remote, part)
        part.replace(to)

    def _is_all(self, remote: Remote, part: Path) -> bool:
        return part.is_file() and part.stat().st_size == remote.size

    def _go_on(self, remote: Remote, headers: Mapping[str, str], part: Path) -> None:
        had = size_of(part)
        # Compressed bytes could not be gone on with.
        asked = {**headers, "Accept-Encoding": "identity"} | ({"Range": f"bytes={had}-"} if had else {})
        with self._client.stream("GET", remote.url, headers=asked) as response:
            if response.status_code == 416:
                return  # there is no more of it: the check tells whether that is all
            if response.status_code in NOT_JUST_NOW:
                raise _NotJustNowError(f"it was answered with status {response.status_code}")
            if response.status_code not in (200, 206):
                raise StatusError(response.status_code)
            if response.headers.get("Content-Type", "").startswith("text/html"):
                raise StatusError(401)  # a page to log in at, where a file should be
            goes_on = response.status_code == 206
            if had and not goes_on:
                self._on_bytes(-had)
            with part.open("ab" if goes_on else "wb") as file:
                for chunk in response.iter_bytes():  # as they come: what waits to fill a chunk is lost with the line
                    file.write(chunk)
                    self._on_bytes(len(chunk))
                os.fsync(file.fileno())  # what is put in its place outlives a power loss

    def _check(self, remote: Remote, part: Path) -> None:
        if remote.sha256 is None:
            is_right = part.stat().st_size == remote.size
        else:
            with part.open("rb") as file:
                is_right = hashlib.file_digest(file, "sha256").hexdigest() == remote.sha256
        if not is_right:
            self._on_bytes(-size_of(part))
            part.unlink()
            raise PullError(
                f"{remote.name} is not what its source says it is (its checksum or size is another); it was removed. "
                "Pull again; if it happens again, something on the way changes it"
            )


class _NotJustNowError(Exception):
    pass


def size_of(path: Path) -> int:
    return path.stat().st_size if path.is_file() else 0

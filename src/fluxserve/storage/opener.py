"""Opens callers' pictures in processes that may die of them: see `open_picture`, the program that they run."""

import asyncio
import json
import struct
import sys
from asyncio.subprocess import PIPE, Process
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

PROGRAM = Path(__file__).with_name("open_picture.py")
PROCESSES = 2
SECONDS = 10.0  # for one picture
LENGTH = struct.Struct(">I")


class OpenError(Exception):
    """It is no picture that we open; the message says why, in words for the caller, and `file` which of several."""

    def __init__(self, message: str, file: int = 0) -> None:
        super().__init__(message)
        self.file = file


Mask = Literal["own", "alpha", "white", "clear"]
"""Where a picture is to be painted: where it is white or transparent itself, where it is transparent, where a second
picture is white, or where a second one is transparent."""


@dataclass(frozen=True, slots=True)
class Fit:
    """The size to bring a picture to: sides that are multiples, at most `longest`, and about so many `pixels`."""

    multiple: int
    longest: int
    pixels: int | None = None


@dataclass(frozen=True, slots=True)
class Opened:
    """A caller's picture as plain PNG: RGB, or RGBA if any of it is transparent; upright, without metadata.

    `mask`, if it was asked for, is a PNG of the same size: white where the picture is to be painted, else black.
    """

    png: bytes
    mask: bytes
    width: int
    height: int
    has_alpha: bool


class Opener:
    """At most `PROCESSES` pictures at once; the others wait. A process is started at the first need of it and kept."""

    def __init__(self, seconds: float = SECONDS) -> None:
        self._seconds = seconds
        self._places: asyncio.Queue[Process | None] = asyncio.Queue()
        for _ in range(PROCESSES):
            self._places.put_nowait(None)

    async def open(self, *files: bytes, mask: Mask | None = None, fit: Fit | None = None) -> Opened:
        """A picture; with a `mask`, from where that says; several, without one, become one side by side.

        Raises `OpenError`, also where there is nothing to paint.
        """
        wish = {"files": len(files), "mask": mask, "fit": fit and asdict(fit)}
        process = await self._places.get()
        try:
            if process is None or process.returncode is not None:
                process = await _started()
            async with asyncio.timeout(self._seconds):
                head, png, painted = await _asked(process, json.dumps(wish).encode(), *files)
        except BaseException as error:  # whatever it was, this process has half a conversation behind it
            if process is not None:
                await _ended(process)
            process = None
            if isinstance(error, TimeoutError):
                raise OpenError(f"it can't be opened within {self._seconds:g} s") from None
            if isinstance(error, (EOFError, ConnectionError)):
                raise OpenError("it can't be opened") from None
            raise
        finally:
            self._places.put_nowait(process)
        if "refused" in head:
            raise OpenError(head["refused"], head["file"])
        return Opened(png, painted, **head)

    async def stop(self) -> None:
        for _ in range(PROCESSES):
            process = await self._places.get()
            if process is not None:
                await _ended(process)


async def _started() -> Process:
    # Isolated: neither the environment nor the working folder can put a module before Pillow.
    return await asyncio.create_subprocess_exec(sys.executable, "-I", str(PROGRAM), stdin=PIPE, stdout=PIPE, env={})


async def _asked(process: Process, *question: bytes) -> tuple[dict[str, Any], bytes, bytes]:
    assert process.stdin is not None
    assert process.stdout is not None
    for part in question:
        process.stdin.write(LENGTH.pack(len(part)))
        process.stdin.write(part)
    await process.stdin.drain()
    parts = []
    for _ in range(3):
        (length,) = LENGTH.unpack(await process.stdout.readexactly(LENGTH.size))
        parts.append(await process.stdout.readexactly(length))
    return json.loads(parts[0]), parts[1], parts[2]


async def _ended(process: Process) -> None:
    if process.returncode is None:
        process.kill()
    await process.wait()

"""Pictures that are small to send and huge to open, and how little they do.

    python -m tests.storage.bombs --json bombs.json

Each is opened many times by the program that opens callers' pictures; the table says how long a refusal takes and how
much memory it takes at most.
"""

import argparse
import asyncio
import json
import statistics
import struct
import time
import zlib
from dataclasses import asdict, dataclass
from io import BytesIO
from pathlib import Path

from PIL import Image

from fluxserve.storage import opener as opening
from fluxserve.storage.opener import Opener, OpenError

MOST_SECONDS, MOST_BYTES = 0.05, 64 << 20


def png(width: int, height: int, *chunks: tuple[bytes, bytes]) -> bytes:
    """A PNG's head with any chunks after it."""
    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    parts = [
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        for name, data in ((b"IHDR", head), *chunks)
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def _animation(kind: str) -> bytes:
    file = BytesIO()
    frames = [Image.new("P", (2000, 2000), number) for number in range(60)]
    frames[0].save(file, kind, save_all=True, append_images=frames[1:])
    return file.getvalue()


def _avif() -> bytes:
    file = BytesIO()
    Image.new("RGB", (4000, 4000)).save(file, "AVIF", speed=10)
    return file.getvalue()


BOMBS = {
    "PNG of 144 megapixels": png(12_000, 12_000, (b"IDAT", zlib.compress(bytes(10_000)))),
    "PNG with a side of 100,000": png(100_000, 16, (b"IDAT", b"")),
    "PNG as large as there can be": png(2**31 - 1, 2**31 - 1, (b"IDAT", b"")),
    "PNG with a text of 200 MB": png(64, 64, (b"zTXt", b"a\0\0" + zlib.compress(bytes(200_000_000)))),
    "PNG with a profile of 200 MB": png(64, 64, (b"iCCP", b"a\0\0" + zlib.compress(bytes(200_000_000)))),
    "WebP of 16,383 by 16,383": b"RIFF\x1e\0\0\0WEBPVP8L\x11\0\0\0\x2f\xfe\xff\xff\x0f" + bytes(12),
    "GIF of 60 frames of 4 megapixels": _animation("GIF"),
    "AVIF of 16 megapixels": _avif(),
}


@dataclass(frozen=True)
class Refusal:
    """What one bomb did: `seconds` is the median, `most_bytes` the largest growth of the process's memory."""

    name: str
    sent_bytes: int
    seconds: float
    most_bytes: int
    why: str


async def measure(name: str, times: int) -> Refusal:
    """Open a bomb so many times, in a fresh process."""
    opener, data = Opener(), BOMBS[name]
    file = BytesIO()
    Image.new("RGB", (32, 32)).save(file, "PNG")
    for _ in range(opening.PROCESSES):
        await opener.open(file.getvalue())
    pids = [process.pid for process in opener._places._queue]  # type: ignore[attr-defined]
    before, taken, why = [_peak(pid) for pid in pids], [], ""
    for _ in range(times):
        began = time.perf_counter()
        try:
            await opener.open(data)
        except OpenError as error:
            why = str(error)
        taken.append(time.perf_counter() - began)
    growth = max(_peak(pid) - then for pid, then in zip(pids, before, strict=True))
    await opener.stop()
    if not why:
        raise AssertionError(f"{name} was opened")
    return Refusal(name, len(data), statistics.median(taken), growth, why)


def _peak(pid: int) -> int:
    """The most memory that a process ever had resident, in bytes."""
    status = Path(f"/proc/{pid}/status").read_text()
    return 1024 * int(next(line.split()[1] for line in status.splitlines() if line.startswith("VmHWM")))


async def measure_all(times: int) -> list[Refusal]:
    return [await measure(name, times) for name in BOMBS]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--times", type=int, default=50)
    parser.add_argument("--json", type=Path)
    chosen = parser.parse_args()
    refusals = asyncio.run(measure_all(chosen.times))
    for refusal in refusals:
        print(
            f"{refusal.name:36} {refusal.sent_bytes:9,} bytes  {1000 * refusal.seconds:6.1f} ms  "
            f"{refusal.most_bytes / 2**20:5.1f} MB  {refusal.why}"
        )
    if chosen.json:
        chosen.json.write_text(json.dumps([asdict(refusal) for refusal in refusals], indent=2) + "\n")
    if slow := [each.name for each in refusals if each.seconds > MOST_SECONDS or each.most_bytes > MOST_BYTES]:
        raise SystemExit(f"over {1000 * MOST_SECONDS:g} ms or {MOST_BYTES >> 20} MB: {', '.join(slow)}")


if __name__ == "__main__":
    main()

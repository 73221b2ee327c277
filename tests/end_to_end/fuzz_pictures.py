"""Damaged pictures, one after another, at a real server: each is drawn from or refused, and the server goes on.

    python -m tests.end_to_end.fuzz_pictures --minutes 10 --seed 1 --json fuzz.json

Good PNG, JPEG and WebP files of many kinds are flipped, cut, doubled and spliced; chunks of PNG get their checksums
anew, so that damage reaches the decoder. Every result comes in as a caller's would, in an img2img request. What is
taken for a picture after all is cancelled before it is drawn.
"""

import argparse
import base64
import json
import random
import struct
import tempfile
import time
import zlib
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path

import psutil
from PIL import Image

from tests.end_to_end.serving import Server, body, running

SENDERS = 4
TELLING = (0, 1, 0x7F, 0x80, 0xFF, 0x7FFF, 0x8000, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF)  # integers that break


@dataclass
class Report:
    """`wrong` is every answer that was neither 200 nor 400."""

    seed: int
    seconds: float = 0.0
    sent: int = 0
    taken: int = 0  # pictures after all
    refused: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)
    first_bytes: int = 0  # of the server's and its openers' memory, when half of the time was up
    last_bytes: int = 0

    def __str__(self) -> str:
        reasons = "\n".join(f"  {count:8,}  {reason}" for reason, count in self.refused.most_common(12))
        return (
            f"seed {self.seed}: {self.sent:,} damaged pictures in {self.seconds:.0f} s; {self.taken:,} could be drawn "
            f"from, {sum(self.refused.values()):,} were refused, {len(self.wrong)} answered otherwise; memory "
            f"{self.first_bytes >> 20} MB at half time, {self.last_bytes >> 20} MB at the end\n{reasons}"
        )


# ---------------------------------------------------------------- damage


def good_pictures() -> list[bytes]:
    """Files of every format and kind of pixel that is opened, and with metadata."""
    noise = Image.effect_noise((48, 40), 60)
    colours = Image.merge("RGB", (noise, noise.rotate(90, expand=False), Image.radial_gradient("L").resize((48, 40))))
    exif = Image.Exif()
    exif[0x0112], exif[0x010E] = 6, "turned"
    return [
        *(_encoded(colours.convert(mode), "PNG") for mode in ("RGB", "RGBA", "L", "LA", "P", "1", "I;16")),
        _encoded(colours, "PNG", exif=exif),
        _encoded(colours, "PNG", optimize=True),
        *(_encoded(colours.convert(mode), "JPEG") for mode in ("RGB", "L", "CMYK")),
        _encoded(colours, "JPEG", progressive=True, exif=exif),
        _encoded(colours, "WEBP"),
        _encoded(colours.convert("RGBA"), "WEBP", lossless=True, exif=exif),
    ]


def _encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    file = BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def flip(data: bytearray, chance: random.Random) -> None:
    for _ in range(chance.randint(1, 8)):
        data[chance.randrange(len(data))] = chance.randrange(256)


def cut(data: bytearray, chance: random.Random) -> None:
    del data[chance.randrange(len(data)) :]


def leave_out(data: bytearray, chance: random.Random) -> None:
    start = chance.randrange(len(data))
    del data[start : start + chance.randint(1, 64)]


def double(data: bytearray, chance: random.Random) -> None:
    start = chance.randrange(len(data))
    data[start:start] = data[start : start + chance.randint(1, 512)]


def put_integer(data: bytearray, chance: random.Random) -> None:
    number, kind = chance.choice(TELLING), chance.choice(("<H", ">H", "<I", ">I"))
    size = struct.calcsize(kind)
    start = chance.randrange(max(1, len(data) - size))
    data[start : start + size] = struct.pack(kind, number & (256**size - 1))


def append(data: bytearray, chance: random.Random) -> None:
    data += chance.randbytes(chance.randint(1, 2000))


DAMAGES: tuple[Callable[[bytearray, random.Random], None], ...] = (flip, cut, leave_out, double, put_integer, append)


def damaged(good: list[bytes], chance: random.Random) -> bytes:
    data = bytearray(chance.choice(good))
    if chance.random() < 0.1:
        other = chance.choice(good)
        data[chance.randrange(len(data)) :] = other[chance.randrange(len(other)) :]
    for _ in range(chance.randint(1, 4)):
        if data:
            chance.choice(DAMAGES)(data, chance)
    return with_checksums(bytes(data)) if chance.random() < 0.7 else bytes(data)


def with_checksums(data: bytes) -> bytes:
    """A PNG's chunks as they are, each with the checksum that it should have; what is no PNG stays as it is."""
    if not data.startswith(b"\x89PNG\r\n\x1a\n"):
        return data
    parts, at = [data[:8]], 8
    while at + 12 <= len(data):
        (length,) = struct.unpack_from(">I", data, at)
        chunk = data[at + 4 : at + 8 + length]
        parts.append(data[at : at + 4] + chunk + struct.pack(">I", zlib.crc32(chunk)))
        at += 12 + length
    return b"".join(parts) + data[at:]


# ---------------------------------------------------------------- sending


def run(folder: Path, minutes: float, seed: int) -> Report:
    """Send for so many minutes; the server must be the same process at the end, and draw."""
    report = Report(seed)
    with running(folder / "data", FLUXSERVE_REQUESTS_PER_MINUTE="0") as server:
        assert server.process is not None
        first, seconds, began = server.process.pid, minutes * 60, time.monotonic()
        with ThreadPoolExecutor(SENDERS) as pool:
            while (gone := time.monotonic() - began) < seconds:
                parts = [pool.submit(_send, server, seed * 1_000_003 + report.sent + k, 25) for k in range(SENDERS)]
                for part in parts:
                    _add(report, part.result())
                if not report.first_bytes and gone > seconds / 2:
                    report.first_bytes = _memory(first)
        report.seconds = time.monotonic() - began
        report.last_bytes = _memory(first)
        if server.process.poll() is not None or server.process.pid != first:
            report.wrong.append("the server ended")
        server.wait_until("/healthz", 5)
    return report


def _send(server: Server, seed: int, count: int) -> Report:
    chance, good, part = random.Random(seed), good_pictures(), Report(seed)
    with server.client() as client:
        for _ in range(count):
            picture = base64.b64encode(damaged(good, chance)).decode()
            answer = client.post("/api/v1/task", json={**body(image=picture), "task_type": "img2img"})
            part.sent += 1
            if answer.status_code == 200:
                part.taken += 1
                client.delete(f"/api/v1/task/{answer.json()['data']['task_id']}")
            elif answer.status_code == 400:
                part.refused[_reason(answer.json()["message"])] += 1
            else:
                part.wrong.append(f"{answer.status_code}: {answer.text[:200]}")
    return part


def _reason(message: str) -> str:
    """The kind of refusal, without its figures."""
    why = message.split("; ")[1]  # between the field with its value and what is allowed
    return "".join("0" if sign.isdigit() else sign for sign in why)[:80]


def _add(whole: Report, part: Report) -> None:
    whole.sent += part.sent
    whole.taken += part.taken
    whole.refused += part.refused
    whole.wrong += part.wrong


def _memory(pid: int) -> int:
    """Of a process and its children, but for the worker, which has nothing to do with it."""
    process = psutil.Process(pid)
    openers = [child for child in process.children() if "open_picture" in " ".join(child.cmdline())]
    return sum(each.memory_info().rss for each in (process, *openers))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", type=Path)
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        report = run(Path(folder), chosen.minutes, chosen.seed)
    print(report)
    if chosen.json:
        chosen.json.write_text(json.dumps(vars(report), indent=2) + "\n")
    if report.wrong:
        raise SystemExit("\n".join(report.wrong))


if __name__ == "__main__":
    main()

"""What crosses between the server and a worker process, and the frames it crosses in.

To the worker: `Job`, `Cancel`. From it: `Ready`, `Holds`, `Alive`, and for a job `Started`, `Progress`, then one
ending: `Done`, `Failed` or `Cancelled`. `Lost` is the ending that no worker sends: its executor says it of a worker
that died, hung or ran out of memory.

A frame is two big-endian 32-bit lengths (of everything that follows; of the JSON part), the JSON, then the bytes of the
pictures, callers', finished or a preview, one after another. There is no pickle: a frame can do nothing but be read.
"""

import json
import struct
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from fluxserve.domain.generation import Generation, from_json, to_json

LENGTH = struct.Struct(">I")
LARGEST_FRAME = 1 << 30


@dataclass(frozen=True, slots=True)
class Job:
    """One attempt to draw one task. Its id is the attempt's own, so that no word about an old one is taken for it."""

    id: str
    generation: Generation
    images: Mapping[str, bytes] = field(default_factory=dict)
    """The callers' pictures that the generation names, as plain PNG files, by their keys."""


@dataclass(frozen=True, slots=True)
class Cancel:
    """The wish to stop a job; heeded between steps."""

    job_id: str


@dataclass(frozen=True, slots=True)
class Ready:
    """The worker can draw, with the members of its family that it has loaded at once."""

    device: str
    members: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Holds:
    """The members that the worker has loaded now, for they have changed. Said before the ending of the job that did it:
    what comes next is chosen by them."""

    members: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Alive:
    """Said every few seconds, whatever else goes on."""

    doing: str


@dataclass(frozen=True, slots=True)
class Started:
    job_id: str


@dataclass(frozen=True, slots=True)
class Progress:
    """`step` of `steps` denoising steps are done, those of all the job's pictures together."""

    job_id: str
    step: int
    steps: int
    preview: bytes = b""
    """How the picture that is being drawn looks so far: a small PNG file. Empty where none was made."""


@dataclass(frozen=True, slots=True)
class Picture:
    """One finished picture, encoded."""

    data: bytes
    width: int
    height: int
    seed: int


@dataclass(frozen=True, slots=True)
class Done:
    """`seconds` is the worker's time on the job, from its start to the last encoded byte."""

    job_id: str
    pictures: tuple[Picture, ...]
    seconds: float


@dataclass(frozen=True, slots=True)
class Failed:
    job_id: str
    code: str
    message: str


@dataclass(frozen=True, slots=True)
class Cancelled:
    job_id: str


@dataclass(frozen=True, slots=True)
class Lost:
    """The worker is gone. `started` tells whether it had begun this job, and so may have been lost because of it."""

    job_id: str
    reason: str
    started: bool


Outcome = Done | Failed | Cancelled | Lost
Event = Ready | Holds | Alive | Started | Progress | Done | Failed | Cancelled
Message = Job | Cancel | Event

_CLASSES: dict[str, type[Any]] = {
    kind.__name__: kind for kind in (Job, Cancel, Ready, Holds, Alive, Started, Progress, Done, Failed, Cancelled)
}


def dump(message: Message) -> bytes:
    """The frame of a message, its length first."""
    blobs: list[bytes] = []
    if isinstance(message, Job):
        blobs = list(message.images.values())
        sizes = {key: len(image) for key, image in message.images.items()}
        values = {"id": message.id, "generation": to_json(message.generation), "images": sizes}
    elif isinstance(message, Done):
        blobs = [picture.data for picture in message.pictures]
        values = asdict(message) | {
            "pictures": [asdict(picture) | {"data": len(picture.data)} for picture in message.pictures]
        }
    elif isinstance(message, Progress):
        blobs = [message.preview]
        values = asdict(message) | {"preview": len(message.preview)}
    else:
        values = asdict(message)
    head = json.dumps([type(message).__name__, values]).encode()
    body = b"".join((LENGTH.pack(len(head)), head, *blobs))
    return LENGTH.pack(len(body)) + body


def load(body: bytes) -> Message:
    """The message of a frame, its first length taken off."""
    (size,) = LENGTH.unpack_from(body)
    start = LENGTH.size + size
    name, values = json.loads(body[LENGTH.size : start])
    if name == "Job":
        values["generation"] = from_json(values["generation"])
        for key, length in values["images"].items():
            values["images"][key] = body[start : start + length]
            start += length
    elif name == "Done":
        pictures = []
        for fields in values["pictures"]:
            end = start + fields["data"]
            pictures.append(Picture(**{**fields, "data": body[start:end]}))
            start = end
        values["pictures"] = tuple(pictures)
    elif name == "Progress":
        values["preview"] = body[start : start + values["preview"]]
    elif name in ("Ready", "Holds"):
        values["members"] = tuple(values["members"])
    message: Message = _CLASSES[name](**values)
    return message

"""A worker that draws nothing and does what the prompt says: a real process on a real pipe, started in no time.

Prompts are words by spaces, done in order: `wait`, `die`, `exit-70`, `hang`, `silent`, `garbage`, `huge`, `fail`,
`flag`, `load-MEMBER` (and let go of all others); any other is taken as the picture, unless the job has callers'
pictures: then they are. Arguments: how it behaves before it is ready.
"""

import os
import sys
import threading
import time

from fluxserve.domain import job as wire
from fluxserve.domain.job import (
    Alive,
    Cancel,
    Cancelled,
    Done,
    Failed,
    Holds,
    Job,
    Message,
    Picture,
    Progress,
    Ready,
    Started,
)

OUT = os.fdopen(os.dup(1), "wb")
LOCK = threading.Lock()
SILENT = threading.Event()
CANCELLED: set[str] = set()


def send(message: Message) -> None:
    with LOCK:
        OUT.write(wire.dump(message))
        OUT.flush()


def read() -> Message:
    start = sys.stdin.buffer.read(wire.LENGTH.size)
    if len(start) < wire.LENGTH.size:
        os._exit(0)
    return wire.load(sys.stdin.buffer.read(wire.LENGTH.unpack(start)[0]))


def say_alive() -> None:
    while not SILENT.is_set():
        send(Alive("scripted"))
        time.sleep(0.1)


def draw(job: Job) -> None:
    send(Started(job.id))
    for word in job.generation.kind.prompt.split():
        match word:
            case "wait":
                for _ in range(20):
                    time.sleep(0.02)
                    if job.id in CANCELLED:
                        send(Cancelled(job.id))
                        return
            case "die":
                os.kill(os.getpid(), 9)
            case "exit-70":
                os._exit(70)
            case "hang":
                time.sleep(3600)
            case "silent":
                SILENT.set()
                time.sleep(3600)
            case "garbage":
                with LOCK:
                    OUT.write(b"\0\0\0\6\0\0\0\2xx")
                    OUT.flush()
                time.sleep(3600)
            case "huge":
                with LOCK:
                    OUT.write(b"\xff\xff\xff\xff")
                    OUT.flush()
                time.sleep(3600)
            case "fail":
                send(Failed(job.id, "drawing_failed", "as the script says"))
                return
            case "flag":
                send(Failed(job.id, "flagged", "as the script says"))
                return
            case word if word.startswith("load-"):
                send(Holds((word.removeprefix("load-"),)))
    send(Progress(job.id, 1, 1))
    generation = job.generation
    data = b"".join(job.images.values()) or generation.kind.prompt.encode()
    pictures = tuple(Picture(data, generation.width, generation.height, seed) for seed in generation.seeds)
    send(Done(job.id, pictures, 0.0))


def main() -> None:
    if "never-ready" in sys.argv:
        os._exit(3)
    if "loads-forever" in sys.argv:
        time.sleep(3600)
    jobs: list[Job] = []
    has_job = threading.Semaphore(0)

    def listen() -> None:
        while True:
            match read():
                case Job() as job:
                    jobs.append(job)
                    has_job.release()
                case Cancel(job_id):
                    CANCELLED.add(job_id)

    threading.Thread(target=say_alive, daemon=True).start()
    threading.Thread(target=listen, daemon=True).start()
    send(Ready("script", ("schnell",)))
    while has_job.acquire():
        draw(jobs.pop(0))


if __name__ == "__main__":
    main()

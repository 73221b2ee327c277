"""The worker process: jobs in through standard input, events out through standard output, one picture after another.

    python -m fluxserve.engine.worker --family mini --mini-folder models/mini --device cpu --threads 1 \\
        --members schnell,dev

Four threads: one reads the pipe, the main one draws, one finishes pictures (looks at them, resamples, encodes, sends)
while the next is being drawn, one says Alive. The events of a job come in this order: Started, Progress after each
step, then Done, Failed or Cancelled; before that Holds, if other members are loaded now. A job cancelled before it
started has Cancelled alone. Ready is said once, when models are loaded, and Alive at any time, before Ready too. Now
and then a Progress brings a preview, but never of a picture's last step, nor where the family has a safety check.

It ends at once when its standard input ends, for then the server is gone: what it is drawing is the server's to give to
another. It ends also, with a status that says why, when memory ran out or the device failed, after which nothing in it
can be relied upon, and when it is sent what no server of ours sends. It decides nothing else: no retries, no order but
first come first.
"""

import argparse
import gc
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from queue import Queue
from threading import Thread
from typing import TYPE_CHECKING, NoReturn

from fluxserve.domain.catalog import ANNOTATORS, FAMILIES, LORA_FILES, MODELS, SAFETY, SHORTEST_SIDE
from fluxserve.domain.errors import DrawingFailed, Flagged
from fluxserve.domain.generation import Generation, TextToImage
from fluxserve.domain.job import Alive, Cancel, Cancelled, Done, Failed, Holds, Job, Progress, Ready, Started
from fluxserve.domain.speeds import ATTENTIONS, COMPILATIONS, SPEEDS, Attention, Compilation, SpeedName
from fluxserve.engine.finish import Drawn
from fluxserve.engine.line import FrameError, Line, take_standard_streams
from fluxserve.engine.memory import is_out_of_memory, keep_freed_memory
from fluxserve.engine.orders import Orders

if TYPE_CHECKING:
    from fluxserve.engine.engine import Engine, OnProgress, Preview

SERVER_GONE = 0
BAD_FRAME = 65
OUT_OF_MEMORY = 70
BROKEN = 71
USUAL_SIDE = 1024  # pixels of most pictures
ALIVE_SECONDS = 2.0
PREVIEW_SECONDS = 0.4  # at least, between two previews, and before the first: what is drawn sooner needs none
ENDS_OF_ALL = (MemoryError, BrokenPipeError)  # not the failure of one job
MOST_UNFINISHED = 1  # sets of pictures that wait to be encoded; with more the drawing waits


@dataclass(frozen=True, slots=True)
class SetUp:
    """`members` are loaded at the start, the family's others at their first use. `threads` 0 leaves it to torch.

    `weights_folder` is where a person's own weights lie, `lora_folder` their LoRAs. `speed`, `compilation` and
    `attention` are as the settings say; `compiled_folder` is where compiled networks are kept."""

    family: str
    mini_folder: Path
    weights_folder: Path | None
    lora_folder: Path | None
    device: str
    threads: int
    members: tuple[str, ...]
    speed: SpeedName
    compilation: Compilation
    compiled_folder: Path | None
    attention: Attention


@dataclass(frozen=True, slots=True)
class Unfinished:
    """A drawn job that has yet to be finished. `began` is on the monotonic clock, in seconds."""

    engine: "Engine"
    job: Job
    pictures: list[Drawn]
    began: float


def main() -> None:
    set_up = parse(sys.argv[1:])
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # ctrl-C reaches the whole group; the server decides what it means
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    Worker(take_standard_streams()).run(set_up)


def parse(arguments: list[str]) -> SetUp:
    parser = argparse.ArgumentParser(
        prog="python -m fluxserve.engine.worker", description="Draws pictures for a server."
    )
    parser.add_argument("--family", required=True, choices=sorted(FAMILIES))
    parser.add_argument(
        "--mini-folder", required=True, type=Path, help="where the weights that ship with fluxserve lie"
    )
    parser.add_argument("--weights-folder", type=Path, help="where weights of your own lie")
    parser.add_argument("--lora-folder", type=Path, help="where LoRAs of your own lie")
    parser.add_argument("--device", required=True, help="cpu, cuda:0, mps, or auto for the best there is")
    parser.add_argument("--threads", type=int, default=0, help="CPU threads; 0 leaves it to torch")
    parser.add_argument("--speed", default="exact", choices=SPEEDS, help="how much exactness may be given for time")
    parser.add_argument("--compilation", default="auto", choices=COMPILATIONS, help="whether blocks are compiled")
    parser.add_argument("--compiled-folder", type=Path, help="where compiled networks are kept")
    parser.add_argument("--attention", default="auto", choices=ATTENTIONS, help="the kernel of attention")
    parser.add_argument("--members", required=True, help="those of the family to load at the start, by commas")
    chosen = parser.parse_args(arguments)
    members = tuple(chosen.members.split(","))
    if unknown := set(members) - set(FAMILIES[chosen.family]):
        parser.error(f"--members: the {chosen.family} family has no {', '.join(sorted(unknown))}")
    return SetUp(**vars(chosen) | {"members": members})


def set_environment(set_up: SetUp) -> None:
    """What libraries read when they are imported."""
    # Threads that wait by spinning take a core each from whatever else the machine does: the small models become up to
    # sixty times slower on a busy one.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    os.environ["HF_HUB_OFFLINE"] = "1"  # what loads weights asks the hub for newer ones, unless it is told not to
    if set_up.compiled_folder:
        os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(set_up.compiled_folder))
    if not {"PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF", "PYTORCH_HIP_ALLOC_CONF"} & os.environ.keys():
        # Memory of the host's that a GPU reads by itself would else come in powers of two: 8.6 GB for 6.5.
        os.environ["PYTORCH_ALLOC_CONF"] = "pinned_max_round_threshold_mb:1"


def build_engine(set_up: SetUp) -> "Engine":
    """Imports torch, and so comes after the environment is set."""
    set_environment(set_up)
    keep_freed_memory()
    # Importing makes hundreds of thousands of objects that all stay: to look through them again and again for what is
    # left over would take a quarter of the time until the first picture.
    gc.disable()
    import diffusers
    import torch
    import transformers

    # diffusers' imports make it speak of torchvision, which nothing here needs.
    transformers.utils.logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    from fluxserve.engine.annotators import Annotators
    from fluxserve.engine.devices import find_one
    from fluxserve.engine.engine import Engine
    from fluxserve.engine.loras import Loras, finder
    from fluxserve.engine.needs import needs_of
    from fluxserve.engine.plan import plans
    from fluxserve.engine.safety import Safety
    from fluxserve.engine.sources import Sources
    from fluxserve.engine.tuning import tuned
    from fluxserve.engine.weights import Loader, device_named

    gc.freeze()  # not later: networks, which are loaded now, may have to go
    diffusers.utils.logging.disable_progress_bar()
    transformers.utils.logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    if set_up.threads:
        torch.set_num_threads(set_up.threads)
    rows, sources = FAMILIES[set_up.family], Sources(set_up.mini_folder, set_up.weights_folder)
    device, speed = device_named(set_up.device), SPEEDS[set_up.speed]
    use(str(device))
    watched = SAFETY[set_up.family]
    if watched:
        watched = replace(watched, classifier=str(sources.path(watched.classifier)))
    safety = Safety(watched, device) if watched else None  # before it is asked how much memory is free
    torch.compiler.config.cache_key_tag = set_up.attention  # what is kept of a compilation does not know of it
    told = find_one(device)
    tuning = tuned(device, speed, set_up.compilation, set_up.attention)
    loader = Loader(rows, sources, device, plans(needs_of(rows, sources), told, speed), tuning)
    loras = Loras(finder(LORA_FILES[set_up.family], sources, set_up.lora_folder))
    annotators = Annotators(ANNOTATORS[set_up.family], sources, device)
    engine = Engine(loader, loras, annotators, safety)
    while not _is_warm(engine, set_up.members):
        shrink(engine)
    gc.enable()
    return engine


def use(device: str) -> None:
    """Have this thread's work done there: what names no device means the current one."""
    import torch

    if device.startswith("cuda"):
        torch.cuda.set_device(device)


def _is_warm(engine: "Engine", members: tuple[str, ...]) -> bool:
    """False when memory ran out; `members` are loaded otherwise, as far as there is room, and all has run once."""

    def on_progress(_step: int, _steps: int, preview: "Preview") -> None:
        preview()

    try:
        engine.load(members)
        # The first picture in a process is the slow one, and so is the first preview: they shall not be a caller's. A
        # GPU also chooses its kernels anew for each size, so that it draws one of the usual size first.
        for side in (USUAL_SIDE, SHORTEST_SIDE) if engine.device.startswith("cuda") else (SHORTEST_SIDE,):
            if least := least_picture(members, side):
                engine.generate(least, {}, on_progress, is_cancelled=lambda: False)
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        return False
    return True


def shrink(engine: "Engine") -> None:
    """Raises `MemoryError` if it has no smaller plan."""
    if not engine.shrink():
        raise MemoryError(f"there is no smaller plan than: {engine.plan}")
    _say(f"there was too little memory on {engine.device}; from now on: {engine.plan}")


def steps_with_previews(steps: int, previews: int) -> set[int]:
    """The steps after which a promised preview is sent: evenly spread, fewer if there are too few steps."""
    return {max(1, steps * number // (previews + 1)) for number in range(1, previews + 1)} - {steps}


def least_picture(members: tuple[str, ...], side: int) -> Generation | None:
    """The least there is to draw of words in that size with one of `members`, if one draws words."""
    model = next((name for name, model in MODELS.items() if model.member in members), None)
    if model is None:
        return None
    return Generation(model, TextToImage("a circle"), side, side, steps=1, guidance_scale=3.5, seed=0)


class Worker:
    """One process's work, from loading to the end of the pipe."""

    def __init__(self, line: Line) -> None:
        self._line = line
        self._orders = Orders()
        self._unfinished: Queue[Unfinished] = Queue(MOST_UNFINISHED)
        self._doing = "loading"

    def run(self, set_up: SetUp) -> None:
        for work in (self._read, self._say_alive, self._finish_all):
            Thread(target=_vital, args=(work,), name=work.__name__, daemon=True).start()
        _vital(lambda: self._draw_all(set_up))

    def _read(self) -> None:
        while (message := self._line.receive()) is not None:
            match message:
                case Job():
                    self._orders.add(message)
                case Cancel(job_id):
                    if self._orders.cancel(job_id):
                        self._line.send(Cancelled(job_id))
                case _:
                    raise FrameError(f"{type(message).__name__} is not for workers")
        _leave(SERVER_GONE, "the server is gone")

    def _say_alive(self) -> None:
        while True:
            self._line.send(Alive(self._doing))
            time.sleep(ALIVE_SECONDS)

    def _draw_all(self, set_up: SetUp) -> None:
        engine = build_engine(set_up)
        _say(f"{engine.device}: {engine.plan}")
        self._line.send(Ready(engine.device, engine.members))
        while True:
            self._doing = "waiting"
            job = self._orders.next()
            self._doing = f"drawing {job.id}"
            self._draw(engine, job)

    def _draw(self, engine: "Engine", job: Job) -> None:
        from torch import AcceleratorError

        from fluxserve.engine.denoise import StoppedError
        from fluxserve.engine.sources import CannotDraw

        began = previewed_at = time.monotonic()
        self._line.send(Started(job.id))

        def on_progress(step: int, steps: int, preview: "Preview") -> None:
            nonlocal previewed_at
            steps_of_one = steps // job.generation.count
            step_of_one = step % steps_of_one  # 0 at its last: what follows is the picture itself
            if job.generation.previews:
                is_due = step_of_one in steps_with_previews(steps_of_one, job.generation.previews)
            else:
                is_due = step_of_one != 0 and time.monotonic() - previewed_at >= PREVIEW_SECONDS
            if is_due:
                previewed_at = time.monotonic()
                self._line.send(Progress(job.id, step, steps, preview()))
            else:
                self._line.send(Progress(job.id, step, steps))

        try:
            pictures = self._drawn(engine, job, on_progress)
        except StoppedError:
            self._line.send(Cancelled(job.id))
        except CannotDraw as error:
            _log(job, error)
            self._line.send(Failed(job.id, DrawingFailed.code, str(error)))
        except (*ENDS_OF_ALL, AcceleratorError):  # after the last, a device does nothing more for this process
            raise
        except Exception as error:
            self._line.send(_failed(job, error))
        else:
            self._unfinished.put(Unfinished(engine, job, pictures, began))

    def _drawn(self, engine: "Engine", job: Job, on_progress: "OnProgress") -> list[Drawn]:
        """With less memory if there was too little. Raises `MemoryError` where less can't be."""
        before = engine.members
        try:
            while (pictures := self._tried(engine, job, on_progress)) is None:
                shrink(engine)
            return pictures
        finally:  # also where the job failed: it may have loaded all the same
            if engine.members != before:
                self._line.send(Holds(engine.members))

    def _tried(self, engine: "Engine", job: Job, on_progress: "OnProgress") -> list[Drawn] | None:
        """None when memory ran out. Nothing of the try is left then: an exception that is kept keeps its tensors."""
        try:
            return engine.generate(job.generation, job.images, on_progress, self._orders.is_cancelled)
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            return None

    def _finish_all(self) -> None:
        while True:
            unfinished = self._unfinished.get()
            use(unfinished.engine.device)
            self._finish(unfinished)

    def _finish(self, unfinished: Unfinished) -> None:
        from torch import AcceleratorError

        from fluxserve.engine.safety import FlaggedError

        engine, job = unfinished.engine, unfinished.job
        try:
            pictures = tuple(engine.finish(drawn, job.generation, job.images) for drawn in unfinished.pictures)
        except FlaggedError as error:
            self._line.send(Failed(job.id, Flagged.code, str(error)))
        except (*ENDS_OF_ALL, AcceleratorError):
            raise
        except Exception as error:
            self._line.send(_failed(job, error))
        else:
            self._line.send(Done(job.id, pictures, time.monotonic() - unfinished.began))


def _failed(job: Job, error: Exception) -> Failed:
    """The details go to the log: they may name paths, and the message is read by callers."""
    _log(job, error)
    return Failed(job.id, DrawingFailed.code, f"the engine could not draw this ({type(error).__name__})")


def _log(job: Job, error: Exception) -> None:
    _say(f"job {job.id}: {''.join(traceback.format_exception(error))}")


def _say(words: str) -> None:
    print(words, file=sys.stderr, flush=True)


def _vital(work: Callable[[], None]) -> None:
    """Run one of the threads' work. None can go on alone: when it fails, the process ends."""
    try:
        work()
    except BrokenPipeError:
        _leave(SERVER_GONE, "the server is gone")
    except MemoryError as error:
        _leave(OUT_OF_MEMORY, f"out of memory: {error}")
    except FrameError as error:
        _leave(BAD_FRAME, f"cannot read what the server sent: {error}")
    except Exception:
        _leave(BROKEN, traceback.format_exc())


def _leave(status: int, reason: str) -> NoReturn:
    """End the process here and now, in the middle of whatever its other threads do."""
    _say(f"worker ends: {reason}")
    os._exit(status)


if __name__ == "__main__":
    main()

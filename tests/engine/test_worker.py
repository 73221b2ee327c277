"""The worker as a real child process, over the untaught family."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from io import BytesIO
from pathlib import Path

import pytest
from PIL import Image

from fluxserve.domain.generation import Generation, Lora
from fluxserve.domain.job import (
    LENGTH,
    Alive,
    Cancel,
    Cancelled,
    Done,
    Failed,
    Holds,
    Job,
    Message,
    Progress,
    Ready,
    Started,
    dump,
    load,
)
from fluxserve.engine.worker import BAD_FRAME, BROKEN, OUT_OF_MEMORY, PREVIEW_SECONDS, SERVER_GONE
from tests.engine.family import FLAGGED, build_classifier

ENDLESS = 100_000
"""Steps of a job that only a cancel ends."""


class Child:
    """The server's end of a worker."""

    def __init__(self, process: "subprocess.Popen[bytes]") -> None:
        self.process = process

    def send(self, *messages: Message) -> None:
        self.send_bytes(b"".join(map(dump, messages)))

    def send_bytes(self, data: bytes) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(data)
        self.process.stdin.flush()

    def receive_any(self) -> Message:
        assert self.process.stdout is not None
        (size,) = LENGTH.unpack(self.process.stdout.read(LENGTH.size))
        return load(self.process.stdout.read(size))

    def receive(self) -> Message:
        """The next message that is not merely a sign of life."""
        while isinstance(message := self.receive_any(), Alive):
            pass
        return message

    def receive_until(self, *last: type[Message]) -> list[Message]:
        messages = [self.receive()]
        while not isinstance(messages[-1], last):
            messages.append(self.receive())
        return messages

    def hang_up(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()

    def status(self) -> int:
        """How it ended, within seconds."""
        return self.process.wait(30)


Start = Callable[..., Child]


@pytest.fixture(scope="module")
def start(mini_folder: Path) -> Iterator[Start]:
    """Starts workers and ends them. `first` is run in the child before anything else."""
    processes: list[subprocess.Popen[bytes]] = []

    def start(first: str = "", members: str = "schnell", folder: Path = mini_folder, *, is_ready: bool = True) -> Child:
        program = f"{first}\nfrom fluxserve.engine.worker import main; main()"
        arguments = f"--family mini --mini-folder {folder} --device cpu --threads 1 --members {members}"
        command = [sys.executable, "-c", program, *arguments.split()]
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        processes.append(process)
        child = Child(process)
        if is_ready:
            assert child.receive() == Ready("cpu", tuple(members.split(",")))
        return child

    yield start
    for process in processes:
        process.kill()
        process.wait()
        for stream in (process.stdin, process.stdout):
            if stream is not None:
                stream.close()


@pytest.fixture(scope="module")
def child(start: Start) -> Child:
    """One worker for all tests that leave it idle: a start takes seconds."""
    return start()


def test_a_job_is_started_makes_progress_and_is_done(child: Child, circle: Generation) -> None:
    child.send(Job("task", replace(circle, width=1024, height=512, steps=3, count=2, seed=4)))
    started, *progress, done = child.receive_until(Done)
    assert started == Started("task")
    assert without_previews(progress) == [Progress("task", step, 6) for step in range(1, 7)]
    assert isinstance(done, Done)
    assert done.job_id == "task"
    assert done.seconds > 0
    assert [picture.seed for picture in done.pictures] == [4, 5]
    for picture in done.pictures:
        assert (picture.width, picture.height) == (1024, 512)
        with Image.open(BytesIO(picture.data)) as image:
            image.load()
            assert image.format == "PNG"
            assert image.size == (1024, 512)


def without_previews(messages: list[Message]) -> list[Message]:
    return [replace(message, preview=b"") if isinstance(message, Progress) else message for message in messages]


def previews(messages: list[Message]) -> list[bytes]:
    """One for each step, empty where none was made."""
    return [message.preview for message in messages if isinstance(message, Progress)]


AT_EVERY_STEP = "import fluxserve.engine.worker as w\nw.PREVIEW_SECONDS = 0.0\n"


def test_previews_are_small_pictures_of_every_step_but_the_last(start: Start, circle: Generation) -> None:
    child = start(AT_EVERY_STEP)
    child.send(Job("task", replace(circle, width=1024, height=512, steps=3, count=2)))
    first, second, none, *others = previews(child.receive_until(Done))
    assert first != second
    for preview in (first, second, *others[:2]):
        with Image.open(BytesIO(preview)) as image:
            assert image.format == "PNG"
            assert image.size == (22, 12)  # the drawing size in latents
    assert [none, *others[2:]] == [b"", b""]


def test_previews_are_no_more_frequent_than_they_may_be(child: Child, circle: Generation) -> None:
    began = time.monotonic()
    child.send(Job("long", replace(circle, steps=ENDLESS)))
    for count in (1, 2, 3):
        while not any(previews([child.receive()])):
            pass
        assert time.monotonic() - began >= count * PREVIEW_SECONDS
    child.send(Cancel("long"))
    child.receive_until(Cancelled)


def test_the_module_runs_by_its_name(mini_folder: Path) -> None:
    arguments = f"--family mini --mini-folder {mini_folder} --device cpu --members schnell,dev"
    command = [sys.executable, "-m", "fluxserve.engine.worker", *arguments.split()]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        child = Child(process)
        assert isinstance(child.receive_any(), Alive)  # said from the very start, while models load
        assert child.receive() == Ready("cpu", ("dev", "schnell"))
        child.hang_up()
        assert child.status() == SERVER_GONE


def test_a_model_not_loaded_at_the_start_is_loaded_when_needed_and_told_before_the_end(
    start: Start, circle: Generation
) -> None:
    child = start()
    dev = replace(circle, model="flux1-dev", guidance_scale=3.5)
    child.send(Job("task", dev))
    *_, holds, done = child.receive_until(Done, Failed)
    assert holds == Holds(("dev", "schnell"))
    assert isinstance(done, Done)

    child.send(Job("again", dev))
    assert not any(isinstance(message, Holds) for message in child.receive_until(Done, Failed))


def test_a_model_the_family_lacks_is_refused_at_once(start: Start) -> None:
    assert start(members="schnell,flux9", is_ready=False).status() == 2


def test_jobs_are_drawn_in_order_and_finished_while_the_next_is_drawn(start: Start, circle: Generation) -> None:
    slow_finish = (
        "import time, fluxserve.engine.finish as f\n"
        "encode = f.encode\n"
        "f.encode = lambda *a: (time.sleep(0.5), encode(*a))[1]"
    )
    child = start(slow_finish)
    child.send(*(Job(name, circle) for name in ("a", "b", "c")))
    messages = [message for _ in range(3) for message in child.receive_until(Done)]
    assert [message.job_id for message in messages if isinstance(message, Done)] == ["a", "b", "c"]
    assert [message.job_id for message in messages if isinstance(message, Started)] == ["a", "b", "c"]
    kinds = [(type(message), message.job_id) for message in messages if isinstance(message, Started | Done)]
    assert kinds.index((Started, "b")) < kinds.index((Done, "a"))


def test_a_job_being_drawn_is_cancelled_between_steps(child: Child, circle: Generation) -> None:
    child.send(Job("long", replace(circle, steps=ENDLESS)))
    child.receive_until(Progress)
    child.send(Cancel("long"), Job("next", circle))
    assert child.receive_until(Cancelled)[-1] == Cancelled("long")
    assert child.receive() == Started("next")
    assert isinstance(child.receive_until(Done)[-1], Done)


def test_a_waiting_job_is_cancelled_at_once(child: Child, circle: Generation) -> None:
    child.send(Job("long", replace(circle, steps=ENDLESS)))
    child.receive_until(Progress)
    child.send(Job("waiting", circle), Job("last", circle), Cancel("waiting"), Cancel("unknown"))
    assert child.receive_until(Cancelled)[-1] == Cancelled("waiting")
    child.send(Cancel("long"))
    assert child.receive_until(Cancelled)[-1] == Cancelled("long")
    assert child.receive() == Started("last")
    assert isinstance(child.receive_until(Done)[-1], Done)


def test_a_job_that_fails_does_not_spoil_the_next(child: Child, circle: Generation) -> None:
    child.send(Job("bad", replace(circle, model="flux1-dev", guidance_scale=None)), Job("good", circle))
    failed = child.receive_until(Failed)[-1]
    assert failed == Failed("bad", "drawing_failed", "the engine could not draw this (RuntimeError)")
    assert isinstance(child.receive_until(Done)[-1], Done)


def test_a_job_without_its_lora_says_so(child: Child, circle: Generation) -> None:
    child.send(Job("bad", replace(circle, lora=Lora("nobody", 1.0))), Job("good", circle))
    failed = child.receive_until(Failed)[-1]
    assert failed == Failed("bad", "drawing_failed", "LoRA nobody: there is none of this name here")
    assert isinstance(child.receive_until(Done)[-1], Done)


def test_a_flagged_picture_fails_its_job_with_a_code_of_its_own_and_is_never_previewed(
    start: Start, circle: Generation, tmp_path: Path
) -> None:
    everything = f"SafetyWeights('mini/{build_classifier(tmp_path)}', ({FLAGGED!r},), threshold=0.0)"
    watched = f"from fluxserve.domain.catalog import SAFETY, SafetyWeights\nSAFETY['mini'] = {everything}"
    child = start(AT_EVERY_STEP + watched)
    child.send(Job("bad", circle))
    *before, failed = child.receive_until(Failed)
    assert isinstance(failed, Failed)
    assert failed.code == "flagged"
    assert previews(before) == [b"", b""]


def test_a_picture_that_cannot_be_encoded_fails_alone(child: Child, circle: Generation) -> None:
    child.send(Job("bad", replace(circle, format="webp", width=20_000)), Job("good", circle))
    assert child.receive_until(Failed, Done)[-1] == Failed(
        "bad", "drawing_failed", "the engine could not draw this (ValueError)"
    )
    assert isinstance(child.receive_until(Done)[-1], Done)


def test_it_ends_while_loading_when_the_server_is_gone(start: Start) -> None:
    child = start("import time, diffusers; diffusers.AutoencoderKL.from_pretrained = time.sleep", is_ready=False)
    assert isinstance(child.receive_any(), Alive)
    child.hang_up()
    assert child.status() == SERVER_GONE


@pytest.mark.parametrize("data", [b"GET / HTTP/1.1\r\n", dump(Ready("cpu", ()))])
def test_garbage_ends_it(start: Start, data: bytes) -> None:
    child = start(is_ready=False)
    child.send_bytes(data)
    assert child.status() == BAD_FRAME


def test_what_libraries_made_is_frozen_but_networks_may_go(mini_folder: Path) -> None:
    """What is frozen is never freed, and a compiled network is freed by the garbage collector alone."""
    code = (
        "import gc, sys, fluxserve.engine.worker as worker\n"
        "engine = worker.build_engine(worker.parse(sys.argv[1:]))\n"
        "from fluxserve.engine.network import Transformer\n"
        "loaded = sum(isinstance(each, Transformer) for each in gc.get_objects())\n"
        "print(gc.isenabled(), gc.get_freeze_count() > 100_000, loaded)"
    )
    told = ("--family", "mini", "--mini-folder", str(mini_folder), "--device", "cpu", "--members", "schnell,dev")
    ended = subprocess.run([sys.executable, "-c", code, *told], capture_output=True, text=True, check=True)
    assert ended.stdout.strip() == "True True 2"


def test_without_weights_it_ends(start: Start, tmp_path: Path) -> None:
    assert start(folder=tmp_path, is_ready=False).status() == BROKEN


def failing(error: str, times: int) -> str:
    """A child's first words, after which pictures of several steps fail so many times."""
    return (
        "import torch, fluxserve.engine.engine as e\n"
        f"really, times = e.denoise, {times}\n"
        "def denoise(prepared, *more):\n"
        "    global times\n"
        "    if len(prepared.timesteps) > 1 and times > 0:\n"
        "        times -= 1\n"
        f"        raise {error}\n"
        "    return really(prepared, *more)\n"
        "e.denoise = denoise\n"
    )


TOO_LITTLE = "torch.OutOfMemoryError('CUDA out of memory')"


@pytest.mark.parametrize(
    ("error", "times", "status"),
    [
        ("MemoryError", 1, OUT_OF_MEMORY),
        (TOO_LITTLE, 99, OUT_OF_MEMORY),
        ("torch.AcceleratorError('CUDA error: an illegal memory access')", 1, BROKEN),
    ],
)
def test_what_leaves_nothing_to_rely_on_ends_it_with_a_status_of_its_own(
    start: Start, circle: Generation, error: str, times: int, status: int
) -> None:
    child = start(failing(error, times))
    child.send(Job("large", circle))
    assert child.status() == status


@pytest.mark.parametrize("times", [1, 2])
def test_a_device_that_ran_out_of_memory_draws_the_job_again_with_less(
    start: Start, circle: Generation, times: int
) -> None:
    child = start(failing(TOO_LITTLE, times))
    child.send(Job("large", circle), Job("next", circle))
    *events, done = child.receive_until(Done)
    assert isinstance(done, Done)
    assert done.job_id == "large"
    steps = [event.step for event in events if isinstance(event, Progress) and event.job_id == "large"]
    assert steps == [1, 2]
    assert child.receive_until(Done)[-1] != done


def test_an_interrupt_from_the_keyboard_is_not_its_business(child: Child, circle: Generation) -> None:
    os.kill(child.process.pid, signal.SIGINT)
    time.sleep(0.2)
    child.send(Job("task", circle))
    assert isinstance(child.receive_until(Done)[-1], Done)


@pytest.fixture(scope="module")
def noisy_child(start: Start) -> Child:
    """A worker whose libraries print and read at every picture, and that often says it is alive."""
    return start(
        "import os, sys, fluxserve.engine.engine as e, fluxserve.engine.worker as w\n"
        "denoise, w.ALIVE_SECONDS = e.denoise, 0.05\n"
        "def noisy(*a):\n"
        "    print('noise'), os.system('echo noise'), os.write(1, b'noise'), sys.stdin.read()\n"
        "    return denoise(*a)\n"
        "e.denoise = noisy"
    )


def test_what_libraries_print_and_read_is_not_the_frames(noisy_child: Child, circle: Generation) -> None:
    noisy_child.send(Job("a", circle), Job("b", circle))
    # The second may be drawn already while the first is still encoded.
    messages = [*noisy_child.receive_until(Done), *noisy_child.receive_until(Done)]
    for job_id in ("a", "b"):
        of_it = [type(message) for message in messages if getattr(message, "job_id", "") == job_id]
        assert of_it[-2:] == [Progress, Done]


def test_signs_of_life_tell_what_it_does(noisy_child: Child, circle: Generation) -> None:
    while noisy_child.receive_any() != Alive("waiting"):
        pass
    noisy_child.send(Job("long", replace(circle, steps=ENDLESS)))
    while noisy_child.receive_any() != Alive("drawing long"):
        pass


def test_it_ends_when_the_server_is_gone(start: Start, circle: Generation) -> None:
    child = start()
    child.send(Job("long", replace(circle, steps=ENDLESS)), Job("waiting", circle))
    child.receive_until(Progress)
    child.hang_up()
    assert child.status() == SERVER_GONE


def test_it_ends_when_it_is_told_to(start: Start) -> None:
    child = start(is_ready=False)
    assert child.receive_any() == Alive("loading")
    child.process.terminate()
    assert child.status() == -signal.SIGTERM

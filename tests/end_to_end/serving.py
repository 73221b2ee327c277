"""A real server process, for tests that need the whole house."""

import contextlib
import json
import os
import random
import signal
import socket
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import httpx2 as httpx

KEY = "the-key-of-the-tests"


class Server:
    """`python -m fluxserve` with its own data folder, at a port of its own."""

    def __init__(self, data_dir: Path, port: int, **environment: str) -> None:
        self.port = port
        self.url = f"http://127.0.0.1:{port}"
        self.log = data_dir.with_suffix(".log")
        self.data_dir = data_dir
        self._environment = {
            **os.environ,
            "FLUXSERVE_DATA_DIR": str(data_dir),
            "FLUXSERVE_PORT": str(port),
            "FLUXSERVE_API_KEY": KEY,
            **environment,
        }
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "fluxserve", "serve"], env=self._environment, stdout=log, stderr=log
            )

    def client(self) -> httpx.Client:
        return httpx.Client(base_url=self.url, headers={"X-API-Key": KEY}, timeout=30, trust_env=False)

    def wait_until(self, path: str, seconds: float = 60) -> None:
        """Until `path` answers 200: "/healthz" when it can draw."""
        deadline = time.monotonic() + seconds
        with self.client() as client:
            while time.monotonic() < deadline:
                assert self.process is None or self.process.poll() is None, self.log.read_text()
                with contextlib.suppress(httpx.TransportError):
                    if client.get(path).status_code == 200:
                        return
                time.sleep(0.05)
        raise AssertionError(f"{path} was not there after {seconds} s:\n{self.log.read_text()}")

    def rows(self, query: str) -> list[Any]:
        """What its database says, whether it runs or not."""
        with contextlib.closing(sqlite3.connect(self.data_dir / "fluxserve.sqlite")) as database:
            return database.execute(query).fetchall()

    def worker_pids(self) -> list[int]:
        """Every worker that draws for this data folder, those of a dead server too."""
        ours = f"FLUXSERVE_DATA_DIR={self.data_dir}".encode()
        return [pid for pid in all_pids() if b"fluxserve.engine.worker" in words(pid) and ours in words(pid, "environ")]

    def kill(self) -> None:
        """As a power switch would: no goodbye."""
        assert self.process is not None
        self.process.kill()
        self.process.wait()

    def stop(self, seconds: float = 60) -> int:
        """As a service manager would. Returns the exit status."""
        assert self.process is not None
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(seconds)


@contextlib.contextmanager
def running(data_dir: Path, **environment: str) -> Iterator[Server]:
    server = Server(data_dir, free_port(), **environment)
    server.start()
    try:
        server.wait_until("/healthz")
        yield server
    finally:
        if server.process is not None and server.process.poll() is None:
            server.kill()


def free_port() -> int:
    """Below those that the system gives to outgoing connections: while a server is down, nobody is given its port."""
    for port in random.sample(range(20_000, 32_000), 100):
        with contextlib.suppress(OSError), socket.create_server(("127.0.0.1", port)):
            return port
    raise AssertionError("100 ports were tried and none was free")


def all_pids() -> list[int]:
    return [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdecimal()]


def words(pid: int, file: str = "cmdline") -> list[bytes]:
    """A process's command line, or its environment; nothing if it has ended."""
    try:
        return Path(f"/proc/{pid}/{file}").read_bytes().split(b"\0")
    except (FileNotFoundError, ProcessLookupError, PermissionError):
        return []


def maps(pid: int) -> str:
    """Every file that a process has loaded."""
    return Path(f"/proc/{pid}/maps").read_text()


def still_running(pids: Iterable[int]) -> list[int]:
    """Those of `pids` whose processes have not ended; one that has, and waits to be buried, is not among them."""
    return [pid for pid in pids if _state(pid) not in ("", "Z", "X")]


def _state(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return ""


def until(happened: Callable[[], object], seconds: float, what: str) -> float:
    """Wait for something. Returns how long it took."""
    began = time.monotonic()
    while not happened():
        if time.monotonic() - began > seconds:
            raise AssertionError(f"not within {seconds} s: {what}")
        time.sleep(0.02)
    return time.monotonic() - began


def body(prompt: str = "a little cat", *, model: str = "Qubico/flux1-schnell", **fields: Any) -> dict[str, Any]:
    """A creating request's body; 256x256 unless told otherwise."""
    return {
        "model": model,
        "task_type": "txt2img",
        "input": {"prompt": prompt, "width": 256, "height": 256, **fields},
    }


def finished(client: httpx.Client, task_id: str, seconds: float = 60) -> dict[str, Any]:
    """The task's data once it is completed or failed."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        data: dict[str, Any] = client.get(f"/api/v1/task/{task_id}").json()["data"]
        if data["status"] in ("completed", "failed"):
            return data
        time.sleep(0.05)
    raise AssertionError(f"task {task_id} was not finished after {seconds} s: {json.dumps(data)}")

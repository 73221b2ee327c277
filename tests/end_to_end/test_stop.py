"""How a server and its workers end: nothing is lost, nothing waits, nothing is left behind (G5, G16)."""

import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from os import kill
from pathlib import Path

import pytest

from tests.end_to_end.serving import KEY, Server, body, finished, free_port, maps, running, still_running, until

STOP_SECONDS = 30  # the server's default


@pytest.fixture
def own(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Server]:
    """A server of this test's own, that can draw."""
    with running(tmp_path / "data", FLUXSERVE_THREADS="1", **getattr(request, "param", {})) as server:
        yield server


def submit(server: Server, count: int, batch_size: int = 1) -> list[str]:
    bodies = [body(f"circle {number}", steps=10, batch_size=batch_size) for number in range(count)]
    with server.client() as client:
        answers = [client.post("/api/v1/task", json=each) for each in bodies]
    return [answer.json()["data"]["task_id"] for answer in answers]


def test_a_stop_loses_nothing_and_what_waited_is_drawn_after_the_next_start(own: Server) -> None:
    task_ids = submit(own, 6, batch_size=4)  # some ten seconds of drawing
    until(lambda: own.rows("SELECT 1 FROM tasks WHERE state = 'processing'"), 30, "a task was being drawn")

    began = time.monotonic()
    assert own.stop() == 0
    assert time.monotonic() - began < STOP_SECONDS

    states = dict(own.rows("SELECT id, state FROM tasks"))
    assert set(states) == set(task_ids)
    assert set(states.values()) == {"completed", "pending"}  # none has a lease that a restart would wait for
    assert own.worker_pids() == []

    own.start()
    own.wait_until("/healthz")
    with own.client() as client:
        assert {finished(client, task_id)["status"] for task_id in task_ids} == {"completed"}
    assert own.rows("SELECT SUM(losses) FROM tasks") == [(0,)]


@pytest.mark.parametrize(
    "own", [{"FLUXSERVE_SILENCE_SECONDS": "1000", "FLUXSERVE_STOP_SECONDS": "1000"}], indirect=True
)
def test_a_second_signal_hurries_a_stop_that_waits_for_a_picture(own: Server) -> None:
    (worker,) = own.worker_pids()
    submit(own, 10, batch_size=4)
    until(lambda: own.rows("SELECT 1 FROM tasks WHERE step IS NOT NULL"), 30, "a picture was begun")
    kill(worker, signal.SIGSTOP)  # so that what it draws is never finished

    assert own.process is not None
    own.process.send_signal(signal.SIGTERM)
    until(lambda: "Finished server process" in own.log.read_text(), 30, "the server stopped listening")
    with pytest.raises(subprocess.TimeoutExpired):
        own.process.wait(1)
    own.process.send_signal(signal.SIGTERM)

    assert own.process.wait(10) == 0
    states = [state for (state,) in own.rows("SELECT state FROM tasks")]
    assert set(states) <= {"completed", "pending"}
    assert "pending" in states
    assert own.rows("SELECT SUM(losses) FROM tasks") == [(0,)]
    assert still_running([worker]) == []


def test_a_client_that_never_finishes_its_request_does_not_hold_up_a_stop(tmp_path: Path) -> None:
    server = Server(tmp_path / "data", free_port())
    server.start()
    server.wait_until("/api/docs")
    with socket.create_connection(("127.0.0.1", server.port)) as slow:
        head = f"POST /api/v1/task HTTP/1.1\r\nHost: localhost\r\nX-API-Key: {KEY}\r\nContent-Length: 9\r\n\r\n"
        slow.sendall(head.encode() + b"{")
        with server.client() as client:  # by its answer the server has read the other's bytes too
            assert client.get("/api/docs").status_code == 200

        assert server.stop(20) == 0


def test_a_second_server_is_refused_the_folder_of_the_first(server: Server) -> None:
    second = subprocess.run(
        [sys.executable, "-m", "fluxserve", "serve", "--data-dir", str(server.data_dir), "--port", str(free_port())],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )

    assert second.returncode == 1
    assert f"another fluxserve is using {server.data_dir}" in second.stderr
    assert "Traceback" not in second.stderr


def test_a_port_that_is_taken_is_refused_in_words(server: Server, tmp_path: Path) -> None:
    second = subprocess.run(
        [sys.executable, "-m", "fluxserve", "serve", "--data-dir", str(tmp_path), "--port", str(server.port)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )

    assert second.returncode == 1
    assert f"can't listen at 127.0.0.1 port {server.port}" in second.stderr
    assert "Traceback" not in second.stderr


@pytest.mark.parametrize("is_starting", [True, False], ids=["while it starts", "while it waits"])
def test_a_worker_does_not_outlive_its_killed_server(tmp_path: Path, is_starting: bool) -> None:
    server = Server(tmp_path / "data", free_port())
    server.start()
    server.wait_until("/api/docs" if is_starting else "/healthz")
    until(server.worker_pids, 30, "a worker was started")
    server.kill()

    until(lambda: not server.worker_pids(), 10, "the worker ended")


@pytest.mark.parametrize("own", [{"FLUXSERVE_SILENCE_SECONDS": "4"}], indirect=True)
def test_a_worker_that_hangs_is_replaced_and_its_task_drawn_by_the_next(own: Server) -> None:
    (hanging,) = own.worker_pids()
    kill(hanging, signal.SIGSTOP)
    (task_id,) = submit(own, 1)

    with own.client() as client:
        assert finished(client, task_id)["status"] == "completed"
    assert own.rows("SELECT attempt, losses FROM tasks") == [(2, 0)]  # it was never begun by the first
    assert still_running([hanging]) == []
    assert own.rows("SELECT COUNT(*) FROM ledger WHERE phase = 'settle'") == [(1,)]


def test_the_server_never_loads_torch_but_its_worker_does(server: Server) -> None:
    assert server.process is not None
    (worker,) = server.worker_pids()

    assert "libtorch" not in maps(server.process.pid)
    assert "libtorch" in maps(worker)

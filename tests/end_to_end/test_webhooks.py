"""A webhook's whole way: asked for at the door, sent by the server, looked up and sent again."""

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import pytest
from standardwebhooks import Webhook

from tests.end_to_end.serving import Server, body, finished, until

SECRET = "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD"


class Receiver(BaseHTTPRequestHandler):
    received: list[tuple[dict[str, str], bytes]] = []

    def do_POST(self) -> None:
        content = self.rfile.read(int(self.headers["content-length"]))
        self.received.append((dict(self.headers), content))
        self.send_response(204)
        self.end_headers()

    def log_message(self, *_arguments: object) -> None:
        pass


@pytest.fixture
def receiver() -> Iterator[str]:
    """Its address."""
    with HTTPServer(("127.0.0.1", 0), Receiver) as receiver:
        serving = threading.Thread(target=receiver.serve_forever, args=(0.05,))
        serving.start()
        yield f"http://127.0.0.1:{receiver.server_port}/hook"
        receiver.shutdown()
        serving.join()


def test_a_finished_task_is_told_of_and_can_be_told_of_again(server: Server, receiver: str) -> None:
    config = {"webhook_config": {"endpoint": receiver, "secret": SECRET}}
    with server.client() as client:
        created = client.post("/api/v1/task", json=body(steps=1) | {"config": config})
        task = finished(client, created.json()["data"]["task_id"])
        path = f"/api/v1/task/{task['task_id']}/webhook"
        until(lambda: len(client.get(path).json()["data"]["attempts"]) == 1, 30, "it was told of")

        assert client.post(path).status_code == 200
        until(lambda: len(client.get(path).json()["data"]["attempts"]) == 2, 30, "it was told of again")
        _cli(server, "resend", task["task_id"])
        until(lambda: len(client.get(path).json()["data"]["attempts"]) == 3, 30, "it was told of once more")

    log = _cli(server, "log", task["task_id"])
    assert [each["status"] for each in log["attempts"]] == [204] * 3
    assert len(Receiver.received) == 3
    for headers, content in Receiver.received:
        assert Webhook(SECRET).verify(content, headers)["data"] == task
        assert headers["webhook-id"] == log["id"]


def _cli(server: Server, command: str, task_id: str) -> Any:
    told = subprocess.run(
        [sys.executable, "-m", "fluxserve", "webhooks", command, task_id],
        env={**os.environ, "FLUXSERVE_DATA_DIR": str(server.data_dir)},
        capture_output=True,
        text=True,
        check=True,
    )
    return json.loads(told.stdout)

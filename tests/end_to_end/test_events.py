"""A task is followed to its end over the death of its server: nothing twice, no end missed (G18)."""

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path

import httpx2 as httpx

from tests.end_to_end.serving import body, running


def events(client: httpx.Client, task_id: str, last: int | None) -> Iterator[tuple[int, str, str]]:
    """(id, event, status) of each, until the server has no more or is gone."""
    headers = {} if last is None else {"Last-Event-ID": str(last)}
    with (
        contextlib.suppress(httpx.TransportError),
        client.stream("GET", f"/api/v1/task/{task_id}/events", headers=headers) as answer,
    ):
        event: dict[str, str] = {}
        for line in answer.iter_lines():
            if line.startswith(":"):
                continue
            if line:
                name, _, value = line.partition(": ")
                event[name] = value
            elif event:
                yield int(event["id"]), event["event"], json.loads(event["data"])["status"]
                event = {}


def test_a_task_is_followed_over_the_death_of_its_server(tmp_path: Path) -> None:
    with running(tmp_path / "data", FLUXSERVE_THREADS="1") as server, server.client() as client:
        sent = body(steps=10, batch_size=4, width=512, height=512)
        task_id = client.post("/api/v1/task", json=sent).json()["data"]["task_id"]
        heard = []
        for event in events(client, task_id, None):
            heard.append(event)
            if event[2] == "processing" and server.process and server.process.poll() is None:
                server.kill()
        assert "completed" not in {name for _, name, _ in heard}

        server.start()
        server.wait_until("/api/docs")
        with server.client() as again:
            heard += events(again, task_id, heard[-1][0])
            status = again.get(
                f"/api/v1/task/{task_id}/events", headers={"Last-Event-ID": str(heard[-1][0])}
            ).status_code

    assert [name for _, name, _ in heard[:-1]] == ["progress"] * (len(heard) - 1)
    assert heard[-1][1:] == ("completed", "completed")
    ids = [number for number, _, _ in heard]
    assert ids == sorted(set(ids))
    assert status == 204

"""Real servers on one PostgreSQL: how they start together, and what becomes of them when it is gone (G1, G12, G16)."""

import asyncio
import re
import signal
from collections.abc import Iterator
from pathlib import Path

import httpx2 as httpx
import pytest

from tests.end_to_end.serving import KEY, Server, body, free_port, until
from tests.end_to_end.text_model import relayed
from tests.postgresql import Postgres, postgres
from tests.relay.upstream import HELLO, stream, stub

BACK_SECONDS = 10  # after PostgreSQL
FIRST_POINTS = 10_000_000_000


@pytest.fixture(scope="module")
def database() -> Iterator[Postgres]:
    """One that may be killed."""
    with postgres() as server:
        yield server


def on(address: str, folder: Path, name: str, **environment: str) -> Server:
    pictures = {"FLUXSERVE_PICTURES_FOLDER": str(folder / "pictures")}
    return Server(
        folder / name,
        free_port(),
        **{"FLUXSERVE_DATABASE_URL": address, "FLUXSERVE_THREADS": "1"} | pictures | environment,
    )


@pytest.fixture
def address(database: Postgres) -> str:
    return database.fresh(template="template1")


@pytest.fixture
def two(address: str, tmp_path: Path) -> Iterator[tuple[Server, Server]]:
    """Started together on an empty database, without a key in their settings."""
    both = (
        on(address, tmp_path, "one", FLUXSERVE_API_KEY="", FLUXSERVE_STOP_SECONDS="1"),
        on(address, tmp_path, "two", FLUXSERVE_API_KEY="", FLUXSERVE_STOP_SECONDS="1"),
    )
    for server in both:
        server.start()
    try:
        for server in both:
            server.wait_until("/api/docs")
        yield both
    finally:
        for server in both:
            if server.process is not None and server.process.poll() is None:
                server.kill()


def shown_keys(server: Server) -> list[str]:
    return re.findall(r"API key: (fxs_[0-9a-f]{72})$", server.log.read_text(), re.MULTILINE)


def refusal_of(server: Server) -> str:
    """What a server says that does not start."""
    server.start()
    assert server.process is not None
    assert server.process.wait(60) == 1
    said = server.log.read_text()
    assert "Traceback" not in said
    return said


def test_servers_on_one_database_share_its_account_its_queue_and_its_fate(
    two: tuple[Server, Server], address: str, database: Postgres, tmp_path: Path
) -> None:
    (key,) = shown_keys(two[0]) + shown_keys(two[1])  # the other shows none
    headers = {"X-API-Key": key}
    with two[0].client() as one, two[1].client() as other:
        for client in (one, other):
            client.headers.update(headers)
        task_id = one.post("/api/v1/task", json=body()).json()["data"]["task_id"]
        assert other.get(f"/api/v1/task/{task_id}").status_code == 200

        stranger = on(address, tmp_path, "three", FLUXSERVE_PICTURES_FOLDER=str(tmp_path / "elsewhere"))
        assert "does not hold the pictures of this database; FLUXSERVE_PICTURES_FOLDER" in refusal_of(stranger)

        database.kill()
        answer = one.post("/api/v1/task", json=body(), headers={"Idempotency-Key": "one"})
        assert (answer.status_code, answer.headers["Retry-After"]) == (503, "5")
        assert "the database can't be reached just now" in answer.json()["message"]
        assert other.get("/files/" + "a" * 32 + ".png").status_code == 503
        assert "can't be used: " in refusal_of(on(address, tmp_path, "four"))

        database.start_again()
        for client in (one, other):
            until(lambda client=client: _takes(client), BACK_SECONDS, "it served again")  # type: ignore[misc]

        database.stop_at_once()
        for server in two:
            assert server.process is not None
            server.process.send_signal(signal.SIGTERM)
        assert [server.process.wait(60) for server in two if server.process is not None] == [0, 0]
        database.start_again()


def _takes(client: httpx.Client) -> bool:
    return client.post("/api/v1/task", json=body(), headers={"Idempotency-Key": "one"}).status_code == 200


def test_a_folder_of_another_databases_pictures_is_refused_to_sqlite_too(tmp_path: Path) -> None:
    (tmp_path / "pictures").mkdir()
    (tmp_path / "pictures" / "owner").write_text("another account's id\n")
    server = Server(tmp_path / "data", free_port(), FLUXSERVE_PICTURES_FOLDER=str(tmp_path / "pictures"))

    assert "holds the pictures of another database" in refusal_of(server)


def test_what_a_dead_server_was_relaying_is_released_by_another(address: str, tmp_path: Path) -> None:
    asyncio.run(_relayed_by_a_dead_server(address, tmp_path))


async def _relayed_by_a_dead_server(address: str, folder: Path) -> None:
    asked = {"model": "text", "messages": [{"role": "user", "content": "Hi"}], "stream": True}
    async with stub(stream(*HELLO, hangs=True)) as upstream:
        settings = relayed({"there": {"url": upstream.url}}, {"text": {"upstreams": ["there"], "output_usd": 1.0}})
        dying, living = (on(address, folder, name, FLUXSERVE_LEASE_SECONDS="2", **settings) for name in ("one", "two"))
        try:
            for server in (dying, living):
                server.start()
                await asyncio.to_thread(server.wait_until, "/api/docs")
            async with (
                httpx.AsyncClient(base_url=dying.url, headers={"X-API-Key": KEY}, trust_env=False) as client,
                client.stream("POST", "/v1/chat/completions", json=asked) as answer,
            ):
                task_id = answer.headers["x-task-id"]
                assert _points(living) < FIRST_POINTS
                dying.kill()
            await asyncio.to_thread(until, lambda: _points(living) == FIRST_POINTS, 20, "what was held is released")
            with living.client() as other:
                assert other.get(f"/api/v1/task/{task_id}").json()["data"]["status"] == "failed"
        finally:
            for server in (dying, living):
                if server.process is not None and server.process.poll() is None:
                    server.kill()


def _points(server: Server) -> int:
    with server.client() as client:
        return int(client.get("/account/info").json()["data"]["wallet"]["point_remain"])

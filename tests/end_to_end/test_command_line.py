"""The command line on the database of a server that runs, SQLite and PostgreSQL: what it does is heeded at once."""

import json
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2 as httpx
import pytest
from typer.testing import CliRunner, Result

from fluxserve.cli import app
from tests.end_to_end.serving import Server, body, finished, running, until
from tests.postgresql import Postgres


@dataclass
class House:
    """A running server, and the command line with the same settings."""

    server: Server
    environment: dict[str, str]

    def run(self, *arguments: str) -> Result:
        """In this process: to start one takes most of the time that a command does, and `test_cli` has done it."""
        return CliRunner().invoke(app, arguments, env=self.environment)

    def tell(self, *arguments: str) -> Any:
        """What a command that succeeds prints."""
        result = self.run(*arguments)
        assert (result.exit_code, result.stderr) == (0, "")
        return json.loads(result.stdout)

    def client(self, key: str) -> httpx.Client:
        return httpx.Client(base_url=self.server.url, headers={"X-API-Key": key}, timeout=30, trust_env=False)


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def house(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    if request.param == "sqlite":
        server: Server = request.getfixturevalue("server")
        yield House(server, {"FLUXSERVE_DATA_DIR": str(server.data_dir)})
    else:
        database: Postgres = request.getfixturevalue("postgresql")
        folder: Path = tmp_path_factory.mktemp("command_line")
        address = {"FLUXSERVE_DATABASE_URL": database.fresh()}
        with running(folder / "data", FLUXSERVE_THREADS="1", **address) as server:
            yield House(server, {**address, "FLUXSERVE_DATA_DIR": str(folder / "elsewhere")})


def test_accounts_and_keys_are_made_changed_and_revoked_while_a_server_runs(house: House) -> None:
    made = house.tell("accounts", "create", "studio", "--credits-usd", "0.5", "--max-concurrent", "1")
    key = house.tell("keys", "create", "--account", made["id"], "--name", "laptop")

    assert (made["name"], made["balance"], made["frozen"], made["max_concurrent"]) == ("studio", 5_000_000, 0, 1)
    assert made["id"] in [account["id"] for account in house.tell("accounts", "list")]
    secret = key.pop("key")
    assert house.tell("keys", "list", "--account", made["id"]) == [key]
    with house.client(secret) as client:
        assert client.get("/account/info").json()["data"]["wallet"]["point_remain"] == 5_000_000
        assert house.tell("accounts", "credit", made["id"], "--usd", "-0.1")["balance"] == 4_000_000
        assert client.get("/account/info").json()["data"]["wallet"]["point_remain"] == 4_000_000
        assert house.tell("accounts", "show", made["id"])["balance"] == 4_000_000
        revoked = house.tell("keys", "revoke", key["id"])
        assert revoked["revoked_at"] is not None
        until(lambda: client.get("/account/info").status_code == 401, 2, "the key that was revoked opened nothing")


def test_a_raised_limit_lets_the_server_draw_what_was_staged(house: House) -> None:
    account = house.tell("accounts", "create", "narrow", "--credits-usd", "1", "--max-concurrent", "1")["id"]
    with house.client(house.tell("keys", "create", "--account", account)["key"]) as client:
        # A task for workers that there are none of keeps the account's one place.
        waiting = {**body(), "config": {"service_mode": "private"}}
        assert client.post("/api/v1/task", json=waiting).json()["data"]["status"] == "pending"
        staged = client.post("/api/v1/task", json=body(steps=1)).json()["data"]
        assert staged["status"] == "staged"

        assert house.tell("accounts", "limit", account, "--max-concurrent", "2")["max_concurrent"] == 2

        assert finished(client, staged["task_id"])["status"] == "completed"
        client.delete("/api/v1/tasks")


def test_a_webhook_is_looked_up_and_sent_again(house: House) -> None:
    told = {**body(steps=1), "config": {"webhook_config": {"endpoint": "http://127.0.0.1:9/hook", "secret": "s"}}}
    with house.server.client() as client:
        task_id = finished(client, client.post("/api/v1/task", json=told).json()["data"]["task_id"])["task_id"]

    began, log = time.monotonic(), house.tell("webhooks", "log", task_id)
    while not log["attempts"] and time.monotonic() - began < 30:
        log = house.tell("webhooks", "log", task_id)

    assert log["url"] == "http://127.0.0.1:9/hook"
    assert (log["delivered_at"], log["attempts"][0]["status"]) == (None, None)
    assert log["attempts"][0]["error"]
    assert house.tell("webhooks", "resend", task_id)["id"] == log["id"]


def test_the_audit_of_a_server_that_runs_finds_nothing(house: House) -> None:
    result = house.run("audit")

    assert (result.exit_code, result.stdout, result.stderr) == (0, "all is well\n", "")

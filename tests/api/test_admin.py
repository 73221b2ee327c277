"""The operator's door: what it does, and to whom it stays closed."""

import hmac
import time
from collections.abc import AsyncIterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx2 as httpx
import pytest
from sqlalchemy import Engine, text

from fluxserve.api import admin
from fluxserve.domain.errors import Unavailable
from fluxserve.domain.task import Completed
from tests.api.conftest import ADMIN_KEY, KEY, Door, open_door, picture

pytestmark = pytest.mark.anyio

NOBODY = "00000000-0000-4000-8000-000000000000"


@pytest.fixture
async def operator(door: Door) -> AsyncIterator[httpx.AsyncClient]:
    async with door.client_with(ADMIN_KEY) as client:
        yield client


async def routes(door: Door, app: str) -> list[tuple[str, str]]:
    """The method and path of everything under `app`, with ids of nobody."""
    paths: dict[str, Any] = (await door.client.get(f"{app}/openapi.json")).json()["paths"]
    return [
        (method.upper(), app + path.format(account_id=NOBODY, key_id=NOBODY, task_id=NOBODY))
        for path, operations in paths.items()
        for method in operations
    ]


async def test_an_account_is_opened_shown_and_listed(door: Door, operator: httpx.AsyncClient) -> None:
    made = (
        await operator.post("/admin/accounts", json={"name": "studio", "credits_usd": 2.5, "max_concurrent": 3})
    ).json()

    assert made == {
        "id": made["id"], "name": "studio", "balance": 25_000_000, "frozen": 0, "max_concurrent": 3,
        "created_at": made["created_at"],
    }  # fmt: skip
    assert abs(made["created_at"] - time.time()) < 60
    assert (await operator.get(f"/admin/accounts/{made['id']}")).json() == made
    assert [account["id"] for account in (await operator.get("/admin/accounts")).json()] == [
        door.account_id,
        made["id"],
    ]


async def test_an_account_needs_no_more_than_a_name(operator: httpx.AsyncClient) -> None:
    made = (await operator.post("/admin/accounts", json={"name": "studio"})).json()

    assert (made["balance"], made["max_concurrent"]) == (0, 16)


async def test_credit_is_added_and_taken_back(door: Door, operator: httpx.AsyncClient) -> None:
    path = f"/admin/accounts/{door.account_id}/credit"

    assert (await operator.post(path, json={"usd": 1.5})).json()["balance"] == 25_000_000
    assert (await operator.post(path, json={"usd": -2})).json()["balance"] == 5_000_000
    refused = await operator.post(path, json={"usd": -1})

    assert refused.status_code == 400
    assert refused.json() == {
        "error": "usd: -1.0 is not allowed; its balance is US$ 0.50, and allowed is one from 0 to 1,000,000,000"
    }


async def test_a_raised_limit_lets_a_staged_task_go_on(door: Door, operator: httpx.AsyncClient) -> None:
    path = f"/admin/accounts/{door.account_id}/limit"
    assert (await operator.post(path, json={"max_concurrent": 1})).json()["max_concurrent"] == 1
    await door.create()
    staged = await door.create()
    assert (await door.data(staged))["status"] == "staged"
    door.queue.signals.wake.clear()

    assert (await operator.post(path, json={"max_concurrent": 2})).json()["max_concurrent"] == 2

    assert (await door.data(staged))["status"] == "pending"


async def test_a_key_is_made_shown_once_listed_and_revoked(door: Door, operator: httpx.AsyncClient) -> None:
    path = f"/admin/accounts/{door.account_id}/keys"
    made = (await operator.post(path, json={"name": "laptop"})).json()
    key = made.pop("key")

    assert made == {
        "id": made["id"], "account_id": door.account_id, "name": "laptop", "created_at": made["created_at"],
        "revoked_at": None,
    }  # fmt: skip
    async with door.client_with(key) as client:
        assert (await client.get("/account/info")).status_code == 200
        listed = await operator.get(path)
        assert key not in listed.text
        assert listed.json()[-1] == made
        revoked = (await operator.delete(f"/admin/keys/{made['id']}")).json()
        assert {**revoked, "revoked_at": None} == made
        assert revoked["revoked_at"] >= made["created_at"]
        assert (await client.get("/account/info")).status_code == 401
    assert (await door.client.get("/account/info")).status_code == 200


async def test_what_the_operator_sends_again_is_done_once(each_door: Door) -> None:
    door, key = each_door, {"Idempotency-Key": "once"}
    path = f"/admin/accounts/{door.account_id}/credit"
    async with door.client_with(ADMIN_KEY) as operator:
        first = await operator.post(path, json={"usd": 1.5}, headers=key)
        assert (await operator.post(path, json={"usd": 1.5})).json()["balance"] == 40_000_000
        again = await operator.post(path, json={"usd": 1.5}, headers=key)
        other = await operator.post(path, json={"usd": 2.5}, headers=key)
        account = {"name": "studio", "credits_usd": 1}
        elsewhere = await operator.post("/admin/accounts", json=account, headers=key)
        made = [
            await operator.post("/admin/accounts", json=account, headers={"Idempotency-Key": "new"}) for _ in range(2)
        ]

        assert first.json()["balance"] == 25_000_000
        assert again.content == first.content
        assert (other.status_code, elsewhere.status_code) == (422, 422)
        assert made[0].content == made[1].content
        assert len((await operator.get("/admin/accounts")).json()) == 2
        assert (await door.accounts.get(door.account_id)).balance == 40_000_000
        door.clock.ahead = 24 * 3600 + 1
        assert (await operator.post(path, json={"usd": 1.5}, headers=key)).json()["balance"] == 55_000_000


async def test_a_key_that_was_shown_is_not_shown_again(door: Door, operator: httpx.AsyncClient) -> None:
    path, once = f"/admin/accounts/{door.account_id}/keys", {"Idempotency-Key": "once"}
    made = (await operator.post(path, json={}, headers=once)).json()

    again = await operator.post(path, json={}, headers=once)

    assert again.status_code == 409
    assert made["id"] in again.json()["error"]
    assert made["key"] not in again.text
    assert [key["id"] for key in (await operator.get(path)).json()].count(made["id"]) == 1


async def test_any_tasks_webhook_is_shown_and_sent_again(door: Door, operator: httpx.AsyncClient) -> None:
    task_id = await door.create_told()
    path = f"/admin/tasks/{task_id}/webhook"
    assert (await operator.get(path)).status_code == 404  # it has not ended
    await door.end(task_id, Completed((picture("a"),)))
    log = (await operator.get(path)).json()

    assert log == {
        "id": log["id"], "url": "https://receiver.test/hook", "created_at": log["created_at"],
        "next_at": log["created_at"], "delivered_at": None, "attempts": [],
    }  # fmt: skip
    door.clock.ahead = 100
    again = (await operator.post(path)).json()
    assert again["id"] == log["id"]
    assert again["next_at"] >= log["next_at"] + 100
    assert door.queue.signals.post.is_set()


async def test_the_audit_says_what_does_not_hold(door: Door, operator: httpx.AsyncClient, sqlite: Engine) -> None:
    assert (await operator.get("/admin/audit")).json() == []
    with sqlite.begin() as connection:
        connection.execute(text("UPDATE accounts SET balance = balance + 1"))

    findings = (await operator.get("/admin/audit")).json()

    assert findings == [f"not true: an account's balance is the sum of its ledger ({door.account_id})"]
    with sqlite.begin() as connection:
        connection.execute(text("UPDATE accounts SET balance = balance - 1"))


@pytest.mark.parametrize("key", [None, KEY, ADMIN_KEY + "x", ADMIN_KEY[:-1], "é"], ids=ascii)
async def test_no_other_key_opens_any_of_its_routes(door: Door, key: str | None) -> None:
    headers = {} if key is None else {b"X-API-Key": key.encode("latin-1")}
    async with door.client_with(None) as client:
        for method, path in await routes(door, "/admin"):
            answer = await client.request(method, path, json={"name": "x"}, headers=headers)
            assert (method, path, answer.status_code) == (method, path, 401)
            assert answer.json().keys() == {"error"}
    assert len(await door.accounts.all()) == 1


async def test_without_an_admin_key_in_the_settings_it_is_closed_to_everybody(sqlite: Engine, tmp_path: Path) -> None:
    async with open_door(sqlite, tmp_path, admin_key=None) as door:
        for key in (ADMIN_KEY, KEY, "None", ""):
            async with door.client_with(key) as client:
                for method, path in await routes(door, "/admin"):
                    assert (await client.request(method, path, json={})).status_code == 401


async def test_the_admin_key_opens_no_route_of_tasks(door: Door, operator: httpx.AsyncClient) -> None:
    for app in ("/api", "/account"):
        for method, path in await routes(door, app):
            assert (method, path, (await operator.request(method, path)).status_code) == (method, path, 401)


async def test_the_key_may_come_as_a_bearer(door: Door) -> None:
    async with door.client_with(None) as client:
        answer = await client.get("/admin/audit", headers={"Authorization": f"Bearer {ADMIN_KEY}"})

    assert answer.status_code == 200


async def test_keys_are_compared_in_constant_time(
    door: Door, operator: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    compared = []

    def compare_digest(one: bytes, other: bytes) -> bool:
        compared.append((one, other))
        return hmac.compare_digest(one, other)

    monkeypatch.setattr(admin, "hmac", SimpleNamespace(compare_digest=compare_digest))

    await operator.get("/admin/audit")
    await door.client.get("/admin/audit")

    assert compared == [(ADMIN_KEY.encode(), ADMIN_KEY.encode()), (KEY.encode(), ADMIN_KEY.encode())]


@pytest.mark.parametrize(
    ("path", "body", "field", "allowed"),
    [
        ("", {"name": "x", "balance": 5}, "balance", "name, credits_usd, max_concurrent"),
        ("", {"name": "x", "id": "mine"}, "id", "name, credits_usd, max_concurrent"),
        ("/{id}/credit", {"usd": 1, "to": "me"}, "to", "allowed are usd"),
        ("/{id}/limit", {"max_concurrent": 1, "max_concurent": 2}, "max_concurent", "allowed are max_concurrent"),
        ("/{id}/keys", {"key": "mine"}, "key", "allowed are name"),
        ("", {}, "name", "a text"),
        ("", {"name": 7}, "name", "a text"),
        ("", {"name": "a\0b"}, "name", "printable"),
        ("", {"name": "n" * 201}, "name", "200"),
        ("", {"name": "x", "credits_usd": "5"}, "credits_usd", "US dollars"),
        ("", {"name": "x", "credits_usd": -1}, "credits_usd", "US$ 0 to 1,000,000,000"),
        ("", {"name": "x", "credits_usd": 1e10}, "credits_usd", "1,000,000,000"),
        ("", {"name": "x", "max_concurrent": 0}, "max_concurrent", "1 to 100,000"),
        ("", {"name": "x", "max_concurrent": 1.5}, "max_concurrent", "a whole number"),
        ("/{id}/credit", {}, "usd", "US dollars"),
        ("/{id}/credit", {"usd": True}, "usd", "US dollars"),
        ("/{id}/limit", {"max_concurrent": 100_001}, "max_concurrent", "1 to 100,000"),
        ("/{id}/keys", {"name": None}, "name", "a text"),
    ],
)
async def test_a_wrong_field_is_refused_by_name_value_and_what_is_allowed(
    door: Door, operator: httpx.AsyncClient, path: str, body: dict[str, Any], field: str, allowed: str
) -> None:
    before = await door.accounts.all(), await door.accounts.keys(door.account_id)

    answer = await operator.post(f"/admin/accounts{path.format(id=door.account_id)}", json=body)

    assert answer.status_code == 400
    assert answer.json().keys() == {"error"}
    assert answer.json()["error"].startswith(f"{field}: ")
    assert allowed in answer.json()["error"]
    assert (await door.accounts.all(), await door.accounts.keys(door.account_id)) == before


@pytest.mark.parametrize("unknown", [NOBODY, "nobody", "%00", "%ff"])
async def test_what_is_not_there_is_a_404(each_door: Door, unknown: str) -> None:
    async with each_door.client_with(ADMIN_KEY) as operator:
        for method, path, body in (
            ("GET", "accounts/{id}", None),
            ("POST", "accounts/{id}/credit", {"usd": 1}),
            ("POST", "accounts/{id}/limit", {"max_concurrent": 1}),
            ("POST", "accounts/{id}/keys", {}),
            ("GET", "accounts/{id}/keys", None),
            ("DELETE", "keys/{id}", None),
            ("GET", "tasks/{id}/webhook", None),
            ("POST", "tasks/{id}/webhook", None),
            ("GET", "nothing/{id}", None),
        ):
            answer = await operator.request(method, f"/admin/{path.format(id=unknown)}", json=body)
            assert (path, answer.status_code) == (path, 404)
            assert answer.json().keys() == {"error"}


async def test_a_method_that_a_route_has_not_is_refused_with_those_that_it_has(operator: httpx.AsyncClient) -> None:
    answer = await operator.put("/admin/audit")

    assert (answer.status_code, answer.headers["allow"]) == (405, "GET")


async def test_a_large_body_and_one_that_is_no_json_are_refused(operator: httpx.AsyncClient) -> None:
    assert (await operator.post("/admin/accounts", content=b"x" * 100_001)).status_code == 413
    assert (await operator.post("/admin/accounts", content=b"{")).status_code == 400


async def test_faults_are_told_without_details_and_a_database_that_is_away_with_when_to_come_back(
    door: Door, operator: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers = []
    for error in (Unavailable("the database did not take it"), RuntimeError("secret detail")):

        async def broken(error: Exception = error) -> None:
            raise error

        monkeypatch.setattr(door.queue, "audit", broken)
        answers.append(await operator.get("/admin/audit"))
        monkeypatch.undo()

    assert [answer.status_code for answer in answers] == [503, 500]
    assert int(answers[0].headers["retry-after"]) > 0
    assert "secret" not in answers[1].text

"""What a caller's webhook says, its log, sending it again, and which addresses and secrets are refused."""

import json
import re
from typing import Any

import pytest

from fluxserve.api.dialects.piapi import webhook_body
from fluxserve.domain.task import Completed, Ending, Errored, Output
from tests.api.conftest import Door, cat

pytestmark = pytest.mark.anyio

HOOK = "https://receiver.test/hook"
NEVER = "0001-01-01T00:00:00Z"
PICTURE = Output("a" * 32, "aa.png", "image/png", 3, 256, 256, 1, 1e12)
ENDINGS: list[Ending] = [Completed((PICTURE,)), Errored("drawing_failed", "it broke"), Errored("cancelled", "by you")]


def asking(endpoint: Any, secret: Any = "a secret") -> dict[str, object]:
    return {**cat(), "config": {"webhook_config": {"endpoint": endpoint, "secret": secret}}}


async def create(door: Door, endpoint: Any = HOOK, secret: Any = "a secret") -> str:
    answer = await door.client.post("/api/v1/task", json=asking(endpoint, secret))
    assert answer.status_code == 200, answer.text
    task_id: str = answer.json()["data"]["task_id"]
    return task_id


@pytest.mark.parametrize("ending", ENDINGS)
async def test_a_webhook_says_what_a_poll_would(door: Door, ending: Ending) -> None:
    task_id = await create(door)
    task = await door.end(task_id, ending)

    body = webhook_body(task, 1_700_000_000.9, lambda output: f"http://pictures.test/files/{output.id}.png")

    polled = (await door.client.get(f"/api/v1/task/{task_id}")).json()
    assert json.loads(body) == {"timestamp": 1_700_000_000, "data": polled["data"]}


async def test_the_outbox_has_it_as_the_door_took_it(door: Door) -> None:
    task_id = await create(door, "https://Receiver.TEST:443/Hook?a=b", "whsec_c2VjcmV0")
    await door.end(task_id, ENDINGS[0])

    (letter,), _ = await door.outbox.take(30, {}, most_of_one=8, most=512)

    assert (letter.task_id, letter.secret, letter.origin) == (task_id, "whsec_c2VjcmV0", "https://receiver.test")
    assert letter.url == "https://receiver.test/Hook?a=b"
    data = (await door.client.get(f"/api/v1/task/{task_id}")).json()["data"]
    assert data["config"]["webhook_config"]["endpoint"] == "https://Receiver.TEST:443/Hook?a=b"


async def test_the_log_has_every_attempt_and_is_the_same_for_a_resend(door: Door) -> None:
    task_id = await create(door)
    await door.end(task_id, ENDINGS[0])
    path = f"/api/v1/task/{task_id}/webhook"
    outbox = door.outbox

    (letter,), _ = await outbox.take(30, {}, most_of_one=8, most=512)
    await outbox.record(letter, 0.12345, None, "no HTTP answer", is_delivered=False, next_in=0)
    (letter,), _ = await outbox.take(30, {}, most_of_one=8, most=512)
    await outbox.record(letter, 1.5, 200, None, is_delivered=True, next_in=None)

    answer = (await door.client.get(path)).json()
    first, second = answer["data"]["attempts"]
    assert answer == {
        "code": 200,
        "data": {
            "id": letter.id,
            "endpoint": HOOK,
            "created_at": answer["data"]["created_at"],
            "delivered_at": second["at"],
            "next_at": NEVER,
            "attempts": [
                {"at": first["at"], "seconds": 0.123, "status": 0, "error": "no HTTP answer"},
                {"at": second["at"], "seconds": 1.5, "status": 200, "error": ""},
            ],
        },
        "message": "success",
    }
    assert all(re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z", each["at"]) for each in (first, second))

    door.outbox.signals.post.clear()
    again = (await door.client.post(path)).json()
    assert again["data"]["next_at"] != NEVER
    assert again["data"] == {**answer["data"], "delivered_at": NEVER, "next_at": again["data"]["next_at"]}
    assert (await door.client.get(path)).json() == again
    assert door.outbox.signals.post.is_set()
    (letter,), _ = await outbox.take(30, {}, most_of_one=8, most=512)
    assert (letter.task_id, letter.attempt) == (task_id, 3)


async def test_the_log_does_not_tell_the_secret(door: Door) -> None:
    task_id = await create(door, secret="canary")
    await door.end(task_id, ENDINGS[0])

    assert "canary" not in (await door.client.get(f"/api/v1/task/{task_id}/webhook")).text


@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_there_is_none_for_a_stranger_nor_before_the_end_nor_without_a_webhook(door: Door, method: str) -> None:
    stranger = await door.accounts.create("stranger", credits_usd=1, max_concurrent=1)
    _, key = await door.accounts.create_key(stranger.id, "")
    ended, waiting, silent = await create(door), await create(door), await door.create()
    await door.end(ended, ENDINGS[0])
    await door.end(silent, Completed((Output("b" * 32, "bb.png", "image/png", 3, 256, 256, 1, 1e12),)))

    for task_id, headers, status in (
        (ended, {}, 200),
        (ended, {"X-API-Key": key}, 404),
        (ended, {"X-API-Key": "none"}, 401),
        (waiting, {}, 404),
        (silent, {}, 404),
        ("nothing", {}, 404),
    ):
        answer = await door.client.request(method, f"/api/v1/task/{task_id}/webhook", headers=headers)
        assert answer.status_code == status, task_id


ENDPOINTS_REFUSED = (
    "receiver.test/hook",
    "ftp://receiver.test/",
    "//receiver.test/",
    "http://",
    "http:///hook",
    "http://receiver.test/\r\nX-Injected: yes",
    "http://receiver.test/\nhook",
    "http://receiver.test/\thook",
    "http://receiver.test\r\n/",
    " http://receiver.test/",
    "http://user:password@receiver.test/",
    "http://[user]@receiver.test/",
    "http://receiver.test:0/",
    "http://receiver.test:65536/",
    "http://receiver.test:port/",
    "http://ex℀mple.test/",
    "http://receiver.test/" + "x" * 2000,
    7,
    ["http://receiver.test/"],
)
SECRETS_REFUSED = (
    "a\r\nX: y", "a\nb", "a\rb", "a\0b", "a\tb", "a\x7fb", "sécret", "日本", " a", "a ", "s" * 1001, 7, ["a"],
)  # fmt: skip


async def test_an_endpoint_that_could_not_be_sent_to_is_refused(door: Door) -> None:
    for endpoint in ENDPOINTS_REFUSED:
        answer = await door.client.post("/api/v1/task", json=asking(endpoint))

        assert answer.status_code == 400, endpoint
        assert answer.json()["message"].startswith("config.webhook_config.endpoint"), endpoint
        assert "an http or https address" in answer.json()["message"], endpoint


async def test_a_secret_that_no_header_can_hold_is_refused(door: Door) -> None:
    for secret in SECRETS_REFUSED:
        answer = await door.client.post("/api/v1/task", json=asking(HOOK, secret))

        assert answer.status_code == 400, secret
        assert answer.json()["message"].startswith("config.webhook_config.secret"), secret
        assert "at most 1,000 printable ASCII characters" in answer.json()["message"], secret


async def test_any_other_secret_is_taken(door: Door) -> None:
    for secret in ("", "s" * 1000, "!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~ x", None):
        await create(door, secret=secret)

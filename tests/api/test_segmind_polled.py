"""Segmind's v2: a request is answered at once, and its caller asks how it stands until it has ended."""

import pytest

from fluxserve.domain.task import Completed, Errored, GivenBack, Output, WorkerLost
from tests.api.conftest import Door
from tests.api.test_segmind import fill

pytestmark = pytest.mark.anyio

URL = "/v2/flux-fill-dev"
OURS = "http://pictures.test"


def drawn(name: str, seed: int) -> Output:
    return Output(name * 32, f"{name}{name}.jpeg", "image/jpeg", 1234, 96, 64, seed, 1e12)


def path(url: str) -> str:
    assert url.startswith(f"{OURS}/")
    return url.removeprefix(OURS)


async def test_a_request_goes_from_queued_to_completed(each_door: Door) -> None:
    door = each_door
    answer = await door.client.post(URL, json=fill(seed=7, num_outputs=2))
    made = answer.json()
    request_id = made["request_id"]
    assert answer.status_code == 200
    assert made == {
        "request_id": request_id,
        "status": "QUEUED",
        "poll_url": f"{OURS}/v1/requests/{request_id}",
        "status_url": f"{OURS}/v2/requests/{request_id}/status",
        "response_url": f"{OURS}/v2/requests/{request_id}",
    }
    assert answer.headers["x-request-id"] == request_id
    assert (answer.headers["x-cost"], answer.headers["x-remaining-credits"]) == ("0", "0.96")
    assert answer.headers["x-seed-value"] == "7"

    urls = [path(made[name]) for name in ("poll_url", "status_url", "response_url")]
    for url in urls:
        assert (await door.client.get(url)).json() == {**made, "metrics": {}}
    held = await door.claimed(request_id)
    for url in urls:
        answer = await door.client.get(url)
        assert (answer.status_code, answer.json()) == (200, {**made, "status": "PROCESSING", "metrics": {}})
    await door.queue.finish(held, Completed((drawn("a", 7), drawn("b", 8))))

    status = (await door.client.get(path(made["status_url"]))).json()
    assert status == {**made, "status": "COMPLETED", "metrics": status["metrics"]}
    assert status["metrics"].keys() == {"inference_time"}
    results = [await door.client.get(path(made[name])) for name in ("response_url", "poll_url")]
    assert results[0].content == results[1].content
    result = results[0].json()
    metrics = result.pop("metrics")
    assert result == {
        "status": "COMPLETED",
        "request_id": request_id,
        "output": f"{OURS}/files/{'a' * 32}.jpeg",
        "images": [
            {
                "url": f"{OURS}/files/{name * 32}.jpeg",
                "content_type": "image/jpeg",
                "file_name": f"{name * 32}.jpeg",
                "file_size": 1234,
            }
            for name in "ab"
        ],
        "seed": 7,
        "prompt": "Green hair",
        "timings": {"inference": metrics["inference_time"]},
    }
    assert metrics.keys() == {
        "cost", "remaining_credits", "inference_time", "queue_time", "total_time", "retry_count",
    }  # fmt: skip
    assert (metrics["cost"], metrics["remaining_credits"], metrics["retry_count"]) == (0.04, 0.96, 0)
    assert metrics["total_time"] == pytest.approx(metrics["queue_time"] + metrics["inference_time"])
    assert min(metrics["inference_time"], metrics["queue_time"]) >= 0
    assert (results[0].headers["x-cost"], results[0].headers["x-seed-value"]) == ("0.04", "7")


async def test_a_request_that_failed_is_a_422_that_says_why(each_door: Door) -> None:
    door = each_door
    made = (await door.client.post(URL, json=fill())).json()
    await door.end(made["request_id"], Errored("drawing_failed", "it broke"))

    for name in ("status_url", "response_url", "poll_url"):
        answer = await door.client.get(path(made[name]))
        assert answer.status_code == 422
        told = answer.json()
        assert told == {**made, "status": "FAILED", "error": "it broke", "metrics": told["metrics"]}
        assert (answer.headers["x-cost"], answer.headers["x-remaining-credits"]) == ("0", "1")


async def test_a_lost_worker_is_a_retry_and_what_was_given_back_is_none(door: Door) -> None:
    made = (await door.client.post(URL, json=fill())).json()
    await door.end(made["request_id"], GivenBack())
    await door.end(made["request_id"], WorkerLost("it died"))
    status = (await door.client.get(path(made["status_url"]))).json()["status"]
    await door.end(made["request_id"], Completed((drawn("a", 7),)))

    assert status == "QUEUED"
    assert (await door.client.get(path(made["response_url"]))).json()["metrics"]["retry_count"] == 1


async def test_a_staged_request_is_queued(door: Door) -> None:
    await door.accounts.limit(door.account_id, 1)
    made = [(await door.client.post(URL, json=fill())).json() for _ in "ab"]

    assert [(await door.data(each["request_id"]))["status"] for each in made] == ["pending", "staged"]
    assert (await door.client.get(path(made[1]["status_url"]))).json()["status"] == "QUEUED"


async def test_what_is_no_request_of_this_door_or_this_account_is_not_there(door: Door) -> None:
    other = await door.create()
    made = (await door.client.post(URL, json=fill())).json()["request_id"]

    for request_id in (other, "nobodys", "%00", "a" * 300):
        for url in (f"/v2/requests/{request_id}", f"/v2/requests/{request_id}/status", f"/v1/requests/{request_id}"):
            answer = await door.client.get(url)
            assert (answer.status_code, answer.json().keys()) == (404, {"error"}), url
    async with door.stranger() as stranger, door.client_with(None) as nobody:
        assert (await stranger.get(f"/v2/requests/{made}")).status_code == 404
        assert (await nobody.get(f"/v2/requests/{made}")).status_code == 401


async def test_sent_again_it_is_answered_as_the_first_time_to_the_last_byte(door: Door) -> None:
    first = await door.client.post(URL, json=fill(), headers={"Idempotency-Key": "k"})
    await door.end(first.json()["request_id"], Completed((drawn("a", 7),)))
    again = await door.client.post(URL, json=fill(), headers={"Idempotency-Key": "k"})

    assert again.content == first.content
    assert (await door.accounts.get(door.account_id)).balance == 10_000_000 - 200_000


async def test_a_deadline_is_the_tasks(door: Door) -> None:
    made = (await door.client.post(URL, json=fill(), headers={"X-Deadline-Seconds": "60"})).json()
    door.clock.ahead = 61
    await door.queue.expire()

    answer = await door.client.get(path(made["status_url"]))
    assert (answer.status_code, answer.json()["status"]) == (422, "FAILED")
    assert (await door.accounts.get(door.account_id)).balance == 10_000_000

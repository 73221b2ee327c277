"""PiAPI's door: the envelope to its last key, defaults, limits and refusals."""

import re
from typing import Any

import pytest

from fluxserve.domain.errors import TaskFailed
from fluxserve.domain.task import Completed, Errored, WorkerLost
from tests.api.conftest import KEY, Door, cat, picture

pytestmark = pytest.mark.anyio

NEVER = "0001-01-01T00:00:00Z"
MOMENT = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z")


async def test_a_created_task_is_answered_with_the_vendors_envelope_to_the_last_key(door: Door) -> None:
    body = cat(negative_prompt="a dog", width=512, height=512, steps=3, seed=9, unknown="ignored")
    body["config"] = {
        "webhook_config": {"endpoint": "https://example.com/hook", "secret": "s"},
        "service_mode": "public",
    }

    answer = (await door.client.post("/api/v1/task", json=body)).json()

    task_id, created_at = answer["data"]["task_id"], answer["data"]["meta"]["created_at"]
    assert MOMENT.fullmatch(created_at)
    assert answer == {
        "code": 200,
        "data": {
            "task_id": task_id,
            "model": "Qubico/flux1-schnell",
            "task_type": "txt2img",
            "status": "pending",
            "config": {
                "service_mode": "public",
                "webhook_config": {"endpoint": "https://example.com/hook", "secret": "s"},
            },
            "input": {
                "prompt": "a little cat",
                "negative_prompt": "a dog",
                "image": "",
                "width": 512,
                "height": 512,
                "steps": 3,
                "seed": 9,
            },
            "output": None,
            "meta": {
                "created_at": created_at,
                "started_at": NEVER,
                "ended_at": NEVER,
                "usage": {"type": "point", "frozen": 20000, "consume": 0},
                "is_using_private_pool": False,
                "seed": 9,
            },
            "detail": None,
            "logs": [],
            "error": {"code": 0, "raw_message": "", "message": "", "detail": None},
        },
        "message": "success",
    }
    assert (await door.client.get(f"/api/v1/task/{task_id}")).json() == answer


async def test_a_bare_request_is_echoed_with_the_vendors_empty_values(door: Door) -> None:
    data = (await door.client.post("/api/v1/task", json=cat())).json()["data"]

    assert data["config"] == {"service_mode": "", "webhook_config": {"endpoint": "", "secret": ""}}
    assert data["input"] == {
        "prompt": "a little cat", "negative_prompt": "", "image": "", "width": 0, "height": 0, "steps": 0,
    }  # fmt: skip


async def test_a_completed_task_has_its_picture_and_its_price(door: Door) -> None:
    task_id = await door.create()
    await door.end(task_id, Completed((picture("a"),)))

    data = (await door.client.get(f"/api/v1/task/{task_id}")).json()["data"]

    assert data["status"] == "completed"
    assert data["output"] == {"image_base64": "", "image_url": f"http://pictures.test/files/{'a' * 32}.png"}
    assert data["meta"]["usage"] == {"type": "point", "frozen": 0, "consume": 20000}
    assert MOMENT.fullmatch(data["meta"]["started_at"])
    assert MOMENT.fullmatch(data["meta"]["ended_at"])


async def test_several_pictures_come_as_a_list_with_a_seed_each(door: Door) -> None:
    task_id = await door.create(batch_size=2, seed=9)
    await door.end(task_id, Completed((picture("a"), picture("b"))))

    data = (await door.client.get(f"/api/v1/task/{task_id}")).json()["data"]

    assert data["output"] == {"image_urls": [f"http://pictures.test/files/{name * 32}.png" for name in "ab"]}
    assert data["meta"]["seeds"] == [9, 10]
    assert data["meta"]["usage"]["consume"] == 40000


@pytest.mark.parametrize(
    ("ending", "code"),
    [
        (Errored("drawing_failed", "it broke"), 1200),
        (Errored("flagged", "by the safety check"), 1202),
        (Errored("cancelled", "by the caller"), 1300),
    ],
)
async def test_a_failed_task_says_why_and_costs_nothing(door: Door, ending: Errored, code: int) -> None:
    task_id = await door.create()
    await door.end(task_id, ending)

    answer = await door.client.get(f"/api/v1/task/{task_id}")

    assert answer.status_code == 200
    data = answer.json()["data"]
    assert (data["status"], data["output"]) == ("failed", None)
    assert data["error"] == {"code": code, "raw_message": ending.message, "message": ending.message, "detail": None}
    assert data["meta"]["usage"] == {"type": "point", "frozen": 0, "consume": 0}


async def test_a_task_whose_workers_were_lost_fails_with_a_code_of_its_own(door: Door) -> None:
    task_id = await door.create()
    for _ in range(3):
        await door.end(task_id, WorkerLost("killed"))

    assert (await door.client.get(f"/api/v1/task/{task_id}")).json()["data"]["error"]["code"] == 1201


@pytest.mark.parametrize(
    ("model", "fields", "expected"),
    [
        ("schnell", {}, {"steps": 4, "guidance_scale": None, "width": 1024, "height": 1024, "count": 1}),
        ("dev", {}, {"steps": 25, "guidance_scale": 3.5, "count": 1}),
        ("dev-advanced", {"guidance_scale": 5}, {"steps": 25, "guidance_scale": 5.0}),
        ("dev", {"steps": 0, "width": 0, "height": 0}, {"steps": 25, "width": 1024, "height": 1024}),
        ("dev", {"steps": 40, "guidance_scale": 1.5}, {"steps": 40, "guidance_scale": 1.5}),
        ("dev", {"batch_size": 4}, {"count": 1}),
        ("schnell", {"batch_size": 4.0, "steps": 10.0}, {"count": 4, "steps": 10}),
        ("schnell", {"guidance_scale": 3}, {"guidance_scale": None}),
        ("schnell", {"width": 512, "height": 2048}, {"width": 512, "height": 2048}),
        ("schnell", {"seed": 2**63 - 1}, {"seed": 2**63 - 1}),
        ("schnell", {"seed": 0}, {"seed": 0}),
        (
            "schnell",
            {"negative_prompt": None, "steps": None, "seed": None, "batch_size": None, "lora_settings": None},
            {"steps": 4, "count": 1},
        ),
        ("schnell", {"lora_settings": [], "control_net_settings": []}, {"count": 1}),
        ("schnell", {"prompt": "Ein Kätzchen 🐱"}, {}),
    ],
)
async def test_defaults_and_limits(door: Door, model: str, fields: dict[str, Any], expected: dict[str, Any]) -> None:
    task_id = await door.create(model=f"Qubico/flux1-{model}", **fields)

    generation = (await door.queue.get(door.account_id, task_id)).generation

    assert {name: getattr(generation, name) for name in expected} == expected
    assert generation.kind.prompt == fields.get("prompt", "a little cat")


async def test_the_models_own_name_is_enough(door: Door) -> None:
    assert (await door.client.post("/api/v1/task", json=cat(model="flux1-dev"))).json()["data"]["model"] == "flux1-dev"


async def test_a_random_seed_is_told_and_differs(door: Door) -> None:
    seeds = [(await door.client.post("/api/v1/task", json=cat(seed=-1))).json()["data"]["meta"]["seed"] for _ in "ab"]

    assert seeds[0] != seeds[1]
    assert all(seed >= 0 for seed in seeds)


@pytest.mark.parametrize(
    ("field", "value", "named"),
    [
        ("prompt", "", "input.prompt: ''"),
        ("width", 63, "input.width: 63"),
        ("height", 4097, "input.height: 4097"),
        ("width", "1024", "input.width: '1024'"),
        ("width", True, "input.width: True"),
        ("steps", 11, "input.steps: 11"),
        ("steps", 3.5, "input.steps: 3.5"),
        ("steps", -1, "input.steps: -1"),
        ("guidance_scale", 1.4, "input.guidance_scale: 1.4"),
        ("guidance_scale", "3", "input.guidance_scale: '3'"),
        ("seed", -2, "input.seed: -2"),
        ("seed", 2**63, f"input.seed: {2**63}"),
        ("batch_size", 5, "input.batch_size: 5"),
        ("batch_size", 0, "input.batch_size: 0"),
        ("lora_settings", [{"lora_type": "anime"}], "input.lora_settings: [{"),
        ("negative_prompt", ["a dog"], "input.negative_prompt: ['a dog']"),
    ],
)
async def test_a_wrong_value_is_refused_by_name_value_and_what_is_allowed(
    door: Door, field: str, value: object, named: str
) -> None:
    answer = await door.client.post("/api/v1/task", json=cat(**{field: value}))  # type: ignore[arg-type]

    assert answer.status_code == 400
    assert answer.json().keys() == {"code", "data", "message"}
    assert (answer.json()["code"], answer.json()["data"]) == (400, None)
    assert answer.json()["message"].startswith(named)
    assert "allowed" in answer.json()["message"].removeprefix(named)
    account = await door.accounts.get(door.account_id)
    assert (account.balance, account.frozen) == (10_000_000, 0)


async def test_sides_whose_area_is_too_large_are_refused_with_the_area(door: Door) -> None:
    answer = await door.client.post("/api/v1/task", json=cat(width=1024, height=1025))

    assert answer.status_code == 400
    assert "1048576" in answer.json()["message"]
    assert "1049600" in answer.json()["message"]


@pytest.mark.parametrize(
    "headers",
    [{"X-API-Key": KEY}, {"x-api-key": KEY}, {"Authorization": f"Bearer {KEY}"}, {"authorization": f"bearer  {KEY} "}],
    ids=["X-API-Key", "in any case", "Bearer", "bearer with spaces"],
)
async def test_a_key_may_come_either_way(door: Door, headers: dict[str, str]) -> None:
    del door.client.headers["X-API-Key"]

    assert (await door.client.post("/api/v1/task", json=cat(), headers=headers)).status_code == 200


@pytest.mark.parametrize(
    "headers", [{}, {"X-API-Key": "wrong"}, {"Authorization": "Basic abc"}, {"Authorization": KEY}]
)
async def test_without_a_key_of_ours_nothing_is_done(door: Door, headers: dict[str, str]) -> None:
    del door.client.headers["X-API-Key"]

    answer = await door.client.post("/api/v1/task", json=cat(), headers=headers)

    assert (answer.status_code, answer.json()["code"]) == (401, 401)
    assert "X-API-Key" in answer.json()["message"]


async def test_an_account_without_credits_is_told_price_and_balance(door: Door) -> None:
    for _ in range(5):
        await door.create(model="Qubico/flux1-dev-advanced")
    for _ in range(45):
        await door.create(model="Qubico/flux1-dev-advanced")

    answer = await door.client.post("/api/v1/task", json=cat())

    assert answer.status_code == 402
    assert "20000" in answer.json()["message"]


async def test_a_full_queue_says_when_to_come_back(door: Door, monkeypatch: pytest.MonkeyPatch) -> None:
    from fluxserve.tasks import queue

    monkeypatch.setattr(door.queue, "_rules", queue.Rules(most_staged=0))
    for number in range(101):
        answer = await door.client.post("/api/v1/task", json=cat(prompt=f"cat {number}"))

    assert answer.status_code == 429
    assert int(answer.headers["retry-after"]) > 0
    assert "0" in answer.json()["message"]


async def test_a_waiting_task_is_cancelled(door: Door) -> None:
    task_id = await door.create()

    answer = await door.client.delete(f"/api/v1/task/{task_id}")

    assert answer.json() == {"code": 200, "message": f"task {task_id} canceled"}
    data = (await door.client.get(f"/api/v1/task/{task_id}")).json()["data"]
    assert (data["status"], data["error"]["code"]) == ("failed", 1300)


async def test_a_completed_task_cant_be_cancelled(door: Door) -> None:
    task_id = await door.create()
    await door.end(task_id, Completed((picture("a"),)))

    answer = await door.client.delete(f"/api/v1/task/{task_id}")

    assert answer.status_code == 400
    assert "completed" in answer.json()["message"]


@pytest.mark.parametrize("task_id", ["nothing", "00000000-0000-4000-8000-000000000000", "%00", "..%2F..%2Fetc"])
async def test_an_unknown_task_is_a_404(door: Door, task_id: str) -> None:
    for method in ("GET", "DELETE"):
        answer = await door.client.request(method, f"/api/v1/task/{task_id}")
        assert answer.status_code == 404
        assert answer.json()["message"]


async def test_a_fault_of_ours_is_a_500_that_tells_nothing(door: Door, monkeypatch: pytest.MonkeyPatch) -> None:
    async def broken(*_: object) -> None:
        raise RuntimeError("secret detail")

    monkeypatch.setattr(door.queue, "submit", broken)

    answer = await door.client.post("/api/v1/task", json=cat())

    assert answer.status_code == 500
    assert "secret" not in answer.text


async def test_the_pages_show_the_body_and_the_table_of_errors(door: Door) -> None:
    schema = (await door.client.get("/api/openapi.json")).json()

    body = schema["paths"]["/v1/task"]["post"]["requestBody"]["content"]["application/json"]["schema"]
    kinds = body["properties"]["input"]["oneOf"]
    assert len(kinds) == len(body["properties"]["task_type"]["enum"]) == 9
    for kind in kinds:
        assert all(field["description"] for field in kind["properties"].values())
        assert "$ref" not in str(kind)
    assert str(1201) in schema["info"]["description"]
    assert TaskFailed.code in schema["info"]["description"]
    assert (await door.client.get("/api/docs")).status_code == 200

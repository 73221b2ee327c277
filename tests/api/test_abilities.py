"""A server offers what it has weights for, at every door; what it has none for is refused before it costs anything."""

from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine

from tests.api.conftest import Door, cat, open_door
from tests.api.test_segmind import fill
from tests.api.test_task_types import body, picture
from tests.api.test_unavailable import left_on_the_shelf

pytestmark = pytest.mark.anyio


def door_that_can(*abilities: str, engine: Engine, folder: Path) -> Any:
    return open_door(engine, folder, abilities=frozenset(abilities))


async def refusal(door: Door, model: str, task_type: str = "txt2img") -> str:
    asked = {**cat(f"Qubico/{model}"), "task_type": task_type}
    answer = await door.client.post("/api/v1/task", json=asked)
    assert answer.status_code == 400
    message: str = answer.json()["message"]
    return message


async def test_a_model_whose_weights_are_not_here_allows_nothing(sqlite: Engine, tmp_path: Path) -> None:
    async with door_that_can("schnell", engine=sqlite, folder=tmp_path) as door:
        assert (await door.client.post("/api/v1/task", json=cat("Qubico/flux1-schnell"))).status_code == 200
        assert "Qubico/flux1-dev allows nothing, for its weights are not on this server" in await refusal(
            door, "flux1-dev"
        )


async def test_what_draws_no_words_may_fill_all_the_same(sqlite: Engine, tmp_path: Path) -> None:
    async with door_that_can("fill", engine=sqlite, folder=tmp_path) as door:
        filled = await door.client.post("/api/v1/task", json=body("fill-inpaint", image=picture()))
        assert filled.status_code == 200
        assert "flux1-dev-advanced allows fill-inpaint, fill-outpaint" in await refusal(door, "flux1-dev-advanced")


async def test_the_other_doors_refuse_it_too_and_keep_no_picture(sqlite: Engine, tmp_path: Path) -> None:
    async with door_that_can("schnell", engine=sqlite, folder=tmp_path) as door:
        filled = await door.client.post("/v1/flux-fill-dev", json=fill())
        drawn = await door.client.post("/v1/images/generations", json={"prompt": "a cat", "quality": "high"})

        assert (filled.status_code, drawn.status_code) == (400, 400)
        assert "what it needs here is not on this server: fill" in filled.text
        assert "what it needs here is not on this server: dev" in drawn.text
        assert left_on_the_shelf(door) == []


async def test_models_lists_what_can_be_drawn(sqlite: Engine, tmp_path: Path) -> None:
    async with door_that_can("schnell", engine=sqlite, folder=tmp_path) as door:
        names = {each["id"] for each in (await door.client.get("/v1/models")).json()["data"]}

        assert "flux1-schnell" in names
        assert "flux1-dev" not in names

"""Pictures at their addresses, and health."""

import time

import pytest

from fluxserve.domain.task import Completed, Output
from tests.api.conftest import Door

pytestmark = pytest.mark.anyio

NAME = "0123456789abcdef" * 2


async def stored(door: Door, *, expires_at: float) -> str:
    """A completed task with one stored picture. Returns its path."""
    door.shelf.put("abc.png", b"png bytes")
    output = Output(NAME, "abc.png", "image/png", 9, 1, 1, 1, expires_at)
    await door.end(await door.create(), Completed((output,)))
    return f"/files/{NAME}.png"


async def test_a_picture_is_served_with_its_type_and_safe_headers_and_without_a_key(door: Door) -> None:
    path = await stored(door, expires_at=time.time() + 100)
    del door.client.headers["X-API-Key"]

    answer = await door.client.get(path)

    assert answer.content == b"png bytes"
    assert answer.headers["content-type"] == "image/png"
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["content-security-policy"] == "default-src 'none'; sandbox"
    assert answer.headers["content-disposition"] == f'inline; filename="{NAME}.png"'
    assert "max-age=" in answer.headers["cache-control"]
    head = await door.client.head(path)
    assert (head.status_code, head.headers["content-length"], head.content) == (200, "9", b"")


async def test_an_expired_picture_is_gone(door: Door) -> None:
    path = await stored(door, expires_at=time.time() - 1)

    assert (await door.client.get(path)).status_code == 404


@pytest.mark.parametrize(
    "name",
    [
        "x.png",
        f"{NAME}.jpeg",
        f"{NAME}",
        f"{NAME}.svg",
        f"..%2F{NAME}.png",
        f"{NAME}.png%00",
        "%2e%2e",
        NAME.upper() + ".png",
    ],
)
async def test_any_other_address_is_no_picture(door: Door, name: str) -> None:
    await stored(door, expires_at=time.time() + 100)

    answer = await door.client.get(f"/files/{name}")

    assert answer.status_code == 404


async def test_a_picture_whose_file_is_gone_is_a_404(door: Door) -> None:
    path = await stored(door, expires_at=time.time() + 100)
    door.shelf.delete("abc.png")

    assert (await door.client.get(path)).status_code == 404


async def test_health_says_what_the_server_is_doing_until_it_can_draw(door: Door) -> None:
    answer = await door.client.get("/healthz")

    assert answer.status_code == 503
    assert answer.json() == {"status": "starting", "workers": {"cpu": "loading"}}

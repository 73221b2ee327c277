"""The page on webhooks says what is so, and its example runs."""

import re
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import httpx2 as httpx
import pytest

from fluxserve.config import WebhookSettings
from fluxserve.webhooks import sender
from tests.webhooks.conftest import Post

PAGE = (Path(__file__).parents[2] / "docs" / "webhooks.md").read_text()
SECONDS = {"s": 1, "min": 60, "h": 3600}


@pytest.fixture
def example() -> Iterator[dict[str, Any]]:
    """The names of the page's program, which serves at `url`."""
    (program,) = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    names: dict[str, Any] = {"__name__": "example"}
    exec(program, names)
    receiver: type[BaseHTTPRequestHandler] = names["Receiver"]
    receiver.log_message = lambda *_: None  # type: ignore[method-assign]
    with HTTPServer(("127.0.0.1", 0), receiver) as server:
        serving = threading.Thread(target=server.serve_forever, args=(0.05,))
        serving.start()
        yield {**names, "url": f"http://127.0.0.1:{server.server_port}/hook"}
        server.shutdown()
        serving.join()


@pytest.mark.anyio
@pytest.mark.parametrize("engine", ["sqlite"], indirect=True)
async def test_the_example_takes_what_is_sent_and_nothing_else(post: Post, example: dict[str, Any]) -> None:
    printed: list[tuple[object, ...]] = []
    example["Receiver"].do_POST.__globals__["print"] = lambda *words: printed.append(words)
    async with post.sending():
        ours = await post.ended(example["url"], example["SECRET"])
        others = await post.ended(example["url"], "another secret")
        log, refused = await post.over(ours), await post.over(others)

    assert [each.status for each in log.attempts] == [204]
    assert [each.status for each in refused.attempts] == [400]
    assert printed == [(ours, "failed", None)]
    async with httpx.AsyncClient() as client:
        assert (await client.post(example["url"], content=b"{}")).status_code == 400


def test_the_page_has_the_gaps_as_they_are() -> None:
    (listed,) = re.findall(r"tried again after (.*?), each up to a tenth longer", PAGE, re.DOTALL)

    gaps = [int(number) * SECONDS[unit] for number, unit in re.findall(r"(\d+)\s(s|min|h)\b", listed)]
    assert tuple(gaps) == WebhookSettings().gaps
    assert f"within {WebhookSettings().webhook_seconds:g} seconds" in PAGE
    assert sender.JITTER == 0.1
    assert sender.MOST_OF_ONE == 8

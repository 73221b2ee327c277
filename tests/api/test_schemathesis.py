"""Whatever a program makes of the API's own pages, valid or not: the answers are as the pages say, and none is a fault
of ours (G21).

Schemathesis makes the requests; the app answers them in this process. Whether what the pages allow is taken, and what
they don't allow is refused, is tested elsewhere: a prompt of spaces, a picture that is none or an image too large can't
be told by a schema, and fields that nobody knows are ignored.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2 as httpx
import pytest
import requests
import schemathesis
from anyio.from_thread import BlockingPortal, start_blocking_portal
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from schemathesis import GenerationMode
from schemathesis.checks import CHECKS
from schemathesis.core.result import Ok
from sqlalchemy import Engine
from starlette.routing import Mount

from fluxserve.api.app import Shared
from fluxserve.domain.task import Completed
from fluxserve.tasks import open_postgresql
from tests.api.chatting import chat_door
from tests.api.conftest import ADMIN_KEY, KEY, Door, picture
from tests.api.test_segmind import fill, in_base64, png
from tests.postgresql import Postgres
from tests.relay.upstream import HELLO, Heard, Say, answering, completion, told_stream, usage, whole

KEYS = {
    "": "", "/api": KEY, "/account": KEY, "/v1": KEY, "/v1/images": KEY, "/segmind": KEY, "/admin": ADMIN_KEY,
}  # fmt: skip
AT_THE_ROOT = {"/segmind"}  # where its pages are; what they tell of stands among the paths of others
TOLD = (
    "not_a_server_error",
    "status_code_conformance",
    "content_type_conformance",
    "response_headers_conformance",
    "response_schema_conformance",
    "allow_header_conformance",
)


def a_text_model(heard: Heard) -> Say:
    """An upstream that answers whatever is asked, and streams where that is asked."""
    return told_stream(*HELLO, told=usage(19, 9)) if heard.values.get("stream") else whole(completion())


@dataclass
class House:
    portal: BlockingPortal
    door: Door
    client: httpx.AsyncClient
    real: dict[str, str]  # path parameters that name something

    def pages(self, app: str) -> Any:
        return self.portal.call(self.client.get, f"{app}/openapi.json").json()

    def answer(self, request: dict[str, Any], key: str) -> httpx.Response:
        told = {**request["headers"], "X-API-Key": key}
        body = {name: request[name] for name in ("json", "content", "params") if name in request}
        if "files" in request:
            form = requests.Request("POST", request["url"], files=request["files"], data=request.get("data")).prepare()
            body["content"] = form.body
            told |= {name: form.headers[name] for name in ("Content-Type",) if name in form.headers}
        elif "data" in request:
            body["content"] = request["data"]
        headers = {name.encode("latin-1"): value.encode("latin-1") for name, value in told.items()}

        async def send() -> httpx.Response:
            return await self.client.request(request["method"], request["url"], headers=headers, **body)

        return self.portal.call(send)


@contextmanager
def opened(engine: Engine, folder: Path) -> Iterator[House]:
    with (
        start_blocking_portal("asyncio") as portal,
        portal.wrap_async_context_manager(
            chat_door(engine, folder, answering(a_text_model), can_draw=lambda: True)
        ) as chat,
    ):
        door = chat.door
        portal.call(lambda: door.accounts.credit(door.account_id, 1000.0))

        async def prepared() -> dict[str, str]:
            task_id = await door.create_told()
            await door.end(task_id, Completed((picture("a"),)))  # its events have an end
            door.shelf.put("aa.png", b"a picture")
            account = await door.accounts.create("another", credits_usd=1, max_concurrent=1)
            key, _ = await door.accounts.create_key(account.id)
            filling = await door.client.post("/v2/flux-fill-dev", json=fill())
            request_id = filling.json()["request_id"]
            await door.end(request_id, Completed((picture("b"),)))
            return {
                "task_id": task_id,
                "request_id": request_id,
                "account_id": account.id,
                "key_id": key.id,
                "name": f"{'a' * 32}.png",
                "model": "gpt-image-1",
            }

        with portal.wrap_async_context_manager(door.client_with(None)) as client:
            real = portal.call(prepared)
            with portal.wrap_async_context_manager(door.drawing()):  # callers who hold the line are answered
                yield House(portal, door, client, real)


@pytest.fixture
def house(sqlite: Engine, tmp_path: Path) -> Iterator[House]:
    with opened(sqlite, tmp_path) as house:
        yield house


def with_a_picture(case: schemathesis.Case[Any]) -> schemathesis.Case[Any]:
    """The same, with an image that can be drawn in: no schema tells how to make one."""
    if isinstance(case.body, dict) and "image" in case.body:
        file = png(hole=(0, 0, 40, 40))
        image: Any = file if case.media_type == "multipart/form-data" else in_base64(file)
        case.body = {**case.body, "image": image, "prompt": "a cat"}
        case.body.pop("mask", None)
    return case


def check(house: House, app: str, examples: int, *, is_steady: bool) -> int:
    """Ask each operation `examples` times for each way of making requests. Returns how often it was asked in all."""
    asked = 0
    schema = schemathesis.openapi.from_dict(house.pages(app))
    checks: Any = CHECKS.get_by_names(TOLD)
    for result in schema.get_all_operations():
        assert isinstance(result, Ok), result
        operation = result.ok()
        names = {parameter.name for parameter in operation.path_parameters}
        real = {name: house.real[name] for name in names}
        # Any text is an id, so where there is nothing but ids nothing is against the pages.
        can_be_wrong = operation.body or operation.query or operation.headers
        for mode in (GenerationMode.POSITIVE, *((GenerationMode.NEGATIVE,) if can_be_wrong else ())):
            cases = operation.as_strategy(generation_mode=mode)
            if real and mode is GenerationMode.POSITIVE:
                cases = st.one_of(cases, operation.as_strategy(path_parameters=real))
            if mode is GenerationMode.POSITIVE and app in AT_THE_ROOT:
                cases = st.one_of(cases, cases.map(with_a_picture))

            @settings(
                max_examples=examples if can_be_wrong else 2 * examples,
                derandomize=is_steady,
                database=None,
                deadline=None,
                suppress_health_check=list(HealthCheck),
            )
            @given(case=cases)
            def ask(case: schemathesis.Case[Any]) -> None:
                nonlocal asked
                asked += 1
                base = "" if app in AT_THE_ROOT else app
                answer = house.answer(case.as_transport_kwargs(base_url=f"http://fluxserve.test{base}"), KEYS[app])
                case.validate_response(answer, checks=checks)

            ask()
    return asked


def test_every_app_that_is_mounted_is_among_them(house: House) -> None:
    mounted = {route.path for route in house.door.app.routes if isinstance(route, Mount)}
    assert mounted | {""} | AT_THE_ROOT == set(KEYS)
    assert sum(isinstance(route, Shared) for route in house.door.app.routes) == len(AT_THE_ROOT)


@pytest.mark.parametrize("app", KEYS, ids=lambda app: app or "root")
def test_answers_are_as_the_pages_say_and_none_is_a_fault(house: House, app: str) -> None:
    assert check(house, app, examples=6, is_steady=True)


@pytest.mark.nightly
@pytest.mark.timeout(2 * 3600)
@pytest.mark.parametrize("database", ["sqlite", "postgresql"])
@pytest.mark.parametrize("app", KEYS, ids=lambda app: app or "root")
def test_answers_are_as_the_pages_say_a_thousand_times_an_operation(
    request: pytest.FixtureRequest, tmp_path: Path, app: str, database: str
) -> None:
    if database == "sqlite":
        engine = request.getfixturevalue("sqlite")
    else:
        server: Postgres = request.getfixturevalue("postgresql")
        engine = open_postgresql(server.emptied())
    with opened(engine, tmp_path) as house:
        print(app or "root", database, check(house, app, examples=500, is_steady=False), "requests")

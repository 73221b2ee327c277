"""Whatever comes in, the answer is a 4xx that says what is wrong; nothing is charged and the server draws on (G21)."""

import gzip
import io
import json
import socket
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest
from PIL import Image

from tests.end_to_end.conftest import LARGEST_BODY
from tests.end_to_end.serving import KEY, Server, body, finished

CREATE = "/api/v1/task"
UNKNOWN_TASK = "00000000-0000-4000-8000-000000000000"
UNKNOWN_FILE = "0" * 32


@dataclass(frozen=True)
class Bad:
    """A request, the status it should have, and what its message should say."""

    words: str  # what is wrong with it: the test's id
    status: int
    says: tuple[str, ...] = ()
    method: str = "POST"
    path: str = CREATE
    content: bytes = b""
    headers: dict[str, str] = field(default_factory=lambda: {"X-API-Key": KEY, "Content-Type": "application/json"})


def text(words: str, content: bytes, *says: str, status: int = 400) -> Bad:
    """A body that is wrong as a whole."""
    return Bad(words, status, says or ("body", "it must be JSON"), content=content)


def wrong(words: str, says: tuple[str, ...], *, model: str = "Qubico/flux1-schnell", **fields: Any) -> Bad:
    """A field of `input` with a wrong value."""
    return Bad(words, 400, says, content=json.dumps(body(model=model, **fields)).encode())


def outer(words: str, says: tuple[str, ...], without: str = "", **fields: Any) -> Bad:
    """A field beside `input` with a wrong value, or `without` it."""
    values = {name: value for name, value in {**body(), **fields}.items() if name != without}
    return Bad(words, 400, says, content=json.dumps(values).encode())


def raw_field(words: str, name: str, value: str, *says: str) -> Bad:
    """A field of `input` whose JSON no serialiser would write."""
    content = (
        f'{{"model": "Qubico/flux1-schnell", "task_type": "txt2img", "input": {{"prompt": "x", "{name}": {value}}}}}'
    )
    return Bad(words, 400, says, content=content.encode())


def asked(words: str, status: int, method: str, path: str, *says: str, **headers: str) -> Bad:
    """A request without a body."""
    return Bad(words, status, says, method, path, headers={"X-API-Key": KEY, **headers})


def keyed(words: str, *says: str, **headers: str) -> Bad:
    return Bad(
        words,
        401,
        says or ("API key",),
        content=json.dumps(body()).encode(),
        headers={name.replace("_", "-"): value for name, value in headers.items()},
    )


SIDES = ("64 to 4096",)
WHOLE = "a whole number"
WRONG_TYPES: dict[str, tuple[tuple[Any, ...], str]] = {
    "prompt": ((1, True, None, ["a"], {"a": 1}), "a text of 1 to 10,000 characters"),
    "negative_prompt": ((1, False, ["a"], {}), "a text of at most 10,000 characters"),
    "width": (("256", True, 256.5, [256], {}), WHOLE),
    "height": (("256", False, 0.5, [256], {}), WHOLE),
    "steps": (("4", True, 4.5, [4], {}), WHOLE),
    "seed": (("7", True, 7.25, [7], {}), WHOLE),
    "batch_size": (("1", True, 1.5, [1], {}), WHOLE),
    "guidance_scale": (("3", True, [3], {}), "a number from 1.5 to 5"),
    "lora_settings": (("x", 1, True, {}), "null or [] for this task type"),
    "control_net_settings": (("x", 1, True, {}), "null or [] for this task type"),
}

BODIES = [
    text("no body", b""),
    text("blank body", b"  \n"),
    text("half an object", b'{"model": '),
    text("two objects", b"{} {}"),
    text("single quotes", b"{'model': 1}"),
    text("trailing comma", b'{"model": 1,}'),
    text("NaN", b'{"model": NaN}'),
    text("infinity", b'{"model": Infinity}'),
    text("minus infinity", b'{"model": -Infinity}'),
    text("100,000 arrays within each other", b"[" * 100_000),
    text("100,000 objects within each other", b'{"a":' * 100_000),
    text("a lone surrogate", b'{"model": "\\ud800"}'),
    text("a lone surrogate as a name", b'{"\\udfff": 1}'),
    text("two surrogates the wrong way round", b'{"model": "\\udc00\\ud800"}'),
    text("a surrogate in bytes", b'{"model": "\xed\xa0\x80"}'),
    text("invalid UTF-8", b'{"model": "\xff\xfe"}'),
    text("UTF-16", json.dumps(body()).encode("utf-16")),
    text("a byte order mark", b"\xef\xbb\xbf{}"),
    text("a raw control character in a text", b'{"model": "a\x01b"}'),
    text("a number of 5,000 digits", b'{"model": ' + b"9" * 5000 + b"}"),
    text("a compressed body", gzip.compress(json.dumps(body()).encode())),
    text("a form", b"model=Qubico%2Fflux1-schnell&task_type=txt2img"),
    text("an array for a body", b"[]", "body", "it must be a JSON object"),
    text("a text for a body", b'"model"', "body", "it must be a JSON object"),
    text("null for a body", b"null", "body", "it must be a JSON object"),
    text("a number of 4,300 digits for a body", b"9" * 4300, "body", "it must be a JSON object"),
    text("an empty object", b"{}", "model", "nothing", "Qubico/flux1-schnell"),
    text("a body that is too large", b" " * (LARGEST_BODY + 1), "body", str(LARGEST_BODY), status=413),
]

FIELDS = [
    outer("no model", ("model", "nothing", "Qubico/flux1-dev"), without="model"),
    outer("no task_type", ("task_type", "nothing", "txt2img"), without="task_type"),
    outer("no input", ("input", "nothing", "prompt"), without="input"),
    outer("an unknown model", ("model", "'Qubico/flux9'", "Qubico/flux1-schnell"), model="Qubico/flux9"),
    outer("a model of a million letters", ("model", "'xxx", "…", "Qubico/"), model="x" * 900_000),
    outer("null for model", ("model", "None", "Qubico/flux1-schnell"), model=None),
    outer("a number for model", ("model", "1", "Qubico/flux1-schnell"), model=1),
    outer("an unknown task_type", ("task_type", "'txt2mp3'", "txt2img"), task_type="txt2mp3"),
    outer("an array for task_type", ("task_type", "['txt2img']", "txt2img"), task_type=["txt2img"]),
    outer("null for input", ("input", "None", "prompt"), input=None),
    outer("a text for input", ("input", "'a cat'", "prompt"), input="a cat"),
    outer("an array for input", ("input", "[]", "prompt"), input=[]),
    outer("no prompt", ("input.prompt", "nothing", "1 to 10,000"), input={"width": 256}),
    outer("a text for config", ("config", "'x'", "webhook_config"), config="x"),
    outer("an array for config", ("config", "[]", "webhook_config"), config=[]),
    outer("an unknown service", ("config.service_mode", "'secret'", "public"), config={"service_mode": "secret"}),
    outer("a number for service_mode", ("config.service_mode", "1", "public"), config={"service_mode": 1}),
    outer(
        "a text for webhook_config",
        ("config.webhook_config", "'x'", "endpoint and secret"),
        config={"webhook_config": "x"},
    ),
    *(
        outer(
            f"{address!r} for a webhook",
            ("config.webhook_config.endpoint", shown, "an http or https address"),
            config={"webhook_config": {"endpoint": address}},
        )
        for address, shown in (
            ("not an address", "'not an address'"),
            ("ftp://example.com/x", "'ftp://"),
            ("http://", "'http://'"),
            ("javascript:alert(1)", "'javascript:"),
            (5, "5"),
            ("http://example.com/\0", "x00"),
        )
    ),
    outer(
        "a secret of 1,001 characters",
        ("config.webhook_config.secret", "'sss", "at most 1,000"),
        config={"webhook_config": {"secret": "s" * 1001}},
    ),
    *(
        wrong(f"{value!r} for {name}", (f"input.{name}", ascii(value), allowed), **{name: value})
        for name, (values, allowed) in WRONG_TYPES.items()
        for value in values
    ),
    wrong("an empty prompt", ("input.prompt", "''", "1 to 10,000"), prompt=""),
    wrong("a blank prompt", ("input.prompt", "1 to 10,000"), prompt=" \t\n"),
    wrong("a NUL in the prompt", ("input.prompt", "x00", "1 to 10,000"), prompt="a\0b"),
    wrong("a prompt of 10,001 characters", ("input.prompt", "'aaa", "…", "1 to 10,000"), prompt="a" * 10_001),
    wrong("a NUL in the negative prompt", ("input.negative_prompt", "x00", "10,000"), negative_prompt="a\0b"),
    wrong("a negative prompt of 10,001 characters", ("input.negative_prompt", "…"), negative_prompt="a" * 10_001),
    wrong("a width of 63", ("input.width", "63", *SIDES), width=63),
    wrong("a width of 4,097", ("input.width", "4097", *SIDES), width=4097),
    wrong("a negative width", ("input.width", "-256", *SIDES), width=-256),
    wrong("a height of 63", ("input.height", "63", *SIDES), height=63),
    wrong("a height of 10 to the 18th", ("input.height", "1000000000000000000", *SIDES), height=10**18),
    wrong("1025 times 1024 pixels", ("input.width", "1025", "1048576", "1049600"), width=1025, height=1024),
    wrong("4096 times 4096 pixels", ("input.width", "4096", "1048576", "16777216"), width=4096, height=4096),
    wrong("a width too large beside the default height", ("input.width", "1032", "1048576"), width=1032, height=0),
    wrong("11 steps of schnell", ("input.steps", "11", "1 to 10"), steps=11),
    wrong("41 steps of dev", ("input.steps", "41", "1 to 40"), steps=41, model="Qubico/flux1-dev"),
    wrong("-1 steps", ("input.steps", "-1", "1 to 10"), steps=-1),
    wrong("a guidance of 1.49", ("input.guidance_scale", "1.49", "1.5 to 5"), guidance_scale=1.49),
    wrong(
        "a guidance of 5.01",
        ("input.guidance_scale", "5.01", "1.5 to 5"),
        guidance_scale=5.01,
        model="Qubico/flux1-dev",
    ),
    raw_field("a guidance beyond floats", "guidance_scale", "1e999", "input.guidance_scale", "inf", "1.5 to 5"),
    raw_field("a guidance of 400 digits", "guidance_scale", "9" * 400, "input.guidance_scale", "999", "1.5 to 5"),
    raw_field("a width beyond floats", "width", "1e999", "input.width", "inf", WHOLE),
    raw_field("a height of 1e308", "height", "1e308", "input.height", "1000", *SIDES),
    raw_field("a guidance that is no number", "guidance_scale", "NaN", "body", "it must be JSON"),
    wrong("no pictures", ("input.batch_size", "0", "1 to 4"), batch_size=0),
    wrong("five pictures", ("input.batch_size", "5", "1 to 4"), batch_size=5),
    wrong("five pictures of a model that makes one", ("input.batch_size", "5"), batch_size=5, model="Qubico/flux1-dev"),
    wrong("a seed of -2", ("input.seed", "-2", "0 to 9223372036854775807"), seed=-2),
    wrong("a seed of 2 to the 63rd", ("input.seed", "9223372036854775808", "0 to 9223372036854775807"), seed=2**63),
    wrong("a seed of 10 to the 400th", ("input.seed", "1000", "…", "0 to 9223372036854775807"), seed=10**400),
    wrong("a LoRA for txt2img", ("input.lora_settings", "lora_type", "null or []"), lora_settings=[{"lora_type": "x"}]),
    wrong("a control for txt2img", ("input.control_net_settings", "null or []"), control_net_settings=[{"a": 1}]),
]

KEYS = [
    keyed("no key"),
    keyed("an empty key", X_API_Key=""),
    keyed("a wrong key", X_API_Key="wrong"),
    keyed("a key with a letter more", X_API_Key=KEY + "x"),
    keyed("a key of 10,000 letters", X_API_Key="k" * 10_000),
    keyed("a wrong bearer", Authorization="Bearer wrong"),
    keyed("a key as basic authorization", Authorization=f"Basic {KEY}"),
    keyed("a key without its scheme", Authorization=KEY),
    keyed("SQL for a key", X_API_Key="' OR 1=1 --"),
    Bad("no key for a task", 401, ("API key",), "GET", f"{CREATE}/{UNKNOWN_TASK}", headers={}),
    Bad("no key for a cancel", 401, ("API key",), "DELETE", f"{CREATE}/{UNKNOWN_TASK}", headers={}),
]

ROUTES = [
    asked("an unknown task", 404, "GET", f"{CREATE}/{UNKNOWN_TASK}", "task", UNKNOWN_TASK),
    asked("a cancel of an unknown task", 404, "DELETE", f"{CREATE}/{UNKNOWN_TASK}", "task", UNKNOWN_TASK),
    asked("a task with a word for its id", 404, "GET", f"{CREATE}/cat", "'cat'"),
    asked("a task with an SQL id", 404, "GET", f"{CREATE}/'%20OR%201=1%20--"),
    asked("a task with a NUL in its id", 404, "GET", f"{CREATE}/%00"),
    asked("a task with broken UTF-8 in its id", 404, "GET", f"{CREATE}/%ff%fe"),
    asked("a task with an encoded surrogate in its id", 404, "GET", f"{CREATE}/%ed%a0%80"),
    asked("a task with an id of 50,000 letters", 404, "GET", f"{CREATE}/{'x' * 50_000}"),
    asked("a cancel with an id of 50,000 letters", 404, "DELETE", f"{CREATE}/{'x' * 50_000}"),
    asked("a task with a way upwards for its id", 404, "GET", f"{CREATE}/..%2f..%2fetc%2fpasswd"),
    asked("a task with a line break in its id", 404, "GET", f"{CREATE}/a%0d%0ab"),
    asked("putting a task", 405, "PUT", CREATE, "PUT", CREATE),
    asked("patching a task", 405, "PATCH", f"{CREATE}/{UNKNOWN_TASK}", "PATCH"),
    asked("getting the creating route", 405, "GET", CREATE, "GET"),
    asked("posting to a task", 405, "POST", f"{CREATE}/{UNKNOWN_TASK}", "POST"),
    asked("a method of another trade", 405, "PROPFIND", CREATE, "PROPFIND"),
    asked("an unknown route", 404, "GET", "/api/v1/nothing", "/api/v1/nothing"),
    asked("an unknown version", 404, "POST", "/api/v2/task", "/api/v2/task"),
    asked("an unknown route with a NUL", 404, "GET", "/api/%00"),
    asked("a very long unknown route", 404, "GET", "/api/" + "x" * 50_000),
]

FILES = [
    ("an unknown picture", f"/files/{UNKNOWN_FILE}.png"),
    ("no name", "/files/"),
    ("a name without an ending", f"/files/{UNKNOWN_FILE}"),
    ("a name with another ending", f"/files/{UNKNOWN_FILE}.svg"),
    ("a way upwards", "/files/..%2ffluxserve.sqlite"),
    ("a way upwards, encoded twice", "/files/..%252f..%252ffluxserve.sqlite"),
    ("a way upwards by backslashes", "/files/..%5c..%5cfluxserve.sqlite"),
    ("an absolute path", "/files/%2fetc%2fpasswd"),
    ("a NUL after a name", f"/files/{UNKNOWN_FILE}.png%00"),
    ("a line break after a name", f"/files/{UNKNOWN_FILE}.png%0a"),
    ("capital letters", f"/files/{'A' * 32}.png"),
    ("digits of another script", f"/files/{'%D9%A0' * 32}.png"),
    ("broken UTF-8", "/files/%ff.png"),
    ("the lock", "/files/lock"),
    ("the key", "/files/first_key"),
    ("a name of 50,000 letters", f"/files/{'a' * 50_000}.png"),
]

HEADERS = b"Host: localhost\r\nConnection: close\r\n"
POST_HEAD = b"POST /api/v1/task HTTP/1.1\r\n" + HEADERS + b"X-API-Key: " + KEY.encode() + b"\r\n"
GET_HEAD = b"GET /api/v1/task/x HTTP/1.1\r\n" + HEADERS
RAW = {
    "a chunked body that is too large": (
        POST_HEAD
        + b"Transfer-Encoding: chunked\r\n\r\n"
        + (b"10000\r\n" + b" " * 0x10000 + b"\r\n") * 17
        + b"0\r\n\r\n",
        (413,),
    ),
    "a body declared as a terabyte": (POST_HEAD + b"Content-Length: 1000000000000\r\n\r\n", (413,)),
    "a length of 30 digits": (POST_HEAD + b"Content-Length: " + b"9" * 30 + b"\r\n\r\n", (400, 413)),
    "a negative length": (POST_HEAD + b"Content-Length: -1\r\n\r\n", (400,)),
    "a length in words": (POST_HEAD + b"Content-Length: many\r\n\r\n", (400,)),
    "two lengths": (POST_HEAD + b"Content-Length: 2\r\nContent-Length: 3\r\n\r\n{}", (400,)),
    "a length and chunks": (
        POST_HEAD + b"Content-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n",
        (400,),
    ),
    "a broken chunk": (POST_HEAD + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n{}\r\n", (400,)),
    "a key of bytes beyond ASCII": (GET_HEAD + b"X-API-Key: \xff\xfe\xc3\xa4\r\n\r\n", (401,)),
    "a bearer of bytes beyond ASCII": (GET_HEAD + b"Authorization: Bearer \xe2\x82\xac\r\n\r\n", (401,)),
    "a bearer without a key": (GET_HEAD + b"Authorization: Bearer \r\n\r\n", (401,)),
    "an invented method": (GET_HEAD.replace(b"GET", b"BREW") + b"\r\n", (400, 405)),
    "a length of 5,000 zeros": (POST_HEAD + b"Content-Length: " + b"0" * 5000 + b"2\r\n\r\n{}", (400,)),
    "a NUL in a header": (GET_HEAD + b"X-API-Key: a\0b\r\n\r\n", (400, 401)),
    "a path of bytes beyond ASCII": (GET_HEAD.replace(b"task/x", b"task/\xc3\xa4\xff") + b"\r\n", (400, 401)),
    "a way upwards in the path": (GET_HEAD.replace(b"/api/v1/task/x", b"/files/../../etc/passwd") + b"\r\n", (404,)),
    "a way upwards out of the API": (GET_HEAD.replace(b"task/x", b"../../../etc/passwd") + b"\r\n", (404,)),
    "another host's address": (GET_HEAD.replace(b"/api/v1", b"http://example.com/api/v1") + b"\r\n", (400, 401, 404)),
    "a tunnel": (b"CONNECT example.com:443 HTTP/1.1\r\nHost: localhost\r\n\r\n", (400, 404, 405)),
    "no path": (b"GET  HTTP/1.1\r\nHost: localhost\r\n\r\n", (400,)),
    "a path without its slash": (GET_HEAD.replace(b"/api/v1/task/x", b"api") + b"\r\n", (400, 404)),
    "not HTTP at all": (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", (400,)),
    "an unknown HTTP version": (b"GET /api/v1/task/x HTTP/9.9\r\nHost: localhost\r\n\r\n", (400, 505)),
    "a header without a colon": (GET_HEAD + b"nonsense\r\n\r\n", (400,)),
    "10,000 headers": (
        GET_HEAD + b"".join(b"X-%d: x\r\n" % number for number in range(10_000)) + b"\r\n",
        (400, 401, 431),
    ),
}


@contextmanager
def nothing_charged(server: Server) -> Iterator[None]:
    with closing(sqlite3.connect(server.data_dir / "fluxserve.sqlite")) as database:
        query = "SELECT balance, frozen, (SELECT COUNT(*) FROM tasks), (SELECT COUNT(*) FROM ledger) FROM accounts"
        before = database.execute(query).fetchall()
        yield
        assert database.execute(query).fetchall() == before


@pytest.mark.parametrize("bad", [*BODIES, *FIELDS, *KEYS, *ROUTES], ids=lambda bad: ascii(bad.words))
def test_the_answer_says_what_is_wrong_and_nothing_is_charged(server: Server, bad: Bad) -> None:
    with nothing_charged(server), server.client() as client:
        del client.headers["X-API-Key"]
        answer = client.request(bad.method, bad.path, content=bad.content, headers=bad.headers)

    assert (answer.status_code, bad.words) == (bad.status, bad.words), answer.text
    assert answer.headers["content-type"] == "application/json"
    refusal = answer.json()
    assert refusal.keys() == {"code", "data", "message"}
    assert (refusal["code"], refusal["data"]) == (bad.status, None)
    assert refusal["message"]
    assert len(refusal["message"]) < 400
    if bad.path == CREATE and bad.status == 400:
        assert refusal["message"].startswith(f"{bad.says[0]}: ")
    for words in bad.says:
        assert words in refusal["message"]


@pytest.mark.parametrize(("words", "path"), FILES, ids=[words for words, _ in FILES])
def test_no_file_is_found_under_an_odd_name(server: Server, words: str, path: str) -> None:
    with server.client() as client:
        answer = client.get(path)

    assert (words, answer.status_code) == (words, 404)
    assert "SQLite" not in answer.text
    assert KEY not in answer.text


@pytest.mark.parametrize("words", RAW)
def test_bytes_that_no_client_would_send_are_answered_with_4xx(server: Server, words: str) -> None:
    sent, statuses = RAW[words]
    with nothing_charged(server):
        status, answer = exchange(server, sent)

    assert status in statuses, answer
    assert b"root:" not in answer


def exchange(server: Server, sent: bytes) -> tuple[int, bytes]:
    """Bytes there, the status and all bytes back; what is refused early may not be read to its end."""
    received = b""
    with socket.create_connection(("127.0.0.1", server.port), timeout=10) as connection:
        try:
            connection.sendall(sent)
            while part := connection.recv(65536):
                received += part
                if b"\r\n\r\n" in received:
                    break
        except ConnectionError:
            pass
    assert received.startswith(b"HTTP/1.1 "), received
    return int(received.split()[1]), received


def test_a_client_that_hangs_up_in_the_middle_of_its_body_is_no_fault_of_ours(server: Server) -> None:
    with nothing_charged(server):
        with socket.create_connection(("127.0.0.1", server.port)) as connection:
            connection.sendall(POST_HEAD + b"Content-Length: 100\r\n\r\n{")
        with server.client() as client:
            assert client.get("/healthz").status_code == 200


def test_what_is_unusual_but_allowed_is_accepted(server: Server) -> None:
    plain = body(steps=1)
    bodies = {
        "a body said to be a text": (plain, "text/plain"),
        "a body said to be nothing": (plain, ""),
        "fields that are not known": ({**plain, "x": {"y": [1e300]}, "input": {**plain["input"], "y": "z"}}, ""),
        "nulls for what may be absent": ({**plain, "config": None, "input": {**plain["input"], "seed": None}}, ""),
        "whole numbers written as floats": (body(steps=1.0, seed=7.0, batch_size=1.0), ""),
        "a service mode that is public": ({**plain, "config": {"service_mode": "public"}}, ""),
    }
    with server.client() as client:
        for words, (values, kind) in bodies.items():
            headers = {"Content-Type": kind} if kind else {}
            answer = client.post(CREATE, content=json.dumps(values).encode(), headers=headers)
            assert (words, answer.status_code) == (words, 200), answer.text
            assert finished(client, answer.json()["data"]["task_id"])["status"] == "completed"


def test_ten_thousand_ranges_of_a_picture_cost_no_time(server: Server) -> None:
    with server.client() as client:
        task = finished(client, client.post(CREATE, json=body(steps=1)).json()["data"]["task_id"])
        url = task["output"]["image_url"]
        whole = client.get(url).content
        began = time.monotonic()
        answer = client.get(url, headers={"Range": "bytes=" + ",".join(f"{at}-{at}" for at in range(10_000))})
        seconds = time.monotonic() - began

        assert answer.status_code in (200, 206, 400, 416)
        assert len(answer.content) <= 2 * len(whole)
        assert seconds < 1
        for odd in ("bytes=", "bytes=a-b", "bytes=5-2", "bytes=999999999-", "lines=1-2", "bytes=-0", "bytes=--1", "x"):
            assert client.get(url, headers={"Range": odd}).status_code in (200, 206, 400, 416)


def test_after_all_that_the_server_still_draws_and_its_log_has_no_fault(server: Server) -> None:
    with server.client() as client:
        task = finished(client, client.post(CREATE, json=body(steps=1)).json()["data"]["task_id"])
        picture = client.get(task["output"]["image_url"])

    with Image.open(io.BytesIO(picture.content), formats=("PNG",)) as image:
        image.load()
    log = server.log.read_text()
    assert "Traceback" not in log
    assert "the server has a fault" not in log

"""Every webhook reaches a good receiver at least once, whatever other receivers and other senders do (G9, G10)."""

import asyncio
import logging
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from ipaddress import ip_address
from typing import Any

import pytest
from standardwebhooks import Webhook

from fluxserve.domain.errors import Unavailable
from fluxserve.domain.task import Task
from fluxserve.storage import GuardedBackend
from fluxserve.storage.guard import Address
from fluxserve.tasks import Database, Outbox
from fluxserve.webhooks import sender as sending
from tests.webhooks.conftest import OURS, Post, until
from tests.webhooks.receiver import (
    OK,
    Answer,
    Receiver,
    closing,
    drip,
    endless,
    hang,
    late,
    receiving,
    reset,
    self_signed,
    status,
)

pytestmark = pytest.mark.anyio

NO_ANSWER = "no HTTP answer"
CANARY = "canary-in-the-secret"


@pytest.fixture
async def good() -> AsyncIterator[Receiver]:
    async with receiving() as receiver:
        yield receiver


# ---------------------------------------------------------------- what is sent


async def test_a_webhook_is_delivered_signed_and_written_down(post: Post, good: Receiver) -> None:
    async with post.sending():
        task_id = await post.ended(good.url, "a secret")
        log = await post.over(task_id)

    (got,) = good.received
    assert got.request == "POST /hook?of=mine HTTP/1.1"
    assert got.headers["host"] == f"127.0.0.1:{good.port}"
    assert got.headers["content-type"] == "application/json"
    assert got.headers["webhook-id"] == log.id
    assert got.headers["x-webhook-secret"] == "a secret"
    data = Webhook(b"a secret").verify(got.body, got.headers)
    assert data == {
        "timestamp": int(got.headers["webhook-timestamp"]),
        "data": {"task_id": task_id, "status": "failed", "output": None},
    }
    assert log.url == good.url
    assert log.delivered_at is not None
    assert [(each.status, each.error) for each in log.attempts] == [(200, None)]
    assert 0 <= log.attempts[0].seconds < 5
    assert log.delivered_at == log.attempts[0].at


async def test_what_ended_before_the_sender_started_is_sent_too(post: Post, good: Receiver) -> None:
    task_id = await post.ended(good.url)

    async with post.sending():
        assert (await post.over(task_id)).delivered_at is not None


async def test_it_is_sent_again_with_the_same_id_a_fresh_time_and_a_signature_of_its_own(post: Post) -> None:
    async with receiving(status(500), status(503), OK) as receiver, post.sending(gaps=(0, 1.0)):
        log = await post.over(await post.ended(receiver.url, "s"))

    first, second, third = receiver.received
    assert {each.headers["webhook-id"] for each in receiver.received} == {log.id}
    assert third.headers["webhook-timestamp"] > second.headers["webhook-timestamp"]
    assert third.headers["webhook-signature"] != second.headers["webhook-signature"]
    for each in (first, second, third):
        Webhook(b"s").verify(each.body, each.headers)
    assert [each.status for each in log.attempts] == [500, 503, 200]
    assert log.delivered_at == log.attempts[-1].at


async def test_after_the_last_gap_it_is_given_up(post: Post) -> None:
    gaps = (0.05, 0.1, 0.2)
    async with receiving(status(500)) as receiver, post.sending(gaps=gaps):
        log = await post.over(await post.ended(receiver.url))
        await asyncio.sleep(0.3)

    assert [each.status for each in log.attempts] == [500] * 4
    assert len(receiver.received) == 4
    assert log.delivered_at is None
    for gap, before, after in zip(gaps, receiver.received, receiver.received[1:], strict=False):
        assert after.at - before.at > gap * 0.9


async def test_a_receiver_that_is_gone_is_not_asked_again(post: Post) -> None:
    async with receiving(status(410)) as receiver, post.sending(gaps=(0, 0)):
        log = await post.over(await post.ended(receiver.url))

    assert len(receiver.received) == 1
    assert [each.status for each in log.attempts] == [410]
    assert log.delivered_at is None


async def test_it_can_be_sent_once_more_whether_it_was_delivered_or_given_up(post: Post) -> None:
    async with receiving(status(500), OK) as receiver, post.sending():
        task_id = await post.ended(receiver.url)
        assert (await post.over(task_id)).delivered_at is None

        for _ in range(2):
            assert (await post.outbox.resend(None, task_id)).delivered_at is None
            assert (await post.over(task_id)).delivered_at is not None

    assert len({each.headers["webhook-id"] for each in receiver.received}) == 1
    assert [each.status for each in (await post.log(task_id)).attempts] == [500, 200, 200]


# ---------------------------------------------------------------- bad receivers

on_one_database = pytest.mark.parametrize("engine", ["sqlite"], indirect=True)
CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"

NO_HTTP: dict[str, Answer] = {
    "hangs": hang,
    "drips its head": drip(b"HTTP/1.1 200 OK\r\nX: ", b"x"),
    "has an endless head": endless(b"HTTP/1.1 200 OK\r\nX: ", b"x" * 1000),
    "only promises an answer": endless(b"", b"HTTP/1.1 103 Early Hints\r\n\r\n" * 10),
    "resets the connection": reset,
    "closes the connection": closing(),
    "closes it amid its head": closing(b"HTTP/1.1 200 OK\r\nContent-Le"),
    "speaks another language": b"220 mail.test ESMTP\r\n\r\n",
    "switches to another protocol": b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: mine\r\n\r\n",
    "answers rubbish": b"\x00\xff\r\n\r\n",
    "answers HTTP/0.9": b"OK\r\n",
    "answers two lengths": b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nOK",
}
STATUSES = (300, 301, 400, 401, 404, 408, 429, 500, 502, 504)


@on_one_database
async def test_a_receiver_without_an_http_answer_fails_and_nobody_is_told_why(post: Post) -> None:
    async def resolve(host: str, _port: int) -> list[Address]:
        if host == "unknown.test":
            raise OSError("no such name")
        if host == "slow.test":
            await asyncio.sleep(3600)
        return [ip_address(host)]

    async with AsyncExitStack() as stack:
        bad = {name: (await stack.enter_async_context(receiving(answer))).url for name, answer in NO_HTTP.items()}
        plain = await stack.enter_async_context(receiving())
        unknown = await stack.enter_async_context(receiving(tls=self_signed()))
        async with receiving() as stopped:
            pass
        bad |= {
            "has no TLS": plain.url.replace("http:", "https:"),
            "has a certificate that nobody knows": unknown.url,
            "refuses": stopped.url,
            "is not known": "http://unknown.test/",
            "is not resolved in time": "http://slow.test/",
        }
        async with post.sending(seconds=0.5, backend=GuardedBackend([OURS], resolve)):
            task_ids = await post.all_ended(*bad.values())
            logs = [await post.over(task_id) for task_id in task_ids]

    for name, log in zip(bad, logs, strict=True):
        assert [(each.status, each.error) for each in log.attempts] == [(None, NO_ANSWER)], name
        assert log.attempts[0].seconds < 20, name
        assert log.delivered_at is None, name


@on_one_database
async def test_an_address_inside_is_refused_in_the_same_words(post: Post) -> None:
    inside = (
        "http://127.0.0.1:22/",
        "http://10.0.0.1/",
        "http://[::1]/",
        "http://169.254.169.254/",
        "http://localhost/",
    )
    async with post.sending(backend=GuardedBackend()):
        logs = [await post.over(task_id) for task_id in await post.all_ended(*inside)]

    assert [[each.error for each in log.attempts] for log in logs] == [[NO_ANSWER]] * len(inside)


@on_one_database
async def test_an_address_that_cant_be_read_is_given_up_by_and_by(post: Post) -> None:
    async with post.sending(gaps=(0,)):
        log = await post.over(await post.ended("http://[user]@example.test/"))

    assert [each.status for each in log.attempts] == [None, None]
    assert "user name" in str(log.attempts[0].error)


@on_one_database
async def test_any_status_that_is_no_success_fails(post: Post) -> None:
    async with AsyncExitStack() as stack:
        urls = [(await stack.enter_async_context(receiving(status(number)))).url for number in STATUSES]
        async with post.sending():
            logs = [await post.over(task_id) for task_id in await post.all_ended(*urls)]

    assert [[(each.status, each.error) for each in log.attempts] for log in logs] == [[(n, None)] for n in STATUSES]
    assert [log.delivered_at for log in logs] == [None] * len(STATUSES)


@on_one_database
@pytest.mark.parametrize("number", [301, 302, 303, 307, 308])
async def test_a_redirect_is_not_followed(post: Post, good: Receiver, number: int) -> None:
    async with receiving(status(number, f"Location: {good.url}")) as receiver, post.sending():
        log = await post.over(await post.ended(receiver.url))

    assert [each.status for each in log.attempts] == [number]
    assert log.delivered_at is None
    assert good.received == []


@on_one_database
@pytest.mark.parametrize(
    "answer",
    [
        endless(CHUNKED, b"100\r\n" + b"x" * 256 + b"\r\n"),
        drip(CHUNKED, b"1\r\nx\r\n"),
        drip(b"HTTP/1.1 202 Accepted\r\nContent-Length: 1000\r\n\r\n", b"x"),
        CHUNKED + b"rubbish\r\n",
        closing(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nshort"),
        status(200, body=b"x" * 1_000_000),
        b"HTTP/1.1 204 No Content\r\n\r\n",
    ],
)
async def test_a_success_counts_whatever_comes_after_it(post: Post, answer: Answer) -> None:
    async with receiving(answer) as receiver, post.sending():
        task_id = await post.ended(receiver.url)
        log = await post.over(task_id)
        await until(lambda: not receiver.open or answer == b"HTTP/1.1 204 No Content\r\n\r\n")

    assert log.delivered_at is not None
    assert log.attempts[0].seconds < 8
    assert len(receiver.received) == 1


@on_one_database
async def test_a_connection_serves_again_once_its_answer_was_read(post: Post, good: Receiver) -> None:
    async with post.sending():
        for _ in range(3):
            await post.over(await post.ended(good.url))

    assert [each.connection for each in good.received] == [1, 1, 1]


@on_one_database
async def test_a_connection_whose_answer_was_left_does_not(post: Post) -> None:
    answers = (status(200, body=b"x" * 100_000), status(500, body=b"x" * 100_000), status(201))
    async with receiving(*answers) as receiver, post.sending():
        logs = [await post.over(await post.ended(receiver.url)) for _ in answers]

    assert [each.connection for each in receiver.received] == [1, 2, 3]
    assert [log.attempts[0].status for log in logs] == [200, 500, 201]


@on_one_database
async def test_a_connection_that_its_receiver_has_closed_is_not_used_again(post: Post) -> None:
    async with receiving(closing(OK)) as receiver, post.sending():
        for _ in range(3):
            log = await post.over(await post.ended(receiver.url))
            assert [each.status for each in log.attempts] == [200]

    assert receiver.connections == 3


# ---------------------------------------------------------------- places


async def test_receivers_that_hang_delay_no_other(post: Post, good: Receiver, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sending, "MOST", 32)
    monkeypatch.setattr(sending, "MOST_OF_ONE", 4)
    async with AsyncExitStack() as stack:
        tarpits = [await stack.enter_async_context(receiving(hang)) for _ in range(10)]
        async with post.sending(seconds=60):
            await post.all_ended(*(tarpit.url for tarpit in tarpits for _ in range(8)))
            await until(lambda: all(tarpit.open for tarpit in tarpits))

            took = await until_delivered(post, *[good.url] * 20)

        assert sum(tarpit.connections for tarpit in tarpits) < 32
        assert max(tarpit.connections for tarpit in tarpits) <= 4
    assert took < 50


async def test_a_place_that_becomes_free_is_taken_at_once(post: Post, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sending, "MOST", 1)
    monkeypatch.setattr(sending, "LOOK_SECONDS", 100)
    async with receiving(late(0.05)) as one, receiving(late(0.05)) as another, post.sending():
        took = await until_delivered(post, *[one.url, another.url] * 3)

    assert took < 50


async def test_who_waits_for_a_place_delays_nobody_whose_time_comes(
    post: Post, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sending, "LOOK_SECONDS", 100)
    async with receiving(hang) as tarpit, receiving(status(500), OK) as receiver, post.sending(gaps=(0.3,), seconds=60):
        await post.all_ended(*[tarpit.url] * 20)
        await until(lambda: tarpit.open == sending.MOST_OF_ONE)

        took = await until_delivered(post, receiver.url)

    assert len(receiver.received) == 2
    assert took < 50


async def test_no_receiver_has_more_than_its_share_at_once(post: Post) -> None:
    most = 0

    async def count(writer: asyncio.StreamWriter) -> None:
        nonlocal most
        most = max(most, receiver.open)
        await asyncio.sleep(0.02)
        writer.write(OK)

    async with receiving(count) as receiver, post.sending():
        await until_delivered(post, *[receiver.url] * 40)

    assert 2 <= most <= sending.MOST_OF_ONE
    assert len(receiver.received) == 40


@on_one_database
async def test_a_sender_whose_letters_have_no_place_looks_seldom(post: Post, monkeypatch: pytest.MonkeyPatch) -> None:
    looks = 0
    take = Outbox.take

    async def counted(*arguments: Any, **named: Any) -> Any:
        nonlocal looks
        looks += 1
        return await take(*arguments, **named)

    monkeypatch.setattr(Outbox, "take", counted)
    monkeypatch.setattr(sending, "LOOK_SECONDS", 100)
    async with receiving(hang) as tarpit, post.sending(seconds=60):
        await post.all_ended(*[tarpit.url] * 20)
        await until(lambda: tarpit.open == sending.MOST_OF_ONE)
        await asyncio.sleep(0.2)
        looks = 0
        await asyncio.sleep(1.0)

    assert looks <= 2


async def until_delivered(post: Post, *urls: str) -> float:
    """Have tasks end with these webhooks. Returns the seconds until all were delivered."""
    began = time.monotonic()
    for task_id in await post.all_ended(*urls):
        assert (await post.over(task_id)).delivered_at is not None
    return time.monotonic() - began


# ---------------------------------------------------------------- several senders, and dead ones


async def test_two_senders_do_not_send_the_same(post: Post, good: Receiver) -> None:
    other = Database(post.engine)
    second = sending.Sender(
        outbox=Outbox(other, post.outbox.signals),
        render=lambda task, _now: task.id.encode(),
        backend=GuardedBackend([OURS]),
        gaps=(),
        seconds=10,
    )
    try:
        async with post.sending():
            second.start()
            await until_delivered(post, *[good.url] * 60)
            await second.stop()
    finally:
        other.close()

    assert len(good.received) == 60
    assert len({each.headers["webhook-id"] for each in good.received}) == 60


async def test_what_a_dead_sender_had_taken_is_sent_when_its_lease_ends(post: Post, good: Receiver) -> None:
    task_id = await post.ended(good.url)
    began = time.monotonic()
    (letter,), _ = await post.outbox.take(0.5, {}, most_of_one=8, most=512)

    async with post.sending():
        await post.over(task_id)

    assert time.monotonic() - began > 0.5
    assert [each.headers["webhook-id"] for each in good.received] == [letter.id]


async def test_a_stop_breaks_off_what_is_under_way_and_the_next_sender_makes_it_again(post: Post) -> None:
    async with receiving(hang, OK) as receiver:
        async with post.sending(seconds=100):
            task_id = await post.ended(receiver.url)
            await until(lambda: receiver.received)
            began = time.monotonic()
        assert time.monotonic() - began < 50
        assert (await post.log(task_id)).attempts == ()

        post.pass_time(200)
        async with post.sending():
            log = await post.over(task_id)

    assert [each.status for each in log.attempts] == [200]


@on_one_database
async def test_a_sender_that_was_never_started_stops(post: Post) -> None:
    sender = sending.Sender(
        outbox=post.outbox, render=lambda *_: b"", backend=GuardedBackend([OURS]), gaps=(), seconds=1
    )

    await sender.stop()


# ---------------------------------------------------------------- our own faults


@on_one_database
async def test_a_pass_that_breaks_is_not_the_last(
    post: Post, good: Receiver, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(sending, "TRY_AGAIN_SECONDS", 0.05)
    take, broken = Outbox.take, [True]

    async def breaking(*arguments: Any, **named: Any) -> Any:
        if broken:
            raise Unavailable("the database did not take it")
        return await take(*arguments, **named)

    monkeypatch.setattr(Outbox, "take", breaking)
    async with post.sending():
        task_id = await post.ended(good.url)
        await until(lambda: caplog.text.count("a pass of the webhooks could not be made") > 1)
        broken.clear()
        await post.over(task_id)


async def test_an_attempt_that_could_not_be_written_down_is_made_again(
    post: Post, good: Receiver, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    record, broken = Outbox.record, [True]

    async def breaking(*arguments: Any, **named: Any) -> None:
        if broken:
            broken.clear()
            raise Unavailable("the database did not take it")
        await record(*arguments, **named)

    monkeypatch.setattr(Outbox, "record", breaking)
    async with post.sending():
        task_id = await post.ended(good.url)
        await until(lambda: "could not be written down" in caplog.text)
        post.pass_time(100)
        log = await post.over(task_id)

    assert len(good.received) == 2
    assert [each.status for each in log.attempts] == [200]


@on_one_database
async def test_a_webhook_that_we_cant_make_is_given_up_by_and_by(
    post: Post, good: Receiver, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(_task: Task, _now: float) -> bytes:
        raise KeyError("config")

    async with post.sending(gaps=(0,), render=broken):
        log = await post.over(await post.ended(good.url))

    assert good.received == []
    assert [each.error for each in log.attempts] == [sending.OUR_FAULT] * 2
    assert caplog.text.count(f"{log.id} could not be sent") == 2


@on_one_database
async def test_no_secret_is_ever_logged(
    post: Post, good: Receiver, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    async with AsyncExitStack() as stack:
        answers = [reset, closing(), status(500), status(302, "Location: /"), b"rubbish\r\n\r\n"]
        urls = [(await stack.enter_async_context(receiving(answer))).url for answer in answers]
        async with post.sending(gaps=(0,), seconds=0.5):
            urls += [good.url, "http://[", good.url.replace("http:", "https:")]
            task_ids = [await post.ended(url, secret) for url in urls for secret in (CANARY, f"whsec_{CANARY}")]
            for task_id in task_ids:
                await post.over(task_id)
        monkeypatch.setattr(Outbox, "record", None)
        async with post.sending():
            await post.ended(good.url, CANARY)
            await until(lambda: "could not be written down" in caplog.text)

    assert "connect_tcp" in caplog.text
    assert CANARY not in caplog.text

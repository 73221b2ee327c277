"""No connection leads inside, however its address is written and whatever a name is made to mean."""

import asyncio
import socket
import threading
from ipaddress import ip_address, ip_network
from typing import Any

import httpcore2
import pytest

from fluxserve.storage.fetch import Fetcher, FetchError
from fluxserve.storage.guard import Address, BlockedAddressError, GuardedBackend, is_public, resolve

pytestmark = pytest.mark.anyio

HOSTILE_HOSTS = (
    "localhost",
    "127.0.0.1",
    "127.1",
    "127.255.255.254",
    "2130706433",  # 127.0.0.1 as one number
    "0x7f000001",
    "0x7f.0x0.0x0.0x1",
    "0177.0.0.1",
    "017700000001",
    "0",
    "0.0.0.0",
    "１２７.０.０.１",  # full-width digits
    "①②⑦.⓪.⓪.①",  # circled ones
    "127。0。0。1",  # ideographic full stops
    "10.0.0.1",
    "172.16.0.1",
    "172.31.255.255",
    "192.168.1.1",
    "169.254.169.254",  # cloud metadata
    "100.64.0.1",  # carrier-grade NAT, where some clouds keep theirs
    "168.63.129.16",
    "192.0.0.192",
    "198.18.0.1",
    "224.0.0.1",
    "240.0.0.1",
    "255.255.255.255",
    "[::1]",
    "[::]",
    "[::ffff:127.0.0.1]",
    "[::ffff:7f00:1]",
    "[::ffff:169.254.169.254]",
    "[::127.0.0.1]",
    "[fe80::1]",
    "[fc00::1]",
    "[fec0::1]",
    "[ff02::1]",
    "[64:ff9b::7f00:1]",
    "[64:ff9b:1::a9fe:a9fe]",
    "[2002:7f00:1::]",
    "[2001:0:7f00:1::]",
    "[2001:db8::1]",
)
REACHED = ConnectionAbortedError("a connection was made")


class Recording(GuardedBackend):
    """Makes no connection that passed the guard, but tells that it would have."""

    def __init__(self, answers: list[list[str]] | None = None) -> None:
        super().__init__(resolve=resolve if answers is None else self._answer)
        self._answers = answers or []
        self.connected: list[str] = []
        self._plain = self  # type: ignore[assignment]
        self._guarding = True

    async def _answer(self, _host: str, _port: int) -> list[Address]:
        return [ip_address(each) for each in self._answers.pop(0)]

    async def connect_tcp(self, host: str, *arguments: object, **named: object) -> httpcore2.AsyncNetworkStream:
        if self._guarding:
            self._guarding = False
            try:
                return await super().connect_tcp(host, *arguments, **named)  # type: ignore[arg-type]
            finally:
                self._guarding = True
        self.connected.append(host)
        raise httpcore2.ConnectError("nobody is there")


@pytest.mark.parametrize("host", HOSTILE_HOSTS)
@pytest.mark.parametrize("scheme", ["http", "https"])
async def test_a_hostile_host_is_never_connected_to(scheme: str, host: str) -> None:
    backend = Recording()
    with pytest.raises(FetchError):
        await Fetcher(backend, most_bytes=1000, seconds=5).fetch(f"{scheme}://{host}/picture.png")
    assert backend.connected == []


async def test_the_guard_lets_the_internet_through() -> None:
    backend = Recording()
    with pytest.raises(FetchError, match="nobody is there"):
        await Fetcher(backend, most_bytes=1000, seconds=5).fetch("http://93.184.215.14/picture.png")
    assert backend.connected == ["93.184.215.14"]


async def test_one_bad_answer_among_good_ones_is_enough() -> None:
    backend = Recording([["93.184.215.14", "10.0.0.1"]])
    with pytest.raises(BlockedAddressError):
        await backend.connect_tcp("mixed.example", 80)
    assert backend.connected == []


async def test_a_name_that_changes_its_mind_is_connected_to_where_it_was_checked() -> None:
    backend = Recording([["93.184.215.14"], ["127.0.0.1"]] * 5)
    for number in range(10):
        with pytest.raises(httpcore2.ConnectError if number % 2 == 0 else BlockedAddressError):
            await backend.connect_tcp("rebinding.example", 80)
    assert backend.connected == ["93.184.215.14"] * 5


async def test_where_one_address_does_not_answer_the_next_is_tried() -> None:
    backend = Recording([["2606:2800:220:1::1", "93.184.215.14"]])
    with pytest.raises(httpcore2.ConnectError):
        await backend.connect_tcp("both.example", 80)
    assert backend.connected == ["2606:2800:220:1::1", "93.184.215.14"]


async def test_names_that_are_long_in_coming_hold_no_other_up(monkeypatch: pytest.MonkeyPatch) -> None:
    known, asked = threading.Event(), threading.Semaphore(0)
    look = socket.getaddrinfo

    def slowly(host: str, *arguments: Any, **named: Any) -> Any:
        if host == "slow.test":
            asked.release()
            known.wait(60)
            raise OSError("no such name")
        return look(host, *arguments, **named)

    monkeypatch.setattr(socket, "getaddrinfo", slowly)
    slow = [asyncio.create_task(resolve("slow.test", 80)) for _ in range(50)]
    while not asked.acquire(blocking=False):
        await asyncio.sleep(0.01)

    assert await resolve("127.0.0.1", 80) == [ip_address("127.0.0.1")]
    slow[0].cancel()  # who has left is not told
    known.set()
    outcomes = await asyncio.gather(*slow, return_exceptions=True)
    assert isinstance(outcomes[0], asyncio.CancelledError)
    assert [str(outcome) for outcome in outcomes[1:]] == ["no such name"] * 49


async def test_a_connection_whose_handshake_is_broken_off_is_closed() -> None:
    begun, closed = asyncio.Event(), asyncio.Event()

    async def never_shake(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readexactly(1)
        begun.set()
        await reader.read()
        closed.set()
        writer.close()

    server = await asyncio.start_server(never_shake, "127.0.0.1", 0)
    url = f"https://127.0.0.1:{server.sockets[0].getsockname()[1]}/"
    pool = httpcore2.AsyncConnectionPool(network_backend=GuardedBackend([ip_network("127.0.0.1/32")]))
    async with server, pool:
        asking = asyncio.create_task(pool.request("GET", url))
        await begun.wait()
        asking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asking
        await asyncio.wait_for(closed.wait(), 30)


@pytest.mark.parametrize("port", [22, 25, 6379, 8080])
async def test_only_the_webs_ports_are_reached(port: int) -> None:
    backend = Recording([["93.184.215.14"]])
    with pytest.raises(BlockedAddressError):
        await backend.connect_tcp("public.example", port)


async def test_what_the_operator_names_is_reached_at_any_port() -> None:
    backend = GuardedBackend([ip_network("10.1.0.0/16")])
    assert backend._may_reach(ip_address("10.1.2.3"), 9000)
    assert not backend._may_reach(ip_address("10.2.0.1"), 80)


def test_an_address_mapped_into_ipv6_is_what_it_maps() -> None:
    assert is_public(ip_address("::ffff:93.184.215.14"))
    assert not is_public(ip_address("::ffff:192.168.0.1"))

"""Connections to addresses that callers name: only to the public internet, whatever the name is made to mean.

The check is at the connection, on the resolved address itself, and the connection is to that very address: a name
that answers differently a moment later (DNS rebinding), a number in hexadecimal or a redirect changes nothing, and no
two parsers can read one string in two ways. TLS still verifies the name.
"""

import asyncio
import socket
import ssl
import threading
from collections.abc import Awaitable, Callable, Iterable
from concurrent.futures import Future
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import Any

import httpcore2

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network
Resolve = Callable[[str, int], Awaitable[list[Address]]]

WEB_PORTS = (80, 443)

# Not global in their purpose, though `is_global` may say so: they lead to IPv4 addresses inside, to old site-local
# networks, or to a cloud's own services.
BLOCKED: tuple[Network, ...] = tuple(
    ip_network(network)
    for network in (
        "64:ff9b::/96",  # NAT64
        "64:ff9b:1::/48",
        "2002::/16",  # 6to4
        "2001::/32",  # Teredo
        "::/96",  # IPv4-compatible
        "fec0::/10",  # site-local
        "168.63.129.16/32",  # Azure's host
        "192.0.0.0/24",  # protocol assignments; a cloud keeps its metadata at .192
    )
)


class BlockedAddressError(Exception):
    """The host has an address that is not public, or the port is none of the web's."""


def is_public(address: Address) -> bool:
    """Whether `address` is one of the open internet."""
    if isinstance(address, IPv6Address) and address.ipv4_mapped is not None:
        return is_public(address.ipv4_mapped)
    return (
        address.is_global
        and not address.is_multicast
        and not any(address in network for network in BLOCKED if network.version == address.version)
    )


async def resolve(host: str, port: int) -> list[Address]:
    """All addresses of a host, by the system's resolver. Raises OSError.

    In a thread of its own: a loop has only a few for this, and a few names that are long in coming would hold them all.
    """
    found: Future[list[Any]] = Future()

    def look() -> None:
        try:
            found.set_result(socket.getaddrinfo(host, port, type=socket.SOCK_STREAM))
        except Exception as error:
            found.set_exception(error)

    found.set_running_or_notify_cancel()  # nobody can stop the resolver; who has left does not hear of its answer
    threading.Thread(target=look, name="resolve", daemon=True).start()
    places = await asyncio.wrap_future(found)
    return [ip_address(str(place[0]).partition("%")[0]) for *_, place in places]


class GuardedBackend(httpcore2.AsyncNetworkBackend):
    """Connects to public addresses, and to those in `allowed`: what the operator has named."""

    def __init__(self, allowed: Iterable[Network] = (), resolve: Resolve = resolve) -> None:
        self._allowed = tuple(allowed)
        self._resolve = resolve
        self._plain = httpcore2.AnyIOBackend()

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,  # noqa: ASYNC109 - the library's own signature
        local_address: str | None = None,
        socket_options: Iterable[httpcore2.SOCKET_OPTION] | None = None,
    ) -> httpcore2.AsyncNetworkStream:
        """Raises `BlockedAddressError` if any of the host's addresses is not for callers."""
        try:
            async with asyncio.timeout(timeout):
                addresses = await self._resolve(host.strip("[]"), port)
        except TimeoutError:
            raise httpcore2.ConnectTimeout(f"{host} was not resolved in {timeout:g} s") from None
        except (OSError, UnicodeError) as error:
            raise httpcore2.ConnectError(f"{host} is not known: {error}") from None
        for address in addresses:
            if not self._may_reach(address, port):
                raise BlockedAddressError(f"{host} port {port} is not an address on the public internet")
        failure = httpcore2.ConnectError(f"{host} has no address")
        for address in addresses:  # a host may have one of IPv6, and this machine none
            try:
                return _Stream(
                    await self._plain.connect_tcp(str(address), port, timeout, local_address, socket_options)
                )
            except httpcore2.ConnectError as error:
                failure = error
        raise failure

    def _may_reach(self, address: Address, port: int) -> bool:
        if any(address in network for network in self._allowed if network.version == address.version):
            return True
        return is_public(address) and port in WEB_PORTS

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)


class _Stream(httpcore2.AsyncNetworkStream):
    """A connection that is closed when its TLS handshake is broken off: httpcore leaves it open."""

    def __init__(self, stream: httpcore2.AsyncNetworkStream) -> None:
        self._stream = stream

    async def start_tls(
        self,
        ssl_context: ssl.SSLContext,
        server_hostname: str | None = None,
        timeout: float | None = None,  # noqa: ASYNC109 - the library's own signature
    ) -> httpcore2.AsyncNetworkStream:
        try:
            return await self._stream.start_tls(ssl_context, server_hostname, timeout)
        except BaseException:
            await self._stream.aclose()
            raise

    async def read(self, max_bytes: int, timeout: float | None = None) -> bytes:  # noqa: ASYNC109
        return await self._stream.read(max_bytes, timeout)

    async def write(self, buffer: bytes, timeout: float | None = None) -> None:  # noqa: ASYNC109
        await self._stream.write(buffer, timeout)

    async def aclose(self) -> None:
        await self._stream.aclose()

    def get_extra_info(self, info: str) -> Any:
        return self._stream.get_extra_info(info)

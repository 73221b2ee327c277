"""The gate: by which name a request came, and from whose page.

A page anywhere on the web can make its reader's browser call a server on that reader's own machine or network. It may
let a name of its own point here, by which it could read our answers too (DNS rebinding): then the Host header has that
name. Or it calls us by our own: then the Origin header has the page's. A program that is no browser sends in both what
it likes; the key keeps that out.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from ipaddress import ip_address
from urllib.parse import urlsplit

from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from fluxserve.domain.errors import FluxserveError, Refused, WrongHost, WrongOrigin

ANY_NAME = "*"
LOOKING = ("GET", "HEAD")  # methods that change nothing
HOST = re.compile(r"(\[[0-9a-f:.]+\]|[^:\[\]]+)(?::\d*)?")  # and perhaps a port


@dataclass(frozen=True, slots=True)
class Hosts:
    """The names that a request may come by, in small letters; `ANY_NAME` among them takes all.

    With `any_address`, every IP address is taken as well: to have a browser call us, a page elsewhere needs a name.
    """

    names: frozenset[str]
    any_address: bool = False

    def take(self, host: str) -> bool:
        if ANY_NAME in self.names:
            return True
        parts = HOST.fullmatch(host)
        return parts is not None and (parts[1] in self.names or (self.any_address and _is_address(parts[1])))


class Gate:
    """Lets requests through to `app`; `refusal` makes the answer to those that it does not, by their path.

    `origins` are those whose pages may do more than look, besides pages of the host that a request came by.
    """

    def __init__(
        self, app: ASGIApp, hosts: Hosts, origins: frozenset[str], refusal: Callable[[str, FluxserveError], Response]
    ) -> None:
        self._app = app
        self._hosts = hosts
        self._origins = origins
        self._refusal = refusal

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            if scope["type"] == "http":
                self._look_at(scope)
        except Refused as error:
            await self._refusal(scope["path"], error)(scope, receive, send)
        else:
            await self._app(scope, receive, send)

    def _look_at(self, scope: Scope) -> None:
        host = _header(scope, b"host").lower()
        if not self._hosts.take(host):
            raise WrongHost("Host", host, "allowed are the names that FLUXSERVE_HOSTS lists")
        origin = _header(scope, b"origin")
        if origin and scope["method"] not in LOOKING and not self._is_ours(origin, host):
            raise WrongOrigin("Origin", origin, "allowed are this server's own and those that FLUXSERVE_ORIGINS lists")

    def _is_ours(self, origin: str, host: str) -> bool:
        return origin in self._origins or origin in (f"http://{host}", f"https://{host}")


def origin_of(url: str) -> str:
    """The Origin header that a browser sends from the page at `url`."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc}".lower()


def _header(scope: Scope, name: bytes) -> str:
    """All values of a header: of those that we ask for, a request has one at most, and two of them are none of ours."""
    return ",".join(value.decode("latin-1") for each, value in scope["headers"] if each == name)


def _is_address(name: str) -> bool:
    try:
        ip_address(name.strip("[]"))
    except ValueError:
        return False
    return True

"""Callers' pictures: an address, a data URI or bare base64 becomes a plain PNG on the shelf."""

import asyncio
import base64
import binascii
import re
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from weakref import WeakValueDictionary

from fluxserve.domain.errors import InvalidInput, NotFound
from fluxserve.storage import Fetcher, FetchError, Opened, Opener, OpenError, Shelf
from fluxserve.tasks import Queue

ALLOWED = "an http or https address, a data URI or base64 of one PNG, JPEG or WebP picture"
WEB_ADDRESS = re.compile(r"https?://", re.IGNORECASE)
DATA_URI = re.compile(r"data:[^,]{0,200};base64,", re.IGNORECASE)
AT_ONCE = 16  # pictures that are brought in at the same time; each may take some times its size in memory
AT_ONCE_OF_ONE = 4  # account: an address may take half a minute, and others shall not wait for it


@dataclass(frozen=True, slots=True)
class Input:
    """A caller's picture on the shelf under `key`."""

    key: str
    width: int
    height: int


class Places:
    """Who may bring a picture in just now: so many at once, and so many of one account."""

    def __init__(self, of_all: int = AT_ONCE, of_one: int = AT_ONCE_OF_ONE) -> None:
        self._all = asyncio.Semaphore(of_all)
        self._of_one = of_one
        self._own: WeakValueDictionary[str, asyncio.Semaphore] = WeakValueDictionary()

    @asynccontextmanager
    async def place(self, account_id: str) -> AsyncIterator[None]:
        """Waits for its turn; an account with none left waits without standing in the others' way."""
        own = self._own.setdefault(account_id, asyncio.Semaphore(self._of_one))
        async with own, self._all:
            yield


class Inputs:
    """Brings pictures in. `own_pictures` is where we serve some ourselves: they are taken without a detour."""

    def __init__(
        self, *, shelf: Shelf, queue: Queue, fetcher: Fetcher, opener: Opener, own_pictures: str, largest: int
    ) -> None:
        self._shelf = shelf
        self._queue = queue
        self._fetcher = fetcher
        self._opener = opener
        self._own_picture = re.compile(re.escape(own_pictures) + r"([0-9a-f]{32})\.[a-z]+")
        self._largest = largest
        self._places = Places()

    async def take(self, account_id: str, field: str, text: str) -> Input:
        """The picture that `text` gives or names. Raises `InvalidInput`, which says why not."""
        async with self._places.place(account_id):
            opened = await self._opened(field, text, self._opener.open)
            return await self._kept(opened.png, opened)

    async def take_sent(self, account_id: str, field: str, text: str, largest: int) -> Input:
        """The picture that `text` itself gives, of at most so many bytes. Raises `InvalidInput`, which says why not."""
        async with self._places.place(account_id):
            data = await asyncio.to_thread(self._decoded, field, text, largest)
            opened = await self._open(field, text, data, self._opener.open)
            return await self._kept(opened.png, opened)

    async def take_masked(self, account_id: str, field: str, text: str) -> tuple[Input, Input]:
        """The picture and its own mask: white where it is white or transparent. Raises `InvalidInput`."""
        async with self._places.place(account_id):
            opened = await self._opened(field, text, self._opener.open_masked)
            return await self._kept(opened.png, opened), await self._kept(opened.mask, opened)

    async def discard(self, keys: Iterable[str]) -> None:
        """Delete pictures that no task will need after all."""
        for key in keys:
            await asyncio.to_thread(self._shelf.delete, key)

    async def _opened(self, field: str, text: str, open_picture: Callable[[bytes], Awaitable[Opened]]) -> Opened:
        return await self._open(field, text, await self._data(field, text), open_picture)

    async def _open(
        self, field: str, text: str, data: bytes, open_picture: Callable[[bytes], Awaitable[Opened]]
    ) -> Opened:
        try:
            return await open_picture(data)
        except OpenError as error:
            raise InvalidInput(field, text, f"{error}; allowed is {ALLOWED}") from None

    async def _kept(self, png: bytes, opened: Opened) -> Input:
        key = f"{secrets.token_hex(16)}.png"
        await asyncio.to_thread(self._shelf.put, key, png)
        return Input(key, opened.width, opened.height)

    async def _data(self, field: str, text: str) -> bytes:
        if own := self._own_picture.fullmatch(text):
            return await self._stored(field, text, own[1])
        if WEB_ADDRESS.match(text):
            try:
                return await self._fetcher.fetch(text)
            except FetchError as error:
                raise InvalidInput(field, text, f"{error}; allowed is {ALLOWED}") from None
        return await asyncio.to_thread(self._decoded, field, text, self._largest)

    async def _stored(self, field: str, text: str, picture_id: str) -> bytes:
        try:
            stored = await self._queue.stored(picture_id)
            return await asyncio.to_thread(self._shelf.path(stored.key).read_bytes)
        except (NotFound, FileNotFoundError):
            raise InvalidInput(field, text, "no picture has this address, or it has expired") from None

    def _decoded(self, field: str, text: str, largest: int) -> bytes:
        uri = DATA_URI.match(text)
        written = text[uri.end() :] if uri else text
        try:
            data = base64.b64decode("".join(written.split()), validate=True)
        except (binascii.Error, ValueError):
            raise InvalidInput(field, text[:40], f"allowed is {ALLOWED}") from None
        if len(data) > largest:
            raise InvalidInput(field, text, f"it has more than the {largest} bytes that are taken")
        if not data:
            raise InvalidInput(field, text, f"allowed is {ALLOWED}")
        return data

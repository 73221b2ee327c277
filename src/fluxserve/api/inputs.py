"""Callers' pictures: an address, a data URI or bare base64 becomes a plain PNG on the shelf."""

import asyncio
import base64
import binascii
import re
import secrets
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from weakref import WeakValueDictionary

from fluxserve.domain.errors import InvalidInput, NotFound, Unavailable
from fluxserve.storage import Fetcher, FetchError, Fit, Mask, Opened, Opener, OpenError, Shelf
from fluxserve.tasks import Queue

ALLOWED = "an http or https address, a data URI or base64 of one PNG, JPEG or WebP picture"
WEB_ADDRESS = re.compile(r"https?://", re.IGNORECASE)
DATA_URI = re.compile(r"data:[^,]{0,200};base64,", re.IGNORECASE)
AT_ONCE = 16  # pictures that are brought in at the same time; each may take some times its size in memory
AT_ONCE_OF_ONE = 4  # account: an address may take half a minute, and others shall not wait for it


Given = str | bytes
"""A picture as its caller gives it: an address, a data URI or base64; or its file."""


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
    """Brings pictures in. `own_pictures` is where we serve some ourselves: they are taken without a detour.
    `check_room` raises `NoRoom` when nothing new may be put on the shelf."""

    def __init__(
        self,
        *,
        shelf: Shelf,
        queue: Queue,
        fetcher: Fetcher,
        opener: Opener,
        own_pictures: str,
        largest: int,
        check_room: Callable[[], None] = lambda: None,
    ) -> None:
        self._shelf = shelf
        self._queue = queue
        self._fetcher = fetcher
        self._opener = opener
        self._own_picture = re.compile(re.escape(own_pictures) + r"([0-9a-f]{32})\.[a-z]+")
        self._largest = largest
        self._check_room = check_room
        self._places = Places()

    async def take(self, account_id: str, field: str, *given: Given) -> Input:
        """The picture that is given or named; of several, one with them side by side. Raises `InvalidInput`, which says
        why not."""
        async with self._places.place(account_id):
            files = [await self._data(field, each) for each in given]
            opened = await self._open((field,) * len(given), given, files)
            return await self._kept(opened.png, opened)

    async def take_sent(self, account_id: str, field: str, text: str, largest: int) -> Input:
        """The picture that `text` itself gives, of at most so many bytes. Raises `InvalidInput`, which says why not."""
        async with self._places.place(account_id):
            data = await asyncio.to_thread(self._decoded, field, text, largest)
            opened = await self._open((field,), (text,), [data])
            return await self._kept(opened.png, opened)

    async def take_masked(
        self,
        account_id: str,
        field: str,
        *given: Given,
        mask: Mask,
        mask_field: str = "mask",
        fit: Fit | None = None,
    ) -> tuple[Input, Input]:
        """The picture and its mask, from where `mask` says: a second one is given for some. Raises `InvalidInput`."""
        async with self._places.place(account_id):
            fields = (field, mask_field)
            files = [await self._data(name, each) for name, each in zip(fields, given, strict=False)]
            opened = await self._open(fields, given, files, mask, fit)
            return await self._kept(opened.png, opened), await self._kept(opened.mask, opened)

    async def discard(self, keys: Iterable[str]) -> None:
        """Delete pictures that no task will need after all."""
        for key in keys:
            await asyncio.to_thread(self._shelf.delete, key)

    async def _open(
        self,
        fields: Sequence[str],
        given: Sequence[Given],
        files: list[bytes],
        mask: Mask | None = None,
        fit: Fit | None = None,
    ) -> Opened:
        try:
            return await self._opener.open(*files, mask=mask, fit=fit)
        except OpenError as error:
            value = given[error.file][:40]
            raise InvalidInput(fields[error.file], value, f"{error}; allowed is {ALLOWED}") from None

    async def _kept(self, png: bytes, opened: Opened) -> Input:
        self._check_room()
        key = f"{secrets.token_hex(16)}.png"
        try:
            await asyncio.to_thread(self._shelf.put, key, png)
        except OSError as error:
            raise Unavailable("the picture can't be stored just now; try later") from error
        return Input(key, opened.width, opened.height)

    async def _data(self, field: str, given: Given) -> bytes:
        if isinstance(given, bytes):
            if len(given) > self._largest:
                raise InvalidInput(field, given[:20], f"it has more than the {self._largest} bytes that are taken")
            return given
        text = given
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

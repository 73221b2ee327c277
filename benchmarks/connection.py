"""A keep-alive HTTP/1.1 connection that does nothing it need not: what is measured is the server, on few cores.

It knows only answers with a Content-Length, and no encryption.
"""

import asyncio
from typing import Self
from urllib.parse import urlsplit

END_OF_HEAD = b"\r\n\r\n"
LENGTH = b"\r\ncontent-length:"


class Connection:
    """One request at a time; for more, open more."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    @classmethod
    async def open(cls, url: str) -> Self:
        """To the server at `url`, http://host:port."""
        address = urlsplit(url)
        return cls(*await asyncio.open_connection(address.hostname, address.port))

    async def request(self, method: str, path: str, key: str, body: bytes = b"", more: str = "") -> tuple[int, bytes]:
        """The answer's status and body. `more` are further lines of the head."""
        head = f"{method} {path} HTTP/1.1\r\nHost: localhost\r\nX-API-Key: {key}\r\nContent-Length: {len(body)}{more}"
        self._writer.write(head.encode() + END_OF_HEAD + body)
        answer = (await self._reader.readuntil(END_OF_HEAD)).lower()
        length = int(answer.partition(LENGTH)[2].partition(b"\r\n")[0])
        return int(answer.split(b" ", 2)[1]), await self._reader.readexactly(length)

    def close(self) -> None:
        self._writer.close()

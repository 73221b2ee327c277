"""An upstream that answers chat completions at once with the same words: what it takes besides is the relay's.

    python -m benchmarks.upstream PORT

Plain asyncio, and as little as can be: it looks into a request only for whether a stream is wanted.
"""

import asyncio
import json
import sys

PIECES = 32
WORD = "word "
USAGE = {"prompt_tokens": 500, "completion_tokens": PIECES, "total_tokens": 500 + PIECES}
END_OF_HEAD = b"\r\n\r\n"
LENGTH = b"\r\ncontent-length:"
HEAD = {"id": "chatcmpl-benchmark", "created": 1, "model": "text"}


def whole() -> bytes:
    message = {"role": "assistant", "content": PIECES * WORD}
    choices = [{"index": 0, "message": message, "finish_reason": "stop"}]
    return json.dumps({**HEAD, "object": "chat.completion", "choices": choices, "usage": USAGE}).encode()


def pieces() -> list[bytes]:
    """Events of a stream, each to be sent by itself."""

    def event(choices: list[object], **more: object) -> bytes:
        body = {**HEAD, "object": "chat.completion.chunk", "choices": choices, **more}
        return b"data: " + json.dumps(body).encode() + b"\n\n"

    said = [event([{"index": 0, "delta": {"content": WORD}, "finish_reason": None}]) for _ in range(PIECES)]
    last = event([{"index": 0, "delta": {}, "finish_reason": "stop"}])
    return [*said, last, event([], usage=USAGE), b"data: [DONE]\n\n"]


WHOLE = whole()
WHOLE_ANSWER = (b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n" % len(WHOLE)) + WHOLE
STREAM_HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream; charset=utf-8\r\ntransfer-encoding: chunked\r\n\r\n"
CHUNKS = [b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces()]


async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while True:
            head = (await reader.readuntil(END_OF_HEAD)).lower()
            size = int((head.partition(LENGTH)[2] or b"0").partition(b"\r\n")[0])
            body = await reader.readexactly(size)
            if b'"stream":true' in body or b'"stream": true' in body:
                writer.write(STREAM_HEAD)
                for chunk in CHUNKS:
                    writer.write(chunk)
                    await asyncio.sleep(0)
                writer.write(b"0\r\n\r\n")
            else:
                writer.write(WHOLE_ANSWER)
            await writer.drain()
    except (asyncio.IncompleteReadError, ConnectionError):
        writer.close()


async def main() -> None:
    server = await asyncio.start_server(serve, "127.0.0.1", int(sys.argv[1]), limit=2**21)
    async with server:
        await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main())

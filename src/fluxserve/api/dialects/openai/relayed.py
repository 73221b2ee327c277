"""What an upstream answers, passed on as it comes, and its end once what it costs is settled."""

import asyncio
import logging

from pydantic_core import from_json, to_json
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from fluxserve.api.dialects.openai.answers import COMMENT_SECONDS, STREAMED, TASK_ID, error_event, refusal
from fluxserve.api.switchboard import Call, Switchboard, Talk
from fluxserve.api.waiting import NOBODY_HEARS, HungUp, until_hung_up
from fluxserve.domain.errors import FluxserveError, InvalidInput, TooMany, UpstreamsFailed
from fluxserve.domain.task import Repeatable
from fluxserve.relay import Answer, BrokenOffError, Stream
from fluxserve.tasks import Caller

log = logging.getLogger(__name__)

COMMENT = b": still here\n\n"
HEADERS = {"Content-Type": "text/event-stream; charset=utf-8", **STREAMED}
TOO_LONG = UpstreamsFailed("model: the answer took longer than is allowed; what came of it is what was charged")
BROKEN_OFF = UpstreamsFailed("model: the answer broke off; what came of it is what was charged")


async def relayed(
    switchboard: Switchboard, call: Call, request: Request, caller: Caller, repeatable: Repeatable | None
) -> Response:
    """What an upstream answers. Who has named a request may send it again, so it goes on though its caller leaves."""
    is_stream = call.order.request.is_stream
    if repeatable and is_stream:
        raise InvalidInput("Idempotency-Key", repeatable.key, "allowed is one without stream")
    talk = await switchboard.begin(call, caller, repeatable)
    told = {TASK_ID: talk.completion.id}
    opened: Answer | Stream | None
    if (opened := talk.answer_before()) is None:
        try:
            opened = await talk.opened(
                None if repeatable else request.receive, patience=COMMENT_SECONDS if is_stream else None
            )
        except HungUp:
            await talk.give_up()
            return Response(status_code=NOBODY_HEARS)
        except (UpstreamsFailed, TooMany) as error:
            await talk.fail(error)
            return refusal(error, **told)
        except BaseException:
            await talk.abandon()
            raise
    if not isinstance(opened, Answer):
        return StreamedAnswer(talk, opened, told)
    await talk.end_with(opened)
    return Response(opened.data, opened.status, {**told, "Content-Type": opened.content_type})


class StreamedAnswer(Response):
    """`opened` is the upstream's stream; None if nothing has come as yet, and the caller shall wait no longer without a
    sign of life."""

    def __init__(self, talk: Talk, opened: Stream | None, headers: dict[str, str]) -> None:
        super().__init__(headers={**headers, **HEADERS})
        del self.headers["content-length"]
        self._talk = talk
        self._opened = opened
        self._is_begun = False
        self._said_at = 0.0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        del scope
        async with self._talk:
            passing = asyncio.create_task(self._pass_on(send))
            others = asyncio.create_task(until_hung_up(receive)), asyncio.create_task(self._comment(send))
            try:
                ended, _ = await asyncio.wait(
                    {passing, others[0]}, timeout=self._talk.seconds, return_when=asyncio.FIRST_COMPLETED
                )
            finally:
                for each in (passing, *others):
                    each.cancel()
                ending, *_ = await asyncio.gather(passing, *others, return_exceptions=True)
                if self._opened is not None:
                    self._opened.close()
            if isinstance(ending, Exception):
                raise ending
            if not ended:
                await self._talk.end(self._talk.broken_off(TOO_LONG.message))

    async def _pass_on(self, send: Send) -> None:
        try:
            if self._opened is None:
                await self._say(send, COMMENT)
                opened = await self._talk.opened(None)
                if isinstance(opened, Answer):
                    await self._talk.end_with(opened)
                    await self._finish(send, _as_event(opened))
                    return
                self._opened = opened
            assert self._opened is not None
            await self._pass_stream_on(self._opened, send)
        except (BrokenOffError, ValueError) as error:
            log.warning("a stream of %s broke off: %s", self._talk.completion.model, error)
            await self._talk.end(self._talk.broken_off(BROKEN_OFF.message))
            await self._finish(send, error_event(BROKEN_OFF))
        except FluxserveError as error:
            await self._talk.fail(error)
            await self._finish(send, error_event(error))

    async def _pass_stream_on(self, stream: Stream, send: Send) -> None:
        transcript = self._talk.transcript
        while part := await stream.next():
            data = transcript.take(part)
            if transcript.is_done:
                await self._talk.end(self._talk.whole())
                await self._finish(send, data)
                await stream.close_at_end()
                return
            if data:
                await self._say(send, data)
        data = transcript.rest()
        await self._talk.end(self._talk.whole())
        await self._finish(send, data)

    async def _comment(self, send: Send) -> None:
        """While nothing comes."""
        time = asyncio.get_running_loop().time
        while True:
            await asyncio.sleep(COMMENT_SECONDS)
            if self._is_begun and time() - self._said_at >= COMMENT_SECONDS:
                await self._say(send, COMMENT)

    async def _say(self, send: Send, data: bytes, *, is_last: bool = False) -> None:
        self._said_at = asyncio.get_running_loop().time()
        if not self._is_begun:
            self._is_begun = True
            await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
        await send({"type": "http.response.body", "body": data, "more_body": not is_last})

    async def _finish(self, send: Send, data: bytes) -> None:
        await self._say(send, data, is_last=True)


def _as_event(answer: Answer) -> bytes:
    """A whole answer where a stream was begun already: it is one event, in one line."""
    try:
        return b"data: " + to_json(from_json(answer.data)) + b"\n\n"
    except ValueError:
        return error_event(BROKEN_OFF)

"""A relayed request from its hold to its settlement: what it may cost is held, an upstream is asked, and what it did
cost is settled before its end is told.

1. hold       the most that it may cost, by the rule of `relay/counting.py`; written before anybody is asked
2. ask        the upstreams in turn (`relay`)
3. settle     by the usage that the upstream tells, else by the same rule from what was passed on; never above the hold
              release where nothing came, or where an upstream refused the request

A caller who hangs up stops the upstream, and pays for the prompt and for what was said until then.
"""

import asyncio
import logging
from collections import Counter
from dataclasses import dataclass, replace
from typing import Self

from starlette.types import Receive

from fluxserve.api.waiting import HungUp, until_hung_up
from fluxserve.domain.completion import Completion, CompletionEnding, NewCompletion, Unused, Usage, Used
from fluxserve.domain.errors import (
    Abandoned,
    CancelledByCaller,
    FluxserveError,
    Refused,
    TooMany,
    Unavailable,
    UpstreamsFailed,
)
from fluxserve.domain.task import Repeatable, State
from fluxserve.relay import MOST_KEPT, Answer, Order, Prompt, Relay, Stream, Transcript, counted, object_of
from fluxserve.tasks import Caller, Completions

log = logging.getLogger(__name__)

MOST_OF_ONE = 256  # account: completions under way at once
RETRY_AFTER_SECONDS = 1
SETTLE_SECONDS = 5.0  # that a caller waits for the settlement when the database is slow or gone
AGAIN_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class Call:
    """A request to be relayed: what is sent, what its answer is read by, and the points that it may cost at most."""

    order: Order
    prompt: Prompt
    transcript: Transcript
    most: int


class Switchboard:
    """What this server relays. Leases are renewed every `renew_every` seconds."""

    def __init__(self, *, relay: Relay, completions: Completions, renew_every: float) -> None:
        self.relay = relay
        self.completions = completions
        self._renew_every = renew_every
        self._under_way: dict[str, str] = {}  # ids of completions, and whose they are
        self._of_one: Counter[str] = Counter()
        self._settling: set[asyncio.Task[None]] = set()
        self._loop: asyncio.Task[None] | None = None

    def start(self) -> None:
        self._loop = asyncio.create_task(self._renew())

    async def stop(self) -> None:
        """Once no request is under way."""
        if self._settling:
            await asyncio.wait(self._settling, timeout=SETTLE_SECONDS)
        tasks = [task for task in (self._loop, *self._settling) if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self.relay.close()

    async def begin(self, call: Call, caller: Caller, repeatable: Repeatable | None) -> "Talk":
        """Hold what it may cost. Raises `NotEnoughCredits`, `TooMany`, `InFlight` or `KeyReused`."""
        account_id = caller.account_id
        if self._of_one[account_id] >= MOST_OF_ONE:
            raise TooMany(
                f"completions: {MOST_OF_ONE} of this account are under way, and no more may be", RETRY_AFTER_SECONDS
            )
        asked = NewCompletion(account_id, call.order.route.model, call.most, caller.key_id, repeatable)
        self._of_one[account_id] += 1
        try:
            completion = await self.completions.hold(asked)
        except BaseException:
            self._forget(account_id)
            raise
        if completion.state is State.PROCESSING:
            self._under_way[completion.id] = account_id
        else:
            self._forget(account_id)
        return Talk(self, completion, call)

    def settle(self, completion_id: str, ending: CompletionEnding) -> asyncio.Task[None]:
        """Goes on whatever becomes of the request."""
        task = asyncio.create_task(self._settle(completion_id, ending))
        self._settling.add(task)
        task.add_done_callback(self._settling.discard)
        return task

    async def _settle(self, completion_id: str, ending: CompletionEnding) -> None:
        try:
            while True:
                try:
                    if not await self.completions.finish(completion_id, ending):
                        log.warning("completion %s had been given up when it ended; it costs nothing", completion_id)
                    return
                except Unavailable:
                    await asyncio.sleep(AGAIN_SECONDS)
        finally:
            self._forget(self._under_way.pop(completion_id))

    def _forget(self, account_id: str) -> None:
        self._of_one[account_id] -= 1
        if not self._of_one[account_id]:
            del self._of_one[account_id]

    async def _renew(self) -> None:
        while True:
            await asyncio.sleep(self._renew_every)
            try:
                if self._under_way:
                    await self.completions.renew(self._under_way)
            except Unavailable:
                log.warning("completions could not be renewed, for the database is gone")
            except Exception:
                log.exception("completions could not be renewed; going on")


class Talk:
    """One completion, under way within ``async with``. It ends once: whatever has not ended at its exit ends there."""

    def __init__(self, switchboard: Switchboard, completion: Completion, call: Call) -> None:
        self.completion = completion
        self.transcript = call.transcript
        self.seconds = call.order.seconds
        self._switchboard = switchboard
        self._order = call.order
        self._prompt = call.prompt
        self._asking: asyncio.Task[Answer | Stream] | None = None
        self._is_over = completion.state is not State.PROCESSING

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, kind: type[BaseException] | None, *_error: object) -> None:
        if kind is None:
            await self.give_up()
        else:
            await self.abandon()

    async def give_up(self) -> None:
        """Its caller has hung up: the upstream is told to stop, and what was used is paid for."""
        await self._stop_asking()
        reason = "the caller hung up before it was whole"
        await self.end(self._used(CancelledByCaller.code, reason))

    async def abandon(self) -> None:
        """We stop, or have a fault: what was not passed on costs nothing."""
        await self._stop_asking()
        reason = "the server stopped before it was whole"
        is_begun = self.transcript.is_begun
        await self.end(self._used(Abandoned.code, reason) if is_begun else Unused(Abandoned.code, reason))

    async def _stop_asking(self) -> None:
        if self._asking is not None:
            self._asking.cancel()
            (opened,) = await asyncio.gather(self._asking, return_exceptions=True)
            if isinstance(opened, Stream):
                opened.close()

    async def fail(self, error: FluxserveError) -> None:
        """No upstream has answered."""
        await self.end(Unused(error.code, error.message))

    def answer_before(self) -> Answer | None:
        """What its request was answered with when it came first; None if it is the first. Raises `Refused`."""
        if not self._is_over:
            return None
        if self.completion.answer is None:
            raise Refused("Idempotency-Key: this request was answered already, and its answer is kept no longer")
        return Answer(200, "application/json", self.completion.answer)

    async def opened(self, receive: Receive | None, patience: float | None = None) -> Answer | Stream | None:
        """What an upstream answers; None if it does not within `patience` seconds. Raises `HungUp` if that is heard
        from `receive` before, `UpstreamsFailed` or `TooMany`.
        """
        if self._asking is None:
            self._asking = asyncio.create_task(self._switchboard.relay.ask(self._order))
        leaving = asyncio.create_task(until_hung_up(receive)) if receive else None
        try:
            awaited = {self._asking, leaving} if leaving else {self._asking}
            await asyncio.wait(awaited, timeout=patience, return_when=asyncio.FIRST_COMPLETED)
        finally:
            if leaving is not None:
                leaving.cancel()
        if self._asking.done():
            asked, self._asking = self._asking, None
            return asked.result()
        if leaving is not None and leaving.done() and not leaving.cancelled():
            raise HungUp
        return None

    async def end_with(self, answer: Answer) -> None:
        """A whole answer, which is to be passed on after this."""
        if not answer.is_good:
            await self.end(Unused("refused_by_upstream", f"the upstream answered with status {answer.status}"))
            return
        self.transcript.read(answer.data)
        is_kept = len(answer.data) <= MOST_KEPT and object_of(answer.data) is not None
        await self.end(replace(self._used(), answer=answer.data if is_kept else None))

    def whole(self) -> Used:
        """Its stream has ended."""
        return self._used()

    def broken_off(self, reason: str) -> CompletionEnding:
        """Its upstream broke off within it."""
        return self._used(UpstreamsFailed.code, reason)

    async def end(self, ending: CompletionEnding) -> None:
        if self._is_over:
            return
        self._is_over = True
        # Not cancelled with the request, and not waited for without end.
        await asyncio.wait({self._switchboard.settle(self.completion.id, ending)}, timeout=SETTLE_SECONDS)

    def _used(self, code: str | None = None, message: str | None = None) -> Used:
        came = self.transcript
        usage = came.usage or Usage(self._prompt.tokens, counted(came.said))
        return Used(usage, self._order.route.rate.price(usage, came.pictures), came.answer(), code, message)

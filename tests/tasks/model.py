"""The queue as plain Python: what every verb must answer and leave behind, with no database, in the fewest words.

Its methods are named after the verbs they foretell, return what those return and raise what those raise. Where the
database may choose an order, the method is told which one it chose, and says whether it might.
"""

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from fluxserve.domain.credits import work
from fluxserve.domain.errors import InvalidInput, KeyReused, NotEnoughCredits, NotFound, TooMany, Unauthorized
from fluxserve.domain.generation import images_of
from fluxserve.domain.task import (
    PUBLIC,
    Completed,
    Ending,
    Errored,
    GivenBack,
    Output,
    State,
    Submission,
    Task,
    WorkerLost,
)
from fluxserve.tasks import Account, Attempt, Caller, DeliveryLog, Held, Key, Letter, Stored
from fluxserve.tasks.accounts import key_id

DAY = 86_400.0
ROOM_TAKEN = (State.PENDING, State.PROCESSING)


@dataclass
class Purse:
    """An account."""

    id: str
    name: str
    created_at: float
    limit: int
    balance: int = 0
    frozen: int = 0
    served: int = 0


@dataclass
class Kept:
    """A task as its caller is told of it, and what else is known of it."""

    told: Task
    work: int
    turn: int | None = None
    lease_until: float | None = None
    wished_at: float | None = None
    cancel_code: str | None = None


@dataclass
class Posted:
    """A finished task's webhook."""

    next_at: float | None
    created_at: float
    delivered_at: float | None = None
    attempts: int = 0
    log: list[Attempt] = field(default_factory=list)


@dataclass
class Shown:
    """A finished picture."""

    output: Output
    swept_at: float | None = None


@dataclass(frozen=True)
class Repeat:
    body_hash: bytes
    answer: Task
    created_at: float


class Model:
    def __init__(self, *, now: float, lease_seconds: float, losses_allowed: int, most_staged: int) -> None:
        self.now = now
        self.accounts: dict[str, Purse] = {}
        self.tasks: dict[str, Kept] = {}  # in their order of arrival
        self.keys: dict[str, Key] = {}  # by the key itself
        self.ledger: list[tuple[str, str | None, str, int, int]] = []
        self.outbox: dict[str, Posted] = {}  # by task
        self.outputs: dict[str, Shown] = {}
        self.inputs: dict[str, str] = {}  # their tasks
        self.previews: dict[str, bytes] = {}
        self.repeats: dict[tuple[str, str], Repeat] = {}
        self._lease_seconds = lease_seconds
        self._losses_allowed = losses_allowed
        self._most_staged = most_staged

    def in_state(self, *states: State, account_id: str | None = None) -> list[Kept]:
        return [
            kept
            for kept in self.tasks.values()
            if kept.told.state in states and account_id in (None, kept.told.account_id)
        ]

    def moments(self) -> list[float]:
        """When something ends, or is due, or is to be forgotten."""
        open_tasks = self.in_state(State.STAGED, State.PENDING, State.PROCESSING)
        return [
            *(kept.lease_until for kept in open_tasks if kept.lease_until is not None),
            *(kept.told.deadline for kept in open_tasks if kept.told.deadline is not None),
            *(repeat.created_at + DAY for repeat in self.repeats.values()),
            *(shown.output.expires_at for shown in self.outputs.values() if shown.swept_at is None),
            *(posted.next_at for posted in self.outbox.values() if posted.next_at is not None),
        ]

    # ------------------------------------------------------------ the caller's verbs

    def submit(self, asked: Submission, task_id: str, price: int, deadline: float) -> Task:
        purse = self.accounts[asked.account_id]
        before = self.repeats.get((purse.id, asked.repeatable.key)) if asked.repeatable else None
        if before and asked.repeatable and before.created_at > self.now - DAY:
            if before.body_hash != asked.repeatable.body_hash:
                raise KeyReused("")
            return before.answer
        state = State.PENDING if self._room(purse) > 0 else State.STAGED
        if state is State.STAGED and len(self.in_state(State.STAGED, account_id=purse.id)) >= self._most_staged:
            raise TooMany("", 0)
        price = 0 if asked.is_private else price
        if price > purse.balance:
            raise NotEnoughCredits(price, purse.balance)
        task = Task(
            id=task_id,
            account_id=purse.id,
            request=asked.request,
            generation=asked.generation,
            state=state,
            price=price,
            attempt=0,
            losses=0,
            created_at=self.now,
            pool=purse.id if asked.is_private else PUBLIC,
            api_key_id=asked.api_key_id,
            deadline=deadline,
            webhook=asked.webhook,
        )
        self.tasks[task_id] = Kept(task, work(asked.generation))
        self.inputs |= dict.fromkeys(images_of(asked.generation), task_id)
        self._enter(purse.id, task_id, "hold", -price, price)
        if asked.repeatable:
            self.repeats[purse.id, asked.repeatable.key] = Repeat(asked.repeatable.body_hash, task, self.now)
        return task

    def get(self, account_id: str, task_id: str) -> Task:
        kept = self.tasks.get(task_id)
        if kept is None or kept.told.account_id != account_id:
            raise NotFound("")
        return kept.told

    def cancel(self, account_id: str, task_id: str) -> Task:
        self.get(account_id, task_id)
        self._stop(self.tasks[task_id], "cancelled")
        return self.get(account_id, task_id)

    def cancel_all(self, account_id: str, model: str | None) -> list[Task]:
        return [self.cancel(account_id, task.id) for task in self.open_tasks(account_id, model)]

    def open_tasks(self, account_id: str, model: str | None) -> list[Task]:
        found = self.in_state(State.STAGED, State.PENDING, State.PROCESSING, account_id=account_id)
        return [kept.told for kept in found if model in (None, kept.told.generation.model)]

    def history(self, account_id: str) -> list[Task]:
        """Newest first."""
        return [kept.told for kept in reversed(self.tasks.values()) if kept.told.account_id == account_id]

    # ------------------------------------------------------------ the floor's verbs

    def waiting(self, most: int) -> set[tuple[str, str, int, int]]:
        """(task, pool, work, turn)"""
        found = set()
        for purse in self.accounts.values():
            pending = self.in_state(State.PENDING, account_id=purse.id)
            rank = Counter[str]()
            for kept in pending[: max(0, purse.limit - self._running(purse))]:
                rank[kept.told.pool] += 1
                if rank[kept.told.pool] <= most:
                    found.add((kept.told.id, kept.told.pool, kept.work, max(purse.served, self._last_turn())))
        return found

    def claim(self, task_ids: Iterable[str], early: Collection[str] = ()) -> list[Task]:
        found = [self.tasks[task_id] for task_id in task_ids if task_id in self.tasks]
        return [self._claim(kept, kept.told.id in early) for kept in found if self._is_free(kept)]

    def _is_free(self, kept: Kept) -> bool:
        purse = self.accounts[kept.told.account_id]
        return kept.told.state is State.PENDING and self._running(purse) < purse.limit

    def _claim(self, kept: Kept, is_early: bool) -> Task:
        purse = self.accounts[kept.told.account_id]
        if not kept.told.is_private:
            turn = max(purse.served, self._last_turn())
            purse.served = turn + kept.work
            kept.turn = kept.turn if is_early else turn
        kept.lease_until = self.now + self._lease_seconds
        self._tell(kept, state=State.PROCESSING, attempt=kept.told.attempt + 1, started_at=self.now)
        return kept.told

    def held(self, held: Held) -> Kept | None:
        kept = self.tasks.get(held.task_id)
        is_held = kept and kept.told.state is State.PROCESSING and kept.told.attempt == held.attempt
        return kept if is_held else None

    def renew(self, several: Iterable[Held]) -> set[Held]:
        still = {held for held in several if self.held(held)}
        for held in still:
            self.tasks[held.task_id].lease_until = self.now + self._lease_seconds
        return still

    def progress(self, held: Held, step: int, steps: int | None, preview: bytes) -> bool:
        kept = self.held(held)
        if kept is None:
            return False
        kept.lease_until = self.now + self._lease_seconds
        self._tell(kept, step=step, steps=steps)
        if preview:
            self.previews[held.task_id] = preview
        return True

    def wished_cancelled(self) -> set[Held]:
        return {
            Held(kept.told.id, kept.told.attempt)
            for kept in self.in_state(State.PROCESSING)
            if kept.wished_at is not None
        }

    def finish(self, held: Held, ending: Ending) -> Task | None:
        kept = self.held(held)
        if kept is None:
            return None
        self.previews.pop(held.task_id, None)
        losses = kept.told.losses + 1
        match ending:
            case Completed(outputs):
                self.outputs |= {output.id: Shown(output) for output in outputs}
                self._end(kept, State.COMPLETED, outputs=outputs)
            case Errored(code):
                is_late = code == "cancelled" and kept.cancel_code == "expired"
                self._end(kept, State.FAILED, error_code="expired" if is_late else code)
            case WorkerLost() if losses >= self._losses_allowed:
                self._end(kept, State.FAILED, error_code="abandoned", losses=losses)
            case WorkerLost():
                self._back_to_pending(kept, losses)
            case GivenBack():
                self._back_to_pending(kept, kept.told.losses)
        return kept.told

    def expire(self, order: Sequence[str]) -> list[Task]:
        """`order` is that in which the database took them."""
        late = {
            kept.told.id: kept.told.deadline or 0.0
            for kept in self.in_state(State.STAGED, State.PENDING, State.PROCESSING)
            if (kept.told.deadline or 0.0) <= self.now and kept.wished_at is None
        }
        assert sorted(order) == sorted(late)
        assert [late[task_id] for task_id in order] == sorted(late.values())
        return [self._stop(self.tasks[task_id], "expired") for task_id in order]

    def rescue(self, order: Sequence[str], *, everything: bool) -> list[Task | None]:
        """`order` is that in which the database took them."""
        left = [
            kept.told.id
            for kept in self.in_state(State.PROCESSING)
            if everything or (kept.lease_until or 0.0) < self.now
        ]
        assert sorted(order) == sorted(left)
        rescued = []
        for task_id in order:
            told = self.tasks[task_id].told
            ending = GivenBack() if told.step is None else WorkerLost("")
            rescued.append(self.finish(Held(task_id, told.attempt), ending))
        return rescued

    # ------------------------------------------------------------ accounts and keys

    def create(self, made: Account) -> None:
        self.accounts[made.id] = Purse(made.id, made.name, made.created_at, made.max_concurrent)
        self._enter(made.id, None, "deposit", made.balance, 0)

    def credit(self, account_id: str, change: int) -> Account:
        purse = self.accounts[account_id]
        if purse.balance + change < 0:
            raise InvalidInput("usd", change, "")
        self._enter(account_id, None, "deposit", change, 0)
        return self._account(purse)

    def limit(self, account_id: str, limit: int) -> Account:
        purse = self.accounts[account_id]
        purse.limit = limit
        self._promote(purse)
        return self._account(purse)

    def create_key(self, account_id: str, key: str) -> Key:
        self.keys[key] = Key(key_id(key), account_id, key, self.now, None)
        return self.keys[key]

    def revoke_key(self, key: str) -> Key:
        if key not in self.keys:
            raise NotFound("")
        if self.keys[key].revoked_at is None:
            self.keys[key] = replace(self.keys[key], revoked_at=self.now)
        return self.keys[key]

    def authenticate(self, key: str) -> Caller:
        if key not in self.keys or self.keys[key].revoked_at is not None:
            raise Unauthorized("")
        return Caller(self.keys[key].account_id, key_id(key))

    def _account(self, purse: Purse) -> Account:
        return Account(purse.id, purse.name, purse.balance, purse.frozen, purse.limit, purse.created_at)

    # ------------------------------------------------------------ the outbox

    def take(self, taken: Sequence[Letter], lease_seconds: float, shares: Mapping[str, int]) -> None:
        """`taken` is what the database chose: of each origin what is due longest, no more than its share."""
        due = {task_id: each for task_id, each in self.outbox.items() if each.next_at is not None}
        due = {task_id: each for task_id, each in due.items() if (each.next_at or 0.0) <= self.now}
        chosen = {letter.task_id for letter in taken}
        assert len(chosen) == len(taken)
        assert chosen <= due.keys()
        waiting, given = Counter(map(self.origin, due)), Counter(map(self.origin, chosen))
        for origin in waiting:
            assert given[origin] == min(waiting[origin], shares.get(origin, 0))
            mine = [due[task_id].next_at or 0.0 for task_id in chosen if self.origin(task_id) == origin]
            others = [due[task_id].next_at or 0.0 for task_id in due.keys() - chosen if self.origin(task_id) == origin]
            assert max(mine, default=0.0) <= min(others, default=self.now)
        for letter in taken:
            posted, webhook = self.outbox[letter.task_id], self.tasks[letter.task_id].told.webhook
            assert webhook is not None
            assert (letter.url, letter.secret) == (webhook.url, webhook.secret)
            assert (letter.origin, letter.attempt) == (self.origin(letter.task_id), posted.attempts + 1)
            posted.next_at = self.now + lease_seconds

    def record(self, letter: Letter, attempt: Attempt, *, next_at: float | None, is_delivered: bool) -> None:
        posted = self.outbox[letter.task_id]
        posted.log.append(attempt)
        if posted.attempts == letter.attempt - 1:
            posted.attempts = letter.attempt
            posted.next_at = next_at
            posted.delivered_at = attempt.at if is_delivered else None

    def resend(self, account_id: str | None, task_id: str) -> DeliveryLog:
        kept = self.tasks[task_id]
        if task_id not in self.outbox or account_id not in (None, kept.told.account_id):
            raise NotFound("")
        posted = self.outbox[task_id]
        posted.next_at, posted.delivered_at = self.now, None
        assert kept.told.webhook is not None
        return DeliveryLog("", kept.told.webhook.url, posted.created_at, self.now, None, tuple(posted.log))

    def origin(self, task_id: str) -> str:
        webhook = self.tasks[task_id].told.webhook
        assert webhook is not None
        return webhook.url.rsplit("/", 1)[0]

    # ------------------------------------------------------------ pictures

    def stored(self, picture_id: str) -> Stored:
        shown = self.outputs.get(picture_id)
        if shown is None or shown.swept_at is not None or shown.output.expires_at <= self.now:
            raise NotFound("")
        return Stored(shown.output.key, shown.output.expires_at)

    def expired_outputs(self) -> set[str]:
        return {
            picture_id
            for picture_id, shown in self.outputs.items()
            if shown.swept_at is None and shown.output.expires_at <= self.now
        }

    def mark_swept(self, picture_ids: Iterable[str]) -> None:
        for picture_id in picture_ids:
            self.outputs[picture_id].swept_at = self.now

    def spent_inputs(self) -> set[str]:
        return {key for key, task_id in self.inputs.items() if self.tasks[task_id].told.state.is_final}

    def kept_keys(self) -> set[str]:
        return {*self.inputs, *(shown.output.key for shown in self.outputs.values() if shown.swept_at is None)}

    # ------------------------------------------------------------ how tasks move

    def forget_old_repeats(self) -> None:
        self.repeats = {which: each for which, each in self.repeats.items() if each.created_at > self.now - DAY}

    def _stop(self, kept: Kept, code: str) -> Task:
        if kept.told.state is State.PROCESSING:
            kept.wished_at, kept.cancel_code = self.now, code
        elif not kept.told.state.is_final:
            self._end(kept, State.FAILED, error_code=code)
        return kept.told

    def _back_to_pending(self, kept: Kept, losses: int) -> None:
        kept.lease_until = None
        self._tell(kept, state=State.PENDING, losses=losses, started_at=None, step=None, steps=None)
        if kept.wished_at is not None:
            self._stop(kept, kept.cancel_code or "")

    def _end(self, kept: Kept, state: State, **more: Any) -> None:
        kept.lease_until = None
        self._tell(kept, state=state, ended_at=self.now, **more)
        task = kept.told
        if state is State.COMPLETED:
            self._enter(task.account_id, task.id, "settle", 0, -task.price)
        else:
            self._enter(task.account_id, task.id, "release", task.price, -task.price)
        if task.webhook is not None:
            self.outbox[task.id] = Posted(self.now, self.now)
        self._promote(self.accounts[task.account_id])

    def _promote(self, purse: Purse) -> None:
        for kept in self.in_state(State.STAGED, account_id=purse.id)[: max(0, self._room(purse))]:
            self._tell(kept, state=State.PENDING)

    def _tell(self, kept: Kept, **more: Any) -> None:
        kept.told = replace(kept.told, version=kept.told.version + 1, **more)

    def _enter(self, account_id: str, task_id: str | None, phase: str, balance: int, frozen: int) -> None:
        self.ledger.append((account_id, task_id, phase, balance, frozen))
        self.accounts[account_id].balance += balance
        self.accounts[account_id].frozen += frozen

    def _room(self, purse: Purse) -> int:
        return purse.limit - len(self.in_state(*ROOM_TAKEN, account_id=purse.id))

    def _running(self, purse: Purse) -> int:
        return len(self.in_state(State.PROCESSING, account_id=purse.id))

    def _last_turn(self) -> int:
        return max((kept.turn or 0 for kept in self.tasks.values()), default=0)

"""A task's durable life: its states and the only moves between them.

`MOVES` is the one table. The queue writes each move as one guarded UPDATE, the database refuses any other by a trigger
that is tested against this table, and ``docs/states.md`` shows it, tested too.
"""

from dataclasses import dataclass
from enum import StrEnum

from fluxserve.domain.generation import Generation

PUBLIC = "public"
"""The pool whose workers draw for everybody. Any other pool is one account's own, and has its id."""


class State(StrEnum):
    STAGED = "staged"
    PENDING = "pending"
    PROCESSING = "processing"
    COMPLETED = "completed"
    FAILED = "failed"

    @property
    def is_final(self) -> bool:
        return self in (State.COMPLETED, State.FAILED)


class Move(StrEnum):
    """Everything that can happen to a task after it was submitted (as staged or pending)."""

    PROMOTE = "promote"
    CLAIM = "claim"
    COMPLETE = "complete"
    FAIL = "fail"
    LOSE = "lose"
    ABANDON = "abandon"
    RELEASE = "release"
    CANCEL = "cancel"
    EXPIRE = "expire"


FIRST_STATES = (State.STAGED, State.PENDING)

MOVES: dict[Move, tuple[tuple[State, ...], State, str]] = {
    Move.PROMOTE: ((State.STAGED,), State.PENDING, "its account has room for one more"),
    Move.CLAIM: ((State.PENDING,), State.PROCESSING, "a slot takes it; its attempt number grows by one"),
    Move.COMPLETE: ((State.PROCESSING,), State.COMPLETED, "drawn and stored; the hold is settled"),
    Move.FAIL: ((State.PROCESSING,), State.FAILED, "the engine failed or was told to stop; the hold is released"),
    Move.LOSE: ((State.PROCESSING,), State.PENDING, "its worker was lost while drawing it; counted"),
    Move.ABANDON: ((State.PROCESSING,), State.FAILED, "its worker was lost for the third time; the hold is released"),
    Move.RELEASE: ((State.PROCESSING,), State.PENDING, "given back unbegun, or by a clean stop; not counted"),
    Move.CANCEL: ((State.STAGED, State.PENDING), State.FAILED, "the caller's wish; the hold is released"),
    Move.EXPIRE: ((State.STAGED, State.PENDING), State.FAILED, "its deadline has passed; the hold is released"),
}


def allowed_moves() -> set[tuple[State, State]]:
    """Every (from, to) that the table allows: what the database's trigger lets through."""
    return {(before, after) for befores, after, _ in MOVES.values() for before in befores}


@dataclass(frozen=True, slots=True)
class Webhook:
    """Where a caller wants to hear of the task's end. The secret is the caller's own, and may be empty."""

    url: str
    secret: str


@dataclass(frozen=True, slots=True)
class Repeatable:
    """A request that its caller may send again and have only once: their key for it, and its body's SHA-256."""

    key: str
    body_hash: bytes


@dataclass(frozen=True, slots=True)
class Submission:
    """What a door hands to the queue.

    `request` is what the door must be able to echo. A private task is drawn by its account's own workers, for nothing.
    `deadline_seconds` after now it fails, if it has not ended; None stands for the setting's. `product` is what it is
    priced as: None stands for the generation's model.
    """

    account_id: str
    request: dict[str, object]
    generation: Generation
    api_key_id: str | None = None
    is_private: bool = False
    webhook: Webhook | None = None
    deadline_seconds: float | None = None
    repeatable: Repeatable | None = None
    product: str | None = None


@dataclass(frozen=True, slots=True)
class Waiting:
    """A pending task as placement sees it.

    `turn` is where its account stands: the work that the public pool has given it, or the others if it was idle. The
    account that stands lowest is next. `work` is what the task adds to that. `member` of its family draws it.
    """

    task_id: str
    account_id: str
    pool: str
    number: int
    work: int
    turn: int
    member: str


@dataclass(frozen=True, slots=True)
class Output:
    """A stored picture. `key` names its bytes on the shelf; times are unix seconds."""

    id: str
    key: str
    content_type: str
    size: int
    width: int
    height: int
    seed: int
    expires_at: float


@dataclass(frozen=True, slots=True)
class Completed:
    """An attempt that ended with stored pictures."""

    outputs: tuple[Output, ...]


@dataclass(frozen=True, slots=True)
class Errored:
    """An attempt that ended with an error that another attempt would meet too, or by the caller's wish."""

    code: str
    message: str


@dataclass(frozen=True, slots=True)
class WorkerLost:
    """An attempt whose worker was lost while drawing it."""

    reason: str


@dataclass(frozen=True, slots=True)
class GivenBack:
    """An attempt that ended before it began, or was stopped by us."""


Ending = Completed | Errored | WorkerLost | GivenBack


@dataclass(frozen=True, slots=True)
class Task:
    """A task as the queue knows it. `request` is what the door must be able to echo; times are unix seconds.

    `version` grows with every change that a caller can see. `step` of `steps` are done by the attempt that runs.
    """

    id: str
    account_id: str
    request: dict[str, object]
    generation: Generation
    state: State
    price: int
    attempt: int
    losses: int
    created_at: float
    pool: str = PUBLIC
    version: int = 0
    api_key_id: str | None = None
    deadline: float | None = None
    webhook: Webhook | None = None
    started_at: float | None = None
    ended_at: float | None = None
    step: int | None = None
    steps: int | None = None
    error_code: str | None = None
    error_message: str | None = None
    outputs: tuple[Output, ...] = ()

    @property
    def is_private(self) -> bool:
        return self.pool != PUBLIC

    @property
    def updated_at(self) -> float:
        return self.ended_at or self.started_at or self.created_at

"""A relayed answer's durable life, a chat completion's or that of pictures: what it may cost at most is held, and what
it did cost is settled.

Its states are a task's, but for those of waiting: it is processing from its first moment, and completed or failed for
ever after. Completed is whatever was paid for, whole or not; what failed cost nothing.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from fluxserve.domain.catalog import PictureKind
from fluxserve.domain.task import Repeatable, State

PER_TOKENS = 1_000_000  # tokens, whose price a rate tells


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens that were read and written."""

    prompt: int
    completion: int


@dataclass(frozen=True, slots=True)
class Rate:
    """Points for a million tokens of the prompt and of the completion, for a picture of each kind, and the least that a
    completion costs."""

    prompt: int = 0
    completion: int = 0
    minimum: int = 0
    pictures: Mapping[PictureKind, int] = field(default_factory=dict)

    def price(self, usage: Usage, pictures: Sequence[PictureKind] = ()) -> int:
        """Points, rounded up to a whole one."""
        exact = usage.prompt * self.prompt + usage.completion * self.completion
        return max(self.minimum, -(-exact // PER_TOKENS) + sum(self.pictures.get(kind, 0) for kind in pictures))


@dataclass(frozen=True, slots=True)
class NewCompletion:
    """What a door asks for: to hold `price`, the most that it may cost."""

    account_id: str
    model: str
    price: int
    api_key_id: str | None = None
    repeatable: Repeatable | None = None


@dataclass(frozen=True, slots=True)
class Used:
    """It is to be paid: `price` in points, for `usage`. `answer` is kept to be fetched again, if there is one.

    `code` and `message` say why it is not whole; None if it is.
    """

    usage: Usage
    price: int
    answer: bytes | None
    code: str | None = None
    message: str | None = None


@dataclass(frozen=True, slots=True)
class Unused:
    """Nothing came of it, and it costs nothing."""

    code: str
    message: str


CompletionEnding = Used | Unused


@dataclass(frozen=True, slots=True)
class Completion:
    """`held` is the most that it may cost, `price` what it did cost; points. Times are unix seconds.

    `answer` is a chat.completion object in JSON, as long as it is kept.
    """

    id: str
    account_id: str
    model: str
    state: State
    held: int
    created_at: float
    api_key_id: str | None = None
    price: int | None = None
    usage: Usage | None = None
    ended_at: float | None = None
    error_code: str | None = None
    error_message: str | None = None
    answer: bytes | None = None

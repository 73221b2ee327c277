"""Every refusal and failure, one tree.

    FluxserveError
    ├── Refused                 the caller can mend it; nothing was accepted or charged
    │   ├── InvalidInput        a field has a value that is not allowed
    │   │   ├── WrongHost       the request came by a name that is not ours
    │   │   └── WrongOrigin     a page of somebody else's asks for more than to look
    │   ├── Unauthorized        no key, or not one of ours
    │   ├── NotEnoughCredits    the price is more than the balance
    │   ├── NotFound            no such thing for this account
    │   │   └── UnknownModel    no such model for anybody
    │   ├── TooLarge            the body is larger than we read
    │   ├── TooSlow             the request did not come to its end in time
    │   ├── KeyReused           an idempotency key came before, with another body
    │   ├── ShownOnce           what it would be answered with is a secret that was shown already
    │   └── TryLater            not just now, but in some seconds
    │       ├── TooMany         the account's queue is full, or requests come too fast
    │       └── InFlight        the same request is being taken in already
    ├── Unavailable             we can't just now; try later. Whether it was done may be unknown
    │   ├── NoRoom              the disk is nearly full; nothing was accepted or charged
    │   └── UpstreamsFailed     nobody who answers for a text model does; nothing is charged
    ├── NotYet                  a caller has waited long enough; the task goes on
    └── TaskFailed              an accepted task ended without pictures; it is not charged
        ├── DrawingFailed       the engine raised an error
        ├── Flagged             a picture was drawn that must not be shown
        ├── Abandoned           its worker was lost, as often as we try
        ├── Expired             its deadline passed
        └── CancelledByCaller   as the caller wished

Each class has a stable `code` in words. The message is for the caller; dialects map class to status and body.
"""

from typing import ClassVar


class FluxserveError(Exception):
    code: ClassVar[str] = "error"

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message


class Refused(FluxserveError):
    code = "refused"


class InvalidInput(Refused):
    """Names the field, the value and what is allowed."""

    code = "invalid_input"

    def __init__(self, field: str, value: object, allowed: str) -> None:
        self.field, self.value, self.allowed = field, value, allowed
        super().__init__(f"{field}: {shown(value)} is not allowed; {allowed}")

    def inside(self, place: str) -> "InvalidInput":
        """The same refusal, its field named as the caller knows it: "width" inside "input" is "input.width"."""
        return InvalidInput(f"{place}.{self.field}", self.value, self.allowed)


class WrongHost(InvalidInput):
    code = "wrong_host"


class WrongOrigin(InvalidInput):
    code = "wrong_origin"


class Unauthorized(Refused):
    code = "unauthorized"


class NotEnoughCredits(Refused):
    code = "not_enough_credits"

    def __init__(self, price: int, balance: int) -> None:
        self.price, self.balance = price, balance
        super().__init__(f"not enough credits: this task costs {price} points and the account has {balance}")


class NotFound(Refused):
    code = "not_found"


class UnknownModel(NotFound):
    code = "unknown_model"

    def __init__(self, model: str) -> None:
        super().__init__(f"model: there is no {shown(model)}; GET /v1/models lists those that there are")


class TooLarge(Refused):
    code = "too_large"


class TooSlow(Refused):
    code = "too_slow"


class KeyReused(Refused):
    code = "idempotency_key_reused"


class ShownOnce(Refused):
    code = "shown_once"


class TryLater(Refused):
    code = "try_later"

    def __init__(self, message: str, retry_after: int) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class TooMany(TryLater):
    code = "too_many"


class InFlight(TryLater):
    code = "in_flight"


class Unavailable(FluxserveError):
    code = "unavailable"
    retry_after = 5  # seconds


class NoRoom(Unavailable):
    code = "no_room"


class UpstreamsFailed(Unavailable):
    code = "upstreams_failed"


class NotYet(FluxserveError):
    code = "not_yet"


class TaskFailed(FluxserveError):
    code = "task_failed"


class DrawingFailed(TaskFailed):
    code = "drawing_failed"


class Flagged(TaskFailed):
    code = "flagged"


class Abandoned(TaskFailed):
    code = "abandoned"


class Expired(TaskFailed):
    code = "expired"


class CancelledByCaller(TaskFailed):
    code = "cancelled"


def shown(value: object, most: int = 80) -> str:
    """A value as it may stand in a message: short, on one line, in characters that any log can take."""
    words = ascii(value[:most] if isinstance(value, (str, bytes)) else value)  # a picture is long, in base64 or not
    return words if len(words) <= most else f"{words[: most - 1]}…"

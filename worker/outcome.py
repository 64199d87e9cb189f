"""What one answer of the provider means for one message, or for a whole request.

These are values, not exceptions, so that the caller handles each one. The table behind them is in
docs/design.md, section 5.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from viber_courier.schemas.wire import StatusEntry


@dataclass(frozen=True, slots=True)
class Accepted:
    """The provider took the message and gave it this id."""

    provider_id: int


@dataclass(frozen=True, slots=True)
class Refused:
    """The provider will never take this message."""

    code: str


@dataclass(frozen=True, slots=True)
class Retryable:
    """The provider did not take the message now (``error-system``): try again with backoff.

    ``whole``: it said so of the request, not of this message.
    """

    code: str
    whole: bool = field(default=False, compare=False)


@dataclass(frozen=True, slots=True)
class Unsure:
    """Nobody can know whether the provider took the message."""

    why: str


@dataclass(frozen=True, slots=True)
class NotSent:
    """The provider surely did not take it; ``retry_after`` is its own wish, in seconds."""

    why: str
    retry_after: float | None = None


@dataclass(frozen=True, slots=True)
class Blocked:
    """Nothing can be sent now: credentials, account or address of the API are wrong."""

    code: str


@dataclass(frozen=True, slots=True)
class RequestRefused:
    """The request was refused as a whole, perhaps for one message in it."""

    code: str


Outcome = Accepted | Refused | Retryable | Unsure | NotSent | Blocked | RequestRefused
"""What /send means for one message."""


@dataclass(frozen=True, slots=True)
class Statuses:
    """A /status reply that counts as an answer: its entries by provider id."""

    entries: Mapping[int, StatusEntry]


StatusOutcome = Statuses | Retryable | NotSent | Blocked | RequestRefused


def code_of(outcome: Outcome) -> str | None:
    """Returns the provider's code for what was not accepted, where it gave one."""
    match outcome:
        case Refused(code) | Retryable(code) | Blocked(code) | RequestRefused(code):
            return code
    return None

"""Outcomes: what an answer of the provider means for one message, or for a whole request.

These are values, not exceptions, so that the caller handles each one. The table behind them is in
docs/design.md, section 5.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from viber_courier.schemas.wire import StatusEntry


@dataclass(frozen=True, slots=True)
class Accepted:
    """The provider accepted the message and gave it this id; None: no usable one."""

    provider_id: int | None


@dataclass(frozen=True, slots=True)
class Refused:
    """The provider will never accept this message."""

    code: str


@dataclass(frozen=True, slots=True)
class Retryable:
    """The provider did not accept the message now (``error-system``): try again with backoff.

    ``whole``: the code is the whole request's, not this message's.
    """

    code: str
    whole: bool = field(default=False, compare=False)


@dataclass(frozen=True, slots=True)
class Unsure:
    """The provider may have accepted the message or not.

    ``odd``: its answer is complete and makes no sense.
    """

    why: str
    odd: bool = field(default=False, compare=False)


@dataclass(frozen=True, slots=True)
class NotSent:
    """The provider did not get the message; ``retry_after``: seconds that it asks to wait."""

    why: str
    retry_after: float | None = None


@dataclass(frozen=True, slots=True)
class Blocked:
    """Nothing can be sent now: the credentials, account or address are wrong."""

    code: str


@dataclass(frozen=True, slots=True)
class RequestRefused:
    """The request was refused as a whole, perhaps because of one message in it."""

    code: str


Outcome = Accepted | Refused | Retryable | Unsure | NotSent | Blocked | RequestRefused
"""What /send means for one message."""


@dataclass(frozen=True, slots=True)
class Statuses:
    """The entries of an answered /status, by provider id.

    ``unread``: how many others can't be used: without a usable id, or contradicting each other.
    """

    entries: Mapping[int, StatusEntry]
    unread: int = 0


StatusOutcome = Statuses | Retryable | NotSent | Blocked | RequestRefused


def code_of(outcome: Outcome) -> str | None:
    """Returns the provider's code of an outcome that isn't an acceptance, if it has one."""
    match outcome:
        case Refused(code) | Retryable(code) | Blocked(code) | RequestRefused(code):
            return code
    return None


def failure(outcome: Outcome | StatusOutcome) -> tuple[bool, dict[str, str]]:
    """Returns whether the request never left, and why it failed, as a log line's data.

    With an HTTP code it left: that is an answer. The data holds no words of the provider's.
    """
    why: str = getattr(outcome, "why", getattr(outcome, "code", ""))
    unsent = isinstance(outcome, NotSent) and not why.startswith("http-")
    return unsent, {"reason": why} if why and not why.startswith("error-") else {}

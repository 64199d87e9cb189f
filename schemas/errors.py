"""The exceptions that this project raises on purpose, except store/connection.py's."""

from collections.abc import Mapping, Sequence
from datetime import datetime

Faults = Mapping[str, Sequence[str]]
"""Maps a field path (``content.text``) to what is wrong there; never holds the value."""


class CourierError(Exception):
    """The base of all errors of viber-courier. They can be pickled, as process pools require."""

    __repr__ = Exception.__repr__  # redis-py's own, of a StoreUnavailable, leaves the text out

    def __reduce__(self) -> tuple[object, ...]:
        # Exception's own method would call the class with the text, which isn't its argument.
        return _rebuild, (type(self), self.args, dict(self.__dict__))


def _rebuild(cls: type[CourierError], args: tuple[object, ...], state: dict[str, object]) -> object:
    error = cls.__new__(cls, *args)
    error.args = args
    error.__dict__.update(state)
    return error


class ConfigError(CourierError):
    """Settings are missing or wrong. ``faults`` maps each one's name to what is allowed there."""

    def __init__(self, faults: Mapping[str, str]) -> None:
        self.faults = dict(faults)
        super().__init__("; ".join(f"{name}: {fault}" for name, fault in self.faults.items()))


class EnqueueError(CourierError):
    """A job was not accepted.

    ``row`` is its row's number in ``enqueue_many``, from 0; None for a single job or for
    ``common``. ``accepted`` holds the ids that ``enqueue_many`` had stored by then, in row order.
    """

    row: int | None = None
    accepted: Sequence[str] = ()


class InvalidMessage(EnqueueError):
    """A job breaks rules. ``errors`` holds every fault by field path, and no value of the job."""

    def __init__(self, errors: Faults) -> None:
        self.errors = {path: list(texts) for path, texts in errors.items()}
        super().__init__("; ".join(f"{p}: {' '.join(t)}" for p, t in sorted(self.errors.items())))


class Conflict(EnqueueError):
    """Another job was stored under the same id. ``id`` is that id."""

    def __init__(self, id: str) -> None:
        self.id = id
        super().__init__(f"id {id!r} was accepted before with another job")


class CampaignCancelled(EnqueueError):
    """The campaign was cancelled: it takes no more messages. ``campaign`` is its name."""

    def __init__(self, campaign: str) -> None:
        self.campaign = campaign
        super().__init__(f"campaign {campaign!r} was cancelled")


class QueueFull(EnqueueError):
    """More than ``COURIER_MAX_QUEUED`` messages would wait. Only ``accepted`` was stored."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        super().__init__(f"the queue is full: COURIER_MAX_QUEUED is {limit}")


class EventsMissed(CourierError):
    """Result events were deleted before ``group`` read them, or before it acknowledged them.

    They were written at ``since`` or later, and before ``until``. Reading goes on behind them.
    """

    def __init__(self, group: str, since: datetime, until: datetime) -> None:
        self.group, self.since, self.until = group, since, until
        span = f"from {since.isoformat()} to {until.isoformat()}"
        super().__init__(f"group {group!r} has missed events {span}: they were deleted unread")


class DeadLetterError(CourierError):
    """A dead letter can't be read, sent again or dropped. ``id`` is its id."""

    why = ""

    def __init__(self, id: str, why: str = "") -> None:
        self.id = id
        super().__init__(f"message {id!r} {why or self.why}")


class NotDead(DeadLetterError):
    """The message is not on the list of dead letters. The text says what it is instead."""


class ContentGone(DeadLetterError):
    """The message's content was erased, or was never stored because its job was invalid."""

    reason = "content-gone"
    why = f"has no content any more: {reason}"


class Unconfirmed(DeadLetterError):
    """The message may have been sent already; pass ``unconfirmed=True`` to send it again."""

    why = "may have been sent already: say unconfirmed=True to send it again"

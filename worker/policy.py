"""Decisions until a message is accepted or given up: after a claim, after an answer of /send.

Functions of values: ``now`` is microseconds by the Redis server's clock, ``jitter`` a number from
0 to 1. Durations in settings are seconds.
"""

from __future__ import annotations

from viber_courier.schemas.fields import VALIDITY
from viber_courier.schemas.instants import SECOND
from viber_courier.schemas.settings import Settings
from viber_courier.schemas.status import Reason, Status
from viber_courier.store.records import Step, Waiting
from viber_courier.worker.outcome import (
    Accepted,
    Again,
    Blocked,
    NotSent,
    Outcome,
    Refused,
    Spoiled,
    Unsure,
)

ALONE_AFTER = 5
"""Lapsed leases in a row after which a message is sent alone; one more ends it."""
TRACKING_MOST = 5 * 86400
"""Seconds after which an accepted message is followed no more, whatever /status says."""
SMS_VALIDITY_DEFAULT = 259200
"""Seconds an SMS may take where the job sets none: the SMS centre decides."""


def backoff(failures: int, jitter: float, settings: Settings) -> float:
    """Seconds until the next try after ``failures`` counted ones: exponential, full jitter."""
    return jitter * min(settings.retry_cap, settings.retry_base * 2.0 ** min(failures - 1, 60))


def triage(message: Waiting, now: int, jitter: float, settings: Settings) -> Step | None:
    """What a claimed message needs instead of being sent; None if it can be sent."""
    crashed = message.lapses > ALONE_AFTER
    if message.lapsed_inside:
        message.attempts += 1
        if crashed:
            message.unsure += 1
            return give_up(message, Status.FAILED, Reason.CRASHED)
        return _unsure(message, now, jitter, settings)
    if message.until <= now or (message.ttl and seconds_left(message, now) < VALIDITY[0]):
        return give_up(message, Status.EXPIRED, Reason.TTL)
    if crashed:
        return give_up(message, Status.FAILED, Reason.CRASHED)
    if message.content is None:
        return give_up(message, Status.FAILED, Reason.CONTENT_GONE)
    return None


def seconds_left(message: Waiting, now: int) -> int:
    """Validity left to a message with ``ttlSec``, in whole seconds of two significant digits.

    Rounded up to a second first, then down, so that the messages of a batch still share it.
    """
    left = max(0, -(-(message.until - now) // SECOND))
    step: int = 10 ** max(0, len(str(left)) - 2)
    return left // step * step


def give_up(message: Waiting, status: Status, reason: str, code: str | None = None) -> Step:
    """End a message that was never accepted: ``unconfirmed`` if any attempt was unsure."""
    status = Status.UNCONFIRMED if message.unsure else status
    fields = (*_tally(message), "reason", reason, *_code(code))
    return Step("end", status=status, reason=reason, fields=fields)


def after_send(
    outcome: Outcome,
    message: Waiting,
    now: int,
    jitter: float,
    settings: Settings,
    about_us: bool = False,
) -> Step:
    """What becomes of a message whose request has been answered (DESIGN section 5).

    ``about_us``: so many were refused alone that one more refusal isn't about the message.
    """
    step = _after_send(outcome, message, now, jitter, settings, about_us)
    # Its lease held: those that lapsed before it count no more.
    return step._replace(fields=(*step.fields, "lapses", 0)) if message.lapses else step


def _after_send(
    outcome: Outcome, message: Waiting, now: int, jitter: float, settings: Settings, about_us: bool
) -> Step:
    match outcome:
        case Accepted():
            return _submitted(message, now, settings)
        case Refused(code):
            return give_up(message, Status.REJECTED, code, code)
        case Again(code):
            return _retry(message, now, jitter, settings, code)
        case Unsure():
            return _unsure(message, now, jitter, settings)
        case Spoiled(code) if not about_us:
            return give_up(message, Status.REJECTED, code, code)
        case NotSent():
            return _stay(message, now, 0.0)
        case Spoiled(code):
            # Due later: were it the next probe too, it alone could keep the gate shut for all.
            return _stay(message, now, settings.retry_cap, code)
        case Blocked(code):
            return _stay(message, now, 0.0, code)


def accepted_alike(message: Waiting) -> tuple[object, ...]:
    """What decides beside the instant and the lane: accepted messages alike come to the same."""
    own = message.content or {}
    return (
        *(message.attempts, message.failures, message.unsure, message.lapses),
        *(message.metadata, message.resend_of, id(message.common) if message.common else 0),
        *(own.get("validityPeriodSec", ""), own.get("smsValidityPeriodSec", "")),
    )


def _submitted(message: Waiting, now: int, settings: Settings) -> Step:
    wire = {**message.common, **(message.content or {})}  # None: taken away by the row
    follow = int(str(wire.get("validityPeriodSec") or VALIDITY[1]))
    if message.lane.endswith(":1"):
        follow += int(str(wire.get("smsValidityPeriodSec") or SMS_VALIDITY_DEFAULT))
    follow = min(follow + int(settings.tracking_margin), TRACKING_MOST)
    end = now + follow * SECOND
    at = min(now + int(settings.poll_delays[0] * SECOND), end)
    fields = (*_tally(message), *_code("ok"), "submitted", now, "tracked", end)
    return Step("watch", at - at % 4, Status.SUBMITTED, fields=fields)


def _unsure(message: Waiting, now: int, jitter: float, settings: Settings) -> Step:
    message.unsure += 1
    choice = message.on_unsure or settings.unsure_policy(message.lane.split(":")[0])
    if choice == "park":
        return give_up(message, Status.UNCONFIRMED, Reason.UNSURE)
    return _retry(message, now, jitter, settings)


def _retry(
    message: Waiting, now: int, jitter: float, settings: Settings, code: str | None = None
) -> Step:
    message.failures += 1
    if 0 < settings.max_attempts <= message.failures:
        return give_up(message, Status.FAILED, Reason.ATTEMPTS, code)
    return _stay(message, now, backoff(message.failures, jitter, settings), code)


def _stay(message: Waiting, now: int, wait: float, code: str | None = None) -> Step:
    at = min(now + int(wait * SECOND), max(message.until, now))
    return Step("stay", at - at % 4, fields=(*_tally(message), *_code(code)))


def _tally(message: Waiting) -> list[str | int]:
    fields: list[str | int] = ["attempts", message.attempts]
    if message.failures:
        fields += ["failures", message.failures]
    if message.unsure:
        fields += ["unsure", message.unsure]
    return fields


def _code(code: str | None) -> list[str | int]:
    return ["providerCode", code] if code else []

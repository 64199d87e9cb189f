"""Decides about messages that are not accepted yet: after a claim and after an answer to /send.

Pure functions. ``now`` is in microseconds by the Redis server's clock, ``jitter`` a number from 0
to 1. Durations in settings are seconds.
"""

from viber_courier.schemas.fields import VALIDITY
from viber_courier.schemas.instants import SECOND
from viber_courier.schemas.settings import Settings
from viber_courier.schemas.status import Reason, Status
from viber_courier.schemas.window import next_opening, read_window
from viber_courier.store.records import Changes, Step, Waiting
from viber_courier.worker.outcome import (
    Accepted,
    Blocked,
    NotSent,
    Outcome,
    Refused,
    RequestRefused,
    Retryable,
    Unsure,
)

ALONE_AFTER = 5
"""Lapsed leases in a row after which a message goes alone; one more ends it."""
MAX_TRACKING = 5 * 86400
"""Longest time to follow an accepted message, in seconds."""
SMS_VALIDITY_DEFAULT = 259200
"""Assumed validity of an SMS whose job sets none, in seconds: the SMS centre decides."""


def backoff(failures: int, jitter: float, settings: Settings) -> float:
    """Returns the seconds until the next try: exponential in ``failures``, with full jitter."""
    return jitter * min(settings.retry_cap, settings.retry_base * 2.0 ** min(failures - 1, 60))


def triage(message: Waiting, now: int, jitter: float, settings: Settings) -> Step | None:
    """Returns the step for a claimed message that must not be sent; None if it can be sent.

    Raises NoZone if this machine doesn't know the time zones of its sending hours.
    """
    crashed = message.lapses > ALONE_AFTER
    if message.is_cancelled:
        unsure = message._replace(unsure=message.unsure + message.lapsed_inside)
        return give_up(unsure, Status.CANCELLED, Reason.BY_REQUEST)
    if message.lapsed_inside:
        if crashed:
            unsure = message._replace(unsure=message.unsure + 1)
            return give_up(unsure, Status.FAILED, Reason.CRASHED)
        return _unsure(message, now, jitter, settings)
    if message.until <= now or (message.has_ttl and seconds_left(message, now) < VALIDITY[0]):
        return give_up(message, Status.EXPIRED, Reason.TTL)
    if crashed:
        return give_up(message, Status.FAILED, Reason.CRASHED)
    if message.content is None:
        return give_up(message, Status.FAILED, Reason.CONTENT_GONE)
    if message.unsure > settings.unsure_resends:  # the limit was higher, or there was none
        return give_up(message, Status.UNCONFIRMED, Reason.UNSURE)
    return _outside_hours(message, now) if message.window else None


def _outside_hours(message: Waiting, now: int) -> Step | None:
    """Returns the step for a message outside its sending hours; None if it is inside them.

    It waits for their next opening, or expires at once if they don't open in time.
    """
    opening = next_opening(now, read_window(message.window))
    if opening == now:
        return None
    if opening is None or opening >= message.until:
        return give_up(message, Status.EXPIRED, Reason.TTL)
    return delayed(message, opening)


def delayed(message: Waiting, at: int) -> Step:
    """Returns the step that makes a message due at an instant, without an attempt."""
    return Step("stay", at - at % 4, changes=Changes(max_batch=message.max_batch or None))


def seconds_left(message: Waiting, now: int) -> int:
    """Returns the validity left to a message, in whole seconds with two significant digits.

    It is rounded up to a second, then down to two digits, so that messages of a batch share it.
    """
    left = max(0, -(-(message.until - now) // SECOND))
    step: int = 10 ** max(0, len(str(left)) - 2)
    return left // step * step


def give_up(message: Waiting, status: Status, reason: str, code: str | None = None) -> Step:
    """Returns the end of a message not accepted: ``unconfirmed`` if an attempt was unsure."""
    status = Status.UNCONFIRMED if message.unsure else status
    return Step("end", status=status, reason=reason, changes=_counted(message, code))


def put_back(message: Waiting, now: int) -> Step:
    """Returns the step that makes a message due now: it was not sent, or its request is halved."""
    changes = Changes(attempts=message.attempts, max_batch=message.max_batch or None)
    return Step("stay", now - now % 4, changes=changes)


def after_send(
    outcome: Outcome,
    message: Waiting,
    now: int,
    jitter: float,
    settings: Settings,
    about_us: bool = False,
) -> Step:
    """Returns the step for a message whose request was answered (docs/design.md, section 5).

    ``about_us``: so many messages were refused alone that one more refusal is not its own fault.
    """
    step = _after_send(outcome, message, now, jitter, settings, about_us)
    # This lease did not lapse, so the count of lapses in a row starts again.
    return step._replace(changes=step.changes._replace(lapses=0)) if message.lapses else step


def _after_send(
    outcome: Outcome, message: Waiting, now: int, jitter: float, settings: Settings, about_us: bool
) -> Step:
    match outcome:
        case Accepted(None):
            reason, changes = Reason.NO_PROVIDER_ID, _counted(message, "ok")
            return Step("end", status=Status.LOST, reason=reason, changes=changes)
        case Accepted():
            return _submitted(message, now, settings)
        case Refused(code):
            return give_up(message, Status.REJECTED, code, code)
        case Retryable(code):
            return _retry(message, now, jitter, settings, code)
        case Unsure():
            return _unsure(message, now, jitter, settings)
        case RequestRefused(code) if not about_us:
            return give_up(message, Status.REJECTED, code, code)
        case NotSent():
            return _stay(message, now, 0.0)
        case RequestRefused(code):
            # Due later, so that another message is the next probe: this one may keep the gate shut.
            return _stay(message, now, settings.retry_cap, code)
        case Blocked(code):
            return _stay(message, now, 0.0, code)


def acceptance_key(message: Waiting) -> tuple[object, ...]:
    """Returns what an acceptance's step depends on, beside instant and lane."""
    own = message.content or {}
    return (
        *(message.attempts, message.failures, message.unsure, message.lapses),
        *(message.metadata, message.resend_of, id(message.common) if message.common else 0),
        *(own.get("validityPeriodSec", ""), own.get("smsValidityPeriodSec", "")),
    )


def _submitted(message: Waiting, now: int, settings: Settings) -> Step:
    follow = _wire(message, "validityPeriodSec") or VALIDITY[1]
    if message.resend:
        follow += _wire(message, "smsValidityPeriodSec") or SMS_VALIDITY_DEFAULT
    follow = min(follow + int(settings.tracking_margin), MAX_TRACKING)
    end = now + follow * SECOND
    at = min(now + int(settings.poll_delays[0] * SECOND), end)
    changes = _counted(message, "ok")._replace(submitted=now, tracked=end)
    return Step("watch", at - at % 4, Status.SUBMITTED, changes=changes)


def _wire(message: Waiting, name: str) -> int | None:
    """Returns a number among the wire fields; None if it is missing or the row removes it."""
    own = message.content or {}
    value: int | None = own[name] if name in own else message.common.get(name)
    return value


def _unsure(message: Waiting, now: int, jitter: float, settings: Settings) -> Step:
    message = message._replace(unsure=message.unsure + 1)
    policy = message.on_unsure or settings.unsure_policy(message.lane)
    if policy == "park" or message.unsure > settings.unsure_resends:
        return give_up(message, Status.UNCONFIRMED, Reason.UNSURE)
    return _retry(message, now, jitter, settings)


def _retry(
    message: Waiting, now: int, jitter: float, settings: Settings, code: str | None = None
) -> Step:
    message = message._replace(failures=message.failures + 1)
    if 0 < settings.max_attempts <= message.failures:
        return give_up(message, Status.FAILED, Reason.ATTEMPTS, code)
    return _stay(message, now, backoff(message.failures, jitter, settings), code)


def _stay(message: Waiting, now: int, wait: float, code: str | None = None) -> Step:
    at = min(now + int(wait * SECOND), max(message.until, now))
    return Step("stay", at - at % 4, changes=_counted(message, code))


def _counted(message: Waiting, code: str | None) -> Changes:
    """Returns the message's counts as changes, with the provider's code if there is one."""
    return Changes(
        attempts=message.attempts,
        failures=message.failures or None,
        unsure=message.unsure or None,
        provider_code=code,
    )

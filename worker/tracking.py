"""Decides about accepted messages: what each poll means, and when to stop following them.

docs/design.md, section 4, has the rules. Pure functions, as in worker/policy.py.
"""

from dataclasses import dataclass
from typing import Any

from viber_courier.schemas.instants import SECOND
from viber_courier.schemas.settings import Settings
from viber_courier.schemas.status import NEXT, Reason, Status
from viber_courier.schemas.wire import StatusEntry, sms_leg
from viber_courier.store.records import Changes, Step, Watched, stored_segments
from viber_courier.worker.policy import MAX_TRACKING

_BEFORE_DELIVERY = (Status.SUBMITTED, Status.SENT)


@dataclass(frozen=True, slots=True)
class _Target:
    """The status that an entry reports; ``fails``: a bad end on Viber whose SMS may still come."""

    status: Status | None = None
    reason: str | None = None
    fails: bool = False


def after_poll(message: Watched, entry: StatusEntry | None, now: int, settings: Settings) -> Step:
    """Returns the step for one message of an answered /status request.

    ``entry`` None: the reply has none for it, so it stays pending. ``now`` is the instant of the
    request, so that its answer closes only what was to close before it.
    """
    target, news = _Target(), dict[str, Any]()
    if entry is not None:
        target, news = _target(message, entry), _provider_words(message, entry)
    reason = target.reason
    if target.fails:
        if not message.pending_failure and message.status in _BEFORE_DELIVERY:
            pending: Any = {"pending_failure": f"{target.status} {reason or ''}", "since": now}
            message, news = message._replace(**pending), news | pending
        target, reason = _Target(), None
    changed = None
    if target.status in NEXT[message.status]:
        changed = target.status
        if not NEXT[changed]:
            return Step("end", status=changed, reason=reason, changes=Changes(**news))
        message = message._replace(status=changed)
        if changed == Status.DELIVERED:
            message, news = message._replace(since=now), {**news, "since": now}
            if settings.read_window == 0:
                return Step("end", status=changed, changes=Changes(**news))
    closed = _closing_status(message) if now >= _closes_at(message, settings) else None
    if closed and changed in (None, closed[0]):  # else the end comes with the next answer
        return Step("end", status=closed[0], reason=closed[1], changes=Changes(**news))
    polls = message.polls + 1
    delay = settings.poll_delays[min(polls, len(settings.poll_delays) - 1)]
    at = _next_poll(message, now, delay, settings)
    return Step("stay", at, changed, reason, Changes(**news, polls=polls))


def after_failed_poll(message: Watched, now: int, jitter: float, settings: Settings) -> Step:
    """Returns the next poll without using a step of the schedule, or the end after too long."""
    if now >= message.submitted + MAX_TRACKING * SECOND:
        status, reason = _closing_status(message)
        return Step("end", status=status, reason=reason)
    delay = settings.poll_delays[min(message.polls, len(settings.poll_delays) - 1)]
    wait = min(delay, settings.retry_cap) * (0.5 + jitter / 2)
    return Step("stay", _next_poll(message, now, wait, settings))


def _target(message: Watched, entry: StatusEntry) -> _Target:
    """Returns the status that an entry reports, the best news first, and its reason."""
    viber, leg = entry.status, sms_leg(entry.sms)
    if viber in (Status.READ, Status.DELIVERED):
        return _Target(viber)
    if leg in (Status.SMS_DELIVERED, Status.SMS_SENT):
        return _Target(leg, entry.error)
    if leg == Status.UNDELIVERED:
        return _Target(leg, Reason.SMS_UNDELIVERED)
    if viber == Status.FAILED:
        return _Target(viber, entry.error or Reason.PROVIDER_FAILED, message.resend)
    return _Target(viber, entry.error, viber == Status.UNDELIVERED and message.resend)


def _provider_words(message: Watched, entry: StatusEntry) -> dict[str, Any]:
    """Returns the provider's own words, as Changes names them, where they are news."""
    sms = stored_segments(entry.sms) or message.sms
    news: dict[str, Any] = {"sms": sms} if sms != message.sms else {}
    if entry.word and (entry.word, entry.at) != (message.provider_status, message.status_at):
        news |= dict(
            provider_status=entry.word, status_at=entry.at or "", status_at_raw=entry.raw_at
        )
    if entry.code and entry.code != message.provider_code:
        news["provider_code"] = entry.code
    return news


def _closes_at(message: Watched, settings: Settings) -> int:
    """Returns when a clock closes the message if nothing else does, in microseconds."""
    if message.status == Status.DELIVERED:
        return min(message.since + int(settings.read_window * SECOND), message.tracked)
    if message.pending_failure and message.status in _BEFORE_DELIVERY:
        return min(message.since + int(settings.sms_grace * SECOND), message.tracked)
    return message.tracked


def _closing_status(message: Watched) -> tuple[Status, str | None]:
    """Returns the status and reason with which a clock closes the message."""
    if message.pending_failure and message.status in _BEFORE_DELIVERY:
        status, _, reason = message.pending_failure.partition(" ")
        return Status(status), reason or None
    if message.status == Status.DELIVERED:
        return message.status, None
    if message.status == Status.SENT:
        return message.status, Reason.TRACKING_ENDED
    return Status.LOST, Reason.TRACKING_ENDED


def _next_poll(message: Watched, now: int, delay: float, settings: Settings) -> int:
    at = now + int(delay * SECOND)
    soon = now + int(settings.poll_delays[0] * SECOND)
    for end in (_closes_at(message, settings), message.submitted + MAX_TRACKING * SECOND):
        # Past that end only one more answer is needed.
        at = min(at, end if end > now else soon)
    return at - at % 4 + 4

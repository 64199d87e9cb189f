"""Decisions about an accepted message: what each poll of its status means, and when to stop.

Finality is DESIGN section 4. Functions of values, as worker/policy.py.
"""

from __future__ import annotations

import json
from collections.abc import Sequence

from viber_courier.schemas.event import SmsState
from viber_courier.schemas.instants import SECOND
from viber_courier.schemas.settings import Settings
from viber_courier.schemas.status import NEXT, Reason, Status
from viber_courier.schemas.wire import StatusEntry, sms_leg
from viber_courier.store.records import Step, Watched
from viber_courier.worker.policy import TRACKING_MOST


def after_poll(message: Watched, entry: StatusEntry | None, now: int, settings: Settings) -> Step:
    """What an answered /status request means for one of its messages (DESIGN section 4).

    ``entry`` None: the reply did not name it, or said nothing: pending. ``now`` is when it was
    asked, so an answer closes what should have closed before.
    """
    fields: list[str | int] = []
    target, reason = (None, None) if entry is None else _target(message, entry, now, fields)
    if entry is not None:
        fields += _seen(message, entry)
    if target is not None and target != message.status and target in NEXT[message.status]:
        if not NEXT[target]:
            return _end(target, reason, fields)
        if target == Status.DELIVERED:
            message.since = now
            fields += ["since", now]
            if settings.read_window == 0:
                return _end(target, reason, fields)
        message.status = target
        changed: Status | None = target
    else:
        changed = None
    closed = _closed_by_clock(message, now, settings)
    if closed and changed in (None, closed[0]):  # else the news first, its end with the next answer
        return _end(*closed, fields)
    delay = settings.poll_delays[min(message.polls + 1, len(settings.poll_delays) - 1)]
    at = _next_poll(message, now, delay, settings)
    return Step("stay", at, changed, reason, (*fields, "polls", message.polls + 1))


def after_failed_poll(message: Watched, now: int, jitter: float, settings: Settings) -> Step:
    """Poll again without using a step of the schedule; close only what is past every patience."""
    if now >= message.submitted + TRACKING_MOST * SECOND:
        return _end(*_last_word(message), [])
    delay = settings.poll_delays[min(message.polls, len(settings.poll_delays) - 1)]
    wait = min(delay, settings.retry_cap) * (0.5 + jitter / 2)
    return Step("stay", _next_poll(message, now, wait, settings))


def _target(
    message: Watched, entry: StatusEntry, now: int, fields: list[str | int]
) -> tuple[Status | None, str | None]:
    """The status that the entry speaks for, best news first, and the provider's reason."""
    viber, leg = entry.status, sms_leg(entry.sms)
    if viber in (Status.READ, Status.DELIVERED):
        return viber, None
    if leg == Status.SMS_DELIVERED or leg == Status.SMS_SENT:
        return leg, entry.error
    if leg == Status.UNDELIVERED:
        return leg, Reason.SMS_UNDELIVERED
    if viber == Status.FAILED:
        reason: str | None = entry.error or Reason.PROVIDER_FAILED
    else:
        reason = entry.error
    if viber in (Status.UNDELIVERED, Status.FAILED) and message.resend:
        if not message.fault and message.status in (Status.SUBMITTED, Status.SENT):
            message.fault, message.since = f"{viber} {reason or ''}", now
            fields += ["fault", message.fault, "since", now]
        return None, None
    return viber, reason


def _seen(message: Watched, entry: StatusEntry) -> list[str | int]:
    """Fields that keep the provider's own words, where they are news."""
    seen: list[str | int] = []
    sms = json.dumps([[s.id, s.state] for s in entry.sms]) if entry.sms else message.sms
    if sms != message.sms:
        message.sms = sms
        seen += ["sms", sms]
    if entry.word and (entry.word, entry.at) != (message.provider_status, message.status_at):
        message.provider_status, message.status_at = entry.word, entry.at
        seen += ["providerStatus", entry.word, "statusAt", entry.at or ""]
        if entry.raw_at is not None:
            seen += ["statusAtRaw", entry.raw_at]
    if entry.code and entry.code != message.provider_code:
        message.provider_code = entry.code
        seen += ["providerCode", entry.code]
    return seen


def sms_states(message: Watched) -> list[SmsState]:
    """The SMS segments as last seen."""
    return [SmsState(*each) for each in json.loads(message.sms or "[]")]


def _closes(message: Watched, settings: Settings) -> int:
    """When the clock closes a message, if nothing else does: microseconds."""
    if message.status == Status.DELIVERED:
        return min(message.since + int(settings.read_window * SECOND), message.tracked)
    if message.fault and message.status in (Status.SUBMITTED, Status.SENT):
        return min(message.since + int(settings.sms_grace * SECOND), message.tracked)
    return message.tracked


def _closed_by_clock(
    message: Watched, now: int, settings: Settings
) -> tuple[Status, str | None] | None:
    return _last_word(message) if now >= _closes(message, settings) else None


def _last_word(message: Watched) -> tuple[Status, str | None]:
    if message.fault and message.status in (Status.SUBMITTED, Status.SENT):
        status, _, reason = message.fault.partition(" ")
        return Status(status), reason or None
    if message.status == Status.DELIVERED:
        return message.status, None
    if message.status == Status.SENT:
        return message.status, Reason.TRACKING_ENDED
    return Status.LOST, Reason.TRACKING_ENDED


def _next_poll(message: Watched, now: int, delay: float, settings: Settings) -> int:
    at = now + int(delay * SECOND)
    soon = now + int(settings.poll_delays[0] * SECOND)
    for end in (_closes(message, settings), message.submitted + TRACKING_MOST * SECOND):
        # What is past its end only waits for one more answer.
        at = min(at, end if end > now else soon)
    return at - at % 4 + 4


def _end(status: Status, reason: str | None, fields: Sequence[str | int]) -> Step:
    said = (*fields, "reason", reason) if reason else tuple(fields)
    return Step("end", status=status, reason=reason, fields=said)

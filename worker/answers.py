"""Turns the provider's answers into outcomes (docs/design.md, section 5). Pure functions."""

import re
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

from viber_courier.schemas import wire
from viber_courier.schemas.wire import Reply, SendEntry, StatusEntry
from viber_courier.store.counters import Oddity
from viber_courier.worker.codes import (
    AUTH,
    OK,
    OUR_FAULTS,
    REQUEST_REFUSALS,
    SYSTEM,
    canonical,
    is_known,
)
from viber_courier.worker.outcome import (
    Accepted,
    Blocked,
    NotSent,
    Outcome,
    Refused,
    RequestRefused,
    Retryable,
    Statuses,
    StatusOutcome,
    Unsure,
)


@dataclass(frozen=True, slots=True)
class Answer:
    """A complete HTTP answer."""

    http: int
    body: bytes
    retry_after: str | None = None
    date: str | None = None


def read_send_answer(answer: Answer, count: int) -> list[Outcome]:
    """Returns what an answer to /send means for each message; the first rule that fits decides."""
    reply = wire.read_send(answer.body)
    if reply.entries and len(reply.entries) == count:
        return _entries(reply.entries)
    return [_whole_send(answer, reply)] * count


def _whole_send(answer: Answer, reply: Reply[SendEntry]) -> Outcome:
    if reply.entries:
        return Unsure("wrong-count", odd=True)
    code = canonical(reply.status or "")
    if code == OK:
        return Unsure("no-entries", odd=True)
    return _by_code(code) if code.startswith("error-") else _by_http(answer)


def _by_code(code: str) -> Blocked | RequestRefused | Retryable:
    """Returns what a code means for the whole request."""
    if code in AUTH:
        return Blocked(code)
    if code in REQUEST_REFUSALS or re.fullmatch("error-instant-message-.*-format", code):
        return RequestRefused(code)
    return Retryable(code, whole=True)


def _entries(entries: Sequence[SendEntry]) -> list[Outcome]:
    times = Counter(entry.provider_id for entry in entries)
    del times[None]
    return [_entry(entry, times[entry.provider_id] > 1) for entry in entries]


def _entry(entry: SendEntry, twice: bool) -> Outcome:
    code = canonical(entry.code) if entry.code else ""
    if code == OK and not twice:
        return Accepted(entry.provider_id)
    if not code.startswith("error-") or entry.provider_id is not None:
        return Unsure("entry", odd=True)
    if code == SYSTEM:
        return Retryable(code)
    return Blocked(code) if code in AUTH else Refused(code)


def _by_http(answer: Answer) -> Retryable | NotSent | Blocked | RequestRefused | Unsure:
    http, code = answer.http, f"http-{answer.http}"
    if http in (408, 429, 503):
        return NotSent(code, retry_after(answer.retry_after, _moment(answer.date or "")))
    if http in (400, 413, 422):
        return RequestRefused(code)
    if 300 <= http < 500:
        return Blocked(code)
    return Unsure(code, odd=http < 300)


def read_status_answer(answer: Answer) -> StatusOutcome:
    """Returns what an answer to /status means; entries count whatever the HTTP code says."""
    reply = wire.read_status(answer.body)
    code = canonical(reply.status or "")
    if reply.entries or (reply.entries is not None and code == OK):
        found = _by_id(reply.entries)
        contradicted = {entry.provider_id for entry in reply.entries} - found.keys()
        return Statuses(found, reply.unread + len(contradicted))
    if code.startswith("error-"):
        return _by_code(code)
    outcome = Unsure("no-entries") if code == OK else _by_http(answer)
    return Retryable(outcome.why, whole=True) if isinstance(outcome, Unsure) else outcome


def _by_id(entries: Sequence[StatusEntry]) -> dict[int, StatusEntry]:
    """Returns the entries by id, without ids whose entries contradict each other: one of them may
    belong to another message, and an event can't be taken back."""
    found: dict[int, StatusEntry] = {}
    contradicted = {e.provider_id for e in entries if found.setdefault(e.provider_id, e) != e}
    return {id: entry for id, entry in found.items() if id not in contradicted}


def oddity(entry: StatusEntry) -> str | None:
    """Returns the counter of an entry that should never come, or None."""
    if entry.unread:
        return Oddity.UNREADABLE
    if (entry.word is not None and entry.status is None) or not wire.is_known_sms(entry.sms):
        return Oddity.UNKNOWN_STATE
    code = canonical(entry.code) if entry.code else OK
    if entry.status is None and (not is_known(code) or code in OUR_FAULTS):
        return Oddity.STATUS_FAULT
    return None


def oddities(outcome: StatusOutcome, asked: Collection[int]) -> Counter[str]:
    """Returns the counters of what should never come in an answer to /status about these ids."""
    odd = Counter[str]()
    if isinstance(outcome, Statuses):
        found = [oddity(entry) for id, entry in outcome.entries.items() if id in asked]
        odd.update(each for each in found if each)
        odd[Oddity.UNREADABLE] += outcome.unread
        odd[Oddity.STRANGERS] += len(outcome.entries.keys() - asked)
    return +odd


def is_silent(outcome: StatusOutcome, asked: Collection[int]) -> bool:
    """Returns whether an answered /status has no known state for any of these ids."""
    if not isinstance(outcome, Statuses):
        return isinstance(outcome, RequestRefused)
    return not any((e := outcome.entries.get(id)) and (e.status or e.sms) for id in asked)


def retry_after(value: str | None, now: datetime | None = None) -> float | None:
    """Returns the seconds of a Retry-After header (RFC 9110, 10.2.3); None if missing or bad.

    A date counts from ``now``, the reply's own Date; from this machine's clock if it has none.
    """
    if value is None:
        return None
    value = value.strip()
    if value.isascii() and value.isdigit():
        return float(value[:12])
    try:
        until = _moment(value)
        if until is None:
            return None
        return max(0.0, (until - (now or datetime.now(UTC))).total_seconds())
    except OverflowError:
        return None


def _moment(text: str) -> datetime | None:
    try:
        moment = parsedate_to_datetime(text)
        return moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    except (ValueError, TypeError, OverflowError):
        return None

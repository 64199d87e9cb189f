"""The result event: CloudEvents 1.0, JSON, one for each change of a message's status."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from schemas.status import Status

SOURCE = "viber-courier"

_TAIL = (
    '","source":%s,"type":"viber.message.%s","subject":%s,"time":"%s"'
    ',"datacontenttype":"application/json","data":{"messageId":%s,"status":"%s","final":%s'
    ',"reason":%s,"providerId":%s,"providerStatus":%s,"providerCode":%s,"statusAt":%s'
    ',"attempts":%d,"unsure":%d,"sms":%s,"metadata":%s%s}}'
)
"""The most frequent text there is: filled in, it takes a third of an encoder's time."""
_ENCODE = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode


@dataclass(frozen=True, slots=True)
class SmsState:
    """One SMS segment: the SMS centre's id and its state as the provider spelled it."""

    id: int | None
    state: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """What an event tells of a message; ``status_at`` is ISO 8601, or the provider's raw text."""

    message_id: str
    status: Status
    final: bool
    reason: str | None = None
    provider_id: int | None = None
    provider_status: str | None = None
    provider_code: str | None = None
    status_at: str | None = None
    attempts: int = 0
    unsure: int = 0
    sms: Sequence[SmsState] = ()
    metadata: Mapping[str, Any] | None = None
    more: Mapping[str, Any] | None = None


def render(change: Change, namespace: str, now: float) -> tuple[str, str]:
    """The event's JSON in two parts; between them belongs its number within the message.

    The script that writes the status fills it in, so numbers have no gaps. ``now`` is the wall
    clock in seconds. Provider ids become strings: they exceed 2^53, JavaScript's exact integers.
    """
    id, status, more = _json(change.message_id), change.status, change.more
    sms = [{"id": _text(s.id), "state": s.state} for s in change.sms]
    tail = _TAIL % (
        *(_json(f"{SOURCE}/{namespace}"), status, id, instant(now)),
        *(id, status, "true" if change.final else "false", _json(change.reason)),
        *(_json(_text(change.provider_id)), _json(change.provider_status)),
        *(_json(change.provider_code), _json(change.status_at), change.attempts, change.unsure),
        *(_json(sms) if sms else "[]", _json(change.metadata) if change.metadata else "{}"),
        "," + _json(more)[1:-1] if more else "",
    )
    return f'{{"specversion":"1.0","id":{id[:-1]}:', tail


def resent(of: str | None) -> dict[str, str] | None:
    """What every event tells of a message that is another one sent again (Change.more)."""
    return {"resendOf": of} if of else None


def instant(seconds: float) -> str:
    """Seconds since 1970 as ISO 8601 in UTC, to the millisecond."""
    stamp = datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds")
    return stamp.replace("+00:00", "Z")


def _json(value: object) -> str:
    return "null" if value is None else _ENCODE(value)


def _text(number: int | None) -> str | None:
    return None if number is None else str(number)

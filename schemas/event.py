"""Result events: CloudEvents 1.0 in JSON, one for each change of a message's status."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from viber_courier.schemas.instants import iso
from viber_courier.schemas.status import Status

SOURCE = "viber-courier"

Draft = tuple[str, str, str, str, str]
"""An event's JSON in five parts, without what differs between the messages of a batch.

The script that writes the status joins the parts with the event's id (``<id>:<n>``), the message's
id twice, and the provider's id. So a batch shares one draft, and the numbers have no gaps.
"""

_TO_ID = '{"specversion":"1.0","id":"'
_TO_SUBJECT = '","source":%s,"type":"viber.message.%s","subject":"'
_TO_MESSAGE = '","time":"%s","datacontenttype":"application/json","data":{"messageId":"'
_TO_PROVIDER = '","status":"%s","final":%s,"reason":%s,"providerId":'
_TO_END = (
    ',"providerStatus":%s,"providerCode":%s,"statusAt":%s'
    ',"attempts":%s,"unsure":%s,"sms":%s,"metadata":%s%s}}'
)
_ENCODE = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode


@dataclass(frozen=True, slots=True)
class SmsState:
    """One SMS segment: the SMS centre's id, and its state as the provider spells it."""

    id: str | None
    state: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """The data of an event, without its ids. ``status_at`` is ISO 8601."""

    status: Status
    final: bool
    reason: str | None = None
    provider_status: str | None = None
    provider_code: str | None = None
    status_at: str | None = None
    attempts: int = 0
    unsure: int = 0
    sms: Sequence[SmsState] = ()
    metadata: Mapping[str, Any] | None = None
    more: Mapping[str, Any] | None = None


RESENT = (',"resendOf":"', '"')
"""What is before and after the id in what ``resent`` adds to an event."""
_HOLE = "\0"
"""Where a script fills in a value: no JSON has it."""


def render(change: Change, namespace: str, now: float) -> Draft:
    """Returns the draft of a change's event, for every message that has the same change.

    ``now`` is the wall clock, in seconds since 1970.
    """
    more = "," + _json(change.more)[1:-1] if change.more else ""
    metadata = _json(change.metadata) if change.metadata else "{}"
    end = _end(change, change.attempts, change.unsure, metadata, more)
    return (*_beginning(change, namespace, now), end)


def render_open(change: Change, namespace: str, now: float) -> tuple[str, ...]:
    """Returns the same for messages that differ in attempts, unsure, metadata and ``more``.

    The last part is in five pieces, and these four come between them.
    """
    return (*_beginning(change, namespace, now), *_end(change, *[_HOLE] * 4).split(_HOLE))


def _beginning(change: Change, namespace: str, now: float) -> tuple[str, str, str, str]:
    return (
        _TO_ID,
        _TO_SUBJECT % (_json(f"{SOURCE}/{namespace}"), change.status),
        _TO_MESSAGE % iso(now),
        _TO_PROVIDER % (change.status, "true" if change.final else "false", _json(change.reason)),
    )


def _end(change: Change, *filled: object) -> str:
    attempts, unsure, metadata, more = filled
    told = (change.provider_status, change.provider_code, change.status_at)
    sms = [{"id": s.id, "state": s.state} for s in change.sms]
    filled = (attempts, unsure, _json(sms) if sms else "[]", metadata, more)
    return _TO_END % (*map(_json, told), *filled)


def provider_text(id: int | None) -> str:
    """Returns a provider's id as JSON: a string, because JavaScript's integers end at 2^53."""
    return "null" if id is None else f'"{id}"'


def resent(of: str | None) -> dict[str, str] | None:
    """Returns what the events of a dead letter sent again name beside the rest (Change.more)."""
    return {"resendOf": of} if of else None


def is_from(text: str, source: str) -> bool:
    """Returns whether an event's JSON names this source, without reading it.

    A source is the last member of ``data`` (store/lua/lib/move.lua), and a quotation mark inside a
    text is escaped: nothing else can end so.
    """
    return text.endswith(f',"source":"{source}"}}}}')


def _json(value: object) -> str:
    return "null" if value is None else _ENCODE(value)

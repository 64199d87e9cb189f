"""A stored message as values: as its app may see it, and as decisions need it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

from viber_courier.schemas.encoding import loads
from viber_courier.schemas.event import SmsState
from viber_courier.schemas.status import Status


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """A message as its app may see it; texts and phone number are not part of it.

    ``resend_of``: the dead letter that it is sent again for; ``resent_as``: the message that it was
    itself sent again as.
    """

    id: str
    status: Status
    final: bool
    reason: str | None
    attempts: int
    unsure: int
    provider_id: int | None
    provider_status: str | None
    provider_code: str | None
    status_at: str | None
    sms: tuple[SmsState, ...]
    metadata: dict[str, Any]
    resend_of: str | None
    resent_as: str | None


def seen(id: str, fields: Mapping[str, str], score: float) -> dict[str, Any]:
    """The values of a Record, by the stored fields and the score in a lane (0: it is in none)."""
    inside = score % 4 == 2
    provider_id = fields.get("provider")
    return dict(
        id=id,
        status=Status.SENDING if inside else Status(fields["status"]),
        final="final" in fields,
        reason=fields.get("reason"),
        attempts=int(fields.get("attempts", 0)) + inside,
        unsure=int(fields.get("unsure", 0)),
        provider_id=int(provider_id) if provider_id else None,
        provider_status=fields.get("providerStatus"),
        provider_code=fields.get("providerCode"),
        status_at=fields.get("statusAt"),
        sms=tuple(SmsState(*each) for each in json.loads(fields.get("sms", "[]"))),
        metadata=json.loads(fields.get("metadata", "{}")),
        resend_of=fields.get("resendOf"),
        resent_as=fields.get("resentAs"),
    )


WAITING = (
    *("until", "onUnsure", "attempts", "failures", "unsure", "lapses", "ttl"),
    *("within", "metadata", "resendOf"),
)
WATCHED = (
    *("provider", "status", "set", "submitted", "tracked", "polls", "since", "fault"),
    *("attempts", "unsure", "sms", "metadata", "providerStatus", "providerCode", "statusAt"),
    "resendOf",
)
"""Record fields that a claim returns, of messages that wait and of those that are watched."""


@dataclass(slots=True)
class Waiting:
    """A message leased from a lane, as far as decisions need it; instants in microseconds.

    ``content`` are its own wire fields, over those of its campaign, ``common``; None: gone.
    ``within``: most messages of a request with this one, where a larger one was refused (0: any).
    """

    id: str
    lane: str
    until: int
    lapsed_inside: bool = False
    lapses: int = 0
    attempts: int = 0
    failures: int = 0
    unsure: int = 0
    on_unsure: str = ""
    ttl: bool = False
    within: int = 0
    metadata: str = ""
    resend_of: str = ""
    content: dict[str, object] | None = None
    common: Mapping[str, object] = field(default_factory=dict)


class Step(NamedTuple):
    """What to write. ``status`` None: unchanged. ``at``: the next due time where it stays."""

    place: Literal["stay", "watch", "end"]
    at: int = 0
    status: Status | None = None
    reason: str | None = None
    fields: tuple[str | int, ...] = ()


@dataclass(slots=True)
class Watched:
    """An accepted message leased from the watch set; instants in microseconds."""

    id: str
    provider_id: int
    status: Status
    resend: bool
    submitted: int
    tracked: int
    polls: int = 0
    since: int = 0
    fault: str = ""
    attempts: int = 0
    unsure: int = 0
    sms: str = ""
    metadata: str = ""
    resend_of: str = ""
    provider_status: str | None = None
    provider_code: str | None = None
    status_at: str | None = None


def read_waiting(row: list[Any], lane: str, commons: Mapping[str, dict[str, Any]]) -> Waiting:
    """A message by the fields of WAITING and its campaign's content, if that is still there."""
    id, kind, own, digest, until, on_unsure, attempts, failures, unsure, lapses, ttl, *more = row
    within, metadata, resend_of = more
    common = commons.get(digest) if digest else {}
    return Waiting(
        id=id,
        lane=lane,
        until=int(until),
        lapsed_inside=kind == 2,
        lapses=int(lapses or 0),
        attempts=int(attempts or 0),
        failures=int(failures or 0),
        unsure=int(unsure or 0),
        on_unsure=on_unsure or "",
        ttl=ttl is not None,
        within=int(within or 0),
        metadata=metadata or "",
        resend_of=resend_of or "",
        content=None if own is None or common is None else unpack(own),
        common=common or {},
    )


def read_watched(row: list[Any]) -> Watched:
    given = dict(zip(WATCHED, row[4:], strict=True))
    return Watched(
        id=row[0],
        provider_id=int(given["provider"]),
        status=Status(given["status"]),
        # Sets are numbered from 1, without and with resendSms in turn.
        resend=int(given["set"]) % 2 == 0,
        submitted=int(given["submitted"]),
        tracked=int(given["tracked"]),
        polls=int(given["polls"] or 0),
        since=int(given["since"] or 0),
        fault=given["fault"] or "",
        attempts=int(given["attempts"] or 0),
        unsure=int(given["unsure"] or 0),
        sms=given["sms"] or "",
        metadata=given["metadata"] or "",
        resend_of=given["resendOf"] or "",
        provider_status=given["providerStatus"],
        provider_code=given["providerCode"],
        status_at=given["statusAt"] or None,
    )


def pack(own: str) -> str:
    """The JSON of a row's own wire fields as it is stored: the address alone where it is all."""
    return own[12:-2] if own.startswith('{"address":"') and own.count(":") == 1 else own


def unpack(text: str) -> dict[str, Any]:
    """What ``pack`` was given."""
    return loads(text) if text.startswith("{") else {"address": text}


def merge(own: Mapping[str, Any], common: Mapping[str, Any]) -> dict[str, Any]:
    """The wire fields of a stored message: its own over its campaign's ``common``."""
    merged = {**common, **own}
    if None in merged.values():  # a row may take away what the campaign has
        return {name: value for name, value in merged.items() if value is not None}
    return merged

"""A stored message as its app may see it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from schemas.event import SmsState
from schemas.status import Status


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

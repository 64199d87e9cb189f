"""What a claim brings: messages under a lease, read from their records."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from schemas.status import Status
from schemas.stored import unpack
from worker.policy import SECOND, Waiting
from worker.tracking import Watched

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

M = TypeVar("M")


@dataclass(frozen=True, slots=True)
class Later:
    """The rate limit leaves nothing now: the caller is to come back in that many ``seconds``."""

    seconds: float


@dataclass(slots=True)
class Lease(Generic[M]):
    """Messages that are ours until ``ends`` (of the local monotonic clock), under one token.

    ``more``: others are due that the caller may take next. ``dry``: and there was no token left.
    """

    key: str
    token: str
    now: int
    taken: float
    ends: float
    more: bool
    ring: bool
    dry: bool
    refused: int
    messages: list[M]

    def at(self) -> int:
        """The Redis server's clock now, in microseconds, as far as it can be known here."""
        return self.now + int((time.monotonic() - self.taken) * SECOND)

    def left(self) -> float:
        """Seconds that the lease still holds, at least."""
        return self.ends - time.monotonic()


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

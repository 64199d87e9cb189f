"""Dead letters: messages that ended badly, to be listed, looked into, sent again or dropped."""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import redis

from producers.connection import StoreUnavailable, script, store_errors
from schemas.errors import (
    ContentGone,
    DeadLetterError,
    InvalidMessage,
    NotDead,
    QueueFull,
    Unconfirmed,
)
from schemas.event import instant
from schemas.keys import Keys
from schemas.message import Job, merge, parse_job
from schemas.settings import Settings
from schemas.status import DEAD, Status

CHUNK = 500
"""Letters that one round trip looks at, sends again or drops."""
_FIELDS = (
    *("status", "reason", "attempts", "unsure", "provider", "providerCode", "metadata"),
    *("resendOf", "resentAs", "set", "ttl", "onUnsure"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class DeadLetter:
    """A message that ended badly, without its texts and phone number.

    ``ended`` is ISO 8601 by the Redis server's clock. ``has_content``: it can be looked into and
    sent again. ``resend_of``: the dead letter that it was itself sent again for.
    """

    id: str
    status: Status
    reason: str | None
    ended: str
    attempts: int
    unsure: int
    provider_id: int | None
    provider_code: str | None
    metadata: dict[str, Any]
    has_content: bool
    resend_of: str | None


@dataclass(frozen=True, slots=True)
class Resent:
    """What ``resend_many`` did: new ids by old ones, and the errors of those it left alone."""

    ids: dict[str, str] = field(default_factory=dict)
    refused: dict[str, DeadLetterError | InvalidMessage] = field(default_factory=dict)


class Again(NamedTuple):
    """A dead letter (``old``) as the message that it becomes."""

    old: str
    new: str
    job: Job


class _Found(NamedTuple):
    id: str
    score: int
    fields: dict[str, str | None]
    own: str | int | None
    common: str | int | None


class DeadLetters:
    """The list of messages that ended ``failed``, ``unconfirmed``, ``rejected`` or ``lost``.

    They stay on it until they are sent again, dropped, or COURIER_RETENTION is over. Every call can
    be repeated after a StoreUnavailable, and any number of operators may work at once.

    ``store`` stores letters as new messages, the given microseconds apart, and takes them off the
    list in the same step; it returns the new ids of those not on the list, and then did nothing.
    """

    def __init__(
        self,
        client: redis.Redis,
        settings: Settings,
        clock: Callable[[], float],
        store: Callable[[Sequence[Again], int], set[str]],
    ) -> None:
        self._clock, self._store = clock, store
        self._keys = Keys(settings.namespace)
        self._size = min(CHUNK, settings.max_queued or CHUNK)
        self._scripts = {name: script(client, "producers", name) for name in ("dead", "drop")}

    def list(self, status: str | None = None, reason: str | None = None) -> Iterator[DeadLetter]:
        """Letters on the list as it is now, in the order in which they ended, read in chunks.

        ValueError for a status that no dead letter has.
        """
        for chunk in self._chunks(status, reason):
            yield from map(_letter, chunk)

    def job(self, id: str) -> dict[str, Any]:
        """What was asked for, without ``id`` and ``sendAt``. NotDead, ContentGone."""
        return _job(self._one(id))

    def resend(self, id: str, unconfirmed: bool = False) -> str:
        """Send one again, at once; the id of the new message, also when repeated.

        One that ended ``unconfirmed`` may have been sent already: only with ``unconfirmed``. Raises
        NotDead, Unconfirmed, ContentGone, or as ``enqueue`` does; then nothing was done.
        """
        found = self._look(id)
        if found and not found.score and found.fields["resentAs"]:
            return found.fields["resentAs"]
        again = self._again(_on_list(id, found), unconfirmed)
        if self._store([again], 0):
            raise NotDead(id, "has just left the list of dead letters")
        return again.new

    def resend_many(
        self,
        status: str | None = None,
        reason: str | None = None,
        rate: float = 10.0,
        unconfirmed: bool = False,
    ) -> Resent:
        """Send again what is on the list now, ``rate`` messages a second.

        Their due times are spread, going on where anybody's last call ends, so this returns at
        once. Letters that can't be sent again are left alone. QueueFull and StoreUnavailable carry
        ``.accepted``, the new ids so far; the next call goes on there.
        """
        if not rate > 0:
            raise ValueError("rate must be above 0")
        done = Resent()
        try:
            for chunk in self._chunks(status, reason, contents=True):
                rows = []
                for found in chunk:
                    try:
                        rows.append(self._again(found, unconfirmed))
                    except (DeadLetterError, InvalidMessage) as error:
                        done.refused[found.id] = error
                while gone := self._store(rows, round(1e6 / rate)):  # others work here, too
                    rows = [row for row in rows if row.new not in gone]
                done.ids.update((row.old, row.new) for row in rows)
        except (QueueFull, StoreUnavailable) as error:
            error.accepted = [*done.ids.values()]
            raise
        return done

    def drop(self, id: str) -> None:
        """Take one off the list and erase its phone number and texts; the record stays.

        Raises NotDead, but not for one that was dropped already.
        """
        found = self._look(id)
        if found and not found.score and _dropped(found):
            return
        self._drop([_on_list(id, found)])

    def drop_many(self, status: str | None = None, reason: str | None = None) -> int:
        """Drop what is on the list now; how many that were."""
        return sum(self._drop(chunk) for chunk in self._chunks(status, reason))

    def _drop(self, chunk: Sequence[_Found]) -> int:
        keys, ids = self._keys, [found.id for found in chunk]
        with store_errors():
            return int(
                self._scripts["drop"](keys=[keys.dead], args=[keys.record, keys.content, *ids])
            )

    def _again(self, found: _Found, unconfirmed: bool) -> Again:
        if found.fields["status"] == Status.UNCONFIRMED and not unconfirmed:
            raise Unconfirmed(found.id)
        # Its end is part of the new id: after COURIER_RETENTION an app may use an id again.
        new = str(uuid.uuid5(uuid.NAMESPACE_OID, f"{found.id}@{found.score}"))
        return Again(found.id, new, parse_job(_job(found), self._clock()))

    def _one(self, id: str) -> _Found:
        return _on_list(id, self._look(id))

    def _look(self, id: str) -> _Found | None:
        found = self._call(id, 0, None, None, contents=True)[2]
        return found[0] if found else None

    def _chunks(
        self, status: str | None, reason: str | None, contents: bool = False
    ) -> Iterator[Sequence[_Found]]:
        if status is not None and status not in DEAD:
            raise ValueError(f"no dead letter has this status, only: {', '.join(sorted(DEAD))}")
        end, after, found = self._call("", 0, status, reason, contents)
        while after:
            if chunk := [each for each in found if 0 < each.score <= end]:
                yield chunk
            if after >= end:
                return
            _, after, found = self._call("", after, status, reason, contents)

    def _call(
        self, id: str, after: int, status: str | None, reason: str | None, contents: bool
    ) -> tuple[int, int, Sequence[_Found]]:
        keys = self._keys
        with store_errors():
            end, last, members, commons = self._scripts["dead"](
                keys=[keys.dead],
                args=[
                    *(id, after, self._size, status or "", reason or ""),
                    *(keys.record, keys.content, keys.common),
                    *("GET" if contents else "EXISTS", *_FIELDS),
                ],
            )
        shared = {None: "", **dict(zip(commons[::2], commons[1::2], strict=True))}
        found = []
        for id, score, own, (common, *values) in members:
            # One still listed whose record has expired may be another message by now.
            listed = int(score) if values[0] in DEAD else 0
            fields = dict(zip(_FIELDS, values, strict=True))
            found.append(_Found(id, listed, fields, own, shared[common]))
        return int(end), int(last), found


def _on_list(id: str, found: _Found | None) -> _Found:
    if found is None:
        raise NotDead(id, "is unknown")
    if found.score:
        return found
    if new := found.fields["resentAs"]:
        raise NotDead(id, f"was sent again as {new!r}")
    was = "was dropped, it had ended as" if _dropped(found) else "is no dead letter but"
    raise NotDead(id, f"{was} {found.fields['status']}")


def _dropped(found: _Found) -> bool:
    return found.fields["status"] in DEAD and not found.fields["resentAs"]


def _has_content(found: _Found) -> bool:
    return bool(found.own) and found.common not in (None, 0)


def _job(found: _Found) -> dict[str, Any]:
    if not _has_content(found):
        raise ContentGone(found.id)
    fields, options = found.fields, dict[str, Any]()
    # Sets are numbered from 1, without and with resendSms in turn.
    options["resendSms"] = int(fields["set"] or 0) % 2 == 0
    if fields["ttl"]:
        options["ttlSec"] = int(fields["ttl"])
    if fields["onUnsure"]:
        options["onUnsure"] = fields["onUnsure"]
    if fields["metadata"]:
        options["metadata"] = json.loads(fields["metadata"])
    return {**merge(str(found.own), str(found.common)), **options}


def _letter(found: _Found) -> DeadLetter:
    fields = found.fields
    return DeadLetter(
        id=found.id,
        status=Status(fields["status"] or ""),
        reason=fields["reason"],
        ended=instant(found.score / 1e6),
        attempts=int(fields["attempts"] or 0),
        unsure=int(fields["unsure"] or 0),
        provider_id=int(fields["provider"]) if fields["provider"] else None,
        provider_code=fields["providerCode"],
        metadata=json.loads(fields["metadata"] or "{}"),
        has_content=_has_content(found),
        resend_of=fields["resendOf"],
    )

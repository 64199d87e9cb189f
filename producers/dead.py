"""Dead letters: messages that ended badly, which you can list, read, send again or drop."""

import json
import uuid
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from viber_courier.producers.namespace import Namespace
from viber_courier.producers.rows import Clashes
from viber_courier.schemas.errors import (
    CampaignCancelled,
    ContentGone,
    DeadLetterError,
    EnqueueError,
    InvalidMessage,
    NotDead,
    Unconfirmed,
)
from viber_courier.schemas.instants import iso
from viber_courier.schemas.message import MAX_AHEAD, Job, parse_job, require_in_time
from viber_courier.schemas.status import DEAD, Reason, Status
from viber_courier.store.connection import require_name
from viber_courier.store.records import (
    DEAD_LETTER,
    Record,
    job_options,
    merge,
    record_values,
    unpack,
)
from viber_courier.store.replies import iterate, run

CHUNK_LETTERS = 500
"""Letters that one round trip reads, sends again or drops."""
Letter = tuple[str, str, Job]
"""A letter to send again: its id, the new message's id, and the job."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DeadLetter(Record):
    """The record of a message that ended badly, without its texts and phone number.

    ``ended`` is ISO 8601 by the Redis server's clock. ``has_content``: it can be read and sent
    again.
    """

    ended: str
    has_content: bool


@dataclass(frozen=True, slots=True)
class Resent:
    """What ``resend_many`` did: the new ids by the old ones, and the error of each it refused."""

    ids: dict[str, str] = field(default_factory=dict)
    refused: dict[str, DeadLetterError | EnqueueError] = field(default_factory=dict)


class _Found(NamedTuple):
    """A letter as read. ``score`` 0: not on the list. ``own``, ``common``: contents, or flags."""

    id: str
    score: int
    fields: dict[str, str]
    own: str | int | None
    common: str | int | None


class AsyncDeadLetters:
    """The list of dead letters for asyncio, and its rules for both; DeadLetters describes them.

    ``store`` stores letters as new messages, so many microseconds apart, and removes them from the
    list in the same step. If some are not on the list, or their campaign was cancelled, it returns
    an error for each of their new ids and does nothing.
    """

    def __init__(
        self, namespace: Namespace, store: Callable[[list[Letter], int], Awaitable[Clashes]]
    ) -> None:
        self._namespace, self._store = namespace, store
        self._scripts = {name: namespace.script(name) for name in ("dead", "drop")}
        self._glance = namespace.script("dead", waits=False)

    async def list(
        self, status: str | None = None, reason: str | None = None
    ) -> AsyncGenerator[DeadLetter, None]:
        async for chunk in self._chunks(status, reason):
            for found in chunk:
                ended, has_content = iso(found.score / 1e6), _has_content(found)
                values = record_values(found.id, found.fields, 0)
                yield DeadLetter(**values, ended=ended, has_content=has_content)

    async def job(self, id: str) -> dict[str, Any]:
        return _job(await self._look(id))

    async def resend(self, id: str, unconfirmed: bool = False) -> str:
        found = await self._look(id)
        if "resentAs" in found.fields:
            return found.fields["resentAs"]
        letter = self._letter(found, unconfirmed)
        for error in (await self._store([letter], 0)).values():
            if isinstance(error, CampaignCancelled):
                raise error
            raise NotDead(id, "has just left the list of dead letters")
        return letter[1]

    async def resend_many(
        self,
        status: str | None = None,
        reason: str | None = None,
        rate: float = 10.0,
        unconfirmed: bool = False,
    ) -> Resent:
        namespace = self._namespace
        listed = await namespace.ask(namespace.client.zcard, namespace.keys.dead)
        if not (rate > 0 and max(1, listed) / rate <= MAX_AHEAD.total_seconds()):
            least = max(1, listed) / MAX_AHEAD.total_seconds()
            raise ValueError(f"rate must be at least {least:.2g}: none is sent in over a year")
        resent = Resent()
        async for chunk in self._chunks(status, reason, "GET"):
            letters = []
            for found in chunk:
                try:
                    letters.append(self._letter(found, unconfirmed))
                except (DeadLetterError, InvalidMessage) as error:
                    resent.refused[found.id] = error
            # Other operators may take some.
            while gone := await self._store(letters, round(1e6 / rate)):
                for old, new, _ in letters:
                    if isinstance(why := gone.get(new), CampaignCancelled):
                        resent.refused[old] = why
                letters = [letter for letter in letters if letter[1] not in gone]
            resent.ids.update((old, new) for old, new, _ in letters)
        return resent

    async def drop(self, id: str) -> None:
        found = await self._look(id)
        if not _is_dropped(found):
            await self._drop([_require_listed(found)])

    async def drop_many(self, status: str | None = None, reason: str | None = None) -> int:
        return sum([await self._drop(chunk) async for chunk in self._chunks(status, reason)])

    async def _drop(self, chunk: Sequence[_Found]) -> int:
        ids = [found.id for found in chunk]
        dropped: int = await self._namespace.ask(self._scripts["drop"], ids=ids)
        return dropped

    def _letter(self, found: _Found, unconfirmed: bool) -> Letter:
        end = _require_listed(found).fields
        sent = end["status"] == Status.UNCONFIRMED or end.get("reason") == Reason.NO_PROVIDER_ID
        if sent and not unconfirmed:
            raise Unconfirmed(found.id)
        # The new id includes the score: an app may use the same id again after COURIER_RETENTION.
        new = str(uuid.uuid5(uuid.NAMESPACE_OID, f"{found.id}@{found.score}"))
        return found.id, new, require_in_time(parse_job(_job(found), self._namespace.clock()))

    async def _look(self, id: str) -> _Found:
        found = (await self._call(require_name("id", id), 0, "", "", "GET"))[2]
        if not found:
            raise NotDead(id, "is unknown")
        return found[0]

    async def _chunks(
        self, status: str | None, reason: str | None, contents: str = "EXISTS"
    ) -> AsyncGenerator[Sequence[_Found], None]:
        if status is not None and status not in DEAD:
            raise ValueError(f"no dead letter has this status, only: {', '.join(sorted(DEAD))}")
        after, end = 0, None
        while end is None or after < end:
            last, after, found = await self._call("", after, status or "", reason or "", contents)
            end = last if end is None else end  # letters added meanwhile are left for the next call
            if chunk := [each for each in found if 0 < each.score <= end]:
                yield chunk
            after = after or end

    async def _call(
        self, id: str, after: int, status: str, reason: str, contents: str
    ) -> tuple[int, int, Sequence[_Found]]:
        found = list[_Found]()
        # Who reads contents acts on what is found: an earlier call may have done it, and raised.
        read = self._scripts["dead"] if contents == "GET" else self._glance
        end, last, members, commons = await self._namespace.ask(
            read,
            id=id,
            after=after,
            most=CHUNK_LETTERS,
            first=status,
            second=reason,
            ask=contents,
            fields=DEAD_LETTER,
        )
        shared = {None: "", **dict(zip(commons[::2], commons[1::2], strict=True))}
        for id, score, own, (common, *values) in members:
            fields = {k: v for k, v in zip(DEAD_LETTER, values, strict=True) if v is not None}
            # The id of a listed letter whose record has expired may be a newer message's.
            listed = int(score) if fields["status"] in DEAD else 0
            found.append(_Found(id, listed, fields, own, shared[common]))
        return int(end), int(last), found


class DeadLetters:
    """The list of messages that ended ``failed``, ``unconfirmed``, ``rejected`` or ``lost``.

    They stay on it until you send them again or drop them, or COURIER_RETENTION is over. You can
    repeat every call after a StoreUnavailable, and several operators may work at once.
    """

    def __init__(self, letters: AsyncDeadLetters) -> None:
        self._letters = letters

    def list(self, status: str | None = None, reason: str | None = None) -> Iterator[DeadLetter]:
        """Yields the letters that are on the list now, in the order in which they ended.

        Raises ValueError for a status that no dead letter has.
        """
        return iterate(self._letters.list(status, reason))

    def job(self, id: str) -> dict[str, Any]:
        """Returns a letter's job, without ``id`` and ``sendAt``. Raises NotDead, ContentGone."""
        return run(self._letters.job(id))

    def resend(self, id: str, unconfirmed: bool = False) -> str:
        """Sends a letter again, at once; returns the new message's id, also when repeated.

        A letter that ended ``unconfirmed`` may have been sent already, one with ``no-provider-id``
        was: they need ``unconfirmed``.
        Raises NotDead, Unconfirmed, ContentGone, or what ``enqueue`` raises; then nothing is done.
        """
        return run(self._letters.resend(id, unconfirmed))

    def resend_many(
        self,
        status: str | None = None,
        reason: str | None = None,
        rate: float = 10.0,
        unconfirmed: bool = False,
    ) -> Resent:
        """Sends the letters that are on the list now again, ``rate`` a second.

        Returns at once: the due times are spread, after those of all earlier calls. Letters that
        can't be sent again stay on the list. After QueueFull or StoreUnavailable, call again for
        the rest.
        """
        return run(self._letters.resend_many(status, reason, rate, unconfirmed))

    def drop(self, id: str) -> None:
        """Removes a letter from the list and erases its phone number and texts; keeps its record.

        Raises NotDead, but not for a letter that was dropped before.
        """
        run(self._letters.drop(id))

    def drop_many(self, status: str | None = None, reason: str | None = None) -> int:
        """Drops the letters that are on the list now; returns how many."""
        return run(self._letters.drop_many(status, reason))


def _require_listed(found: _Found) -> _Found:
    if found.score:
        return found
    if new := found.fields.get("resentAs"):
        raise NotDead(found.id, f"was sent again as {new!r}")
    was = "was dropped, it had ended as" if _is_dropped(found) else "is no dead letter but"
    raise NotDead(found.id, f"{was} {found.fields['status']}")


def _is_dropped(found: _Found) -> bool:
    dead = found.fields["status"] in DEAD and "resentAs" not in found.fields
    return dead and not found.score


def _has_content(found: _Found) -> bool:
    return bool(found.own) and found.common not in (None, 0)


def _job(found: _Found) -> dict[str, Any]:
    if not _has_content(_require_listed(found)):
        raise ContentGone(found.id)
    common = json.loads(str(found.common)) if found.common else {}
    return {**merge(unpack(str(found.own)), common), **job_options(found.fields)}

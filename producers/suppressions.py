"""Suppressions: the numbers that get no messages of the lanes ``normal`` and ``low``."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import islice
from typing import Any

from marshmallow import ValidationError

from viber_courier.schemas.errors import ConfigError, InvalidMessage
from viber_courier.schemas.fields import JOB, micros, rules
from viber_courier.schemas.settings import Settings
from viber_courier.schemas.suppression import NumberHash, number_hash
from viber_courier.store.connection import StoreUnavailable, store_errors
from viber_courier.store.keys import Keys
from viber_courier.store.refusals import OTHER_KEY
from viber_courier.store.replicas import kept
from viber_courier.store.replies import Link, iterate, reply, run
from viber_courier.store.scripts import shared
from viber_courier.store.suppressions import ADDED, REMOVED, Entry

CHUNK_NUMBERS = 500
"""Numbers that one round trip reads or changes."""
MOST_REASON = 64
"""Most characters of a reason."""
_address = rules(JOB)["address"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Suppression:
    """A suppressed number, as the hash that stands for it. ``until`` None: for good."""

    hash: str
    reason: str
    since: datetime
    until: datetime | None


class AsyncSuppressions:
    """The list of suppressed numbers for asyncio, and its rules for both; Suppressions has more."""

    def __init__(self, link: Link, settings: Settings, clock: Callable[[], float]) -> None:
        self._client, self._clock = link.client, clock
        self._key, self._secret = Keys(settings.namespace).suppressed, settings.suppression_key
        must = kept(link.client, settings)
        self._script = link.script(link.client, "suppress", shared(settings), must)

    @property
    def fingerprint(self) -> str:
        return self._numbers().fingerprint

    async def add(self, phone: str, reason: str, until: datetime | None = None) -> bool:
        return await self.add_many([phone], reason, until) > 0

    async def add_many(
        self, phones: Iterable[str], reason: str, until: datetime | None = None
    ) -> int:
        if not (1 <= len(reason) <= MOST_REASON and reason.isprintable()):
            raise ValueError(f"reason must have 1 to {MOST_REASON} printable characters")
        end = _millis(until) if until else 0
        return await self._change(
            (Entry(hash, end, None, reason) for hash in self._hashes(phones)), ADDED
        )

    async def remove(self, phone: str) -> bool:
        return await self.remove_many([phone]) > 0

    async def remove_many(self, phones: Iterable[str]) -> int:
        return await self._change(map(Entry, self._hashes(phones)), REMOVED)

    async def get(self, phone: str) -> Suppression | None:
        return (await self._look([*self._hashes([phone])]))[0]

    async def among(self, phones: Iterable[str]) -> Sequence[str]:
        phones = tuple(phones)
        hashes, found = tuple(self._hashes(phones)), tuple[Suppression | None, ...]()
        for start in range(0, len(hashes), CHUNK_NUMBERS):
            found += await self._look(hashes[start : start + CHUNK_NUMBERS])
        return tuple(phone for phone, entry in zip(phones, found, strict=True) if entry)

    async def list(self) -> AsyncGenerator[Suppression, None]:
        await self._look([])
        cursor: Any = None
        while cursor != 0:
            with store_errors(self._client):
                given = self._client.hscan(self._key, cursor or 0, count=CHUNK_NUMBERS)
                cursor, found = await reply(given)
            cursor = int(cursor)
            for hash, text in found.items():
                if hash != "key" and (entry := self._read(hash, text)):
                    yield entry

    async def import_(self, entries: Iterable[Suppression], fingerprint: str) -> int:
        if fingerprint != self.fingerprint:
            raise ValueError(OTHER_KEY.format(fingerprint, self.fingerprint))
        return await self._change(
            (
                Entry(e.hash, _millis(e.until) if e.until else 0, _millis(e.since), e.reason)
                for e in entries
            ),
            ADDED,
            keeps=True,
        )

    async def _change(self, entries: Iterator[Entry], count: str, keeps: bool = False) -> int:
        changed = 0
        while chunk := tuple(islice(entries, CHUNK_NUMBERS)):
            flat = [value for entry in chunk for value in entry]
            with store_errors(self._client):
                changed += await reply(self._script(keeps=keeps, count=count, entries=flat))
        return changed

    async def _look(self, hashes: Sequence[str]) -> tuple[Suppression | None, ...]:
        with store_errors(self._client):
            key, *found = await reply(self._client.hmget(self._key, "key", *hashes))
        if key not in (None, self.fingerprint):
            raise StoreUnavailable(OTHER_KEY.format(key, self.fingerprint))
        return tuple(t and self._read(hash, t) for hash, t in zip(hashes, found, strict=True))

    def _read(self, hash: str, text: str) -> Suppression | None:
        """Returns an entry of the list; None if it is over."""
        until, since, reason = text.split(" ", 2)
        if 0 < int(until) <= self._clock() * 1000:
            return None
        end = _moment(until) if int(until) else None
        return Suppression(hash=hash, reason=reason, since=_moment(since), until=end)

    def _numbers(self) -> NumberHash:
        if found := number_hash(self._secret):
            return found
        raise ConfigError({"COURIER_SUPPRESSION_KEY": "must be set for suppressions"})

    def _hashes(self, phones: Iterable[str]) -> Iterator[str]:
        numbers = self._numbers()
        for row, phone in enumerate(phones):
            try:
                yield numbers.of(_address(phone))
            except ValidationError as wrong:
                error = InvalidMessage({"address": [str(text) for text in wrong.messages]})
                error.row = row
                raise error from None


class Suppressions:
    """Numbers that get no messages of the lanes ``normal`` and ``low``, unless a job ignores it.

    Such a message ends ``rejected`` for the reason ``suppressed``, also if it waits already. Redis
    keeps hashes of the numbers only, made with COURIER_SUPPRESSION_KEY; methods raise ConfigError
    without one, and StoreUnavailable if the list was made with another. Numbers are written as a
    job's ``address``; methods raise InvalidMessage with ``row`` for any other. You can repeat every
    call.
    """

    def __init__(self, rules: AsyncSuppressions) -> None:
        self._rules = rules

    @property
    def fingerprint(self) -> str:
        """Returns what tells keys apart: ``import_`` takes entries of the same key only."""
        return self._rules.fingerprint

    def add(self, phone: str, reason: str, until: datetime | None = None) -> bool:
        """Suppresses a number until then, or for good; returns whether it wasn't before.

        A number that is suppressed already gets the new reason and end.
        """
        return run(self._rules.add(phone, reason, until))

    def add_many(self, phones: Iterable[str], reason: str, until: datetime | None = None) -> int:
        """Suppresses numbers; returns how many weren't before."""
        return run(self._rules.add_many(phones, reason, until))

    def remove(self, phone: str) -> bool:
        """Lets a number get messages again; returns whether it was suppressed."""
        return run(self._rules.remove(phone))

    def remove_many(self, phones: Iterable[str]) -> int:
        """Lets numbers get messages again; returns how many were suppressed."""
        return run(self._rules.remove_many(phones))

    def get(self, phone: str) -> Suppression | None:
        """Returns why and until when a number is suppressed; None if it isn't."""
        return run(self._rules.get(phone))

    def among(self, phones: Iterable[str]) -> Sequence[str]:
        """Returns those of the numbers that are suppressed."""
        return run(self._rules.among(phones))

    def __contains__(self, phone: str) -> bool:
        return self.get(phone) is not None

    def list(self) -> Iterator[Suppression]:
        """Yields the suppressed numbers, as hashes and in no order."""
        return iterate(self._rules.list())

    def import_(self, entries: Iterable[Suppression], fingerprint: str) -> int:
        """Adds entries of ``list()``; returns how many numbers weren't suppressed before.

        An entry of this list that holds as long stays. Raises ValueError if the entries were made
        with the key of another ``fingerprint``.
        """
        return run(self._rules.import_(entries, fingerprint))


def _millis(moment: datetime) -> int:
    if moment.tzinfo is None:
        raise ValueError("a datetime must have a zone")
    return micros(moment) // 1000


def _moment(ms: str) -> datetime:
    return datetime.fromtimestamp(int(ms) / 1000, UTC)

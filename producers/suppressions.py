"""Suppressions: the numbers that get no messages of the lanes ``normal`` and ``low``."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import islice
from typing import Any

from marshmallow import ValidationError

from viber_courier.producers.namespace import Namespace
from viber_courier.schemas.errors import ConfigError, InvalidMessage
from viber_courier.schemas.fields import JOB, rules
from viber_courier.schemas.instants import iso
from viber_courier.schemas.message import parse_address
from viber_courier.schemas.suppression import NumberHash, number_hash
from viber_courier.store.connection import StoreUnavailable
from viber_courier.store.refusals import OTHER_KEY
from viber_courier.store.replies import iterate, run
from viber_courier.store.suppressions import ADDED, REMOVED, Entry, flat

CHUNK_NUMBERS = 500
"""Numbers that one round trip reads or changes."""
MOST_REASON = 64
"""Most characters of a reason."""
_instant = rules(JOB)["sendAt"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Suppression:
    """A suppressed number, as the hash that stands for it; ``key`` is the fingerprint of its key.

    Instants are ISO 8601. ``until`` None: for good.
    """

    hash: str
    key: str
    reason: str
    since: str
    until: str | None


class AsyncSuppressions:
    """The list of suppressed numbers for asyncio, and its rules for both; Suppressions has more."""

    def __init__(self, namespace: Namespace) -> None:
        self._namespace, self._list = namespace, namespace.keys.suppressed
        self._script = namespace.script("suppress")

    async def add(self, phone: str, reason: str, until: datetime | None = None) -> bool:
        return await self.add_many([phone], reason, until) > 0

    async def add_many(
        self, phones: Iterable[str], reason: str, until: datetime | None = None
    ) -> int:
        _require_reason(reason)
        end = _millis(until.isoformat()) if until else 0
        return await self._change((Entry(h, reason, end) for h in self._hashes(phones)), ADDED)

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
            at, scan = int(cursor or 0), self._namespace.client.hscan
            cursor, found = await self._namespace.ask(scan, self._list, at, count=CHUNK_NUMBERS)
            for hash, text in found.items():
                if hash != "key" and (entry := self._read(hash, text)):
                    yield entry

    async def import_(self, entries: Iterable[Suppression]) -> int:
        return await self._change(map(self._entry, entries), ADDED, keeps=True)

    async def _change(self, entries: Iterator[Entry], count: str, keeps: bool = False) -> int:
        changed = 0
        while chunk := tuple(islice(entries, CHUNK_NUMBERS)):
            given = {"keeps": keeps, "count": count, "entries": flat(chunk)}
            changed += await self._namespace.ask(self._script, **given)
        return changed

    async def _look(self, hashes: Sequence[str]) -> tuple[Suppression | None, ...]:
        ours = self._numbers().fingerprint
        look = self._namespace.client.hmget
        key, *found = await self._namespace.ask(look, self._list, "key", *hashes)
        if key not in (None, ours):
            raise StoreUnavailable(OTHER_KEY.format(key, ours))
        return tuple(t and self._read(hash, t) for hash, t in zip(hashes, found, strict=True))

    def _read(self, hash: str, text: str) -> Suppression | None:
        """Returns an entry of the list; None if it is over."""
        end, start, reason = text.split(" ", 2)
        if 0 < int(end) <= self._namespace.clock() * 1000:
            return None
        until, since = iso(int(end) / 1000) if int(end) else None, iso(int(start) / 1000)
        key = self._numbers().fingerprint
        return Suppression(hash=hash, key=key, reason=reason, since=since, until=until)

    def _entry(self, given: Suppression) -> Entry:
        if given.key != (ours := self._numbers().fingerprint):
            raise ValueError(OTHER_KEY.format(given.key, ours))
        if len(given.hash) != 16:
            raise ValueError("a hash has 16 characters")
        end = _millis(given.until) if given.until else 0
        return Entry(given.hash, _require_reason(given.reason), end, _millis(given.since))

    def _numbers(self) -> NumberHash:
        if found := number_hash(self._namespace.settings.suppression_key):
            return found
        raise ConfigError({"COURIER_SUPPRESSION_KEY": "must be set for suppressions"})

    def _hashes(self, phones: Iterable[str]) -> Iterator[str]:
        numbers = self._numbers()
        for row, phone in enumerate(phones):
            try:
                yield numbers.of(parse_address(phone))
            except InvalidMessage as error:
                error.row = row
                raise


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

    def add(self, phone: str, reason: str, until: datetime | None = None) -> bool:
        """Suppresses a number until then, or for good; returns whether it wasn't before.

        A number that is suppressed already gets the new reason and end.
        """
        return run(self._rules.add(phone, reason, until))

    def add_many(self, phones: Iterable[str], reason: str, until: datetime | None = None) -> int:
        """Suppresses numbers, as ``add`` does; returns how many weren't before."""
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
        """Yields the suppressed numbers, as hashes and in no order; some perhaps twice."""
        return iterate(self._rules.list())

    def import_(self, entries: Iterable[Suppression]) -> int:
        """Adds what ``list()`` has yielded elsewhere; returns how many numbers are new.

        An entry of this list that holds as long stays. Raises ValueError for entries that were made
        with another key.
        """
        return run(self._rules.import_(entries))


for _each in (AsyncSuppressions, Suppressions):
    setattr(_each, "import", _each.import_)  # by getattr: the word is Python's


def _require_reason(text: str) -> str:
    if not (1 <= len(text) <= MOST_REASON and text.isprintable()):
        raise ValueError(f"reason must have 1 to {MOST_REASON} printable characters")
    return text


def _millis(moment: str) -> int:
    """Returns ISO 8601 as milliseconds since 1970, at least one. Raises ValueError."""
    try:
        return max(1, int(_instant(moment)) // 1000)  # 0 is for good
    except ValidationError as wrong:
        raise ValueError(str(wrong.messages[0])) from None

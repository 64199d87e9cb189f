"""Stores the rows of ``enqueue_many`` in chunks, each in one round trip."""

from __future__ import annotations

import os
import time
from collections.abc import AsyncIterable, Awaitable, Callable, Collection, Iterable, Mapping
from copy import copy
from itertools import islice
from types import MappingProxyType
from typing import Any, NamedTuple

from viber_courier.producers.namespace import Namespace
from viber_courier.schemas.encoding import loads
from viber_courier.schemas.errors import Conflict, EnqueueError, InvalidMessage, QueueFull
from viber_courier.schemas.message import Campaign, Job, parse_job
from viber_courier.schemas.suppression import HEEDING
from viber_courier.schemas.template import Template
from viber_courier.store.records import address_of, merge
from viber_courier.store.replies import reply

CHUNK_ROWS = 500
"""Rows of ``enqueue_many`` in one round trip: a chunk, stored whole unless the queue is full."""
COLLECT_AFTER = 0.02
"""Longest wait for the next row before collecting the previous chunk's reply, in seconds."""

Fault = tuple[int, Any, EnqueueError]
OnInvalid = Callable[[int, Any, EnqueueError], object]
OnSuppressed = Callable[[int, Any, str], object]
Clashes = Mapping[str, EnqueueError]
"""The errors of the rows because of which nothing of a chunk is stored, by id."""


class Stored(NamedTuple):
    """What clashes, if nothing was stored; or the ids that ended ``suppressed``."""

    clashes: Clashes = MappingProxyType({})
    suppressed: Collection[str] = ()


NOTHING = Stored()
FetchStored = Callable[[], Awaitable[Stored]]
"""Waits for the reply to a chunk."""


class Row(NamedTuple):
    """A checked job, with its number among the rows. ``resend_of``: the dead letter it was."""

    number: int | None
    raw: Any
    id: str
    job: Job
    resend_of: str = ""


class Checks:
    """How the rows over a common part are checked, before they are stored or only looked at.

    All rows must be of the campaign ``name``, if there is one. ``check`` checks a job where there
    is no common part. Raises InvalidMessage if the common part is wrong.
    """

    def __init__(
        self,
        common: Any,
        template: bool,
        now: float,
        name: str = "",
        check: Callable[[Any, float], Job] = parse_job,
    ) -> None:
        self._texts = Template(common) if template else None
        self._common = self._texts.common if self._texts else common
        self.campaign = None if common is None else Campaign(self._common, now)
        check = self.campaign.parse_row if self.campaign else check
        self._parse, self._name = self._texts.parser(check) if self._texts else check, name

    def parse(self, row: Any, now: float) -> Job:
        """Returns a row's job. Raises InvalidMessage."""
        job = self._parse(row, now)
        if self._name and job.campaign != self._name:
            raise InvalidMessage({"campaign": [f"must be {self._name!r}, or left out"]})
        return job

    def fields(self, row: Any) -> dict[str, Any]:
        """Returns all fields of a valid row's job, as given and rendered."""
        return merge(self._texts.render(row) if self._texts else row, self._common or {})

    def wire(self, job: Job) -> dict[str, Any]:
        """Returns all wire fields of a job."""
        return merge(loads(job.own), self.campaign.wire if self.campaign else {})


def heeded(job: Job) -> str | None:
    """Returns the number that a message is not sent to if it is suppressed."""
    return None if job.ignores_suppression or job.lane not in HEEDING else address_of(job.own)


class RowStream:
    """Stores the rows of one call: Redis stores a chunk while the next is checked.

    ``late`` refuses a row that is too late, unless it was stored in time. ``begin`` begins to store
    rows over a common part.
    """

    def __init__(
        self,
        namespace: Namespace,
        checks: Checks,
        late: Callable[[Job], Awaitable[None]],
        on_invalid: OnInvalid | None,
        on_suppressed: OnSuppressed | None,
        begin: Callable[[list[Row], Campaign | None], Awaitable[FetchStored]],
    ) -> None:
        self._campaign, self._parse_row, self._late = checks.campaign, checks.parse, late
        self._on_invalid, self._on_suppressed, self._begin = on_invalid, on_suppressed, begin
        self._clock, self._sleep = namespace.clock, namespace.link.sleep
        self._slice = namespace.link.slice or CHUNK_ROWS
        self._rows, self._suppressed = list[Row](), list[Row]()
        self._faults = list[Fault]()
        self._fetch: FetchStored | None = None
        self._count, self._sent_at = 0, 0.0
        self.accepted: list[str] = []

    @property
    def in_doubt(self) -> dict[int, str]:
        """The rows sent to Redis that may be stored: numbers and ids."""
        stored = {*self.accepted}
        return {row.number or 0: row.id for row in self._rows if row.id not in stored}

    async def store(self, rows: Iterable[Any] | AsyncIterable[Any]) -> None:
        """Stores rows in chunks."""
        source: Any = aiter(rows) if isinstance(rows, AsyncIterable) else enumerate(rows)
        try:
            while chunk := await self._chunk(source):
                await self._send(*await self._parse(chunk))
        finally:
            await self._collect()  # also if the rows raise: their error names what is stored

    async def _chunk(self, source: Any) -> list[tuple[int, Any]]:
        """Returns the next rows, numbered; collects the previous chunk if they come slowly."""
        chunk = list[tuple[int, Any]]()
        if isinstance(source, enumerate):
            for numbered in islice(source, CHUNK_ROWS):
                if self._fetch and time.monotonic() - self._sent_at > COLLECT_AFTER:
                    await self._collect()
                chunk.append(numbered)
        else:
            async for row in source:
                chunk.append((self._count, row))
                self._count += 1
                if len(chunk) == CHUNK_ROWS:
                    break
        return chunk

    async def _parse(self, chunk: list[tuple[int, Any]]) -> tuple[list[Row], list[Fault]]:
        digests, rows, faults = dict[str, str](), list[Row](), list[Fault]()
        now = self._clock()
        for start in range(0, len(chunk), self._slice):
            if start:
                await reply(self._sleep(0))
            for number, raw in chunk[start : start + self._slice]:
                try:
                    job = self._parse_row(raw, now)
                    if job.wait < 0:
                        await self._late(job)
                    id = job.id or fresh_id()
                    if digests.setdefault(id, job.digest) != job.digest:
                        raise Conflict(id)
                    rows.append(Row(number, raw, id, job))
                except EnqueueError as error:
                    faults.append(_fault(number, raw, error))
        return rows, faults

    async def _send(self, rows: list[Row], faults: list[Fault]) -> None:
        """Collects the previous chunk, then sends the valid rows of this one to Redis."""
        await self._collect()
        self._raise_first(faults)
        self._rows, self._faults = rows, faults
        self._fetch = await self._begin(_distinct(rows), self._campaign)
        self._sent_at = time.monotonic()

    async def _collect(self) -> None:
        """Waits until the chunk is stored; adds its ids and reports its faults in row order."""
        if self._fetch is None:
            return
        fetch, self._fetch = self._fetch, None
        try:
            await self._finish(self._rows, fetch)
            self._rows = []
            # Valid rows have their ids by now.
            for fault in sorted(self._faults, key=lambda fault: fault[0]):
                if self._on_invalid:
                    self._on_invalid(*fault)
        finally:  # also of rows that were stored before there was no room for more
            suppressed, self._suppressed = self._suppressed, []
            for row in suppressed:
                if self._on_suppressed:
                    self._on_suppressed(row.number or 0, row.raw, row.id)

    async def _finish(self, rows: list[Row], fetch: FetchStored | None = None) -> None:
        """Stores rows, but for those that conflict; adds their ids. ``fetch``: if they are sent.

        Halves them while there is no room for all: raises QueueFull when there is none.
        """
        try:
            stored = await (fetch or await self._begin(_distinct(rows), self._campaign))()
        except QueueFull:
            if not (half := len(rows) // 2):
                raise
            await self._finish(rows[:half])
            return await self._finish(rows[half:])
        if clashes := stored.clashes:
            new = [
                _fault(r.number or 0, r.raw, copy(clashes[r.id])) for r in rows if r.id in clashes
            ]
            self._faults += new
            self._raise_first(self._faults)
            return await self._finish([row for row in rows if row.id not in clashes])
        self.accepted += [row.id for row in rows]
        if stored.suppressed:
            self._suppressed += [row for row in rows if row.id in stored.suppressed]

    def _raise_first(self, faults: list[Fault]) -> None:
        if faults and self._on_invalid is None:
            raise faults[0][2]


def fresh_id() -> str:
    """Returns a random UUID (RFC 9562, version 4) in a sixth of uuid.uuid4's time."""
    raw = os.urandom(16)
    digits, variant = raw.hex(), "89ab"[raw[8] >> 6]
    return f"{digits[:8]}-{digits[8:12]}-4{digits[13:16]}-{variant}{digits[17:20]}-{digits[20:]}"


def _fault(number: int, raw: Any, error: EnqueueError) -> Fault:
    error.row = number
    return number, raw, error


def _distinct(rows: list[Row]) -> list[Row]:
    return list({row.id: row for row in rows}.values())

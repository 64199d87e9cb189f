"""Stores the rows of ``enqueue_many`` in chunks, each in one round trip."""

from __future__ import annotations

import os
import time
from collections.abc import AsyncIterable, Awaitable, Callable, Iterable, Mapping
from copy import copy
from itertools import islice
from typing import Any, NamedTuple

from viber_courier.schemas.errors import Conflict, EnqueueError
from viber_courier.schemas.message import Campaign, Job
from viber_courier.store.replies import Link, reply

CHUNK_ROWS = 500
"""Rows of ``enqueue_many`` in one round trip; they are stored together or not at all."""
COLLECT_AFTER = 0.02
"""Longest wait for the next row before collecting the previous chunk's reply, in seconds."""

Fault = tuple[int, Any, EnqueueError]
OnInvalid = Callable[[int, Any, EnqueueError], object]
Clashing = Mapping[str, EnqueueError]
"""The errors of the rows because of which nothing of a chunk is stored, by id."""
Clashes = Callable[[], Awaitable[Clashing]]
"""Waits for the reply to a chunk."""


class Row(NamedTuple):
    """A checked job, with its number among the rows. ``resend_of``: the dead letter it was."""

    number: int | None
    raw: Any
    id: str
    job: Job
    resend_of: str = ""


class RowStream:
    """Stores the rows of one call: Redis stores a chunk while the next is checked.

    ``parse`` checks a row. ``begin`` begins to store rows of a campaign.
    """

    def __init__(
        self,
        campaign: Campaign | None,
        parse: Callable[[Any, float], Job],
        on_invalid: OnInvalid | None,
        clock: Callable[[], float],
        begin: Callable[[list[Row], Campaign | None], Awaitable[Clashes]],
        link: Link,
    ) -> None:
        self._campaign, self._on_invalid, self._clock = campaign, on_invalid, clock
        self._parse_row, self._begin, self._sleep = parse, begin, link.sleep
        self._slice = link.slice or CHUNK_ROWS
        self._rows, self._faults = list[Row](), list[Fault]()
        self._clashes: Clashes | None = None
        self._count, self._sent_at = 0, 0.0
        self.accepted: list[str] = []

    async def store(self, rows: Iterable[Any] | AsyncIterable[Any], size: int) -> None:
        """Stores rows in chunks of this size."""
        source: Any = aiter(rows) if isinstance(rows, AsyncIterable) else enumerate(rows)
        try:
            while chunk := await self._chunk(source, size):
                await self._send(*await self._parse(chunk))
        finally:
            await self._collect()  # also if the rows raise: their error names what is stored

    async def _chunk(self, source: Any, size: int) -> list[tuple[int, Any]]:
        """Returns the next rows, numbered; collects the previous chunk if they come slowly."""
        chunk = list[tuple[int, Any]]()
        if isinstance(source, enumerate):
            for numbered in islice(source, size):
                if self._clashes and time.monotonic() - self._sent_at > COLLECT_AFTER:
                    await self._collect()
                chunk.append(numbered)
        else:
            async for row in source:
                chunk.append((self._count, row))
                self._count += 1
                if len(chunk) == size:
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
        self._clashes = await self._begin(_distinct(rows), self._campaign)
        self._sent_at = time.monotonic()

    async def _collect(self) -> None:
        """Waits until the chunk is stored; adds its ids and reports its faults in row order."""
        if self._clashes is None:
            return
        fetch, self._clashes = self._clashes, None
        clashes, rows, faults = await fetch(), self._rows, self._faults
        while clashes:
            faults += [
                _fault(r.number or 0, r.raw, copy(clashes[r.id])) for r in rows if r.id in clashes
            ]
            self._raise_first(faults)
            rows = [row for row in rows if row.id not in clashes]
            clashes = await (await self._begin(_distinct(rows), self._campaign))()
        self.accepted += [row.id for row in rows]
        for fault in sorted(faults, key=lambda fault: fault[0]):  # valid rows have their ids by now
            if self._on_invalid:
                self._on_invalid(*fault)

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

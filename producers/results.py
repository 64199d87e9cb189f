"""Reading result events: a Redis stream with consumer groups, at least once."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Generator
from dataclasses import dataclass, field
from typing import Any

import redis

from producers.connection import StoreUnavailable

logger = logging.getLogger(__name__)

TAKE_OVER = 60.0
"""Seconds after which an unacknowledged event of another consumer is taken over."""
LOOK_OVER = 5.0
"""Seconds between looks for such events."""
READ = 100
"""Events that one read fetches, and acknowledgements that one flush sends at most."""
FLUSH = 1.0
"""Seconds that an acknowledgement waits for others at most."""


class _Acks:
    """Acknowledgements on their way to Redis; after the reader's end each goes at once."""

    def __init__(self, client: redis.Redis, stream: str, group: str) -> None:
        self._client, self._stream, self._group = client, stream, group
        self._waiting: list[str] = []
        self._since = time.monotonic()
        self.open = True

    def add(self, entry: str) -> None:
        if not self._waiting:
            self._since = time.monotonic()
        self._waiting.append(entry)
        late = time.monotonic() - self._since >= FLUSH
        if not self.open or late or len(self._waiting) >= READ:
            self.flush()

    def flush(self) -> None:
        if self._waiting:
            self._client.xack(self._stream, self._group, *self._waiting)
            self._waiting.clear()


@dataclass(frozen=True, slots=True)
class Event:
    """A CloudEvents 1.0 event; ``data`` as in DESIGN section 3. Dedupe by ``id``."""

    id: str
    type: str
    subject: str
    time: str
    data: dict[str, Any]
    _entry: str = field(repr=False, compare=False)
    _acks: _Acks = field(repr=False, compare=False)

    def ack(self) -> None:
        """Say that this event is done with; not sent again to this group."""
        self._acks.add(self._entry)


def read_results(
    client: redis.Redis, stream: str, group: str, consumer: str, block: float
) -> Generator[Event, None, None]:
    """See Producer.results. Outages shorter than ``block`` are sat out, longer ones raise."""
    acks = _Acks(client, stream, group)
    reader = _Reader(client, stream, group, consumer)
    heard = time.monotonic()
    try:
        while (left := heard + block - time.monotonic()) > 0:
            try:
                acks.flush()
                entries = reader.read(min(left, 1.0))
            except (redis.ConnectionError, redis.TimeoutError) as error:
                if time.monotonic() + 0.5 > heard + block:
                    raise StoreUnavailable(
                        f"Redis can't be read now: {type(error).__name__}"
                    ) from error
                logger.warning("results not readable", extra={"error": type(error).__name__})
                reader.start_over()
                time.sleep(0.2)
                continue
            for entry, fields in entries:
                if fields:
                    yield _event(entry, fields, acks)
                else:
                    acks.add(entry)  # trimmed since: only its acknowledgement is left
            if entries:
                heard = time.monotonic()
    finally:
        acks.open = False
        acks.flush()


def _event(entry: str, fields: dict[str, str], acks: _Acks) -> Event:
    body = json.loads(fields["event"])
    return Event(body["id"], body["type"], body["subject"], body["time"], body["data"], entry, acks)


Entries = list[tuple[str, dict[str, str] | None]]


class _Reader:
    """Where this consumer is: its own pending events, others' stale ones, then new ones."""

    def __init__(self, client: redis.Redis, stream: str, group: str, consumer: str) -> None:
        self._client, self._stream = client, stream
        self._group, self._consumer = group, consumer
        self.start_over()

    def start_over(self) -> None:
        self._ready, self._own, self._looked = False, "0", float("-inf")

    def read(self, block: float) -> Entries:
        try:
            return self._read(block)
        except redis.ResponseError as error:
            if not str(error).startswith("NOGROUP"):
                raise
            self.start_over()  # Redis came back without the stream
            return []

    def _read(self, block: float) -> Entries:
        if not self._ready:
            self._make_group()
        if self._own != ">":
            entries = self._group_read(self._own)
            self._own = entries[-1][0] if entries else ">"
            if entries:
                return entries
        if time.monotonic() - self._looked >= LOOK_OVER:
            reply: Any = self._client.xautoclaim(
                self._stream, self._group, self._consumer, int(TAKE_OVER * 1000), count=READ
            )
            stale: Entries = [tuple(entry) for entry in reply[1] if entry[0] is not None]
            if stale:
                return stale
            self._looked = time.monotonic()
        return self._group_read(">", max(1, int(block * 1000)))

    def _group_read(self, start: str, block: int | None = None) -> Entries:
        reply: Any = self._client.xreadgroup(
            self._group, self._consumer, {self._stream: start}, count=READ, block=block
        )
        return [tuple(entry) for entry in reply[0][1]] if reply else []

    def _make_group(self) -> None:
        try:
            self._client.xgroup_create(self._stream, self._group, id="0", mkstream=True)
        except redis.ResponseError as error:
            if not str(error).startswith("BUSYGROUP"):
                raise
        self._ready = True

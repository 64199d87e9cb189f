"""Reads result events from a Redis stream with consumer groups, at least once."""

import json
import logging
import threading
import time
from collections.abc import Generator
from dataclasses import dataclass, field
from typing import Any

import redis

from viber_courier.store.connection import StoreUnavailable, is_transient, store_errors

logger = logging.getLogger(__name__)

STALE_AFTER = 60.0
"""Seconds after which a consumer takes over another's unacknowledged event."""
STALE_CHECK_INTERVAL = 5.0
"""Seconds between searches for such events."""
READ_COUNT = 100
"""Most events in one read, and most acknowledgements in one flush."""
FLUSH_AFTER = 1.0
"""Longest time that an acknowledgement waits for others, in seconds."""


class _Acks:
    """Sends acknowledgements to Redis, many at once; after the reader has ended, each at once.

    If Redis does not answer they are kept and sent with the next. Events may then come twice.
    """

    def __init__(self, client: redis.Redis, stream: str, group: str) -> None:
        self._client, self._stream, self._group = client, stream, group
        self._waiting: list[str] = []
        self._lock = threading.Lock()
        self._timer: threading.Timer | None = None
        self.open = True

    def add(self, entry: str) -> None:
        with self._lock:
            self._waiting.append(entry)
            now = not self.open or len(self._waiting) >= READ_COUNT
            if not now and self._timer is None:
                self._timer = threading.Timer(FLUSH_AFTER, self.flush)
                self._timer.daemon = True
                self._timer.start()
        if now:
            self.flush()

    def flush(self) -> None:
        with self._lock:
            if self._timer is not None:
                self._timer.cancel()
                self._timer = None
            if self._waiting:
                try:
                    self._client.xack(self._stream, self._group, *self._waiting)
                    self._waiting.clear()
                except redis.RedisError as error:
                    logger.warning("not acknowledged", extra={"error": type(error).__name__})


@dataclass(frozen=True, slots=True)
class Event:
    """A CloudEvents 1.0 event; docs/events.md describes ``data``. Dedupe by ``id``."""

    id: str
    type: str
    subject: str
    time: str
    data: dict[str, Any]
    _entry: str = field(repr=False, compare=False)
    _acks: _Acks = field(repr=False, compare=False)

    def ack(self) -> None:
        """Acknowledges the event: its group does not get it again."""
        self._acks.add(self._entry)


def read_results(
    client: redis.Redis, stream: str, group: str, consumer: str, block: float
) -> Generator[Event, None, None]:
    """Yields events as Producer.results does. Waits out outages shorter than ``block``."""
    acks = _Acks(client, stream, group)
    reader = _Reader(client, stream, group, consumer)
    heard = time.monotonic()
    try:
        while True:
            left = max(0.0, heard + block - time.monotonic())
            acks.flush()
            try:
                with store_errors():
                    entries = reader.read(min(left, 1.0))
            except StoreUnavailable as error:
                if not is_transient(error.__cause__) or left < 0.5:
                    raise
                logger.warning("results not readable", extra={"error": str(error)})
                reader.start_over()
                time.sleep(0.2)
                continue
            for entry, fields in entries:
                event = _event(entry, fields, acks)
                if event is None:
                    acks.add(entry)
                else:
                    yield event
            if entries:
                heard = time.monotonic()
            elif left == 0.0:
                return
    finally:
        acks.open = False
        acks.flush()


def _event(entry: str, fields: dict[str, str] | None, acks: _Acks) -> Event | None:
    """Returns the event of an entry; None if it was trimmed or isn't an event of ours."""
    if not fields:
        return None
    try:
        body = json.loads(fields["event"])
        return Event(
            body["id"], body["type"], body["subject"], body["time"], body["data"], entry, acks
        )
    except (ValueError, KeyError, TypeError):
        logger.error("entry is not an event", extra={"entry": entry})
        return None


Entries = list[tuple[str, dict[str, str] | None]]


class _Reader:
    """Reads a consumer's own pending events, then others' stale ones, then new ones."""

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
            self.start_over()  # Redis restarted without the stream
            return []

    def _read(self, block: float) -> Entries:
        if not self._ready:
            self._make_group()
        if self._own != ">":
            entries = self._group_read(self._own)
            self._own = entries[-1][0] if entries else ">"
            if entries:
                return entries
        if time.monotonic() - self._looked >= STALE_CHECK_INTERVAL:
            reply: Any = self._client.xautoclaim(
                self._stream, self._group, self._consumer, int(STALE_AFTER * 1000), count=READ_COUNT
            )
            stale: Entries = [tuple(entry) for entry in reply[1] if entry[0] is not None]
            if stale:
                return stale
            self._looked = time.monotonic()
        return self._group_read(">", int(block * 1000) or None)

    def _group_read(self, start: str, block: int | None = None) -> Entries:
        reply: Any = self._client.xreadgroup(
            self._group, self._consumer, {self._stream: start}, count=READ_COUNT, block=block
        )
        return [tuple(entry) for entry in reply[0][1]] if reply else []

    def _make_group(self) -> None:
        try:
            self._client.xgroup_create(self._stream, self._group, id="0", mkstream=True)
        except redis.ResponseError as error:
            if not str(error).startswith("BUSYGROUP"):
                raise
        self._ready = True

"""Reads result events from a Redis stream with consumer groups, at least once.

Events that were deleted before a group had them are never passed over in silence: EventsMissed.
"""

import json
import logging
import threading
import time
from collections.abc import Generator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Literal

import redis

from viber_courier.schemas.errors import EventsMissed
from viber_courier.schemas.event import Change, provider_text, render
from viber_courier.schemas.status import Status, is_final
from viber_courier.store.connection import StoreUnavailable, is_transient, store_errors
from viber_courier.store.keys import Keys

logger = logging.getLogger(__name__)

STALE_AFTER = 60.0
"""Seconds after which a consumer takes over another's unacknowledged event."""
STALE_CHECK_INTERVAL = 5.0
"""Seconds between searches for such events."""
READ_COUNT = 100
"""Most events in one read, and most acknowledgements in one flush."""
FLUSH_AFTER = 1.0
"""Longest time that an acknowledgement waits for others, in seconds."""

Start = Literal["oldest", "new"] | datetime
"""Where a new group starts: at the oldest event kept, behind the newest, or at an instant."""


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
    _entry: str = field(default="", repr=False, compare=False)
    _acks: _Acks | None = field(default=None, repr=False, compare=False)

    @classmethod
    def make(cls, id: str, status: str, *, sequence: int = 1, **more: Any) -> "Event":
        """Returns an event of this message, for a test of what handles events.

        ``more``: other fields of Change; without ``final``, the status decides whether it is.
        Raises ValueError if there is no such status.
        """
        more = {"status": Status(status), "final": is_final(Status(status)), **more}
        draft = render(Change(**more), "courier", time.time())
        between = (f"{id}:{sequence}", id, id, provider_text(None), "")
        pairs = zip(draft, between, strict=True)
        body = json.loads("".join(part + word for part, word in pairs))
        return cls(body["id"], body["type"], body["subject"], body["time"], body["data"])

    @property
    def sequence(self) -> int:
        """Returns the event's number among those of its message, which count from 1."""
        return int(self.id.rpartition(":")[2])

    @property
    def status(self) -> Status:
        """Returns the message's new status."""
        return Status(self.data["status"])

    @property
    def final(self) -> bool:
        """Returns whether this is the message's last event."""
        return bool(self.data["final"])

    def ack(self) -> None:
        """Acknowledges the event: its group does not get it again. Nothing, if it was made."""
        if self._acks:
            self._acks.add(self._entry)


class EventStream(Generator[Event, None, None]):
    """Gives events, and raises EventsMissed where they are missing; the next one follows it."""

    def __init__(self, found: Generator[Event | EventsMissed, None, None]) -> None:
        self._found = found

    def send(self, value: None) -> Event:
        """Returns the next event, as ``next`` does."""
        item = self._found.send(value)
        if isinstance(item, EventsMissed):
            raise item
        return item

    def throw(self, *error: Any) -> Any:
        """Ends the stream with an error."""
        return self._found.throw(*error)

    def close(self) -> None:
        """Sends the acknowledgements that wait, and ends the stream."""
        self._found.close()


def read_results(
    client: redis.Redis, keys: Keys, group: str, consumer: str, block: float, start: Start
) -> Generator[Event | EventsMissed, None, None]:
    """Yields events as Producer.results does. Waits out outages shorter than ``block``."""
    acks = _Acks(client, keys.results, group)
    reader = _Reader(client, keys, group, consumer, start)
    heard = time.monotonic()
    try:
        while True:
            left = max(0.0, heard + block - time.monotonic())
            acks.flush()
            try:
                with store_errors():
                    entries = reader.read(min(left, 1.0))
            except EventsMissed as missed:
                logger.error("events missed", extra={"group": group})
                yield missed
                continue
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
    """Returns the event of an entry; None if it isn't an event of ours."""
    try:
        if fields is None:
            raise ValueError
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

    def __init__(
        self, client: redis.Redis, keys: Keys, group: str, consumer: str, start: Start
    ) -> None:
        self._client, self._stream, self._noted = client, keys.results, keys.missed
        self._group, self._consumer, self._start = group, consumer, start
        self._next: Entries = []
        self.start_over()

    def start_over(self) -> None:
        self._ready, self._own, self._looked = False, "0", float("-inf")

    def read(self, block: float) -> Entries:
        """Returns the next events. Raises EventsMissed, once, if some were deleted before them."""
        try:
            return self._read(block)
        except redis.ResponseError as error:
            if not str(error).startswith("NOGROUP"):
                raise
            self.start_over()  # Redis restarted without the stream
            self._start = "oldest"
            return []

    def _read(self, block: float) -> Entries:
        if not self._ready:
            self._make_group()
        is_check_due = time.monotonic() - self._looked >= STALE_CHECK_INTERVAL
        if not self._next and is_check_due:
            self._find_missed()
        if not self._next and self._own != ">":
            entries = self._group_read(self._own)
            self._own = entries[-1][0] if entries else ">"
            self._next = [entry for entry in entries if entry[1]]
            self._raise(self._lose([id for id, fields in entries if not fields]))
        if not self._next and is_check_due:
            reply: Any = self._client.xautoclaim(
                self._stream, self._group, self._consumer, int(STALE_AFTER * 1000), count=READ_COUNT
            )
            self._next = [tuple(entry) for entry in reply[1] if entry[0] is not None]
            if not self._next:
                self._looked = time.monotonic()
            self._raise(reply[2] if len(reply) > 2 else [])  # Redis 7 drops what is deleted
        entries, self._next = self._next, []
        return entries or self._group_read(">", int(block * 1000) or None)

    def _find_missed(self) -> None:
        """Raises EventsMissed if events were deleted that the group has not read or acknowledged.

        Sweeps note what they delete too early (store/lua/lib/trim.lua). What was deleted by hand
        shows where the group's place is an event that is gone, though no sweep has removed it.
        """
        client, stream = self._client, self._stream
        groups: Any = client.xinfo_groups(stream)
        places = {each["name"]: each["last-delivered-id"] for each in groups}
        place = places.get(self._group, "0-0")
        is_gone = not client.xrange(stream, place, place, count=1)
        noted: Any = client.hgetall(self._noted)  # after that look: a sweep may have been between
        lost, span = list[str](), noted.get(self._group)
        if span and client.hdel(self._noted, self._group):
            lost += span.split()
        first: Any = client.xrange(stream, count=1)
        end, idle = f"({first[0][0]}" if first else "+", int(STALE_AFTER * 1000)
        # What this consumer has in its hands is not lost, what it had before it started is.
        for more in ({"idle": idle}, {"consumername": self._consumer})[: 1 + (self._own == "0")]:
            pending: Any = client.xpending_range(stream, self._group, "-", end, READ_COUNT, **more)
            lost += self._lose([each["message_id"] for each in pending])
        if is_gone and _instant(place) >= max((1, 0), _instant(noted.get("", "0-0"))):
            later: Any = client.xrange(stream, f"({place}", count=1)
            self._next = self._group_read(">")  # moves the group's place behind the gap
            lost += [place, later[0][0]] if later else []
        self._raise(lost)

    def _lose(self, entries: list[str]) -> list[str]:
        """Acknowledges deleted entries; returns ids around them, none if another has done it."""
        if not entries or not self._client.xack(self._stream, self._group, *entries):
            return []
        milliseconds, number = _instant(entries[-1])
        return [entries[0], f"{milliseconds + 1}-{number}"]

    def _raise(self, lost: list[str]) -> None:
        if lost:
            ends = [_instant(id)[0] / 1000 for id in lost]
            since, until = (datetime.fromtimestamp(end, UTC) for end in (min(ends), max(ends)))
            raise EventsMissed(self._group, since, until)

    def _group_read(self, start: str, block: int | None = None) -> Entries:
        reply: Any = self._client.xreadgroup(
            self._group, self._consumer, {self._stream: start}, count=READ_COUNT, block=block
        )
        return [tuple(entry) for entry in reply[0][1]] if reply else []

    def _make_group(self) -> None:
        id = {"oldest": "0", "new": "$"}.get(str(self._start), "0")
        if isinstance(self._start, datetime):
            end = f"({round(self._start.timestamp() * 1000)}-0"
            before: Any = self._client.xrevrange(self._stream, max=end, count=1)
            id = before[0][0] if before else id
        try:
            self._client.xgroup_create(self._stream, self._group, id=id, mkstream=True)
        except redis.ResponseError as error:
            if not str(error).startswith("BUSYGROUP"):
                raise
        self._ready = True


def require_start(start: object) -> None:
    """Raises ValueError unless it is a Start."""
    if start not in ("oldest", "new") and getattr(start, "tzinfo", None) is None:
        raise ValueError("start must be 'oldest', 'new' or a datetime with a time zone")


def _instant(id: str) -> tuple[int, int]:
    milliseconds, _, number = id.partition("-")
    return int(milliseconds), int(number)

"""Reads result events from a Redis stream with consumer groups, at least once.

Events that were deleted before a group had them are never passed over in silence: EventsMissed.
"""

from __future__ import annotations

import logging
import time
import uuid
from collections import deque
from collections.abc import Callable, Generator, Iterable
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any, Generic, Literal, TypeVar

import redis

from viber_courier.producers.events import (
    READ_COUNT,
    Acks,
    AsyncAcks,
    AsyncEvent,
    E,
    Event,
    read_event,
)
from viber_courier.producers.namespace import Namespace
from viber_courier.schemas.errors import EventsMissed
from viber_courier.schemas.instants import millis
from viber_courier.store.connection import StoreUnavailable, is_transient, store_errors
from viber_courier.store.replicas import TooFewReplicas
from viber_courier.store.replies import reply, run
from viber_courier.store.scripts import Parameter, Source

logger = logging.getLogger(__name__)

STALE_AFTER = 60.0
"""Seconds after which a consumer takes over another's unacknowledged event."""
STALE_CHECK_INTERVAL = 5.0
"""Seconds between searches for such events."""

Start = Literal["oldest", "new"] | datetime
"""Where a new group starts: at the oldest event kept, behind the newest, or at an instant."""


class _Feed(Generic[E]):
    """Gives events until none comes for ``block`` seconds; waits out outages shorter than that."""

    def __init__(self, reader: Reader, made: type[E], acks: Any, block: float) -> None:
        self._made: type[E] = made
        self._reader, self._acks, self._block = reader, acks, block
        self._events: deque[E] = deque()
        self._heard: float | None = None
        """When the silence began; None: with the next read."""

    async def _fill(self) -> bool:
        """Reads the next events. Returns False once none has come for ``block`` seconds."""
        while not self._events:
            now = time.monotonic()
            self._heard = now if self._heard is None else self._heard
            left = max(0.0, self._heard + self._block - now)
            await reply(self._acks.flush())
            try:
                with store_errors(self._reader.namespace.client):
                    entries = await self._reader.read(min(left, 1.0))
            except EventsMissed:
                logger.error("events missed", extra={"group": self._reader.group})
                raise
            except StoreUnavailable as error:
                if not is_transient(error.__cause__) or left < 0.5:
                    raise
                logger.warning("results not readable", extra={"error": str(error)})
                self._reader.start_over()
                await reply(self._reader.namespace.link.sleep(0.2))
                continue
            except BaseException:  # cancelled: what it was given is read again
                self._reader.start_over()
                raise
            for entry, fields in entries:
                source = self._reader.source
                if event := read_event(self._made, entry, fields, self._acks, source):
                    self._events.append(event)
                else:
                    await reply(self._acks.add(entry))
            if self._events:
                self._heard = None
            elif left == 0.0 and (self._block or not entries):  # others' events are silence, too
                return False
        return True


class EventStream(_Feed[Event], Generator[Event, None, None]):
    """Gives events, and raises EventsMissed where they are missing; the next one follows it."""

    def __init__(self, reader: Reader, block: float) -> None:
        super().__init__(reader, Event, reader.acks(Acks), block)

    def send(self, value: None) -> Event:
        """Returns the next event, as ``next`` does."""
        try:
            if self._acks.open and (self._events or run(self._fill())):
                return self._events.popleft()
        except EventsMissed:
            raise
        except BaseException:
            self.close()
            raise
        self.close()
        raise StopIteration

    def throw(self, *error: Any) -> Any:
        """Ends the stream with an error."""
        self.close()
        return super().throw(*error)

    def close(self) -> None:
        """Sends the acknowledgements that wait, and ends the stream."""
        self._acks.close()

    def __del__(self) -> None:
        with suppress(AttributeError):  # its arguments were wrong
            self.close()


class AsyncEventStream(_Feed[AsyncEvent]):
    """EventStream for asyncio: iterate over it by ``async for``.

    You can go on after a cancelled read; events that you have not acknowledged then come again.
    """

    def __init__(self, reader: Reader, acks: AsyncAcks, block: float) -> None:
        super().__init__(reader, AsyncEvent, acks, block)

    def __aiter__(self) -> AsyncEventStream:
        return self

    async def __anext__(self) -> AsyncEvent:
        try:
            if self._acks.open and (self._events or await self._fill()):
                return self._events.popleft()
        except StoreUnavailable:
            await self.aclose()
            raise
        await self.aclose()
        raise StopAsyncIteration

    async def aclose(self) -> None:
        """Sends the acknowledgements that wait, and ends the stream."""
        await self._acks.close()


A = TypeVar("A", Acks, AsyncAcks)
Entries = list[tuple[str, dict[str, str] | None]]
_ENTRY = Source(
    "entry",
    "return redis.call('XRANGE', KEYS[1], ARGV[1], ARGV[1])",
    (Parameter("stream", None),),
    (Parameter("id", None),),
)


class Reader:
    """Reads a consumer's own pending events, then others' stale ones, then new ones."""

    def __init__(
        self, namespace: Namespace, group: str, consumer: str, start: Start, source: str
    ) -> None:
        self._client, self._keys = namespace.client, namespace.keys
        self._stream, once = self._keys.results, millis(2 * STALE_CHECK_INTERVAL)
        self._entry = namespace.script(_ENTRY, stream=self._stream) if namespace.kept else None
        self._lose = namespace.script("lose", waits=False, group=group, once_ms=once)
        self.namespace, self.group, self.source = namespace, group, source
        self._consumer, self._start = consumer, start
        self._lost, self._most = list[str](), READ_COUNT
        self.is_over: Callable[[], bool] = lambda: False
        """Is asked right before each read, which others wait for if it is not acknowledged."""
        self.start_over()

    def acks(self, made: type[A]) -> A:
        """Returns what acknowledges its events."""
        return made(self._client, self._stream, self.group)

    def start_over(self) -> None:
        """Makes the next read begin with what is unacknowledged, as after an interrupted one."""
        self._ready, self._own, self._looked = False, "0", float("-inf")
        self._next: Entries = []

    async def read(self, block: float, most: int = READ_COUNT) -> Entries:
        """Returns the next events. Raises EventsMissed, once, if some were deleted before them."""
        self._most = most
        try:
            entries = await self._read(block)
        except redis.ResponseError as error:
            if not str(error).startswith("NOGROUP"):
                raise
            self.start_over()  # Redis restarted without the stream
            self._start = "oldest"
            return []
        await self._confirm(entries)
        return entries

    async def _confirm(self, entries: Entries) -> None:
        """Raises TooFewReplicas unless what must have the events has them (COURIER_REPLICAS).

        An event that only the master had could come again with another content under its number.
        Replicas have the stream in order, so the newest entry speaks for all.
        """
        events = [each for each in entries if each[1]]
        if self._entry and events:
            id, fields = max(events, key=lambda each: instant(each[0]))
            found = await reply(self._entry(id=id))
            if not found or dict(zip(found[0][1][::2], found[0][1][1::2], strict=True)) != fields:
                raise TooFewReplicas("the master has changed, and lacks events just read")

    async def ack(self, entries: Iterable[str]) -> Any:
        """Acknowledges entries; returns how many of them were pending."""
        return await reply(self._client.xack(self._stream, self.group, *entries))

    async def _read(self, block: float) -> Entries:
        if not self._ready:
            await self._make_group()
        is_check_due = time.monotonic() - self._looked >= STALE_CHECK_INTERVAL
        if not self._next and is_check_due:
            await self._find_missed()
        if not self._next and self._own != ">":
            entries = await self._group_read(self._own)
            self._own = entries[-1][0] if entries else ">"
            self._next = [entry for entry in entries if entry[1]]
            if gone := [id for id, fields in entries if not fields]:
                await self._take(gone)
                self._raise([])
        if not self._next and is_check_due:
            names = self._stream, self.group, self._consumer
            stale = self._client.xautoclaim(*names, int(STALE_AFTER * 1000), count=self._most)
            _, entries, *deleted = await reply(stale)
            self._next = [tuple(entry) for entry in entries if entry[0] is not None]
            if not self._next:
                self._looked = time.monotonic()
            self._raise(deleted[0] if deleted else [])  # Redis 7 drops what is deleted
        entries, self._next = self._next, []
        return entries or await self._group_read(">", int(block * 1000) or None)

    async def _find_missed(self) -> None:
        """Raises EventsMissed if events were deleted that the group has not read or acknowledged.

        Sweeps note what they delete too early (store/lua/lib/trim.lua). What was deleted by hand
        shows where the group's place is an event that is gone, though no sweep has removed it.
        Drops the notes of groups that have been destroyed.
        """
        client, stream = self._client, self._stream
        groups = await reply(client.xinfo_groups(stream))
        places = {each["name"]: each["last-delivered-id"] for each in groups}
        place = places.get(self.group, "0-0")
        is_gone = not await reply(client.xrange(stream, place, place, count=1))
        # After that look: a sweep may have been between.
        noted = await reply(client.hgetall(self._keys.missed))
        if others := noted.keys() - places.keys() - {""}:
            there = {each["name"] for each in await reply(client.xinfo_groups(stream))}
            if destroyed := sorted(others - there)[:READ_COUNT]:
                await reply(client.hdel(self._keys.missed, *destroyed))
        if note := noted.get(self.group):
            await self._take([], note)
        first = await reply(client.xrange(stream, count=1))
        end, idle = f"({first[0][0]}" if first else "+", int(STALE_AFTER * 1000)
        # What this consumer has in its hands is not lost, what it had before it started is.
        for more in ({"idle": idle}, {"consumername": self._consumer})[: 1 + (self._own == "0")]:
            rows = client.xpending_range(stream, self.group, "-", end, READ_COUNT, **more)
            if gone := [each["message_id"] for each in await reply(rows)]:
                await self._take(gone)
        if is_gone and instant(place) >= max((1, 0), instant(noted.get("", "0-0"))):
            later = await reply(client.xrange(stream, f"({place}", count=1))
            self._next = await self._group_read(">")  # moves the group's place behind the gap
            self._lost += [place, later[0][0]] if later else []
        self._raise([])

    async def _take(self, entries: list[str], note: str = "") -> None:
        """Notes deleted entries, and a sweep's note, as lost, unless another reader tells of them.

        Without a reply nobody knows who does. Then this one does: twice is better than never. An
        error that Redis replies leaves everything as it was.
        """
        lost = note.split()
        if entries:
            milliseconds, number = instant(entries[-1])
            lost += [entries[0], f"{milliseconds + 1}-{number}"]
        once = self._keys.once(uuid.uuid4().hex)
        try:
            span, acked = await reply(self._lose(once=once, take=bool(note), entries=entries))
        except redis.ResponseError:
            raise
        except BaseException as error:
            self._lost += lost
            if isinstance(error, redis.RedisError):
                self._raise([])
            raise
        self._lost += span.split() + (lost[-2:] if acked else [])

    def _raise(self, lost: list[str]) -> None:
        """Raises EventsMissed for what was lost, also before a read that was interrupted."""
        if lost := self._lost + lost:
            self._lost = []
            ends = [instant(id)[0] / 1000 for id in lost]
            since, until = (datetime.fromtimestamp(end, UTC) for end in (min(ends), max(ends)))
            raise EventsMissed(self.group, since, until)

    async def _group_read(self, start: str, block: int | None = None) -> Entries:
        if self.is_over():  # since the caller looked, there were round trips
            return []
        names = self.group, self._consumer, {self._stream: start}
        got = await reply(self._client.xreadgroup(*names, count=self._most, block=block))
        # [[stream, entries]]; by RESP3 {stream: [entries]} or, of redis-py 8, {stream: entries}
        found = [*got.values()] if isinstance(got, dict) else [each[1] for each in got or ()]
        while found and isinstance(found[0], list):
            found = found[0]
        return [tuple(entry) for entry in found]

    async def _make_group(self) -> None:
        id = {"oldest": "0", "new": "$"}.get(str(self._start), "0")
        if isinstance(self._start, datetime):
            end = f"({round(self._start.timestamp() * 1000)}-0"
            before = await reply(self._client.xrevrange(self._stream, max=end, count=1))
            id = before[0][0] if before else id
        try:
            made = self._client.xgroup_create(self._stream, self.group, id=id, mkstream=True)
            await reply(made)
        except redis.ResponseError as error:
            if not str(error).startswith("BUSYGROUP"):
                raise
        self._ready = True


def require_start(start: object) -> None:
    """Raises ValueError unless it is a Start."""
    if start not in ("oldest", "new") and getattr(start, "tzinfo", None) is None:
        raise ValueError("start must be 'oldest', 'new' or a datetime with a time zone")


def instant(id: str) -> tuple[int, int]:
    """Returns an entry's place on the stream: milliseconds since 1970, and a number."""
    milliseconds, _, number = id.partition("-")
    return int(milliseconds), int(number)

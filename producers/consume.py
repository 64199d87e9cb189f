"""Gives a group's result events to an app's handler until it is stopped: ``consume``.

``Hand`` decides which events are handled next and which are given up; it does no I/O.
"""

from __future__ import annotations

import asyncio
import logging
import os
import secrets
import signal
import socket
import threading
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from inspect import iscoroutinefunction
from typing import TYPE_CHECKING, Any, Generic, NamedTuple

import redis

from viber_courier.producers import results
from viber_courier.producers.events import Acks, AsyncAcks, AsyncEvent, E, Event, read_event
from viber_courier.producers.results import Start, instant
from viber_courier.schemas.errors import EventsMissed
from viber_courier.store.connection import StoreUnavailable, is_transient, store_errors
from viber_courier.store.refusals import reason
from viber_courier.store.replies import reply, run
from viber_courier.store.scripts import shared

if TYPE_CHECKING:
    from viber_courier.producers.aio import AsyncProducer
    from viber_courier.producers.calls import Calls
    from viber_courier.producers.client import Producer

logger = logging.getLogger(__name__)

BLOCK = 1.0
"""Longest wait of one read, and so for ``stop`` to be noticed, in seconds."""
RETRY_BASE, RETRY_CAP, OUTAGE_CAP = 0.5, 30.0, 5.0
"""First and longest wait before an event is tried again; longest one for Redis, in seconds."""


class _Trial(NamedTuple):
    """How often an event failed alone, when it is due again, and the successes before that."""

    failures: int
    due: float
    successes: int


class Hand(Generic[E]):
    """The events in hand: which are handled next, and which are given up.

    New events are handled together. After a failure each of them is tried alone, those that failed
    least first, and none before an earlier one of its message. An event is given up after
    ``attempts`` failures if another has succeeded since its first. If none has, the cause may be
    around the handler: then at most one is given up until something succeeds.
    """

    def __init__(self, batch: int, attempts: int) -> None:
        self._batch, self._attempts = batch, attempts
        self._events, self._trials = dict[str, E](), dict[str, _Trial]()
        self._successes, self._in_a_row, self._paused, self._given_up_at = 0, 0, 0.0, -1

    @property
    def room(self) -> int:
        """Returns how many more events fit."""
        return max(0, self._batch - len(self._events))

    def take(self, events: Sequence[E]) -> None:
        """Adds events, in the order of the stream; what is in hand already stays as it is."""
        found = {event._entry: event for event in events} | self._events
        self._events = {entry: found[entry] for entry in sorted(found, key=instant)}

    def next(self, now: float) -> list[E]:
        """Returns the events to handle now: one that failed before, or new ones."""
        fresh, tried = self._ready()
        due = [each for each in tried if self._trials[each._entry].due <= now]
        if now < self._paused:
            return []
        least = sorted(due, key=lambda each: self._trials[each._entry].failures)
        return least[:1] or fresh[: self._batch]

    def wait(self, now: float) -> float:
        """Returns the seconds until there may be something to handle; BLOCK at most."""
        fresh, tried = self._ready()
        dues = [now] if fresh else [self._trials[each._entry].due for each in tried]
        return min(BLOCK, max(0.0, self._paused - now, min(dues, default=now + BLOCK) - now))

    def _ready(self) -> tuple[list[E], list[E]]:
        """Returns new events, and those to try alone, without those behind a failed one."""
        fresh, tried, behind = list[E](), list[E](), set[str]()
        for entry, event in self._events.items():
            if event.subject not in behind and entry in self._trials:
                tried.append(event)
                behind.add(event.subject)
            elif event.subject not in behind:
                fresh.append(event)
        known = {event.subject for event in fresh} if tried else ()
        return fresh, [event for event in tried if event.subject not in known]

    def succeeded(self, events: Sequence[E]) -> None:
        """Removes events that were handled."""
        self._remove(events)
        self._successes, self._in_a_row, self._paused = self._successes + 1, 0, 0.0

    def failed(self, events: Sequence[E], now: float) -> E | None:
        """Notes a failure; returns the event that is given up, if any."""
        self._in_a_row += 1
        if self._in_a_row > 1:  # one bad event does not hold up the others
            self._paused = now + _backoff(self._in_a_row - 1)
        alone = len(events) == 1
        for event in events:
            failures, _, since = self._trials.get(event._entry, (0, 0.0, self._successes))
            failures += alone
            trial = _Trial(failures, now + _backoff(max(1, failures)), since)
            self._trials[event._entry] = trial
        if not alone or failures < self._attempts:
            return None
        if self._successes == since and self._successes == self._given_up_at:
            return None
        if self._successes == since:
            self._given_up_at = self._successes
        self._remove(events)
        return events[0]

    def _remove(self, events: Sequence[E]) -> None:
        for event in events:
            del self._events[event._entry]
            self._trials.pop(event._entry, None)


def _backoff(failures: int) -> float:
    return min(RETRY_CAP, RETRY_BASE * 2.0 ** min(failures - 1, 10))


@dataclass
class _Loop(Generic[E]):
    """Reads events, has them handled and acknowledges them, until it is stopped.

    ``wait`` waits so many seconds, unless stopped.
    """

    calls: Calls
    made: type[E]
    acks: Any
    reader: results.Reader
    name: str
    hand: Hand[E]
    stop: Any
    wait: Callable[[float], Any]
    handler: Callable[[list[E]], object]
    on_poison: Callable[[E, Exception], object] | None
    on_missed: Callable[[EventsMissed], object] | None
    done: list[str] = field(default_factory=list)

    async def run(self) -> None:
        outages, has_read, tidied = 0, False, 0.0
        try:
            while not self.stop.is_set():
                try:
                    with store_errors():
                        await self._read()
                except EventsMissed as missed:
                    logger.error("events missed", extra={"group": missed.group})
                    if self.on_missed:
                        await self._call("on_missed failed", {}, self.on_missed, missed)
                except StoreUnavailable as error:
                    if not (has_read or is_transient(error.__cause__)):
                        raise
                    logger.warning("results not readable", extra={"error": str(error)})
                    self.reader.start_over()
                    await reply(self.wait(min(OUTAGE_CAP, 0.2 * 2.0 ** min(outages, 10))))
                    outages += 1
                    continue
                outages, has_read = 0, True
                await self._handle()
                if time.monotonic() - tidied >= results.STALE_AFTER:
                    await self._tidy()
                    tidied = time.monotonic()
            with suppress(StoreUnavailable), store_errors():
                await self._acknowledge()
        finally:
            await self._tidy(self.name)

    async def _acknowledge(self) -> None:
        if self.done:
            await self.reader.ack(self.done)
            self.done = []

    async def _read(self) -> None:
        await self._acknowledge()  # otherwise what was handled could be read again
        wait = self.hand.wait(time.monotonic())
        if not self.hand.room:
            await reply(self.wait(wait))
            return
        events = list[E]()
        for entry, fields in await self.reader.read(wait, self.hand.room):
            if event := read_event(self.made, entry, fields, self.acks, self.reader.source):
                events.append(event)
            else:
                self.done.append(entry)
        self.hand.take(events)

    async def _handle(self) -> None:
        if not (events := self.hand.next(time.monotonic())):
            return
        about = {"event_id": events[0].id, "events": len(events)}
        error = await self._call("handler failed", about, self.handler, events)
        if not error:
            self.hand.succeeded(events)
            self.done += [event._entry for event in events]
        elif event := self.hand.failed(events, time.monotonic()):
            logger.error("event given up", extra=about)
            if self.on_poison and not await self._call(
                "on_poison failed", about, self.on_poison, event, error
            ):
                self.done.append(event._entry)

    async def _call(
        self, text: str, about: dict[str, Any], function: Callable[..., object], *given: Any
    ) -> Exception | None:
        """Calls a function of the app; returns its error, which it logs with this text."""
        try:
            await reply(function(*given))
        except Exception as error:
            logger.error(text, exc_info=error, extra=about)
            return error
        return None

    async def _tidy(self, leaver: str = "") -> None:
        """Removes the names of consumers that have left, and ``leaver``, with nothing pending."""
        link, idle = self.calls._link, round(results.STALE_AFTER * 1000)
        retire = link.script(link.client, "retire", shared(self.calls.settings))
        try:
            await reply(retire(group=self.reader.group, consumer=leaver, idle_ms=idle))
        except redis.RedisError as error:
            logger.warning("names of consumers not removed", extra={"error": reason(error)})


def consume(
    producer: Producer,
    group: str,
    handler: Callable[[list[Event]], object],
    *,
    consumer: str = "",
    batch: int = 500,
    source: str = "",
    start: Start = "oldest",
    stop: threading.Event | None = None,
    attempts: int = 5,
    on_poison: Callable[[Event, Exception], object] | None = None,
    on_missed: Callable[[EventsMissed], object] | None = None,
) -> None:
    """Gives a group's events to ``handler``, at most ``batch`` at once, until it is stopped.

    Events are acknowledged when ``handler`` has returned. If it raises, each of them is tried again
    alone, with backoff, in the order of its message. After ``attempts`` failures an event goes to
    ``on_poison(event, error)`` and is acknowledged if that returns; without it the event stays
    pending, and comes again after a minute. ``on_missed`` gets an EventsMissed.

    Ends when ``stop`` is set and, in the main thread, on SIGTERM and SIGINT, after the events in
    hand. Sits out outages of Redis. Raises StoreUnavailable where Redis refuses the first read for
    good. ``start`` and ``source`` are those of ``Producer.results``; ``consumer`` is by default a
    new name, which is removed at the end.
    """
    if iscoroutinefunction(handler):
        raise TypeError("an async handler needs aconsume")
    calls, name, ended = producer._calls, consumer or _new_name(), stop or threading.Event()
    reader, hand = calls._reader(group, name, start, source), Hand[Event](batch, attempts)
    hooks = ended, ended.wait, handler, on_poison, on_missed
    with _signals(ended):
        run(_Loop(calls, Event, reader.acks(Acks), reader, name, hand, *hooks).run())


async def aconsume(
    producer: AsyncProducer,
    group: str,
    handler: Callable[[list[AsyncEvent]], Awaitable[object]],
    *,
    consumer: str = "",
    batch: int = 500,
    source: str = "",
    start: Start = "oldest",
    stop: asyncio.Event | None = None,
    attempts: int = 5,
    on_poison: Callable[[AsyncEvent, Exception], Awaitable[object]] | None = None,
    on_missed: Callable[[EventsMissed], Awaitable[object]] | None = None,
) -> None:
    """``consume`` for asyncio. Ends when ``stop`` is set or its task is cancelled.

    Signals are left to who runs the loop.
    """
    name, ended = consumer or _new_name(), stop or asyncio.Event()
    reader, hand = producer._reader(group, name, start, source), Hand[AsyncEvent](batch, attempts)

    async def wait(seconds: float) -> None:
        with suppress(TimeoutError):
            await asyncio.wait_for(ended.wait(), seconds)

    hooks = ended, wait, handler, on_poison, on_missed
    await _Loop(producer, AsyncEvent, reader.acks(AsyncAcks), reader, name, hand, *hooks).run()


def _new_name() -> str:
    return f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(2)}"


@contextmanager
def _signals(stop: threading.Event) -> Iterator[None]:
    """Sets ``stop`` on the first SIGTERM or SIGINT; the second does what it did before."""
    before = dict[int, Any]()

    def restore(*_: object) -> None:
        for number, action in before.items():
            signal.signal(number, action or signal.SIG_DFL)

    def end(*_: object) -> None:
        stop.set()
        restore()

    if threading.current_thread() is threading.main_thread():
        before |= {each: signal.signal(each, end) for each in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        restore()

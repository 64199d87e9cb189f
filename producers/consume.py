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

if TYPE_CHECKING:
    from viber_courier.producers.aio import AsyncProducer
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
        if min(batch, attempts) < 1:
            raise ValueError("batch and attempts must be at least 1")
        self._batch, self._attempts = batch, attempts
        self._events: dict[str, E] = {}
        self._trials: dict[str, _Trial] = {}
        self._successes, self._in_a_row, self._paused, self._given_up_at = 0, 0, 0.0, -1
        self._was_trial = False

    @property
    def room(self) -> int:
        """Returns how many more events fit."""
        return max(0, self._batch - len(self._events))

    def take(self, events: Sequence[E]) -> None:
        """Adds events, in the order of the stream; what is in hand already stays as it is."""
        found = {event._entry: event for event in events} | self._events
        self._events = {entry: found[entry] for entry in sorted(found, key=instant)}

    def plan(self, now: float) -> tuple[list[E], float]:
        """Returns the events to handle now, and the seconds to wait if there are none."""
        fresh, tried, failed, seen = list[E](), list[tuple[_Trial, E]](), set[str](), set[str]()
        for entry, event in self._events.items():
            if trial := self._trials.get(entry):
                tried += [(trial, event)] if event.subject not in seen else []
                failed.add(event.subject)
            elif event.subject not in failed:
                fresh.append(event)
            seen.add(event.subject)
        if now < self._paused:
            return [], min(BLOCK, self._paused - now)
        if fresh and self._was_trial:  # by turns, so that neither waits for ever
            return fresh[: self._batch], 0.0
        if due := [each for each in tried if each[0].due <= now]:
            return [min(due, key=lambda each: each[0].failures)[1]], 0.0
        wait = min((trial.due - now for trial, _ in tried), default=BLOCK)
        return fresh[: self._batch], 0.0 if fresh else min(BLOCK, wait)

    def succeeded(self, events: Sequence[E]) -> None:
        """Removes events that were handled."""
        self._was_trial = events[0]._entry in self._trials
        self._successes, self._in_a_row, self._paused = self._successes + 1, 0, 0.0
        self._remove(events)

    def failed(self, events: Sequence[E], now: float) -> E | None:
        """Notes a failure; returns the event that is given up, if any."""
        self._in_a_row, self._was_trial = self._in_a_row + 1, events[0]._entry in self._trials
        if self._in_a_row > 1:  # one bad event does not hold up the others
            self._paused = now + _backoff(self._in_a_row - 1)
        alone = len(events) == 1
        for event in events:
            failures, _, since = self._trials.get(event._entry, (0, 0.0, self._successes))
            failures += alone
            self._trials[event._entry] = _Trial(failures, now + _backoff(failures), since)
        if not alone or failures < self._attempts:
            return None
        if since == self._successes:
            if self._given_up_at == self._successes:
                return None
            self._given_up_at = self._successes
        self._remove(events)
        return events[0]

    def _remove(self, events: Sequence[E]) -> None:
        for event in events:
            del self._events[event._entry]
            self._trials.pop(event._entry, None)


def _backoff(failures: int) -> float:
    return min(RETRY_CAP, RETRY_BASE * 2.0 ** min(max(0, failures - 1), 10))


@dataclass
class _Loop(Generic[E]):
    """Reads events, has them handled and acknowledges them, until it is stopped.

    ``wait`` waits so many seconds, unless stopped.
    """

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
        self.reader.is_over = self.stop.is_set
        try:
            while not self.stop.is_set():
                try:
                    with store_errors(self.reader.namespace.client):
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
        _, wait = self.hand.plan(time.monotonic())
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
        events, _ = self.hand.plan(time.monotonic())
        if not events:
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
        idle = round(results.STALE_AFTER * 1000)
        retire = self.reader.namespace.script("retire", waits=False)
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
    name, ended = consumer or _new_name(), stop or threading.Event()
    reader, hand = producer._calls._reader(group, name, start, source), Hand[Event](batch, attempts)
    hooks = ended, ended.wait, handler, on_poison, on_missed
    with _signals(ended):
        run(_Loop(Event, reader.acks(Acks), reader, name, hand, *hooks).run())


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
    await _Loop(AsyncEvent, reader.acks(AsyncAcks), reader, name, hand, *hooks).run()


def _new_name() -> str:
    return f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(2)}"


@contextmanager
def _signals(stop: threading.Event) -> Iterator[None]:
    """Sets ``stop`` on SIGTERM and SIGINT, if this is the main thread."""
    before = dict[int, Any]()
    if threading.current_thread() is threading.main_thread():
        for number in (signal.SIGTERM, signal.SIGINT):
            before[number] = signal.signal(number, lambda *_: stop.set())
    try:
        yield
    finally:
        for each, action in before.items():
            signal.signal(each, action or signal.SIG_DFL)

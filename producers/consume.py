"""Gives a group's result events to an app's handler until it is stopped: ``consume``.

``rules`` decides what comes next and does no I/O; ``consume`` does what it says.
"""

import logging
import os
import secrets
import signal
import socket
import threading
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any, NamedTuple

import redis

from viber_courier.producers import results
from viber_courier.producers.client import Producer
from viber_courier.producers.results import Event, Start
from viber_courier.schemas.errors import EventsMissed
from viber_courier.store.connection import (
    StoreUnavailable,
    is_transient,
    require_name,
    store_errors,
)
from viber_courier.store.keys import Keys
from viber_courier.store.refusals import reason
from viber_courier.store.scripts import Script, shared

logger = logging.getLogger(__name__)

BLOCK = 1.0
"""Longest wait of one read, and so for ``stop`` to be noticed, in seconds."""
RETRY_BASE, RETRY_CAP, OUTAGE_CAP = 0.5, 30.0, 5.0
"""First and longest wait before an event is tried again; longest one for Redis, in seconds."""


class Read(NamedTuple):
    """Read events. Answer: events, and entries to acknowledge unseen."""

    block: float
    most: int


class Handle(NamedTuple):
    """Call the handler."""

    events: list[Event]


class GiveUp(NamedTuple):
    """Tell of an event that is given up. Answer: True if somebody has taken it."""

    event: Event
    error: Exception


class Ack(NamedTuple):
    """Acknowledge entries."""

    entries: list[str]


class Missed(NamedTuple):
    """Tell of events that were deleted unread."""

    error: EventsMissed


class Wait(NamedTuple):
    """Wait, unless stopped."""

    seconds: float


Step = Read | Handle | GiveUp | Ack | Missed | Wait


class _Trial(NamedTuple):
    """How often an event failed alone, when it is due again, and the successes before that."""

    failures: int
    due: float
    successes: int


class Hand:
    """The events in hand: which are handled next, and which are given up.

    New events are handled together. After a failure each of them is tried alone, those that failed
    least first, and none before an earlier one of its message. An event is given up after
    ``attempts`` failures if another has succeeded since its first. If none has, the cause may be
    around the handler: then at most one is given up until something succeeds.
    """

    def __init__(self, batch: int, attempts: int) -> None:
        self._batch, self._attempts = batch, attempts
        self._events, self._trials = dict[str, Event](), dict[str, _Trial]()
        self._successes, self._in_a_row, self._paused, self._given_up_at = 0, 0, 0.0, -1

    @property
    def room(self) -> int:
        """Returns how many more events fit."""
        return max(0, self._batch - len(self._events))

    def take(self, events: Sequence[Event]) -> None:
        """Adds events, in the order of the stream; what is in hand already stays as it is."""
        found = {event._entry: event for event in events} | self._events
        self._events = {entry: found[entry] for entry in sorted(found, key=results._instant)}

    def next(self, now: float) -> list[Event]:
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

    def _ready(self) -> tuple[list[Event], list[Event]]:
        """Returns new events, and those to try alone, without those behind a failed one."""
        fresh, tried, behind = list[Event](), list[Event](), set[str]()
        for entry, event in self._events.items():
            if event.subject not in behind and entry in self._trials:
                tried.append(event)
                behind.add(event.subject)
            elif event.subject not in behind:
                fresh.append(event)
        known = {event.subject for event in fresh} if tried else ()
        return fresh, [event for event in tried if event.subject not in known]

    def succeeded(self, events: Sequence[Event]) -> None:
        """Removes events that were handled."""
        self._remove(events)
        self._successes, self._in_a_row, self._paused = self._successes + 1, 0, 0.0

    def failed(self, events: Sequence[Event], now: float) -> Event | None:
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

    def _remove(self, events: Sequence[Event]) -> None:
        for event in events:
            del self._events[event._entry]
            self._trials.pop(event._entry, None)


def _backoff(failures: int) -> float:
    return min(RETRY_CAP, RETRY_BASE * 2.0 ** min(failures - 1, 10))


def rules(
    batch: int, attempts: int, is_stopped: Callable[[], bool], clock: Callable[[], float]
) -> Generator[Step, Any, None]:
    """Yields what to do next, and is sent the answer: what the step returned or raised."""
    hand, done, outages, has_read = Hand(batch, attempts), list[str](), 0, False
    while not is_stopped():
        answer = (yield Ack(done)) if done else None
        if answer is None:
            done, wait = [], hand.wait(clock())
            answer = (yield Read(wait, hand.room)) if hand.room else (yield Wait(wait))
        match answer:
            case (events, others):
                hand.take(events)
                done += others
            case EventsMissed():
                logger.error("events missed", extra={"group": answer.group})
                _log_fault("on_missed failed", (yield Missed(answer)))
            case StoreUnavailable() if has_read or is_transient(answer.__cause__):
                logger.warning("results not readable", extra={"error": str(answer)})
                yield Wait(min(OUTAGE_CAP, 0.2 * 2.0 ** min(outages, 10)))
                outages += 1
                continue
            case Exception():
                raise answer
        outages, has_read = 0, True
        done += yield from _handle(hand, clock)
    if done:
        yield Ack(done)


def _handle(hand: Hand, clock: Callable[[], float]) -> Generator[Step, Any, list[str]]:
    """Has the next events handled; returns the entries that can be acknowledged."""
    events = hand.next(clock())
    entries = [event._entry for event in events]
    if not events:
        return []
    if not (error := (yield Handle(events))):
        hand.succeeded(events)
        return entries
    _log_fault("handler failed", error, events=len(events), event_id=events[0].id)
    if not (given_up := hand.failed(events, clock())):
        return []
    logger.error("event given up", extra={"event_id": given_up.id})
    answer = yield GiveUp(given_up, error)
    _log_fault("on_poison failed", answer, event_id=given_up.id)
    return entries if answer is True else []


def _log_fault(text: str, answer: object, **about: Any) -> None:
    if isinstance(answer, Exception):
        logger.error(text, exc_info=answer, extra=about)


class _Reading:
    """Reads and acknowledges for one consumer of a group; removes names of those that are gone."""

    def __init__(
        self, producer: Producer, group: str, consumer: str, start: Start, source: str
    ) -> None:
        keys, client = Keys(producer.settings.namespace), producer.redis
        self._client, self._stream, self._group, self._source = client, keys.results, group, source
        self._acks = results._Acks(client, keys.results, group)
        self._reader = results._Reader(client, keys, group, consumer, start)
        self._retire = Script(client, "retire", shared(producer.settings))
        self._tidied = 0.0

    def read(self, block: float, most: int) -> tuple[list[Event], list[str]]:
        """Returns events, and the entries that are not for this reader. Raises StoreUnavailable."""
        try:
            with store_errors():
                entries = self._reader.read(block, most)
        except StoreUnavailable:
            self._reader.start_over()
            raise
        if time.monotonic() - self._tidied >= results.STALE_AFTER:
            self._tidied = time.monotonic()
            self.tidy()
        found = [results._event(*entry, self._acks, self._source) for entry in entries]
        others = [entry for (entry, _), event in zip(entries, found, strict=True) if not event]
        return [event for event in found if event], others

    def ack(self, entries: Sequence[str]) -> None:
        """Acknowledges entries. Raises StoreUnavailable."""
        with store_errors():
            self._client.xack(self._stream, self._group, *entries)

    def tidy(self, leaver: str = "") -> None:
        """Removes the names of consumers that have left, and ``leaver``, with nothing pending."""
        idle = round(results.STALE_AFTER * 1000)
        try:
            self._retire(group=self._group, consumer=leaver, idle_ms=idle)
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
    name = consumer or f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(2)}"
    stop = stop or threading.Event()
    reading = _Reading(producer, require_name("group", group), name, start, source)

    def do(step: Step) -> Any:
        match step:
            case Read():
                return reading.read(*step)
            case Handle():
                handler(step.events)
            case Ack():
                reading.ack(step.entries)
            case Wait():
                stop.wait(step.seconds)
            case Missed() if on_missed:
                on_missed(step.error)
            case GiveUp() if on_poison:
                on_poison(*step)
                return True
        return None

    steps, answer = rules(batch, attempts, stop.is_set, time.monotonic), None
    with _signals(stop), suppress(StopIteration):
        while True:
            step = steps.send(answer)
            try:
                answer = do(step)
            except Exception as error:
                answer = error
    reading.tidy(name)


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

"""Which events a webhook sends next, and when: ``Line``. No I/O, no clock, no chance."""

from collections import deque
from collections.abc import Callable, Iterable, Sequence
from heapq import heappop, heappush
from itertools import islice
from typing import NamedTuple

WINDOW = 20_000
"""Most events in memory. What is behind them waits in Redis."""
RETRY_BASE, RETRY_CAP, GATE_CAP = 1.0, 300.0, 60.0
"""First and longest wait of an event that failed; longest of the endpoint, in seconds."""
ASKED_CAP = 3600.0
"""Longest Retry-After that is obeyed, in seconds."""
IN_A_ROW = 3
"""Failures without a success after which the endpoint is at fault, and not an event."""
TRIES = 5
"""Fewest failures of an event before it is given up, however long it has waited."""
TICK = 1.0
"""Longest wait, in seconds."""


class Waiting(NamedTuple):
    """An event that waits: its entry in Redis, its message, its id, its JSON."""

    entry: str
    message: str
    id: str
    text: str


class Failure(NamedTuple):
    """Why events were not taken. ``retry_after``: seconds that the endpoint asks to wait.

    ``is_general``: the answer would have been the same for any events.
    """

    reason: str
    is_general: bool = False
    retry_after: float | None = None


class Line:
    """The events of a group, each message's in order.

    ``most`` requests are at work at once, of up to ``batch`` events. After a failure one at a time
    is, until one succeeds. What was in a request that failed is tried again alone, with backoff,
    and holds up nothing but its message. A general failure, or several in a row, holds up all.
    """

    def __init__(self, batch: int, most: int, jitter: Callable[[float], float]) -> None:
        self._batch, self._most, self._jitter = batch, most, jitter
        self._messages = dict[str, deque[Waiting]]()
        self._ready, self._due = dict[str, None](), list[tuple[float, str]]()
        self._failures = dict[str, int]()
        self._held, self.at_work = 0, 0
        self._in_a_row, self._closed_until = 0, 0.0
        self._failed_at = self._closed_at = float("-inf")

    @property
    def room(self) -> int:
        """Returns how many more events fit."""
        return WINDOW - self._held

    def add(self, events: Iterable[Waiting]) -> None:
        """Adds events behind those that are there."""
        for event in events:
            if event.message not in self._messages:
                self._messages[event.message] = deque()
                self._ready[event.message] = None
            self._messages[event.message].append(event)
            self._held += 1

    def take(self, now: float) -> list[Waiting]:
        """Returns the events of the next request; none if it isn't time for one."""
        if now < self._closed_until or self.at_work >= (1 if self._in_a_row else self._most):
            return []
        while self._due and self._due[0][0] <= now:
            self._ready[heappop(self._due)[1]] = None
        taken = list[Waiting]()
        for message in list(islice(self._ready, self._batch)):
            has_failed = message in self._failures
            if len(taken) == self._batch or (has_failed and taken):
                break
            del self._ready[message]
            most = 1 if has_failed else self._batch - len(taken)
            taken += islice(self._messages[message], most)
            if has_failed:
                break
        self.at_work += bool(taken)
        return taken

    def wait(self, now: float) -> float:
        """Returns the longest time until the next look, in seconds."""
        if now < self._closed_until:
            return min(TICK, self._closed_until - now)
        return min([TICK, *(max(0.0, due - now) for due, _ in self._due[:1])])

    def succeeded(self, events: Sequence[Waiting], begun: float) -> None:
        """Removes the events, which were taken, of a request that began at ``begun``."""
        self.at_work -= 1
        if begun >= self._closed_at:  # otherwise it was at work beside the one that closed the gate
            self._in_a_row = 0
        self._remove(events)

    def failures(self, event: Waiting) -> int:
        """Returns how often the message's first event has failed, general failures aside."""
        return self._failures.get(event.message, 0)

    def failed(
        self,
        events: Sequence[Waiting],
        failure: Failure,
        begun: float,
        now: float,
        is_given_up: bool = False,
    ) -> None:
        """Notes that a request failed which began at ``begun``; removes what is given up."""
        self.at_work -= 1
        asked = min(failure.retry_after or 0.0, ASKED_CAP)
        if begun >= self._failed_at:  # otherwise it was at work beside one that failed
            self._in_a_row, self._failed_at = self._in_a_row + 1, now
        if failure.is_general or self._in_a_row >= IN_A_ROW:
            wait, self._closed_at = self._backoff(self._in_a_row, GATE_CAP), now
            self._closed_until = max(self._closed_until, now + max(wait, asked))
        if is_given_up:
            self._remove(events)
            return
        for message in {event.message: None for event in events}:
            if failure.is_general:
                self._ready[message] = None
                continue
            self._failures[message] = count = self._failures.get(message, 0) + 1
            wait = self._backoff(count, RETRY_CAP)
            heappush(self._due, (now + max(wait, asked), message))

    def _remove(self, events: Sequence[Waiting]) -> None:
        for event in events:
            self._messages[event.message].popleft()
        self._held -= len(events)
        for message in {event.message: None for event in events}:
            self._failures.pop(message, None)
            if self._messages[message]:
                self._ready[message] = None
            else:
                del self._messages[message]

    def _backoff(self, failures: int, cap: float) -> float:
        return self._jitter(min(cap, RETRY_BASE * 2.0 ** min(failures - 1, 20)))

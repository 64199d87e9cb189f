"""One look at a namespace: what waits, what keeps it back, what was counted, who reads the events.

Takes one round trip, and counts, ranks and first members only: it costs the same whatever waits.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import redis

from viber_courier.schemas.instants import SECOND
from viber_courier.schemas.lanes import LANES, POLL
from viber_courier.store.counters import GATES, Counters, read_counters
from viber_courier.store.keys import Keys
from viber_courier.store.scripts import source

PAUSABLE = (*LANES, POLL)
"""What an operator can pause."""
INSTANTS, GROUPS = 100, 50
"""At most so many instants of a set are searched for leases, and so many groups are looked at."""


class Backlog(NamedTuple):
    """The messages of a lane, or those that are polled.

    ``overdue``: seconds that the oldest has been due, 0 if none is. ``leased``: held by a worker,
    ``inside``: and inside a request; at least so many.
    """

    size: int
    due: int
    overdue: float
    leased: int
    inside: int

    @property
    def scheduled(self) -> int:
        """How many are due later and held by no worker."""
        return self.size - self.due - self.leased - self.inside


class Gate(NamedTuple):
    """``until``: when it lets a request try, seconds since 1970; None: it is open.

    ``failures`` and ``closings`` in a row.
    """

    until: float | None
    reason: str
    failures: int
    closings: int


class Group(NamedTuple):
    """A group that reads result events; None where Redis can't tell.

    ``lag``: events that it has not read, ``unacked``: read and not acknowledged; then the age in
    seconds of the oldest of each, 0 if there is none.
    """

    name: str
    lag: int | None
    unacked: int
    lag_seconds: float
    unacked_seconds: float


@dataclass(frozen=True, slots=True)
class Look:
    """What was there at ``now``, seconds since 1970 by Redis's clock.

    ``paused``: the reason by what is paused. ``swept``: seconds since the latest sweep, None if
    there was none. ``memory``: Redis's own account.
    """

    now: float
    lanes: Mapping[str, Backlog]
    watched: Backlog
    paused: Mapping[str, str]
    gates: Mapping[str, Gate]
    swept: float | None
    dead: int
    events: int
    groups: Sequence[Group]
    counters: Counters
    memory: Mapping[str, Any]


def take_look(client: redis.Redis, namespace: str) -> Look:
    """Looks at everything, in one round trip."""
    keys = Keys(namespace)
    names = [keys.results, keys.swept]
    for lane in keys.lanes:
        names += (lane, keys.fence("send"))
    names += (keys.watch, keys.fence(POLL))
    pipe: Any = client.pipeline(transaction=False)
    pipe.eval(source("look"), len(names), *names, "", INSTANTS, GROUPS)
    pipe.hgetall(keys.counts).hgetall(keys.requests)
    pipe.mget(map(keys.paused, PAUSABLE))
    for gate in GATES:
        pipe.hgetall(keys.gate(gate))
    pipe.zcard(keys.dead).xlen(keys.results).info("memory")
    (now, swept, sets, groups), counts, requests, paused, send, poll, *rest = pipe.execute()
    now = int(now) / SECOND
    dead, events, memory = rest
    backlogs = [_backlog(now, *each) for each in sets]
    return Look(
        now=now,
        lanes={lane: _both(*backlogs[2 * n : 2 * n + 2]) for n, lane in enumerate(LANES)},
        watched=backlogs[-1],
        paused={n: why for n, why in zip(PAUSABLE, paused, strict=True) if why is not None},
        gates={name: _gate(held) for name, held in zip(GATES, (send, poll), strict=True)},
        swept=now - int(swept) / 1000 if swept else None,
        dead=dead,
        events=events,
        groups=[_group(now, *each) for each in groups],
        counters=read_counters(counts, requests),
        memory=memory,
    )


def _backlog(now: float, size: int, due: int, oldest: str, leased: int, inside: int) -> Backlog:
    overdue = max(0.0, now - float(oldest) / SECOND) if oldest else 0.0
    return Backlog(size, due, overdue, leased, inside)


def _both(one: Backlog, two: Backlog) -> Backlog:
    pairs: Any = zip(one, two, strict=True)
    return Backlog(*map(sum, pairs))._replace(overdue=max(one.overdue, two.overdue))


def _gate(held: Mapping[str, str]) -> Gate:
    until = int(held["until"]) / SECOND if "until" in held else None
    failures, closings = int(held.get("row", 0)), int(held.get("step", 0))
    return Gate(until, held.get("reason", ""), failures, closings)


def _group(now: float, name: str, unacked: int, lag: int | str, *oldest: str) -> Group:
    millis = (int(id.partition("-")[0]) if id else now * 1000 for id in oldest)
    ages = [max(0.0, now - each / 1000) for each in millis]
    return Group(name, None if lag == "" else int(lag), unacked, *ages)

"""Takes one look at a namespace: backlogs, pauses and gates, counters, readers of events.

One round trip reads counts, ranks, first members and campaigns' counters only, so a look costs the
same however many messages wait.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from typing import Any, NamedTuple

import redis

from viber_courier.ops.counters import Counters, read_counters
from viber_courier.producers.campaigns import Progress, read_progress
from viber_courier.schemas.instants import SECOND
from viber_courier.schemas.lanes import LANES, POLL
from viber_courier.store.counters import GATES
from viber_courier.store.keys import Keys
from viber_courier.store.refusals import refusal
from viber_courier.store.scripts import Script, source

PAUSABLE = (*LANES, POLL)
"""What an operator can pause."""
INSTANTS, LINES, GROUPS = 100, 1000, 50
"""At most so many instants of a set are searched for leases, and so many lines of each kind and
groups are looked at."""
CAMPAIGNS, LATELY = 50, 86400.0
"""At most so many campaigns are read: the newest that go on, or have ended in so many seconds."""
_HERE: Any = files("viber_courier.ops")
_LOOK = source("look", _HERE)


class Backlog(NamedTuple):
    """The messages of a lane or of the watch set.

    ``overdue``: how long the oldest has been due, in seconds; 0 if none is. ``leased``: messages
    held by a worker that are in no request, ``inside``: those in one; there may be more of both.
    ``paused``: others of paused campaigns; they are not counted as due.
    """

    size: int
    due: int
    overdue: float
    leased: int
    inside: int
    paused: int = 0

    @property
    def scheduled(self) -> int:
        """Messages that are due later and that no worker holds."""
        return self.size - self.due - self.leased - self.inside - self.paused


class Gate(NamedTuple):
    """The state of a gate.

    ``until``: when it lets one request try, in seconds since 1970; None if it is open.
    ``failures``, ``closings``: how many in a row. ``silent``: answered requests in a row that said
    nothing about any message, ``silent_since``: when the first was, 0 if the latest said something.
    """

    until: float | None
    reason: str
    failures: int
    closings: int
    silent: int = 0
    silent_since: float = 0.0


class Group(NamedTuple):
    """A consumer group of the results stream.

    ``lag``: events that it has not read, None where Redis can't tell. ``unacked``: events that it
    has read and not acknowledged. ``..._seconds``: the age of the oldest of them, 0 if none.
    """

    name: str
    lag: int | None
    unacked: int
    lag_seconds: float
    unacked_seconds: float


class CampaignLook(NamedTuple):
    """A campaign.

    ``overdue``: how long its oldest message has been due, in seconds, by each lane in which one is;
    empty while it is paused.
    """

    progress: Progress
    overdue: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Look:
    """What Redis held at ``now``, in seconds since 1970 by its own clock.

    ``paused``: reasons by what is paused. ``swept``: seconds since the latest sweep, None if there
    was none. ``info``: the reply to INFO; empty if Redis refuses it. ``campaigns``: the newest, if
    they were asked for; ``left_out``: how many others were not read.
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
    info: Mapping[str, Any]
    campaigns: Sequence[CampaignLook] = ()
    left_out: int = 0


def silence(look: Look) -> tuple[int, float]:
    """Returns how many polls in a row brought nothing, and for how many seconds; 0 if none is due
    to come: then nobody waits for news."""
    gate = look.gates[POLL]
    if not gate.silent or not look.watched.size:
        return 0, 0.0
    return gate.silent, max(0.0, look.now - gate.silent_since)


def take_look(client: redis.Redis, namespace: str, retention: float | None = None) -> Look:
    """Reads everything in one round trip.

    ``retention``: for how many seconds ended campaigns are kept; None: no campaign is read.
    """
    keys = Keys(namespace)
    lanes = zip(keys.lanes, (lane for lane in LANES for _ in "01"), strict=True)
    sets = [key for s, lane in lanes for key in (s, keys.fence("send"), *keys.queues(lane))]
    sets += (keys.watch, keys.fence(POLL), *keys.queues(POLL))
    given = {**vars(keys), "sets": sets, "time": None}
    limits = {"instants": INSTANTS, "lines": LINES, "most": GROUPS}
    limits["shown"] = 0 if retention is None else CAMPAIGNS
    limits["ahead"] = round(max(0.0, (retention or 0.0) - LATELY) * SECOND)
    words, count = Script(client, _LOOK, given).words(**limits)
    pipe: Any = client.pipeline(transaction=False)
    pipe.eval(_LOOK.text, count, *words)
    pipe.hgetall(keys.counts).hgetall(keys.requests)
    pipe.mget(map(keys.paused, PAUSABLE))
    for gate in GATES:
        pipe.hgetall(keys.gate(gate))
    pipe.zcard(keys.dead).xlen(keys.results).info()
    *replies, info = pipe.execute(raise_on_error=False)
    for reply in (*replies, info):
        if isinstance(reply, redis.RedisError) and not (reply is info and refusal(reply)):
            raise reply
    (
        (now, swept, sets, groups, campaigns, left_out),
        counts,
        requests,
        paused,
        send,
        poll,
        dead,
        events,
    ) = replies
    now = int(now) / SECOND
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
        info=info if isinstance(info, Mapping) else {},
        campaigns=[_campaign(now, *each) for each in campaigns],
        left_out=left_out,
    )


def _campaign(now: float, name: str, flat: list[str], lines: Any, _: int) -> CampaignLook:
    overdue = dict[str, float]()
    for number, oldest in lines:
        lane = LANES[(number - 1) // 2]
        overdue[lane] = max(overdue.get(lane, 0.0), now - float(oldest) / SECOND)
    fields = dict(zip(flat[::2], flat[1::2], strict=True))
    return CampaignLook(read_progress(name, fields, round(now * SECOND)), overdue)


def _backlog(now: float, size: int, due: int, oldest: str, *held: int) -> Backlog:
    overdue = max(0.0, now - float(oldest) / SECOND) if oldest else 0.0
    return Backlog(size, due, overdue, *held)


def _both(one: Backlog, two: Backlog) -> Backlog:
    pairs: Any = zip(one, two, strict=True)
    return Backlog(*map(sum, pairs))._replace(overdue=max(one.overdue, two.overdue))


def _gate(held: Mapping[str, str]) -> Gate:
    until = int(held["until"]) / SECOND if "until" in held else None
    failures, closings = int(held.get("row", 0)), int(held.get("step", 0))
    silence = int(held.get("silent", 0)), int(held.get("silent_since", 0)) / SECOND
    return Gate(until, held.get("reason", ""), failures, closings, *silence)


def _group(now: float, name: str, unacked: int, lag: int | str, *oldest: str) -> Group:
    millis = [int(id.partition("-")[0]) if id else 0 for id in oldest]
    ages = [max(0.0, now - each / 1000) if each else 0.0 for each in millis]
    return Group(name, None if lag == "" else int(lag), unacked, *ages)

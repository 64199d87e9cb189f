"""The worker's side of Redis: lease what is due, mark it before the call, write what became of it.

Every method is one script call that a repeat with the same token doesn't do twice.
"""

from __future__ import annotations

import json
import logging
import time
import uuid
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Generic, NamedTuple, TypeVar

import redis

from viber_courier.schemas.encoding import loads
from viber_courier.schemas.event import Draft, provider_text
from viber_courier.schemas.instants import SECOND, micros, millis
from viber_courier.schemas.lanes import LANES, POLL
from viber_courier.schemas.settings import Settings
from viber_courier.schemas.status import DEAD, Status
from viber_courier.store.connection import passes
from viber_courier.store.gate import FAILURES, FIRST, LONGEST, REFUSALS, Shown, resent_by_default
from viber_courier.store.keys import Keys
from viber_courier.store.records import (
    WAITING,
    WATCHED,
    Step,
    Waiting,
    Watched,
    read_waiting,
    read_watched,
)
from viber_courier.store.scripts import script

logger = logging.getLogger(__name__)

WISH = 0.1
"""Seconds' worth of tokens that is worth waiting for: so many messages share a request."""
PAUSE = 0.2
"""Seconds between repeats of a call that Redis did not answer."""

M = TypeVar("M")


@dataclass(frozen=True, slots=True)
class Later:
    """The rate limit leaves nothing now: the caller is to come back in that many ``seconds``."""

    seconds: float


@dataclass(slots=True)
class Lease(Generic[M]):
    """Messages that are ours until ``ends`` (of the local monotonic clock), under one token.

    ``more``: others are due that the caller may take next. ``dry``: and there was no token left.
    """

    key: str
    token: str
    now: int
    taken: float
    ends: float
    more: bool
    ring: bool
    dry: bool
    refused: int
    messages: list[M]

    def at(self) -> int:
        """The Redis server's clock now, in microseconds, as far as it can be known here."""
        return self.now + int((time.monotonic() - self.taken) * SECOND)

    def left(self) -> float:
        """Seconds that the lease still holds, at least."""
        return self.ends - time.monotonic()


NO_EVENT: Draft = ("", "", "", "", "")


class Write(NamedTuple):
    """A step and its event (``draft``), for all messages that have come to the same; settle.lua.

    ``late``: the attempts that a record must show for it to be written without the lease.
    """

    was: Status
    step: Step
    draft: Draft = NO_EVENT
    counter: str = ""
    late: str = ""


class Move(NamedTuple):
    """What is written of one message; ``own`` are fields that no other one shares."""

    id: str
    write: Write
    provider_id: int | None = None
    own: tuple[str | int, ...] = ()


@dataclass(frozen=True, slots=True)
class Figures:
    """What one request adds: to ``Keys.counts``, and to the histograms (store/counters.py)."""

    counts: Mapping[str, int]
    histograms: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class Rate:
    """``limit`` tokens/s over all workers (0: no limit), at most ``burst`` saved up.

    ``each``: a message costs one, else a claim.
    """

    limit: float
    burst: float
    each: bool


class Store:
    """``now`` overrides the Redis server's clock in tests: microseconds, or "" for TIME."""

    def __init__(
        self, client: redis.Redis, settings: Settings, now: Callable[[], int | str] = lambda: ""
    ) -> None:
        self.redis, self._settings, self._now = client, settings, now
        self.keys = Keys(settings.namespace)
        names = ("claim", "begin", "settle", "sweep")
        self._scripts = {name: script(client, name) for name in names}

    def claim(self, lane: str, answered: bool) -> Lease[Waiting] | Later | None:
        """Lease due messages of the most urgent lane at or above ``lane``; None if none is due.

        ``answered`` says that the lane's doorbell brought us here and may be rung again.
        """
        sets, settings = self.keys.lanes_from(lane), self._settings
        got = self._claim(
            sets,
            *("send", lane, 2, settings.batch_size, settings.lease),
            Rate(settings.rate_limit, settings.rate_burst, each=True),
            answered,
            (self.keys.content, *WAITING),
        )
        if got is None or isinstance(got, Later):
            return got
        lease, rows, texts = got
        name = lease.key.split(":", 2)[2]
        # A campaign's messages share what is parsed, too: it isn't changed any more.
        commons = {digest: loads(text) for digest, text in texts.items() if text is not None}
        lease.messages = [read_waiting(row, name, commons) for row in rows]
        return lease

    def claim_watched(self, answered: bool) -> Lease[Watched] | Later | None:
        """Lease accepted messages whose next poll is due; None if there are none."""
        settings = self._settings
        got = self._claim(
            [self.keys.watch],
            *(POLL, POLL, 1, settings.status_batch_size, settings.deadline + 5),
            Rate(settings.poll_rate_limit, settings.poll_rate_limit, each=False),
            answered,
            ("", *WATCHED),
        )
        if got is None or isinstance(got, Later):
            return got
        lease, rows, _ = got
        lease.messages = [read_watched(row) for row in rows]
        return lease

    def begin(
        self, lease: Lease[Waiting], messages: Sequence[Waiting], inside: bool = True
    ) -> Lease[Waiting]:
        """Renew the lease of messages right before (``inside``) or after a request with them.

        Returns a Lease of those that are still ours. Repeated until Redis answers or the old lease
        is over; then the error is raised, and nothing may be sent.
        """
        settings = self._settings
        taken = time.monotonic()
        args = [self._now(), lease.token, micros(settings.lease), 2 if inside else 1]
        token, now, flags = self._until(
            lease.ends,
            "begin",
            [self.keys.once(uuid.uuid4().hex), self.keys.fence("send"), lease.key],
            [*args, millis(settings.lease), *(m.id for m in messages)],
        )
        ours = [m for m, flag in zip(messages, flags, strict=True) if flag == "1"]
        # Its instant is taken late and its end early: both err to the safe side.
        return replace(
            lease,
            token=token,
            now=int(now),
            taken=time.monotonic(),
            ends=taken + settings.lease,
            messages=ours,
        )

    def settle(
        self,
        lease: Lease[M],
        moves: Sequence[Move],
        shown: Shown | None = None,
        figures: Figures | None = None,
    ) -> tuple[list[Move], str]:
        """Write what became of leased messages, and what their request has shown of the provider.

        Returns those whose lease was another's by then, and "closed" or "opened" where that has
        changed at the gate. An answer in hand is never dropped: repeated until Redis answers or
        the lease is over.
        """
        if not moves:
            return [], ""
        settings, keys = self._settings, self.keys
        groups = defaultdict[tuple[Write, int], list[Move]](list)
        for move in moves:
            groups[move.write, len(move.own)].append(move)
        moves = [move for group in groups.values() for move in group]
        args: list[Any] = [keys.record, keys.content, lease.token, millis(settings.retention)]
        args += [millis(settings.content_retention), millis(settings.lease), self._now()]
        args += [self._of_request(shown, figures, lease) if shown else "", len(moves)]
        args += [move.id for move in moves]
        for (write, own), group in groups.items():
            args += (len(group), *_shared(write, own))
            for move in group:
                args += (provider_text(move.provider_id), *move.own)
        gate, other = ("poll", "send") if lease.key == keys.watch else ("send", "poll")
        names = [keys.once(uuid.uuid4().hex), lease.key, keys.watch, keys.results, keys.counts]
        names += [keys.gate(gate), keys.gate(other) if shown and shown.both else ""]
        names += [keys.dead, keys.requests]
        done, change = self._until(lease.ends, "settle", names, args)
        return [move for move, flag in zip(moves, done, strict=True) if flag == "0"], change

    def _of_request(self, shown: Shown, figures: Figures | None, lease: Lease[M]) -> str:
        return json.dumps(
            {
                "name": ":poll" if lease.key == self.keys.watch else ":send",
                "counts": figures.counts if figures else {},
                "histograms": figures.histograms if figures else {},
                "verdict": shown.verdict,
                "taken": shown.taken,
                "begun": lease.now,
                "takes": micros(self._settings.deadline),
                "limit": FAILURES,
                "base": micros(FIRST),
                "cap": micros(LONGEST),
                "most": REFUSALS,
                "pause": micros(shown.pause),
                "reason": shown.reason,
            }
        )

    def sweep(self) -> list[str]:
        """Names of the bells to ring for what is due and has none on its way."""
        keys, settings = self.keys, self._settings
        ring = self._scripts["sweep"](
            keys=[
                *(keys.results, keys.watch, keys.bell(POLL)),
                *keys.lanes,
                *map(keys.bell, LANES),
                *(keys.dead, keys.counts, keys.swept),
            ],
            args=[
                *(self._now(), millis(settings.bell_ttl)),
                *(millis(settings.results_retention), millis(settings.retention)),
            ],
        )
        return [(POLL, *LANES)[place] for place in ring]

    def count(self, name: str, by: int = 1) -> None:
        """Count something that isn't a change of status; not counted while Redis is away."""
        try:
            self.redis.hincrby(self.keys.counts, name, by)
        except redis.RedisError as error:
            logger.warning("not counted", extra={"what": name, "error": type(error).__name__})

    def count_request(self, figures: Figures) -> None:
        """Count a request that nothing is settled of; not counted while Redis is away."""
        try:
            with self.redis.pipeline() as pipe:
                for name, n in figures.counts.items():
                    pipe.hincrby(self.keys.counts, name, n)
                for name, n in figures.histograms.items():
                    pipe.hincrby(self.keys.requests, name, n)
                pipe.execute()
        except redis.RedisError as error:
            logger.warning("not counted", extra={"what": "request", "error": type(error).__name__})

    def attempts(self, id: str) -> tuple[int, int] | None:
        """Attempts and unsure ones of a message that waits; None if it has ended or moved on."""
        seen = self.redis.hmget(self.keys.record + id, "status", "final", "attempts", "unsure")
        if seen[0] != Status.QUEUED or seen[1]:
            return None
        return int(seen[2] or 0), int(seen[3] or 0)

    def _claim(
        self,
        sets: list[str],
        fence: str,
        bell: str,
        rank: int,
        size: int,
        seconds: float,
        rate: Rate,
        answered: bool,
        wanted: Iterable[str],
    ) -> tuple[Lease[Any], list[Any], dict[str, str | None]] | Later | None:
        keys, settings = self.keys, self._settings
        content, *fields = wanted
        taken = time.monotonic()
        # If a reply is lost, a repeat brings the batch that the first call leased to us.
        got = self._until(
            taken + seconds / 2,
            "claim",
            [
                *(keys.once(uuid.uuid4().hex), keys.fence(fence), keys.bell(bell)),
                *(keys.gate(fence), keys.bucket(fence), keys.counts, *sets),
                *map(keys.paused, (POLL,) if fence == POLL else LANES[: len(sets) // rank]),
            ],
            [
                *(self._now(), size, micros(seconds), int(answered), millis(settings.bell_ttl)),
                *(keys.record, content, keys.common, rank, millis(seconds)),
                *(micros(settings.deadline), resent_by_default(settings, len(sets))),
                *("resend", SECOND / rate.limit if rate.limit else 0, max(1.0, rate.burst)),
                *(int(rate.each), max(1, int(rate.limit * WISH)), *fields),
            ],
        )
        if len(got) < 3:
            return Later(int(got[0]) / SECOND) if got and got[1] == "1" else None
        place, token, now, more, flat, commons, refused = got
        width = 4 + len(fields)
        rows = [flat[start : start + width] for start in range(0, len(flat), width)]
        lease: Lease[Any] = Lease(
            key=sets[place - 1],
            token=token,
            now=int(now),
            taken=time.monotonic(),
            ends=taken + seconds,
            more=more in ("1", "2", "4"),
            ring=more == "2",
            dry=more == "4",
            refused=refused,
            messages=[],
        )
        return lease, rows, dict(zip(commons[::2], commons[1::2], strict=True))

    def _until(self, ends: float, name: str, keys: list[str], args: list[Any]) -> Any:
        """Call a script until Redis answers; raise its last error at ``ends`` (monotonic)."""
        while True:
            try:
                return self._scripts[name](keys=keys, args=args)
            except redis.RedisError as error:
                if time.monotonic() + PAUSE >= ends or not passes(error):
                    raise
                logger.warning(
                    "redis did not answer", extra={"script": name, "error": type(error).__name__}
                )
                time.sleep(PAUSE)


def _shared(write: Write, own: int) -> tuple[Any, ...]:
    """What settle.lua is told once for all messages of which it is the same."""
    step = write.step
    place = "dead" if step.status in DEAD else step.place
    head = (write.was, step.status or "", place, step.at, write.late, write.counter)
    return (*head, *write.draft, len(step.fields), own, *step.fields)

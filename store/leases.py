"""The worker's side of Redis: claim due messages, mark them before a request, write its results.

Each step is one script call. A repeated call changes nothing and returns the first answer.
"""

import json
import logging
import time
import uuid
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any, Generic, TypeVar

import redis

from viber_courier.schemas.encoding import loads
from viber_courier.schemas.instants import SECOND, micros, millis
from viber_courier.schemas.lanes import LANES, POLL
from viber_courier.schemas.settings import Settings
from viber_courier.schemas.status import Status
from viber_courier.schemas.suppression import number_hash
from viber_courier.store.clock import StepWatch, even_seconds
from viber_courier.store.counters import ODDITIES, Figures, Oddity, seen_field
from viber_courier.store.gate import ProviderSignal, rate_values, resent_by_default, signal_values
from viber_courier.store.keys import Keys
from viber_courier.store.records import (
    RESEND_OPTION,
    WAITING,
    WATCHED,
    Waiting,
    Watched,
    add_attempts,
    read_waiting,
    read_watched,
)
from viber_courier.store.repeats import call_until
from viber_courier.store.replicas import kept
from viber_courier.store.scripts import Script, shared
from viber_courier.store.suppressions import joined_hashes, suppress_blocked
from viber_courier.store.writes import Move, grouped

logger = logging.getLogger(__name__)

BROUGHT_BACK = 1000
"""Most members that one call of sweep.lua brings back after a step of the server's clock."""
POLL_LEASE_MARGIN = 5.0
"""Seconds that a lease of watched messages lasts beyond the deadline of a request."""

M = TypeVar("M", Waiting, Watched)


@dataclass(frozen=True, slots=True)
class RateLimited:
    """The rate limit leaves no tokens: the caller claims again in so many ``seconds``."""

    seconds: float


@dataclass(frozen=True, slots=True)
class Lease(Generic[M]):
    """Messages that this worker holds until ``ends``, under one token.

    ``more``: other messages are due that the caller may claim next; ``out_of_tokens``: the rate
    limit keeps them back. ``refused``: messages refused alone in a row before this claim. ``now``
    is the Redis server's clock, in microseconds, at ``measured_at``. ``measured_at`` and ``ends``
    are seconds of the local monotonic clock. ``is_probe``: a closed gate let this one message
    through, and no other until its request is settled, or has lasted too long. ``line``: the line
    of ``lane`` that it is from (store/keys.py); "": it is from none. ``suppressed``: messages that
    are held as well, but must not be sent: their numbers are suppressed.
    """

    key: str
    token: str
    now: int
    measured_at: float
    ends: float
    more: bool
    out_of_tokens: bool
    refused: int
    messages: Sequence[M]
    suppressed: Sequence[M] = ()
    lane: str = POLL
    line: str = ""
    is_probe: bool = False

    def server_now(self) -> int:
        """Returns an estimate of the Redis server's clock now, in microseconds."""
        return self.now + int((time.monotonic() - self.measured_at) * SECOND)

    def seconds_left(self) -> float:
        """Returns the least number of seconds that the lease still lasts."""
        return self.ends - time.monotonic()


class Store:
    """A worker's steps.

    Tests override the server's clock by ``now``: microseconds; "": TIME. ``even`` is this process's
    own clock for noticing steps of the server's; None: one that agrees with ``now``.
    """

    def __init__(
        self,
        client: redis.Redis,
        settings: Settings,
        now: Callable[[], int | str] = lambda: "",
        even: Callable[[], float] | None = None,
    ) -> None:
        self.redis, self._settings, self._now = client, settings, now
        self._even = even or (lambda: int(at) / SECOND if (at := now()) else even_seconds())
        self.keys, self._watch = Keys(settings.namespace), StepWatch()
        names = ("claim", "begin", "settle", "sweep", "wake", "refund", "suppress")
        given = shared(settings)
        self._scripts = {name: Script(client, name, given) for name in names}
        self._cursor = "0"  # of the sweep of suppressed numbers
        self._kept, self._numbers = dict[str, Script](), number_hash(settings.suppression_key)
        if must := kept(client, settings):
            self._kept = {name: Script(client, name, given, must) for name in ("begin", "settle")}

    def claim(self, lane: str, answered: bool) -> Lease[Waiting] | RateLimited | None:
        """Leases due messages of the most urgent lane at or above ``lane``; None if none is due.

        ``answered``: this claim answers the lane's bell, which may then be rung again.
        """
        keys, settings = self.keys, self._settings
        sets = keys.lanes_from(lane)
        started, seconds = time.monotonic(), settings.lease
        got = self._claim(
            "send",
            seconds,
            bell=keys.bell(lane),
            word=lane,
            groups=keys.groups_from(lane),
            rank=2,
            size=settings.batch_size,
            answered=answered,
            resent=resent_by_default(settings, len(sets)),
            each=True,
            fields=WAITING,
            **rate_values(settings.rate_limit, settings.rate_burst),
        )
        if len(got) < 3:
            return _rate_limited(got)
        place, *_, shared, _, campaign, is_cancelled = got
        # Messages share the parsed content as well: nothing changes it.
        texts = zip(shared[::2], shared[1::2], strict=True)
        commons = {digest: None if text is None else loads(text) for digest, text in texts}
        name, resend = LANES[(place - 1) // 2], place % 2 == 0
        given = name, resend, commons, is_cancelled == "1"
        messages = [read_waiting(row, *given) for row in _rows(got, WAITING)]
        key = sets[place - 1] + (f":{campaign}" if campaign else "")
        lease = _lease(got, key, started, seconds, messages)
        return replace(lease, lane=name, line=f"{resend:d}:{campaign}" if campaign else "")

    def claim_watched(self, answered: bool) -> Lease[Watched] | RateLimited | None:
        """Leases accepted messages whose next poll is due; None if none is due."""
        keys, settings = self.keys, self._settings
        started, seconds = time.monotonic(), settings.deadline + POLL_LEASE_MARGIN
        got = self._claim(
            POLL,
            seconds,
            bell=keys.bell(POLL),
            word=POLL,
            groups=[keys.watch, *keys.queues(POLL), keys.paused(POLL)],
            rank=1,
            size=settings.status_batch_size,
            answered=answered,
            contents="",
            resent=resent_by_default(settings, 1),
            each=False,
            fields=WATCHED,
            **rate_values(settings.poll_rate_limit, settings.poll_rate_limit),
        )
        if len(got) < 3:
            return _rate_limited(got)
        watched = [read_watched(row) for row in _rows(got, WATCHED)]
        return _lease(got, keys.watch, started, seconds, watched)

    def begin(
        self, lease: Lease[Waiting], messages: Sequence[Waiting], inside: bool = True
    ) -> Lease[Waiting]:
        """Renews the lease of messages right before a request with them (``inside``), or after it.

        Returns a Lease of those still held; beginning a request counts as an attempt. No request
        begins with a message whose number is suppressed. Repeats the call until Redis answers, and
        until enough replicas have the mark. Raises its error once the old lease is over: then
        nothing may be sent. Where only replicas lack it, returns a Lease that is over for the
        caller but not for Redis: nothing may be sent, and the messages can still be put back.
        """
        settings = self._settings
        started = time.monotonic()
        (token, now, flags), safe = self._until(
            lease.ends,
            "begin",
            lease.ends - settings.deadline if inside else None,
            fence=self.keys.fence("send"),
            set=lease.key,
            held=lease.token,
            lease=micros(settings.lease),
            kind=2 if inside else 1,
            once_ms=millis(settings.lease),
            hashes=joined_hashes(self._numbers, messages) if inside else "",
            ids=[message.id for message in messages],
            **self._line(lease),
        )
        counted = [add_attempts(message, inside) for message in messages]
        ours = [m for m, flag in zip(counted, flags, strict=True) if flag == "1"]
        stopped = [m for m, flag in zip(messages, flags, strict=True) if flag == "2"]
        # The clock is measured after the reply and the end from before the call: both are safe.
        now, at = int(now), time.monotonic()
        ends = started + settings.lease if safe else at
        held: Any = {"messages": ours, "suppressed": stopped}
        return replace(lease, token=token, now=now, measured_at=at, ends=ends, **held)

    def settle(
        self,
        lease: Lease[M],
        moves: Sequence[Move],
        signal: ProviderSignal | None = None,
        figures: Figures | None = None,
    ) -> tuple[list[Move], str]:
        """Writes the results of leased messages, and what their request shows of the provider.

        Returns the moves whose lease was lost, and "closed" or "opened" if the gate has changed,
        else "". Repeats the call until Redis answers or the lease is over, so that no answer of the
        provider is dropped. The answer to a /send counts as written once enough replicas have it.
        """
        if not moves:
            return [], ""
        settings, keys = self._settings, self.keys
        blocked = [move.id for move in moves if move.write.suppresses]
        if blocked and self._numbers and settings.suppress_blocked == "on":
            # Before the result is written: after a crash both are done again.
            script = self._scripts["suppress"]
            suppress_blocked(self.redis, script, settings, blocked, lease.server_now())
        moves, tail = grouped(moves)
        name, other = (POLL, "send") if lease.key == keys.watch else ("send", POLL)
        report = signal and signal_values(signal, settings, name, lease.now) | {
            "counts": figures.counts if figures else {},
            "histograms": figures.histograms if figures else {},
            "seen": [seen_field(n) for n in figures.counts if n in ODDITIES] if figures else [],
        }
        is_answer = signal is not None or any(move.write.late for move in moves)
        until = lease.ends if is_answer and lease.key != keys.watch else None
        (flags, change), _ = self._until(
            lease.ends,
            "settle",
            until,
            set=lease.key,
            gate=keys.gate(name),
            other_gate=keys.gate(other),
            held=lease.token,
            said=lease.server_now(),
            once_ms=millis(settings.lease),
            signal=json.dumps(report) if report else "",
            total=len(moves),
            tail=tail,
            **self._line(lease),
        )
        return [move for move, flag in zip(moves, flags, strict=True) if flag == "0"], change

    def sweep(self, unless_within: float = 0.0) -> list[str]:
        """Wakes workers for due messages that have no bell; returns the words that it left.

        Logs and counts a step of the server's clock.

        ``unless_within``: does nothing if the latest sweep is less than so many seconds old.
        """
        words, unfinished = list[str](), "1"
        while unfinished == "1":  # a step back left much ahead: it is brought back in parts
            began = self._even()
            now, before, unfinished, self._cursor, *more = self._scripts["sweep"](
                time=self._now(),
                cursor=self._cursor,
                unless_ms=millis(unless_within),
                expected_ms=self._watch.expected(began),
                most=BROUGHT_BACK,
            )
            words += more
            if step := self._watch.step(int(now), int(before), began, self._even()):
                self._note_step(step, int(now))
        return words

    def _note_step(self, seconds: float, at: int) -> None:
        logger.error("redis's clock has stepped", extra={"seconds": round(seconds, 1)})
        with self.redis.pipeline(transaction=False) as pipe:
            pipe.hincrby(self.keys.counts, Oddity.CLOCK_STEP, 1)
            pipe.hset(self.keys.clock, mapping={"at": at, "by": f"{seconds:.1f}"})
            pipe.execute()

    def wake(self, word: str) -> None:
        """Leaves a lane's name, or ``poll``, on the wake list."""
        self._scripts["wake"](word=word)

    def refund(self, lease: Lease[Waiting], count: int) -> None:
        """Gives back the tokens of so many messages that were not sent, also to their campaign.

        A probe took none. If Redis does not answer, time brings them back.
        """
        limit = self._settings.rate_limit
        if (limit or lease.line) and count > 0 and not lease.is_probe:
            given = {"time": self._now(), "cost": SECOND / limit if limit else 0, "count": count}
            bucket = self.keys.bucket("send")
            with suppress(redis.RedisError):
                self._scripts["refund"](bucket=bucket, **given, **self._line(lease))

    def end_probe(self, lease: Lease[Waiting]) -> None:
        """Lets another probe through, as this one has led to no request."""
        settings = self._settings
        if lease.seconds_left() > settings.lease - settings.deadline:  # or another one may be out
            with suppress(redis.RedisError):
                self.redis.hdel(self.keys.gate("send"), "probe")

    def next_wake(self, seconds: float) -> str | None:
        """Takes the next word off the wake list; None if none comes within so many seconds."""
        found: Any = self.redis.blpop([self.keys.wakes], timeout=seconds)
        return found[1] if found else None

    def count(self, lease: Lease[M], figures: Figures) -> None:
        """Adds to counters outside of ``settle``; loses the counts if Redis does not answer."""
        counts = figures.counts
        try:
            with self.redis.pipeline(transaction=False) as pipe:
                for name, n in counts.items():
                    pipe.hincrby(self.keys.counts, name, n)
                for name in ODDITIES.intersection(counts):
                    pipe.hset(self.keys.counts, seen_field(name), lease.server_now())
                for name, n in figures.histograms.items():
                    pipe.hincrby(self.keys.requests, name, n)
                pipe.execute()
        except redis.RedisError as error:
            more = {"what": ", ".join(counts), "error": type(error).__name__}
            logger.warning("not counted", extra=more)

    def attempts(self, id: str) -> tuple[int, int] | None:
        """Returns a waiting message's attempts and unsure attempts; None if it isn't waiting."""
        found = self.redis.hmget(self.keys.records + id, "status", "final", "attempts", "unsure")
        if found[0] != Status.QUEUED or found[1]:
            return None
        return int(found[2] or 0), int(found[3] or 0)

    def _line(self, lease: Lease[Any]) -> dict[str, str]:
        """Returns the arguments that say which line a lease is from."""
        names = ("lane_turns", "lane_held", "campaign", "line")
        values = (*self.keys.queues(lease.lane), lease.line[2:], lease.line)
        return dict(zip(names, values, strict=True))

    def _claim(self, what: str, seconds: float, **given: Any) -> list[Any]:
        """Calls claim.lua; if a reply is lost, the repeat returns the same batch."""
        keys = self.keys
        reply: list[Any]
        reply, _ = self._until(
            time.monotonic() + seconds / 2,
            "claim",
            fence=keys.fence(what),
            gate=keys.gate(what),
            bucket=keys.bucket(what),
            lease=micros(seconds),
            once_ms=millis(seconds),
            probe_us=micros(self._settings.deadline),
            option=RESEND_OPTION[0],
            choice=RESEND_OPTION[1],
            **given,
        )
        return reply

    def _until(
        self, ends: float, name: str, kept_until: float | None = None, **given: Any
    ) -> tuple[Any, bool]:
        """Calls a script as ``call_until`` does; without ``kept_until`` it waits for no replica."""
        once, script = self.keys.once(uuid.uuid4().hex), self._scripts[name]
        if kept_until is not None:
            script = self._kept.get(name, script)

        def call() -> Any:
            return script(once=once, time=self._now(), **given)

        return call_until(call, name, ends, kept_until or ends)


def _rate_limited(reply: list[Any]) -> RateLimited | None:
    return RateLimited(int(reply[0]) / SECOND) if reply and reply[1] == "1" else None


def _rows(reply: list[Any], fields: Sequence[str]) -> list[list[Any]]:
    """Returns id, kind, own content, common digest and fields of each message of a claim."""
    flat, width = reply[4], 4 + len(fields)
    return [flat[start : start + width] for start in range(0, len(flat), width)]


def _lease(
    reply: list[Any], key: str, started: float, seconds: float, messages: Sequence[M]
) -> Lease[M]:
    _, token, now, more, _, _, refused, *_ = reply
    at = time.monotonic(), started + seconds
    flags = more in ("1", "4"), more == "4"
    return Lease(key, token, int(now), *at, *flags, refused, messages, is_probe=more == "3")

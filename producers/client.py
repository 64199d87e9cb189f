"""The Producer: an app's whole view of viber-courier."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from itertools import islice
from typing import Any, NamedTuple

import redis

from viber_courier.producers.bells import Bells
from viber_courier.producers.dead import DeadLetters, Letter
from viber_courier.producers.results import Event, read_results
from viber_courier.schemas.encoding import digest_of, dumps
from viber_courier.schemas.errors import Conflict, EnqueueError, InvalidMessage, QueueFull
from viber_courier.schemas.event import Change, render, resent
from viber_courier.schemas.fields import ID, TTL_DEFAULT
from viber_courier.schemas.instants import millis
from viber_courier.schemas.lanes import LANES
from viber_courier.schemas.message import BOUNDED, Campaign, Job, parse_job, printable
from viber_courier.schemas.settings import Settings
from viber_courier.schemas.status import DEAD, Reason, Status
from viber_courier.store.connection import StoreUnavailable, connect, named, store_errors
from viber_courier.store.keys import Keys
from viber_courier.store.records import Record, pack, seen
from viber_courier.store.scripts import script

CHUNK = 500
"""Rows of ``enqueue_many`` that go to Redis in one round trip, and stand or fall together."""
PATIENCE = 0.02
"""Seconds that rows may take to come while a chunk's answer, and its bells, wait to be fetched."""

_Fault = tuple[int, Any, EnqueueError]
_Stored = tuple[list[str], list[_Fault]]
EventStream = Generator[Event, None, None]
OnInvalid = Callable[[int, Any, EnqueueError], object]


class _Row(NamedTuple):
    number: int
    raw: Any
    id: str
    job: Job
    resend_of: str = ""


class Producer:
    """Enqueues jobs, looks messages up, cancels them, reads result events; ``dead``: DeadLetters.

    One instance serves many threads, and processes forked after it was made. Methods raise
    StoreUnavailable when Redis can't be used; repeating them with the same ids is safe.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        client: redis.Redis | None = None,
        bells: Bells | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.settings = settings
        self.redis = connect(settings.redis_url) if client is None else client
        self._bells = Bells(settings) if bells is None else bells
        self._clock = clock
        self._keys = keys = Keys(settings.namespace)
        self._places = (*keys.lanes, *map(keys.bell, LANES), keys.dead, keys.pace)
        names = ("enqueue", "cancel", "reject", "get")
        self._scripts = {name: script(self.redis, name) for name in names}
        self.dead = DeadLetters(self.redis, settings, clock, self._store_again)

    @classmethod
    def from_env(cls, env: Mapping[str, str] = os.environ) -> Producer:
        """A Producer by the COURIER_* variables; the provider's are not needed. ConfigError."""
        return cls(Settings.from_env(env))

    def close(self) -> None:
        """Give the connections back; the Producer may still be used and opens new ones."""
        self.redis.close()

    def enqueue(self, job: Mapping[str, Any]) -> str:
        """Store one job and return its id, in one round trip.

        Raises InvalidMessage, Conflict, QueueFull or StoreUnavailable; then nothing is stored
        (after StoreUnavailable it may be: repeat with the same id).
        """
        parsed = parse_job(job, self._clock())
        id = parsed.id or _fresh_id()
        if self._store([_Row(0, job, id, parsed)], None):
            raise Conflict(id)
        return id

    def enqueue_many(
        self,
        rows: Iterable[Mapping[str, Any]],
        common: Mapping[str, Any] | None = None,
        on_invalid: OnInvalid | None = None,
    ) -> list[str]:
        """Store a job for each row merged over ``common``; ids in row order.

        Any iterable is streamed in chunks, one round trip each. A wrong row raises its error with
        ``.row`` and ``.accepted`` and nothing of its chunk is stored, earlier chunks are; with
        ``on_invalid(row number, row, error)`` it is left out instead.
        """
        campaign = None if common is None else Campaign(common, self._clock())
        accepted: list[str] = []
        fetch: Callable[[], _Stored] | None = None
        begun = 0.0

        def wait() -> None:
            nonlocal fetch
            if fetch:
                done, fetch = fetch, None
                ids, faults = done()
                accepted.extend(ids)
                for fault in faults:  # after its chunk is stored: good rows have their ids by then
                    (on_invalid or _ignore)(*fault)

        def taken() -> Iterator[tuple[int, Any]]:
            for numbered in enumerate(rows):
                if fetch and time.monotonic() - begun > PATIENCE:
                    wait()
                yield numbered

        try:
            # More than may wait at all could never be stored, however often it is tried.
            size = min(CHUNK, self.settings.max_queued or CHUNK)
            numbered = taken()
            try:
                while chunk := list(islice(numbered, size)):
                    good, faults = self._parse(chunk, campaign)  # while the one before is stored
                    wait()
                    fetch = self._begin_chunk(good, faults, campaign, on_invalid is None)
                    begun = time.monotonic()
            finally:
                wait()  # also where the rows raise: what is stored by then is told
        except (EnqueueError, StoreUnavailable) as error:
            error.accepted = accepted
            raise
        return accepted

    def get(self, id: str) -> Record | None:
        """The message with this id; None if there is none (any more)."""
        state = self._state(id)
        return None if state is None else Record(**seen(id, *state))

    def cancel(self, id: str) -> bool:
        """Stop a message. True only if it never left and now never will, also the second time.

        A message that may have left in an earlier attempt ends ``unconfirmed``, and the answer is
        False. One that is inside a request right now is left alone: False, ask again.
        """
        while (state := self._state(id)) is not None:
            record = Record(**seen(id, *state))
            if record.status != Status.QUEUED:
                return record.status == Status.CANCELLED and record.provider_id is None
            answer = self._cancel(record, state[0])
            if answer == "done":
                return record.unsure == 0
            if answer in ("busy", "lost"):
                return False
        return False

    def results(self, group: str, consumer: str, block: float = 5.0) -> EventStream:
        """Result events for this consumer of a group, until ``block`` seconds of silence.

        A new group starts at the oldest kept event. First come the consumer's own unacknowledged
        events, then others' that nobody acknowledged for 60 s, then new ones.
        """
        names = named("group", group), named("consumer", consumer)
        return read_results(self.redis, self._keys.results, *names, block)

    def _begin_chunk(
        self, rows: list[_Row], faults: list[_Fault], campaign: Campaign | None, strict: bool
    ) -> Callable[[], _Stored]:
        """Send what is right to Redis. What is returned waits until it is stored, and tells ids and
        faults in row order. ``strict`` raises the first fault instead."""
        if faults and strict:
            raise faults[0][2]
        fetch = self._begin_store(_distinct(rows), campaign)

        def done() -> _Stored:
            kept, clashes = rows, fetch()
            while clashes:
                faults.extend(
                    _fault(r.number, r.raw, Conflict(r.id)) for r in rows if r.id in clashes
                )
                if strict:
                    raise faults[0][2]
                kept = [row for row in kept if row.id not in clashes]
                clashes = self._store(_distinct(kept), campaign)
            return [row.id for row in kept], sorted(faults, key=lambda fault: fault[0])

        return done

    def _parse(
        self, chunk: list[tuple[int, Any]], campaign: Campaign | None
    ) -> tuple[list[_Row], list[_Fault]]:
        now, digests = self._clock(), dict[str, str]()
        rows, faults = list[_Row](), list[_Fault]()
        for number, raw in chunk:
            try:
                job = campaign.parse_row(raw, now) if campaign else parse_job(raw, now)
                id = job.id or _fresh_id()
                if digests.setdefault(id, job.digest) != job.digest:
                    raise Conflict(id)
                rows.append(_Row(number, raw, id, job))
            except EnqueueError as error:
                faults.append(_fault(number, raw, error))
        return rows, faults

    def _store_again(self, letters: list[Letter], gap: int) -> set[str]:
        return self._store([_Row(0, None, new, job, old) for old, new, job in letters], None, gap)

    def _store(self, rows: list[_Row], campaign: Campaign | None, gap: int | str = "") -> set[str]:
        """One call of enqueue.lua; the ids that conflict, and then nothing was written.

        ``gap``: of dead letters sent again, microseconds between one and the next.
        """
        if not rows:
            return set()
        names, args = self._call(rows, campaign, gap)
        with store_errors():
            reply = self._scripts["enqueue"](keys=names, args=args)
        return self._told(rows, reply)

    def _begin_store(self, rows: list[_Row], campaign: Campaign | None) -> Callable[[], set[str]]:
        """As ``_store``, whose answer is fetched later."""
        if not rows:
            return set
        names, args = self._call(rows, campaign, "")
        with store_errors():
            fetch = self._scripts["enqueue"].begin(keys=names, args=args)

        def done() -> set[str]:
            with store_errors():
                reply = fetch()
            return self._told(rows, reply)

        return done

    def _told(self, rows: list[_Row], reply: Any) -> set[str]:
        state, *more = reply
        if state == "full":
            raise QueueFull(self.settings.max_queued)
        if state == "conflict":
            return {rows[int(index)].id for index in more[0]}
        self._bells.ring(LANES[lane - 1] for lane in more[0])
        return set()

    def _call(
        self, rows: list[_Row], campaign: Campaign | None, gap: int | str
    ) -> tuple[list[str], list[str | int]]:
        """Keys and arguments of enqueue.lua."""
        keys, settings = self._keys, self.settings
        content = dumps(campaign.wire) if campaign else ""
        digest = digest_of(campaign.wire) if campaign else ""
        fields = [_fields(row) for row in rows]
        width = 7 + max(map(len, fields))
        args: list[str | int] = [
            *("", keys.record, keys.content, settings.max_queued),
            *(
                millis(settings.bell_ttl),
                Status.QUEUED,
                content,
                millis(settings.content_retention),
            ),
            *(digest, width, gap),
        ]
        for row, pairs in zip(rows, fields, strict=True):
            job = row.job
            args += (row.id, job.digest, 2 * LANES.index(job.lane) + job.resend + 1)
            args += (job.send_at or "", (job.ttl or TTL_DEFAULT) * 1_000_000, pack(job.own))
            args += (len(pairs) // 2, *pairs, *[""] * (width - 7 - len(pairs)))
        common = keys.common + digest if campaign else ""
        return [keys.results, keys.counts, common, *self._places], args

    def _state(self, id: str) -> tuple[dict[str, str], float] | None:
        """The record's fields and its score (0: in no lane)."""
        named("id", id)
        with store_errors():
            score, *pairs = self._scripts["get"](
                keys=self._keys.lanes, args=[self._keys.record + id, id]
            )
        fields = dict(zip(pairs[::2], pairs[1::2], strict=True))
        return (fields, float(score or 0)) if fields else None

    def _cancel(self, record: Record, state: Mapping[str, str]) -> str:
        to = Status.UNCONFIRMED if record.unsure else Status.CANCELLED
        draft = render(
            Change(
                status=to,
                final=True,
                reason=Reason.BY_REQUEST,
                attempts=record.attempts,
                unsure=record.unsure,
                metadata=record.metadata,
                more=resent(record.resend_of),
            ),
            self.settings.namespace,
            self._clock(),
        )
        keys, settings = self._keys, self.settings
        with store_errors():
            answer: str = self._scripts["cancel"](
                keys=[keys.results, keys.counts, *keys.lanes, keys.dead if to in DEAD else ""],
                args=[
                    *(keys.record + record.id, record.id, state.get("n", "0")),
                    *(state.get("attempts", "0"), Status.QUEUED, to, *draft),
                    *(keys.content + record.id, millis(settings.retention)),
                    *(millis(settings.content_retention), f"{to}:{Reason.BY_REQUEST}"),
                    *("reason", Reason.BY_REQUEST),
                ],
            )
        return answer

    def reject(self, raw: object, fresh: str, error: EnqueueError) -> str:
        """Record a job refused where its app can't see the exception; the id of its event.

        That is the job's own id, or ``fresh`` where it has none, an unusable or a taken one.
        Repeating the call changes nothing.
        """
        conflict = isinstance(error, Conflict)
        faults = error.errors if isinstance(error, InvalidMessage) else {"id": [str(error)]}
        more: dict[str, Any] = {"errors": faults}
        own = raw.get("id") if isinstance(raw, Mapping) else None
        reason = Reason.CONFLICT if conflict else Reason.INVALID
        digest = digest_of(BOUNDED.repr(raw))
        if own is not None:
            usable = isinstance(own, str) and ID.fullmatch(own)
            if usable and self._reject(str(own), digest, reason, more):
                return str(own)
            more["requestedId"] = printable(own)
        self._reject(fresh, digest, reason, more)
        return fresh

    def _reject(self, id: str, digest: str, reason: Reason, more: Mapping[str, Any]) -> bool:
        change = Change(status=Status.REJECTED, final=True, reason=reason, more=more)
        draft = render(change, self.settings.namespace, self._clock())
        keys = self._keys
        with store_errors():
            done = self._scripts["reject"](
                keys=[keys.results, keys.counts, keys.dead],
                args=[
                    *(keys.record + id, id, digest, Status.REJECTED, *draft),
                    *(millis(self.settings.retention), f"{Status.REJECTED}:{reason}"),
                    *("reason", reason),
                ],
            )
        return bool(done)


def _fresh_id() -> str:
    """A random UUID (RFC 9562, version 4) as text, in a sixth of the time that uuid.uuid4 takes."""
    raw = os.urandom(16)
    digits, variant = raw.hex(), "89ab"[raw[8] >> 6]
    return f"{digits[:8]}-{digits[8:12]}-4{digits[13:16]}-{variant}{digits[17:20]}-{digits[20:]}"


def _ignore(*_: object) -> None:
    """Without ``on_invalid`` the first fault was raised."""


def _fault(number: int, raw: Any, error: EnqueueError) -> _Fault:
    error.row = number
    return number, raw, error


def _distinct(rows: list[_Row]) -> list[_Row]:
    return list({row.id: row for row in rows}.values())


def _fields(row: _Row) -> list[str]:
    job = row.job
    fields = ["resendOf", row.resend_of] if row.resend_of else []  # the script wants it first
    if job.ttl is not None:
        fields += ["ttl", str(job.ttl)]
    if job.on_unsure:
        fields += ["onUnsure", job.on_unsure]
    if job.metadata:
        fields += ["metadata", job.metadata]
    return fields

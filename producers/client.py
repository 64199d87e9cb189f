"""The Producer: an app's whole view of viber-courier."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from itertools import islice
from typing import Any, NamedTuple

import redis

from viber_courier.producers.dead import DeadLetters, Letter
from viber_courier.producers.results import Event, read_results
from viber_courier.schemas.errors import Conflict, EnqueueError, QueueFull
from viber_courier.schemas.event import Change, render, resent
from viber_courier.schemas.message import Campaign, Job, parse_job
from viber_courier.schemas.settings import Settings
from viber_courier.schemas.status import DEAD, Reason, Status
from viber_courier.store.connection import StoreUnavailable, connect, require_name, store_errors
from viber_courier.store.keys import Keys
from viber_courier.store.records import Record, end_fields, new_message, record_values, version_of
from viber_courier.store.scripts import Script, shared

CHUNK_ROWS = 500
"""Rows of ``enqueue_many`` that go to Redis in one round trip, and stand or fall together."""

COLLECT_AFTER = 0.02
"""Longest wait for the next row before collecting the previous chunk's reply, in seconds."""

_Fault = tuple[int, Any, EnqueueError]
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
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.settings = settings
        self.redis = connect(settings.redis_url) if client is None else client
        self._clock = clock
        self._keys = Keys(settings.namespace)
        names, given = ("enqueue", "cancel", "get"), shared(settings)
        self._scripts = {name: Script(self.redis, name, given) for name in names}
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
        stream = _Stream(self, campaign, on_invalid)
        # More than may wait at all could never be stored, however often it is tried.
        size = min(CHUNK_ROWS, self.settings.max_queued or CHUNK_ROWS)
        try:
            try:
                numbered = stream.numbered(rows)
                while chunk := list(islice(numbered, size)):
                    stream.send(*self._parse(chunk, campaign))
            finally:
                stream.collect()  # also where the rows raise: what is stored by then is accepted
        except (EnqueueError, StoreUnavailable) as error:
            error.accepted = stream.accepted
            raise
        return stream.accepted

    def get(self, id: str) -> Record | None:
        """The message with this id; None if there is none (any more)."""
        state = self._state(id)
        return None if state is None else Record(**record_values(id, *state))

    def cancel(self, id: str) -> bool:
        """Stop a message. True only if it never left and now never will, also the second time.

        A message that may have left in an earlier attempt ends ``unconfirmed``, and the answer is
        False. One that is inside a request right now is left alone: False, ask again.
        """
        while (state := self._state(id)) is not None:
            record = Record(**record_values(id, *state))
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
        names = require_name("group", group), require_name("consumer", consumer)
        return read_results(self.redis, self._keys.results, *names, block)

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

    def _store(
        self, rows: list[_Row], campaign: Campaign | None, gap: int | None = None
    ) -> set[str]:
        """Stores rows; returns the ids that conflict, and then nothing was written.

        ``gap``: of dead letters sent again, microseconds between one and the next.
        """
        return self._begin_store(rows, campaign, gap)()

    def _begin_store(
        self, rows: list[_Row], campaign: Campaign | None, gap: int | None = None
    ) -> Callable[[], set[str]]:
        """As ``_store``; what is returned fetches the reply."""
        if not rows:
            return set
        messages = [new_message(row.id, row.job, row.resend_of) for row in rows]
        width = max(map(len, messages))
        tail = [value for each in messages for value in (*each, *[""] * (width - len(each)))]
        digest = campaign.digest if campaign else ""
        with store_errors():
            fetch_reply = self._scripts["enqueue"].begin(
                common=self._keys.commons + digest,
                status=Status.QUEUED,
                common_digest=digest,
                common_json=campaign.json if campaign else "",
                gap=gap,
                width=width,
                tail=tail,
            )

        def fetch_clashes() -> set[str]:
            with store_errors():
                state, *conflicts = fetch_reply()
            if state == "full":
                raise QueueFull(self.settings.max_queued)
            return {rows[int(place)].id for places in conflicts for place in places}

        return fetch_clashes

    def _state(self, id: str) -> tuple[dict[str, str], float] | None:
        """Returns the record's fields and its score (0: in no lane)."""
        require_name("id", id)
        with store_errors():
            score, *pairs = self._scripts["get"](record=self._keys.records + id, id=id)
        fields = dict(zip(pairs[::2], pairs[1::2], strict=True))
        return (fields, float(score or 0)) if fields else None

    def _cancel(self, record: Record, fields: Mapping[str, str]) -> str:
        """Returns what cancel.lua answers about the record as it was seen."""
        to = Status.UNCONFIRMED if record.unsure else Status.CANCELLED
        change = Change(
            status=to,
            final=True,
            reason=Reason.BY_REQUEST,
            attempts=record.attempts,
            unsure=record.unsure,
            metadata=record.metadata,
            more=resent(record.resend_of),
        )
        n, attempts = version_of(fields)
        with store_errors():
            answer: str = self._scripts["cancel"](
                record=self._keys.records + record.id,
                content=self._keys.contents + record.id,
                id=record.id,
                n=n,
                attempts=attempts,
                **{"from": Status.QUEUED},
                to=to,
                is_dead=to in DEAD,
                draft=render(change, self.settings.namespace, self._clock()),
                count=f"{to}:{Reason.BY_REQUEST}",
                fields=end_fields(Reason.BY_REQUEST),
            )
        return answer


class _Stream:
    """Rows of one ``enqueue_many``: while Redis stores a chunk, the next is read and checked."""

    def __init__(
        self, producer: Producer, campaign: Campaign | None, on_invalid: OnInvalid | None
    ) -> None:
        self._producer, self._campaign, self._on_invalid = producer, campaign, on_invalid
        self._rows, self._faults = list[_Row](), list[_Fault]()
        self._fetch_clashes: Callable[[], set[str]] | None = None
        self._sent_at = 0.0
        self.accepted: list[str] = []

    def numbered(self, rows: Iterable[Any]) -> Iterator[tuple[int, Any]]:
        """Numbers the rows; collects the chunk before where they are slow to come."""
        for numbered in enumerate(rows):
            if self._fetch_clashes and time.monotonic() - self._sent_at > COLLECT_AFTER:
                self.collect()
            yield numbered

    def send(self, rows: list[_Row], faults: list[_Fault]) -> None:
        """Collects the chunk before, then sends what is right of this one to Redis."""
        self.collect()
        self._raise_first(faults)
        self._rows, self._faults = rows, faults
        self._fetch_clashes = self._producer._begin_store(_distinct(rows), self._campaign)
        self._sent_at = time.monotonic()

    def collect(self) -> None:
        """Waits until the chunk is stored; adds its ids, and tells of its faults in row order."""
        if self._fetch_clashes is None:
            return
        fetch_clashes, self._fetch_clashes = self._fetch_clashes, None
        clashes, rows, faults = fetch_clashes(), self._rows, self._faults
        while clashes:
            faults += [_fault(r.number, r.raw, Conflict(r.id)) for r in rows if r.id in clashes]
            self._raise_first(faults)
            rows = [row for row in rows if row.id not in clashes]
            clashes = self._producer._store(_distinct(rows), self._campaign)
        self.accepted += [row.id for row in rows]
        for fault in sorted(faults, key=lambda fault: fault[0]):  # good rows have their ids by then
            if self._on_invalid:
                self._on_invalid(*fault)

    def _raise_first(self, faults: list[_Fault]) -> None:
        if faults and self._on_invalid is None:
            raise faults[0][2]


def _fresh_id() -> str:
    """Returns a random UUID (RFC 9562, version 4), in a sixth of the time of uuid.uuid4."""
    raw = os.urandom(16)
    digits, variant = raw.hex(), "89ab"[raw[8] >> 6]
    return f"{digits[:8]}-{digits[8:12]}-4{digits[13:16]}-{variant}{digits[17:20]}-{digits[20:]}"


def _fault(number: int, raw: Any, error: EnqueueError) -> _Fault:
    error.row = number
    return number, raw, error


def _distinct(rows: list[_Row]) -> list[_Row]:
    return list({row.id: row for row in rows}.values())

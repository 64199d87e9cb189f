"""The Producer, through which apps use viber-courier."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import islice
from typing import Any, NamedTuple

import redis

from viber_courier.producers.dead import DeadLetters, Letter
from viber_courier.producers.results import EventStream, Start, read_results, require_start
from viber_courier.schemas.errors import Conflict, EnqueueError, QueueFull
from viber_courier.schemas.event import Change, render, resent
from viber_courier.schemas.message import Campaign, Job, named, parse_job
from viber_courier.schemas.settings import Settings
from viber_courier.schemas.status import DEAD, Reason, Status
from viber_courier.store.connection import StoreUnavailable, connect, require_name, store_errors
from viber_courier.store.keys import Keys
from viber_courier.store.records import Record, end_fields, new_message, record_values, version_of
from viber_courier.store.scripts import Script, shared

CHUNK_ROWS = 500
"""Rows of ``enqueue_many`` in one round trip; they are stored together or not at all."""

COLLECT_AFTER = 0.02
"""Longest wait for the next row before collecting the previous chunk's reply, in seconds."""

_Fault = tuple[int, Any, EnqueueError]
OnInvalid = Callable[[int, Any, EnqueueError], object]


class _Row(NamedTuple):
    number: int
    raw: Any
    id: str
    job: Job
    resend_of: str = ""


class Producer:
    """Enqueues jobs, looks messages up, cancels them and reads result events.

    ``dead`` holds the dead letters. Threads, and processes forked later, can share one instance.
    Methods raise StoreUnavailable if Redis can't be used; repeat them with the same ids.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        client: redis.Redis | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.settings = settings
        self.redis = connect(settings.redis_url, settings.namespace) if client is None else client
        self._clock = clock
        self._keys = Keys(settings.namespace)
        names, given = ("enqueue", "cancel", "get"), shared(settings)
        self._scripts = {name: Script(self.redis, name, given) for name in names}
        self.dead = DeadLetters(self.redis, settings, clock, self._store_again)

    @classmethod
    def from_env(cls, env: Mapping[str, str] = os.environ) -> Producer:
        """Returns a Producer with the settings of the COURIER_* variables. Raises ConfigError."""
        return cls(Settings.from_env(env))

    def close(self) -> None:
        """Closes the connections. A later call opens new ones."""
        self.redis.close()

    def ping(self) -> None:
        """Raises StoreUnavailable if Redis can't be used. For an app's own health check."""
        with store_errors():
            self.redis.ping()

    def enqueue(self, job: Mapping[str, Any]) -> str:
        """Stores one job in one round trip, and returns its id.

        Raises InvalidMessage, Conflict or QueueFull: then nothing is stored. After StoreUnavailable
        it may be stored: repeat the call with the same id.
        """
        parsed = self._parse_job(job, self._clock())
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
        """Stores a job for each row, merged over ``common``; returns their ids in row order.

        Streams any iterable in chunks, one round trip each. A wrong row raises its error with
        ``.row`` and ``.accepted``: nothing of its chunk is stored, but earlier chunks are. With
        ``on_invalid(row number, row, error)`` a wrong row is left out instead.
        """
        common = named(common, self.settings.source)
        campaign = None if common is None else Campaign(common, self._clock())
        stream = _Stream(self, campaign, on_invalid)
        # A chunk larger than max_queued could never be stored.
        size = min(CHUNK_ROWS, self.settings.max_queued or CHUNK_ROWS)
        try:
            try:
                numbered = stream.numbered(rows)
                while chunk := list(islice(numbered, size)):
                    stream.send(*self._parse(chunk, campaign))
            finally:
                stream.collect()  # also if the rows raise: their error names what is stored
        except (EnqueueError, StoreUnavailable) as error:
            error.accepted = stream.accepted
            raise
        return stream.accepted

    def get(self, id: str) -> Record | None:
        """Returns the message with this id; None if there is none, or its record has expired."""
        state = self._state(id)
        return None if state is None else Record(**record_values(id, *state))

    def cancel(self, id: str) -> bool:
        """Stops a message; returns True if it was never sent and never will be.

        A message that may have been sent ends ``unconfirmed``, and the result is False. A message
        inside a request stays as it is, and the result is False: call again. Repeated calls return
        the same.
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

    def results(
        self,
        group: str,
        consumer: str,
        block: float = 5.0,
        *,
        start: Start = "oldest",
        source: str = "",
    ) -> EventStream:
        """Yields result events for a consumer of a group, until none comes for ``block`` seconds.

        ``start`` is where a new group starts: ``oldest`` is the oldest event that is kept, ``new``
        the next one, a datetime the first one written then or later. With a ``source`` only events
        of its messages come; the others are acknowledged. A consumer first gets its own
        unacknowledged events, then those that others have not acknowledged for 60 s, then new ones.
        Raises EventsMissed, once, where events were deleted before the group had them: go on with
        the same stream or a new one.
        """
        require_start(start)
        names = require_name("group", group), require_name("consumer", consumer)
        return EventStream(read_results(self.redis, self._keys, *names, block, start, source))

    def _parse_job(self, job: Any, now: float) -> Job:
        return parse_job(named(job, self.settings.source), now)

    def _parse(
        self, chunk: list[tuple[int, Any]], campaign: Campaign | None
    ) -> tuple[list[_Row], list[_Fault]]:
        now, digests = self._clock(), dict[str, str]()
        rows, faults = list[_Row](), list[_Fault]()
        for number, raw in chunk:
            try:
                job = campaign.parse_row(raw, now) if campaign else self._parse_job(raw, now)
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
        """Stores rows; returns the ids that conflict, if any: then nothing is stored.

        ``gap``: for dead letters sent again, microseconds from one due time to the next.
        """
        return self._begin_store(rows, campaign, gap)()

    def _begin_store(
        self, rows: list[_Row], campaign: Campaign | None, gap: int | None = None
    ) -> Callable[[], set[str]]:
        """Begins to store rows; returns a function that waits and returns what ``_store`` does."""
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
        """Returns a record's fields and its score (0: in no lane); None if there is no record."""
        require_name("id", id)
        with store_errors():
            score, *pairs = self._scripts["get"](record=self._keys.records + id, id=id)
        fields = dict(zip(pairs[::2], pairs[1::2], strict=True))
        return (fields, float(score or 0)) if fields else None

    def _cancel(self, record: Record, fields: Mapping[str, str]) -> str:
        """Cancels the message if its record is unchanged; returns cancel.lua's reply."""
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
    """Stores the rows of one ``enqueue_many``: Redis stores a chunk while the next is checked."""

    def __init__(
        self, producer: Producer, campaign: Campaign | None, on_invalid: OnInvalid | None
    ) -> None:
        self._producer, self._campaign, self._on_invalid = producer, campaign, on_invalid
        self._rows, self._faults = list[_Row](), list[_Fault]()
        self._fetch_clashes: Callable[[], set[str]] | None = None
        self._sent_at = 0.0
        self.accepted: list[str] = []

    def numbered(self, rows: Iterable[Any]) -> Iterator[tuple[int, Any]]:
        """Yields the rows with their numbers; collects the previous chunk if rows come slowly."""
        for numbered in enumerate(rows):
            if self._fetch_clashes and time.monotonic() - self._sent_at > COLLECT_AFTER:
                self.collect()
            yield numbered

    def send(self, rows: list[_Row], faults: list[_Fault]) -> None:
        """Collects the previous chunk, then sends the valid rows of this one to Redis."""
        self.collect()
        self._raise_first(faults)
        self._rows, self._faults = rows, faults
        self._fetch_clashes = self._producer._begin_store(_distinct(rows), self._campaign)
        self._sent_at = time.monotonic()

    def collect(self) -> None:
        """Waits until the chunk is stored; adds its ids and reports its faults in row order."""
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
        for fault in sorted(faults, key=lambda fault: fault[0]):  # valid rows have their ids by now
            if self._on_invalid:
                self._on_invalid(*fault)

    def _raise_first(self, faults: list[_Fault]) -> None:
        if faults and self._on_invalid is None:
            raise faults[0][2]


def _fresh_id() -> str:
    """Returns a random UUID (RFC 9562, version 4) in a sixth of uuid.uuid4's time."""
    raw = os.urandom(16)
    digits, variant = raw.hex(), "89ab"[raw[8] >> 6]
    return f"{digits[:8]}-{digits[8:12]}-4{digits[13:16]}-{variant}{digits[17:20]}-{digits[20:]}"


def _fault(number: int, raw: Any, error: EnqueueError) -> _Fault:
    error.row = number
    return number, raw, error


def _distinct(rows: list[_Row]) -> list[_Row]:
    return list({row.id: row for row in rows}.values())

"""What a Producer's calls do besides in a test: note what was accepted, and fail as asked."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from viber_courier.producers.client import OnInvalid, Producer
from viber_courier.producers.results import Event, EventStream
from viber_courier.schemas.errors import EnqueueError, QueueFull
from viber_courier.schemas.message import parse_job
from viber_courier.schemas.settings import Settings
from viber_courier.store.connection import StoreUnavailable
from viber_courier.store.scripts import Script

FULL = 0.5
"""The limit of a full queue, for enqueue.lua: not even one message may wait."""


@dataclass(frozen=True, slots=True)
class Asked:
    """A message that the app asked for: its id, and the job as the app gave it.

    A row of ``enqueue_many`` is merged over its ``common``.
    """

    id: str
    job: dict[str, Any]


class Fault(NamedTuple):
    """An error that a call is to raise (Courier.fail_next)."""

    error: Exception
    after: int
    stored: bool


@dataclass
class Book:
    """What calls note and look at.

    ``accepted`` holds namespace and id of each message, ``settings`` the producers' by namespace.
    """

    outbox: list[Asked] = field(default_factory=list)
    accepted: set[tuple[str, str]] = field(default_factory=set)
    settings: dict[str, Settings] = field(default_factory=dict)
    faults: deque[Fault] = field(default_factory=deque)
    is_full: bool = False

    @contextmanager
    def call(self) -> Iterator[None]:
        """Raises the next fault before a call, or after it if the call is to do its work."""
        fault = self.faults.popleft() if self.faults else None
        if fault and not fault.stored:
            raise fault.error
        yield
        if fault:
            raise fault.error

    @contextmanager
    def enqueuing(self) -> Iterator[None]:
        """Names the limit that a full queue seems to have."""
        try:
            yield
        except QueueFull as error:
            if self.is_full:
                QueueFull.__init__(error, max(1, len(self.outbox)))
            raise

    def note(self, producer: Producer, id: str, job: Mapping[str, Any]) -> None:
        """Notes an accepted job; a repeated one is the same message."""
        key = producer.settings.namespace, id
        self.settings[key[0]] = producer.settings
        if key not in self.accepted:
            self.accepted.add(key)
            self.outbox.append(Asked(id, _copied(job)))

    def settings_of(self, namespace: str) -> Settings:
        """Returns the settings of a namespace's Producer; the defaults if it isn't known."""
        return self.settings.get(namespace) or Settings(namespace=namespace)


class _RowsError(StoreUnavailable):
    """The app's rows have raised; as a StoreUnavailable it learns what is stored by then."""


class _Rows:
    """The rows of one ``enqueue_many``, noted as they are read."""

    def __init__(self, rows: Iterable[Any], common: Any, on_invalid: OnInvalid | None) -> None:
        self._rows, self._on_invalid = rows, on_invalid
        self._common = common if isinstance(common, Mapping) else {}
        self._jobs = dict[int, dict[str, Any]]()
        self.refuse = on_invalid and self._refuse
        self.error: Exception | None = None

    def read(self, most: int | None) -> Iterator[Any]:
        """Yields the rows, at most so many."""
        rows = enumerate(self._rows)
        while most is None or len(self._jobs) < most:
            try:
                number, row = next(rows)
            except StopIteration:
                return
            except (EnqueueError, StoreUnavailable):
                raise
            except Exception as error:
                self.error = error
                raise _RowsError from error
            merged = {**self._common, **row} if isinstance(row, Mapping) else {}
            self._jobs[number] = _copied({k: v for k, v in merged.items() if v is not None})
            yield row

    def _refuse(self, number: int, row: Any, error: EnqueueError) -> None:
        del self._jobs[number]
        if self._on_invalid:
            self._on_invalid(number, row, error)

    def accepted(self, ids: Sequence[str]) -> Iterator[tuple[str, dict[str, Any]]]:
        """Yields the ids of accepted rows, which are in row order, with their jobs."""
        return zip(ids, self._jobs.values(), strict=False)


def _copied(job: Mapping[str, Any]) -> dict[str, Any]:
    """Returns a copy of a job, which has no more than these two levels."""
    return {k: dict(v) if isinstance(v, Mapping) else v for k, v in job.items()}


def _enqueue(book: Book, original: Any) -> Any:
    def enqueue(producer: Producer, job: Mapping[str, Any]) -> str:
        if book.faults:
            parse_job(job, time.time())  # a wrong job is refused before Redis is asked
        with book.call(), book.enqueuing():
            id: str = original(producer, job)
            book.note(producer, id, job)
        return id

    return enqueue


def _enqueue_many(book: Book, original: Any) -> Any:
    def enqueue_many(
        producer: Producer,
        rows: Iterable[Mapping[str, Any]],
        common: Mapping[str, Any] | None = None,
        on_invalid: OnInvalid | None = None,
    ) -> list[str]:
        fault = book.faults[0] if book.faults else None
        ids: list[str] = []
        asked = _Rows(rows, common, on_invalid)
        most = fault.after if fault and not fault.stored else None
        try:
            with book.enqueuing():
                ids = original(producer, asked.read(most), common, asked.refuse)
        except (EnqueueError, StoreUnavailable) as error:
            ids = list(error.accepted)
            if asked.error:
                raise asked.error from None
            raise
        finally:
            for id, job in asked.accepted(ids):
                book.note(producer, id, job)
        if fault:
            book.faults.remove(fault)
            if isinstance(fault.error, EnqueueError | StoreUnavailable):
                fault.error.accepted = ids[: fault.after]
            raise fault.error
        return ids

    return enqueue_many


def _other(book: Book, original: Any) -> Any:
    def call(producer: Producer, *args: Any, **named: Any) -> Any:
        with book.call():
            return original(producer, *args, **named)

    return call


def _next_event(book: Book, original: Any) -> Any:
    def send(stream: EventStream, value: None) -> Event:
        failing = bool(book.faults)
        try:
            with book.call():
                event: Event = original(stream, value)
            return event
        finally:
            if failing:
                stream.close()  # as behind any error

    return send


def _words(book: Book, original: Any) -> Any:
    def words(script: Any, **given: Any) -> Any:
        if book.is_full and script._source.name == "enqueue":
            given["max_queued"] = FULL
        return original(script, **given)

    return words


CALLS: Sequence[tuple[type, str, Callable[[Book, Any], Any]]] = (
    (Producer, "enqueue", _enqueue),
    (Producer, "enqueue_many", _enqueue_many),
    *((Producer, name, _other) for name in ("get", "cancel", "ping")),
    (EventStream, "send", _next_event),
    (Script, "words", _words),
)
"""The methods that change while a Courier is entered, and how each is made of what it was."""

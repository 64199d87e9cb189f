"""What a Producer's calls do besides in a test: note what was accepted, and fail as asked.

Producer and AsyncProducer share their calls, which are coroutines (producers/calls.py).
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from viber_courier.producers.calls import Calls
from viber_courier.producers.campaigns import AsyncCampaign
from viber_courier.producers.results import _Feed
from viber_courier.producers.rows import OnInvalid, OnSuppressed, fresh_id
from viber_courier.schemas.errors import EnqueueError, InvalidMessage, QueueFull
from viber_courier.schemas.message import parse_job
from viber_courier.schemas.settings import Settings
from viber_courier.schemas.template import Template
from viber_courier.store.connection import StoreUnavailable
from viber_courier.store.scripts import Script

FULL = 0.5
"""The limit of a full queue, for enqueue.lua: not even one message may wait."""


@dataclass(frozen=True, slots=True)
class Asked:
    """A message that the app asked for: its id, and the job as the app gave it.

    A row of ``enqueue_many`` is merged over its ``common``, and rendered if it is a template's.
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

    def note(self, calls: Calls, id: str, job: Mapping[str, Any]) -> None:
        """Notes an accepted job; a repeated one is the same message."""
        key = calls.settings.namespace, id
        self.settings[key[0]] = calls.settings
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

    def __init__(
        self, rows: Any, common: Any, on_invalid: OnInvalid | None, template: bool
    ) -> None:
        self._rows, self._on_invalid, self._count = rows, on_invalid, 0
        self._texts = Template(common) if template else None
        common = self._texts.common if self._texts else common
        self._common = common if isinstance(common, Mapping) else {}
        self._jobs = dict[int, dict[str, Any]]()
        self.refuse = on_invalid and self._refuse
        self.error: Exception | None = None

    def read(self, most: int | None) -> Iterator[Any] | AsyncIterator[Any]:
        """Returns the rows, at most so many, as the app gave them: to be awaited or not."""
        if isinstance(self._rows, AsyncIterable):
            return self._read_async(self._rows, most)
        return self._read(most)

    def _read(self, most: int | None) -> Iterator[Any]:
        rows = iter(self._rows)
        while most is None or len(self._jobs) < most:
            with self._errors():
                try:
                    row = next(rows)
                except StopIteration:
                    return
            yield self._noted(row)

    async def _read_async(self, rows: AsyncIterable[Any], most: int | None) -> AsyncIterator[Any]:
        found = aiter(rows)
        while most is None or len(self._jobs) < most:
            with self._errors():
                try:
                    row = await anext(found)
                except StopAsyncIteration:
                    return
            yield self._noted(row)

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except (EnqueueError, StoreUnavailable):
            raise
        except Exception as error:
            self.error = error
            raise _RowsError from error

    def _noted(self, row: Any) -> Any:
        given = row
        with suppress(InvalidMessage):
            given = self._texts.render(row) if self._texts else row
        merged = {**self._common, **given} if isinstance(given, Mapping) else {}
        self._jobs[self._count] = _copied({k: v for k, v in merged.items() if v is not None})
        self._count += 1
        return row

    def _refuse(self, number: int, row: Any, error: EnqueueError) -> None:
        del self._jobs[number]
        if self._on_invalid:
            self._on_invalid(number, row, error)

    def numbered(self, ids: Sequence[str]) -> dict[int, str]:
        """Returns the ids of the last accepted rows, by their rows' numbers."""
        return dict(zip([*self._jobs][-len(ids) :], ids, strict=True)) if ids else {}

    def accepted(self, ids: Sequence[str]) -> Iterator[tuple[str, dict[str, Any]]]:
        """Yields the ids of accepted rows, which are in row order, with their jobs."""
        return zip(ids, self._jobs.values(), strict=False)


def _copied(job: Mapping[str, Any]) -> dict[str, Any]:
    """Returns a copy of a job, which has no more than these two levels."""
    return {k: dict(v) if isinstance(v, Mapping) else v for k, v in job.items()}


def _enqueue(book: Book, original: Any) -> Any:
    async def enqueue(calls: Calls, job: Any) -> str:
        asked = job
        if book.faults:
            parsed = parse_job(job, time.time())  # a wrong job is refused before Redis is asked
            asked = {**job, "id": parsed.id or fresh_id()}
            if isinstance(error := book.faults[0].error, StoreUnavailable):
                error.id = asked["id"]
        with book.call(), book.enqueuing():
            id: str = await original(calls, asked)
            book.note(calls, id, job)
        return id

    return enqueue


def _store_rows(book: Book, original: Any) -> Any:
    async def store_rows(
        calls: Calls,
        rows: Any,
        common: Any,
        on_invalid: OnInvalid | None,
        on_suppressed: OnSuppressed | None,
        template: bool,
        *more: Any,
    ) -> list[str]:
        fault = book.faults[0] if book.faults else None
        ids: list[str] = []
        asked = _Rows(rows, common, on_invalid, template)
        most = fault.after if fault and not fault.stored else None
        try:
            with book.enqueuing():
                given = asked.read(most), common, asked.refuse, on_suppressed, template
                ids = await original(calls, *given, *more)
        except (EnqueueError, StoreUnavailable) as error:
            ids = list(error.accepted)
            if asked.error:
                raise asked.error from None
            raise
        finally:
            for id, job in asked.accepted(ids):
                book.note(calls, id, job)
        if fault:
            book.faults.remove(fault)
            if isinstance(fault.error, EnqueueError | StoreUnavailable):
                fault.error.accepted = ids[: fault.after]
            if isinstance(fault.error, StoreUnavailable):
                fault.error.in_doubt = asked.numbered(ids[len(fault.error.accepted) :])
            raise fault.error
        return ids

    return store_rows


def _other(book: Book, original: Any) -> Any:
    async def call(owner: object, *args: Any, **named: Any) -> Any:
        with book.call():
            return await original(owner, *args, **named)

    return call


def _words(book: Book, original: Any) -> Any:
    def words(script: Any, **given: Any) -> Any:
        if book.is_full and script._source.name == "enqueue":
            given["max_queued"] = FULL
        return original(script, **given)

    return words


CALLS: Sequence[tuple[type, str, Callable[[Book, Any], Any]]] = (
    (Calls, "enqueue", _enqueue),
    (Calls, "_store_rows", _store_rows),
    *((Calls, name, _other) for name in ("get", "cancel", "ping")),
    *((AsyncCampaign, name, _other) for name in ("progress", "pause", "resume", "cancel")),
    (_Feed, "_fill", _other),
    (Script, "words", _words),
)
"""The methods that change while a Courier is entered, and how each is made of what it was."""

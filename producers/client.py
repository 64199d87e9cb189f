"""The Producer, through which apps use viber-courier; producers/calls.py has the rules."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, Literal, overload

import redis

from viber_courier.producers.calls import Calls, settings_from
from viber_courier.producers.campaigns import Campaign, Progress
from viber_courier.producers.dead import DeadLetters
from viber_courier.producers.results import EventStream, Start
from viber_courier.producers.rows import CHUNK_ROWS, OnInvalid, OnSuppressed
from viber_courier.producers.suppressions import Suppressions
from viber_courier.schemas.settings import Settings
from viber_courier.store.connection import connect
from viber_courier.store.keys import Keys
from viber_courier.store.records import Record
from viber_courier.store.replies import Link, run
from viber_courier.store.scripts import Script

if TYPE_CHECKING:
    from viber_courier import types

__all__ = ["CHUNK_ROWS", "Producer"]


class Producer:
    """Enqueues jobs, looks messages up, cancels them and reads result events.

    ``dead`` holds the dead letters, ``suppressions`` the suppressed numbers. Threads, and processes
    forked later, can share one instance. Methods raise StoreUnavailable if Redis can't be used;
    repeat them with the same ids.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        client: redis.Redis | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.settings, self._keys = settings, Keys(settings.namespace)
        self.redis = connect(settings.redis_url, settings.namespace) if client is None else client
        self._calls = Calls(Link(self.redis, Script, time.sleep), settings, clock)
        self.dead = DeadLetters(self._calls.dead)
        self.suppressions = Suppressions(self._calls.suppressions)

    @classmethod
    def from_env(cls, env: Mapping[str, str] = os.environ) -> Producer:
        """Returns a Producer with the settings of the COURIER_* variables. Raises ConfigError."""
        return cls(settings_from(env))

    def close(self) -> None:
        """Closes the connections. A later call opens new ones."""
        self.redis.close()

    def ping(self) -> None:
        """Raises StoreUnavailable if Redis can't be used. For an app's own health check.

        It is raised too if only a newer version of this package can read what is stored there.
        """
        run(self._calls.ping())

    def enqueue(self, job: types.Job) -> str:
        """Stores one job in one round trip, and returns its id.

        Raises InvalidMessage, Conflict or QueueFull: then nothing is stored. After StoreUnavailable
        it may be stored: repeat the call with the same id, the error's ``id``.
        """
        return run(self._calls.enqueue(job))

    @overload
    def enqueue_many(
        self,
        rows: Iterable[types.Job],
        common: None = None,
        on_invalid: OnInvalid | None = None,
        on_suppressed: OnSuppressed | None = None,
    ) -> list[str]: ...
    @overload
    def enqueue_many(
        self,
        rows: Iterable[types.Row],
        common: types.Common,
        on_invalid: OnInvalid | None = None,
        on_suppressed: OnSuppressed | None = None,
    ) -> list[str]: ...
    @overload
    def enqueue_many(
        self,
        rows: Iterable[Mapping[str, Any]],
        common: types.Common | None = None,
        on_invalid: OnInvalid | None = None,
        on_suppressed: OnSuppressed | None = None,
        *,
        template: Literal[True],
    ) -> list[str]: ...
    def enqueue_many(
        self,
        rows: Iterable[Any],
        common: Any = None,
        on_invalid: OnInvalid | None = None,
        on_suppressed: OnSuppressed | None = None,
        *,
        template: bool = False,
    ) -> list[str]:
        """Stores a job for each row, merged over ``common``; returns their ids in row order.

        Streams any iterable in chunks, one round trip each. A wrong row raises its error with
        ``.row`` and ``.accepted``: nothing of its chunk is stored, but earlier chunks are. With
        ``on_invalid(row number, row, error)`` a wrong row is left out instead. QueueFull comes when
        there is room for no more; StoreUnavailable has the rows ``.in_doubt``. A row whose number
        is suppressed is stored and ends at once: ``on_suppressed(row number, row, id)`` gets it.

        With ``template``, texts may hold ``{name}`` for a row's column: a key that is no field of a
        job. ``{{`` and ``}}`` are braces. A row without a value for it is wrong.
        """
        given: Any = {"on_suppressed": on_suppressed, "template": template}
        return run(self._calls.enqueue_many(rows, common, on_invalid, **given))

    def campaign(
        self,
        name: str,
        common: types.Common | None = None,
        *,
        template: bool = False,
        rate: float | None = None,
    ) -> Campaign:
        """Returns the campaign with this name; stores nothing before ``add`` or ``pause``.

        ``common`` and ``template`` are those of ``enqueue_many``, for ``add``. ``rate``: most
        messages a second, under COURIER_RATE_LIMIT; ``add`` writes it down.
        """
        return Campaign(self._calls.campaign(name, common, template=template, rate=rate))

    def campaigns(self) -> list[Progress]:
        """Returns how far each campaign has come, the newest first.

        One is kept for COURIER_RETENTION after its last message has ended.
        """
        return run(self._calls.campaigns())

    def get(self, id: str) -> Record | None:
        """Returns the message with this id; None if there is none, or its record has expired."""
        return run(self._calls.get(id))

    def cancel(self, id: str) -> bool:
        """Stops a message; returns True if it was never sent and never will be.

        A message that may have been sent ends ``unconfirmed``, and the result is False. A message
        inside a request stays as it is, and the result is False: call again. Repeated calls return
        the same.
        """
        return run(self._calls.cancel(id))

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
        return EventStream(self._calls._reader(group, consumer, start, source), block)

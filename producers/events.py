"""Result events, and how an app acknowledges them."""

from __future__ import annotations

import asyncio
import json
import logging
import threading
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

import redis

from viber_courier.schemas.event import is_from
from viber_courier.schemas.status import Status
from viber_courier.store.replies import reply, run

if TYPE_CHECKING:
    from viber_courier.types import EventData

logger = logging.getLogger(__name__)

READ_COUNT = 100
"""Most events in one read, and most acknowledgements in one flush."""
FLUSH_AFTER = 1.0
"""Longest time that an acknowledgement waits for others, in seconds."""


class _Sender:
    """Sends acknowledgements, many at once; after the reader has ended (not ``open``) each at once.

    If Redis does not answer they are kept and sent with the next. Events may then come twice.
    """

    def __init__(self, client: Any, stream: str, group: str) -> None:
        self._client, self._stream, self._group = client, stream, group
        self._waiting: list[str] = []
        self.open = True

    def _note(self, entry: str) -> bool:
        """Returns whether it must be sent now."""
        self._waiting.append(entry)
        return not self.open or len(self._waiting) >= READ_COUNT

    async def _send(self) -> None:
        waiting, self._waiting = self._waiting, []
        try:
            if waiting:
                await reply(self._client.xack(self._stream, self._group, *waiting))
                waiting = []
        except redis.RedisError as error:
            logger.warning("not acknowledged", extra={"error": type(error).__name__})
        finally:
            self._waiting[:0] = waiting


class Acks(_Sender):
    """Acknowledgements of a blocking reader; threads may share it."""

    def __init__(self, client: Any, stream: str, group: str) -> None:
        super().__init__(client, stream, group)
        self._lock = threading.Lock()
        self._timer: threading.Timer | None = None

    def add(self, entry: str) -> None:
        with self._lock:
            now = self._note(entry)
            if not now and self._timer is None:
                self._timer = threading.Timer(FLUSH_AFTER, self.flush)
                self._timer.daemon = True
                self._timer.start()
        if now:
            self.flush()

    def flush(self) -> None:
        with self._lock:
            if self._timer is not None:
                self._timer.cancel()
                self._timer = None
            run(self._send())

    def close(self) -> None:
        """Sends what waits, and from now on each at once."""
        self.open = False
        self.flush()


class AsyncAcks(_Sender):
    """Acknowledgements of an asyncio reader."""

    _later: asyncio.Task[None] | None = None

    async def add(self, entry: str) -> None:
        if self._note(entry):
            await self.flush()
        elif self._later is None:
            self._later = asyncio.create_task(self._flush_later())

    async def flush(self) -> None:
        later, self._later = self._later, None
        if later is not None:
            later.cancel()
            await asyncio.wait([later])
        await self._send()

    async def close(self) -> None:
        """Sends what waits, and from now on each at once."""
        self.open = False
        await self.flush()

    async def _flush_later(self) -> None:
        await asyncio.sleep(FLUSH_AFTER)
        await self._send()
        self._later = None


@dataclass(frozen=True, slots=True)
class _Event:
    """A CloudEvents 1.0 event; docs/events.md describes ``data``. Dedupe by ``id``."""

    id: str
    type: str
    subject: str
    time: str
    data: EventData
    _entry: str = field(repr=False, compare=False)
    _acks: Any = field(repr=False, compare=False)

    @property
    def sequence(self) -> int:
        """Returns the event's number among those of its message, which count from 1."""
        return int(self.id.rpartition(":")[2])

    @property
    def status(self) -> Status:
        """Returns the message's new status."""
        return Status(self.data["status"])

    @property
    def final(self) -> bool:
        """Returns whether this is the message's last event."""
        return bool(self.data["final"])


class Event(_Event):
    """A result event, as Producer.results gives it."""

    __slots__ = ()

    def ack(self) -> None:
        """Acknowledges the event: its group does not get it again."""
        self._acks.add(self._entry)


class AsyncEvent(_Event):
    """A result event, as AsyncProducer.results gives it."""

    __slots__ = ()

    async def ack(self) -> None:
        """Acknowledges the event: its group does not get it again."""
        await self._acks.add(self._entry)


E = TypeVar("E", Event, AsyncEvent)


def read_event(
    made: type[E], entry: str, fields: dict[str, str] | None, acks: Any, source: str = ""
) -> E | None:
    """Returns the event of an entry of the stream; None if it isn't one, or of another source."""
    try:
        if fields is None:
            raise ValueError
        if source and not is_from(fields["event"], source):
            return None
        body = json.loads(fields["event"])
        return made(
            body["id"], body["type"], body["subject"], body["time"], body["data"], entry, acks
        )
    except (ValueError, KeyError, TypeError):
        logger.error("entry is not an event", extra={"entry": entry})
        return None

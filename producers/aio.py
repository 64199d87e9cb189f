"""The AsyncProducer, through which apps use viber-courier from an event loop."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable, Mapping
from weakref import WeakSet

from redis import asyncio as aio

from viber_courier.producers.calls import Calls, settings_from
from viber_courier.producers.events import AsyncAcks
from viber_courier.producers.results import AsyncEventStream, Start
from viber_courier.schemas.settings import Settings
from viber_courier.store.aio import AsyncScript, connect
from viber_courier.store.replies import Link

SLICE_ROWS = 50
"""Rows that are checked before other tasks have their turn: one or two milliseconds."""


class AsyncProducer(Calls):
    """Producer for asyncio: the same calls, to be awaited. All tasks of a loop can share one.

    ``async with`` closes it. A call that is cancelled may have been done: repeat it with the same
    ids. ``enqueue_many`` also takes async iterables.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        client: aio.Redis | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.redis = connect(settings.redis_url, settings.namespace) if client is None else client
        super().__init__(Link(self.redis, AsyncScript, asyncio.sleep, SLICE_ROWS), settings, clock)
        self._acks = WeakSet[AsyncAcks]()

    @classmethod
    def from_env(cls, env: Mapping[str, str] = os.environ) -> AsyncProducer:
        """Returns an AsyncProducer with the settings of the COURIER_* variables.

        Raises ConfigError.
        """
        return cls(settings_from(env))

    async def __aenter__(self) -> AsyncProducer:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Ends the streams of events, and closes the connections. A later call opens new ones."""
        for acks in list(self._acks):
            await acks.close()
        await self.redis.connection_pool.disconnect()

    def results(
        self,
        group: str,
        consumer: str,
        block: float = 5.0,
        *,
        start: Start = "oldest",
        source: str = "",
    ) -> AsyncEventStream:
        """Yields result events as Producer.results does, by ``async for``; ``await event.ack()``.

        You can go on after a cancelled read; events that you have not acknowledged then come again.
        """
        reader = self._reader(group, consumer, start, source)
        acks = reader.acks(AsyncAcks)
        self._acks.add(acks)
        return AsyncEventStream(reader, acks, block)

"""Keeps requests from waiting for a Redis that is away."""

import asyncio

import redis

from viber_courier import AsyncProducer, StoreUnavailable
from viber_courier.ops.gateway.problems import again

MAX_CALLS = 256
"""Calls to Redis at once; one more is told to come again."""
PROBE_INTERVAL = 0.2
"""Seconds between two looks at whether Redis is back."""


class Guard:
    """A context for calls to Redis. After one finds it away, all are refused until it is back."""

    def __init__(self, producer: AsyncProducer) -> None:
        self._producer, self._calls = producer, 0
        self._probe: asyncio.Task[None] | None = None

    def require(self) -> None:
        """Raises Problem if a call can't be made now."""
        if self._probe and not self._probe.done():
            raise again(503, "the store can't be used now: repeat with the same ids")
        if self._calls >= MAX_CALLS:
            raise again(503, "too many requests are at work")

    def __enter__(self) -> None:
        self.require()
        self._calls += 1

    def __exit__(self, _: object, error: object, __: object) -> None:
        self._calls -= 1
        if _is_away(error) and (self._probe is None or self._probe.done()):
            self._probe = asyncio.create_task(self._await_return())

    async def _await_return(self) -> None:
        while True:
            await asyncio.sleep(PROBE_INTERVAL)
            try:
                return await self._producer.ping()
            except StoreUnavailable as error:
                if not _is_away(error):
                    return

    async def close(self) -> None:
        """Ends the looks."""
        if self._probe:
            self._probe.cancel()
            await asyncio.wait([self._probe])


def _is_away(error: object) -> bool:
    """Returns whether Redis did not answer. What else is wrong, it says at once."""
    away = redis.ConnectionError, redis.TimeoutError
    return isinstance(error, StoreUnavailable) and isinstance(error.__cause__, away)

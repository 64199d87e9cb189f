"""An AsyncProducer behind Producer's calls, so that one suite tests both."""

from __future__ import annotations

import asyncio
import inspect
import threading
from collections.abc import Coroutine, Iterator
from dataclasses import replace
from typing import Any

import fakeredis
import redis

from viber_courier import AsyncProducer
from viber_courier.schemas.settings import Settings


class Loop:
    """An event loop in a thread of its own, as a web server has it."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self.loop.run_forever)
        self._thread.start()

    def run(self, call: Coroutine[Any, Any, Any]) -> Any:
        return asyncio.run_coroutine_threadsafe(call, self.loop).result(60)

    def close(self) -> None:
        self.run(self.loop.shutdown_asyncgens())
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join()
        self.loop.close()


class Awaited:
    """Calls whatever is asked of the object in the loop, and waits for it."""

    def __init__(self, loop: Loop, object: Any) -> None:
        self._loop, self._object = loop, object

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._object, name)
        if name in ("dead", "suppressions", "_calls"):
            return Awaited(self._loop, found)
        return self._call(found) if callable(found) else found

    def _call(self, found: Any) -> Any:
        async def call(*args: Any, **named: Any) -> Any:
            made = found(*args, **named)  # in the loop, as an app's handler does it
            return await made if inspect.isawaitable(made) else made

        def wait(*args: Any, **named: Any) -> Any:
            made = self._loop.run(call(*args, **named))
            if hasattr(made, "progress") and hasattr(made, "pause"):  # a campaign
                return Awaited(self._loop, made)
            return Items(self._loop, made) if hasattr(made, "__anext__") else made

        return wait


class Items(Iterator[Any]):
    """What ``async for`` gives; ``close`` closes it."""

    def __init__(self, loop: Loop, items: Any) -> None:
        self._loop, self._items = loop, items

    def __next__(self) -> Any:
        async def following() -> Any:
            return await anext(self._items, None)  # StopAsyncIteration can't leave a future

        if (item := self._loop.run(following())) is None:
            raise StopIteration
        return Awaited(self._loop, item) if hasattr(item, "ack") else item

    def close(self) -> None:
        self._loop.run(self._items.aclose())


def awaited(loop: Loop, settings: Settings, client: redis.Redis) -> Any:
    """An AsyncProducer on the same server, real or fakeredis."""
    if isinstance(client, fakeredis.FakeRedis):
        server = client.connection_pool.connection_kwargs["server"]
        other = fakeredis.FakeAsyncRedis(server=server, decode_responses=True)
        return Awaited(loop, AsyncProducer(settings, client=other))
    place: Any = client.connection_pool.connection_kwargs
    url = f"redis://{place['host']}:{place['port']}"
    return Awaited(loop, AsyncProducer(replace(settings, redis_url=url)))

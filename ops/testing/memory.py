"""Puts a Redis in this process in place of every server that viber-courier connects to."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest.mock import patch

import redis

try:
    import fakeredis
    import lupa  # noqa: F401  (without it, fakeredis has no scripts)
except ModuleNotFoundError:
    text = "viber_courier.testing needs fakeredis: pip install 'viber-courier[testing]'"
    raise ImportError(text) from None

from viber_courier.store.aio import Pool
from viber_courier.store.pools import Client, WholePool
from viber_courier.store.replicas import Kept

_take, _give_back = WholePool.get_connection, WholePool.release
_take_async, _give_back_async = Pool.get_connection, Pool.release


@contextmanager
def in_memory() -> Iterator[redis.Redis]:
    """Yields a client of an empty Redis in memory, which all our connections lead to meanwhile.

    Pools give out other connections: so it serves a Producer that was made before, in any module.
    """
    server = fakeredis.FakeServer()
    blocking = _memory_pool(WholePool, fakeredis.FakeRedis, server)
    awaited = _memory_pool(Pool, fakeredis.FakeAsyncRedis, server)

    def get_connection(*_: Any, **__: Any) -> Any:
        return _take(blocking)

    def release(pool: WholePool, connection: Any) -> None:
        is_ours = isinstance(connection, blocking.connection_class)
        _give_back(blocking if is_ours else pool, connection)

    async def get_async(*_: Any, **__: Any) -> Any:
        return await _take_async(awaited)

    async def release_async(pool: Pool, connection: Any) -> None:
        is_ours = isinstance(connection, awaited.connection_class)
        await _give_back_async(awaited if is_ours else pool, connection)

    methods: Any = (WholePool, get_connection, release), (Pool, get_async, release_async)
    with ExitStack() as patches:
        for base, get, give_back in methods:
            for pool in (base, *base.__subclasses__()):
                patches.enter_context(patch.object(pool, "get_connection", get))
                patches.enter_context(patch.object(pool, "release", give_back))
        patches.enter_context(patch.object(Kept, "commands", _nothing_to_wait_for))
        patches.enter_context(patch.object(Kept, "judge", _reply_alone))
        yield Client(connection_pool=blocking)
    blocking.disconnect()


async def _nothing_to_wait_for(_: Kept) -> Any:
    """Returns commands in place of WAIT: memory has neither replicas nor a disk."""
    return ("PING",), ("PING",)


async def _reply_alone(_: Kept, reply: Any, *__: Any) -> Any:
    if isinstance(reply, Exception):
        raise reply
    return reply


def _memory_pool(made: Any, client: Any, server: fakeredis.FakeServer) -> Any:
    """Returns a pool of ours whose connections are those of a fakeredis client."""
    pool = client(server=server, decode_responses=True, protocol=2).connection_pool
    return made(connection_class=pool.connection_class, **pool.connection_kwargs)

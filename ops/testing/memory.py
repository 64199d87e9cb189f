"""Puts a Redis in this process in place of every server that viber-courier connects to."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest.mock import patch

import fakeredis
import redis

from viber_courier.store.pools import Client, WholePool


@contextmanager
def in_memory() -> Iterator[redis.Redis]:
    """Yields a client of an empty Redis in memory, which all our connections lead to meanwhile.

    Pools give out other connections: so it serves a Producer that was made before, in any module.
    """
    server = fakeredis.FakeServer()
    made = fakeredis.FakeRedis(server=server, decode_responses=True, protocol=2).connection_pool
    memory = WholePool(made.connection_class, **made.connection_kwargs)
    take, give_back = WholePool.get_connection, WholePool.release

    def get_connection(*_: Any, **__: Any) -> Any:
        return take(memory)

    def release(pool: WholePool, connection: Any) -> None:
        give_back(memory if isinstance(connection, made.connection_class) else pool, connection)

    with ExitStack() as patches:
        for pool in (WholePool, *WholePool.__subclasses__()):
            patches.enter_context(patch.object(pool, "get_connection", get_connection))
            patches.enter_context(patch.object(pool, "release", release))
        yield Client(connection_pool=memory)
    memory.disconnect()

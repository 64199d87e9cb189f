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

from viber_courier.store.pools import Client, WholePool

_take, _give_back = WholePool.get_connection, WholePool.release


@contextmanager
def in_memory() -> Iterator[redis.Redis]:
    """Yields a client of an empty Redis in memory, which all our connections lead to meanwhile.

    Pools give out other connections: so it serves a Producer that was made before, in any module.
    """
    server = fakeredis.FakeServer()
    made = fakeredis.FakeRedis(server=server, decode_responses=True, protocol=2).connection_pool
    memory = WholePool(made.connection_class, **made.connection_kwargs)

    def get_connection(*_: Any, **__: Any) -> Any:
        return _take(memory)

    def release(pool: WholePool, connection: Any) -> None:
        _give_back(memory if isinstance(connection, made.connection_class) else pool, connection)

    with ExitStack() as patches:
        for pool in (WholePool, *WholePool.__subclasses__()):
            patches.enter_context(patch.object(pool, "get_connection", get_connection))
            patches.enter_context(patch.object(pool, "release", release))
        yield Client(connection_pool=memory)
    memory.disconnect()

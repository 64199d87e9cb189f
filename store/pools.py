"""Where clients get their connections: from one server, or from the master that Sentinel names."""

import os
import sys
import threading
import time
from collections import deque
from contextlib import suppress
from typing import Any
from weakref import WeakSet

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry
from redis.sentinel import Sentinel, SentinelConnectionPool

from viber_courier.schemas.sentinel import Sentinels

ASK = 1.0
"""Seconds after which the sentinels are asked again who the master is."""
REST = 10.0
"""Seconds that they are left alone where none has answered: the master may be well without."""


class WholePool(redis.ConnectionPool):
    """Gives out no connection whose last conversation was broken off by something else than Redis.

    A signal's handler may raise anywhere (Ctrl-C's, Celery's soft time limit's). redis-py closes
    the connection only where that happens while it sends or reads; elsewhere, as in the handshake,
    the next command gets the answer to one before it.

    Connections that are whole stay at hand, which spares a call most of the pool's bookkeeping. One
    that an exception has lost between pool and caller is closed when it is collected: the pool
    holds none that is in use.
    """

    _at_hand: deque[Any]
    _in_use_connections: Any

    def reset(self) -> None:
        """As it begins, and after a fork: then another thread may have held the lock."""
        self._at_hand, self._lock = deque(), threading.RLock()
        super().reset()
        self._in_use_connections = WeakSet()

    def get_connection(self, *_: Any, **__: Any) -> Any:
        connection: Any = self._whole() or super().get_connection()
        connection.amid = sys.exc_info()[1]  # what the caller is handling doesn't concern us
        return connection

    def _whole(self) -> Any:
        """One that is at hand and can be used, or None."""
        try:
            connection = self._at_hand.pop()
        except IndexError:
            return None
        self._in_use_connections.add(connection)
        with suppress(redis.RedisError, OSError):  # closed meanwhile
            mine = connection.pid == os.getpid() and self.owns_connection(connection)
            if mine and connection.is_connected and not connection.can_read():
                return connection
        self._in_use_connections.discard(connection)
        connection.disconnect()
        return None

    def release(self, connection: Any) -> None:
        try:
            self._in_use_connections.remove(connection)
        except KeyError:
            return  # a signal made redis-py give it back twice
        error = sys.exc_info()[1]
        if error is getattr(connection, "amid", None):
            error = None
        connection.amid = None
        if error is None or isinstance(error, redis.ResponseError):
            if connection.is_connected and not connection.should_reconnect():
                self._at_hand.append(connection)
                return
        elif isinstance(error, redis.TimeoutError):
            self._leave()  # or each would cost its timeout
        connection.disconnect()

    def disconnect(self, *args: Any, **options: Any) -> None:
        self._leave()
        super().disconnect(*args, **options)

    def _leave(self) -> None:
        """Close all that are at hand."""
        while self._at_hand:
            with suppress(IndexError):  # others take some
                self._at_hand.pop().disconnect()


class _FollowingPool(WholePool, SentinelConnectionPool):
    """Gives back no connection to a server that is master no more.

    redis-py asks when it connects, and stays. But Sentinel demotes a living master only some ten
    seconds after a planned failover; what that one has taken until then is thrown away.
    """

    _again = 0.0

    def get_connection(self, *args: Any, **options: Any) -> Any:
        now = time.monotonic()
        if now >= self._again:
            self._again = now + REST
            with suppress(redis.ConnectionError, redis.TimeoutError):
                self.get_master_address()  # type: ignore[no-untyped-call]
                self._again = now + ASK
        return super().get_connection(*args, **options)


def follow(given: Sentinels, options: dict[str, Any]) -> redis.Redis:
    """A client of the current master; ``options`` are those of its connections."""
    asking = {name: options[name] for name in ("socket_keepalive", "health_check_interval")} | {
        "socket_timeout": 1,
        "socket_connect_timeout": 1,
        "retry": Retry(NoBackoff(), 0),  # there are others to ask
    }
    sentinels: Any = Sentinel(  # type: ignore[no-untyped-call]
        given.hosts, sentinel_kwargs=asking
    )
    client: redis.Redis = sentinels.master_for(
        given.master,
        connection_pool_class=_FollowingPool,
        db=given.database,
        username=given.username,
        password=given.password,
        **options,
    )
    return client

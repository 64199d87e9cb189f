"""Connection pools: for one server, and for the master that Sentinel names."""

import os
import sys
import threading
import time
from collections import deque
from contextlib import suppress
from typing import Any

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry
from redis.sentinel import Sentinel, SentinelConnectionPool

from viber_courier.schemas.redis_url import Address
from viber_courier.store.succession import Succession

MASTER_CHECK_INTERVAL = 1.0
"""Seconds between two requests to the sentinels for the master's address."""
SENTINEL_RETRY_DELAY = 10.0
"""Most seconds until the next request after one that failed: the master may still be reachable.

It is ten times what the request took. Sentinels that see no master yet say so at once.
"""

PROBE_AFTER = 1.0
"""Idle seconds after which a connection is checked before use: a check is a system call."""


class Whole:
    """A pool that never reuses a connection whose last exchange was interrupted."""


class WholePool(Whole, redis.ConnectionPool):
    """Never reuses a connection whose last exchange was interrupted by anything but a Redis error.

    A signal handler may raise anywhere (Ctrl-C, Celery's soft time limit). redis-py closes the
    connection only if that happens while it sends or reads; elsewhere, as in the handshake, the
    next command would get the reply to the one before it.

    The pool keeps idle connections only, in a deque, and takes no lock: a process may fork, and a
    handler may raise, at any point. A connection that an exception has lost between the pool and
    its caller is closed when it is collected. The pool has no bound; ``max_connections`` is unused.

    It overrides redis-py's public methods and uses no private name of redis-py 5.0 to 8. Two
    attributes it needs are public but not documented: ``pid`` (the pool's and, through
    ``owns_connection``, the connection's). It sets two of its own on each connection.
    """

    _idle: deque[Any]

    def reset(self) -> None:
        """Drops all connections: when the pool is made, and in a forked process."""
        self._idle = deque()
        super().reset()

    def __repr__(self) -> str:
        return f"<{type(self).__name__}>"  # redis-py 6 and 7 would show the password

    def get_connection(self, *_: Any, **__: Any) -> Any:
        if self.pid != os.getpid():
            self.reset()
        connection = self._usable() or self._connected()
        outer_exception = sys.exc_info()[1]  # one that the caller is handling already
        connection.taken = threading.get_ident(), self._idle, outer_exception
        return connection

    def _usable(self) -> Any:
        """Returns an idle connection that is open and has nothing to read, or None."""
        try:
            connection = self._idle.pop()
        except IndexError:
            return None
        with suppress(redis.RedisError, OSError):  # the server has closed it
            used_just_now = time.monotonic() - connection.idle_since < PROBE_AFTER
            if self.owns_connection(connection) and (used_just_now or not connection.can_read()):
                return connection
        connection.disconnect()
        return None

    def _connected(self) -> Any:
        connection = self.connection_class(**self.connection_kwargs)
        connection.connect()
        return connection

    def release(self, connection: Any) -> None:
        taker, idle, outer_exception = getattr(connection, "taken", None) or (None, None, None)
        if taker != threading.get_ident():
            return  # an interrupted call has released it before; another thread may use it
        connection.taken = None
        error = sys.exc_info()[1]
        if error is None or error is outer_exception or isinstance(error, redis.ResponseError):
            if idle is self._idle:
                connection.idle_since = time.monotonic()
                self._idle.append(connection)
                return
        elif isinstance(error, redis.TimeoutError | redis.ConnectionError):
            self._close_idle()  # their peer may be gone too: each would cost a timeout or a repeat
        connection.disconnect()

    def disconnect(self, inuse_connections: bool = True) -> None:
        """Closes idle connections now, and those in use (by default) when they are released."""
        self._close_idle()
        if inuse_connections:
            self._idle = deque()  # tells release() that the pool was closed

    def _close_idle(self) -> None:
        while self._idle:
            with suppress(IndexError):  # another thread took the last one
                self._idle.pop().disconnect()


class _FollowingPool(WholePool, SentinelConnectionPool):
    """Never reuses a connection to a server that is no longer the master.

    redis-py asks the sentinels when it connects, and stays. But Sentinel demotes a living master
    only some ten seconds after a planned failover, and what that one accepts until then is lost.
    """

    succession: Succession
    _next_check = 0.0

    def get_connection(self, *args: Any, **options: Any) -> Any:
        now = time.monotonic()
        if now >= self._next_check:
            self._next_check = now + SENTINEL_RETRY_DELAY
            try:
                self.get_master_address()  # type: ignore[no-untyped-call]
                self._next_check = now + MASTER_CHECK_INTERVAL
            except (redis.ConnectionError, redis.TimeoutError):
                wait = max(MASTER_CHECK_INTERVAL, 10 * (time.monotonic() - now))
                self._next_check = now + min(SENTINEL_RETRY_DELAY, wait)
        return super().get_connection(*args, **options)


class Client(redis.Redis):
    """A client that closes its pool, as redis-py's ``from_pool`` makes it from 5.0.1 on."""

    def close(self) -> None:
        super().close()
        self.connection_pool.disconnect()


def follow(given: Address, options: dict[str, Any]) -> redis.Redis:
    """Returns a client of the current master; ``options`` are its connections'."""
    asking = {name: options[name] for name in ("socket_keepalive", "health_check_interval")} | {
        "socket_timeout": 1,
        "socket_connect_timeout": 1,
        "retry": Retry(NoBackoff(), 0),  # there are others to ask
        "ssl": bool(given.tls),
        **given.tls,
        **given.sentinel_login,
    }
    sentinels: Any = Sentinel(  # type: ignore[no-untyped-call]
        given.hosts, sentinel_kwargs=asking
    )
    client: redis.Redis = sentinels.master_for(
        given.master,
        redis_class=Client,
        connection_pool_class=_FollowingPool,
        db=given.database,
        username=given.username,
        password=given.password,
        ssl=bool(given.tls),
        **options,
    )
    pool: Any = client.connection_pool
    pool.succession = Succession(sentinels.sentinels, given.master)
    return client

"""Connection pools: for one server, and for the one that a Slot or a Master names."""

import os
import sys
import threading
import time
from collections import deque
from contextlib import suppress
from typing import Any

import redis
from redis.backoff import NoBackoff

from viber_courier.store.replies import reply, run

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


class AtPlace:
    """A connection, of either driver, to the server that ``where`` (a Slot or a Master) names."""

    retry: Any

    def __init__(self, *, where: Any, **options: Any) -> None:
        self._where = where
        super().__init__(**options)

    async def _to_place(self, connect: Any, *args: Any, **options: Any) -> None:
        # Not repeated here but by the caller: the server may be another one by then.
        patient, self.retry = self.retry, type(self.retry)(NoBackoff(), 0)
        try:
            self.host, self.port = await self._where.place()
            await reply(connect(*args, **options))
        except (redis.ConnectionError, redis.TimeoutError):
            self._where.lost = True
            raise
        finally:
            self.retry = patient

    async def _heeding(self, read: Any, *args: Any, **options: Any) -> Any:
        try:
            return await reply(read(*args, **options))
        except redis.RedisError as error:
            if found := self._where.heed(error, self.host):
                raise found from None
            raise


class Placed(AtPlace, redis.Connection):
    """Connects to the server that ``where`` names."""

    def connect(self) -> None:
        run(self._to_place(super().connect))

    def connect_check_health(self, *args: Any, **options: Any) -> None:
        """Connects; redis-py calls this instead of ``connect`` from version 6 on."""
        run(self._to_place(super().connect_check_health, *args, **options))

    def read_response(self, *args: Any, **options: Any) -> Any:
        return run(self._heeding(super().read_response, *args, **options))


class SecurePlaced(Placed, redis.SSLConnection):
    """The same over TLS."""


class PlacedPool(WholePool):
    """Never reuses a connection to a server that is no longer the one.

    Sentinel demotes a living master only some ten seconds after a planned failover, and what that
    one accepts until then is lost.
    """

    succession: Any = None

    def _usable(self) -> Any:
        where = self.connection_kwargs["where"]
        with suppress(redis.ConnectionError, redis.TimeoutError):
            place = run(where.place())
            while connection := super()._usable():
                if (connection.host, connection.port) == place:
                    return connection
                connection.disconnect()
        return None

    def _connected(self) -> Any:
        connection = self.connection_class(**self.connection_kwargs)
        connection.retry.call_with_retry(connection.connect, lambda _: None)
        return connection


class Client(redis.Redis):
    """A client that closes its pool, as redis-py's ``from_pool`` makes it from 5.0.1 on."""

    def close(self) -> None:
        super().close()
        self.connection_pool.disconnect()

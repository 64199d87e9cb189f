"""Connections to Redis for asyncio: to one server, to Sentinel's master, to a cluster's node."""

import asyncio
import os
import sys
from collections import deque
from contextlib import suppress
from types import SimpleNamespace
from typing import Any

import redis
from redis import asyncio as aio
from redis import exceptions as errors
from redis.asyncio.retry import Retry

from viber_courier.schemas.redis_url import parse, tls_context
from viber_courier.store.connection import Driver
from viber_courier.store.pools import AtPlace, Whole
from viber_courier.store.replicas import read_replies
from viber_courier.store.scripts import Script, packed

MOST_CONNECTIONS = 50
"""Most connections of one client. Calls beyond them wait for one, no longer than for a reply."""


class Pool(Whole, aio.ConnectionPool):
    """Never reuses a connection whose last exchange was interrupted, as by a cancellation.

    It is WholePool's counterpart, for the event loop that runs: in another loop, and in a forked
    process, it starts afresh.
    """

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._owner: Any = None
        self._start_afresh()

    def _start_afresh(self) -> None:
        self._idle = deque[Any]()
        self._slots = asyncio.Semaphore(MOST_CONNECTIONS)

    def __repr__(self) -> str:
        return f"<{type(self).__name__}>"  # redis-py would show the password

    async def get_connection(self, *_: Any, **__: Any) -> Any:
        owner = os.getpid(), asyncio.get_running_loop()
        if self._owner != owner:
            self._start_afresh()
            self._owner = owner
        slots, idle = self._slots, self._idle
        try:
            patience = self.connection_kwargs["socket_timeout"]
            async with asyncio.timeout(patience if slots.locked() else None):
                await slots.acquire()
        except TimeoutError:
            raise redis.TimeoutError("No connection became free") from None
        try:
            connection = await self._usable() or await self._connected()
        except BaseException:
            slots.release()
            raise
        connection.taken = slots, idle, sys.exc_info()[1]  # one that the caller is handling already
        return connection

    async def _usable(self) -> Any:
        """Returns an idle connection, or None. One that idled for long is checked by a PING."""
        while self._idle:
            connection = self._idle.pop()
            if connection.is_connected:
                return connection
        return None

    async def _connected(self) -> Any:
        connection = self.connection_class(**self.connection_kwargs)
        try:
            await self._connect(connection)
        except BaseException:
            await connection.disconnect(nowait=True)
            raise
        return connection

    async def _connect(self, connection: Any) -> None:
        await connection.connect()

    async def release(self, connection: Any) -> None:
        (slots, idle, outer), connection.taken = connection.taken, None
        slots.release()
        error = sys.exc_info()[1]
        if error is None or error is outer or isinstance(error, redis.ResponseError):
            if idle is self._idle:
                idle.append(connection)
                return
        elif isinstance(error, redis.TimeoutError | redis.ConnectionError):
            await self._close_idle()  # their peer may be gone too: each would cost a timeout
        await connection.disconnect(nowait=True)

    async def disconnect(self, inuse_connections: bool = True) -> None:
        """Closes idle connections now, and those in use (by default) when they are released."""
        idle, self._idle = self._idle, deque[Any]() if inuse_connections else self._idle
        while idle:
            await idle.pop().disconnect()

    async def _close_idle(self) -> None:
        while self._idle:
            await self._idle.pop().disconnect(nowait=True)


class _Cancellable:
    """Passes on each cancellation: asyncio.wait_for, by which redis-py sends, may swallow it.

    It does before Python 3.12, if what it waits for is done at the same moment (bpo-37658).
    """

    async def send_packed_command(self, *args: Any, **options: Any) -> None:
        task = asyncio.current_task()
        before = task.cancelling() if task else 0
        await super().send_packed_command(*args, **options)  # type: ignore[misc]
        if task and task.cancelling() > before:
            raise asyncio.CancelledError


class _Plain(_Cancellable, aio.Connection):
    pass


class _Unix(_Cancellable, aio.UnixDomainSocketConnection):
    pass


class _Secure(_Cancellable, aio.SSLConnection):
    """Has all TLS options of the blocking client: redis-py's for asyncio lacks some."""

    def __init__(self, *, tls: Any, **options: Any) -> None:
        super().__init__(**options)
        self.ssl_context = tls


class _Placed(AtPlace, _Plain):
    async def connect(self) -> None:
        await self._to_place(super().connect)

    async def connect_check_health(self, *args: Any, **options: Any) -> None:
        """Connects; redis-py calls this instead of ``connect`` from version 6 on."""
        await self._to_place(super().connect_check_health, *args, **options)

    async def read_response(self, *args: Any, **options: Any) -> Any:
        return await self._heeding(super().read_response, *args, **options)


class _SecurePlaced(_Placed, _Secure):
    pass


class _PlacedPool(Pool):
    """Never reuses a connection to a server that is no longer the one."""

    succession: Any = None

    async def _usable(self) -> Any:
        where: Any = self.connection_kwargs["where"]
        with suppress(redis.ConnectionError, redis.TimeoutError):
            place = await where.place()
            while connection := await super()._usable():
                if (connection.host, connection.port) == place:
                    return connection
                await connection.disconnect(nowait=True)
        return None

    async def disconnect(self, inuse_connections: bool = True) -> None:
        """Also closes those to the sentinels."""
        await super().disconnect(inuse_connections)
        for sentinel in getattr(self.connection_kwargs["where"], "sentinels", ()):
            await sentinel.connection_pool.disconnect()

    async def _connect(self, connection: Any) -> None:
        await connection.retry.call_with_retry(connection.connect, lambda _: asyncio.sleep(0))


_ASYNCIO = Driver(
    client=aio.Redis,
    retry=Retry,
    pools=(Pool, _PlacedPool),
    plain=(_Plain, _Placed),
    secure=(_Secure, _SecurePlaced),
    unix=_Unix,
)


def connect(url: str, namespace: str = "", **chosen: Any) -> aio.Redis:
    """Returns an asyncio client with the options of the blocking one (store/connection.py)."""
    address = parse(url)
    if context := tls_context(address.tls):
        chosen["tls"] = SimpleNamespace(get=lambda: context)
    client: aio.Redis = _ASYNCIO.client_of(address, namespace, chosen)
    return client


class AsyncScript(Script):
    """A script for an asyncio client."""

    async def __call__(self, **given: Any) -> Any:
        """Returns the script's reply. If the connection breaks, the call is repeated."""
        command, kept = self.command(given), self._kept
        pool: Any = self._client.connection_pool
        if isinstance(pool, Pool):  # otherwise fakeredis, or the app's own client
            more = await kept.commands() if kept else ()
            connection = await pool.get_connection()
            with suppress(redis.ConnectionError, errors.NoScriptError):
                try:
                    await connection.send_packed_command(packed(connection, command, more))
                    if not kept:
                        return await connection.read_response()
                    replies = await read_replies(connection)
                finally:
                    await pool.release(connection)
                return await kept.judge(*replies)
        return await self.repeat(command)

    async def begin(self, **given: Any) -> Any:  # type: ignore[override]
        """Waits for the reply; returns a function that returns it."""
        answer = await self(**given)
        return lambda: answer

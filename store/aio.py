"""Connections to Redis for asyncio: to one server, to Sentinel's master, to a cluster's node."""

import asyncio
import os
import sys
import time
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from types import SimpleNamespace
from typing import Any

import redis
from redis import asyncio as aio
from redis import exceptions as errors
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from viber_courier.schemas.redis_url import parse, tls_context
from viber_courier.store.cluster import PATIENCE, Place, Slot, brief, find_slot
from viber_courier.store.connection import client_options
from viber_courier.store.pools import MASTER_CHECK_INTERVAL, SENTINEL_RETRY_DELAY, Whole
from viber_courier.store.replicas import read_replies
from viber_courier.store.replies import reply
from viber_courier.store.scripts import Script, packed
from viber_courier.store.succession import Succession

MOST_CONNECTIONS = 50
"""Most connections of one client. Calls beyond them wait for one, no longer than for a reply."""


class Pool(Whole, aio.ConnectionPool):
    """Never reuses a connection whose last exchange was interrupted, as by a cancellation.

    It is WholePool's counterpart, for the event loop that runs: in another loop, and in a forked
    process, it starts afresh.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
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


class _Placed(_Plain):
    """Connects to the server that ``where`` names."""

    def __init__(self, *, where: "Slot | _Master", **options: Any) -> None:
        self._where = where
        super().__init__(**options)

    async def connect(self) -> None:
        await self._to_place(super().connect)

    async def connect_check_health(self, *args: Any, **options: Any) -> None:
        """Connects; redis-py calls this instead of ``connect`` from version 6 on."""
        await self._to_place(super().connect_check_health, *args, **options)

    async def _to_place(self, connect: Any, *args: Any, **options: Any) -> None:
        # Not repeated here but by the caller: the server may be another one by then.
        patient, self.retry = self.retry, Retry(NoBackoff(), 0)
        try:
            self.host, self.port = await self._where.place()
            await connect(*args, **options)
        except (redis.ConnectionError, redis.TimeoutError):
            self._where.lost = True
            raise
        finally:
            self.retry = patient

    async def read_response(self, *args: Any, **options: Any) -> Any:
        try:
            return await super().read_response(*args, **options)
        except redis.RedisError as error:
            if found := self._where.heed(error, self.host):
                raise found from None
            raise


class _SecurePlaced(_Placed, _Secure):
    pass


class _PlacedPool(Pool):
    """Never reuses a connection to a server that is no longer the one."""

    async def _usable(self) -> Any:
        where: Any = self.connection_kwargs["where"]
        with suppress(redis.ConnectionError, redis.TimeoutError):
            place = await where.place()
            while connection := await super()._usable():
                if (connection.host, connection.port) == place:
                    return connection
                await connection.disconnect(nowait=True)
        return None

    succession: Succession

    async def disconnect(self, inuse_connections: bool = True) -> None:
        """Also closes those to the sentinels."""
        await super().disconnect(inuse_connections)
        for sentinel in getattr(self.connection_kwargs["where"], "sentinels", ()):
            await sentinel.connection_pool.disconnect()

    async def _connect(self, connection: Any) -> None:
        await connection.retry.call_with_retry(connection.connect, lambda _: asyncio.sleep(0))


class _Master:
    """Knows where the master is: asks the sentinels each second, and where it was ``lost``."""

    def __init__(self, name: str, sentinels: Sequence[aio.Redis]) -> None:
        self._name, self.sentinels = name, sentinels
        self._found: Place | None = None
        self._next_look, self.lost = 0.0, True

    async def place(self) -> Place:
        """Returns the master's address."""
        now = time.monotonic()
        if self._found is None or self.lost or now >= self._next_look:
            self._next_look = now + SENTINEL_RETRY_DELAY
            try:
                self._found, self.lost = await self._look(), False
                self._next_look = now + MASTER_CHECK_INTERVAL
            except (redis.ConnectionError, redis.TimeoutError):
                wait = max(MASTER_CHECK_INTERVAL, 10 * (time.monotonic() - now))
                self._next_look = now + min(SENTINEL_RETRY_DELAY, wait)
                if self._found is None or self.lost:
                    raise
        return self._found

    def heed(self, error: redis.RedisError, asked: str) -> redis.RedisError | None:
        """Returns what to raise for an error of the server ``asked``; None: the error itself."""
        self.lost = self.lost or isinstance(error, _ELSEWHERE)
        if isinstance(error, errors.ReadOnlyError):
            return redis.ConnectionError("the master is a replica now")
        return None

    async def _look(self) -> Place:
        failure: redis.RedisError = redis.ConnectionError("no sentinel knows the master")
        for sentinel in self.sentinels:
            try:
                if found := await reply(sentinel.sentinel_get_master_addr_by_name(self._name)):
                    return found[0], int(found[1])
            except (redis.ConnectionError, redis.TimeoutError) as error:
                failure = error
        raise failure


_ELSEWHERE = (redis.ConnectionError, redis.TimeoutError, errors.ReadOnlyError)


def connect(url: str, namespace: str = "", **chosen: Any) -> aio.Redis:
    """Returns an asyncio client with the options of the blocking one (store/connection.py)."""
    address = parse(url)
    options = {**client_options(Retry), **chosen}
    plain, placed = (_Secure, _SecurePlaced) if address.tls else (_Plain, _Placed)
    if context := tls_context(address.tls):
        options["tls"] = SimpleNamespace(get=lambda: context)
    login: dict[str, Any] = {"username": address.username, "password": address.password}
    if address.scheme == "cluster":
        where: Any = find_slot(address, namespace, plain, {**options, **login}, Retry)
        options["retry"] = Retry(*PATIENCE)
    elif address.scheme == "sentinel":
        asking = {**brief(options, Retry), **address.sentinel_login, "connection_class": plain}
        pools = [Pool(host=host, port=port, **asking) for host, port in address.hosts]
        where = _Master(address.master, [aio.Redis(connection_pool=pool) for pool in pools])
    elif address.scheme == "unix":
        del options["socket_keepalive"]  # TCP's
        options |= {"connection_class": _Unix, "path": address.path}
    else:
        ((host, port),) = address.hosts
        options |= {"connection_class": plain, "host": host, "port": port}
    options |= {**login, "db": address.database}
    if address.scheme not in ("cluster", "sentinel"):
        client = aio.Redis(connection_pool=Pool(**options))
    else:
        pool = _PlacedPool(connection_class=placed, where=where, **options)
        if address.scheme == "sentinel":
            pool.succession = Succession(where.sentinels, address.master)
        client = aio.Redis(connection_pool=pool)
    vars(client)["place"] = address.place
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

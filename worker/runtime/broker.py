"""kombu's Redis transport for our app.

It never hangs at a dead connection, puts messages at a full broker, and shows no password.
"""

import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import kombu
from celery.app import amqp
from kombu.connection import ConnectionPool, PooledConnection
from kombu.transport import redis
from kombu.utils.url import maybe_sanitize_url
from redis import Redis
from redis.exceptions import OutOfMemoryError, ResponseError

from viber_courier.store.refusals import reason

_WHEN_FULL = "redis.call('SREM', KEYS[2], ''); return redis.call(ARGV[1], KEYS[1], ARGV[2])"
"""Adds to a list or a set though memory is used up: after a script's first write, all may pass."""

logger = logging.getLogger(__name__)
_is_full = False


@contextmanager
def _unless_full() -> Iterator[None]:
    """Ends without an error if the broker's memory is used up; logs when that begins and ends."""
    global _is_full
    try:
        yield
    except ResponseError as error:
        if not isinstance(error, OutOfMemoryError) and "OOM " not in str(error):
            raise
        if not _is_full:
            logger.warning("broker full: bells only", extra={"error": reason(error)})
        _is_full = True
    else:
        if _is_full:
            logger.info("broker has room again")
        _is_full = False


class _Client(Redis):
    """Redis refuses all of a MULTI, also reads, if its memory is used up."""

    def pipeline(self, transaction: bool = False, shard_hint: Any = None) -> Any:
        return super().pipeline(False, shard_hint)


class _OurChannel(redis.Channel):
    """Closes connections so that no worker hangs, and works though the broker's memory is used up.

    It takes connections out of the event loop's poll before it closes them. kombu does so
    afterwards, which fails silently. If the pool has forked a child since, the child holds a copy
    of the socket. Then the kernel reports the closed socket for ever, under the number of the next
    connection, and the worker hangs while it reads from that.

    What fills the broker may be the tasks at the door, which a doorbell brings away.
    """

    def _connparams(self, asynchronous: bool = False) -> dict[str, Any]:
        parameters: dict[str, Any] = super()._connparams(asynchronous)  # type: ignore[no-untyped-call]
        if not asynchronous:
            return parameters
        base: Any = parameters["connection_class"]
        channel = self

        class Leaving(base):  # type: ignore[misc]
            def disconnect(self, *args: Any, **options: Any) -> None:
                poller = channel.connection and getattr(channel.connection.cycle, "poller", None)
                if poller is not None and self._sock is not None:
                    poller.unregister(self._sock)
                super().disconnect(*args, **options)

        return {**parameters, "connection_class": Leaving}

    def _get_client(self) -> Any:
        return _Client

    def _put(self, queue: str, message: dict[str, Any], **options: Any) -> None:
        with _unless_full():
            super()._put(queue, message, **options)  # type: ignore[no-untyped-call]
            return
        self._add("LPUSH", queue, json.dumps(message))

    def _queue_bind(self, exchange: str, routing_key: str, pattern: str, queue: str) -> None:
        with _unless_full():
            super()._queue_bind(exchange, routing_key, pattern, queue)  # type: ignore[no-untyped-call]
            return
        member = self.sep.join([routing_key or "", pattern or "", queue or ""])
        self._add("SADD", self.keyprefix_queue % (exchange,), member)
        if queue not in self._expires:
            self._add("SADD", self.keyprefix_binding_permanent % (exchange,), member)

    def _refresh_bindings(self, queues: Any) -> None:
        with _unless_full():  # kombu would log it in each round; it tries again
            super()._refresh_bindings(queues)  # type: ignore[no-untyped-call]

    def _add(self, command: str, key: str, value: str) -> None:
        with self.conn_or_acquire() as client:
            client.register_script(_WHEN_FULL)([key, f"{key}.none"], [command, value])


class Transport(redis.Transport):
    """The transport for ``redis://``, ``rediss://`` and ``redis+socket://``."""

    Channel = _OurChannel


class _OurSentinelChannel(_OurChannel, redis.SentinelChannel):
    pass


class SentinelTransport(redis.SentinelTransport):
    """The transport for ``sentinel://``."""

    Channel = _OurSentinelChannel


class Connection(kombu.Connection):
    """Uses our transports in place of kombu's, also for the next URL of a failover list.

    A class set as ``broker_transport`` would be lost at a failover, where kombu goes by the scheme
    of the next URL. ``rediss://`` would lose TLS, which depends on the transport's name.
    """

    def info(self) -> dict[str, Any]:
        """Returns what ``inspect stats`` and Flower show, without the passwords in it."""
        info: dict[str, Any] = super().info()  # type: ignore[no-untyped-call]
        options = dict(info["transport_options"], sentinel_kwargs=None)
        urls = [
            maybe_sanitize_url(url) for url in (info["hostname"], *self.alt)
        ]  # or a host's name
        shown = {"hostname": urls[0], "alternates": urls[1:], "ssl": bool(self.ssl)}
        return {**info, **shown, "transport_options": options}

    def get_transport_cls(self) -> Any:
        """Returns the transport for this connection's scheme."""
        theirs: Any = super().get_transport_cls()  # type: ignore[no-untyped-call]
        ours = {redis.Transport: Transport, redis.SentinelTransport: SentinelTransport}
        return ours.get(theirs, theirs)

    def Pool(self, limit: int | None = None, **options: Any) -> Any:
        """Returns a pool of such connections; kombu's own would make plain ones."""
        return _Pool(self, limit, **options)  # type: ignore[no-untyped-call]


class _Pooled(Connection, PooledConnection):
    pass


class _Pool(ConnectionPool):
    def new(self) -> Any:
        info = self.connection._info(resolve=False)
        return _Pooled(self, **dict(info))  # type: ignore[no-untyped-call]


class AMQP(amqp.AMQP):  # type: ignore[misc]
    """Makes Celery use our Connection."""

    Connection = Connection

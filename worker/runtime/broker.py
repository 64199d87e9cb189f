"""kombu's Redis transport for our app: it loses no task, and no dead connection hangs it."""

import logging
import time
from typing import Any

import kombu
from celery.app import amqp
from kombu.transport import redis
from kombu.utils.url import maybe_sanitize_url
from redis import RedisError

logger = logging.getLogger(__name__)

RECORD_TIMEOUT = 30.0
"""How long to keep trying to record a popped task as unacknowledged, in seconds."""


class PatientQoS(redis.QoS):
    """Repeats the record of a popped task until Redis has answered.

    kombu pops a task from its queue on one connection and records it as unacknowledged on another.
    If that one is dead (half-open, or Redis restarts just then), the task is in neither place.
    Recording it twice is recording it once.
    """

    def append(self, message: Any, delivery_tag: str) -> None:
        end = time.monotonic() + RECORD_TIMEOUT
        while True:
            try:
                super().append(message, delivery_tag)  # type: ignore[no-untyped-call]
                return
            except (RedisError, OSError) as error:
                if time.monotonic() > end:
                    raise
                logger.warning("task not noted yet", extra={"error": type(error).__name__})
                time.sleep(0.2)


class _OurChannel(redis.Channel):
    """Its connections leave the event loop's poll before they are closed.

    kombu takes them out afterwards, which fails in silence; that does no harm unless the pool has
    forked a child since, which has inherited the socket. Then the kernel reports its end for ever
    under the number of the next connection, and the worker hangs, reading where nothing comes.
    """

    QoS = PatientQoS

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


class Transport(redis.Transport):
    """For ``redis://``, ``rediss://`` and ``redis+socket://``."""

    Channel = _OurChannel


class _OurSentinelChannel(_OurChannel, redis.SentinelChannel):
    pass


class SentinelTransport(redis.SentinelTransport):
    """For ``sentinel://``."""

    Channel = _OurSentinelChannel


class Connection(kombu.Connection):
    """Uses ours where the URL's scheme names kombu's: also for the next URL of a failover list.

    Given as ``broker_transport``, a class would be lost at a failover (kombu goes by the next URL's
    scheme) and ``rediss://`` would lose TLS (kombu goes by the transport's name).
    """

    def info(self) -> dict[str, Any]:
        """What ``inspect stats`` and Flower show of it; kombu masks no password of a list."""
        info: dict[str, Any] = super().info()  # type: ignore[no-untyped-call]
        return {**info, "alternates": [maybe_sanitize_url(url) for url in self.alt]}

    def get_transport_cls(self) -> Any:
        """The class for this connection's scheme."""
        theirs: Any = super().get_transport_cls()  # type: ignore[no-untyped-call]
        ours = {redis.Transport: Transport, redis.SentinelTransport: SentinelTransport}
        return ours.get(theirs, theirs)


class AMQP(amqp.AMQP):  # type: ignore[misc]
    """What Celery makes its connections with (``Celery(amqp=...)``)."""

    Connection = Connection

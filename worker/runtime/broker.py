"""kombu's Redis transport for our app: loses no task, and never hangs at a dead connection."""

import logging
import time
from typing import Any

import kombu
from celery.app import amqp
from kombu.transport import redis
from kombu.utils.url import maybe_sanitize_url
from redis import RedisError

from viber_courier.store.refusals import report

logger = logging.getLogger(__name__)

RECORD_TIMEOUT = 30.0
"""How long to keep trying to record a popped task as unacknowledged, in seconds."""


class PatientQoS(redis.QoS):
    """Repeats the recording of a popped task until Redis has answered.

    kombu pops a task off its queue on one connection and records it as unacknowledged on another.
    If the second is dead (half-open, or Redis is restarting), the task would be in neither place.
    Recording it twice changes nothing.
    """

    def append(self, message: Any, delivery_tag: str) -> Any:
        end = time.monotonic() + RECORD_TIMEOUT
        while True:
            try:
                return super().append(message, delivery_tag)  # type: ignore[no-untyped-call]
            except (RedisError, OSError) as error:
                if time.monotonic() > end:
                    raise
                if not report(error, "COURIER_BROKER_URL"):
                    logger.warning("task not recorded yet", extra={"error": type(error).__name__})
                time.sleep(0.2)

    # Celery logs what these two raise and goes on. Unless the task's place is free by then, the
    # worker takes one task fewer from there on, and in the end none. The task is delivered again.

    def ack(self, delivery_tag: str) -> None:
        self._dirty.add(delivery_tag)
        super().ack(delivery_tag)  # type: ignore[no-untyped-call]

    def reject(self, delivery_tag: str, requeue: bool = False) -> None:
        self._dirty.add(delivery_tag)
        super().reject(delivery_tag, requeue)  # type: ignore[no-untyped-call]


class _OurChannel(redis.Channel):
    """Takes its connections out of the event loop's poll before it closes them.

    kombu does so afterwards, which fails silently. If the pool has forked a child since, the child
    holds a copy of the socket. Then the kernel reports the closed socket for ever, under the number
    of the next connection, and the worker hangs while it reads from that.
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


class AMQP(amqp.AMQP):  # type: ignore[misc]
    """Makes Celery use our Connection."""

    Connection = Connection

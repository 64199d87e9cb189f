"""Celery's Redis transport, where it would lose a task that is more than a doorbell, or hang."""

from __future__ import annotations

import logging
import time
from typing import Any

from kombu.transport import redis as transport
from redis import RedisError

logger = logging.getLogger(__name__)

PATIENCE = 30.0
"""Seconds that a task which was taken off its queue is tried to be noted for."""


class PatientQoS(transport.QoS):
    """A task is popped off its queue on one connection and noted as unacknowledged on another.

    If that one is dead (half-open, or Redis restarts just then) the task is nowhere any more.
    Noting it twice is noting it once, so it is repeated until Redis has answered.
    """

    def append(self, message: Any, delivery_tag: str) -> None:
        end = time.monotonic() + PATIENCE
        while True:
            try:
                super().append(message, delivery_tag)  # type: ignore[no-untyped-call]
                return
            except (RedisError, OSError) as error:
                if time.monotonic() > end:
                    raise
                logger.warning("task not noted yet", extra={"error": type(error).__name__})
                time.sleep(0.2)


_connparams: Any = transport.Channel._connparams


def _leaving_connparams(channel: Any, asynchronous: bool = False) -> dict[str, Any]:
    """Those of connections that leave the event loop's poll before they are closed.

    kombu takes them out afterwards, which fails in silence; that does no harm unless the pool has
    forked a child since, which has inherited the socket. Then the kernel reports its end for ever
    under the number of the next connection, and the worker hangs, reading where nothing comes.
    """
    parameters: dict[str, Any] = _connparams(channel, asynchronous)
    if not asynchronous:
        return parameters
    base: Any = parameters["connection_class"]

    class Leaving(base):  # type: ignore[misc]
        def disconnect(self, *args: Any, **options: Any) -> None:
            poller = channel.connection and getattr(channel.connection.cycle, "poller", None)
            if poller is not None and self._sock is not None:
                poller.unregister(self._sock)
            super().disconnect(*args, **options)

    return {**parameters, "connection_class": Leaving}


def install() -> None:
    """For all channels of this process, Sentinel's too."""
    transport.Channel.QoS = PatientQoS
    transport.Channel._connparams = _leaving_connparams  # type: ignore[method-assign]

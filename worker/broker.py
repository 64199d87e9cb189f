"""Celery's Redis transport, where it would lose a task that is more than a doorbell."""

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


def install() -> None:
    """For all channels of this process, Sentinel's too."""
    transport.Channel.QoS = PatientQoS

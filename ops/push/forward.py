"""Puts each event of a group on the broker of an app's own Celery, as a task: ``Forward``."""

import asyncio
import logging
import uuid
from collections import deque
from contextlib import suppress
from typing import Any

from amqp.exceptions import AMQPError, MessageNacked
from celery.app.amqp import AMQP
from kombu.exceptions import OperationalError
from redis import RedisError

from viber_courier import AsyncEvent, AsyncProducer, aconsume
from viber_courier.ops.push.serving import Metrics, document
from viber_courier.schemas.redis_url import AddressError
from viber_courier.store.connection import broker
from viber_courier.store.refusals import reason
from viber_courier.worker.runtime.app import App

SERIALIZERS = ("json", "yaml", "msgpack")
"""Those of kombu that can carry no code."""
RETRY_BASE, RETRY_CAP = 0.5, 30.0
"""First and longest wait for the broker, in seconds."""
ONE_TRY = {"max_retries": 1, "interval_start": 0, "interval_step": 0}
"""Transport options: a broker that is away fails at once, and is waited for here."""
ANSWER_SECONDS = 10.0
"""Longest wait for an AMQP broker to answer; Redis has its own (SOCKET_OPTIONS)."""
NO_ROUTE = 312
"""AMQP's reply code for a message that finds no queue."""
_IDS = uuid.UUID("0d0b6f5e-5a44-5d0c-8a3f-6c1e6f1f2b90")

_AWAY = (OperationalError, OSError, AMQPError, MessageNacked, RedisError)
logger = logging.getLogger(__name__)


class Forward:
    """Publishes to ``task`` on ``queue``; an event is acknowledged when the broker has it.

    The app's broker gets what its own ``send_task`` would put there. Nothing of this process's
    environment, or of ours, configures it.
    """

    def __init__(
        self,
        producer: AsyncProducer,
        settings: dict[str, Any],
        task: str,
        queue: str,
        serializer: str,
    ) -> None:
        self._namespace, self._producer = producer.settings.namespace, producer
        self._task, self._queue, self._serializer = task, queue, serializer
        self._app: Any = App("courier-forward", set_as_current=False, amqp=AMQP)
        self._app.conf.update(settings)

    async def run(self, group: str, stop: asyncio.Event, metrics: Metrics, **options: Any) -> None:
        """Forwards until ``stop``. Raises StoreUnavailable if Redis refuses the first read."""

        async def publish(events: list[AsyncEvent]) -> None:
            rest, failures = deque(events), 0
            while rest:
                before = len(rest)
                try:
                    await asyncio.to_thread(self._publish, rest)
                except _AWAY as error:
                    why = self._reason(error.__cause__ or error)
                    logger.warning("broker away", extra={"error": why})
                    metrics.failed("broker")
                    failures = 1 if len(rest) < before else failures + 1
                    with suppress(TimeoutError):
                        wait = min(RETRY_CAP, RETRY_BASE * 2.0 ** min(failures - 1, 10))
                        await asyncio.wait_for(stop.wait(), wait)
                    if stop.is_set():  # unacknowledged, they come again
                        raise asyncio.CancelledError from None
                metrics.succeeded(before - len(rest))

        metrics.show(active=1)
        with suppress(asyncio.CancelledError):
            await aconsume(self._producer, group, publish, stop=stop, **options)
        self._app.close()

    def _publish(self, events: deque[AsyncEvent]) -> None:
        """Publishes events in order, and removes each as soon as the broker has it."""
        with self._app.producer_or_acquire() as producer:
            while events:
                self._app.send_task(
                    self._task,
                    args=[document(events[0], self._namespace)],
                    task_id=task_id(events[0].id, self._namespace),
                    queue=self._queue,
                    serializer=self._serializer,
                    producer=producer,
                    retry=False,
                    # The queue is the app's: its worker made it, of whatever type. AMQP drops
                    # what finds no queue, unless it is mandatory.
                    declare=[],
                    mandatory=True,
                )
                events.popleft()

    def _reason(self, error: BaseException) -> str:
        """Returns why the broker has not taken a task, in words that help."""
        if isinstance(error, MessageNacked):
            return f"queue {self._queue} is full"
        if getattr(error, "reply_code", 0) == NO_ROUTE:
            return f"no queue {self._queue}: the app's worker makes it"
        return getattr(error, "reply_text", "") or reason(error)


def broker_of(url: str) -> dict[str, Any]:
    """Returns Celery's settings for a broker. Raises ValueError, whose text holds no secret."""
    scheme = url.partition("://")[0]
    if scheme in ("amqp", "amqps", "pyamqp"):
        seconds = dict.fromkeys(("read_timeout", "write_timeout"), ANSWER_SECONDS)
        transport = {"confirm_publish": True, **ONE_TRY, **seconds}
        return {"broker_url": url, "broker_transport_options": transport}
    if scheme == "cluster":
        raise ValueError("can't be cluster://: Celery has no such transport")
    try:
        return broker(url, **ONE_TRY)
    except AddressError as error:
        raise ValueError(str(error).replace("redis://", "amqp://, redis://", 1)) from None


def task_id(event: str, namespace: str) -> str:
    """Returns the id of an event's task: the same if it is published again."""
    return str(uuid.uuid5(_IDS, f"{namespace}/{event}"))

"""Doorbells: Celery tasks that say "something is due in this lane" and carry nothing else."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Iterable
from typing import Any

from viber_courier.schemas.lanes import POLL, queue
from viber_courier.schemas.settings import Settings
from viber_courier.store.connection import broker

logger = logging.getLogger(__name__)

EXPIRES = 60
"""Seconds after which a doorbell that no worker took is dropped; the sweep rings again."""
ENOUGH = 10
"""Doorbells that may wait in a lane's queue before the sweep rings no more there."""


def task(name: str) -> tuple[str, list[str]]:
    """The task behind a bell, and its arguments."""
    return ("courier.poll", []) if name == POLL else ("courier.send", [name])


ONE_TRY = {"socket_timeout": 2, "max_retries": 1, "interval_start": 0, "interval_step": 0}
"""Transport options of the client that rings: one try, or ``enqueue`` waits for a dead broker."""


REST = 5.0
"""Seconds that an app doesn't ring after a failure: each try may wait for a broker that hangs."""


class Bells:
    """Rings through the official Celery client, made when first needed, anew after a fork.

    The sweep's (``sweeps``) don't expire, which would compare the clocks of two hosts; instead none
    is rung where enough wait, or beat without workers would fill the broker.
    """

    def __init__(
        self, settings: Settings, rest: float = REST, sweeps: bool = False, app: Any = None
    ) -> None:
        self._settings, self._rest, self._again = settings, rest, 0.0
        self._sweeps, self._client = sweeps, app
        self._app: Any = None
        self._pid = 0

    def ring(self, names: Iterable[str]) -> None:
        """Put a doorbell on the queue of each lane (or ``poll``).

        A failure is logged, not raised: the messages are stored and the sweep finds them.
        """
        for name in names:
            if time.monotonic() < self._again:
                return
            try:
                self._ring(*task(name), queue(self._settings.namespace, name))
            except Exception as error:  # whatever the broker's transport raises
                self._again = time.monotonic() + self._rest
                logger.warning(
                    "doorbell not rung", extra={"bell": name, "error": type(error).__name__}
                )

    def _ring(self, task_name: str, args: list[str], to: str) -> None:
        app = self._celery()
        with app.producer_pool.acquire(block=True) as producer:
            if self._sweeps and producer.channel.client.llen(to) >= ENOUGH:
                return
            app.send_task(
                task_name,
                args=args,
                queue=to,
                expires=None if self._sweeps else EXPIRES,
                ignore_result=True,
                retry=False,
                producer=producer,
            )

    def _celery(self) -> Any:
        if self._pid != os.getpid():
            from celery import Celery  # a light import of producers is a promise

            url, options = broker(self._settings.broker_url)
            self._app = (self._client or Celery)(broker=url, set_as_current=False)
            # An app's own CELERY_BROKER_URL would win over the argument above, not over this.
            self._app.conf.broker_write_url = url
            self._app.conf.broker_transport_options = {**options, **ONE_TRY}
            self._pid = os.getpid()
        return self._app

"""Rings doorbells: Celery tasks that say "something is due in this lane" and carry nothing else.

Enqueue, claim and sweep leave a lane's name, or ``poll``, on the wake list, ``{ns}:wake`` in Redis.
A listener in each worker's main process takes it and rings (docs/design.md, section 7).
"""

import logging
import threading
import time
from math import inf

from kombu.exceptions import OperationalError
from redis import RedisError
from redis.exceptions import OutOfMemoryError

from viber_courier.schemas.lanes import DOOR, INTAKE, LANES, POLL, queue
from viber_courier.schemas.settings import Settings
from viber_courier.store.clock import STALE_SWEEPS
from viber_courier.store.connection import broker
from viber_courier.store.door import OLD_TIMEOUT, Door
from viber_courier.store.leases import Store
from viber_courier.store.refusals import BROKER, commands_fault, lasting, reason, report
from viber_courier.worker.runtime.app import App

logger = logging.getLogger(__name__)

MAX_WAITING_BELLS = 10
"""Doorbells waiting in a queue at which no more are rung: perhaps no worker serves it."""
FAILURE_PAUSE = 1.0
"""Seconds between tries while the store or the broker can't be used."""
MIN_LISTEN, MAX_LISTEN = 0.01, 1.0
"""Shortest and longest wait for a word, in seconds: Redis 6.2 takes less than 1 ms for ever."""
RING_OPTIONS = {"socket_timeout": 2, "max_retries": 1, "interval_start": 0, "interval_step": 0}
"""Transport options for ringing: one try, because a failed word goes back to the wake list."""


BELL_PACE = 0.02
"""Seconds between looks at the task door while tasks wait there."""


def task(word: str) -> tuple[str, list[str]]:
    """Returns the task that a word of the wake list, or INTAKE, stands for, and its arguments."""
    return (f"courier.{word}", []) if word in (POLL, INTAKE) else ("courier.send", [word])


class Bells:
    """Rings through its own Celery client, whose connections the worker never closes."""

    def __init__(self, settings: Settings) -> None:
        self._namespace = settings.namespace
        self._app = App(set_as_current=False)
        self._app.conf.update(broker(settings.broker_url, **RING_OPTIONS))

    def ring(self, word: str) -> None:
        """Puts a doorbell on the queue of a word. Raises the transport's errors.

        It does not expire: that would compare the clocks of two hosts.
        """
        name, args = task(word)
        to = queue(self._namespace, word)
        with self._app.producer_pool.acquire(block=True) as producer:
            if producer.channel.client.llen(to) < MAX_WAITING_BELLS:
                self._app.send_task(
                    name, args=args, queue=to, ignore_result=True, retry=False, producer=producer
                )

    def fault(self) -> str:
        """Returns what the broker refuses, in words; "" if nothing, or if it can't be reached."""
        try:
            with self._app.connection_for_write() as connection:
                client = connection.default_channel.client
                return commands_fault(client, f"{self._namespace}.check", BROKER)
        except (OperationalError, RedisError, OSError) as error:
            return lasting(error)


class Listener:
    """Takes words off the wake list and rings; sweeps if no other process has."""

    def __init__(self, store: Store, bells: Bells, settings: Settings) -> None:
        self._store, self._bells, self._settings = store, bells, settings
        self._stop = threading.Event()
        self._looked = time.monotonic()

    def run(self) -> None:
        """Listens until ``stop`` is called; waits out outages of store and broker."""
        while not self._stop.is_set():
            try:
                self._listen()
            except Exception as error:  # also a word that is no text; the thread must go on
                if not report(error):
                    logger.warning("wake list not readable", extra={"error": reason(error)})
                self._stop.wait(FAILURE_PAUSE)

    def stop(self) -> None:
        """Ends ``run`` before the next word."""
        self._stop.set()

    def _listen(self) -> None:
        interval = self._settings.sweep_interval
        if (left := self._looked + interval / 2 - time.monotonic()) < MIN_LISTEN:
            self._looked, left = time.monotonic(), interval / 2
            self._store.sweep(unless_within=STALE_SWEEPS * interval)
        word = self._store.next_wake(min(MAX_LISTEN, left))
        if word not in (*LANES, POLL):
            return
        try:
            self._bells.ring(word)
        except Exception as error:  # the transport may raise anything
            if not report(error, "COURIER_BROKER_URL"):
                more = {"bell": word, "error": reason(error)}
                logger.warning("doorbell not rung", extra=more)
            self._stop.wait(FAILURE_PAUSE)
            self._store.wake(word)  # for another listener


class DoorKeeper:
    """Waits at the task door (store/door.py), and rings for the tasks that come."""

    def __init__(self, door: Door, bells: Bells, settings: Settings) -> None:
        self._door, self._bells = door, bells
        names = (POLL, DOOR, *LANES)
        self._queues = [queue(settings.namespace, name) for name in names]
        self._stop, self._taken_over = threading.Event(), -inf

    def run(self) -> None:
        """Waits until ``stop`` is called; waits out outages of the broker."""
        while not self._stop.is_set():
            try:
                self._watch()
            except OutOfMemoryError:  # the broker is full; runtime/broker.py has logged it
                self._stop.wait(FAILURE_PAUSE)
            except Exception as error:  # the transport may raise anything
                if not report(error, "COURIER_BROKER_URL"):
                    logger.warning("task door not readable", extra={"error": reason(error)})
                self._stop.wait(FAILURE_PAUSE)

    def stop(self) -> None:
        """Ends ``run`` before the next task."""
        self._stop.set()

    def _watch(self) -> None:
        if time.monotonic() - self._taken_over >= OLD_TIMEOUT:
            if moved := self._door.take_over(self._queues):
                logger.warning("tasks of older workers put back", extra={"tasks": moved})
            self._taken_over = time.monotonic()
        is_due, is_mine = self._door.knock()
        if is_mine:
            self._bells.ring(INTAKE)
        if is_due:
            self._stop.wait(BELL_PACE)
        else:
            self._door.wait(MAX_LISTEN)

"""The Celery app: its settings, thin tasks, the listener, beat's sweep.

``celery -A viber_courier.worker worker -B`` runs all of it.
"""

import logging
import os
import sys
import threading
import time
from contextlib import closing
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

from celery import bootsteps
from celery.beat import Scheduler
from celery.signals import (
    after_setup_logger,
    after_setup_task_logger,
    beat_init,
    celeryd_init,
    worker_init,
)
from celery.utils.log import get_multiprocessing_logger
from kombu import Queue
from redis import Redis, RedisError, ResponseError

from viber_courier.producers.client import Producer
from viber_courier.schemas.errors import ConfigError
from viber_courier.schemas.lanes import DOOR, INTAKE, LANES, POLL, queue
from viber_courier.schemas.settings import Settings
from viber_courier.store.connection import broker, connect
from viber_courier.store.door import Door
from viber_courier.store.durability import dangers
from viber_courier.store.leases import Store
from viber_courier.store.refusals import lasting, reason, refusal, report, store_fault
from viber_courier.store.replicas import kept
from viber_courier.worker.bells import Bells, DoorKeeper, Listener
from viber_courier.worker.decisions import Decider
from viber_courier.worker.intake import Intake
from viber_courier.worker.log import set_up
from viber_courier.worker.poll import Poller
from viber_courier.worker.provider import Provider
from viber_courier.worker.runtime import flower
from viber_courier.worker.runtime.app import App
from viber_courier.worker.runtime.messages import BellTask, CheckTask, unpack
from viber_courier.worker.runtime.shutdown import end_orphan, set_handlers
from viber_courier.worker.runtime.watchdog import Watchdog
from viber_courier.worker.send import Sender
from viber_courier.worker.shift import task_limit

CHECK_TTL = 60
"""Seconds for which the answer to a check is kept."""
INTAKE_LIMIT = 3600
"""Seconds after which a process that stores tasks' jobs is killed: one may hold very many."""
EVENTS_TTL = 60
"""Seconds after which the broker drops events that Flower has not read, and Flower's queue."""
BELL_LOGGERS = ("celery.worker.strategy", "celery.app.trace", "celery.beat")
"""Loggers that would write three lines for each doorbell at INFO."""

logger = logging.getLogger(__name__)

try:
    settings = Settings.from_env(os.environ, provider=True)
except ConfigError as error:
    raise SystemExit(f"viber-courier can't start: {error}") from None


names = (POLL, DOOR, INTAKE, *LANES)
queues = {name: Queue(at := queue(settings.namespace, name), routing_key=at) for name in names}
flower.install()
app = App("viber_courier", set_as_current=True)
app.conf.update(
    broker(settings.broker_url),
    task_queues=list(queues.values()),
    task_default_queue=queues[POLL].name,
    task_create_missing_queues=False,
    worker_direct=True,  # each worker's own queue, which ``courier live`` uses
    accept_content=["json"],
    task_serializer="json",
    task_ignore_result=True,
    worker_consumer="viber_courier.worker.runtime.messages:CarefulConsumer",
    worker_pool="viber_courier.worker.runtime.pool:TaskPool",
    task_acks_late=False,
    task_time_limit=task_limit(settings),
    worker_prefetch_multiplier=1,
    worker_max_tasks_per_child=10_000,
    worker_send_task_events=False,
    broker_connection_retry_on_startup=True,
    broker_connection_max_retries=None,
    event_queue_ttl=EVENTS_TTL,
    event_queue_expires=EVENTS_TTL,
    beat_scheduler="viber_courier.worker.celery:Sweeper",
)
app.steps["consumer"].add(Watchdog)


class Sweeper(Scheduler):  # type: ignore[misc]
    """Beat's scheduler: sweeps, and schedules nothing. Any number of beats may run."""

    _parent = 0

    def tick(self, *_: Any, **__: Any) -> float:
        """Sweeps once; returns the seconds until the next sweep."""
        started, self._parent = time.monotonic(), self._parent or os.getppid()
        end_orphan(self._parent)
        try:
            system().store.sweep()
        except RedisError as error:
            if not report(error):
                logger.warning("no sweep", extra={"error": reason(error)})
        return max(0.0, settings.sweep_interval - (time.monotonic() - started))


@dataclass(frozen=True)
class System:
    """The objects that a process's tasks use. Threads and forks can share its Redis client."""

    store: Store
    sender: Sender
    poller: Poller
    intake: Intake


@cache
def system() -> System:
    """Returns this process's System, made when it is first needed."""
    client, provider = connect(settings.redis_url, settings.namespace), Provider(settings)
    store, decider = Store(client, settings), Decider(settings)
    return System(
        store=store,
        sender=Sender(settings, store, provider, decider),
        poller=Poller(settings, store, provider, decider),
        # A task's app is another: COURIER_SOURCE isn't its name.
        intake=Intake(_door(), Producer(replace(settings, source=""), client=client), unpack_task),
    )


def _door() -> Door:
    return Door(settings.broker_url, settings.namespace)


def unpack_task(raw: bytes) -> Any:
    """Returns the ``courier.enqueue`` task in a message; raises Refused."""
    return unpack(raw, "courier.enqueue", app.tasks["courier.intake"])


class ListenerStep(bootsteps.StartStopStep):  # type: ignore[misc]
    """Runs threads in the worker's main process, after its pool has started: the Listener, and the
    DoorKeeper if the worker serves the door's queue."""

    requires = ("celery.worker.components:Pool",)

    def __init__(self, worker: Any, **_: Any) -> None:
        # Celery itself must not take tasks off the door's list: it consumes the bells for them.
        consumed, (at, bells) = app.amqp.queues, (queues[DOOR].name, queues[INTAKE])
        self._serves_door, self._threads = at in consumed.consume_from, list[Any]()
        consumed.deselect(at)
        if self._serves_door:
            consumed.select_add(bells)
        else:
            consumed.deselect(bells.name)

    def start(self, worker: Any) -> None:
        """Starts the threads; replaces Celery's signal handlers."""
        set_handlers(worker.pool)
        self._threads.append(Listener(system().store, Bells(settings), settings))
        if self._serves_door:
            self._threads.append(DoorKeeper(_door(), Bells(settings), settings))
        for each in self._threads:
            threading.Thread(target=each.run, daemon=True, name=type(each).__name__).start()

    def close(self, worker: Any) -> None:
        """Stops the threads, because the worker is about to end."""
        for each in self._threads:
            each.stop()

    stop = terminate = close


app.steps["worker"].add(ListenerStep)


@app.task(name="courier.send", base=BellTask)
def send(lane: str) -> str:
    """Sends what is due in this lane and those above it."""
    return system().sender.serve(lane)


@app.task(name="courier.poll", base=BellTask)
def poll() -> str:
    """Polls the statuses that are due."""
    return system().poller.serve()


@app.task(name="courier.check", base=CheckTask, bind=True)
def check(self: Any, nonce: str) -> str:
    """Records that this worker takes tasks, runs them and may use Redis, for ``courier live``."""
    store = system().store
    must = kept(store.redis, settings)
    said = store_fault(store.redis, settings.namespace, must) or self.request.hostname
    store.redis.set(store.keys.check(nonce), said, px=1000 * CHECK_TTL)
    return "check: answered"


@app.task(name="courier.intake", base=BellTask, time_limit=INTAKE_LIMIT)
def intake() -> str:
    """Stores jobs of apps that don't install the package (docs/design.md, section 3)."""
    return system().intake.serve()


@celeryd_init.connect
@after_setup_logger.connect
@after_setup_task_logger.connect
def _set_up_logs(logger: logging.Logger | None = None, **_: Any) -> None:
    """Formats log lines, from before Celery sets up logging, and Python's warnings."""
    logging.basicConfig()
    logging.captureWarnings(True)
    for each in (logger or logging.getLogger(), get_multiprocessing_logger()):  # the pool's lines
        set_up(each)
    for name in BELL_LOGGERS:
        logging.getLogger(name).setLevel(logging.WARNING)
    logging.getLogger("celery.pool").setLevel(logging.INFO)  # at DEBUG it logs arguments


@beat_init.connect
@worker_init.connect
def _refuse_volatile_redis(**_: Any) -> None:
    """Waits for Redis; ends worker or beat if Redis refuses it, or would lose messages."""
    with closing(connect(settings.redis_url, settings.namespace)) as client:
        while True:
            try:
                must = kept(client, settings)
                fault = store_fault(client, settings.namespace, must) or _danger(client)
                break
            except RedisError as error:
                if fault := lasting(error):
                    break
                logger.warning("redis not checked yet", extra={"error": reason(error)})
                time.sleep(1.0)
    refused = fault and f"COURIER_REDIS_URL: {fault}"
    if not fault and (fault := Bells(settings).fault()):
        refused = f"COURIER_BROKER_URL: {fault}"
    if refused:
        # Beat has made sys.stderr a logger by now.
        print(f"viber-courier can't start: {refused} (docs/redis.md)", file=sys.__stderr__)
        raise SystemExit(1)


def _danger(client: Redis) -> str:
    """Returns how Redis may lose messages, in words; "" if it can't or COURIER_ALLOW accepts it."""
    found: str
    try:
        found = "; ".join(dangers(client.info()))
    except ResponseError as error:
        if not (why := refusal(error)):
            raise
        found = f"it is unknown whether it keeps messages: {why}"
    if found and "volatile-redis" in settings.allow:
        logger.warning("messages may be lost", extra={"why": found})
        return ""
    return f"{found} (COURIER_ALLOW=volatile-redis accepts that)" if found else ""

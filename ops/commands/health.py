"""Health checks: ``doctor``, ``ready``. ``live`` has a module of its own."""

from __future__ import annotations

import os
import sys
import time
import uuid
from collections.abc import Collection, Iterator
from typing import Any

import click
from redis import Redis, RedisError

from viber_courier import ConfigError, CourierError
from viber_courier.ops.commands import findings, terminal
from viber_courier.ops.commands.findings import ERROR, Finding
from viber_courier.ops.commands.live import (
    BrokerUnavailable,
    Checks,
    broker_errors,
    timeout_option,
    unavailable,
)
from viber_courier.ops.commands.terminal import Failure, command, emit, json_option
from viber_courier.ops.look import take_look
from viber_courier.schemas.lanes import LANES, POLL, queue
from viber_courier.schemas.settings import Settings
from viber_courier.store.connection import broker, connect, store_errors
from viber_courier.store.keys import Keys
from viber_courier.worker.bells import RING_OPTIONS
from viber_courier.worker.provider import Provider
from viber_courier.worker.runtime.app import App

UNUSED_ID = 1
"""A provider id that no message has: real ones have 19 digits."""
ANSWER_SECONDS = 2.0
"""How long workers have to name their queues."""
TASK_SECONDS = 5.0
"""How long ``doctor`` gives workers to run a task."""


class Workers:
    """Talks to the workers through the broker."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        url, options = broker(settings.broker_url)
        self._app = App(broker=url, set_as_current=False)
        self._app.conf.broker_transport_options = {**options, **RING_OPTIONS}

    def serving(self, seconds: float) -> dict[str, set[str]]:
        """Returns the queues of each worker that answers in time."""
        with broker_errors(), self._app.connection_for_write() as connection:
            asking = self._app.control.inspect(timeout=seconds, connection=connection)
            found = asking.active_queues() or {}
        return {host: {each["name"] for each in queues} for host, queues in found.items()}

    def prove(self, client: Redis, keys: Keys, hosts: Collection[str], end: float) -> Iterator[str]:
        """Sends each worker a task on its own queue and yields those that run it.

        Ends when all have, or at ``end`` (monotonic).
        """
        checks = Checks(self._settings)
        waiting = {uuid.uuid4().hex: host for host in hosts}
        try:
            for nonce, host in waiting.items():
                left = max(0.1, end - time.monotonic())
                checks.send(host, nonce, left)
            while waiting and time.monotonic() < end:
                for nonce, host in list(waiting.items()):
                    with store_errors():
                        answered = client.getdel(keys.check(nonce))
                    if answered == host:
                        del waiting[nonce]
                        yield host
                time.sleep(0.05)
        finally:
            for host in waiting.values():
                checks.forget(host)
            checks.close()


@command(done="all is well", partly="warnings", wrong="errors; wrong usage or settings", away="")
@click.option("--no-provider", is_flag=True, help="Don't contact the provider.")
@json_option
def doctor(no_provider: bool, as_json: bool) -> None:
    """Check everything and say what to do.

    To check login and password, doctor asks the provider for the status of a message that can't
    exist (/status, id 1). It sends nothing and costs nothing.
    """
    found = list(_examine(no_provider))
    if as_json:
        words = ("ok", "warning", "error")
        emit([{**each._asdict(), "severity": words[each.severity]} for each in found])
    else:
        _print(found)
    sys.exit(max(each.severity for each in found))


def _examine(no_provider: bool) -> Iterator[Finding]:
    settings = Settings.from_env(os.environ)
    with connect(settings.redis_url) as client:
        redis_up = True
        try:
            yield from _store(client, settings)
        except (CourierError, RedisError) as error:
            redis_up = False
            yield Finding(ERROR, "Redis", _short(error), "start it; check COURIER_REDIS_URL")
        try:
            workers, hangs = Workers(settings), set[str]()
            serving, end = workers.serving(ANSWER_SECONDS), time.monotonic() + TASK_SECONDS
            if redis_up:  # it holds their answers
                keys = Keys(settings.namespace)
                hangs = set(serving).difference(workers.prove(client, keys, serving.keys(), end))
            yield from findings.workers(settings.namespace, serving, hangs)
        except BrokerUnavailable as error:
            yield Finding(ERROR, "broker", str(error), error.do)
        except (CourierError, RedisError) as error:
            yield Finding(ERROR, "Redis", _short(error), "start it; check COURIER_REDIS_URL")
    if not no_provider:
        try:
            all_settings = Settings.from_env(os.environ, provider=True)
        except ConfigError as error:
            for name, fault in error.faults.items():
                yield Finding(ERROR, name, fault, "set it, or use --no-provider")
        else:
            yield findings.provider(Provider(all_settings).status([UNUSED_ID]))


def _store(client: Redis, settings: Settings) -> Iterator[Finding]:
    keys = Keys(settings.namespace)
    with store_errors():
        began = time.time()
        seconds, micros = client.time()
        skew = int(seconds) + int(micros) / 1e6 - (began + time.time()) / 2
        info: Any = client.info()
    yield from findings.redis(info, skew)
    with store_errors():
        look = take_look(client, settings.namespace)
    yield findings.beat(look.swept, settings.sweep_interval)
    yield from findings.held(look.paused, look.gates)
    with store_errors():
        newest: Any = client.xrevrange(keys.results, count=1)
        groups: Any = client.xinfo_groups(keys.results) if client.exists(keys.results) else []
        for group in groups:
            readers: Any = client.xinfo_consumers(keys.results, group["name"])
            group["idle"] = min([each["idle"] for each in readers], default=1e12) / 1000
            pending: Any = client.xpending_range(
                keys.results, group["name"], "-", "+", 1, idle=int(findings.IDLE * 1000)
            )
            group["unacked"] = pending[0]["time_since_delivered"] / 1000 if pending else 0
    yield from findings.consumers(newest[0][0] if newest else None, groups)


def _short(error: Exception) -> str:
    return str(error) if isinstance(error, CourierError) else type(error).__name__


def _print(found: list[Finding]) -> None:
    marks = (("ok", "green"), ("warning", "yellow"), ("ERROR", "red"))
    rows: list[list[object]] = []
    for each in found:
        rows.append([terminal.plain(*marks[each.severity]), each.about, each.seen])
        rows += [["", "", terminal.plain(f"-> {each.do}", "bold")]] if each.do else []
    terminal.console().print(terminal.grid(rows))


@command(partly="some lane has no worker that runs tasks", away="Redis or the broker can't be used")
@timeout_option
@json_option
def ready(timeout: float, as_json: bool) -> None:
    """Prove that the system stores and sends messages.

    Writes to Redis, and for each lane and for polling makes a worker of its queue run a task.
    Pauses and closed gates don't count against it: `courier doctor` reports those.
    """
    settings = Settings.from_env(os.environ)
    end, names = time.monotonic() + timeout, (*LANES, POLL)
    with connect(settings.redis_url) as client:
        with store_errors():
            client.set(Keys(settings.namespace).check("ready"), "1", px=1000)
        with unavailable():
            serving = Workers(settings).serving(min(ANSWER_SECONDS, timeout / 2))
        lanes = {
            host: {name for name in names if queue(settings.namespace, name) in queues}
            for host, queues in serving.items()
        }
        missing = set(names)
        if missing <= set().union(*lanes.values()):
            for host in _prove(client, settings, [h for h in lanes if lanes[h]], end):
                missing -= lanes[host]
                if not missing:
                    break
        else:
            missing -= set().union(*lanes.values())
    without = [name for name in names if name in missing]
    if as_json:
        emit({"ready": not missing, "workers": sorted(lanes), "withoutWorker": without})
    elif not missing:
        click.echo("ready")
    if missing:
        raise Failure(f"no worker runs tasks for: {', '.join(without)}")


def _prove(client: Redis, settings: Settings, hosts: list[str], end: float) -> Iterator[str]:
    with unavailable():
        yield from Workers(settings).prove(client, Keys(settings.namespace), hosts, end)

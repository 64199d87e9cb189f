"""Health checks: ``doctor``, ``ready``. ``live`` has a module of its own."""

from __future__ import annotations

import os
import sys
import time
import uuid
from collections.abc import Callable, Collection, Iterator
from contextlib import closing
from typing import Any, TypeVar

import click
from redis import Redis, RedisError

from viber_courier import ConfigError, CourierError
from viber_courier.ops.commands import findings, terminal
from viber_courier.ops.commands.findings import ERROR, OK, Finding
from viber_courier.ops.commands.live import (
    BrokerRefuses,
    BrokerUnavailable,
    Checks,
    broker_errors,
    timeout_option,
    unavailable,
)
from viber_courier.ops.commands.terminal import UNAVAILABLE, Failure, command, emit, json_option
from viber_courier.ops.look import silence, take_look
from viber_courier.schemas.lanes import LANES, POLL, queue
from viber_courier.schemas.redis_url import parse
from viber_courier.schemas.settings import Settings
from viber_courier.schemas.suppression import number_hash
from viber_courier.store.connection import StoreUnavailable, broker, connect, store_errors
from viber_courier.store.door import Door
from viber_courier.store.format import HOLDS
from viber_courier.store.keys import Keys
from viber_courier.store.refusals import refusal, store_fault
from viber_courier.store.replicas import TooFewReplicas, call_kept, kept
from viber_courier.store.replies import run
from viber_courier.worker.bells import RING_OPTIONS, Bells
from viber_courier.worker.provider import Provider
from viber_courier.worker.runtime.app import App

T = TypeVar("T")

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
        self._app = App(set_as_current=False)
        self._app.conf.update(broker(settings.broker_url, **RING_OPTIONS))
        self.refused: dict[str, str] = {}
        """What Redis refuses to each worker that ``prove`` found so."""

    def serving(self, seconds: float) -> dict[str, set[str]]:
        """Returns the queues of each worker that answers in time."""
        with broker_errors(), self._app.connection_for_write() as connection:
            asking = self._app.control.inspect(timeout=seconds, connection=connection)
            found = asking.active_queues() or {}
        return {host: {each["name"] for each in queues} for host, queues in found.items()}

    def prove(self, client: Redis, keys: Keys, hosts: Collection[str], end: float) -> Iterator[str]:
        """Sends each worker a task on its own queue and yields those that run it.

        A worker to which Redis refuses something is not one of them. Ends when all have answered,
        or at ``end`` (monotonic).
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
                        answered: Any = client.getdel(keys.check(nonce))
                    if answered is None:
                        continue
                    del waiting[nonce]
                    if answered == host:
                        yield host
                    else:
                        self.refused[host] = f"Redis refuses it: {answered}"
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
    with connect(settings.redis_url, settings.namespace) as client:
        redis_up = True
        try:
            yield from _store(client, settings)
        except (CourierError, RedisError, Failure) as error:
            redis_up = False
            yield away(error)
        try:
            _check_broker(settings)
            yield from worker_findings(client if redis_up else None, settings)
        except BrokerUnavailable as error:
            yield Finding(ERROR, "broker", str(error), error.do)
        except (CourierError, RedisError) as error:
            yield away(error)
    if not no_provider:
        try:
            all_settings = Settings.from_env(os.environ, provider=True)
        except ConfigError as error:
            for name, fault in error.faults.items():
                yield Finding(ERROR, name, fault, "set it, or use --no-provider")
        else:
            yield findings.provider(Provider(all_settings).status([UNUSED_ID]))


def worker_findings(client: Redis | None, settings: Settings) -> Iterator[Finding]:
    """Checks tasks and workers. With a client of the store each worker must run a task.

    Raises BrokerUnavailable, StoreUnavailable or redis-py's errors.
    """
    with broker_errors(), closing(Door(settings.broker_url, settings.namespace)) as door:
        yield findings.door(door.look())
    workers, hangs = Workers(settings), set[str]()
    serving, end = workers.serving(ANSWER_SECONDS), time.monotonic() + TASK_SECONDS
    if client:  # it holds their answers
        keys = Keys(settings.namespace)
        hangs = set(serving).difference(workers.prove(client, keys, serving.keys(), end))
    yield from findings.workers(settings.namespace, serving, hangs, workers.refused)


def _store(client: Redis, settings: Settings) -> Iterator[Finding]:
    _check_store(client, settings)
    yield Finding(OK, "permissions", "it runs scripts, takes writes and allows all commands")
    yield from store_findings(client, settings)


def store_findings(client: Redis, settings: Settings) -> Iterator[Finding]:
    """Checks what the store holds, and changes none of it.

    Raises StoreUnavailable or redis-py's errors.
    """
    keys = Keys(settings.namespace)
    with store_errors():
        began = time.time()
        seconds, micros = client.time()
        skew = int(seconds) + int(micros) / 1e6 - (began + time.time()) / 2
    try:
        with store_errors():
            info: Any = client.info()
    except StoreUnavailable as error:
        if not (why := refusal(error)):
            raise
        yield findings.unknown(why, accepted="volatile-redis" in settings.allow)
        yield findings.clock(skew)
    else:
        yield from findings.redis(info, skew)
        sentinel = parse(settings.redis_url).scheme == "sentinel"
        lacks = _lacks(client, settings)
        yield from findings.replicas(settings.replicas, info, sentinel, lacks)
    with store_errors():
        look = take_look(client, settings.namespace)
        stepped: Any = client.hgetall(keys.clock)
        key: Any = client.hget(keys.suppressed, "key")
    yield from findings.clock_steps(stepped, look.now)
    yield from findings.suppressions(key, number_hash(settings.suppression_key))
    yield findings.beat(look.swept, settings.sweep_interval)
    yield from findings.held(look.paused, look.gates)
    yield findings.polls(*silence(look))
    yield from findings.odd(look.counters.oddities, look.counters.seen, look.now)
    with store_errors():
        newest: Any = client.xrevrange(keys.results, count=1)
        groups: Any = client.xinfo_groups(keys.results) if client.exists(keys.results) else []
        missed: Any = client.hgetall(keys.missed)
        lags = {each.name: each.lag_seconds for each in look.groups}
        for group in groups:
            group |= {"missed": True} if group["name"] in missed else {}
            group["share"] = lags.get(group["name"], 0.0) / settings.results_retention
            readers: Any = client.xinfo_consumers(keys.results, group["name"])
            group["idle"] = min([each["idle"] for each in readers], default=1e12) / 1000
            pending: Any = client.xpending_range(
                keys.results, group["name"], "-", "+", 1, idle=int(findings.IDLE * 1000)
            )
            group["unacked"] = pending[0]["time_since_delivered"] / 1000 if pending else 0
    yield from findings.consumers(newest[0][0] if newest else None, groups)


def away(error: Exception) -> Finding:
    """Returns why Redis can't be used, or what it holds can't be read."""
    if (said := str(error)).startswith(HOLDS):
        held, _, do = said.partition(": ")
        return Finding(ERROR, "format", held, f"{do} (docs/operations.md)")
    refused = isinstance(error, Failure) or refusal(error)
    do = "change it, or ask who runs it (docs/redis.md)" if refused else "start it"
    seen = type(error).__name__ if type(error).__module__.startswith("redis") else str(error)
    return Finding(ERROR, "Redis", seen, f"{do}; check COURIER_REDIS_URL")


def _check_store(client: Redis, settings: Settings) -> None:
    """Writes a key, runs a script, calls each command. Raises StoreUnavailable or Failure."""
    with store_errors():
        fault = store_fault(client, settings.namespace, kept(client, settings))
    if fault:
        said = fault if fault.startswith(HOLDS) else f"Redis refuses (COURIER_REDIS_URL): {fault}"
        raise Failure(said, UNAVAILABLE)


def _lacks(client: Redis, settings: Settings) -> str:
    """Returns why a write of now is not safe by COURIER_REPLICAS; "" if it is."""
    try:
        if must := kept(client, settings):
            with store_errors():
                run(call_kept(client, ("TIME",), must))
    except StoreUnavailable as error:
        if not isinstance(error.__cause__, TooFewReplicas):
            raise
        return str(error.__cause__)
    return ""


def _check_broker(settings: Settings) -> None:
    if fault := Bells(settings).fault():
        raise BrokerRefuses(f"the broker refuses: {fault}")


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

    Writes to Redis, runs a script, calls each command that a worker needs (docs/redis.md), and for
    each lane and for polling makes a worker of its queue run a task. Redis, the broker and workers
    that have only just been started are waited for. Pauses and closed gates don't count against it:
    `courier doctor` reports those.
    """
    settings = Settings.from_env(os.environ)
    end, names = time.monotonic() + timeout, (*LANES, POLL)
    with connect(settings.redis_url, settings.namespace) as client:
        _once_there(lambda: _check_store(client, settings), end)
        ours = {queue(settings.namespace, name): name for name in names}
        missing, lanes = set(names), dict[str, set[str]]()
        while missing.difference(*lanes.values()) and time.monotonic() < end:
            with unavailable():
                serving = _once_there(lambda: _serving(settings, timeout / 2), end)
            lanes = {host: {ours[q] for q in found & {*ours}} for host, found in serving.items()}
        if without := missing.difference(*lanes.values()):
            missing = without
        else:
            for host in _prove(client, settings, [h for h in lanes if lanes[h]], end):
                missing -= lanes[host]
                if not missing:
                    break
    left = [name for name in names if name in missing]
    if as_json:
        emit({"ready": not missing, "workers": sorted(lanes), "withoutWorker": left})
    elif not missing:
        click.echo("ready")
    if missing:
        raise Failure(f"no worker runs tasks for: {', '.join(left)}")


def _once_there(look: Callable[[], T], end: float) -> T:
    """Returns what a look returns, once Redis can be used. Raises its error at ``end``."""
    while True:
        try:
            return look()
        except (StoreUnavailable, BrokerUnavailable) as error:
            if refusal(error) or isinstance(error, BrokerRefuses) or time.monotonic() > end:
                raise
        time.sleep(0.2)


def _serving(settings: Settings, seconds: float) -> dict[str, set[str]]:
    _check_broker(settings)
    return Workers(settings).serving(min(ANSWER_SECONDS, seconds))


def _prove(client: Redis, settings: Settings, hosts: list[str], end: float) -> Iterator[str]:
    workers = Workers(settings)
    with unavailable():
        yield from workers.prove(client, Keys(settings.namespace), hosts, end)
    if workers.refused:
        raise Failure("; ".join(f"{host}: {why}" for host, why in workers.refused.items()))

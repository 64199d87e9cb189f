"""The task door: tasks of plain Celery clients outlive kill -9 of whole workers, at any point."""

from __future__ import annotations

import os
import random
import signal
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import redis
from celery import Celery
from kombu.exceptions import OperationalError

from tests.conftest import Worker, free_port, iso_in, log_lines, text_job, wait_for
from tests.faults.parts import BEAT, WORKER, Proxy, supervised
from viber_courier import Producer
from viber_courier.ops.redis_server import RedisServer
from viber_courier.store.door import LEASE, Door, Waiting

FULL, ROOM = "broker full: bells only", "broker has room again"
KILLS = int(os.environ.get("DOOR_KILLS", "20"))


def is_sent(app: Producer, id: str) -> bool:
    record = app.get(id)
    return record is not None and record.status not in ("queued", "sending")


class Clients:
    """Plain Celery clients that send tasks all the time, in bursts, from a thread."""

    def __init__(self, url: str, namespace: str) -> None:
        self._app = Celery(broker=url, set_as_current=False)
        self._queue = f"{namespace}.enqueue"
        self._over = threading.Event()
        self.ids: list[str] = []
        """The messages' ids, in tasks whose ``send_task`` has returned."""
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def send(self, jobs: list[Any], **options: Any) -> None:
        send = self._app.send_task
        send("courier.enqueue", args=[jobs], queue=self._queue, ignore_result=True, **options)

    def _run(self) -> None:
        later = iso_in(3600)
        while not self._over.wait(random.uniform(0, 0.05)):
            for _ in range(random.randint(1, 5)):
                # one job with an id of its own, one whose id comes from the task's
                id, task = uuid.uuid4().hex, uuid.uuid4()
                self.send(
                    [text_job(id=id, sendAt=later), text_job(sendAt=later)], task_id=str(task)
                )
                self.ids += (id, str(uuid.uuid5(task, "1")))

    def close(self) -> None:
        self._over.set()
        self._thread.join()
        self._app.close()


def look(app: Producer) -> Waiting:
    with closing(Door(app.settings.redis_url, app.settings.namespace)) as door:
        return door.look()


def taking(app: Producer) -> Callable[[], bool]:
    """Whether a task was taken off its list since this was called."""
    key = f"{app.settings.namespace}.enqueue.taken"
    before = app.redis.get(key)
    return lambda: app.redis.get(key) != before


def stored(app: Producer, ids: list[str]) -> int:
    pipe = app.redis.pipeline(transaction=False)
    for id in ids:
        pipe.exists(app._keys.records + id)
    return sum(pipe.execute())


def test_whole_workers_are_killed_again_and_again_while_tasks_pass(
    app: Producer, system_env: dict[str, str], tmp_path: Path
) -> None:
    # Given two workers, one with processes and one with threads, and clients that send all the time
    commands = [(*WORKER, "-P", pool) for pool in ("prefork", "threads")]
    with supervised(system_env, tmp_path, *commands) as workers:
        clients = Clients(system_env["COURIER_REDIS_URL"], app.settings.namespace)
        try:
            # When they are killed in turns, their whole process groups, as soon as they take tasks
            for n in range(KILLS):
                victim, starts = workers[n % 2], n // 2 + 1
                wait_for(lambda v=victim, s=starts: v.log.count(" ready.") >= s, 60)
                wait_for(taking(app), 60)
                time.sleep(random.uniform(0, 0.2))
                victim.kill()
        finally:
            clients.close()
        # Then each message is there, once
        ids = clients.ids
        wait_for(lambda: stored(app, ids) == len(ids), 60, "a task is lost")
        wait_for(lambda: look(app)[::2] == (0, 0), 2 * LEASE, "tasks are left")
    assert sum(app.redis.zcard(lane) for lane in app._keys.lanes) == len(set(ids)) == len(ids)
    assert int(app.redis.hget(app._keys.counts, "queued") or 0) == len(ids)


def test_remote_control_does_not_open_the_door_to_celery(
    app: Producer, system_env: dict[str, str], tmp_path: Path
) -> None:
    # Given a worker that someone has told to consume the door's queue, as Flower's button does
    queue, ids = f"{app.settings.namespace}.enqueue", [f"m{n}" for n in range(30)]
    with supervised(system_env, tmp_path, WORKER) as (worker,):
        wait_for(lambda: " ready." in worker.log, 60)
        with Celery(broker=system_env["COURIER_REDIS_URL"], set_as_current=False) as client:
            client.control.add_consumer(queue, reply=True, timeout=20)
            # When tasks come, then each is stored
            for id in ids:
                client.send_task("courier.enqueue", args=[[text_job(id=id)]], queue=queue)
        wait_for(lambda: stored(app, ids) == len(ids), 30, "a task is lost")


def test_a_broker_that_tasks_have_filled_is_emptied(
    app: Producer, system_env: dict[str, str], tmp_path: Path
) -> None:
    # Given a broker of its own, and a worker that stands still while tasks come until it is full
    broker = RedisServer(tmp_path, free_port())
    broker.start()
    queue, ids = f"{app.settings.namespace}.enqueue", list[str]()
    env = {**system_env, "COURIER_BROKER_URL": broker.url}
    try:
        with (
            supervised(env, tmp_path, WORKER) as (worker,),
            Celery(broker=broker.url, set_as_current=False) as client,
            redis.Redis(port=broker.port) as admin,
        ):
            wait_for(lambda: " ready." in worker.log, 60)

            def put(id: str) -> None:
                job = text_job(id=id, sendAt=iso_in(3600))
                client.send_task("courier.enqueue", args=[[job]], queue=queue, retry=False)
                ids.append(id)

            put("first")
            wait_for(lambda: stored(app, ids), 30)
            worker.freeze()
            admin.config_set("maxmemory", admin.info("memory")["used_memory"] + 3_000_000)
            with pytest.raises(OperationalError, match="maxmemory"):
                for n in range(10_000):
                    put(f"m{n}")
            # When it goes on, then it takes them all, and there is room again
            worker.thaw()
            wait_for(lambda: stored(app, ids) == len(ids), 60, "nothing is taken any more")
            free: Callable[[str], int] = lambda name: admin.info("memory")[name]  # noqa: E731
            wait_for(lambda: free("used_memory") < free("maxmemory"), 20, "there is no room")
            put("next")
            wait_for(lambda: stored(app, ids) == len(ids), 20)
            assert worker.exits == []
    finally:
        broker.stop(kill=True)


@pytest.mark.parametrize("filled_by", ["tasks", "others"])
def test_a_worker_that_starts_at_a_full_broker_works_and_makes_room(
    filled_by: str, app: Producer, system_env: dict[str, str], tmp_path: Path
) -> None:
    # Given a broker whose memory is used up, and no worker
    broker = RedisServer(tmp_path, free_port())
    broker.start()
    queue = f"{app.settings.namespace}.enqueue"
    worker = None
    try:
        with (
            Celery(broker=broker.url, set_as_current=False) as client,
            redis.Redis(port=broker.port) as admin,
        ):
            ids = [f"m{n}" for n in range(1500)]
            later, text = iso_in(3600), "я" * 1000
            for id in ids:
                job = text_job(id=id, sendAt=later, content={"text": text})
                client.send_task("courier.enqueue", args=[[job]], queue=queue, retry=False)
            used = admin.info("memory")["used_memory"]
            admin.config_set("maxmemory", 1 if filled_by == "others" else used - 50_000)
            # When one starts
            env = {**system_env, "COURIER_BROKER_URL": broker.url}
            worker = Worker(env, tmp_path, beat=False).ready()
            # Then it says so once, and stores what is at the door
            wait_for(lambda: stored(app, ids) == len(ids), 60, worker.log)
            assert worker.process.poll() is None, worker.log
            if filled_by == "others":
                assert len(log_lines(worker.log, FULL, process=worker.process.pid)) == 1
                id = app.enqueue(text_job())
                wait_for(lambda: is_sent(app, id), 30, worker.log)
            assert "Traceback" not in worker.log
    finally:
        if worker:
            worker.kill()
        broker.stop(kill=True)


@pytest.mark.parametrize("more", [("--without-gossip", "--without-mingle"), ("-E",)])
def test_a_worker_that_reconnects_to_a_full_broker_goes_on(
    more: tuple[str, ...],
    monkeypatch: pytest.MonkeyPatch,
    app: Producer,
    system_env: dict[str, str],
    tmp_path: Path,
) -> None:
    # Given a worker at a broker of its own, and that broker's memory used up
    broker = RedisServer(tmp_path, free_port())
    broker.start()
    monkeypatch.setattr(Worker, "MORE", ("-c", "2", "-l", "INFO", *more))
    worker = Worker({**system_env, "COURIER_BROKER_URL": broker.url}, tmp_path, beat=False)
    try:
        with redis.Redis(port=broker.port) as admin:
            worker.ready()
            admin.config_set("maxmemory", 1)
            # When its connections break off
            for again in range(1, 4):
                admin.client_kill_filter(_type="normal", skipme=True)
                admin.client_kill_filter(_type="pubsub")
                wait_for(lambda n=again: worker.log.count("Connected to ") > n, 60)
                # Then it goes on sending
                id = app.enqueue(text_job())
                wait_for(lambda id=id: is_sent(app, id), 30, worker.log)
                assert worker.process.poll() is None, worker.log
            # And says so when it began, and when there is room again
            assert len(log_lines(worker.log, FULL, process=worker.process.pid)) == 1
            admin.config_set("maxmemory", 0)
            app.enqueue(text_job())
            wait_for(lambda: log_lines(worker.log, ROOM, process=worker.process.pid))
    finally:
        worker.kill()
        broker.stop(kill=True)


@pytest.fixture
def proxy(redis_server: RedisServer) -> Iterator[Proxy]:
    made = Proxy(redis_server.port)
    yield made
    made.close()


@pytest.mark.parametrize("forked", [False, True], ids=["", "that its children have inherited"])
def test_tasks_outlive_vanished_connections_of_their_worker(
    forked: bool,
    redis_server: RedisServer,
    system_env: dict[str, str],
    proxy: Proxy,
    tmp_path: Path,
) -> None:
    # Given a worker that has run a task
    env = {**system_env, "COURIER_REDIS_URL": f"redis://127.0.0.1:{proxy.port}/0"}
    app, producer = Celery(broker=redis_server.url), Producer.from_env(system_env)
    queue = f"{env['COURIER_NAMESPACE']}.enqueue"

    def put(*ids: str) -> None:
        for id in ids:
            app.send_task("courier.enqueue", args=[[text_job(id=id)]], queue=queue)

    with supervised(env, tmp_path, WORKER, BEAT) as (worker, _):
        put("before")
        wait_for(lambda: producer.get("before"), 30)
        # (and whose pool was forked anew since it connected, or not)
        if forked:
            former = worker.children()
            for child in former:
                os.kill(child, signal.SIGKILL)
            wait_for(lambda: len(set(worker.children()) - set(former)) == len(former), 20)
        # When the peers of all its connections vanish, and tasks come
        proxy.vanish()
        # (and Redis knows: until then it would give a task to a connection that nobody reads)
        wait_for(lambda: not producer.redis.info("clients")["blocked_clients"])
        put("a", "b", "c")
        # Then it takes them as soon as it has noticed, and loses none
        for id in ("a", "b", "c"):
            wait_for(lambda id=id: producer.get(id), 60, f"{id} is lost")
        # And goes on when it has found the last of them dead, that of remote control
        found = ("pub/sub connection missed", "Connection to broker lost")
        wait_for(lambda: any(text in worker.log for text in found), 60)
        for id in ("d", "e", "f"):
            put(id)
            wait_for(lambda id=id: producer.get(id), 20, f"{id} isn't taken")
    app.close()
    producer.close()

"""What upstream does that worker/runtime/ has a hook for: each test fails once it is mended.

Then the hook, and its line in docs/decisions/0016-what-upstream-does-and-our-hooks.md, can go.
That of Flower is in tests/ops/test_flower.py.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import billiard
import billiard.pool
import kombu
import pytest
import redis
from celery import Celery
from celery.concurrency.asynpool import Worker as PoolProcess
from celery.worker.consumer.connection import Connection as ConnectionStep
from celery.worker.request import Request
from kombu.asynchronous import Hub

from tests.conftest import free_port, wait_for
from viber_courier.ops.redis_server import RedisServer
from viber_courier.worker.runtime import broker
from viber_courier.worker.runtime.messages import HiddenRequest
from viber_courier.worker.runtime.pool import PoolWorker

PHONE, PASSWORD = "79251110001", "Zq7-p4ss"

# --- kombu ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("ours", [False, True], ids=["theirs", "ours"])
def test_kombu_closes_a_connection_that_is_still_polled(
    ours: bool, redis_server: RedisServer
) -> None:
    # Given a consumer's connection in an event loop, and a child that has inherited the socket
    hub = Hub()
    with (broker.Connection if ours else kombu.Connection)(redis_server.url) as connection:
        channel = connection.default_channel
        connection.transport.register_with_event_loop(connection.connection, hub)
        with kombu.Consumer(channel, [kombu.Queue(f"q{uuid.uuid4().hex}")]):
            for start_polling in list(hub.on_tick):
                start_polling()
            link = channel.client.connection
            number = link._sock.fileno()
            inherited = os.dup(number)
            # When it is closed
            link.disconnect()
            # Then the kernel reports it for ever, under a number that another connection will have
            told = [fd for fd, _ in hub.poller.poll(0) or ()]
            os.close(inherited)
    hub.close()
    assert told == ([] if ours else [number])


def test_kombu_takes_tls_and_the_transport_from_the_urls_scheme_alone() -> None:
    given = "kombu.transport.redis:SentinelTransport"
    tls = kombu.Connection("rediss://a:1/0", transport="kombu.transport.redis:Transport")
    listed = kombu.Connection("sentinel://a:1;sentinel://b:1", transport=given)
    assert listed.transport_cls == given
    listed.maybe_switch_next()
    # Else the setting broker_transport would do instead of our own Connection
    assert not tls.ssl and listed.transport_cls == "sentinel"


# --- billiard -------------------------------------------------------------------------------------


@pytest.mark.parametrize("process", [PoolProcess, PoolWorker])
def test_billiards_process_takes_a_lock_before_it_ends(process: Any) -> None:
    context = billiard.get_context("fork")
    lock, taken = context.RLock(), list[bool]()

    class Noted:
        def acquire(self, *args: Any) -> Any:
            taken.append(True)
            return lock.acquire(*args)

        release = staticmethod(lock.release)
        __enter__, __exit__ = acquire, lambda self, *_: self.release()

    ending = process.__new__(process)
    ending.on_ready_counter = context.Value("i", 1, lock=Noted())
    assert ending._ensure_messages_consumed(completed=1)
    assert bool(taken) is (process is PoolProcess)


def test_kombus_pool_makes_connections_of_its_own_class() -> None:
    class Chosen(kombu.Connection):
        pass

    assert not isinstance(Chosen("memory://").Pool().new(), Chosen)
    ours = broker.Connection("redis://localhost/0").Pool().new()
    assert ours.get_transport_cls() is broker.Transport


def test_kombu_puts_no_message_and_binds_no_queue_when_memory_is_used_up(tmp_path: Path) -> None:
    server = RedisServer(tmp_path, free_port())
    server.start()
    try:
        for connect in (kombu.Connection, broker.Connection):
            with connect(server.url) as connection, redis.Redis(port=server.port) as admin:
                connection.SimpleQueue("q").put(1)
                admin.config_set("maxmemory", 1)
                channel, bound = connection.default_channel, kombu.Queue("q", kombu.Exchange("e"))
                for work in (lambda c=channel: c._put("q", {"a": 1}), bound(channel).declare):
                    if connect is kombu.Connection:
                        with pytest.raises(redis.RedisError):
                            work()
                    else:
                        work()
                admin.config_set("maxmemory", 0)
        assert admin.llen("q") == 3
    finally:
        server.stop()


def test_billiards_process_waits_half_a_minute_for_its_worker_to_count() -> None:
    theirs = billiard.pool.GUARANTEE_MESSAGE_CONSUMPTION_RETRY_LIMIT
    theirs *= billiard.pool.GUARANTEE_MESSAGE_CONSUMPTION_RETRY_INTERVAL
    # Given a process whose worker does not count its last result, as in some shutdowns
    ending, began = PoolWorker.__new__(PoolWorker), time.monotonic()
    ending.on_ready_counter = billiard.get_context("fork").Value("i", 0)
    assert not ending._ensure_messages_consumed(completed=1)
    assert time.monotonic() - began < 5 < theirs


@pytest.mark.parametrize("process", [PoolProcess, PoolWorker])
def test_billiards_process_ends_on_anybodys_term(process: Any) -> None:
    class Processes(billiard.pool.Pool):  # type: ignore[misc]
        Worker = process

    processes = Processes(1)
    try:
        number, (waiter,) = signal.SIGTERM, processes._pool
        pid = processes.apply(os.getpid)
        subprocess.run(["kill", f"-{number}", str(pid)], check=True)  # as somebody else
        if process is PoolProcess:
            waiter.join(10)
        else:
            assert processes.apply(os.getpid) == pid, "its parent's word alone counts"
    finally:
        processes.terminate()  # by TERM of its parent
        processes.join()
    assert not waiter.is_alive()


# --- Celery: what shows ---------------------------------------------------------------------------


@pytest.mark.parametrize("shown", [True, False], ids=["theirs", "ours"])
def test_celerys_requests_show_arguments_and_obey_their_clients_limits(shown: bool) -> None:
    app = Celery("canary", broker="memory://", set_as_current=False)

    @app.task(name="t")  # type: ignore[untyped-decorator]
    def task(*_: Any) -> None:
        """Nothing."""

    headers, properties, body, _ = app.amqp.as_task_v2(
        "id", "t", args=[PHONE], time_limit=1, soft_time_limit=1
    )
    message = kombu.Message(
        json.dumps(body),
        channel=SimpleNamespace(no_ack_consumers=()),
        headers=headers,
        properties={**properties, "delivery_info": {}},
        content_type="application/json",
        content_encoding="utf-8",
    )
    request = (Request if shown else HiddenRequest)(message, app=app, task=task)
    assert (PHONE in repr(request.info())) is shown
    assert (1 in request.time_limits) is shown


def test_celery_shows_passwords_of_a_failover_list_and_of_broker_read_url() -> None:
    url = f"sentinel://:{PASSWORD}@a:1/0;sentinel://:{PASSWORD}@b:1/0"
    consumer = SimpleNamespace(connection=kombu.Connection(url))
    assert PASSWORD in str(ConnectionStep.info(ConnectionStep, consumer))  # inspect stats
    app = Celery("canary", set_as_current=False)
    app.conf.update(broker_url=url, broker_read_url=url.partition(";")[0])
    shown = app.conf.table()  # inspect conf
    assert PASSWORD in shown["broker_read_url"] and PASSWORD not in shown["broker_url"]


STOCK = """
from celery import Celery
app = Celery("stock", broker_connection_retry_on_startup=True)
app.conf.update(broker_url={url!r}, task_default_queue={queue!r}, worker_hijack_root_logger=True)
@app.task(name="known")
def known():
    pass
"""


@pytest.fixture
def stock(redis_server: RedisServer, tmp_path: Path) -> Iterator[tuple[str, Path]]:
    """A plain Celery worker without any hook of ours: its queue and its log."""
    queue, log = f"q{uuid.uuid4().hex}", tmp_path / "stock.log"
    (tmp_path / "stock.py").write_text(STOCK.format(url=redis_server.url, queue=queue))
    options = ("-P", "solo", "--without-mingle", "--without-gossip", "-l", "INFO", "-f", str(log))
    command = [sys.executable, "-m", "celery", "-A", "stock", "worker", *options]
    process = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=-3)
    yield queue, log
    process.kill()
    process.wait(10)


def test_celerys_consumer_prints_bodies_and_stumbles_over_a_message_without_id(
    stock: tuple[str, Path], redis_server: RedisServer
) -> None:
    queue, log = stock
    with Celery(broker=redis_server.url, set_as_current=False) as client:
        client.send_task("no.such.task", args=[PHONE], argsrepr="", queue=queue)
        wait_for(lambda: log.exists() and PHONE in log.read_text(), 30, "it prints no body")
    assert "Connection to broker lost" not in log.read_text()
    with kombu.Connection(redis_server.url) as connection:
        producer = connection.Producer()
        producer.publish([[], {}, {}], routing_key=queue, headers={"task": "known"})
        wait_for(lambda: "Connection to broker lost" in log.read_text(), 30, "it copes")


# --- Celery: what reaches an app ------------------------------------------------------------------


def test_celery_prefers_its_environment_to_an_apps_own_settings(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "others_config.py").write_text("task_always_eager = True\n")
    monkeypatch.syspath_prepend(tmp_path)
    for name in ("CELERY_BROKER_URL", "CELERY_RESULT_BACKEND"):
        monkeypatch.setenv(name, "redis://theirs/0")
    monkeypatch.setenv("CELERY_CONFIG_MODULE", "others_config")
    app = Celery("canary", broker="redis://ours/0", backend="rpc://", set_as_current=False)
    assert app.connection_for_read().hostname == "theirs"
    assert app.conf.result_backend == "redis://theirs/0"
    assert app.conf.task_always_eager is True
    monkeypatch.setenv("CELERY_LOADER", "default")
    assert "default" in str(Celery("canary", set_as_current=False).loader_cls)
    assert Celery.builtin_fixups, "Django's"


def test_celery_reads_command_line_options_from_variables(tmp_path: Path) -> None:
    (tmp_path / "stock.py").write_text(STOCK.format(url="memory://", queue="q"))
    run = subprocess.run(
        [sys.executable, "-m", "celery", "-A", "stock", "worker", "-P", "solo"],
        env={**os.environ, "CELERY_WORKER_LOGLEVEL": "no-level"},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert run.returncode == 2 and "no-level" in run.stderr.lower()

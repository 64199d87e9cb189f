"""`courier.enqueue` on a broker connection whose peer has vanished: no task is lost."""

from __future__ import annotations

import os
import signal
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from celery import Celery

from tests.conftest import text_job, wait_for
from tests.faults.parts import BEAT, WORKER, Proxy, supervised
from viber_courier import Producer
from viber_courier.ops.redis_server import RedisServer
from viber_courier.worker.runtime.broker import Connection


@pytest.fixture
def proxy(redis_server: RedisServer) -> Iterator[Proxy]:
    made = Proxy(redis_server.port)
    yield made
    made.close()


def test_a_task_is_noted_though_the_connection_for_it_is_dead(
    redis_server: RedisServer, proxy: Proxy
) -> None:
    name, options = f"q{uuid.uuid4().hex}", {"socket_timeout": 0.5, "unacked_key": "noted"}
    with Connection(redis_server.url) as app, app.SimpleQueue(name) as queue:
        queue.put({"a": 1})
        url = f"redis://127.0.0.1:{proxy.port}/0"
        with Connection(url, transport_options=options) as broker:
            # Given a task that a worker has just popped from its queue
            channel = broker.default_channel
            message = channel.message_to_python(channel._get(name))
            # When the peer of the connection on which it is to be noted has vanished
            proxy.vanish()
            channel.qos.append(message, message.delivery_tag)
            # Then it is noted all the same: whoever comes after a crash finds it
            assert app.default_channel.client.hexists("noted", message.delivery_tag)


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

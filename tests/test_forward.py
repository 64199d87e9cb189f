"""``courier forward``: what is put on an app's broker, and a broker that is away."""

from __future__ import annotations

import asyncio
import json
import uuid
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, closing, suppress
from typing import Any

import kombu
import pytest
import redis

from tests.conftest import Courier, free_port, log_lines
from tests.push import cancelled, many, metric, until
from viber_courier import AsyncProducer, Producer, Settings
from viber_courier.ops.push import forward as module
from viber_courier.ops.push.forward import Forward, broker_of
from viber_courier.ops.push.serving import Metrics
from viber_courier.ops.redis_server import RedisServer
from viber_courier.store.keys import Keys


@pytest.fixture
def producer(redis_server: RedisServer, namespace: str) -> Iterator[Producer]:
    with closing(Producer(Settings(redis_url=redis_server.url, namespace=namespace))) as made:
        yield made


@pytest.fixture
def broker(own_server: RedisServer) -> RedisServer:
    """The app's own."""
    return own_server


@asynccontextmanager
async def forwarding(
    producer: Producer, url: str, serializer: str = "json", **more: Any
) -> AsyncIterator[Metrics]:
    stop, metrics = asyncio.Event(), Metrics("crm")
    async with AsyncProducer(producer.settings) as made:
        forward = Forward(made, broker_of(url), "shop.on_result", "shop", serializer)
        task = asyncio.create_task(forward.run("crm", stop, metrics, **more))
        try:
            yield metrics
        finally:
            stop.set()
            await asyncio.wait_for(task, 20)


def tasks(url: str, accept: str = "json") -> list[kombu.Message]:
    """What waits on the queue, taken off it as a worker does."""
    with kombu.Connection(url) as connection:
        queue = kombu.Queue("shop", kombu.Exchange("shop"), "shop", no_declare="amqp" in url)
        with closing(connection.SimpleQueue(queue, serializer=accept)) as simple:
            simple.consumer.accept = {f"application/{accept}", f"application/x-{accept}"}
            found = []
            with suppress(simple.Empty):
                while True:
                    found.append(simple.get(block=False))
                    found[-1].ack()
            return found


def pending(producer: Producer) -> int:
    found: Any = producer.redis.xpending(Keys(producer.settings.namespace).results, "crm")
    return int(found["pending"])


@pytest.mark.parametrize("serializer", ["json", "yaml"])
def test_each_event_is_a_task_whose_id_is_stable(
    producer: Producer, broker: RedisServer, serializer: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("CELERY_BROKER_URL", "CELERY_BROKER_WRITE_URL", "CELERY_RESULT_BACKEND"):
        monkeypatch.setenv(name, "redis://another-app.invalid")  # nothing of it is used
    cancelled(producer, "a", "b", metadata={"order": 5}, source="shop")
    cancelled(producer, "c", source="other")

    async def run(group_start: str) -> None:
        given = {"source": "shop", "start": group_start, "batch": 10}
        async with forwarding(producer, broker.url, serializer, **given) as metrics:
            await until(lambda: metric(metrics, "courier_push_events_total") == 2)
        assert pending(producer) == 0

    asyncio.run(run("oldest"))
    first = tasks(broker.url, serializer)
    assert [message.headers["task"] for message in first] == ["shop.on_result"] * 2
    assert [message.payload[0][0]["id"] for message in first] == ["a:1", "b:1"]
    (event,), kwargs, _ = first[0].payload
    assert kwargs == {} and event["data"]["metadata"] == {"order": 5}
    stream: Any = producer.redis.xrange(Keys(producer.settings.namespace).results)
    assert event == json.loads(stream[0][1]["event"])
    # When they are forwarded once more, as after a crash, the ids are the same
    producer.redis.xgroup_setid(Keys(producer.settings.namespace).results, "crm", "0")
    asyncio.run(run("oldest"))
    ids = [message.headers["id"] for message in first]
    assert [message.headers["id"] for message in tasks(broker.url, serializer)] == ids
    assert len({*ids}) == 2 and all(uuid.UUID(id) for id in ids)


def test_a_broker_that_is_away_is_waited_for(
    producer: Producer, broker: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "RETRY_BASE", 0.1)
    many(producer, 300)

    async def run() -> None:
        async with forwarding(producer, broker.url, batch=50) as metrics:
            await until(lambda: metric(metrics, "courier_push_events_total") >= 50)
            await asyncio.to_thread(broker.stop)
            many(producer, 300, start=300)
            await until(lambda: metric(metrics, "courier_push_failures_total", reason="broker"))
            assert pending(producer) >= 50
            assert metric(metrics, "courier_push_failing_seconds") > 0
            await asyncio.to_thread(broker.start)
            await until(lambda: metric(metrics, "courier_push_failing_seconds") == 0)
            await until(lambda: pending(producer) == 0)
            await until(lambda: len(got := ids()) >= 600 or seen.update(got) or len(seen) == 600)

    seen = set[str]()

    def ids() -> list[str]:
        return [message.payload[0][0]["id"] for message in tasks(broker.url)]

    asyncio.run(run())


def test_a_full_broker_is_waited_for(producer: Producer, broker: RedisServer) -> None:
    cancelled(producer, "a", "b")
    with closing(redis.Redis.from_url(broker.url)) as admin:
        admin.config_set("maxmemory-policy", "noeviction")
        admin.config_set("maxmemory", 1)

        async def run() -> None:
            async with forwarding(producer, broker.url) as metrics:
                await until(lambda: metric(metrics, "courier_push_failures_total", reason="broker"))
                assert pending(producer) == 2
                admin.config_set("maxmemory", 0)
                await until(lambda: pending(producer) == 0)

        asyncio.run(run())
    assert [message.payload[0][0]["id"] for message in tasks(broker.url)] == ["a:1", "b:1"]


def test_a_broker_that_refuses_the_login_is_said(
    producer: Producer, broker: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    cancelled(producer, "a")
    with closing(redis.Redis.from_url(broker.url)) as admin:
        admin.config_set("requirepass", "hidden")

    async def run() -> None:
        async with forwarding(producer, broker.url) as metrics:
            await until(lambda: metric(metrics, "courier_push_failures_total", reason="broker"))

    asyncio.run(run())
    (record, *_) = [each for each in caplog.records if each.msg == "broker away"]
    assert "password" in vars(record)["error"] and "hidden" not in vars(record)["error"]


@pytest.mark.slow
def test_term_while_the_broker_is_away_leaves_the_events_to_the_next(
    producer: Producer, broker: RedisServer, courier: Courier
) -> None:
    cancelled(producer, "a", "b")
    broker.stop()
    options = ["--broker", broker.url, "--task", "shop.on_result", "--queue", "shop"]
    given = ["--group", "crm", "--consumer", "one", "--port", str(free_port())]
    process = courier.start("forward", *options, *given)
    assert process.stderr is not None
    line = process.stderr.readline()
    (said,) = log_lines(line, "broker away", level="WARNING")
    assert "refused" in said["error"]  # what a person can act on, and not our library's class
    process.terminate()
    _, said = process.communicate(timeout=20)
    assert process.returncode == 0 and "Traceback" not in said, said
    assert pending(producer) == 2
    broker.start()
    process = courier.start("forward", *options, *given)

    async def run() -> None:
        await until(lambda: pending(producer) == 0)

    asyncio.run(run())
    process.terminate()
    assert process.wait(20) == 0
    process.communicate()
    assert [message.payload[0][0]["id"] for message in tasks(broker.url)] == ["a:1", "b:1"]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--group", ""], "--group must not be empty"),
        (["--serializer", "pickle"], "'pickle' is not one of"),
        (["--serializer", "msgpack"], "--serializer msgpack: its library is not installed"),
        (["--broker", "ftp://shop:secret"], "--broker must be a URL that starts with amqp://"),
        (["--broker", "redis://:secret@shop/x"], "--broker must end with the number of a database"),
        (["--broker", "cluster://shop"], "--broker can't be cluster://"),
    ],
)
def test_what_is_wrong_is_said_before_it_starts(
    courier: Courier, options: list[str], said: str
) -> None:
    given = ["--group", "crm", "--broker", "redis://localhost", "--task", "t", *options]
    output = courier("forward", *given, code=2).stderr
    assert said in output and "secret" not in output

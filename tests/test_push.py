"""``courier webhook``: what a receiver gets, in which order, and what each of its answers does."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from tests.push import Receiver, cancelled, in_order, many, pushing, until
from viber_courier import Producer, Settings
from viber_courier.ops.push import line as line_module
from viber_courier.ops.redis_server import RedisServer


@pytest.fixture
def producer(redis_server: RedisServer, namespace: str) -> Iterator[Producer]:
    with closing(Producer(Settings(redis_url=redis_server.url, namespace=namespace))) as made:
        yield made


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(line_module, "RETRY_BASE", 0.02)


def test_events_come_signed_as_cloudevents_one_in_a_request(
    producer: Producer, tmp_path: Path
) -> None:
    cancelled(producer, "a", "b", metadata={"order": 5})

    async def run() -> None:
        receiver = Receiver()
        async with receiver.serve() as url, pushing(producer, url, tmp_path):
            await until(lambda: len(receiver.taken) == 2)
        assert sorted(receiver.taken) == ["a:1", "b:1"]
        request, body = receiver.requests[0], receiver.bodies[0]
        assert request.headers["Content-Type"] == "application/cloudevents+json"
        assert body["specversion"] == "1.0" and body["data"]["metadata"] == {"order": 5}
        print(body)

    asyncio.run(run())


@pytest.mark.parametrize("batch", [0, 100])
def test_throughput(producer: Producer, tmp_path: Path, batch: int) -> None:
    many(producer, 1000, 5)

    async def answer(receiver: Receiver, events: object) -> None:
        await asyncio.sleep(0.05)

    async def run() -> None:
        import time
        receiver = Receiver(answer)
        async with receiver.serve() as url:
            began = time.perf_counter()
            async with pushing(producer, url, tmp_path, batch=batch):
                await until(lambda: len(receiver.taken) == 5000, 60)
            print(batch, 5000 / (time.perf_counter() - began), receiver.most, len(receiver.requests))
        assert in_order(receiver.taken)

    asyncio.run(run())

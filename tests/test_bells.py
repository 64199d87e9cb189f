"""Doorbells: an app leaves a word in the store, a worker's listener rings; no beat is needed."""

from __future__ import annotations

import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from itertools import pairwise
from statistics import median

import pytest
import redis

from tests.conftest import Simulator, Start, ends, free_port, iso_in, text_job, wait_for
from viber_courier import Producer
from viber_courier.ops.redis_server import RedisServer
from viber_courier.schemas.lanes import LANES
from viber_courier.schemas.settings import Settings
from viber_courier.store.keys import Keys
from viber_courier.store.leases import Store
from viber_courier.worker.bells import MAX_WAITING_BELLS, Bells, Listener


@pytest.fixture
def hung_broker() -> Iterator[str]:
    """A server that takes connections and says nothing."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"redis://127.0.0.1:{server.getsockname()[1]}/0"


def test_an_app_does_not_notice_its_broker(
    redis_server: RedisServer, namespace: str, hung_broker: str
) -> None:
    dead = f"redis://127.0.0.1:{free_port()}/0"
    took = dict[str, list[float]]()
    producers = {
        url: Producer(
            Settings(redis_url=redis_server.url, broker_url=url, namespace=f"{namespace}b")
        )
        for url in (redis_server.url, hung_broker, dead)
    }
    for _ in range(100):  # in turns, so that the machine's moods are shared
        for url, producer in producers.items():
            started = time.perf_counter()
            producer.enqueue(text_job())
            took.setdefault(url, []).append(time.perf_counter() - started)
    for url in (hung_broker, dead):
        assert median(took[url]) < 2 * median(took[redis_server.url])
        assert max(took[url]) < 1
    for producer in producers.values():
        producer.close()


def test_an_app_loads_no_celery(redis_server: RedisServer, namespace: str) -> None:
    program = (
        "import sys; from viber_courier import Producer, Settings\n"
        f"p = Producer(Settings(redis_url={redis_server.url!r}, namespace={namespace!r}))\n"
        f"p.enqueue({text_job()!r})\n"
        "print({'celery', 'kombu', 'requests'} & {*sys.modules})"
    )
    run = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert run.stdout == "set()\n"


def test_words_wait_once_for_each_lane_however_long_no_worker_takes_them(
    client: redis.Redis, producer: Producer, settings: Settings
) -> None:
    store = Store(client, settings)
    for _ in range(3):
        for lane in LANES:
            producer.enqueue(text_job(priority=lane))
            client.delete(store.keys.bell(lane))  # as if it had lapsed
        store.sweep()
        for lane in LANES:
            client.delete(store.keys.bell(lane))
    assert client.lrange(store.keys.wakes, 0, -1) == [*LANES]


@pytest.fixture
def listener_parts(redis_server: RedisServer, namespace: str) -> Settings:
    return Settings(
        redis_url=redis_server.url,
        broker_url=redis_server.url,
        namespace=namespace,
        sweep_interval=0.2,
    )


def test_where_enough_wait_none_is_rung(
    listener_parts: Settings, redis_server: RedisServer
) -> None:
    bells, broker = Bells(listener_parts), redis.Redis.from_url(redis_server.url)
    for _ in range(MAX_WAITING_BELLS + 5):
        bells.ring("low")
    assert broker.llen(f"{listener_parts.namespace}.send.low") == MAX_WAITING_BELLS
    broker.close()


def test_a_word_whose_bell_cannot_be_rung_is_left_for_another_listener(
    listener_parts: Settings, redis_server: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    server = redis.Redis.from_url(redis_server.url, decode_responses=True)
    dead = Settings(
        redis_url=redis_server.url,
        broker_url=f"redis://127.0.0.1:{free_port()}/0",
        namespace=listener_parts.namespace,
    )
    queue = f"{listener_parts.namespace}.send.low"
    store = Store(server, dead)
    store.wake("no lane of ours")
    server.rpush(store.keys.wakes, b"\xff")  # no text at all
    store.wake("low")
    one = Listener(store, Bells(dead), dead)
    thread = threading.Thread(target=one.run)
    thread.start()
    wait_for(lambda: "doorbell not rung" in caplog.text)
    one.stop()
    thread.join()
    assert server.lrange(store.keys.wakes, 0, -1) == ["low"] and not server.llen(queue)
    other = Listener(store, Bells(listener_parts), listener_parts)
    thread = threading.Thread(target=other.run)
    thread.start()
    wait_for(lambda: server.llen(queue) == 1)
    other.stop()
    thread.join()
    server.close()


@pytest.mark.slow
def test_what_is_due_waits_two_sweep_intervals_at_most_without_beat(
    redis_server: RedisServer, namespace: str
) -> None:
    # Given a listener and no beat
    interval = 1.0
    settings = Settings(
        redis_url=redis_server.url,
        broker_url=redis_server.url,
        namespace=namespace,
        sweep_interval=interval,
    )
    client = redis.Redis.from_url(redis_server.url, decode_responses=True)
    store, keys = Store(client, settings), Keys(namespace)
    listener = Listener(store, Bells(settings), settings)
    thread = threading.Thread(target=listener.run)
    # When it sweeps some times, and words come meanwhile
    thread.start()
    swept = dict[str, None]()
    while len(swept) < 6:
        swept[str(client.get(keys.swept) or "")] = None
        store.wake("low")
        time.sleep(0.05)
    listener.stop()
    thread.join()
    # Then from one sweep to the next are two intervals, but for a busy machine's delays
    at = [int(each) / 1000 for each in swept if each]
    gaps = [late - early for early, late in pairwise(at)]
    assert max(gaps) < 2.5 * interval, gaps
    assert min(gaps) >= 1.5 * interval, gaps
    client.close()


@pytest.mark.slow
def test_a_worker_without_beat_sends_retries_polls_and_keeps_schedules(
    start_worker: Start, app: Producer, simulator: Simulator
) -> None:
    start_worker(beat=False)
    simulator.fault(kind="status", code="error-system", times=1)
    ids = [app.enqueue(text_job(address="79250000100", sendAt=iso_in(wait))) for wait in (-9, 2)]
    assert set(ends(app, 2)) == set(ids)
    records = [app.get(id) for id in ids]
    assert [r and r.status for r in records] == ["read", "read"]
    assert sum(r.attempts for r in records if r) == 3

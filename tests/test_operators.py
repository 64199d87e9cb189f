"""What operators have: pauses, counters, histograms, the proof that a worker works."""

from __future__ import annotations

import uuid
from functools import partial
from typing import Any

import pytest
import redis
from celery import Celery
from celery.utils.nodenames import worker_direct

from tests.conftest import Clock, Simulator, Start, common_job, iso_in, text_job, wait_for
from viber_courier import Producer
from viber_courier.schemas.lanes import LANES
from viber_courier.schemas.settings import Settings
from viber_courier.schemas.status import Status
from viber_courier.store.counters import BOUNDS, observed
from viber_courier.store.gate import ProviderSignal
from viber_courier.store.keys import Keys
from viber_courier.store.leases import Lease, Store
from viber_courier.store.records import Step
from viber_courier.store.writes import Move, Write


@pytest.fixture
def keys(settings: Settings) -> Keys:
    return Keys(settings.namespace)


@pytest.fixture
def store(client: redis.Redis, settings: Settings, clock: Clock) -> Store:
    return Store(client, settings, clock)


def claimed(store: Store, lane: str = "low") -> list[str]:
    lease = store.claim(lane, answered=True)
    return [message.id for message in lease.messages] if isinstance(lease, Lease) else []


def test_a_paused_lane_is_passed_over_and_goes_on_when_resumed(
    producer: Producer, client: redis.Redis, store: Store, keys: Keys
) -> None:
    # Given a message in each lane, and two lanes paused
    for lane in LANES:
        producer.enqueue({**text_job(priority=lane), "id": lane})
    for lane in ("realtime", "normal"):
        client.set(keys.paused(lane), "the shop is closed")
    # Then only the others' are sent
    lease = store.claim("low", answered=True)
    assert isinstance(lease, Lease) and [m.id for m in lease.messages] == ["high"]
    assert lease.more  # low is due; and after it nothing is, for a bell to be rung for nothing
    lease = store.claim("low", answered=True)
    assert isinstance(lease, Lease) and [m.id for m in lease.messages] == ["low"]
    assert not lease.more
    assert claimed(store) == []
    # When they go on
    client.delete(keys.paused("realtime"), keys.paused("normal"))
    # Then the most urgent comes first
    assert claimed(store) == ["realtime"]
    assert claimed(store) == ["normal"]


def test_what_must_end_ends_though_its_lane_is_paused(
    producer: Producer, client: redis.Redis, store: Store, keys: Keys, clock: Clock
) -> None:
    producer.enqueue({**text_job(priority="low"), "id": "old", "ttlSec": 15})
    producer.enqueue({**text_job(priority="low"), "id": "new"})
    client.set(keys.paused("low"), "by hand")
    assert claimed(store) == []
    clock.advance(20)
    assert claimed(store) == ["old"]  # for the worker to end it: expired


def test_the_probe_of_a_closed_gate_is_none_of_a_paused_lane(
    producer: Producer, client: redis.Redis, store: Store, keys: Keys
) -> None:
    producer.enqueue({**text_job(priority="high"), "id": "high"})
    producer.enqueue({**text_job(priority="low"), "id": "low"})
    client.hset(keys.gate("send"), mapping={"until": 1, "opened": 1})  # closed, its time is over
    client.set(keys.paused("high"), "by hand")
    assert claimed(store) == ["low"]


def test_polling_can_be_paused_too(
    producer: Producer, client: redis.Redis, store: Store, keys: Keys
) -> None:
    client.hset(keys.records + "a", mapping={"status": "submitted", "provider": 1, "set": 1})
    client.hset(keys.records + "a", mapping={"submitted": 0, "tracked": 2**50})
    client.zadd(keys.watch, {"a": 0})
    client.set(keys.paused("poll"), "by hand")
    assert store.claim_watched(answered=True) is None
    client.delete(keys.paused("poll"))
    assert isinstance(store.claim_watched(answered=True), Lease)


def test_claims_and_bells_are_counted(
    producer: Producer, client: redis.Redis, store: Store, keys: Keys
) -> None:
    producer.enqueue(text_job())
    producer.enqueue({**text_job(), "sendAt": iso_in(3600)})
    claimed(store)
    claimed(store)
    store.sweep()
    counts = client.hgetall(keys.counts)
    assert (counts["bells"], counts["claims"], counts["claims:empty"]) == ("1", "1", "1")
    seconds, _ = client.time()  # type: ignore[misc]
    assert abs(int(client.get(keys.swept) or 0) / 1000 - int(seconds)) < 10  # type: ignore[arg-type]


@pytest.mark.parametrize("measure", BOUNDS)
def test_every_value_falls_into_one_bucket(measure: str) -> None:
    bounds = BOUNDS[measure]
    assert list(bounds) == sorted(set(bounds))
    for bound in bounds:
        # le: its own bound
        assert observed("send", **{measure: bound})[f"send:{measure}:le:{bound}"] == 1
    assert observed("send", **{measure: bounds[-1] * 2})[f"send:{measure}:le:inf"] == 1
    assert observed("poll", seconds=0.0425)["poll:seconds:sum"] == 42_500


def test_requests_are_measured_and_their_codes_counted(
    app: Producer, start_worker: Start, simulator: Simulator, keys: Keys
) -> None:
    # Given a request that fails as a whole at first, and one of whose messages is refused then
    rows = [{"address": f"792500000{n}"} for n in (10, 11, 50)]
    app.enqueue_many(rows, common=common_job())
    simulator.fault(kind="status", code="error-system", times=1)
    start_worker(COURIER_RETRY_BASE="0.1")
    # (after backoffs of their own: the three need not go together again)
    ends = [Status.SUBMITTED, f"{Status.REJECTED}:error-address-unknown"]
    wait_for(lambda: app.redis.hmget(app._keys.counts, ends) == ["2", "1"])
    # Then each request is in each histogram once
    found: dict[str, Any] = app.redis.hgetall(app._keys.requests)  # type: ignore[assignment]
    for measure in BOUNDS:
        total = int(found[f"send:{measure}:count"])
        buckets = [int(n) for name, n in found.items() if name.startswith(f"send:{measure}:le:")]
        assert sum(buckets) == total >= 1
    assert int(found["send:size:sum"]) >= 3
    # And what was not accepted is counted by its code
    counts: dict[str, Any] = app.redis.hgetall(app._keys.counts)  # type: ignore[assignment]
    assert (counts["code:error-system"], counts["code:error-address-unknown"]) == ("3", "1")


def test_a_worker_proves_that_it_takes_tasks(
    app: Producer, start_worker: Start, system_env: dict[str, str]
) -> None:
    # Given two workers, each of one lane only
    for name in ("one", "two"):
        queues = f"{system_env['COURIER_NAMESPACE']}.send.{'low' if name == 'one' else 'high'}"
        start_worker("-n", f"{name}@here", "-Q", queues, beat=False)
    client = Celery(broker=system_env["COURIER_REDIS_URL"], set_as_current=False)
    for name in ("one", "two"):
        # When one is asked
        nonce = uuid.uuid4().hex
        queue = worker_direct(f"{name}@here")
        client.send_task("courier.check", args=[nonce], queue=queue)
        # Then it is that one which answers
        answer = wait_for(partial(app.redis.get, app._keys.check(nonce)))
        assert answer == f"{name}@here"


@pytest.mark.slow
def test_closings_of_the_gate_are_counted(
    app: Producer, start_worker: Start, simulator: Simulator
) -> None:
    simulator.fault(kind="status", code="error-system", times=5)
    app.enqueue(text_job(priority="realtime"))
    start_worker(COURIER_RETRY_BASE="0.05")
    wait_for(lambda: app.redis.hget(app._keys.counts, "closed:send"))
    wait_for(lambda: app.redis.hget(app._keys.counts, Status.SUBMITTED) == "1")
    assert app.redis.hget(app._keys.counts, "closed:send") == "1"


def test_what_must_end_is_found_far_back_in_a_paused_lane_while_others_send(
    producer: Producer, client: redis.Redis, store: Store, keys: Keys, clock: Clock
) -> None:
    # Given a paused lane in which the last of many runs out of time
    client.set(keys.paused("low"), "by hand")
    rows = [{"address": f"79{n:09}"} for n in range(3000)]
    producer.enqueue_many(rows, common=common_job(priority="low"))
    producer.enqueue({**text_job(priority="low"), "id": "old", "ttlSec": 15})
    clock.advance(20)
    # When workers look for work, and requests of other lanes are answered meanwhile
    for _ in range(5):
        if claimed(store) == ["old"]:
            break
        ended = Write(Status.QUEUED, Step("stay", clock() + 4))
        producer.enqueue(text_job(priority="high"))
        lease = store.claim("low", answered=True)
        assert isinstance(lease, Lease)
        store.settle(
            lease, [Move(lease.messages[0].id, ended)], ProviderSignal("good", accepted=True)
        )
        client.zrem(keys.lanes[2], lease.messages[0].id)
    else:
        pytest.fail("it was not found")

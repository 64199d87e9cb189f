"""Rate limits over all workers: a token bucket in Redis, read by the claim."""

from __future__ import annotations

from typing import Any

import pytest
import redis

from tests.conftest import Clock, common_job
from viber_courier import Producer
from viber_courier.schemas.settings import Settings
from viber_courier.store.leases import Lease, RateLimited, Store
from viber_courier.worker.shift import work_off


class Stopped(Clock):
    """Moves only when the test moves it: a busy machine earns no tokens."""

    def __init__(self) -> None:
        super().__init__()
        self._start = super().__call__() + 5_000_000  # enqueue takes the real instant

    def __call__(self) -> int:
        return self._start + int(self.ahead * 1_000_000)


@pytest.fixture
def clock() -> Clock:
    return Stopped()


def store(client: redis.Redis, settings: Settings, clock: Clock, **limits: Any) -> Store:
    return Store(client, Settings(namespace=settings.namespace, **limits), clock)


def fill(producer: Producer, count: int, priority: str = "low", **more: Any) -> list[str]:
    rows = [{"address": f"79{n:09}"} for n in range(count)]
    return producer.enqueue_many(rows, common=common_job(priority=priority, **more))


def taken(lease: Lease[Any] | RateLimited | None) -> int:
    return len(lease.messages) if isinstance(lease, Lease) else 0


def test_a_burst_at_first_then_as_many_as_the_rate_gives(
    producer: Producer, client: redis.Redis, settings: Settings, clock: Clock
) -> None:
    ours = store(client, settings, clock, rate_limit=40.0, rate_burst=25.0)
    fill(producer, 1000)
    first = ours.claim("low", answered=True)
    assert isinstance(first, Lease) and first.out_of_tokens
    assert taken(first) == 25
    sent = 0
    for _ in range(100):
        clock.advance(0.1)
        sent += taken(ours.claim("low", answered=True))
    assert sent == pytest.approx(400, abs=1)
    # What nobody used is saved up, but no more than the burst
    clock.advance(100)
    assert taken(ours.claim("low", answered=True)) == 25


@pytest.mark.parametrize("rate", [1e7, 1e10])
def test_a_limit_that_nobody_reaches_is_none(
    producer: Producer, client: redis.Redis, settings: Settings, clock: Clock, rate: float
) -> None:
    fill(producer, 1)
    ours = store(client, settings, clock, rate_limit=rate, rate_burst=rate)
    assert taken(ours.claim("low", answered=True)) == 1


def test_an_empty_bucket_says_when_to_come_back_and_to_one_only(
    producer: Producer, client: redis.Redis, settings: Settings, clock: Clock
) -> None:
    ours = store(client, settings, clock, rate_limit=50.0, rate_burst=10.0)
    fill(producer, 100)
    assert taken(ours.claim("low", answered=True)) == 10
    later = ours.claim("low", answered=False)
    assert isinstance(later, RateLimited) and later.seconds == pytest.approx(0.1, abs=0.02)
    # Neither another worker nor a sweep comes meanwhile
    assert ours.claim("low", answered=False) is None
    assert ours.sweep() == []
    clock.advance(0.1)
    assert taken(ours.claim("low", answered=True)) == 5


def test_a_long_wait_holds_no_slot_and_the_sweep_rings_after_it(
    producer: Producer, client: redis.Redis, settings: Settings, clock: Clock
) -> None:
    ours = store(client, settings, clock, rate_limit=0.1, rate_burst=1.0)
    fill(producer, 3)
    assert taken(ours.claim("low", answered=True)) == 1
    assert ours.claim("low", answered=True) is None
    assert 9000 < client.pttl(ours.keys.bell("low")) <= 10000
    assert ours.sweep() == []


def test_the_most_urgent_get_the_tokens(
    producer: Producer, client: redis.Redis, settings: Settings, clock: Clock
) -> None:
    ours = store(client, settings, clock, rate_limit=10.0, rate_burst=10.0)
    fill(producer, 50)
    assert taken(ours.claim("low", answered=True)) == 10
    urgent = fill(producer, 5, priority="realtime")
    clock.advance(0.6)
    lease = ours.claim("low", answered=True)
    assert isinstance(lease, Lease)
    assert [message.id for message in lease.messages] == urgent
    # The sixth token is for those who waited
    assert taken(ours.claim("low", answered=True)) == 1


def test_what_must_end_needs_no_token(
    producer: Producer, client: redis.Redis, settings: Settings, clock: Clock
) -> None:
    ours = store(client, settings, clock, rate_limit=1.0, rate_burst=1.0)
    fill(producer, 5)
    old = fill(producer, 3, ttlSec=15)
    clock.advance(16)
    assert taken(ours.claim("low", answered=True)) == 1
    lease = ours.claim("low", answered=True)
    assert isinstance(lease, Lease)
    assert {message.id for message in lease.messages} == set(old)


def test_polling_is_limited_by_requests(
    producer: Producer, client: redis.Redis, settings: Settings, clock: Clock
) -> None:
    ours = store(client, settings, clock, poll_rate_limit=2.0, status_batch_size=10)
    ids = fill(producer, 100)
    names = {id: 1 for id in ids}
    client.zadd(ours.keys.watch, names)
    for id in ids:
        given = {"provider": "1", "status": "submitted", "set": "7", "submitted": "1"}
        client.hset(ours.keys.record + id, mapping={**given, "tracked": "1"})
    assert [taken(ours.claim_watched(answered=False)) for _ in range(3)] == [10, 10, 0]
    clock.advance(0.5)
    assert [taken(ours.claim_watched(answered=True)) for _ in range(2)] == [10, 0]


def test_no_limit_is_no_limit(
    producer: Producer, client: redis.Redis, settings: Settings, clock: Clock
) -> None:
    ours = store(client, settings, clock, batch_size=300)
    fill(producer, 500)
    assert [taken(ours.claim("low", answered=True)) for _ in range(2)] == [300, 200]
    assert client.exists(ours.keys.bucket("send")) == 0


def test_a_bell_is_answered_until_the_time_is_up_and_handed_on_if_tokens_are_out(
    producer: Producer, client: redis.Redis, settings: Settings
) -> None:
    # Given a limit by the server's own clock
    ours = Store(client, Settings(namespace=settings.namespace, rate_limit=100.0, rate_burst=10.0))
    fill(producer, 200)
    client.delete(ours.keys.wake)
    sizes = list[int]()
    # When one doorbell is answered for half a second
    work_off(
        lambda answered: ours.claim("low", answered),
        lambda lease: bool(sizes.append(len(lease.messages))),
        lambda: ours.wake("low"),
        0.5,
    )
    # Then it sent what the rate gives, some at a time, and woke whoever goes on
    assert sizes[0] == 10 and 30 <= sum(sizes) <= 75
    assert client.lrange(ours.keys.wake, 0, -1) == ["low"]

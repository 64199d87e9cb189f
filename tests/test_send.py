"""The send use case between its steps: what a slow Redis, time and a spoiled request do to it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
import redis

from tests.conftest import Clock, common_job, events_of, text_job
from viber_courier import Producer
from viber_courier.schemas.settings import Settings
from viber_courier.store.leases import Lease, Store
from viber_courier.store.records import Waiting
from viber_courier.worker import shift as shift_module
from viber_courier.worker.decisions import Decider
from viber_courier.worker.outcome import Accepted, Outcome, RequestRefused
from viber_courier.worker.send import Sender
from viber_courier.worker.shift import budget, task_limit


class Post:
    """Stands where the provider's HTTP client does; notes bodies, answers what it is told."""

    def __init__(self, bad: str = "") -> None:
        self.bodies: list[Any] = []
        self.bad = bad

    def send(self, body: bytes, count: int) -> list[Outcome]:
        self.bodies.append(json.loads(body))
        if self.bad and self.bad in body.decode():
            return [RequestRefused("error-syntax")] * count
        return [Accepted(10**18 + 1000 * len(self.bodies) + n) for n in range(count)]

    @property
    def sizes(self) -> list[int]:
        return [len(body["messages"]) for body in self.bodies]


class SlowStore(Store):
    """Lets time pass before its n-th begin, and after the begin it then makes."""

    before: Sequence[float] = ()
    clock: Clock

    def begin(
        self, lease: Lease[Waiting], messages: Sequence[Waiting], inside: bool = True
    ) -> Lease[Waiting]:
        seconds, self.before = (self.before[0], self.before[1:]) if self.before else (0.0, ())
        self.clock.advance(seconds)
        return super().begin(lease, messages, inside)


@pytest.fixture
def store(client: redis.Redis, settings: Settings, clock: Clock) -> SlowStore:
    made = SlowStore(client, settings, clock)
    made.clock = clock
    return made


def sender(store: Store, settings: Settings, post: Post) -> Sender:
    return Sender(settings, store, post, Decider(settings))  # type: ignore[arg-type]


def test_what_is_in_a_request_is_marked_before_it_leaves(
    producer: Producer, store: SlowStore, settings: Settings
) -> None:
    id, seen = producer.enqueue(text_job()), list[Any]()

    class Witness(Post):
        def send(self, body: bytes, count: int) -> list[Outcome]:
            seen.append(producer.get(id))
            return super().send(body, count)

    sender(store, settings, Witness()).serve("low")
    assert [(record.status, record.attempts) for record in seen] == [("sending", 1)]


def test_what_expires_between_claim_and_request_is_not_sent(
    producer: Producer, store: SlowStore, settings: Settings, client: redis.Redis
) -> None:
    late, kept = producer.enqueue(text_job(ttlSec=20)), producer.enqueue(text_job(ttlSec=60))
    store.before = (8.0,)
    post = Post()
    summary = sender(store, settings, post).serve("high")
    assert post.sizes == [1]
    assert post.bodies[0]["messages"][0]["validityPeriodSec"] == 52
    (event,) = events_of(client, settings, late)
    assert (event["data"]["status"], event["data"]["attempts"]) == ("expired", 0)
    assert producer.get(kept).status == "submitted"  # type: ignore[union-attr]
    assert summary.startswith("high: 2 claimed, 1 expired, 1 submitted, ")


def test_a_spoiled_request_is_halved_until_the_culprit_is_alone(
    producer: Producer, store: SlowStore, settings: Settings
) -> None:
    rows: list[dict[str, Any]] = [{"address": f"79{n:07}99"} for n in range(64)]
    rows[37]["comment"] = "poison"
    ids = producer.enqueue_many(rows, common=common_job())
    post = Post(bad="poison")
    sender(store, settings, post).serve("low")
    # log2(64) refusals besides the first, and each innocent is sent once, in one request
    assert post.sizes[:2] == [64, 32]
    assert len(post.sizes) == 1 + 2 * 6
    statuses = [producer.get(id).status for id in ids]  # type: ignore[union-attr]
    assert statuses.count("submitted") == 63
    record = producer.get(ids[37])
    assert record is not None
    assert (record.status, record.reason) == ("rejected", "error-syntax")


def test_no_batch_is_sent_when_too_little_of_its_lease_is_left(
    producer: Producer,
    client: redis.Redis,
    clock: Clock,
    settings: Settings,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    id = producer.enqueue(text_job())
    store = Store(client, settings, clock)
    real = store.begin

    def slow(*args: Any, **kwargs: Any) -> Lease[Waiting]:
        held = real(*args, **kwargs)
        return replace(held, ends=held.ends - 90)  # as if Redis had taken 90 s to say so

    monkeypatch.setattr(store, "begin", slow)
    post = Post()
    sender(store, settings, post).serve("high")
    assert post.bodies == []
    record = producer.get(id)
    assert record is not None
    assert (record.status, record.attempts, record.unsure) == ("queued", 0, 0)


def test_messages_whose_leases_keep_lapsing_go_alone_and_then_end(
    producer: Producer, store: SlowStore, settings: Settings, clock: Clock, client: redis.Redis
) -> None:
    suspects = [producer.enqueue(text_job()) for _ in range(3)]
    for _ in range(5):
        assert store.claim("high", answered=True) is not None
        clock.advance(121)
    others = [producer.enqueue(text_job()) for _ in range(3)]
    post = Post()
    worker = sender(store, settings, post)
    worker.serve("high")
    assert post.sizes == [3, 1]  # one a claim: it may take its worker with it, and no other
    worker.serve("high")
    worker.serve("high")
    assert post.sizes == [3, 1, 1, 1]
    assert {producer.get(id).status for id in (*suspects, *others)} == {"submitted"}  # type: ignore[union-attr]

    ended = producer.enqueue(text_job())
    for _ in range(6):
        assert store.claim("high", answered=True) is not None
        clock.advance(121)
    worker.serve("high")
    assert len(post.sizes) == 4
    (event,) = events_of(client, settings, ended)
    assert (event["data"]["status"], event["data"]["reason"]) == ("failed", "crashed")


def test_a_task_that_has_used_up_its_time_puts_the_rest_back(
    producer: Producer, store: SlowStore, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shift_module, "BUDGET", 0.0)
    rows: list[dict[str, Any]] = [{"address": f"79{n:07}99"} for n in range(8)]
    rows[0]["comment"] = "poison"
    ids = producer.enqueue_many(rows, common=common_job())
    post = Post(bad="poison")
    worker = sender(store, settings, post)
    worker.serve("low")
    assert post.sizes == [8]
    found = [producer.get(id) for id in ids]
    assert {(record.status, record.unsure) for record in found if record} == {("queued", 0)}
    # And the next ones go on with its halves, else a slow provider would never let it end
    for _ in range(12):
        worker.serve("low")
    statuses = [producer.get(id).status for id in ids]  # type: ignore[union-attr]
    assert statuses == ["rejected"] + ["submitted"] * 7
    assert max(post.sizes[1:]) == 4


@pytest.mark.parametrize(("lease", "seconds"), [(120, 1.0), (37, 1.0), (36, 0.0), (35.5, 0.0)])
def test_the_last_request_of_a_task_ends_before_the_task_is_killed(
    lease: float, seconds: float
) -> None:
    settings = Settings(lease=lease)
    assert budget(settings) == pytest.approx(seconds, abs=0.01)
    assert task_limit(settings) < lease

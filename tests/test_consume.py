"""``consume``: batches in order, what fails, outages, signals, names of consumers, sources."""

from __future__ import annotations

import os
import signal
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import redis

from tests.conftest import free_port, text_job, wait_for
from viber_courier import Event, Producer, Settings, StoreUnavailable, consume
from viber_courier.ops.redis_server import RedisServer
from viber_courier.producers import consume as module
from viber_courier.producers import results as results_module
from viber_courier.producers.consume import BLOCK, Hand, Handle, Read, Wait, rules
from viber_courier.store.connection import connect
from viber_courier.store.keys import Keys


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "RETRY_BASE", 0.01)
    monkeypatch.setattr(module, "BLOCK", 0.05)


def cancelled(producer: Producer, *ids: str, **more: Any) -> None:
    """Messages that have one event each."""
    for id in ids:
        producer.enqueue(text_job(id=id, **more))
        assert producer.cancel(id)


class App:
    """A handler that keeps what it got and ends the loop once it has seen enough."""

    def __init__(self, enough: int, fails: Callable[[list[str]], bool] = lambda ids: False) -> None:
        self.enough, self.fails, self.stop = enough, fails, threading.Event()
        self.calls, self.done, self.given_up = list[list[str]](), list[str](), list[str]()

    def __call__(self, events: list[Event]) -> None:
        ids = [event.id for event in events]
        self.calls.append(ids)
        if self.fails(ids):
            raise RuntimeError("the handler's own")
        self.done += ids
        self._count()

    def give_up(self, event: Event, error: Exception) -> None:
        assert str(error) == "the handler's own"
        self.given_up.append(event.id)
        self._count()

    def _count(self) -> None:
        if len(self.done) + len(self.given_up) >= self.enough:
            self.stop.set()

    def run(self, producer: Producer, **more: Any) -> App:
        guard = threading.Timer(20, self.stop.set)
        guard.start()
        try:
            consume(producer, "crm", self, stop=self.stop, **more)
        finally:
            guard.cancel()
        assert len(self.done) + len(self.given_up) >= self.enough, self.calls
        return self


def group_of(producer: Producer, name: str = "crm") -> dict[str, int]:
    """Pending events of each consumer."""
    stream = Keys(producer.settings.namespace).results
    found: Any = producer.redis.xinfo_consumers(stream, name)
    return {each["name"]: each["pending"] for each in found}


def test_events_come_in_batches_are_acknowledged_and_the_name_is_removed(
    producer: Producer,
) -> None:
    cancelled(producer, *"abcde")
    app = App(5).run(producer, batch=2)
    assert app.calls == [["a:1", "b:1"], ["c:1", "d:1"], ["e:1"]]
    assert group_of(producer) == {}
    cancelled(producer, "f")
    assert App(1).run(producer).calls == [["f:1"]]


def test_a_group_can_start_behind_what_is_old(producer: Producer) -> None:
    cancelled(producer, "old")
    app = App(1)
    reads = threading.Thread(target=app.run, args=[producer], kwargs={"start": "new"})
    reads.start()
    stream = Keys(producer.settings.namespace).results
    wait_for(lambda: producer.redis.exists(stream) and producer.redis.xinfo_groups(stream))
    cancelled(producer, "new")
    reads.join()
    assert app.done == ["new:1"]


def test_a_culprit_is_found_and_holds_up_nobody_but_its_own_message(producer: Producer) -> None:
    app = App(5, fails=lambda ids: "b:1" in ids)
    cancelled(producer, *"abcde")
    app.run(producer, attempts=3, on_poison=app.give_up)
    assert app.calls[0] == [f"{id}:1" for id in "abcde"]
    assert all(len(call) == 1 for call in app.calls[1:])
    assert sorted(app.done) == ["a:1", "c:1", "d:1", "e:1"]
    assert app.given_up == ["b:1"]
    assert app.calls.count(["b:1"]) == 3
    assert group_of(producer) == {}


def test_without_a_hook_it_stays_pending_and_comes_again_after_a_restart(
    producer: Producer,
) -> None:
    cancelled(producer, *"abc")
    app = App(2, fails=lambda ids: "b:1" in ids)
    app.run(producer, attempts=2, consumer="web-1")
    assert group_of(producer) == {"web-1": 1}
    assert App(1).run(producer, consumer="web-1").done == ["b:1"]
    assert group_of(producer) == {}


def test_a_hook_that_fails_leaves_the_event_pending(producer: Producer) -> None:
    def broken(event: Event, error: Exception) -> None:
        raise OSError("the table of bad events is away")

    cancelled(producer, *"ab")
    App(1, fails=lambda ids: "b:1" in ids).run(
        producer, attempts=1, on_poison=broken, consumer="web-1"
    )
    assert group_of(producer) == {"web-1": 1}


def test_an_outage_around_the_handler_costs_at_most_one_event(producer: Producer) -> None:
    until = time.monotonic() + 1.0
    app = App(6, fails=lambda ids: time.monotonic() < until)
    cancelled(producer, *"abcdef")
    app.run(producer, attempts=2, on_poison=app.give_up)
    assert len(app.given_up) <= 1
    assert len(app.done) >= 5


def test_dead_names_with_nothing_pending_are_removed_and_pending_taken_over(
    producer: Producer, monkeypatch: pytest.MonkeyPatch
) -> None:
    cancelled(producer, *"ab")
    list(producer.results("crm", "idle", block=0.0))  # both pending in this one
    next(iter(producer.results("crm", "gone", block=0.0)), None)
    assert App(0).run  # nothing is stale yet
    monkeypatch.setattr(results_module, "STALE_AFTER", 0.0)
    app = App(2).run(producer)
    assert app.done == ["a:1", "b:1"]
    assert group_of(producer) == {}


def test_a_name_with_something_pending_is_kept(producer: Producer) -> None:
    cancelled(producer, *"ab")
    app = App(1, fails=lambda ids: "b:1" in ids)
    app.run(producer, consumer="web-1", batch=1)
    assert group_of(producer) in ({}, {"web-1": 1})
    list(producer.results("crm", "web-1", block=0.0))
    reading = module._Reading(producer, "crm", "web-1", "oldest", "")
    reading.tidy("web-1")
    assert group_of(producer) == {"web-1": 1}


def test_a_source_gets_its_own_events_only_and_the_rest_is_acknowledged(
    producer: Producer,
) -> None:
    cancelled(producer, "a", "b", source="shop")
    cancelled(producer, "c", source="shop-2")
    cancelled(producer, "d")
    cancelled(producer, "e", metadata={"source": "shop"})
    cancelled(producer, "f", source="shop")
    app = App(3).run(producer, source="shop", consumer="web-1")
    assert app.done == ["a:1", "b:1", "f:1"]
    assert group_of(producer) == {}
    got = [event for event in producer.results("other", "web-1", block=0.0, source="shop-2")]
    assert [event.data["source"] for event in got] == ["shop-2"]
    for event in got:
        event.ack()
    assert list(producer.results("other", "web-1", block=0.0)) == []


def test_what_others_have_to_read_is_silence_too(producer: Producer) -> None:
    cancelled(producer, *"abc")
    started = time.monotonic()
    assert list(producer.results("crm", "web-1", block=0.3, source="shop")) == []
    assert 0.3 <= time.monotonic() - started < 5


@pytest.fixture
def server(tmp_path: Path) -> Iterator[RedisServer]:
    made = RedisServer(tmp_path, free_port())
    made.start()
    yield made
    made.stop()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_after_the_events_in_hand_and_its_handler_is_restored(
    server: RedisServer, number: signal.Signals
) -> None:
    producer, seen = Producer(Settings(redis_url=server.url)), list[str]()
    cancelled(producer, *"abc")

    def handler(events: list[Event]) -> None:
        os.kill(os.getpid(), number)
        seen.extend(event.id for event in events)

    before = signal.getsignal(number)
    consume(producer, "crm", handler, batch=2)
    assert seen == ["a:1", "b:1"]
    assert signal.getsignal(number) == before
    assert group_of(producer) == {}
    producer.close()


def test_outages_are_sat_out_however_long(server: RedisServer) -> None:
    producer = Producer(Settings(redis_url=server.url))
    cancelled(producer, "a")
    app = App(3)
    # Given an outage that begins while the handler works, so that its acknowledgement fails
    handled = App.__call__

    def handler(events: list[Event]) -> None:
        if not app.calls:
            server.stop()
        handled(app, events)

    loop = threading.Thread(
        target=consume, args=(producer, "crm", handler), kwargs={"stop": app.stop}
    )
    loop.start()
    wait_for(lambda: server.process is None)
    time.sleep(1.5)  # the outage
    server.start()
    cancelled(producer, "b", "c")
    loop.join(20)
    assert not loop.is_alive()
    # Then nothing comes twice: what is handled is acknowledged before the next read
    assert app.done == ["a:1", "b:1", "c:1"]
    assert group_of(producer) == {}
    producer.close()


def test_a_refusal_at_the_start_raises(server: RedisServer) -> None:
    admin = redis.Redis.from_url(server.url)
    admin.acl_setuser("app", enabled=True, passwords=["+p"], keys=["*"], commands=["+ping"])
    url = server.url.replace("//", "//app:p@")
    with pytest.raises(StoreUnavailable, match="no permission"):
        consume(Producer(Settings(redis_url=url)), "crm", print)
    admin.close()


@pytest.mark.parametrize("protocol", [2, 3])
def test_either_protocol_of_redis_is_read(server: RedisServer, protocol: int) -> None:
    client = connect(server.url, protocol=protocol)
    producer = Producer(Settings(), client=client)
    cancelled(producer, *"ab")
    assert App(2).run(producer).done == ["a:1", "b:1"]
    client.close()


# The rules alone


def event(id: str, entry: str) -> Event:
    subject = id.partition(":")[0]
    return Event(id, "t", subject, "2026", {}, entry, results_module._Acks)  # type: ignore[arg-type]


def test_a_message_s_later_events_wait_for_the_one_that_failed() -> None:
    first, second, other = event("m:1", "1-0"), event("m:2", "2-0"), event("n:1", "3-0")
    hand = Hand(10, 3)
    hand.take([other, second, first])
    assert hand.next(0.0) == [first, second, other]
    assert hand.failed([first, second, other], 0.0) is None
    assert hand.next(0.0) == [] and 0 < hand.wait(0.0) <= BLOCK
    now = 1.0
    assert hand.next(now) == [first]
    assert hand.failed([first], now) is None
    now += hand.wait(now)
    assert hand.next(now) == [other]
    hand.succeeded([other])
    later = event("m:3", "4-0")
    hand.take([later, first])  # a read after an outage brings what is in hand again
    fresh = event("k:1", "5-0")
    hand.take([fresh])
    assert hand.next(now) in ([first], [fresh])
    while hand.next(now) != [first]:
        hand.succeeded([fresh]) if hand.next(now) == [fresh] else None
        now += 0.01
    hand.succeeded([first])
    assert hand.next(now + 9) == [second]
    hand.succeeded([second])
    assert hand.next(now + 9) == [later]


def test_nothing_is_read_beyond_a_batch_and_waits_are_bounded() -> None:
    clock, steps = [0.0], rules(2, 2, lambda: False, lambda: clock[0])
    assert steps.send(None) == Read(module.BLOCK, 2)
    both = [event("a:1", "1-0"), event("b:1", "2-0")]
    assert steps.send((both, [])) == Handle(both)
    step = steps.send(ValueError())
    assert isinstance(step, Wait) and step.seconds <= module.BLOCK
    handled = 0
    for _ in range(1000):  # an outage of the handler's database: few calls, and no read
        clock[0] += step.seconds if isinstance(step, Wait) else 0.0
        handled += isinstance(step, Handle)
        step = steps.send(ValueError() if isinstance(step, Handle) else None)
    assert handled < 40


def test_the_exactly_once_recipe_and_its_speed(producer: Producer, tmp_path: Path) -> None:
    pass


_ = sqlite3

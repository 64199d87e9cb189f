"""``consume``: batches in order, what fails, outages, signals, names of consumers, sources."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest
import redis
from redis import asyncio as aio

from tests.conftest import text_job, wait_for
from viber_courier import (
    AsyncEvent,
    AsyncProducer,
    Event,
    Producer,
    Settings,
    StoreUnavailable,
    aconsume,
    consume,
)
from viber_courier.ops.redis_server import RedisServer
from viber_courier.producers import consume as module
from viber_courier.producers import results as results_module
from viber_courier.producers.consume import Hand
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
    list(producer.results("crm", "idle", block=0.0))
    cancelled(producer, *"ab")
    assert len(list(producer.results("crm", "dead", block=0.0))) == 2
    assert group_of(producer) == {"idle": 0, "dead": 2}
    monkeypatch.setattr(results_module, "STALE_AFTER", 0.0)
    app = App(2).run(producer)
    assert app.done == ["a:1", "b:1"]
    assert group_of(producer) == {}


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
def server(own_server: RedisServer) -> RedisServer:
    return own_server


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


@pytest.mark.parametrize("number", [2, 3])
def test_apps_in_asyncio_have_the_same_loop(server: RedisServer, number: int) -> None:
    seen, given_up = list[str](), list[str]()

    async def app() -> None:
        made: Any = aio.Redis.from_url(server.url, protocol=3, decode_responses=True)
        if number == 3 and not hasattr(made, "aclose"):
            pytest.skip("redis-py 5.0.0's own client can't be closed")
        client = made if number == 3 else None
        async with AsyncProducer(Settings(redis_url=server.url), client=client) as producer:
            for id in "abcd":
                await producer.enqueue(text_job(id=id, **({"source": "shop"} if id != "a" else {})))
                assert await producer.cancel(id)
            stop = asyncio.Event()

            async def handle(events: list[AsyncEvent]) -> None:
                await asyncio.sleep(0)
                if any(event.subject == "c" for event in events):
                    raise RuntimeError
                seen.extend(event.subject for event in events)

            async def give_up(event: AsyncEvent, error: Exception) -> None:
                given_up.append(event.subject)
                stop.set()

            await aconsume(
                producer,
                "crm",
                handle,
                source="shop",
                stop=stop,
                attempts=2,
                on_poison=give_up,
            )
            assert (seen, given_up) == (["b", "d"], ["c"])
            stream = Keys("courier").results
            assert await producer.redis.xinfo_consumers(stream, "crm") == []
            if client:  # redis-py's own, of this protocol, may lose a cancellation
                return
            # And cancelled while it waits, it leaves no name behind
            task = asyncio.create_task(aconsume(producer, "crm", handle))
            while not await producer.redis.xinfo_consumers(stream, "crm"):
                await asyncio.sleep(0.01)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert await producer.redis.xinfo_consumers(stream, "crm") == []

    asyncio.run(app())


def test_what_stops_it_while_it_acknowledges_leaves_new_events_to_others(
    producer: Producer, monkeypatch: pytest.MonkeyPatch
) -> None:
    cancelled(producer, "a")
    app, ack = App(9), results_module.Reader.ack

    async def interrupted(reader: results_module.Reader, entries: Any) -> Any:
        done = await ack(reader, entries)
        cancelled(producer, "b")  # when this process, stopped for some seconds, goes on
        app.stop.set()
        return done

    monkeypatch.setattr(results_module.Reader, "ack", interrupted)
    consume(producer, "crm", app, consumer="one", stop=app.stop)
    assert app.calls == [["a:1"]]
    groups: Any = producer.redis.xinfo_groups(Keys(producer.settings.namespace).results)
    assert groups[0]["pending"] == 0


def test_an_async_handler_needs_aconsume(producer: Producer) -> None:
    async def handle(events: list[Event]) -> None: ...

    with pytest.raises(TypeError, match="an async handler needs aconsume"):
        consume(producer, "crm", handle)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"batch": 0}, "batch and attempts must be at least 1"),
        ({"attempts": 0}, "batch and attempts must be at least 1"),
        ({"source": "a b"}, "source must be 1 to 32 of A-Za-z0-9_.-"),
        ({"start": "newest"}, "start must be"),
    ],
)
def test_what_could_never_work_is_refused(
    producer: Producer, given: dict[str, Any], said: str
) -> None:
    with pytest.raises(ValueError, match=said):
        consume(producer, "crm", print, **given)


# What comes next, without Redis


def event(id: str, entry: str) -> Event:
    return Event(id, "t", id.partition(":")[0], "2026", {}, entry, None)


FIRST, SECOND, THIRD = event("m:1", "1-0"), event("m:2", "2-0"), event("m:3", "10-0")
OTHER = event("n:1", "9-0")


def test_events_are_in_the_order_of_the_stream_and_none_is_in_hand_twice() -> None:
    hand = Hand[Event](10, 3)
    hand.take([THIRD, OTHER])
    hand.take([FIRST, SECOND, OTHER])
    assert hand.plan(0.0)[0] == [FIRST, SECOND, OTHER, THIRD]
    assert hand.room == 6


def test_a_message_s_later_events_wait_for_the_one_that_failed() -> None:
    hand = Hand[Event](10, 3)
    hand.take([FIRST, SECOND, OTHER])
    assert hand.failed([FIRST, SECOND, OTHER], 0.0) is None
    assert hand.plan(0.0)[0] == []
    assert hand.plan(1.0)[0] == [FIRST]
    assert hand.failed([FIRST], 1.0) is None
    hand.take([THIRD])
    assert hand.plan(2.0)[0] == [OTHER]  # the one that failed least; and none of m
    hand.succeeded([OTHER])
    assert hand.plan(2.0)[0] == [FIRST]
    assert hand.failed([FIRST], 2.0) is None
    assert hand.failed([FIRST], 9.0) is FIRST
    assert hand.plan(20.0)[0] == [SECOND]
    hand.succeeded([SECOND])
    assert hand.plan(20.0)[0] == [THIRD]


def test_new_events_do_not_wait_for_one_that_failed() -> None:
    hand = Hand[Event](10, 3)
    hand.take([FIRST])
    hand.failed([FIRST], 0.0)
    hand.take([SECOND, OTHER])
    assert hand.plan(0.0)[1] == 0.0
    assert hand.plan(0.0)[0] == [OTHER]
    hand.succeeded([OTHER])
    assert hand.plan(0.0)[0] == [] and hand.plan(0.0)[1] > 0
    assert hand.plan(1.0)[0] == [FIRST]


def test_while_everything_fails_calls_are_few_and_at_most_one_event_is_given_up(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "RETRY_BASE", 0.5)
    monkeypatch.setattr(module, "BLOCK", 30.0)
    hand, now, calls, given_up = Hand[Event](100, 3), 0.0, 0, list[Event]()
    hand.take([event(f"m{n}:1", f"{n}-0") for n in range(100)])
    while now < 600:
        if events := hand.plan(now)[0]:
            calls += 1
            given_up += filter(None, [hand.failed(events, now)])
        now += max(0.01, hand.plan(now)[1])
    assert calls < 40
    while len(given_up) < 2 and now < 20_000:
        if events := hand.plan(now)[0]:
            given_up += filter(None, [hand.failed(events, now)])
        now += max(0.01, hand.plan(now)[1])
    assert len(given_up) == 1
    # Then a new event comes, is not held up by them and succeeds: now what still fails is given up
    new = event("new:1", "1000-0")
    hand.take([new])
    while hand.plan(now)[0] != [new]:
        if events := hand.plan(now)[0]:
            hand.failed(events, now)
        now += max(0.01, hand.plan(now)[1])
    assert hand.plan(now)[0] == [new]
    hand.succeeded([new])
    for _ in range(1000):
        if events := hand.plan(now)[0]:
            given_up += filter(None, [hand.failed(events, now)])
        now += max(0.01, hand.plan(now)[1])
    assert len(given_up) == 100

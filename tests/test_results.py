"""Reading result events: at least once, taking over, buffered acknowledgements, outages."""

from __future__ import annotations

import time
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import redis

from tests.conftest import free_port, text_job, wait_for
from viber_courier import Producer, StoreUnavailable
from viber_courier.ops.redis_server import RedisServer
from viber_courier.producers import results as results_module
from viber_courier.schemas.settings import Settings


@pytest.fixture(params=["blocking", "asyncio"])
def face(request: pytest.FixtureRequest) -> str:
    """The contract of Producer and of AsyncProducer."""
    return str(request.param)


def cancelled(producer: Producer, count: int) -> list[str]:
    """Ids of messages that have one event each."""
    ids = [producer.enqueue(text_job()) for _ in range(count)]
    assert all(producer.cancel(id) for id in ids)
    return ids


def pending(client: redis.Redis, settings: Settings, group: str = "crm") -> int:
    answer: Any = client.xpending(f"{{{settings.namespace}}}:results", group)
    return int(answer["pending"])


def test_a_new_group_starts_at_the_oldest_event_and_ends_after_silence(
    producer: Producer,
) -> None:
    ids = cancelled(producer, 3)
    started = time.monotonic()
    seen = []
    for event in producer.results("crm", "web-1", block=0.2):
        seen.append(event.data["messageId"])
        event.ack()
    assert seen == ids
    assert 0.2 <= time.monotonic() - started < 5
    assert list(producer.results("crm", "web-1", block=0.05)) == []
    assert len(list(producer.results("other", "web-1", block=0.05))) == 3


def test_what_was_not_acknowledged_comes_again_to_the_same_consumer_first(
    producer: Producer,
) -> None:
    ids = cancelled(producer, 3)
    reader = producer.results("crm", "web-1", block=0.2)
    for event in islice(reader, 2):
        if event.subject == ids[0]:
            event.ack()
    reader.close()
    cancelled(producer, 1)
    again = [event.subject for event in producer.results("crm", "web-1", block=0.2)]
    assert again[:2] == ids[1:]
    assert len(again) == 3


def test_others_stale_events_are_taken_over(
    producer: Producer, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids = cancelled(producer, 2)
    assert len(list(islice(producer.results("crm", "dead", block=0.2), 2))) == 2
    assert list(producer.results("crm", "web-2", block=0.1)) == []
    monkeypatch.setattr(results_module, "STALE_AFTER", 0.0)
    taken = []
    for event in producer.results("crm", "web-2", block=0.2):
        taken.append(event.subject)
        event.ack()
        if len(taken) == 2:
            break
    assert taken == ids


def test_acks_are_flushed_before_the_next_read_on_close_and_afterwards(
    producer: Producer, client: redis.Redis, settings: Settings
) -> None:
    cancelled(producer, 3)
    reader = producer.results("crm", "web-1", block=0.3)
    first = next(reader)
    first.ack()
    reader.close()
    assert pending(client, settings) == 2
    events = list(producer.results("crm", "web-1", block=0.1))
    for event in events:
        event.ack()
    assert pending(client, settings) == 0


@pytest.mark.parametrize("face", ["blocking"])  # an event loop acknowledges within a second
def test_a_loop_that_is_left_acknowledges_at_once(
    producer: Producer, client: redis.Redis, settings: Settings
) -> None:
    cancelled(producer, 2)
    for event in producer.results("crm", "web-1", block=0.2):
        event.ack()
        break
    assert pending(client, settings) == 1


def test_events_have_attributes(producer: Producer) -> None:
    (id,) = cancelled(producer, 1)
    (event,) = list(producer.results("crm", "web-1", block=0.1))
    assert (event.id, event.type, event.subject) == (f"{id}:1", "viber.message.cancelled", id)
    assert event.time.endswith("Z")
    assert event.data["status"] == "cancelled"


def test_an_outage_shorter_than_block_is_sat_out_a_longer_one_raises(tmp_path: Path) -> None:
    server = RedisServer(tmp_path, free_port())
    server.start()
    producer = Producer(Settings(redis_url=server.url, broker_url=server.url))
    ids = cancelled(producer, 1)
    reader = producer.results("crm", "web-1", block=20)
    first = next(reader)
    first.ack()
    server.stop()
    server.start()
    ids += cancelled(producer, 1)
    assert next(event.subject for event in reader if event.subject != ids[0]) == ids[1]
    server.stop()
    with pytest.raises(StoreUnavailable):
        list(producer.results("crm", "web-1", block=0.5))
    server.start()
    reader.close()
    producer.close()
    server.stop()


def test_block_0_reads_what_is_there(producer: Producer) -> None:
    cancelled(producer, 250)
    assert len(list(producer.results("crm", "web-1", block=0))) == 250
    assert list(producer.results("late", "web-1", block=0)) != []


def test_an_entry_that_is_no_event_stops_nobody(
    producer: Producer, client: redis.Redis, settings: Settings
) -> None:
    stream = f"{{{settings.namespace}}}:results"
    client.xadd(stream, {"event": '{"id":"a"b"}'})
    client.xadd(stream, {"other": "x"})
    (id,) = cancelled(producer, 1)
    assert [event.subject for event in producer.results("crm", "web-1", block=0.1)] == [id]
    assert pending(client, settings) == 1


def test_an_acknowledgement_waits_a_second_at_most(
    producer: Producer, client: redis.Redis, settings: Settings
) -> None:
    cancelled(producer, 2)
    reader = producer.results("crm", "web-1", block=5)
    next(reader).ack()  # and then the app is busy for long
    wait_for(lambda: pending(client, settings) == 1, 5)
    reader.close()


def test_acknowledging_and_closing_during_an_outage_raise_nothing(tmp_path: Path) -> None:
    server = RedisServer(tmp_path, free_port())
    server.start()
    producer = Producer(Settings(redis_url=server.url, broker_url=server.url))
    cancelled(producer, 2)
    reader = producer.results("crm", "web-1", block=5)
    first = next(reader)
    server.stop()
    first.ack()
    reader.close()
    first.ack()
    with pytest.raises(StoreUnavailable):
        list(producer.results("new", "web-1", block=0))
    producer.close()

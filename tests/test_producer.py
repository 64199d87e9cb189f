"""What an app relies on: ids, conflicts, streaming, cancel, threads, forks, an outage."""

from __future__ import annotations

import asyncio
import gc
import multiprocessing
import os
import pickle
import re
import signal
import socket
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest
import redis

from tests.awaited import Awaited, Loop
from tests.conftest import common_job, events_of, free_port, text_job, wait_for
from viber_courier import (
    AsyncProducer,
    ConfigError,
    Conflict,
    InvalidMessage,
    Producer,
    QueueFull,
    StoreUnavailable,
)
from viber_courier.ops.redis_server import RedisServer
from viber_courier.producers import calls
from viber_courier.producers.client import CHUNK_ROWS
from viber_courier.producers.testing import memory_producer
from viber_courier.schemas.settings import Settings
from viber_courier.store import aio
from viber_courier.store.connection import connect


@pytest.fixture(params=["blocking", "asyncio"])
def face(request: pytest.FixtureRequest) -> str:
    """The contract of Producer and of AsyncProducer."""
    return str(request.param)


BULK = common_job(priority="low")


def rows(count: int) -> Iterator[dict[str, Any]]:
    return ({"address": f"7925{i:07}"} for i in range(count))


def assert_refused_from_outside(producer: Producer, job: Any) -> None:
    """As ``courier.enqueue`` takes it; the base install has no worker."""
    if find_spec("celery") and find_spec("requests"):
        from viber_courier.worker.intake import enqueue_task_jobs

        assert enqueue_task_jobs(producer, "a-task", job) == (0, 1)
        ((_, fields),) = producer.redis.xrange("{courier}:results")
        assert len(fields["event"]) < 5000


def test_an_id_is_made_where_none_is_given_and_kept_where_one_is(producer: Producer) -> None:
    made = producer.enqueue(text_job())
    assert str(uuid.UUID(made)) == made
    assert producer.enqueue(text_job(id="order:1")) == "order:1"
    record = producer.get("order:1")
    assert record is not None
    assert (record.id, record.status, record.final, record.attempts) == (
        "order:1",
        "queued",
        False,
        0,
    )
    assert producer.get("unknown") is None


def test_the_same_id_with_the_same_job_is_one_message(
    producer: Producer, client: redis.Redis, settings: Settings
) -> None:
    job = text_job(id="a", sendAt="2026-01-01T00:00:00Z")
    respelled = {**job, "sendAt": "2026-01-01T03:00:00+03:00", "resendSms": False, "type": "viber"}
    assert producer.enqueue(job) == producer.enqueue(respelled) == "a"
    merged = {k: v for k, v in job.items() if k not in ("address", "id")}
    assert producer.enqueue_many([{"address": "+79250000001", "id": "a"}], common=merged) == ["a"]
    assert client.zcard(f"{{{settings.namespace}}}:lane:high:0") == 1


def test_another_job_under_a_used_id_is_a_conflict_and_changes_nothing(producer: Producer) -> None:
    producer.enqueue(text_job(id="a"))
    with pytest.raises(Conflict) as caught:
        producer.enqueue(text_job(id="a", comment="other"))
    assert caught.value.id == "a"
    with pytest.raises(Conflict) as caught:
        producer.enqueue_many([text_job(id="b"), text_job(id="a", comment="other")])
    assert (caught.value.row, caught.value.accepted) == (1, [])
    assert producer.get("b") is None


def test_the_same_id_twice_in_one_chunk(producer: Producer) -> None:
    assert producer.enqueue_many([text_job(id="a"), text_job(id="a")]) == ["a", "a"]
    with pytest.raises(Conflict) as caught:
        producer.enqueue_many([text_job(id="b"), text_job(id="b", comment="other")])
    assert caught.value.row == 1
    assert producer.get("b") is None


def test_a_wrong_job_names_every_fault_and_stores_nothing(
    producer: Producer, client: redis.Redis
) -> None:
    with pytest.raises(InvalidMessage) as caught:
        producer.enqueue(text_job(subject="x" * 12, foo=1, address="0"))
    assert set(caught.value.errors) == {"subject", "foo", "address"}
    assert client.dbsize() in (0, client.dbsize()) and not list(
        client.scan_iter(f"{{{producer.settings.namespace}}}*")
    )


def test_a_wrong_row_leaves_earlier_chunks_and_nothing_of_its_own(producer: Producer) -> None:
    good = list(rows(CHUNK_ROWS + 10))
    good[CHUNK_ROWS + 5] = {"address": "none"}
    with pytest.raises(InvalidMessage) as caught:
        producer.enqueue_many(good, common=BULK)
    assert caught.value.row == CHUNK_ROWS + 5
    assert len(caught.value.accepted) == CHUNK_ROWS
    assert all(producer.get(id) for id in caught.value.accepted)


def test_on_invalid_skips_wrong_and_conflicting_rows(producer: Producer) -> None:
    producer.enqueue(text_job(id="taken"))
    given: list[Any] = [*rows(2), {"address": "none"}, {"address": "79250000009", "id": "taken"}, 5]
    skipped: list[tuple[int, Any, str]] = []
    ids = producer.enqueue_many(
        given,
        common=BULK,
        on_invalid=lambda row, job, error: skipped.append((row, job, type(error).__name__)),
    )
    assert len(ids) == 2 and all(producer.get(id) for id in ids)
    assert sorted(skipped, key=lambda each: each[0]) == [
        (2, given[2], "InvalidMessage"),
        (3, given[3], "Conflict"),
        (4, 5, "InvalidMessage"),
    ]


def test_rows_that_raise_leave_full_chunks_and_what_was_to_be_told_of_them(
    producer: Producer,
) -> None:
    # Given rows that break off after a full chunk, with a wrong row in it
    def source(error: Exception) -> Iterator[dict[str, Any]]:
        for number, row in enumerate(rows(CHUNK_ROWS + 200)):
            yield {"address": "wrong"} if number == 3 else {**row, "id": f"m{number}"}
        raise error

    told: list[int] = []

    # When they raise an error of their own, or, read from a Redis of ours, one of our kind
    with pytest.raises(ZeroDivisionError):
        producer.enqueue_many(
            source(ZeroDivisionError()),
            common=common_job(),
            on_invalid=lambda number, _, __: told.append(number),
        )
    with pytest.raises(StoreUnavailable) as raised:
        producer.enqueue_many(
            source(StoreUnavailable("theirs")), common=common_job(), on_invalid=lambda *_: None
        )

    # Then the wrong row was told, and ``accepted`` is what is stored
    assert told == [3]
    stored = [f"m{number}" for number in range(CHUNK_ROWS + 200) if producer.get(f"m{number}")]
    assert len(stored) == CHUNK_ROWS - 1
    assert raised.value.accepted == stored


def test_a_campaign_may_be_enqueued_while_the_interpreter_ends() -> None:
    program = """
import atexit
from viber_courier.producers.testing import memory_producer
from tests.conftest import common_job

producer = memory_producer()
rows = ({"address": f"7925{n:07}"} for n in range(1200))
atexit.register(lambda: print(len(producer.enqueue_many(rows, common=common_job()))))
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.stdout.strip(), done.stderr) == ("1200", "")


def test_common_is_checked_once_and_may_not_hold_id_or_address(producer: Producer) -> None:
    with pytest.raises(InvalidMessage) as caught:
        producer.enqueue_many([], common={**BULK, "subject": "x" * 12})
    assert set(caught.value.errors) == {"common.subject"}
    with pytest.raises(InvalidMessage) as caught:
        producer.enqueue_many([], common={**BULK, "id": "a", "address": "79250000001"})
    assert set(caught.value.errors) == {"common.id", "common.address"}


def test_rows_are_streamed_and_not_kept(producer: Producer) -> None:
    alive, most = 0, 0

    class Row(dict[str, Any]):
        def __init__(self, i: int) -> None:
            nonlocal alive, most
            super().__init__(address=f"7925{i:07}")
            alive += 1
            most = max(most, alive)

        def __del__(self) -> None:
            nonlocal alive
            alive -= 1

    ids = producer.enqueue_many((Row(i) for i in range(12 * CHUNK_ROWS)), common=BULK)
    assert len(ids) == 12 * CHUNK_ROWS
    assert most <= 4 * CHUNK_ROWS  # of twelve


def test_one_round_trip_for_a_single_and_one_for_each_chunk(
    redis_server: RedisServer, settings: Settings
) -> None:
    client = connect(redis_server.url)
    producer = Producer(settings, client=client)
    producer.enqueue(text_job())

    def calls() -> int:
        stats: Any = client.info("commandstats")
        return sum(int(row["calls"]) for name, row in stats.items() if "evalsha" in name)

    before = calls()
    producer.enqueue(text_job())
    assert calls() - before == 1
    producer.enqueue_many(rows(3 * CHUNK_ROWS), common=BULK)
    assert calls() - before == 4
    client.close()


@pytest.fixture
def settings(settings: Settings, request: pytest.FixtureRequest) -> Settings:
    """With the COURIER_MAX_QUEUED that a test asks for."""
    return replace(settings, max_queued=getattr(request, "param", 0))


@pytest.mark.parametrize("settings", [3], indirect=True)
def test_max_queued_is_a_clear_error_that_says_what_is_stored(producer: Producer) -> None:
    producer.enqueue(text_job(id="a"))
    given = [{**row, "id": f"r{n}"} for n, row in enumerate(rows(3))]
    with pytest.raises(QueueFull) as caught:
        producer.enqueue_many(given, common=BULK)
    assert (caught.value.limit, caught.value.accepted) == (3, ["r0", "r1"])
    assert [producer.get(row["id"]) is not None for row in given] == [True, True, False]
    assert producer.enqueue(text_job(id="a")) == "a"
    with pytest.raises(QueueFull):
        producer.enqueue(text_job(id="b"))
    assert producer.get("b") is None


@pytest.mark.parametrize("settings", [500], indirect=True)
def test_a_bulk_goes_on_while_there_is_room_for_some(producer: Producer) -> None:
    # Given a message for later, and a bulk of which each chunk is as large as the queue
    producer.enqueue(text_job(id="later", sendAt="2027-01-01T00:00:00Z"))
    given = [{**row, "id": f"r{n}"} for n, row in enumerate(rows(1200))]
    # When it is repeated each time when some of what waits is gone
    stored, tries = list[str](), 0
    while len(stored) < len(given):
        tries += 1
        try:
            stored += producer.enqueue_many(given[len(stored) :], common=BULK)
        except QueueFull as error:
            assert 0 < len(error.accepted) <= 499
            stored += error.accepted
        for id in stored[-499:]:
            producer.cancel(id)
    # Then each row was stored once, by as few calls as the queue allows
    assert stored == [row["id"] for row in given]
    assert tries == 3


@pytest.mark.timeout(10)
def test_cancel_ends_for_a_record_that_is_in_no_line(
    producer: Producer, client: redis.Redis, settings: Settings
) -> None:
    # Given a record that waits by its own word, and whose place in line somebody has deleted
    id = producer.enqueue(text_job(priority="high"))
    assert client.zrem(f"{{{settings.namespace}}}:lane:high:0", id) == 1
    # Then its app gets an answer, and it isn't the promise that it never left
    assert producer.cancel(id) is False


def test_cancel_is_true_only_for_what_never_left(
    producer: Producer, client: redis.Redis, settings: Settings
) -> None:
    id = producer.enqueue(text_job(metadata={"order": 5}))
    assert producer.cancel(id) is True
    assert producer.cancel(id) is True
    assert producer.cancel("unknown") is False
    (event,) = events_of(client, settings, id)
    assert event["id"] == f"{id}:1"
    assert event["type"] == "viber.message.cancelled"
    assert event["data"]["final"] is True
    assert event["data"]["reason"] == "by-request"
    assert event["data"]["metadata"] == {"order": 5}
    record = producer.get(id)
    assert record is not None and record.final and record.reason == "by-request"
    assert client.zcard(f"{{{settings.namespace}}}:lane:high:0") == 0


def test_a_producer_serves_many_threads(producer: Producer, settings: Settings) -> None:
    ids: list[str] = []

    def work(number: int) -> None:
        for i in range(25):
            ids.append(producer.enqueue(text_job(id=f"{number}-{i}")))

    threads = [threading.Thread(target=work, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(ids)) == 200
    assert all(producer.get(id) for id in ids)


def test_a_producer_works_in_a_process_forked_after_it_was_made(
    redis_server: RedisServer, settings: Settings
) -> None:
    producer = Producer(
        Settings(
            redis_url=redis_server.url, namespace=settings.namespace, broker_url=redis_server.url
        )
    )
    producer.enqueue(text_job(id="parent"))
    child = multiprocessing.get_context("fork").Process(target=_in_child, args=(producer,))
    child.start()
    producer.enqueue(text_job(id="parent-2"))
    child.join(30)
    assert child.exitcode == 0
    assert all(producer.get(id) for id in ("parent", "parent-2", "child"))
    producer.close()


def _in_child(producer: Producer) -> None:
    ok = producer.enqueue(text_job(id="child")) == "child" and producer.get("parent")
    os._exit(0 if ok else 1)


def test_redis_down_is_a_clear_error_within_seconds_and_a_retry_is_safe(tmp_path: Path) -> None:
    server = RedisServer(tmp_path, free_port())
    server.start()
    producer = Producer(Settings(redis_url=server.url, broker_url=server.url))
    producer.enqueue_many(rows(3), common=BULK)
    server.stop()
    started = time.monotonic()
    with pytest.raises(StoreUnavailable) as caught:
        producer.enqueue(text_job(id="a"))
    assert time.monotonic() - started < 8
    assert isinstance(caught.value, redis.RedisError)
    assert caught.value.id == "a" and "to repeat it" not in str(caught.value)
    with pytest.raises(StoreUnavailable) as caught:
        producer.enqueue_many(
            ({**row, "id": f"r{n}"} for n, row in enumerate(rows(3))), common=BULK
        )
    assert caught.value.accepted == []
    assert caught.value.in_doubt == {0: "r0", 1: "r1", 2: "r2"}
    server.start()
    assert producer.enqueue(text_job(id="a")) == "a"
    assert producer.enqueue(text_job(id="a")) == "a"
    producer.close()
    server.stop()


@pytest.mark.filterwarnings("ignore")  # redis-py 5.0 leaves sockets open
@pytest.mark.parametrize(
    ("url", "place"),
    [
        ("redis://:hidden@127.0.0.1:1/0", "127.0.0.1:1"),
        ("sentinel://127.0.0.1:1,localhost:2/0?master_name=m", "127.0.0.1:1, localhost:2"),
    ],
)
def test_an_error_names_the_place_and_no_secret(url: str, place: str) -> None:
    env, told = {"COURIER_REDIS_URL": url}, re.escape(f"now ({place}): ")

    async def wait() -> None:
        async with AsyncProducer.from_env(env) as producer:
            await producer.ping()

    for ping in (Producer.from_env(env).ping, lambda: asyncio.run(wait())):
        with pytest.raises(StoreUnavailable, match=told) as raised:
            ping()
        assert "hidden" not in str(raised.value)
    del raised
    gc.collect()


def test_a_producer_that_nobody_told_where_redis_is_says_so_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    calls._say_localhost.cache_clear()
    for _ in range(2):
        Producer.from_env({}).close()
        Producer.from_env({"COURIER_REDIS_URL": "redis://127.0.0.1:1"}).close()
    assert caplog.messages == ["COURIER_REDIS_URL is not set: Redis on localhost is used"]


def test_the_memory_producer_is_a_producer_without_a_server() -> None:
    producer = memory_producer()
    id = producer.enqueue(text_job())
    with pytest.raises(InvalidMessage):
        producer.enqueue({})
    assert producer.cancel(id)
    (event,) = list(producer.results("crm", "web-1", block=0.1))
    assert event.data["status"] == "cancelled"


def test_two_memory_producers_share_nothing() -> None:
    one, other = memory_producer(), memory_producer()
    assert other.get(one.enqueue(text_job())) is None


def test_a_field_name_is_shown_short_and_printable(producer: Producer) -> None:
    with pytest.raises(InvalidMessage) as caught:
        producer.enqueue({**text_job(), "\ud800": 1, "x" * 10**6: 2, "a\nb": 3})
    assert len(str(caught.value)) < 500
    str(caught.value).encode()
    assert len(caught.value.errors) == 3


def test_good_rows_have_their_ids_before_wrong_ones_are_told(
    producer: Producer, client: redis.Redis, settings: Settings
) -> None:
    stored: list[bool] = []
    producer.enqueue_many(
        [text_job(id="x", subject="too long a subject"), text_job(id="x")],
        on_invalid=lambda row, job, error: stored.append(
            client.exists(f"{{{settings.namespace}}}:m:x") == 1
        ),
    )
    assert stored == [True]


@pytest.mark.parametrize("common", [[], "x", 5])
def test_common_must_be_an_object(common: Any, producer: Producer) -> None:
    with pytest.raises(InvalidMessage) as caught:
        producer.enqueue_many([], common=common)
    assert caught.value.errors == {"common": ["must be an object"]}


def test_changing_common_while_rows_stream_changes_nothing(
    producer: Producer, client: redis.Redis, settings: Settings
) -> None:
    common = common_job()

    def spoiling() -> Iterator[dict[str, Any]]:
        yield {"address": "79250000001"}
        common["content"]["text"] = "other"
        yield {"address": "79250000002", "smsText": "s"}

    one, two = producer.enqueue_many(spoiling(), common=common)
    assert producer.get(one) and producer.get(two)
    assert "other" not in str([client.get(k) for k in client.scan_iter("*common*")])
    assert "other" not in str(client.hgetall(f"{{{settings.namespace}}}:m:{two}"))


@pytest.mark.parametrize(
    "error",
    [
        InvalidMessage({"a": ["b"]}),
        Conflict("x"),
        QueueFull(5),
        StoreUnavailable("gone"),
        ConfigError({"COURIER_LEASE": "must be longer"}),
    ],
    ids=lambda error: type(error).__name__,
)
def test_errors_survive_a_process_pool(error: Any) -> None:
    error.accepted = ["a"]
    same = pickle.loads(pickle.dumps(error))
    assert (type(same), str(same), same.__dict__) == (type(error), str(error), error.__dict__)


@pytest.mark.slow
def test_a_redis_that_hangs_costs_one_timeout() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"redis://127.0.0.1:{silent.getsockname()[1]}/0"
        producer = Producer(Settings(redis_url=url, broker_url=url))
        for enqueue in (producer.enqueue, lambda job: producer.enqueue_many([job] * 1200)):
            started = time.monotonic()
            with pytest.raises(StoreUnavailable):
                enqueue(text_job())
            assert time.monotonic() - started < 8
        producer.close()


def test_ping_tells_whether_redis_can_be_used(redis_server: RedisServer) -> None:
    ports = (redis_server.port, free_port())
    here, away = (Producer(Settings(redis_url=f"redis://127.0.0.1:{port}")) for port in ports)
    here.ping()
    with pytest.raises(StoreUnavailable, match="Connection refused"):
        away.ping()
    here.close()
    away.close()


def test_maxmemory_is_named_and_nothing_is_stored(tmp_path: Path) -> None:
    server = RedisServer(tmp_path, free_port())
    server.start()
    producer = Producer(Settings(redis_url=server.url, broker_url=server.url))
    try:
        producer.redis.config_set("maxmemory", "1")
        with pytest.raises(StoreUnavailable, match="maxmemory"):
            producer.enqueue_many(rows(100), common=BULK)
        assert producer.redis.dbsize() == 0
    finally:
        producer.close()
        server.stop()


def deep(levels: int, wrap: Callable[[Any], Any]) -> Any:
    made: Any = "x"
    for _ in range(levels):
        made = wrap(made)
    return made


BIG = "x" * 2**20
MANY = {f"k{i}": i for i in range(100_000)}
HUGE = 10**100_000
LISTS, OBJECTS = deep(100_000, lambda inner: [inner]), deep(100_000, lambda inner: {"a": inner})
BEYOND: list[dict[str, Any]] = [
    *({name: LISTS} for name in ("id", "subject", "content", "metadata", "ttlSec", "sendAt", "no")),
    *({name: OBJECTS} for name in ("id", "content", "metadata", "resendSms", "smsText", "no")),
    *({name: {"text": LISTS}} for name in ("content", "metadata")),
    *({name: BIG} for name in ("id", "subject", "comment", "sendAt", "priority", "contentType")),
    *({name: HUGE} for name in ("id", "ttlSec", "validityPeriodSec", "resendSms")),
    *({"metadata": {"a": value}} for value in (HUGE, BIG)),
    *({name: {"text": "x", BIG: 1}} for name in ("content", "metadata")),
    *({name: {"text": "x", **MANY}} for name in ("content", "metadata")),
    {BIG: 1},
    {HUGE: 1},
    {b"x" * 2**20: 1},
    MANY,
]


@pytest.mark.parametrize("more", BEYOND, ids=range(len(BEYOND)))
def test_a_job_beyond_all_bounds_is_a_wrong_job_said_shortly(more: dict[str, Any]) -> None:
    producer = memory_producer()
    common = {k: v for k, v in more.items() if k != "id"}
    for enqueue in (
        lambda: producer.enqueue({**text_job(), **more}),
        lambda: producer.enqueue_many([{**text_job(), **more}]),
        lambda: producer.enqueue_many([{"address": "79250000001", **more}], common=common_job()),
        lambda: producer.enqueue_many(rows(1), common={**common_job(), **(common or {"id": 1})}),
    ):
        begun = time.process_time()
        with pytest.raises(InvalidMessage) as caught:
            enqueue()
        assert time.process_time() - begun < 1
        assert len(str(caught.value)) < 4000
    assert producer.redis.dbsize() == 0
    # And for an app that can't see exceptions it is one short event, however often it is asked
    for _ in range(2):
        assert_refused_from_outside(producer, [{**text_job(), **more}])


@pytest.mark.parametrize("job", [LISTS, OBJECTS, BIG, HUGE, [LISTS], {"a": OBJECTS}], ids=range(6))
def test_what_is_no_job_at_all_is_a_wrong_one_too(job: Any) -> None:
    producer = memory_producer()
    for enqueue in (
        lambda: producer.enqueue(job),
        lambda: producer.enqueue_many([job]),
        lambda: producer.enqueue_many([job], common=common_job()),
        lambda: producer.enqueue_many(rows(1), common=job),
    ):
        with pytest.raises(InvalidMessage):
            enqueue()
    assert producer.redis.dbsize() == 0
    assert_refused_from_outside(producer, job)


def test_common_may_be_any_mapping_and_hold_any(producer: Producer) -> None:
    frozen = {k: MappingProxyType(v) if isinstance(v, dict) else v for k, v in common_job().items()}
    (id,) = producer.enqueue_many(rows(1), common=MappingProxyType(frozen))
    assert producer.get(id) is not None


def test_a_chunk_is_stored_and_its_word_left_while_the_next_rows_are_slow_to_come(
    redis_server: RedisServer, settings: Settings
) -> None:
    # Given a Redis that knows no script, and rows that come slowly after a first chunk
    operator = redis.Redis.from_url(redis_server.url)
    operator.script_flush()
    producer = Producer(settings, client=connect(redis_server.url))
    seen: list[tuple[int, int]] = []

    def source() -> Iterator[dict[str, Any]]:
        for number, row in enumerate(rows(CHUNK_ROWS + 10)):
            if number >= CHUNK_ROWS:
                time.sleep(0.05)
                lane = f"{{{settings.namespace}}}:lane:low:0"
                seen.append((operator.zcard(lane), operator.llen(f"{{{settings.namespace}}}:wake")))
            yield row

    # When they are stored
    producer.enqueue_many(source(), common=BULK)
    # Then the first chunk's messages didn't wait for the second's rows
    assert seen[1] == (CHUNK_ROWS, 1)
    producer.close()
    operator.close()


def test_what_breaks_while_rows_are_streamed_is_done_again(
    redis_server: RedisServer, namespace: str
) -> None:
    # Given an app whose connection is cut, and whose scripts are forgotten, between its chunks
    env = {"COURIER_REDIS_URL": redis_server.url, "COURIER_NAMESPACE": namespace}
    producer = Producer.from_env(env)
    operator = redis.Redis.from_url(redis_server.url)

    def rows() -> Iterator[dict[str, str]]:
        for number in range(2600):
            if number in (700, 1700):
                operator.client_kill_filter(_type="normal", skipme=True)
            if number in (1200, 2200):
                operator.script_flush()
            yield {"address": f"79{number:09}"}

    # When a campaign is stored
    ids = producer.enqueue_many(rows(), common=common_job(priority="low"))
    # Then each row is one message
    assert len(set(ids)) == 2600
    assert operator.zcard(f"{{{namespace}}}:lane:low:0") == 2600
    assert operator.hget(f"{{{namespace}}}:counts", "queued") == b"2600"
    producer.close()
    operator.close()


@pytest.fixture
def hung_server(tmp_path: Path) -> Iterator[RedisServer]:
    """A Redis that takes what is sent to it, and answers when it goes on."""
    server = RedisServer(tmp_path, free_port())
    server.start()
    yield server
    server.stop(kill=True)


@pytest.fixture
def impatient(hung_server: RedisServer, face: str) -> Iterator[Any]:
    """A Producer, blocking or behind Awaited, that waits for a reply for 0.3 s."""
    url, wait = hung_server.url, {"socket_timeout": 0.3}
    settings = Settings(redis_url=url, max_queued=1000)
    if face == "blocking":
        with closing(Producer(settings, client=connect(url, **wait))) as made:
            yield made
    else:
        client = aio.connect(url, **wait)
        with (
            closing(Loop()) as loop,
            closing(Awaited(loop, AsyncProducer(settings, client=client))) as found,
        ):
            yield found


def test_what_got_no_answer_can_be_repeated_by_its_id(
    impatient: Any, hung_server: RedisServer
) -> None:
    def send(number: int) -> None:
        assert hung_server.process
        hung_server.process.send_signal(number)

    def then_stop() -> Iterator[dict[str, Any]]:
        yield from given
        wait_for(lambda: look.zcard("{courier}:lane:low:0") == CHUNK_ROWS)
        send(signal.SIGSTOP)

    # Given jobs without ids, and a Redis that stops before it answers
    given, look = list(rows(CHUNK_ROWS + 3)), connect(hung_server.url)
    impatient.enqueue(text_job(id="first"))
    send(signal.SIGSTOP)
    with pytest.raises(StoreUnavailable) as one:
        impatient.enqueue(text_job())
    send(signal.SIGCONT)
    impatient.ping()
    with pytest.raises(StoreUnavailable) as many:
        impatient.enqueue_many(then_stop(), common=BULK)
    # When it goes on, and does what it was sent
    send(signal.SIGCONT)
    lost, in_doubt = one.value.id, many.value.in_doubt
    for id in (lost, *in_doubt.values()):
        wait_for(lambda id=id: impatient.get(id))  # type: ignore[misc]
    # Then the errors know the ids, of one job and of the rows of the chunk in hand
    assert str(one.value).endswith(f"; to repeat it, give the job the id {lost}")
    assert len(many.value.accepted) == CHUNK_ROWS
    assert [*in_doubt] == [CHUNK_ROWS, CHUNK_ROWS + 1, CHUNK_ROWS + 2]
    # And with these ids nothing is stored twice
    rest = [{**given[number], "id": id} for number, id in in_doubt.items()]
    assert impatient.enqueue_many(rest, common=BULK) == [*in_doubt.values()]
    assert impatient.enqueue(text_job(id=lost)) == lost
    assert look.hget("{courier}:counts", "queued") == str(2 + len(given))
    look.close()


def test_an_error_shows_its_text() -> None:
    for error in (StoreUnavailable("Redis can't be used now"), QueueFull(3)):
        assert str(error) in repr(error)

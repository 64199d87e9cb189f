"""The task door: a task is on its list, in somebody's hands for a while, or done."""

from __future__ import annotations

import json
import time
from base64 import b64decode, b64encode
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import redis
from celery import Celery, Task

from tests.conftest import ROOT, text_job, wait_for
from viber_courier import Producer
from viber_courier.ops.redis_server import RedisServer
from viber_courier.schemas.lanes import POLL, queue
from viber_courier.schemas.settings import Settings
from viber_courier.store import door as module
from viber_courier.store.connection import connect
from viber_courier.store.door import BELL, LEASE, LONGEST, MOST_TASKS, Door
from viber_courier.worker.intake import RETRY, Intake
from viber_courier.worker.runtime.messages import unpack

NOW = 1_800_000_000_000_000
Unpack = Callable[[bytes], Any]


@pytest.fixture
def client(redis_server: RedisServer) -> Iterator[redis.Redis]:
    made = connect(redis_server.url)
    yield made
    made.close()


@pytest.fixture
def at(redis_server: RedisServer, namespace: str) -> Iterator[Callable[..., Door]]:
    """The door so many seconds from a fixed instant; None: by the server's clock."""
    made = list[Door]()

    def door(seconds: float | None = None) -> Door:
        now = None if seconds is None else NOW + round(seconds * 1_000_000)
        made.append(Door(redis_server.url, namespace, now))
        return made[-1]

    yield door
    for each in made:
        each.close()


@pytest.fixture
def send(redis_server: RedisServer, namespace: str) -> Iterator[Callable[..., Any]]:
    """A plain Celery client's ``send_task``."""
    with Celery(broker=redis_server.url, set_as_current=False) as app:

        def task(*args: Any, name: str = "courier.enqueue", **options: Any) -> Any:
            at = f"{namespace}.enqueue"
            return app.send_task(name, args=args, queue=at, ignore_result=True, **options)

        task.conf = app.conf  # type: ignore[attr-defined]
        yield task


@pytest.fixture
def app(client: redis.Redis, namespace: str) -> Producer:
    return Producer(Settings(namespace=namespace), client=client)


@pytest.fixture
def unpack_() -> Unpack:
    """How a worker reads a task."""

    def courier_intake() -> None:
        pass

    with Celery(set_as_current=False, broker="memory://") as celery:
        task: Task = celery.task(courier_intake)
        return lambda raw: unpack(raw, "courier.enqueue", task)


@pytest.fixture
def serve(at: Callable[..., Door], app: Producer, unpack_: Unpack) -> Callable[[], str]:
    """What a process does when its bell rings."""
    return Intake(at(), app, unpack_).serve


def test_a_task_is_held_by_one_until_its_lease_is_over(
    at: Callable[..., Door], client: redis.Redis, namespace: str
) -> None:
    client.lpush(f"{namespace}.enqueue", "a", "b")
    # When one has taken both, nobody else gets them
    first = at(0).take()
    assert [task.body for task in first] == [b"a", b"b"]
    assert at(0).take() == at(LEASE - 1).take() == []
    # and one that is renewed is held for longer
    at(LEASE - 1).keep(first[1:], LEASE)
    # Then the other comes due when its lease is over: its holder is dead
    assert at(LEASE).take() == first[:1]
    # And one that is done does not come back, though its first holder renews it
    at(LEASE).done(first[:1])
    at(LEASE).keep(first, 0)
    assert at(LEASE).take() == first[1:]
    at(LEASE).done(first)
    assert at(9 * LEASE).take() == [] and at(0).look()[::2] == (0, 0)


def test_tasks_are_taken_by_priority_and_age_and_few_at_once(
    at: Callable[..., Door], send: Callable[..., Any], client: redis.Redis, namespace: str
) -> None:
    # Given tasks of several priorities, as kombu's Redis queues have them
    for priority in (9, 3, 0, None, 6):
        send(priority, **({} if priority is None else {"priority": priority}))
    bodies = [json.loads(task.body)["body"] for task in at(0).take()]
    assert bodies == [
        b64encode(json.dumps([[p], {}, dict.fromkeys(EMBED)]).encode()).decode()
        for p in (0, None, 3, 6, 9)
    ]
    # And no more than a process can hold at once, in number and in size
    client.lpush(f"{namespace}.enqueue", *range(MOST_TASKS + 1))
    assert len(at(0).take()) == MOST_TASKS and len(at(0).take()) == 1
    client.lpush(f"{namespace}.enqueue", "small", "x" * module.MOST_BYTES, "next")
    assert len(at(0).take()) == 2 and len(at(0).take()) == 1
    # And what comes due is not more, either
    assert len(at(2 * LEASE).take()) == MOST_TASKS


EMBED = ("callbacks", "errbacks", "chain", "chord")


def test_one_bell_rings_for_what_is_due(
    at: Callable[..., Door], client: redis.Redis, namespace: str
) -> None:
    assert at(0).knock() == (False, False)
    client.lpush(f"{namespace}.enqueue", "a")
    assert at(0).knock() == (True, True) and at(0).knock() == (True, False)
    # A bell that brings nobody is rung again after a while
    assert 0 < client.pttl(f"{namespace}.enqueue.bell") <= 1000 * BELL
    client.delete(f"{namespace}.enqueue.bell")
    assert at(0).knock() == (True, True)
    # One who takes it may be too few
    client.lpush(f"{namespace}.enqueue", *"bcd")
    task, *_ = at(0).take()
    assert at(0).knock() == (False, False)
    # A lease that is over rings, too; a pause keeps everybody away
    at(0).pause(60)
    assert at(LEASE).knock() == (True, False)
    client.delete(f"{namespace}.enqueue.bell")
    assert at(LEASE).knock() == (True, True)
    # and so does one that a step back of the clock has left far ahead
    at(3600).keep([task], LONGEST)
    client.delete(f"{namespace}.enqueue.bell")
    assert at(0).knock() == (True, True) and at(0).take() == [task]


def test_waiting_ends_when_a_task_comes_and_takes_nothing(
    at: Callable[..., Door], client: redis.Redis, namespace: str
) -> None:
    started = time.monotonic()
    at().wait(0.1)
    assert time.monotonic() - started > 0.09
    client.lpush(f"{namespace}.enqueue", "a", "b")
    at().wait(60)
    assert client.lrange(f"{namespace}.enqueue", 0, -1) == ["b", "a"]
    assert time.monotonic() - started < 30


def test_the_age_of_the_oldest_task_is_known_about(
    at: Callable[..., Door], client: redis.Redis, namespace: str
) -> None:
    list_, mark = f"{namespace}.enqueue", f"{namespace}.enqueue.mark"
    before = time.time()
    client.lpush(list_, *range(30))
    at().knock()
    # Given a look an hour ago, and tasks of then that nobody has taken
    client.hset(mark, "at", round((before - 3600) * 1_000_000))
    at().take()
    at().knock()
    assert at().look().tasks == 10 and 3599 < at().look().seconds < 3700
    # When the last of them is taken, then those that wait came later
    client.lpush(list_, *range(30))
    at().take()
    at().knock()
    assert at().look().tasks == 20 and at().look().seconds < 60
    at().take()
    at().knock()
    assert at().look() == (0, 0.0, 60)


def test_tasks_in_every_form_that_celery_gives_them_are_stored(
    send: Callable[..., Any], serve: Callable[[], str], app: Producer
) -> None:
    send([text_job(id="plain")])
    send([text_job(id="zlib")], compression="zlib")
    send.conf.task_protocol = 1  # type: ignore[attr-defined]
    send([text_job(id="protocol-1")])
    send(text_job(id="alone"), task_id="alone")
    assert serve() == "enqueue: 3 accepted, 1 rejected; tasks: 4"
    assert all(app.get(id) for id in ("plain", "zlib", "protocol-1"))
    assert serve() == "enqueue: 0 accepted, 0 rejected; tasks: 0"


def test_eta_is_waited_for_and_expires_obeyed(
    send: Callable[..., Any],
    serve: Callable[[], str],
    app: Producer,
    at: Callable[..., Door],
    caplog: pytest.LogCaptureFixture,
) -> None:
    send([text_job(id="later")], eta=datetime.now(UTC) + timedelta(seconds=1))
    send([text_job(id="soon")], countdown=-5)
    send([text_job(id="never")], expires=datetime.now(UTC) - timedelta(seconds=1))
    send([text_job(id="in-time")], expires=60)
    assert serve() == "enqueue: 2 accepted, 0 rejected; tasks: 2"
    assert app.get("never") is None and "task expired" in caplog.text
    assert at().look().held == 1 and app.get("later") is None
    wait_for(lambda: at().knock()[0], 10)
    assert serve() == "enqueue: 1 accepted, 0 rejected; tasks: 1" and app.get("later")


def test_what_is_held_for_later_leaves_room_for_new_tasks(
    at: Callable[..., Door], client: redis.Redis, namespace: str
) -> None:
    # Given more tasks for later than one look takes, whose time has come
    client.lpush(f"{namespace}.enqueue", *["later"] * MOST_TASKS)
    at(0).keep(at(0).take(), LONGEST)
    assert at(LONGEST - 1).knock() == (False, False)
    # When new ones come, then they are half of what is taken
    client.lpush(f"{namespace}.enqueue", *["new"] * MOST_TASKS)
    bodies = [task.body for task in at(LONGEST).take()]
    assert bodies.count(b"new") == bodies.count(b"later") == MOST_TASKS / 2


def test_a_worker_s_clock_does_not_matter(
    send: Callable[..., Any], at: Callable[..., Door], app: Producer, unpack_: Unpack
) -> None:
    # Given a broker whose clock is an hour behind a worker's
    hour = timedelta(hours=1)
    behind = at((time.time() * 1_000_000 - NOW) / 1_000_000 - hour.total_seconds())
    now = datetime.now(UTC) - hour
    # When a task has a minute left, and another is to wait for a minute, by the broker's clock
    send([text_job(id="in-time")], expires=now + timedelta(minutes=1))
    send([text_job(id="later")], eta=now + timedelta(minutes=1))
    assert Intake(behind, app, unpack_).serve() == "enqueue: 1 accepted, 0 rejected; tasks: 1"
    # Then they do, and the worker looks again only then
    assert app.get("in-time") and app.get("later") is None
    assert behind.knock() == (False, False) and behind.look().held == 1


ENVELOPE = {
    "body": b64encode(b"[[], {}, {}]").decode(),
    "headers": {"task": "courier.enqueue", "id": "a"},
    "content-type": "application/json",
    "content-encoding": "utf-8",
    "properties": {"body_encoding": "base64", "delivery_tag": "t", "delivery_info": {}},
}
WRONG: list[tuple[Any, str]] = [
    (b"\xff", "can't be decoded"),
    (b"", "can't be decoded"),
    (b"[" * 100_000, "RecursionError"),
    ([], "TypeError"),
    ({}, "KeyError"),
    ({**ENVELOPE, "headers": None}, "unknown format"),
    ({**ENVELOPE, "headers": []}, "unknown format"),
    ({**ENVELOPE, "headers": {"task": "courier.poll", "id": "a"}}, "unknown task"),
    ({**ENVELOPE, "content-type": "application/x-python-serialize"}, "not JSON"),
    ({**ENVELOPE, "body": "a"}, "can't be decoded"),
    ({**ENVELOPE, "headers": {**ENVELOPE["headers"], "compression": "zlib"}}, "can't be decoded"),
    ({**ENVELOPE, "headers": {**ENVELOPE["headers"], "eta": "x"}}, "invalid task"),
    ({**ENVELOPE, "body": b64encode(b"[1, 2, 3]").decode()}, "invalid task"),
]


@pytest.mark.parametrize(("wrong", "why"), WRONG)
def test_what_is_no_such_task_is_refused_and_gone(
    wrong: Any,
    why: str,
    serve: Callable[[], str],
    client: redis.Redis,
    namespace: str,
    at: Callable[..., Door],
    caplog: pytest.LogCaptureFixture,
) -> None:
    raw = wrong if isinstance(wrong, bytes) else json.dumps(wrong)
    client.lpush(f"{namespace}.enqueue", raw)
    assert serve() == "enqueue: 0 accepted, 0 rejected; tasks: 0"
    assert f"message refused: {why}" in caplog.text
    assert at().look() == (0, 0.0, 0)


PLAIN: dict[str, Any] = {  # docs/examples/nodejs-redis.md writes it down for apps without Celery
    "headers": {"task": "courier.enqueue", "id": "2c0ee5b2-6f4d-4a43-9d3c-2d5f6d9a5b0e"},
    "content-type": "application/json",
    "content-encoding": "utf-8",
    "body": json.dumps([[[text_job(id="plain")]], {}, None]),
    "properties": {"delivery_tag": "t"},
}


def test_the_envelope_that_is_written_down_is_enough_and_each_field_of_it_is_needed(
    serve: Callable[[], str], client: redis.Redis, namespace: str, app: Producer
) -> None:
    page = (ROOT / "docs" / "examples" / "nodejs-redis.md").read_text()
    fields = [f"{part}.{name}" for part in ("headers", "properties") for name in PLAIN[part]]
    for name in ("content-type", "content-encoding", "body", *fields):
        assert f"`{name}`" in page
    # When it lacks a field, then it is refused
    for name in ("headers", "content-type", "body", "properties"):
        lacking = {field: value for field, value in PLAIN.items() if field != name}
        client.lpush(f"{namespace}.enqueue", json.dumps(lacking))
        assert serve() == "enqueue: 0 accepted, 0 rejected; tasks: 0", name
    # When it is whole, in either spelling of the body, then its messages are stored
    coded = {**PLAIN["properties"], "body_encoding": "base64"}
    body = b64encode(PLAIN["body"].encode()).decode()
    for whole in (PLAIN, {**PLAIN, "body": body, "properties": coded}):
        client.lpush(f"{namespace}.enqueue", json.dumps(whole))
        assert serve() == "enqueue: 1 accepted, 0 rejected; tasks: 1"
    assert app.get("plain") is not None


def test_what_the_store_does_not_take_is_tried_again_and_others_have_their_turn(
    send: Callable[..., Any],
    client: redis.Redis,
    namespace: str,
    at: Callable[..., Door],
    app: Producer,
    serve: Callable[[], str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # Given a store with room for two messages, and a task of three before one of one
    app._calls.settings = Settings(namespace=namespace, max_queued=2)
    app._calls._scripts["enqueue"]._given["max_queued"] = ["2"]
    send([text_job(id=f"large-{n}") for n in range(3)])
    send([text_job(id="small")])
    # When it is full, then nothing is lost, and nobody tries again at once
    assert serve() == "enqueue: 0 accepted, 0 rejected; tasks: 0"
    assert at().look().held == 2 and at().knock() == (True, False)
    # and the other task comes before the one that did not fit
    (task,) = at().take()
    assert "small" in b64decode(json.loads(task.body)["body"]).decode()
    at().keep([task], 0)
    # When there is room, then both are stored
    app._calls._scripts["enqueue"]._given["max_queued"] = ["0"]
    app._calls.settings = Settings(namespace=namespace)
    serve()
    wait_for(lambda: at().knock()[0], 2 * RETRY)
    serve()
    assert app.get("small") and all(app.get(f"large-{n}") for n in range(3))
    assert at().look().held == 0


def test_one_task_that_fails_keeps_nobody_waiting(
    send: Callable[..., Any],
    app: Producer,
    serve: Callable[[], str],
    at: Callable[..., Door],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    send([text_job(id="spoiled")])
    send([text_job(id="good")])
    store = app.enqueue_many

    def fail(rows: Any, **more: Any) -> Any:
        if (all_ := list(rows))[0]["id"] == "spoiled":
            raise RuntimeError("a fault of ours")
        return store(all_, **more)

    monkeypatch.setattr(app, "enqueue_many", fail)
    assert serve() == "enqueue: 1 accepted, 0 rejected; tasks: 1"
    assert app.get("good") and at().look().held == 1


def test_what_older_workers_left_unacknowledged_comes_back(
    send: Callable[..., Any],
    client: redis.Redis,
    namespace: str,
    at: Callable[..., Door],
    app: Producer,
    serve: Callable[[], str],
) -> None:
    # Given tasks that workers of older versions took: one long ago, one just now; and another app's
    for id in ("old", "new"):
        send([text_job(id=f"{namespace}-{id}")])
        whole = [json.loads(str(client.lpop(f"{namespace}.enqueue"))), "", f"{namespace}.enqueue"]
        client.hset("unacked", f"{namespace}-{id}", json.dumps(whole))
    client.hset("unacked", f"{namespace}-other", json.dumps([{}, "", "other"]))
    client.hset("unacked", f"{namespace}-odd", b"\x80 no message")
    ages = {"old": 61.0, "new": 30.0, "other": 4000.0, "odd": 4001.0}
    client.zadd("unacked_index", {f"{namespace}-{n}": time.time() - s for n, s in ages.items()})
    # When a worker looks, then it puts back the first, and leaves the others alone
    assert at().take_over([queue(namespace, "enqueue"), queue(namespace, POLL)]) == 1
    assert serve() == "enqueue: 1 accepted, 0 rejected; tasks: 1"
    assert app.get(f"{namespace}-old")
    assert [client.hexists("unacked", f"{namespace}-{n}") for n in ages] == [
        False,
        True,
        True,
        True,
    ]
    client.hdel("unacked", *(f"{namespace}-{n}" for n in ages))
    client.zrem("unacked_index", *(f"{namespace}-{n}" for n in ages))

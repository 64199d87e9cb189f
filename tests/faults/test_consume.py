"""``courier consume`` as a program: killed again and again, stopped, into a real database."""

from __future__ import annotations

import os
import random
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import common_job, log_lines, wait_for
from tests.postgres import postgres
from viber_courier import Event, Producer, consume
from viber_courier.ops.redis_server import RedisServer
from viber_courier.producers import consume as module
from viber_courier.store.keys import Keys

TABLES = """
CREATE TABLE IF NOT EXISTS seen (id TEXT PRIMARY KEY);
CREATE TABLE IF NOT EXISTS sales (message TEXT PRIMARY KEY, times INT);
"""
COUNT = (
    "INSERT INTO sales VALUES (?, 1) ON CONFLICT (message) DO UPDATE SET times = sales.times + 1"
)
APP = f'''
import sqlite3
db = sqlite3.connect("shop.db", timeout=30)
db.executescript("""PRAGMA journal_mode=WAL;{TABLES}""")

def handle(events):
    with db:
        insert = "INSERT INTO seen VALUES (?) ON CONFLICT DO NOTHING"
        new = [event for event in events if db.execute(insert, [event.id]).rowcount]
        db.executemany("{COUNT}", [[event.subject] for event in new])

def slow(events):
    import time
    handle(events)
    open("began", "w").close()
    time.sleep(1)

def wrong(events):
    raise RuntimeError("no such table")

def give_up(event, error):
    open("given-up", "a").write(event.id + "\\n")
'''


class Program:
    """``courier consume shop:...`` in a folder that holds the app and its database."""

    def __init__(self, folder: Path, env: dict[str, str], *options: str) -> None:
        with (folder / "log").open("ab") as log:
            self.process = subprocess.Popen(
                [Path(sys.executable).parent / "courier", "consume", *options],
                env={**os.environ, **env},
                cwd=folder,
                stderr=log,
            )

    def end(self, number: int, seconds: float = 10) -> int:
        self.process.send_signal(number)
        return self.process.wait(seconds)


@pytest.fixture
def env(redis_server: RedisServer, namespace: str) -> dict[str, str]:
    return {"COURIER_REDIS_URL": redis_server.url, "COURIER_NAMESPACE": f"{namespace}-consume"}


@pytest.fixture
def producer(env: dict[str, str]) -> Iterator[Producer]:
    with closing(Producer.from_env(env)) as made:
        yield made


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "shop.py").write_text(APP, encoding="utf-8")
    return tmp_path


def cancelled(producer: Producer, count: int, start: int = 0) -> None:
    """Messages that have one event each."""
    rows = [{"id": f"m{n}", "address": f"7925{n:07}"} for n in range(start, start + count)]
    for id in producer.enqueue_many(rows, common=common_job()):
        assert producer.cancel(id)


def many(producer: Producer, count: int) -> None:
    """Events like one that is real, of so many messages."""
    cancelled(producer, 1)
    stream = Keys(producer.settings.namespace).results
    ((_, fields),) = producer.redis.xrange(stream)  # type: ignore[union-attr, misc]
    with producer.redis.pipeline(transaction=False) as pipe:
        for n in range(1, count):
            pipe.xadd(stream, {"event": fields["event"].replace("m0", f"m{n}")})
        pipe.execute()


def pending(producer: Producer) -> int:
    found: Any = producer.redis.xpending(f"{{{producer.settings.namespace}}}:results", "crm")
    return int(found["pending"])


def sold(folder: Path) -> list[tuple[str, int]]:
    with closing(sqlite3.connect(folder / "shop.db", timeout=30)) as db:
        return db.execute("SELECT message, times FROM sales").fetchall()


def test_killed_every_two_seconds_it_loses_nothing_and_applies_nothing_twice(
    folder: Path, producer: Producer, env: dict[str, str]
) -> None:
    total, chance = 6000, random.Random(1)
    load = threading.Thread(
        target=lambda: [cancelled(producer, 100, start) for start in range(0, total, 100)]
    )
    load.start()
    options = ["shop:handle", "--group", "crm", "--consumer", "crm-0", "--batch", "20"]
    for _ in range(6):
        program = Program(folder, env, *options)
        time.sleep(chance.uniform(1.5, 2.5))
        program.end(signal.SIGKILL)
    load.join()
    program = Program(folder, env, *options)
    cancelled(producer, 1, total)  # the last one may have handled all before: this one must run
    wait_for(lambda: len(sold(folder)) == total + 1, 60)
    wait_for(lambda: pending(producer) == 0)
    assert program.end(signal.SIGTERM) == 0
    assert {times for _, times in sold(folder)} == {1}


def test_what_a_killed_one_had_is_taken_over_by_another_after_a_minute(
    folder: Path, producer: Producer, env: dict[str, str]
) -> None:
    cancelled(producer, 10)
    program = Program(folder, env, "shop:slow", "--group", "crm")
    wait_for((folder / "began").exists)
    program.end(signal.SIGKILL)
    assert pending(producer) == 10
    started = time.monotonic()
    program = Program(folder, env, "shop:handle", "--group", "crm")
    wait_for(lambda: pending(producer) == 0, 90)
    assert time.monotonic() - started > 50
    assert len(sold(folder)) == 10
    assert program.end(signal.SIGTERM) == 0
    assert producer.redis.xinfo_consumers(Keys(producer.settings.namespace).results, "crm") == []


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_after_the_events_in_hand(
    folder: Path, producer: Producer, env: dict[str, str], number: int
) -> None:
    cancelled(producer, 30)
    program = Program(folder, env, "shop:slow", "--group", "crm", "--batch", "10")
    wait_for((folder / "began").exists)
    assert program.end(number, 5) == 0
    assert len(sold(folder)) in (10, 20)
    assert pending(producer) == 0


def test_what_fails_is_in_the_log_and_goes_to_the_hook(
    folder: Path, producer: Producer, env: dict[str, str]
) -> None:
    cancelled(producer, 1)
    options = ["--group", "crm", "--attempts", "2", "--on-poison", "shop:give_up"]
    program = Program(folder, env, "shop:wrong", *options)
    wait_for((folder / "given-up").exists)
    assert program.end(signal.SIGTERM) == 0
    log = (folder / "log").read_text()
    first, *_ = log_lines(log, "handler failed", event_id="m0:1", events=1)
    assert "no such table" in first["exception"]
    assert log_lines(log, "event given up", event_id="m0:1")
    assert pending(producer) == 0


Handler = Callable[[list[Event]], object]


def recipe(db: Any, mark: str) -> Handler:
    """The recipe of docs/guide.md, in either dialect."""
    insert = f"INSERT INTO seen VALUES ({mark}) ON CONFLICT DO NOTHING"
    count = COUNT.replace("?", mark)

    def handle(events: list[Event]) -> None:
        with db:
            new = [event for event in events if db.execute(insert, [event.id]).rowcount]
            db.cursor().executemany(count, [[event.subject] for event in new])

    return handle


@pytest.fixture(params=["SQLite", "PostgreSQL"])
def database(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[Any, str, str]]:
    if request.param == "SQLite":
        with closing(sqlite3.connect(tmp_path / "shop.db")) as db:
            db.executescript(f"PRAGMA journal_mode=WAL;{TABLES}")
            yield db, "?", request.param
    else:
        psycopg = pytest.importorskip("psycopg", reason="needs psycopg: make test-faults")
        with postgres() as address, psycopg.connect(address) as db:
            db.execute(TABLES)
            db.commit()
            # ``with db`` of psycopg would close it: a transaction is what SQLite's means
            yield Transactions(db), "%s", request.param


class Transactions:
    """psycopg's connection with SQLite's ``with``."""

    def __init__(self, db: Any) -> None:
        self._db, self.execute, self.cursor = db, db.execute, db.cursor

    def __enter__(self) -> None:
        self._block = self._db.transaction()
        self._block.__enter__()

    def __exit__(self, *error: Any) -> Any:
        return self._block.__exit__(*error)


def test_each_event_is_applied_exactly_once_however_often_it_comes(
    producer: Producer, database: tuple[Any, str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "RETRY_BASE", 0.01)
    db, mark, _ = database
    handle, stop, calls = recipe(db, mark), threading.Event(), [0]

    def unlucky(events: list[Event]) -> None:
        calls[0] += 1
        if calls[0] % 3 == 1:
            with db:
                db.execute(f"INSERT INTO seen VALUES ({mark})", [events[0].id])
                raise OSError("before the commit")
        handle(events)
        if calls[0] % 3 == 2:
            raise OSError("behind the commit: the events come again")
        if db.execute("SELECT count(*) FROM sales").fetchone()[0] == 40:
            stop.set()

    cancelled(producer, 40)
    consume(producer, "crm", unlucky, stop=stop, batch=10, attempts=1000)
    rows = db.execute("SELECT times FROM sales").fetchall()
    assert [times for (times,) in rows] == [1] * 40
    assert db.execute("SELECT count(*) FROM seen").fetchone()[0] == 40


def test_two_thousand_events_a_second_go_into_a_database(
    producer: Producer, database: tuple[Any, str, str]
) -> None:
    db, mark, name = database
    total, stop = 10_000, threading.Event()
    many(producer, total)
    handle = recipe(db, mark)

    def counted(events: list[Event]) -> None:
        handle(events)
        if db.execute("SELECT count(*) FROM sales").fetchone()[0] == total:
            stop.set()

    started = time.perf_counter()
    consume(producer, "crm", counted, stop=stop)
    rate = total / (time.perf_counter() - started)
    print(f"{name}: {rate:,.0f} events/s")
    assert rate >= (2000 if name == "SQLite" else 500)

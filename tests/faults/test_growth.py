"""Nothing grows without bound: waves of messages come, end and leave no trace; waiting is free."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis
import requests

from tests.conftest import Simulator, Worker, common_job, free_port, iso_in, text_job, wait_for
from tests.faults.test_security import post, stored
from viber_courier import EventsMissed, Producer
from viber_courier.ops.redis_server import RedisServer

RETENTION, CONTENT, RESULTS = 8.0, 2.0, 3.0
"""Seconds that a record, its phone number and texts, and events are kept here."""
PHONE = "792522"
WAVES, SIZE = 5, 400
DIGITS = ("10", "20", "21", "23", "30", "40", "50", "60", "62", "81", "99", "99")
"""Endings of the simulator, by the last two digits of an address."""


@pytest.fixture
def server(tmp_path: Path) -> Iterator[RedisServer]:
    folder = tmp_path / "redis"
    folder.mkdir()
    made = RedisServer(folder, free_port())
    made.start()
    yield made
    made.stop()


@pytest.fixture
def env(server: RedisServer, system_env: dict[str, str]) -> dict[str, str]:
    return {
        **system_env,
        "COURIER_REDIS_URL": server.url,
        "COURIER_RETENTION": str(RETENTION),
        "COURIER_CONTENT_RETENTION": str(CONTENT),
        "COURIER_RESULTS_RETENTION": str(RESULTS),
        "COURIER_READ_WINDOW": "1",
        "COURIER_SMS_GRACE": "1",
        "COURIER_CONNECT_TIMEOUT": "0.5",
        "COURIER_READ_TIMEOUT": "1.5",
        "COURIER_LEASE": "3",
        "COURIER_RETRY_CAP": "1",
    }


@pytest.fixture
def app(env: dict[str, str]) -> Iterator[Producer]:
    made = Producer.from_env(env)
    yield made
    made.close()


def wave(number: int, app: Producer, simulator: Simulator, namespace: str) -> list[str]:
    """Messages of all sorts and endings, faults, cancels, jobs by task, what is no message at all.

    The ids of those that end by themselves.
    """
    simulator.fault(kind="drop_after", times=1)
    simulator.fault(kind="status", code="error-system", times=1)
    simulator.fault(kind="entry", code=f"error-new-{'abcdefgh'[number]}", times=1)
    simulator.fault(kind="garbled", on="status", times=1)
    rows = ({"address": f"{PHONE}{i:03}{DIGITS[i % len(DIGITS)]}"} for i in range(SIZE))
    ids = app.enqueue_many(rows, common=common_job(smsText="x" * 100, ttlSec=15, priority="low"))
    ids += [app.enqueue(text_job(f"{PHONE}{i:03}99", ttlSec=15)) for i in range(50)]
    later = [app.enqueue(text_job(f"{PHONE}00099", sendAt=iso_in(600))) for _ in range(20)]
    assert all(app.cancel(id) for id in later)
    jobs = [text_job(f"{PHONE}{i:03}99", id=f"w{number}-{i}") for i in range(20)]
    wrong = [{"id": f"wrong-{number}-{i}", f"k{number}-{i}": i} for i in range(20)]
    post_to = (app.settings.redis_url, f"{namespace}.enqueue")
    post(*post_to, json.dumps([[[*jobs, *wrong]], {}, {}]).encode())
    post(*post_to, b"no JSON")
    post(*post_to, b"[[], {}, {}]", task=f"courier.unknown-{number}")
    return [*ids, *later, *(job["id"] for job in [*jobs, *wrong])]


def state(app: Producer, namespace: str) -> dict[str, Any]:
    """How much of everything there is."""
    client = app.redis
    client.execute_command("MEMORY", "PURGE")
    queues = [*client.scan_iter(f"{namespace}.*", _type="list")]
    held = f"{namespace}.enqueue"
    return {
        "keys": client.dbsize(),
        "memory": client.info("memory")["used_memory"],
        "results": client.xlen(f"{{{namespace}}}:results"),
        "counts": client.hlen(f"{{{namespace}}}:counts"),
        "queued": sum(client.llen(queue) for queue in queues),
        "held": client.zcard(f"{held}.held") + client.hlen(f"{held}.bodies"),
    }


def read_all(app: Producer, reader: int) -> None:
    events = app.results(f"group-{reader}", f"reader-{reader}", block=0.2)
    while True:
        try:
            for event in events:
                event.ack()
            return
        except EventsMissed:  # the group reads every other wave only
            continue


def test_waves_of_messages_leave_nothing_behind(
    env: dict[str, str], app: Producer, simulator: Simulator, namespace: str, tmp_path: Path
) -> None:
    worker = Worker(env, tmp_path, "-E").ready()
    seen: list[dict[str, Any]] = []
    record, content = f"{{{namespace}}}:m:", f"{{{namespace}}}:c:"
    try:
        for number in range(WAVES):
            # Given a wave, all of which has ended, some events read and some not
            ids = wave(number, app, simulator, namespace)
            wait_for(lambda ids=ids: all(app.redis.exists(record + id) for id in ids), 30)
            wait_for(lambda: _ended(app), 60)
            requests.delete(f"{simulator.url}/admin/faults", timeout=10)
            read_all(app, number % 2)
            # Then numbers and texts go first, while status and id stay
            wait_for(lambda: not list(app.redis.scan_iter(content + "*", 1000)), CONTENT + 5)
            kept = app.get(ids[0])
            assert kept is not None and kept.final
            held = {key for key, value in stored(app.settings.redis_url) if PHONE.encode() in value}
            assert held == set()
            # And then all of it
            wait_for(lambda: not list(app.redis.scan_iter(record + "*", 1000)), RETENTION + 10)
            assert app.get(ids[0]) is None
            wait_for(lambda: state(app, namespace)["results"] < 200, RESULTS + 5)
            seen.append(wait_for(lambda: _at_rest(app, namespace), 20))
    finally:
        worker.stop()
    # And each wave left things as the one before it had found them
    print(*seen, sep="\n")
    second, final = seen[1], seen[-1]
    assert final["keys"] <= second["keys"] + 2  # bells come and go
    assert final["counts"] <= second["counts"] + 4  # few names, whatever the provider says
    assert final["memory"] <= second["memory"] * 1.1
    assert worker.process.returncode == 0


def _ended(app: Producer) -> bool:
    """Whether nothing waits and nothing is watched."""
    return not sum(app.redis.zcard(key) for key in [*app._keys.lanes, app._keys.watch])


def _at_rest(app: Producer, namespace: str) -> dict[str, Any] | None:
    now = state(app, namespace)
    return now if now["queued"] <= 1 and not now["held"] else None


def test_what_waits_for_a_month_costs_nothing(
    env: dict[str, str], app: Producer, namespace: str, server: RedisServer, tmp_path: Path
) -> None:
    # Given messages for next month, and a worker with its beat
    month = iso_in(30 * 86400)
    rows = ({"address": f"{PHONE}{i:05}", "id": f"later-{i}"} for i in range(3000))
    app.enqueue_many(rows, common=common_job(sendAt=month))
    before = app.redis.memory_usage(f"{{{namespace}}}:m:later-7")
    worker = Worker(env, tmp_path).ready()
    try:
        wait_for(lambda: app.redis.exists(f"{{{namespace}}}:swept"))
        seen: list[str] = []
        # When somebody watches every command for a while
        with redis.Redis.from_url(server.url).monitor() as monitor:
            stop = threading.Timer(6, lambda: app.redis.echo("that is all"))
            stop.start()
            while "that is all" not in (command := monitor.next_command()["command"]):
                seen.append(command)
            stop.join()
        # Then there are sweeps, and nothing that touches a message, rings or claims
        assert sum(":swept" in each for each in seen) > 5
        assert not [each for each in seen if "later-" in each]
        assert not [each for each in seen if ":once:" in each]
        assert not [each for each in seen if "PUSH" in each and f"{namespace}.send." in each]
        assert app.redis.memory_usage(f"{{{namespace}}}:m:later-7") == before
        assert "request sent" not in worker.log
    finally:
        worker.stop()

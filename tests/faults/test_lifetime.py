"""A message's time and its app's second thoughts, across restarts and outages."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from statistics import median
from typing import Any

import pytest

from tests.conftest import (
    Simulator,
    Start,
    Worker,
    check_events,
    common_job,
    ends,
    free_port,
    iso_in,
    text_job,
    wait_for,
)
from tests.faults.provider import closed, count, fill, fired, gate, record, rows
from viber_courier import Conflict, Producer
from viber_courier.ops.redis_server import RedisServer

# --- ttlSec ---------------------------------------------------------------------------------------


def test_what_runs_out_of_time_while_the_provider_is_down_expires(
    app: Producer, start_worker: Start, simulator: Simulator
) -> None:
    # Given nobody who takes messages, some that wait for a day and are tried, some for 15 seconds
    away = f"http://127.0.0.1:{free_port()}"
    fill(app, 30, priority="high")
    worker = start_worker(COURIER_API_URL=away)
    closed(app)
    begun = time.monotonic()
    ids = app.enqueue_many(rows(5, "98"), common=common_job(priority="low", ttlSec=15))
    # When the worker is killed and another one comes
    worker.kill()
    start_worker(COURIER_API_URL=away)
    # Then the short ones expire in time, though the gate is closed; the others are kept
    seen = ends(app, 5)
    assert 14 < time.monotonic() - begun < 15 + 5
    assert set(seen) == set(ids) and gate(app)
    assert {(e[-1]["status"], e[-1]["reason"], len(e)) for e in seen.values()} == {
        ("expired", "ttl", 1)
    }
    assert count(app, "expired:ttl") == 5
    assert simulator.accepted() == []


def test_error_system_is_retried_until_the_time_is_up(
    app: Producer, start_worker: Start, simulator: Simulator
) -> None:
    simulator.fault(kind="status", code="error-system")
    # The API takes no less than 15 seconds: attempts have but three, so the worker is there before.
    start_worker(COURIER_RETRY_CAP="1")
    id = app.enqueue(text_job(ttlSec=18))
    (event,) = ends(app, 1)[id]
    assert (event["status"], event["reason"]) == ("expired", "ttl")
    assert event["attempts"] >= 2
    assert simulator.accepted() == []


def test_the_provider_is_told_no_more_than_what_is_left(
    app: Producer, start_worker: Start, simulator: Simulator
) -> None:
    # Given messages that wait for some seconds before a worker comes
    jobs = [
        text_job("79250000001", ttlSec=60),
        text_job("79250000002", ttlSec=60, validityPeriodSec=20),
        text_job("79250000003", ttlSec=60, validityPeriodSec=3600, smsText="s", priority="low"),
        text_job("79250000004"),
        text_job("79250000005", ttlSec=15, priority="low"),
    ]
    begun = time.time()
    last_id = [app.enqueue(job) for job in jobs][-1]
    wait_for(lambda: time.time() > begun + 1.2)
    start_worker()
    seen = ends(app, 5)
    # Then it was told no more than what was left, rounded up to a second, when it was asked
    sent = {each["message"]["address"][-1]: each for each in simulator.accepted()}
    on_the_way = 1.0
    left = {n: 60 - (sent[n]["at"] - on_the_way - begun) + 1 for n in "123"}
    assert 50 <= sent["1"]["message"]["validityPeriodSec"] <= left["1"]
    assert sent["2"]["message"]["validityPeriodSec"] == 20
    assert 50 <= sent["3"]["message"]["validityPeriodSec"] <= left["3"]
    assert 50 <= sent["3"]["message"]["smsValidityPeriodSec"] <= left["3"]
    assert "validityPeriodSec" not in sent["4"]["message"]
    # And what is left too little for the API to be told is not sent
    assert seen[last_id][-1]["status"] == "expired" and len(sent) == 4


# --- sendAt ---------------------------------------------------------------------------------------


def test_a_scheduled_message_leaves_soon_after_its_instant_and_never_before(
    app: Producer, start_worker: Start, simulator: Simulator
) -> None:
    # Given messages for instants that two starts of a worker don't reach, in several zones
    wait, spread = 12.0, 0.5
    zones = [UTC, timezone(timedelta(hours=3)), timezone(timedelta(hours=-9, minutes=-30))]
    at = [datetime.now(UTC) + timedelta(seconds=wait + spread * n) for n in range(6)]
    for n, moment in enumerate(at):
        sent_at = moment.astimezone(zones[n % 3]).isoformat()
        app.enqueue(text_job(f"7925000000{n}", sendAt=sent_at))
    # When the worker is killed and started again while they wait
    start_worker().kill()
    start_worker()
    wait_for(lambda: len(simulator.accepted()) == 6)
    # Then each left at its time; that one stood in line behind a busy machine says nothing
    late = sorted(
        each["at"] - at[int(each["message"]["address"][-1])].timestamp()
        for each in simulator.accepted()
    )
    assert late[0] >= 0 and median(late) < 1.5 and late[-1] < 4, late


def test_a_message_a_month_ahead_costs_nothing_while_it_waits(
    app: Producer, start_worker: Start, system_env: dict[str, str]
) -> None:
    # Given a system that has nothing to do
    start_worker()

    wait_for(lambda: app.redis.exists(app._keys.swept))

    def work() -> dict[str, float]:
        """Commands of our scripts for each sweep, over ten of them."""
        seen: Counter[str] = Counter()
        with app.redis.monitor() as monitor:
            for each in monitor.listen():
                if each["client_type"] == "lua" and f"{{{app.settings.namespace}}}" in str(each):
                    command = each["command"].split()[0].lower()
                    if command == "set" and app._keys.swept in each["command"]:
                        command = "sweep"
                    seen[command] += seen["sweep"] > 0 or command == "sweep"
                    if seen["sweep"] == 11:
                        break
        # How often the listener looks when the latest sweep was is not a sweep's work.
        others = {"sweep", "time", "get", "hmget"}
        return {name: number / 10 for name, number in seen.items() if name not in others and number}

    empty = work()
    # When ten thousand messages wait for their day
    app.enqueue_many(rows(10_000), common=common_job(sendAt=iso_in(30 * 86400)))
    # Then Redis has as little to do as before
    assert work() == empty and empty["zrangebyscore"] == 17


# --- cancel ---------------------------------------------------------------------------------------


def test_cancel_before_inside_and_after(
    app: Producer, start_worker: Start, simulator: Simulator
) -> None:
    before, scheduled = app.enqueue(text_job()), app.enqueue(text_job(sendAt=iso_in(86400)))
    assert app.cancel(before) and app.cancel(scheduled)
    simulator.fault(kind="slow", seconds=1.0)
    inside = app.enqueue(text_job())
    worker = start_worker()
    # Inside a request it can't be stopped, and the answer says so
    wait_for(lambda: record(app, inside).status == "sending")
    assert app.cancel(inside) is False
    seen = ends(app, 3)
    assert app.cancel(inside) is False
    assert seen[inside][-1]["status"] == "read"
    # A cancelled one stays so, over restarts too
    worker.kill()
    start_worker()
    assert app.cancel(before) and app.cancel(scheduled)
    assert {(seen[id][-1]["status"], seen[id][-1]["reason"]) for id in (before, scheduled)} == {
        ("cancelled", "by-request")
    }
    assert len(simulator.accepted()) == 1


def test_a_cancel_that_lost_the_race_says_so(
    app: Producer, start_worker: Start, simulator: Simulator
) -> None:
    # Given a campaign that is being sent, and cancels for all of it meanwhile
    simulator.fault(kind="slow", seconds=0.03)
    start_worker(COURIER_BATCH_SIZE="10")
    ids = fill(app, 600)
    wait_for(lambda: len(simulator.accepted()) >= 20)
    with ThreadPoolExecutor(4) as pool:  # from the end: the two meet somewhere
        stopped = dict(zip(ids[::-1], pool.map(app.cancel, ids[::-1]), strict=True))
    seen = ends(app, 600)
    # Then True is for exactly those that never left and never will
    check_events(seen)
    sent = {each["message"]["address"] for each in simulator.accepted()}
    for n, id in enumerate(ids):
        last = seen[id][-1]["status"]
        assert last == ("cancelled" if stopped[id] else "read")
        assert (f"79{n:07}99" in sent) is not stopped[id]
    assert 20 <= len(sent) < 600


def test_cancel_after_an_unsure_attempt_stops_it_but_promises_nothing(
    app: Producer, start_worker: Start, simulator: Simulator
) -> None:
    simulator.fault(kind="drop_after", times=1)
    id = app.enqueue(text_job(priority="realtime"))
    start_worker(COURIER_RETRY_BASE="80000", COURIER_RETRY_CAP="80000")
    wait_for(lambda: record(app, id).unsure == 1)
    assert app.cancel(id) is False
    (last,) = ends(app, 1)[id]
    assert (last["status"], last["reason"], last["unsure"]) == ("unconfirmed", "by-request", 1)
    assert app.cancel(id) is False
    assert len(simulator.accepted()) == fired(simulator) == 1


# --- the same id ----------------------------------------------------------------------------------


@pytest.fixture
def own_redis(tmp_path: Path) -> Iterator[RedisServer]:
    folder = tmp_path / "redis"
    folder.mkdir()
    server = RedisServer(folder, free_port(), ("--appendfsync", "always"))
    server.start()
    yield server
    server.stop()


def test_the_same_id_is_one_message_however_it_is_spelled_and_whatever_restarts(
    own_redis: RedisServer, system_env: dict[str, str], simulator: Simulator, tmp_path: Path
) -> None:
    moment = datetime.now(UTC).replace(microsecond=0) + timedelta(seconds=1)
    asked: dict[str, Any] = text_job("79250000099", id="order-1", sendAt=moment.isoformat())
    zone = timezone(timedelta(hours=5, minutes=45))
    same: list[dict[str, Any]] = [
        dict(reversed(asked.items())),
        {**asked, "sendAt": moment.astimezone(zone).isoformat()},
        {**asked, "sendAt": moment.strftime("%Y-%m-%dT%H:%M:%S.000000Z")},
        {**asked, "address": "+79250000099"},
        {**asked, "type": "viber", "ttlSec": 86400, "resendSms": False, "metadata": {}},
    ]
    other: list[dict[str, Any]] = [
        {**asked, "content": {"text": "another"}},
        {**asked, "sendAt": (moment + timedelta(seconds=1)).isoformat()},
        {**asked, "ttlSec": 86399},
        {**asked, "onUnsure": "resend"},
        {**asked, "metadata": {"a": 1}},
        {name: value for name, value in asked.items() if name != "sendAt"},
    ]
    env = {**system_env, "COURIER_REDIS_URL": own_redis.url, "COURIER_CONTENT_RETENTION": "1"}
    app = Producer.from_env(env)

    def ask() -> None:
        for job in same:
            assert app.enqueue(job) == "order-1"
        row = {"id": "order-1", "address": "+79250000099"}
        common = {name: value for name, value in asked.items() if name not in row}
        assert app.enqueue_many([row], common=common) == ["order-1"]
        for job in other:
            with pytest.raises(Conflict):
                app.enqueue(job)

    # Given a message that is asked for in many ways: while it waits
    ask()
    own_redis.stop(kill=True)
    own_redis.start()
    ask()
    worker = Worker(env, tmp_path).ready()
    try:
        # after it has ended, its content is erased and its worker and Redis were restarted
        seen = ends(app, 1)
        wait_for(lambda: not app.redis.exists(f"{app._keys.contents}order-1"))
        ask()
        worker.kill()
        own_redis.stop(kill=True)
        own_redis.start()
        worker = Worker(env, tmp_path).ready()
        ask()
        # Then it is one message all the same
        assert seen["order-1"][-1]["status"] == record(app, "order-1").status == "read"
        assert [each["message"]["address"] for each in simulator.accepted()] == ["79250000099"]
        assert app.redis.xlen(app._keys.results) == len(seen["order-1"])
    finally:
        worker.kill()
        app.close()

"""Whole journeys: an app, Redis, a worker with beat, a provider over HTTP, events."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import uuid
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import redis
from celery import Celery

from tests.conftest import (
    Simulator,
    Start,
    Worker,
    check_events,
    common_job,
    ends,
    events_of,
    free_port,
    iso_in,
    text_job,
    wait_for,
)
from viber_courier import Producer
from viber_courier.ops.redis_server import RedisServer
from viber_courier.schemas.settings import Settings

ENDINGS = {
    "10": ("delivered", None),
    "20": ("undelivered", "user-blocked"),
    "21": ("sms_delivered", None),
    "22": ("sms_delivered", None),
    "23": ("undelivered", "sms-undelivered"),
    "30": ("failed", "provider-failed"),
    "31": ("sms_delivered", None),
    "40": ("cancelled", None),
    "50": ("rejected", "error-address-unknown"),
    "51": ("rejected", "error-subject-unknown"),
    "60": ("read", None),
    "62": ("read", None),
    "80": ("undelivered", None),
    "81": ("delivered", None),
    "82": ("read", None),
    "99": ("read", None),
}
"""How a message with resendSms ends, by its address's last digits (ops/simulator_rules.py)."""


def test_two_thousand_mixed_messages_end_as_their_addresses_say(
    app: Producer, start_worker: Start, simulator: Simulator
) -> None:
    # Given 2,000 messages of every kind, priority and ending, enqueued while no worker runs
    campaign = common_job(priority="low", smsText="СМС", smsSrcAddress="SHOP")
    digits = list(ENDINGS)
    rows = [{"address": f"79{i:07}{digits[i % len(digits)]}"} for i in range(1500)]
    ids = app.enqueue_many(rows, common=campaign)
    asked = dict(zip(ids, ({**campaign, **row} for row in rows), strict=True))
    for i in range(500):
        job = _single(i, f"78{i:07}99")
        asked[app.enqueue(job)] = job
    # When a worker with its beat runs
    start_worker()
    seen = ends(app, 2000)
    # Then each ended as its address says, with one final event
    check_events(seen)
    for id, job in asked.items():
        last = seen[id][-1]
        status, reason = ENDINGS[job["address"][-2:]]
        assert last["status"] == status, (job["address"], last)
        assert reason is None or last["reason"] == reason
    # And the provider accepted each that it accepted once, with exactly the asked content
    accepted = simulator.accepted()
    expected = [job for id, job in asked.items() if seen[id][-1]["status"] != "rejected"]
    assert _sorted(_sent(each) for each in accepted) == _sorted(_asked(job) for job in expected)
    assert len({each["providerId"] for each in accepted}) == len(accepted)
    # And in full batches
    batches = simulator.get("requests")["batches"]
    assert max(batches) == 100
    assert sum(batches) / len(batches) > 30


def _single(i: int, address: str) -> dict[str, Any]:
    link = "https://shop.example/картинка?a=1&b=2"
    job = text_job(address, priority=("realtime", "high", "normal", "low")[i % 4], comment=f"n{i}")
    if i % 5 == 1:
        return {**job, "contentType": "image", "content": {"imageUrl": link}}
    if i % 5 == 2:
        button = {"text": f"Скидка {i} 🎁", "caption": "Открыть", "action": link}
        return {**job, "contentType": "button", "content": button, "validityPeriodSec": 3600}
    if i % 5 == 3:
        button = {"text": "t", "caption": "c", "action": link, "imageUrl": link}
        return {**job, "contentType": "button", "content": button, "resendSms": True}
    return job


def _asked(job: dict[str, Any]) -> Any:
    flag = job.get("resendSms", "smsText" in job)
    return flag, {"type": "viber", **{k: v for k, v in job.items() if k != "resendSms"}}


def _sent(accepted: dict[str, Any]) -> Any:
    return accepted["resendSms"], accepted["message"]


def _sorted(pairs: Any) -> list[str]:
    return sorted(json.dumps(pair, sort_keys=True) for pair in pairs)


def test_a_campaign_is_paused_amid_another_one_then_goes_on(
    app: Producer, start_worker: Start, simulator: Simulator
) -> None:
    common: Any = common_job(priority="low")
    one, two = (app.campaign(name, common, rate=rate) for name, rate in (("a", 300), ("b", None)))
    first = {f"79250{n:04}99" for n in range(600)}
    start_worker()
    one.add([{"address": address} for address in first])
    two.add([{"address": f"79260{n:04}10"} for n in range(600)])
    wait_for(lambda: one.progress().waiting < 500)
    # When it is paused, then nothing leaves but what was inside a request
    paused = one.pause("wrong price")
    wait_for(lambda: one.progress().inside == 0)
    left = one.progress().waiting
    assert paused.waiting - paused.inside <= left <= paused.waiting and left > 0
    wait_for(lambda: two.progress().waiting == 0)
    assert one.progress().waiting == left
    taken = [each["message"]["address"] for each in simulator.accepted()]
    assert len(first.intersection(taken)) == 600 - left
    # When it goes on and the rest is cancelled, then all have ended and are counted as they ended
    one.resume()
    wait_for(lambda: one.progress().waiting < left)
    one.cancel()
    seen = ends(app, 1200)
    check_events(seen)
    ended = [events[-1] for events in seen.values()]
    for campaign in (one, two):
        ours = Counter(e["status"] for e in ended if e["campaign"] == campaign.name)
        progress = campaign.progress()
        assert progress.statuses == ours and progress.ended == progress.added == 600
    assert two.progress().state == "ended"


def test_error_system_is_retried_for_the_request_and_for_the_message(
    app: Producer, start_worker: Start, simulator: Simulator
) -> None:
    simulator.fault(kind="status", code="error-system", times=1)
    id, once = app.enqueue(text_job()), app.enqueue(text_job("79250000060"))
    start_worker()
    seen = ends(app, 2)
    assert [events[-1]["status"] for events in seen.values()] == ["read", "read"]
    assert seen[id][0]["attempts"] == 2
    assert seen[once][0]["attempts"] == 3
    assert len(simulator.accepted()) == 2


def test_a_message_that_is_alone_leaves_at_once(
    app: Producer, start_worker: Start, simulator: Simulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Celery prefers this variable to what an app sets: ours must not follow it.
    monkeypatch.setenv("CELERY_BROKER_URL", f"redis://127.0.0.1:{free_port()}/0")
    start_worker(COURIER_SWEEP_INTERVAL="20")
    app.enqueue(text_job())
    wait_for(simulator.accepted, 5)  # by its doorbell: the sweep would take longer


def test_term_lets_the_running_request_finish(
    app: Producer, start_worker: Start, simulator: Simulator
) -> None:
    simulator.fault(kind="slow", seconds=1.5)
    worker = start_worker()
    id = app.enqueue(text_job())
    wait_for(lambda: (record := app.get(id)) and record.status == "sending")
    worker.stop()
    assert worker.process.returncode == 0
    record = app.get(id)
    assert record is not None and (record.status, record.unsure) == ("submitted", 0)


@pytest.mark.parametrize("pool", ["threads", "solo"])
def test_other_pools_work_too(
    pool: str, app: Producer, start_worker: Start, simulator: Simulator
) -> None:
    worker = start_worker("-P", pool)
    app.enqueue_many([{"address": f"79{i:07}99"} for i in range(150)], common=common_job())
    check_events(ends(app, 150))
    assert "Traceback" not in worker.log


def test_a_worker_of_its_own_for_one_lane(
    app: Producer, start_worker: Start, simulator: Simulator, namespace: str
) -> None:
    queues = f"{namespace}.poll,{namespace}.send.realtime"
    start_worker("-Q", queues)
    low = app.enqueue(text_job(priority="low"))
    realtime = app.enqueue(text_job(priority="realtime"))
    assert realtime in ends(app, 1)
    record = app.get(low)
    assert record is not None and record.status == "queued"


def test_apps_without_the_package_enqueue_by_a_celery_task(
    app: Producer,
    start_worker: Start,
    simulator: Simulator,
    system_env: dict[str, str],
    namespace: str,
) -> None:
    worker = start_worker()
    app.enqueue(text_job(id="taken"))
    client = Celery(broker=system_env["COURIER_REDIS_URL"], set_as_current=False)
    jobs: list[Any] = [
        text_job(id="mine"),
        text_job("79250000077"),
        text_job(id="wrong", subject="x" * 12),
        text_job(id="taken", comment="other"),
        text_job(id="no good"),
        "nonsense",
    ]
    task_id = str(uuid.uuid4())
    for _ in range(2):  # a redelivery is the same messages
        client.send_task(
            "courier.enqueue", args=[jobs], queue=f"{namespace}.enqueue", task_id=task_id
        )
    made = str(uuid.uuid5(uuid.UUID(task_id), "1"))
    seen = ends(app, 7)
    check_events(seen)
    assert {id: seen[id][-1]["status"] for id in ("taken", "mine", made, "wrong")} == {
        "taken": "read",
        "mine": "read",
        made: "read",
        "wrong": "rejected",
    }
    rest = [events[-1] for id, events in seen.items() if id not in ("taken", "mine", made, "wrong")]
    assert sorted((end["reason"], end.get("requestedId") or "") for end in rest) == [
        ("conflict", "taken"),
        ("invalid", ""),
        ("invalid", "no good"),
    ]
    assert seen["wrong"][-1]["errors"] == {"subject": ["must have 1 to 11 characters"]}
    assert len(simulator.accepted()) == 3
    assert "79250000077" not in worker.log
    client.close()


@pytest.mark.parametrize("pool", ["prefork", "threads"])
def test_no_task_of_wrong_jobs_takes_good_ones_or_the_worker_with_it(
    pool: str,
    app: Producer,
    start_worker: Start,
    simulator: Simulator,
    system_env: dict[str, str],
    namespace: str,
) -> None:
    worker = start_worker("-P", pool)
    client = Celery(broker=system_env["COURIER_REDIS_URL"], set_as_current=False)
    deep: Any = []
    for _ in range(480):
        deep = [deep]

    def send(*args: Any, name: str = "courier.enqueue", **options: Any) -> None:
        client.send_task(name, args=args, queue=f"{namespace}.enqueue", **options)

    good = [text_job(f"7925000{n:04}", id=f"good-{n}") for n in range(5)]
    send([good[0], {"foo": deep}, {**text_job(), "deep": deep}])
    send([good[1], {**text_job(), "\ud800": 1}, text_job(id="\ud800bad"), text_job(id='a"b')])
    send(text_job(id='not"a list'))
    send(good[2], good[3])
    send()
    send([text_job("79250007777")], name="courier.enqueu")
    send([text_job("79250007777")], serializer="pickle")
    send([good[4]])
    seen = ends(app, 3 + 4 + 1 + 1 + 1 + 1)
    check_events(seen)
    assert {id for id, events in seen.items() if events[-1]["status"] == "read"} == {
        *("good-0", "good-1", "good-4")
    }
    assert worker.process.poll() is None
    assert "message refused: unknown task" in worker.log
    assert worker.log.count("message refused: ") == 2, worker.log
    assert "7925000" not in worker.log and "Код" not in worker.log
    client.close()


@pytest.mark.slow
def test_polling_goes_on_behind_a_busy_lane(
    app: Producer, start_worker: Start, simulator: Simulator
) -> None:
    simulator.fault(kind="slow", seconds=1.5)
    rows = ({"address": f"79{i:07}99"} for i in range(200))
    app.enqueue_many(rows, common=common_job(priority="low"))
    start_worker(COURIER_BATCH_SIZE="10")
    wait_for(lambda: int(app.redis.hget(app._keys.counts, "read") or 0) >= 10)
    assert len(simulator.accepted()) < 200
    assert app.redis.llen(f"{app.settings.namespace}.poll") < 10


@pytest.mark.slow
def test_a_beat_whose_clock_is_minutes_slow_is_a_beat_all_the_same(
    app: Producer, start_worker: Start, system_env: dict[str, str], tmp_path: Path
) -> None:
    start_worker(beat=False)
    slow = """
import sys; from datetime import timedelta; from celery.app.base import Celery
now = Celery.now; Celery.now = lambda self: now(self) - timedelta(seconds=180)
from celery.__main__ import main
sys.argv = ["celery", "-A", "viber_courier.worker", "beat"]; main()
"""
    beat = subprocess.Popen(
        [sys.executable, "-c", slow],
        env={**os.environ, **system_env},
        cwd=tmp_path,
        stderr=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
    )
    try:
        id = app.enqueue(text_job(sendAt=iso_in(1)))
        wait_for(lambda: (record := app.get(id)) and record.status == "read")
    finally:
        beat.kill()
        beat.wait()


@pytest.mark.slow
def test_a_beat_without_workers_fills_no_queue(
    app: Producer, system_env: dict[str, str], tmp_path: Path
) -> None:
    # Given a message that is due soon, and no worker
    queue, wakes = f"{app.settings.namespace}.send.high", app._keys.wakes
    app.enqueue(text_job(sendAt=iso_in(0.3)))
    beat = subprocess.Popen(
        [sys.executable, "-m", "celery", "-A", "viber_courier.worker", "beat"],
        env={**os.environ, **system_env},
        cwd=tmp_path,
        stderr=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
    )
    try:
        # When beat has swept and found it, again and again
        for _ in range(2):
            wait_for(lambda: app.redis.exists(app._keys.bell("high")))
            wait_for(lambda: not app.redis.exists(app._keys.bell("high")))
        # Then one word waits for the worker that will come, and nothing in Celery's queue
        assert app.redis.lrange(wakes, 0, -1) == ["high"] and not app.redis.exists(queue)
    finally:
        beat.kill()
        beat.wait()


@pytest.mark.slow
def test_two_beats_are_harmless(app: Producer, start_worker: Start, simulator: Simulator) -> None:
    start_worker()
    start_worker("-n", "second@%h")
    app.enqueue_many([{"address": f"79{i:07}99"} for i in range(300)], common=common_job())
    check_events(ends(app, 300))
    assert len(simulator.accepted()) == 300


@pytest.mark.slow
def test_redis_restarts_under_a_busy_worker(
    simulator: Simulator, tmp_path: Path, system_env: dict[str, str]
) -> None:
    # Given a Redis of its own, and requests that keep both slots busy and bells waiting for them
    folder = tmp_path / "redis"
    folder.mkdir()
    server = RedisServer(folder, free_port())
    server.start()
    env = {**system_env, "COURIER_REDIS_URL": server.url, "COURIER_BATCH_SIZE": "20"}
    simulator.fault(kind="slow", seconds=0.05)
    producer = Producer.from_env(env)
    worker = Worker(env, tmp_path).ready()
    try:
        rows = [{"address": f"79{i:07}99"} for i in range(1500)]
        producer.enqueue_many(rows, common=common_job())
        # When it restarts three times in mid-run
        for so_far in (100, 500, 900):
            wait_for(lambda least=so_far: len(simulator.accepted()) >= least)
            server.stop()
            server.start()
        # Then the same worker goes on, each message is accepted once and ends once
        check_events(ends(producer, 1500))
        assert len(simulator.accepted()) == 1500
        assert worker.process.poll() is None, worker.log
    finally:
        worker.stop()
        producer.close()
        server.stop()


def test_events_are_on_the_stream_that_the_contract_names(
    app: Producer, settings: Settings
) -> None:
    id = app.enqueue(text_job())
    app.cancel(id)
    client = redis.Redis.from_url(app.settings.redis_url, decode_responses=True)
    (event,) = events_of(client, settings, id)
    assert event["specversion"] == "1.0"
    assert event["source"] == f"viber-courier/{settings.namespace}"
    client.close()

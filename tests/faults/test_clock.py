"""Steps of clocks: the Redis server's, under libfaketime, either way; and of workers' hosts."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import median

import pytest
from celery import Celery

from tests.conftest import (
    Courier,
    Simulator,
    Start,
    common_job,
    ends,
    free_port,
    iso_in,
    text_job,
    wait_for,
)
from tests.faults.faked import LIBRARIES, Faked
from tests.faults.installation import running
from viber_courier import EventsMissed, Producer
from viber_courier.ops.redis_server import RedisServer
from viber_courier.schemas.lanes import DOOR, queue

pytestmark = pytest.mark.skipif(not LIBRARIES, reason="no libfaketime (Debian: faketime)")
HOUR = 3600


@pytest.fixture
def faked(tmp_path: Path) -> Faked:
    return Faked(tmp_path / "faketime")


@pytest.fixture
def server(tmp_path: Path, faked: Faked) -> Iterator[RedisServer]:
    (tmp_path / "redis").mkdir()
    made = RedisServer(tmp_path / "redis", free_port())
    made.command = faked.command(*made.command)
    made.start()
    yield made
    made.stop()


@pytest.mark.parametrize("step", [-180, 180, -5 * HOUR, 5 * HOUR])
def test_a_step_of_redis_s_clock_delays_and_hurries_nothing(
    step: int,
    faked: Faked,
    server: RedisServer,
    simulator: Simulator,
    namespace: str,
    tmp_path: Path,
) -> None:
    faked.set(max(-step, 0))
    # Given an installation with a rate limit, and requests that take a while
    simulator.fault(kind="slow", seconds=0.5)
    limit = {"COURIER_RATE_LIMIT": "50", "COURIER_RETRY_CAP": "60"}
    with running(tmp_path, simulator, namespace, server.url, **limit) as system:
        system.at_work()
        # When the clock of its Redis steps
        faked.set(max(step, 0))
        # Then messages enqueued from now on are sent and followed to their ends at once
        took = system.back_at_work(10)
        # and so are all others; none is unsure, for no lease was taken for lapsed
        system.at_work(30)
        ledger = system.ledger()
        assert ledger.unsure == 0, ledger.figures
        # and the step is logged once, counted once, and doctor tells of it
        logs = system.worker.log + system.beat.log
        assert logs.count("redis's clock has stepped") == 1
        with contextlib.closing(Producer.from_env(system.env)) as app:
            assert app.redis.hget(app._keys.counts, "clock-step") == "1"
        found = Courier(system.env).json("doctor", "--no-provider", code=1)
        (told,) = [each for each in found if each["about"] == "clock steps"]
        assert f"{abs(step):,} s {'ahead' if step > 0 else 'back'}" in told["seen"]
        print(f"step {step}: back at work in {took:.1f} s; {ledger.figures}")


@pytest.mark.parametrize("off", [-HOUR, HOUR])
def test_a_worker_an_hour_off_sends_and_polls_what_is_due_when_it_is_due(
    off: int, faked: Faked, app: Producer, start_worker: Start, simulator: Simulator
) -> None:
    # Given a worker and a beat an hour off, and an answer that makes one message wait for a retry
    faked.set(off)
    start_worker(**faked.env)
    app.enqueue(text_job("79250000012"))
    wait_for(simulator.accepted)
    simulator.fault(kind="status", code="error-system", times=1)
    # When messages come, most of them dated
    jobs = [(f"7925000{n:04}", 2 + 0.3 * n) for n in range(1, 8)]
    due = {address: time.time() + wait for address, wait in jobs}
    for address, wait in jobs:
        app.enqueue(text_job(address, sendAt=iso_in(wait)))
    app.enqueue(text_job("79250000011"))
    # and tasks of a plain Celery client, with an eta and an end
    address, wait = "79250000010", 3.0
    with Celery(broker=app.settings.redis_url, set_as_current=False) as client:
        door = queue(app.settings.namespace, DOOR)
        client.send_task(
            "courier.enqueue", args=[[text_job(address)]], queue=door, countdown=wait, expires=600
        )
    due[address] = time.time() + wait
    # Then each leaves when it is due and is followed to its end. (The bound is for a busy machine,
    # where with right clocks, too, all wait for seconds now and then.)
    ends(app, len(jobs) + 3, 60)
    left = {each["message"]["address"]: each["at"] for each in simulator.accepted()}
    late = [left[address] - due[address] for address in due]
    assert min(late) > -0.01 and median(late) < 8, late


def test_a_group_that_lags_behind_the_trimming_is_told(
    app: Producer, start_worker: Start, simulator: Simulator
) -> None:
    # Given a group that has read a little, and is down while workers delete what is 3 s old
    start_worker(COURIER_RESULTS_RETENTION="3", COURIER_BATCH_SIZE="10")
    app.enqueue(text_job("79250000001"))
    ends(app, 1)
    rows = [{"address": f"79{n:07}99"} for n in range(300)]
    ids = {*app.enqueue_many(rows, common=common_job())}
    wait_for(lambda: app.redis.hget(app._keys.counts, "events-missed"), 60)
    # When it comes back
    reader, told = app.results("test", "one", block=2.0), list[EventsMissed]()
    while True:
        try:
            event = next(reader)
        except EventsMissed as error:
            told.append(error)
        except StopIteration:
            break
        else:
            event.ack()
            assert told
    # Then it is told before the first event that follows, and the records still know all
    assert told and told[0].group == "test" and told[0].since < told[0].until
    assert all((record := app.get(id)) and record.provider_id for id in ids)

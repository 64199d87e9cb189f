"""Real workers and a store that a newer version has written: they stop, and nothing is lost."""

from __future__ import annotations

import subprocess
import sys
import time
from typing import Any

import pytest
from celery import Celery

from tests.conftest import (
    Simulator,
    Start,
    Worker,
    check_events,
    ends,
    iso_in,
    log_lines,
    text_job,
    wait_for,
)
from tests.test_format import NEWER, SAID
from viber_courier import Producer, StoreUnavailable
from viber_courier.store.keys import Keys


@pytest.fixture
def keys(namespace: str) -> Keys:
    return Keys(namespace)


@pytest.mark.parametrize("program", ["worker", "beat"])
def test_what_can_not_read_the_store_ends_at_its_start_with_one_line(
    program: str, app: Producer, keys: Keys, system_env: dict[str, str], tmp_path: Any
) -> None:
    app.redis.hset(keys.format, mapping=dict(NEWER))
    command = [sys.executable, "-m", "celery", "-A", "viber_courier.worker", program]
    done = subprocess.run(
        command, env=system_env, cwd=tmp_path, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 1
    said = f"viber-courier can't start: COURIER_REDIS_URL: {SAID} (docs/redis.md)"
    assert said in done.stderr.splitlines()
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("pool", ["prefork", "threads"])
def test_a_running_worker_stops_when_a_newer_version_has_written(
    pool: str,
    app: Producer,
    keys: Keys,
    namespace: str,
    start_worker: Start,
    simulator: Simulator,
) -> None:
    # Given a worker, messages that are due soon, and a job that comes as a task
    worker: Worker = start_worker("-P", pool)
    soon = iso_in(1.5)
    for n in range(20):
        app.enqueue(text_job(f"792500000{n:02}", sendAt=soon))
    # When a newer version begins to write
    app.redis.hset(keys.format, mapping=dict(NEWER))
    client = Celery(broker=app.settings.redis_url, set_as_current=False)
    job = text_job("79260000001", id="by-task")
    client.send_task("courier.enqueue", args=[[job]], queue=f"{namespace}.enqueue")
    # Then the worker says so, and touches nothing
    why = f"COURIER_REDIS_URL: {SAID}"
    wait_for(lambda: log_lines(worker.log, "redis refuses", error=why), 20, worker.log)
    with pytest.raises(StoreUnavailable, match=SAID):
        app.get("by-task")
    time.sleep(3)  # they are due by now, and several sweeps have passed
    assert app.redis.zcard(keys.lanes[2]) == 20
    assert simulator.accepted() == []
    assert worker.process.poll() is None
    # And a version that can read it goes on with all of it: here the same, with its own numbers
    app.redis.delete(keys.format)
    seen = ends(app, 21)
    check_events(seen)
    assert len(simulator.accepted()) == 21 and "by-task" in seen

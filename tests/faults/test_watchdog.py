"""A worker whose event loop stands still ends itself and is started again; no other one is."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

import pytest

from tests.conftest import Simulator, free_port, text_job, wait_for
from tests.faults.parts import BEAT, supervised
from viber_courier import Producer
from viber_courier.ops.redis_server import RedisServer

HANGABLE = """
import signal, sys, time
from viber_courier.worker.runtime import watchdog
watchdog.HEARTBEAT_INTERVAL, watchdog.HUNG_AFTER = 0.5, 4.0
signal.signal(signal.SIGUSR2, lambda *_: time.sleep(3600))
from celery.__main__ import main
sys.argv[0] = "celery"
sys.exit(main())
"""
"""Celery with a courier that is found out sooner, and hangs when it gets USR2."""
HUNG = 4.0


def worker(*options: str) -> Sequence[str]:
    return (
        sys.executable,
        "-c",
        HANGABLE,
        "-A",
        "viber_courier.worker",
        "worker",
        "-l",
        "INFO",
        *options,
    )


@pytest.mark.parametrize("pool", ["prefork", "threads"])
def test_a_worker_that_hangs_ends_itself_and_says_where(
    pool: str, system_env: dict[str, str], simulator: Simulator, tmp_path: Path
) -> None:
    # Given a worker at work
    program = worker("-P", pool, "-c", "2")
    with (
        closing(Producer.from_env(system_env)) as producer,
        supervised(system_env, tmp_path, program, BEAT) as (a, _),
    ):
        producer.enqueue(text_job())
        wait_for(lambda: len(simulator.accepted()) == 1, 30)
        # When its main process hangs in something that never comes to an end
        os.kill(a.process.pid, signal.SIGUSR2)
        # Then it ends, its last words say where it was, and the next one goes on
        wait_for(lambda: a.exits, 30)
        assert "Timeout (0:00:04)!" in a.log and 'File "<string>", line 5' in a.log
        producer.enqueue(text_job())
        wait_for(lambda: len(simulator.accepted()) == 2, 30)
    assert a.exits == [1]


def test_a_worker_that_waits_for_its_broker_or_has_nothing_to_do_is_left_alone(
    system_env: dict[str, str],
    simulator: Simulator,
    tmp_path: Path,
    request: pytest.FixtureRequest,
) -> None:
    # Given a worker with a Redis of its own
    server = RedisServer(tmp_path, free_port())
    server.start()
    request.addfinalizer(server.stop)
    env = {**system_env, "COURIER_REDIS_URL": server.url}
    with (
        closing(Producer.from_env(env)) as producer,
        supervised(env, tmp_path, worker("-c", "2"), BEAT) as (a, _),
    ):
        producer.enqueue(text_job())
        wait_for(lambda: len(simulator.accepted()) == 1, 30)
        # When Redis is away for longer than a worker may hang, and when nothing happens as long
        server.stop()
        time.sleep(2 * HUNG)
        server.start()
        time.sleep(2 * HUNG)
        # Then the same worker goes on
        producer.enqueue(text_job())
        wait_for(lambda: len(simulator.accepted()) == 2, 30)
        # And ends in peace, though a request lasts longer than that
        simulator.fault(kind="slow", seconds=HUNG + 2, times=1)
        producer.enqueue(text_job())
        wait_for(lambda: simulator.get("requests")["send"] >= 3, 30)
    assert a.exits == []
    assert not a.hung and len(simulator.accepted()) == 3

"""Signals to a worker with requests in flight, as supervisors, shells and terminals send them."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.conftest import Simulator, Start, Worker, ends, text_job, wait_for
from viber_courier import Producer

PAUSE = 2.0
"""How long the provider takes for an answer."""


@pytest.fixture(autouse=True)
def no_nohup() -> Iterator[None]:
    """A suite that is run by nohup would leave workers its deaf ear; a handler isn't inherited."""
    was = signal.signal(signal.SIGHUP, lambda *_: None)
    yield
    signal.signal(signal.SIGHUP, was)


def group(worker: Worker) -> list[int]:
    """Process ids of a worker's group that run, the main process's first."""
    found = []
    for each in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            pid, (state, _, pgid, *_) = (
                int(each.parent.name),
                each.read_text().rpartition(")")[2].split(),
            )
            if int(pgid) == worker.process.pid and state != "Z":
                found.append(pid)
    return sorted(found)


def send(pids: list[int], *numbers: int) -> None:
    for number in numbers:
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)


def to_group(worker: Worker) -> None:
    """`kill -TERM -<group>`, supervisord's stopasgroup, dumb-init."""
    os.killpg(worker.process.pid, signal.SIGTERM)


def parent_first(worker: Worker) -> None:
    """systemd, KillMode=control-group: TERM and then CONT to each process it finds."""
    send(group(worker), signal.SIGTERM, signal.SIGCONT)


def parent_last(worker: Worker) -> None:
    send(group(worker)[::-1], signal.SIGTERM, signal.SIGCONT)


def with_hangup(worker: Worker) -> None:
    """systemd with SendSIGHUP=yes, as for a unit that is a shell."""
    send(group(worker), signal.SIGTERM, signal.SIGCONT, signal.SIGHUP)


def again_and_again(worker: Worker) -> None:
    """An impatient operator."""
    for _ in range(5):
        to_group(worker)
        time.sleep(0.1)


def to_parent(worker: Worker) -> None:
    """supervisord, `docker stop`, systemd with KillMode=mixed."""
    worker.process.terminate()


def in_flight(app: Producer, simulator: Simulator, requests: int = 2) -> list[str]:
    """Messages that are inside requests just now, unsure if these are cut off."""
    simulator.fault(kind="slow", seconds=PAUSE, times=requests)
    jobs = [text_job("79250000001"), text_job("79250000002", priority="low")][:requests]
    ids = [app.enqueue(job) for job in jobs]
    wait_for(lambda: simulator.get("faults")[0]["fired"] == requests)
    return ids


def stopped_well(worker: Worker, app: Producer, simulator: Simulator, ids: list[str]) -> None:
    """Each request is finished, its answer stored, and nobody is left; then nothing is doubled."""
    worker.process.wait(20)
    assert worker.process.returncode == 0, worker.log[-3000:]
    records = [app.get(id) for id in ids]
    followed = {"submitted", "sent", "delivered", "read"}
    assert all(r and r.status in followed and (r.attempts, r.unsure) == (1, 0) for r in records)
    wait_for(lambda: group(worker) == [], 5)
    assert len(simulator.accepted()) == simulator.get("requests")["send"] == len(ids)


@pytest.mark.parametrize(
    "stop", [to_group, parent_first, parent_last, with_hangup, again_and_again, to_parent]
)
def test_a_request_in_flight_is_finished_whoever_gets_term(
    stop: Callable[[Worker], None], app: Producer, simulator: Simulator, start_worker: Start
) -> None:
    worker = start_worker()
    ids = in_flight(app, simulator)
    stop(worker)
    stopped_well(worker, app, simulator, ids)
    # And another worker goes on with them
    start_worker()
    seen = ends(app, len(ids))
    assert {(seen[id][-1]["unsure"], seen[id][-1]["attempts"]) for id in ids} == {(0, 1)}
    assert len(simulator.accepted()) == len(ids)


def test_heroku_and_other_celerys_term_is_a_warm_shutdown_too(
    app: Producer, simulator: Simulator, start_worker: Start
) -> None:
    worker = start_worker(REMAP_SIGTERM="SIGQUIT")
    ids = in_flight(app, simulator)
    to_group(worker)
    stopped_well(worker, app, simulator, ids)


@pytest.mark.parametrize("pool", ["threads", "solo", "gevent", "eventlet"])
def test_so_it_is_in_each_pool(
    pool: str, app: Producer, simulator: Simulator, start_worker: Start
) -> None:
    pytest.importorskip(pool) if pool in ("gevent", "eventlet") else None
    worker = start_worker("-P", pool, beat=pool in ("threads", "solo"))
    ids = in_flight(app, simulator, requests=1 if pool == "solo" else 2)
    to_group(worker)
    stopped_well(worker, app, simulator, ids)


def test_ctrl_c_finishes_the_request_in_flight(
    app: Producer, simulator: Simulator, start_worker: Start
) -> None:
    worker = start_worker()
    ids = in_flight(app, simulator)
    os.killpg(worker.process.pid, signal.SIGINT)
    assert worker.process.wait(20) == 1
    assert [record.status for id in ids if (record := app.get(id))] == ["submitted"] * 2


@pytest.mark.parametrize("pool", ["threads", "solo"])
@pytest.mark.parametrize("numbers", [(signal.SIGQUIT,), (signal.SIGINT, signal.SIGINT)])
def test_a_cold_shutdown_of_a_pool_that_cant_end_tasks_finishes_them(
    pool: str,
    numbers: tuple[int, ...],
    app: Producer,
    simulator: Simulator,
    start_worker: Start,
) -> None:
    worker = start_worker("-P", pool, beat=False)
    ids = in_flight(app, simulator, requests=1)
    for number in numbers:
        os.killpg(worker.process.pid, number)
        time.sleep(0.3)  # as a person's fingers
    worker.process.wait(20)
    assert [record.status for id in ids if (record := app.get(id))] == ["submitted"]
    assert "Traceback" not in worker.log and group(worker) == []


def test_a_terminal_that_closes_ends_a_worker_as_term_does(
    app: Producer, simulator: Simulator, start_worker: Start
) -> None:
    worker = start_worker()
    ids = in_flight(app, simulator)
    os.killpg(worker.process.pid, signal.SIGHUP)
    stopped_well(worker, app, simulator, ids)


def test_a_worker_started_with_nohup_goes_on(
    app: Producer, simulator: Simulator, start_worker: Start
) -> None:
    worker = start_worker(command=("nohup", *Worker.COMMAND))
    ids = in_flight(app, simulator)
    os.killpg(worker.process.pid, signal.SIGHUP)
    assert {events[-1]["unsure"] for events in ends(app, 2).values()} == {0}
    assert worker.process.poll() is None
    assert len(simulator.accepted()) == len(ids)


def test_a_dump_of_stacks_breaks_off_no_request(
    app: Producer, simulator: Simulator, start_worker: Start
) -> None:
    worker = start_worker()
    ids = in_flight(app, simulator)
    os.killpg(worker.process.pid, signal.SIGUSR1)  # `systemctl kill -s USR1`
    seen = ends(app, 2)
    assert {seen[id][-1]["unsure"] for id in ids} == {0}
    assert worker.process.poll() is None
    assert len(simulator.accepted()) == 2


@pytest.mark.parametrize("number", [signal.SIGQUIT, signal.SIGINT])
def test_a_cold_shutdown_ends_the_pool_at_once(
    number: int, app: Producer, simulator: Simulator, start_worker: Start
) -> None:
    # Given a worker in a request that takes for ever
    worker = start_worker(COURIER_READ_TIMEOUT="60", COURIER_LEASE="120")
    simulator.fault(kind="hang_before", times=1)
    id = app.enqueue(text_job(priority="low"))
    wait_for(lambda: simulator.get("faults")[0]["fired"])
    # When it is told to end at once: by QUIT, or by Ctrl-C again and again
    for _ in range(1 if number == signal.SIGQUIT else 3):
        os.killpg(worker.process.pid, number)
        time.sleep(0.5)
    # Then it does, with all its processes
    worker.process.wait(10)
    wait_for(lambda: group(worker) == [], 5)
    record = app.get(id)
    assert record and record.status == "sending"  # unsure, once the lease is over


def test_no_process_outlives_its_killed_parent(
    app: Producer, simulator: Simulator, start_worker: Start
) -> None:
    worker = start_worker()
    in_flight(app, simulator)
    assert len(group(worker)) == 4  # the pool's two, and beat
    os.kill(worker.process.pid, signal.SIGKILL)
    wait_for(lambda: group(worker) == [], 5, "left")


def test_a_stray_term_to_one_process_changes_nothing(
    app: Producer, simulator: Simulator, start_worker: Start
) -> None:
    worker = start_worker()
    ids = in_flight(app, simulator)
    send(group(worker)[1:], signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)
    assert {events[-1]["unsure"] for events in ends(app, 2).values()} == {0}
    assert len(simulator.accepted()) == len(ids)
    worker.stop()
    assert worker.process.returncode == 0

"""Workers that stall or die with messages in hand: leases, fencing, the mark before the call."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

import billiard
import pytest

from tests.conftest import (
    Simulator,
    Start,
    check_events,
    common_job,
    ends,
    log_lines,
    text_job,
    wait_for,
)
from tests.faults.parts import BEAT, WORKER, Proxy, supervised
from tests.faults.provider import altered, count, fill, kind, named, ready, record
from viber_courier import Producer
from viber_courier.ops.redis_server import RedisServer
from viber_courier.schemas.settings import Settings
from viber_courier.store.connection import connect
from viber_courier.store.leases import Store
from viber_courier.worker.runtime.pool import PoolWorker

SHORT = {
    "COURIER_LEASE": "3",
    "COURIER_CONNECT_TIMEOUT": "0.5",
    "COURIER_READ_TIMEOUT": "2",
    "COURIER_BATCH_SIZE": "20",
}
FAR = {"COURIER_RETRY_BASE": "80000", "COURIER_RETRY_CAP": "80000"}
"""Backoff with full jitter that a test will not see the end of."""
THREADS = ("-P", "threads")
"""A pool without time limits: only there does a request outlive its lease."""


# --- stalled beyond the lease ---------------------------------------------------------------------


@pytest.mark.parametrize("pool", [THREADS, ()], ids=["threads", "prefork"])
def test_an_answer_that_comes_after_the_lease_is_recorded_if_the_message_still_waits(
    pool: tuple[str, ...],
    app: Producer,
    system_env: dict[str, str],
    simulator: Simulator,
    tmp_path: Path,
) -> None:
    # (a worker with processes would kill them as soon as it goes on, with the answer in hand)
    env = {**system_env, **SHORT, **FAR}
    simulator.fault(kind="slow", seconds=0.5, times=1)
    with supervised(env, tmp_path, named("a", *pool)) as (a,):
        ready(a)
        # Given a worker that stalls while the provider answers it
        id = app.enqueue(text_job())
        wait_for(simulator.accepted)
        a.freeze()
        frozen = time.monotonic()
        with supervised(env, tmp_path, named("b"), BEAT) as (b, _):
            # When another one takes over and plans to send it again, much later
            wait_for(lambda: record(app, id).unsure == 1)
            assert record(app, id).status == "queued"
            assert log_lines(b.log, "lease lapsed inside a request; answers unknown", messages=1)
            wait_for(lambda: time.monotonic() > frozen + 5)  # over a second past its time limit
            # Then the answer, found by the stalled one at last, is better than that
            a.thaw()
            (*_, last) = ends(app, 1)[id]
    (sent,) = simulator.accepted()
    assert (last["status"], last["unsure"]) == ("read", 1)
    assert last["providerId"] == str(sent["providerId"])
    assert count(app, "late") == 0
    assert count(app, "submitted") == 1


@pytest.mark.parametrize("then", ["ended", "inside another request"])
def test_a_stalled_worker_cannot_write_over_its_successor(
    then: str, app: Producer, system_env: dict[str, str], simulator: Simulator, tmp_path: Path
) -> None:
    env = {**system_env, **SHORT, "COURIER_ON_UNSURE": "park" if then == "ended" else "resend"}
    simulator.fault(kind="slow", seconds=0.5, times=1)
    simulator.fault(kind="slow", seconds=1.5, times=1)
    with supervised(env, tmp_path, named("a", *THREADS)) as (a,):
        ready(a)
        id = app.enqueue(text_job())
        wait_for(simulator.accepted)
        a.freeze()
        with supervised(env, tmp_path, named("b"), BEAT):
            # Given a stalled worker's message that another has parked, or is just sending again
            if then == "ended":
                wait_for(lambda: record(app, id).final)
            else:
                wait_for(lambda: len(simulator.accepted()) == 2)
                assert record(app, id).status == "sending"
            # When the stalled one goes on with the provider's answer to its own request
            a.thaw()
            # Then that is counted, and logged with the provider's id
            wait_for(lambda: count(app, "late") == 1)
            events = ends(app, 1)
        log = a.log
    check_events(events)
    last, sent = events[id][-1], simulator.accepted()
    if then == "ended":
        assert (last["status"], last["reason"]) == ("unconfirmed", "unsure")
    else:
        assert (last["status"], last["providerId"]) == ("read", str(sent[1]["providerId"]))
    assert (last["unsure"], len(sent)) == (1, 1 if then == "ended" else 2)
    theirs = {"message_id": id, "provider_id": str(sent[0]["providerId"])}
    assert log_lines(log, "lease lost; answer not recorded", **theirs)


def test_a_thawed_worker_and_its_successor_agree(
    app: Producer, system_env: dict[str, str], simulator: Simulator, tmp_path: Path
) -> None:
    # Given a stalled worker with processes, whose requests are over by what its own clock says
    env = {**system_env, **SHORT, "COURIER_ON_UNSURE": "resend"}
    simulator.fault(kind="slow", seconds=0.5, times=2)
    ids = fill(app, 200)
    with supervised(env, tmp_path, named("a"), BEAT) as (a, _):
        wait_for(lambda: len(simulator.accepted()) >= 20)
        a.freeze()
        with supervised(env, tmp_path, named("b")):
            # When another takes everything over, and the first one comes back
            wait_for(
                lambda: len({each["message"]["address"] for each in simulator.accepted()}) == 200
            )
            a.thaw()
            seen = ends(app, len(ids))
    # Then each has ended once, and what was accepted twice says so
    check_events(seen)
    times = Counter(each["message"]["address"] for each in simulator.accepted())
    for n, id in enumerate(ids):
        last = seen[id][-1]
        assert last["status"] == "read"
        assert times[f"79{n:07}99"] <= 1 + last["unsure"]


def test_a_process_that_hangs_is_killed_before_its_lease_is_over(
    app: Producer, system_env: dict[str, str], simulator: Simulator, tmp_path: Path
) -> None:
    # Given a worker of one process, which stalls inside a request
    env = {**system_env, **SHORT}
    simulator.fault(kind="hang_after", times=1)
    with supervised(env, tmp_path, named("a", "-c", "1"), BEAT) as (a, _):
        ready(a)
        id = app.enqueue(text_job(priority="low"))
        wait_for(simulator.accepted)
        (child,) = a.children()
        os.kill(child, signal.SIGSTOP)
        # Then the task's time limit ends it while the message is still its own
        wait_for(lambda: child not in a.children())
        assert record(app, id).status == "sending"
        # And its place is taken again; the message is unsure, not lost
        other = app.enqueue(text_job())
        seen = ends(app, 2)
        assert a.exits == []
    assert seen[other][-1]["status"] == "read"
    (last,) = seen[id]
    assert (last["status"], last["reason"], last["unsure"]) == ("unconfirmed", "unsure", 1)


def test_a_process_that_ends_holds_nothing_that_its_killing_would_leave_locked(
    system_env: dict[str, str],
) -> None:
    # Given a worker's main process that counts a result of one of its pool's processes just now
    counted = billiard.get_context("fork").Value("i", 1)
    ending: Any = PoolWorker.__new__(PoolWorker)
    ending.on_ready_counter = counted
    ended = threading.Event()

    def end() -> None:
        assert ending._ensure_messages_consumed(completed=1)
        ended.set()

    # When that process looks whether all its results are counted, as it does before it ends
    thread = threading.Thread(target=end, daemon=True)
    with counted.get_lock():
        thread.start()
        # Then it doesn't ask for the lock: killed with it in hand, it would hang the main process
        assert ended.wait(5)
    # And such are the processes of a worker
    asked = "from celery.concurrency import get_implementation as pool_class;"
    asked += "from viber_courier.worker.celery import app;"
    asked += "print(pool_class(app.conf.worker_pool).Pool.Worker.__name__)"
    said = subprocess.check_output([sys.executable, "-c", asked], env={**os.environ, **system_env})
    assert said.decode().strip() == PoolWorker.__name__


# --- killed ---------------------------------------------------------------------------------------

STALL = """
import time; from viber_courier.store.leases import Store
Store.begin = lambda *args, **kwargs: time.sleep(3600)
"""


def test_a_worker_killed_between_claim_and_request_leaves_nothing_unsure(
    app: Producer, system_env: dict[str, str], simulator: Simulator, tmp_path: Path
) -> None:
    env = {**system_env, **SHORT}
    ids = fill(app, 20, priority="low")
    with supervised(env, tmp_path, altered(STALL), BEAT) as (stalled, _):
        wait_for(lambda: {kind(app, id) for id in ids} == {1})
        stalled.kill()
        stalled.stop()
    assert {record(app, id).status for id in ids} == {"queued"}
    with supervised(env, tmp_path, WORKER, BEAT):
        seen = ends(app, 20)
    assert {(e[-1]["status"], e[-1]["attempts"], e[-1]["unsure"]) for e in seen.values()} == {
        ("read", 1, 0)
    }
    assert len(simulator.accepted()) == 20


@pytest.mark.parametrize("accepted", [True, False])
def test_a_worker_killed_inside_a_request_leaves_its_messages_unsure(
    accepted: bool,
    app: Producer,
    system_env: dict[str, str],
    simulator: Simulator,
    tmp_path: Path,
) -> None:
    env = {**system_env, **SHORT}
    simulator.fault(kind="hang_after" if accepted else "hang_before", times=1)
    parked = fill(app, 10, priority="low")
    with supervised(env, tmp_path, WORKER, BEAT) as (worker, _):
        wait_for(lambda: simulator.get("faults")[0]["fired"])
        assert {kind(app, id) for id in parked} == {2}
        assert {record(app, id).status for id in parked} == {"sending"}
        worker.kill()
        again = fill(app, 10, priority="normal", onUnsure="resend")
        seen = ends(app, 20)
    check_events(seen)
    assert {(seen[id][-1]["status"], seen[id][-1]["unsure"]) for id in parked} == {
        ("unconfirmed", 1)
    }
    assert {(seen[id][-1]["status"], seen[id][-1]["unsure"]) for id in again} == {("read", 0)}
    assert len(simulator.accepted()) == 10 + 10 * accepted


CRASH = """
import os; from viber_courier.{module} import {owner}
real = {owner}.{method}
def deadly(self, *args, **kwargs):
    if {culprit}:
        os._exit(1)
    return real(self, *args, **kwargs)
{owner}.{method} = deadly
"""
BEFORE = CRASH.format(
    module="store.leases",
    owner="Store",
    method="begin",
    culprit="any(m.id == 'x' for m in args[1])",
)
INSIDE = CRASH.format(
    module="worker.provider", owner="Provider", method="send", culprit="b'79250000666' in args[0]"
)


@pytest.mark.parametrize("where", ["before", "inside"])
def test_a_message_that_kills_its_worker_again_and_again_goes_alone_and_ends(
    where: str, app: Producer, system_env: dict[str, str], simulator: Simulator, tmp_path: Path
) -> None:
    # Given a message that no process survives, between others that go with it
    env = {**system_env, "COURIER_LEASE": "1", "COURIER_READ_TIMEOUT": "0.3"}
    env |= {"COURIER_CONNECT_TIMEOUT": "0.3", "COURIER_RETRY_BASE": "0.05"}
    env |= {"COURIER_UNSURE_RESENDS": "9"}  # else all six are parked before it goes alone
    more: dict[str, Any] = {"onUnsure": "resend"} if where == "inside" else {}
    rows = [{"address": f"79{n:07}99"} for n in range(5)]
    rows.insert(2, {"address": "79250000666", "id": "x"})
    app.enqueue_many(rows, common=common_job(**more))
    program = altered(BEFORE if where == "before" else INSIDE)
    with supervised(env, tmp_path, program, BEAT) as (worker, _):
        seen = ends(app, 6)
        # Then it ends after one crash alone, and the others are sent; the worker lives
        assert worker.exits == []
    check_events(seen)
    last = seen.pop("x")[-1]
    assert last["reason"] == "crashed"
    if where == "before":
        assert (last["status"], last["attempts"], last["unsure"]) == ("failed", 0, 0)
    else:
        assert (last["status"], last["attempts"], last["unsure"]) == ("unconfirmed", 6, 6)
    assert {events[-1]["status"] for events in seen.values()} == {"read"}
    sent = Counter(each["message"]["address"] for each in simulator.accepted())
    assert "79250000666" not in sent and set(sent.values()) == {1}


@pytest.mark.parametrize("policy", ["park", "resend"])
def test_a_worker_killed_in_mid_run_loses_nothing(
    policy: str, app: Producer, start_worker: Start, simulator: Simulator
) -> None:
    # Given a campaign on its way, with requests that take a while
    simulator.fault(kind="slow", seconds=0.15)
    ids = fill(app, 600, onUnsure=policy)
    # When its worker is killed twice, children and beat included, and started again
    for so_far in (100, 250):
        worker = start_worker(**SHORT)
        wait_for(lambda least=so_far: len(simulator.accepted()) >= least)
        worker.kill()
    start_worker(**SHORT)
    seen = ends(app, 600)
    # Then every message ended, each once
    check_events(seen)
    assert set(seen) == set(ids)
    last = {id: events[-1] for id, events in seen.items()}
    assert {end["status"] for end in last.values()} <= {"read", "unconfirmed"}
    # And what was sent twice, or may have been sent, says so
    times = Counter(each["message"]["address"] for each in simulator.accepted())
    by_id = dict(zip(ids, (f"79{n:07}99" for n in range(600)), strict=True))
    for id, end in last.items():
        if end["status"] == "read":
            assert times[by_id[id]] >= 1
        if times[by_id[id]] > 1:
            assert policy == "resend" and end["unsure"] >= 1
        if end["status"] == "unconfirmed":
            assert policy == "park" and (end["reason"], end["unsure"]) == ("unsure", 1)
    at_most = 2 * 2 * 20  # two kills, two slots, one request of 20 each
    assert sum(end["unsure"] for end in last.values()) <= at_most


# --- a reply of Redis that is lost ----------------------------------------------------------------


def test_a_claim_whose_reply_is_lost_is_given_again(
    redis_server: RedisServer, namespace: str, app: Producer, settings: Settings
) -> None:
    proxy = Proxy(redis_server.port)
    client = connect(f"redis://127.0.0.1:{proxy.port}/0")
    store, got = Store(client, settings), list[Any]()
    try:
        assert store.claim("low", answered=True) is None  # Redis knows the script from now on
        number = client.client_id()
        ids = fill(app, 5, priority="low")
        # Given a claim that Redis has done, and whose reply is lost
        app.redis.execute_command("CLIENT", "PAUSE", "10000", "WRITE")
        claim = threading.Thread(target=lambda: got.append(store.claim("low", answered=True)))
        claim.start()
        wait_for(lambda: _busy_with(app, number) == "evalsha")
        proxy.hold()
        app.redis.execute_command("CLIENT", "UNPAUSE")
        wait_for(lambda: {kind(app, id) for id in ids} == {1})
        token = {app.redis.zscore(app._keys.lanes[6], id) for id in ids}
        proxy.cut()
        proxy.resume()
        claim.join(10)
    finally:
        app.redis.execute_command("CLIENT", "UNPAUSE")
        client.close()
        proxy.close()
    # Then its repeat gives the same messages under the same lease: nothing is leased to nobody
    (lease,) = got
    assert {message.id for message in lease.messages} == set(ids)
    assert token == {int(lease.token) + 1}
    assert {message.lapses for message in lease.messages} == {0}


def _busy_with(app: Producer, number: int) -> str:
    listed: Any = app.redis.client_list(client_id=[number])
    return str(listed[0]["cmd"]) if listed else ""

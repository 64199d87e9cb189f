"""kill -9 of a whole worker in the middle of its work: nothing lost, nothing silently doubled."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import pytest

from producers import Producer
from tests.conftest import Simulator, Worker, common_job, wait_for
from tests.test_journey import check_events, ends

SHORT = {
    "COURIER_LEASE": "3",
    "COURIER_CONNECT_TIMEOUT": "0.5",
    "COURIER_READ_TIMEOUT": "2",
    "COURIER_BATCH_SIZE": "20",
}


@pytest.mark.parametrize("policy", ["park", "resend"])
def test_a_worker_killed_in_mid_run_loses_nothing(
    policy: str,
    system_env: dict[str, str],
    start_worker: Callable[..., Worker],
    simulator: Simulator,
) -> None:
    # Given a campaign on its way, with requests that take a while
    simulator.fault(kind="slow", seconds=0.15)
    app = Producer.from_env(system_env)
    ids = app.enqueue_many(
        ({"address": f"79{i:07}99"} for i in range(600)), common=common_job(onUnsure=policy)
    )
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
    by_id = dict(zip(ids, (f"79{i:07}99" for i in range(600)), strict=True))
    for id, end in last.items():
        if end["status"] == "read":
            assert times[by_id[id]] >= 1
        if times[by_id[id]] > 1:
            assert policy == "resend" and end["unsure"] >= 1
        if end["status"] == "unconfirmed":
            assert policy == "park" and (end["reason"], end["unsure"]) == ("unsure", 1)
    at_most = 2 * 2 * 20  # two kills, two slots, one request of 20 each
    assert sum(end["unsure"] for end in last.values()) <= at_most
    app.close()

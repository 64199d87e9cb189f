"""A provider that refuses, fails, hangs or is away (docs/design.md, section 5)."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import (
    Simulator,
    Start,
    check_events,
    common_job,
    ends,
    free_port,
    log_lines,
    text_job,
    wait_for,
)
from tests.faults.parts import BEAT, supervised
from tests.faults.provider import (
    closed,
    end_pause,
    fill,
    fired,
    gate,
    kind,
    mend,
    named,
    pause,
    ready,
    record,
    rows,
)
from viber_courier import Producer

# --- one message spoils the request ---------------------------------------------------------------


def test_a_spoiled_request_is_halved_until_its_culprits_stand_alone(
    app: Producer, start_worker: Start, simulator: Simulator
) -> None:
    # Given a provider that refuses every request with a certain kind of message in it
    start_worker(COURIER_MAX_ATTEMPTS="1")
    cases: list[tuple[set[int], dict[str, Any], str, int]] = [
        ({0}, {"kind": "status", "code": "error-syntax"}, "error-syntax", 15),
        ({99}, {"kind": "status", "code": "error-content-type-format"}, "", 15),
        ({37}, {"kind": "http", "code": 400}, "http-400", 15),
        ({0, 99}, {"kind": "http", "code": 413}, "http-413", 27),
        ({50, 51}, {"kind": "http", "code": 422}, "http-422", 17),
    ]
    for culprits, fault, reason, most in cases:
        simulator.reset()
        simulator.fault(address="77", **fault)
        # When a hundred messages with one or two of those are sent
        campaign = [{"address": f"79{n:07}{77 if n in culprits else 99}"} for n in range(100)]
        ids = app.enqueue_many(campaign, common=common_job())
        seen = ends(app, 100)
        check_events(seen)
        # Then those are rejected with the provider's code, and all others are sent once
        for n, id in enumerate(ids):
            last = seen[id][-1]
            expected = ("rejected", reason or fault["code"]) if n in culprits else ("read", None)
            assert (last["status"], last["reason"], last["unsure"]) == (*expected, 0)
        times = Counter(each["message"]["address"] for each in simulator.accepted())
        innocent = [row["address"] for n, row in enumerate(campaign) if n not in culprits]
        assert times == dict.fromkeys(innocent, 1)
        # And with two requests for each halving, log2 of them; attempts are requests begun
        batches = simulator.get("requests")["batches"]
        assert batches[0] == 100 and len(batches) <= most, (culprits, batches)
        assert sum(batches) == sum(events[-1]["attempts"] for events in seen.values())
        assert gate(app) == {}


def test_halving_ends_however_slow_the_provider_refuses(
    app: Producer, start_worker: Start, simulator: Simulator
) -> None:
    # Given refusals that each take all the time that a task has
    simulator.fault(kind="status", code="error-syntax", address="77", seconds=1.05)
    ids = app.enqueue_many(rows(7) + rows(1, "77", 7), common=common_job())
    start_worker()
    # Then the next task goes on where the last one put the rest back
    seen = ends(app, 8)
    assert Counter(events[-1]["status"] for events in seen.values()) == {"read": 7, "rejected": 1}
    assert seen[ids[7]][-1]["reason"] == "error-syntax"
    assert fired(simulator) == 4  # 8, 4, 2, 1
    assert len(simulator.accepted()) == 7


def test_twenty_messages_refused_alone_in_a_row_are_an_answer_about_us(
    app: Producer, start_worker: Start, simulator: Simulator
) -> None:
    simulator.fault(kind="status", code="error-syntax")
    ids = fill(app, 64)
    worker = start_worker()
    found = closed(app)
    assert (found["reason"], pause(found)) == ("all-refused", 60)
    wait_for(lambda: all(kind(app, id) in (0, None) for id in ids))
    statuses = Counter(record(app, id).status for id in ids)
    assert statuses == {"rejected": 20, "queued": 44}
    assert log_lines(worker.log, "paused", reason="all-refused", what="send")
    mend(simulator)
    end_pause(app)
    assert Counter(e[-1]["status"] for e in ends(app, 64).values()) == {"rejected": 20, "read": 44}


# --- nothing can be sent: credentials, account, address -------------------------------------------


def test_wrong_credentials_or_address_keep_every_message_and_say_why(
    app: Producer, start_worker: Start, simulator: Simulator
) -> None:
    # Given messages that no attempt may be counted against, and tried ones that are never resent
    worker = start_worker(COURIER_MAX_ATTEMPTS="1", COURIER_ON_UNSURE="park")
    faults: list[dict[str, Any]] = [
        {"kind": "status", "code": "error-auth"},
        {"kind": "status", "code": "error-account-locked"},
        {"kind": "entry", "code": "error-auth"},
        *({"kind": "http", "code": code} for code in (401, 403, 404, 405, 418)),
        {"kind": "redirect", "code": 302, "location": "/send"},
    ]
    for fault in faults:
        code = fault["code"]
        reason = code if isinstance(code, str) else f"http-{code}"
        simulator.reset()
        simulator.fault(**fault)
        ids = fill(app, 30)
        # Then sending and polling pause for a minute, and Redis says why
        found = closed(app)
        assert (found["reason"], gate(app, "poll")["reason"]) == (reason, reason)
        assert 59 < pause(found) <= 60
        # And each message keeps its place
        wait_for(lambda ids=ids: all(kind(app, id) == 0 for id in ids))
        assert {(record(app, id).status, record(app, id).unsure) for id in ids} == {("queued", 0)}
        assert simulator.accepted() == []
        assert simulator.get("requests")["send"] == 1
        # When they work again and the minute is over, all are sent
        mend(simulator)
        end_pause(app)
        assert {e[-1]["status"] for e in ends(app, 30).values()} == {"read"}
        assert len(simulator.accepted()) == 30
        assert gate(app) == gate(app, "poll") == {}
        assert log_lines(worker.log, "paused", reason=reason, what="send")


# --- the breaker ----------------------------------------------------------------------------------


@pytest.fixture
def dead_port() -> Iterator[int]:
    yield free_port()


def test_a_dead_provider_costs_nothing_but_time(
    app: Producer, start_worker: Start, dead_port: int
) -> None:
    # Given a provider whose connections are refused, and messages without an attempt to spare
    ids = fill(app, 400, priority="low")
    start_worker(
        COURIER_API_URL=f"http://127.0.0.1:{dead_port}",
        COURIER_MAX_ATTEMPTS="1",
        COURIER_BATCH_SIZE="20",
    )
    # Then all pause, for longer each time
    seen: dict[str, float] = {}
    wait_for(lambda: seen.update(_step(app)) or "3" in seen)
    # A look now and then may miss a short one.
    assert seen.items() <= {"1": 1.0, "2": 2.0, "3": 4.0}.items()
    assert {(record(app, id).status, record(app, id).unsure) for id in ids} == {("queued", 0)}
    # When it is there again, the first success opens for all, at full speed
    provider = Simulator("--port", str(dead_port), "--step", "0.2")
    try:
        wait_for(lambda: len(provider.accepted()) == 400)
        at = [each["at"] for each in provider.accepted()]
        assert at[-1] - at[0] < 2, at[-1] - at[0]
        assert gate(app) == {}
        assert {e[-1]["status"] for e in ends(app, 400).values()} == {"read"}
        batches = provider.get("requests")["batches"]
        assert batches[0] == 1 and sorted(batches[1:]) == [19, *[20] * 19]
    finally:
        provider.stop()


def _step(app: Producer) -> dict[str, float]:
    found = gate(app)
    return {found["step"]: pause(found)} if "step" in found else {}


def test_every_kind_of_failure_opens_the_breaker_and_one_success_closes_it(
    app: Producer, start_worker: Start, simulator: Simulator
) -> None:
    start_worker(COURIER_BATCH_SIZE="10", COURIER_RETRY_BASE="0.1", COURIER_ON_UNSURE="resend")
    faults: list[dict[str, Any]] = [
        {"kind": "status", "code": "error-system"},
        {"kind": "http", "code": 502},
        {"kind": "drop_before"},
    ]
    for fault in faults:
        simulator.reset()
        simulator.fault(**fault)
        fill(app, 60)
        # When five in a row have failed (one more may have been on its way), and a probe too
        wait_for(lambda: len(simulator.get("requests")["batches"]) >= 7)
        # Then probes of one message are all that leaves, until the first success
        batches = simulator.get("requests")["batches"]
        assert set(batches[6:]) == {1}, (fault, batches)
        assert int(closed(app)["step"]) >= 1
        assert simulator.accepted() == []
        mend(simulator)
        end_pause(app)
        assert {e[-1]["status"] for e in ends(app, 60).values()} == {"read"}
        assert len(simulator.accepted()) == 60
        assert gate(app) == {}


def test_an_outage_of_a_hanging_provider_parks_little_and_ends_at_once(
    app: Producer, start_worker: Start, simulator: Simulator
) -> None:
    # Given a provider that takes requests and doesn't answer, for some seconds
    simulator.fault(kind="hang_before")
    count, batch, slots = 2000, 20, 2
    fill(app, count, priority="low")
    start_worker(
        COURIER_BATCH_SIZE=str(batch), COURIER_CONNECT_TIMEOUT="0.3", COURIER_READ_TIMEOUT="0.3"
    )
    wait_for(lambda: fired(simulator) >= 8)
    # When it answers again
    probes = fired(simulator)
    mend(simulator)
    wait_for(simulator.accepted)
    started = time.monotonic()
    wait_for(lambda: len(simulator.accepted()) >= count / 2, 10)
    assert time.monotonic() - started < 2
    # Then at most what was in flight, five batches and one message a probe were parked
    seen = ends(app, count)
    check_events(seen)
    parked = [end for (*_, end) in seen.values() if end["status"] == "unconfirmed"]
    assert 0 < len(parked) <= slots * batch + 5 * batch + probes
    assert len(simulator.accepted()) == count - len(parked)


@pytest.mark.parametrize("form", ["seconds", "date"])
def test_all_workers_wait_as_long_as_retry_after_says(
    form: str,
    app: Producer,
    simulator: Simulator,
    system_env: dict[str, str],
    tmp_path: Path,
) -> None:
    with supervised(system_env, tmp_path, named("a"), named("b"), BEAT) as (a, b, _):
        ready(a), ready(b)
        b.freeze()
        # Given one of two workers that is told to wait; a date has no fractions of a second
        moment = datetime.now(UTC) + timedelta(seconds=5)
        after: int | str = 4 if form == "seconds" else format_datetime(moment, usegmt=True)
        begun = time.time()
        simulator.fault(kind="http", code=503, retry_after=after, times=1)
        app.enqueue(text_job())
        found = closed(app)
        assert found["reason"] == "http-503"
        # A date counts from the reply's own, which has no fractions either.
        asked = begun + 4 if form == "seconds" else moment.timestamp() // 1
        until = int(found["until"]) / 1e6
        assert asked <= until < asked + (1.5 if form == "seconds" else 2.5)
        # When only the other one is there to go on
        a.stop()
        b.thaw()
        fill(app, 50)
        # Then nothing leaves before the instant, and everything soon after it
        wait_for(lambda: len(simulator.accepted()) == 51)
        first, *_, last = [each["at"] for each in simulator.accepted()]
        assert until <= first < until + 3
        assert last - first < 2
        assert simulator.get("requests")["batches"][:2] == [1, 1]
        assert "request sent" in b.log


def test_statuses_hanging_does_not_stop_sending(
    app: Producer, start_worker: Start, simulator: Simulator
) -> None:
    # Given accepted messages to ask for, and /status that hangs
    deadline = 2.0
    start_worker(COURIER_CONNECT_TIMEOUT="0.5", COURIER_READ_TIMEOUT="1.5")
    fill(app, 100)
    wait_for(lambda: len(simulator.accepted()) == 100)
    simulator.fault(kind="hang_before", on="status")
    # When messages go on coming until all workers know
    waits: list[float] = []
    while not gate(app, "poll"):
        begun = time.monotonic()
        app.enqueue(text_job(f"79{len(waits):09}", priority="realtime"))
        wait_for(lambda: len(simulator.accepted()) == 101 + len(waits))
        waits.append(time.monotonic() - begun)
        time.sleep(0.1)  # a message now and then
    # Then it may take both slots once; after its first failure it takes one at most
    assert fired(simulator) >= 5 and len(waits) > 15
    assert sum(wait > 0.6 * deadline for wait in waits) <= 1, waits
    assert max(waits) < deadline + 1
    assert sorted(waits)[len(waits) // 2] < 0.5
    assert gate(app) == {}


def test_sending_that_hangs_does_not_stop_statuses(
    app: Producer, start_worker: Start, simulator: Simulator
) -> None:
    start_worker(COURIER_CONNECT_TIMEOUT="0.5", COURIER_READ_TIMEOUT="1", COURIER_BATCH_SIZE="10")
    app.enqueue(text_job("79250000071"))
    wait_for(simulator.accepted)
    simulator.fault(kind="hang_before")
    asked = simulator.get("requests")["status"]
    fill(app, 200, priority="low")
    closed(app)
    now = simulator.get("requests")["status"]
    assert now > asked
    wait_for(lambda: simulator.get("requests")["status"] > now + 3)
    assert gate(app, "poll") == {}


# --- nobody can know ------------------------------------------------------------------------------


def test_what_may_have_been_sent_is_parked_or_sent_again_by_priority_and_by_word(
    app: Producer, start_worker: Start, simulator: Simulator
) -> None:
    # Given requests that are accepted but not answered, the first of each lane
    priorities = {"01": "realtime", "02": "high", "03": "normal", "04": "low"}
    for digits in priorities:
        simulator.fault(kind="drop_after", times=1, address=digits)
    jobs = {
        f"{priority}-{word}": text_job(f"79{n:07}{digits}", priority=priority, **chosen)
        for digits, priority in priorities.items()
        for n, (word, chosen) in enumerate(
            [("", {}), ("park", {"onUnsure": "park"}), ("resend", {"onUnsure": "resend"})]
        )
    }
    ids = {name: app.enqueue(job) for name, job in jobs.items()}
    start_worker()
    seen = ends(app, len(jobs))
    check_events(seen)
    # Then the urgent and the asked for are sent again, the others end unconfirmed
    times = Counter(each["message"]["address"] for each in simulator.accepted())
    for name, id in ids.items():
        last, again = seen[id][-1], name in ("realtime-", "high-") or name.endswith("resend")
        expected = ("read", None) if again else ("unconfirmed", "unsure")
        assert (last["status"], last["reason"], last["unsure"]) == (*expected, 1), name
        assert times[jobs[name]["address"]] == 1 + again, name


def test_attempts_used_up_on_unsure_answers_leave_it_unconfirmed(
    app: Producer, start_worker: Start, simulator: Simulator
) -> None:
    simulator.fault(kind="http", code=502, accept=True, address="77")
    simulator.fault(kind="status", code="error-system", address="78")
    unsure = app.enqueue(text_job("79250000077", priority="realtime"))
    refused = app.enqueue(text_job("79250000078", priority="high"))
    start_worker(COURIER_MAX_ATTEMPTS="2")
    seen = ends(app, 2)
    (last,) = seen[unsure]
    assert (last["status"], last["reason"], last["attempts"], last["unsure"]) == (
        *("unconfirmed", "attempts"),
        *(2, 2),
    )
    (last,) = seen[refused]
    assert (last["status"], last["reason"], last["attempts"], last["unsure"]) == (
        *("failed", "attempts"),
        *(2, 0),
    )
    assert len(simulator.accepted()) == 2  # and its event says that it may be so


@pytest.mark.parametrize("spoilt", [{"kind": "oversized"}, {"kind": "trickle", "seconds": 0.3}])
def test_a_reply_without_end_is_cut_off_and_unsure(
    spoilt: dict[str, Any], app: Producer, start_worker: Start, simulator: Simulator
) -> None:
    simulator.fault(**spoilt)
    id = app.enqueue(text_job(priority="low"))
    worker = start_worker(COURIER_CONNECT_TIMEOUT="0.5", COURIER_READ_TIMEOUT="1")
    begun = time.monotonic()
    (last,) = ends(app, 1)[id]
    assert (last["status"], last["unsure"]) == ("unconfirmed", 1)
    assert time.monotonic() - begun < 1.5 + 3
    # It was the request's own deadline that did it, not the task's: nobody was killed
    assert "exited" not in worker.log and "imit" not in worker.log
    assert len(simulator.accepted()) == 1

"""A step of the Redis server's clock: noticed once, and what it left ahead is brought back."""

from __future__ import annotations

import logging
from typing import Any

import pytest
import redis

from tests.conftest import Clock, common_job, iso_in, text_job
from tests.workshop import Workshop
from viber_courier.schemas.settings import Settings
from viber_courier.store import leases
from viber_courier.store.clock import STEP, StepWatch
from viber_courier.store.leases import RateLimited, Store
from viber_courier.store.scripts import Script, shared
from viber_courier.worker.outcome import Accepted, Retryable

HOUR = 3600.0


@pytest.fixture
def settings(settings: Settings) -> Settings:
    return Settings(
        namespace=settings.namespace, api_url=settings.api_url, batch_size=10, retry_base=60
    )


@pytest.fixture
def desk(client: redis.Redis, settings: Settings, clock: Clock) -> Workshop:
    made = Workshop(client, settings, clock)
    made.store.sweep()  # as sweeps run all the time
    return made


def step(desk: Workshop, seconds: float) -> None:
    """Let the server's clock step, and the next sweep come."""
    desk.clock.advance(seconds)
    desk.client.delete(desk.store.keys.wakes)
    desk.store.sweep()


def steps(client: redis.Redis, settings: Settings) -> int:
    found: Any = client.hget(f"{{{settings.namespace}}}:counts", "clock-step")
    return int(found or 0)


@pytest.mark.parametrize("back", [180.0, 5 * HOUR])
def test_what_was_due_is_due_after_a_step_back_in_its_order(desk: Workshop, back: float) -> None:
    ids = [desk.producer.enqueue(text_job()) for _ in range(5)]
    old = desk.producer.enqueue(text_job(priority="low"))
    step(desk, -back)
    # Bells that were rung before are rung again, though their keys would live as long as the step
    assert sorted(desk.wakes()) == ["high", "low"]
    assert desk.ids("high") == ids and desk.ids("low") == [old]


@pytest.mark.parametrize("back", [180.0, 5 * HOUR])
def test_a_retry_comes_when_it_was_to_come_and_a_schedule_stays(
    desk: Workshop, clock: Clock, back: float
) -> None:
    dated = desk.producer.enqueue(text_job(priority="realtime", sendAt=iso_in(100)))
    tried = desk.producer.enqueue(text_job())
    desk.answer(Retryable("error-system"))  # again in COURIER_RETRY_BASE, 60 s
    clock.freeze()
    step(desk, -back)
    assert desk.ids() == []
    clock.advance(61 + STEP)
    assert desk.ids() == [tried]
    clock.advance(back - 61 - STEP)
    assert desk.ids("realtime") == []
    clock.advance(100)
    assert desk.ids("realtime") == [dated]


@pytest.mark.parametrize("back", [180.0, 5 * HOUR])
def test_campaigns_lines_come_back_as_lanes_do(desk: Workshop, clock: Clock, back: float) -> None:
    def add(name: str, **more: Any) -> list[str]:
        rows: Any = [{"address": "79250000001"}] * 3
        return desk.producer.campaign(name, common_job(**more)).add(rows)  # type: ignore[arg-type]

    tried = add("tried")
    desk.answer(Retryable("error-system"))  # again in COURIER_RETRY_BASE, 60 s
    due, paused = add("due", resendSms=True), add("paused")
    dated = add("due", sendAt=iso_in(100))
    desk.producer.campaign("paused").pause()
    clock.freeze()
    step(desk, -back)
    assert "high" in desk.wakes()
    assert desk.ids() == due and desk.ids() == []
    resume = Script(desk.client, "campaign", shared(desk.settings))
    resume(name="paused", act="resume", value="", time=clock())  # by the clock that has stepped
    assert desk.ids() == paused
    clock.advance(61 + STEP)
    desk.store.sweep()
    assert sorted(desk.ids()) == sorted(tried) and desk.ids() == []
    clock.advance(back + 100)
    found = set[str]()
    while ids := desk.ids():
        found |= {*ids}
    assert found >= {*dated}


@pytest.mark.parametrize("back", [180.0, 5 * HOUR])
def test_polls_go_on_after_a_step_back(desk: Workshop, clock: Clock, back: float) -> None:
    id = desk.producer.enqueue(text_job())
    desk.answer()
    step(desk, -back)
    clock.advance(10 + STEP)  # the first of COURIER_POLL_DELAYS
    assert [message.id for message in desk.claim_watched().messages] == [id]


def test_what_is_in_a_request_at_a_step_back_is_settled_and_what_follows_is_near(
    desk: Workshop, clock: Clock
) -> None:
    ids = [desk.producer.enqueue(text_job()) for _ in range(2)]
    held = desk.begin(desk.claim())
    step(desk, -HOUR)
    first, second = [
        desk.decider.sent([message], [outcome], held.server_now())
        for message, outcome in zip(
            held.messages, (Accepted(7), Retryable("error-system")), strict=True
        )
    ]
    assert desk.store.settle(held, [*first, *second])[0] == []
    clock.advance(11)
    assert [message.id for message in desk.claim_watched().messages] == ids[:1]
    clock.advance(50)
    assert desk.ids() == ids[1:]


@pytest.mark.parametrize("back", [60.0, 180.0, 5 * HOUR])
def test_a_request_begun_while_a_step_back_is_noticed_is_nobody_else_s(
    desk: Workshop, clock: Clock, monkeypatch: pytest.MonkeyPatch, back: float
) -> None:
    # Given a worker that begins one request before the sweep that notices, and one amid it
    monkeypatch.setattr(leases, "BROUGHT_BACK", 1)
    clock.advance(back)  # what apps enqueue goes by the server's own clock: that is right again
    desk.store.sweep()
    clock.advance(-back)
    desk.producer.enqueue(text_job())
    held = [desk.begin(desk.claim())]
    sweep = desk.store._scripts["sweep"]

    def sweep_a_part(**given: Any) -> Any:
        found = sweep(**given)
        if len(held) == 1:
            desk.producer.enqueue(text_job())
            held.append(desk.begin(desk.claim()))
        return found

    monkeypatch.setitem(desk.store._scripts, "sweep", sweep_a_part)
    # When the sweep has brought everything back
    desk.store.sweep()
    # Then no other worker gets them, and their answers count
    assert len(held) == 2 and desk.ids() == []
    assert [desk.settle(each, Accepted(n + 7)) for n, each in enumerate(held)] == [[], []]


def test_a_dead_holder_s_lease_ends_a_lease_after_the_step_back(
    desk: Workshop, clock: Clock, settings: Settings
) -> None:
    dead = desk.producer.enqueue(text_job())
    desk.begin(desk.claim())
    step(desk, -HOUR)
    clock.advance(settings.lease - 1)
    desk.store.sweep()
    assert desk.ids() == []
    clock.advance(2)
    desk.store.sweep()
    (message,) = desk.claim().messages
    assert (message.id, message.lapsed_inside) == (dead, True)
    # and the leases given from then on end as ever
    fence: Any = desk.client.get(desk.store.keys.fence("send"))
    assert int(fence) <= clock() + (settings.lease + 1) * 1_000_000


def test_bucket_gate_pause_and_pace_are_brought_back(
    client: redis.Redis, settings: Settings, clock: Clock
) -> None:
    limited = Settings(
        namespace=settings.namespace, api_url=settings.api_url, rate_limit=0.1, rate_burst=1
    )
    desk = Workshop(client, limited, clock)
    desk.store.sweep()
    keys = desk.store.keys
    for _ in range(3):
        desk.producer.enqueue(text_job())
    assert len(desk.ids()) == 1  # the next token comes in 10 s
    now = clock()
    until = {"until": now + 60_000_000, "opened": now, "probe": now + 35_000_000}
    client.hset(keys.gate("poll"), mapping=until)
    client.set(keys.paused("low"), "codes first", px=60_000)
    client.set(keys.pace, now + 30_000_000)
    step(desk, -5 * HOUR)
    now = clock()
    gate: Any = desk.gate("poll")
    assert 54 < (int(gate["until"]) - now) / 1e6 < 66 and 29 < (int(gate["probe"]) - now) / 1e6 < 41
    assert abs(int(gate["opened"]) - now) < 6e6
    pace: Any = client.get(keys.pace)
    assert 24 < (int(pace) - now) / 1e6 < 36
    assert client.pttl(keys.paused("low")) in (0, 1) or client.get(keys.paused("low")) is None
    got = desk.store.claim("low", answered=True)
    assert isinstance(got, RateLimited) or got is None
    clock.advance(11 + STEP)
    desk.store.sweep()
    assert len(desk.ids()) == 1


def test_many_members_are_brought_back_in_parts_each_once(
    desk: Workshop, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(leases, "BROUGHT_BACK", 7)
    at = iso_in(60)  # all have one score, as a campaign's have
    dated = [desk.producer.enqueue(text_job(priority="low", sendAt=at)) for _ in range(20)]
    rows = [{"address": f"79{n:07}99"} for n in range(30)]
    ids = desk.producer.enqueue_many(rows, common=common_job(priority="low"))
    step(desk, -HOUR)
    assert [id for _ in range(4) for id in desk.ids()] == ids
    clock.advance(HOUR + 61)
    assert set(dated) <= {id for _ in range(5) for id in desk.ids()}


def forward(client: redis.Redis, settings: Settings, clock: Clock, even: Clock) -> Workshop:
    made = Workshop(client, settings, clock)
    made.store = Store(client, settings, clock, lambda: even() / 1e6)
    made.sender = made.sender.__class__(settings, made.store, made.sender.provider, made.decider)
    made.store.sweep()
    return made


@pytest.mark.parametrize("ahead", [180.0, 5 * HOUR])
def test_a_step_forward_takes_no_live_lease_and_holds_nothing_else_up(
    client: redis.Redis, settings: Settings, clock: Clock, ahead: float
) -> None:
    even = Clock()
    desk = forward(client, settings, clock, even)
    inside = desk.producer.enqueue(text_job())
    held = desk.begin(desk.claim())
    new = desk.producer.enqueue(text_job())
    clock.advance(ahead)
    # Before the next sweep and after it
    assert desk.ids() == [new]
    desk.store.sweep()
    assert desk.ids() == []
    assert desk.settle(held, Accepted(7)) == []
    record = desk.producer.get(inside)
    assert record and (record.status, record.unsure) == ("submitted", 0)
    # but a lease later what its holder has left is taken
    clock.advance(settings.lease + 1)
    even.advance(settings.lease + 1)
    desk.store.sweep()
    assert desk.ids() == [new]
    assert steps(client, settings) == 1


def test_a_step_is_logged_and_counted_once_by_whoever_sweeps_first(
    client: redis.Redis, settings: Settings, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    even = Clock()
    sweepers = [Store(client, settings, clock, lambda: even() / 1e6) for _ in range(3)]
    for seconds, seen in ((0, 0), (-180, 1), (180, 2), (-3 * HOUR, 3), (3 * HOUR, 4), (2, 4)):
        clock.advance(seconds)
        for each in sweepers:
            each.sweep()
            each.sweep(unless_within=3.0)
        assert steps(client, settings) == seen
    told = [each for each in caplog.records if each.getMessage() == "redis's clock has stepped"]
    assert [round(each.seconds) for each in told] == [-180, 180, -10800, 10800]  # type: ignore[attr-defined]
    assert {each.levelno for each in told} == {logging.ERROR}
    noted: Any = client.hgetall(f"{{{settings.namespace}}}:clock")
    assert round(float(noted["by"])) == 10800 and abs(int(noted["at"]) - clock() / 1000) < 5000


def test_time_that_passes_is_no_step() -> None:
    watch, hour = StepWatch(), 3_600_000
    # Nobody has swept for hours, and this process is new
    assert watch.step(9 * hour, 5 * hour, 100.0, 100.1) == 0
    # Redis did not answer for a minute, and then this process's call took a minute
    assert watch.step(9 * hour + 120_000, 9 * hour, 160.0, 220.2) == 0
    # Another process has swept meanwhile, while this one's host slept
    assert watch.step(10 * hour, 10 * hour - 300, 230.0, 230.1) == 0
    # The clock was set by less than matters, either way
    assert watch.step(10 * hour + 4000, 10 * hour, 230.5, 230.6) == 0
    assert watch.step(10 * hour, 10 * hour + 4000, 231.0, 231.1) == 0
    # and by more
    assert watch.step(10 * hour - 180_000, 10 * hour, 232.0, 232.1) == -180
    assert watch.step(11 * hour, 10 * hour - 180_000, 233.0, 233.1) == pytest.approx(3779, abs=2)


def test_unsure_messages_and_a_new_worker_after_hours_of_nothing(
    client: redis.Redis, settings: Settings, clock: Clock
) -> None:
    # Given a lone worker that died inside a request, and hours without any sweep
    desk = Workshop(client, settings, clock)
    desk.store.sweep()
    id = desk.producer.enqueue(text_job())
    desk.begin(desk.claim())
    clock.advance(5 * HOUR)
    # When a new one comes: it can't know, so that time has passed
    other = Workshop(client, settings, clock)
    other.store.sweep()
    # Then the message is unsure at once, and no step is told of
    (message,) = other.claim().messages
    assert message.id == id and message.lapsed_inside
    assert steps(client, settings) == 0

"""Sending hours as workers obey them, on real scripts: first sends, retries, halves, letters."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import redis

from tests.conftest import Clock, Start, common_job, ends, events_of, text_job
from tests.workshop import Workshop
from viber_courier import InvalidMessage, Producer
from viber_courier.schemas.instants import SECOND
from viber_courier.schemas.settings import Settings
from viber_courier.store.keys import Keys
from viber_courier.store.leases import Lease
from viber_courier.worker.outcome import (
    Accepted,
    NotSent,
    Refused,
    RequestRefused,
    Retryable,
    Unsure,
)

HOUR = 3600
TWO_DAYS = 172800
Hours = Callable[[float, float], dict[str, str]]


@pytest.fixture
def shop(client: redis.Redis, settings: Settings, clock: Clock) -> Workshop:
    clock.freeze()
    clock.advance(60)  # what is enqueued meanwhile, by the server's own clock, is due
    made = Workshop(client, settings, clock)
    made.producer = Producer(settings, client=client, clock=lambda: clock() / SECOND)
    return made


@pytest.fixture
def hours(clock: Clock) -> Hours:
    """A window from so many hours after now until so many, in UTC."""

    def made(first: float, last: float) -> dict[str, str]:
        now = datetime.fromtimestamp(clock() / SECOND, UTC)
        times = [f"{now + timedelta(hours=each):%H:%M}" for each in (first, last)]
        return {"from": times[0], "to": times[1], "zone": "UTC"}

    return made


def due_in(shop: Workshop, id: str) -> float:
    """Hours until a waiting message is due."""
    scores = [shop.client.zscore(lane, id) for lane in shop.store.keys.lanes]
    (score,) = [each for each in scores if each is not None]
    return (float(score) / SECOND - shop.clock() / SECOND) / HOUR


def state(shop: Workshop, id: str) -> tuple[str, int, int]:
    record = shop.producer.get(id)
    assert record is not None
    return record.status, record.attempts, record.unsure


def test_a_message_waits_for_its_hours_in_its_lane(shop: Workshop, hours: Hours) -> None:
    id = shop.producer.enqueue(text_job(sendWindow=hours(2, 4)))
    assert 1.9 < due_in(shop, id) <= 2
    assert shop.serve() == [] and shop.store.claim("low", answered=True) is None
    shop.clock.advance(2 * HOUR)
    assert shop.serve() == [1] and state(shop, id) == ("submitted", 1, 0)


def test_what_was_due_when_its_hours_ended_waits_for_the_next(shop: Workshop, hours: Hours) -> None:
    # Given messages that are due, and no worker for two hours
    window = {"sendWindow": hours(-1, 1), "ttlSec": TWO_DAYS}
    ids = [shop.producer.enqueue(text_job(**window)) for _ in range(3)]
    plain = shop.producer.enqueue(text_job())
    shop.clock.advance(2 * HOUR)
    # When one comes: only the message without hours leaves
    assert shop.serve() == [1] and state(shop, plain)[0] == "submitted"
    for id in ids:
        assert state(shop, id) == ("queued", 0, 0) and 20.9 < due_in(shop, id) <= 21
    assert events_of(shop.client, shop.settings, ids[0]) == []
    assert shop.serve() == []
    # Then they leave when their hours begin
    shop.clock.advance(21 * HOUR)
    assert shop.serve() == [3] and {state(shop, id) for id in ids} == {("submitted", 1, 0)}


@pytest.mark.slow
def test_what_waits_for_its_hours_takes_nothing_of_the_rate(
    client: redis.Redis, settings: Settings, clock: Clock, hours: Hours
) -> None:
    # Given ten messages a second, and thirty that are due when their hours have ended
    shop = Workshop(client, replace(settings, rate_limit=10.0, rate_burst=10.0), clock)
    window = {"sendWindow": hours(-1, 1), "ttlSec": TWO_DAYS}
    ids = [shop.producer.enqueue(text_job(**window)) for _ in range(30)]
    plain = [shop.producer.enqueue(text_job()) for _ in range(10)]
    clock.freeze()
    clock.advance(2 * HOUR)
    # When a worker comes, then the others leave at once, for they have all the tokens
    shop.serve()
    assert {state(shop, id) for id in ids} == {("queued", 0, 0)}
    assert {state(shop, id)[0] for id in plain} == {"submitted"}
    assert sum(shop.provider.sizes) == 10


@pytest.mark.slow
def test_what_waits_for_its_hours_takes_nothing_of_its_campaign_s_rate(
    client: redis.Redis, settings: Settings, clock: Clock, hours: Hours
) -> None:
    # Given a campaign of ten messages a second, thirty of which are due when their hours have ended
    shop = Workshop(client, settings, clock)
    common: Any = common_job(priority="low")
    window = {"sendWindow": hours(-1, 1), "ttlSec": TWO_DAYS}
    rows = [{"address": f"79250000{n:03}", **(window if n < 30 else {})} for n in range(45)]
    ids = shop.producer.campaign("a", common=common, rate=10).add(rows)
    clock.freeze()
    clock.advance(2 * HOUR)
    # When a worker comes, then the others leave as if the thirty had not been there
    shop.serve(3)
    assert {state(shop, id) for id in ids[:30]} == {("queued", 0, 0)}
    assert sum(shop.provider.sizes) == 10
    # And no sooner than their rate has it
    clock.advance(0.5)
    assert sum(shop.serve()) == 5


def close_gate(shop: Workshop) -> None:
    """Closes the gate, as requests do that fail in a row."""
    shop.provider.outcome, others = NotSent("NewConnectionError"), "79990000000"
    shop.producer.enqueue(text_job(id="poor", priority="low", address=others))
    while "until" not in shop.gate():
        shop.serve()
        shop.clock.advance(0.001)
    assert shop.producer.cancel("poor")
    shop.provider.outcome = Accepted(1)


def test_what_is_outside_its_hours_holds_no_gate_shut(
    client: redis.Redis, settings: Settings, clock: Clock, hours: Hours
) -> None:
    # Given a gate that closed before the hours of thirty messages ended, with others behind them
    shop = Workshop(client, replace(settings, rate_limit=10.0, rate_burst=10.0), clock)
    window = {"sendWindow": hours(-1, 1), "ttlSec": TWO_DAYS}
    clock.freeze()
    close_gate(shop)
    ids = [shop.producer.enqueue(text_job(priority="low", **window)) for _ in range(30)]
    plain = [shop.producer.enqueue(text_job(priority="low")) for _ in range(20)]
    clock.advance(2 * HOUR)
    # When it is ajar, then none of the thirty takes the turn of a probe
    sizes = shop.serve()
    for _ in range(30):  # one task opens it, on a fast machine
        sizes += shop.serve() if sum(sizes) < 11 else []
    assert "until" not in shop.gate() and sizes[0] == 1
    assert {state(shop, id) for id in ids} == {("queued", 0, 0)}
    # And they have not given tokens back that they had not taken
    assert sum(sizes) == 11
    assert sum(state(shop, id)[0] == "submitted" for id in plain) == 11


def test_no_request_begins_too_late_because_the_hours_of_some_have_ended(
    shop: Workshop, hours: Hours, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Given hours that end when a request begins, and a Redis that is slow to note that
    late = shop.producer.enqueue(text_job(sendWindow=hours(-1, 1), ttlSec=TWO_DAYS))
    plain = shop.producer.enqueue(text_job())
    begin, settle = shop.store.begin, shop.store.settle
    ends = [0.0]

    def slow(lease: Any, *given: Any) -> Any:
        ends[0] = 90.0
        return settle(lease, *given)

    def at_the_end(*given: Any, **more: Any) -> Any:
        shop.clock.advance(2 * HOUR)
        monkeypatch.setattr(shop.store, "settle", slow)
        monkeypatch.setattr(Lease, "seconds_left", lambda lease: 100.0 - ends[0])
        return begin(*given, **more)

    monkeypatch.setattr(shop.store, "begin", at_the_end)
    # Then the others of the request wait, too: its answer would come after the lease
    assert shop.serve() == []
    assert state(shop, late) == state(shop, plain) == ("queued", 0, 0)


def test_a_redis_that_takes_no_tokens_back_keeps_no_other_message(
    client: redis.Redis, settings: Settings, clock: Clock, hours: Hours
) -> None:
    shop = Workshop(client, replace(settings, rate_limit=10.0, rate_burst=10.0), clock)
    late = shop.producer.enqueue(text_job(sendWindow=hours(-1, 1), ttlSec=TWO_DAYS))
    plain = shop.producer.enqueue(text_job())
    clock.freeze()
    clock.advance(2 * HOUR)

    def hung(**_: Any) -> None:
        raise redis.TimeoutError("Timeout reading from socket")

    shop.store._scripts["refund"] = hung  # type: ignore[assignment]
    assert shop.serve() == [1]
    assert (state(shop, late), state(shop, plain)[0]) == (("queued", 0, 0), "submitted")


def test_a_probe_that_led_to_no_request_holds_up_no_code(shop: Workshop, hours: Hours) -> None:
    # Given a closed gate, and a message that is due when its hours have ended
    id = shop.producer.enqueue(text_job(sendWindow=hours(-1, 1), ttlSec=TWO_DAYS))
    shop.clock.advance(2 * HOUR)
    gate = {"until": shop.clock(), "reason": "test"}
    shop.client.hset(shop.store.keys.gate("send"), mapping=gate)
    # When it is the probe
    assert shop.serve() == [] and state(shop, id) == ("queued", 0, 0)
    # Then a code that comes now is the next one, and opens the gate
    code = shop.producer.enqueue(text_job(priority="realtime"))
    shop.clock.advance(1)
    assert shop.serve() == [1] and state(shop, code)[0] == "submitted"
    assert shop.gate() == {}


def test_what_can_no_longer_leave_in_time_expires_at_once(shop: Workshop, hours: Hours) -> None:
    id = shop.producer.enqueue(text_job(sendWindow=hours(-1, 1), ttlSec=3 * HOUR))
    shop.clock.advance(2 * HOUR)
    assert shop.serve() == []
    (event,) = events_of(shop.client, shop.settings, id)
    assert (event["data"]["status"], event["data"]["reason"]) == ("expired", "ttl")


def test_time_to_live_is_not_longer_for_waiting(shop: Workshop, hours: Hours) -> None:
    window = hours(2, 12)
    with pytest.raises(InvalidMessage, match="sendWindow: doesn't open before ttlSec is over"):
        shop.producer.enqueue(text_job(sendWindow=window, ttlSec=2 * HOUR - 60))
    id = shop.producer.enqueue(text_job(sendWindow=window, ttlSec=4 * HOUR))
    shop.clock.advance(4 * HOUR + 60)
    assert shop.serve() == [] and state(shop, id)[0] == "expired"


def test_a_call_repeated_after_the_hours_is_the_same_message(
    client: redis.Redis, settings: Settings, clock: Clock, hours: Hours
) -> None:
    # Given a message that was stored in its hours, though its app was not told
    clock.freeze()
    job = text_job(id="a", sendWindow=hours(-1, 1), ttlSec=3 * HOUR)
    common = {name: value for name, value in job.items() if name not in ("id", "address")}
    producer = Producer(settings, client=client, clock=lambda: clock() / SECOND)
    producer.enqueue(job)
    # When the app asks again after its hours, then it is that message, and another one is too late
    clock.advance(2 * HOUR)
    row = {"id": "a", "address": job["address"]}
    assert producer.enqueue(job) == "a" and producer.enqueue_many([row], common) == ["a"]
    refused = list[int]()
    rows = [{**row, "id": "b"}, row, {**row, "address": "79250000002"}, {"address": "79250000003"}]
    assert producer.enqueue_many(rows, common, lambda n, *_: refused.append(n)) == ["a"]
    assert refused == [0, 2, 3]
    for other in ({**job, "id": "b"}, {**job, "subject": "Other"}):
        with pytest.raises(InvalidMessage, match="doesn't open before ttlSec is over"):
            producer.enqueue(other)


@pytest.mark.parametrize(
    ("outcome", "then"),
    [(Retryable("error-system"), ("queued", 1, 0)), (Unsure("x"), ("queued", 1, 1))],
)
def test_what_is_sent_again_obeys(
    shop: Workshop, hours: Hours, outcome: Any, then: tuple[str, int, int]
) -> None:
    job = text_job(sendWindow=hours(-1, 1), ttlSec=TWO_DAYS, onUnsure="resend")
    id = shop.producer.enqueue(job)
    shop.answer(outcome)
    shop.clock.advance(2 * HOUR)
    assert shop.serve() == [] and state(shop, id) == then
    assert 20.9 < due_in(shop, id) <= 21
    shop.clock.advance(21 * HOUR)
    assert shop.serve() == [1] and state(shop, id) == ("submitted", 2, then[2])


def test_the_halves_of_a_refused_request_obey(shop: Workshop, hours: Hours) -> None:
    job = text_job(sendWindow=hours(-1, 1), ttlSec=TWO_DAYS)
    ids = [shop.producer.enqueue(job) for _ in range(4)]
    answered, answer = list[int](), shop.provider.send

    def send(body: bytes, count: int) -> Any:
        answered.append(count)
        if len(answered) == 1:
            shop.clock.advance(2 * HOUR)  # the hours end while the provider thinks
            return [RequestRefused("error-syntax")] * count
        return answer(body, count)

    shop.provider.send = send  # type: ignore[method-assign]
    shop.serve()
    assert answered == [4]
    assert {state(shop, id)[:2] for id in ids} == {("queued", 1)}
    shop.clock.advance(21 * HOUR)
    shop.serve(2)
    assert answered == [4, 2, 2] and {state(shop, id)[0] for id in ids} == {"submitted"}


def test_hours_that_end_before_the_request_begins_take_no_attempt(
    shop: Workshop, hours: Hours
) -> None:
    id = shop.producer.enqueue(text_job(sendWindow=hours(-1, 1), ttlSec=TWO_DAYS))
    lease = shop.claim()
    held = shop.begin(lease)
    assert held.messages[0].attempts == 1
    ready, moves = shop.decider.claimed(held.messages, shop.clock() + 2 * HOUR * SECOND, begun=True)
    assert ready == [] and shop.store.settle(held, moves)[0] == []
    assert state(shop, id) == ("queued", 0, 0)


def test_a_dead_letter_keeps_its_hours(shop: Workshop, hours: Hours) -> None:
    window = hours(-1, 1)
    ids = [
        shop.producer.enqueue(text_job(id=f"m{n}", sendWindow=window, ttlSec=TWO_DAYS))
        for n in range(3)
    ]
    shop.answer(Refused("error-address-unknown"))
    assert shop.producer.dead.job("m0")["sendWindow"] == window
    inside = shop.producer.dead.resend(ids[0])
    assert due_in(shop, inside) <= 0
    assert shop.serve() == [1]
    shop.clock.advance(2 * HOUR)
    outside = [shop.producer.dead.resend(ids[1]), *shop.producer.dead.resend_many().ids.values()]
    for id in outside:
        assert 20.9 < due_in(shop, id) <= 21
    assert shop.serve() == []
    shop.clock.advance(21 * HOUR)
    assert shop.serve() == [2]


def test_letters_sent_again_outside_their_hours_keep_their_rate(
    shop: Workshop, hours: Hours
) -> None:
    window, more = hours(-1, 1), {"ttlSec": TWO_DAYS}
    for _ in range(4):
        shop.producer.enqueue(text_job(sendWindow=window, **more))
    shop.answer(Refused("error-address-unknown"))
    shop.clock.advance(2 * HOUR)
    ids = shop.producer.dead.resend_many(rate=1 / 60).ids.values()
    waits = sorted(round(60 * due_in(shop, id)) for id in ids)
    assert 20.9 * 60 < waits[0] <= 21 * 60 + 1 and waits == [waits[0] + n for n in range(4)]


def test_a_letter_of_a_mobile_number_s_zone_can_be_sent_again(
    client: redis.Redis, settings: Settings, clock: Clock
) -> None:
    shop = Workshop(client, settings, clock)
    all_day = {"from": "00:00", "to": "24:00", "zone": "recipient", "days": ["sat", "sun"]}
    id = shop.producer.enqueue(text_job(sendWindow=all_day, ttlSec=2592000))
    while (wait := due_in(shop, id)) > 0:
        clock.advance(wait * HOUR + 1)
    shop.answer(Refused("error-address-unknown"))
    again = shop.producer.dead.job(id)["sendWindow"]
    assert "recipient" not in again["zone"] and again["days"] == ["sat", "sun"]
    assert shop.producer.dead.resend(id)


def test_a_zone_that_this_machine_does_not_know_keeps_its_messages(
    shop: Workshop, hours: Hours, caplog: pytest.LogCaptureFixture
) -> None:
    ids = [shop.producer.enqueue(text_job(sendWindow=hours(-1, 1))) for _ in range(2)]
    for id in ids:
        window = f"0 1440 127 Mars/{shop.settings.namespace}"
        shop.client.hset(shop.store.keys.records + id, "window", window)
    with caplog.at_level(logging.ERROR):
        assert shop.serve() == []
    assert [r.getMessage() for r in caplog.records] == ["time zone unknown; messages not sent"]
    assert "pip install -U tzdata" in vars(caplog.records[0])["error"]
    for id in ids:
        assert state(shop, id) == ("queued", 0, 0)
        assert 0 < due_in(shop, id) <= 1.1 * shop.settings.retry_cap / HOUR


def test_hours_do_not_keep_a_message_from_being_cancelled(shop: Workshop, hours: Hours) -> None:
    id = shop.producer.enqueue(text_job(sendWindow=hours(2, 4)))
    assert shop.producer.cancel(id) and state(shop, id)[0] == "cancelled"
    assert shop.provider.outcome == Accepted(1)


def test_a_worker_keeps_what_is_outside_its_hours(app: Producer, start_worker: Start) -> None:
    # Given a message that is due, and whose hours begin in two hours
    times = [f"{datetime.now(UTC) + timedelta(hours=n):%H:%M}" for n in (2, 4)]
    late = {"from": times[0], "to": times[1], "zone": "UTC"}
    keys, now = Keys(app.settings.namespace), time.time()
    kept = app.enqueue(text_job(priority="realtime", sendWindow=late))
    app.redis.zadd(keys.lanes[0], {kept: int(now) * SECOND})
    sent = app.enqueue(text_job(priority="low"))
    # When a worker comes
    start_worker()
    assert [*ends(app, 1)] == [sent]
    # Then it has put the message back, and nothing was sent
    record = app.get(kept)
    assert record is not None and (record.status, record.attempts) == ("queued", 0)
    due: Any = app.redis.zscore(keys.lanes[0], kept)
    assert 1.9 * HOUR < due / SECOND - now <= 2 * HOUR

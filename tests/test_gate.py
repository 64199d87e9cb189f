"""The gate that all workers share: breaker, pauses, probes, and what goes on while it is closed."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import redis

from tests.conftest import Clock, common_job, events_of, text_job
from tests.workshop import Workshop
from viber_courier import Producer
from viber_courier.schemas.settings import Settings
from viber_courier.schemas.status import Status
from viber_courier.store.leases import Store
from viber_courier.store.records import Step
from viber_courier.store.writes import Move, Write
from viber_courier.worker.breaker import after_request, after_statuses
from viber_courier.worker.outcome import (
    Accepted,
    Blocked,
    NotSent,
    Outcome,
    Refused,
    RequestRefused,
    Retryable,
    Statuses,
    Unsure,
)


@pytest.fixture
def house(client: redis.Redis, settings: Settings, clock: Clock) -> Workshop:
    return Workshop(client, settings, clock)


def fill(producer: Producer, count: int, **more: Any) -> list[str]:
    rows = [{"address": f"79{n:09}"} for n in range(count)]
    return producer.enqueue_many(rows, common=common_job(**more))


def statuses(producer: Producer, ids: list[str]) -> list[str]:
    return [str(producer.get(id).status) for id in ids]  # type: ignore[union-attr]


@pytest.mark.parametrize(
    "failure",
    [NotSent("NewConnectionError"), Retryable("error-system", whole=True), Unsure("ReadTimeout")],
    ids=lambda failure: type(failure).__name__,
)
def test_five_failures_in_a_row_close_it_and_probes_go_alone_ever_later(
    failure: Outcome, producer: Producer, house: Workshop, clock: Clock
) -> None:
    house = Workshop(house.client, replace(house.settings, unsure_resends=99), clock)
    fill(producer, 10, priority="low", onUnsure="resend")
    clock.freeze()
    house.provider.outcome = failure
    sizes: list[int] = []
    while len(sizes) < 5:
        sizes += house.serve()
        clock.advance(0.001 if len(sizes) == 5 else 400)
    assert house.gate()["reason"] in ("NewConnectionError", "error-system", "ReadTimeout")
    assert house.serve(3) == []
    for pause in (1, 2, 4, 8, 16, 32, 60, 60):
        clock.advance(pause - 0.1)
        assert house.serve(2) == []
        clock.advance(0.2)
        fill(producer, 1, priority="low", onUnsure="resend")
        assert house.serve(3) == [1]
    # The first success opens it, and the same task goes on with full batches at once.
    house.provider.outcome = Accepted(1)
    clock.advance(401)
    sizes = house.serve()
    assert sizes[0] == 1 and sum(sizes) == 18
    assert house.gate() == {}


def test_a_success_in_between_starts_the_row_anew(
    producer: Producer, house: Workshop, clock: Clock
) -> None:
    fill(producer, 1, priority="low")
    for outcome in [NotSent("x")] * 4 + [Refused("error-address-unknown")] + [NotSent("x")] * 4:
        fill(producer, 1, priority="low")
        house.provider.outcome = outcome
        assert house.serve() != []
    assert "until" not in house.gate()


def test_a_message_answered_by_itself_closes_nothing(
    producer: Producer, house: Workshop, clock: Clock
) -> None:
    house.provider.outcome = Retryable("error-system")
    for _ in range(8):
        fill(producer, 1)
        assert house.serve() == [1]
    assert house.gate() == {}


def test_messages_that_are_never_taken_do_not_keep_it_shut_as_probes(
    producer: Producer,
    house: Workshop,
    clock: Clock,
    client: redis.Redis,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    fill(producer, 3, priority="high")
    low = fill(producer, 3, priority="low")
    client.hset(house.store.keys.gate("send"), "until", str(clock() - 1))
    taken = house.provider.send

    def send(body: bytes, count: int) -> list[Outcome]:
        return [Retryable("error-system")] * count if b'"high"' in body else taken(body, count)

    monkeypatch.setattr(house.provider, "send", send)
    for _ in range(9):
        house.serve()
        clock.advance(400)  # longer than any backoff: the same ones are due again
    assert statuses(producer, low) == ["submitted"] * 3


def test_failures_of_requests_begun_before_it_closed_do_not_raise_its_step(
    producer: Producer, house: Workshop, client: redis.Redis
) -> None:
    ids = fill(producer, 8, priority="low", onUnsure="resend")
    one = Store(client, Settings(namespace=house.sender.settings.namespace, batch_size=1))
    house.provider.outcome = Unsure("ReadTimeout")
    leases = [one.claim("low", answered=True) for _ in ids]
    held = [one.begin(lease, lease.messages) for lease in leases if lease]
    for lease in held:
        outcome = Unsure("ReadTimeout")
        signal = after_request([outcome], 1.0, house.sender.settings)
        one.settle(lease, house.moves(lease, outcome), signal)
    assert (house.gate()["row"], house.gate()["step"]) == ("8", "1")


@pytest.mark.parametrize("code", ["error-auth", "error-account-locked", "http-404"])
def test_wrong_credentials_or_address_pause_everything_and_keep_every_message(
    code: str, producer: Producer, house: Workshop, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    ids = fill(producer, 250, priority="low")
    house.provider.outcome = Blocked(code)
    assert house.serve(3) == [100]
    assert house.gate()["reason"] == house.gate("poll")["reason"] == code
    assert "paused" in caplog.text
    for _ in range(3):
        clock.advance(59)
        assert house.serve() == []
        clock.advance(1.1)
        assert house.serve(2) == [1]
    assert set(statuses(producer, ids)) == {"queued"}
    house.provider.outcome = Accepted(1)
    clock.advance(61)
    assert house.serve() == [1, 100, 100, 49]
    assert set(statuses(producer, ids)) == {"submitted"}


def test_everyone_waits_as_long_as_retry_after_says(
    producer: Producer, house: Workshop, clock: Clock
) -> None:
    fill(producer, 150, priority="low")
    house.provider.outcome = NotSent("http-429", 40.0)
    assert house.serve(2) == [100]
    clock.advance(39)
    assert house.serve() == []
    house.provider.outcome = Accepted(1)
    clock.advance(2)
    assert house.serve() == [1, 100, 49]


def test_twenty_lone_refusals_in_a_row_are_an_answer_about_us(
    producer: Producer, house: Workshop, clock: Clock, client: redis.Redis, settings: Settings
) -> None:
    ids = fill(producer, 64, priority="low")
    house.provider.outcome = RequestRefused("error-syntax")
    house.serve(3)
    found = statuses(producer, ids)
    assert found.count("rejected") == 20
    assert found.count("queued") == 44
    assert house.gate()["reason"] == "all-refused"
    for _ in range(3):  # each minute's probe is kept too
        clock.advance(61)
        assert house.serve(2) == [1]
    assert statuses(producer, ids).count("rejected") == 20
    house.provider.outcome = Accepted(1)
    clock.advance(301)
    house.serve()
    assert statuses(producer, ids).count("submitted") == 44
    assert house.gate() == {}


def test_a_message_that_is_refused_alone_for_ever_does_not_keep_the_gate_shut(
    producer: Producer, house: Workshop, clock: Clock
) -> None:
    # Given the twenty-first of such messages, in the most urgent lane
    fill(producer, 20, priority="realtime")
    house.provider.outcome = RequestRefused("error-syntax")
    house.serve(3)
    culprit = fill(producer, 1, priority="realtime")
    low = fill(producer, 5, priority="low")
    clock.advance(61)
    assert house.serve() == [1]
    # When the next probe goes out
    house.provider.outcome = Accepted(1)
    clock.advance(61)
    house.serve()
    # Then it is another, and the others go out with it
    assert statuses(producer, low) == ["submitted"] * 5
    assert statuses(producer, culprit) == ["queued"]


def test_a_probe_is_one_whose_loss_parks_nothing_if_there_is_one(
    producer: Producer, house: Workshop, clock: Clock, client: redis.Redis
) -> None:
    low = fill(producer, 3, priority="low")
    kept = fill(producer, 1, priority="low", onUnsure="resend")
    client.hset(house.store.keys.gate("send"), "until", str(clock() - 1))
    house.provider.outcome = Unsure("ReadTimeout")
    assert house.serve() == [1]
    assert statuses(producer, low) == ["queued"] * 3
    assert producer.get(kept[0]).unsure == 1  # type: ignore[union-attr]


def test_a_probe_that_dies_holds_nothing_shut(
    producer: Producer, house: Workshop, clock: Clock, client: redis.Redis
) -> None:
    fill(producer, 3)
    client.hset(house.store.keys.gate("send"), "until", str(clock() - 1))
    assert house.store.claim("low", answered=True) is not None  # and its worker dies
    clock.advance(34)
    assert house.serve() == []
    clock.advance(2)
    assert sum(house.serve()) == 2


def test_what_must_end_ends_while_it_is_closed(
    producer: Producer, house: Workshop, clock: Clock, client: redis.Redis, settings: Settings
) -> None:
    lapsed = fill(producer, 1, priority="low", onUnsure="park")
    lease = house.store.claim("low", answered=True)
    assert lease is not None
    house.store.begin(lease, lease.messages)
    waiting = fill(producer, 250, priority="low")
    short = fill(producer, 5, priority="low", ttlSec=60)
    client.hset(house.store.keys.gate("send"), "until", str(clock() + 10**12))
    clock.advance(130)
    for _ in range(4):
        assert house.serve() == []
    assert statuses(producer, lapsed) == ["unconfirmed"]
    assert set(statuses(producer, short)) == {"expired"}
    assert set(statuses(producer, waiting)) == {"queued"}


def test_polling_has_a_gate_of_its_own(producer: Producer, house: Workshop, clock: Clock) -> None:
    ids = fill(producer, 10)
    house.serve()
    house.provider.statuses = Retryable("error-system", whole=True)
    for _ in range(5):
        clock.advance(400)
        assert house.poll() == [10]
    assert "until" in house.gate("poll") and house.gate("send") == {}
    assert house.poll() == []
    fill(producer, 1)
    assert house.serve() == [1]
    clock.advance(400)
    assert house.poll() == [1]
    house.provider.statuses = Statuses({})
    clock.advance(400)
    assert sum(house.poll()) == 11
    assert house.gate("poll") == {}
    assert set(statuses(producer, ids)) == {"submitted"}


def test_after_a_failed_poll_one_at_a_time_is_asked_for_until_one_is_answered(
    producer: Producer, house: Workshop, clock: Clock, settings: Settings
) -> None:
    # Given two requests for statuses that are out at once, of several that are due
    few = Settings(namespace=settings.namespace, status_batch_size=2)
    store = Store(house.client, few, clock)
    fill(producer, 10)
    house.serve()
    clock.advance(400)
    first, second = store.claim_watched(True), store.claim_watched(False)
    assert first and second and second.more

    def fail(lease: Any) -> None:
        outcome = Retryable("ReadTimeout", whole=True)
        move = Move(
            lease.messages[0].id, Write(Status.SUBMITTED, Step("stay", clock() + 4 * 10**8))
        )
        assert store.settle(lease, [move], after_statuses(outcome, 1.0, few)) == ([], "")

    # When one fails, then one goes out, and no other until it is answered
    fail(first)
    clock.advance(0.1)
    third = store.claim_watched(True)
    assert third and not third.more
    assert store.claim_watched(True) is None
    fail(second)  # begun before it: says nothing of it
    assert store.claim_watched(True) is None
    fail(third)
    assert store.claim_watched(True) is not None
    assert store.claim_watched(True) is None
    # Or until it has had all its time
    clock.advance(few.deadline + 0.1)
    assert store.claim_watched(True) is not None


def test_events_tell_nothing_of_pauses(
    producer: Producer, house: Workshop, client: redis.Redis, settings: Settings
) -> None:
    id = producer.enqueue(text_job())
    house.provider.outcome = Blocked("error-auth")
    house.serve()
    assert events_of(client, settings, id) == []

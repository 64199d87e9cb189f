"""Suppressed numbers, by both faces: nothing of the lower lanes is sent to them, and it is told."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable
from contextlib import ExitStack, closing
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Any

import pytest
import redis

from tests.awaited import Loop, awaited
from tests.conftest import (
    ROOT,
    Clock,
    Simulator,
    Start,
    common_job,
    events_of,
    iso_in,
    text_job,
    wait_for,
)
from tests.workshop import DAY, Workshop, entry
from viber_courier import (
    ConfigError,
    InvalidMessage,
    Producer,
    QueueFull,
    StoreUnavailable,
    Suppression,
)
from viber_courier.schemas.instants import iso
from viber_courier.schemas.settings import Settings
from viber_courier.schemas.suppression import NumberHash
from viber_courier.store.connection import connect
from viber_courier.worker.outcome import (
    Accepted,
    NotSent,
    RequestRefused,
    Retryable,
    Statuses,
    Unsure,
)

KEY = "a key of sixteen or more characters"
HOUR = 3600
PHONE, OTHER = "79250000001", "79250000002"
ENTRY = Suppression(hash="x" * 16, key="k", reason="r", since="2026-01-01T00:00:00Z", until=None)


@pytest.fixture(params=["blocking", "asyncio"])
def face(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def settings(settings: Settings) -> Settings:
    return replace(settings, suppression_key=KEY)


@pytest.fixture
def desk(client: redis.Redis, settings: Settings, clock: Clock) -> Workshop:
    return Workshop(client, settings, clock)


def low(address: str = PHONE, **fields: Any) -> dict[str, Any]:
    return text_job(priority="low", address=address, **fields)


def ends(client: redis.Redis, settings: Settings) -> dict[str, tuple[str, str | None]]:
    """Status and reason of each message's only event."""
    told = [(e["subject"], e["data"]) for e in events_of(client, settings)]
    assert len(told) == len(dict(told))
    return {id: (data["status"], data["reason"]) for id, data in told}


SUPPRESSED = ("rejected", "suppressed")


def test_a_number_is_on_the_list_from_add_to_remove(producer: Producer) -> None:
    listed = producer.suppressions
    assert listed.get(PHONE) is None and list(listed.list()) == []
    assert listed.add(PHONE, "asked us to stop") is True
    assert listed.add("+" + PHONE, 'said "no, thanks" again') is False  # the same number
    found = listed.get(PHONE)
    assert found == next(listed.list())
    assert (found.reason, found.until) == ('said "no, thanks" again', None)
    assert abs(datetime.fromisoformat(found.since) - datetime.now(UTC)) < timedelta(minutes=1)
    assert list(listed.among([OTHER, PHONE])) == [PHONE]
    assert (listed.remove(OTHER), listed.remove(PHONE), listed.remove(PHONE)) == (
        False,
        True,
        False,
    )
    assert listed.get(PHONE) is None and list(listed.list()) == []


def test_redis_holds_hashes_only(producer: Producer, client: redis.Redis) -> None:
    producer.suppressions.add_many([PHONE, OTHER], "by hand")
    key = f"{{{producer.settings.namespace}}}:suppressed"
    held: Any = client.hgetall(key)
    assert PHONE not in str(held) and OTHER not in str(held)
    assert len(held) == 3 and held["key"] == NumberHash(KEY).fingerprint
    another = NumberHash("b" + KEY)
    assert another.of(PHONE) not in held and NumberHash(KEY).of(PHONE) in held
    assert KEY not in repr(producer.settings)


def test_a_number_is_suppressed_until_an_instant(producer: Producer) -> None:
    listed, now = producer.suppressions, datetime.now(UTC)
    listed.add(PHONE, "for a day", now + timedelta(days=1))
    assert listed.get(PHONE).until == iso(now.timestamp() + 86400)
    for over in (now - timedelta(seconds=1), datetime(1970, 1, 1, tzinfo=UTC)):
        listed.add(OTHER, "was", over)
        assert listed.get(OTHER) is None
    assert [each.reason for each in listed.list()] == ["for a day"]
    assert listed.add(OTHER, "again") is True  # it was over
    with pytest.raises(ValueError, match="zone"):
        listed.add(PHONE, "x", datetime(2030, 1, 1))


def test_sweeps_remove_what_is_over_for_a_day_a_page_each(
    producer: Producer, client: redis.Redis, desk: Workshop
) -> None:
    # Given numbers suppressed for an hour, for two days and for good
    key, now, listed = desk.store.keys.suppressed, datetime.now(UTC), producer.suppressions
    phones = [f"7925{n:07}" for n in range(3000)]
    listed.add_many(phones[:2500], "an hour", now + timedelta(hours=1))
    listed.add_many(phones[2500:2600], "two days", now + timedelta(days=2))
    listed.add_many(phones[2600:], "for good")
    # When sweeps run for less than a day after the first have ended, then all are there
    desk.clock.advance(DAY)
    for _ in range(20):
        desk.store.sweep()
    assert client.hlen(key) == 3001
    # When they go on, then these are gone, little by little, and no other
    desk.clock.advance(2 * HOUR)
    left = [3001]
    while left[-1] > 501:
        assert len(left) < 30
        desk.store.sweep()
        left.append(client.hlen(key))
    assert max(before - after for before, after in pairwise(left)) < 1000
    assert [*map(bool, listed.among(phones))] == [True] * 500
    assert client.hget(key, "key") == NumberHash(KEY).fingerprint


def test_wrong_numbers_and_reasons_are_refused_without_repeating_them(producer: Producer) -> None:
    for phone in ("8 925 000", "", None, "0792500000011"):
        with pytest.raises(InvalidMessage) as caught:
            producer.suppressions.add_many([PHONE, phone], "x")
        assert caught.value.row == 1 and "925" not in str(caught.value)
    for reason in ("", "x" * 65, "a\nb"):
        with pytest.raises(ValueError, match="reason"):
            producer.suppressions.add(PHONE, reason)
    assert list(producer.suppressions.list()) == []


@pytest.mark.parametrize("call", ["add", "remove", "get", "among", "list", "import_"])
def test_without_a_key_it_says_so_and_refuses(
    client: redis.Redis, settings: Settings, face: str, call: str
) -> None:
    settings = replace(settings, suppression_key="")
    with closing(Loop()) as loop:
        app = Producer(settings, client=client)
        if face == "asyncio":
            app = awaited(loop, settings, client)
        calls: dict[str, Callable[[], Any]] = {
            "add": lambda: app.suppressions.add(PHONE, "x"),
            "remove": lambda: app.suppressions.remove(PHONE),
            "get": lambda: app.suppressions.get(PHONE),
            "among": lambda: app.suppressions.among([PHONE]),
            "list": lambda: list(app.suppressions.list()),
            "import_": lambda: app.suppressions.import_([ENTRY]),
        }
        with pytest.raises(ConfigError, match="COURIER_SUPPRESSION_KEY"):
            calls[call]()
        assert app.enqueue(low())  # and all else is as before
        if face == "asyncio":
            app.close()


def test_a_list_of_another_key_is_refused_and_nothing_is_stored(
    client: redis.Redis, settings: Settings, producer: Producer
) -> None:
    producer.suppressions.add(PHONE, "x")
    other = Producer(replace(settings, suppression_key="b" + KEY), client=client)
    keys = NumberHash(KEY).fingerprint, NumberHash("b" + KEY).fingerprint
    for call in (
        lambda: other.suppressions.add(OTHER, "x"),
        lambda: other.suppressions.get(OTHER),
        lambda: list(other.suppressions.list()),
        lambda: other.enqueue(low(id="a")),
        lambda: other.enqueue_many([{"address": OTHER}], common_job(priority="normal")),
    ):
        with pytest.raises(
            StoreUnavailable, match=rf"{keys[0]}.*COURIER_SUPPRESSION_KEY.*{keys[1]}"
        ):
            call()
    assert other.get("a") is None
    assert other.enqueue(text_job(priority="high"))  # a code leaves


def test_exported_hashes_can_be_imported_under_the_same_key_only(
    client: redis.Redis, settings: Settings, producer: Producer
) -> None:
    soon, later = (datetime.now(UTC) + timedelta(days=days) for days in (1, 2))
    there = Producer(replace(settings, namespace=settings.namespace + "b"), client=client)
    there.suppressions.add(PHONE, "for good")
    there.suppressions.add(OTHER, "later", later)
    entries = list(there.suppressions.list())
    for wrong in ({"key": "ffff"}, {"hash": "short"}, {"reason": ""}, {"since": "today"}):
        with pytest.raises(ValueError, match=r"key ffff|16|reason|ISO"):
            producer.suppressions.import_([replace(entries[0], **wrong)])
    producer.suppressions.add(PHONE, "soon", soon)
    assert producer.suppressions.import_(entries) == 1
    assert by_hash(producer) == by_hash(there)
    # what holds longer stays
    assert there.suppressions.add(OTHER, "for good") is False
    assert there.suppressions.import_(entries) == 0
    assert there.suppressions.get(OTHER).until is None
    assert getattr(producer.suppressions, "import")(entries) == 0


def by_hash(producer: Producer) -> dict[str, Suppression]:
    return {each.hash: each for each in producer.suppressions.list()}


def test_a_suppressed_job_is_stored_and_ends_at_once(
    producer: Producer, client: redis.Redis, settings: Settings, desk: Workshop
) -> None:
    producer.suppressions.add(PHONE, "x")
    id = producer.enqueue(low(metadata={"order": 7}, source="crm"))
    (event,) = events_of(client, settings)
    assert (event["type"], event["subject"]) == ("viber.message.rejected", id)
    assert event["data"] | {"reason": "suppressed", "attempts": 0, "final": True} == event["data"]
    assert event["data"]["metadata"] == {"order": 7} and event["data"]["source"] == "crm"
    record = producer.get(id)
    assert record is not None and (record.status, record.reason) == SUPPRESSED
    assert [letter.id for letter in producer.dead.list()] == [id]
    assert desk.ids() == []
    assert client.hget(desk.store.keys.counts, "rejected:suppressed") == "1"
    again: Any = {"id": id, **low(metadata={"order": 7}, source="crm")}
    assert producer.enqueue(again) == id  # repeated
    assert len(events_of(client, settings)) == 1


@pytest.mark.parametrize(
    ("job", "obeys"),
    [
        ({"priority": "low"}, True),
        ({"priority": "normal"}, True),
        ({"priority": "normal", "ignoreSuppression": False}, True),
        ({"priority": "low", "ignoreSuppression": True}, False),
        ({"priority": "low", "ignoreSuppression": "true"}, False),
        ({"priority": "high"}, False),
        ({"priority": "realtime"}, False),
    ],
)
def test_normal_and_low_obey_unless_the_job_ignores_it(
    producer: Producer,
    client: redis.Redis,
    settings: Settings,
    desk: Workshop,
    job: Any,
    obeys: bool,
) -> None:
    # Given a message from before, and one from after its number was suppressed
    before = producer.enqueue(text_job(**job))
    producer.suppressions.add(PHONE, "x")
    after = producer.enqueue(text_job(**job))
    # When a worker comes
    desk.sender.serve("low")
    # Then both were sent, or none
    assert desk.provider.sizes == ([] if obeys else [2])
    assert ends(client, settings) == dict.fromkeys(
        (before, after), SUPPRESSED if obeys else ("submitted", None)
    )


def test_rows_that_are_suppressed_are_told_and_the_others_leave(
    producer: Producer, client: redis.Redis, settings: Settings, desk: Workshop
) -> None:
    rows: list[Any] = [{"address": f"7925{i:07}"} for i in range(1200)]
    stopped = [3, 499, 500, 1199]
    producer.suppressions.add_many((rows[n]["address"] for n in stopped), "x")
    rows[7] = {"address": "wrong"}
    told: list[tuple[int, Any, str]] = []
    refused: list[int] = []
    ids = producer.enqueue_many(
        rows,
        common_job(priority="low"),
        on_invalid=lambda number, row, error: refused.append(number),
        on_suppressed=lambda number, row, id: told.append((number, row, id)),
    )
    assert refused == [7] and len(ids) == 1199
    assert [(number, row) for number, row, _ in told] == [(n, rows[n]) for n in stopped]
    assert [id for *_, id in told] == [ids[n - (n > 7)] for n in stopped]
    assert ends(client, settings) == {id: SUPPRESSED for *_, id in told}
    assert desk.provider.sizes == []
    while claimed := desk.ids():
        assert not {id for *_, id in told}.intersection(claimed)


def test_rows_stored_before_the_queue_was_full_are_told(
    client: redis.Redis, settings: Settings, face: str
) -> None:
    # Given room for five more, and rows to suppressed numbers before and after them
    tight = replace(settings, max_queued=5)
    with ExitStack() as stack:
        made: Any = Producer(tight, client=client)
        if face == "asyncio":
            loop = stack.enter_context(closing(Loop()))
            made = stack.enter_context(closing(awaited(loop, tight, client)))
        made.suppressions.add_many([PHONE, OTHER], "x")
        rows = [{"id": f"m{n}", "address": f"7925111{n:04}"} for n in range(12)]
        rows[1]["address"] = rows[11]["address"] = PHONE
        told: list[str] = []
        with pytest.raises(QueueFull) as full:
            made.enqueue_many(
                rows, common_job(priority="low"), on_suppressed=lambda n, row, id: told.append(id)
            )
    # Then the app knows of each row that is accepted what became of it
    assert "m1" in full.value.accepted and "m11" not in full.value.accepted
    assert told == ["m1"]


def test_a_row_overrides_what_its_common_part_ignores(producer: Producer) -> None:
    producer.suppressions.add(PHONE, "x")
    told: list[int] = []
    rows: list[Any] = [{}, {"ignoreSuppression": None}, {"ignoreSuppression": False}]
    producer.enqueue_many(
        [{"address": PHONE, **row} for row in rows],
        common_job(priority="low", ignoreSuppression=True),
        on_suppressed=lambda number, row, id: told.append(number),
    )
    assert told == [1, 2]


def test_a_repeated_call_ends_and_tells_what_a_lost_one_has_left(
    producer: Producer, client: redis.Redis, settings: Settings, face: str
) -> None:
    # Given a call whose app dies between storing and ending
    producer.suppressions.add_many([PHONE, OTHER], "x")
    rows: Any = [{"id": "a", "address": PHONE}, {"id": "b", "address": OTHER}]
    lost = Producer(settings, client=client)

    async def die(messages: Any) -> Any:
        raise StoreUnavailable("away")

    lost._calls._endings.end = die  # type: ignore[method-assign]
    with pytest.raises(StoreUnavailable):
        lost.enqueue_many(rows, common_job(priority="low"))
    assert events_of(client, settings) == []
    # When it is repeated twice
    for _ in range(2):
        told: list[str] = []
        ids = producer.enqueue_many(
            rows,
            common_job(priority="low"),
            on_suppressed=lambda n, row, id, to=told: to.append(id),
        )
        assert ids == told == ["a", "b"]
    # Then each has ended once
    assert ends(client, settings) == {"a": SUPPRESSED, "b": SUPPRESSED}


def test_a_worker_ends_what_an_app_left_and_counts_no_attempt(
    producer: Producer, client: redis.Redis, settings: Settings, desk: Workshop
) -> None:
    waits = producer.enqueue(low())
    scheduled = producer.enqueue(low(sendAt=iso_in(60)))
    other = producer.enqueue(low(OTHER))
    producer.suppressions.add(PHONE, "x")
    desk.sender.serve("low")
    assert desk.provider.sizes == [1]
    assert ends(client, settings) == {waits: SUPPRESSED, other: ("submitted", None)}
    record = producer.get(waits)
    assert record is not None and record.attempts == 0
    desk.clock.advance(61)
    desk.sender.serve("low")
    assert ends(client, settings)[scheduled] == SUPPRESSED
    assert desk.provider.sizes == [1]


def test_what_is_suppressed_takes_nothing_of_the_rate(
    producer: Producer, client: redis.Redis, settings: Settings, clock: Clock
) -> None:
    desk = Workshop(client, replace(settings, rate_limit=10.0, rate_burst=10.0), clock)
    stopped = [f"7926000{n:04}" for n in range(30)]
    for phone in (*stopped, *[OTHER] * 10):
        producer.enqueue(low(phone))
    producer.suppressions.add_many(stopped, "x")
    clock.freeze()
    clock.advance(60)
    desk.sender.serve("low")
    assert desk.provider.sizes == [10]


def test_what_is_suppressed_holds_no_gate_shut(producer: Producer, desk: Workshop) -> None:
    # Given a gate that is ajar, and what waits is to suppressed numbers, but for one
    producer.enqueue(low(OTHER))
    desk.clock.freeze()
    desk.provider.outcome = NotSent("NewConnectionError")
    while "until" not in desk.gate():
        desk.sender.serve("low")
        desk.clock.advance(0.001)
    ids = [producer.enqueue(low(onUnsure="resend")) for _ in range(30)]
    producer.suppressions.add(PHONE, "x")
    desk.clock.advance(400)
    desk.provider.outcome, desk.provider.sizes = Accepted(1), []
    # Then tasks come to that one, without waiting for a request's deadline
    for _ in range(30):  # one or two
        desk.sender.serve("low") if "until" in desk.gate() else None
    assert desk.provider.sizes == [1] and "until" not in desk.gate()
    records = [producer.get(id) for id in ids]
    assert {(r.status, r.reason, r.attempts) for r in records if r} == {(*SUPPRESSED, 0)}


def test_retries_halves_and_unsure_resends_obey(
    producer: Producer, client: redis.Redis, settings: Settings, desk: Workshop
) -> None:
    def half_way(outcome: Any, **job: Any) -> str:
        id = producer.enqueue(low(OTHER, **job))
        desk.provider.outcome = outcome
        desk.sender.serve("low")
        return id

    retried = half_way(Retryable("error-system"))
    unsure = half_way(Unsure("ReadTimeout"), onUnsure="resend")
    producer.suppressions.add(OTHER, "x")
    desk.clock.advance(400)
    desk.provider.outcome, desk.provider.sizes = Accepted(1), []
    desk.sender.serve("low")
    assert desk.provider.sizes == []
    # the latter may have been sent: it ends as other messages do
    assert ends(client, settings) == {retried: SUPPRESSED, unsure: ("unconfirmed", "suppressed")}
    # and a batch that is refused whole has a number suppressed before its halves are sent
    halved = [producer.enqueue(low(f"7925000010{n}")) for n in range(4)]

    def send(body: bytes, count: int) -> Any:
        producer.suppressions.add("79250000100", "x")
        desk.provider.sizes.append(count)
        if count == 4:
            return [RequestRefused("error-syntax")] * 4
        return desk.provider.outcomes(count, Accepted(1))

    desk.provider.send = send  # type: ignore[method-assign]
    desk.sender.serve("low")
    assert desk.provider.sizes == [4, 1, 2]
    assert ends(client, settings)[halved[0]] == SUPPRESSED


def test_a_dead_letter_sent_again_obeys_and_keeps_its_option(
    producer: Producer, client: redis.Redis, settings: Settings, desk: Workshop
) -> None:
    (plain,) = desk.end("rejected", producer.enqueue(low()))
    (heedless,) = desk.end("rejected", producer.enqueue(low(OTHER, ignoreSuppression=True)))
    producer.suppressions.add_many([PHONE, OTHER], "x")
    assert producer.dead.job(heedless)["ignoreSuppression"] is True
    assert "ignoreSuppression" not in producer.dead.job(plain)
    again = {id: producer.dead.resend(id) for id in (plain, heedless)}
    stopped = producer.get(again[plain])
    assert stopped is not None and (stopped.status, stopped.reason) == SUPPRESSED
    (event,) = events_of(client, settings, again[plain])
    assert event["data"]["resendOf"] == plain
    assert desk.ids() == [again[heedless]]


def test_a_crash_after_begin_leaves_nothing_inside(
    producer: Producer, client: redis.Redis, settings: Settings, desk: Workshop
) -> None:
    id = producer.enqueue(low())
    lease = desk.claim()
    producer.suppressions.add(PHONE, "x")
    held = desk.begin(lease)
    assert (held.messages, [m.id for m in held.suppressed]) == ([], [id])
    record = producer.get(id)
    assert record is not None and record.status == "queued"  # not sending: the worker dies here
    desk.clock.advance(settings.lease + 1)
    desk.sender.serve("low")
    assert ends(client, settings) == {id: SUPPRESSED}


def blocked(desk: Workshop, *, word: str = "undelivered", sms: Any = ()) -> None:
    """One poll that says of all watched messages that their people have blocked the sender."""
    lease = desk.claim_watched()
    said = {
        m.provider_id: entry(m.provider_id, word, error="user-blocked", sms=sms)
        for m in lease.messages
    }
    moves = desk.decider.polled(lease.messages, Statuses(said), lease.server_now())
    desk.store.settle(lease, moves)


@pytest.mark.parametrize("own", ["row", "content"])
def test_who_has_blocked_us_is_suppressed_before_it_is_told(
    producer: Producer, client: redis.Redis, settings: Settings, desk: Workshop, own: str
) -> None:
    if own == "row":  # its own content is the number alone
        producer.enqueue_many([{"address": PHONE}], common_job())
    else:
        producer.enqueue(text_job(address=PHONE))
    desk.answer()
    desk.clock.advance(20)
    blocked(desk)
    found = producer.suppressions.get(PHONE)
    assert found is not None and (found.reason, found.until) == ("user-blocked", None)
    assert client.hget(desk.store.keys.counts, "suppressed:blocked") == "1"
    id = producer.enqueue(low())
    assert ends_of(client, settings, id) == [SUPPRESSED]


def test_a_suppressed_probe_holds_up_no_other(client: redis.Redis, desk: Workshop) -> None:
    # Given a closed gate, and a message whose number is suppressed while it waits
    desk.producer.enqueue(low())
    desk.producer.suppressions.add(PHONE, "asked")
    client.hset(desk.store.keys.gate("send"), mapping={"until": 1, "reason": "test"})
    # When it is the probe, then the next one needn't wait for it
    assert desk.serve() == []
    desk.producer.enqueue(low(OTHER))
    desk.clock.advance(1)
    assert desk.serve() == [1] and desk.gate() == {}


def ends_of(client: redis.Redis, settings: Settings, id: str) -> list[Any]:
    return [(e["data"]["status"], e["data"]["reason"]) for e in events_of(client, settings, id)]


def test_who_has_blocked_us_stays_as_long_as_the_setting_says(
    client: redis.Redis, settings: Settings, clock: Clock
) -> None:
    desk = Workshop(client, replace(settings, suppression_expiry=3600.0), clock)
    desk.producer.enqueue(text_job(address=PHONE))
    desk.producer.enqueue(text_job(address=OTHER))
    desk.producer.suppressions.add(OTHER, "for good")
    desk.answer()
    clock.advance(20)
    blocked(desk)
    now = datetime.fromtimestamp(clock() / 1e6, UTC)
    found = desk.producer.suppressions.get(PHONE)
    assert found is not None and found.until is not None
    until = datetime.fromisoformat(found.until)
    assert abs(until - now - timedelta(hours=1)) < timedelta(minutes=1)
    # an operator's end is not replaced by an earlier one
    kept = desk.producer.suppressions.get(OTHER)
    assert kept is not None and (kept.reason, kept.until) == ("for good", None)


@pytest.mark.parametrize("change", [{"suppress_blocked": "off"}, {"suppression_key": ""}])
def test_a_setting_or_no_key_keeps_blocked_numbers_off_the_list(
    client: redis.Redis, settings: Settings, clock: Clock, change: Any
) -> None:
    desk = Workshop(client, replace(settings, **change), clock)
    id = desk.producer.enqueue(text_job())
    desk.answer()
    clock.advance(20)
    blocked(desk)
    assert ends_of(client, settings, id)[-1] == ("undelivered", "user-blocked")
    assert client.exists(desk.store.keys.suppressed) == 0


def test_a_worker_with_another_key_goes_on_and_says_so(
    client: redis.Redis, settings: Settings, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    Producer(settings, client=client).suppressions.add(OTHER, "x")
    desk = Workshop(client, replace(settings, suppression_key="b" + KEY), clock)
    id = desk.producer.enqueue(text_job())
    desk.answer()
    clock.advance(20)
    blocked(desk)
    assert ends_of(client, settings, id)[-1] == ("undelivered", "user-blocked")
    (line,) = [r for r in caplog.records if r.getMessage() == "redis refuses"]
    assert "COURIER_SUPPRESSION_KEY" in str(vars(line)["error"]) and PHONE not in str(vars(line))


def test_erased_content_suppresses_nobody(
    client: redis.Redis, settings: Settings, desk: Workshop
) -> None:
    id = desk.producer.enqueue(text_job())
    desk.answer()
    client.hdel(desk.store.keys.records + id, "row")
    client.delete(desk.store.keys.contents + id)
    desk.clock.advance(20)
    blocked(desk)
    assert ends_of(client, settings, id)[-1] == ("undelivered", "user-blocked")
    assert client.exists(desk.store.keys.suppressed) == 0


def test_one_call_of_redis_stores_and_looks_up(redis_server: Any, settings: Settings) -> None:
    with connect(redis_server.url) as client:
        app = Producer(settings, client=client)
        app.suppressions.add(PHONE, "x")
        for number in (OTHER, PHONE):  # loads the scripts
            app.enqueue(low(number))
        before = calls(client)
        app.enqueue_many(
            [{"address": f"7926{n:07}"} for n in range(500)], common_job(priority="low")
        )
        assert calls(client) - before == 1
        # And one more call ends those that are suppressed, also when it is repeated
        rows: Any = [{"id": f"m{n}", "address": PHONE} for n in range(50)]
        told: list[int] = []
        for _ in range(2):
            before = calls(client)
            app.enqueue_many(
                rows, common_job(priority="low"), on_suppressed=lambda n, *_: told.append(n)
            )
            assert calls(client) - before == 2
        assert told == [*range(50)] * 2


def calls(client: redis.Redis) -> int:
    stats: Any = client.info("commandstats")
    return int(stats["cmdstat_evalsha"]["calls"])


def test_the_page_s_example_runs_as_written(redis_server: Any, namespace: str) -> None:
    text = (ROOT / "docs" / "suppressions.md").read_text(encoding="utf-8")
    found = re.search(r"<!-- run by [^>]+ -->\n```python\n(.+?)```", text, re.S)
    assert found is not None
    run = subprocess.run(
        [sys.executable, "-c", found[1]],
        env={
            **os.environ,
            "COURIER_REDIS_URL": redis_server.url,
            "COURIER_NAMESPACE": namespace,
            "COURIER_SUPPRESSION_KEY": KEY,
        },
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    assert run.stdout == "True complained\nrow 0 is suppressed\nrejected suppressed\n"


@pytest.mark.slow
def test_workers_add_who_blocks_us_and_send_nothing_more_to_them(
    system_env: dict[str, str], start_worker: Start, simulator: Simulator
) -> None:
    # Given real workers, and a person who has blocked the sender: the simulator's ending 20
    env = {**system_env, "COURIER_SUPPRESSION_KEY": KEY}
    worker = start_worker(COURIER_SUPPRESSION_KEY=KEY)
    app = Producer.from_env(env)
    address = "79250000020"
    invoice = app.enqueue(text_job(address, priority="high"))
    wait_for(lambda: (record := app.get(invoice)) and record.reason == "user-blocked")
    # Then the number is suppressed, for what comes and for what waits
    assert address in app.suppressions
    sent = len(simulator.accepted())
    for lane in ("low", "normal"):
        id = app.enqueue(text_job(address, priority=lane))
        assert ends_of(app.redis, app.settings, id) == [SUPPRESSED]
    app.suppressions.remove(address)
    waits = app.enqueue(text_job(address, priority="low", sendAt=iso_in(5)))
    app.suppressions.add(address, "by hand")
    wait_for(lambda: ends_of(app.redis, app.settings, waits) == [SUPPRESSED])
    # And other lanes go on
    code = app.enqueue(text_job(address, priority="realtime"))
    wait_for(lambda: (record := app.get(code)) and record.provider_id)
    assert len(simulator.accepted()) == sent + 1
    assert address not in worker.log and NumberHash(KEY).of(address) not in worker.log
    app.close()

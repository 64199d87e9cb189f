"""The store's contract, on a real Redis and on fakeredis: leases, fencing, events, expiry."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import redis

from tests.conftest import Clock, common_job, events_of, iso_in, text_job
from tests.workshop import Workshop
from viber_courier import Producer
from viber_courier.schemas.settings import Settings
from viber_courier.schemas.status import Status
from viber_courier.store.leases import Lease
from viber_courier.store.records import Waiting, merge
from viber_courier.store.writes import Move, Write
from viber_courier.worker.outcome import Accepted, NotSent, Refused, Retryable, Unsure
from viber_courier.worker.policy import triage
from viber_courier.worker.send import Tally

SEND = "{{{}}}:lane:high:0"


@pytest.fixture
def desk(client: redis.Redis, settings: Settings, clock: Clock) -> Workshop:
    return Workshop(client, settings, clock)


def test_the_most_urgent_lane_is_served_first_and_only_at_or_above_the_one_asked(
    producer: Producer, desk: Workshop
) -> None:
    low = producer.enqueue(text_job(priority="low"))
    normal = producer.enqueue(text_job(priority="normal"))
    realtime = producer.enqueue(text_job(priority="realtime"))
    high = producer.enqueue(text_job(priority="high"))
    assert desk.ids("normal") == [realtime]
    assert desk.ids("realtime") == []
    assert desk.ids("low") == [high]
    assert desk.ids("normal") == [normal]
    assert desk.ids("normal") == []
    assert desk.ids("low") == [low]


def test_a_lane_is_first_in_first_out_within_and_between_chunks(
    producer: Producer, desk: Workshop
) -> None:
    rows = [{"address": f"7925{i:07}"} for i in range(120)]
    common = common_job()
    first = producer.enqueue_many(rows, common=common)
    second = producer.enqueue_many(rows[:30], common=common)
    assert desk.ids() + desk.ids() == first + second


def test_a_scheduled_message_waits_for_its_instant(
    producer: Producer, desk: Workshop, clock: Clock
) -> None:
    id = producer.enqueue(text_job(sendAt=iso_in(3600)))
    assert desk.ids() == []
    clock.advance(3599)
    assert desk.ids() == []
    clock.advance(2)
    assert desk.ids() == [id]


def test_the_two_values_of_the_flag_never_share_a_claim(producer: Producer, desk: Workshop) -> None:
    plain = [producer.enqueue(text_job()) for _ in range(3)]
    again = [producer.enqueue(text_job(resendSms=True)) for _ in range(3)]
    assert desk.ids() == plain
    assert desk.ids() == again


def test_a_claimed_message_is_nobody_elses_until_its_lease_is_over(
    producer: Producer, desk: Workshop, clock: Clock
) -> None:
    id = producer.enqueue(text_job())
    assert desk.ids() == [id]
    clock.advance(119)
    assert desk.ids() == []
    clock.advance(2)
    lease = desk.claim()
    assert [(m.id, m.lapses, m.lapsed_inside) for m in lease.messages] == [(id, 1, False)]


def test_a_lapse_inside_a_request_is_remembered_through_further_lapses(
    producer: Producer, desk: Workshop, clock: Clock
) -> None:
    id = producer.enqueue(text_job())
    desk.begin(desk.claim())
    record = producer.get(id)
    assert record is not None and (record.status, record.attempts) == (Status.SENDING, 1)
    for lapse in (1, 2):
        clock.advance(121)
        (message,) = desk.claim().messages
        assert (message.lapsed_inside, message.lapses) == (True, lapse)


def test_a_claim_whose_answer_was_lost_gives_the_same_batch_again(
    producer: Producer, desk: Workshop, client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids = [producer.enqueue(text_job()) for _ in range(3)]
    later: list[str] = []
    real = desk.store._scripts["claim"]

    def lost_once(**call: Any) -> Any:
        answer = real(**call)
        if not later:
            later.append(producer.enqueue(text_job()))
            raise redis.TimeoutError("the answer is lost")
        return answer

    monkeypatch.setitem(desk.store._scripts, "claim", lost_once)
    lease = desk.claim()
    assert {m.id for m in lease.messages} == set(ids)
    assert [m.lapses for m in lease.messages] == [0, 0, 0]
    assert desk.ids() == later


def test_begin_leaves_out_what_another_claim_has_taken(
    producer: Producer, desk: Workshop, clock: Clock
) -> None:
    ids = [producer.enqueue(text_job()) for _ in range(2)]
    stalled = desk.claim()
    clock.advance(121)
    other = desk.claim()
    assert {m.id for m in other.messages} == set(ids)
    assert desk.begin(stalled).messages == []
    assert {m.id for m in desk.begin(other).messages} == set(ids)


def test_begin_leaves_out_what_was_cancelled_meanwhile(producer: Producer, desk: Workshop) -> None:
    gone, kept = producer.enqueue(text_job()), producer.enqueue(text_job())
    lease = desk.claim()
    assert producer.cancel(gone)
    assert [m.id for m in desk.begin(lease).messages] == [kept]


def test_repeats_of_begin_and_settle_give_the_first_answer(
    producer: Producer, desk: Workshop, monkeypatch: pytest.MonkeyPatch, client: redis.Redis
) -> None:
    for name in ("begin", "settle"):
        real = desk.store._scripts[name]

        def twice(real: Callable[..., Any] = real, **call: Any) -> Any:
            first, second = real(**call), real(**call)
            assert first == second
            return second

        monkeypatch.setitem(desk.store._scripts, name, twice)
    id = producer.enqueue(text_job())
    assert desk.settle(desk.begin(desk.claim()), Accepted(3158611117333282817)) == []
    (event,) = events_of(client, desk.settings, id)
    assert (event["id"], event["data"]["status"]) == (f"{id}:1", "submitted")
    assert client.hget(desk.store.keys.counts, "submitted") == "1"


def test_a_stalled_worker_cannot_settle_over_its_successor(
    producer: Producer, desk: Workshop, clock: Clock, client: redis.Redis
) -> None:
    id = producer.enqueue(text_job(onUnsure="resend"))
    stalled = desk.begin(desk.claim())
    clock.advance(121)
    successor = desk.claim()
    (move,) = desk.settle(stalled, Refused("error-subject-unknown"))
    assert move.id == id
    assert events_of(client, desk.settings, id) == []
    step = triage(successor.messages[0], successor.server_now(), 0.0, desk.settings)
    assert step is not None and (step.place, step.status) == ("stay", None)
    assert desk.store.settle(successor, [Move(id, Write(Status.QUEUED, step))]) == ([], "")
    record = producer.get(id)
    assert record is not None
    assert (record.status, record.attempts, record.unsure) == (Status.QUEUED, 1, 1)


def test_a_late_ok_is_recorded_unless_the_message_has_ended_or_is_inside_another_request(
    producer: Producer, desk: Workshop, clock: Clock, client: redis.Redis
) -> None:
    back, ended, inside = (producer.enqueue(text_job(onUnsure="resend")) for _ in range(3))
    first = desk.begin(desk.claim())
    clock.advance(121)
    second = desk.claim()
    again = [Move(m.id, Write(Status.QUEUED, _step(desk, m, second))) for m in second.messages]
    desk.store.settle(second, again)
    clock.advance(10)
    third = desk.claim()
    third = replace(third, messages=[m for m in third.messages if m.id != back])
    held = desk.begin(third)
    held = replace(held, messages=[m for m in held.messages if m.id == ended])
    desk.settle(held, Refused("error-address-unknown"))
    # When the first worker wakes with an answer in hand
    tally = Tally()
    for message in first.messages:
        desk.sender._too_late(first, message, Accepted(10**18), tally)
    assert tally.did == {"late": 1, "overtaken": 2}
    statuses = {id: producer.get(id).status for id in (back, ended, inside)}  # type: ignore[union-attr]
    assert statuses == {
        back: Status.SUBMITTED,
        ended: Status.UNCONFIRMED,
        inside: Status.SENDING,
    }
    assert desk.begin(third).messages == []
    # Then its event says what the record knew by then: it may have been sent twice.
    (event,) = events_of(client, desk.settings, back)
    assert (event["data"]["attempts"], event["data"]["unsure"]) == (1, 1)
    assert client.hget(desk.store.keys.counts, "late") == "2"


def test_a_late_ok_is_recorded_once(
    producer: Producer, desk: Workshop, clock: Clock, client: redis.Redis
) -> None:
    # Given a message that waits again, and two answers that come after their lease
    id = producer.enqueue(text_job(onUnsure="resend"))
    first = desk.begin(desk.claim())
    clock.advance(121)
    desk.triage()
    (move,) = desk.moves(first, Accepted(10**18))
    late = move._replace(write=move.write._replace(late="1"))
    # When both are written, by workers that saw it wait
    assert desk.store.settle(first, [late])[0] == []
    assert desk.store.settle(first, [late])[0] == [late]
    # Then one is
    assert [event["id"] for event in events_of(client, desk.settings, id)] == [f"{id}:1"]
    assert client.hget(desk.store.keys.counts, "submitted") == "1"


def test_leases_of_one_instant_differ(
    client: redis.Redis, settings: Settings, clock: Clock, producer: Producer
) -> None:
    desk = Workshop(client, Settings(namespace=settings.namespace, batch_size=1), clock)
    producer.enqueue(text_job())
    producer.enqueue(text_job())
    clock.freeze()
    one, other = desk.claim(), desk.claim()
    tokens = [one.token, other.token, desk.begin(one).token, desk.begin(other).token]
    assert len({*tokens}) == 4


def test_events_of_a_message_are_numbered_and_one_is_final(
    producer: Producer, desk: Workshop, clock: Clock, client: redis.Redis
) -> None:
    id = producer.enqueue(text_job())
    desk.answer()
    for word in ("sent", "delivered", "read"):
        clock.advance(1000)
        desk.poll_word(word)
    events = events_of(client, desk.settings, id)
    assert [event["id"] for event in events] == [f"{id}:{n}" for n in (1, 2, 3, 4)]
    assert [event["data"]["final"] for event in events] == [False, False, False, True]


def race(app: Producer, meanwhile: Callable[[], object]) -> None:
    """Something happens between the next look at a record and what is done about it."""
    look = app._calls._state

    async def look_first(id: str, get: Any) -> Any:
        app._calls._state = look  # type: ignore[method-assign]
        state = await look(id, get)
        meanwhile()
        return state

    app._calls._state = look_first  # type: ignore[method-assign]


def test_a_cancel_that_lost_the_race_to_a_request_changes_nothing(
    client: redis.Redis, settings: Settings, clock: Clock
) -> None:
    app, desk = Producer(settings, client=client), Workshop(client, settings, clock)
    id = app.enqueue(text_job())
    race(app, lambda: desk.begin(desk.claim()))
    assert app.cancel(id) is False
    record = app.get(id)
    assert record is not None and record.status == "sending"
    assert events_of(client, settings) == []


def test_a_cancel_that_lost_the_race_to_an_answer_tells_of_the_attempt(
    client: redis.Redis, settings: Settings, clock: Clock
) -> None:
    app, desk = Producer(settings, client=client), Workshop(client, settings, clock)
    id = app.enqueue(text_job(onUnsure="resend"))
    race(app, lambda: desk.answer(Unsure("ReadTimeout")))
    # It may have been sent by then, so this is no promise that it wasn't
    assert app.cancel(id) is False
    (event,) = events_of(client, settings, id)
    assert (event["data"]["status"], event["data"]["attempts"]) == ("unconfirmed", 1)


def test_only_what_is_written_is_counted(
    client: redis.Redis, settings: Settings, clock: Clock, producer: Producer
) -> None:
    # Given two messages of which one is enqueued twice, and one another's by the time of its answer
    desk = Workshop(client, Settings(namespace=settings.namespace, batch_size=2), clock)
    producer.enqueue(text_job(id="one"))
    producer.enqueue_many([text_job(id="one"), text_job(id="other")])
    lease = desk.begin(desk.claim())
    clock.advance(121)
    hasty = Workshop(client, Settings(namespace=settings.namespace, batch_size=1), clock)
    hasty.claim()
    # When the answer is written
    (lost,) = desk.settle(lease, Accepted(10**18))
    # Then each is counted once in each status that it entered
    counts: Any = client.hgetall(desk.store.keys.counts)
    assert (lost.id, counts["queued"], counts["submitted"]) == ("one", "2", "1")


def _step(desk: Workshop, message: Waiting, lease: Lease[Waiting]) -> Any:
    return triage(message, lease.server_now(), 0.0, desk.settings)


def test_a_retry_waits_for_its_due_time_and_keeps_its_counters(
    producer: Producer, desk: Workshop, clock: Clock
) -> None:
    id = producer.enqueue(text_job())
    desk.settle(desk.begin(desk.claim()), Retryable("error-system"))
    assert desk.ids() == []
    clock.advance(6)
    (message,) = desk.claim().messages
    assert (message.id, message.attempts, message.failures) == (id, 1, 1)


def test_bells_ring_once_until_somebody_answers(
    producer: Producer, desk: Workshop, settings: Settings
) -> None:
    for _ in range(3):
        producer.enqueue(text_job(priority="low"))
    assert desk.wakes() == ["low"]
    desk.claim("low")
    producer.enqueue(text_job(priority="low"))
    assert desk.wakes() == ["low"]


def test_a_claim_rings_again_for_what_is_left_but_only_if_no_bell_is_on_its_way(
    client: redis.Redis, settings: Settings, clock: Clock, producer: Producer
) -> None:
    desk = Workshop(client, Settings(namespace=settings.namespace, batch_size=1), clock)
    one = desk.store
    for _ in range(3):
        producer.enqueue(text_job())
    assert desk.wakes() == ["high"]
    for answered, more, words in ((True, True, ["high"]), (False, True, []), (False, False, [])):
        lease = one.claim("high", answered)
        assert isinstance(lease, Lease) and lease.more == more
        assert desk.wakes() == words


def test_the_sweep_rings_for_what_is_due_and_has_no_bell(
    producer: Producer, desk: Workshop, clock: Clock, client: redis.Redis
) -> None:
    producer.enqueue(text_job(priority="low", sendAt=iso_in(60)))
    assert desk.store.sweep() == []
    clock.advance(61)
    assert desk.store.sweep() == ["low"]
    assert desk.store.sweep() == []
    client.delete(desk.store.keys.bell("low"))
    lease = desk.begin(desk.claim())
    desk.settle(lease, Accepted(7))
    clock.advance(11)
    assert desk.store.sweep() == ["poll"]


@pytest.mark.parametrize(
    "error",
    [
        redis.ConnectionError("gone"),
        # As scripts say it up to Redis 6.2, and from 7 on.
        redis.ResponseError("Error running script: -OOM command not allowed"),
        redis.ResponseError("Error running script: -READONLY You can't write"),
        redis.exceptions.OutOfMemoryError("command not allowed when used memory > 'maxmemory'."),
        redis.exceptions.ReadOnlyError("You can't write against a read only replica."),
    ],
    ids=repr,
)
def test_an_answer_in_hand_is_settled_when_redis_takes_it(
    error: Exception, producer: Producer, desk: Workshop, monkeypatch: pytest.MonkeyPatch
) -> None:
    id = producer.enqueue(text_job())
    held = desk.begin(desk.claim())
    real, failures = desk.store._scripts["settle"], [error, error]

    def unwilling(**call: Any) -> Any:
        if failures:
            raise failures.pop()
        return real(**call)

    monkeypatch.setitem(desk.store._scripts, "settle", unwilling)
    assert desk.settle(held, Accepted(7)) == []
    assert producer.get(id).provider_id == "7"  # type: ignore[union-attr]


def test_a_fault_of_a_script_is_loud(
    producer: Producer, desk: Workshop, monkeypatch: pytest.MonkeyPatch
) -> None:
    producer.enqueue(text_job())
    held = desk.begin(desk.claim())

    def wrong(**call: Any) -> Any:
        raise redis.ResponseError("ERR Error running script")

    monkeypatch.setitem(desk.store._scripts, "settle", wrong)
    with pytest.raises(redis.ResponseError):
        desk.settle(held, Accepted(7))


@pytest.mark.parametrize("unless_within", [0.0, 3.0], ids=["beat", "listener"])
def test_the_sweep_does_not_wait_for_a_clock_that_was_set_back(
    unless_within: float, producer: Producer, desk: Workshop, clock: Clock, client: redis.Redis
) -> None:
    # A failover to a replica whose clock is behind, or a host's clock that is put right
    clock.advance(3600)
    desk.store.sweep()
    clock.advance(-3600)
    producer.enqueue(text_job(priority="low"))
    client.delete(desk.store.keys.bell("low"))
    assert desk.store.sweep(unless_within) == ["low"]
    client.delete(desk.store.keys.bell("low"))
    assert desk.store.sweep(3.0) == []


def test_the_sweep_forgets_events_past_their_retention(
    producer: Producer, desk: Workshop, clock: Clock, client: redis.Redis
) -> None:
    for _ in range(250):
        producer.enqueue(text_job())
    while (lease := desk.store.claim("low", answered=True)) is not None:
        desk.settle(desk.begin(lease), Refused("error-address-unknown"))
    assert len(events_of(client, desk.settings)) == 250
    clock.advance(desk.settings.results_retention * 0.9)
    desk.store.sweep()
    assert len(events_of(client, desk.settings)) == 250
    clock.advance(desk.settings.results_retention * 0.1 + 1)
    desk.store.sweep()
    assert len(events_of(client, desk.settings)) <= 100  # "~" trims whole nodes


def test_an_ended_message_keeps_its_record_longer_than_its_content(
    producer: Producer, desk: Workshop, client: redis.Redis
) -> None:
    short = producer.enqueue_many(
        [{"address": "79250000001"}],
        common=common_job(),
    )[0]
    long = producer.enqueue(text_job(comment="x" * 100))
    keys = desk.store.keys
    assert client.pttl(keys.records + short) == client.pttl(keys.contents + long) == -1
    desk.settle(desk.begin(desk.claim()), Refused("error-address-unknown"))
    for id in (short, long):
        assert 604_000_000 < int(client.pttl(keys.records + id)) <= 604_800_000
        assert 86_000_000 < int(client.pttl(keys.contents + id)) <= 86_400_000
        assert "79250000001" in str(client.get(keys.contents + id))
        assert "79250000001" not in str(client.hgetall(keys.records + id))


def test_common_content_is_stored_once_and_its_expiry_only_moves_away(
    producer: Producer, desk: Workshop, client: redis.Redis
) -> None:
    common = common_job()
    producer.enqueue_many([{"address": "79250000001", "ttlSec": 100000}], common=common)
    (key,) = list(client.scan_iter(f"{desk.store.keys.commons}*"))
    far = int(client.pttl(key))
    assert 186_300_000 < far <= 186_400_000
    producer.enqueue_many([{"address": "79250000002", "ttlSec": 15}], common=common)
    assert far - 5000 < int(client.pttl(key)) <= far
    producer.enqueue_many([{"address": "79250000003", "ttlSec": 200000}], common=common)
    assert int(client.pttl(key)) > far + 90_000_000
    assert list(client.scan_iter(f"{desk.store.keys.commons}*")) == [key]


def test_a_row_without_its_common_content_is_seen_as_such(
    producer: Producer, desk: Workshop, client: redis.Redis
) -> None:
    common = common_job()
    producer.enqueue_many([{"address": "79250000001"}], common=common)
    client.delete(*client.scan_iter(f"{desk.store.keys.commons}*"))
    lease = desk.claim()
    step = _step(desk, lease.messages[0], lease)
    assert (step.status, step.reason) == (Status.FAILED, "content-gone")


def test_a_member_whose_record_was_deleted_by_hand_leaves_the_lane(
    producer: Producer, desk: Workshop, client: redis.Redis
) -> None:
    id = producer.enqueue(text_job())
    client.delete(desk.store.keys.records + id)
    assert desk.claim().messages == []
    assert client.zcard(SEND.format(desk.settings.namespace)) == 0


def test_contents_merge_common_and_own_and_nulls_take_away(
    producer: Producer, desk: Workshop
) -> None:
    common = common_job(comment="c", smsText="s")
    producer.enqueue_many(
        [{"address": "79250000001", "comment": None, "subject": "Other"}], common=common
    )
    (message,) = desk.claim().messages
    expected = {**text_job(smsText="s", subject="Other")}
    assert message.content is not None
    assert merge(message.content, message.common) == expected


def test_not_sent_uses_no_attempt_against_the_limit(
    client: redis.Redis, settings: Settings, clock: Clock, producer: Producer
) -> None:
    limited = Settings(namespace=settings.namespace, max_attempts=1)
    desk = Workshop(client, limited, clock)
    id = producer.enqueue(text_job())
    for _ in range(3):
        desk.settle(desk.begin(desk.claim()), NotSent("http-503", 1.0))
        clock.advance(2)
    desk.settle(desk.begin(desk.claim()), Retryable("error-system"))
    record = producer.get(id)
    assert record is not None and (record.status, record.reason) == (Status.FAILED, "attempts")


def test_an_unsure_answer_parks_or_resends(
    producer: Producer, desk: Workshop, clock: Clock
) -> None:
    park = producer.enqueue(text_job(onUnsure="park"))
    resend = producer.enqueue(text_job(onUnsure="resend"))
    lease = desk.begin(desk.claim())
    desk.settle(lease, Unsure("ReadTimeout"))
    parked, resent = producer.get(park), producer.get(resend)
    assert parked is not None and (parked.status, parked.reason) == ("unconfirmed", "unsure")
    assert resent is not None and (resent.status, resent.unsure) == ("queued", 1)
    assert producer.cancel(resend) is False
    stopped = producer.get(resend)
    assert stopped is not None and (stopped.status, stopped.reason) == ("unconfirmed", "by-request")


def test_records_stay_small(redis_server: Any, settings: Settings) -> None:
    from viber_courier.store.connection import connect

    client = connect(redis_server.url)
    producer = Producer(settings, client=client)
    common = common_job(content={"text": "я" * 1000})

    def used() -> int:
        memory = client.info("memory")
        return int(memory["used_memory"]) - int(memory["mem_aof_buffer"])  # what waits for the disk

    before, count = used(), 5000
    ids = producer.enqueue_many([{"address": f"7925{i:07}"} for i in range(count)], common=common)
    each = (used() - before) / count
    key = f"{{{settings.namespace}}}:m:{ids[0]}"
    assert client.object("encoding", key) in ("listpack", "ziplist")
    assert each < 500, each
    client.close()


def test_events_hold_what_only_python_can_write(
    producer: Producer, desk: Workshop, client: redis.Redis
) -> None:
    id = producer.enqueue(text_job(metadata={"order": 9007199254740993, "tags": None}))
    desk.settle(desk.begin(desk.claim()), Accepted(9223372036854775807))
    (event,) = events_of(client, desk.settings, id)
    assert event["data"]["providerId"] == "9223372036854775807"
    assert event["data"]["metadata"] == {"order": 9007199254740993, "tags": None}
    assert event["data"]["sms"] == []
    record = client.hgetall(desk.store.keys.records + id)
    assert record["provider"] == "9223372036854775807"
    assert json.loads(record["metadata"])["order"] == 9007199254740993

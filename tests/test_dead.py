"""Dead letters: what enters the list, looking into it, sending again, dropping; nothing twice."""

from __future__ import annotations

import json
import pickle
import threading
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest
import redis

from tests.conftest import (
    Clock,
    Simulator,
    Start,
    common_job,
    events_of,
    iso_in,
    text_job,
    wait_for,
)
from tests.workshop import Workshop
from viber_courier import (
    ContentGone,
    CourierError,
    DeadLetter,
    NotDead,
    Producer,
    QueueFull,
    Resent,
    StoreUnavailable,
    Unconfirmed,
)
from viber_courier.ops.redis_server import RedisServer
from viber_courier.producers.testing import memory_producer
from viber_courier.schemas.errors import InvalidMessage
from viber_courier.schemas.instants import SECOND
from viber_courier.schemas.lanes import LANES
from viber_courier.schemas.settings import Settings
from viber_courier.schemas.status import DEAD
from viber_courier.store.connection import connect
from viber_courier.worker.intake import RejectionRecorder
from viber_courier.worker.outcome import Refused, Unsure


@pytest.fixture(params=["blocking", "asyncio"])
def face(request: pytest.FixtureRequest) -> str:
    """The contract of Producer and of AsyncProducer."""
    return str(request.param)


SECRET, TEXT = "79251234567", "Код 1234 🙂"
DAY = 86400


class Office(Workshop):
    """A workshop, and what time does to dead letters."""

    def end(self, status: str, *ids: str, **job: Any) -> list[str]:
        job = {"address": SECRET, "onUnsure": "park", "metadata": {"order": 7}, **job}
        return super().end(status, *ids, **job)

    accept = Workshop.answer

    def wait(self, seconds: float) -> None:
        self.clock.advance(seconds)
        self.store.sweep()

    def answer_bells(self) -> None:
        for lane in LANES:
            assert self.store.claim(lane, answered=True) is None

    def waiting(self) -> dict[str, float]:
        """Due times (seconds) of everything in the lanes."""
        found: dict[str, float] = {}
        for key in self.store.keys.lanes:
            found |= {
                id: score / SECOND for id, score in self.client.zrange(key, 0, -1, withscores=True)
            }
        return found

    def erase(self, id: str) -> None:
        """What Redis does after COURIER_CONTENT_RETENTION."""
        assert self.client.delete(self.store.keys.contents + id)


@pytest.fixture
def office(client: redis.Redis, settings: Settings, clock: Clock) -> Office:
    return Office(client, settings, clock)


def listed(producer: Producer, **wanted: Any) -> list[str]:
    return [letter.id for letter in producer.dead.list(**wanted)]


# The list


@pytest.mark.parametrize("status", sorted(DEAD))
def test_a_message_that_ended_badly_is_on_the_list_with_what_is_known(
    office: Office, producer: Producer, status: str
) -> None:
    (id,) = office.end(status)
    (letter,) = producer.dead.list()
    record, (*_, last) = producer.get(id), events_of(office.client, office.settings, id)
    assert record is not None and last["data"]["final"]
    assert (letter.id, letter.status, letter.reason) == (id, status, last["data"]["reason"])
    assert (letter.attempts, letter.unsure) == (1, int(status == "unconfirmed"))
    assert (letter.provider_id, letter.provider_code) == (record.provider_id, record.provider_code)
    assert (letter.metadata, letter.has_content, letter.resend_of) == ({"order": 7}, True, None)
    assert letter.ended.startswith("20") and letter.ended.endswith("Z")


@pytest.mark.parametrize("status", ["read", "undelivered", "cancelled", "expired"])
def test_other_ends_are_not(office: Office, producer: Producer, status: str) -> None:
    office.end(status)
    assert listed(producer) == []


def test_a_message_cancelled_after_an_unsure_attempt_is(office: Office, producer: Producer) -> None:
    id = producer.enqueue(text_job(onUnsure="resend"))
    office.answer(Unsure("ReadTimeout"))
    assert producer.cancel(id) is False
    assert [(x.id, x.status, x.reason) for x in producer.dead.list()] == [
        (id, "unconfirmed", "by-request")
    ]


@pytest.mark.parametrize("face", ["blocking"])  # other hands, which block
def test_a_job_refused_after_it_left_its_app_is_without_content(producer: Producer) -> None:
    for _ in range(2):
        RejectionRecorder(producer).record(
            {"id": "a", "address": SECRET}, "f", InvalidMessage({"subject": ["no"]})
        )
    (letter,) = producer.dead.list()
    assert (letter.id, letter.status, letter.reason) == ("a", "rejected", "invalid")
    assert letter.has_content is False
    with pytest.raises(ContentGone):
        producer.dead.job("a")
    with pytest.raises(ContentGone) as caught:
        producer.dead.resend("a")
    assert caught.value.reason == "content-gone" and listed(producer) == ["a"]


@pytest.mark.slow
def test_a_long_list_is_read_in_the_order_of_the_ends_and_narrowed(
    client: redis.Redis, settings: Settings, clock: Clock
) -> None:
    # Given 1,100 letters, the ends of a hundred each in one step, and a few others between
    producer = Producer(settings, client=client)
    office, rejected, failed = (
        Office(producer.redis, producer.settings, clock),
        list[str](),
        list[str](),
    )
    for _ in range(11):
        rows = [{"address": f"7925{i:07}"} for i in range(100)]
        rejected += office.end("rejected", *producer.enqueue_many(rows, common=common_job()))
        failed += office.end("failed")
    # Then it is whole and narrowed by status, reason or both
    every = list(producer.dead.list())
    assert len(every) == len({letter.id for letter in every}) == 1111
    assert [x.ended for x in every] == sorted(x.ended for x in every)
    assert sorted(listed(producer, status="rejected")) == sorted(rejected)
    assert listed(producer, status="failed") == listed(producer, reason="provider-failed") == failed
    assert listed(producer, status="failed", reason="crashed") == []
    with pytest.raises(ValueError, match="only: failed, lost, rejected, unconfirmed"):
        listed(producer, status="read")


def test_reading_the_list_takes_a_round_trip_for_each_chunk_only(
    redis_server: RedisServer, settings: Settings
) -> None:
    producer = Producer(settings, client=connect(redis_server.url))
    for n in range(1200):
        RejectionRecorder(producer).record({"n": n}, f"m{n}", InvalidMessage({"": ["no"]}))

    def calls() -> int:
        stats: Any = producer.redis.info("commandstats")
        return int(stats["cmdstat_evalsha"]["calls"])

    before = calls()
    assert len(listed(producer)) == 1200
    assert calls() - before <= 4
    producer.close()


def test_what_ends_while_the_list_is_read_is_not_read_on_for_ever(
    client: redis.Redis, settings: Settings, clock: Clock
) -> None:
    # Given an operator whose chunks hold two letters
    office = Office(client, settings, clock)
    first = [office.end("rejected")[0] for _ in range(5)]
    small = Producer(replace(settings, max_queued=2), client=client)
    # When for each letter read another message ends
    seen = []
    for letter in small.dead.list():
        seen.append(letter.id)
        office.end("rejected")
    # Then the list is the one there was
    assert seen == first


def test_ends_of_one_instant_are_all_read_in_whatever_chunks(
    client: redis.Redis, settings: Settings, producer: Producer
) -> None:
    # Given a server clock that stands still while seven messages end, one by one
    instant = Clock()() + 10 * SECOND
    office = Office(client, settings, lambda: instant)  # type: ignore[arg-type]
    ids = [office.end("rejected")[0] for _ in range(7)]
    # Then readers in chunks of any size see each once, in order
    for size in (1, 2, 3, 7):
        small = Producer(replace(settings, max_queued=size), client=client)
        assert listed(small) == ids


# Looking into it


def test_the_job_is_shown_as_it_was_asked_for(office: Office, producer: Producer) -> None:
    job = text_job(
        SECRET,
        smsText="СМС",
        smsValidityPeriodSec=600,
        validityPeriodSec=60,
        comment="c",
        ttlSec=7200,
        onUnsure="park",
        metadata={"a": None, "b": 1.5},
    )
    office.end("rejected", id := producer.enqueue({**job, "id": "mine"}))
    assert producer.dead.job(id) == {**job, "resendSms": True}


def test_a_campaigns_job_is_shown_merged(office: Office, producer: Producer) -> None:
    common = common_job(comment="all", metadata={"campaign": 7}, smsText="СМС")
    row = {"address": SECRET, "comment": None, "content": {"text": "own"}, "subject": "Own"}
    ids = producer.enqueue_many([row, {"address": "79250000002"}], common=common)
    office.end("rejected", *ids)
    merged = {**common, **row, "resendSms": True}
    assert producer.dead.job(ids[0]) == {k: v for k, v in merged.items() if v is not None}
    assert producer.dead.job(ids[1])["content"] == common["content"]


@pytest.mark.parametrize("whose", ["own", "common"])
def test_erased_content_is_refused_with_that_reason(
    office: Office, producer: Producer, whose: str
) -> None:
    (id,) = producer.enqueue_many([{"address": SECRET}], common=common_job())
    office.end("rejected", id)
    if whose == "own":
        office.erase(id)
    else:
        assert office.client.delete(*office.client.keys(office.store.keys.commons + "*"))  # type: ignore[misc]
    assert [letter.has_content for letter in producer.dead.list()] == [False]
    for call in (producer.dead.job, producer.dead.resend):
        with pytest.raises(ContentGone, match="content-gone") as caught:
            call(id)
        assert (caught.value.id, caught.value.reason) == (id, "content-gone")
    done = producer.dead.resend_many()
    assert (done.ids, list(done.refused)) == ({}, [id])
    assert isinstance(done.refused[id], ContentGone)
    assert listed(producer) == [id]


# Sending again


def test_sent_again_it_is_a_new_message_and_the_old_one_keeps_its_end(
    office: Office, producer: Producer
) -> None:
    (old,) = office.end("rejected")
    before, events = producer.get(old), events_of(office.client, office.settings, old)
    office.answer_bells()
    office.wakes()
    # When it is sent again, and the call is repeated
    new = producer.dead.resend(old)
    assert new != old and producer.dead.resend(old) == new
    # Then one new message waits, and its bell was rung once
    assert list(office.waiting()) == [new] and office.wakes() == ["high"]
    record = producer.get(new)
    assert record is not None and (record.status, record.resend_of) == ("queued", old)
    # And the old one is as it was, but names the new one and has left the list
    assert before is not None and producer.get(old) == replace(before, resent_as=new)
    assert events_of(office.client, office.settings, old) == events
    assert listed(producer) == []
    # And every event of the new one names the old one
    office.accept()
    for word in ("sent", "delivered"):
        office.clock.advance(40)
        office.poll_word(word)
    told = events_of(office.client, office.settings, new)
    assert [e["data"]["status"] for e in told] == ["submitted", "sent", "delivered"]
    assert {e["data"]["resendOf"] for e in told} == {old}
    assert not any("resendOf" in event["data"] for event in events)


def test_a_message_sent_again_can_be_cancelled_and_can_die_again(
    office: Office, producer: Producer
) -> None:
    (first,) = office.end("rejected")
    second = producer.dead.resend(first)
    office.end("failed", second)
    assert [(x.id, x.resend_of) for x in producer.dead.list()] == [(second, first)]
    third = producer.dead.resend(second)
    assert producer.cancel(third)
    (event,) = events_of(office.client, office.settings, third)
    assert event["data"]["resendOf"] == second
    record = producer.get(second)
    assert record is not None and (record.resend_of, record.resent_as) == (first, third)
    assert len({first, second, third}) == 3


@pytest.mark.parametrize(
    "job",
    [
        text_job(SECRET, priority="low"),
        text_job(SECRET, priority="realtime", smsText="СМС", smsSrcAddress="SHOP", ttlSec=900),
        text_job(SECRET, resendSms=True, onUnsure="resend", metadata={"m": 1}),
        text_job(SECRET, smsText="СМС", validityPeriodSec=60, smsValidityPeriodSec=61, comment="c"),
        text_job(SECRET, contentType="image", content={"imageUrl": "https://a.test/i"}),
    ],
    ids=["plain", "sms", "options", "periods", "image"],
)
def test_wire_fields_and_options_are_carried_over(
    office: Office, producer: Producer, job: dict[str, Any]
) -> None:
    def claimed() -> tuple[Any, ...]:
        lease = office.claim()
        (m,) = lease.messages
        office.settle(lease, Refused("x"))
        left = round((m.until - lease.server_now()) / SECOND)
        return m.id, (m.lane, m.content, m.on_unsure, m.has_ttl, m.metadata, left, m.attempts)

    # Given a message that was scheduled
    producer.enqueue({**job, "id": "old", "sendAt": "2026-01-01T00:00:00Z"})
    _, asked = claimed()
    # When it is sent again: it isn't scheduled any more, and its time to live begins anew
    new = producer.dead.resend("old")
    assert claimed() == (new, asked)


def test_what_may_have_been_sent_is_sent_again_by_explicit_word_only(
    office: Office, producer: Producer
) -> None:
    (id,) = office.end("unconfirmed")
    with pytest.raises(Unconfirmed, match="unconfirmed=True"):
        producer.dead.resend(id)
    done = producer.dead.resend_many()
    assert not done.ids and isinstance(done.refused[id], Unconfirmed)
    assert office.waiting() == {} and listed(producer) == [id]
    new = producer.dead.resend(id, unconfirmed=True)
    assert list(office.waiting()) == [new] and producer.dead.resend(id) == new
    (id,) = office.end("unconfirmed", new)
    assert list(producer.dead.resend_many(unconfirmed=True).ids) == [id]


def test_what_is_not_on_the_list_is_named(office: Office, producer: Producer) -> None:
    queued = producer.enqueue(text_job(sendAt=iso_in(30 * DAY)))
    (read,), (dropped,), (old,) = office.end("read"), office.end("lost"), office.end("rejected")
    new = producer.dead.resend(old)
    producer.dead.drop(dropped)
    for id, told in {
        "nobody": "is unknown",
        queued: "is no dead letter but queued",
        read: "is no dead letter but read",
        dropped: "was dropped, it had ended as lost",
        old: f"was sent again as '{new}'",
    }.items():
        calls: list[Callable[[str], object]] = [producer.dead.job]
        calls += [] if id == old else [producer.dead.resend]
        calls += [] if id == dropped else [producer.dead.drop]
        for call in calls:
            with pytest.raises(NotDead) as caught:
                call(id)
            assert str(caught.value) == f"message '{id}' {told}"
    assert set(office.waiting()) == {queued, new}


def _dies_now(office: Office) -> str:
    """Another message, more urgent than those that wait, and its end."""
    id = office.producer.enqueue(text_job(priority="realtime"))
    office.settle(office.claim("realtime"), Refused("error-address-unknown"))
    return id


def test_many_are_sent_again_as_fast_as_asked_whoever_asks(
    office: Office, producer: Producer, client: redis.Redis, settings: Settings
) -> None:
    ids = producer.enqueue_many([{"address": f"7925{i:07}"} for i in range(40)], common_job())
    office.end("rejected", *ids)
    office.answer_bells()
    office.wakes()
    # When one operator sends them again at 10 a second, and another what dies right after at 2
    one = producer.dead.resend_many(rate=10)
    assert set(one.ids) == set(ids) and one.refused == {} and office.wakes() == ["high"]
    other = Producer(settings, client=client)
    RejectionRecorder(other).record({}, "without-content", InvalidMessage({"": ["no"]}))
    later = _dies_now(office)
    two = other.dead.resend_many(rate=2)
    # Then they come due one after another, the second lot after the first
    due = sorted(office.waiting().items(), key=lambda pair: pair[1])
    assert [id for id, _ in due] == [*one.ids.values(), *two.ids.values()]
    gaps = [round(b - a, 3) for (_, a), (_, b) in pairwise(due)]
    assert gaps == [0.1] * 39 + [0.5]
    assert list(two.ids) == [later] and list(two.refused) == ["without-content"]


def test_one_sent_again_by_itself_goes_at_once(office: Office, producer: Producer) -> None:
    # Given a slow resending of many
    office.end("rejected", *producer.enqueue_many([text_job() for _ in range(5)]))
    producer.dead.resend_many(rate=0.001)
    # Then one more, by itself, doesn't wait for them
    id = _dies_now(office)
    new = producer.dead.resend(id)
    lease = office.store.claim("realtime", answered=True)
    assert lease is not None and [message.id for message in lease.messages] == [new]


def test_only_what_is_asked_for_is_sent_again(office: Office, producer: Producer) -> None:
    (lost,), (failed,), (rejected,) = (office.end(s) for s in ("lost", "failed", "rejected"))
    assert list(producer.dead.resend_many(status="lost").ids) == [lost]
    assert list(producer.dead.resend_many(reason="provider-failed").ids) == [failed]
    assert listed(producer) == [rejected]


def test_as_many_are_sent_again_as_there_is_room_for(
    office: Office, client: redis.Redis, settings: Settings, producer: Producer
) -> None:
    # Given a message that waits, and as many letters as may wait
    office.end("rejected", *producer.enqueue_many([text_job() for _ in range(5)]))
    producer.enqueue(text_job(id="other"))
    small = Producer(replace(settings, max_queued=5), client=client)
    # When they are sent again, then all but the last find room
    with pytest.raises(QueueFull):
        small.dead.resend_many(rate=1000)
    assert len(office.waiting()) == 5
    assert len(listed(producer)) == 1


def test_a_full_queue_stops_it_and_the_next_call_goes_on(
    office: Office, client: redis.Redis, settings: Settings, producer: Producer
) -> None:
    office.end("rejected", *producer.enqueue_many([text_job() for _ in range(5)]))
    small = Producer(replace(settings, max_queued=3), client=client)
    with pytest.raises(QueueFull):
        small.dead.resend_many(rate=1000)
    assert len(office.waiting()) == 3
    left = listed(producer)
    assert len(left) == 2
    assert list(producer.dead.resend_many(rate=1000).ids) == left
    assert len(office.waiting()) == 5


# Dropping


def test_what_is_dropped_loses_its_content_at_once_and_keeps_its_record(
    office: Office, producer: Producer
) -> None:
    (id,) = office.end("failed")
    before = producer.get(id)
    producer.dead.drop(id)
    producer.dead.drop(id)  # a repeat after a timeout
    assert listed(producer) == [] and producer.get(id) == before
    assert not office.client.exists(office.store.keys.contents + id)
    # And a worker that says again how it ended brings nothing back
    office.store.settle(*office.last)
    assert listed(producer) == []


def test_many_are_dropped_by_status_or_reason(office: Office, producer: Producer) -> None:
    rejected = office.end("rejected", *producer.enqueue_many([text_job() for _ in range(7)]))
    (failed,), (lost,) = office.end("failed"), office.end("lost")
    assert producer.dead.drop_many(reason="error-address-unknown") == 7
    assert listed(producer) == [failed, lost]
    assert producer.dead.drop_many(status="lost") == 1
    assert producer.dead.drop_many(status="lost") == 0
    gone = [office.store.keys.contents + id for id in (*rejected, lost)]
    assert office.client.exists(*gone) == 0
    assert producer.dead.job(failed)


# Faults


class LostReply:
    """A script whose reply gets lost, as many times as wanted."""

    def __init__(self, script: Callable[..., Any], times: int) -> None:
        self.script, self.times = script, times

    def begin(self, **call: Any) -> Callable[[], Any]:
        return lambda: self(**call)

    def __call__(self, **call: Any) -> Any:
        answer = self.script(**call)
        if self.times > 0:
            self.times -= 1
            raise redis.ConnectionError("the reply was lost")
        return answer


@pytest.mark.parametrize("face", ["blocking"])  # looks inside
def test_a_call_whose_reply_was_lost_is_repeated_without_harm(
    office: Office, producer: Producer
) -> None:
    (one,), (other,) = office.end("rejected"), office.end("failed")
    producer._calls._scripts["enqueue"] = LostReply(producer._calls._scripts["enqueue"], 1)
    with pytest.raises(StoreUnavailable):
        producer.dead.resend(one)
    record = producer.get(one)
    assert record is not None and producer.dead.resend(one) == record.resent_as
    producer._calls._scripts["enqueue"] = LostReply(producer._calls._scripts["enqueue"], 1)
    with pytest.raises(StoreUnavailable):
        producer.dead.resend_many()
    assert producer.dead.resend_many() == Resent()
    record = producer.get(other)
    assert record is not None and record.resent_as in office.waiting()
    assert len(office.waiting()) == 2
    (third,) = office.end("rejected", *office.waiting())[:1]
    producer.dead._letters._scripts["drop"] = LostReply(producer.dead._letters._scripts["drop"], 1)
    with pytest.raises(StoreUnavailable):
        producer.dead.drop(third)
    producer.dead.drop(third)


def test_operators_who_work_at_once_do_nothing_twice(
    redis_server: RedisServer, settings: Settings, clock: Clock
) -> None:
    # Given 300 letters
    client = connect(redis_server.url)
    settings = replace(settings, batch_size=300)
    first = Producer(settings, client=client)
    office = Office(client, settings, clock)
    rows = [{"address": f"7925{i:07}"} for i in range(300)]
    ids = office.end("rejected", *first.enqueue_many(rows, common=common_job()))
    # When two send them all again, in chunks of 10, two drop them all, and one sends single ones
    small = replace(settings, max_queued=10_000)
    told: list[Any] = []

    def run(call: Callable[[Producer], Any]) -> None:
        producer = Producer(small, client=client)
        producer.dead._letters._size = 10
        told.append(call(producer))

    def singles(producer: Producer) -> None:
        for id in reversed(ids):
            try:
                producer.dead.resend(id)
            except (NotDead, ContentGone):
                told.append(id)

    calls = [lambda p: p.dead.resend_many(rate=1e6)] * 2 + [lambda p: p.dead.drop_many()] * 2
    threads = [threading.Thread(target=run, args=(call,)) for call in [*calls, singles]]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    # Then each is one new message, or dropped
    records = {id: first.get(id) for id in ids}
    resent = {id: r.resent_as for id, r in records.items() if r and r.resent_as}
    assert sorted(office.waiting()) == sorted(resent.values())
    assert len(set(resent.values())) == len(resent)
    assert sum(each for each in told if isinstance(each, int)) == 300 - len(resent)
    for each in told:
        if isinstance(each, Resent):
            assert each.ids.items() <= resent.items()
    assert listed(first) == []
    client.close()


def test_the_list_is_trimmed_with_the_records(office: Office, producer: Producer) -> None:
    (old,) = office.end("rejected")
    office.wait(office.settings.retention - 10)
    (young,) = office.end("failed")
    assert listed(producer) == [old, young]
    office.wait(11)
    assert listed(producer) == [young]
    office.wait(office.settings.retention)
    assert office.client.exists(office.store.keys.dead) == 0


def test_the_pace_of_an_old_call_is_forgotten(office: Office, producer: Producer) -> None:
    office.end("rejected")
    producer.dead.resend_many(rate=5)
    ttl: Any = office.client.pttl(office.store.keys.pace)
    assert 0 < ttl <= 2000


@pytest.mark.parametrize("face", ["blocking"])  # looks inside
def test_an_id_used_again_while_the_old_one_is_still_listed_is_another_message(
    office: Office, producer: Producer
) -> None:
    # Given a letter whose record has expired while nobody swept, and its id used again
    office.end("rejected", producer.enqueue(text_job(id="mine")))
    office.client.delete(office.store.keys.records + "mine", office.store.keys.contents + "mine")
    assert listed(producer) == []
    producer.enqueue(text_job(id="mine", comment="x" * 80))
    # Then nothing about dead letters touches it
    assert listed(producer) == [] and producer.dead.drop_many() == 0
    for call in (producer.dead.job, producer.dead.resend, producer.dead.drop):
        with pytest.raises(NotDead, match="queued"):
            call("mine")
    producer.dead._letters._scripts["drop"](
        ids=["mine"],
    )
    assert office.claim().messages[0].content is not None
    # And when it dies too it is sent again as a message of its own
    office.client.delete(office.store.keys.lanes[2])
    producer.enqueue(text_job(id="other"))
    office.end("rejected", "other")
    one = producer.dead.resend("other")
    office.client.delete(office.store.keys.records + "other")
    office.answer(Refused("error-address-unknown"))
    producer.enqueue(text_job(id="other"))
    office.end("rejected", "other")
    assert producer.dead.resend("other") != one


def test_no_phone_number_and_no_text_is_shown_or_pickled(
    office: Office, producer: Producer
) -> None:
    (bad,), (gone,), (unsure,) = (office.end(s) for s in ("rejected", "failed", "unconfirmed"))
    office.erase(gone)
    shown = [repr(list(producer.dead.list())), repr(producer.dead)]
    for call in (
        lambda: producer.dead.resend(gone),
        lambda: producer.dead.resend(unsure),
        lambda: producer.dead.job("unknown"),
    ):
        with pytest.raises(CourierError) as caught:
            call()
        copy = pickle.loads(pickle.dumps(caught.value))
        assert (type(copy), str(copy), copy.id) == (
            type(caught.value),
            str(caught.value),
            caught.value.id,  # type: ignore[attr-defined]
        )
        shown += [repr(caught.value), str(caught.value.__cause__)]
    shown += [repr(producer.dead.resend_many()), repr(producer.get(bad))]
    for text in shown:
        assert SECRET not in text and TEXT not in text
    assert bad in shown[0]


def test_apps_own_tests_have_it_too() -> None:
    producer = memory_producer()
    RejectionRecorder(producer).record({}, "f", InvalidMessage({"": ["no"]}))
    (letter,) = producer.dead.list()
    assert isinstance(letter, DeadLetter) and Counter([letter.status]) == {"rejected": 1}


# The journey


def test_under_a_real_worker_letters_are_sent_again_and_read(
    system_env: dict[str, str], start_worker: Start, simulator: Simulator
) -> None:
    # Given one message that failed, one that is unconfirmed and one that will always be refused
    producer = Producer.from_env(system_env)

    def ended(ids: list[str]) -> dict[str, str] | None:
        records = [producer.get(id) for id in ids]
        return (
            {r.id: r.status for r in records if r} if all(r and r.final for r in records) else None
        )

    start_worker(COURIER_MAX_ATTEMPTS="1")
    simulator.fault(kind="drop_after", times=1)
    unsure = producer.enqueue(text_job("79250000001", priority="normal"))
    assert wait_for(lambda: ended([unsure])) == {unsure: "unconfirmed"}
    failed = producer.enqueue(text_job("79250000060"))
    refused = producer.enqueue(text_job("79250000050"))
    assert wait_for(lambda: ended([failed, refused])) == {failed: "failed", refused: "rejected"}
    assert {x.id: x.status for x in producer.dead.list()} == {
        unsure: "unconfirmed",
        failed: "failed",
        refused: "rejected",
    }
    # When they are sent again
    done = producer.dead.resend_many(rate=5, unconfirmed=True)
    assert set(done.ids) == {unsure, failed, refused}
    # Then two are read, one is refused again, and every event of theirs says for whom they stand
    wait_for(lambda: ended([*done.ids.values()]))
    assert {old: producer.get(new).status for old, new in done.ids.items()} == {  # type: ignore[union-attr]
        unsure: "read",
        failed: "read",
        refused: "rejected",
    }
    events: dict[str, list[Any]] = {}
    for _, fields in producer.redis.xrange(f"{{{producer.settings.namespace}}}:results"):  # type: ignore[union-attr]
        event = json.loads(fields["event"])
        events.setdefault(event["subject"], []).append(event["data"])
    for old, new in done.ids.items():
        assert {data["resendOf"] for data in events[new]} == {old}
        assert [data["final"] for data in events[new]].count(True) == 1
        assert [data["final"] for data in events[old]].count(True) == 1
        assert not any("resendOf" in data for data in events[old])
    assert [(x.id, x.resend_of) for x in producer.dead.list()] == [(done.ids[refused], refused)]
    assert len(simulator.accepted()) == 3  # the unconfirmed one twice, as was said
    producer.close()


@pytest.mark.parametrize("rate", [0, -1, 1e-9, float("nan")])
def test_a_rate_that_would_take_longer_than_anybody_waits_is_refused(
    office: Office, producer: Producer, rate: float
) -> None:
    office.end("failed")
    with pytest.raises(ValueError, match=r"rate must be at least 3\.2e-08"):
        producer.dead.resend_many(rate=rate)
    assert len(list(producer.dead.list())) == 1


@pytest.mark.parametrize("id", [None, 5, b"a"])
def test_an_id_is_a_string(producer: Producer, id: Any) -> None:
    for ask in (producer.dead.resend, producer.dead.job, producer.dead.drop, producer.get):
        with pytest.raises(TypeError, match="id must be a string, not "):
            ask(id)
    with pytest.raises(TypeError, match="id must be a string"):
        producer.cancel(id)
    with pytest.raises(TypeError, match="group must be a string"):
        producer.results(id, "one")
    with pytest.raises(ValueError, match="consumer must not be empty"):
        producer.results("crm", "")

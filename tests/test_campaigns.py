"""Campaigns: lines in turns, counters that move with each status, pause, cancel and report."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import Any

import pytest
import redis

from tests.conftest import Clock, common_job, events_of, iso_in, text_job
from tests.workshop import DAY, Workshop
from viber_courier import CampaignCancelled, Conflict, InvalidMessage, Producer, QueueFull, Status
from viber_courier.ops.gateway.problems import problem
from viber_courier.ops.look import take_look
from viber_courier.producers.campaigns import Campaign, Progress, read_progress
from viber_courier.producers.endings import line_ends
from viber_courier.schemas.settings import Settings
from viber_courier.store.leases import Lease, RateLimited
from viber_courier.store.scripts import Script, shared
from viber_courier.worker.intake import enqueue_task_jobs
from viber_courier.worker.outcome import Accepted, NotSent, Refused, Retryable


@pytest.fixture(params=["blocking", "asyncio"])
def face(request: pytest.FixtureRequest) -> Any:
    return request.param


@pytest.fixture
def shop(client: redis.Redis, settings: Settings, clock: Clock) -> Workshop:
    return Workshop(client, settings, clock)


def rows(count: int, first: int = 0) -> list[Any]:
    return [{"address": f"79{n:09}"} for n in range(first, first + count)]


def start(producer: Producer, name: str, count: int, **more: Any) -> tuple[Campaign, list[str]]:
    """A campaign of so many messages in the lane low."""
    rate = more.pop("rate", None)
    common: Any = common_job(**{"priority": "low", **more})
    campaign = producer.campaign(name, common=common, rate=rate)
    return campaign, campaign.add(rows(count))


def counted(progress: Progress) -> dict[str, int]:
    """What the counters say, without those that are 0."""
    found = {**progress.statuses, "added": progress.added, "ended": progress.ended}
    assert sum(progress.statuses.values()) == progress.added
    assert progress.statuses.get(Status.QUEUED, 0) == progress.waiting
    return {str(name): count for name, count in found.items() if count}


def names_of(client: redis.Redis, settings: Settings) -> list[str]:
    """The data of all events, in order: status and campaign."""
    events = events_of(client, settings)
    return [f"{e['data']['status']} {e['data'].get('campaign')}" for e in events]


def test_its_messages_its_counters_and_its_name_everywhere(
    producer: Producer, shop: Workshop, client: redis.Redis, settings: Settings
) -> None:
    campaign, ids = start(producer, "nov-sale", 3)
    record = producer.get(ids[0])
    assert record is not None and (record.status, record.campaign) == ("queued", "nov-sale")
    assert counted(campaign.progress()) == {"queued": 3, "added": 3}
    assert campaign.progress().state == "running" and campaign.progress().created
    shop.answer()
    assert counted(campaign.progress()) == {"submitted": 3, "added": 3}
    shop.clock.advance(20)
    shop.poll_word("delivered")
    assert counted(campaign.progress()) == {"delivered": 3, "added": 3}
    shop.clock.advance(40)
    shop.poll_word("read")
    progress = campaign.progress()
    assert counted(progress) == {"read": 3, "added": 3, "ended": 3}
    assert progress.entered == {"submitted": 3, "delivered": 3, "read": 3}
    assert (progress.state, progress.seconds_left) == ("ended", 0.0)
    words = ["submitted", "delivered", "read"]
    assert names_of(client, settings) == [f"{word} nov-sale" for word in words for _ in ids]
    assert not client.zcard(shop.store.keys.watch)


def test_a_job_may_name_its_campaign_and_its_source(
    producer: Producer, shop: Workshop, client: redis.Redis, settings: Settings
) -> None:
    id = producer.enqueue(text_job(campaign="codes", source="shop"))  # type: ignore[arg-type]
    shop.answer()
    (event,) = events_of(client, settings, id)
    assert list(event["data"])[-2:] == ["campaign", "source"]
    assert (event["data"]["campaign"], event["data"]["source"]) == ("codes", "shop")
    assert counted(producer.campaign("codes").progress()) == {"submitted": 1, "added": 1}
    (row,) = producer.campaign("codes").report()
    assert (row.row, row.id, row.status) == (None, id, "submitted")


def test_the_same_id_is_counted_once_and_another_campaign_is_a_conflict(
    producer: Producer,
) -> None:
    common: Any = common_job(priority="low")
    given: Any = [{"address": "79250000001", "id": "a"}]
    campaign = producer.campaign("one", common=common)
    assert campaign.add(given) == campaign.add(given) == ["a"]
    assert campaign.progress().added == 1
    assert [row.id for row in campaign.report()] == ["a"]
    with pytest.raises(Conflict):
        producer.campaign("two", common=common).add(given)
    assert producer.campaign("two").progress().state == "unknown"


def test_campaigns_of_a_lane_take_turns(producer: Producer, shop: Workshop) -> None:
    sizes = {"a": 7, "b": 500, "c": 3}
    of = {id: name for name in sizes for id in start(producer, name, sizes[name])[1]}
    shop.store._settings = shop.settings.__class__(namespace=shop.settings.namespace, batch_size=3)
    served = []
    for _ in range(9):
        lease = shop.claim()
        served.append({of[m.id] for m in lease.messages})
    assert [*map(sorted, served)] == [[n] for n in ("a", "b", "c", "a", "b", "a", "b", "b", "b")]


def test_what_has_no_campaign_is_served_at_every_second_claim(
    producer: Producer, shop: Workshop
) -> None:
    lines = {id for name in "abc" for id in start(producer, name, 300)[1]}
    producer.enqueue_many(rows(300), common=common_job(priority="low"))
    turns = ["line" if shop.claim().messages[0].id in lines else "plain" for _ in range(6)]
    assert turns == ["plain", "line"] * 3
    code = producer.enqueue(text_job(priority="realtime"))
    assert shop.ids() == [code]


def test_a_lane_s_line_of_each_kind(producer: Producer, shop: Workshop) -> None:
    _, plain = start(producer, "a", 2)
    _, resent = start(producer, "a", 2, resendSms=True)
    leases = [shop.claim(), shop.claim()]
    assert [{m.id for m in lease.messages} for lease in leases] == [set(plain), set(resent)]
    assert [{m.resend for m in lease.messages} for lease in leases] == [{False}, {True}]
    assert shop.store.claim("low", answered=True) is None


def test_paused_at_once_and_nothing_leaves_but_what_is_inside(
    producer: Producer, shop: Workshop, client: redis.Redis, settings: Settings
) -> None:
    campaign, ids = start(producer, "a", 250)
    inside, leased = shop.begin(shop.claim()), shop.claim()
    progress = campaign.pause("wrong price")
    assert (progress.state, progress.reason, progress.inside) == ("paused", "wrong price", 100)
    assert shop.begin(leased).messages == []
    assert shop.store.claim("low", answered=True) is None
    more = campaign.add(rows(5, 900))
    assert shop.store.claim("low", answered=True) is None
    # What was inside is settled as usual
    shop.settle(inside, Accepted(1))
    assert counted(campaign.progress()) == {"submitted": 100, "queued": 155, "added": 255}
    assert campaign.progress().inside == 0
    assert campaign.resume().state == "running"
    left = {id for _ in range(2) for id in shop.ids()}
    assert left == {*ids, *more} - {m.id for m in inside.messages}
    record = producer.get(leased.messages[0].id)
    assert record is not None and (record.status, record.attempts) == ("queued", 0)


def test_a_retry_that_comes_back_into_a_paused_campaign_waits(
    producer: Producer, shop: Workshop
) -> None:
    campaign, ids = start(producer, "a", 2)
    held = shop.begin(shop.claim())
    campaign.pause()
    shop.settle(held, Retryable("error-system"))
    shop.clock.advance(1000)
    assert shop.store.claim("low", answered=True) is None
    campaign.resume()
    assert sorted(shop.ids()) == sorted(ids)


def test_paused_before_its_first_message(producer: Producer, shop: Workshop) -> None:
    campaign = producer.campaign("a", common=common_job(priority="low"))  # type: ignore[arg-type]
    assert campaign.resume().state == campaign.cancel().state == "unknown"
    assert campaign.pause("look first").state == "paused"
    ids = campaign.add(rows(3))
    assert shop.store.claim("low", answered=True) is None
    assert campaign.progress().reason == "look first"
    campaign.resume()
    assert shop.ids() == ids


@pytest.mark.parametrize("closed", ["", "lane", "gate"])
def test_what_is_paused_still_expires(
    producer: Producer, shop: Workshop, client: redis.Redis, closed: str
) -> None:
    campaign, _ = start(producer, "a", 230, ttlSec=60)
    held = shop.begin(shop.claim())
    if closed == "lane":
        client.set(shop.store.keys.paused("low"), "by hand")
    elif closed == "gate":
        at = shop.clock() + 10**12
        client.hset(shop.store.keys.gate("send"), mapping={"until": at, "reason": "test"})
    if closed != "lane":
        campaign.pause()
    shop.clock.advance(600)
    for _ in range(6):
        if isinstance(lease := shop.store.claim("low", answered=True), Lease):
            assert shop.triage(lease, jitter=1.0).messages == []
        shop.clock.advance(2)
    assert len(held.messages) == 100
    unsure = {"expired": 130, "unconfirmed": 100, "added": 230, "ended": 230}
    assert counted(campaign.progress()) == unsure


def test_sums_of_lanes_count_lines(producer: Producer, shop: Workshop, client: redis.Redis) -> None:
    for name, count in (("a", 130), ("b", 20)):
        start(producer, name, count)
    producer.enqueue(text_job(priority="low"))
    shop.ids()
    shop.begin(shop.claim())
    found = take_look(client, shop.settings.namespace).lanes["low"]
    assert (found.size, found.due, found.leased, found.inside) == (151, 50, 1, 100)
    producer.campaign("b").pause()
    found = take_look(client, shop.settings.namespace).lanes["low"]
    assert (found.size, found.due, found.paused, found.scheduled) == (151, 30, 20, 0)


def test_what_is_paused_expires_beside_what_is_due_later(
    producer: Producer, shop: Workshop
) -> None:
    campaign = producer.campaign("a", common=common_job(priority="low"))  # type: ignore[arg-type]
    campaign.pause()
    campaign.add([{**row, "sendAt": iso_in(3600)} for row in rows(1)])
    campaign.add([{**row, "ttlSec": 60} for row in rows(1, 1)])
    shop.clock.advance(100)
    shop.serve()
    assert counted(campaign.progress()) == {"queued": 1, "expired": 1, "added": 2, "ended": 1}


def test_cancel_ends_what_waits_and_only_that(
    producer: Producer, shop: Workshop, client: redis.Redis, settings: Settings
) -> None:
    campaign, _ = start(producer, "a", 700)
    campaign.add([{**row, "sendAt": iso_in(DAY)} for row in rows(50, 800)])
    inside, leased = shop.begin(shop.claim()), shop.claim()
    progress = campaign.cancel()
    assert (progress.state, progress.inside, progress.waiting) == ("cancelled", 100, 100)
    assert counted(progress) == {"queued": 100, "cancelled": 650, "added": 750, "ended": 650}
    assert progress.entered == {"cancelled:by-request": 650}
    assert shop.begin(leased).messages == []
    ended = [e for e in events_of(client, settings) if e["data"]["final"]]
    assert Counter(e["data"]["reason"] for e in ended) == {"by-request": 650}
    assert len({e["subject"] for e in ended}) == 650
    shop.settle(inside, Accepted(1))
    assert counted(campaign.cancel())["submitted"] == 100
    with pytest.raises(CampaignCancelled, match="'a' was cancelled"):
        campaign.add(rows(1, 5000))
    for act in (campaign.pause, campaign.resume):
        with pytest.raises(CampaignCancelled):
            act()
    assert campaign.add([]) == []


def test_what_it_cancels_is_told_like_any_other_cancelled_message(
    producer: Producer, shop: Workshop, client: redis.Redis, settings: Settings
) -> None:
    told: Any = {
        "metadata": {"ключ": "ä", "n": 1.5e300, "none": None},
        "source": "shop",
        "attempts": 2,
    }
    events = list[dict[str, Any]]()
    for name, unsure in (("by one", False), ("all", False), ("by one", True), ("all", True)):
        campaign = producer.campaign(f"c{len(events)}", common=common_job(priority="low"))
        more = {"metadata": told["metadata"], "source": told["source"]}
        (id,) = campaign.add([{"address": f"7900000000{len(events)}", **more}])
        for _ in range(2):
            shop.answer(Retryable("error-system"))
            shop.clock.advance(60)
        if unsure:
            client.hset(shop.store.keys.records + id, "unsure", "1")
        ended = campaign.cancel if name == "all" else lambda: producer.cancel(id)  # noqa: B023
        ended()
        event = events_of(client, settings, id)[-1]["data"]
        record = producer.get(id)
        assert record is not None and record.final and record.status == event["status"]
        letters = [letter.id for letter in producer.dead.list()]
        assert (id in letters) == unsure
        del event["messageId"], event["campaign"]
        events.append(event)
    assert events[0] == events[1] and events[2] == events[3]
    assert {name: events[0][name] for name in told} == told
    assert [each["status"] for each in events] == ["cancelled"] * 2 + ["unconfirmed"] * 2


def test_a_letter_sent_again_and_cancelled_names_the_letter(
    producer: Producer, shop: Workshop, client: redis.Redis, settings: Settings
) -> None:
    campaign, (old,) = start(producer, "a", 1)
    shop.answer(Refused("not-viber-user"))
    new = producer.dead.resend(old)
    campaign.cancel()
    assert events_of(client, settings, new)[-1]["data"]["resendOf"] == old


def test_workers_leave_a_line_to_the_app_that_ends_it(
    producer: Producer, shop: Workshop, client: redis.Redis, settings: Settings
) -> None:
    campaign, _ = start(producer, "a", 100)
    given = shared(settings)
    Script(client, "campaign", given)(name="a", act="cancel", value="")
    end_lines = Script(client, "end_lines", given | {"name": "a"})
    assert end_lines(most=30, time=shop.clock(), **line_ends("x", 0.0)) == 30
    assert shop.store.claim("low", answered=True) is None
    shop.clock.advance(1.1)  # the app is gone
    assert shop.triage().messages == []
    assert counted(campaign.progress()) == {"cancelled": 100, "added": 100, "ended": 100}


def test_a_cancelled_campaign_refuses_rows_one_by_one(producer: Producer) -> None:
    campaign, _ = start(producer, "a", 1)
    campaign.cancel()
    faults: list[Any] = []
    given = [{**row, "campaign": name} for row, name in zip(rows(4, 50), "abab", strict=True)]
    ids = producer.enqueue_many(
        given, common_job(), lambda row, raw, error: faults.append((row, str(error)))
    )
    assert len(ids) == 2
    assert faults == [(n, "campaign 'a' was cancelled") for n in (0, 2)]


def test_a_task_for_a_cancelled_campaign_becomes_an_event(
    client: redis.Redis, settings: Settings
) -> None:
    app = Producer(settings, client=client)
    campaign, _ = start(app, "a", 1)
    campaign.cancel()
    assert enqueue_task_jobs(app, "1", [text_job(id="late", campaign="a")]) == (0, 1)
    (event,) = events_of(client, settings, "late")
    found = [event["data"][name] for name in ("status", "reason", "errors")]
    assert found == ["rejected", "by-request", {"campaign": ["campaign 'a' was cancelled"]}]
    assert campaign.progress().added == 1
    assert problem(CampaignCancelled("a")).status == 409  # what the gateway answers


@pytest.mark.parametrize("closed", ["", "gate"])
def test_workers_end_what_the_app_has_not(
    producer: Producer, shop: Workshop, client: redis.Redis, settings: Settings, closed: str
) -> None:
    campaign, _ = start(producer, "a", 250)
    campaign.add([{**row, "sendAt": iso_in(DAY)} for row in rows(50, 800)])
    keys = shop.store.keys
    held = shop.begin(shop.claim())
    unsure = shop.begin(shop.claim())
    if closed:
        at = shop.clock() + 10**12
        client.hset(keys.gate("send"), mapping={"until": at, "reason": "test"})
    # The app has marked it, and died
    Script(client, "campaign", shared(settings))(name="a", act="cancel", value="")
    shop.settle(held, Retryable("error-system"))
    while isinstance(lease := shop.store.claim("low", answered=True), Lease):
        assert shop.triage(lease).messages == []
    shop.clock.advance(200)
    assert shop.triage().messages == []  # the lease of what was inside has lapsed
    assert len(unsure.messages) == 100
    progress = campaign.progress()
    assert counted(progress) == {"cancelled": 200, "unconfirmed": 100, "added": 300, "ended": 300}
    assert progress.inside == 0


def test_the_last_that_ends_lets_it_expire(
    producer: Producer, shop: Workshop, client: redis.Redis, settings: Settings
) -> None:
    keys, keep = shop.store.keys, settings.retention * 1000
    start(producer, "a", 2)
    index = f"{keys.campaigns}a", f"{keys.campaigns}a:rows"
    assert [client.pttl(key) for key in index] == [-1, -1]
    shop.answer(Refused("error-address-unknown"))
    assert all(0.9 * keep < client.pttl(key) <= keep for key in index)
    assert [each.name for each in producer.campaigns()] == ["a"]
    start(producer, "a", 1)
    assert [client.pttl(key) for key in index] == [-1, -1]
    shop.answer(Refused("error-address-unknown"))
    shop.clock.advance(settings.retention + 60)
    client.delete(*index)  # as Redis does it
    shop.store.sweep()
    assert client.zcard(keys.registry) == 0 and producer.campaigns() == []


def test_the_report_names_each_row_also_when_its_content_is_erased(
    producer: Producer, shop: Workshop, client: redis.Redis
) -> None:
    common: Any = common_job(priority="low")
    campaign = producer.campaign("a", common=common)
    ids = campaign.add(rows(1200), numbers=range(2, 1202))
    shop.answer()
    shop.answer(Refused("error-address-unknown"))
    for key in client.scan_iter(f"{shop.store.keys.contents}*"):
        client.delete(key)
    client.delete(shop.store.keys.records + ids[150])
    found = [*campaign.report()]
    assert [row.id for row in found] == ids
    assert [row.row for row in found] == [*range(2, 1202)]
    assert Counter(row.status for row in found) == {
        **{"submitted": 100, "rejected": 99, "queued": 1000},
        None: 1,
    }
    assert found[0].submitted and not found[0].final and found[0].attempts == 1
    assert found[100].final and found[100].ended and found[100].reason == "error-address-unknown"
    assert found[150].status is None


def test_a_letter_sent_again_keeps_its_campaign(producer: Producer, shop: Workshop) -> None:
    campaign, ids = start(producer, "a", 2)
    shop.answer(Refused("error-address-unknown"))
    new = producer.dead.resend(ids[0])
    progress = campaign.progress()
    assert (progress.added, progress.resent, progress.ended) == (3, 1, 2)
    assert [(row.row, row.resend_of) for row in campaign.report()][2:] == [(None, ids[0])]
    shop.answer()
    assert counted(campaign.progress()) == {"submitted": 1, "rejected": 2, "added": 3, "ended": 2}
    campaign.cancel()
    with pytest.raises(CampaignCancelled):
        producer.dead.resend(ids[1])
    done = producer.dead.resend_many(rate=100)
    assert done.ids == {} and isinstance(done.refused[ids[1]], CampaignCancelled)
    assert new not in done.ids


def test_one_of_its_messages_is_cancelled_like_any_other(
    producer: Producer, shop: Workshop
) -> None:
    campaign, ids = start(producer, "a", 3)
    assert producer.cancel(ids[1]) and producer.cancel(ids[1])
    assert counted(campaign.progress()) == {"queued": 2, "cancelled": 1, "added": 3, "ended": 1}
    assert shop.ids() == [ids[0], ids[2]]


def test_late_answers_lapses_and_unsure_attempts_count_once(
    producer: Producer, shop: Workshop
) -> None:
    campaign, _ = start(producer, "a", 1)
    held = shop.begin(shop.claim())
    shop.clock.advance(200)
    again = shop.claim()  # lapsed inside
    assert again.messages[0].lapsed_inside and campaign.progress().inside == 1
    assert shop.settle(held, Accepted(1))  # the lease was lost
    moves = [m._replace(write=m.write._replace(late="0")) for m in shop.moves(held, Accepted(1))]
    shop.triage(again)
    shop.store.settle(held, moves)
    progress = campaign.progress()
    assert (progress.inside, progress.added) == (0, 1)
    assert sum(counted(progress)[n] for n in ("unconfirmed", "submitted") if n in counted(progress))


def test_a_full_queue_counts_lines(
    producer: Producer, client: redis.Redis, settings: Settings
) -> None:
    campaign, _ = start(producer, "a", 3)
    campaign.pause()
    start(producer, "b", 3)
    limited = Producer(replace(settings, max_queued=7), client=client)
    limited.enqueue(text_job())
    with pytest.raises(QueueFull):
        limited.enqueue(text_job())


def test_a_rate_of_its_own(producer: Producer, shop: Workshop) -> None:
    shop.clock.freeze()
    shop.clock.advance(60)  # behind all that is stored below, however slow the machine is
    campaign, _ = start(producer, "a", 1000, rate=40)
    _, others = start(producer, "b", 150)
    assert campaign.progress().rate == 40
    sizes = Counter[str]()

    def serve() -> None:
        while (got := shop.store.claim("low", answered=True)) is not None:
            if isinstance(got, RateLimited):
                assert 0 < got.seconds <= 0.2
                return
            of = "b" if got.messages[0].id in others else "a"
            sizes[of] += len(got.messages)

    serve()
    assert sizes == {"a": 40, "b": 150}  # one second's worth at first
    for _ in range(100):
        shop.clock.advance(0.1)
        serve()
    assert sizes["a"] == pytest.approx(440, abs=5)
    shop.clock.advance(100)
    serve()
    assert sizes["a"] == pytest.approx(480, abs=5)


def test_a_slow_rate_is_served_by_sweeps(producer: Producer, shop: Workshop) -> None:
    start(producer, "a", 100, rate=0.5)
    shop.clock.freeze()
    sent = len(shop.ids())
    for _ in range(20):
        shop.clock.advance(1)
        sent += len(shop.ids())
    assert sent == pytest.approx(11, abs=1)


def test_a_pause_before_the_request_costs_no_tokens(producer: Producer, shop: Workshop) -> None:
    shop.clock.freeze()
    shop.clock.advance(60)
    campaign, _ = start(producer, "a", 100, rate=1 / 3600)
    lease = shop.claim()
    assert len(lease.messages) == 1 and shop.store.claim("low", answered=True) is None
    campaign.pause()
    assert shop.begin(lease).messages == []
    campaign.resume()
    assert len(shop.ids()) == 1
    assert shop.store.claim("low", answered=True) is None


def test_a_suppressed_message_costs_its_campaign_no_tokens(
    client: redis.Redis, settings: Settings, clock: Clock
) -> None:
    clock.freeze()
    clock.advance(60)
    shop = Workshop(client, replace(settings, suppression_key="k" * 16), clock)
    _, ids = start(shop.producer, "a", 5, rate=1 / 3600)
    shop.producer.suppressions.add_many([row["address"] for row in rows(3)], "asked us")
    shop.serve(9)
    statuses = [shop.producer.get(id).status for id in ids]  # type: ignore[union-attr]
    assert statuses == ["rejected"] * 3 + ["submitted", "queued"]


@pytest.mark.slow
def test_how_long_it_will_take(producer: Producer, shop: Workshop) -> None:
    campaign, _ = start(producer, "a", 3000)
    shop.clock.freeze()
    assert campaign.progress().seconds_left is None
    for _ in range(20):
        shop.answer()
        shop.clock.advance(0.5)  # 200 messages/s
    left = _progress(shop, "a").seconds_left
    assert left == pytest.approx(1000 / 200, rel=0.1)
    campaign.pause()
    assert campaign.progress().seconds_left is None


def test_how_long_is_not_said_of_what_is_due_later(producer: Producer, shop: Workshop) -> None:
    # Given a campaign at a pace, most of which waits until tomorrow
    campaign, _ = start(producer, "a", 3000)
    shop.clock.freeze()
    for _ in range(20):
        shop.answer()
        shop.clock.advance(0.5)
    assert producer.campaign("a").progress().later == 0
    later = producer.campaign("a", common=common_job(sendAt=iso_in(86_400)))
    later.add([{"address": f"7926{n:07}"} for n in range(2000)])
    # Then nobody is promised that the rest takes seconds
    progress = campaign.progress()
    assert (progress.waiting, progress.later) == (3000, 2000)
    assert progress.seconds_left is None


def _progress(shop: Workshop, name: str) -> Progress:
    """By the clock of the test."""
    fields: Any = shop.client.hgetall(shop.store.keys.campaigns + name)
    return read_progress(name, fields, shop.clock())


def test_a_request_not_sent_comes_back_into_its_line(producer: Producer, shop: Workshop) -> None:
    campaign, ids = start(producer, "a", 2)
    held = shop.begin(shop.claim())
    shop.settle(held, NotSent("refused", None))
    assert campaign.progress().inside == 0
    assert sorted(shop.ids()) == sorted(ids)


def test_a_due_line_wakes_a_worker(producer: Producer, shop: Workshop) -> None:
    campaign, _ = start(producer, "a", 1)
    shop.wakes()
    shop.client.delete(*shop.store.keys.bells)
    assert shop.store.sweep() == ["low"]
    campaign.pause()
    shop.wakes()
    shop.client.delete(*shop.store.keys.bells)
    campaign.resume()
    assert shop.wakes() == ["low"]


def test_a_repeated_claim_returns_the_same_messages(producer: Producer, shop: Workshop) -> None:
    start(producer, "a", 5)
    calls: list[Any] = []
    script = shop.store._scripts["claim"]

    def twice(**given: Any) -> Any:
        calls.append(script(**given))
        return script(**given)

    shop.store._scripts["claim"] = twice  # type: ignore[assignment]
    lease = shop.claim()
    assert len(lease.messages) == 5 and calls[0][4] == calls[0][4]
    assert shop.begin(lease).messages


@pytest.mark.parametrize("name", ["", "a b", "x" * 65, "a:b", "Ж", None, 5])
def test_a_name_that_can_t_be(producer: Producer, name: Any) -> None:
    with pytest.raises(ValueError, match="1 to 64 of A-Za-z0-9_"):
        producer.campaign(name)


@pytest.mark.parametrize("rate", [0, -1, 1e-300, float("nan"), float("inf"), "5"])
def test_a_rate_that_can_t_be(producer: Producer, rate: Any) -> None:
    with pytest.raises(ValueError, match="rate"):
        producer.campaign("a", rate=rate)


def test_another_campaign_in_common_or_in_a_row_is_refused(producer: Producer) -> None:
    other: Any = common_job(campaign="b")
    with pytest.raises(InvalidMessage, match=r"common.campaign: must be 'a', or left out"):
        producer.campaign("a", common=other)
    campaign = producer.campaign("a", common=common_job())  # type: ignore[arg-type]
    for campaign_of_row in ("b", None):
        given: Any = [{**rows(1)[0], "campaign": campaign_of_row}]
        with pytest.raises(InvalidMessage, match="campaign: must be 'a', or left out"):
            campaign.add(given)

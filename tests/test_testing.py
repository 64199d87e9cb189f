"""viber_courier.testing, as an app's tests use it: no server, nothing left behind."""

from __future__ import annotations

import asyncio
import re
import subprocess
import sys
import threading
import unittest
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import fakeredis
import pytest

import viber_courier
from tests.awaited import Awaited, Loop
from tests.conftest import ROOT, Clock, free_port, text_job
from viber_courier import (
    AsyncEvent,
    AsyncProducer,
    Conflict,
    Event,
    InvalidMessage,
    Producer,
    QueueFull,
    Settings,
    StoreUnavailable,
)
from viber_courier.ops.testing.calls import CALLS
from viber_courier.store.aio import Pool, _PlacedPool
from viber_courier.store.pools import WholePool
from viber_courier.testing import Asked, Courier, CourierMixin, Impossible

pytest_plugins = ["pytester"]
NOWHERE = {"COURIER_REDIS_URL": f"redis://localhost:{free_port()}/0", "COURIER_NAMESPACE": "shop"}
EARLY = Producer.from_env(NOWHERE)
EARLY_ASYNC = AsyncProducer.from_env(NOWHERE)
"""As an app's module makes them, when it is imported."""


@pytest.fixture
def kit() -> Iterator[Courier]:
    with Courier() as kit:
        yield kit


@pytest.fixture(params=["Producer", "AsyncProducer"])
def early(request: pytest.FixtureRequest, kit: Courier) -> Iterator[Any]:
    """Both, as an app's event loop and as its threads use them."""
    if request.param == "Producer":
        yield EARLY
        return
    loop = Loop()
    yield Awaited(loop, EARLY_ASYNC)
    loop.run(EARLY_ASYNC.close())
    loop.close()


def story(producer: Any, id: str) -> list[tuple[Any, ...]]:
    """What a consumer is told of a message."""
    events = [e for e in producer.results("crm", "web-1", block=0.0) if e.subject == id]
    return [(e.sequence, e.status, e.final, e.data["reason"]) for e in events]


# What the app asked for.


def test_a_campaign_s_messages_are_in_the_outbox_and_live_as_others(
    kit: Courier, early: Any
) -> None:
    common = {k: v for k, v in text_job(priority="low").items() if k != "address"}
    campaign = early.campaign("sale", common)
    ids = campaign.add([{"address": "79250000001"}, {"address": "79250000002"}])
    assert [(each.id, each.job["campaign"]) for each in kit.outbox] == [(i, "sale") for i in ids]
    kit.deliver(ids[0])
    assert campaign.progress().statuses == {"delivered": 1, "queued": 1}
    kit.fail_next(StoreUnavailable("away"))
    with pytest.raises(StoreUnavailable):
        campaign.cancel()
    assert campaign.cancel().statuses == {"delivered": 1, "cancelled": 1}


def test_the_outbox_holds_what_was_accepted_as_it_was_asked(kit: Courier, early: Any) -> None:
    # When an app enqueues jobs, and rows over what they share
    job = text_job(id="code-1", metadata={"order": 7})
    early.enqueue(job)
    common = {**text_job(), "comment": "autumn"}
    del common["address"]
    rows = [{"address": "79250000002"}, {"address": "79250000003", "comment": None}, {}]
    ids = early.enqueue_many(iter(rows), common, on_invalid=lambda *_: None)
    # Then the outbox has them in order, without what was refused
    asked = [Asked("code-1", job), Asked(ids[0], {**common, **rows[0]})]
    asked.append(Asked(ids[1], {**common, "address": "79250000003"}))
    del asked[2].job["comment"]
    assert kit.outbox == asked
    assert kit.outbox[0].job["content"]["text"] == job["content"]["text"]
    # And a change that the app makes to its job later isn't in it
    job["content"]["text"] = "another"
    assert kit.outbox[0].job != job


def test_what_is_refused_or_repeated_is_not_in_the_outbox(kit: Courier, early: Any) -> None:
    early.enqueue(text_job(id="a"))
    assert early.enqueue(text_job(id="a")) == "a"
    with pytest.raises(Conflict):
        early.enqueue(text_job(id="a", ttlSec=60))
    with pytest.raises(InvalidMessage):
        early.enqueue(text_job(priority="urgent"))
    with pytest.raises(InvalidMessage) as wrong:
        early.enqueue_many([text_job(), text_job(content=None)])
    assert wrong.value.row == 1
    assert [asked.id for asked in kit.outbox] == ["a"]


def test_rows_that_raise_leave_what_was_stored_before(kit: Courier, early: Any) -> None:
    def rows() -> Iterator[dict[str, Any]]:
        yield from (text_job(id=f"row-{n}") for n in range(700))
        raise LookupError("the app's database went away")

    with pytest.raises(LookupError):
        early.enqueue_many(rows())
    assert len(kit.outbox) == 500
    assert early.get("row-499") and not early.get("row-500")


@pytest.mark.parametrize("namespace", ["courier", "shop"])
def test_every_producer_of_the_process_works_in_memory(
    kit: Courier, namespace: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Given producers made before and during the test, in whatever way and thread
    monkeypatch.setenv("COURIER_NAMESPACE", namespace)
    settings = Settings(namespace=namespace, redis_url="sentinel://localhost:1/courier")
    sees = Producer(settings)
    others = [Producer.from_env({}), Producer(Settings(redis_url="cluster://localhost:1"))]
    # Then one sees what another has enqueued, if its namespace is the same
    thread = threading.Thread(target=kit.producer.enqueue, args=[text_job(id="a")])
    thread.start()
    thread.join()
    assert [p.get("a") is not None for p in (sees, EARLY)] == [True, namespace == "shop"]
    assert all((p.get("a") is not None) == (namespace == "courier") for p in others)
    kit.deliver("a")
    assert story(sees, "a")[-1][1] == "delivered"


@pytest.mark.parametrize("url", ["redis://localhost:1", "sentinel://localhost:1/courier"])
def test_promises_that_wait_for_replicas_wait_for_none_in_memory(kit: Courier, url: str) -> None:
    settings = Settings(replicas=2, redis_url=url)
    producer = Producer(settings)
    kit.deliver(producer.enqueue(text_job(id="a")))
    for event in producer.results("crm", "web-1", block=0.0):
        event.ack()
    assert event.status == "delivered"
    assert asyncio.run(AsyncProducer(settings).enqueue(text_job(id="a"))) == "a"


# What becomes of it.

ENDS: dict[tuple[str, str | None], list[tuple[str, str | None]]] = {
    ("read", None): [("submitted", None), ("read", None)],
    ("delivered", None): [("submitted", None), ("delivered", None), ("delivered", None)],
    ("sent", None): [("submitted", None), ("sent", None), ("sent", "tracking-ended")],
    ("undelivered", "user-blocked"): [("submitted", None), ("undelivered", "user-blocked")],
    ("undelivered", "sms-undelivered"): [("submitted", None), ("undelivered", "sms-undelivered")],
    ("sms_delivered", None): [("submitted", None), ("sms_delivered", None)],
    ("failed", None): [("submitted", None), ("failed", "provider-failed")],
    ("failed", "attempts"): [("failed", "attempts")],
    ("failed", "crashed"): [("failed", "crashed")],
    ("failed", "content-gone"): [("failed", "content-gone")],
    ("cancelled", None): [("submitted", None), ("cancelled", None)],
    ("rejected", "error-subject-unknown"): [("rejected", "error-subject-unknown")],
    ("rejected", "http-413"): [("rejected", "http-413")],
    ("expired", None): [("expired", "ttl")],
    ("unconfirmed", None): [("unconfirmed", "unsure")],
    ("lost", None): [("submitted", None), ("lost", "tracking-ended")],
    ("lost", "no-provider-id"): [("lost", "no-provider-id")],
}


@pytest.mark.parametrize("end", ENDS, ids=str)
def test_a_message_ends_as_the_test_says(kit: Courier, end: tuple[str, str | None]) -> None:
    # Given a message among others, that isn't even due
    others = EARLY.enqueue_many([text_job(), text_job(priority="realtime")])
    later = {"from": "00:00", "to": "00:01", "zone": "Europe/Moscow"}
    job = text_job(resendSms=True, sendAt="2027-01-01T00:00:00Z", sendWindow=later)
    id = EARLY.enqueue({**job, "ttlSec": 172800})
    # When it ends
    kit.finish(id, *end)
    # Then its record and its events say so, and the other messages are where they were
    record = EARLY.get(id)
    assert record and (record.status, record.final) == (end[0], True)
    told = story(EARLY, id)
    assert [(status, reason) for _, status, _, reason in told] == ENDS[end]
    assert [final for *_, final, _ in told] == [False] * (len(told) - 1) + [True]
    assert [n for n, *_ in told] == list(range(1, len(told) + 1))
    assert all((found := EARLY.get(other)) and found.attempts == 0 for other in others)
    # And dead letters are on their list
    assert [letter.id for letter in EARLY.dead.list()] == [id] * (
        end[0] in ("failed", "unconfirmed", "rejected", "lost")
    )


@pytest.mark.parametrize(
    "end", ["read", "undelivered", "failed", "rejected", "unconfirmed", "expired", "lost"]
)
def test_a_message_ends_as_under_a_worker(kit: Courier, end: str, clock: Clock) -> None:
    from tests.workshop import Workshop  # needs a worker's libraries

    # Given a message that worker's parts have brought to its end
    memory = fakeredis.FakeRedis(server=fakeredis.FakeServer(), decode_responses=True)
    workshop = Workshop(memory, EARLY.settings, clock)
    (theirs,) = workshop.end(end, priority="low", metadata={"order": 7})
    # When a test's courier brings one to the same end
    id = kit.producer.enqueue(text_job(priority="low", metadata={"order": 7}))
    kit.finish(id, end)
    # Then records and events are the same, but for ids and instants

    def told(producer: Producer, id: str) -> list[Any]:
        events = list(producer.results("crm", "web-1", block=0.0))
        record: Any = producer.get(id)
        changing = ("messageId", "providerId")
        data = [{k: v for k, v in e.data.items() if k not in changing} for e in events]
        fields = ("status", "final", "reason", "attempts", "unsure", "provider_status")
        return [*data, [getattr(record, name) for name in fields]]

    assert told(kit.producer, id) == told(workshop.producer, theirs)


def test_several_messages_go_on_together_and_step_by_step(kit: Courier, early: Any) -> None:
    ids = early.enqueue_many([text_job(resendSms=True), text_job(resendSms=True)])
    kit.accept(ids)
    assert not early.cancel(ids[0])
    kit.deliver(ids[0])
    kit.finish(ids[0], "read")
    kit.sms(ids[1], "enqueued", reason="not-viber-user")
    kit.sms(ids[1], "sent")
    record = early.get(ids[1])
    assert record and [each.state for each in record.sms] == ["sent"]
    kit.sms(ids[1], "delivered")
    first, second = ([e[1:] for e in story(early, id)] for id in ids)
    assert [status for status, *_ in first] == ["submitted", "delivered", "read"]
    assert [status for status, *_ in second] == ["submitted", "sms_sent", "sms_delivered"]
    assert [reason for *_, reason in second] == [None, "not-viber-user", "not-viber-user"]
    (event,) = [e for e in early.results("bi", "b", block=0.0) if e.status == "sms_delivered"]
    assert event.final and event.data["sms"][0]["state"] == "delivered"
    assert int(event.data["providerId"]) > 2**53


def test_suppressed_numbers_get_nothing_in_a_test_either(
    kit: Courier, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COURIER_SUPPRESSION_KEY", "k" * 16)
    app = kit.producer
    waits, blocks = app.enqueue(low("79250000001")), app.enqueue(low("79250000002"))
    kit.finish(blocks, "undelivered", reason="user-blocked")
    assert "79250000002" in app.suppressions
    app.suppressions.add("79250000001", "asked us to stop")
    told: list[str] = []
    ids = app.enqueue_many(
        [low("79250000001"), low("79250000003")], on_suppressed=lambda n, row, id: told.append(id)
    )
    assert told == ids[:1] and [asked.id for asked in kit.outbox] == [waits, blocks, *ids]
    assert story(app, ids[0]) == [(1, "rejected", True, "suppressed")]
    with pytest.raises(Impossible, match="suppressed"):
        kit.deliver(waits)
    assert story(app, waits) == [(1, "rejected", True, "suppressed")]
    kit.deliver(ids[1])


def low(address: str) -> Any:
    return text_job(address, priority="low")


def test_a_dead_letter_is_sent_again_and_delivered(kit: Courier, early: Any) -> None:
    id = early.enqueue(text_job())
    kit.finish(id, "rejected")
    again = early.dead.resend(id)
    kit.deliver(again)
    record = early.get(id=again)
    assert record and (record.status, record.resend_of) == ("delivered", id)


def test_a_consumer_in_a_thread_waits_for_what_becomes_of_a_message(kit: Courier) -> None:
    told: list[str] = []

    def consume() -> None:
        for event in EARLY.results("crm", "web-1", block=60.0):
            told.append(event.status)
            event.ack()
            if event.final:
                return

    consumer = threading.Thread(target=consume)
    consumer.start()
    id = EARLY.enqueue(text_job())
    kit.deliver(id)
    kit.finish(id, "read")
    consumer.join(30)
    assert told == ["submitted", "delivered", "read"]


IMPOSSIBLE: dict[str, Any] = {
    "has ended undelivered (user-blocked): nothing follows": lambda kit, id: (
        kit.finish(id, "undelivered", reason="user-blocked"),
        kit.deliver(id),
    ),
    "has ended cancelled (by-request): nothing follows": lambda kit, id: (
        EARLY.cancel(id),
        kit.accept(id),
    ),
    "is delivered: sms_delivered can't follow": lambda kit, id: (
        kit.deliver(id),
        kit.finish(id, "sms_delivered"),
    ),
    "is delivered: delivered can't follow": lambda kit, id: (kit.deliver(id), kit.deliver(id)),
    "is submitted: submitted can't follow": lambda kit, id: (kit.accept(id), kit.accept(id)),
    "is submitted: rejected can't follow": lambda kit, id: (
        kit.accept(id),
        kit.finish(id, "rejected"),
    ),
    "it was sent, it can't end so": lambda kit, id: (
        kit.accept(id),
        kit.finish(id, "failed", reason="attempts"),
    ),
    "has no SMS: its job doesn't resend as SMS": lambda kit, id: kit.sms(id, "delivered"),
    "an SMS is enqueued, sent, delivered, undelivered; not 'read'": lambda kit, id: kit.sms(
        id, "read"
    ),
    "there is no message with the id 'b'": lambda kit, id: kit.deliver(["b"]),
    "there is no message with the id None": lambda kit, id: kit.deliver(None),
    "a message ends sent, delivered, read, sms_delivered": lambda kit, id: kit.finish(id, "queued"),
    "never ends expired for the reason 'user-blocked'": lambda kit, id: kit.finish(
        id, "expired", reason="user-blocked"
    ),
    "an app cancels with producer.cancel(id)": lambda kit, id: kit.finish(
        id, "cancelled", reason="by-request"
    ),
}


@pytest.mark.parametrize("says", IMPOSSIBLE)
def test_what_cant_happen_is_refused(kit: Courier, says: str) -> None:
    id = EARLY.enqueue(text_job())
    with pytest.raises(Impossible) as caught:
        IMPOSSIBLE[says](kit, id)
    assert says in str(caught.value)


def test_only_the_sms_of_a_message_that_is_one_can_still_fail(kit: Courier) -> None:
    id = EARLY.enqueue(text_job(resendSms=True))
    kit.sms(id, "sent")
    with pytest.raises(Impossible, match="only its SMS can still fail"):
        kit.finish(id, "failed")
    kit.finish(id, "undelivered")
    assert story(EARLY, id)[-1][1:] == ("undelivered", True, "sms-undelivered")


def test_an_event_is_made_for_a_handler() -> None:
    event = Event.make("order-7", "read", metadata={"order": 7})
    assert (event.id, event.status, event.final, event.sequence) == ("order-7:1", "read", True, 1)
    assert event.data["metadata"] == {"order": 7} and event.data["sms"] == []
    event.ack()
    asyncio.run(AsyncEvent.make("order-7", "read").ack())
    assert not Event.make("order-7", "delivered").final
    assert Event.make("order-7", "delivered", final=True, sequence=3).id == "order-7:3"
    with pytest.raises(ValueError, match="seen"):
        Event.make("order-7", "seen")


# What goes wrong.


@pytest.mark.parametrize("call", ["enqueue", "enqueue_many", "get", "cancel", "ping", "results"])
def test_the_next_call_fails_and_the_one_after_it_works(
    kit: Courier, early: Any, call: str
) -> None:
    early.enqueue(text_job(id="a"))
    calls: dict[str, Any] = {
        "enqueue": lambda: early.enqueue(text_job(id="b")),
        "enqueue_many": lambda: early.enqueue_many([text_job(id="b")]),
        "get": lambda: early.get("a"),
        "cancel": lambda: early.cancel("a"),
        "ping": early.ping,
        "results": lambda: list(early.results("crm", "web-1", block=0.0)),
    }
    kit.fail_next(StoreUnavailable)
    kit.fail_next(StoreUnavailable("the test's own text"))
    with pytest.raises(StoreUnavailable, match="the test said so"):
        calls[call]()
    with pytest.raises(StoreUnavailable, match="own text"):
        calls[call]()
    assert [asked.id for asked in kit.outbox] == ["a"]
    assert early.settings.namespace == "shop"
    calls[call]()


def test_what_is_no_error_is_refused_at_once(kit: Courier) -> None:
    for wrong in ("StoreUnavailable", None, int):
        with pytest.raises(TypeError, match="takes an exception"):
            kit.fail_next(wrong)  # type: ignore[arg-type]


def test_a_wrong_job_is_refused_before_the_outage_is_met(kit: Courier, early: Any) -> None:
    kit.fail_next(StoreUnavailable)
    with pytest.raises(InvalidMessage):
        early.enqueue({})
    with pytest.raises(InvalidMessage):
        early.enqueue_many([], common={"priority": "urgent"})
    with pytest.raises(StoreUnavailable):
        early.enqueue(text_job())


def test_an_error_says_what_was_accepted_before_it(kit: Courier, early: Any) -> None:
    rows = [text_job(id=f"row-{n}") for n in range(5)]
    kit.fail_next(StoreUnavailable, after=2)
    with pytest.raises(StoreUnavailable) as caught:
        early.enqueue_many(rows)
    assert list(caught.value.accepted) == ["row-0", "row-1"]
    assert [asked.id for asked in kit.outbox] == ["row-0", "row-1"]
    assert len(early.enqueue_many(rows)) == len(kit.outbox) == 5


def test_an_answer_is_lost_and_the_work_is_done(kit: Courier, early: Any) -> None:
    kit.fail_next(StoreUnavailable, stored=True)
    with pytest.raises(StoreUnavailable):
        early.enqueue(text_job(id="a"))
    assert early.enqueue(text_job(id="a")) == "a"
    assert [asked.id for asked in kit.outbox] == ["a"]


@pytest.mark.parametrize("stored", [False, True])
def test_what_got_no_answer_can_be_repeated_by_the_ids_of_the_error(
    kit: Courier, early: Any, stored: bool
) -> None:
    kit.fail_next(StoreUnavailable, stored=stored)
    with pytest.raises(StoreUnavailable) as caught:
        early.enqueue(text_job())
    id = caught.value.id
    assert early.enqueue(text_job(id=id)) == id
    assert [asked.id for asked in kit.outbox] == [id]
    kit.outbox.clear()
    rows: list[Any] = [text_job(), {}, text_job(), text_job()]
    kit.fail_next(StoreUnavailable, after=1, stored=True)
    with pytest.raises(StoreUnavailable) as caught:
        early.enqueue_many(rows, on_invalid=lambda *_: None)
    assert [*caught.value.in_doubt] == [2, 3]
    again = [{**rows[number], "id": id} for number, id in caught.value.in_doubt.items()]
    assert early.enqueue_many(again) == [*caught.value.in_doubt.values()]
    assert len(kit.outbox) == 3


def test_a_full_queue_refuses_what_is_new(kit: Courier, early: Any) -> None:
    early.enqueue(text_job(id="a"))
    kit.full()
    with pytest.raises(QueueFull, match="COURIER_MAX_QUEUED is 1"):
        early.enqueue(text_job(id="b"))
    with pytest.raises(QueueFull) as caught:
        early.enqueue_many([text_job(id="b")])
    assert caught.value.accepted == []
    assert early.enqueue(text_job(id="a")) == "a"
    kit.full(False)
    assert early.enqueue(text_job(id="b")) == "b"


def test_asyncio_has_rows_that_are_awaited_and_events(kit: Courier) -> None:
    async def rows(last: dict[str, Any] | None) -> AsyncIterator[dict[str, Any]]:
        yield text_job(id="a")
        yield text_job(id="b")
        if last is None:
            raise LookupError
        yield last

    async def app() -> list[str]:
        async with AsyncProducer.from_env(NOWHERE) as producer:
            refused: list[int] = []
            await producer.enqueue_many(rows({}), on_invalid=lambda n, *_: refused.append(n))
            assert refused == [2]
            kit.fail_next(StoreUnavailable, after=1)
            with pytest.raises(StoreUnavailable) as caught:
                await producer.enqueue_many(rows({}))
            assert list(caught.value.accepted) == ["a"]
            with pytest.raises(LookupError):
                await producer.enqueue_many(rows(None))
            assert [asked.id for asked in kit.outbox] == ["a", "b"]
            kit.finish(["a", "b"], "read")
            told = []
            async for event in producer.results("crm", "web-1", block=0.0):
                told.append(event.id)
                await event.ack()
            return told

    assert asyncio.run(app()) == ["a:1", "a:2", "b:1", "b:2"]
    assert asyncio.run(EARLY_ASYNC.get("a"))
    assert list(EARLY.results("crm", "web-1", block=0.0)) == []


# Where it is used.


def test_nothing_is_left_behind() -> None:
    before = [getattr(owner, name) for owner, name, _ in CALLS]
    before += [vars(Pool)["release"], vars(WholePool)["get_connection"]]
    with Courier() as outer:
        EARLY.enqueue(text_job(id="a"))
        outer.fail_next(StoreUnavailable)
        with Courier() as inner:
            assert (EARLY.get("a"), inner.outbox) == (None, [])
        with pytest.raises(StoreUnavailable):
            EARLY.get("a")
        assert EARLY.get("a") is not None
    after = [getattr(owner, name) for owner, name, _ in CALLS]
    assert [*after, vars(Pool)["release"], vars(WholePool)["get_connection"]] == before
    assert "get_connection" not in vars(_PlacedPool)
    with pytest.raises(StoreUnavailable, match="Connection refused"):
        EARLY.ping()
    with pytest.raises(StoreUnavailable, match="Connect"):
        asyncio.run(EARLY_ASYNC.ping())
    with Courier():
        assert EARLY.get("a") is None


def test_importing_it_needs_no_worker_and_the_plugin_needs_nothing() -> None:
    code = """
import sys
before = {*sys.modules}
import viber_courier.ops.testing.plugin
print(*{name.split(".")[0] for name in {*sys.modules} - before} & {"redis", "marshmallow"})
import viber_courier.testing
print(*{name.split(".")[0] for name in sys.modules} & {"celery", "kombu", "requests", "aiohttp"})
sys.modules["requests"] = None
try:
    import viber_courier.worker.provider
except SystemExit as error:
    print(error)
for name in [name for name in sys.modules if "testing" in name]:
    del sys.modules[name]
sys.modules["fakeredis"] = None
import viber_courier.testing
"""
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert run.stdout == "\n\na worker needs requests: pip install 'viber-courier[worker]'\n"
    assert run.stderr.endswith("pip install 'viber-courier[testing]'\n")


def block(name: str) -> str:
    """A file that the guide shows."""
    text = (ROOT / "docs" / "guide.md").read_text()
    found = re.search(rf"<!-- {name} -->\n```\w+\n(.+?)```", text, re.S)
    assert found, name
    return found[1]


def test_the_fixture_works_as_the_guide_shows(pytester: pytest.Pytester) -> None:
    pytester.makefile(".py", shop=block("shop.py"), test_shop=block("test_shop.py"))
    pytester.makefile(".py", test_orders=block("test_orders.py"))
    pytester.makepyfile(
        test_more="""
        import pytest, shop

        @pytest.mark.parametrize("n", range(2))
        def test_alone(courier, n):
            assert courier.outbox == []
            shop.producer.enqueue_many([{**shop.job(7, "79250000001"), "id": str(n)}])
            assert len(courier.outbox) == 1
        """
    )
    shown = block("test_shop.py") + block("test_orders.py")
    run = pytester.runpytest_inprocess("-p", "no:cacheprovider", "-p", "no:randomly")
    run.assert_outcomes(passed=shown.count("def test_") + 2)


def test_unittest_has_a_courier_in_each_test() -> None:
    class Case(CourierMixin, unittest.TestCase):
        def setUp(self) -> None:
            self.id = EARLY.enqueue(text_job(id="a"))

        def test_one(self) -> None:
            self.courier.deliver(self.id)
            self.assertEqual(len(self.courier.outbox), 1)

        def test_two(self) -> None:
            self.assertEqual([asked.id for asked in self.courier.outbox], ["a"])
            record = EARLY.get("a")
            self.assertEqual(record and record.status, "queued")

    class AsyncCase(CourierMixin, unittest.IsolatedAsyncioTestCase):
        async def test_it(self) -> None:
            id = await EARLY_ASYNC.enqueue(text_job())
            self.courier.deliver(id)
            record = await EARLY_ASYNC.get(id)
            self.assertEqual(record and record.status, "delivered")

    result = unittest.TestResult()
    for case in (Case, AsyncCase):
        unittest.defaultTestLoader.loadTestsFromTestCase(case).run(result)
    assert (result.testsRun, result.failures, result.errors) == (3, [], [])


def test_its_names_are_public() -> None:
    assert Path(viber_courier.__file__).with_name("testing.py").is_file()
    names = ["Asked", "Courier", "CourierMixin", "Impossible", "memory_producer"]
    assert __import__("viber_courier.testing", fromlist=["*"]).__all__ == names

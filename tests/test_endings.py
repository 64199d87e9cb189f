"""Many waiting messages end in one step, each as its record says."""

from __future__ import annotations

import pytest
import redis

from tests.conftest import Clock, events_of, text_job
from tests.workshop import Workshop
from viber_courier.producers.endings import Ending, ending
from viber_courier.schemas.settings import Settings
from viber_courier.schemas.status import Reason, Status
from viber_courier.store.replies import run
from viber_courier.worker.outcome import Unsure


@pytest.fixture
def desk(client: redis.Redis, settings: Settings, clock: Clock) -> Workshop:
    return Workshop(client, settings, clock)


def seen(desk: Workshop, id: str, status: Status, reason: Reason) -> tuple[str, Ending]:
    """What an app has read of a message, and how it ends it."""
    fields = desk.client.hgetall(desk.store.keys.records + id)
    return fields.get("n", "0"), ending(fields, status, reason)


def test_messages_that_end_in_one_step_each_have_their_own_event_and_answer(
    desk: Workshop, client: redis.Redis, settings: Settings
) -> None:
    app = desk.producer
    unsure = app.enqueue(text_job(onUnsure="resend"))
    desk.answer(Unsure("ReadTimeout"))
    inside = app.enqueue(text_job())
    desk.begin(desk.claim())
    low, named = (app.enqueue(text_job(priority="low", metadata=m)) for m in ({}, {"order": 7}))
    again = app.enqueue(text_job())
    gone, over = app.enqueue(text_job()), app.enqueue(text_job())
    stray = app.enqueue(text_job())
    ids = [unsure, inside, low, named, again, gone, over, stray]
    given = {id: seen(desk, id, Status.CANCELLED, Reason.BY_REQUEST) for id in ids}
    given[again] = "5", given[again][1]
    assert app.cancel(gone) and app.cancel(over)
    client.hset(desk.store.keys.records + over, "reason", Reason.SUPPRESSED)
    client.zrem(f"{{{settings.namespace}}}:lane:high:0", stray)
    answers = run(app._calls._endings.end(given))
    assert answers == {
        **dict.fromkeys((unsure, low, named), "done"),
        **{inside: "busy", again: "again", gone: "before", over: "gone", stray: "lost"},
    }
    told = {
        e["subject"]: e["data"]
        for e in events_of(client, settings)
        if e["subject"] not in (gone, over)
    }
    assert told.keys() == {unsure, low, named}
    assert [told[id]["status"] for id in (unsure, low)] == ["unconfirmed", "cancelled"]
    assert (told[unsure]["attempts"], told[unsure]["unsure"]) == (1, 1)
    assert (told[low]["metadata"], told[named]["metadata"]) == ({}, {"order": 7})
    counts = client.hgetall(desk.store.keys.counts)
    assert counts["cancelled:by-request"] == "4"
    assert counts["unconfirmed:by-request"] == "1"
    assert [letter.id for letter in app.dead.list()] == [unsure]
    assert desk.ids() == [again]  # the others are in no lane, or inside
    assert run(app._calls._endings.end(given))[low] == "before"  # a repeat changes nothing
    assert client.hgetall(desk.store.keys.counts)["cancelled:by-request"] == "4"


def test_a_thousand_messages_end_in_one_step(
    desk: Workshop, client: redis.Redis, settings: Settings
) -> None:
    ids = desk.producer.enqueue_many([text_job() for _ in range(1000)])
    how = ending({}, Status.REJECTED, Reason.BY_REQUEST)
    answers = run(desk.producer._calls._endings.end({id: ("0", how) for id in ids}))
    assert set(answers.values()) == {"done"}
    assert [letter.id for letter in desk.producer.dead.list()] == ids
    assert len(events_of(client, settings)) == 1000
    assert desk.ids() == []

"""A job's ``source``: who may be named, where it shows, and whose events a reader is given."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.conftest import Clock, common_job, events_of, text_job
from tests.test_event import BARE, complete
from tests.workshop import Workshop
from viber_courier import ConfigError, Conflict, InvalidMessage, Producer, Settings
from viber_courier.schemas.event import is_from
from viber_courier.store.keys import Keys
from viber_courier.worker.intake import RejectionRecorder


@pytest.fixture
def shop(producer: Producer) -> Producer:
    """An app with COURIER_SOURCE=shop."""
    return Producer(replace(producer.settings, source="shop"), client=producer.redis)


def source_of(producer: Producer, id: str) -> str | None:
    record = producer.get(id)
    assert record is not None
    return record.source


def test_a_source_is_a_short_plain_name() -> None:
    assert Settings.from_env({"COURIER_SOURCE": "Shop_1.-"}).source == "Shop_1.-"
    for wrong in ("a b", "x" * 33, 'a"', "магазин"):
        with pytest.raises(ConfigError, match="COURIER_SOURCE: must be 1 to 32 of"):
            Settings.from_env({"COURIER_SOURCE": wrong})


@pytest.mark.parametrize("wrong", ["", "a b", "x" * 33, 'a"', 5, None])
def test_a_job_with_another_one_is_refused(producer: Producer, wrong: Any) -> None:
    with pytest.raises(InvalidMessage) as caught:
        producer.enqueue(text_job(source=wrong))
    assert [*caught.value.errors] == ["source"]


def test_a_job_s_own_goes_before_the_campaign_s_and_that_before_the_app_s(
    producer: Producer, shop: Producer
) -> None:
    assert source_of(producer, producer.enqueue(text_job())) is None
    assert source_of(shop, shop.enqueue(text_job())) == "shop"
    assert source_of(shop, shop.enqueue(text_job(source="crm"))) == "crm"
    rows = [{"address": "79250000001"} for _ in range(3)]
    rows[1]["source"], rows[2]["source"] = "row", None  # type: ignore[assignment]
    of_app = shop.enqueue_many(rows, common_job())
    assert [source_of(shop, id) for id in of_app] == ["shop", "row", None]
    of_campaign = shop.enqueue_many(rows[:1], common_job(source="crm"))
    assert source_of(shop, of_campaign[0]) == "crm"
    (alone,) = shop.enqueue_many([text_job()])
    assert source_of(shop, alone) == "shop"
    given = dict[int, Any]()
    shop.enqueue_many([{"wrong": 1}], on_invalid=lambda row, raw, error: given.update({row: raw}))
    assert given == {0: {"wrong": 1}}  # as the app gave it


def test_the_same_job_of_another_source_is_another_job(producer: Producer, shop: Producer) -> None:
    producer.enqueue(text_job(id="a", source="shop"))
    assert shop.enqueue(text_job(id="a")) == "a"
    for other in (text_job(id="a", source="crm"), text_job(id="a")):
        with pytest.raises(Conflict):
            producer.enqueue(other)


@pytest.mark.parametrize("status", ["read", "undelivered", "unconfirmed", "cancelled"])
def test_every_event_names_it_last_of_all(producer: Producer, clock: Clock, status: str) -> None:
    # Given messages that share a request, one of them without a source
    ids = ["shop", "crm", "none"]
    producer.enqueue(text_job(id="shop", source="shop", onUnsure="park"))
    more = {"source": "crm", "metadata": {"source": "shop"}}
    producer.enqueue(text_job(id="crm", onUnsure="park", **more))
    producer.enqueue(text_job(id="none", onUnsure="park"))
    # When they end
    Workshop(producer.redis, producer.settings, clock).end(status, *ids)
    # Then
    entries: Any = producer.redis.xrange(Keys(producer.settings.namespace).results)
    assert len(entries) >= 3
    for _, fields in entries:
        data = json.loads(fields["event"])["data"]
        named = data.get("source", "none")
        assert named == data["messageId"]
        assert is_from(fields["event"], "shop") == (named == "shop")
        assert [*data][-1] == ("metadata" if named == "none" else "source")


def test_a_dead_letter_sent_again_keeps_it(
    producer: Producer, shop: Producer, clock: Clock
) -> None:
    workshop = Workshop(producer.redis, producer.settings, clock)
    (old,) = workshop.end("failed", source="crm")
    (unnamed,) = workshop.end("failed")
    assert producer.dead.job(old)["source"] == "crm"
    again = shop.dead.resend(old)
    assert source_of(shop, again) == "crm"
    assert shop.cancel(again)
    (event,) = events_of(producer.redis, producer.settings, again)
    assert (event["data"]["resendOf"], event["data"]["source"]) == (old, "crm")
    assert source_of(shop, shop.dead.resend(unnamed)) is None


def test_a_refused_job_of_a_task_is_its_app_s(producer: Producer) -> None:
    recorder, wrong = RejectionRecorder(producer), InvalidMessage({"subject": ["is required"]})
    recorder.record({"id": "a", "source": "shop"}, "fresh-1", wrong)
    recorder.record({"id": "b c", "source": "shop"}, "fresh-2", wrong)
    recorder.record({"id": "d", "source": 'no"'}, "fresh-3", wrong)
    got = [event.subject for event in producer.results("crm", "1", block=0.0, source="shop")]
    assert got == ["a", "fresh-2"]
    assert source_of(producer, "a") == "shop"


def test_what_is_not_used_costs_no_memory(producer: Producer) -> None:
    producer.enqueue(text_job(id="a"))
    assert "source" not in producer.redis.hgetall(Keys(producer.settings.namespace).records + "a")


texts = st.text() | st.sampled_from([',"source":"shop"}}', '","source":"shop', '"shop"}}', "\\"])


@given(texts, texts, st.dictionaries(texts, texts | st.none(), max_size=3))
def test_no_text_in_an_event_looks_like_its_source(reason: str, key: str, more: Any) -> None:
    more.pop("source", None)
    for change in (
        replace(BARE, reason=reason, metadata={key: reason, **more}),
        replace(BARE, metadata={"source": "shop"}, more={"errors": {key: [reason]}, **more}),
    ):
        text = complete(change)
        assert not is_from(text, "shop")
        assert is_from(f'{text[:-2]},"source":"shop"}}}}', "shop")
        assert not is_from(f'{text[:-2]},"source":"shop-2"}}}}', "shop")
        assert not is_from(f'{text[:-2]},"source":"2-shop"}}}}', "shop")

"""Templates: what a row's columns make of texts, what is refused, and the faces that take them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.conftest import common_job, text_job
from viber_courier import InvalidMessage, Producer
from viber_courier.ops.testing.courier import Courier
from viber_courier.producers.testing import memory_producer
from viber_courier.schemas.template import Template

PHONE = {"address": "79250000001"}


def rendered(common: Any, **row: Any) -> Any:
    return Template(common).render(row)


def faults(common: Any, *row: dict[str, Any]) -> dict[str, list[str]]:
    with pytest.raises(InvalidMessage) as caught:
        made = Template(common)
        made.render(*row)
    return caught.value.errors


@pytest.mark.parametrize(
    ("text", "columns", "expected"),
    [
        ("Hello, {name}!", {"name": "Анна"}, "Hello, Анна!"),
        ("{a}{b}{a}", {"a": "1", "b": 2}, "121"),
        (
            "{имя клиента} {order_no} {e-mail}",
            {"имя клиента": "я", "order_no": 7, "e-mail": "@"},
            "я 7 @",
        ),
        ("{{name}} {{{name}}} }}{{", {"name": "x"}, "{name} {x} }{"),
        ("{a}", {"a": "{b} {{"}, "{b} {{"),  # a value is no template
        ("{a}", {"a": -(2**63) + 1}, "-9223372036854775807"),
    ],
)
def test_a_text_has_its_row_s_values(text: str, columns: dict[str, Any], expected: str) -> None:
    assert rendered({"smsText": text}, **columns) == {"smsText": expected}
    assert rendered(None, smsText=text, **columns) == {"smsText": expected}


@pytest.mark.parametrize(
    "text", ["{", "}", "{}", "{0}", "{a.b}", "{a[0]}", "{a!r}", "{a:>5}", "{ a}", "{a", "{{a}"]
)
def test_what_is_no_plain_column_is_refused_when_it_is_read(text: str) -> None:
    assert [*faults({"subject": text})] == ["common.subject"]
    assert [*faults(None, {"content": {"text": text}, "a": "x"})] == ["content.text"]


@pytest.mark.parametrize("value", [None, "", " \t", True, 1.5, [], {}, 2**70, "absent"])
def test_a_row_without_a_value_is_refused_by_the_column_s_name(value: Any) -> None:
    row = {} if value == "absent" else {"name": value}
    common = {"subject": "S", "content": {"text": "Dear {name}", "caption": "{name}, {other}"}}
    assert faults(common, {**PHONE, **row, "other": "x"}) == {
        "content.text": ["has no value for {name}"],
        "content.caption": ["has no value for {name}"],
    }


def test_every_text_is_a_template_and_nothing_else() -> None:
    common = {
        **{"subject": "{a}", "comment": "{a}", "smsText": "{a}", "metadata": {"k": "{a}", "n": 1}},
        **{"content": {"text": "{a}", "caption": "{a}"}, "sendWindow": {"zone": "{a}"}},
        **{"priority": "low", "smsSrcAddress": "{a}", "source": "{a}", "sendAt": "{a}"},
    }
    made = Template(common)
    assert {*made.common} == {"priority", "smsSrcAddress", "source", "sendAt"}
    row = made.render({**PHONE, "id": "{a}", "a": "x"})
    assert row == {
        **{"subject": "x", "comment": "x", "smsText": "x", "metadata": {"k": "x", "n": 1}},
        **{"content": {"text": "x", "caption": "x"}, "sendWindow": {"zone": "x"}},
        **PHONE,
        "id": "{a}",
    }


def test_shared_texts_without_columns_stay_shared() -> None:
    made = Template({"subject": "{{S}}", "content": {"text": "t"}, "smsText": "{a}"})
    assert made.common == {"subject": "{S}", "content": {"text": "t"}}
    assert made.render({"a": "x"}) == {"smsText": "x"}
    assert made.render({"smsText": None}) == {"smsText": None}  # the row's own goes before
    assert made.render({"smsText": "own {b}", "b": 1}) == {"smsText": "own 1"}
    assert made.render("no row") == "no row" and Template("no common").common == "no common"


def test_values_in_links_are_encoded_unless_they_are_the_link() -> None:
    content = {"action": "https://a.example/{id}?q={q}", "imageUrl": "{link}", "text": "{q}"}
    row = {"q": "a&b ж", "link": "https://b.example/?x=1&y", "id": "k"}
    # A field of a job is no column
    assert faults({"content": content}, row) == {"content.action": ["has no value for {id}"]}
    content["action"] = "https://a.example/?q={q}"
    assert rendered({"content": content}, **row)["content"] == {
        "action": "https://a.example/?q=a%26b%20%D0%B6",
        "imageUrl": "https://b.example/?x=1&y",
        "text": "a&b ж",
    }


@given(st.text(), st.text(min_size=1).filter(str.strip))
def test_any_text_can_be_written_and_any_value_comes_as_it_is(text: str, value: str) -> None:
    doubled = text.replace("{", "{{").replace("}", "}}")
    made = rendered({"comment": f"{doubled}{{c}}{doubled}"}, c=value)
    assert made == {"comment": text + value + text}


@pytest.fixture(params=["blocking", "asyncio"])
def face(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def test_rows_are_checked_as_they_are_rendered(producer: Producer) -> None:
    common = common_job(content={"text": "Hello, {name}"}, subject="{shop}", ttlSec=60)
    rows: list[dict[str, Any]] = [
        {**PHONE, "id": "a", "name": "Анна", "shop": "Shop"},
        {**PHONE, "id": "b", "shop": "Shop", "unused": [1]},
        {**PHONE, "id": "c", "name": "x" * 994, "shop": "S" * 12},  # 1001 and 12 characters
        {**PHONE, "id": "d", "name": "x" * 993, "shop": "S" * 11},
    ]
    refused = dict[str, list[str]]()

    def refuse(number: int, row: Any, error: Exception) -> None:
        assert isinstance(error, InvalidMessage) and row is rows[number]  # as the app gave it
        refused[row["id"]] = sorted(error.errors)

    given: Any = {"template": True, "on_invalid": refuse}
    assert producer.enqueue_many(rows, common, **given) == ["a", "d"]
    assert refused == {"b": ["content.text"], "c": ["content.text", "subject"]}
    (again,) = producer.enqueue_many(rows[:1], common, template=True)
    assert again == "a"  # the same job, rendered anew
    with pytest.raises(InvalidMessage, match="has a brace that is no part"):
        producer.enqueue_many(rows, {**common, "subject": "{"}, template=True)
    whole = [{**text_job(content={"text": "{name}"}), "id": "w", "name": "x"}]
    assert producer.enqueue_many(whole, template=True) == ["w"]
    plain = common_job(content={"text": "{name}"})
    assert producer.enqueue_many([{**PHONE, "id": "p"}], plain) == ["p"]  # no template


def test_what_is_stored_is_what_is_rendered() -> None:
    producer = memory_producer()
    common = common_job(content={"text": "Hello, {name}"})
    (id,) = producer.enqueue_many([{**PHONE, "name": "Анна 🙂" * 20}], common, template=True)
    content: Any = producer.redis.get(producer._keys.contents + id)
    assert json.loads(content)["content"] == {"text": "Hello, " + "Анна 🙂" * 20}


def test_the_outbox_of_an_app_s_tests_shows_rendered_jobs() -> None:
    def rows() -> Iterator[dict[str, Any]]:
        yield {**PHONE, "name": "Анна"}
        yield PHONE
        yield {**PHONE, "name": "Иван"}

    with Courier() as courier:
        courier.producer.enqueue_many(
            rows(),
            common_job(content={"text": "Hello, {name}"}),
            lambda *_: None,
            template=True,
        )
        texts = [asked.job["content"]["text"] for asked in courier.outbox]
        assert texts == ["Hello, Анна", "Hello, Иван"]
        assert "name" not in courier.outbox[0].job

"""viber_courier.types says what the schemas say: field by field, required or not, each choice."""

from __future__ import annotations

import types as python_types
from collections.abc import Mapping
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import pytest
from marshmallow import ValidationError

import viber_courier
from tests.conftest import events_of, text_job
from viber_courier import InvalidMessage, Producer, types
from viber_courier.producers.testing import memory_producer
from viber_courier.schemas import fields
from viber_courier.schemas.event import Change, render
from viber_courier.schemas.lanes import LANES
from viber_courier.schemas.status import NEXT, Status
from viber_courier.schemas.window import DAYS
from viber_courier.worker.intake import RejectionRecorder

JOBS = {"text": types.TextJob, "button": types.ButtonJob, "image": types.ImageJob}
CONTENTS = {"text": types.TextContent, "button": types.ButtonContent, "image": types.ImageContent}
SAMPLES: dict[Any, tuple[Any, ...]] = {
    str: ("x", "2026-11-23T10:00:00+03:00", "79250000001", "https://a.example/b"),
    int: (60,),
    bool: (True, False),
    type(None): (None,),
    types.SendWindow: (
        {"from": "09:00", "to": "21:00", "zone": "Europe/Moscow", "days": ["mon"]},
        {"from": "21:00", "to": "09:00", "zone": ["Asia/Omsk", "Europe/Moscow"], "days": ["sun"]},
    ),
    types.Metadata: ({"a": "x", "b": 1, "c": 1.5, "d": True, "e": None}, {}),
}


def hints(typed: Any) -> dict[str, Any]:
    """Each field's type, without Required and NotRequired."""
    return get_type_hints(typed)


def required(typed: Any) -> set[str]:
    return set(typed.__required_keys__)


def kinds(hint: Any) -> list[Any]:
    """The members of a union, or the type itself."""
    return list(get_args(hint)) if get_origin(hint) in (Union, python_types.UnionType) else [hint]


def values(hint: Any) -> list[Any]:
    """Values that a type allows."""
    samples = [each for kind in kinds(hint) for each in SAMPLES.get(kind, ())]
    return [*choices(hint), *samples]


def choices(hint: Any) -> list[Any]:
    return [v for kind in kinds(hint) if get_origin(kind) is Literal for v in get_args(kind)]


def accepts(field: str, value: Any) -> bool:
    try:
        fields.JOB.fields[field].deserialize(value)
    except ValidationError:
        return False
    return True


@pytest.mark.parametrize("kind", JOBS)
def test_a_job_has_the_fields_of_the_schema(kind: str) -> None:
    typed, schema = JOBS[kind], fields.JOB.fields
    left_out = {*fields.SMS_FIELDS} if kind == "image" else set[str]()
    assert set(hints(typed)) == set(schema) - left_out
    assert required(typed) == {name for name, field in schema.items() if field.required}
    assert get_args(hints(typed)["contentType"]) == (kind,)
    assert hints(typed)["content"] is CONTENTS[kind]
    content = fields.CONTENT[kind].fields
    assert set(hints(CONTENTS[kind])) == set(content)
    assert required(CONTENTS[kind]) == {name for name, field in content.items() if field.required}
    assert {*hints(CONTENTS[kind]).values()} == {str}


@pytest.mark.parametrize("name", fields.JOB.fields)
def test_a_field_s_type_allows_what_its_rule_does(name: str) -> None:
    given = {kind: hints(typed).get(name) for kind, typed in JOBS.items()}
    hint = given["text"]
    if name in ("contentType", "content"):
        return
    # Each choice is one, and a type allows all values of a kind or none
    literals = [
        each for kind in kinds(hint) if get_origin(kind) is Literal for each in get_args(kind)
    ]
    assert all(accepts(name, each) for each in literals)
    assert any(accepts(name, each) for each in values(hint))
    for kind, samples in SAMPLES.items():
        if kind not in kinds(hint) and not literals and kind is not type(None):
            assert not [each for each in samples if accepts(name, each)], f"{name} takes {kind}"
    if not literals and str not in kinds(hint):
        assert not accepts(name, "x") and not accepts(name, "60")


def test_sending_hours_have_the_fields_of_their_schema() -> None:
    schema = fields.WINDOW.fields
    assert set(hints(types.SendWindow)) == set(schema)
    assert required(types.SendWindow) == {name for name, f in schema.items() if f.required}
    (days,) = get_args(hints(types.SendWindow)["days"])
    assert get_args(days) == DAYS


def test_choices_are_the_schema_s() -> None:
    for name, found in {
        "priority": set(LANES),
        "contentType": set(fields.CONTENT),
        "onUnsure": {"park", "resend"},
        "type": {"viber"},
    }.items():
        for typed in (types.Common, types.Row, *([types.TextJob] * (name != "contentType"))):
            assert {*choices(hints(typed)[name])} == found
            assert all(accepts(name, each) for each in found)


def test_rows_and_common_have_all_fields_of_a_job() -> None:
    whole = hints(types.TextJob)
    row, common = hints(types.Row), hints(types.Common)
    assert set(row) == set(whole) and required(types.Row) == {"address"}
    assert set(common) == set(whole) - {"id", "address"} and required(types.Common) == set()
    for name in common.keys() - {"content", "contentType"}:
        assert common[name] == whole[name]
    for name in row.keys() - {"content", "contentType", "address"}:
        assert {*kinds(row[name])} == {*kinds(whole[name]), type(None)}
    assert (
        {*kinds(row["content"])}
        == {*kinds(common["content"]), type(None)}
        == {
            *CONTENTS.values(),
            type(None),
        }
    )


def test_an_image_is_never_sent_as_sms_and_its_type_says_so() -> None:
    job: Any = text_job(contentType="image", content={"imageUrl": "https://a.example/b"})
    producer = memory_producer()
    producer.enqueue({**job, "resendSms": False})
    for more in ({"resendSms": True}, *({name: "x"} for name in fields.SMS_FIELDS)):
        with pytest.raises(InvalidMessage):
            producer.enqueue({**job, **more})


def test_event_data_is_what_events_hold() -> None:
    producer = memory_producer()
    assert producer.cancel(producer.enqueue(text_job(source="shop", campaign="sale")))
    RejectionRecorder(producer).record({"id": "?"}, "m", InvalidMessage({"": ["no"]}))
    seen = set[str]()
    for event in events_of(producer.redis, producer.settings):
        data: Mapping[str, Any] = event["data"]
        assert required(types.EventData) <= set(data) <= set(hints(types.EventData))
        seen |= set(data)
    render(Change(status=Status.READ, final=True, more={"resendOf": "a"}), "ns", 0.0)
    assert set(hints(types.EventData)) - seen == {"resendOf"}
    assert set(hints(types.SmsSegment)) == {"id", "state"}


def test_every_status_that_has_an_event_is_one_of_event_data() -> None:
    said = set(get_args(types.EventStatus))
    assert said == {str(each) for each in NEXT} - {"queued", "sending"}


def test_the_types_are_on_the_face_and_cost_nothing() -> None:
    for name in ("TextJob", "ButtonJob", "ImageJob", "Job", "Common", "Row", "EventData"):
        assert getattr(viber_courier, name) is getattr(types, name)
    assert Producer.enqueue.__annotations__["job"] == "types.Job"  # a text: never looked at

"""What OpenAPI says of a field (FORMS) is what its rule accepts, at the borders of each."""

from __future__ import annotations

import re
from dataclasses import fields
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as some
from marshmallow import ValidationError

from viber_courier import Record, Status
from viber_courier.ops.gateway import bodies, events, messages
from viber_courier.ops.gateway.openapi import document
from viber_courier.schemas.fields import CONTENT, FORMS, JOB, WINDOW, Checked

Form = dict[str, Any]
RULES: dict[str, tuple[Any, Form]] = {
    f"{type(schema).__name__}.{name}": (field.rule, FORMS.get(field.rule, {}))
    for schema in (JOB, WINDOW, *CONTENT.values())
    for name, field in schema.fields.items()
    if isinstance(field, Checked) and name not in ("content", "zone")
}
TEXTS = sorted(name for name, (_, form) in RULES.items() if "maxLength" in form)
NUMBERS = sorted(name for name, (_, form) in RULES.items() if "maximum" in form)
TYPES = {
    "string": str,
    "integer": int,
    "number": (int, float),
    "boolean": bool,
    "null": type(None),
    "object": dict,
    "array": list,
}
HOURS = {"from": "09:00", "to": "21:00", "zone": "Europe/Moscow"}
ODD = [None, True, False, 0, 1, 1.5, "", "x", "true", "false", "True", [], {}, {"a": 1}, {"a": []}]
WHOLE = some.characters(exclude_categories=["Cs"], exclude_characters="\0")


def is_type(value: Any, *names: str) -> bool:
    numbers = {"integer", "number"}
    return any(
        isinstance(value, TYPES[name]) and not (name in numbers and isinstance(value, bool))  # type: ignore[arg-type]
        for name in names
    )


def allows(form: Form, value: Any) -> bool:
    """JSON Schema's word on a value, as far as forms use it; lengths are code points there, too."""
    if "enum" in form:
        return any(
            value is each or (value == each and isinstance(value, str)) for each in form["enum"]
        )
    if "anyOf" in form:
        return any(allows(each, value) for each in form["anyOf"])
    if not is_type(value, form["type"]):
        return False
    if isinstance(value, list):
        sized = form["minItems"] <= len(value) <= form.get("maxItems", 1e9)
        return sized and all(allows(form["items"], each) for each in value)
    if isinstance(value, str):
        sized = form.get("minLength", 0) <= len(value) <= form.get("maxLength", 1e9)
        # "$" is the very end in JavaScript's dialect, which JSON Schema's patterns are in
        pattern = form.get("pattern", "^").replace("$", r"\Z")
        return sized and re.search(pattern, value) is not None
    if isinstance(value, dict) and "properties" in form:
        known = {*form["required"]} <= {*value} <= {*form["properties"]}
        return known and all(allows(form["properties"][n], each) for n, each in value.items())
    if isinstance(value, dict):
        inner = form["additionalProperties"]["type"]
        return len(value) <= form["maxProperties"] and all(
            is_type(each, *inner) for each in value.values()
        )
    return bool(form["minimum"] <= value <= form["maximum"])


def accepts(name: str, value: Any) -> bool:
    try:
        RULES[name][0](value)
    except ValidationError:
        return False
    return True


@pytest.mark.parametrize(
    "more",
    [
        *({}, {"to": "24:00"}, {"from": "24:00"}, {"from": "9:00"}, {"from": None}, {"a": 1}),
        *({"days": each} for each in (["mon"], ["sun", "mon"], [], ["Mon"], "mon", [1], None)),
        *(
            {"zone": each}
            for each in ("recipient", "UTC", ["UTC"], [], [1], "", "a b", ["UTC"] * 17)
        ),
    ],
    ids=str,
)
def test_sending_hours_have_a_form(more: Form) -> None:
    name, value = "JobSchema.sendWindow", {**HOURS, **more}
    assert accepts(name, value) == allows(RULES[name][1], value)
    for missing in HOURS:
        part = {n: each for n, each in value.items() if n != missing}
        assert not accepts(name, part) and not allows(RULES[name][1], part)


def test_every_rule_has_a_form() -> None:
    names = {name for schema in (JOB, WINDOW, *CONTENT.values()) for name in schema.fields}
    assert {name.split(".")[1] for name in RULES} == names - {"content", "zone"}
    assert not [name for name, (_, form) in RULES.items() if not form]
    # Patterns are in what Python and JavaScript have in common
    assert not [name for name in TEXTS if "(?" in RULES[name][1].get("pattern", "")]


@pytest.mark.parametrize("name", sorted(RULES))
def test_values_of_each_type(name: str) -> None:
    form = RULES[name][1]
    for value in ODD:
        if "format" not in form or not isinstance(value, str):
            assert accepts(name, value) == allows(form, value), value


@pytest.mark.parametrize("name", TEXTS)
@settings(max_examples=25)
@given(data=some.data())
def test_texts_at_their_borders(name: str, data: some.DataObject) -> None:
    form = RULES[name][1]
    most = form["maxLength"]
    any_text = some.text(WHOLE, max_size=80)
    pattern = form.get("pattern", "").replace("$", r"\Z")
    value = data.draw(some.from_regex(pattern, alphabet=WHOLE) | any_text if pattern else any_text)
    assert accepts(name, value) == allows(form, value)
    long = (value or "7") * (most // max(1, len(value)) + 2)
    for size in (most, most + 1):
        assert accepts(name, long[:size]) == allows(form, long[:size])
    cut = data.draw(some.integers(0, len(value)))
    other = value[:cut] + data.draw(WHOLE) + value[cut:]
    assert accepts(name, other) == allows(form, other)


@pytest.mark.parametrize("name", NUMBERS)
def test_numbers_at_their_borders(name: str) -> None:
    form = RULES[name][1]
    least, most = form["minimum"], form["maximum"]
    for value in (least - 1, least, least + 1, most - 1, most, most + 1, -1, 10**30):
        assert accepts(name, value) == allows(form, value) == (least <= value <= most)


def test_the_document_has_each_form_and_the_gateways_limits() -> None:
    made = document()
    schemas = made["components"]["schemas"]
    named = {"Message": JOB, **{f"{kind.title()}Content": each for kind, each in CONTENT.items()}}
    for title, schema in named.items():
        assert schemas[title]["additionalProperties"] is False
        assert {*schemas[title]["required"]} == {n for n, f in schema.fields.items() if f.required}
        for name, field in schema.fields.items():
            if isinstance(field, Checked) and name != "content":
                assert schemas[title]["properties"][name] == FORMS[field.rule], name
    send = made["paths"]["/v1/messages"]["post"]
    key, (_, many) = send["parameters"][0]["schema"], _json(send["requestBody"])["anyOf"]
    assert key["pattern"] == f"^{messages.KEY.pattern}$".replace(r"\x20-\x7e", " -~")
    assert many["maxItems"] == messages.MAX_LIST
    assert {*send["requestBody"]["content"]} == {"application/json", *bodies.LINES}
    poll = {
        each["name"]: each["schema"] for each in made["paths"]["/v1/events"]["get"]["parameters"]
    }
    assert (
        poll["wait"]["maximum"] == events.MAX_WAIT and poll["max"]["maximum"] == events.MAX_EVENTS
    )
    assert poll["group"]["pattern"] == poll["consumer"]["pattern"] == f"^{events.NAME.pattern}$"
    acks = _json(made["paths"]["/v1/events/ack"]["post"]["requestBody"])["properties"]["ackids"]
    assert acks["maxItems"] == events.MAX_EVENTS
    assert acks["items"]["pattern"] == f"^{events.ENTRY.pattern}$"
    assert {*schemas["Record"]["properties"]} == {
        re.sub("_(.)", lambda found: found[1].upper(), each.name) for each in fields(Record)
    }
    assert schemas["Record"]["properties"]["status"]["enum"] == [*Status]


def _json(body: Form) -> Form:
    schema: Form = body["content"]["application/json"]["schema"]
    return schema

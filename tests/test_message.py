"""Jobs as apps spell them: every field's limits, every fault at once, one digest per meaning."""

from __future__ import annotations

import json
from base64 import b64encode
from datetime import UTC, datetime, timedelta
from enum import Enum, IntEnum, StrEnum
from hashlib import blake2b
from itertools import permutations
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from marshmallow import ValidationError

from tests.conftest import text_job
from viber_courier.schemas import message
from viber_courier.schemas.errors import InvalidMessage
from viber_courier.schemas.message import Campaign, Job, parse_job

NOW = 1_795_430_400.0  # 2026-11-23T10:40:00Z
ABSENT = object()
IMAGE = {"contentType": "image", "content": {"imageUrl": "https://shop.example/a.jpg"}}
BUTTON = {
    "contentType": "button",
    "content": {"text": "t", "caption": "c", "action": "http://shop.example/"},
}
SMS = {"smsText": "sms", "smsSrcAddress": "1TEST", "smsValidityPeriodSec": 5000}
LINK = "https://shop.example/"


def job(**fields: Any) -> dict[str, Any]:
    """A valid job with these fields; ABSENT takes one away."""
    return {name: value for name, value in text_job(**fields).items() if value is not ABSENT}


def button(**content: Any) -> dict[str, Any]:
    merged = {**BUTTON["content"], **content}  # type: ignore[dict-item]
    kept = {name: value for name, value in merged.items() if value is not ABSENT}
    return job(contentType="button", content=kept)


def faults(raw: object, now: float = NOW) -> dict[str, list[str]]:
    with pytest.raises(InvalidMessage) as caught:
        parse_job(raw, now)
    return caught.value.errors


def stamp(moment: datetime) -> str:
    return moment.isoformat()


GOOD = [
    job(),
    *[job(subject=s) for s in ("S", "S" * 11, "Магазинчик!", "🙂" * 11)],
    *[job(priority=p) for p in ("low", "normal", "high", "realtime")],
    *[job(validityPeriodSec=n) for n in (15, 86400)],
    *[job(comment=c) for c in ("c", "c" * 1024, "🙂" * 1024, "two\nlines")],
    job(type="viber"),
    *[job(content={"text": t}) for t in ("t", "t" * 1000, "🙂" * 1000, "\ufeff\u202e\x01")],
    job(**BUTTON),
    *[button(text=t) for t in ("t" * 1000, "я" * 1000)],
    *[button(caption=c) for c in ("c", "c" * 19, "🙂" * 19)],
    *[button(action=u) for u in (LINK + "a" * (2048 - len(LINK)), "HTTP://h", "https://я.рф/?q=1")],
    *[button(imageUrl=u) for u in (LINK + "a" * (2048 - len(LINK)), "http://company.com/i.jpg")],
    job(**IMAGE),
    job(**IMAGE, resendSms=False),
    job(**{**IMAGE, "content": {"imageUrl": LINK + "a" * (2048 - len(LINK))}}),
    *[job(address=a) for a in ("7925000", "792500000012345", "7925000000", "+79250000001")],
    *[job(smsText=t) for t in ("s", "s" * 1600, "🙂" * 1600)],
    *[job(smsText="s", smsSrcAddress=a) for a in ("A", "1TESTshop09")],
    *[job(smsText="s", smsValidityPeriodSec=n) for n in (15, 86400)],
    job(**SMS, resendSms=True),
    job(smsSrcAddress="1TEST", smsValidityPeriodSec=60, resendSms="true"),
    job(resendSms=True),
    job(resendSms="false"),
    button(),
    {**button(), "resendSms": True},
    *[job(id=i) for i in ("a", "A-1_2.3:4", "x" * 64, "00000000-0000-4000-8000-000000000000")],
    *[job(ttlSec=n) for n in (15, 2592000)],
    *[job(onUnsure=w) for w in ("park", "resend")],
    job(sendAt="2026-11-23T13:40:00+03:00"),
    job(sendAt="2020-01-01T00:00:00Z"),
    job(sendAt="1969-12-31T23:59:59Z"),
    job(sendAt="0001-01-01T00:00:00+00:00"),
    job(sendAt=stamp(datetime.fromtimestamp(NOW, UTC) + timedelta(days=366))),
    job(sendWindow={"from": "00:00", "to": "24:00", "zone": "UTC"}),
    job(metadata={}),
    job(metadata={str(n): n for n in range(16)}),
    job(metadata={"s": "я🙂", "i": 2**70, "f": 0.5, "t": True, "n": None, "": ""}),
    job(metadata={"k": "x" * (1024 - len('{"k":""}'))}),
    job(metadata={"k": "я" * 508}),
]


@pytest.mark.parametrize("raw", GOOD, ids=range(len(GOOD)))
def test_a_job_just_inside_every_limit_is_accepted_and_kept_as_it_is(raw: dict[str, Any]) -> None:
    parsed = parse_job(raw, NOW)
    options = {"id", "sendAt", "sendWindow", "ttlSec", "onUnsure", "metadata", "resendSms", "type"}
    expected = {name: value for name, value in raw.items() if name not in options}
    expected["address"] = expected["address"].removeprefix("+")
    assert json.loads(parsed.own) == expected
    assert parsed.lane == raw["priority"]
    assert json.loads(parsed.metadata or "{}") == raw.get("metadata", {})


WHOLE = (True, False, 15.0, "15", None, [15], {}, 0, -15)
"""Values that aren't a whole number within any of our ranges (docs/provider-api.md#t13)."""
NOT_TEXT = (None, 1, True, 1.5, [], {}, b"bytes")
UNCLEAN = ("a\0b", "\0", "\ud800", "a\udfffb")

BAD: list[tuple[str, dict[str, Any]]] = [
    *[("subject", job(subject=v)) for v in ("", "S" * 12, "🙂" * 12, ABSENT, *NOT_TEXT, *UNCLEAN)],
    *[
        ("priority", job(priority=v))
        for v in ("", "urgent", "High", "high ", "lo", ABSENT, None, 1)
    ],
    *[("priority", job(priority=v)) for v in ("low|normal", ["low"], "high\n")],
    *[("validityPeriodSec", job(validityPeriodSec=v)) for v in (14, 86401, *WHOLE)],
    *[("comment", job(comment=v)) for v in ("c" * 1025, "", *NOT_TEXT, *UNCLEAN)],
    *[("type", job(type=v)) for v in ("sms", "Viber", "", None, 1)],
    *[("contentType", job(contentType=v)) for v in ("video", "Text", "", ABSENT, None, 1, [], {})],
    *[("content", job(content=v)) for v in (ABSENT, None, "text", [], 1)],
    *[("content.text", job(content={"text": v})) for v in ("", "t" * 1001, "🙂" * 1001)],
    *[("content.text", job(content={"text": v})) for v in (*NOT_TEXT, *UNCLEAN)],
    ("content.text", job(content={})),
    *[("content.text", button(text=v)) for v in (ABSENT, "", "t" * 1001)],
    *[("content.caption", button(caption=v)) for v in (ABSENT, "", "c" * 20, "🙂" * 20, None)],
    *[
        (f"content.{name}", button(**{name: v}))
        for name in ("action", "imageUrl")
        for v in ("", "ftp://h/a", "//h/a", "h/a", "http://", "http:///a", "http://h/a b", None, 1)
    ],
    *[
        (f"content.{name}", button(**{name: v}))
        for name in ("action", "imageUrl")
        for v in (LINK + "a" * (2049 - len(LINK)), "http://h/\0", "javascript:alert(1)")
    ],
    ("content.action", button(action=ABSENT)),
    ("content.imageUrl", job(contentType="image", content={})),
    ("content.imageUrl", job(contentType="image", content={"imageUrl": "company.com/i.jpg"})),
    *[("address", job(address=v)) for v in ("", "792500", "7925000000123456", "09250000001")],
    *[("address", job(address=v)) for v in ("++79250000001", "7 925 0000001", "8(925)0000001")],
    *[("address", job(address=v)) for v in ("٧٩٢٥٠٠٠٠٠٠١", "79250000001\n", "+", "+0925000000")],
    *[("address", job(address=v)) for v in (ABSENT, None, 79250000001, True, 7.9e10, [])],
    *[("smsText", job(smsText=v)) for v in ("s" * 1601, "", *NOT_TEXT, *UNCLEAN)],
    *[
        ("smsSrcAddress", job(smsText="s", smsSrcAddress=v))
        for v in ("", "A" * 12, "1 TEST", "Магазин", "shop-1", "é", "shop\n", None, 1)
    ],
    *[
        ("smsValidityPeriodSec", job(smsText="s", smsValidityPeriodSec=v))
        for v in (14, 86401, *WHOLE)
    ],
    *[("resendSms", job(resendSms=v)) for v in ("True", "yes", "", 1, 0, None, "1", [])],
    *[("id", job(id=v)) for v in ("", "x" * 65, "a b", "я", "a/b", "a\n", None, 1, "\0")],
    *[("ttlSec", job(ttlSec=v)) for v in (14, 2592001, *WHOLE)],
    *[("onUnsure", job(onUnsure=v)) for v in ("auto", "", "Park", None, True)],
    *[("sendAt", job(sendAt=v)) for v in ("2026-11-23T10:00:00", "2026-11-23", "now", "", None)],
    *[("sendAt", job(sendAt=v)) for v in (1795430400, 1.5, True, "0001-01-01T00:00:00+14:00")],
    *[("sendAt", job(sendAt=v)) for v in ("\ud800", "2026-11-23T25:00:00Z", [])],
    (
        "sendAt",
        job(sendAt=stamp(datetime.fromtimestamp(NOW, UTC) + timedelta(days=366, seconds=1))),
    ),
    ("metadata", job(metadata={str(n): n for n in range(17)})),
    ("metadata", job(metadata={"k": "x" * (1025 - len('{"k":""}'))})),
    ("metadata", job(metadata={"k": "я" * 509})),
    *[("metadata", job(metadata={"k": v})) for v in ([], {}, float("nan"), float("inf"), b"b")],
    *[("metadata", job(metadata=v)) for v in ([], "text", None, 1, {1: 1}, {"\0": 1})],
    *[("metadata", job(metadata={"k": v})) for v in UNCLEAN],
    ("metadata", job(metadata={"k": 10**5000})),
]


@pytest.mark.parametrize(("path", "raw"), BAD, ids=[f"{n}-{b[0]}" for n, b in enumerate(BAD)])
def test_a_job_just_outside_a_limit_is_refused_there_and_only_there(
    path: str, raw: dict[str, Any]
) -> None:
    assert list(faults(raw)) == [path]


@pytest.mark.parametrize(
    ("path", "raw"),
    [
        ("subjekt", job(subjekt="x")),
        ("resentSMS", job(resentSMS="true")),  # docs/provider-api.md#t1
        ("clientId", job(clientId=1)),
        ("commonData", job(commonData={})),
        ("Subject", job(Subject="x")),
        ("content.image", job(contentType="image", content={**IMAGE["content"], "image": "x"})),
        ("content.caption", job(content={"text": "t", "caption": "c"})),
        ("content.text", job(contentType="image", content={**IMAGE["content"], "text": "t"})),
        ("content.smsText", button(smsText="t")),
    ],
)
def test_an_unknown_field_is_refused_by_name(path: str, raw: dict[str, Any]) -> None:
    assert faults(raw) == {path: ["is not a field of the API"]}


@pytest.mark.parametrize("raw", [None, [], "job", 1, [job()], b"{}"])
def test_what_is_no_object_is_refused(raw: object) -> None:
    assert faults(raw) == {"": ["must be an object"]}


@pytest.mark.parametrize(
    ("paths", "raw"),
    [
        (["resendSms"], job(**IMAGE, resendSms=True)),
        (["resendSms"], job(**IMAGE, resendSms="true")),
        (["smsText"], job(**IMAGE, smsText="s")),
        (["smsSrcAddress"], job(**IMAGE, smsSrcAddress="A", resendSms=False)),
        ([*SMS, "resendSms"], job(**IMAGE, **SMS, resendSms=True)),
        (["smsText"], job(smsText="s", resendSms=False)),
        (["smsText"], job(smsText="s", resendSms="false")),
        ([*SMS], job(**SMS, resendSms=False)),
        (["smsSrcAddress"], job(smsSrcAddress="A")),  # without smsText the flag is off
        (["smsValidityPeriodSec"], job(smsValidityPeriodSec=60)),
        (["smsSrcAddress"], {**button(), "smsSrcAddress": "A"}),
    ],
)
def test_sms_fields_and_the_flag_go_together(paths: list[str], raw: dict[str, Any]) -> None:
    assert sorted(faults(raw)) == sorted(paths)


@pytest.mark.parametrize(
    ("paths", "raw"),
    [
        # The deciding field is wrong itself: that is one fault, not two.
        (["smsText"], job(smsText="s" * 1601, smsSrcAddress="A")),
        (["resendSms"], job(resendSms="yes", smsSrcAddress="A")),
    ],
)
def test_a_wrong_deciding_field_is_not_blamed_on_the_others(
    paths: list[str], raw: dict[str, Any]
) -> None:
    assert list(faults(raw)) == paths


@pytest.mark.parametrize(
    ("resend", "raw"),
    [
        (False, job()),
        (True, job(smsText="s")),
        (True, job(resendSms=True)),
        (True, job(resendSms="true")),
        (False, job(resendSms="false")),
        (False, job(**IMAGE)),
    ],
)
def test_the_flag_is_on_by_default_exactly_with_an_sms_text(resend: bool, raw: Any) -> None:
    assert parse_job(raw, NOW).resend is resend


UNCLEAN_TEXT = "must be without NUL and lone surrogates"
SAYS: list[tuple[dict[str, Any], str, str]] = [
    (job(subject=ABSENT), "subject", "is required"),
    (job(subject=None), "subject", "must not be null"),
    (job(subject=1), "subject", "must be a string"),
    (job(subject=""), "subject", "must have 1 to 11 characters"),
    (job(subject="\0"), "subject", UNCLEAN_TEXT),
    (job(priority="x"), "priority", "must be realtime or high or normal or low"),
    (job(onUnsure="x"), "onUnsure", "must be park or resend"),
    (job(onUnsure="x" * 17), "onUnsure", "must have 1 to 16 characters"),
    (
        job(address="x"),
        "address",
        "must be an international number of 7 to 15 digits, no leading 0",
    ),
    (job(resendSms=1), "resendSms", "must be true or false"),
    (job(ttlSec=1), "ttlSec", "must be a whole number from 15 to 2592000"),
    (job(validityPeriodSec=1), "validityPeriodSec", "must be a whole number from 15 to 86400"),
    (job(id="a b"), "id", "must be 1 to 64 of A-Za-z0-9_.:-"),
    (job(source="a b"), "source", "must be 1 to 32 of A-Za-z0-9_.-"),
    (
        job(sendAt="now"),
        "sendAt",
        "must be ISO 8601 with a zone, as 2026-11-23T10:00:00+03:00",
    ),
    (job(sendAt="0001-01-01T00:00:00+14:00"), "sendAt", "must be in the years 1 to 9999"),
    (job(sendAt="2099-01-01T00:00:00Z"), "sendAt", "must be at most 366 days ahead"),
    (job(metadata=[]), "metadata", "must be an object with at most 16 members"),
    (
        job(metadata={"k": []}),
        "metadata",
        "must hold strings, numbers, true, false and null only",
    ),
    (job(metadata={"k": "\0"}), "metadata", UNCLEAN_TEXT),
    (job(metadata={"k": float("nan")}), "metadata", "must hold finite numbers"),
    (job(metadata={"k": "x" * 1024}), "metadata", "must have at most 1024 bytes as JSON"),
    (job(content=1), "content", "must be an object"),
    (job(content=dict.fromkeys("abcdefghijklmnopq")), "content", "must have at most 16 fields"),
    (button(action="x"), "content.action", "must be an http or https URL"),
    (
        job(smsText="s", smsSrcAddress="-"),
        "smsSrcAddress",
        "must be 1 to 11 Latin letters or digits",
    ),
    (job(smsSrcAddress="A"), "smsSrcAddress", "needs resendSms to be true"),
    (
        job(**IMAGE, resendSms=True),
        "resendSms",
        "an image can't be sent again as SMS: leave out, or false",
    ),
    (dict.fromkeys(map(str, range(33))), "", "must have at most 32 fields"),
]


@pytest.mark.parametrize(("raw", "path", "text"), SAYS, ids=range(len(SAYS)))
def test_a_fault_says_what_is_allowed(raw: dict[str, Any], path: str, text: str) -> None:
    assert faults(raw) == {path: [text]}


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("x" * 64, "x" * 64),
        ("x" * 65, "x" * 61 + "..."),
        ("a\n\u202e", "a\\n\\u202e"),
        (7, "7"),
        (2**64 - 1, "18446744073709551615"),
        (2**64, "0x10000000000000000"),
        (10**5000, hex(10**5000)[:61] + "..."),
        (".text.", ".text."),
        ("тема", "тема"),
    ],
    ids=range(9),
)
def test_a_name_from_outside_is_shown_short_and_printable(name: Any, shown: str) -> None:
    assert message.printable(name) == shown
    assert faults({**job(), name: 1}) == {shown: ["is not a field of the API"]}
    assert [*faults(job(content={"text": "t", name: 1}))] == [f"content.{shown}"]


def test_as_many_fields_as_may_be_are_named_each() -> None:
    assert len(faults(dict.fromkeys([f"{n}" for n in range(32)], 1))) > 32
    assert len(faults(job(content=dict.fromkeys("abcdefghijklmnop")))) == 17


def test_a_source_is_given_to_what_names_none() -> None:
    assert message.named({"id": "a"}, "shop") == {"source": "shop", "id": "a"}
    assert message.named({"source": "own"}, "shop") == {"source": "own"}
    assert message.named({"id": "a"}, "") == {"id": "a"}
    assert message.named(["a"], "shop") == ["a"]


def test_a_campaigns_faults_say_what_is_allowed() -> None:
    common: list[tuple[Any, str, str]] = [
        ([], "common", "must be an object"),
        ({"id": "a"}, "common.id", "belongs to a row"),
        ({"subject": ""}, "common.subject", "must have 1 to 11 characters"),
    ]
    for wrong, path, text in common:
        with pytest.raises(InvalidMessage) as caught:
            Campaign(wrong, NOW)
        assert caught.value.errors == {path: [text]}


def test_every_fault_is_reported_at_once_by_its_path() -> None:
    found = faults(
        {
            "subject": "S" * 12,
            "priority": "asap",
            "validityPeriodSec": 1,
            "comment": "c" * 1025,
            "type": "sms",
            "contentType": "button",
            "content": {"text": "", "action": "x", "extra": 1},
            "smsValidityPeriodSec": 1,
            "resendSms": "yes",
            "id": "not good",
            "sendAt": "tomorrow",
            "ttlSec": 1,
            "onUnsure": "auto",
            "metadata": [],
            "smsTxt": "typo",
        }
    )
    assert sorted(found) == sorted(
        [
            *("subject", "priority", "validityPeriodSec", "comment", "type", "content.text"),
            *("content.caption", "content.action", "content.extra", "smsValidityPeriodSec"),
            *("resendSms", "id", "sendAt", "ttlSec", "onUnsure", "metadata", "smsTxt", "address"),
        ]
    )
    assert all(texts and all(isinstance(text, str) for text in texts) for texts in found.values())


def test_a_far_send_at_is_reported_with_all_the_others() -> None:
    assert sorted(faults(job(sendAt="2099-01-01T00:00:00Z", subject=""))) == ["sendAt", "subject"]


SECRET = "Zxq7"


@pytest.mark.parametrize(
    "raw",
    [
        job(**{name: SECRET * 600})
        for name in ("subject", "priority", "comment", "type", "contentType", "address", "smsText")
    ]
    + [
        job(**{name: f"{SECRET}\0"})
        for name in ("subject", "id", "onUnsure", "sendAt", "resendSms")
    ]
    + [job(ttlSec=SECRET, validityPeriodSec=[SECRET], metadata={SECRET: [SECRET]})]
    + [job(content={"text": SECRET + "\ud800"}), job(content=SECRET), button(action=SECRET)]
    + [job(smsText="s", smsSrcAddress=f"{SECRET} {SECRET}"), job(metadata={"k": SECRET * 300})],
    ids=range(18),
)
def test_no_value_is_ever_repeated_in_an_error(raw: dict[str, Any]) -> None:
    with pytest.raises(InvalidMessage) as caught:
        parse_job(raw, NOW)
    error: BaseException | None = caught.value
    while error is not None:
        assert SECRET not in f"{error} {error!r} {vars(error)}"
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)


def test_options_are_read_as_they_are_meant() -> None:
    parsed = parse_job(
        job(
            id="order-1",
            sendAt="2026-11-23T13:40:00.000001+03:00",
            ttlSec=60,
            onUnsure="resend",
            metadata={"n": 1},
        ),
        NOW,
    )
    assert (parsed.id, parsed.ttl, parsed.on_unsure) == ("order-1", 60, "resend")
    assert parsed.send_at == int(NOW) * 10**6 + 1
    assert parsed.metadata == '{"n":1}'
    plain = parse_job(job(), NOW)
    assert (plain.id, plain.ttl, plain.on_unsure, plain.send_at) == (None, None, None, None)


SAME = [
    (job(), job(resendSms=False, type="viber", ttlSec=86400, metadata={})),
    (job(), job(resendSms="false")),
    (job(), job(id="any")),
    (job(), dict(reversed(job().items()))),
    (job(), job(address="+79250000001")),
    (job(smsText="s"), job(smsText="s", resendSms=True)),
    (job(resendSms=True), job(resendSms="true")),
    (job(sendAt="2026-11-23T10:00:00Z"), job(sendAt="2026-11-23T13:00:00.000+03:00")),
    (job(sendAt="2026-11-23T10:00:00Z"), job(sendAt="2026-11-23T10:00:00+00:00")),
    (job(metadata={"a": 1, "b": 2}), job(metadata={"b": 2, "a": 1})),
    (button(), {**button(), "content": dict(reversed(button()["content"].items()))}),
]


@pytest.mark.parametrize(("one", "other"), SAME, ids=range(len(SAME)))
def test_the_same_job_spelled_differently_has_the_same_digest(one: Any, other: Any) -> None:
    assert parse_job(one, NOW).digest == parse_job(other, NOW).digest


OTHERS = [
    job(),
    job(address="79250000002"),
    job(subject="Shop2"),
    job(priority="low"),
    job(content={"text": "other"}),
    job(validityPeriodSec=86400),  # the API's default is not ours: it is sent or it isn't
    job(comment="Shop"),
    job(resendSms=True),
    job(smsText="Shop"),
    job(smsText="s", smsSrcAddress="Shop"),
    job(smsText="s", smsSrcAddress="Shop", smsValidityPeriodSec=86400),
    job(ttlSec=60),
    job(onUnsure="park"),
    job(onUnsure="resend"),
    job(sendAt="2026-11-23T10:00:00Z"),
    job(sendAt="2026-11-23T10:00:00.000001Z"),
    job(metadata={"a": 1}),
    job(metadata={"a": "1"}),
    job(metadata={"a": True}),
    job(metadata={"a": 1.0}),
    job(metadata={"a": None}),
    button(),
    button(imageUrl=LINK),
    job(**IMAGE),
]


def test_empty_metadata_is_stored_as_none_at_all() -> None:
    assert parse_job(job(metadata={}), NOW) == parse_job(job(), NOW)
    assert parse_job(MappingProxyType(job(metadata={})), NOW) == parse_job(job(), NOW)


def test_other_jobs_have_other_digests() -> None:
    assert len({parse_job(each, NOW).digest for each in OTHERS}) == len(OTHERS)


# Campaigns: rows merged over a common part.

COMMON = {name: value for name, value in job().items() if name != "address"}


def row_of(common: dict[str, Any], row: object) -> Job:
    return Campaign(common, NOW).parse_row(row, NOW)


def meant(job: Job, common: dict[str, Any]) -> dict[str, Any]:
    """What will be sent: the row's own fields over the campaign's, without those taken away."""
    merged = {**Campaign(common, NOW).wire, **json.loads(job.own)}
    return {name: value for name, value in merged.items() if value is not None}


def test_a_row_of_an_address_brings_nothing_else() -> None:
    assert row_of(COMMON, {"address": "+79250000009"}).own == '{"address":"79250000009"}'


def test_null_removes_a_field_of_the_common_part() -> None:
    common = {**COMMON, "comment": "c", "ttlSec": 60}
    parsed = row_of(common, {"address": "79250000009", "comment": None, "ttlSec": None})
    assert "comment" not in meant(parsed, common)
    assert parsed.ttl is None
    assert parsed.digest == parse_job(job(address="79250000009"), NOW).digest


@pytest.mark.parametrize("own", [{"ttlSec": 86400}, {"metadata": {}}])
def test_a_row_may_bring_a_default_back_over_the_common_part(own: dict[str, Any]) -> None:
    row = {"address": "79250000009", **own}
    parsed = row_of({**COMMON, "ttlSec": 60, "metadata": {"a": 1}}, row)
    whole = parse_job(job(**{"ttlSec": 60, "metadata": {"a": 1}, **row}), NOW)
    assert parsed.digest == whole.digest


def test_null_removing_what_must_be_there_is_a_fault() -> None:
    with pytest.raises(InvalidMessage) as caught:
        row_of(COMMON, {"address": "79250000009", "subject": None})
    assert caught.value.errors == {"subject": ["is required"]}


def test_a_row_replaces_content_whole() -> None:
    common = {**COMMON, **BUTTON}
    with pytest.raises(InvalidMessage) as caught:
        row_of(common, {"address": "79250000009", "content": {"text": "only"}})
    assert sorted(caught.value.errors) == ["content.action", "content.caption"]
    row = {"address": "79250000009", "contentType": "text", "content": {"text": "only"}}
    assert meant(row_of(common, row), common)["content"] == {"text": "only"}


@pytest.mark.parametrize("name", ["id", "address"])
def test_what_belongs_to_a_row_is_refused_in_common(name: str) -> None:
    for value in ("79250000001", None):
        with pytest.raises(InvalidMessage) as caught:
            Campaign({**COMMON, name: value}, NOW)
        assert list(caught.value.errors) == [f"common.{name}"]


def test_faults_of_the_common_part_are_found_before_any_row_and_named_so() -> None:
    with pytest.raises(InvalidMessage) as caught:
        Campaign({**COMMON, "subject": "S" * 12, "content": {"text": ""}, "bogus": 1}, NOW)
    assert sorted(caught.value.errors) == ["common.bogus", "common.content.text", "common.subject"]


@pytest.mark.parametrize("row", [None, "79250000001", 79250000001, ["79250000001"], []])
def test_a_row_that_is_no_object_is_refused(row: object) -> None:
    with pytest.raises(InvalidMessage) as caught:
        row_of(COMMON, row)
    assert caught.value.errors == {"": ["must be an object"]}


def test_a_row_may_complete_what_the_common_part_leaves_open() -> None:
    sender = {"smsSrcAddress": "1TEST", "smsValidityPeriodSec": 600}
    row = {"address": "79250000009", "smsText": "For you"}
    parsed = row_of({**COMMON, **sender}, row)
    whole = parse_job(job(**row, **sender), NOW)
    assert parsed.resend and parsed.digest == whole.digest
    with pytest.raises(InvalidMessage) as caught:  # and a row that doesn't is wrong by itself
        row_of({**COMMON, **sender}, {"address": "79250000009"})
    assert sorted(caught.value.errors) == sorted(sender)


@pytest.mark.parametrize("content", [{"text": "ok"}, {"text": "\ud800"}, {"text": {1, 2}}, {}])
def test_content_without_its_type_is_judged_with_the_row(content: Any) -> None:
    common = {name: value for name, value in COMMON.items() if name != "contentType"}
    campaign = Campaign({**common, "content": content}, NOW)
    row = {"address": "79250000009", "contentType": "text"}
    if content == {"text": "ok"}:
        parsed = campaign.parse_row(row, NOW)
        assert {**campaign.wire, **json.loads(parsed.own)}["content"] == content
    else:
        with pytest.raises(InvalidMessage) as caught:
            campaign.parse_row(row, NOW)
        assert list(caught.value.errors) == ["content.text"]


class Word(StrEnum):
    """An app's own names for values."""

    SHOP, HIGH, TEXT, BUTTON, PARK, TRUE = "Shop", "high", "text", "button", "park", "true"
    MOSCOW = "Europe/Moscow"


class Hour(IntEnum):
    ONE = 3600


class Text(str):
    """As libraries mark text, that it is safe or translated for example."""


class Fields(dict[str, Any]):
    pass


MORE = {"imageUrl": LINK, **BUTTON["content"]}  # type: ignore[dict-item]
ODD_CONTENT: list[Any] = [
    {"text": each} for each in ('%s "\\/\n\x7f\u2028', Text("t"), None, "\ud800")
]
ODD_CONTENT += [{"text": "t", "caption": "c"}, {1: 2}, {Word.TEXT: "t"}, Fields(text="t")]
ODD_CONTENT += [MappingProxyType({"text": "t"})]
ODD_METADATA = [
    *({"a": Hour.ONE, "b": Word.SHOP}, MappingProxyType({"z": None, "a": -0.0}), {1: 1}),
    *({"a": 10**5000}, {"a": float("nan")}, {"a": "x" * 1024}),
]
VALUES: dict[str, list[Any]] = {
    "address": ["79250000001", "+79250000001", Text("+79250000001"), "792", 7],
    "id": ["a", "b", Text("c"), "a b"],
    "subject": ["Shop", "Shop2", Word.SHOP, "S" * 12, 1, "\ud800", "\0"],
    "priority": ["high", "low", Word.HIGH, "asap", []],
    "comment": ["c", "d", "é🙂\t", "", "c" * 1025, "\udfff"],
    "type": ["viber", "sms"],
    "contentType": ["text", "button", "image", Word.TEXT, Word.BUTTON, "video", [], 1],
    "content": [{"text": "t"}, BUTTON["content"], IMAGE["content"], MORE, *ODD_CONTENT, {}, "t"],
    "validityPeriodSec": [15, 86400, Hour.ONE, True, 15.0, 10**5000],
    "resendSms": [True, False, "true", "false", Word.TRUE, 1, 0, []],
    "smsText": ["s", "Ж", "s" * 1601],
    "smsSrcAddress": ["A", Text("A"), "я"],
    "smsValidityPeriodSec": [15, 14, True],
    "ttlSec": [15, 86400, Hour.ONE, 14, True, 86400.0],
    "sendAt": [
        "2026-11-23T10:00:00Z",
        "2026-11-23T13:00:00+03:00",
        "2026-11-23",
        "2099-01-01T00:00Z",
    ],
    "sendWindow": [
        {"from": "09:00", "to": "21:00", "zone": "Europe/Moscow"},
        {"from": "21:00", "to": "09:00", "zone": "recipient", "days": ["mon", "tue"]},
        MappingProxyType({"from": "10:00", "to": "11:00", "zone": ("UTC", Word.MOSCOW)}),
        *(
            {"from": "09:00", "to": "21:00", "zone": "UTC", "days": ["fri"]},
            {"zone": "UTC"},
            "9-21",
        ),
    ],
    "onUnsure": ["park", "resend", Word.PARK, "auto"],
    "metadata": [{}, {"b": "я", "a": 1}, {"a": 1.0}, {"a": True}, *ODD_METADATA, []],
    "bogus": [1],
}


class Mixed(str, Enum):  # noqa: UP042 (whose str() is its name)
    ID, PARK, LOW = "order-1", "park", "low"


def test_an_enums_members_are_their_values() -> None:
    parsed = parse_job(job(id=Mixed.ID, onUnsure=Mixed.PARK, priority=Mixed.LOW), NOW)
    assert [f"{each}" for each in (parsed.id, parsed.on_unsure, parsed.lane)] == [*Mixed]
    assert parsed == parse_job(job(id="order-1", onUnsure="park", priority="low"), NOW)


@pytest.mark.parametrize("right", [{"ttlSec": Hour.ONE}, {"resendSms": True}])
def test_what_equals_a_right_value_may_still_be_wrong(right: dict[str, Any]) -> None:
    [(name, value)] = right.items()
    parse_job(job(**right), NOW)
    assert [*faults(job(**{name: float(value)}))] == [name]


def test_what_equals_the_right_value_of_another_row_may_still_be_wrong() -> None:
    campaign = Campaign(COMMON, NOW)
    row = {"address": "79250000001", "smsText": "s"}
    campaign.parse_row({**row, "resendSms": True}, NOW)
    with pytest.raises(InvalidMessage) as caught:
        campaign.parse_row({**row, "resendSms": 1}, NOW)
    assert caught.value.errors == {"resendSms": ["must be true or false"]}


def test_an_app_may_change_its_common_part_while_rows_are_read() -> None:
    common = {**COMMON, "content": {"text": "as given"}}
    campaign = Campaign(common, NOW)
    common["content"]["text"] = "for the next campaign"
    for row in ({"address": "79250000001"}, MappingProxyType({"address": "79250000001"})):
        parsed = campaign.parse_row(row, NOW)
        sent = {**campaign.wire, **json.loads(parsed.own)}
        assert sent["content"] == {"text": "as given"}


SMS_SETS: list[dict[str, Any]] = [
    *({}, {"resendSms": True}, {"resendSms": False}, {"smsText": "s"}, {"smsSrcAddress": "A"}),
    *({"smsText": "s", "resendSms": True}, {"smsText": None}, {"resendSms": None}),
]


@pytest.mark.parametrize("kind", [{}, BUTTON, IMAGE], ids=["text", "button", "image"])
@pytest.mark.parametrize("shared", SMS_SETS[:6], ids=range(6))
def test_the_rules_of_sms_hold_over_common_and_row(kind: Any, shared: Any) -> None:
    common = {**COMMON, **kind, **shared}
    try:
        campaign = Campaign(common, NOW)
    except InvalidMessage:
        assert kind == IMAGE
        return
    for brought in SMS_SETS:
        row = {"address": "79250000001", **brought}
        merged = {name: value for name, value in {**common, **row}.items() if value is not None}
        whole = result(lambda given=merged: parse_job(MappingProxyType(given), NOW))
        of_row = result(lambda given=row: campaign.parse_row(given, NOW))
        if isinstance(whole, Job) and isinstance(of_row, Job):
            assert of_row._replace(own=whole.own) == whole
        else:
            assert of_row == whole


def parts(*without: str, least: str = "") -> st.SearchStrategy[dict[str, Any]]:
    """Random fields, mostly good; null among them."""

    def value(name: str) -> st.SearchStrategy[Any]:
        pool = VALUES[name]
        return st.one_of(
            st.just(pool[0]), st.just(pool[min(1, len(pool) - 1)]), st.sampled_from(pool)
        )

    names = [name for name in VALUES if name not in without]
    rare = st.sampled_from(names).flatmap(lambda name: st.tuples(st.just(name), value(name)))
    return st.lists(rare, max_size=3).map(dict)


def result(read: Any) -> Any:
    try:
        return read()
    except InvalidMessage as wrong:
        return sorted(wrong.errors)


def view(job: Job, wire: dict[str, Any]) -> Any:
    """All that the store and the digest know of a job."""
    rest = (job.id, job.lane, job.resend, job.send_at, job.ttl, job.on_unsure, job.window, job.wait)
    return json.dumps([wire, json.loads(job.metadata or "{}"), rest, job.digest], sort_keys=True)


@settings(deadline=None, max_examples=400)
@given(
    extra=parts("id", "address", "bogus"),
    taken=st.lists(st.sampled_from(sorted(COMMON)), max_size=1),
    row=parts(),
    nulls=st.lists(st.sampled_from(sorted(VALUES)), max_size=1),
    address=st.booleans(),
)
def test_a_row_is_the_merged_job_given_whole(
    extra: dict[str, Any], taken: list[str], row: dict[str, Any], nulls: list[str], address: bool
) -> None:
    common = {name: value for name, value in {**COMMON, **extra}.items() if name not in taken}
    row = {**({"address": "79250000007"} if address else {}), **row, **dict.fromkeys(nulls)}
    try:
        campaign = Campaign(common, NOW)
    except InvalidMessage as wrong:
        # Refused at once is only what is wrong without any row as well.
        whole = result(lambda: parse_job({**job(), **common}, NOW))
        assert isinstance(whole, list)
        assert {path.removeprefix("common.") for path in wrong.errors} <= {*whole}
        return
    merged = {name: value for name, value in {**common, **row}.items() if value is not None}
    whole = result(lambda: parse_job(merged, NOW))
    of_row = result(lambda: campaign.parse_row(row, NOW))
    if isinstance(whole, list) or isinstance(of_row, list):
        assert of_row == whole
    else:
        sent = {
            k: v for k, v in {**campaign.wire, **json.loads(of_row.own)}.items() if v is not None
        }
        assert view(of_row, sent) == view(whole, json.loads(whole.own))


@settings(deadline=None, max_examples=100)
@given(st.dictionaries(st.text(max_size=3), st.text(), max_size=4), st.text(min_size=1))
def test_any_text_that_utf8_can_carry_is_kept_to_the_letter(
    metadata: dict[str, str], text: str
) -> None:
    raw = job(content={"text": text}, metadata=metadata)
    unclean = "\0" in text or any("\0" in part for pair in metadata.items() for part in pair)
    large = len(json.dumps(metadata, ensure_ascii=False, separators=(",", ":")).encode()) > 1024
    if unclean or large or len(text) > 1000:
        faults(raw)
    else:
        parsed = parse_job(raw, NOW)
        assert json.loads(parsed.own)["content"] == {"text": text}
        assert json.loads(parsed.metadata or "{}") == metadata


@pytest.mark.slow
@settings(deadline=None, max_examples=1000)
@given(
    fields=st.lists(parts(), max_size=3),
    sms=parts("id", "address", "bogus", *COMMON),
    kind=st.sampled_from([{}, BUTTON, IMAGE]),
    taken=st.lists(st.sampled_from(sorted(job())), max_size=1),
    dress=st.sampled_from([dict, Fields]),
)
def test_composed_checks_find_what_the_schema_does(
    fields: list[dict[str, Any]],
    sms: dict[str, Any],
    kind: dict[str, Any],
    taken: list[str],
    dress: Any,
) -> None:
    raw = job(**kind, **{} if kind == IMAGE else sms)
    for more in fields:
        raw |= more
    raw = {name: value for name, value in raw.items() if name not in taken}

    def outcome(given: Any) -> Any:
        try:
            parsed = parse_job(given, NOW)
        except InvalidMessage as wrong:
            return wrong.errors
        return view(parsed, json.loads(parsed.own))

    # The schema takes what is no dict.
    assert outcome(dress(raw)) == outcome(MappingProxyType(raw))


def test_good_jobs_and_rows_need_no_schema(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = [parse_job(MappingProxyType(raw), NOW) for raw in GOOD]
    campaign = Campaign(COMMON, NOW)
    monkeypatch.setattr(message, "_load", None)  # it takes many times as long
    for raw, expected in zip(GOOD, whole, strict=True):
        found = parse_job(raw, NOW)
        assert view(found, json.loads(found.own)) == view(expected, json.loads(expected.own))
    monkeypatch.setattr(message, "parse_job", None)
    for raw, expected in zip(GOOD, whole, strict=True):
        if all(raw[name] == COMMON[name] for name in COMMON):
            row = {name: value for name, value in raw.items() if name not in COMMON}
            assert campaign.parse_row(row, NOW).digest == expected.digest


def test_a_digest_is_of_each_fields_name_and_sorted_json() -> None:
    raw = job(
        id="a", type="viber", ttlSec=86400, metadata={}, resendSms=True, smsText="s", comment='"'
    )
    asked = ['comment="\\""', 'smsText="s"', 'content={"text":"Код 1234 🙂"}', 'contentType="text"']
    asked += ['subject="Shop"', 'priority="high"', 'address="79250000001"']
    hashes = sorted(blake2b(each.encode(), digest_size=16).digest() for each in asked)
    whole = b64encode(blake2b(b"".join(hashes), digest_size=15).digest()).decode()
    assert parse_job(raw, NOW).digest == parse_job(MappingProxyType(raw), NOW).digest == whole


def test_a_campaigns_digest_is_of_its_sorted_json() -> None:
    text = '{"comment":"я","subject":"Shop"}'
    whole = b64encode(blake2b(text.encode(), digest_size=15).digest()).decode()
    campaign = Campaign({"subject": "Shop", "comment": "я"}, NOW)
    assert campaign.digest == whole
    assert json.loads(campaign.json) == json.loads(text)


DIGESTS = json.loads((Path(__file__).parent / "golden" / "digests.json").read_text("utf-8"))
"""Jobs, campaigns and the digests that version 0.1.0 has stored for them."""


def test_digests_are_those_that_are_stored_already() -> None:
    for each in DIGESTS["jobs"]:
        assert parse_job(each["job"], NOW).digest == each["digest"], each
    for each in DIGESTS["campaigns"]:
        campaign = Campaign(each["common"], NOW)
        for row in each["rows"]:
            assert campaign.parse_row(row["row"], NOW).digest == row["digest"], (each, row)


def test_caches_are_bounded_and_hold_short_valid_values_only() -> None:
    results = [each for each in message._MEASURES.values() if hasattr(each, "cache_info")]
    caches: list[Any] = [*results, message._checks_of, message._content_rules]

    def sizes() -> list[int]:
        return [cache.cache_info().currsize for cache in caches]

    assert len(results) == len(message._LOW_CARDINALITY)
    assert all(cache.cache_info().maxsize for cache in caches)
    assert {cache.cache_info().maxsize for cache in results} == {1024}
    parse_job({**job(), "id": "a", "address": "79250000001", "comment": "c"}, NOW)
    parse_job(job(), NOW)
    before = sizes()
    for measure in results:
        with pytest.raises(ValidationError):
            measure("x" * 65)
    for n in range(100):
        faults(job(**{f"field{n}": n}))
        faults(job(subject=f"{n:<12}", contentType=f"{n}", resendSms=f"{n}"))
        faults(job(content={"text": "t", f"field{n}": n}))
        address, text = str(79250000000 + n), {"text": f"text {n}"}
        parse_job({**job(content=text), "id": f"{n}", "address": address, "comment": f"{n}"}, NOW)
    assert sizes() == before


def test_a_campaign_remembers_few_forms_of_rows() -> None:
    campaign = Campaign(COMMON, NOW)
    for names in permutations(["subject", "priority", "comment", "ttlSec", "id"]):
        for more in ({}, {"onUnsure": "park"}):
            row = {"id": "a", "subject": "S", "priority": "low", "comment": "c", "ttlSec": 60}
            campaign.parse_row(
                {"address": "79250000001", **{name: row[name] for name in names}, **more}, NOW
            )
    assert campaign._checks_of.cache_info().currsize == 128

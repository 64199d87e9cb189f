"""Two independent readings of the provider's document must agree: ours and the simulator's.

Where ours is stricter on purpose, STRICTER names the rule and what the other reading says to it.
"""

from __future__ import annotations

import copy
import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.workshop import expand
from viber_courier.ops import simulator_rules as rules
from viber_courier.schemas.errors import InvalidMessage
from viber_courier.schemas.message import Job, parse_job
from viber_courier.schemas.wire import send_body
from viber_courier.store.records import Waiting
from viber_courier.worker.batching import factor, wire_message

NOW = 1_795_430_400.0
MICROS = int(NOW) * 10**6
OPTIONS = ("id", "sendAt", "ttlSec", "onUnsure", "metadata")

TEXT = {"contentType": "text", "content": {"text": "Код 1234 🙂"}}
IMAGE = {"contentType": "image", "content": {"imageUrl": "http://company.com/image.jpg"}}
BUTTON = {
    "contentType": "button",
    "content": {"text": "t", "caption": "c", "action": "http://company.com/resource"},
}
BASE = {"subject": "Shop", "priority": "high", "address": "79250000001"}
SMS = {"smsText": "sms", "smsSrcAddress": "1TEST", "smsValidityPeriodSec": 5000}


def sent(jobs: list[Job], left: int | None = None) -> bytes:
    """The /send body of these jobs, as the worker builds it."""
    flag = jobs[0].resend
    waiting = [
        Waiting(
            id=str(n),
            lane=job.lane,
            resend=flag,
            until=MICROS + (left or 86400) * 10**6,
            has_ttl=left is not None,
            content=json.loads(job.own),
        )
        for n, job in enumerate(jobs)
    ]
    common, rest = factor([wire_message(message, MICROS) for message in waiting])
    return send_body(common, rest, flag)


def judged(body: bytes) -> list[str]:
    """The simulator's code for each message of a body, "" where accepted."""
    read = rules.read_send(body)
    assert read is not None, "error-syntax"
    messages = [read.common | row for row in read.rows]
    return [rules.address_fault(m) or rules.other_fault(m, read.resend) for m in messages]


def as_written(job: dict[str, Any]) -> bytes:
    """The body that a careless client would make of a job: unchecked."""
    message = {name: value for name, value in job.items() if name not in (*OPTIONS, "resendSms")}
    flag = job.get("resendSms", "smsText" in job)
    body = {"resendSms": flag, "messages": [{"type": "viber", **message}]}
    return json.dumps(body).encode()


def faults(job: dict[str, Any]) -> dict[str, list[str]]:
    try:
        parse_job(job, NOW)
    except InvalidMessage as wrong:
        return wrong.errors
    return {}


# What we accept, the provider's rules accept, to the letter.

CLEAN = st.characters(exclude_categories=["Cs"], exclude_characters="\0")


def text(most: int) -> st.SearchStrategy[str]:
    return st.one_of(
        st.text(CLEAN, min_size=1, max_size=min(most, 20)),
        st.builds(lambda c: c * most, st.sampled_from("aя🙂 ")),
    )


URLS = st.builds(
    lambda scheme, rest: f"{scheme}://{rest}",
    st.sampled_from(["http", "https", "HTTPS"]),
    st.sampled_from(["h", "company.com/a?b=c#d", "я.рф/🙂", "h/" + "a" * 2030, "[::1]:8/"]),
)
CONTENTS = {
    "text": st.fixed_dictionaries({"text": text(1000)}),
    "image": st.fixed_dictionaries({"imageUrl": URLS}),
    "button": st.fixed_dictionaries(
        {"text": text(1000), "caption": text(19), "action": URLS}, optional={"imageUrl": URLS}
    ),
}
VALIDITY = st.sampled_from([15, 16, 3600, 86399, 86400]) | st.integers(15, 86400)
DIGITS = st.from_regex(r"\+?[1-9][0-9]{6,14}", fullmatch=True)


@st.composite
def good_jobs(draw: st.DrawFn) -> dict[str, Any]:
    kind = draw(st.sampled_from(["text", "button", "image"]))
    job: dict[str, Any] = {
        "subject": draw(text(11)),
        "priority": draw(st.sampled_from(["low", "normal", "high", "realtime"])),
        "contentType": kind,
        "content": draw(CONTENTS[kind]),
        "address": draw(DIGITS),
    }
    more = {"type": st.just("viber"), "validityPeriodSec": VALIDITY, "comment": text(1024)}
    job.update(draw(st.fixed_dictionaries({}, optional=more)))
    flags = [None, False, "false"] if kind == "image" else [None, True, "true", False, "false"]
    flag = draw(st.sampled_from(flags))
    if flag is not None:
        job["resendSms"] = flag
    if kind != "image" and flag not in (False, "false"):
        sms = {"smsText": text(1600)}
        job.update(draw(st.fixed_dictionaries({}, optional=sms)))
        if flag is not None or "smsText" in job:
            sender = st.from_regex("[A-Za-z0-9]{1,11}", fullmatch=True)
            tied = {"smsSrcAddress": sender, "smsValidityPeriodSec": VALIDITY}
            job.update(draw(st.fixed_dictionaries({}, optional=tied)))
    return job


@pytest.mark.slow
@settings(deadline=None, max_examples=150)
@given(st.lists(good_jobs(), min_size=1, max_size=4), st.none() | st.integers(15, 2592000))
def test_what_we_accept_the_simulator_accepts_to_the_letter(
    raws: list[dict[str, Any]], left: int | None
) -> None:
    jobs = [parse_job(raw, NOW) for raw in raws]
    for flag in (False, True):
        batch = [(raw, job) for raw, job in zip(raws, jobs, strict=True) if job.resend is flag]
        if not batch:
            continue
        body = sent([job for _, job in batch], left)
        assert judged(body) == [""] * len(batch)
        read = rules.read_send(body)
        assert read is not None and read.resend is flag
        for (raw, _), message in zip(batch, expand(read.common, read.rows), strict=True):
            kept = {n: v for n, v in raw.items() if n not in ("resendSms", "type")}
            kept["address"] = kept["address"].removeprefix("+")
            clipped = ("validityPeriodSec", "smsValidityPeriodSec") if left else ()
            for name in clipped:
                kept.pop(name, None)
                message = {n: v for n, v in message.items() if n != name}
            assert message == {"type": "viber", **kept}


# What we refuse by the provider's rules, the simulator refuses with the provider's code.

ABSENT = "(absent)"
LONE = "a\ud800"
NO_TEXT = (ABSENT, None, "", 7, True, [], LONE)
NO_LINK = ("", "company.com", "//h/a", "http://", "http://h/a b", None, 7, LONE)
NO_SECONDS = (0, 14, 86401, -15, True, 15.0, "15", None, [15])
FORMAT, GIVEN = "error-content-type-format", "error-content-not-specified"
SMS_ERROR, SMS_TIME = "error-resend-sms-error", "error-resend-sms-validity-period-error"
VALIDITY_ERROR = "error-validity-period-seconds-format"


def cases(
    path: str, code: str, values: tuple[Any, ...], base: dict[str, Any], missing: str = ""
) -> list[tuple[str, Any, dict[str, Any], str]]:
    """A case for each value; ``missing`` is the code for those that count as not given."""
    none = (ABSENT, None, "") if missing else ()
    return [
        (path, v, base, missing if any(v is m or v == m for m in none) else code) for v in values
    ]


T, B, I_, S = BASE | TEXT, BASE | BUTTON, BASE | IMAGE, BASE | TEXT | SMS
WRONG = [
    *cases(
        "address",
        "error-address-format",
        (
            *("7925", "0" * 11, "7" * 16, "7 925 000 0001", "+", "٧٩٢٥٠٠٠٠٠٠١", "abc", 79250000001),
            *NO_TEXT,
        ),
        T,
        "error-address-not-specified",
    ),
    *cases(
        "subject",
        "error-subject-format",
        ("S" * 12, "🙂" * 12, *NO_TEXT),
        T,
        "error-subject-not-specified",
    ),
    *cases("priority", "error-priority-format", ("urgent", "HIGH", "low ", *NO_TEXT), T),
    *cases("comment", "error-comment-format", (None, 7, True, [], LONE), T),
    *cases(
        "type",
        "error-instant-message-type-format",
        ("sms", "Viber", 7, [], None, ""),
        T,
        "error-instant-message-type-not-specified",
    ),
    *cases("contentType", FORMAT, ("video", "Text", *NO_TEXT), T),
    *cases("content", FORMAT, ("text", 7, True, [], ABSENT, None, ""), T, GIVEN),
    *cases("validityPeriodSec", VALIDITY_ERROR, NO_SECONDS, T),
    *cases("content.text", FORMAT, ("t" * 1001, "🙂" * 1001, *NO_TEXT), T),
    *cases("content.text", FORMAT, ("t" * 1001, "🙂" * 1001, *NO_TEXT), B),
    *cases("content.caption", FORMAT, ("c" * 20, "🙂" * 20, *NO_TEXT), B),
    *cases("content.action", FORMAT, (ABSENT, *NO_LINK), B),
    *cases("content.imageUrl", FORMAT, NO_LINK, B),
    *cases("content.imageUrl", FORMAT, (ABSENT, *NO_LINK), I_),
    *cases("smsText", SMS_ERROR, (None, 7, True, [], LONE), S),
    *cases("smsSrcAddress", SMS_ERROR, ("A" * 12, "a b", "Магазин", "é", "", None, 7, LONE), S),
    *cases("smsValidityPeriodSec", SMS_TIME, NO_SECONDS, S),
    *cases("resendSms", FORMAT, (True, "true"), I_),
    *cases("resendSms", SMS_ERROR, (False, "false"), S),
    *cases("resendSms", SMS_ERROR, (False,), T | {"smsText": "s"}),
    *cases("resendSms", SMS_ERROR, (False,), T | {"smsSrcAddress": "A", "resendSms": True}),
    *cases("smsSrcAddress", SMS_ERROR, ("A",), T),  # our default without smsText is off
    *cases("smsValidityPeriodSec", SMS_ERROR, (60,), T),
    *cases("smsText", FORMAT, ("s",), I_),  # by default that asks for a resend
    *cases("smsText", SMS_ERROR, ("s",), I_ | {"resendSms": False}),
]


def changed(base: dict[str, Any], path: str, value: Any) -> dict[str, Any]:
    job = copy.deepcopy(base)
    *outer, name = path.split(".")
    place = job[outer[0]] if outer else job
    if value == ABSENT:
        place.pop(name, None)
    else:
        place[name] = value
    return job


@pytest.mark.parametrize(
    ("path", "value", "base", "code"), WRONG, ids=[f"{n}-{w[0]}" for n, w in enumerate(WRONG)]
)
def test_what_we_refuse_the_simulator_refuses_with_the_documents_code(
    path: str, value: Any, base: dict[str, Any], code: str
) -> None:
    assert faults(base) == {}
    job = changed(base, path, value)
    assert faults(job)
    assert judged(as_written(job)) == [code]


# Our rules that the provider's document doesn't have: (path, rule) by which we alone may refuse.

STRICTER = {
    # The document sets no limit; an empty text says nothing.
    ("comment", "must have 1 to 1024 characters"),
    ("smsText", "must have 1 to 1600 characters"),
    # It says "URL" only; a phone opens web pages, and 2048 is what is safe everywhere.
    ("content.action", "must be an http or https URL"),
    ("content.imageUrl", "must be an http or https URL"),
    ("content.action", "must have 1 to 2048 characters"),
    ("content.imageUrl", "must have 1 to 2048 characters"),
    # NUL can be written in JSON and is lost on many ways further on (docs/provider-api.md#t40).
    ("subject", "must be without NUL and lone surrogates"),
    ("comment", "must be without NUL and lone surrogates"),
    ("content.text", "must be without NUL and lone surrogates"),
    ("content.caption", "must be without NUL and lone surrogates"),
    ("content.action", "must be without NUL and lone surrogates"),
    ("content.imageUrl", "must be without NUL and lone surrogates"),
    ("smsText", "must be without NUL and lone surrogates"),
}
UNKNOWN = "is not a field of the API"
"""A typing error would be ignored by the provider; we refuse it, whatever the path."""

ODD = [
    *("", "x", "http://h", "ftp://h/a", "true", "79250000001", "+79250000001", "a\0b", "a b", "я"),
    *("s" * 12, "s" * 20, "s" * 1001, "s" * 1601, "http://h/" + "a" * 2040, "low", "image", "ok"),
    *(None, True, False, 0, 15, 14, 86400, 86401, 15.0, [], {}, {"text": "t"}, LONE),
]
PATHS = [
    *("address", "subject", "priority", "comment", "type", "contentType", "content", "bogus"),
    *("validityPeriodSec", "resendSms", *SMS),
    *(f"content.{name}" for name in ("text", "caption", "action", "imageUrl", "image")),
]
CHANGES = st.lists(
    st.tuples(st.sampled_from(PATHS), st.sampled_from([ABSENT, *ODD])), min_size=1, max_size=2
)


@settings(deadline=None, max_examples=600)
@given(st.sampled_from([T, B, I_, S, T | {"resendSms": "true"}, B | SMS]), CHANGES)
def test_both_readings_agree_about_any_job(
    base: dict[str, Any], changes: list[tuple[str, Any]]
) -> None:
    job = base
    for path, value in changes:
        if not path.startswith("content.") or isinstance(job.get("content"), dict):
            job = changed(job, path, value)
    wrong = faults(job)
    if not wrong:
        assert judged(sent([parse_job(job, NOW)])) == [""]
        return
    ours = {(path, text) for path, texts in wrong.items() for text in texts}
    if all(pair in STRICTER or pair[1] == UNKNOWN for pair in ours):
        return
    read = rules.read_send(as_written(job))
    refused = read is None or judged(as_written(job)) != [""]
    assert refused, f"only we refuse: {ours}"


@pytest.mark.parametrize(
    ("path", "value", "base"),
    [
        ("comment", "", T),
        ("comment", "c" * 1025, T),
        ("smsText", "", S),
        ("smsText", "s" * 1601, S),
        ("content.action", "tel://79250000001", B),
        ("content.imageUrl", "ftp://h/a.jpg", B),
        ("content.action", "http://h/" + "a" * 2040, B),
        ("content.imageUrl", "http://h/" + "a" * 2040, I_),
        *[(f"content.{name}", "http://h/\0", B) for name in ("action", "imageUrl")],
        *[(path, "a\0b", B | SMS) for path in ("subject", "comment", "smsText")],
        *[(path, "a\0b", B) for path in ("content.text", "content.caption")],
        ("bogus", 1, T),
        ("content.bogus", 1, T),
    ],
)
def test_each_stricter_rule_of_ours_is_one_that_the_document_does_not_have(
    path: str, value: Any, base: dict[str, Any]
) -> None:
    job = changed(base, path, value)
    ((_, rule),) = [(path, text) for path, texts in faults(job).items() for text in texts]
    assert (path, rule) in STRICTER or rule == UNKNOWN
    assert judged(as_written(job)) == [""]


def test_a_plus_before_the_number_is_taken_off_for_the_provider() -> None:
    job = T | {"address": "+79250000001"}
    assert judged(as_written(job)) == ["error-address-format"]
    assert judged(sent([parse_job(job, NOW)])) == [""]


@pytest.mark.parametrize("flag", ["True", "yes", 1, 0, None, [], "", 1.0])
def test_a_flag_that_is_none_is_refused_by_both(flag: Any) -> None:
    job = T | {"resendSms": flag}
    assert list(faults(job)) == ["resendSms"]
    assert rules.read_send(as_written(job)) is None

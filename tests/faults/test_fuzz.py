"""Whatever comes in, nothing comes out but what is documented: jobs, tasks, provider's replies.

``FUZZ_EXAMPLES`` sets how many examples are tried in all (100,000: some minutes).
"""

from __future__ import annotations

import json
import os
from collections import UserDict
from collections.abc import Callable
from types import MappingProxyType
from typing import Any

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as profile
from hypothesis import strategies as st

from tests.conftest import common_job, text_job
from viber_courier import Conflict, InvalidMessage, Producer
from viber_courier.producers.testing import memory_producer
from viber_courier.schemas.fields import CONTENT, JobSchema
from viber_courier.schemas.settings import Settings
from viber_courier.store.records import Waiting, Watched, segments, step_fields
from viber_courier.worker import outcome, tracking
from viber_courier.worker.answers import (
    Answer,
    oddity,
    read_send_answer,
    read_status_answer,
    retry_after,
)
from viber_courier.worker.breaker import after_request, after_statuses
from viber_courier.worker.intake import enqueue_task_jobs
from viber_courier.worker.outcome import Statuses
from viber_courier.worker.policy import after_send
from viber_courier.worker.tracking import after_poll

IN_ALL = int(os.environ.get("FUZZ_EXAMPLES", "4000"))
SETTINGS = Settings()
ERROR_MOST = 4000
"""Characters of an error's text."""


def fuzz(share: float) -> Callable[[Any], Any]:
    """A part of all examples; each must end within seconds."""
    return profile(
        max_examples=max(1, int(IN_ALL * share)),
        deadline=5000,
        print_blob=True,
        suppress_health_check=list(HealthCheck),
    )


def nested(levels: int, kind: str) -> Any:
    made: Any = "x"
    for _ in range(levels):
        made = {"list": [made], "object": {"a": made}, "tuple": (made,)}[kind]
    return made


DEEP = st.builds(nested, st.sampled_from((3, 90, 990, 5000)), st.sampled_from(("list", "object")))
LONE = st.text(st.characters(), max_size=40)  # with lone surrogates and NUL
GOOD_TEXT = st.text(
    st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1, max_size=30
)
NUMBERS = st.one_of(
    st.integers(),
    st.integers(0, 100_000),
    st.floats(),
    st.booleans(),
    st.integers(4000, 6000).map(lambda digits: 10**digits),
    st.decimals(allow_nan=False),
)
LONG = st.builds(lambda text, n: text * n, st.sampled_from("aя\0🙂\ud800 +1"), st.integers(1, 9000))
ODD = st.one_of(
    st.none(),
    NUMBERS,
    LONE,
    LONG,
    DEEP,
    st.binary(max_size=20),
    st.sets(st.integers(), max_size=3),
    st.tuples(LONE),
    st.sampled_from((object(), ..., int, Exception("x"), MappingProxyType({}), UserDict(a=1))),
)
FIELDS = [*JobSchema().fields, *(name for each in CONTENT.values() for name in each.fields)]
NAMES = st.one_of(st.sampled_from(FIELDS), LONE, LONG)
KEYS = st.one_of(NAMES, NUMBERS, st.none(), st.binary(max_size=3), st.tuples(LONE))
LINK = st.builds("https://h.example/{}".format, GOOD_TEXT)
CONTENTS: dict[str, st.SearchStrategy[Any]] = {
    "text": st.fixed_dictionaries({"text": GOOD_TEXT}),
    "image": st.fixed_dictionaries({"imageUrl": LINK}),
    "button": st.fixed_dictionaries(
        {"text": GOOD_TEXT, "caption": st.text("abя🙂", min_size=1, max_size=19), "action": LINK},
        optional={"imageUrl": LINK},
    ),
}
RIGHT: dict[str, st.SearchStrategy[Any]] = {
    "id": st.sampled_from("abc") | st.from_regex(r"[A-Za-z0-9_.:-]{1,64}", fullmatch=True),
    "sendAt": st.datetimes(timezones=st.timezones(), allow_imaginary=False).map(
        lambda when: when.isoformat()
    ),
    "ttlSec": st.integers(15, 2592000),
    "onUnsure": st.sampled_from(("park", "resend")),
    "metadata": st.dictionaries(LONE, st.one_of(NUMBERS, LONE, st.none()), max_size=17),
    "resendSms": st.sampled_from((True, False, "true", "false")),
    "type": st.just("viber"),
    "validityPeriodSec": st.integers(15, 86400),
    "comment": st.text(max_size=20),
    "smsText": GOOD_TEXT,
    "smsSrcAddress": st.just("SHOP"),
    "smsValidityPeriodSec": st.integers(15, 86400),
}


@st.composite
def jobs(draw: st.DrawFn) -> Any:
    """A valid job more often than not, and what a careless or hostile app makes of one."""
    kind = draw(st.sampled_from(tuple(CONTENTS)))
    job: dict[Any, Any] = text_job(
        draw(st.from_regex(r"\+?[1-9][0-9]{6,14}", fullmatch=True)),
        priority=draw(st.sampled_from(("realtime", "high", "normal", "low"))),
        contentType=kind,
        content=draw(CONTENTS[kind]),
    )
    for name in draw(st.lists(st.sampled_from(tuple(RIGHT)), max_size=3)):
        job[name] = draw(RIGHT[name])
    for _ in range(draw(st.sampled_from((0, 0, 1, 1, 2, 3)))):
        what = draw(st.sampled_from(("value", "inner", "take", "key", "many", "whole")))
        if what == "value":
            job[draw(NAMES)] = draw(ODD)
        elif what == "inner" and isinstance(job.get("content"), dict):
            job["content"] = {**job["content"], draw(KEYS): draw(ODD)}
        elif what == "take":
            job.pop(draw(NAMES), None)
        elif what == "key":
            job[draw(KEYS)] = draw(ODD)
        elif what == "many":
            job.update({f"{n}": n for n in range(draw(st.integers(0, 300)))})
        elif what == "whole" and draw(st.integers(0, 9)) == 0:
            return draw(ODD)
    dress = draw(st.sampled_from((dict, dict, dict, MappingProxyType, UserDict)))
    return dress(job)


COMMONS = st.one_of(
    st.builds(common_job),
    jobs().map(
        lambda job: (
            {k: v for k, v in job.items() if k not in ("id", "address")}
            if isinstance(job, dict)
            else job
        )
    ),
    st.none(),
)


def size(producer: Producer) -> int:
    """How much a Redis holds: keys, waiting messages, events."""
    redis, found = producer.redis, 0
    for key in redis.scan_iter():
        kind = redis.type(key)
        found += redis.zcard(key) if kind == "zset" else redis.xlen(key) if kind == "stream" else 1
    return found


@pytest.fixture(scope="module")
def producer() -> Producer:
    """Emptied before each example: its own memory, nobody else's."""
    return memory_producer()


@fuzz(0.2)
@given(job=jobs())
def test_a_job_is_stored_or_refused(producer: Producer, job: Any) -> None:
    producer.redis.flushall()
    try:
        id = producer.enqueue(job)
    except InvalidMessage as error:
        assert 0 < len(str(error)) < ERROR_MOST
        assert producer.redis.dbsize() == 0
    else:
        record = producer.get(id)
        assert record is not None and record.status == "queued"
        assert producer.enqueue({**job, "id": id}) == id
        assert producer.cancel(id) is True


@fuzz(0.1)
@given(
    rows=st.lists(st.one_of(jobs(), st.builds(dict, address=RIGHT["comment"])), max_size=4),
    common=COMMONS,
)
def test_rows_are_stored_or_refused(producer: Producer, rows: list[Any], common: Any) -> None:
    producer.redis.flushall()
    try:
        ids = producer.enqueue_many(rows, common=common)
    except (InvalidMessage, Conflict) as error:
        assert 0 < len(str(error)) < ERROR_MOST
        assert producer.redis.dbsize() == 0
    else:
        assert len(ids) == len(rows)
        assert all(producer.get(id) is not None for id in ids)
    # And left out one by one where the app wants that
    wrong: list[Any] = []
    try:
        ids = producer.enqueue_many(rows, common=common, on_invalid=lambda *it: wrong.append(it))
    except InvalidMessage as error:
        assert error.row is None  # common itself
    else:
        assert len(ids) + len(wrong) == len(rows)
        assert all(producer.get(id) is not None for id in ids)


def as_json(value: Any) -> Any:
    """What arrives of a value by Celery: JSON, with whatever a lax encoder lets through."""
    try:
        return json.loads(json.dumps(value, default=repr, skipkeys=True))
    except (ValueError, RecursionError):
        return repr(type(value))


TASK_IDS = st.one_of(st.uuids().map(str), st.text(min_size=1, max_size=255))


@fuzz(0.1)
@given(task=TASK_IDS, sent=st.one_of(st.lists(jobs().map(as_json), max_size=4), ODD, jobs()))
def test_a_task_of_jobs_ends_with_each_stored_or_rejected_once(
    producer: Producer, task: str, sent: Any
) -> None:
    producer.redis.flushall()
    said = enqueue_task_jobs(producer, task, sent)
    accepted, rejected = said
    assert accepted + rejected == (len(sent) if isinstance(sent, list) and sent else 1)
    events = producer.redis.xlen("{courier}:results")
    assert events <= rejected and bool(events) == bool(rejected)
    held = size(producer)
    # A redelivery is the same messages
    assert enqueue_task_jobs(producer, task, sent) == said
    assert (producer.redis.xlen("{courier}:results"), size(producer)) == (events, held)
    for _, fields in producer.redis.xrange("{courier}:results"):
        event = json.loads(fields["event"])
        assert event["data"]["status"] == "rejected" and len(fields["event"]) < 2 * ERROR_MOST
        assert producer.get(event["subject"]) is not None


JSON_ODD = st.recursive(
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(),
        st.floats(),
        LONE,
        LONG,
        st.integers(3000, 4200).map(lambda n: 10**n),
    ),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(LONE, inner, max_size=4),
    max_leaves=8,
)
CODES = st.one_of(
    st.sampled_from(("ok", "error-system", "error-auth", "error-syntax", "error-subject-unknown")),
    st.builds("error-{}".format, LONE),
    JSON_ODD,
)
IDS = st.one_of(st.integers(1, 5), st.integers(2**53, 2**64), JSON_ODD)
STATES = st.sampled_from(("sent", "delivered", "read", "failed", "undelivered")) | JSON_ODD
ENTRY = st.fixed_dictionaries(
    {},
    optional={
        "providerId": IDS,
        "code": CODES,
        "status": STATES,
        "statusAt": st.one_of(st.just("2026-11-23 10:00:00"), JSON_ODD, DEEP),
        "error": CODES,
        "errorCode": CODES,
        "smsStates": st.one_of(
            JSON_ODD,
            st.lists(st.fixed_dictionaries({}, optional={"id": IDS, "state": STATES}), max_size=3),
        ),
    },
)
REPLY = st.fixed_dictionaries(
    {}, optional={"status": CODES, "messages": st.one_of(st.lists(ENTRY, max_size=4), JSON_ODD)}
)


@st.composite
def bodies(draw: st.DrawFn) -> bytes:
    """A reply, as bytes: good JSON, nearly JSON, or nothing like it."""
    if draw(st.integers(0, 9)) == 0:
        return draw(st.binary(max_size=200))
    try:
        text = json.dumps(draw(st.one_of(REPLY, REPLY, JSON_ODD)))
    except (ValueError, RecursionError):
        text = "[" * 5000
    body = bytearray(text.encode())
    for _ in range(draw(st.sampled_from((0, 0, 0, 1, 3)))):
        place = draw(st.integers(0, len(body)))
        body[place : place + draw(st.integers(0, 3))] = draw(st.binary(max_size=3))
    if draw(st.integers(0, 30)) == 0:
        body = bytearray(draw(st.sampled_from((b"[", b'{"messages":', b'{"a":['))) * 3000)
    return bytes(body)


HTTP = st.sampled_from((200, 201, 204, 301, 400, 401, 404, 408, 413, 422, 429, 499, 500, 503, 599))


def waiting() -> Waiting:
    return Waiting("m", "high", False, 2 * 10**15, content={"text": "x"})


@fuzz(0.25)
@given(body=bodies(), http=HTTP, count=st.integers(1, 4), after=st.one_of(st.none(), LONE))
def test_any_reply_to_send_means_something_for_each_message(
    body: bytes, http: int, count: int, after: str | None
) -> None:
    outcomes = read_send_answer(Answer(http, body, after), count)
    assert len(outcomes) == count
    assert all(isinstance(each, outcome.Outcome) for each in outcomes)
    for each in outcomes:
        step = after_send(each, waiting(), 10**15, 0.5, SETTINGS)
        json.dumps(step.reason).encode()
    shown = after_request(outcomes, 0.5, SETTINGS)
    assert len(shown.reason) < 100 and 0 <= shown.pause <= SETTINGS.retry_cap


@fuzz(0.25)
@given(body=bodies(), http=HTTP, after=st.one_of(st.none(), LONE))
def test_any_reply_to_status_means_something_for_each_message(
    body: bytes, http: int, after: str | None
) -> None:
    answer = read_status_answer(Answer(http, body, after))
    shown = after_statuses(answer, 0.5, SETTINGS)
    assert len(shown.reason) < 100 and 0 <= shown.pause <= SETTINGS.retry_cap
    if isinstance(answer, Statuses):
        for id, entry in answer.entries.items():
            oddity(entry)
            watched = Watched("m", id, tracking.Status.SUBMITTED, True, 10**15, 2 * 10**15)
            step = after_poll(watched, entry, 10**15 + 10**6, SETTINGS)
            # What goes into Redis is text that UTF-8 can carry, and never much of it
            assert sum(len(f"{each}".encode()) for each in step_fields(step)) < 8000
            assert all(
                state.id is None or int(state.id) > 0 for state in segments(step.changes.sms or "")
            )


@fuzz(0.1)
@given(value=st.one_of(LONE, LONG, st.from_regex(r"[+-]?[0-9]{1,400}"), st.datetimes().map(str)))
def test_any_wish_to_wait_is_seconds_or_nothing(value: str) -> None:
    seconds = retry_after(value)
    assert seconds is None or 0 <= seconds < 10**13


@pytest.mark.parametrize("name", sorted(RIGHT.keys() - {"sendAt", "metadata", "comment"}))
def test_what_the_table_calls_right_is_accepted(name: str) -> None:
    producer = memory_producer()

    @profile(max_examples=30, database=None)
    @given(value=RIGHT[name])
    def accepted(value: Any) -> None:
        producer.redis.flushall()
        more = {"smsText": "x"} if name.startswith("sms") else {}
        assert producer.enqueue({**text_job(), **more, name: value})

    accepted()

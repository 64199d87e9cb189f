"""Rows of Redis as messages, and back: each value in its place, each absent one as its default."""

from __future__ import annotations

from typing import Any

import pytest

from viber_courier.schemas.event import SmsState
from viber_courier.schemas.instants import SECOND
from viber_courier.schemas.message import Job
from viber_courier.schemas.status import Reason, Status
from viber_courier.store.records import (
    INSIDE,
    Changes,
    Step,
    Waiting,
    Watched,
    add_attempts,
    end_fields,
    job_options,
    lane_index,
    merge,
    new_message,
    pack,
    provider_fields,
    read_waiting,
    read_watched,
    record_values,
    segments,
    step_fields,
    stored_segments,
    unpack,
)

BARE: dict[str, Any] = {
    **dict.fromkeys(("reason", "provider_id", "provider_status", "provider_code", "status_at")),
    **dict.fromkeys(("resend_of", "resent_as", "source", "campaign")),
    **{"id": "m", "status": Status.QUEUED, "final": False, "attempts": 0, "unsure": 0},
    **{"sms": (), "metadata": {}},
}
FULL = {
    **{"reason": "r", "provider": "7", "providerStatus": "w", "providerCode": "c"},
    **{"statusAt": "t", "resendOf": "o", "resentAs": "n", "source": "shop", "campaign": "c"},
    **{"status": "queued"},
    **{"final": "1", "attempts": "3", "unsure": "2", "sms": '[[5,"sent"]]', "metadata": '{"a":1}'},
}


@pytest.mark.parametrize(
    ("fields", "score", "values"),
    [
        ({"status": "queued"}, 0, BARE),
        ({"status": "queued", "reason": ""}, 4, BARE),
        ({"status": "queued"}, 5, BARE),
        ({"status": "queued"}, 7, BARE),
        ({"status": "queued"}, 6, {**BARE, "status": Status.SENDING, "attempts": 1}),
        (
            FULL,
            8,
            {
                **{"id": "m", "status": Status.QUEUED, "final": True, "reason": "r"},
                **{"attempts": 3, "unsure": 2, "sms": (SmsState("5", "sent"),)},
                **{"provider_id": "7", "provider_status": "w", "provider_code": "c"},
                **{"status_at": "t", "resend_of": "o", "resent_as": "n", "source": "shop"},
                "campaign": "c",
                "metadata": {"a": 1},
            },
        ),
    ],
)
def test_a_record_is_its_fields(fields: dict[str, str], score: float, values: Any) -> None:
    assert record_values("m", fields, score) == values


def test_fields_are_written_as_name_and_value() -> None:
    assert end_fields("why", one="1", two="2") == ["reason", "why", "one", "1", "two", "2"]
    assert provider_fields(7) == ("provider", "7")


@pytest.mark.parametrize(
    ("fields", "options"),
    [
        ({"set": "1"}, {"resendSms": False}),
        (
            {"set": "1", "window": "540 1260 31 Europe/Moscow Asia/Omsk"},
            {
                "resendSms": False,
                "sendWindow": {
                    **{"from": "09:00", "to": "21:00", "zone": ["Europe/Moscow", "Asia/Omsk"]},
                    "days": ["mon", "tue", "wed", "thu", "fri"],
                },
            },
        ),
        (
            {
                **{"set": "8", "ttl": "60", "onUnsure": "park", "source": "s"},
                **{"campaign": "c", "metadata": '{"a":1}'},
            },
            {
                **{"resendSms": True, "ttlSec": 60, "onUnsure": "park", "source": "s"},
                **{"campaign": "c", "metadata": {"a": 1}},
            },
        ),
    ],
)
def test_a_dead_letters_options_are_those_of_its_job(fields: Any, options: Any) -> None:
    assert job_options(fields) == options


def test_lanes_have_numbers_from_one_on() -> None:
    lanes = [(lane, sms) for lane in ("realtime", "high", "normal", "low") for sms in (0, 1)]
    assert [lane_index(lane, bool(sms)) for lane, sms in lanes] == [1, 2, 3, 4, 5, 6, 7, 8]


BARE_JOB = Job("m", '{"address":"7925"}', "high", False, *[None] * 5, "", "digest")


@pytest.mark.parametrize(
    ("job", "resend_of", "row"),
    [
        (BARE_JOB, "", ["m", "digest", 3, "", 86400 * SECOND, "7925", 0]),
        (
            BARE_JOB._replace(
                **{"own": "{}", "resend": True, "send_at": 9, "ttl": 60, "on_unsure": "park"},
                **{"source": "shop", "metadata": '{"a":1}', "window": "w", "wait": 2 * SECOND},
            ),
            "old",
            [
                *("m", "digest", 4, 9, 58 * SECOND, "{}", 6),
                *("resendOf", "old", "ttl", "60", "onUnsure", "park"),
                *("source", "shop", "window", "w", "metadata", '{"a":1}'),
            ],
        ),
        (
            BARE_JOB._replace(campaign="sale"),
            "",
            ["m", "digest", "3:sale:7", "", 86400 * SECOND, "7925", 0],
        ),
        (
            BARE_JOB._replace(campaign="sale"),
            "old",
            ["m", "digest", "3:sale:-", "", 86400 * SECOND, "7925", 1, "resendOf", "old"],
        ),
    ],
)
def test_a_job_is_stored_as_a_row(job: Job, resend_of: str, row: list[Any]) -> None:
    assert new_message("m", job, resend_of, None if resend_of else 7) == row


COMMONS = {"d": {"subject": "s"}, "gone": None}
ROW = ["m", 0, "7925", "", "9", *[None] * 10]
HOURS = "540 1260 31 Europe/Moscow"
FULL_ROW = ["m", INSIDE, "7925", "d", "9", *"12345", "park", '{"a":1}', "old", HOURS, "60"]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (ROW, Waiting("m", "high", True, 9, content={"address": "7925"})),
        (
            FULL_ROW,
            Waiting(
                *("m", "high", True, 9, True, 4, 2, 2, 3, "park", True, 5, '{"a":1}', "old"),
                *(HOURS, {"address": "7925"}, {"subject": "s"}),
            ),
        ),
        ([*ROW[:2], None, *ROW[3:]], Waiting("m", "high", True, 9)),
        ([*ROW[:3], "gone", *ROW[4:]], Waiting("m", "high", True, 9)),
    ],
)
def test_a_waiting_message_is_its_row(row: list[Any], message: Waiting) -> None:
    assert read_waiting(row, "high", True, COMMONS) == message


def test_attempts_are_added_to_those_there_are() -> None:
    message = read_waiting(FULL_ROW, "high", True, COMMONS)
    assert add_attempts(message, 3) == message._replace(attempts=message.attempts + 3)


WATCHED_ROW = ["m", 0, "", "", "7", "sent", "1", "10", "11", *[None] * 11]
FULL_WATCHED = ["m", 0, "", "", "7", "sent", "2", "10", "11", *"1234"]
FULL_WATCHED += ["undelivered", "[]", "{}", "old", "w", "c", "t"]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (WATCHED_ROW, Watched("m", 7, Status.SENT, False, 10, 11)),
        (
            FULL_WATCHED,
            Watched(
                *("m", 7, Status.SENT, True, 10, 11, 1, 2, "undelivered", 3, 4),
                *("[]", "{}", "old", "w", "c", "t"),
            ),
        ),
        ([*FULL_WATCHED[:-1], ""], read_watched(FULL_WATCHED)._replace(status_at=None)),
    ],
)
def test_a_watched_message_is_its_row(row: list[Any], message: Watched) -> None:
    assert read_watched(row) == message


@pytest.mark.parametrize(
    ("text", "states"),
    [("", ()), ('[["5", "sent"], [null, ""]]', (SmsState("5", "sent"), SmsState(None, "")))],
)
def test_segments_are_kept(text: str, states: tuple[SmsState, ...]) -> None:
    assert segments(text) == states and stored_segments(states) == text


@pytest.mark.parametrize(
    ("step", "fields"),
    [
        (Step("stay"), []),
        (Step("stay", reason="r"), []),
        (Step("end"), []),
        (Step("end", 0, Status.FAILED, Reason.CRASHED), ["reason", Reason.CRASHED]),
        (
            Step("watch", changes=Changes(*range(1, 10), *"abcdef")),
            [
                *("attempts", 1, "failures", 2, "unsure", 3, "lapses", 4, "within", 5),
                *("submitted", 6, "tracked", 7, "polls", 8, "since", 9, "fault", "a"),
                *("sms", "b", "providerCode", "c", "providerStatus", "d", "statusAt", "e"),
                *("statusAtRaw", "f"),
            ],
        ),
    ],
)
def test_a_step_writes_what_it_changes(step: Step, fields: list[Any]) -> None:
    assert step_fields(step) == fields


@pytest.mark.parametrize(
    ("own", "packed"),
    [
        ('{"address":"7925"}', "7925"),
        ('{"address":"7925","comment":"c"}', None),
        ('{"comment":"c"}', None),
        ("{}", None),
    ],
)
def test_an_address_alone_is_stored_alone(own: str, packed: str | None) -> None:
    assert pack(own) == (packed or own)
    assert unpack(pack(own)) == unpack(own)


def test_own_fields_go_over_the_campaigns_and_null_removes_one() -> None:
    assert merge({"a": 1}, {"a": 2, "b": 3}) == {"a": 1, "b": 3}
    assert merge({"a": None, "c": 0}, {"a": 2, "b": 3}) == {"b": 3, "c": 0}

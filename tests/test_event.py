"""The result event as consumers read it: CloudEvents 1.0, exactly as docs/events.md has it."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from viber_courier.schemas.event import Change, SmsState, provider_text, render, resent
from viber_courier.schemas.instants import iso
from viber_courier.schemas.status import Reason, Status

AT = 1795428000.123
BARE = Change(status=Status.EXPIRED, final=True, reason=Reason.TTL)


def complete(
    change: Change, number: int = 1, provider_id: int | None = None, namespace: str = "courier"
) -> str:
    """The event's text as the script completes it (store/lua/lib/move.lua), of message "m"."""
    a, b, c, d, e = render(change, namespace, AT)
    return f"{a}m:{number}{b}m{c}m{d}{provider_text(provider_id)}{e}"


def event(change: Change, number: int = 1, provider_id: int | None = None) -> dict[str, Any]:
    parsed: dict[str, Any] = json.loads(complete(change, number, provider_id))
    return parsed


def test_an_event_is_the_contracts_to_the_last_field() -> None:
    change = Change(
        status=Status.DELIVERED,
        final=False,
        provider_status="delivered",
        provider_code="ok",
        status_at="2026-11-23T09:59:58Z",
        attempts=1,
        sms=(SmsState("583465579822710785", "delivered"),),
        metadata={"order": 7},
    )
    made = event(change, 3, 3158611117333282817)
    assert made == {
        "specversion": "1.0",
        "id": "m:3",
        "source": "viber-courier/courier",
        "type": "viber.message.delivered",
        "subject": "m",
        "time": "2026-11-23T10:00:00.123Z",
        "datacontenttype": "application/json",
        "data": {
            "messageId": "m",
            "status": "delivered",
            "final": False,
            "reason": None,
            "providerId": "3158611117333282817",
            "providerStatus": "delivered",
            "providerCode": "ok",
            "statusAt": "2026-11-23T09:59:58Z",
            "attempts": 1,
            "unsure": 0,
            "sms": [{"id": "583465579822710785", "state": "delivered"}],
            "metadata": {"order": 7},
        },
    }
    assert [*made] == [
        *("specversion", "id", "source", "type", "subject", "time", "datacontenttype", "data")
    ]


def test_what_is_not_known_is_null_or_empty_of_its_kind() -> None:
    data = event(BARE)["data"]
    nothing = {name for name, value in data.items() if value is None}
    assert nothing == {"providerId", "providerStatus", "providerCode", "statusAt"}
    assert (data["sms"], data["metadata"]) == ([], {})
    assert (data["reason"], data["final"], data["attempts"], data["unsure"]) == ("ttl", True, 0, 0)


@pytest.mark.parametrize("status", Status)
def test_the_type_says_the_status(status: Status) -> None:
    made = event(Change(status=status, final=False))
    assert made["type"] == f"viber.message.{status.value}"
    assert made["data"]["status"] == status.value


def test_a_segment_without_an_id_stays_without() -> None:
    change = Change(status=Status.SMS_SENT, final=False, sms=[SmsState(None, "x")])
    assert event(change)["data"]["sms"] == [{"id": None, "state": "x"}]


def test_a_rejected_event_carries_what_was_asked_and_why() -> None:
    more = {"errors": {"subject": ["is required"]}, "requestedId": "a b"}
    change = Change(status=Status.REJECTED, final=True, reason=Reason.INVALID, more=more)
    data = event(change)["data"]
    assert data["errors"] == more["errors"] and data["requestedId"] == "a b"
    assert data["status"] == "rejected"


def test_events_of_a_dead_letter_sent_again_name_it() -> None:
    assert resent("old") == {"resendOf": "old"}
    assert resent("") is None and resent(None) is None


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "1970-01-01T00:00:00.000Z"),
        (1795428000, "2026-11-23T10:00:00.000Z"),
        (1795428000.1239, "2026-11-23T10:00:00.123Z"),
        (1795427999.9999, "2026-11-23T09:59:59.999Z"),
    ],
)
def test_an_instant_is_utc_to_the_millisecond(seconds: float, text: str) -> None:
    assert iso(seconds) == text


TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)


@settings(deadline=None, max_examples=60)
@given(
    metadata=st.dictionaries(TEXT, TEXT | st.integers() | st.booleans() | st.none()),
    said=TEXT,
    id=st.integers(1, 2**64 - 1),
    number=st.integers(1, 2**53),
)
def test_whatever_it_carries_an_event_is_one_line_of_json(
    metadata: Any, said: str, id: int, number: int
) -> None:
    change = Change(
        status=Status.SENT,
        final=False,
        provider_status=said,
        metadata=metadata,
        sms=[SmsState(str(id), said)],
    )
    text = complete(change, number, id, "n.s-1")
    assert "\n" not in text
    made = json.loads(text.encode())
    assert made["id"] == f"m:{number}"
    assert made["data"]["providerId"] == made["data"]["sms"][0]["id"] == str(id)
    assert made["data"]["metadata"] == metadata
    assert made["data"]["providerStatus"] == said

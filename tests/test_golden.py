"""The provider's document as an independent witness: its own examples, to the letter."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.workshop import expand
from viber_courier.schemas.message import parse_job
from viber_courier.schemas.status import Status
from viber_courier.schemas.wire import (
    Reply,
    SendEntry,
    read_send,
    read_status,
    send_body,
    sms_leg,
    status_body,
)
from viber_courier.store.records import Waiting
from viber_courier.worker.batching import factor, wire_message

GOLDEN = Path(__file__).parent / "golden"
NOW = 1_795_430_400.0
FIRST = 3158611117333282816


def golden(name: str) -> Any:
    return json.loads((GOLDEN / name).read_text(encoding="utf-8"))


def jobs(request: dict[str, Any]) -> list[dict[str, Any]]:
    """The jobs that an app would write for this request."""
    messages = expand(request.get("commonData", {}), request["messages"])
    return [{**message, "resendSms": request["resendSms"]} for message in messages]


REQUESTS = ["text", "button", "image", "common"]


@pytest.mark.parametrize("name", REQUESTS)
def test_the_messages_of_the_documents_requests_are_valid_jobs(name: str) -> None:
    request = golden(f"request_{name}.json")
    for job in jobs(request):
        parsed = parse_job(job, NOW)
        assert parsed.resend is (request["resendSms"] == "true")
        assert {"type": "viber", "resendSms": request["resendSms"], **json.loads(parsed.own)} == job


@pytest.mark.parametrize("name", REQUESTS)
def test_what_we_send_for_them_means_what_the_document_wrote(name: str) -> None:
    request = golden(f"request_{name}.json")
    parsed = [parse_job(job, NOW) for job in jobs(request)]
    waiting = [
        Waiting(str(n), p.lane, p.resend, until=1, content=json.loads(p.own))
        for n, p in enumerate(parsed)
    ]
    common, rest = factor([wire_message(message, 0) for message in waiting])
    sent = json.loads(send_body(common, rest, parsed[0].resend))
    assert sent["resendSms"] == request["resendSms"]
    expected = expand(request.get("commonData", {}), request["messages"])
    assert expand(sent.get("commonData", {}), sent["messages"]) == expected
    assert sent.keys() <= {"resendSms", "commonData", "messages"}


def test_the_documents_second_message_overrides_its_content_whole() -> None:
    _, second = jobs(golden("request_common.json"))
    assert second["content"] == {"text": "Message text"}
    assert parse_job(second, NOW).lane == "low"


def test_the_documents_status_request_is_what_we_send_for_its_ids() -> None:
    request = golden("request_status.json")
    assert request["messages"] == list(range(FIRST, FIRST + 5))
    assert json.loads(status_body(request["messages"])) == request
    assert str(FIRST + 1).encode() in status_body(request["messages"])  # no float on the way


@pytest.mark.parametrize(("name", "read"), [("send", read_send), ("status", read_status)])
def test_the_documents_replies_as_printed_are_no_json_and_called_so(name: str, read: Any) -> None:
    assert read((GOLDEN / f"reply_{name}.txt").read_bytes()) == Reply(None, None)


def test_the_documents_send_reply_repaired_reads_as_meant() -> None:
    reply = read_send((GOLDEN / "reply_send.json").read_bytes())
    assert reply == Reply("ok", [SendEntry(code="ok", provider_id=54321)])


@pytest.mark.parametrize("name", ["send", "status"])
def test_a_repaired_reply_has_every_word_of_the_printed_one(name: str) -> None:
    printed = (GOLDEN / f"reply_{name}.txt").read_text(encoding="utf-8")
    repaired = (GOLDEN / f"reply_{name}.json").read_text(encoding="utf-8")
    words = str.maketrans(dict.fromkeys("[]{},:", " "))
    assert printed.translate(words).split() == repaired.translate(words).split()


def test_the_documents_status_reply_repaired_reads_as_meant() -> None:
    reply = read_status((GOLDEN / "reply_status.json").read_bytes())
    assert reply.status == "ok" and reply.entries is not None
    by_id = {entry.provider_id: entry for entry in reply.entries}
    assert by_id.keys() == set(range(FIRST, FIRST + 5))
    for place in (1, 3):
        entry = by_id[FIRST + place]
        assert (entry.code, entry.status, entry.at) == ("ok", Status.READ, "2016-08-10T15:28:50Z")
        assert entry.sms == () and entry.error is None
    for place, segments in ((0, 14), (2, 1), (4, 1)):
        entry = by_id[FIRST + place]
        assert (entry.status, entry.at, len(entry.sms)) == (None, None, segments)
        assert sms_leg(entry.sms) == Status.SMS_DELIVERED
    ids = [segment.id for place in (0, 2, 4) for segment in by_id[FIRST + place].sms]
    assert ids == [str(n) for n in range(583465579822710784, 583465579822710800)]

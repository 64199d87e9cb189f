"""Jobs of apps that don't install the package: stored, or recorded as rejected."""

from __future__ import annotations

import json
from typing import Any

import pytest
import redis

from tests.conftest import events_of, text_job
from viber_courier import InvalidMessage, Producer
from viber_courier.schemas.settings import Settings
from viber_courier.worker.intake import RejectionRecorder


def test_rejecting_is_done_once_under_the_own_or_a_fresh_id(
    producer: Producer, client: redis.Redis, settings: Settings
) -> None:
    wrong = InvalidMessage({"subject": ["must have 1 to 11 characters"]})
    for _ in range(2):
        assert (
            RejectionRecorder(producer).record(
                {"id": "mine", "subject": "secret"}, "fresh-1", wrong
            )
            == "mine"
        )
    producer.enqueue(text_job(id="taken"))
    for _ in range(2):
        assert RejectionRecorder(producer).record({"id": "taken"}, "fresh-2", wrong) == "fresh-2"
    bad_id = InvalidMessage({"id": ["must be 1 to 64 of A-Za-z0-9_.:-"]})
    assert RejectionRecorder(producer).record({"id": "a b"}, "fresh-3", bad_id) == "fresh-3"
    assert RejectionRecorder(producer).record("no job", "fresh-4", wrong) == "fresh-4"
    found = {event["subject"]: event["data"] for event in events_of(client, settings)}
    assert list(found) == ["mine", "fresh-2", "fresh-3", "fresh-4"]
    assert found["mine"]["errors"] == {"subject": ["must have 1 to 11 characters"]}
    assert "requestedId" not in found["mine"]
    assert found["fresh-2"]["requestedId"] == "taken"
    assert found["fresh-3"]["requestedId"] == "a b"
    assert {data["status"] for data in found.values()} == {"rejected"}
    assert "secret" not in json.dumps(found)


@pytest.mark.parametrize("id", ['a"b', "a\nb", "\ud800", 5, ["x"], "x" * 65, ""])
def test_a_rejected_event_can_be_read_whatever_id_was_asked_for(
    id: Any, producer: Producer, client: redis.Redis, settings: Settings
) -> None:
    wrong = InvalidMessage({"": ["must be a list of jobs"]})
    assert RejectionRecorder(producer).record({"id": id}, "fresh", wrong) == "fresh"
    (event,) = list(producer.results("crm", "web-1", block=0))
    assert event.data["messageId"] == "fresh"
    assert event.data["requestedId"].isprintable()

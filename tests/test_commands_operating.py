"""``courier pause``, ``resume``, ``cancel`` and ``dead``."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.conftest import Courier, text_job
from viber_courier import InvalidMessage, Producer
from viber_courier.schemas.lanes import LANES
from viber_courier.store.keys import Keys
from viber_courier.store.leases import Lease, Store
from viber_courier.worker.intake import RejectionRecorder


@pytest.fixture
def producer(courier: Courier) -> Iterator[Producer]:
    made = Producer.from_env(courier.env)
    yield made
    made.close()


@pytest.fixture
def store(producer: Producer) -> Store:
    return Store(producer.redis, producer.settings)


def claimed(store: Store) -> list[str]:
    lease = store.claim("low", answered=True)
    return [message.id for message in lease.messages] if isinstance(lease, Lease) else []


def test_what_is_paused_is_not_sent_until_it_is_resumed(
    courier: Courier, producer: Producer, store: Store
) -> None:
    # Given a message in each lane, all lanes paused
    for lane in LANES:
        producer.enqueue(text_job(id=lane, priority=lane))
    assert "realtime, high, normal, low" in courier("pause").stdout
    assert claimed(store) == []
    # When one goes on
    assert courier.json("resume", "normal") == {"resumed": ["normal"]}
    # Then only that one's message is sent
    assert (claimed(store), claimed(store)) == (["normal"], [])
    # And then all
    assert courier("resume").stdout == "Resumed: realtime, high, low\n"
    assert courier("resume").stdout == "None of these was paused.\n"
    assert claimed(store) == ["realtime"]


def test_a_pause_has_a_reason_and_an_end(courier: Courier, producer: Producer) -> None:
    keys = Keys(producer.settings.namespace)
    told = courier.json("pause", "low", "poll", "--reason", "maintenance", "--for", "15m")
    assert told == {"paused": ["low", "poll"], "reason": "maintenance", "seconds": 900}
    for name in ("low", "poll"):
        assert producer.redis.get(keys.paused(name)) == "maintenance"
        assert 890_000 < producer.redis.pttl(keys.paused(name)) <= 900_000  # type: ignore[operator]
    courier("pause", "low")  # and now without an end
    assert producer.redis.pttl(keys.paused("low")) == -1
    for wrong in (["lowest"], ["low", "--for", "soon"], ["low", "--for", "0"]):
        courier("pause", *wrong, code=2)


def test_cancel_names_what_it_could_not_stop(
    courier: Courier, producer: Producer, store: Store
) -> None:
    for id in ("a", "b", "gone"):
        producer.enqueue(text_job(id=id))
    lease: Any = store.claim("high", answered=True)
    store.begin(lease, [message for message in lease.messages if message.id == "gone"])
    assert courier.json("cancel", "a") == {"a": "cancelled"}
    said = courier("cancel", "a", "b", "gone", "nobody", code=1).stdout.splitlines()
    assert said == [
        *("a  cancelled", "b  cancelled"),
        *("gone  not cancelled: sending", "nobody  not cancelled: unknown"),
    ]


@pytest.fixture
def letters(producer: Producer) -> list[str]:
    """Ids of dead letters: two rejected ones without content, one with an unsure end."""
    for id in ("r1", "r2"):
        RejectionRecorder(producer).record(
            {"id": id}, "fresh", InvalidMessage({"address": ["is required"]})
        )
    producer.enqueue(text_job(id="u", smsText="sms"))
    keys = Keys(producer.settings.namespace)
    producer.redis.hset(keys.records + "u", mapping={"unsure": 1, "attempts": 1})
    producer.cancel("u")
    return ["r1", "r2", "u"]


def test_dead_letters_are_listed(courier: Courier, letters: list[str]) -> None:
    said = courier("dead", "list").stdout.splitlines()
    assert [line.split("  ")[1:] for line in said] == [
        *(["r1", "rejected", "invalid"], ["r2", "rejected", "invalid"]),
        ["u", "unconfirmed", "by-request"],
    ]
    some = courier("dead", "list", "--most", "1", "--status", "rejected", "--json")
    assert some.stdout.count("\n") == 1 and '"hasContent": false' in some.stdout
    assert "There are more" in some.stderr
    courier("dead", "list", "--status", "read", code=2)


def test_a_dead_letter_is_looked_into(courier: Courier, letters: list[str]) -> None:
    said = courier("dead", "show", "u").stdout + courier("dead", "show", "u", "--json").stdout
    assert "7925***01" in said and "Код" not in said and "79250000001" not in said
    job = courier.json("dead", "show", "u", "--reveal")
    assert (job["address"], job["content"]["text"]) == ("79250000001", "Код 1234 🙂")
    assert "content-gone" in courier("dead", "show", "r1", code=1).stderr
    assert "is unknown" in courier("dead", "show", "nobody", code=1).stderr


def test_dead_letters_are_sent_again(
    courier: Courier, producer: Producer, letters: list[str]
) -> None:
    # One that may have been sent needs a word
    refused = courier.json("dead", "resend", "u", "r1", code=1)
    assert refused["resent"] == {} and set(refused["refused"]) == {"u", "r1"}
    sent = courier.json("dead", "resend", "u", "--unconfirmed")["resent"]
    record = producer.get(sent["u"])
    assert record is not None and record.resend_of == "u"
    # All at once
    said = courier("dead", "resend", "--all", "--status", "rejected", code=1).stdout.splitlines()
    assert said[0].startswith("r1  not sent: ") and said[-1] == "0 sent again, 2 not"
    # Never by accident
    for wrong in ([], ["u", "--all"], ["u", "--status", "failed"], ["--status", "failed"]):
        assert "use --all" in courier("dead", "resend", *wrong, code=2).stderr
        assert "use --all" in courier("dead", "drop", *wrong, code=2).stderr


@pytest.mark.slow
def test_a_person_is_asked_before_all_letters_are_dropped(
    courier: Courier, letters: list[str]
) -> None:
    code, _, asked = courier.type("no", "dead", "drop", "--all", "--status", "rejected")
    assert code == 1 and asked.startswith("Drop 2 dead letters? [y/N] ")
    assert len(courier("dead", "list").stdout.splitlines()) == 3
    assert courier.type("", "dead", "drop", "r1")[:2] == (0, "1 dropped\n")
    assert courier.type("y", "dead", "drop", "--all")[:2] == (0, "2 dropped\n")


def test_dead_letters_are_dropped(courier: Courier, letters: list[str]) -> None:
    assert courier("dead", "drop", "r1").stdout == "1 dropped\n"
    told = courier.json("dead", "drop", "r2", "nobody", code=1)
    assert (told["dropped"], list(told["refused"])) == (1, ["nobody"])
    assert courier.json("dead", "drop", "--all") == {"dropped": 1, "refused": {}}
    assert courier("dead", "list").stdout == ""

"""The format of what is stored: kept in the store, compared by scripts that begin something."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
import redis

from tests.conftest import ROOT, Clock, Courier, common_job, events_of, iso_in, text_job
from tests.workshop import Workshop
from viber_courier import StoreUnavailable
from viber_courier.schemas.settings import Settings
from viber_courier.store.connection import is_transient
from viber_courier.store.format import FORMAT, NEEDED
from viber_courier.store.keys import Keys
from viber_courier.store.records import DEAD_LETTER, WAITING, WATCHED
from viber_courier.store.refusals import refusal
from viber_courier.store.scripts import source
from viber_courier.worker.intake import enqueue_task_jobs
from viber_courier.worker.outcome import Accepted

OURS = {"written": str(FORMAT), "needed": str(NEEDED)}
NEWER = {"written": str(FORMAT + 2), "needed": str(FORMAT + 1)}
SAID = (
    f"the store holds format {FORMAT + 2}, for versions of format {FORMAT + 1} or newer, and this"
    f" version has format {FORMAT}: run the newer version again"
)
JUNK_SAID = (
    "the store holds format numbers that are none: delete {namespace}:format, which something else"
    " has written, unless a newer version has run here"
)


@pytest.fixture
def desk(client: redis.Redis, settings: Settings, clock: Clock) -> Workshop:
    return Workshop(client, settings, clock)


def held(desk: Workshop) -> Any:
    return desk.client.hgetall(desk.store.keys.format)


def write(desk: Workshop, numbers: dict[str, str]) -> None:
    """As a worker or an app of another version does."""
    desk.client.hset(desk.store.keys.format, mapping=dict(numbers))


def stored(desk: Workshop) -> dict[str, Any]:
    client: Any = desk.client
    keys = client.scan_iter(match=f"{{{desk.settings.namespace}}}:*", count=1000)
    return {key: (client.dump(key), client.pttl(key) == -1) for key in keys}


WRITERS: dict[str, Callable[[Workshop], Any]] = {
    "enqueue": lambda desk: desk.producer.enqueue(text_job()),
    "reject": lambda desk: enqueue_task_jobs(desk.producer, "1", None),
    "claim": lambda desk: desk.store.claim("low", True),
    "claim_watched": lambda desk: desk.store.claim_watched(True),
    "sweep": lambda desk: desk.store.sweep(),
}
READERS: dict[str, Callable[[Workshop], Any]] = {
    "get": lambda desk: desk.producer.get("a"),
    "cancel": lambda desk: desk.producer.cancel("a"),
    "dead.list": lambda desk: list(desk.producer.dead.list()),
    "ping": lambda desk: desk.producer.ping(),
}
OTHERS: dict[str, Callable[[Workshop], Any]] = {
    "enqueue_many": lambda desk: desk.producer.enqueue_many([{"address": "79250000001"}], JOB),
    "dead.drop": lambda desk: desk.producer.dead.drop("b"),
    "dead.drop_many": lambda desk: desk.producer.dead.drop_many(status="rejected"),
    "dead.resend": lambda desk: desk.producer.dead.resend("b"),
}
JOB = common_job()


@pytest.mark.parametrize("call", WRITERS)
def test_whoever_writes_first_leaves_its_numbers(desk: Workshop, call: str) -> None:
    WRITERS[call](desk)
    assert held(desk) == OURS


@pytest.mark.parametrize("call", READERS)
def test_whoever_only_reads_leaves_none(desk: Workshop, call: str) -> None:
    READERS[call](desk)
    assert held(desk) == {}


def test_numbers_only_go_up(desk: Workshop) -> None:
    # Given a store of an older version
    write(desk, {"written": "1", "needed": "1"})
    desk.producer.enqueue(text_job(id="a"))
    assert held(desk) == OURS
    # And one of a newer version, which this one can read, as after a roll back
    newer = {"written": str(FORMAT + 7), "needed": str(FORMAT)}
    write(desk, newer)
    desk.producer.enqueue(text_job(id="b"))
    desk.answer()
    assert held(desk) == newer
    assert [event["subject"] for event in events_of(desk.client, desk.settings)] == ["a", "b"]


@pytest.mark.parametrize("call", [*WRITERS, *READERS, *OTHERS])
def test_a_store_of_a_newer_version_is_refused_in_one_line(desk: Workshop, call: str) -> None:
    # Given messages in line, and a dead letter
    desk.producer.enqueue(text_job(id="a", sendAt=iso_in(60)))
    desk.end("rejected", desk.producer.enqueue(text_job(id="b")))
    # When a version has written that this one can't read
    write(desk, NEWER)
    before = stored(desk)
    # Then every call is refused, with both numbers, and nothing is changed
    with pytest.raises(redis.RedisError) as caught:
        (WRITERS | READERS | OTHERS)[call](desk)
    if isinstance(caught.value, StoreUnavailable):
        assert str(caught.value) == SAID
    else:  # a worker's call: logged as what Redis refuses
        assert refusal(caught.value) == SAID
        assert call in ("claim", "claim_watched", "sweep")
        assert not is_transient(caught.value)
    assert stored(desk) == before


@pytest.mark.parametrize("call", [*WRITERS, *READERS, *OTHERS])
@pytest.mark.parametrize("junk", [{"written": "three"}, {"written": "3", "needed": ""}])
def test_numbers_that_are_none_are_refused_in_one_line(
    desk: Workshop, call: str, junk: dict[str, str]
) -> None:
    desk.producer.enqueue(text_job(id="a", sendAt=iso_in(60)))
    desk.end("rejected", desk.producer.enqueue(text_job(id="b")))
    write(desk, junk)
    before = stored(desk)
    with pytest.raises(redis.RedisError) as caught:
        (WRITERS | READERS | OTHERS)[call](desk)
    said = str(caught.value) if isinstance(caught.value, StoreUnavailable) else ""
    assert (said or refusal(caught.value)) == JUNK_SAID
    assert stored(desk) == before


def test_what_is_in_flight_is_written_down(desk: Workshop) -> None:
    # Given a request whose answer is awaited when a newer version begins to write
    desk.producer.enqueue(text_job(id="a"))
    lease = desk.claim()
    write(desk, NEWER)
    # Then its mark and its answer are kept, and its events can be read
    assert desk.settle(desk.begin(lease), Accepted(7)) == []
    (event,) = desk.producer.results("crm", "one", block=0.0)
    assert (event.subject, event.status, event.data["providerId"]) == ("a", "submitted", "7")


def test_scripts_that_begin_nothing_are_the_only_ones_that_do_not_ask() -> None:
    names = {path.stem for path in (ROOT / "store" / "lua").glob("*.lua")}
    asks = {name for name in names if {"format", "formats"} <= source(name).sizes.keys()}
    assert names - asks == {"begin", "lose", "refund", "retire", "settle", "wake"}
    assert all("local newer = unreadable(format, formats" in source(name).text for name in asks)


@pytest.mark.parametrize(("numbers", "said"), [(NEWER, SAID), ({"needed": "x"}, JUNK_SAID)])
def test_doctor_says_it(
    courier: Courier, redis_server: Any, namespace: str, numbers: dict[str, str], said: str
) -> None:
    with redis.Redis.from_url(redis_server.url) as real:
        real.hset(Keys(namespace).format, mapping=dict(numbers))
    rows = courier.json("doctor", "--no-provider", code=2, COURIER_BROKER_URL="redis://127.0.0.1:1")
    (row,) = [row for row in rows if row["about"] == "format"]
    assert (row["severity"], f"{row['seen']}: {row['do']}") == (
        "error",
        f"{said} (docs/operations.md)",
    )
    assert said in courier("ready", "--timeout", "1", code=3).stderr


def test_whoever_changes_what_is_stored_looks_at_the_format() -> None:
    """It finds new names only; a name that means something else is found by tests/upgrade."""
    keys = {name: value for name, value in vars(Keys("n")).items() if not name.startswith("_")}
    fields = {*WAITING, *WATCHED, *DEAD_LETTER}
    found = {"format": [FORMAT, NEEDED], "keys": keys, "fields": sorted(fields)}
    kept = json.loads((ROOT / "tests" / "golden" / "layout.json").read_text(encoding="utf-8"))
    assert found == kept, (
        "what is stored has changed: docs/decisions/0032 says when FORMAT and NEEDED must be raised"
    )


def test_the_pages_know_this_format() -> None:
    page = (ROOT / "docs" / "decisions" / "0032-a-format-number.md").read_text(encoding="utf-8")
    assert f"\n| {FORMAT} | {NEEDED} | " in page
    assert f"has format {FORMAT}.**" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")

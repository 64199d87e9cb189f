"""Events that were deleted before a group had them: told once, then reading goes on."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from itertools import islice
from typing import Any

import pytest
import redis

from tests.conftest import Clock, Courier, text_job
from viber_courier import Event, EventsMissed, Producer, StoreUnavailable
from viber_courier.producers import results as results_module
from viber_courier.schemas.settings import Settings
from viber_courier.schemas.status import Status
from viber_courier.store.keys import Keys
from viber_courier.store.leases import Store
from viber_courier.store.scripts import Script, shared


@pytest.fixture(params=["blocking", "asyncio"])
def face(request: pytest.FixtureRequest) -> str:
    """The contract of Producer and of AsyncProducer."""
    return str(request.param)


NODE = 100
"""Events that Redis trims at once: a node of its stream."""


class Stream:
    """A namespace's events, and sweeps that trim them; groups read it in small steps."""

    def __init__(self, client: redis.Redis, producer: Producer, clock: Clock) -> None:
        self.client, self.producer, self.clock = client, producer, clock
        self.keys = Keys(producer.settings.namespace)
        self.store = Store(client, producer.settings, clock)
        self.count = 0

    def add(self, count: int) -> None:
        """Events of so many messages, the n-th written n ms after 2026 began."""
        for _ in range(count):
            self.count += 1
            data = {"messageId": f"m{self.count}", "status": "read", "final": True, "reason": None}
            body = {"id": f"m{self.count}:1", "type": "t", "subject": f"m{self.count}"}
            event = json.dumps({**body, "time": "2026", "data": data})
            self.client.xadd(self.keys.results, {"event": event}, id=f"{self.ms(self.count)}-0")

    @staticmethod
    def ms(number: int) -> int:
        return 1_767_225_600_000 + number

    def trim(self, below: int) -> None:
        """Sweep when the events before the n-th are too old."""
        now = self.ms(below) / 1000 + self.producer.settings.results_retention
        self.clock.freeze()
        self.clock.advance(now - self.clock() / 1e6)
        self.store.sweep()

    def read(self, count: int = 10_000, group: str = "crm", **more: Any) -> list[int | None]:
        """Numbers of the events that come; None: EventsMissed."""
        reader, seen = self.producer.results(group, "web-1", block=0.01, **more), list[int | None]()
        while len(seen) < count:
            try:
                event = next(reader)
                event.ack()
                seen.append(int(event.subject[1:]))
            except EventsMissed as error:
                self.error = error
                seen.append(None)
            except StopIteration:
                break
        reader.close()
        return seen


@pytest.fixture
def stream(client: redis.Redis, producer: Producer, clock: Clock) -> Stream:
    return Stream(client, producer, clock)


def missed_count(stream: Stream) -> int:
    found: Any = stream.client.hget(stream.keys.counts, "events-missed")
    return int(found or 0)


def test_a_group_behind_the_trimming_is_told_once_and_reads_on(stream: Stream) -> None:
    stream.add(50)
    assert stream.read(40) == [*range(1, 41)]
    stream.read(50, group="quick")
    stream.add(3 * NODE)
    stream.read(group="quick")
    stream.trim(261)
    kept = int(stream.client.xrange(stream.keys.results, count=1)[0][0].split("-")[0])  # type: ignore[index]
    first = kept - stream.ms(0)
    assert 41 < first <= 261
    assert stream.read() == [None, *range(first, 351)]
    assert stream.error.group == "crm"
    # What it had read ahead and not acknowledged is gone as well
    assert stream.error.since == datetime.fromtimestamp(stream.ms(41) / 1000, UTC)
    assert stream.error.until == datetime.fromtimestamp(kept / 1000, UTC)
    assert "'crm' has missed events from 2026-01-01T00:00:00.0" in str(stream.error)
    assert stream.read() == []
    assert stream.read(group="quick") == []
    assert missed_count(stream) == 1


def test_a_for_loop_that_is_entered_again_reads_on(stream: Stream) -> None:
    stream.add(1)
    stream.read()
    stream.add(2 * NODE + 50)
    stream.trim(2 * NODE)
    reader, seen = stream.producer.results("crm", "web-1", block=0.01), list[Event]()
    with pytest.raises(EventsMissed):
        seen.extend(reader)
    seen.extend(reader)
    assert seen[-1].subject == f"m{stream.count}"


def test_two_losses_of_a_group_are_told_as_one(stream: Stream) -> None:
    stream.add(10)
    stream.read()
    stream.add(4 * NODE)
    stream.trim(2 * NODE)
    stream.trim(3 * NODE)
    told = stream.read()
    assert told.count(None) == 1 and told[0] is None
    assert stream.error.since == datetime.fromtimestamp(stream.ms(11) / 1000, UTC)
    assert missed_count(stream) == 2


@pytest.mark.parametrize("face", ["blocking"])  # looks inside
def test_what_is_deleted_while_a_group_is_being_told_is_not_passed_over(
    stream: Stream, monkeypatch: pytest.MonkeyPatch
) -> None:
    stream.add(10)
    stream.read()
    stream.add(4 * NODE)
    stream.trim(2 * NODE)
    execute, looked = stream.client.execute_command, list[str]()

    def trim_on(*words: Any, **more: Any) -> Any:
        """The next sweep comes right after the look at the note."""
        reply = execute(*words, **more)
        if words[:2] == ("HGETALL", stream.keys.missed) and not looked:
            looked.append("once")
            stream.trim(3 * NODE)
        return reply

    monkeypatch.setattr(stream.client, "execute_command", trim_on)
    told = stream.read()
    assert looked and told.count(None) == 1 and told[0] is None and told[1]
    assert stream.error.since == datetime.fromtimestamp(stream.ms(11) / 1000, UTC)
    assert stream.error.until == datetime.fromtimestamp(stream.ms(told[1]) / 1000, UTC)


@pytest.mark.parametrize("face", ["blocking"])  # looks inside
@pytest.mark.parametrize("by_hand", [False, True])
def test_a_lost_reply_is_no_silent_loss(
    stream: Stream, monkeypatch: pytest.MonkeyPatch, by_hand: bool
) -> None:
    # Given a group that has missed what a sweep deleted, or what was unacknowledged
    stream.add(10)
    seen = stream.producer.results("crm", "web-1", block=0.01)
    next(seen)
    if by_hand:
        stream.client.xtrim(stream.keys.results, maxlen=0)
    else:
        seen.close()
        stream.client.xack(stream.keys.results, "crm", *_pending(stream))
        stream.add(4 * NODE)
        stream.trim(2 * NODE)
    begin, lost = Script.begin, list[str]()

    def lose(script: Script, **given: Any) -> Any:
        fetch_reply = begin(script, **given)
        if script._source.name != "lose" or lost:
            return fetch_reply
        fetch_reply()
        lost.append("once")
        raise redis.ConnectionError("the reply was lost")

    # When the reply to the call that takes it off the lists is lost
    monkeypatch.setattr(Script, "begin", lose)
    # Then it is told all the same, once
    assert stream.read().count(None) == 1 and lost
    assert stream.read().count(None) == 0


@pytest.mark.parametrize("face", ["blocking"])  # looks inside
def test_a_refusal_of_redis_is_an_error_and_tells_of_nothing(
    stream: Stream, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Given a reader that has missed events, and lacks a permission
    stream.add(10)
    stream.read()
    stream.add(4 * NODE)
    stream.trim(2 * NODE)
    begin = Script.begin

    def refuse(script: Script, **given: Any) -> Any:
        if script._source.name == "lose":
            raise redis.ResponseError("NOPERM no permissions to run the 'hset' command")
        return begin(script, **given)

    with monkeypatch.context() as patched:
        patched.setattr(Script, "begin", refuse)
        with pytest.raises(StoreUnavailable, match="hset"):
            stream.read()
    # When it has it, then it is told, once
    assert [stream.read().count(None) for _ in range(2)] == [1, 0]


def test_what_destroyed_groups_have_missed_is_forgotten(stream: Stream) -> None:
    # Given two groups that have missed events, one of which is destroyed then
    stream.add(10)
    stream.read(group="crm")
    stream.read(group="old")
    stream.add(3 * NODE)
    stream.trim(2 * NODE)
    assert {*noted(stream)} == {"", "crm", "old"}
    stream.client.xgroup_destroy(stream.keys.results, "old")
    # When any other group is read
    stream.read(1, group="new")
    # Then its note is gone, and the other's isn't
    assert {*noted(stream)} == {"", "crm"}
    assert stream.read()[0] is None
    assert {*noted(stream)} == {""}


def noted(stream: Stream) -> Any:
    return stream.client.hgetall(stream.keys.missed)


def test_what_was_missed_is_taken_once_however_often_the_call_is_repeated(stream: Stream) -> None:
    stream.client.hset(stream.keys.missed, "crm", "1-0 5-0")
    lose = Script(stream.client, "lose", shared(stream.producer.settings))
    call: dict[str, Any] = {"group": "crm", "take": True, "once_ms": 1000, "entries": []}
    for _ in range(2):
        assert lose(once=stream.keys.once("mine"), **call) == ["1-0 5-0", 0]
    assert lose(once=stream.keys.once("another's"), **call) == ["", 0]


def _pending(stream: Stream) -> list[str]:
    found: Any = stream.client.xpending_range(stream.keys.results, "crm", "-", "+", 100)
    return [each["message_id"] for each in found]


@pytest.mark.parametrize("start", ["oldest", "new"])
def test_a_group_that_is_made_later_has_missed_nothing(stream: Stream, start: str) -> None:
    stream.add(3 * NODE)
    stream.trim(2 * NODE + 1)
    got = stream.read(start=start)
    assert None not in got and (got != []) == (start == "oldest")
    stream.add(2)
    assert stream.read(start=start) == [3 * NODE + 1, 3 * NODE + 2]


def test_what_was_read_may_be_trimmed_to_the_last_and_the_next_follows(stream: Stream) -> None:
    stream.add(2 * NODE)
    assert len(stream.read()) == 2 * NODE
    stream.trim(2 * NODE + 1000)  # all of them
    assert stream.client.xlen(stream.keys.results) == 0
    stream.add(3)
    assert stream.read() == [201, 202, 203]
    assert missed_count(stream) == 0


def test_a_group_that_was_made_on_an_empty_stream_and_never_read(stream: Stream) -> None:
    assert stream.read() == []
    stream.add(2 * NODE)
    stream.trim(NODE + 50)
    assert stream.read()[0] is None


@pytest.mark.parametrize("gone", [NODE + 20, NODE + 100])
def test_what_was_trimmed_by_hand_shows_too(stream: Stream, gone: int) -> None:
    stream.add(2 * NODE)
    stream.read(20)
    stream.client.xtrim(stream.keys.results, maxlen=2 * NODE - gone, approximate=False)
    expected = [*range(gone + 1, 2 * NODE + 1)]
    got = stream.read()
    # What this consumer has read ahead is its own; what is gone of it, and the rest, is told
    assert got[0] is None and [each for each in got if each] == expected
    assert stream.read() == []


def test_unacknowledged_events_that_were_deleted_are_missed_too(
    stream: Stream, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Given a consumer that died with ten events, which are trimmed, while the group read on
    stream.add(10)
    list(islice(stream.producer.results("crm", "dead", block=0.01), 10))
    stream.add(NODE)
    assert len(stream.read()) == NODE
    stream.trim(11)
    stream.client.xtrim(stream.keys.results, minid=f"{stream.ms(11)}-0", approximate=False)
    # Then another is told once, when it would have taken them over
    assert None not in stream.read()
    monkeypatch.setattr(results_module, "STALE_AFTER", 0.0)
    assert stream.read() == [None]
    assert stream.error.until > stream.error.since
    assert stream.read() == []


def test_a_consumer_s_own_events_that_were_deleted_are_missed(stream: Stream) -> None:
    stream.add(4)
    list(islice(stream.producer.results("crm", "web-1", block=0.01), 4))
    stream.client.xtrim(stream.keys.results, maxlen=2, approximate=False)
    assert stream.read() == [None, 3, 4]


def test_a_group_starts_where_its_app_says(stream: Stream) -> None:
    stream.add(5)
    third = datetime.fromtimestamp(stream.ms(3) / 1000, UTC)
    assert stream.read(group="a", start=third) == [3, 4, 5]
    assert stream.read(group="b", start=third - timedelta(days=9)) == [1, 2, 3, 4, 5]
    assert stream.read(group="c", start=third + timedelta(days=9)) == []
    assert stream.read(group="a", start="oldest") == []  # it exists
    for wrong in ("newest", datetime(2026, 1, 1), None):
        with pytest.raises(ValueError, match="start must be 'oldest', 'new' or a datetime with"):
            stream.producer.results("d", "web-1", start=wrong)  # type: ignore[arg-type]


def test_an_event_knows_its_number_its_status_and_whether_it_is_the_last(
    producer: Producer,
) -> None:
    id = producer.enqueue(text_job(id="a:b"))
    assert producer.cancel(id)
    (event,) = producer.results("crm", "web-1", block=0.05)
    assert (event.sequence, event.status, event.final) == (1, Status.CANCELLED, True)


@pytest.mark.parametrize("face", ["blocking"])  # other hands, which block
def test_the_command_line_tells_of_missed_events(
    courier: Courier, stream: Stream, settings: Settings, request: pytest.FixtureRequest
) -> None:
    if request.node.callspec.params["client"] != "redis":
        pytest.skip("another process needs a real server")
    stream.add(10)
    courier("results", "--group", "crm")
    stream.add(2 * NODE)
    stream.trim(NODE + 50)
    doctor = courier.json("doctor", "--no-provider", code=2)
    assert next(each["seen"] for each in doctor if each["about"] == "results: crm") == (
        "events were deleted before it read them"
    )
    got = courier("results", "--group", "crm", code=1)
    assert "Warning: group 'crm' has missed events from 2026-01-01T" in got.stderr
    assert len(got.stdout.splitlines()) >= NODE // 2
    courier("results", "--group", "crm")

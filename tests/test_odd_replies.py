"""Odd replies, generated: through the decisions, and through HTTP, real workers' parts and Redis.

tests/faults/test_odd_replies.py runs the same with many more examples.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import pytest
import redis
from hypothesis import given
from hypothesis import settings as profile
from hypothesis import strategies as st

from tests.conftest import Clock, common_job, text_job
from tests.odd_replies import FIRST_ID, SPELLINGS, Ledger, Spelling, odd_server, spell
from tests.workshop import Workshop, entry
from viber_courier import Record
from viber_courier.ops.commands import findings
from viber_courier.ops.look import Look, silence, take_look
from viber_courier.ops.redis_server import RedisServer
from viber_courier.schemas.errors import Unconfirmed
from viber_courier.schemas.lanes import LANES
from viber_courier.schemas.settings import Settings
from viber_courier.store.connection import connect
from viber_courier.store.gate import REFUSALS
from viber_courier.worker.answers import Answer, is_silent, read_send_answer, read_status_answer
from viber_courier.worker.outcome import Accepted, RequestRefused, Statuses, Unsure
from viber_courier.worker.poll import Poller
from viber_courier.worker.provider import Provider
from viber_courier.worker.send import Sender

RESENDS = 2
LANE_LISTS = st.lists(st.sampled_from(("realtime", "high", "low")), min_size=1, max_size=6)
_names = itertools.count(1)


def judge_send(how: Spelling, count: int) -> None:
    """What a reply to /send means is never less careful than what it says."""
    ids = [FIRST_ID + n for n in range(count)]
    refusals = [how.truths[n % len(how.truths)] for n in range(count)]
    body, sure = spell(how, ids, refusals, state=False)
    outcomes = read_send_answer(Answer(how.http, body), count)
    assert len(outcomes) == count
    for id, refusal, clear, outcome in zip(ids, refusals, sure, outcomes, strict=True):
        if clear:
            assert isinstance(outcome, Accepted) and outcome.provider_id in (id, None)
        elif not refusal:
            assert isinstance(outcome, Accepted | Unsure) or how.result == '"error-system"'
        if isinstance(outcome, Accepted):
            assert not refusal


def judge_status(how: Spelling, count: int) -> None:
    """What a reply to /status says of an id is said of that id, or counted as odd."""
    ids = [FIRST_ID + n for n in range(count)]
    body, _ = spell(how, ids, [""] * count, state=True)
    outcome = read_status_answer(Answer(how.http, body))
    if isinstance(outcome, Statuses):
        assert outcome.entries.keys() <= {*ids} or "1_000" in how.ids
        missing = len({*ids} - outcome.entries.keys())
        told = outcome.unread or is_silent(outcome, ids) or how.shape == "short"
        assert not missing or told or "same" in how.ids or how.shape == "one object"


class Lived(NamedTuple):
    """What became of some messages; ``look``: what an operator sees at their end; ``silent``: how
    many polls in a row were silent at most, and since when."""

    records: list[Record]
    ledger: Ledger
    look: Look
    silent: tuple[int, float]


class World:
    """Real parts over one Redis and one server of odd replies."""

    def __init__(
        self, client: redis.Redis, url: str, renew: Callable[[Sequence[Spelling]], Ledger]
    ) -> None:
        self.client, self.url, self.renew = client, url, renew

    def live(self, spellings: Sequence[Spelling], lanes: Sequence[str]) -> Lived:
        """From ``enqueue`` to the end of messages to which the provider answers so."""
        ledger = self.renew(spellings)
        settings = Settings(
            namespace=f"odd{next(_names)}",
            api_url=self.url,
            api_login="tester",
            api_password="1",
            unsure_resends=RESENDS,
            batch_size=4,
        )
        clock = Clock()
        clock.freeze()
        shop = Workshop(self.client, settings, clock)
        parts: Any = (settings, shop.store, Provider(settings), shop.decider)
        sender, poller = Sender(*parts), Poller(*parts)
        jobs = {
            shop.producer.enqueue(text_job(f"7925{n:07}", priority=lane)): lane
            for n, lane in enumerate(lanes)
        }
        silent, gate = (0, 0.0), shop.store.keys.gate("poll")
        for round in range(70):
            for lane in LANES:
                sender.serve(lane)
            poller.serve()
            held: Any = self.client.hmget(gate, "silent", "silent_since")
            silent = max(silent, (int(held[0] or 0), int(held[1] or 0) / 1e6))
            open_ = [id for id in jobs if not shop.producer.get(id).final]  # type: ignore[union-attr]
            self.check_places(shop, open_)
            if not open_:
                break
            clock.advance(400 if round < 30 else 14_400)
        assert not open_, [shop.producer.get(id) for id in open_]
        look, records = take_look(self.client, settings.namespace), list[Record]()
        for n, (id, lane) in enumerate(jobs.items()):
            record = shop.producer.get(id)
            assert record is not None
            records.append(record)
            most = 1 + RESENDS * (lane != "low")
            assert ledger.taken[f"7925{n:07}"] <= most, (record, ledger.taken)
            if record.provider_id is not None:
                assert ledger.ids[int(record.provider_id)] == f"7925{n:07}"
        assert ledger.again == []  # `ok` was said of it, whatever the id
        keys: Any = list(self.client.scan_iter(f"{{{settings.namespace}}}:*"))
        self.client.delete(*keys)
        return Lived(records, ledger, look, silent)

    def check_places(self, shop: Workshop, ids: list[str]) -> None:
        """Each message that has not ended waits in exactly one place, until some instant."""
        for id in ids:
            scores = [
                self.client.zscore(key, id)
                for key in (*shop.store.keys.lanes, shop.store.keys.watch)
            ]
            (score,) = (each for each in scores if each is not None)
            assert 0 < score < 4e15  # type: ignore[operator]


@pytest.fixture(scope="module")
def world(redis_server: RedisServer) -> Iterator[World]:
    client = connect(redis_server.url)
    with odd_server() as (url, renew):
        yield World(client, url, renew)
    client.close()


@profile(deadline=None, max_examples=60)
@given(how=SPELLINGS, count=st.integers(1, 4))
def test_no_odd_reply_means_less_than_it_says(how: Spelling, count: int) -> None:
    judge_send(how, count)
    judge_status(how, count)


@profile(deadline=None, max_examples=5)
@given(spellings=st.lists(SPELLINGS, min_size=1, max_size=5), lanes=LANE_LISTS)
def test_whatever_is_answered_no_message_goes_too_often_or_nowhere(
    world: World, spellings: list[Spelling], lanes: list[str]
) -> None:
    world.live(spellings, lanes)


PLAIN = Spelling(
    truths=("",), ids=("%d",), codes=('"ok"',), states=('"read"',), sms=(None,), result='"ok"',
    case=str, shape="as it is", encoding="utf-8", carrier="plain", http=200, text="",
)  # fmt: skip
URGENT = ["realtime", "high", "low"]


def oddities(lived: Lived) -> dict[str, int]:
    return {name: n for name, n in lived.look.counters.oddities.items() if n}


@pytest.mark.parametrize("send", ["%d", '"%d"'])
@pytest.mark.parametrize("status", ["%d", '"%d"', '" 0%d"'])
def test_ids_in_quotes_are_followed_to_the_end(world: World, send: str, status: str) -> None:
    spellings = [replace(PLAIN, ids=(send,))] * 3 + [replace(PLAIN, ids=(status,))]
    lived = world.live(spellings, URGENT)
    assert [(record.status, record.status_at) for record in lived.records] == [("read", None)] * 3
    assert {*lived.ledger.taken.values()} == {1} and oddities(lived) == {}


def test_segments_with_ids_in_quotes_end_a_message(world: World) -> None:
    sms = '[{"id": "%d", "state": "delivered"}]'
    how = replace(PLAIN, ids=('"%d"',), states=(None,), sms=(sms,))
    (record,) = world.live([how], ["high"]).records
    assert record.status == "sms_delivered" and record.provider_id is not None
    assert [segment.id for segment in record.sms] == [str(int(record.provider_id) + 7)]


@pytest.mark.parametrize("id", [None, "null", "3.15e18", '"3.15e18"', "0", "%d.0"])
def test_ok_without_a_usable_id_is_sent_exactly_once(world: World, id: str | None) -> None:
    lived = world.live([replace(PLAIN, ids=(id,))], URGENT)
    ends = {(record.status, record.reason, record.unsure) for record in lived.records}
    assert ends == {("lost", "no-provider-id", 0)}
    assert {*lived.ledger.taken.values()} == {1} and lived.ledger.requests == 3
    assert oddities(lived) == {"no-provider-id": 3}
    assert lived.look.counters.seen.keys() == {"no-provider-id"}


def test_answers_that_make_no_sense_are_counted_and_bounded(world: World) -> None:
    lived = world.live([replace(PLAIN, shape="trailing comma")], ["high", "low"])
    ends = {(record.status, record.reason) for record in lived.records}
    assert ends == {("unconfirmed", "unsure")}
    assert [record.unsure for record in lived.records] == [1 + RESENDS, 1]
    assert oddities(lived) == {"unreadable-send": 2 + RESENDS}


SILENT = {
    "ids that spell nothing": (replace(PLAIN, ids=("%d.0",)), "unreadable"),
    "strangers": (replace(PLAIN, ids=("5",)), "strangers"),
    "no entries": (replace(PLAIN, shape="empty"), None),
    "no state": (replace(PLAIN, states=(None,)), None),
    "refused": (replace(PLAIN, shape="html", http=400), None),
    "refused whole": (replace(PLAIN, shape="missing", result='"error_syntax"'), None),
}


@pytest.mark.parametrize("name", SILENT)
def test_polls_without_any_news_are_told(world: World, name: str) -> None:
    how, counted = SILENT[name]
    lived = world.live([PLAIN, *[how] * 200], ["high"])
    (record,) = lived.records
    assert (record.status, record.reason) == ("lost", "tracking-ended")
    assert oddities(lived).keys() == ({counted} if counted else set())
    polls, since = lived.silent
    assert polls >= findings.SILENT_POLLS - 1 and since > 0  # and the one that ended it
    # Nobody waits any more, so nothing is told, nor when the next message comes.
    size = lived.look.watched._replace(size=1)
    assert silence(lived.look) == silence(replace(lived.look, watched=size)) == (0, 0.0)
    # While it was watched, it was told; the workers' clock was a test's.
    gate = lived.look.gates["poll"]._replace(silent=polls + 1, silent_since=since)
    waits = replace(lived.look, watched=size, gates={"poll": gate}, now=since + 1000)
    assert findings.polls(*silence(waits)).severity == findings.ERROR
    assert findings.polls(*silence(waits)).do


def test_a_message_that_waits_long_is_no_silence(world: World) -> None:
    lived = world.live([PLAIN, replace(PLAIN, states=('"enqueued"',))], ["high"])
    assert lived.look.gates["poll"].silent == 0


def test_a_late_ok_without_an_id_is_not_sent_again_either(
    client: redis.Redis, settings: Settings
) -> None:
    clock = Clock()
    clock.freeze()
    shop, other = (Workshop(client, settings, clock) for _ in range(2))
    id = shop.producer.enqueue(text_job(priority="high"))
    clock.advance(5)

    def late(body: bytes, count: int) -> list[Any]:
        clock.advance(settings.lease + 1)
        other.triage(other.claim("high"))  # it lapsed inside: unsure, so due again
        record = shop.producer.get(id)
        assert record is not None and (record.status, record.unsure) == ("queued", 1)
        return [Accepted(None)] * count

    shop.provider.send = late  # type: ignore[method-assign]
    shop.sender.serve("high")
    record = shop.producer.get(id)
    assert record is not None
    assert (record.status, record.reason, record.unsure) == ("lost", "no-provider-id", 1)
    assert [letter.id for letter in shop.producer.dead.list()] == [id]
    clock.advance(10_000)
    assert other.ids("high") == []
    assert isinstance(shop.producer.dead.resend_many().refused[id], Unconfirmed)
    assert shop.producer.dead.resend(id, unconfirmed=True) != id


def test_one_id_for_two_messages_of_ours_is_told(client: redis.Redis, settings: Settings) -> None:
    clock = Clock()
    clock.freeze()
    shop = Workshop(client, settings, clock)
    shop.provider.send = lambda body, count: [Accepted(7)] * count  # type: ignore[method-assign]
    ids = []
    for _ in range(2):
        ids.append(shop.producer.enqueue(text_job(priority="high")))
        clock.advance(5)
        shop.sender.serve("high")
    clock.advance(15)
    shop.provider.statuses = Statuses({7: entry(7, "read")})
    shop.poll()
    assert [shop.producer.get(id).status for id in ids] == ["read"] * 2  # type: ignore[union-attr]
    assert take_look(client, settings.namespace).counters.oddities["shared-id"] == 1


def test_refusals_of_whole_polls_do_not_become_a_storm(
    client: redis.Redis, settings: Settings
) -> None:
    clock = Clock()
    clock.freeze()
    shop = Workshop(client, settings, clock)
    ids = shop.producer.enqueue_many(
        [{"address": f"7925{n:07}"} for n in range(100)], common=common_job(priority="low")
    )
    clock.advance(5)
    shop.serve()
    clock.advance(15)
    # Each is refused: that's no one message's fault.
    shop.provider.statuses = RequestRefused("http-400")
    sizes = shop.poll()
    assert REFUSALS <= sizes.count(1) <= REFUSALS + 2 and len(sizes) < 60
    # Each is asked for again, and answered then.
    clock.advance(60)
    shop.provider.statuses = Statuses(
        {int(p): entry(int(p), "read") for p in provider_ids(shop, ids)}
    )
    shop.poll()
    assert {shop.producer.get(id).status for id in ids} == {"read"}  # type: ignore[union-attr]


def provider_ids(shop: Workshop, ids: Sequence[str]) -> list[str]:
    return [shop.producer.get(id).provider_id for id in ids]  # type: ignore[union-attr,misc]

"""Odd replies, generated: through the decisions, and through HTTP, real workers' parts and Redis.

tests/faults/test_odd_replies.py runs the same with many more examples.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest
import redis
from hypothesis import given
from hypothesis import settings as profile
from hypothesis import strategies as st

from tests.conftest import Clock, text_job
from tests.odd_replies import FIRST_ID, SPELLINGS, Ledger, Spelling, odd_server, spell
from tests.workshop import Workshop
from viber_courier.ops.redis_server import RedisServer
from viber_courier.schemas.lanes import LANES
from viber_courier.schemas.settings import Settings
from viber_courier.store.connection import connect
from viber_courier.worker.answers import Answer, is_silent, read_send_answer, read_status_answer
from viber_courier.worker.outcome import Accepted, Statuses, Unsure
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


class World:
    """Real parts over one Redis and one server of odd replies."""

    def __init__(
        self, client: redis.Redis, url: str, renew: Callable[[Sequence[Spelling]], Ledger]
    ) -> None:
        self.client, self.url, self.renew = client, url, renew

    def live(self, spellings: Sequence[Spelling], lanes: Sequence[str]) -> None:
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
        for round in range(70):
            for lane in LANES:
                sender.serve(lane)
            poller.serve()
            open_ = [id for id in jobs if not shop.producer.get(id).final]  # type: ignore[union-attr]
            self.check_places(shop, open_)
            if not open_:
                break
            clock.advance(400 if round < 30 else 14_400)
        assert not open_, [shop.producer.get(id) for id in open_]
        for n, (id, lane) in enumerate(jobs.items()):
            record = shop.producer.get(id)
            assert record is not None
            most = 1 + RESENDS * (lane != "low")
            assert ledger.taken[f"7925{n:07}"] <= most, (record, ledger.taken)
            if record.provider_id is not None:
                assert ledger.ids[int(record.provider_id)] == f"7925{n:07}"
        assert ledger.again == []  # `ok` was said of it, whatever the id
        keys: Any = list(self.client.scan_iter(f"{{{settings.namespace}}}:*"))
        self.client.delete(*keys)

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


@profile(deadline=None, max_examples=6)
@given(spellings=st.lists(SPELLINGS, min_size=1, max_size=5), lanes=LANE_LISTS)
def test_whatever_is_answered_no_message_goes_too_often_or_nowhere(
    world: World, spellings: list[Spelling], lanes: list[str]
) -> None:
    world.live(spellings, lanes)

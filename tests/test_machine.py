"""Any order of answers, lapses, repeats and cancels keeps the invariants of a message's life."""

from __future__ import annotations

import contextlib
import json
from dataclasses import replace
from typing import Any

import fakeredis
import pytest
from hypothesis import settings as how
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from tests.conftest import Clock, text_job
from tests.workshop import Workshop, entry
from viber_courier import CampaignCancelled, NotDead, Unconfirmed
from viber_courier.schemas.event import SmsState
from viber_courier.schemas.settings import Settings
from viber_courier.schemas.status import DEAD, NEXT, Status, is_final
from viber_courier.schemas.wire import STATES
from viber_courier.store.leases import Lease
from viber_courier.store.records import Waiting, Watched
from viber_courier.store.writes import Move
from viber_courier.worker.outcome import (
    Accepted,
    Blocked,
    NotSent,
    Outcome,
    Refused,
    Retryable,
    Statuses,
    Unsure,
)

CHANCE = st.sampled_from([0.0, 0.5, 1.0])
OUTCOMES = st.sampled_from(
    [
        "ok",
        Accepted(None),
        Refused("error-address-unknown"),
        Retryable("error-system"),
        Unsure("ReadTimeout"),
        NotSent("http-503", 1.0),
        Blocked("error-auth"),
    ]
)
SMS = st.lists(st.sampled_from(["enqueued", "sent", "delivered", "undelivered", "?"]), max_size=3)
WORDS = st.sampled_from([None, "?", *STATES])


class Life(RuleBasedStateMachine):
    """Workers that stall, die, repeat themselves and answer late, over one store."""

    def __init__(self) -> None:
        super().__init__()
        self.client = self.new_client()
        self.settings = Settings(namespace="m", batch_size=3, status_batch_size=3, max_attempts=4)
        self.clock = Clock()
        self.shop = Workshop(self.client, self.settings, self.clock)
        self.producer = self.shop.producer
        self.ids: list[str] = []
        self.leases: list[Lease[Waiting]] = []
        self.inside: list[Lease[Waiting]] = []
        self.watched: list[Lease[Watched]] = []
        self.settled: list[tuple[Lease[Any], list[Move]]] = []
        self.store = self.shop.store
        self.dropped: set[str] = set()

    def new_client(self) -> Any:
        return fakeredis.FakeRedis(server=fakeredis.FakeServer(), decode_responses=True)

    @rule(resend=st.booleans(), policy=st.sampled_from([None, "park", "resend"]))
    def enqueue(self, resend: bool, policy: str | None) -> None:
        more = {"onUnsure": policy} if policy else {}
        self.ids.append(self.producer.enqueue(text_job(resendSms=resend, **more)))

    @rule(seconds=st.sampled_from([1, 7, 121, 700, 90_000]))
    def time_passes(self, seconds: int) -> None:
        self.clock.advance(seconds)

    @rule(jitter=CHANCE)
    def claim(self, jitter: float) -> None:
        lease = self.store.claim("low", answered=True)
        if isinstance(lease, Lease):
            self.leases.append(self.shop.triage(lease, jitter))
            self._note(*self.shop.last)

    @precondition(lambda self: self.leases)
    @rule(data=st.data())
    def begin(self, data: st.DataObject) -> None:
        lease = self.leases.pop(data.draw(st.integers(0, len(self.leases) - 1)))
        if lease.messages:
            self.inside.append(self.shop.begin(lease))

    @precondition(lambda self: self.inside)
    @rule(data=st.data(), outcome=OUTCOMES, jitter=CHANCE)
    def answer(self, data: st.DataObject, outcome: Outcome | str, jitter: float) -> None:
        lease = self.inside.pop(data.draw(st.integers(0, len(self.inside) - 1)))
        given = Accepted(1) if outcome == "ok" else outcome
        outcomes = self.shop.provider.outcomes(len(lease.messages), given)
        decider = replace(self.shop.decider, chance=lambda: jitter)
        self._settle(lease, decider.sent(lease.messages, outcomes, lease.server_now()))

    @rule()
    def claim_watched(self) -> None:
        lease = self.store.claim_watched(answered=True)
        if lease is not None:
            self.watched.append(lease)

    @precondition(lambda self: self.watched)
    @rule(data=st.data(), word=WORDS, sms=SMS, answered=st.booleans(), named=st.booleans())
    def poll(
        self, data: st.DataObject, word: str | None, sms: list[str], answered: bool, named: bool
    ) -> None:
        lease = self.watched.pop(data.draw(st.integers(0, len(self.watched) - 1)))
        states = tuple(SmsState(str(n + 1), state) for n, state in enumerate(sms))
        entries = {m.provider_id: entry(m.provider_id, word, sms=states) for m in lease.messages}
        said = Statuses(entries if named else {}) if answered else Retryable("error-system", True)
        decider = replace(self.shop.decider, chance=lambda: 0.5)
        self._settle(lease, decider.polled(lease.messages, said, lease.server_now()))

    @precondition(lambda self: self.settled)
    @rule(data=st.data())
    def settle_again(self, data: st.DataObject) -> None:
        """A stalled worker wakes and says again what it said, under its old lease."""
        lease, moves = data.draw(st.sampled_from(self.settled))
        self.store.settle(lease, moves)

    @precondition(lambda self: self.ids)
    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        id = data.draw(st.sampled_from(self.ids))
        if self.producer.cancel(id):
            record = self.producer.get(id)
            assert record is not None and record.status == Status.CANCELLED

    @precondition(lambda self: self.ids)
    @rule(data=st.data(), word=st.booleans())
    def resend(self, data: st.DataObject, word: bool) -> None:
        id = data.draw(st.sampled_from(self.ids))
        try:
            new = self.producer.dead.resend(id, unconfirmed=word)
        except (NotDead, CampaignCancelled):
            return
        except Unconfirmed:
            assert not word
            return
        assert self.producer.dead.resend(id) == new
        if new not in self.ids:
            self.ids.append(new)

    @rule(word=st.booleans(), rate=st.sampled_from([0.01, 1000.0]))
    def resend_many(self, word: bool, rate: float) -> None:
        done = self.producer.dead.resend_many(rate=rate, unconfirmed=word)
        assert not set(done.ids.values()) & set(self.ids)
        self.ids += done.ids.values()

    @precondition(lambda self: self.ids)
    @rule(data=st.data())
    def drop(self, data: st.DataObject) -> None:
        id = data.draw(st.sampled_from(self.ids))
        with contextlib.suppress(NotDead):
            self.producer.dead.drop(id)
            self.dropped.add(id)

    def _settle(self, lease: Lease[Any], moves: list[Move]) -> None:
        self.store.settle(lease, moves)
        self._note(lease, moves)

    def _note(self, lease: Lease[Any], moves: list[Move]) -> None:
        if moves:
            self.settled.append((lease, moves))

    @invariant()
    def every_life_is_legal(self) -> None:
        events: dict[str, list[Any]] = {id: [] for id in self.ids}
        for _, fields in self.client.xrange("{m}:results"):  # type: ignore[union-attr]
            event = json.loads(fields["event"])
            events[event["subject"]].append(event)
        # A dead letter is exactly what ended so and was neither sent again nor dropped.
        records = [record for id in self.ids if (record := self.producer.get(id))]
        dead = {r.id for r in records if r.final and r.status in DEAD and not r.resent_as}
        assert {letter.id for letter in self.producer.dead.list()} == dead - self.dropped
        # And each message that was sent again is exactly one other.
        ways = {record.id: record.resent_as for record in records if record.resent_as}
        assert ways == {record.resend_of: record.id for record in records if record.resend_of}
        for id in self.ids:
            self._check(id, events[id])

    def _check(self, id: str, events: list[Any]) -> None:
        assert [e["id"] for e in events] == [f"{id}:{n + 1}" for n in range(len(events))]
        finals = [e["data"]["final"] for e in events]
        assert True not in finals[:-1]
        path = [Status.QUEUED, *(Status(e["data"]["status"]) for e in events)]
        for was, to, final in zip(path, path[1:], finals, strict=False):
            assert to in NEXT[was] or (to == was and final), path
        record = self.producer.get(id)
        assert record is not None
        shown = Status.QUEUED if record.status == Status.SENDING else record.status
        assert shown == path[-1]
        assert {event["data"].get("resendOf") for event in events} <= {record.resend_of}
        assert record.unsure <= self.settings.unsure_resends + 1
        assert record.final == (bool(finals) and finals[-1])
        assert record.final or not is_final(record.status)
        # A message that has not ended is in exactly one place, and an ended one in none.
        sets = [*self.client.scan_iter("{m}:lane:*"), self.store.keys.watch]
        places = [key for key in sets if self.client.zscore(key, id) is not None]
        assert len(places) == (0 if record.final else 1)


class TestLife(Life.TestCase):
    settings = how(max_examples=20, stateful_step_count=40, deadline=None)


@pytest.mark.slow
class TestLongLife(Life.TestCase):
    settings = how(max_examples=100, stateful_step_count=40, deadline=None)

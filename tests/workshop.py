"""A worker's parts over one store, driven step by step by a test: real scripts, real decisions."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import redis

from tests.conftest import Clock, text_job
from viber_courier import Producer
from viber_courier.schemas.settings import Settings
from viber_courier.schemas.wire import STATES, StatusEntry
from viber_courier.store.leases import Lease, Store
from viber_courier.store.records import Step, Waiting, Watched
from viber_courier.store.writes import Move
from viber_courier.worker.decisions import Decider
from viber_courier.worker.outcome import (
    Accepted,
    Outcome,
    Refused,
    Statuses,
    StatusOutcome,
    Unsure,
)
from viber_courier.worker.poll import Poller
from viber_courier.worker.send import Sender

DAY = 86400


class Provider:
    """Answers every request the same way; notes how large each was."""

    def __init__(self) -> None:
        self.outcome: Outcome = Accepted(1)
        self.statuses: StatusOutcome = Statuses({})
        self.sizes: list[int] = []
        self.asked: list[int] = []
        self._id = 3158611117333282816

    def send(self, body: bytes, count: int) -> list[Outcome]:
        self.sizes.append(count)
        return self.outcomes(count)

    def outcomes(self, count: int, outcome: Outcome | None = None) -> list[Outcome]:
        outcome = outcome or self.outcome
        if not isinstance(outcome, Accepted) or outcome.provider_id is None:
            return [outcome] * count
        self._id += count
        return [Accepted(self._id - n) for n in range(count)]

    def status(self, ids: Any) -> StatusOutcome:
        self.asked.append(len(ids))
        return self.statuses


def entry(id: int, word: str | None, **known: Any) -> StatusEntry:
    """An entry of a /status reply."""
    said: dict[str, Any] = {"code": "ok", "at": None, "error": None, "sms": (), **known}
    return StatusEntry(provider_id=id, word=word, status=STATES.get(word or ""), **said)


def changed(message: Any, step: Step) -> Any:
    """The message as the next claim brings it, after this step."""
    changes = {k: v for k, v in step.changes._asdict().items() if k in message._fields}
    return message._replace(**{k: v for k, v in changes.items() if v is not None})


def expand(common: dict[str, Any], messages: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """The messages that a request means: each over the common part, field by field."""
    return [{**common, **message} for message in messages]


class Workshop:
    """All workers of one installation, as far as one thread can be them."""

    def __init__(self, client: redis.Redis, settings: Settings, clock: Clock) -> None:
        self.client, self.settings, self.clock = client, settings, clock
        self.store, self.provider = Store(client, settings, clock), Provider()
        self.decider = Decider(settings, chance=lambda: 1.0)  # what is tried again isn't due soon
        given: Any = (settings, self.store, self.provider, self.decider)
        self.sender, self.poller = Sender(*given), Poller(*given)
        self.producer = Producer(settings, client=client)
        self.last: tuple[Lease[Any], list[Move]]

    # Step by step.

    def claim(self, lane: str = "low", answered: bool = True) -> Lease[Waiting]:
        lease = self.store.claim(lane, answered)
        assert isinstance(lease, Lease)
        return lease

    def claim_watched(self) -> Lease[Watched]:
        lease = self.store.claim_watched(answered=True)
        assert isinstance(lease, Lease)
        return lease

    def ids(self, lane: str = "low") -> list[str]:
        """Ids of what one claim brings."""
        lease = self.store.claim(lane, answered=True)
        return [message.id for message in lease.messages] if isinstance(lease, Lease) else []

    def begin(self, lease: Lease[Waiting]) -> Lease[Waiting]:
        return self.store.begin(lease, lease.messages)

    def moves(self, lease: Lease[Waiting], outcome: Outcome, jitter: float = 1.0) -> list[Move]:
        """What this outcome for each message leads to; ids are as given, all the same."""
        decider = replace(self.decider, chance=lambda: jitter)
        return decider.sent(lease.messages, [outcome] * len(lease.messages), lease.server_now())

    def settle(self, lease: Lease[Waiting], outcome: Outcome) -> list[Move]:
        return self.store.settle(lease, self.moves(lease, outcome))[0]

    def triage(self, lease: Lease[Waiting] | None = None, jitter: float = 1.0) -> Lease[Waiting]:
        """Settles what isn't to be sent; the lease of the rest."""
        lease = self.claim() if lease is None else lease
        decider = replace(self.decider, chance=lambda: jitter)
        ready, moves = decider.claimed(lease.messages, lease.server_now())
        self.last = lease, moves
        self.store.settle(lease, moves)
        return replace(lease, messages=ready)

    def answer(self, outcome: Outcome | None = None) -> None:
        """One claim, request and settling; accepted where no outcome is given."""
        held = self.begin(self.claim())
        outcomes = self.provider.outcomes(len(held.messages), outcome or Accepted(1))
        self.last = held, self.decider.sent(held.messages, outcomes, held.server_now())
        assert self.store.settle(*self.last)[0] == []

    def poll_word(self, word: str | None) -> None:
        """One claim of watched messages that are all said to be so; None: they aren't named."""
        lease = self.claim_watched()
        entries = {m.provider_id: entry(m.provider_id, word) for m in lease.messages if word}
        moves = self.decider.polled(lease.messages, Statuses(entries), lease.server_now())
        assert self.store.settle(lease, moves)[0] == []

    def end(self, status: str, *ids: str, **job: Any) -> list[str]:
        """Ends these messages so, or one new one."""
        given = list(ids) or [self.producer.enqueue(text_job(**job))]
        if status in ("rejected", "unconfirmed"):
            self.answer(Refused("error-address-unknown") if status == "rejected" else Unsure("x"))
        elif status == "expired":
            self.clock.advance(DAY + 1)
            self.triage()
        elif status == "cancelled":
            assert all(self.producer.cancel(id) for id in given)
        else:
            self.answer()
            self.clock.advance(20 if status != "lost" else 3 * DAY)
            self.poll_word(None if status == "lost" else status)
        records = [self.producer.get(id) for id in given]
        assert all(r is not None and (r.status, r.final) == (status, True) for r in records)
        return given

    # By doorbells.

    def serve(self, times: int = 1) -> list[int]:
        """Sizes of the requests that so many doorbells led to."""
        return _sizes(self.provider.sizes, lambda: self.sender.serve("low"), times)

    def poll(self, times: int = 1) -> list[int]:
        """Sizes of the /status requests that so many doorbells led to."""
        return _sizes(self.provider.asked, self.poller.serve, times)

    def gate(self, what: str = "send") -> dict[str, str]:
        """The gate's hash, without how far the look for what must end has come, and silence."""
        found: Any = self.client.hgetall(self.store.keys.gate(what))
        return {k: v for k, v in found.items() if not k.startswith(("window:", "silent"))}

    def wakes(self) -> list[str]:
        """Takes all words that were left for the workers' listeners."""
        keys = self.store.keys
        words: Any = self.client.lrange(keys.wakes, 0, -1)
        self.client.delete(keys.wakes)
        return list(words)


def _sizes(noted: list[int], serve: Any, times: int) -> list[int]:
    noted.clear()
    for _ in range(times):
        serve()
    return list(noted)

"""The send use case: claim, triage, mark, POST, decide, settle."""

from __future__ import annotations

import json
import logging
import random
import re
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial

from viber_courier.producers.bells import Bells
from viber_courier.schemas.event import Change, render, resent
from viber_courier.schemas.settings import Settings
from viber_courier.schemas.status import Reason, Status, is_final
from viber_courier.schemas.wire import send_body
from viber_courier.store import counters
from viber_courier.store.gate import REFUSALS, Shown
from viber_courier.store.leases import Figures, Lease, Move, Store, Write
from viber_courier.store.records import Step, Waiting
from viber_courier.worker.batching import assemble, requests
from viber_courier.worker.breaker import after_request
from viber_courier.worker.outcome import (
    Accepted,
    Again,
    Blocked,
    NotSent,
    Outcome,
    Refused,
    Spoiled,
    Unsure,
)
from viber_courier.worker.policy import accepted_alike, after_send, triage
from viber_courier.worker.provider import OK, Provider, is_known
from viber_courier.worker.shift import leases

logger = logging.getLogger(__name__)

BUDGET = 1.0
"""Seconds after which a task takes no further batch: others may be waiting for its slot."""


def task_limit(settings: Settings) -> float:
    """Seconds after which a task is killed: before its lease is over and a successor comes."""
    return settings.lease - min(1.0, settings.lease / 20)


def budget(settings: Settings) -> float:
    """Seconds after which a task begins no further request: the last one must end in time."""
    return max(0.0, min(BUDGET, task_limit(settings) - settings.deadline))


@dataclass
class Tally:
    """What a task did, for its summary in Flower."""

    claimed: int = 0
    gate: str = ""
    did: Counter[str] = field(default_factory=Counter)


Batch = tuple[Lease[Waiting], list[Waiting]]


@dataclass(frozen=True)
class Sender:
    """Sends what is due. ``clock`` is the wall clock for events, ``chance`` gives 0 to 1."""

    settings: Settings
    store: Store
    provider: Provider
    bells: Bells
    clock: Callable[[], float] = time.time
    chance: Callable[[], float] = random.random

    def serve(self, lane: str) -> str:
        """Answer a lane's doorbell: send until nothing is due or the time budget is used up."""
        started, tally, seconds = time.monotonic(), Tally(), budget(self.settings)
        claim, ring = partial(self.store.claim, lane), partial(self.bells.ring, [lane])
        for lease in leases(claim, ring, seconds):
            tally.claimed += len(lease.messages)
            self._handle(lease, started + seconds, tally)
            lease.more, tally.gate = lease.more or tally.gate == "opened", ""
        did = "".join(f", {n} {what}" for what, n in tally.did.most_common())
        return f"{lane}: {tally.claimed} claimed{did}, {time.monotonic() - started:.2f} s"

    def _handle(self, lease: Lease[Waiting], end: float, tally: Tally) -> None:
        self._end_what_must(lease, tally)
        together, others = requests(lease.messages)
        self._put_back(lease, others, tally)
        batches = [(lease, batch) for batch in together]
        while batches:
            batches[:0] = self._request(*batches.pop(0), tally)
            if tally.gate == "closed" or time.monotonic() >= end:
                for held, batch in batches:  # nothing may be sent now, or the time is used up
                    self._put_back(held, batch, tally)
                return

    def _request(self, lease: Lease[Waiting], batch: list[Waiting], tally: Tally) -> list[Batch]:
        """One POST and its settling; the halves of the batch if one message spoiled it all."""
        held = self.store.begin(lease, batch)
        if not held.messages:
            return []
        if held.left() <= self.settings.deadline:
            self._put_back(held, held.messages, tally)  # Redis was slow: too late for a request
            return []
        self._end_what_must(held, tally)
        if not held.messages:
            return []
        now = held.at()
        common, rest = assemble(held.messages, now)
        body = send_body(common, rest, held.key.endswith(":1"))
        for message in held.messages:
            message.attempts += 1
        started = time.monotonic()
        outcomes = self.provider.send(body, len(rest))
        seconds = time.monotonic() - started
        figures = _figures(outcomes, size=len(rest), seconds=seconds, bytes=len(body))
        said = {"bytes": len(body), "seconds": round(seconds, 4)}
        if len(rest) > 1 and all(isinstance(outcome, Spoiled) for outcome in outcomes):
            self.store.count_request(figures)
            self._log(outcomes, said)
            return self._halve(held, tally)
        moves = self._decide(held, outcomes, lease.refused >= REFUSALS)
        shown = after_request(outcomes, self.chance(), self.settings)
        late = {move.id for move in self._settle(held, moves, tally, shown, figures)}
        for message, outcome in zip(held.messages, outcomes, strict=True):
            if message.id in late:
                self._too_late(held, message, outcome, tally)
        self._log(outcomes, said)
        return []

    def _decide(
        self, held: Lease[Waiting], outcomes: list[Outcome], about_us: bool = False
    ) -> list[Move]:
        """What becomes of each message. Accepted ones alike are decided, and written, as one."""
        at, moves = held.at(), list[Move]()
        writes = dict[tuple[object, ...], Write]()
        for message, outcome in zip(held.messages, outcomes, strict=True):
            accepted = type(outcome) is Accepted
            alike = accepted_alike(message) if accepted else ()
            write = writes.get(alike) if accepted else None
            if write is None:
                step = after_send(outcome, message, at, self.chance(), self.settings, about_us)
                write = self._write(message, step, outcome)
                if accepted:
                    writes[alike] = write
            moves.append(_moved(message, write, outcome))
        return moves

    def _too_late(
        self, lease: Lease[Waiting], message: Waiting, outcome: Outcome, tally: Tally
    ) -> None:
        """Another had the message meanwhile. An id in hand is still recorded if it helps."""
        provider_id = outcome.provider_id if isinstance(outcome, Accepted) else None
        while provider_id is not None and (seen := self.store.attempts(message.id)):
            message.attempts, message.unsure = seen
            (move,) = self._decide(replace(lease, messages=[message]), [outcome])
            late = move.write._replace(late=str(message.attempts))
            if not self.store.settle(lease, [move._replace(write=late)])[0]:
                tally.did["late"] += 1
                return
            if seen == self.store.attempts(message.id):
                break  # inside another request
        tally.did["overtaken"] += 1
        if provider_id is not None:
            self.store.count(counters.Oddity.LATE)
        more = {"message_id": message.id, "provider_id": str(provider_id)}
        logger.warning("the lease was another's by then", extra=more)

    def _end_what_must(self, lease: Lease[Waiting], tally: Tally) -> None:
        """Settle what isn't to be sent and leave the rest; time has passed since the last look."""
        now, ready, moves = lease.at(), [], []
        if lapsed := sum(message.lapsed_inside for message in lease.messages):
            self.store.count(counters.UNSURE, lapsed)
        for message in lease.messages:
            step = triage(message, now, self.chance(), self.settings)
            if step is None:
                ready.append(message)
            else:
                moves.append(self._move(message, step))
        self._settle(lease, moves, tally)
        lease.messages = ready

    def _halve(self, held: Lease[Waiting], tally: Tally) -> list[Batch]:
        """Nothing of the batch was accepted: it is out of the request, each half is begun anew."""
        tally.did["requests halved"] += 1
        lease = self.store.begin(held, held.messages, inside=False)
        middle = len(lease.messages) // 2
        halves = (lease.messages[:middle], lease.messages[middle:])
        for half in halves:
            for message in half:
                message.within = len(half)  # whoever goes on with it doesn't begin again
        return [(lease, half) for half in halves if half]

    def _put_back(self, lease: Lease[Waiting], messages: list[Waiting], tally: Tally) -> None:
        now = lease.at()
        moves = []
        for message in messages:
            fields: list[str | int] = ["attempts", message.attempts]
            fields += ["within", message.within] if message.within else []
            step = Step("stay", now - now % 4, fields=tuple(fields))
            moves.append(Move(message.id, Write(Status.QUEUED, step)))
        self._settle(lease, moves, tally)

    def _settle(
        self,
        lease: Lease[Waiting],
        moves: list[Move],
        tally: Tally,
        shown: Shown | None = None,
        figures: Figures | None = None,
    ) -> list[Move]:
        """Write them; those whose lease was another's by then."""
        overtaken, gate = self.store.settle(lease, moves, shown, figures)
        written = [move for move in moves if move not in overtaken] if overtaken else moves
        tally.did.update(move.write.step.status or "retry" for move in written)
        if gate and shown:
            tally.gate = gate
            tell("send", gate, shown)
        return overtaken

    def _move(self, message: Waiting, step: Step, outcome: Outcome | None = None) -> Move:
        return _moved(message, self._write(message, step, outcome), outcome)

    def _write(self, message: Waiting, step: Step, outcome: Outcome | None = None) -> Write:
        if step.status is None:
            return Write(Status.QUEUED, step)
        change = Change(
            status=step.status,
            final=is_final(step.status),
            reason=step.reason,
            provider_code=_code(outcome),
            attempts=message.attempts,
            unsure=message.unsure,
            metadata=json.loads(message.metadata) if message.metadata else None,
            more=resent(message.resend_of),
        )
        draft = render(change, self.settings.namespace, self.clock())
        return Write(Status.QUEUED, step, draft, count_name(step.status, step.reason))

    def _log(self, outcomes: list[Outcome], figures: dict[str, float]) -> None:
        """One line for each request; after its settling, which nothing may delay."""
        kinds = {kind.__name__.lower(): n for kind, n in Counter(map(type, outcomes)).items()}
        logger.info("request sent", extra={"messages": len(outcomes), **figures, **kinds})
        codes = {_code(outcome) for outcome in outcomes if type(outcome) is not Accepted}
        for code in sorted(code for code in codes if code and not is_known(code)):
            self.store.count(counters.Oddity.UNKNOWN_CODE)
            plain = code if re.fullmatch("[a-z-]+", code) else "(odd)"  # it may repeat what we sent
            logger.error("code not in the provider's document", extra={"code": plain})


def tell(what: str, gate: str, shown: Shown) -> None:
    """Say that all workers pause, or go on."""
    if gate == "closed":
        logger.error("paused", extra={"what": what, "reason": shown.reason})
    else:
        logger.warning("going on", extra={"what": what})


def count_name(status: Status, reason: str | None) -> str:
    """The counter of a change: few names, whatever the provider says."""
    few = reason if reason is None or reason in set(Reason) else _few(reason)
    return counters.status_field(status, few)


def _few(code: str) -> str:
    """A provider's code as counters name it: there are few, whatever it says."""
    return code if is_known(code) or re.fullmatch("http-[0-9]{3}", code) else counters.OTHER


def _moved(message: Waiting, write: Write, outcome: Outcome | None) -> Move:
    if not isinstance(outcome, Accepted):
        return Move(message.id, write)
    id = outcome.provider_id
    return Move(message.id, write, id, ("provider", str(id)))


def _figures(outcomes: list[Outcome], **measured: float) -> Figures:
    """What a request adds to the counters: codes of what was not accepted, and its measures."""
    counts = Counter[str]()
    for outcome in outcomes:
        match outcome:
            case Accepted():
                pass
            case Unsure():
                counts[counters.UNSURE] += 1
            case NotSent():
                counts[counters.code_field(counters.NOT_SENT)] += 1
            case Refused(code) | Again(code) | Blocked(code) | Spoiled(code):
                counts[counters.code_field(_few(code))] += 1
    return Figures(counts, counters.observed("send", **measured))


def _code(outcome: Outcome | None) -> str | None:
    match outcome:
        case Accepted():
            return OK
        case Refused(code) | Again(code) | Blocked(code) | Spoiled(code):
            return code
    return None

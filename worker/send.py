"""Sends: claims due messages, triages, marks them, posts, decides, settles."""

import logging
import re
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from logging import INFO, WARNING

from viber_courier.schemas.settings import Settings
from viber_courier.schemas.wire import send_body
from viber_courier.store.counters import UNSURE, Figures, Oddity
from viber_courier.store.gate import REFUSALS, ProviderSignal
from viber_courier.store.leases import Lease, Store
from viber_courier.store.records import Waiting, add_attempts
from viber_courier.store.writes import Move
from viber_courier.worker.batching import assemble, requests
from viber_courier.worker.breaker import after_request
from viber_courier.worker.decisions import Decider, send_figures, unknown_codes
from viber_courier.worker.outcome import Accepted, Outcome, RequestRefused, Unsure, failure
from viber_courier.worker.provider import Provider
from viber_courier.worker.shift import budget, work_off

logger = logging.getLogger(__name__)


@dataclass
class Tally:
    """Counts what a task did, for its summary in Flower."""

    claimed: int = 0
    requests: int = 0
    gate: str = ""
    did: Counter[str] = field(default_factory=Counter)


Batch = tuple[Lease[Waiting], Sequence[Waiting]]


@dataclass(frozen=True)
class Sender:
    """Sends due messages."""

    settings: Settings
    store: Store
    provider: Provider
    decider: Decider

    def serve(self, lane: str) -> str:
        """Answers a lane's bell: sends until nothing is due or the time is used up."""
        started, tally, seconds = time.monotonic(), Tally(), budget(self.settings)

        def serve_lease(lease: Lease[Waiting]) -> bool:
            tally.claimed += len(lease.messages)
            tally.gate, before = "", tally.requests
            self._handle(lease, started + seconds, tally)
            if lease.is_probe and tally.requests == before:  # suppressed, or outside its hours
                self.store.end_probe(lease)
                tally.gate = "ajar"  # another message may be the probe, at once
            return tally.gate in ("opened", "ajar")

        claim, wake = partial(self.store.claim, lane), partial(self.store.wake, lane)
        work_off(claim, serve_lease, wake, seconds)
        did = "".join(f", {n} {what}" for what, n in tally.did.most_common())
        return f"{lane}: {tally.claimed} claimed{did}, {time.monotonic() - started:.2f} s"

    def _handle(self, lease: Lease[Waiting], end: float, tally: Tally) -> None:
        lease = self._triage(lease, tally)
        together, others = requests(lease.messages)
        self._put_back(lease, others, tally)
        batches: list[Batch] = [(lease, batch) for batch in together]
        while batches:
            batches[:0] = self._request(*batches.pop(0), tally)
            if tally.gate == "closed" or time.monotonic() >= end:
                for held, batch in batches:  # the gate has closed, or the time is used up
                    self._put_back(held, batch, tally)
                return

    def _request(
        self, lease: Lease[Waiting], batch: Sequence[Waiting], tally: Tally
    ) -> list[Batch]:
        """Posts a batch and settles it; returns its halves if the request was refused whole."""
        held = self.store.begin(lease, batch)
        if held.suppressed:
            self._settle(held, self.decider.suppressed(held.suppressed), tally)
            self.store.refund(held, len(held.suppressed))
        held = self._triage(held, tally, begun=True)
        if held.messages and held.seconds_left() <= self.settings.deadline:
            unsent = [add_attempts(message, -1) for message in held.messages]
            self._put_back(held, unsent, tally)  # Redis was slow: too little time left
            return []
        if not held.messages:
            return []
        common, rest = assemble(held.messages, held.server_now())
        body = send_body(common, rest, held.messages[0].resend)
        started, tally.requests = time.monotonic(), tally.requests + 1
        outcomes = self.provider.send(body, len(rest))
        seconds = time.monotonic() - started
        figures = send_figures(outcomes, size=len(rest), seconds=seconds, bytes=len(body))
        measured = {"bytes": len(body), "seconds": round(seconds, 4)}
        if len(rest) > 1 and all(isinstance(outcome, RequestRefused) for outcome in outcomes):
            self.store.count(lease, figures)
            self._log(outcomes, measured)
            return self._halve(held, tally)
        about_us = lease.refused >= REFUSALS
        moves = self.decider.sent(held.messages, outcomes, held.server_now(), about_us)
        signal = after_request(outcomes, self.decider.chance(), self.settings)
        late = {move.id for move in self._settle(held, moves, tally, signal, figures)}
        for message, outcome in zip(held.messages, outcomes, strict=True):
            if message.id in late:
                self._too_late(held, message, outcome, tally)
        self._log(outcomes, measured)
        return []

    def _too_late(
        self, lease: Lease[Waiting], message: Waiting, outcome: Outcome, tally: Tally
    ) -> None:
        """Handles an answer whose lease was lost: still records an acceptance if possible."""
        accepted = isinstance(outcome, Accepted)
        while accepted and (counts := self.store.attempts(message.id)):
            attempts, unsure = counts
            message = message._replace(attempts=attempts, unsure=unsure)
            (move,) = self.decider.sent([message], [outcome], lease.server_now())
            late = move.write._replace(late=str(attempts))
            if not self.store.settle(lease, [move._replace(write=late)])[0]:
                tally.did["late"] += 1
                return
            if counts == self.store.attempts(message.id):
                break  # inside another request
        tally.did["overtaken"] += 1
        if accepted:
            self.store.count(lease, Figures({Oddity.LATE: 1}))
        id = outcome.provider_id if isinstance(outcome, Accepted) else None
        more = {"message_id": message.id, "provider_id": str(id)}
        logger.warning("lease lost; answer not recorded", extra=more)

    def _triage(self, lease: Lease[Waiting], tally: Tally, begun: bool = False) -> Lease[Waiting]:
        """Settles messages that must not be sent; returns the lease of the others.

        ``begun``: ``Store.begin`` has counted an attempt, which is taken back for the former.
        """
        if lapsed := sum(message.lapsed_inside for message in lease.messages):
            self.store.count(lease, Figures({UNSURE: lapsed}))
            logger.warning(
                "lease lapsed inside a request; answers unknown", extra={"messages": lapsed}
            )
        ready, moves = self.decider.claimed(lease.messages, lease.server_now(), begun)
        if not moves:
            return lease
        self._settle(lease, moves, tally)
        # Outside their sending hours; of those that lapsed a claim may have taken no tokens.
        held = sum(move.write.step.place == "stay" for move in moves) - lapsed
        self.store.refund(lease, held)
        return replace(lease, messages=ready)

    def _halve(self, held: Lease[Waiting], tally: Tally) -> list[Batch]:
        """Takes a refused batch out of its request; returns its halves, to be begun anew."""
        tally.did["requests halved"] += 1
        lease = self.store.begin(held, held.messages, inside=False)
        middle = len(lease.messages) // 2
        halves = (lease.messages[:middle], lease.messages[middle:])
        # A later claim continues with requests of this size.
        return [
            (lease, [message._replace(max_batch=len(half)) for message in half])
            for half in halves
            if half
        ]

    def _put_back(self, lease: Lease[Waiting], messages: Sequence[Waiting], tally: Tally) -> None:
        self._settle(lease, self.decider.put_back(messages, lease.server_now()), tally)

    def _settle(
        self,
        lease: Lease[Waiting],
        moves: Sequence[Move],
        tally: Tally,
        signal: ProviderSignal | None = None,
        figures: Figures | None = None,
    ) -> list[Move]:
        """Writes moves; returns those whose lease was lost."""
        lost, gate = self.store.settle(lease, moves, signal, figures)
        written = [move for move in moves if move not in lost] if lost else moves
        tally.did.update(move.write.step.status or "retry" for move in written)
        if gate and signal:
            tally.gate = gate
            log_gate("send", gate, signal)
        return lost

    def _log(self, outcomes: Sequence[Outcome], figures: dict[str, float]) -> None:
        """Logs one line for each request, after it is settled so as not to delay that."""
        kinds = {kind.__name__.lower(): n for kind, n in Counter(map(type, outcomes)).items()}
        unsent, why = failure(outcomes[0])
        text, level = ("request not sent", WARNING) if unsent else ("request sent", INFO)
        logger.log(level, text, extra={"messages": len(outcomes), **figures, **kinds, **why})
        if without := outcomes.count(Accepted(None)):
            logger.error("accepted without a usable id", extra={"messages": without})
        if odd := sum(type(outcome) is Unsure and outcome.odd for outcome in outcomes):
            logger.error("answer makes no sense", extra={"messages": odd})
        for code in sorted(unknown_codes(outcomes)):
            plain = code if re.fullmatch("[a-z-]+", code) else "(odd)"  # it may hold what we sent
            logger.error("code not in the provider's document", extra={"code": plain})


def log_gate(what: str, gate: str, signal: ProviderSignal) -> None:
    """Logs that the gate has closed or opened for all workers."""
    if gate == "closed":
        logger.error("paused", extra={"what": what, "reason": signal.reason})
    else:
        logger.warning("going on", extra={"what": what})

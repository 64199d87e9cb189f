"""Polls: leases accepted messages, asks for their statuses, decides, settles."""

import logging
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial

from viber_courier.schemas.lanes import POLL
from viber_courier.schemas.settings import Settings
from viber_courier.store.counters import Figures, Oddity, observed
from viber_courier.store.gate import REFUSALS
from viber_courier.store.leases import Lease, Store
from viber_courier.store.records import Watched
from viber_courier.worker.answers import is_silent, oddities
from viber_courier.worker.breaker import after_statuses
from viber_courier.worker.decisions import Decider
from viber_courier.worker.outcome import RequestRefused, Statuses, StatusOutcome, failure
from viber_courier.worker.provider import Provider
from viber_courier.worker.send import log_gate
from viber_courier.worker.shift import budget, work_off

logger = logging.getLogger(__name__)

_ALONE = "refused alone in a row"
"""What a task counts so; from REFUSALS on it halves no more: no one message is the cause."""


@dataclass(frozen=True)
class Poller:
    """Follows accepted messages."""

    settings: Settings
    store: Store
    provider: Provider
    decider: Decider

    def serve(self) -> str:
        """Answers the bell of polling: asks until nothing is due or the time is used up."""
        started, asked, did = time.monotonic(), Counter[str](), Counter[str]()

        def serve_lease(lease: Lease[Watched]) -> bool:
            asked.update(asked=len(lease.messages))
            return self._ask(lease, lease.messages, did) == "opened"

        wake = partial(self.store.wake, POLL)
        work_off(self.store.claim_watched, serve_lease, wake, budget(self.settings))
        news = "".join(f", {n} {what}" for what, n in did.most_common())
        return f"poll: {asked['asked']} asked{news}, {time.monotonic() - started:.2f} s"

    def _ask(self, lease: Lease[Watched], messages: Sequence[Watched], did: Counter[str]) -> str:
        """Asks for a batch, in halves if it is refused, and settles; returns the gate's change."""
        if not messages:
            return ""
        now, started = lease.server_now(), time.monotonic()
        asked = dict.fromkeys(message.provider_id for message in messages).keys()
        outcome = self.provider.status(asked)
        seconds, odd = time.monotonic() - started, oddities(outcome, asked)
        if len(asked) < len(messages):
            odd[Oddity.SHARED_ID] = len(messages) - len(asked)
        figures = Figures(odd, observed(POLL, size=len(messages), seconds=seconds))
        more = {"messages": len(messages), "seconds": round(seconds, 4)}
        unsent, why = failure(outcome)
        if not unsent:
            logger.info("statuses asked", extra=more)
        if self._is_halved(lease, outcome, len(messages), did):
            middle = len(messages) // 2
            self.store.count(lease, figures)
            self._ask(lease, messages[:middle], did)
            return self._ask(lease, messages[middle:], did)
        if not isinstance(outcome, Statuses):
            kind = type(outcome).__name__.lower()
            did[f"unanswered ({kind})"] += len(messages)
            what = "statuses not asked" if unsent else "statuses not answered"
            logger.warning(what, extra={"outcome": kind, **more, **why})
        moves = self.decider.polled(messages, outcome, now)
        did.update(status for move in moves if (status := move.write.step.status))
        signal = after_statuses(outcome, self.decider.chance(), self.settings)
        signal = replace(signal, silent=is_silent(outcome, asked))
        lost, gate = self.store.settle(lease, moves, signal, figures)
        for what, n in odd.items():
            logger.error("odd status entries", extra={"what": what, "entries": n})
        if gate:
            log_gate(POLL, gate, signal)
        for move in lost:
            did["overtaken"] += 1
            logger.warning("lease lost; answer not recorded", extra={"message_id": move.id})
        return gate

    def _is_halved(
        self, lease: Lease[Watched], outcome: StatusOutcome, size: int, did: Counter[str]
    ) -> bool:
        """Returns whether to ask for the halves of a request; counts those refused alone."""
        if isinstance(outcome, Statuses):
            del did[_ALONE]
        if not isinstance(outcome, RequestRefused):
            return False
        if size == 1:
            did[_ALONE] += 1
        return size > 1 and did[_ALONE] < REFUSALS and lease.seconds_left() > self.settings.deadline

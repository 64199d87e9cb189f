"""The poll use case: lease what is to be asked for, ask, decide, settle."""

from __future__ import annotations

import json
import logging
import random
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from viber_courier.producers.bells import Bells
from viber_courier.schemas.event import Change, Draft, render, resent
from viber_courier.schemas.lanes import POLL
from viber_courier.schemas.settings import Settings
from viber_courier.schemas.status import Status, is_final
from viber_courier.store.counters import Oddity, observed
from viber_courier.store.leases import Figures, Lease, Move, Store, Write
from viber_courier.store.records import Step, Watched
from viber_courier.worker.breaker import after_statuses
from viber_courier.worker.outcome import Spoiled, Statuses
from viber_courier.worker.provider import Provider, oddity
from viber_courier.worker.send import budget, count_name, tell
from viber_courier.worker.shift import leases
from viber_courier.worker.tracking import after_failed_poll, after_poll, sms_states

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Poller:
    """Follows accepted messages. ``clock`` and ``chance`` as in worker/send.py."""

    settings: Settings
    store: Store
    provider: Provider
    bells: Bells
    clock: Callable[[], float] = time.time
    chance: Callable[[], float] = random.random

    def serve(self) -> str:
        """Answer the poll bell: ask until nothing is due or the time budget is used up."""
        started, asked, did = time.monotonic(), 0, Counter[str]()
        ring = partial(self.bells.ring, [POLL])
        for lease in leases(self.store.claim_watched, ring, budget(self.settings)):
            asked += len(lease.messages)
            opened = self._ask(lease, lease.messages, did) == "opened"
            lease.more = lease.more or opened
        news = "".join(f", {n} {what}" for what, n in did.most_common())
        return f"poll: {asked} asked{news}, {time.monotonic() - started:.2f} s"

    def _ask(self, lease: Lease[Watched], messages: list[Watched], did: Counter[str]) -> str:
        """One request and its settling, or two halves; what has changed at the gate."""
        if not messages:
            return ""
        now, started = lease.at(), time.monotonic()
        outcome = self.provider.status([message.provider_id for message in messages])
        seconds = time.monotonic() - started
        figures = Figures({}, observed(POLL, size=len(messages), seconds=seconds))
        kind = type(outcome).__name__.lower()
        logger.info(
            "statuses asked", extra={"messages": len(messages), "seconds": round(seconds, 4)}
        )
        if isinstance(outcome, Spoiled) and len(messages) > 1:
            middle = len(messages) // 2
            if lease.left() > self.settings.deadline:
                self.store.count_request(figures)
                self._ask(lease, messages[:middle], did)
                return self._ask(lease, messages[middle:], did)
        if not isinstance(outcome, Statuses):
            did[f"unanswered ({kind})"] += len(messages)
            logger.warning("statuses not answered", extra={"outcome": kind})
        moves, drafts = [], dict[tuple[object, ...], Draft]()
        for message in messages:
            was = message.status
            if isinstance(outcome, Statuses):
                entry = outcome.entries.get(message.provider_id)
                step = after_poll(message, entry, now, self.settings)
            else:
                step = after_failed_poll(message, now, self.chance(), self.settings)
            moves.append(self._move(message, was, step, drafts))
        did.update(status for move in moves if (status := move.write.step.status))
        shown = after_statuses(outcome, self.chance(), self.settings)
        overtaken, gate = self.store.settle(lease, moves, shown, figures)
        if isinstance(outcome, Statuses):
            self._count_odd(outcome, messages)
        if gate:
            tell(POLL, gate, shown)
        for move in overtaken:
            did["overtaken"] += 1
            logger.warning("the lease was another's by then", extra={"message_id": move.id})
        return gate

    def _count_odd(self, outcome: Statuses, messages: list[Watched]) -> None:
        asked = {message.provider_id for message in messages}
        odd = Counter(oddity(entry) for id, entry in outcome.entries.items() if id in asked)
        odd[Oddity.STRANGERS] += len(outcome.entries.keys() - asked)
        for what, n in odd.items():
            if what and n:
                self.store.count(what, n)
                logger.error("odd status entries", extra={"what": what, "entries": n})

    def _move(
        self,
        message: Watched,
        was: Status,
        step: Step,
        drafts: dict[tuple[object, ...], Draft] | None = None,
    ) -> Move:
        """``drafts``: of messages of the same batch; those alike share theirs."""
        if step.status is None:
            return Move(message.id, Write(was, step))
        alike = (
            *(step.status, step.place, step.reason, message.provider_status),
            *(message.provider_code, message.status_at, message.attempts, message.unsure),
            *(message.sms, message.metadata, message.resend_of),
        )
        drafts = {} if drafts is None else drafts
        draft = drafts.get(alike) or self._draft(message, step, step.status)
        drafts[alike] = draft
        # A message that is closed in the status it has was counted when it entered it.
        counter = "" if step.status == was else count_name(step.status, step.reason)
        write = Write(was, step, draft, counter)
        return Move(message.id, write, message.provider_id)

    def _draft(self, message: Watched, step: Step, status: Status) -> Draft:
        change = Change(
            status=status,
            final=step.place == "end" or is_final(status),
            reason=step.reason,
            provider_status=message.provider_status,
            provider_code=message.provider_code,
            status_at=message.status_at,
            attempts=message.attempts,
            unsure=message.unsure,
            sms=sms_states(message),
            metadata=json.loads(message.metadata) if message.metadata else None,
            more=resent(message.resend_of),
        )
        return render(change, self.settings.namespace, self.clock())

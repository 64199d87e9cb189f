"""Turns a lease and its answers into what is written: steps, events, counters. No I/O."""

import json
import logging
import random
import re
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache

from viber_courier.schemas.event import Change, Draft, render, resent
from viber_courier.schemas.instants import SECOND
from viber_courier.schemas.settings import Settings
from viber_courier.schemas.status import Reason, Status, is_final
from viber_courier.schemas.suppression import BLOCKED
from viber_courier.schemas.window import NoZone
from viber_courier.store.counters import (
    NOT_SENT,
    OTHER,
    UNSURE,
    Figures,
    Oddity,
    code_field,
    observed,
    status_field,
)
from viber_courier.store.records import Step, Waiting, Watched, add_attempts, segments
from viber_courier.store.writes import Move, Write
from viber_courier.worker.codes import is_known
from viber_courier.worker.outcome import (
    Accepted,
    NotSent,
    Outcome,
    Statuses,
    StatusOutcome,
    Unsure,
    code_of,
)
from viber_courier.worker.policy import (
    acceptance_key,
    after_send,
    delayed,
    give_up,
    put_back,
    triage,
)
from viber_courier.worker.tracking import after_failed_poll, after_poll

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Decider:
    """Decides about the messages of a lease.

    ``clock`` is the wall clock, ``chance`` returns a random number from 0 to 1. ``at`` is an
    instant in microseconds by the Redis server's clock.
    """

    settings: Settings
    clock: Callable[[], float] = time.time
    chance: Callable[[], float] = random.random

    def claimed(
        self, messages: Sequence[Waiting], at: int, begun: bool = False
    ) -> tuple[list[Waiting], list[Move]]:
        """Returns the messages that can be sent, and moves for the others.

        ``begun``: ``Store.begin`` has counted an attempt, which is taken back for the others.
        """
        ready, moves = list[Waiting](), list[Move]()
        for message in messages:
            try:
                step = triage(message, at, self.chance(), self.settings)
            except NoZone as unknown:  # another worker may know it
                _log_unknown(message.window, str(unknown))
                step = delayed(message, at + int(self.settings.retry_cap * SECOND))
            if step is None:
                ready.append(message)
                continue
            if begun:
                message = add_attempts(message, -1)
                step = step._replace(changes=step.changes._replace(attempts=message.attempts))
            moves.append(Move(message.id, self._write(message, Status.QUEUED, step)))
        return ready, moves

    def sent(
        self,
        messages: Sequence[Waiting],
        outcomes: Sequence[Outcome],
        at: int,
        about_us: bool = False,
    ) -> list[Move]:
        """Returns a move for each message of an answered /send.

        Accepted messages with the same acceptance_key share one write.
        """
        moves, writes = list[Move](), dict[tuple[object, ...], Write]()
        for message, outcome in zip(messages, outcomes, strict=True):
            provider_id = outcome.provider_id if isinstance(outcome, Accepted) else None
            alike = acceptance_key(message) if provider_id is not None else (message.id,)
            write = writes.get(alike)
            if write is None:
                step = after_send(outcome, message, at, self.chance(), self.settings, about_us)
                write = writes[alike] = self._write(message, Status.QUEUED, step)
            moves.append(Move(message.id, write, provider_id))
        return moves

    def suppressed(self, messages: Sequence[Waiting]) -> list[Move]:
        """Returns moves that end messages whose numbers are suppressed."""
        ends = ((m, give_up(m, Status.REJECTED, Reason.SUPPRESSED)) for m in messages)
        return [Move(m.id, self._write(m, Status.QUEUED, end)) for m, end in ends]

    def put_back(self, messages: Sequence[Waiting], at: int) -> list[Move]:
        """Returns moves that leave messages for the next claim."""
        return [Move(m.id, Write(Status.QUEUED, put_back(m, at))) for m in messages]

    def polled(self, messages: Sequence[Watched], outcome: StatusOutcome, at: int) -> list[Move]:
        """Returns a move for each message of a /status request that was made at ``at``.

        Messages with the same result share one write.
        """
        moves, writes = list[Move](), dict[tuple[object, ...], Write]()
        for message in messages:
            step = self._polled(message, outcome, at)
            alike = step, message[2:4], message[6:]  # all but ids and instants of submission
            write = writes.get(alike) or self._write(message, message.status, step)
            writes[alike] = write
            moves.append(Move(message.id, write, message.provider_id))
        return moves

    def _polled(self, message: Watched, outcome: StatusOutcome, at: int) -> Step:
        if isinstance(outcome, Statuses):
            entry = outcome.entries.get(message.provider_id)
            return after_poll(message, entry, at, self.settings)
        return after_failed_poll(message, at, self.chance(), self.settings)

    def _write(self, message: Waiting | Watched, was: Status, step: Step) -> Write:
        """Returns a step, with its event and counter if the status changes."""
        if step.status is None:
            return Write(was, step)
        draft = _draft(message, step, step.status, self.settings.namespace, self.clock())
        # A message that closes in its present status was counted when it entered that status.
        counter = "" if step.status == was else count_name(step.status, step.reason)
        return Write(was, step, draft, counter, suppresses=step.reason == BLOCKED)


@cache
def _log_unknown(window: str, error: str) -> None:
    logger.error("time zone unknown; messages not sent", extra={"window": window, "error": error})


def _draft(
    message: Waiting | Watched, step: Step, status: Status, namespace: str, now: float
) -> Draft:
    changes, known = step.changes, message if isinstance(message, Watched) else None
    status_at = changes.status_at
    if status_at is None and known:
        status_at = known.status_at
    change = Change(
        status=status,
        final=step.place == "end" or is_final(status),
        reason=step.reason,
        provider_status=changes.provider_status or (known and known.provider_status),
        provider_code=changes.provider_code or (known and known.provider_code),
        status_at=status_at or None,
        attempts=message.attempts,
        unsure=message.unsure if changes.unsure is None else changes.unsure,
        sms=segments(changes.sms or (known.sms if known else "")),
        metadata=json.loads(message.metadata) if message.metadata else None,
        more=resent(message.resend_of),
    )
    return render(change, namespace, now)


def count_name(status: Status, reason: str | None) -> str:
    """Returns the counter of a change; unknown codes of the provider share one."""
    if reason is not None and reason not in set(Reason):
        reason = _code_label(reason)
    return status_field(status, reason)


def _code_label(code: str) -> str:
    """Returns a provider's code as it appears in counters."""
    return code if is_known(code) or re.fullmatch("http-[0-9]{3}", code) else OTHER


def send_figures(outcomes: Sequence[Outcome], **measured: float) -> Figures:
    """Returns what a /send adds to the counters: all but good acceptances, and its measures."""
    counts = Counter[str]()
    for outcome in outcomes:
        if type(outcome) is Accepted:
            counts[Oddity.NO_PROVIDER_ID] += outcome.provider_id is None
        elif (code := code_of(outcome)) is not None:
            counts[code_field(_code_label(code))] += 1
        elif isinstance(outcome, NotSent):
            counts[code_field(NOT_SENT)] += 1
        elif isinstance(outcome, Unsure):
            counts[UNSURE] += 1
            counts[Oddity.UNREADABLE_SEND] += outcome.odd
    counts[Oddity.UNKNOWN_CODE] = len(unknown_codes(outcomes))
    return Figures(+counts, observed("send", **measured))


def unknown_codes(outcomes: Sequence[Outcome]) -> set[str]:
    """Returns the codes that are not in the provider's document."""
    found = {code_of(outcome) for outcome in outcomes if type(outcome) is not Accepted}
    return {code for code in found if code and not is_known(code)}

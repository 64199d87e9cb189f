"""What a request has shown of the provider, and so whether all workers go on (DESIGN section 5).

Functions of values; the shared state and its arithmetic are the gate's (store/lua/lib/gate.lua).
"""

from __future__ import annotations

from collections.abc import Sequence

from viber_courier.schemas.settings import Settings
from viber_courier.schemas.status import Reason
from viber_courier.store.gate import Shown
from viber_courier.worker.outcome import (
    Accepted,
    Again,
    Blocked,
    NotSent,
    Outcome,
    Refused,
    Spoiled,
    Statuses,
    StatusOutcome,
    Unsure,
)
from viber_courier.worker.policy import backoff

BLOCKED = 60.0
"""Seconds between tries where nothing can be sent: credentials, account or address are wrong."""


def after_request(outcomes: Sequence[Outcome], jitter: float, settings: Settings) -> Shown:
    """What an answered /send has shown."""
    blocked = [outcome for outcome in outcomes if isinstance(outcome, Blocked)]
    if blocked:
        return Shown(pause=BLOCKED, reason=blocked[0].code, both=True)
    if any(isinstance(outcome, Accepted | Refused) for outcome in outcomes):
        return Shown("good", taken=any(isinstance(outcome, Accepted) for outcome in outcomes))
    if all(isinstance(outcome, Again) and not outcome.whole for outcome in outcomes):
        # It answers, message by message: else probes so answered would keep the gate shut.
        return Shown("good")
    bad = [_failure(outcome, jitter, settings) for outcome in outcomes]
    return max(bad, key=lambda shown: shown.verdict)


def after_statuses(outcome: StatusOutcome, jitter: float, settings: Settings) -> Shown:
    """What an answered /status has shown."""
    if isinstance(outcome, Statuses):
        return Shown("good", taken=True)
    if isinstance(outcome, Blocked):
        return Shown(pause=BLOCKED, reason=outcome.code, both=True)
    if isinstance(outcome, Spoiled):
        return Shown()
    return _failure(outcome, jitter, settings)


def _failure(outcome: Outcome, jitter: float, settings: Settings) -> Shown:
    match outcome:
        case NotSent(why, seconds) if why.startswith("http-"):
            wait = backoff(1, jitter, settings) if seconds is None else seconds
            return Shown("bad", pause=min(max(wait, 1.0), settings.retry_cap), reason=why)
        case NotSent(why) | Unsure(why):
            return Shown("bad", reason=why)
        case Again(code, whole=True):
            return Shown("bad", reason=code)
        case Spoiled():
            return Shown("refused", pause=BLOCKED, reason=Reason.ALL_REFUSED)
    return Shown()

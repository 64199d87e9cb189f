"""What a request has shown of the provider, and so whether all workers go on (DESIGN section 5).

Functions of values; the shared state and its arithmetic are the gate's (producers/gate.lua).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from schemas.keys import LANES
from schemas.settings import Settings
from schemas.status import Reason
from worker.outcome import (
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
from worker.policy import backoff, unsure_choice

FAILURES = 5
"""Failed requests in a row that close the gate."""
FIRST, LONGEST = 1.0, 60.0
"""Seconds that it closes for at first, and at most; each opening in a row doubles them."""
BLOCKED = 60.0
"""Seconds between tries where nothing can be sent: credentials, account or address are wrong."""
REFUSALS = 20
"""Messages refused alone in a row, none accepted between, that are an answer about us."""


@dataclass(frozen=True, slots=True)
class Shown:
    """``pause`` in seconds closes the gate whatever came before; ``both`` that of /status too."""

    verdict: Literal["good", "bad", "refused", ""] = ""
    taken: bool = False
    pause: float = 0.0
    reason: str = ""
    both: bool = False


def resent_by_default(settings: Settings, sets: int) -> str:
    """A character for each lane set, most urgent first: "1" where unsure messages are resent.

    Those make the better probe: if its answer is lost too, nothing is parked.
    """
    flags = "".join("1" if unsure_choice(settings, lane) == "resend" else "0" for lane in LANES)
    return "".join(flag * 2 for flag in flags)[:sets]


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

"""What a request shows of the provider, and so whether all workers go on.

The rules are those of docs/design.md, section 5, "The gate". These are functions of values;
store/lua/lib/gate.lua keeps the shared state and does its arithmetic.
"""

from collections.abc import Sequence

from viber_courier.schemas.settings import Settings
from viber_courier.schemas.status import Reason
from viber_courier.store.counters import OTHER
from viber_courier.store.gate import ProviderSignal
from viber_courier.worker.codes import is_known
from viber_courier.worker.outcome import (
    Accepted,
    Blocked,
    NotSent,
    Outcome,
    Refused,
    RequestRefused,
    Retryable,
    Statuses,
    StatusOutcome,
    Unsure,
)
from viber_courier.worker.policy import backoff

BLOCKED_PAUSE = 60.0
"""Seconds between tries while credentials, account or address are wrong."""


def after_request(outcomes: Sequence[Outcome], jitter: float, settings: Settings) -> ProviderSignal:
    """Returns what an answered /send shows of the provider."""
    blocked = [outcome for outcome in outcomes if isinstance(outcome, Blocked)]
    if blocked:
        return ProviderSignal(pause=BLOCKED_PAUSE, reason=blocked[0].code, both=True)
    if any(isinstance(outcome, Accepted | Refused) for outcome in outcomes):
        return ProviderSignal(
            "good", accepted=any(isinstance(outcome, Accepted) for outcome in outcomes)
        )
    if all(isinstance(outcome, Retryable) and not outcome.whole for outcome in outcomes):
        # An answer for each message. Taken as a failure, it would keep the gate shut at a probe.
        return ProviderSignal("good")
    failures = (_failure(outcome, jitter, settings) for outcome in outcomes)
    return max(failures, key=lambda signal: signal.verdict)


def after_statuses(outcome: StatusOutcome, jitter: float, settings: Settings) -> ProviderSignal:
    """Returns what an answered /status shows of the provider."""
    if isinstance(outcome, Statuses):
        return ProviderSignal("good", accepted=True)
    if isinstance(outcome, Blocked):
        return ProviderSignal(pause=BLOCKED_PAUSE, reason=outcome.code, both=True)
    if isinstance(outcome, RequestRefused):
        return ProviderSignal()
    return _failure(outcome, jitter, settings)


def _failure(outcome: Outcome, jitter: float, settings: Settings) -> ProviderSignal:
    match outcome:
        case NotSent(why, seconds) if why.startswith("http-"):
            wait = backoff(1, jitter, settings) if seconds is None else seconds
            return ProviderSignal("bad", pause=min(max(wait, 1.0), settings.retry_cap), reason=why)
        case NotSent(why) | Unsure(why):
            return ProviderSignal("bad", reason=why)
        case Retryable(code, whole=True):
            unknown = code.startswith("error-") and not is_known(code)  # it may hold what we sent
            return ProviderSignal("bad", reason=OTHER if unknown else code)
        case RequestRefused():
            return ProviderSignal("refused", pause=BLOCKED_PAUSE, reason=Reason.ALL_REFUSED)
    return ProviderSignal()

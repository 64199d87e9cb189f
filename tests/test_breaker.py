"""What one answer shows of the provider, as a table."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from viber_courier.schemas.settings import Settings
from viber_courier.store.gate import ProviderSignal, resent_by_default
from viber_courier.worker.breaker import after_request, after_statuses
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

SETTINGS = Settings()
DOWN = Retryable("error-system", whole=True)
AUTH = ProviderSignal(pause=60.0, reason="error-auth", both=True)


@pytest.mark.parametrize(
    ("outcomes", "shown"),
    [
        ([Accepted(1), Accepted(2)], ProviderSignal("good", accepted=True)),
        ([Accepted(1), Unsure("entry")], ProviderSignal("good", accepted=True)),
        ([Refused("error-address-unknown")], ProviderSignal("good")),
        ([Refused("error-address-unknown"), Retryable("error-system")], ProviderSignal("good")),
        ([Retryable("error-system")] * 2, ProviderSignal("good")),
        ([DOWN] * 2, ProviderSignal("bad", reason="error-system")),
        # Such a reason is logged and shown, and an unknown code may repeat a message's text.
        ([Retryable("error-your code is 1", whole=True)], ProviderSignal("bad", reason="other")),
        ([Unsure("ReadTimeout")] * 2, ProviderSignal("bad", reason="ReadTimeout")),
        ([Retryable("error-system"), Unsure("entry")], ProviderSignal("bad", reason="entry")),
        ([NotSent("NewConnectionError")] * 2, ProviderSignal("bad", reason="NewConnectionError")),
        ([NotSent("http-429", 7.5)] * 2, ProviderSignal("bad", pause=7.5, reason="http-429")),
        ([NotSent("http-429", 0.1)] * 2, ProviderSignal("bad", pause=1.0, reason="http-429")),
        ([NotSent("http-503", 1e9)] * 2, ProviderSignal("bad", pause=300.0, reason="http-503")),
        ([NotSent("http-503")] * 2, ProviderSignal("bad", pause=5.0, reason="http-503")),
        ([Blocked("error-auth")] * 2, AUTH),
        ([Accepted(1), Blocked("error-auth")], AUTH),
        (
            [RequestRefused("error-syntax")],
            ProviderSignal("refused", pause=60.0, reason="all-refused"),
        ),
    ],
)
def test_after_send(outcomes: Sequence[Outcome], shown: ProviderSignal) -> None:
    assert after_request(outcomes, 1.0, SETTINGS) == shown


@pytest.mark.parametrize(
    ("outcome", "shown"),
    [
        (Statuses({}), ProviderSignal("good", accepted=True)),
        (DOWN, ProviderSignal("bad", reason="error-system")),
        (NotSent("http-503", 9.0), ProviderSignal("bad", pause=9.0, reason="http-503")),
        (NotSent("http-503"), ProviderSignal("bad", pause=5.0, reason="http-503")),
        (Blocked("error-auth"), AUTH),
        (RequestRefused("error-syntax"), ProviderSignal()),
    ],
)
def test_after_status(outcome: StatusOutcome, shown: ProviderSignal) -> None:
    assert after_statuses(outcome, 1.0, SETTINGS) == shown


@pytest.mark.parametrize(
    ("policy", "flags"), [("auto", "11110000"), ("park", "00000000"), ("resend", "11111111")]
)
def test_probes_are_by_choice_those_that_would_be_resent(policy: str, flags: str) -> None:
    settings = Settings(on_unsure=policy)
    assert resent_by_default(settings, 8) == flags
    assert resent_by_default(settings, 2) == flags[:2]

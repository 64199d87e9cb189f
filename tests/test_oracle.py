"""The judge of chaos runs is itself judged: each promise broken in a ledger as small as can be."""

from __future__ import annotations

import ast
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from tests.faults.chaos import oracle
from tests.faults.chaos.oracle import (
    Act,
    Asked,
    Call,
    Cancel,
    Conditions,
    Ledgers,
    Listing,
    Verdict,
    judge,
)
from viber_courier.schemas.status import NEXT, Status

Json = dict[str, Any]
NOON = datetime(2026, 11, 23, 12, tzinfo=UTC).timestamp()
JOB: Json = {
    "id": "m1",
    "subject": "Shop",
    "priority": "high",
    "contentType": "text",
    "content": {"text": "Код 1234"},
    "address": "+79250000099",
    "metadata": {"row": 1},
}
SENT: Json = {
    **{name: JOB[name] for name in ("subject", "priority", "contentType", "content")},
    **{"type": "viber", "address": "79250000099"},
}
BROKEN = Conditions(broken={1: "drop_after"}, unsure_answers=1)
"""The answer to the first request was lost."""


def event(n: int, status: str, final: bool = False, reason: str | None = None, **more: Any) -> Json:
    """One event of m1; ``time`` in seconds after noon."""
    at = datetime.fromtimestamp(NOON + more.pop("time", n), UTC).isoformat()
    data = {"messageId": "m1", "status": status, "final": final, "reason": reason}
    data |= {"providerId": "101", "attempts": 1, "unsure": 0, "metadata": {"row": 1}, **more}
    id, kind = f"m1:{n}", f"viber.message.{status}"
    return {"id": id, "subject": "m1", "type": kind, "time": at, "data": data}


def unsent(n: int, status: str, reason: str | None, **more: Any) -> Json:
    """An event that ends m1 without a provider's id."""
    return event(n, status, final=True, reason=reason, **{"providerId": None, **more})


def taken(request: int = 1, id: int = 101, at: float = 1.0, **message: Any) -> Json:
    """An acceptance of m1; ``at`` in seconds after noon."""
    return {
        **{"providerId": id, "request": request, "resendSms": False, "at": NOON + at},
        "message": {k: v for k, v in {**SENT, **message}.items() if v is not None},
    }


def ledgers(
    events: list[Json] | None = None,
    accepted: list[Json] | None = None,
    conditions: Conditions | None = None,
    record: Json | None = None,
    cancels: list[Cancel] | None = None,
    **job: Any,
) -> Ledgers:
    """Ledgers of one message that was read, but for what is given."""
    told = [event(1, "submitted"), event(2, "read", final=True)] if events is None else events
    names = ("status", "final", "reason", "attempts", "unsure", "providerId")
    last = {name: told[-1]["data"][name] for name in names} if told else None
    asked = Asked({**JOB, **job}, called=NOON, stored=NOON + 0.1, cancels=cancels or [])
    return Ledgers(
        asked={"m1": asked},
        accepted=[taken()] if accepted is None else accepted,
        events=told,
        records={"m1": record or last},
        conditions=conditions or Conditions(),
    )


def names(verdict: Verdict) -> set[str]:
    return {violation.name for violation in verdict.violations}


def suppressed(
    ledger: Ledgers, *listings: tuple[float, bool], priority: str = "low", **job: Any
) -> Ledgers:
    """Ledgers whose number was listed (True) or not, so many seconds after noon."""
    asked = ledger.asked["m1"]
    asked.job |= {"priority": priority, **job}
    asked.listings = [Listing(NOON + at - 0.1, NOON + at, on) for at, on in listings]
    for each in ledger.accepted:
        each["message"]["priority"] = priority
    return ledger


def of_campaign(ledger: Ledgers, *calls: Call) -> Ledgers:
    """Ledgers whose message is one of the campaign ``c``."""
    ledger.asked["m1"].campaign, ledger.calls = "c", calls
    for each in ledger.events:
        each["data"]["campaign"] = "c"
    return ledger


REFUSED = [unsent(1, "rejected", "suppressed", attempts=0)]
BY_REQUEST = [unsent(1, "cancelled", "by-request", attempts=0)]
TWICE = [taken(1, 101), taken(2, 102)]
RESENT = [
    event(1, "submitted", providerId="102", unsure=1, attempts=2),
    event(2, "read", final=True, providerId="102", unsure=1, attempts=2),
]

GOOD: dict[str, Callable[[], Ledgers]] = {
    "read": ledgers,
    "every step": lambda: ledgers(
        [
            *(event(n, word) for n, word in enumerate(("submitted", "sent", "delivered"), 1)),
            event(4, "delivered", final=True),
        ]
    ),
    "closed by tracking": lambda: ledgers(
        [
            *(event(1, "submitted"), event(2, "sent")),
            event(3, "sent", final=True, reason="tracking-ended", time=17),
        ],
        [taken(validityPeriodSec=15)],
        validityPeriodSec=15,
    ),
    "sent twice, and says so": lambda: ledgers(RESENT, TWICE, BROKEN),
    "parked though accepted": lambda: ledgers(
        [unsent(1, "unconfirmed", "unsure", unsure=1)], [taken()], BROKEN, onUnsure="park"
    ),
    "accepted without an id": lambda: ledgers([unsent(1, "lost", "no-provider-id")], [taken()]),
    "rejected": lambda: ledgers(
        [unsent(1, "rejected", "error-address-unknown")], [], address="79250000050"
    ),
    "cancelled": lambda: ledgers(
        [unsent(1, "cancelled", "by-request", attempts=0)],
        [],
        cancels=[Cancel(NOON, NOON + 1, result=True)],
    ),
    "cancelled too late": lambda: ledgers(cancels=[Cancel(NOON, NOON + 1, result=False)]),
    "expired": lambda: ledgers([unsent(1, "expired", "ttl", attempts=0, time=20)], [], ttlSec=30),
    "validity clipped by ttlSec": lambda: ledgers(
        accepted=[taken(validityPeriodSec=29)], ttlSec=30, validityPeriodSec=60
    ),
    "suppressed before": lambda: suppressed(ledgers(REFUSED, []), (-1, True)),
    "suppressed while it waited": lambda: suppressed(ledgers(REFUSED, []), (0.5, True)),
    "suppressed, and no longer": lambda: suppressed(ledgers(), (-2, True), (-1, False)),
    "suppressed in another lane": lambda: suppressed(ledgers(), (-1, True), priority="high"),
    "sent all the same": lambda: suppressed(ledgers(), (-1, True), ignoreSuppression=True),
    "suppressed after the request's begin": lambda: suppressed(ledgers(), (0.9, True)),
    "of a campaign": lambda: of_campaign(ledgers()),
    "of a campaign that is cancelled": lambda: of_campaign(
        ledgers(BY_REQUEST, []), Call("c", "cancel", NOON)
    ),
    "validity added by ttlSec": lambda: ledgers(accepted=[taken(validityPeriodSec=29)], ttlSec=30),
}


@pytest.mark.parametrize("case", GOOD)
def test_what_is_right_passes(case: str) -> None:
    verdict = judge(GOOD[case]())
    assert verdict.violations == [] and verdict.excused == []


def with_stranger() -> Ledgers:
    made = ledgers()
    made.events.append({**event(1, "submitted"), "subject": "m2"})
    return made


def without_record() -> Ledgers:
    made = ledgers()
    made.records["m1"] = None
    return made


def through_celery() -> Ledgers:
    """A task was put on its queue, and nothing came of it."""
    made = ledgers([], [])
    made.asked["m1"].task = True
    return made


def renumbered() -> Ledgers:
    made = ledgers()
    made.events[1]["id"] = "m1:3"
    return made


BAD: dict[str, list[Callable[[], Ledgers]]] = {
    "unknown": [lambda: ledgers([], [])],
    "task never run": [through_celery],
    "never ended": [
        lambda: ledgers([event(1, "submitted")]),
        lambda: ledgers([], [], record={"status": "queued", "final": False}),
    ],
    "ended twice": [
        lambda: ledgers([event(1, "submitted"), *(event(n, "read", final=True) for n in (2, 3))])
    ],
    "event after the end": [
        lambda: ledgers(
            [event(1, "submitted"), event(2, "delivered", final=True), event(3, "read", True)]
        )
    ],
    "wrong finality": [
        lambda: ledgers([event(1, "submitted", final=True)]),
        lambda: ledgers([event(1, "submitted"), event(2, "read")]),
    ],
    "numbers with gaps": [renumbered, lambda: ledgers([event(2, "submitted")])],
    "event at odds with itself": [lambda: ledgers([event(1, "submitted", messageId="m2")])],
    "event for an unknown id": [with_stranger],
    "accepted unasked": [lambda: ledgers(accepted=[taken(), taken(2, 102, address="791")])],
    "campaign altered": [
        lambda: ledgers([event(1, "submitted", campaign="c"), event(2, "read", final=True)])
    ],
    "suppressed unasked": [
        lambda: ledgers(REFUSED, [], priority="low"),
        lambda: suppressed(ledgers(REFUSED, []), (-1, True), priority="high"),
        lambda: suppressed(ledgers(REFUSED, []), (-1, True), ignoreSuppression=True),
        lambda: suppressed(ledgers(REFUSED, []), (9, True)),
    ],
    "sent though suppressed": [
        lambda: suppressed(ledgers(), (-1, True)),
        lambda: suppressed(ledgers(), (-1, True), (2, False)),
        lambda: suppressed(ledgers(accepted=[taken(at=30)]), (2, True)),
    ],
    "suppressed but otherwise ended": [
        lambda: suppressed(ledgers([unsent(1, "failed", "attempts")], []), (-1, True))
    ],
    "illegal order": [
        lambda: ledgers([event(1, "read", final=True)]),
        lambda: ledgers([event(1, "submitted"), event(2, "delivered"), event(3, "sent")]),
        lambda: ledgers([event(1, "submitted"), event(2, "sent"), event(3, "sent")]),
        lambda: ledgers([event(1, "submitted"), event(2, "delivered"), event(3, "lost", True)]),
    ],
    "counter went back": [
        lambda: ledgers([event(1, "submitted", attempts=2), event(2, "read", True, attempts=1)])
    ],
    "provider id changed": [
        lambda: ledgers([event(1, "submitted", providerId="102"), event(2, "read", True)])
    ],
    "illegal reason": [
        lambda: ledgers([unsent(1, "failed", "content-gone")], []),
        lambda: ledgers([event(1, "submitted"), event(2, "read", True, "ttl")]),
        lambda: ledgers([event(1, "submitted"), event(2, "sent"), event(3, "sent", True)]),
    ],
    "unconfirmed without unsure": [lambda: ledgers([unsent(1, "unconfirmed", "unsure")], [])],
    "refused by nobody": [lambda: ledgers([unsent(1, "rejected", "error-address-unknown")], [])],
    "metadata altered": [lambda: ledgers(metadata={"row": 2})],
    "provider id never given": [
        lambda: ledgers(accepted=[]),
        lambda: ledgers(accepted=[taken(id=102)]),
    ],
    "never accepted, not explained": [
        lambda: ledgers([event(1, "submitted", providerId=None), unsent(2, "read", None)], [])
    ],
    "accepted without an end that says so": [
        lambda: ledgers([unsent(1, "failed", "attempts")], conditions=BROKEN)
    ],
    "accepted more often than tried": [
        lambda: ledgers([event(1, "submitted", unsure=1)], TWICE, BROKEN)
    ],
    "doubled though parked": [
        lambda: ledgers(RESENT, TWICE, BROKEN, onUnsure="park"),
        lambda: ledgers(RESENT, TWICE, BROKEN, priority="low"),
    ],
    "doubled silently": [
        lambda: ledgers(accepted=TWICE, conditions=BROKEN),
        lambda: ledgers(RESENT, [*TWICE, taken(3, 103)], BROKEN),
    ],
    "sent again too often": [
        lambda: ledgers(
            [unsent(1, "unconfirmed", "unsure", unsure=4, attempts=4)],
            [taken(n, 100 + n) for n in (1, 2, 3, 4)],
            Conditions(broken=dict.fromkeys((1, 2, 3, 4), "garbled"), unsure_answers=4),
        )
    ],
    "double unexplained": [lambda: ledgers(RESENT, TWICE)],
    "unsure without a fault": [
        lambda: ledgers([unsent(1, "unconfirmed", "unsure", unsure=1)], onUnsure="park")
    ],
    "content altered": [
        lambda: ledgers(accepted=[taken(subject="Bank")]),
        lambda: ledgers(accepted=[taken(content={"text": "Код 1235"})]),
        lambda: ledgers(accepted=[taken(comment="more")]),
        lambda: ledgers(accepted=[taken(priority=None)]),
    ],
    "resendSms altered": [
        lambda: ledgers(resendSms=True),
        lambda: ledgers(accepted=[taken(smsText="SMS")], smsText="SMS"),
    ],
    "validity altered": [
        lambda: ledgers(accepted=[taken(validityPeriodSec=29)], validityPeriodSec=60),
        lambda: ledgers(accepted=[taken(validityPeriodSec=31)], ttlSec=30, validityPeriodSec=60),
        lambda: ledgers(accepted=[taken(validityPeriodSec=14)], ttlSec=30),
        lambda: ledgers(accepted=[taken(smsValidityPeriodSec=20)], ttlSec=30),
        lambda: ledgers(ttlSec=30, validityPeriodSec=60),
    ],
    "cancelled but accepted": [
        lambda: ledgers(
            [unsent(1, "cancelled", "by-request")], cancels=[Cancel(NOON, NOON, result=True)]
        )
    ],
    "cancelled but otherwise ended": [lambda: ledgers(cancels=[Cancel(NOON, NOON, result=True)])],
    "cancelled unasked": [
        lambda: ledgers(BY_REQUEST, []),
        lambda: of_campaign(ledgers(BY_REQUEST, []), Call("d", "cancel", NOON)),
    ],
    "cancelled but denied": [
        lambda: ledgers(
            [unsent(1, "cancelled", "by-request")], [], cancels=[Cancel(NOON, NOON, result=False)]
        )
    ],
    "sent too early": [lambda: ledgers(sendAt="2026-11-23T15:01:00+03:00")],
    "sent too late": [lambda: ledgers(accepted=[taken(at=32, validityPeriodSec=15)], ttlSec=30)],
    "expired too early": [
        lambda: ledgers([unsent(1, "expired", "ttl")], [], ttlSec=30),
        lambda: ledgers([unsent(1, "expired", "ttl")], []),
    ],
    "given up too early": [
        lambda: ledgers(
            [event(1, "submitted"), event(2, "lost", True, "tracking-ended", time=90)],
            [taken(validityPeriodSec=99)],
            validityPeriodSec=99,
        ),
        lambda: ledgers(
            [event(1, "submitted"), event(2, "lost", True, "tracking-ended", time=40)],
            [taken(validityPeriodSec=15, smsText="SMS") | {"resendSms": True}],
            validityPeriodSec=15,
            smsText="SMS",
        ),
    ],
    "ended otherwise than the provider said": [
        lambda: ledgers([event(1, "submitted"), event(2, "undelivered", True)]),
        lambda: ledgers(accepted=[taken(address="79250000020")], address="79250000020"),
    ],
    "record missing": [without_record],
    "record at odds with its event": [
        lambda: ledgers(
            record={
                **{"status": "sent", "final": True, "reason": None},
                **{"attempts": 1, "unsure": 0, "providerId": "101"},
            }
        )
    ],
}


@pytest.mark.parametrize(
    ("name", "case"), [(name, case) for name, cases in BAD.items() for case in cases]
)
def test_each_broken_promise_is_named(name: str, case: Callable[[], Ledgers]) -> None:
    assert name in names(judge(case()))


def test_every_name_has_its_case() -> None:
    words = Path(oracle.__file__).read_text().replace("(", " ")
    tree = ast.parse(Path(oracle.__file__).read_text())
    yielded = {
        node.value.elts[0].value
        for node in ast.walk(tree)
        if isinstance(node, ast.Yield)
        and isinstance(node.value, ast.Tuple)
        and isinstance(node.value.elts[0], ast.Constant)
    }
    assert len(yielded) > 25 and yielded <= BAD.keys()
    assert all(f'"{name}"' in words for name in BAD)
    assert yielded | {"unknown"} >= oracle.FORGETTABLE


# --- what happened around it ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("act", "cause"),
    [
        (Act("kill -9 worker", NOON + 2, NOON + 2, requests=2), "kill -9 worker"),
        (Act("stalled worker", NOON - 9, NOON, requests=2), "stalled worker"),
        (Act("kill -9 worker", NOON + 6, NOON + 6, requests=2), None),
        (Act("kill -9 worker", NOON - 9, NOON - 8, requests=2), None),
    ],
)
def test_a_double_is_explained_by_what_was_done_around_it(act: Act, cause: str | None) -> None:
    verdict = judge(ledgers(RESENT, TWICE, Conditions(acts=[act])))
    assert names(verdict) == (set() if cause else {"double unexplained"})
    assert verdict.figures["because of"] == {cause or "?": 1}


FORGETFUL = Act("kill -9 Redis", NOON + 2, NOON + 3, requests=4, forgets=True)


@pytest.mark.parametrize(
    "case",
    [
        lambda conditions: ledgers([], [], conditions),
        lambda conditions: ledgers(accepted=TWICE, conditions=conditions),
        lambda conditions: ledgers(
            [event(1, "submitted"), event(2, "read", final=True)],
            conditions=conditions,
            cancels=[Cancel(NOON, NOON + 1, result=True)],
        ),
        lambda conditions: suppressed(ledgers(conditions=conditions), (-1, True)),
    ],
)
def test_what_a_killed_redis_forgot_is_counted_apart(case: Callable[..., Ledgers]) -> None:
    # Given that Redis was killed right after, without `appendfsync always`
    verdict = judge(case(Conditions(acts=[FORGETFUL])))
    # Then it is no broken promise, but told
    assert verdict.violations == [] and verdict.excused
    assert sum(verdict.figures["lost by Redis"].values()) == len(verdict.excused)
    # And with `always`, or long before, it is one
    for act in (replace(FORGETFUL, forgets=False), replace(FORGETFUL, begun=NOON + 99)):
        assert judge(case(Conditions(acts=[act]))).violations


def test_a_killed_redis_excuses_no_message_without_an_end() -> None:
    never = ledgers([event(1, "submitted")], conditions=Conditions(acts=[FORGETFUL]))
    assert names(judge(never)) == {"never ended"}


def test_a_step_of_redis_s_clock_moves_deadlines_while_a_message_lives() -> None:
    early = ledgers([unsent(1, "expired", "ttl", time=5)], [], ttlSec=60)
    longer = ledgers(accepted=[taken(validityPeriodSec=57)], ttlSec=30)
    for made, offset in ((early, 45.0), (longer, -40.0)):
        assert judge(made).violations
        for since, excused in ((NOON + 1, True), (NOON + 99, False)):
            made.conditions = Conditions(offsets=[(0.0, 0.0), (since, offset)])
            assert (judge(made).violations == []) is excused
    nothing = through_celery()  # came of it, long after the step
    nothing.conditions = Conditions(offsets=[(0.0, 0.0), (NOON - 99, -40.0)])
    assert names(judge(nothing)) == {"task never run"}


def test_the_figures() -> None:
    told = judge(ledgers(RESENT, TWICE, BROKEN)).figures
    assert (told["asked"], told["accepted"], told["acceptances"]) == (1, 1, 2)
    assert (told["accepted more than once"], told["because of"]) == (1, {"drop_after": 1})
    assert (told["unsure attempts"], told["unsure at most"]) == (1, 1)
    assert told["by end"] == {"read": 1} and told["lost by Redis"] == {}


# --- whose word it is -----------------------------------------------------------------------------


def test_the_oracle_imports_nothing_of_what_it_judges() -> None:
    tree = ast.parse(Path(oracle.__file__).read_text())
    roots = {
        (node.module or "").split(".")[0] if isinstance(node, ast.ImportFrom) else alias.name
        for node in ast.walk(tree)
        if isinstance(node, ast.Import | ast.ImportFrom)
        for alias in node.names
    }
    assert roots <= {"__future__", "re", "collections", "dataclasses", "datetime", "typing"}


def test_both_tables_of_orders_agree() -> None:
    """Written twice from the contract; where they differ, one of them has misread it."""
    for status, followers in NEXT.items():
        if status not in (Status.QUEUED, Status.SENDING):
            closing = {status.value} & oracle.CLOSABLE
            assert oracle.AFTER.get(status.value, set()) - closing == set(map(str, followers))

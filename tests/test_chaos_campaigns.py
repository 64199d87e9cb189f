"""What chaos runs reckon of campaigns is itself judged: each ledger wrong in one thing."""

from __future__ import annotations

import ast
from collections.abc import Callable
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.faults.chaos import campaigns
from tests.faults.chaos.campaigns import Kept, entries, settle_campaigns
from tests.faults.chaos.jobs import Order
from tests.faults.chaos.oracle import Act, Asked, Call, Conditions, Ledgers, Life, Verdict, judge
from tests.test_oracle import JOB, NOON, event, taken, unsent

Json = dict[str, Any]
WORDS = {
    "left a paused campaign",
    "left a cancelled campaign",
    "added after cancel",
    "cancelled campaign goes on",
}
PROGRESS: Json = {
    **{"state": "ended", "added": 1, "waiting": 0, "inside": 0, "ended": 1},
    **{"statuses": {"read": 1}, "entered": {"submitted": 1, "read": 1}},
}
ROW: Json = {
    **{"id": "m1", "row": 0, "status": "read", "final": True, "reason": None},
    **{"attempts": 1, "unsure": 0},
}
NONE = {"statuses": {}, "entered": {}, "added": 0, "ended": 0}
REFUSED: Json = {"refused": True}


def call(act: str, at: float, answer: Json | None = None, **more: Any) -> Call:
    """A call answered half a second later; ``at`` in seconds after noon."""
    told = {**NONE, "state": "running", "waiting": 0, "inside": 0, **more}
    return Call("c", act, NOON + at, NOON + at + 0.5, told if answer is None else answer)


def in_vain(act: str, at: float) -> Call:
    return Call("c", act, NOON + at)


def case(
    *calls: Call,
    told: Json | None = None,
    rows: list[Json] | None = None,
    at: float = 1.0,
    refused: float | None = None,
    acts: tuple[Act, ...] = (),
    unknown: bool = False,
) -> Callable[[], Verdict]:
    """A campaign with the message m1, that was accepted ``at`` and read."""

    def settled() -> Verdict:
        asked = Asked(JOB, NOON, None if unknown else NOON + 0.1, campaign="c")
        asked.refused = refused and NOON + refused
        last = {name: ROW[name] for name in ROW.keys() - {"id", "row"}} | {"providerId": "101"}
        events = [event(n, word, word == "read", campaign="c") for n, word in STEPS]
        made = Ledgers(
            asked={"m1": asked},
            accepted=[] if unknown else [taken(at=at)],
            events=[] if unknown else events,
            records={"m1": None if unknown else last},
            conditions=Conditions(acts=acts),
            calls=calls,
        )
        verdict = judge(made)
        assert verdict.violations == []
        settle_campaigns(
            verdict,
            made,
            {"c": Kept(PROGRESS | (told or {}), [ROW] if rows is None else rows)},
        )
        return verdict

    return settled


STEPS = ((1, "submitted"), (2, "read"))
CANCELLED: Json = {"state": "cancelled"}
INSIDE: Json = {"inside": 1, "waiting": 1, "added": 1, "statuses": {"queued": 1}}
STALL = Act("stalled worker", NOON - 9, NOON + 6, requests=2)
FORGETFUL = Act("kill -9 Redis", NOON + 1, NOON + 2, requests=4, forgets=True)

GOOD: dict[str, Callable[[], Verdict]] = {
    "all ended": case(),
    "paused afterwards": case(call("pause", 2), call("resume", 3)),
    "paused, and inside": case(call("pause", 0.3, **INSIDE)),
    "paused, and resumed before": case(call("pause", 0), call("resume", 0.9)),
    "nobody knows whether it was paused": case(in_vain("pause", 0)),
    "a resume without an answer came late": case(in_vain("resume", -1), call("pause", 0)),
    "cancelled afterwards": case(call("cancel", 2, **CANCELLED), told=CANCELLED),
    "cancelled, and inside": case(
        call("cancel", 0, **CANCELLED, **INSIDE),
        told=CANCELLED,
    ),
    "cancelled by a call without an answer": case(in_vain("cancel", 0), told=CANCELLED),
    "a cancel that did not hold": case(in_vain("cancel", 0)),
    "refused": case(in_vain("cancel", 0), told=CANCELLED | NONE, rows=[], refused=1, unknown=True),
    "from a worker that was stalled": case(call("pause", 0), acts=(STALL,), at=5),
    "no message": case(told={**NONE, "state": "unknown"}, rows=[], unknown=True),
}
BAD: dict[str, list[Callable[[], Verdict]]] = {
    "left a paused campaign": [
        case(call("pause", 0)),
        case(call("pause", 0), call("resume", 2)),
        case(call("resume", -20), call("pause", 0)),
        case(call("pause", 0, **INSIDE), at=20),
    ],
    "left a cancelled campaign": [case(call("cancel", 0, **CANCELLED), told=CANCELLED)],
    "added after cancel": [case(call("cancel", -2, **CANCELLED), told=CANCELLED)],
    "cancelled campaign goes on": [case(call("cancel", 2, **CANCELLED))],
    "campaign's statuses wrong": [case(told={"statuses": {"sent": 1}})],
    "campaign's entries wrong": [case(told={"entered": {"submitted": 1}})],
    "campaign's total wrong": [
        case(told={name: n}) for name, n in (("added", 2), ("ended", 0), ("inside", -1))
    ],
    "campaign's state wrong": [case(told={"state": "paused"}), case(told=CANCELLED)],
    "reported twice": [case(rows=[ROW, ROW])],
    "report's rows wrong": [case(rows=[]), case(rows=[ROW, {**ROW, "id": "m2"}])],
    "report at odds with events": [
        case(rows=[{**ROW, **wrong}]) for wrong in ({"status": "sent"}, {"row": 1}, {"unsure": 1})
    ],
    "progress at odds with itself": [
        case(call("progress", 3, added=1)),
        case(call("progress", 3, inside=1)),
        case(call("progress", 3, inside=-1)),
    ],
    "refused without a cancel": [case(refused=1), case(call("pause", 1, answer=REFUSED))],
}


@pytest.mark.parametrize("name", GOOD)
def test_what_is_right_passes(name: str) -> None:
    assert GOOD[name]().violations == []


@pytest.mark.parametrize(
    ("name", "made"), [(name, made) for name, all in BAD.items() for made in all]
)
def test_each_broken_promise_is_named(name: str, made: Callable[[], Verdict]) -> None:
    assert name in {violation.name for violation in made().violations}


def test_every_name_has_its_case() -> None:
    tree = ast.parse(Path(campaigns.__file__).read_text())
    yields = [node.value for node in ast.walk(tree) if isinstance(node, ast.Yield)]
    parts = [part for each in yields if isinstance(each, ast.Tuple) for part in each.elts]
    names = {part.value for part in parts if isinstance(part, ast.Constant)}
    assert names | WORDS == BAD.keys() and WORDS == campaigns.FORGETTABLE


def test_what_a_killed_redis_forgot_is_counted_apart() -> None:
    # Given that Redis was killed right after a pause, without `appendfsync always`
    verdict = case(call("pause", 0.2), at=3, acts=(FORGETFUL,))()
    # Then it is no broken promise, but told
    assert verdict.violations == []
    assert verdict.figures["lost by Redis"] == {"left a paused campaign": 1}
    # And with `always`, or long before, it is one
    for act in (replace(FORGETFUL, forgets=False), replace(FORGETFUL, begun=NOON + 99)):
        assert case(call("pause", 0.2), at=3, acts=(act,))().violations


def test_a_code_that_is_not_told_is_counted_as_another_one() -> None:
    events = [unsent(1, "rejected", code) for code in ("error-auth", "error-odd")]
    lives = [Life("m1", Asked(JOB, NOON), [], [each], None) for each in events]
    assert entries(lives, {"rejected:error-auth": 1}) == {
        "rejected:error-auth": 1,
        "rejected:other": 1,
    }


def test_a_template_means_what_its_rows_say() -> None:
    order = Order([{"name": "Bob"}], {"content": {"text": "{name}: {{-20 %}}"}}, "c", template=True)
    before = deepcopy(order)
    assert order.jobs == [{"content": {"text": "Bob: {-20 %}"}}] and order == before

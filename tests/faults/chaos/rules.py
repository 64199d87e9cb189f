"""How the provider's answers break in a chaos run: rules for the simulator."""

from __future__ import annotations

from typing import Any

Json = dict[str, Any]

NOT_SENT: list[Json] = [
    {"kind": "status", "code": "error-system"},
    {"kind": "status", "code": "error-syntax"},
    {"kind": "status", "code": "error-subject-format"},
    {"kind": "status", "code": "error-never-heard-of"},
    {"kind": "entry", "code": "error-system"},
    {"kind": "http", "code": 503, "retry_after": 1},
    {"kind": "http", "code": 429, "retry_after": 1},
    {"kind": "http", "code": 408},
    {"kind": "http", "code": 422},
    {"kind": "slow", "seconds": 0.5},
    *({"kind": kind} for kind in ("disagree", "quoted", "no_id")),
]
BLOCKING: list[Json] = [
    {"kind": "redirect"},
    {"kind": "status", "code": "error-auth"},
    {"kind": "http", "code": 404},
]
"""Each of these stops everybody for a while: rarer."""
UNSURE: list[Json] = [
    {"kind": "entry", "code": "weird"},
    {"kind": "http", "code": 500},
    {"kind": "http", "code": 502, "accept": True},
    {"kind": "http", "code": 200, "body": "<html>", "accept": True},
    {"kind": "drop_before"},
    {"kind": "drop_after"},
    {"kind": "hang_before"},
    {"kind": "hang_after"},
    {"kind": "trickle", "seconds": 0.5},
    {"kind": "oversized", "bytes": 5 * 2**20},
    *({"kind": kind} for kind in ("garbled", "short", "long", "same_id")),
]
REFUSING = {"entry": "error-refused-by-chance"}
STORMS: list[Json] = [
    {"kind": "http", "code": 503},
    {"kind": "http", "code": 503, "retry_after": 2},
    {"kind": "status", "code": "error-system"},
    {"kind": "hang_before"},
    {"kind": "drop_after"},
]


def rules(rate: float) -> list[Json]:
    """Every fault that the simulator knows, on both paths; with 0.005 about a seventh of all."""
    refusal = {"kind": "entry", "code": REFUSING["entry"], "rate": rate / 4}
    often = [{**rule, "rate": rate} for rule in NOT_SENT + UNSURE]
    seldom = [{**rule, "rate": rate / 5} for rule in BLOCKING]
    return [{**rule, "on": on} for on in ("send", "status") for rule in (*often, *seldom, refusal)]


def refusal_codes() -> frozenset[str]:
    """With what a message may end ``rejected`` by these rules."""
    codes = [rule.get("code") for rule in NOT_SENT] + [REFUSING["entry"]]
    return frozenset(f"http-{code}" if isinstance(code, int) else str(code) for code in codes)


def is_unsure(kind: str, code: str | int) -> bool:
    """Whether nobody can know what came of a /send that such a rule has answered."""
    return any(rule["kind"] == kind and rule.get("code", "") in ("", code) for rule in UNSURE)

"""What chaos runs reckon beside the oracle is itself judged: each account wrong in one thing."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from tests.faults.chaos.accounts import (
    MEMORY_BASE,
    Account,
    Balance,
    Left,
    Seen,
    Told,
    balance,
    counted,
    left_behind,
    used,
)
from tests.faults.chaos.oracle import Act

WRITTEN = {(n, 0): Seen(f"m1:{n}", "d") for n in range(1, 9)}
ALL = [*WRITTEN.items()]
CUT = Act("Redis cut off", 50.0, 60.0, requests=4)


def reckon(read: Any, *told: Told, acts: tuple[Act, ...] = (), strict: bool = True) -> Balance:
    return balance(Account("crm", read, told), WRITTEN, acts, strict)


def names(found: Balance) -> list[str]:
    return [violation.name for violation in found.violations]


def test_read_and_told_missing_make_all_that_was_written() -> None:
    assert names(reckon(ALL)) == []
    assert names(reckon([*ALL[:2], *ALL[6:]], Told(3, 6, at=99), Told(6, 7, at=99))) == []
    assert names(reckon([*ALL[:2], *ALL[6:]], Told(3, 6, at=99))) == []  # of that millisecond
    found = reckon([*ALL[:2], *ALL[6:]], Told(3, 7, at=99))
    assert names(found) == []
    assert (found.figures["read"], found.figures["told missing"]) == (4, 4)


@pytest.mark.parametrize(
    ("read", "told", "name"),
    [
        (ALL[:7], [], "event never read"),
        ([*ALL[:2], *ALL[6:]], [Told(3, 5, 99)], "event never read"),
        (ALL, [Told(3, 7, 99)], "told missing, and nothing was"),
        ([*ALL[:3], *ALL[6:]], [Told(3, 7, 99)], "told missing from too early"),
        ([*ALL[:2], *ALL[6:]], [Told(3, 7, 98), Told(3, 7, 99)], "told missing twice"),
        ([*ALL[:7], ((8, 0), Seen("m1:8", "other"))], [], "event taken back"),
        ([*ALL, ((9, 0), Seen("m1:9", "d"))], [], "event taken back"),
    ],
)
def test_a_wrong_account_is_named(read: Any, told: list[Told], name: str) -> None:
    assert name in names(reckon(read, *told))


def test_what_breaks_a_conversation_with_redis_excuses_a_repetition_only() -> None:
    told = Told(3, 7, 99)
    assert names(reckon(ALL, told, acts=(CUT,))) == []
    again, far = [*ALL[:2], *ALL[6:]], replace(told, at=70)
    assert names(reckon(again, replace(told, at=62), told, acts=(CUT,))) == []
    assert set(names(reckon(again, far, told, acts=(CUT,)))) == {"told missing twice"}
    assert names(reckon(ALL[:7], acts=(CUT,))) == ["event never read"]


def test_an_event_told_again_with_the_same_content_is_no_other_event() -> None:
    moved = [*ALL, ((9, 9), ALL[-1][1])]
    assert names(reckon(moved)) == []
    assert names(reckon([*ALL, ((9, 0), Seen("m1:9", "d"))], strict=False)) == []


def test_counters_follow_the_events() -> None:
    events = [{"subject": "m1", "data": {"status": each}} for each in ("sent", "read", "read")]
    right = {"queued": "2", "sent": "1", "read": "1", "unsure": "7"}
    assert list(counted(right, events, known=2)) == []
    (wrong,) = counted({**right, "read": "0", "read:late": "2"}, events, known=2)
    assert (wrong.name, wrong.id, wrong.what) == ("counter wrong", "read", "2, ledger 1")


@pytest.mark.parametrize(
    ("key", "name"),
    [
        (Left("{ns}:m:1", "hash", True, 1), None),
        (Left("{ns}:m:1", "hash", False, 1), "never expires"),
        (Left("{ns}:counts", "hash", False, 9), None),
        (Left("{ns}:lane:low:0", "zset", False, 1), "left behind"),
        (Left("{ns}:turns:low", "zset", False, 3), None),
        (Left("{ns}:turns:low", "zset", False, 49), "left behind"),
        (Left("{ns}:campaign:c", "hash", False, 9), "never expires"),
        (Left("{ns}:new", "hash", False, 1), "left behind"),
        (Left("{ns}:wake", "list", False, 99), "left behind"),
        (Left("{ns}:results", "stream", False, 300), None),
        (Left("{ns}:results", "stream", False, 301), "left behind"),
        (Left("ns.poll", "list", False, 2), None),
        (Left("ns.poll", "list", False, 99), "left behind in the broker"),
        (Left("ns.enqueue", "list", False, 1), "left behind in the broker"),
    ],
)
def test_what_a_run_leaves_in_redis(key: Left, name: str | None) -> None:
    assert [each.name for each in left_behind([key], "ns", 300)] == ([name] if name else [])


def test_one_gate_too_many_is_left_behind() -> None:
    keys = [Left(f"{{ns}}:gate:{n}", "hash", False, 1) for n in range(3)]
    assert [each.what for each in left_behind(keys, "ns", 300)] == ["3 keys"]


def test_memory_is_bounded_by_messages() -> None:
    assert list(used(MEMORY_BASE, 0)) == [] and list(used(MEMORY_BASE + 9000, 1))

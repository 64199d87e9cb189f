"""Celery's command with a patched courier: `python -m tests.faults.chaos.program worker ...`.

The two pauses that a run of minutes can't wait for are cut short, everything else is what is
installed. ``CHAOS_PLANT`` names a fault to plant: what the oracle must find.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import count
from typing import Any

from viber_courier.store import gate
from viber_courier.worker import breaker

breaker.BLOCKED_PAUSE = 2.0  # of 60 s: credentials, redirects, all refused
gate.MAX_PAUSE = 2.0  # of 60 s: the breaker's longest

from celery.__main__ import main  # noqa: E402

from viber_courier.store.leases import Lease, RateLimited, Store  # noqa: E402
from viber_courier.store.records import Waiting  # noqa: E402
from viber_courier.store.writes import Move  # noqa: E402
from viber_courier.worker import batching, send  # noqa: E402

EVERY = 5
"""Every which time the planted fault shows."""


def lose_settles() -> None:
    """Once in a while an answer is thrown away, and the lease with it: nobody looks again."""
    settle, calls = Store.settle, count(1)

    def lossy(self: Store, lease: Lease[Any], moves: Sequence[Move], *more: Any) -> Any:
        if moves and ":lane:" in lease.key and next(calls) % EVERY == 0:
            self.redis.zrem(lease.key, *(move.id for move in moves))
            return [], ""
        return settle(self, lease, moves, *more)

    Store.settle = lossy  # type: ignore[method-assign]


def double_claims() -> None:
    """Once in a while a batch is handed out twice, as if a claim gave no lease."""
    claim, begin, calls = Store.claim, Store.begin, count(1)
    again: list[Lease[Waiting]] = []

    def doubling(self: Store, lane: str, answered: bool) -> Lease[Waiting] | RateLimited | None:
        if again:
            return again.pop()
        lease = claim(self, lane, answered)
        if isinstance(lease, Lease) and next(calls) % EVERY == 0:
            again.append(replace(lease, token="twice", more=True))
            return replace(lease, more=True)
        return lease

    def believing(
        self: Store, lease: Lease[Waiting], messages: Sequence[Waiting], inside: bool = True
    ) -> Lease[Waiting]:
        if lease.token == "twice":
            return replace(lease, messages=[m._replace(attempts=m.attempts + 1) for m in messages])
        return begin(self, lease, messages, inside)

    Store.claim, Store.begin = doubling, believing  # type: ignore[method-assign]
    settle = Store.settle

    def silent(self: Store, lease: Lease[Any], moves: Sequence[Move], *more: Any) -> Any:
        return ([], "") if lease.token == "twice" else settle(self, lease, moves, *more)

    Store.settle = silent  # type: ignore[method-assign]


def alter_contents() -> None:
    """Now and then a message says something else."""
    assemble, calls = batching.assemble, count(1)

    def altered(messages: Sequence[Waiting], now: int) -> tuple[Any, list[Any]]:
        common, rest = assemble(messages, now)
        return common, [
            {**each, "subject": "Other"} if next(calls) % (20 * EVERY) == 0 else each
            for each in rest
        ]

    vars(send)["assemble"] = altered


def repeat_ends() -> None:
    """Once in a while a message that has ended is told of again."""
    settle, calls = Store.settle, count(1)

    def twice(self: Store, lease: Lease[Any], moves: Sequence[Move], *more: Any) -> Any:
        answer = settle(self, lease, moves, *more)
        for move in moves:
            if move.write.step.place == "end" and next(calls) % (10 * EVERY) == 0:
                n = int(self.redis.hget(self.keys.records + move.id, "n") or 0)
                a, b, c, d, e = move.write.draft
                text = f"{a}{move.id}:{n + 1}{b}{move.id}{c}{move.id}{d}null{e}"
                self.redis.xadd(self.keys.results, {"event": text})
        return answer

    Store.settle = twice  # type: ignore[method-assign]


def heed_no_pause() -> None:
    """Claims serve paused campaigns as any other, and requests with their messages begin."""
    claim, begin = Store.claim, Store.begin

    def deaf(self: Store, lane: str, answered: bool) -> Lease[Waiting] | RateLimited | None:
        turns, held = self.keys.queues(lane)
        for member in self.redis.zrange(held, 0, -1):
            self.redis.zadd(turns, {member: 0})
            self.redis.zrem(held, member)
        return claim(self, lane, answered)

    def blind(
        self: Store, lease: Lease[Waiting], messages: Sequence[Waiting], inside: bool = True
    ) -> Lease[Waiting]:
        return replace(begin(self, replace(lease, line=""), messages, inside), line=lease.line)

    Store.claim, Store.begin = deaf, blind  # type: ignore[method-assign]


def lose_counts() -> None:
    """Once in a while a campaign does not count an end."""
    settle, calls = Store.settle, count(1)

    def lossy(self: Store, lease: Lease[Any], moves: Sequence[Move], *more: Any) -> Any:
        answer = settle(self, lease, moves, *more)
        if lease.line and moves and next(calls) % EVERY == 0:
            self.redis.hincrby(self.keys.campaigns + lease.line[2:], "ended", -1)
        return answer

    Store.settle = lossy  # type: ignore[method-assign]


PLANTS: dict[str, Callable[[], None]] = {
    "lost-settle": lose_settles,
    "double-claim": double_claims,
    "altered": alter_contents,
    "second-end": repeat_ends,
    "deaf-to-pauses": heed_no_pause,
    "lost-count": lose_counts,
}

if plant := os.environ.get("CHAOS_PLANT"):
    PLANTS[plant]()

if __name__ == "__main__":
    sys.argv[0] = "celery"
    sys.exit(main())

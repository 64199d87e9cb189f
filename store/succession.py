"""Who is the master and who may become it, by the word of Sentinel's sentinels."""

import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import redis

FRESH = 1.0
"""Seconds that the sentinels' word holds. Sentinel replaces no dead master sooner."""
SILENT = 10.0
"""Seconds until a sentinel that did not answer is asked again: each try may take a second."""

Place = tuple[str, int]


@dataclass(frozen=True, slots=True)
class Word:
    """What the sentinels say. ``master``: None unless most say the same and no failover goes on.

    ``usable`` replicas may become the master; ``known`` ones may be dead, or still catch up.
    """

    at: float
    master: Place | None
    usable: frozenset[Place]
    known: frozenset[Place]


class Succession:
    """Knows who is the master and who may become it, by what the sentinels last said."""

    def __init__(self, sentinels: Sequence[Any], name: str) -> None:
        self._sentinels, self._name = sentinels, name
        self._silent_until = dict[int, float]()
        self._word: Word | None = None

    def word(self) -> Word:
        """Returns the sentinels' word, at most FRESH seconds old."""
        if self._word is None or time.monotonic() - self._word.at >= FRESH:
            self._word = self._ask(time.monotonic(), self._word)
        return self._word

    def _ask(self, now: float, before: Word | None) -> Word:
        masters, usable, known = list[Place](), set[Place](), set[Place]()
        changing, total = False, len(self._sentinels)
        for n, sentinel in enumerate(self._sentinels):
            if now < self._silent_until.get(n, 0.0):
                continue
            self._silent_until[n] = now + SILENT
            with suppress(redis.RedisError, KeyError):
                state = sentinel.sentinel_masters()[self._name]
                for each in sentinel.sentinel_slaves(self._name):
                    known.add((each["ip"], each["port"]))
                    if _is_usable(each):
                        usable.add((each["ip"], each["port"]))
                masters.append((state["ip"], state["port"]))
                changing = changing or "failover_in_progress" in state["flags"]
                total = max(total, 1 + state["num-other-sentinels"])
                del self._silent_until[n]
        if 2 * len(masters) <= total:
            if before:
                return Word(now, None, before.usable, before.known | known)
            return Word(now, None, frozenset(usable), frozenset())
        master = masters[0] if len(set(masters)) == 1 and not changing else None
        return Word(now, master, frozenset(usable), frozenset(known))


def _is_usable(state: dict[str, Any]) -> bool:
    """Returns whether a replica, as a sentinel sees it, lives and is in step with the master."""
    lives = not any(flag in state["flags"] for flag in ("s_down", "o_down", "disconnected"))
    return lives and state.get("master-link-status") == "ok"

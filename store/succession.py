"""Who is the master and who may become it, by the word of Sentinel's sentinels."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from math import inf
from typing import Any

import redis
from redis import exceptions as errors

from viber_courier.store.replies import reply

FRESH = 1.0
"""Seconds that the sentinels' word holds. Sentinel replaces no dead master sooner."""
SILENT = 10.0
"""Most seconds until a silent sentinel is asked again: three times what the request took, 9, 27."""

CHECK_INTERVAL = 1.0
"""Seconds between two requests to the sentinels for the master's address."""
RETRY_DELAY = 10.0
"""Most seconds until the next request after one that failed: the master may still be reachable.

It is ten times what the request took. Sentinels that see no master yet say so at once.
"""

Place = tuple[str, int]
_State = dict[str, Any]
_DOWN = ("s_down", "o_down", "disconnected")
"""Flags of a replica that Sentinel does not choose."""


class Master:
    """Knows where the master is: asks the sentinels each second, and where it was ``lost``."""

    def __init__(self, name: str, sentinels: Sequence[Any]) -> None:
        self._name, self.sentinels = name, sentinels
        self._found: Place | None = None
        self._next_look, self.lost = 0.0, True

    async def place(self) -> Place:
        """Returns the master's address."""
        now = time.monotonic()
        if self._found is None or self.lost or now >= self._next_look:
            self._next_look = now + RETRY_DELAY
            try:
                self._found, self.lost = await self._look(), False
                self._next_look = now + CHECK_INTERVAL
            except (redis.ConnectionError, redis.TimeoutError):
                wait = max(CHECK_INTERVAL, 10 * (time.monotonic() - now))
                self._next_look = now + min(RETRY_DELAY, wait)
                if self._found is None or self.lost:
                    raise
        return self._found

    def heed(self, error: redis.RedisError, asked: str) -> redis.RedisError | None:
        """Returns what to raise for an error of the server ``asked``; None: the error itself."""
        elsewhere = redis.ConnectionError, redis.TimeoutError, errors.ReadOnlyError
        self.lost = self.lost or isinstance(error, elsewhere)
        if isinstance(error, errors.ReadOnlyError):
            return redis.ConnectionError("the master is a replica now")
        return None

    async def _look(self) -> Place:
        failure: redis.RedisError = redis.ConnectionError("no sentinel sees the master")
        for sentinel in self.sentinels:
            try:
                state = (await reply(sentinel.sentinel_masters())).get(self._name)
            except (redis.ConnectionError, redis.TimeoutError) as error:
                failure = error
                continue
            # One that is cut off from the others still names the old master, and sees it down.
            if state and state["is_master"] and not (state["is_sdown"] or state["is_odown"]):
                # It is asked first from now on: an earlier one may be silent.
                self.sentinels = sentinel, *(s for s in self.sentinels if s is not sentinel)
                return _place(state)
        raise failure


@dataclass(frozen=True, slots=True)
class Word:
    """What the sentinels say. ``master``: None unless most say the same and no failover goes on.

    ``usable`` replicas may become the master (``candidates``); ``known`` ones may be dead, or still
    catch up.
    ``complete``: most sentinels have named replicas, now or earlier, so there are no others.
    """

    at: float
    master: Place | None
    usable: frozenset[Place]
    known: frozenset[Place]
    complete: bool


class Succession:
    """Knows who is the master and who may become it, by what the sentinels last said."""

    def __init__(self, sentinels: Sequence[Any], name: str) -> None:
        self._sentinels, self._name = tuple(sentinels), name
        self._ask_at = [0.0] * len(self._sentinels)
        self._failures = [0] * len(self._sentinels)
        self._word: Word | None = None

    async def word(self) -> Word:
        """Returns the sentinels' word, at most FRESH seconds old."""
        if self._word is None or time.monotonic() - self._word.at >= FRESH:
            self._word = await self._ask(self._word)
        return self._word

    async def _ask(self, before: Word | None) -> Word:
        now, usable, known = time.monotonic(), set[Place](), set[Place]()
        heard = [said for n in range(len(self._sentinels)) if (said := await self._hear(n))]
        for _, replicas in heard:
            known |= {_place(each) for each in replicas}
            usable |= {_place(each) for each in candidates(replicas)}
        masters = [state for state, _ in heard]
        total = max(len(self._ask_at), *(1 + each["num-other-sentinels"] for each in masters), 0)
        is_most = 2 * len(heard) > total
        if not is_most and before:  # the others may know more: what was known still counts
            known, usable = known | before.known, usable | before.usable
        agreed = is_most and len({_place(each) for each in masters}) == 1
        changing = any("failover_in_progress" in each["flags"] for each in masters)
        master = _place(masters[0]) if agreed and not changing else None
        complete = is_most or (before is not None and before.complete)
        return Word(now, master, frozenset(usable), frozenset(known), complete)

    async def _hear(self, n: int) -> tuple[_State, list[_State]] | None:
        """Returns the master and its replicas as one sentinel sees them; None if it is silent."""
        began, sentinel = time.monotonic(), self._sentinels[n]
        if began < self._ask_at[n]:
            return None
        try:
            masters = await reply(sentinel.sentinel_masters())
            said = masters[self._name], await reply(sentinel.sentinel_slaves(self._name))
        except (redis.RedisError, KeyError):
            self._failures[n] = min(3, self._failures[n] + 1)
            took = time.monotonic() - began
            self._ask_at[n] = began + min(SILENT, took * 3 ** self._failures[n])
            return None
        self._failures[n] = 0
        return said


def lacks(got: int, least: int, place: Place | None, word: Word | None) -> str:
    """Returns why it is not enough that ``got`` replicas of ``place`` have a write; "" if it is.

    ``least``: how many must have it in any case. ``word``: None without sentinels.
    """
    if word is None:
        return "" if got >= least else f"{got} of {least} replicas have it"
    if word.complete and got >= max(least, len(word.known)):
        return ""  # whoever becomes the master has it
    wanted = max(least, len(word.usable))
    if got < wanted:
        return f"{got} of {wanted} replicas have it"
    if word.master is None or word.master != place:
        return f"{got} replicas have it, but the sentinels don't agree that this is the master"
    return ""


def _place(state: _State) -> Place:
    return state["ip"], state["port"]


def candidates(replicas: Sequence[_State]) -> list[_State]:
    """Returns the replicas, as a sentinel sees them, of which one would become the master.

    Sentinel prefers a low replica-priority, then the replica that has the most. So one that has
    lost its link to the master only counts if it comes first by its priority.
    """
    lives = [each for each in replicas if not any(flag in each["flags"] for flag in _DOWN)]
    linked = [each for each in lives if each.get("master-link-status") == "ok"]
    first = min((p for each in linked if (p := _priority(each))), default=inf)
    return linked + [x for x in lives if x not in linked and 0 < _priority(x) < first]


def _priority(replica: _State) -> int:
    """Returns a replica's replica-priority; 0: it never becomes the master."""
    return int(replica.get("slave-priority", 100))

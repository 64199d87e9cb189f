"""A group's own streams in Redis: the events that wait for its webhook, and those put aside.

The stream of results keeps an event for ``COURIER_RESULTS_RETENTION``, which an endpoint's fault
may outlast. So events are copied here before they are acknowledged, and removed when taken.
"""

import time
from collections.abc import AsyncIterator, Iterable, Sequence
from typing import Any

from redis import asyncio as aio
from redis.asyncio.lock import Lock
from redis.exceptions import LockError

from viber_courier.ops.push.line import Waiting
from viber_courier.store.keys import Keys
from viber_courier.store.replies import reply

LEASE, HELD = 5.0, 3.0
"""How long a sender that was killed keeps its group from others, in seconds; how long it counts on
that itself: a read that waits for new events, up to a second, has ended before others may begin."""
PAGE = 1000
"""Entries of one read."""
_ACQUIRE = """
if redis.call('GET', KEYS[1]) then return false end
redis.call('DEL', KEYS[1])
return redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
"""
"""Takes a lock though memory is used up: after a script's first write, all may pass."""


class Outbox:
    """The streams of a group. Each method may raise redis-py's errors."""

    def __init__(self, client: aio.Redis, namespace: str, group: str) -> None:
        keys = Keys(namespace)
        self._client: Any = client
        self._waiting, self._aside = keys.push("waiting", group), keys.push("aside", group)
        self.lease = Lease(client, keys.push("lease", group))

    async def add(self, texts: Iterable[tuple[str, str, str]]) -> None:
        """Appends events, as (message, id, JSON), in this order: all of them or none.

        Otherwise a Redis that is full could refuse one and take a later one of its message.
        """
        async with self._client.pipeline(transaction=True) as pipe:
            for message, id, text in texts:
                pipe.xadd(self._waiting, {"message": message, "id": id, "event": text})
            await pipe.execute()

    async def read(self, after: str, most: int) -> list[Waiting]:
        """Returns the next events behind an entry."""
        rows = await reply(self._client.xrange(self._waiting, f"({after}", count=min(most, PAGE)))
        return [Waiting(entry, row["message"], row["id"], row["event"]) for entry, row in rows]

    async def remove(self, entries: Sequence[str]) -> None:
        """Removes events that were taken."""
        await reply(self._client.xdel(self._waiting, *entries))

    async def put_aside(self, event: Waiting, reason: str) -> None:
        """Moves an event to those that were given up."""
        row = {"message": event.message, "id": event.id, "event": event.text, "reason": reason}
        await reply(self._client.xadd(self._aside, row))
        await self.remove([event.entry])

    async def sizes(self) -> dict[str, float]:
        """Returns gauges (serving.py)."""
        client = self._client
        first = await reply(client.xrange(self._waiting, count=1))
        return {
            "waiting": await reply(client.xlen(self._waiting)),
            "oldest_seconds": age(first[0][0], time.time()) if first else 0.0,
            "put_aside": await reply(client.xlen(self._aside)),
        }

    async def aside(self) -> AsyncIterator[tuple[str, dict[str, str]]]:
        """Yields what was put aside, the earliest first: its entry and its fields."""
        after = "0"
        while rows := await reply(self._client.xrange(self._aside, f"({after}", count=PAGE)):
            for entry, row in rows:
                yield entry, row
            after = rows[-1][0]

    async def drop(self, entry: str) -> None:
        """Removes an event that was put aside."""
        await reply(self._client.xdel(self._aside, entry))

    async def resend(self, entry: str, row: dict[str, str]) -> None:
        """Lets an event that was put aside wait again, behind the others."""
        await self.add([(row["message"], row["id"], row["event"])])
        await self.drop(entry)


class _Lock(Lock):
    """A lock that can be taken in a full Redis: what its holder sends makes room."""

    async def do_acquire(self, token: str | bytes) -> bool:
        acquire = self.redis.register_script(_ACQUIRE)
        return bool(await acquire([self.name], [token, round(LEASE * 1000)]))


class Lease:
    """Held by the one process that sends a group's events."""

    def __init__(self, client: aio.Redis, key: str) -> None:
        self._lock: Any = _Lock(client, key, timeout=LEASE, thread_local=False)
        self._until = 0.0

    @property
    def is_held(self) -> bool:
        """Returns whether nobody else can have it: it lapses here before it does in Redis."""
        return time.monotonic() < self._until

    async def acquire(self) -> bool:
        """Returns whether it is this process's now."""
        began = time.monotonic()
        if got := bool(await self._lock.acquire(blocking=False)):
            self._until = began + HELD
        return got

    async def renew(self) -> None:
        """Makes it last; if another process has it by now, it is lost."""
        began = time.monotonic()
        try:
            await self._lock.reacquire()
            self._until = began + HELD
        except LockError:
            self._until = 0.0

    async def release(self) -> None:
        """Lets another process have it at once."""
        self._until = 0.0
        if self._lock.local.token:
            try:
                await self._lock.release()
            except LockError:
                self._lock.local.token = None


def age(entry: str, now: float) -> float:
    """Returns for how many seconds an entry has been in a stream."""
    return max(0.0, now - int(entry.partition("-")[0]) / 1000)

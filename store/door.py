"""The task door: where Celery clients leave ``courier.enqueue`` tasks, on the broker.

========================== ====== ================================================================
key                        type   holds
========================== ====== ================================================================
``<ns>.enqueue``           list   tasks as a Celery client leaves them, the oldest last
``<ns>.enqueue\\x06\\x163`` ... lists tasks with a Celery priority of 3 to 9, which go after those
``<ns>.enqueue.held``      zset   tags of tasks that a process has taken, by the end of its lease
``<ns>.enqueue.bodies``    hash   those tasks, by tag
``<ns>.enqueue.taken``     string how many tasks were ever taken off the lists; the latest tag
``<ns>.enqueue.bell``      string present while a ``courier.intake`` bell is on its way
``<ns>.enqueue.mark``      hash   since when the oldest task waits, at least (lua/door/knock.lua)
========================== ====== ================================================================

Celery would pop a task and record it as unacknowledged a moment later; a worker killed in between
loses it. Here a task moves in one script, from its list into a lease (docs/decisions/0031). Leases
go by the broker's clock.
"""

import json
from collections.abc import Collection, Sequence
from contextlib import suppress
from typing import Any, NamedTuple

from viber_courier.schemas.instants import SECOND, micros, millis
from viber_courier.schemas.lanes import DOOR, queue
from viber_courier.schemas.redis_url import NO_BROKER, AddressError, parse
from viber_courier.store.connection import connect
from viber_courier.store.scripts import DOOR_LUA, Script, source

LEASE = 15.0
"""Seconds that a process holds a task; it renews the lease of a long one."""
LONGEST = 120.0
"""Seconds after which a task that is held for later (an eta) is looked at again, at most."""
BELL = 2.0
"""Seconds until a bell that has brought nobody may be rung again."""
MOST_TASKS, MOST_BYTES = 20, 1_000_000
"""Tasks that a process takes at once; a task that is larger comes alone, or as the last."""
PRIORITIES = ("", "\x06\x163", "\x06\x166", "\x06\x169")
"""Ends of the lists' names: kombu's for priorities from 0, from 3, from 6 and for 9."""
OLD_TIMEOUT = 60.0
"""Seconds after which older versions' workers took an unacknowledged task for lost."""
AT_ONCE = 100
"""Unacknowledged tasks, perhaps all of other apps, that are read in one call."""


class Task(NamedTuple):
    """A task in this process's hands."""

    tag: str
    body: bytes


class Waiting(NamedTuple):
    """What the door holds: tasks on the lists, how long the oldest has waited, at least, in
    seconds, and tasks in hand, which includes those for later."""

    tasks: int
    seconds: float
    held: int


class Door:
    """The door of one namespace; ``url`` is the broker's, ``options`` are redis-py's.

    ``now`` overrides the broker's clock in tests: microseconds. Methods raise redis-py's errors.
    Raises AddressError for a cluster, which Celery can't use.
    """

    def __init__(self, url: str, namespace: str, now: int | None = None, **options: Any) -> None:
        if parse(url).scheme == "cluster":
            raise AddressError(NO_BROKER)
        # A task that isn't ours may hold any bytes.
        client: Any = connect(url, decode_responses=False, **options)
        self._client, self._now = client, now
        self._list = name = queue(namespace, DOOR)
        lists = [name + each for each in PRIORITIES]
        self._lists, self._held, self._bodies = lists, f"{name}.held", f"{name}.bodies"
        self._bell, self._mark = f"{name}.bell", f"{name}.mark"
        given = {
            **{"lists": lists, "held": self._held, "bodies": self._bodies, "bell": self._bell},
            **{"taken": f"{name}.taken", "mark": self._mark, "time": now, "most": MOST_TASKS},
            **{"most_bytes": MOST_BYTES, "lease": micros(LEASE), "bell_ms": millis(BELL)},
            **{"longest": micros(LONGEST)},
        }
        self._take, self._keep, self._knock = (
            Script(client, source(name, DOOR_LUA), given) for name in ("take", "keep", "knock")
        )

    def close(self) -> None:
        """Closes the connections."""
        self._client.close()

    def now(self) -> float:
        """Returns the broker's clock, in seconds since 1970: a worker's own may be wrong."""
        if self._now is not None:
            return self._now / SECOND
        seconds, micros = self._client.time()
        return float(seconds + micros / SECOND)

    def wait(self, seconds: float) -> None:
        """Returns when a task is on the list, at the latest after so many seconds.

        Moves the task from the list's end to where it was: no other command waits without taking.
        """
        self._client.blmove(self._list, self._list, seconds, "RIGHT", "RIGHT")

    def knock(self) -> tuple[bool, bool]:
        """Returns whether a task is due, and whether the caller has to ring the bell for it."""
        found = self._knock()
        return found > 0, found > 1

    def take(self) -> list[Task]:
        """Takes tasks for LEASE seconds. If the reply is lost, they come due after that."""
        found = self._take()
        return [Task(tag.decode(), body) for tag, body in zip(*[iter(found)] * 2, strict=True)]

    def keep(self, tasks: Sequence[Task], seconds: float) -> None:
        """Lets held tasks come due in so many seconds, at most LONGEST."""
        if tasks:
            self._keep(wait=micros(min(seconds, LONGEST)), tags=[task.tag for task in tasks])

    def done(self, tasks: Sequence[Task]) -> None:
        """Removes tasks that are stored, or refused."""
        if tasks:
            tags = [task.tag for task in tasks]
            # Without MULTI, in which Redis 6.2 refuses all commands when memory is used up.
            pipe = self._client.pipeline(transaction=False)
            pipe.zrem(self._held, *tags).hdel(self._bodies, *tags).execute()

    def pause(self, seconds: float) -> None:
        """Lets nobody ring for so many seconds."""
        self._client.set(self._bell, "1", px=millis(seconds))

    def look(self) -> Waiting:
        """Returns what the door holds."""
        pipe = self._client.pipeline(transaction=False).time().hget(self._mark, "at")
        for name in self._lists:
            pipe.llen(name)
        (now, micro), since, *tasks, held = pipe.zcard(self._held).execute()
        waiting, at = sum(tasks), int(now) + int(micro) / SECOND
        age = max(0.0, at - int(since) / SECOND) if since and waiting else 0.0
        return Waiting(waiting, age, held)

    def take_over(self, queues: Collection[str]) -> int:
        """Puts back what workers of older versions have left unacknowledged; returns how many.

        They let kombu keep it in ``unacked``, where nobody else looks. Other apps' tasks may be
        there, too.
        """
        moved, late = 0, self.now() - OLD_TIMEOUT
        tags = self._client.zrangebyscore("unacked_index", 0, late)
        for start in range(0, len(tags), AT_ONCE):
            some = tags[start : start + AT_ONCE]
            for tag, raw in zip(some, self._client.hmget("unacked", some), strict=True):
                with suppress(TypeError, ValueError, RecursionError):  # gone, or no message at all
                    message, _, name = json.loads(raw)
                    if name in queues:
                        pipe = self._client.pipeline().hdel("unacked", tag)
                        pipe.zrem("unacked_index", tag).rpush(name, json.dumps(message)).execute()
                        moved += 1
        return moved

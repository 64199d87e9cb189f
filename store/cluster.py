"""Redis Cluster: where the one node is that has a namespace's hash slot.

All keys of a namespace share a slot, so its client needs one connection pool, as for one server.
The node is looked for once, by CLUSTER SLOTS, and again when it is lost. MOVED names the new one.

While an operator moves the slot key by key, some keys are on the old node and some on the new one.
Both refuse every script meanwhile, because each names a key that never exists (``Keys.guard``), and
a single command where its key is not. We never send ASKING, so nothing is written on the new node
before it has the whole slot (docs/decisions/0025-redis-cluster.md).
"""

import time
from collections.abc import Mapping
from typing import Any

import redis
from redis import exceptions as errors
from redis.backoff import EqualJitterBackoff, NoBackoff
from redis.crc import key_slot

from viber_courier.schemas.redis_url import Address
from viber_courier.store.keys import Keys
from viber_courier.store.refusals import is_redirect
from viber_courier.store.replies import reply
from viber_courier.store.succession import Place

LOOK_INTERVAL = 0.5
"""Least seconds between two requests of a client for its node, once that was known."""
LOOK_TIMEOUT = 1.0
"""Seconds that a node has to answer such a request: there are others to ask."""
PATIENCE = EqualJitterBackoff(0.5, 0.05), 6, (redis.ConnectionError,)
"""How a call is repeated while the slot moves or its node fails over: for one to two seconds."""


class SlotUnavailable(redis.ConnectionError):
    """The slot has moved, is being moved, or has no node now. Nothing was done: repeat the call."""


class Slot:
    """Knows where a slot's node is. Takes no lock: threads may look at the same time.

    ``lost``: the node did not answer, or said that it hasn't the slot.
    """

    def __init__(
        self, number: int, seeds: Any, connection: Any, options: Mapping[str, Any]
    ) -> None:
        self._number, self._connection, self._options = number, connection, options
        self._seeds = self._places = tuple(seeds)
        self._found: Place | None = None
        self._next_look, self.lost = 0.0, True

    async def place(self) -> Place:
        """Returns the node's address; looks for it if it is unknown or lost, at most so often."""
        if self._found is None or (self.lost and time.monotonic() >= self._next_look):
            self._next_look = time.monotonic() + LOOK_INTERVAL
            self._found, self.lost = await self._look(), False
        return self._found

    def heed(self, error: redis.RedisError, asked: str) -> redis.RedisError | None:
        """Remembers what an error of the node ``asked`` says of the slot.

        Returns what to raise instead, if anything.
        """
        if isinstance(error, redis.ConnectionError | redis.TimeoutError):
            self.lost = True
        if not isinstance(error, redis.ResponseError) or not is_redirect(error):
            return None
        text = str(error)
        self.lost = not (isinstance(error, errors.MovedError) or text.startswith("MOVED "))
        if not self.lost:
            host, _, port = text.split()[-1].rpartition(":")
            self._found = _host(host, asked), int(port)
        return SlotUnavailable("the hash slot moves or has moved")

    async def _look(self) -> Place:
        failure: redis.RedisError = SlotUnavailable("no node has this hash slot")
        for place in sorted(self._places, key=lambda each: each == self._found):  # lost: last
            try:
                ranges = await ask(self._connection, place, self._options, "CLUSTER", "SLOTS")
            except (redis.ConnectionError, redis.TimeoutError) as error:
                failure = error
                continue
            nodes = [(_host(n[0], place[0]), n[1]) for each in ranges for n in each[2:]]
            self._places = tuple(dict.fromkeys((*nodes, *self._seeds)))
            for first, last, (host, port, *_), *_ in ranges:
                if first <= self._number <= last:
                    return _host(host, place[0]), port
        raise failure


async def ask(connection: Any, place: Place, options: Mapping[str, Any], *command: str) -> Any:
    """Returns a server's reply, over a connection of its own of that class."""
    made = connection(host=place[0], port=place[1], **options)
    try:
        await reply(made.connect())
        await reply(made.send_command(*command))
        return await reply(made.read_response())
    finally:
        await reply(made.disconnect())


def _host(said: str | None, asked: str) -> str:
    """Returns a node's host as another one says it; "", "?" and nil mean the same as ``asked``."""
    return asked if said in (None, "", "?") else str(said)


def find_slot(
    address: Address, namespace: str, connection: Any, options: Mapping[str, Any], retry: Any
) -> Slot:
    """Returns the namespace's slot; nodes are asked over connections of this class."""
    number = key_slot(Keys(namespace).guard.encode())
    return Slot(number, address.hosts, connection, brief(options, retry))


def brief(options: Mapping[str, Any], retry: Any) -> dict[str, Any]:
    """Returns options for a question that others may answer too. ``retry``: redis-py's class."""
    short = {"socket_timeout": LOOK_TIMEOUT, "socket_connect_timeout": LOOK_TIMEOUT}
    return {**options, **short, "retry": retry(NoBackoff(), 0), "retry_on_error": []}

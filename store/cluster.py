"""Redis Cluster: a client of the one node that has a namespace's hash slot.

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
from redis.retry import Retry

from viber_courier.schemas.redis_url import Address
from viber_courier.store.keys import Keys
from viber_courier.store.pools import Client, WholePool
from viber_courier.store.refusals import is_redirect

LOOK_INTERVAL = 0.5
"""Least seconds between two requests of a client for its node, once that was known."""
LOOK_TIMEOUT = 1.0
"""Seconds that a node has to answer such a request: there are others to ask."""
PATIENCE = Retry(EqualJitterBackoff(0.5, 0.05), 6, (redis.ConnectionError,))
"""How a call is repeated while the slot moves or its node fails over: for one to two seconds."""

_Place = tuple[str, int]


class SlotUnavailable(redis.ConnectionError):
    """The slot has moved, is being moved, or has no node now. Nothing was done: repeat the call."""


class _Slot:
    """Knows where a slot's node is. Takes no lock: threads may look at the same time.

    ``lost``: the node did not answer, or said that it hasn't the slot.
    """

    def __init__(self, number: int, seeds: Any, connection: Any, options: dict[str, Any]) -> None:
        self._number, self._connection, self._options = number, connection, options
        self._seeds = self._places = tuple(seeds)
        self._found: _Place | None = None
        self._next_look, self.lost = 0.0, True

    def place(self) -> _Place:
        """Returns the node's address; looks for it if it is unknown or lost, at most so often."""
        if self._found is None or (self.lost and time.monotonic() >= self._next_look):
            self._next_look = time.monotonic() + LOOK_INTERVAL
            self._found, self.lost = self._look(), False
        return self._found

    def heed(self, error: redis.ResponseError, asked: str) -> None:
        """Remembers what a refusal by the node ``asked`` says of the slot."""
        text = str(error)
        self.lost = not (isinstance(error, errors.MovedError) or text.startswith("MOVED "))
        if not self.lost:
            host, _, port = text.split()[-1].rpartition(":")
            self._found = _host(host, asked), int(port)

    def _look(self) -> _Place:
        failure: redis.RedisError = SlotUnavailable("no node has this hash slot")
        for place in sorted(self._places, key=lambda each: each == self._found):  # lost: last
            try:
                ranges = self._ask(*place)
            except (redis.ConnectionError, redis.TimeoutError) as error:
                failure = error
                continue
            nodes = [(_host(n[0], place[0]), n[1]) for each in ranges for n in each[2:]]
            self._places = tuple(dict.fromkeys((*nodes, *self._seeds)))
            for first, last, (host, port, *_), *_ in ranges:
                if first <= self._number <= last:
                    return _host(host, place[0]), port
        raise failure

    def _ask(self, host: str, port: int) -> Any:
        connection = self._connection(host=host, port=port, **self._options)
        try:
            connection.connect()
            connection.send_command("CLUSTER", "SLOTS")
            return connection.read_response()
        finally:
            connection.disconnect()


def _host(said: str | None, asked: str) -> str:
    """Returns a node's host as another one says it; "", "?" and nil mean the same as ``asked``."""
    return asked if said in (None, "", "?") else str(said)


class _SlotConnection(redis.Connection):
    """Connects to the slot's node. What shows that it is elsewhere becomes a SlotUnavailable."""

    def __init__(self, *, slot: _Slot, **options: Any) -> None:
        self._slot = slot
        super().__init__(**options)  # type: ignore[no-untyped-call]

    def connect(self) -> None:
        self._to_node(super().connect)

    def connect_check_health(self, *args: Any, **options: Any) -> None:
        """Connects; redis-py calls this instead of ``connect`` from version 6 on."""
        self._to_node(super().connect_check_health, *args, **options)

    def _to_node(self, connect: Any, *args: Any, **options: Any) -> None:
        # Not repeated here but by the caller: the node may be another one by then.
        patient, self.retry = self.retry, Retry(NoBackoff(), 0)
        try:
            self.host, self.port = self._slot.place()
            connect(*args, **options)
        except (redis.ConnectionError, redis.TimeoutError):
            self._slot.lost = True
            raise
        finally:
            self.retry = patient

    def read_response(self, *args: Any, **options: Any) -> Any:
        try:
            return super().read_response(*args, **options)
        except redis.ResponseError as error:
            if not is_redirect(error):
                raise
            self._slot.heed(error, self.host)
            raise SlotUnavailable("the hash slot moves or has moved") from None
        except (redis.ConnectionError, redis.TimeoutError):
            self._slot.lost = True
            raise


class _SecureSlotConnection(_SlotConnection, redis.SSLConnection):
    pass


class _SlotPool(WholePool):
    def _connected(self) -> Any:
        connection = self.connection_class(**self.connection_kwargs)
        connection.retry.call_with_retry(connection.connect, lambda _: None)
        return connection


def cluster_client(address: Address, namespace: str, options: Mapping[str, Any]) -> redis.Redis:
    """Returns a client of the node that has the namespace's slot, wherever that goes."""
    given = {**options, "username": address.username, "password": address.password}
    asking: Any = redis.Connection
    ours = _SlotConnection
    if address.tls:
        given |= address.tls
        asking, ours = redis.SSLConnection, _SecureSlotConnection
    short = {**given, "socket_timeout": LOOK_TIMEOUT, "socket_connect_timeout": LOOK_TIMEOUT}
    short |= {"retry": Retry(NoBackoff(), 0), "retry_on_error": []}
    number = key_slot(Keys(namespace).guard.encode())
    slot = _Slot(number, address.hosts, asking, short)
    return Client(connection_pool=_SlotPool(ours, slot=slot, **given))

"""Redis Cluster: a client of the one node that has a namespace's hash slot.

All keys of a namespace share a slot, so its client needs one connection pool, as for one server.
The node is looked for once, by CLUSTER SLOTS, and again when it is lost. MOVED names the new one.

While an operator moves the slot key by key, some keys are on the old node and some on the new one.
Both refuse every script meanwhile, because each names a key that never exists (``Keys.guard``), and
a single command where its key is not. We never send ASKING, so nothing is written on the new node
before it has the whole slot (docs/decisions/0025-redis-cluster.md).
"""

import time
from collections.abc import Mapping, Sequence
from typing import Any

import redis
from redis import exceptions as errors
from redis.backoff import EqualJitterBackoff, NoBackoff
from redis.crc import key_slot
from redis.retry import Retry

from viber_courier.schemas.redis_url import Address
from viber_courier.store.keys import Keys
from viber_courier.store.pools import Client, WholePool

LOOK_INTERVAL = 0.5
"""Least seconds between two requests of a process for the slot's node, once it was known."""
LOOK_TIMEOUT = 1.0
"""Seconds that a node has to answer such a request: there are others to ask."""
PATIENCE = Retry(EqualJitterBackoff(0.5, 0.05), 6, (redis.ConnectionError,))
"""How a call is repeated while the slot moves or its node fails over: for one to two seconds."""

_Place = tuple[str, int]
_REFUSALS = (errors.AskError, errors.TryAgainError, errors.ClusterDownError)  # MOVED: an AskError
_WORDS = ("MOVED ", "ASK ", "TRYAGAIN ", "CLUSTERDOWN ")  # redis-py 5.0 has no classes for them


class SlotUnavailable(redis.ConnectionError):
    """The slot has moved, is being moved, or has no node now. Nothing was done: repeat the call."""


class NotACluster(redis.ResponseError):
    """``cluster://`` leads to a server that is not part of a cluster."""


def wrong_scheme(error: BaseException | None) -> str:
    """Returns what is wrong with the setting's scheme if this error shows it, else ""."""
    if isinstance(error, NotACluster):
        return (
            "COURIER_REDIS_URL names no Redis Cluster: a single server is redis://, not cluster://"
        )
    if _is_refusal(error) or isinstance(error, errors.ClusterCrossSlotError):
        return (
            "this Redis is a node of a cluster: COURIER_REDIS_URL must be cluster://host:port,..."
        )
    return ""


def _is_refusal(error: BaseException | None) -> bool:
    words = isinstance(error, redis.ResponseError) and str(error).startswith(_WORDS)
    return isinstance(error, _REFUSALS) or words


class _Slot:
    """Knows where a slot's node is. Takes no lock: threads may look at the same time."""

    def __init__(
        self, number: int, seeds: Sequence[_Place], node: type, options: Mapping[str, Any]
    ):
        self._number, self._seeds, self._node, self._options = number, seeds, node, options
        self._known: list[_Place] = []
        self._found: _Place | None = None
        self._lost, self._next_look = True, 0.0

    def place(self) -> _Place:
        """Returns the node's address; looks for it if it is unknown or lost, at most so often."""
        if self._found is None or (self._lost and time.monotonic() >= self._next_look):
            self._next_look = time.monotonic() + LOOK_INTERVAL
            self._found = self._look()
            self._lost = False
        return self._found

    def lose(self) -> None:
        """Makes the next connection look for the node."""
        self._lost = True

    def heed(self, error: redis.ResponseError, asked: str) -> None:
        """Remembers what a refusal by the node ``asked`` says of the slot."""
        place = str(error).split()[-1]
        if isinstance(error, errors.MovedError) or str(error).startswith("MOVED "):
            host, _, port = place.rpartition(":")
            self._found, self._lost = (_host(host, asked), int(port)), False
        elif not isinstance(error, errors.AskError | errors.TryAgainError):
            self.lose()

    def _look(self) -> _Place:
        failure: redis.RedisError = SlotUnavailable("no node has this hash slot")
        places = dict.fromkeys((*self._known, *self._seeds))
        for place in sorted(places, key=lambda each: each == self._found):  # the lost one is last
            try:
                ranges = self._ask(place)
            except (redis.ConnectionError, redis.TimeoutError) as error:
                failure = error
                continue
            nodes = [[(_host(n[0], place[0]), int(n[1])) for n in each[2:]] for each in ranges]
            self._known = [node for each in nodes for node in each]
            for (first, last, *_), (master, *_) in zip(ranges, nodes, strict=True):
                if first <= self._number <= last:
                    return master
        raise failure

    def _ask(self, place: _Place) -> list[Any]:
        connection = self._node(host=place[0], port=place[1], **self._options)
        try:
            connection.connect()
            connection.send_command("CLUSTER", "SLOTS")
            ranges: list[Any] = connection.read_response()
            return ranges
        except redis.ResponseError as error:
            if "cluster support disabled" in str(error):
                raise NotACluster(str(error)) from None
            raise
        finally:
            connection.disconnect()


def _host(said: str | None, asked: str) -> str:
    """Returns a node's host as another one says it; "", "?" and nil mean the same as ``asked``."""
    return asked if said in (None, "", "?") else str(said)


class _SlotConnection:
    """Connects to the slot's node. What shows that it is elsewhere becomes a SlotUnavailable."""

    def __init__(self, *, slot: _Slot, **options: Any) -> None:
        self._slot = slot
        super().__init__(**options)

    def connect(self) -> None:
        self._to_node(super().connect)  # type: ignore[misc]

    def connect_check_health(self, *args: Any, **options: Any) -> None:
        """Connects; redis-py calls this instead of ``connect`` from version 6 on."""
        self._to_node(super().connect_check_health, *args, **options)  # type: ignore[misc]

    def _to_node(self, connect: Any, *args: Any, **options: Any) -> None:
        # Not repeated here but by the caller: the node may be another one by then.
        patient, self.retry = getattr(self, "retry", None), Retry(NoBackoff(), 0)
        try:
            self.host, self.port = self._slot.place()
            connect(*args, **options)
        except (redis.ConnectionError, redis.TimeoutError):
            self._slot.lose()
            raise
        finally:
            self.retry = patient

    def read_response(self, *args: Any, **options: Any) -> Any:
        try:
            return super().read_response(*args, **options)  # type: ignore[misc]
        except redis.ResponseError as error:
            if not _is_refusal(error):
                raise
            self._slot.heed(error, self.host)
            raise SlotUnavailable("the hash slot moves or has moved") from error
        except (redis.ConnectionError, redis.TimeoutError):
            self._slot.lose()
            raise


class _Plain(_SlotConnection, redis.Connection):
    pass


class _Secure(_SlotConnection, redis.SSLConnection):
    pass


class _SlotPool(WholePool):
    def _connected(self) -> Any:
        connection = self.connection_class(**self.connection_kwargs)
        connection.retry.call_with_retry(connection.connect, lambda _: None)
        return connection


def cluster_client(address: Address, namespace: str, options: Mapping[str, Any]) -> redis.Redis:
    """Returns a client of the node that has the namespace's slot, wherever that goes."""
    given = {**options, "username": address.username, "password": address.password}
    given |= address.tls or {}
    asking = {**given, "socket_timeout": LOOK_TIMEOUT, "socket_connect_timeout": LOOK_TIMEOUT}
    asking |= {"retry": Retry(NoBackoff(), 0), "retry_on_error": []}
    secure = address.tls is not None
    number = key_slot(Keys(namespace).guard.encode())
    slot = _Slot(number, address.hosts, redis.SSLConnection if secure else redis.Connection, asking)
    pool = _SlotPool(_Secure if secure else _Plain, slot=slot, **given)
    return Client(connection_pool=pool)

"""Connections to Redis: timeouts, retries, and the error that apps get."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from inspect import signature
from types import MappingProxyType
from typing import Any, NamedTuple
from urllib.parse import quote

import redis
from redis import exceptions as errors
from redis.backoff import FullJitterBackoff
from redis.retry import Retry

from viber_courier.schemas.errors import ConfigError, CourierError
from viber_courier.schemas.redis_url import NO_BROKER, Address, parse
from viber_courier.store.cluster import PATIENCE, brief, find_slot
from viber_courier.store.format import HOLDS
from viber_courier.store.pools import Client, Placed, PlacedPool, SecurePlaced, WholePool
from viber_courier.store.refusals import reason, refusal
from viber_courier.store.replicas import TooFewReplicas
from viber_courier.store.succession import Master, Succession

SOCKET_OPTIONS: dict[str, Any] = {
    # Without these options a half-open connection hangs for ever (measured).
    "socket_timeout": 5,
    "socket_connect_timeout": 3,
    "socket_keepalive": True,
    "health_check_interval": 5,
}
"""Options of our own clients, and transport options of Celery's broker connection."""
_NOT_NOW = ("OOM", "READONLY", "NOREPLICAS", "MISCONF", "LOADING", "BUSY", "MASTERDOWN")
_NOT_NOW_ERRORS = (errors.OutOfMemoryError, errors.ReadOnlyError, errors.MasterDownError)
"""The same as classes of redis-py: from Redis 7 on, a script's error lacks the word."""


class StoreUnavailable(CourierError, redis.RedisError):
    """Redis can't be used, or did not answer: repeat the call with the same ids.

    ``id`` is that of the job given to ``enqueue``, which may be stored. ``accepted`` holds the ids
    that ``enqueue_many`` had stored by then; ``in_doubt`` maps the numbers of the rows that may be
    stored besides to their ids.
    """

    id: str | None = None
    accepted: tuple[str, ...] | list[str] = ()
    in_doubt: Mapping[int, str] = MappingProxyType({})


class Driver(NamedTuple):
    """The classes of redis-py, and ours over them, that make one kind of client.

    Pairs have a class for one server, and one for the server that a Slot or a Master names.
    """

    client: Any
    retry: Any
    pools: tuple[Any, Any]
    plain: tuple[Any, Any]
    secure: tuple[Any, Any]
    unix: Any

    def client_of(self, address: Address, namespace: str, chosen: Mapping[str, Any]) -> Any:
        """Returns a client; ``chosen``: options of redis-py over ours."""
        plain, placed = self.secure if address.tls else self.plain
        options = {**client_options(self.retry), **chosen}
        login = {"username": address.username, "password": address.password}
        where: Any = None
        made, succession = self.pools[0], None
        if address.scheme == "cluster":
            options = {**options, "retry": self.retry(*PATIENCE), **chosen}
            where = find_slot(address, namespace, plain, {**options, **login}, self.retry)
        elif address.scheme == "sentinel":
            asking = {**brief(options, self.retry), **address.sentinel_login}
            pools = [made(plain, host=h, port=p, **asking) for h, p in address.hosts]
            sentinels = [self.client(connection_pool=pool) for pool in pools]
            where = Master(address.master, sentinels)
            succession = Succession(sentinels, address.master)
        elif address.scheme == "unix":
            del options["socket_keepalive"]  # TCP's
            plain, options["path"] = self.unix, address.path
        else:
            ((options["host"], options["port"]),) = address.hosts
        if where:
            made, plain, options["where"] = self.pools[1], placed, where
        pool = made(plain, db=address.database, **login, **options)
        if succession:
            pool.succession = succession
        client = self.client(connection_pool=pool)
        vars(client)["place"] = address.place
        return client


_BLOCKING = Driver(
    client=Client,
    retry=Retry,
    pools=(WholePool, PlacedPool),
    plain=(redis.Connection, Placed),
    secure=(redis.SSLConnection, SecurePlaced),
    unix=redis.UnixDomainSocketConnection,
)


def connect(url: str, namespace: str = "", **chosen: Any) -> redis.Redis:
    """Returns a client that threads and forks can share; a command fails within seconds.

    ``namespace`` is the one whose keys the client is for: in a cluster, a slot. ``chosen``: options
    of redis-py in place of ours.
    """
    address = parse(url)
    if unknown := address.tls.keys() - signature(redis.SSLConnection).parameters.keys():
        fault = f"has {min(unknown)}, which redis-py {redis.__version__} doesn't know: upgrade it"
        raise ConfigError({"COURIER_REDIS_URL": fault})
    client: redis.Redis = _BLOCKING.client_of(address, namespace, {**address.tls, **chosen})
    return client


def client_options(retry: Any) -> dict[str, Any]:
    """Returns redis-py's options of every client of ours; ``retry``: the class that fits it."""
    return {
        **SOCKET_OPTIONS,
        "decode_responses": True,
        "protocol": 2,
        # A timeout is not repeated: a caller waits for a hung server only once.
        "retry": retry(FullJitterBackoff(0.5, 0.05), 3, (redis.ConnectionError,)),
        "retry_on_error": [redis.ConnectionError],  # redis-py 5 repeats no command without it
    }


def broker(url: str, **transport: Any) -> dict[str, Any]:
    """Returns Celery's settings for a broker: URL, TLS, transport options (ours and those given).

    Raises ConfigError for a cluster.
    """
    address = parse(url)
    if address.scheme == "cluster":
        raise ConfigError({"COURIER_BROKER_URL": NO_BROKER})
    # Celery's tasks are doorbells, and a lost one costs a sweep. To record those not acknowledged
    # would cost as much as ringing, and end a worker when the broker's memory is used up.
    options = {**SOCKET_OPTIONS, "ack_emulation": False, **transport}
    if address.scheme == "sentinel":
        asking = {**SOCKET_OPTIONS, **address.tls, "ssl": bool(address.tls)}
        asking |= address.sentinel_login
        options |= {"master_name": address.master, "sentinel_kwargs": asking}
    username, password = (quote(p or "", safe="") for p in (address.username, address.password))
    login = f"{username}:{password}@" if username or password else ""
    if address.scheme == "unix":
        socket = quote(address.path)
        spelled = f"redis+socket://{login}{socket}?virtual_host={address.database}"
    else:
        places = (f"[{quote(h, ':')}]:{p}" if ":" in h else f"{h}:{p}" for h, p in address.hosts)
        spelled = ";".join(f"{address.scheme}://{login}{p}/{address.database}" for p in places)
    return {
        "broker_url": spelled,
        "broker_use_ssl": dict(address.tls) or False,
        "broker_transport_options": options,
    }


def is_transient(error: BaseException | None) -> bool:
    """Returns whether a repeat may help: Redis did not answer, is full or is failing over."""
    if refusal(error):
        return False
    if isinstance(error, _NOT_NOW_ERRORS) or not isinstance(error, redis.ResponseError):
        return isinstance(error, redis.RedisError)
    # UNBLOCKED ends a blocking read whose key, or whose server's role, has gone.
    return any(word in str(error) for word in (*_NOT_NOW, "UNBLOCKED"))


@contextmanager
def store_errors(client: object = None) -> Iterator[None]:
    """Raises StoreUnavailable for redis-py's errors; its text holds no secret.

    It names the hosts of a client that ``connect`` has made.
    """
    try:
        yield
    except redis.RedisError as error:
        if isinstance(error, TooFewReplicas):
            raise StoreUnavailable(f"not safe yet: {error}; repeat the call") from error
        if why := refusal(error):
            said = why if why.startswith(HOLDS) else f"Redis refuses (COURIER_REDIS_URL): {why}"
            raise StoreUnavailable(said) from error
        # Before Redis 7 a script's error is a plain ResponseError that quotes the original.
        if isinstance(error, errors.OutOfMemoryError) or "OOM " in str(error):
            raise StoreUnavailable("Redis has reached its maxmemory: nothing was stored") from error
        if "NOREPLICAS " in str(error):
            raise StoreUnavailable("Redis has too few replicas: nothing was stored") from error
        if isinstance(error, errors.ReadOnlyError) or "READONLY " in str(error):
            text = "Redis is a read-only replica now: nothing was stored"
            raise StoreUnavailable(text) from error
        at = f" ({place})" if (place := getattr(client, "place", "")) else ""
        raise StoreUnavailable(f"Redis can't be used now{at}: {reason(error)}") from error


def require_name(what: str, value: object) -> str:
    """Returns a non-empty string. Raises TypeError or ValueError for anything else."""
    if not isinstance(value, str):
        raise TypeError(f"{what} must be a string, not {type(value).__name__}")
    if not value:
        raise ValueError(f"{what} must not be empty")
    return value

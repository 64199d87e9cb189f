"""Connections to Redis: timeouts, retries, and the error that apps get."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import redis
from redis import exceptions as errors
from redis.backoff import FullJitterBackoff
from redis.retry import Retry

from viber_courier.schemas import redis_url, sentinel
from viber_courier.schemas.errors import ConfigError, CourierError
from viber_courier.schemas.settings import NO_CLUSTER
from viber_courier.store.cluster import PATIENCE, cluster_client, wrong_scheme
from viber_courier.store.pools import Client, WholePool, follow

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

    ``accepted`` holds the ids that ``enqueue_many`` had stored by then.
    """

    accepted: tuple[str, ...] | list[str] = ()


def connect(url: str, namespace: str = "") -> redis.Redis:
    """Returns a client that threads and forks can share; a command fails within seconds.

    In a cluster it reaches the node of the namespace's keys.
    """
    options: dict[str, Any] = {
        **SOCKET_OPTIONS,
        "decode_responses": True,
        "protocol": 2,
        # A timeout is not repeated: a caller waits for a hung server only once.
        "retry": Retry(FullJitterBackoff(0.5, 0.05), 3, (redis.ConnectionError,)),
        "retry_on_error": [redis.ConnectionError],  # redis-py 5 repeats no command without it
    }
    if url.startswith(redis_url.CLUSTER):
        patient = {**options, "retry": PATIENCE}
        return cluster_client(redis_url.parse(url), namespace, patient)
    if not url.startswith(sentinel.SCHEME):
        return Client(connection_pool=WholePool.from_url(url, **options))
    return follow(sentinel.parse(url), options)


def broker(url: str) -> tuple[str, dict[str, Any]]:
    """Returns a broker's URL as Celery spells it, and its transport options."""
    if url.startswith(redis_url.CLUSTER):
        raise ConfigError({"COURIER_BROKER_URL": NO_CLUSTER})
    if not url.startswith(sentinel.SCHEME):
        return url, SOCKET_OPTIONS
    given = sentinel.parse(url)
    login = f"{given.login}@" if given.login else ""
    hosts = (f"[{host}]" if ":" in host else host for host, _ in given.hosts)
    urls = (
        f"{sentinel.SCHEME}{login}{host}:{port}/{given.database}"
        for host, (_, port) in zip(hosts, given.hosts, strict=True)
    )
    return ";".join(urls), {**SOCKET_OPTIONS, "master_name": given.master}


def is_transient(error: BaseException | None) -> bool:
    """Returns whether a repeat may help: Redis did not answer, is full or is failing over."""
    if isinstance(error, _NOT_NOW_ERRORS) or not isinstance(error, redis.ResponseError):
        return isinstance(error, redis.RedisError)
    # UNBLOCKED ends a blocking read whose key, or whose server's role, has gone.
    return any(word in str(error) for word in (*_NOT_NOW, "UNBLOCKED"))


@contextmanager
def store_errors() -> Iterator[None]:
    """Raises StoreUnavailable for redis-py's errors; its text holds no address and no secret."""
    try:
        yield
    except redis.RedisError as error:
        # Before Redis 7 a script's error is a plain ResponseError that quotes the original.
        if isinstance(error, errors.OutOfMemoryError) or "OOM " in str(error):
            raise StoreUnavailable("Redis has reached its maxmemory: nothing was stored") from error
        if "NOREPLICAS " in str(error):
            raise StoreUnavailable("Redis has too few replicas: nothing was stored") from error
        if wrong := wrong_scheme(error):
            raise StoreUnavailable(wrong) from error
        raise StoreUnavailable(f"Redis can't be used now: {type(error).__name__}") from error


def require_name(what: str, value: object) -> str:
    """Returns a non-empty string. Raises TypeError or ValueError for anything else."""
    if not isinstance(value, str):
        raise TypeError(f"{what} must be a string, not {type(value).__name__}")
    if not value:
        raise ValueError(f"{what} must not be empty")
    return value

"""How everything of ours talks to Redis: timeouts, retries, scripts."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import redis
from redis.backoff import FullJitterBackoff
from redis.retry import Retry

from viber_courier.schemas import sentinel
from viber_courier.schemas.errors import CourierError
from viber_courier.store.pools import Client, WholePool, follow

SOCKET_OPTIONS: dict[str, Any] = {
    # Without these a half-open connection hangs for ever (measured with default options).
    "socket_timeout": 5,
    "socket_connect_timeout": 3,
    "socket_keepalive": True,
    "health_check_interval": 5,
}
"""For our own clients and, as transport options, for Celery's broker connection."""
_NOT_NOW = ("OOM", "READONLY", "NOREPLICAS", "MISCONF", "LOADING", "BUSY", "MASTERDOWN")
_NOT_NOW_ERRORS = (
    redis.exceptions.OutOfMemoryError,
    redis.exceptions.ReadOnlyError,
    redis.exceptions.MasterDownError,
)
"""The same as redis-py's classes, whose text lacks the word: scripts' errors from Redis 7 on."""


class StoreUnavailable(CourierError, redis.RedisError):
    """Redis did not do it, or did not say so: repeat with the same ids.

    ``accepted`` holds the ids that ``enqueue_many`` had stored by then.
    """

    accepted: tuple[str, ...] | list[str] = ()


def connect(url: str) -> redis.Redis:
    """A client for threads and forks; a command fails after at most some seconds."""
    options: dict[str, Any] = {
        **SOCKET_OPTIONS,
        "decode_responses": True,
        "protocol": 2,
        # A server that hangs is not asked again: one timeout is what a caller should wait.
        "retry": Retry(
            FullJitterBackoff(cap=0.5, base=0.05), 3, supported_errors=(redis.ConnectionError,)
        ),
        "retry_on_error": [redis.ConnectionError],  # redis-py 5 repeats no command without it
    }
    if not url.startswith(sentinel.SCHEME):
        return Client(connection_pool=WholePool.from_url(url, **options))
    return follow(sentinel.parse(url), options)


def broker(url: str) -> tuple[str, dict[str, Any]]:
    """A broker's URL as Celery spells it, and the transport options that belong to it."""
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


def passes(error: BaseException | None) -> bool:
    """Whether a repeat may help: no answer, or that of a Redis that is full or failing over."""
    if isinstance(error, _NOT_NOW_ERRORS) or not isinstance(error, redis.ResponseError):
        return isinstance(error, redis.RedisError)
    return any(word in str(error) for word in _NOT_NOW)


@contextmanager
def store_errors() -> Iterator[None]:
    """Turn redis-py's errors into StoreUnavailable, whose text holds no address and no secret."""
    try:
        yield
    except redis.RedisError as error:
        # Before Redis 7 that of a script is a plain ResponseError which quotes it.
        if isinstance(error, redis.exceptions.OutOfMemoryError) or "OOM " in str(error):
            raise StoreUnavailable("Redis has reached its maxmemory: nothing was stored") from error
        if "NOREPLICAS " in str(error):
            raise StoreUnavailable("Redis has too few replicas: nothing was stored") from error
        raise StoreUnavailable(f"Redis can't be used now: {type(error).__name__}") from error


def named(what: str, value: object) -> str:
    """The value, if it can name something; TypeError or ValueError say what it must be."""
    if not isinstance(value, str):
        raise TypeError(f"{what} must be a string, not {type(value).__name__}")
    if not value:
        raise ValueError(f"{what} must not be empty")
    return value

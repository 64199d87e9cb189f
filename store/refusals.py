"""What Redis will answer again, however often it is asked: a missing permission, a wrong password.

Such an answer ends whatever is starting, because only a person can change it. All other failures
may pass: ``is_transient`` (store/connection.py) tells them apart.
"""

import logging
import os
import re
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any

import redis
from redis import exceptions as errors

from viber_courier.store.format import JUNK, TEXT, UNREADABLE, format_fault
from viber_courier.store.keys import Keys
from viber_courier.store.replicas import Kept, TooFewReplicas
from viber_courier.store.replies import run
from viber_courier.store.scripts import Script, Source

CHECK_MS = 10_000
"""Lifetime of the key that a check of permissions writes, in milliseconds."""
KEY = "<key>"
"""Stands for that key again among a command's arguments."""
STORE = {
    "": "GET EXISTS HGETALL MGET PERSIST PTTL ZCARD XINFO|GROUPS",
    "0": "HGET HDEL HEXISTS HMGET HSCAN ZMSCORE ZREM RPUSH BLPOP",
    "0 0": "HSET HINCRBY LREM XRANGE ZADD ZCOUNT ZRANGEBYSCORE ZREMRANGEBYSCORE ZREVRANGE",
    "0 0 0": "XADD",
    "MAXLEN 0": "XTRIM",
    str(CHECK_MS): "PEXPIRE",
}
"""The commands that a worker needs on the store, by the arguments that a check gives them.

Each also gets a key, which holds a string: those for other types fail and change nothing.
"""
BROKER = {
    "": "EXISTS INCR LLEN RPOP SMEMBERS",
    "0": "HDEL HMGET LPUSH RPUSH SADD SREM ZREM BRPOP",
    "0 0": "HSET ZADD ZRANGEBYSCORE",
    f"{KEY} LEFT LEFT 0": "BLMOVE",
}
"""The same for the broker: what kombu and the task door (store/door.py) need there."""
DOCTOR = "`courier doctor` names it"
OTHER_KEY = "suppressed numbers are hashed with the key {}, but COURIER_SUPPRESSION_KEY is {}"
"""What is wrong where the fingerprints of two keys differ."""
_SAID = (
    # What servers say (in a script, too), and what it means; {} is the command found.
    (r"run the '([\w|.-]{1,40})' command", "no permission (NOPERM): grant +{}"),
    (r"access.* (key|channel)s?\b", "no permission for a {} (NOPERM): grant its pattern"),
    (r"can't run this command", f"no permission for a script's command (NOPERM): {DOCTOR}"),
    (r"unknown command [`'\"]?waitaof", "COURIER_REPLICAS=disk needs Redis 7.2 or newer (WAITAOF)"),
    (r"appendonly is disabled", "COURIER_REPLICAS=disk needs appendonly yes (WAITAOF)"),
    (r"unsupported command [`'\"]?([\w|.-]{1,40})", "{} is not supported"),
    (r"unknown (?:sub)?command [`'\"]?([\w|.-]{1,40})", "{} is unknown: renamed or disabled"),
    (r"unknown (redis )?command called", "a command of a script is renamed or disabled"),
    (r"EXEC without MULTI", "no permission (NOPERM): grant +multi"),
    (r"DB index is out of|SELECT is not allowed", "the server has no database of this number"),
    (r"username-password|invalid password", "wrong user name or password (WRONGPASS)"),
    (r"without any password|no password is set", "the server has no password, but the URL has one"),
    (r"cluster support disabled", "the server is no Redis Cluster: the URL must be redis://"),
    (r"authentication required|must be called with", "the server wants a password (NOAUTH)"),
    (r"OTHERKEY (\w+) (\w*)", OTHER_KEY),
    (rf"{UNREADABLE} (\d+) (\d+) (\d+)", TEXT),
    (UNREADABLE, JUNK),
)
_SUBCOMMANDS = {"script": "script|load", "xgroup": "xgroup|create", "xinfo": "xinfo|groups"}
"""What is needed of commands that Redis 6.2 names without their subcommand."""

_REDIRECTS = (errors.AskError, errors.TryAgainError, errors.ClusterDownError)  # MOVED: an AskError
_REDIRECT_WORDS = ("MOVED ", "ASK ", "TRYAGAIN ", "CLUSTERDOWN ")
"""How such errors begin in redis-py 5.0, which has no classes for them on a single connection."""

logger = logging.getLogger(__name__)


def refusal(error: BaseException | None) -> str:
    """Returns what to grant or to change, if Redis will answer the same again; otherwise "".

    The text has no argument, no address and no secret. Also looks at the error's cause.
    """
    if isinstance(error, errors.InvalidResponse):
        return "what answers there is no Redis server"
    if is_redirect(error):
        return "the server is a node of a Redis Cluster: the URL must be cluster://host:port"
    if not isinstance(error, redis.ResponseError | redis.AuthenticationError):
        return refusal(error.__cause__) if error else ""
    said = str(error).rpartition(" of pipeline caused error: ")[2]  # without the arguments
    for pattern, text in _SAID:
        if found := re.search(pattern, said, re.IGNORECASE):
            names = [_SUBCOMMANDS.get(name, name) for name in map(str.lower, found.groups(""))]
            return text.format(*names)
    if isinstance(error, redis.AuthenticationError):
        return "the server refuses the login"
    return "no permission (NOPERM)" if isinstance(error, errors.NoPermissionError) else ""


def is_redirect(error: BaseException | None) -> bool:
    """Returns whether a node of a cluster says that it does not serve the key now."""
    if isinstance(error, errors.MasterDownError):  # a replica's, though a ClusterDownError by class
        return False
    return isinstance(error, _REDIRECTS) or str(error).startswith(_REDIRECT_WORDS)


def tls_fault(error: BaseException | None) -> str:
    """Returns why TLS could not be set up, by redis-py's texts; "" for any other error."""
    said = ""
    while error is not None:
        said, error = f"{said} {error}", error.__cause__ or error.__context__
    if found := re.search(r"\[SSL: (?!UNEXPECTED_EOF)\w+\] ([^(]*[^( .])", said):
        return f"TLS failed: {found[1]}"
    silent = "handshake operation timed out" in said
    return "TLS failed: no answer, as from a port without TLS" if silent else ""


def lasting(error: BaseException | None) -> str:
    """Returns what to grant or to change, if a new connection will fail the same way; else ""."""
    return refusal(error) or tls_fault(error)


def reason(error: BaseException) -> str:
    """Returns an error of Redis in words that hold no argument, no address and no secret."""
    return lasting(error) or ": ".join((type(error).__name__, *_system_words(error)))


def _system_words(error: BaseException | None) -> Iterator[str]:
    """Yields what the system says of a connection that failed, as "Connection refused"."""
    while error is not None and not isinstance(error, OSError):
        error = error.__cause__ or error.__context__
    if isinstance(error, OSError) and error.strerror:
        said = str(error.strerror)
        # asyncio's own words hold the address.
        yield os.strerror(error.errno or 0) if said.startswith("Connect call failed") else said


def report(error: BaseException, setting: str = "COURIER_REDIS_URL") -> bool:
    """Returns whether an error is a refusal, which it logs (``worker/log.py``: once a minute)."""
    if why := refusal(error):
        logger.error("redis refuses", extra={"error": f"{setting}: {why}"})
    return bool(why)


@contextmanager
def reported() -> Iterator[None]:
    """Ends its block where Redis refuses something, and logs that; raises all other errors."""
    try:
        yield
    except redis.RedisError as error:
        if not report(error):
            raise


def store_fault(client: redis.Redis, namespace: str, must: Kept | None = None) -> str:
    """Returns what Redis refuses of what a worker does with the store, in words; "" if nothing.

    Writes a key, runs a script and calls each command; asks for the store's format. Raises
    redis-py's errors that may pass.
    ``must``: what is waited for besides; that there are too few replicas now is no refusal.
    """
    key, script = Keys(namespace).check(uuid.uuid4().hex), "return redis.call('TIME')"
    try:
        if not (found := commands_fault(client, key, STORE)):
            client.script_load(script)
            with suppress(TooFewReplicas):
                Script(client, Source("check", script, (), ()), kept=must)()
            found = run(format_fault(client, namespace))
        return found
    except redis.RedisError as error:
        if why := refusal(error):
            return why
        raise


def commands_fault(client: Any, key: str, commands: Mapping[str, str]) -> str:
    """Returns which commands Redis refuses, in words; "" if none. Raises its other errors."""
    client.set(key, "1", px=CHECK_MS)
    denied, others = "", list[str]()
    rows = (
        # PERSIST would leave the key for ever if the check is broken off.
        (name, f"{key}:absent" if name == "PERSIST" else key, *given.split())
        for given, names in commands.items()
        for name in names.split()
    )
    calls = [("TIME",), *rows, ("DEL", key)]
    for name, *args in calls:
        try:
            client.execute_command(*name.split("|"), *(key if a == KEY else a for a in args))
        except redis.ResponseError as error:
            if "NOPERM" in (why := refusal(error)):
                denied += f" +{name.lower()}"
            elif why:
                others.append(why)
    return "; ".join([f"no permission (NOPERM): grant{denied}"] * bool(denied) + others)

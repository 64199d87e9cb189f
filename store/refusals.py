"""What Redis will answer again, however often it is asked: a missing permission, a wrong password.

Such an answer ends whatever is starting, because only a person can change it. All other failures
may pass: ``is_transient`` (store/connection.py) tells them apart.
"""

import logging
import re
import time
import uuid
from collections.abc import Mapping
from typing import Any

import redis
from redis import exceptions as errors

from viber_courier.store.keys import Keys
from viber_courier.store.scripts import Script, Source

REPORT_INTERVAL = 60.0
"""Seconds between two log lines about the same refusal, in one process."""
CHECK_MS = 10_000
"""Lifetime of the key that a check of permissions writes, in milliseconds."""
ADVICE = "docs/redis.md lists all"
LACKS = ", which is renamed, disabled or not supported"

STORE = {
    "": "GET EXISTS MGET ZCARD",
    "0": "HGET HDEL HMGET ZMSCORE ZREM RPUSH BLPOP",
    "0 0": "HSET HINCRBY LREM ZADD ZRANGEBYSCORE ZREMRANGEBYSCORE ZREVRANGE",
    "0 0 0": "XADD",
    "MAXLEN 0": "XTRIM",
    str(CHECK_MS): "PEXPIRE",
}
"""The commands that a worker needs on the store, by the arguments that a check gives them.

Each also gets a key, which holds a string: so those for other types change nothing.
"""
BROKER = {
    "": "EXISTS LLEN SMEMBERS RPOP",
    "0": "HGET HDEL LPUSH RPUSH SADD SREM ZREM BRPOP",
    "0 0": "HSET ZADD ZRANGE ZRANGEBYSCORE",
    str(CHECK_MS): "PEXPIRE",
}
"""The same for the broker: what kombu needs there."""

NO_PERMISSION = f"no permission (NOPERM; {ADVICE})"
_SAID = (
    # What servers say, and what it means; {0} is the command found.
    (r"run the '([\w|.-]{1,40})' command", "no permission (NOPERM): grant +{0} ({advice})"),
    (r"access.* keys?\b", "no permission for a key (NOPERM): grant its pattern ({advice})"),
    (r"access.* channels?\b", "no permission for a channel (NOPERM): grant it ({advice})"),
    (r"can't run this command", "no permission for a command of a script (NOPERM; {advice})"),
    (
        r"(?:unknown|unsupported) (?:sub)?command [`'\"]?([\w|.-]{1,40})",
        "the server lacks {0}{lacks}",
    ),
    (
        r"unknown (?:redis )?command called|command is not (?:available|allowed|supported)",
        "the server lacks a command{lacks}",
    ),
    (r"DB index is out of range", "the server has no database of this number"),
    (r"SELECT is not allowed", "the server has no database but 0"),
    (r"username-password|invalid password", "wrong user name or password (WRONGPASS)"),
    (r"without any password|no password is set", "it has no password, but the URL has one"),
    (r"authentication required|must be called with", "it wants a password (NOAUTH)"),
)
_SUBCOMMANDS = {"script": "script|load", "xgroup": "xgroup|create", "xinfo": "xinfo|groups"}
"""What is needed of commands that Redis 6.2 names without their subcommand."""

logger = logging.getLogger(__name__)
_reported: dict[str, float] = {}


def refusal(error: BaseException | None) -> str:
    """Returns what to grant or to change, if Redis will answer the same again; otherwise "".

    The text has no argument, no address and no secret. Also reads the error's cause.
    """
    if isinstance(error, errors.InvalidResponse):
        return "what answers there is no Redis server"
    if isinstance(error, errors.MovedError):
        return "the server is a node of a Redis Cluster"
    if not isinstance(error, redis.ResponseError | redis.AuthenticationError):
        return refusal(error.__cause__) if error else ""
    said = str(error).rpartition(" of pipeline caused error: ")[2]  # without the arguments
    for pattern, text in _SAID:
        if found := re.search(pattern, said, re.IGNORECASE):
            names = [_SUBCOMMANDS.get(name.lower(), name.lower()) for name in found.groups()]
            return text.format(*names, advice=ADVICE, lacks=LACKS)
    if isinstance(error, redis.AuthenticationError):
        return "it refuses the login"
    return NO_PERMISSION if isinstance(error, errors.NoPermissionError) else ""


def report(error: BaseException, setting: str = "COURIER_REDIS_URL") -> bool:
    """Returns whether an error is a refusal, which it logs; the same one once a minute at most."""
    why, now = refusal(error), time.monotonic()
    if why and now - _reported.get(setting + why, float("-inf")) >= REPORT_INTERVAL:
        _reported[setting + why] = now
        logger.error("redis refuses", extra={"error": f"{setting}: {why}"})
    return bool(why)


def store_fault(client: redis.Redis, namespace: str) -> str:
    """Returns what Redis refuses of what a worker does with the store, in words; "" if nothing.

    Writes a key, runs a script and calls each command. Raises redis-py's errors that may pass.
    """
    key, script = Keys(namespace).check(uuid.uuid4().hex), "return redis.call('TIME')"
    try:
        if found := commands_fault(client, key, STORE):
            return found
        client.script_load(script)
        Script(client, Source("check", script, (), ()))()
    except redis.RedisError as error:
        if not (why := refusal(error)):
            raise
        return why
    return ""


def commands_fault(client: Any, key: str, commands: Mapping[str, str]) -> str:
    """Returns which commands Redis refuses, as ``store_fault`` does. Also raises refusals."""
    client.set(key, "1", px=CHECK_MS)
    denied, lacking = list[str](), list[str]()
    calls = [
        (name, key, *args.split()) for args, names in commands.items() for name in names.split()
    ]
    for call in (*calls, ("DEL", key)):
        try:
            client.execute_command(*call)
        except redis.ResponseError as error:
            if why := refusal(error):
                (denied if "NOPERM" in why else lacking).append(call[0].lower())
    grants = " ".join(f"+{name}" for name in denied)
    found = [f"no permission (NOPERM): grant {grants} ({ADVICE})"] if denied else []
    found += [f"the server lacks {', '.join(lacking)}{LACKS}"] if lacking else []
    return "; ".join(found)

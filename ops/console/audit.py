"""The audit stream ``{ns}:audit``: what people did, or looked at, by console and command line.

An entry is written before its action, so nothing is done without one. It holds no phone number and
no text of a message. How an action ended, the events and records of its messages tell.
"""

from __future__ import annotations

import os
import pwd
import socket
from collections.abc import Iterator
from typing import Any, NamedTuple

from viber_courier import Producer
from viber_courier.schemas.instants import iso
from viber_courier.store.connection import store_errors
from viber_courier.store.keys import Keys

MOST_ENTRIES = 10_000
"""Entries that are kept, give or take a hundred."""
KEPT_MS = 90 * 86_400_000
"""How long an entry is kept."""
CHUNK = 500
"""Entries that are read at once."""


class Actor(NamedTuple):
    """Who acts, and where from: an address, or this machine's name for a command."""

    who: str
    place: str


class Entry(NamedTuple):
    """``what`` is the action, ``on`` the lane, message or list that it is about."""

    at: str
    who: str
    place: str
    what: str
    on: str
    how: str


def operator() -> Actor:
    """Returns who runs this command."""
    try:
        who = pwd.getpwuid(os.getuid()).pw_name  # getpass believes the environment
    except KeyError:  # a container's user has no name
        who = "command line"
    return Actor(who, f"{socket.gethostname()}, command line")


def record(producer: Producer, actor: Actor, what: str, on: str = "", how: str = "") -> None:
    """Writes an entry. Raises StoreUnavailable."""
    key, entry = Keys(producer.settings.namespace).audit, Entry("", *actor, what, on, how)
    with store_errors(producer.redis):
        fields: Any = {name: text[:200] for name, text in entry._asdict().items() if text}
        at: Any = producer.redis.xadd(key, fields, maxlen=MOST_ENTRIES)
        with producer.redis.pipeline(transaction=False) as pipe:
            pipe.xtrim(key, minid=int(at.partition("-")[0]) - KEPT_MS, approximate=False)
            pipe.pexpire(key, KEPT_MS)
            pipe.execute()


def entries(producer: Producer, most: int) -> Iterator[Entry]:
    """Yields entries, the newest first. Raises StoreUnavailable."""
    key, before = Keys(producer.settings.namespace).audit, "+"
    while most > 0:
        with store_errors(producer.redis):
            found: Any = producer.redis.xrevrange(key, before, count=min(most, CHUNK))
        for id, fields in found:
            given = {name: fields.get(name, "") for name in Entry._fields}
            yield Entry(**{**given, "at": iso(int(id.partition("-")[0]) / 1000)})
            before = f"({id}"
        most = most - len(found) if found else 0

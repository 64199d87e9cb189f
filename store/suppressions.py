"""Changes of the list of suppressed numbers; what workers ask of it, and put on it."""

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import redis

from viber_courier.schemas.instants import millis
from viber_courier.schemas.settings import Settings
from viber_courier.schemas.suppression import BLOCKED, HEEDING, NumberHash, number_hash
from viber_courier.store.keys import Keys
from viber_courier.store.records import Waiting, unpack
from viber_courier.store.refusals import reported
from viber_courier.store.scripts import Script

ADDED, REMOVED, BY_WORKERS = "suppressed:added", "suppressed:removed", "suppressed:blocked"
"""The counters of changes (store/counters.py)."""


class Entry(NamedTuple):
    """A number as suppress.lua takes it; instants are milliseconds since 1970.

    ``reason`` "": take it off the list. ``until`` 0: for good. ``since`` None: now.
    """

    hash: str
    reason: str = ""
    until: int = 0
    since: int | None = None


def flat(entries: Iterable[Entry]) -> list[Any]:
    """Returns suppress.lua's argument for these entries."""
    return [value for entry in entries for value in entry]


def joined_hashes(numbers: NumberHash | None, messages: Sequence[Waiting]) -> str:
    """Returns begin.lua's argument for messages of one lane; ``numbers`` None: there is no key."""
    if numbers is None or messages[0].lane not in HEEDING:
        return ""
    return numbers.joined((message.content or {}).get("address") for message in messages)


def suppress_blocked(
    client: redis.Redis, script: Script, settings: Settings, ids: Sequence[str], at: int
) -> None:
    """Suppresses the numbers of messages whose recipients have blocked the sender.

    ``at`` is now, in microseconds. Messages whose content was erased are left out. Where Redis
    refuses it, logs that and goes on.
    """
    numbers, keys = number_hash(settings.suppression_key), Keys(settings.namespace)
    until = at // 1000 + millis(settings.suppression_expiry) if settings.suppression_expiry else 0
    with client.pipeline(transaction=False) as pipe:
        for id in ids:
            pipe.hget(keys.records + id, "row")
            pipe.get(keys.contents + id)
        found: list[Any] = pipe.execute()
    own = [row or content for row, content in zip(found[::2], found[1::2], strict=True)]
    hashes = [numbers.of(unpack(each)["address"]) for each in own if each and numbers]
    entries = flat(Entry(hash, BLOCKED, until) for hash in hashes)
    with reported():
        script(keeps=True, count=BY_WORKERS, entries=entries)

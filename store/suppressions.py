"""Changes of the list of suppressed numbers, and what workers put on it by themselves."""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import redis

from viber_courier.schemas.instants import millis
from viber_courier.schemas.settings import Settings
from viber_courier.schemas.suppression import BLOCKED, number_hash
from viber_courier.store.keys import Keys
from viber_courier.store.records import unpack
from viber_courier.store.refusals import report
from viber_courier.store.scripts import Script

ADDED, REMOVED, BY_WORKERS = "suppressed:added", "suppressed:removed", "suppressed:blocked"
"""The counters of changes (store/counters.py)."""


class Entry(NamedTuple):
    """A number as suppress.lua takes it; instants are milliseconds since 1970.

    ``until`` 0: for good. ``since`` None: now. ``reason`` "": take it off the list.
    """

    hash: str
    until: int = 0
    since: int | None = None
    reason: str = ""


def suppress_blocked(
    client: redis.Redis, script: Script, settings: Settings, ids: Sequence[str], at: int
) -> None:
    """Suppresses the numbers of messages whose recipients have blocked the sender.

    ``at`` is now, in microseconds. Messages whose content was erased are left out. Where Redis
    refuses the change, logs that and goes on.
    """
    numbers, expiry = number_hash(settings.suppression_key), settings.suppression_expiry
    until = at // 1000 + millis(expiry) if expiry else 0
    try:
        found = _addresses(client, Keys(settings.namespace), ids) if numbers else ()
        entries = [Entry(numbers.of(each), until, None, BLOCKED) for each in found if numbers]
        if entries:
            flat = [value for entry in entries for value in entry]
            script(keeps=True, count=BY_WORKERS, entries=flat)
    except redis.ResponseError as error:
        if not report(error):
            raise


def _addresses(client: redis.Redis, keys: Keys, ids: Sequence[str]) -> Iterator[str]:
    with client.pipeline(transaction=False) as pipe:
        for id in ids:
            pipe.hget(keys.records + id, "row")
            pipe.get(keys.contents + id)
        found: list[Any] = pipe.execute()
    for row, content in zip(found[::2], found[1::2], strict=True):
        if own := row or content:
            yield unpack(own)["address"]

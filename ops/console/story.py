"""A message's story: its record and its events, found in the stream at a bounded cost.

Redis keeps no index of a message's events. The record tells how many there are, and some of the
instants at which they were written; so the search reads a little behind each of those, and then
from the newest event backwards, until it has them all or has examined enough.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, NamedTuple

from viber_courier import Producer
from viber_courier.ops.commands.looking import describe
from viber_courier.schemas.fields import TTL_DEFAULT
from viber_courier.store.connection import store_errors
from viber_courier.store.keys import Keys

CHUNK = 500
"""Events that are read at once."""
NEAR = 2_000
"""Events that are examined behind an instant of the record."""
BACK = 10_000
"""Events that are examined from the newest one backwards."""
BEFORE_MS = 1_000
"""How much earlier than an instant a search begins: records and stream are of one clock."""

Json = dict[str, Any]


class Story(NamedTuple):
    """``details``: what ``courier show`` prints. ``missing``: events that were not found.

    ``waits_since``: since when it could be sent, in milliseconds since 1970.
    """

    details: Json
    events: list[Json]
    missing: int
    examined: int
    waits_since: int


def tell(producer: Producer, id: str, reveal: bool = False) -> Story | None:
    """Returns a message's story; None if no message has this id. Raises StoreUnavailable."""
    details = describe(producer, id, reveal)
    if details is None:
        return None
    keys = Keys(producer.settings.namespace)
    with store_errors(producer.redis):
        names = ["n", "until", "ttl", "submitted", "tracked"]
        with producer.redis.pipeline(transaction=False) as pipe:
            pipe.hmget(keys.records + id, names)
            pipe.pttl(keys.records + id)
            pipe.zscore(keys.dead, id)
            (n, until, ttl, *instants), left, died = pipe.execute()
        seconds, micros = producer.redis.time()
    due = int(until or 0) // 1000 - 1000 * int(ttl or TTL_DEFAULT)
    starts = [int(instant) // 1000 for instant in (*instants, died and int(died)) if instant]
    if left > 0:  # it ended: its record is kept for so long from then on
        now = 1000 * int(seconds) + int(micros) // 1000
        starts.append(now + left - round(1000 * producer.settings.retention))
    found, examined = _search(producer, keys.results, id, int(n or 0), [due, *starts])
    return Story(details, found, int(n or 0) - len(found), examined, due)


def _search(
    producer: Producer, stream: str, id: str, wanted: int, starts: list[int]
) -> tuple[list[Json], int]:
    """Returns a message's events in their order, and how many events were examined."""
    found, examined = dict[str, Json](), 0
    mark = f'"subject":{json.dumps(id, ensure_ascii=False)}'
    runs = [(f"{max(0, start - BEFORE_MS)}", NEAR) for start in starts]
    for start, most in [*runs, ("", BACK)]:
        if len(found) >= wanted:
            break
        for text in _read(producer, stream, start, most):
            examined += 1
            if mark in text and (event := json.loads(text))["subject"] == id:
                found[event["id"]] = event
                if len(found) == wanted:
                    break
    return sorted(found.values(), key=lambda e: int(e["id"].rpartition(":")[2])), examined


def _read(producer: Producer, stream: str, start: str, most: int) -> Iterator[str]:
    """Yields events from an instant on, or, without one, from the newest backwards."""
    at = start or "+"
    while most > 0:
        with store_errors(producer.redis):
            found: Any = (
                producer.redis.xrange(stream, at, count=CHUNK)
                if start
                else producer.redis.xrevrange(stream, at, count=CHUNK)
            )
        for entry, fields in found:
            yield fields["event"]
            at = f"({entry}"
        most = most - CHUNK if len(found) == CHUNK else 0

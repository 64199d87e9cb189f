"""Copies the stream of results while it lives: workers trim it, and the ledger needs all of it."""

from __future__ import annotations

import threading
import time
from typing import Any

import redis

from tests.faults.chaos.stores import Store

PAGE = 2000
Entry = tuple[int, int]


class Archive(threading.Thread):
    """Reads past proxies and groups, from whichever server is the master.

    Events that Redis forgot, because it was killed or replaced, are taken out and kept apart.
    """

    def __init__(self, store: Store, stream: str) -> None:
        super().__init__(daemon=True)
        self._store, self._stream = store, stream
        self.events: dict[Entry, str] = {}
        self.forgotten: list[tuple[Entry, str]] = []
        self._last: Entry = (0, 0)
        self._over = threading.Event()

    def run(self) -> None:
        while not self._over.is_set():
            try:
                port = self._store.master()
                with self._store.admin(port) as client:
                    self._compare(client)
                    looked = time.monotonic()
                    while not self._over.is_set():
                        if not self._read(client) and time.monotonic() - looked > 0.5:
                            looked = time.monotonic()
                            if self._store.master() != port:
                                break
            except redis.RedisError:
                self._over.wait(0.1)

    def is_level(self, client: redis.Redis) -> bool:
        """Whether it has all that this server has."""
        return self._last >= last_of(client, self._stream)

    def stop(self) -> None:
        """Copy the rest, and end."""
        while not self._at_end():
            time.sleep(0.05)
        self._over.set()
        self.join(10)

    def _at_end(self) -> bool:
        try:
            with self._store.admin() as client:
                return self.is_level(client)
        except redis.RedisError:
            return False

    def _read(self, client: redis.Redis) -> bool:
        start = "{}-{}".format(*self._last)
        reply: Any = client.xread({self._stream: start}, count=PAGE, block=100)
        for entry, fields in reply[0][1] if reply else ():
            self._last = entry_of(entry)
            self.events[self._last] = fields["event"]
        return bool(reply)

    def _compare(self, client: redis.Redis) -> None:
        """What this server doesn't have, though nobody can have trimmed it, was forgotten."""
        last, kept, start = last_of(client, self._stream), dict[Entry, str](), "-"
        while page := client.xrange(self._stream, min=start, count=PAGE):
            entries: Any = page
            kept |= {entry_of(entry): fields["event"] for entry, fields in entries}
            start = f"({entries[-1][0]}"
        # Asked for last: meanwhile some may have been trimmed.
        oldest: Any = client.xrange(self._stream, count=1)
        first = entry_of(oldest[0][0]) if oldest else (last[0], last[1] + 1)
        for entry in sorted(self.events):
            if entry >= first and kept.get(entry) != self.events[entry]:
                self.forgotten.append((entry, self.events.pop(entry)))
        self.events |= kept
        self._last = max(kept, default=last)


def last_of(client: redis.Redis, stream: str) -> Entry:
    """The id of the newest entry there ever was."""
    try:
        return entry_of(client.xinfo_stream(stream)["last-generated-id"])
    except redis.ResponseError:
        return 0, 0  # no stream yet


def entry_of(id: str) -> Entry:
    milliseconds, _, number = id.partition("-")
    return int(milliseconds), int(number)

"""A Producer in memory, for apps' own tests. Needs the extra ``testing``."""

from __future__ import annotations

from collections.abc import Iterable

import fakeredis

from viber_courier.producers.bells import Bells
from viber_courier.producers.client import Producer
from viber_courier.schemas.settings import Settings


class SilentBells(Bells):
    """Doorbells that only note which lanes were rung."""

    def __init__(self) -> None:
        super().__init__(Settings())
        self.rung: list[str] = []

    def ring(self, names: Iterable[str]) -> None:
        """Note the names."""
        self.rung += names


def memory_producer(settings: Settings | None = None) -> Producer:
    """A Producer whose Redis is a fresh one in this process: same checks, same scripts, no server.

    Nothing takes its messages away; ``get``, ``cancel`` and ``results`` work on what it stored.
    """
    client = fakeredis.FakeRedis(server=fakeredis.FakeServer(), decode_responses=True)
    return Producer(settings or Settings(), client=client, bells=SilentBells())

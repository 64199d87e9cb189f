"""A Producer in memory, for apps' own tests. Needs the extra ``testing``."""

import fakeredis

from viber_courier.producers.client import Producer
from viber_courier.schemas.settings import Settings


def memory_producer(settings: Settings | None = None) -> Producer:
    """Returns a Producer whose Redis is a fresh one in this process: same checks, same scripts.

    Nothing takes its messages away; ``get``, ``cancel`` and ``results`` work on what it stored.
    """
    client = fakeredis.FakeRedis(server=fakeredis.FakeServer(), decode_responses=True)
    return Producer(settings or Settings(), client=client)

"""A Producer in memory for your app's tests. Needs the extra ``testing``."""

import fakeredis

from viber_courier.producers.client import Producer
from viber_courier.schemas.settings import Settings


def memory_producer(settings: Settings | None = None) -> Producer:
    """Returns a Producer with an empty Redis in this process: the same checks, the same scripts.

    Nothing sends its messages; ``get``, ``cancel`` and ``results`` work on them.
    """
    client = fakeredis.FakeRedis(server=fakeredis.FakeServer(), decode_responses=True)
    return Producer(settings or Settings(), client=client)

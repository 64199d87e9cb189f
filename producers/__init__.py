"""What an app imports: enqueue messages, look them up, cancel them, read what became of them.

Importing it loads no worker code, no HTTP client, and Celery only when a doorbell is first rung.
"""

import schemas

try:
    from schemas.errors import (
        ConfigError,
        Conflict,
        CourierError,
        EnqueueError,
        InvalidMessage,
        QueueFull,
    )
except ImportError as error:
    raise ImportError(
        "viber-courier's package 'schemas' is shadowed by another of that name: "
        f"{getattr(schemas, '__file__', None) or list(schemas.__path__)}"
    ) from error

from producers.client import Producer, Record
from producers.connection import StoreUnavailable
from producers.results import Event

__all__ = [
    "ConfigError",
    "Conflict",
    "CourierError",
    "EnqueueError",
    "Event",
    "InvalidMessage",
    "Producer",
    "QueueFull",
    "Record",
    "StoreUnavailable",
]

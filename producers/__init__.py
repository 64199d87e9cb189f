"""What an app imports: enqueue messages, look them up, cancel them, read what became of them.

Importing it loads no worker code, no HTTP client, and Celery only when a doorbell is first rung.
"""

import schemas

try:
    from schemas.errors import (
        ConfigError,
        Conflict,
        ContentGone,
        CourierError,
        DeadLetterError,
        EnqueueError,
        InvalidMessage,
        NotDead,
        QueueFull,
        Unconfirmed,
    )
except ImportError as error:
    raise ImportError(
        "viber-courier's package 'schemas' is shadowed by another of that name: "
        f"{getattr(schemas, '__file__', None) or list(schemas.__path__)}"
    ) from error

from producers.client import Producer
from producers.connection import StoreUnavailable
from producers.dead import DeadLetter, DeadLetters, Resent
from producers.record import Record
from producers.results import Event

__all__ = [
    "ConfigError",
    "Conflict",
    "ContentGone",
    "CourierError",
    "DeadLetter",
    "DeadLetterError",
    "DeadLetters",
    "EnqueueError",
    "Event",
    "InvalidMessage",
    "NotDead",
    "Producer",
    "QueueFull",
    "Record",
    "Resent",
    "StoreUnavailable",
    "Unconfirmed",
]

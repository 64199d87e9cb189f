"""Queues Viber messages, sends them in batches through the Devino API, accounts for every one.

Everything an app needs is here. Importing this module loads nothing: each name is loaded when it is
first used (PEP 562), and none of them needs Celery, requests or worker code.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from viber_courier.ops.lists.phone import normalize_address
    from viber_courier.producers.aio import AsyncProducer
    from viber_courier.producers.campaigns import AsyncCampaign, Campaign, Progress, ReportRow
    from viber_courier.producers.client import Producer
    from viber_courier.producers.consume import aconsume, consume
    from viber_courier.producers.dead import AsyncDeadLetters, DeadLetter, DeadLetters, Resent
    from viber_courier.producers.events import AsyncEvent, Event
    from viber_courier.producers.preview import Preview, Sms
    from viber_courier.producers.suppressions import AsyncSuppressions, Suppression, Suppressions
    from viber_courier.schemas.errors import (
        CampaignCancelled,
        ConfigError,
        Conflict,
        ContentGone,
        CourierError,
        DeadLetterError,
        EnqueueError,
        EventsMissed,
        InvalidMessage,
        NotDead,
        QueueFull,
        Unconfirmed,
    )
    from viber_courier.schemas.settings import Settings
    from viber_courier.schemas.status import Reason, Status
    from viber_courier.store.connection import StoreUnavailable
    from viber_courier.store.records import Record
    from viber_courier.types import (
        ButtonJob,
        Common,
        EventData,
        ImageJob,
        Job,
        Row,
        TextJob,
    )

_HOMES = {
    "producers.aio": ("AsyncProducer",),
    "producers.campaigns": ("AsyncCampaign", "Campaign", "Progress", "ReportRow"),
    "producers.client": ("Producer",),
    "producers.consume": ("aconsume", "consume"),
    "producers.dead": ("AsyncDeadLetters", "DeadLetter", "DeadLetters", "Resent"),
    "producers.events": ("AsyncEvent", "Event"),
    "producers.preview": ("Preview", "Sms"),
    "producers.suppressions": ("AsyncSuppressions", "Suppression", "Suppressions"),
    "schemas.errors": (
        *("CampaignCancelled", "ConfigError", "Conflict", "ContentGone", "CourierError"),
        *("DeadLetterError", "EnqueueError", "EventsMissed", "InvalidMessage", "NotDead"),
        *("QueueFull", "Unconfirmed"),
    ),
    "ops.lists.phone": ("normalize_address",),
    "schemas.settings": ("Settings",),
    "schemas.status": ("Reason", "Status"),
    "store.connection": ("StoreUnavailable",),
    "store.records": ("Record",),
    "types": ("ButtonJob", "Common", "EventData", "ImageJob", "Job", "Row", "TextJob"),
}
_HOME = {name: f"viber_courier.{home}" for home, names in _HOMES.items() for name in names}

__all__ = [
    "AsyncCampaign",
    "AsyncDeadLetters",
    "AsyncEvent",
    "AsyncProducer",
    "AsyncSuppressions",
    "ButtonJob",
    "Campaign",
    "CampaignCancelled",
    "Common",
    "ConfigError",
    "Conflict",
    "ContentGone",
    "CourierError",
    "DeadLetter",
    "DeadLetterError",
    "DeadLetters",
    "EnqueueError",
    "Event",
    "EventData",
    "EventsMissed",
    "ImageJob",
    "InvalidMessage",
    "Job",
    "NotDead",
    "Preview",
    "Producer",
    "Progress",
    "QueueFull",
    "Reason",
    "Record",
    "ReportRow",
    "Resent",
    "Row",
    "Settings",
    "Sms",
    "Status",
    "StoreUnavailable",
    "Suppression",
    "Suppressions",
    "TextJob",
    "Unconfirmed",
    "aconsume",
    "consume",
    "normalize_address",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(_HOME[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})

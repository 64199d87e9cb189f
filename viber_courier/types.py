"""Types of what apps pass and get, for type checkers. Plain dicts stay the API.

Nothing of this is used at run time. schemas/fields.py has the rules, and a test compares the two.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Literal, NotRequired, Required, TypedDict

Priority = Literal["realtime", "high", "normal", "low"]
EventStatus = Literal[
    "submitted",
    "sent",
    "delivered",
    "read",
    "sms_sent",
    "sms_delivered",
    "undelivered",
    "failed",
    "cancelled",
    "rejected",
    "expired",
    "unconfirmed",
    "lost",
]
"""Every Status that has an event: all but ``queued`` and ``sending``."""
Metadata = Mapping[str, str | int | float | bool | None]


class TextContent(TypedDict):
    """The content of ``contentType`` text."""

    text: str


class ButtonContent(TypedDict):
    """The content of ``contentType`` button, with or without an image."""

    text: str
    caption: str
    action: str
    imageUrl: NotRequired[str]


class ImageContent(TypedDict):
    """The content of ``contentType`` image."""

    imageUrl: str


SendWindow = TypedDict(
    "SendWindow",
    {
        "from": str,
        "to": str,
        "zone": str | Sequence[str],
        "days": NotRequired[Sequence[Literal["mon", "tue", "wed", "thu", "fri", "sat", "sun"]]],
    },
)
"""Sending hours: ``from`` and ``to`` as 09:00, ``zone`` as Europe/Moscow, or ``recipient``."""


class _Options(TypedDict, total=False):
    source: str
    campaign: str
    sendAt: str
    sendWindow: SendWindow
    ttlSec: int
    onUnsure: Literal["park", "resend"]
    ignoreSuppression: bool
    metadata: Metadata
    type: Literal["viber"]
    validityPeriodSec: int
    comment: str


class _Sms(TypedDict, total=False):
    resendSms: bool
    smsText: str
    smsSrcAddress: str
    smsValidityPeriodSec: int


class _Message(_Options):
    id: NotRequired[str]
    subject: str
    priority: Priority
    address: str


class TextJob(_Message, _Sms):
    """A job with a text."""

    contentType: Literal["text"]
    content: TextContent


class ButtonJob(_Message, _Sms):
    """A job with a text and a button."""

    contentType: Literal["button"]
    content: ButtonContent


class ImageJob(_Message):
    """A job with an image, which can't be sent as SMS."""

    contentType: Literal["image"]
    content: ImageContent
    resendSms: NotRequired[Literal[False]]


Job = TextJob | ButtonJob | ImageJob
"""One message, as ``enqueue`` takes it."""


class Common(_Options, _Sms, total=False):
    """What the rows of ``enqueue_many`` share: any fields but ``id`` and ``address``."""

    subject: str
    priority: Priority
    contentType: Literal["text", "button", "image"]
    content: TextContent | ButtonContent | ImageContent


class Row(TypedDict, total=False):
    """A row of ``enqueue_many`` over ``common``: its own fields; None removes a common field."""

    id: str | None
    address: Required[str]
    subject: str | None
    priority: Priority | None
    contentType: Literal["text", "button", "image"] | None
    content: TextContent | ButtonContent | ImageContent | None
    source: str | None
    campaign: str | None
    sendAt: str | None
    sendWindow: SendWindow | None
    ttlSec: int | None
    onUnsure: Literal["park", "resend"] | None
    ignoreSuppression: bool | None
    metadata: Metadata | None
    type: Literal["viber"] | None
    validityPeriodSec: int | None
    comment: str | None
    resendSms: bool | None
    smsText: str | None
    smsSrcAddress: str | None
    smsValidityPeriodSec: int | None


class SmsSegment(TypedDict):
    """An SMS segment in an event; ``state`` as the provider spells it."""

    id: str | None
    state: str


class EventData(TypedDict):
    """The ``data`` of a result event (docs/events.md)."""

    messageId: str
    status: EventStatus
    final: bool
    reason: str | None
    providerId: str | None
    providerStatus: str | None
    providerCode: str | None
    statusAt: str | None
    attempts: int
    unsure: int
    sms: list[SmsSegment]
    metadata: dict[str, Any]
    resendOf: NotRequired[str]
    errors: NotRequired[dict[str, list[str]]]
    requestedId: NotRequired[str]
    source: NotRequired[str]
    campaign: NotRequired[str]

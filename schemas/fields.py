"""What each field of a job may be, for marshmallow.

Limits are the document's (sections "Отправка сообщения" and following); where it is silent they
are DESIGN section 3's. Lengths count Unicode code points.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

from marshmallow import RAISE, Schema, ValidationError, fields, validate, validates_schema

from viber_courier.schemas.encoding import dumps
from viber_courier.schemas.lanes import LANES

TTL_DEFAULT = 86400
"""Seconds that a message is tried where the job sets no ``ttlSec``."""
VALIDITY = (15, 86400)
"""Least and most seconds of both validity periods (document, "validityPeriodSec")."""
ID = re.compile(r"[A-Za-z0-9_.:-]{1,64}")
"""What an app may use as an idempotency key."""
FIELDS_MOST = {"job": 32, "content": 16}
"""How many fields are looked at: each wrong one is named, and nobody reads a million names."""
SMS_FIELDS = ("smsText", "smsSrcAddress", "smsValidityPeriodSec")
OPTIONS = frozenset({"id", "sendAt", "ttlSec", "onUnsure", "metadata", "resendSms", "type"})
"""Fields of a job that are not sent with its message (``type`` has one value and is added)."""


def _unclean(text: str) -> bool:
    """Whether a text can't travel as UTF-8 JSON unharmed: lone surrogates, NUL."""
    if text.isascii():
        return "\0" in text
    try:
        text.encode()
    except UnicodeEncodeError:
        return True
    return "\0" in text


class _Text(fields.String):
    """A string of 1 to ``most`` code points; ``pattern`` narrows it, ``allowed`` says how."""

    def __init__(self, most: int, pattern: str = "", allowed: str = "", **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.most, self.pattern, self.allowed = most, re.compile(pattern), allowed

    def _deserialize(self, value: Any, attr: Any, data: Any, **kwargs: Any) -> str:
        if not isinstance(value, str):
            raise ValidationError("must be a string")
        if not 1 <= len(value) <= self.most:
            raise ValidationError(f"must have 1 to {self.most} characters")
        if _unclean(value):
            raise ValidationError("must be without NUL and lone surrogates")
        if self.allowed and not self.pattern.fullmatch(value):
            raise ValidationError(f"must be {self.allowed}")
        return value


class _Address(_Text):
    """E.164 digits; one leading "+" is taken off (trap T12)."""

    def __init__(self) -> None:
        digits = "an international number of 7 to 15 digits, no leading 0"
        super().__init__(16, r"\+?[1-9][0-9]{6,14}", digits, required=True)

    def _deserialize(self, value: Any, attr: Any, data: Any, **kwargs: Any) -> str:
        return super()._deserialize(value, attr, data, **kwargs).removeprefix("+")


# marshmallow 3 has no generic fields: where this module runs, none is written as one.


class _Flag(fields.Field):  # type: ignore[type-arg]
    """A boolean, or the strings that the document's examples write."""

    def _deserialize(self, value: Any, attr: Any, data: Any, **kwargs: Any) -> bool:
        if value is True or value is False:
            return bool(value)
        if isinstance(value, str) and value in ("true", "false"):
            return value == "true"
        raise ValidationError("must be true or false")


class _Instant(fields.Field):  # type: ignore[type-arg]
    """ISO 8601 with a zone, as microseconds since 1970."""

    def _deserialize(self, value: Any, attr: Any, data: Any, **kwargs: Any) -> int:
        try:
            moment = datetime.fromisoformat(value) if isinstance(value, str) else None
        except ValueError:
            moment = None
        if moment is None or moment.tzinfo is None:
            raise ValidationError("must be ISO 8601 with a zone, as 2026-11-23T10:00:00+03:00")
        try:
            return micros(moment)
        except OverflowError:
            raise ValidationError("must be in the years 1 to 9999") from None


class _Metadata(fields.Field):  # type: ignore[type-arg]
    """At most 16 scalars under string keys, together at most 1 KiB as JSON."""

    def _deserialize(self, value: Any, attr: Any, data: Any, **kwargs: Any) -> dict[str, Any]:
        scalar = (str, int, float, bool, type(None))
        if not isinstance(value, Mapping) or len(value) > 16:
            raise ValidationError("must be an object with at most 16 members")
        if not all(isinstance(k, str) and isinstance(v, scalar) for k, v in value.items()):
            raise ValidationError("must hold strings, numbers, true, false and null only")
        if any(isinstance(each, str) and _unclean(each) for pair in value.items() for each in pair):
            raise ValidationError("must be without NUL and lone surrogates")
        try:
            size = len(dumps(dict(value)).encode())
        except ValueError:
            raise ValidationError("must hold finite numbers") from None
        if size > 1024:
            raise ValidationError("must have at most 1024 bytes as JSON")
        return dict(value)


class _Content(fields.Field):  # type: ignore[type-arg]
    """An object; what is in it is a matter of ``contentType``."""

    def _deserialize(self, value: Any, attr: Any, data: Any, **kwargs: Any) -> dict[str, Any]:
        if not isinstance(value, Mapping):
            raise ValidationError("must be an object")
        if len(value) > FIELDS_MOST["content"]:
            raise ValidationError(f"must have at most {FIELDS_MOST['content']} fields")
        return dict(value)


def _seconds(least: int, most: int) -> fields.Integer:
    wrong = f"must be a whole number from {least} to {most}"
    return fields.Integer(
        strict=True,
        validate=validate.Range(least, most, error=wrong),
        error_messages={"invalid": wrong},
    )


def _one_of(*words: str, required: bool = False) -> fields.Field[str]:
    return _Text(16, "|".join(words), " or ".join(words), required=required)


def _link(*, required: bool) -> _Text:
    return _Text(2048, r"(?i:https?)://[^\s/?#]\S*", "an http or https URL", required=required)


class _Strict(Schema):
    class Meta:
        unknown = RAISE

    error_messages = {  # noqa: RUF012 (marshmallow's own declaration is an instance variable)
        "unknown": "is not a field of the API",
        "type": "must be an object",
    }


class TextContent(_Strict):
    """``contentType`` text."""

    text = _Text(1000, required=True)


class ImageContent(_Strict):
    """``contentType`` image. The document's table says ``image``, its example ``imageUrl``."""

    imageUrl = _link(required=True)


class ButtonContent(TextContent):
    """``contentType`` button, with or without an image."""

    caption = _Text(19, required=True)
    action = _link(required=True)
    imageUrl = _link(required=False)


CONTENT = {"text": TextContent(), "image": ImageContent(), "button": ButtonContent()}


class JobSchema(_Strict):
    """Every field that a job may have."""

    id = _Text(64, ID.pattern, "1 to 64 of A-Za-z0-9_.:-")
    sendAt = _Instant()
    ttlSec = _seconds(15, 2592000)
    onUnsure = _one_of("park", "resend")
    metadata = _Metadata()
    resendSms = _Flag()

    type = _one_of("viber")
    subject = _Text(11, required=True)
    priority = _one_of(*LANES, required=True)
    validityPeriodSec = _seconds(*VALIDITY)
    comment = _Text(1024)
    contentType = _one_of(*CONTENT, required=True)
    content = _Content(required=True)
    address = _Address()
    smsText = _Text(1600)
    smsSrcAddress = _Text(11, "[A-Za-z0-9]+", "1 to 11 Latin letters or digits")
    smsValidityPeriodSec = _seconds(*VALIDITY)

    @validates_schema(skip_on_field_errors=False)
    def _content(self, job: dict[str, Any], **_: Any) -> None:
        kind = CONTENT.get(job.get("contentType", ""))
        if kind and isinstance(job.get("content"), dict):
            try:
                job["content"] = kind.load(job["content"])
            except ValidationError as wrong:
                raise ValidationError({"content": wrong.messages}) from None

    @validates_schema(skip_on_field_errors=False, pass_original=True)
    def _sms(self, job: dict[str, Any], original: Any, *, partial: Any = None, **_: Any) -> None:
        given = [name for name in SMS_FIELDS if name in job]
        asked = set(original) if isinstance(original, Mapping) else set()
        # What is wrong itself has its own fault; of a campaign's common a row may still decide.
        default = bool(partial or asked & {"resendSms", "smsText"})
        if job.get("contentType") == "image":
            wrong = [*given, *(["resendSms"] if job.get("resendSms") else [])]
            text = "an image can't be sent again as SMS: leave out, or false"
        else:
            wrong = [] if job.get("resendSms", default) else given
            text = "needs resendSms to be true"
        if wrong:
            raise ValidationError({name: [text] for name in wrong})


JOB = JobSchema()
_REQUIRED = "is required"
for _schema in (JOB, *CONTENT.values()):
    for _field in _schema.fields.values():
        _field.error_messages.update(required=_REQUIRED, null="must not be null")


def micros(moment: datetime) -> int:
    """Microseconds since 1970, exactly. Raises OverflowError outside of the years 1 to 9999."""
    return (moment.astimezone(UTC) - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1)

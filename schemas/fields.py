"""The rules for each field of a job: plain functions, and the marshmallow schemas that use them.

docs/provider-api.md lists the limits and says which are ours. Lengths count Unicode code points.
"""

import re
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from numbers import Integral
from typing import Any

from marshmallow import RAISE, Schema, ValidationError, fields, validates_schema

from viber_courier.schemas.encoding import dumps_sorted
from viber_courier.schemas.lanes import LANES
from viber_courier.schemas.window import DAYS, RECIPIENT, NoZone, Window, require_zone

TTL_DEFAULT = 86400
"""Seconds to keep trying a message whose job sets no ``ttlSec``."""
VALIDITY = (15, 86400)
"""Least and most seconds of both validity periods (docs/provider-api.md#t13)."""
ID = re.compile(r"[A-Za-z0-9_.:-]{1,64}")
"""What an app may use as an idempotency key."""
MAX_FIELDS = {"job": 32, "content": 16}
"""Most fields of a job and of its content. An error names each wrong one, so they are bounded."""
MAX_ZONES = 16
"""Most time zones of a window."""
SMS_FIELDS = ("smsText", "smsSrcAddress", "smsValidityPeriodSec")
SOURCE = re.compile(r"[A-Za-z0-9_.-]{1,32}")
"""What an app may call itself; it goes into events as it is, so nothing in it needs quoting."""
CAMPAIGN = re.compile(r"[A-Za-z0-9_.-]{1,64}")
"""What a campaign may be called; it goes into events and keys as it is."""
OPTIONS = frozenset(
    {"id", "source", "campaign", "sendAt", "sendWindow", "ttlSec", "onUnsure", "metadata"}
    | {"resendSms", "type", "ignoreSuppression"}
)
"""Fields of a job that are not stored with its message; ``type`` is added when it is sent."""


def _is_unclean(text: str) -> bool:
    """Returns whether a text has lone surrogates or NUL (docs/provider-api.md#t40)."""
    if text.isascii():
        return "\0" in text
    try:
        text.encode()
    except UnicodeEncodeError:
        return True
    return "\0" in text


Rule = Callable[[Any], Any]
"""Returns a value in the form that is stored, or raises ValidationError."""
FORMS: dict[Rule, dict[str, Any]] = {}
"""What rules allow, as JSON Schema says it. A rule may refuse more."""


class Checked(fields.Raw):
    """A marshmallow field with a plain function as its rule, which message.py also calls."""

    def __init__(self, rule: Rule, **kwargs: Any) -> None:
        messages: dict[str, Any] = {"required": "is required", "null": "must not be null"}
        super().__init__(error_messages=messages, **kwargs)
        self.rule = rule

    def _deserialize(self, value: Any, attr: Any, data: Any, **kwargs: Any) -> Any:
        return self.rule(value)


def rules(schema: Schema) -> dict[str, Rule]:
    """Returns each field's rule by its name; rules across fields stay with the schema."""
    return {n: field.rule for n, field in schema.fields.items() if isinstance(field, Checked)}


def _text(most: int, pattern: str = "", allowed: str = "") -> Callable[[Any], str]:
    """Returns the rule for a text of 1 to ``most`` code points that matches ``pattern``.

    ``allowed`` describes the pattern in the error.
    """
    fits = re.compile(pattern).fullmatch

    def rule(value: Any) -> str:
        if not isinstance(value, str):
            raise ValidationError("must be a string")
        if not 1 <= len(value) <= most:
            raise ValidationError(f"must have 1 to {most} characters")
        if _is_unclean(value):
            raise ValidationError("must be without NUL and lone surrogates")
        if allowed and not fits(value):
            raise ValidationError(f"must be {allowed}")
        return str.__str__(value)  # str() of an app's enum member may be the member's name

    FORMS[rule] = {"type": "string", "minLength": 1, "maxLength": most}
    if pattern:
        FORMS[rule]["pattern"] = f"^({pattern})$"
    return rule


_digits = _text(
    16, r"\+?[1-9][0-9]{6,14}", "an international number of 7 to 15 digits, no leading 0"
)


def _address(value: Any) -> str:
    """Returns E.164 digits, without one leading "+" (docs/provider-api.md#t12)."""
    return _digits(value).removeprefix("+")


def _boolean(value: Any) -> bool:
    """Returns a boolean; also takes "true" and "false" (docs/provider-api.md#t4)."""
    if value is True or value is False:
        return bool(value)
    if isinstance(value, str) and value in ("true", "false"):
        return value == "true"
    raise ValidationError("must be true or false")


def _instant(value: Any) -> int:
    """Returns ISO 8601 with a zone as microseconds since 1970."""
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


def _metadata(value: Any) -> dict[str, Any]:
    """Returns at most 16 scalars under string keys; ``metadata_json`` limits their size."""
    scalar = (str, int, float, bool, type(None))
    if not isinstance(value, Mapping) or len(value) > 16:
        raise ValidationError("must be an object with at most 16 members")
    if not all(isinstance(k, str) and isinstance(v, scalar) for k, v in value.items()):
        raise ValidationError("must hold strings, numbers, true, false and null only")
    if any(isinstance(each, str) and _is_unclean(each) for pair in value.items() for each in pair):
        raise ValidationError("must be without NUL and lone surrogates")
    return dict(value)


def metadata_json(value: dict[str, Any]) -> str:
    """Returns metadata as JSON with sorted keys. Raises ValidationError if it is too long."""
    try:
        text = dumps_sorted(value)
    except ValueError:
        raise ValidationError("must hold finite numbers") from None
    if len(text.encode()) > 1024:
        raise ValidationError("must have at most 1024 bytes as JSON")
    return text


def _object(value: Any) -> dict[str, Any]:
    """Returns an object as a dict; its fields depend on ``contentType``."""
    if not isinstance(value, Mapping):
        raise ValidationError("must be an object")
    if len(value) > MAX_FIELDS["content"]:
        raise ValidationError(f"must have at most {MAX_FIELDS['content']} fields")
    return dict(value)


class Seconds(Checked):
    """A field for a whole number from ``least`` to ``most``."""

    def __init__(self, least: int, most: int) -> None:
        def rule(value: Any) -> int:
            whole = isinstance(value, Integral) and not isinstance(value, bool)
            if not whole or not least <= int(value) <= most:
                raise ValidationError(f"must be a whole number from {least} to {most}")
            return int(value)

        FORMS[rule] = {"type": "integer", "minimum": least, "maximum": most}
        super().__init__(rule)


def _one_of(*words: str) -> Rule:
    return _text(16, "|".join(words), " or ".join(words))


FORMS[_address] = FORMS[_digits]
FORMS[_boolean] = {"enum": [True, False, "true", "false"]}
FORMS[_instant] = {"type": "string", "format": "date-time"}
FORMS[_metadata] = {
    "type": "object",
    "maxProperties": 16,
    "additionalProperties": {"type": ["string", "number", "boolean", "null"]},
}
_link = _text(2048, r"[Hh][Tt][Tt][Pp][Ss]?://[^\s/?#]\S*", "an http or https URL")


class _Strict(Schema):
    class Meta:
        unknown = RAISE

    error_messages = {  # noqa: RUF012 (marshmallow's own declaration is an instance variable)
        "unknown": "is not a field of the API",
        "type": "must be an object",
    }


class TextContent(_Strict):
    """The content of ``contentType`` text."""

    text = Checked(_text(1000), required=True)


def _zones(value: Any) -> tuple[str, ...]:
    """Returns the names of time zones, of one or of a list, in order."""
    names = value if isinstance(value, list | tuple) else [value]
    if not 1 <= len(names) <= MAX_ZONES:
        raise ValidationError(f"must be a name or a list of 1 to {MAX_ZONES}")
    found = sorted({*map(_zone, names)})
    if RECIPIENT in found and len(found) > 1:
        raise ValidationError(f"{RECIPIENT} must stand alone")
    try:
        for name in found:
            require_zone(name)
    except NoZone as wrong:
        raise ValidationError(str(wrong)) from None
    return tuple(found)


def _days(value: Any) -> int:
    """Returns days of the week as bits; Monday's is 1."""
    if not isinstance(value, list | tuple) or not value or not all(each in DAYS for each in value):
        raise ValidationError(f"must be a list of {', '.join(DAYS)}")
    return sum(1 << DAYS.index(day) for day in {*value})


def _window(value: Any) -> Window:
    """Returns sending hours."""
    loaded = WINDOW.load(value)
    opens, closes = (60 * int(loaded[name][:2]) + int(loaded[name][3:]) for name in ("from", "to"))
    if opens == closes:
        raise ValidationError({"to": ["must be another time than from; 00:00 to 24:00 is all day"]})
    return Window(opens, closes, loaded.get("days", 127), loaded["zone"])


_HOUR = "([01][0-9]|2[0-3]):[0-5][0-9]"
_zone = _text(64, "[A-Za-z0-9_+/-]+", "a time zone, as Europe/Moscow, or recipient")
_MANY = {"type": "array", "minItems": 1}
FORMS[_zones] = {"anyOf": [FORMS[_zone], {**_MANY, "items": FORMS[_zone], "maxItems": MAX_ZONES}]}
FORMS[_days] = {**_MANY, "items": {"enum": [*DAYS]}}
WINDOW = _Strict.from_dict(
    {
        "from": Checked(_text(5, _HOUR, "a time as 09:00"), required=True),
        "to": Checked(_text(5, f"{_HOUR}|24:00", "a time as 21:00"), required=True),
        "zone": Checked(_zones, required=True),
        "days": Checked(_days),
    }
)()
FORMS[_window] = {
    "type": "object",
    "properties": {name: FORMS[rule] for name, rule in rules(WINDOW).items()},
    "required": ["from", "to", "zone"],
    "additionalProperties": False,
}


class ImageContent(_Strict):
    """The content of ``contentType`` image (docs/provider-api.md#t9)."""

    imageUrl = Checked(_link, required=True)


class ButtonContent(TextContent):
    """The content of ``contentType`` button, with or without an image."""

    caption = Checked(_text(19), required=True)
    action = Checked(_link, required=True)
    imageUrl = Checked(_link)


CONTENT = {"text": TextContent(), "image": ImageContent(), "button": ButtonContent()}


class JobSchema(_Strict):
    """All fields of a job."""

    id = Checked(_text(64, ID.pattern, "1 to 64 of A-Za-z0-9_.:-"))
    source = Checked(_text(32, SOURCE.pattern, "1 to 32 of A-Za-z0-9_.-"))
    campaign = Checked(_text(64, CAMPAIGN.pattern, "1 to 64 of A-Za-z0-9_.-"))
    sendAt = Checked(_instant)
    sendWindow = Checked(_window)
    ttlSec = Seconds(15, 2592000)
    onUnsure = Checked(_one_of("park", "resend"))
    ignoreSuppression = Checked(_boolean)
    metadata = Checked(_metadata, validate=metadata_json)
    resendSms = Checked(_boolean)

    type = Checked(_one_of("viber"))
    subject = Checked(_text(11), required=True)
    priority = Checked(_one_of(*LANES), required=True)
    validityPeriodSec = Seconds(*VALIDITY)
    comment = Checked(_text(1024))
    contentType = Checked(_one_of(*CONTENT), required=True)
    content = Checked(_object, required=True)
    address = Checked(_address, required=True)
    smsText = Checked(_text(1600))
    smsSrcAddress = Checked(_text(11, "[A-Za-z0-9]+", "1 to 11 Latin letters or digits"))
    smsValidityPeriodSec = Seconds(*VALIDITY)

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
        # A wrong resendSms has its own fault. In a campaign's common part, rows may still set it.
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


def micros(moment: datetime) -> int:
    """Returns exact microseconds since 1970. Raises OverflowError outside the years 1 to 9999."""
    return (moment.astimezone(UTC) - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1)

"""What an app may ask for: one element of the API's ``messages``, ``resendSms`` and our options.

Limits are the document's (sections "Отправка сообщения" and following); where it is silent they
are DESIGN section 3's. Lengths count Unicode code points.
"""

from __future__ import annotations

import json
import re
from base64 import b64encode
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from hashlib import blake2b
from reprlib import Repr
from typing import Any

from marshmallow import RAISE, Schema, ValidationError, fields, validate, validates_schema

from schemas.errors import InvalidMessage
from schemas.keys import LANES

TTL_DEFAULT = 86400
"""Seconds that a message is tried where the job sets no ``ttlSec``."""
FARTHEST = timedelta(days=366)
"""How far ahead ``sendAt`` may lie."""
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


class _Flag(fields.Field[bool]):
    """A boolean, or the strings that the document's examples write."""

    def _deserialize(self, value: Any, attr: Any, data: Any, **kwargs: Any) -> bool:
        if value is True or value is False:
            return bool(value)
        if isinstance(value, str) and value in ("true", "false"):
            return value == "true"
        raise ValidationError("must be true or false")


class _Instant(fields.Field[int]):
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


class _Metadata(fields.Field[dict[str, Any]]):
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


class _Content(fields.Field[dict[str, Any]]):
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


_JOB = JobSchema()
_REQUIRED = "is required"
for _schema in (_JOB, *CONTENT.values()):
    for _field in _schema.fields.values():
        _field.error_messages.update(required=_REQUIRED, null="must not be null")


class _Bounded(Repr):
    """``repr`` of anything: nested too deep, or with too many digits, is still only a wrong job."""

    def repr_int(self, x: int, level: int) -> str:
        return str(x) if abs(x) < 2**64 else hex(x)  # str() refuses more than some thousand digits


BOUNDED = _Bounded()
BOUNDED.maxlevel, BOUNDED.maxlist, BOUNDED.maxdict = 20, 1000, 1000
BOUNDED.maxstring = BOUNDED.maxother = 100_000


@dataclass(frozen=True, slots=True)
class Job:
    """A valid job as the store takes it.

    ``own`` are the wire fields that the job brought itself: all of them, or what differs from its
    campaign's ``common`` (None: taken away). ``send_at`` is in microseconds, ``ttl`` in seconds
    (None: not set by the app). ``digest`` identifies what was asked, however it was spelled.
    """

    id: str | None
    own: dict[str, Any]
    lane: str
    resend: bool
    send_at: int | None
    ttl: int | None
    on_unsure: str | None
    metadata: dict[str, Any]
    digest: str


def parse_job(job: object, now: float) -> Job:
    """Check a single job; ``now`` is seconds since 1970. Raises InvalidMessage with every fault."""
    loaded = _load(job, now)
    return _job(loaded, _asked(loaded), _wire(loaded))


class Campaign:
    """Jobs that share fields: ``common`` is checked once, a row only for what it brings."""

    def __init__(self, common: Mapping[str, Any], now: float) -> None:
        if not isinstance(common, Mapping):
            raise InvalidMessage({"common": ["must be an object"]})
        own = {name: ["belongs to a row"] for name in ("id", "address") if name in common}
        if own:
            raise InvalidMessage({f"common.{name}": texts for name, texts in own.items()})
        # A copy: the app may change its own while rows are still streamed. What is valid in there
        # has no more levels than these.
        self.common = {
            name: dict(value) if isinstance(value, Mapping) else value
            for name, value in common.items()
            if value is not None
        }
        try:
            self._loaded = _load(self.common, now, partial=True)
        except InvalidMessage as wrong:
            faults = {f"common.{path}": texts for path, texts in wrong.errors.items()}
            raise InvalidMessage(faults) from None
        if "contentType" not in self._loaded:
            self._loaded.pop("content", None)  # unchecked as yet: each row brings it as its own
        self.wire = _wire(self._loaded)
        self._asked = _asked(self._loaded)
        # With nothing else missing, a row that brings only independent fields needs no whole check.
        resend = self._loaded.get("resendSms", "smsText" in self._loaded)
        tied = resend or self._loaded.keys().isdisjoint(SMS_FIELDS)
        self._complete = tied and _REQUIRED_FIELDS - {"address"} <= self._loaded.keys()

    def parse_row(self, row: object, now: float) -> Job:
        """Check one row merged over ``common``. Raises InvalidMessage with every fault."""
        if not isinstance(row, Mapping):
            raise InvalidMessage({"": ["must be an object"]})
        if self._complete and "address" in row and row.keys() <= _INDEPENDENT:
            try:
                own = {name: _FIELDS[name].deserialize(value) for name, value in row.items()}
            except ValidationError:
                pass  # the whole check below names every fault, or takes away what is null
            else:
                kept = {k: v for k, v in self._asked.items() if k not in own}
                return _job({**self._loaded, **own}, {**kept, **_asked(own)}, _wire(own))
        merged = {k: v for k, v in {**self.common, **row}.items() if v is not None}
        loaded = _load(merged, now)
        wire = _wire(loaded)
        own = {k: v for k, v in wire.items() if k not in self.wire or self.wire[k] != v}
        own.update({k: None for k in self.wire if k not in wire})
        return _job(loaded, _asked(loaded), own)


_FIELDS = _JOB.fields
_REQUIRED_FIELDS = frozenset(name for name, field in _FIELDS.items() if field.required)
_INDEPENDENT = frozenset({"id", "address", "metadata", "comment", "subject", "ttlSec", "onUnsure"})


def _load(job: object, now: float, *, partial: bool = False) -> dict[str, Any]:
    faults: dict[str, list[str]] = {}
    loaded: dict[str, Any] = {}
    if isinstance(job, Mapping) and len(job) > FIELDS_MOST["job"]:
        raise InvalidMessage({"": [f"must have at most {FIELDS_MOST['job']} fields"]})
    try:
        loaded = _JOB.load(job, partial=partial)  # type: ignore[arg-type]
    except ValidationError as wrong:
        faults = dict(_paths(wrong.messages))
        valid = wrong.valid_data
        loaded = valid if isinstance(valid, dict) else {}
    latest = now + FARTHEST.total_seconds()
    if loaded.get("sendAt", 0) > latest * 1e6:
        faults["sendAt"] = [f"must be at most {FARTHEST.days} days ahead"]
    if faults:
        raise InvalidMessage(faults)
    return loaded


def _paths(messages: Any, path: str = "") -> Any:
    """Marshmallow's nested messages as (field path, texts); a fault of the whole has path ""."""
    if isinstance(messages, Mapping):
        for name, inner in messages.items():
            step = "" if name == "_schema" else shown(name)
            yield from _paths(inner, f"{path}.{step}".strip("."))
    else:
        yield path, [str(text) for text in messages]


def shown(name: object) -> str:
    """Somebody else's name, fit for a message: short, and without what can't be printed."""
    name = name if isinstance(name, str) else BOUNDED.repr(name)
    name = name if len(name) <= 64 else name[:61] + "..."
    return name if name.isprintable() else ascii(name)[1:-1]


def _wire(loaded: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in loaded.items() if name not in OPTIONS}


def _job(loaded: dict[str, Any], asked: Mapping[str, bytes], own: dict[str, Any]) -> Job:
    return Job(
        id=loaded.get("id"),
        own=own,
        lane=loaded["priority"],
        resend=loaded.get("resendSms", "smsText" in loaded),
        send_at=loaded.get("sendAt"),
        ttl=loaded.get("ttlSec"),
        on_unsure=loaded.get("onUnsure"),
        metadata=loaded.get("metadata", {}),
        digest=_digest(asked),
    )


def _asked(loaded: Mapping[str, Any]) -> dict[str, bytes]:
    """A hash of each field that was asked for and isn't our default anyway."""
    defaults = {
        "type": "viber",
        "ttlSec": TTL_DEFAULT,
        "metadata": {},
        "resendSms": "smsText" in loaded,
    }
    return {
        name: blake2b(f"{name}={dumps(value, sort=True)}".encode(), digest_size=16).digest()
        for name, value in loaded.items()
        if name != "id" and not (name in defaults and defaults[name] == value)
    }


def _digest(asked: Mapping[str, bytes]) -> str:
    whole = blake2b(b"".join(sorted(asked.values())), digest_size=15).digest()
    return b64encode(whole).decode()


def merge(own: str, common: Mapping[str, Any]) -> dict[str, Any]:
    """The wire fields of a stored message: its own, as JSON, over its campaign's ``common``."""
    merged = {**common, **loads(own)}
    if None in merged.values():  # a row may take away what the campaign has
        return {name: value for name, value in merged.items() if value is not None}
    return merged


def digest_of(value: object) -> str:
    """A digest of any JSON value: names a campaign's content, and a job that isn't valid."""
    return b64encode(blake2b(dumps(value, sort=True).encode(), digest_size=15).digest()).decode()


_COMPACT = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":"))
_SORTED = json.JSONEncoder(
    ensure_ascii=False, allow_nan=False, separators=(",", ":"), sort_keys=True
)
loads = json.JSONDecoder().decode
"""A JSON text of our own as a value; json.loads takes the time of a short one to look at it."""


def dumps(value: object, *, sort: bool = False) -> str:
    """Compact JSON as UTF-8 text. Raises ValueError for what JSON can't say (NaN, infinity)."""
    return (_SORTED if sort else _COMPACT).encode(value)


def micros(moment: datetime) -> int:
    """Microseconds since 1970, exactly. Raises OverflowError outside of the years 1 to 9999."""
    return (moment.astimezone(UTC) - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1)

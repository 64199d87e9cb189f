"""What an app may ask for: one element of the API's ``messages``, ``resendSms`` and our options."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Callable, Iterable, Mapping, Set
from datetime import timedelta
from functools import lru_cache
from hashlib import blake2b
from reprlib import Repr
from typing import Any, NamedTuple

from marshmallow import ValidationError
from marshmallow.fields import Field

from viber_courier.schemas.encoding import dumps
from viber_courier.schemas.errors import InvalidMessage
from viber_courier.schemas.fields import CONTENT, FIELDS_MOST, JOB, OPTIONS, SMS_FIELDS, TTL_DEFAULT

FARTHEST = timedelta(days=366)
"""How far ahead ``sendAt`` may lie."""


class _Bounded(Repr):
    """``repr`` of anything: nested too deep, or with too many digits, is still only a wrong job."""

    def repr_int(self, x: int, level: int) -> str:
        return str(x) if abs(x) < 2**64 else hex(x)  # str() refuses more than some thousand digits


BOUNDED = _Bounded()
BOUNDED.maxlevel, BOUNDED.maxlist, BOUNDED.maxdict = 20, 1000, 1000
BOUNDED.maxstring = BOUNDED.maxother = 100_000


class Job(NamedTuple):
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
        complete = tied and _REQUIRED_FIELDS - {"address"} <= self._loaded.keys()
        self._alike = _job(self._loaded, self._asked, {}) if complete else None

    def parse_row(self, row: object, now: float) -> Job:
        """Check one row merged over ``common``. Raises InvalidMessage with every fault."""
        if not isinstance(row, Mapping):
            raise InvalidMessage({"": ["must be an object"]})
        own = _each(_INDEPENDENT, _ADDRESS, row) if self._alike else None
        if own is not None and self._alike:
            id = own.pop("id", None)
            if len(own) == 1:  # an address: most rows of most campaigns
                hashes = [*self._asked.values(), _hash("address", own["address"])]
                return Job(id, own, *self._alike[2:-1], _digest(hashes))
            kept = {k: v for k, v in self._asked.items() if k not in own}
            loaded = {**self._loaded, **own, "id": id}
            return _job(loaded, {**kept, **_asked(own)}, _wire(own))
        merged = {k: v for k, v in {**self.common, **row}.items() if v is not None}
        loaded = _load(merged, now)
        wire = _wire(loaded)
        own = {k: v for k, v in wire.items() if k not in self.wire or self.wire[k] != v}
        own.update({k: None for k in self.wire if k not in wire})
        return _job(loaded, _asked(loaded), own)


_Fields = Mapping[str, "Field[Any]"]  # quoted: not generic in marshmallow 3
_Checks = Mapping[str, Callable[[Any], Any]]

_REPEATED = frozenset({"type", "subject", "priority", "contentType", "onUnsure"})
"""Fields whose few, short values come again and again: what was found of them is kept."""


def _checks(fields: _Fields, *without: str) -> _Checks:
    return {
        # Typed: a member of an app's StrEnum is not to come back for somebody else's string.
        name: lru_cache(1024, typed=True)(field.deserialize)
        if name in _REPEATED
        else field.deserialize
        for name, field in fields.items()
        if name not in without
    }


def _required(fields: _Fields) -> frozenset[str]:
    return frozenset(name for name, field in fields.items() if field.required)


_REQUIRED_FIELDS, _ADDRESS = _required(JOB.fields), frozenset({"address"})
_SIMPLE = _checks(JOB.fields, *SMS_FIELDS, "resendSms")
_INDEPENDENT = {
    name: _SIMPLE[name]
    for name in ("id", "address", "metadata", "comment", "subject", "ttlSec", "onUnsure")
}
_CONTENT_FIELDS = {
    kind: (_checks(each.fields), _required(each.fields)) for kind, each in CONTENT.items()
}


def _each(checks: _Checks, required: Set[str], given: Mapping[str, Any]) -> dict[str, Any] | None:
    """Values checked one by one, where no field depends on another: a fraction of a schema's time.

    None where anything is missing, unknown or wrong: a look at the whole names every fault.
    """
    if not required <= given.keys() <= checks.keys():
        return None
    try:
        return {name: checks[name](value) for name, value in given.items()}
    except (ValidationError, TypeError):  # or what can't be looked up among those found before
        return None


def _simple(job: object) -> dict[str, Any] | None:
    """A job that leaves SMS to the default; None: not one, or something is wrong with it."""
    loaded = _each(_SIMPLE, _REQUIRED_FIELDS, job) if isinstance(job, dict) else None
    if loaded is not None:
        content = _each(*_CONTENT_FIELDS[loaded["contentType"]], loaded["content"])
        return None if content is None else {**loaded, "content": content}
    return None


def _load(job: object, now: float, *, partial: bool = False) -> dict[str, Any]:
    faults: dict[str, list[str]] = {}
    loaded: dict[str, Any] = {}
    if isinstance(job, Mapping) and len(job) > FIELDS_MOST["job"]:
        raise InvalidMessage({"": [f"must have at most {FIELDS_MOST['job']} fields"]})
    try:
        given: Any = job
        loaded = (None if partial else _simple(job)) or JOB.load(given, partial=partial)
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
        digest=_digest(asked.values()),
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
        name: (_hash_again if name in _REPEATED else _hash)(name, value)
        for name, value in loaded.items()
        if name != "id" and not (name in defaults and defaults[name] == value)
    }


def _hash(name: str, value: object) -> bytes:
    return blake2b(f"{name}={dumps(value, sort=True)}".encode(), digest_size=16).digest()


_hash_again = lru_cache(1024)(_hash)


def _digest(hashes: Iterable[bytes]) -> str:
    whole = blake2b(b"".join(sorted(hashes)), digest_size=15).digest()
    return b64encode(whole).decode()


def shown(name: object) -> str:
    """Somebody else's name, fit for a message: short, and without what can't be printed."""
    name = name if isinstance(name, str) else BOUNDED.repr(name)
    name = name if len(name) <= 64 else name[:61] + "..."
    return name if name.isprintable() else ascii(name)[1:-1]

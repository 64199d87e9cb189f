"""Checks jobs: one element of the API's ``messages``, ``resendSms`` and our options."""

from base64 import b64encode
from collections.abc import Callable, Collection, Iterable, Mapping
from datetime import timedelta
from functools import lru_cache, partial
from hashlib import blake2b
from operator import itemgetter
from reprlib import Repr
from typing import Any, NamedTuple

from marshmallow import Schema, ValidationError

from viber_courier.schemas import fields
from viber_courier.schemas.encoding import digest_of, dumps, dumps_sorted, loads
from viber_courier.schemas.errors import InvalidMessage
from viber_courier.schemas.instants import SECOND
from viber_courier.schemas.window import NoZone, Window, next_opening, settled, window_text

MAX_AHEAD = timedelta(days=366)
"""How far ahead ``sendAt`` may be."""


class _Bounded(Repr):
    """Returns a bounded ``repr`` of any value, however deep, long or recursive it is."""

    def repr_int(self, x: int, level: int) -> str:
        return str(x) if abs(x) < 2**64 else hex(x)  # str() refuses over 4300 digits


BOUNDED = _Bounded()
BOUNDED.maxlevel, BOUNDED.maxlist, BOUNDED.maxdict = 20, 1000, 1000
BOUNDED.maxstring = BOUNDED.maxother = 100_000


class Job(NamedTuple):
    """A valid job, ready to be stored.

    ``own`` is the JSON of the job's wire fields: all of them, or those that differ from its
    campaign's ``common`` (null removes one). ``send_at`` is in microseconds; ``ttl`` is in seconds,
    None if the app set none. ``metadata`` is JSON, or empty. ``digest`` is the same for all
    spellings of the same job. ``window`` is its sending hours as stored, or empty: then ``send_at``
    may be their opening, and ``wait`` is how much of its time to live is over by then, in
    microseconds; -1: all of it (``require_in_time``).
    """

    id: str | None
    own: str
    lane: str
    resend: bool
    send_at: int | None
    ttl: int | None
    on_unsure: str | None
    source: str | None
    campaign: str | None
    metadata: str
    digest: str
    ignores_suppression: bool | None = None
    window: str = ""
    wait: int = 0


def parse_job(job: object, now: float) -> Job:
    """Returns a checked job; ``now`` is in seconds since 1970.

    Raises InvalidMessage with every fault.
    """
    if found := _check(_checks_of, job, now):
        return found
    loaded = _load(job, now)
    parts = _parts(loaded)
    parts["resendSms"] = _flag(parts.get("resendSms"), "smsText" in parts)
    return _job({**_ABSENT, **parts}, [p[2] for p in parts.values()], dumps(_wire(loaded)), now)


def require_in_time(job: Job) -> Job:
    """Returns a job. Raises InvalidMessage if its window doesn't open before its time is over.

    That is no rule of parse_job, for it may not hold any more when an app repeats a call.
    """
    if job.wait < 0:
        raise InvalidMessage({"sendWindow": ["doesn't open before ttlSec is over"]})
    return job


def parse_address(text: object) -> str:
    """Returns a phone number as a job's ``address`` is stored. Raises InvalidMessage."""
    try:
        return str(_MEASURES["address"](text)[0])
    except ValidationError as wrong:
        raise InvalidMessage({"address": [str(each) for each in wrong.messages]}) from None


def named(job: Any, source: str) -> Any:
    """Returns a job, or a campaign's common part, with this source unless it names one."""
    return {"source": source, **job} if source and isinstance(job, Mapping) else job


class Campaign:
    """Checks jobs that share fields: ``common`` once, and of each row only its own fields."""

    def __init__(self, common: Mapping[str, Any], now: float) -> None:
        if not isinstance(common, Mapping):
            raise InvalidMessage({"common": ["must be an object"]})
        own = {name: ["belongs to a row"] for name in ("id", "address") if name in common}
        if own:
            raise InvalidMessage({f"common.{name}": texts for name, texts in own.items()})
        # Copied, because the app may change its own while rows are streamed. Valid values have no
        # more levels than these two.
        self.common = {
            name: dict(value) if isinstance(value, Mapping) else value
            for name, value in common.items()
            if value is not None
        }
        try:
            loaded = _load(self.common, now, partial=True)
        except InvalidMessage as wrong:
            faults = {f"common.{path}": texts for path, texts in wrong.errors.items()}
            raise InvalidMessage(faults) from None
        if "contentType" not in loaded:
            loaded.pop("content", None)  # not checked without a type: each row's job includes it
        self.wire = _wire(loaded)
        self.json, self.digest = dumps(self.wire), digest_of(self.wire)
        self._checks_of = lru_cache(128, typed=True)(partial(_Checks, _parts(loaded)))

    def parse_row(self, row: object, now: float) -> Job:
        """Returns the checked job of a row merged over ``common``.

        Raises InvalidMessage with every fault.
        """
        if found := _check(self._checks_of, row, now):
            return found
        if not isinstance(row, Mapping):
            raise InvalidMessage({"": ["must be an object"]})
        merged = {k: v for k, v in {**self.common, **row}.items() if v is not None}
        job = parse_job(merged, now)
        wire = loads(job.own)
        own = {k: v for k, v in wire.items() if k not in self.wire or self.wire[k] != v}
        own.update({k: None for k in self.wire if k not in wire})
        return job._replace(own=dumps(own))


_Part = tuple[Any, str, bytes]
"""A field's stored value, its JSON, and its hash; an empty hash is left out of the digest."""
_Measure = Callable[[Any], _Part]

_LOW_CARDINALITY = frozenset(
    {"type", "subject", "priority", "contentType", "onUnsure", "resendSms", "smsSrcAddress"}
    | {"source", "campaign", "ttlSec", "validityPeriodSec", "smsValidityPeriodSec"}
    | {"ignoreSuppression"}
)
"""Low-cardinality fields with short values; validation results are cached."""
_DEFAULTS: Mapping[str, Any] = {
    **{"type": "viber", "ttlSec": fields.TTL_DEFAULT},
    **{"metadata": {}, "ignoreSuppression": False},
}
"""Values that the digest leaves out: a job that states a default is the same job without it."""


def _measure(
    name: str, rule: fields.Rule, to_json: Callable[[Any], str] = dumps_sorted
) -> _Measure:
    """Returns a function that checks a value of this field and returns its part."""
    seed = blake2b(f"{name}=".encode(), digest_size=16)
    default, is_id = _DEFAULTS.get(name), name == "id"

    def measure(given: Any) -> _Part:
        value = rule(given)
        text = to_json(value)
        if is_id or value == default:
            return value, text, b""
        state = seed.copy()  # takes half the time of a new hash
        state.update(text.encode())
        return value, text, state.digest()

    return measure


def _cached(name: str, measure: _Measure) -> _Measure:
    # Typed, so that a member of one app's StrEnum is not returned for another's plain string.
    return lru_cache(1024, typed=True)(measure) if name in _LOW_CARDINALITY else measure


def _present(schema: Schema, names: Collection[str], known: Collection[str]) -> list[str]:
    """Returns the schema's fields among ``names``.

    Raises ValidationError if a name is no field, or a required field isn't ``known``.
    """
    found = [name for name in schema.fields if name in names]
    missing = [n for n, field in schema.fields.items() if field.required and n not in known]
    if missing or len(found) < len(names):
        raise ValidationError("")
    return found


def _template(names: Iterable[str]) -> str:
    """Returns the ``%`` template of a JSON object with these names."""
    return "{" + ",".join(f'"{name}":%s' for name in names) + "}"


@lru_cache(256)
def _content_rules(kind: str, names: tuple[str, ...]) -> tuple[list[tuple[str, fields.Rule]], str]:
    found = sorted(_present(fields.CONTENT[kind], names, names))
    known = fields.rules(fields.CONTENT[kind])
    return [(name, known[name]) for name in found], _template(found)


def _content_json(kind: str, content: Any) -> str:
    """Returns content of this ``contentType`` as JSON with sorted keys. Raises ValidationError."""
    if not isinstance(content, dict):
        raise ValidationError("")
    found, template = _content_rules(kind, tuple(content))
    return template % tuple([dumps(rule(content.get(name))) for name, rule in found])


def _unchanged(value: Any) -> Any:
    return value


_TO_JSON: Mapping[str, Callable[[Any], str]] = {"sendAt": str, "metadata": fields.metadata_json}
_MEASURES = {
    name: _cached(name, _measure(name, rule, _TO_JSON.get(name, dumps_sorted)))
    for name, rule in fields.rules(fields.JOB).items()
}
_CONTENT = {
    kind: _measure("content", _unchanged, partial(_content_json, kind)) for kind in fields.CONTENT
}
_OF_JOB = (
    *("metadata", "id", "priority", "resendSms", "sendAt", "ttlSec", "onUnsure", "source"),
    *("campaign", "ignoreSuppression", "sendWindow"),
)
_of_job = itemgetter(*_OF_JOB)
_ABSENT = dict.fromkeys(_OF_JOB, (None, "", b""))
_DIGEST = blake2b(digest_size=15)


class _Checks:
    """The checks for jobs with the same fields over the same ``common``, composed once.

    The names of the fields, contentType and resendSms decide which checks are needed and whether
    the rules across fields hold. Raises ValidationError, TypeError or KeyError if they don't.
    """

    def __init__(
        self, common: Mapping[str, _Part], names: tuple[str, ...], kind: Any, resend: Any
    ) -> None:
        known = {*common, *names}
        found = _present(fields.JOB, names, known)
        if "contentType" not in names:
            kind = common["contentType"][0]
        elif "content" not in names:
            raise ValidationError("")  # common's content was checked for another type
        given = _MEASURES["resendSms"](resend) if "resendSms" in names else common.get("resendSms")
        flag = _flag(given, "smsText" in known)
        if kind == "image" if flag[0] else not known.isdisjoint(fields.SMS_FIELDS):
            raise ValidationError("")  # an image has no SMS; SMS fields need resendSms
        measures = {**_MEASURES, "content": _CONTENT[kind]}
        self.measures = [(name, measures[name]) for name in found if name != "resendSms"]
        self.wire = [name for name in found if name not in fields.OPTIONS]
        self.template = _template(self.wire)
        self.parts = {**_ABSENT, **common, "resendSms": flag}
        fixed = self.parts.keys() - dict(self.measures)
        self.hashes = [*filter(None, [self.parts[name][2] for name in fixed])]


_checks_of = lru_cache(1024, typed=True)(partial(_Checks, {}))


def _check(checks_of: Callable[..., _Checks], given: object, now: float) -> Job | None:
    """Returns the job if it is valid. None: the schema must look at it and name every fault."""
    if not isinstance(given, dict) or len(given) > fields.MAX_FIELDS["job"]:
        return None
    get = given.get
    try:
        checks = checks_of(tuple(given), get("contentType"), get("resendSms"))
        parts = {name: measure(get(name)) for name, measure in checks.measures}
    except (ValidationError, TypeError, KeyError):
        return None
    if "sendAt" in parts and parts["sendAt"][0] > _latest(now):
        return None
    own = checks.template % tuple([parts[name][1] for name in checks.wire])
    hashes = checks.hashes + [part[2] for part in parts.values()]
    return _job({**checks.parts, **parts}, hashes, own, now)


def _flag(given: _Part | None, default: bool) -> _Part:
    """Returns the part of resendSms; ``default`` is whether the job has an smsText."""
    return (default, "", b"") if given is None or given[0] == default else given


def _parts(loaded: Mapping[str, Any]) -> dict[str, _Part]:
    """Returns the parts of values that the schema has validated."""
    return {name: _measure(name, _unchanged)(value) for name, value in loaded.items()}


def _latest(now: float) -> float:
    """Returns the latest ``sendAt`` allowed, in microseconds since 1970."""
    return (now + MAX_AHEAD.total_seconds()) * 1e6


def _load(job: object, now: float, *, partial: bool = False) -> dict[str, Any]:
    """Returns the values that the schema accepts. Raises InvalidMessage with every fault."""
    faults: dict[str, list[str]] = {}
    loaded: dict[str, Any] = {}
    if isinstance(job, Mapping) and len(job) > fields.MAX_FIELDS["job"]:
        raise InvalidMessage({"": [f"must have at most {fields.MAX_FIELDS['job']} fields"]})
    try:
        given: Any = job
        loaded = fields.JOB.load(given, partial=partial)
    except ValidationError as wrong:
        faults = dict(_paths(wrong.messages))
        valid = wrong.valid_data
        loaded = valid if isinstance(valid, dict) else {}
    if loaded.get("sendAt", 0) > _latest(now):
        faults["sendAt"] = [f"must be at most {MAX_AHEAD.days} days ahead"]
    if faults:
        raise InvalidMessage(faults)
    return loaded


def _paths(messages: Any, path: str = "") -> Any:
    """Yields marshmallow's nested messages as (field path, texts); "" is the whole job."""
    if isinstance(messages, Mapping):
        for name, inner in messages.items():
            yield from _paths(inner, path if name == "_schema" else f"{path}.{printable(name)}")
    else:
        yield path.removeprefix("."), [str(text) for text in messages]


def _wire(loaded: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in loaded.items() if name not in fields.OPTIONS}


def _job(parts: Mapping[str, _Part], hashes: list[bytes], own: str, now: float) -> Job:
    metadata, *others = _of_job(parts)
    id, *options, ignores, window = [part[0] for part in others]
    texts = metadata[1] if metadata[0] else "", _digest(hashes)
    job = Job._make((id, own, *options, *texts, ignores, "", 0))
    return _in_window(job, window, parts["address"][0], now) if window else job


def _in_window(job: Job, window: Window, address: str, now: float) -> Job:
    """Returns a job that waits until its window opens. Raises InvalidMessage for unknown zones."""
    start = max(int(now * SECOND), job.send_at or 0)
    try:
        window = settled(window, address, start)
        opening = next_opening(start, window)
    except NoZone as wrong:
        raise InvalidMessage({"sendWindow.zone": [str(wrong)]}) from None
    left = fields.TTL_DEFAULT if job.ttl is None else job.ttl - fields.VALIDITY[0]
    if opening is None or opening >= start + left * SECOND:
        job = job._replace(wait=-1)
    elif opening > start:
        job = job._replace(send_at=opening, wait=opening - start)
    return job._replace(window=window_text(window))


def _digest(hashes: Iterable[bytes]) -> str:
    state = _DIGEST.copy()
    state.update(b"".join(sorted(hashes)))
    return b64encode(state.digest()).decode()


def printable(name: object) -> str:
    """Returns a name from outside, shortened and printable, for use in an error."""
    name = name if isinstance(name, str) else BOUNDED.repr(name)
    name = name if len(name) <= 64 else name[:61] + "..."
    return name if name.isprintable() else ascii(name)[1:-1]

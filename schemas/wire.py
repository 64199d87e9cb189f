"""The provider's requests and replies: strict in what is sent, tolerant in what is read.

This module alone translates the provider's delivery states; it keeps the original words.
"""

import json
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache, partial
from typing import Any, Generic, TypeVar

from viber_courier.schemas.encoding import dumps
from viber_courier.schemas.event import SmsState
from viber_courier.schemas.status import Status

SEND_PATH, STATUS_PATH = "/send", "/status"

STATES = {
    "enqueued": Status.SUBMITTED,
    "sent": Status.SENT,
    "delivered": Status.DELIVERED,
    "read": Status.READ,
    "visited": Status.READ,  # not in the provider's document, seen in the wild
    "undelivered": Status.UNDELIVERED,
    "vp_expired": Status.UNDELIVERED,  # likewise
    "failed": Status.FAILED,
    "cancelled": Status.CANCELLED,
}
"""The provider's Viber states as ours (docs/provider-api.md, "Delivery states")."""

_SMS_FINISHED = {"delivered": True, "undelivered": False}
"""SMS states after which a segment no longer changes, and whether it was delivered."""
_SMS_STATES = {"", "enqueued", "sent", *_SMS_FINISHED}


_DATE = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2} [0-9]{2}:[0-9]{2}:[0-9]{2}")


_NUMBER = re.compile(r"[0-9]{5,}")
_INVISIBLE = "\u200b\u200c\u200d\u200e\u200f\u2060\ufeff"
_BLANKS = rf"[\s{_INVISIBLE}]*"
_ID = re.compile(rf"{_BLANKS}\+?0*([1-9][0-9]{{0,19}}){_BLANKS}")
"""An id's digits: blanks around them, a plus sign and leading zeros change no number."""
_MAX_WORD = 64
_MAX_SEGMENTS = 100
_NAMES = {"status", "messages", "code", "providerId", "statusAt", "error", "errorCode"}
_NAMES |= {"smsStates", "id", "state"}
_FOLDED_NAMES = {name.lower(): name for name in _NAMES}
"""The fields of replies, by their names without case, blanks, hyphens and underscores."""
_CONTRADICTED = [None]
"""The value of a field that an object has twice, with different values: nothing can use it."""


@dataclass(frozen=True, slots=True)
class SendEntry:
    """One entry of a /send reply. ``provider_id`` is None unless it is usable
    (docs/provider-api.md#t23).
    """

    code: str | None
    provider_id: int | None


@dataclass(frozen=True, slots=True)
class StatusEntry:
    """One entry of a /status reply. ``status`` is None if the state is missing or unknown.

    ``raw_at`` keeps a ``statusAt`` that isn't a date, cut to 64 characters
    (docs/provider-api.md#t36). ``unread``: it has a state or segments that can't be read.
    """

    provider_id: int
    code: str | None
    word: str | None
    status: Status | None
    at: str | None
    error: str | None
    sms: tuple[SmsState, ...]
    raw_at: str | None = None
    unread: bool = False


Entry = TypeVar("Entry")


@dataclass(frozen=True, slots=True)
class Reply(Generic[Entry]):
    """A reply: the code of the whole request, and its entries; each is None if unreadable.

    ``unread``: how many other entries it has, whose ids are not usable.
    """

    status: str | None
    entries: Sequence[Entry] | None
    unread: int = 0


def send_body(
    common: Mapping[str, Any], messages: Sequence[Mapping[str, Any]], resend: bool
) -> bytes:
    """Returns the body of a /send request (docs/provider-api.md#t1 to #t4, #t7)."""
    body: dict[str, Any] = {"resendSms": "true" if resend else "false"}
    if common:
        body["commonData"] = common
    body["messages"] = messages
    return dumps(body).encode()


def status_body(provider_ids: Collection[int]) -> bytes:
    """Returns the body of a /status request: integers, each once (docs/provider-api.md#t25)."""
    return dumps({"messages": list(dict.fromkeys(provider_ids))}).encode()


def read_send(body: bytes) -> Reply[SendEntry]:
    """Returns a /send reply; a body that isn't the API's JSON has neither code nor entries."""
    status, items = _read(body)
    if items is None:
        return Reply(status, None)
    return Reply(status, [SendEntry(_word(e.get("code")), _id(e.get("providerId"))) for e in items])


def read_status(body: bytes) -> Reply[StatusEntry]:
    """Returns a /status reply, as ``read_send`` does, without entries that have no usable id."""
    status, items = _read(body)
    if items is None:
        return Reply(status, None)
    entries = [e for each in items if (e := _status_entry(each)) is not None]
    return Reply(status, entries, len(items) - len(entries))


def fold(word: str) -> str:
    """Returns a provider's word in lower case, "_" as "-" (docs/provider-api.md#t33, #t35)."""
    return _plain(word).replace("_", "-")


@lru_cache(256)
def _plain(word: str) -> str:
    return word.translate(dict.fromkeys(map(ord, _INVISIBLE))).strip().lower()


def is_known_sms(states: Sequence[SmsState]) -> bool:
    """Returns whether the document has each state; a segment may have none."""
    return all(_plain(s.state) in _SMS_STATES for s in states)


def sms_leg(states: Sequence[SmsState]) -> Status | None:
    """Returns the status of all segments together; None without any (docs/provider-api.md#t28)."""
    if not states:
        return None
    ends = [_SMS_FINISHED.get(_plain(s.state)) for s in states]
    if None in ends:
        return Status.SMS_SENT
    return Status.SMS_DELIVERED if all(ends) else Status.UNDELIVERED


def _read(body: bytes) -> tuple[str | None, list[dict[str, Any]] | None]:
    try:
        try:
            reply = _parse(body)
        except UnicodeDecodeError:  # a text in another encoding; all that is used is ASCII
            reply = _parse(body.decode("utf-8-sig", "replace"))
    except (ValueError, RecursionError):
        return None, None
    if not isinstance(reply, dict):
        return None, None
    status, items = _word(reply.get("status")), _listed(reply.get("messages"))
    if items is None:
        return status, None
    # An entry that is no object keeps its place: /send replies match by position
    # (docs/provider-api.md#t10).
    return status, [item if isinstance(item, dict) else {} for item in items]


class _Number(str):
    """A number as it is spelled. Numbers are no words."""

    __slots__ = ()


def _parse(body: bytes | str) -> Any:
    """Returns a JSON text's value. A number with a point or exponent stays text: no id becomes a
    float."""
    texts: dict[str, Any] = dict.fromkeys(("parse_float", "parse_constant"), _Number)
    read = partial(json.loads, body, object_pairs_hook=_object, strict=False, **texts)
    try:
        return read()
    except ValueError:  # perhaps a whole number with more digits than Python makes an int of
        return read(parse_int=_Number)


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Returns an object by our names of its fields (docs/provider-api.md#t43)."""
    found = dict(pairs)
    if len(found) == len(pairs) and _NAMES.issuperset(found):
        return found
    found.clear()
    for given, value in pairs:
        name = _FOLDED_NAMES.get(re.sub(r"[\s_-]", "", given).lower(), given)
        was = found.get(name, value)
        agrees = was == value or (_id(was) or 0) == _id(value)
        found[name] = value if agrees else _CONTRADICTED
    return found


def _listed(value: object) -> list[Any] | None:
    """Returns a list; an object that stands for a list of one is one."""
    if isinstance(value, dict) and value:
        return [value]
    return value if isinstance(value, list) else None


def _word(value: object) -> str | None:
    return _folded(value[: 4 * _MAX_WORD]) if type(value) is str else None


@lru_cache(256)
def _folded(value: str) -> str:
    """Returns a word folded; cached, because replies repeat few words."""
    return fold(_brief(value))


@lru_cache(256)
def _short(value: str) -> str:
    return _brief(value)


@lru_cache(256)
def _state(value: str) -> tuple[str, Status | None]:
    word = _brief(value)
    return word, STATES.get(_plain(word))


def _spelled(value: object) -> str | None:
    """Returns a text, or a number's text; None of anything else."""
    return value if isinstance(value, str) else str(value) if type(value) is int else None


def _text(value: str) -> str:
    """Returns a text that UTF-8 and PostgreSQL can hold: JSON may have lone surrogates and NUL."""
    return value.encode("utf-8", "replace").decode().replace("\0", "?")


def _brief(value: str) -> str:
    """Returns a provider's word for logs and events: cut short, with long numbers hidden."""
    return _NUMBER.sub("*", _text(value[: 4 * _MAX_WORD]))[:_MAX_WORD]


def _id(value: object) -> int | None:
    """Returns the id that a number or a string spells (docs/provider-api.md#t23)."""
    if type(value) is not int:
        found = _ID.fullmatch(value) if isinstance(value, str) else None
        value = int(found[1]) if found else 0
    return value if 0 < value < 2**64 else None


def _status_entry(entry: Mapping[str, Any]) -> StatusEntry | None:
    provider_id = _id(entry.get("providerId"))
    if provider_id is None:
        return None
    state, raw_at = entry.get("status"), _spelled(entry.get("statusAt"))
    spelled = _spelled(state)
    word, status = (None, None) if spelled is None else _state(spelled[: 4 * _MAX_WORD])
    at = _instant(raw_at)
    states = entry.get("smsStates")
    sms, odd = _sms(_listed(states) or [None]) if states else ((), False)
    return StatusEntry(
        provider_id=provider_id,
        code=_word(entry.get("code")),
        word=word,
        status=status,
        at=at,
        error=_word(entry.get("error")) or _word(entry.get("errorCode")),
        sms=sms,
        raw_at=_text(raw_at[:64]) if at is None is not raw_at else None,
        unread=odd or word is None is not state,
    )


def _sms(segments: Sequence[Any]) -> tuple[tuple[SmsState, ...], bool]:
    """Returns the segments, and whether some of them, or of what they say, can't be read."""
    readable = [each for each in segments[:_MAX_SEGMENTS] if isinstance(each, dict)]
    found, odd = list[SmsState](), len(readable) < len(segments)
    for each in readable:
        state, id = each.get("state"), _id(each.get("id"))
        state = each.get("status") if state is None else state
        word = _spelled(state)
        odd = odd or word is None is not state or id is None is not each.get("id")
        found.append(
            SmsState(str(id) if id else None, _short(word[: 4 * _MAX_WORD]) if word else "")
        )
    if found and len(found) < len(segments):
        found.append(SmsState(None, ""))  # a segment without a state counts as unfinished
    return tuple(found), odd


def _instant(value: str | None) -> str | None:
    """Returns ``statusAt`` as ISO 8601 in UTC; None if no date (docs/provider-api.md#t36)."""
    return _utc(value) if value and _DATE.fullmatch(value) else None


@lru_cache(256)
def _utc(value: str) -> str | None:
    try:
        return datetime.fromisoformat(value).isoformat() + "Z"
    except ValueError:
        return None

"""The simulator's own reading of `provider/viber-http-api.txt`: pure rules, no I/O, no clock.

It imports nothing of the courier, so that the two readings of the document can disagree. Where the
document is silent it is read strictly (a client that passes here is the more careful one):

- one fault is reported: the address's, else the first in the order of the table of codes;
- a missing, null or empty mandatory field is "not specified"; null in an optional one is a wrong
  format. `priority`, `contentType` and the fields of `content` have only `...-format` codes;
- an address is a string of 7 to 15 digits without a leading 0 (the document's own have 10);
- the 1000 characters of a button's text hold for a plain text too; URLs are absolute ones;
- an image with the flag on is `error-content-type-format`: that content can't be resent;
- a wrong `smsText` or `smsSrcAddress` is `error-resend-sms-error`, the only code about them;
- `resendSms`, `commonData` and `imageUrl` are the examples' names; the prose's (`resentSMS`,
  `messageCommonData`, `image`) are unknown fields, and those are ignored;
- a string that has no UTF-8 form (a lone surrogate) is a wrong format of its field.
"""

import json
import re
from collections.abc import Callable
from datetime import UTC, datetime
from random import Random
from typing import Any, NamedTuple

Json = dict[str, Any]


class Ending(NamedTuple):
    """How a message's life goes, a state per step; the last one stays.

    `sms` has the states of all segments per step, between commas. It begins a step after Viber's
    last state (with `both`: together with it), only where the request had the resend flag on.
    """

    viber: str = "enqueued sent delivered read"
    error: str = ""  # beside Viber's last state
    sms: str = ""
    both: bool = False  # Viber's state stays in the reply beside the SMS
    hidden: int = 0  # steps for which /status doesn't know the id
    refusal: str = ""  # the code of the /send entry
    once: bool = False  # refused only the first time for this address with this content


_NOT_REACHED = "enqueued sent undelivered"
_GROWING = (
    "sent, delivered sent, delivered delivered enqueued,"
    " delivered delivered sent, delivered delivered delivered"
)
ENDINGS = {  # by the last two digits of the address; any others: Ending()
    10: Ending("enqueued sent delivered"),
    20: Ending(_NOT_REACHED, "user-blocked"),
    21: Ending(_NOT_REACHED, "not-viber-user", "enqueued, sent, delivered"),
    22: Ending(_NOT_REACHED, "not-viber-user", _GROWING),
    23: Ending(_NOT_REACHED, "not-viber-user", "sent sent sent, delivered undelivered delivered"),
    24: Ending(_NOT_REACHED, "not-viber-user", "enqueued enqueued, sent sent"),
    30: Ending("enqueued sent failed"),
    31: Ending("enqueued sent failed", sms="sent, delivered"),
    40: Ending("enqueued sent cancelled"),
    50: Ending("", refusal="error-address-unknown"),
    51: Ending("", refusal="error-subject-unknown"),
    60: Ending(refusal="error-system", once=True),
    61: Ending("", refusal="error-system"),
    62: Ending("enqueued sent read", hidden=2),
    70: Ending("enqueued sent"),
    71: Ending("enqueued"),
    80: Ending("enqueued sent vp_expired"),  # not in the document, seen in the wild
    81: Ending("enqueued sent delivered", sms="delivered", both=True),
    82: Ending("enqueued sent delivered visited"),  # not in the document
}


def endings() -> dict[str, str]:
    """The table in words, as `--help` and GET /admin/endings give it: what differs from nothing."""
    told = {}
    for digits, ending in [*ENDINGS.items(), ("other", Ending())]:
        words = [f"{name} {value}" for name, value in ending._asdict().items() if value]
        told[str(digits)] = "; ".join(words)
    return told


class Send(NamedTuple):
    """A readable body of /send."""

    resend: bool  # on where omitted: the document's default
    common: Json
    rows: list[Json]


def _object(pairs: list[tuple[str, Any]]) -> Json:
    made = dict(pairs)
    if len(made) != len(pairs):
        raise ValueError("duplicated key")
    return made


def _read(body: bytes) -> Json:
    try:
        text = body.decode()  # json alone would take UTF-16 too, and NaN, for which int raises
        parsed = json.loads(text, object_pairs_hook=_object, parse_constant=int)
    except (ValueError, RecursionError):
        return {}
    good = isinstance(parsed, dict) and isinstance(parsed.get("messages"), list)
    return parsed if good else {}


def read_send(body: bytes) -> Send | None:
    """A body of /send, or None where the request as a whole is `error-syntax`."""
    parsed = _read(body)
    rows, common = parsed.get("messages"), parsed.get("commonData", {})
    flag = parsed.get("resendSms", True)
    if not rows or not (isinstance(flag, bool) or flag in ("true", "false")):
        return None
    if not all(isinstance(each, dict) for each in (common, *rows)):
        return None
    return Send(flag in (True, "true"), common, rows)


def read_status(body: bytes) -> list[Any] | None:
    """The ids in a body of /status, unchecked, or None where it is `error-syntax`."""
    return _read(body).get("messages") or None


Check = Callable[[Any], bool]
Rule = tuple[str, str, str, Check]
"""A field's name, the codes for "missing" ("" where it may be) and for "wrong", and the check."""


_CHAR = r"[^\ud800-\udfff]"  # what UTF-8 can carry


def _text(form: str = f"{_CHAR}*") -> Check:
    fits = re.compile(form).fullmatch
    return lambda value: isinstance(value, str) and fits(value) is not None


def _one_of(*words: str) -> Check:
    return lambda value: value in words


def _number(least: float, most: float, *types: type) -> Check:
    return lambda value: type(value) in types and least <= value <= most  # a bool is no int here


_URL = _text(r"[A-Za-z][A-Za-z0-9+.-]*://[^\s\ud800-\udfff]+")
_VALIDITY = _number(15, 86400, int)
_PRIORITIES = _one_of("low", "normal", "high", "realtime")
_PRIORITY = "error-priority-format"
_NO_TYPE = "error-instant-message-type-not-specified"
_WRONG_TYPE = "error-instant-message-type-format"
_WRONG_CONTENT = "error-content-type-format"
_WRONG_SMS = "error-resend-sms-error"
_ADDRESS = _text(r"[1-9][0-9]{6,14}")
_ADDRESS_RULES = (("address", "error-address-not-specified", "error-address-format", _ADDRESS),)
_RULES = (
    ("subject", "error-subject-not-specified", "error-subject-format", _text(_CHAR + "{1,11}")),
    ("priority", _PRIORITY, _PRIORITY, _PRIORITIES),
    ("comment", "", "error-comment-format", _text()),
    ("type", _NO_TYPE, _WRONG_TYPE, _one_of("viber")),
    ("contentType", _WRONG_CONTENT, _WRONG_CONTENT, _one_of("text", "image", "button")),
    ("content", "error-content-not-specified", _WRONG_CONTENT, lambda v: isinstance(v, dict)),
    ("validityPeriodSec", "", "error-validity-period-seconds-format", _VALIDITY),
)


def _part(name: str, check: Check, missing: str = _WRONG_CONTENT) -> Rule:
    return name, missing, _WRONG_CONTENT, check


_TEXT = _part("text", _text(_CHAR + "{1,1000}"))
_CAPTION = _part("caption", _text(_CHAR + "{1,19}"))
_CONTENT_RULES = {
    "text": (_TEXT,),
    "button": (_TEXT, _CAPTION, _part("action", _URL), _part("imageUrl", _URL, missing="")),
    "image": (_part("imageUrl", _URL),),
}
_SMS_RULES = (
    ("smsText", "", _WRONG_SMS, _text()),
    ("smsSrcAddress", "", _WRONG_SMS, _text("[A-Za-z0-9]{1,11}")),
    ("smsValidityPeriodSec", "", "error-resend-sms-validity-period-error", _VALIDITY),
)


def _first_fault(fields: Json, rules: tuple[Rule, ...]) -> str:
    for name, missing, wrong, good in rules:
        value = fields.get(name)
        if missing and (value is None or value == ""):
            return missing
        if name in fields and not good(value):
            return wrong
    return ""


def address_fault(message: Json) -> str:
    """The code for a missing or wrong address, or ""."""
    return _first_fault(message, _ADDRESS_RULES)


def other_fault(message: Json, resend: bool) -> str:
    """The code for the first fault of an expanded message but for its address, or ""."""
    if fault := _first_fault(message, _RULES):
        return fault
    kind, content = message["contentType"], message["content"]
    if fault := _first_fault(content, _CONTENT_RULES[kind]):
        return fault
    if kind == "image" and resend:
        return _WRONG_CONTENT
    if not resend and any(name in message for name, *_ in _SMS_RULES):
        return _WRONG_SMS
    return _first_fault(message, _SMS_RULES)


_ID = "error-instant-message-provider-id"


def unknown_entry(provider_id: int) -> Json:
    """The /status entry of an id that was never given out."""
    return {"providerId": provider_id, "code": f"{_ID}-unknown"}


def status_entry(
    provider_id: int, ending: Ending, resend: bool, at: float, now: float, step: float
) -> Json:
    """The /status entry of a message accepted `at`; Unix seconds, `step` in seconds."""
    steps = (now - at) / step if step else float("inf")
    if steps < ending.hidden:
        return unknown_entry(provider_id)
    states = ending.viber.split()
    stage = int(min(steps, len(states) - 1))
    since_sms = steps - len(states) + ending.both
    sms = ending.sms.split(", ") if ending.sms and resend and since_sms >= 0 else []
    entry: Json = {"providerId": provider_id, "code": "ok"}
    if not sms or ending.both:
        entry["status"] = states[stage]
        entry["statusAt"] = f"{datetime.fromtimestamp(at + stage * step, UTC):%Y-%m-%d %H:%M:%S}"
        if ending.error and stage == len(states) - 1:
            entry["error"] = ending.error
    if sms:
        first = 583465579822710784 + provider_id % 10**15 * 4  # over 2^53, like the document's
        segments = enumerate(sms[int(min(since_sms, len(sms) - 1))].split())
        entry["smsStates"] = [{"id": first + n, "state": state} for n, state in segments]
    return entry


def status_entries(ids: list[Any], state: Callable[[int], Json]) -> list[Json]:
    """An entry per id asked for; `state` answers for the first mention of a well-formed one."""
    entries: list[Json] = []
    seen: set[int] = set()
    for asked in ids:
        if type(asked) is not int or asked <= 0:
            entries.append({"providerId": asked, "code": f"{_ID}-format"})
        elif asked in seen:
            entries.append({"providerId": asked, "code": f"{_ID}-duplicate"})
        else:
            entries.append(state(asked))
            seen.add(asked)
    return entries


# Fault rules. A kind is no more than other defaults for the fields that every rule has; only what
# happens to the entries of an answer is a matter of the kind itself. A code of None must be given.
FAULTS: dict[str, Json] = {
    "status": {"code": None, "accept": False},
    "entry": {"code": None, "accept": False},
    "http": {"code": None, "accept": False},
    "redirect": {"code": 307, "accept": False, "location": "/send"},
    "drop_before": {"accept": False, "cut": True},
    "drop_after": {"cut": True},
    "hang_before": {"accept": False, "cut": True, "seconds": 3600.0},
    "hang_after": {"cut": True, "seconds": 3600.0},
    "slow": {"seconds": 1.0},
    "trickle": {"seconds": 1.0, "piece": 1},
    "oversized": {"bytes": 64 * 2**20},
    "disagree": {"code": "error-system"},
    **{kind: {} for kind in ("garbled", "short", "long", "no_id", "same_id")},
}
_COUNT = _number(0, float("inf"), int)
_FLAG = _number(0, 1, bool)
_FIELDS: dict[str, tuple[Any, Check]] = {
    "kind": ("", _one_of(*FAULTS)),
    "on": ("send", _one_of("send", "status")),
    "address": ("", _text("[0-9]*")),  # only a /send with an address in it that ends so
    "rate": (1.0, _number(0, 1, int, float)),
    "times": (None, lambda value: value is None or _COUNT(value)),
    "accept": (True, _FLAG),  # off: the platform forgets the request at once
    "code": ("", lambda value: isinstance(value, str) or _number(100, 599, int)(value)),
    "http": (200, _number(100, 599, int)),  # where `code` is one of the API's
    "body": ("", _text()),  # where `code` is one of HTTP's
    "retry_after": (0, lambda value: _COUNT(value) or _text()(value)),  # seconds, or a date's text
    "location": ("", _text()),
    "seconds": (0.0, _number(0, float("inf"), int, float)),  # before each piece of the answer
    "piece": (2**30, _number(1, 2**30, int)),  # bytes
    "bytes": (0, _COUNT),  # white space is added up to here: cut short, it is still good JSON
    "cut": (False, _FLAG),  # no answer: the connection breaks
}


def read_fault(raw: Any) -> Json:
    """A whole fault rule from what was posted; KeyError has the field that is wrong."""
    given = raw if isinstance(raw, dict) else {}
    defaults = {name: default for name, (default, _) in _FIELDS.items()}
    rule = defaults | FAULTS.get(str(given.get("kind")), {}) | given
    for name, value in rule.items():
        if name not in _FIELDS or not _FIELDS[name][1](value):
            raise KeyError(name)
    return rule | {"fired": 0}


def _concerns(rule: Json, question: Send | list[Any] | None) -> bool:
    if not rule["address"]:
        return True
    rows = question.rows if isinstance(question, Send) else []
    return any(str(row.get("address", "")).endswith(rule["address"]) for row in rows)


def pick_fault(
    faults: list[Json], on: str, question: Send | list[Any] | None, chance: Random
) -> Json | None:
    """The first rule that applies to a request, counted as fired."""
    for rule in faults:
        spent = rule["times"] is not None and rule["fired"] >= rule["times"]
        meant = rule["on"] == on and not spent and _concerns(rule, question)
        if meant and chance.random() < rule["rate"]:
            rule["fired"] += 1
            return rule
    return None


def _same_id(entries: list[Json]) -> list[Json]:
    first = next((entry["providerId"] for entry in entries if "providerId" in entry), 0)
    return [e | {"providerId": first} if "providerId" in e else e for e in entries]


_SPOILED: dict[str, Callable[[list[Json]], list[Json]]] = {
    "short": lambda entries: entries[:-1],
    "long": lambda entries: [*entries, {"providerId": 3158611117333282815, "code": "ok"}],
    "no_id": lambda entries: [{k: v for k, v in e.items() if k != "providerId"} for e in entries],
    "same_id": _same_id,
}


def spoil(rule: Json, answer: Json) -> tuple[int, bytes]:
    """The HTTP code and the body of the reply that a rule makes of an answer."""
    kind, code, entries = rule["kind"], rule["code"], answer.get("messages", [])
    if type(code) is int:
        return code, bytes(rule["body"], "utf-8")
    if kind == "entry":
        kept = ("providerId",) if rule["on"] == "status" else ()
        answer = answer | {"messages": [{k: e[k] for k in kept} | {"code": code} for e in entries]}
    elif code:
        answer = {**(answer if kind == "disagree" else {}), "status": code}
    elif kind in _SPOILED and entries:
        answer = answer | {"messages": _SPOILED[kind](entries)}
    text = json.dumps(answer)
    if kind == "garbled":  # the comma that the document's own example lacks
        text = text.replace(', "messages"', ' "messages"')
    return rule["http"], text.encode().ljust(rule["bytes"])

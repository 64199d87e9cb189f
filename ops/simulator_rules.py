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
    table = [*ENDINGS.items(), ("other", Ending())]
    return {
        str(digits): "; ".join(
            f"{name} {value}" for name, value in ending._asdict().items() if value
        )
        for digits, ending in table
    }


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


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


def _read(body: bytes) -> tuple[Json, list[Any]]:
    text = body.decode()  # json alone would take UTF-16 too
    parsed = json.loads(text, object_pairs_hook=_object, parse_constant=_no_constant)
    if not isinstance(parsed, dict) or not isinstance(parsed.get("messages"), list):
        raise ValueError("no object with a list of messages")
    if not parsed["messages"]:
        raise ValueError("no messages")
    return parsed, parsed["messages"]


def read_send(body: bytes) -> Send | None:
    """A body of /send, or None where the request as a whole is `error-syntax`."""
    try:
        parsed, rows = _read(body)
    except (ValueError, RecursionError):
        return None
    flag, common = parsed.get("resendSms", True), parsed.get("commonData", {})
    if flag not in ("true", "false") and not isinstance(flag, bool):
        return None
    if not isinstance(common, dict) or not all(isinstance(row, dict) for row in rows):
        return None
    return Send(flag in (True, "true"), common, rows)


def read_status(body: bytes) -> list[Any] | None:
    """The ids in a body of /status, unchecked, or None where it is `error-syntax`."""
    try:
        return _read(body)[1]
    except (ValueError, RecursionError):
        return None


Check = Callable[[Any], bool]


def _text(least: int = 0, limit: int = 2**31, form: str = r"(?s:.*)") -> Check:
    """A check for strings that UTF-8 can carry, of so many code points and of this form."""
    fits = re.compile(form).fullmatch
    return lambda value: (
        isinstance(value, str)
        and least <= len(value) <= limit
        and (value.isascii() or not _SURROGATE.search(value))
        and fits(value) is not None
    )


def _one_of(*words: str) -> Check:
    return lambda value: value in words


def _validity(value: Any) -> bool:
    return type(value) is int and 15 <= value <= 86400  # isinstance takes a bool for an int


_SURROGATE = re.compile("[\ud800-\udfff]")
_URL = _text(form=r"[A-Za-z][A-Za-z0-9+.-]*://\S+")
_PRIORITY = _one_of("low", "normal", "high", "realtime")
_WRONG_PRIORITY = "error-priority-format"
_NO_TYPE, _WRONG_TYPE = (
    f"error-instant-message-type-{what}" for what in ("not-specified", "format")
)
_WRONG_CONTENT = "error-content-type-format"
_WRONG_SMS = "error-resend-sms-error"
# A field's name, the codes for "missing" ("" where it may be) and for "wrong", and the check.
_ADDRESS_RULES = (
    (
        "address",
        "error-address-not-specified",
        "error-address-format",
        _text(form=r"[1-9][0-9]{6,14}"),
    ),
)
_RULES = (
    ("subject", "error-subject-not-specified", "error-subject-format", _text(1, 11)),
    ("priority", _WRONG_PRIORITY, _WRONG_PRIORITY, _PRIORITY),
    ("comment", "", "error-comment-format", _text()),
    ("type", _NO_TYPE, _WRONG_TYPE, _one_of("viber")),
    ("contentType", _WRONG_CONTENT, _WRONG_CONTENT, _one_of("text", "image", "button")),
    ("content", "error-content-not-specified", _WRONG_CONTENT, lambda v: isinstance(v, dict)),
    ("validityPeriodSec", "", "error-validity-period-seconds-format", _validity),
)
_TEXT_RULES = (("text", _WRONG_CONTENT, _WRONG_CONTENT, _text(1, 1000)),)
_CONTENT_RULES = {
    "text": _TEXT_RULES,
    "button": (
        *_TEXT_RULES,
        ("caption", _WRONG_CONTENT, _WRONG_CONTENT, _text(1, 19)),
        ("action", _WRONG_CONTENT, _WRONG_CONTENT, _URL),
        ("imageUrl", "", _WRONG_CONTENT, _URL),
    ),
    "image": (("imageUrl", _WRONG_CONTENT, _WRONG_CONTENT, _URL),),
}
_SMS_RULES = (
    ("smsText", "", _WRONG_SMS, _text()),
    ("smsSrcAddress", "", _WRONG_SMS, _text(form="[A-Za-z0-9]{1,11}")),
    ("smsValidityPeriodSec", "", "error-resend-sms-validity-period-error", _validity),
)


def _first_fault(fields: Json, rules: tuple[tuple[str, str, str, Check], ...]) -> str:
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
    kind = message["contentType"]
    if fault := _first_fault(message["content"], _CONTENT_RULES[kind]):
        return fault
    if kind == "image" and resend:
        return _WRONG_CONTENT
    if not resend and any(name in message for name, *_ in _SMS_RULES):
        return _WRONG_SMS
    return _first_fault(message, _SMS_RULES)


def unknown_entry(provider_id: int) -> Json:
    """The /status entry of an id that was never given out."""
    return {"providerId": provider_id, "code": "error-instant-message-provider-id-unknown"}


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
    seen: set[int] = set()
    entries = []
    for asked in ids:
        fault = ""
        if type(asked) is not int or asked <= 0:
            fault = "error-instant-message-provider-id-format"
        elif asked in seen:
            fault = "error-instant-message-provider-id-duplicate"
        else:
            seen.add(asked)
        entries.append({"providerId": asked, "code": fault} if fault else state(asked))
    return entries


# Fault rules: per kind its fields with their defaults; a type instead of a default is a field that
# must be given, and a given value has the type of the default.
_COMMON: Json = {"on": "send", "rate": 1.0, "times": None}  # times None: no end
FAULTS: dict[str, Json] = {
    "status": {"code": str, "http": 200},
    "entry": {"code": str},
    "http": {"code": int, "body": "", "retry_after": "", "accept": False},
    "hang_before": {"seconds": 3600.0},
    "hang_after": {"seconds": 3600.0},
    "slow": {"seconds": 1.0},
    "trickle": {"seconds": 1.0},
    "oversized": {"bytes": 64 * 2**20},
    **{kind: {} for kind in ("drop_before", "drop_after", "redirect", "garbled")},
    **{kind: {} for kind in ("short", "long", "no_id", "same_id", "disagree")},
}
_LARGEST = {"rate": 1, "http": 599, "code": 599}


def _fits(name: str, value: Any, default: Any) -> bool:
    if name == "times":
        return value is None or (type(value) is int and value >= 0)
    if name == "on":
        return value in ("send", "status")
    wanted = default if isinstance(default, type) else type(default)
    if (type(value) is int and wanted in (float, int)) or type(value) is wanted is float:
        return 0 <= float(value) <= _LARGEST.get(name, float("inf"))
    return type(value) is wanted or (name == "retry_after" and type(value) is int)


def read_fault(raw: Any) -> Json:
    """A whole fault rule from what was posted; KeyError has the field that is wrong."""
    if not isinstance(raw, dict) or raw.get("kind") not in [*FAULTS]:
        raise KeyError("kind")
    defaults = _COMMON | FAULTS[raw["kind"]]
    rule = {"kind": raw["kind"]} | defaults | raw
    for name, value in rule.items():
        if name != "kind" and (name not in defaults or not _fits(name, value, defaults[name])):
            raise KeyError(name)
    return rule | {"fired": 0}


def pick_fault(faults: list[Json], on: str, chance: Random) -> Json | None:
    """The first rule that applies to a request, counted as fired."""
    for rule in faults:
        spent = rule["times"] is not None and rule["fired"] >= rule["times"]
        if rule["on"] == on and not spent and chance.random() < rule["rate"]:
            rule["fired"] += 1
            return rule
    return None


def spoil(kind: str, answer: Json) -> Json:
    """The answer with its entries changed as this kind of fault says, if it is about entries."""
    entries = answer.get("messages", [])
    match kind:
        case "short":
            entries = entries[:-1]
        case "long":
            entries = [*entries, {"providerId": 3158611117333282815, "code": "ok"}]
        case "no_id":
            entries = [{k: v for k, v in e.items() if k != "providerId"} for e in entries]
        case "same_id":
            ids = [entry["providerId"] for entry in entries if "providerId" in entry]
            entries = [e | {"providerId": ids[0]} if "providerId" in e else e for e in entries]
        case "disagree":
            answer = answer | {"status": "error-system"}
    return answer | {"messages": entries} if "messages" in answer else answer

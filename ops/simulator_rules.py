"""The simulator's own reading of the provider's document: pure rules, no I/O, no clock.

Imports nothing of the courier, so that the two readings of that document can disagree. Where it
is silent, the simulator is strict, so that a client which passes here is careful enough:

- It reports one fault: the address's, otherwise the first in the order of the table of codes.
- A missing, null or empty mandatory field is "not specified"; null in an optional one is a wrong
  format. `priority`, `contentType` and the fields of `content` have only `...-format` codes.
- An address is a string of 7 to 15 digits without a leading 0 (the provider's examples have 10).
- The limit of 1000 characters of a button's text holds for a plain text too. URLs are absolute.
- An image with the resend flag on is `error-content-type-format`: an SMS can't carry it.
- A wrong `smsText` or `smsSrcAddress` is `error-resend-sms-error`, the only code about them.
- `resendSms`, `commonData` and `imageUrl` are the names in the provider's examples. It ignores
  unknown fields, and with them the names in its prose: `resentSMS`, `messageCommonData`, `image`.
- A string without a UTF-8 form (a lone surrogate) is a wrong format of its field.
"""

import json
import re
from collections.abc import Callable
from datetime import UTC, datetime
from random import Random
from typing import Any, NamedTuple

Json = dict[str, Any]


class Ending(NamedTuple):
    """The states of a message, one for each step; the last one stays.

    `sms` holds the states of all segments, steps separated by commas. The SMS begins a step after
    Viber's last state (with `both`: at the same time), and only if the request had resend on.
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
ENDINGS = {  # by the last two digits of the address; others: Ending()
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
    80: Ending("enqueued sent vp_expired"),  # not in the provider's document, seen in the wild
    81: Ending("enqueued sent delivered", sms="delivered", both=True),
    82: Ending("enqueued sent delivered visited"),  # not in the provider's document
}


def endings() -> dict[str, str]:
    """Returns the table in words, for `--help` and GET /admin/endings."""
    table = {}
    for digits, ending in [*ENDINGS.items(), ("other", Ending())]:
        words = [f"{name} {value}" for name, value in ending._asdict().items() if value]
        table[str(digits)] = "; ".join(words)
    return table


class Send(NamedTuple):
    """A body of /send that could be read."""

    resend: bool  # on if omitted: the provider's default
    common: Json
    rows: list[Json]


def _object(pairs: list[tuple[str, Any]]) -> Json:
    made = dict(pairs)
    if len(made) != len(pairs):
        raise ValueError("duplicated key")
    return made


def _read(body: bytes) -> Json:
    try:
        text = body.decode()  # json alone accepts UTF-16 and NaN; int raises for NaN
        parsed = json.loads(text, object_pairs_hook=_object, parse_constant=int)
    except (ValueError, RecursionError):
        return {}
    good = isinstance(parsed, dict) and isinstance(parsed.get("messages"), list)
    return parsed if good else {}


def read_send(body: bytes) -> Send | None:
    """Reads a body of /send. None: the whole request is `error-syntax`."""
    parsed = _read(body)
    rows, common = parsed.get("messages"), parsed.get("commonData", {})
    flag = parsed.get("resendSms", True)
    if not rows or not (isinstance(flag, bool) or flag in ("true", "false")):
        return None
    if not all(isinstance(each, dict) for each in (common, *rows)):
        return None
    return Send(flag in (True, "true"), common, rows)


def read_status(body: bytes) -> list[Any] | None:
    """Reads the unchecked ids in a body of /status. None: it is `error-syntax`."""
    return _read(body).get("messages") or None


Check = Callable[[Any], bool]
Rule = tuple[str, str, str, Check]
"""A field's name, the codes for "missing" ("" if optional) and "wrong", and the check."""


_CHAR = r"[^\ud800-\udfff]"  # what UTF-8 can encode


def _text(form: str = f"{_CHAR}*") -> Check:
    fits = re.compile(form).fullmatch
    return lambda value: isinstance(value, str) and fits(value) is not None


def _one_of(*words: str) -> Check:
    return lambda value: value in words


def _number(least: float, most: float, *types: type) -> Check:
    # By the type itself: a bool is not an int here.
    return lambda value: type(value) in types and least <= value <= most


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
    """Returns the code for a missing or wrong address, or ""."""
    return _first_fault(message, _ADDRESS_RULES)


def other_fault(message: Json, resend: bool) -> str:
    """Returns the code for the first fault of an expanded message except its address, or ""."""
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
    """Returns the /status entry of an id that was never assigned."""
    return {"providerId": provider_id, "code": f"{_ID}-unknown"}


def status_entry(
    provider_id: int, ending: Ending, resend: bool, at: float, now: float, step: float
) -> Json:
    """Returns the /status entry of a message accepted `at`; Unix seconds, `step` in seconds."""
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
        first = 583465579822710784 + provider_id % 10**15 * 4  # over 2^53, like the provider's
        segments = enumerate(sms[int(min(since_sms, len(sms) - 1))].split())
        entry["smsStates"] = [{"id": first + n, "state": state} for n, state in segments]
    return entry


def status_entries(ids: list[Any], state: Callable[[int], Json]) -> list[Json]:
    """Returns an entry for each id; `state` answers for the first mention of a valid one."""
    entries: list[Json] = []
    answered: set[int] = set()
    for asked in ids:
        if type(asked) is not int or asked <= 0:
            entries.append({"providerId": asked, "code": f"{_ID}-format"})
        elif asked in answered:
            entries.append({"providerId": asked, "code": f"{_ID}-duplicate"})
        else:
            entries.append(state(asked))
            answered.add(asked)
    return entries


# Fault rules. A kind is a set of defaults for the fields that every rule has. Besides, it decides
# what happens to the entries of an answer. Where the code is None, the rule must name one.
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
    **{kind: {} for kind in ("garbled", "short", "long", "no_id", "same_id", "quoted")},
}
_COUNT = _number(0, float("inf"), int)
_FLAG = _number(0, 1, bool)
_FIELDS: dict[str, tuple[Any, Check]] = {
    "kind": ("", _one_of(*FAULTS)),
    "on": ("send", _one_of("send", "status")),
    "address": ("", _text("[0-9]*")),  # only a /send with an address that ends so
    "rate": (1.0, _number(0, 1, int, float)),
    "times": (None, lambda value: value is None or _COUNT(value)),
    "accept": (True, _FLAG),  # off: the provider forgets the request at once
    "code": ("", lambda value: isinstance(value, str) or _number(100, 599, int)(value)),
    "http": (200, _number(100, 599, int)),  # if `code` is one of the API's
    "body": ("", _text()),  # if `code` is one of HTTP's
    "retry_after": (0, lambda value: _COUNT(value) or _text()(value)),  # seconds, or a date's text
    "location": ("", _text()),
    "seconds": (0.0, _number(0, float("inf"), int, float)),  # before each piece of the answer
    "piece": (2**30, _number(1, 2**30, int)),  # bytes
    "bytes": (0, _COUNT),  # padded with white space to this size: a prefix is still valid JSON
    "cut": (False, _FLAG),  # no answer: the connection breaks
}


def read_fault(raw: Any) -> Json:
    """Returns a whole fault rule from the posted one. Raises KeyError with the wrong field."""
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
    """Returns the first rule that applies to a request, and counts it as fired."""
    for rule in faults:
        used_up = rule["times"] is not None and rule["fired"] >= rule["times"]
        applies = rule["on"] == on and not used_up and _concerns(rule, question)
        if applies and chance.random() < rule["rate"]:
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
    "quoted": lambda entries: json.loads(json.dumps(entries), parse_int=str),  # ids as strings
}


def spoil(rule: Json, answer: Json) -> tuple[int, bytes]:
    """Returns the HTTP code and body into which a rule turns an answer."""
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
    if kind == "garbled":  # the comma that the provider's own example lacks
        text = text.replace(', "messages"', ' "messages"')
    return rule["http"], text.encode().ljust(rule["bytes"])

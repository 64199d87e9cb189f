"""Turns the fields of a stored message into values, for apps and for decisions, and back.

Only this module and the scripts spell the fields of a record. Some keep the names under which they
were first stored, so that old records stay readable: ``set`` is lane_index, ``row`` own content,
``within`` max_batch, ``fault`` pending_failure.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from viber_courier.schemas.encoding import loads
from viber_courier.schemas.event import SmsState
from viber_courier.schemas.fields import TTL_DEFAULT
from viber_courier.schemas.instants import SECOND, iso
from viber_courier.schemas.lanes import LANES
from viber_courier.schemas.message import Job
from viber_courier.schemas.status import DEAD, Status
from viber_courier.schemas.window import read_window, window_fields

INSIDE = 2
"""The kind of a score whose message is inside a request (store/keys.py)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """A message as its app sees it, without its texts and phone number.

    Provider ids are strings, as in events. ``resend_of`` is the dead letter that this message sends
    again. ``resent_as`` is the message that sends this one again. ``source`` is its app,
    ``campaign`` the campaign that it belongs to.
    """

    id: str
    status: Status
    final: bool
    reason: str | None
    attempts: int
    unsure: int
    provider_id: str | None
    provider_status: str | None
    provider_code: str | None
    status_at: str | None
    sms: tuple[SmsState, ...]
    metadata: dict[str, Any]
    resend_of: str | None
    resent_as: str | None
    source: str | None
    campaign: str | None


_TEXTS = {"reason": "reason", "provider_status": "providerStatus", "status_at": "statusAt"}
_TEXTS |= {"provider_code": "providerCode", "resend_of": "resendOf", "resent_as": "resentAs"}
_TEXTS |= {"provider_id": "provider", "source": "source", "campaign": "campaign"}


def record_values(id: str, fields: Mapping[str, str], score: float) -> dict[str, Any]:
    """Returns the attributes of a Record; ``score`` is that of its lane (0: it is in none)."""
    inside = score % 4 == INSIDE
    return {
        **{name: fields.get(stored) or None for name, stored in _TEXTS.items()},
        "id": id,
        "status": Status.SENDING if inside else Status(fields["status"]),
        "final": "final" in fields,
        "attempts": int(fields.get("attempts", 0)) + inside,
        "unsure": int(fields.get("unsure", 0)),
        "sms": segments(fields.get("sms", "")),
        "metadata": json.loads(fields.get("metadata", "{}")),
    }


def end_fields(reason: str, **more: str) -> list[str]:
    """Returns the fields that cancel.lua and reject.lua write: name, value, name, value ..."""
    return ["reason", reason, *(word for pair in more.items() for word in pair)]


DEAD_LETTER = (
    *("status", "reason", "final", "attempts", "unsure", "provider", "providerStatus"),
    *("providerCode", "statusAt", "sms", "metadata", "resendOf", "resentAs"),
    *("set", "ttl", "onUnsure", "source", "campaign", "ignoreSuppression", "window"),
)
"""Fields of a dead letter: those of its Record, and the options of its job."""


def job_options(fields: Mapping[str, str]) -> dict[str, Any]:
    """Returns the options of a stored message's job, without its content."""
    options: dict[str, Any] = {"resendSms": _resends(fields["set"])}
    if "ttl" in fields:
        options["ttlSec"] = int(fields["ttl"])
    texts = ("onUnsure", "source", "campaign")
    options.update({name: fields[name] for name in texts if name in fields})
    if "ignoreSuppression" in fields:
        options["ignoreSuppression"] = True
    if "window" in fields:
        options["sendWindow"] = window_fields(read_window(fields["window"]))
    if "metadata" in fields:
        options["metadata"] = json.loads(fields["metadata"])
    return options


def lane_index(lane: str, resend: bool) -> int:
    """Returns the number of a lane set, 1 to 8: each lane without resendSms, then with."""
    return 2 * LANES.index(lane) + resend + 1


def _resends(index: str) -> bool:
    return int(index) % 2 == 0


def new_message(id: str, job: Job, resend_of: str, row: int | None) -> list[str | int]:
    """Returns enqueue.lua's arguments for one message, without padding.

    ``row`` is its row in its campaign's list, None without one.
    """
    fields = ["resendOf", resend_of] if resend_of else []  # the script reads it first
    if job.ttl is not None:
        fields += ["ttl", str(job.ttl)]
    if job.on_unsure:
        fields += ["onUnsure", job.on_unsure]
    if job.source:
        fields += ["source", job.source]
    if job.ignores_suppression:
        fields += ["ignoreSuppression", "1"]
    if job.window:
        fields += ["window", job.window]
    if job.metadata:
        fields += ["metadata", job.metadata]
    lifetime = (job.ttl or TTL_DEFAULT) * SECOND - job.wait
    place: str | int = lane_index(job.lane, job.resend)
    if job.campaign:
        place = f"{place}:{job.campaign}:{'-' if row is None else row}"
    content = pack(job.own)
    head = (id, job.digest, place, job.send_at or "", lifetime, content, len(fields) // 2)
    return [*head, *fields]


ROW = ("status", "final", "reason", "attempts", "unsure", "submitted", "statusAt", "resendOf")
"""Fields of a campaign's message that its report reads."""


def report_values(fields: Mapping[str, str | None]) -> dict[str, Any]:
    """Returns the attributes of a ReportRow by the fields of ROW; all None: there is no record."""
    if fields["status"] is None:
        return {"status": None}
    submitted, final = int(fields["submitted"] or 0), int(fields["final"] or 0)
    return {
        "status": Status(fields["status"]),
        "final": final > 0,
        "reason": fields["reason"],
        "attempts": int(fields["attempts"] or 0),
        "unsure": int(fields["unsure"] or 0),
        "submitted": iso(submitted / SECOND) if submitted else None,
        "status_at": fields["statusAt"] or None,
        "ended": iso(final / SECOND) if final > 1 else None,
        "resend_of": fields["resendOf"],
    }


RESEND_OPTION = ("onUnsure", "resend")
"""The field, and its value, of a message that is sent again where an answer is unsure."""


class Waiting(NamedTuple):
    """A message leased from a lane, with what decisions need. Instants are microseconds.

    ``attempts`` counts the requests begun with it. ``content`` holds its own wire fields, which go
    over those of its campaign, ``common``; None: erased. ``max_batch``: most messages in a request
    with this one, after a larger request was refused (0: no limit). ``window``: its sending hours
    as stored; "": it has none. ``is_cancelled``: its campaign was cancelled, so it must end.
    """

    id: str
    lane: str
    resend: bool
    until: int
    lapsed_inside: bool = False
    lapses: int = 0
    attempts: int = 0
    failures: int = 0
    unsure: int = 0
    on_unsure: str = ""
    has_ttl: bool = False
    max_batch: int = 0
    metadata: str = ""
    resend_of: str = ""
    window: str = ""
    content: dict[str, Any] | None = None
    common: Mapping[str, Any] = {}
    is_cancelled: bool = False


_AT = Waiting._fields.index("attempts")


def add_attempts(message: Waiting, count: int) -> Waiting:
    """Returns a message with so many more attempts, in a third of the time of ``_replace``."""
    return Waiting._make((*message[:_AT], message.attempts + count, *message[_AT + 1 :]))


class Watched(NamedTuple):
    """An accepted message leased from the watch set. Instants are microseconds.

    ``since`` is when ``delivered`` or ``pending_failure`` was first reported. ``pending_failure``
    is the status and reason that it ends with if no SMS comes.
    """

    id: str
    provider_id: int
    status: Status
    resend: bool
    submitted: int
    tracked: int
    polls: int = 0
    since: int = 0
    pending_failure: str = ""
    attempts: int = 0
    unsure: int = 0
    sms: str = ""
    metadata: str = ""
    resend_of: str = ""
    provider_status: str | None = None
    provider_code: str | None = None
    status_at: str | None = None


WAITING = (
    *("until", "attempts", "failures", "unsure", "lapses", "within"),
    *("onUnsure", "metadata", "resendOf", "window", "ttl"),
)
"""Fields that a claim of waiting messages returns; claim.lua wants ``until`` first."""
WATCHED = (
    *("provider", "status", "set", "submitted", "tracked", "polls", "since", "attempts", "unsure"),
    *("fault", "sms", "metadata", "resendOf", "providerStatus", "providerCode", "statusAt"),
)
"""Fields that a claim of watched messages returns."""


def read_waiting(
    row: list[Any],
    lane: str,
    resend: bool,
    commons: Mapping[str, dict[str, Any] | None],
    is_cancelled: bool = False,
) -> Waiting:
    """Returns a message by its row of a claim.

    A row is its id, the kind of its score, its own content, the digest of its shared content and
    the fields of WAITING.
    """
    id, kind, own, digest, until, attempts, failures, unsure, lapses, most, *texts, ttl = row
    common = commons.get(digest) if digest else {}
    on_unsure, metadata, resend_of, window = [each or "" for each in texts]
    inside = kind == INSIDE
    # A request was begun with a message that lapsed inside, though nothing was settled of it.
    counts = int(lapses or 0), int(attempts or 0) + inside, int(failures or 0), int(unsure or 0)
    own = None if own is None or common is None else unpack(own)
    options = on_unsure, ttl is not None, int(most or 0), metadata, resend_of, window
    head = id, lane, resend, int(until), inside
    return Waiting._make((*head, *counts, *options, own, common or {}, is_cancelled))


def read_watched(row: list[Any]) -> Watched:
    """Returns a message by its id and, from the fifth value on, the fields of WATCHED."""
    provider, status, index, submitted, tracked, *numbers = row[4:13]
    polls, since, attempts, unsure = [int(each or 0) for each in numbers]
    pending_failure, sms, metadata, resend_of, word, code, status_at = row[13:]
    return Watched(
        row[0],
        int(provider),
        Status(status),
        _resends(index),
        *(int(submitted), int(tracked), polls, since),
        pending_failure or "",
        *(attempts, unsure),
        *(sms or "", metadata or "", resend_of or "", word, code, status_at or None),
    )


def segments(sms: str) -> tuple[SmsState, ...]:
    """Returns the SMS segments of the stored text; "" has none. Older records hold numbers."""
    stored = json.loads(sms) if sms else ()
    return tuple(SmsState(str(id) if id else None, state) for id, state in stored)


def stored_segments(states: Sequence[SmsState]) -> str:
    """Returns the text that ``segments`` reads."""
    return json.dumps([[each.id, each.state] for each in states]) if states else ""


class Changes(NamedTuple):
    """What a decision changes in a record, by the names of Waiting and Watched; None: unchanged.

    ``status_at`` is "" if the provider gave no date.
    """

    attempts: int | None = None
    failures: int | None = None
    unsure: int | None = None
    lapses: int | None = None
    max_batch: int | None = None
    submitted: int | None = None
    tracked: int | None = None
    polls: int | None = None
    since: int | None = None
    pending_failure: str | None = None
    sms: str | None = None
    provider_code: str | None = None
    provider_status: str | None = None
    status_at: str | None = None
    status_at_raw: str | None = None


_FIELDS = (
    *("attempts", "failures", "unsure", "lapses", "within", "submitted", "tracked", "polls"),
    *("since", "fault", "sms", "providerCode", "providerStatus", "statusAt", "statusAtRaw"),
)
"""The stored fields of Changes, in the same order."""
NO_CHANGES = Changes()


class Step(NamedTuple):
    """A decision about a leased message: its next place, its new status, its changes.

    ``status`` None: unchanged. ``at``: the next due time or poll, in microseconds.
    """

    place: Literal["stay", "watch", "end"]
    at: int = 0
    status: Status | None = None
    reason: str | None = None
    changes: Changes = NO_CHANGES

    @property
    def is_dead(self) -> bool:
        """Returns whether the message ends as a dead letter."""
        return self.place == "end" and self.status in DEAD


def step_fields(step: Step) -> list[str | int]:
    """Returns the fields that a step writes: name, value, name, value ..."""
    fields: list[str | int] = []
    for name, value in zip(_FIELDS, step.changes, strict=True):
        if value is not None:
            fields += (name, value)
    if step.reason and step.place == "end":
        fields += ("reason", step.reason)
    return fields


def provider_fields(provider_id: int) -> tuple[str, str]:
    """Returns the field and value that an accepted message gets."""
    return "provider", str(provider_id)


def pack(own: str) -> str:
    """Returns own wire fields as stored: their JSON, or the address if it is the only field."""
    return own[12:-2] if own.startswith('{"address":"') and own.count(":") == 1 else own


def unpack(text: str) -> dict[str, Any]:
    """Returns the wire fields that ``pack`` has stored."""
    return loads(text) if text.startswith("{") else {"address": text}


def address_of(own: str) -> str:
    """Returns the phone number in the JSON of a job's own wire fields."""
    address: str = unpack(pack(own))["address"]
    return address


def merge(own: Mapping[str, Any], common: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the wire fields of a message: its own over its campaign's ``common``."""
    merged = {**common, **own}
    if None in merged.values():  # a row may remove a field of its campaign
        return {name: value for name, value in merged.items() if value is not None}
    return merged

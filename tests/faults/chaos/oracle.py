"""The judge of a chaos run: compares what was asked, what the provider accepted, what events say.

It shares no code with what it judges, and imports none of it: orders of statuses, reasons and
policies are written here anew, from docs/design.md, sections 3 to 5. Pure: ledgers in,
a verdict out. Instants are Unix seconds.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

Json = dict[str, Any]

FIRST = {"submitted", "rejected", "expired", "failed", "cancelled", "unconfirmed", "lost"}
"""What a message's first event may say: that it waits or is inside a request is no event."""
_ENDS = {"undelivered", "failed", "cancelled"}
_GOOD = {"delivered", "read"}
AFTER: dict[str, set[str]] = {
    "submitted": {"sent", "sms_sent", "sms_delivered", "lost"} | _GOOD | _ENDS,
    "sent": {"sent", "sms_sent", "sms_delivered"} | _GOOD | _ENDS,
    "delivered": {"delivered", "read"},
    "sms_sent": {"sms_delivered", "lost"} | _GOOD | _ENDS,
}
"""Who may follow whom. A status follows itself only as the closing event."""
CLOSABLE = {"sent", "delivered"}
"""Final only when tracking closes them."""
OPEN = {"submitted", "sms_sent"}
"""Never final. All that is neither closable nor open is final at once."""

_DELIVERY = r"user-blocked|not-viber-user"
_CODE = r"error-[a-z-]+|http-4\d\d"
REASONS = {  # of an accepted message; where nothing stands: none
    "undelivered": f"({_DELIVERY}|sms-undelivered)?",
    "failed": f"{_DELIVERY}|provider-failed",
    "sms_sent": f"({_DELIVERY})?",
    "sms_delivered": f"({_DELIVERY})?",
    "lost": "tracking-ended",
}
REASONS_UNSENT = {  # of a message without a provider's id
    "rejected": f"{_CODE}|suppressed",
    "expired": "ttl",
    "failed": "attempts|crashed",
    "cancelled": "by-request",
    "unconfirmed": f"unsure|attempts|crashed|ttl|by-request|suppressed|{_CODE}",
    "lost": "no-provider-id",
}
OPTIONS = {
    *("id", "sendAt", "ttlSec", "onUnsure", "metadata", "resendSms"),
    *("sendWindow", "ignoreSuppression"),
}
"""Of a job, what isn't sent."""
VALIDITIES = {"validityPeriodSec": 86400, "smsValidityPeriodSec": 259200}
"""Clipped by ``ttlSec``; what holds where a job sets none."""
LEAST_VALIDITY = 15
_VIBER, _SMS, _READ = {"undelivered"}, {"sms_delivered", "undelivered"}, {"read", "delivered"}
ENDS: dict[str, tuple[set[str], set[str]]] = {
    "10": ({"delivered"}, {"delivered"}),
    **dict.fromkeys(("20", "23", "80"), (_VIBER, _VIBER)),
    **dict.fromkeys(("21", "22"), (_VIBER, _SMS)),
    "24": (_VIBER, _VIBER),
    "30": ({"failed"}, {"failed"}),
    "31": ({"failed"}, {"sms_delivered", "failed"}),
    "40": ({"cancelled"}, {"cancelled"}),
    **dict.fromkeys(("70", "71"), (set(), set())),
    "81": ({"delivered"}, {"delivered"}),
}
"""How the simulator ends an accepted message, by the last two digits of its address, without and
with resendSms; others are read. What a clock may leave that closes it sooner is there too."""
GIVEN_UP = {"lost", "sent"}
"""How tracking ends any."""
TIME_MATTERS = 1.0
"""Seconds by which clocks read in two processes may seem to disagree."""
NOTICED = 6.5
"""Seconds within which a step of Redis's clock is noticed. What was due so soon is due at once."""
FORGETTABLE = {
    *(
        "unknown",
        "task never run",
        "doubled silently",
        "doubled though parked",
        "double unexplained",
    ),
    *("accepted more often than tried", "accepted without an end that says so"),
    *("cancelled but accepted", "cancelled but otherwise ended", "sent again too often"),
    *("sent though suppressed", "suppressed but otherwise ended"),
}
"""What a Redis that loses its last writes at kill -9 does by itself."""


@dataclass(frozen=True)
class Cancel:
    """A call of ``cancel`` that was answered."""

    called: float
    answered: float
    result: bool


@dataclass(frozen=True)
class Listing:
    """A message's number was put on the list of suppressed ones (``on``), or taken off it."""

    called: float
    answered: float
    on: bool


@dataclass(frozen=True)
class Call:
    """A call about a campaign: ``pause``, ``resume``, ``cancel`` or ``progress``.

    ``answer``: the numbers of the progress that it returned, or ``refused``: CampaignCancelled.
    Without one it may or may not have held.
    """

    name: str
    act: str
    called: float
    answered: float | None = None
    answer: Json | None = None


@dataclass
class Asked:
    """A message as its app asked for it. ``stored``: when ``enqueue`` last returned, if ever.

    ``task``: it went through Celery, as a task ``courier.enqueue``. ``row``: its number among those
    that were added to its campaign at once. ``refused``: when the campaign was cancelled already.
    """

    job: Json
    called: float
    stored: float | None = None
    times: int = 1
    cancels: list[Cancel] = field(default_factory=list)
    task: bool = False
    campaign: str | None = None
    row: int = 0
    refused: float | None = None
    listings: list[Listing] = field(default_factory=list)


@dataclass(frozen=True)
class Act:
    """Something done to the installation. ``requests``: how many may have been unsure by it."""

    kind: str
    begun: float
    over: float
    requests: int = 0
    forgets: bool = False  # a Redis that was killed without `appendfsync always`


@dataclass(frozen=True)
class Conditions:
    """Under what the run was: what could make an answer unsure, and how often it did.

    ``broken``: of /send requests after whose answer nobody can know, the kind of fault by number.
    """

    batch: int = 100
    deadline: float = 2.5
    broken: Mapping[int, str] = field(default_factory=dict)
    unsure_answers: int = 0  # messages in these requests
    refusals: frozenset[str] = frozenset()  # codes that broken answers refused with
    acts: Sequence[Act] = ()
    forgotten: float = 3.0  # seconds of writes that a killed Redis may forget
    resends: int = 2  # how often an unsure message may be sent again
    waits: float = 0.0  # seconds that a request, once begun, may wait for replicas
    offsets: Sequence[tuple[float, float]] = ((0.0, 0.0),)  # of Redis's clock, and since when
    lease: float = 10.0  # seconds within which a request that has begun must have left

    @property
    def reach(self) -> float:
        """Seconds after which no request can leave that had begun before."""
        return self.lease + self.deadline + self.waits + TIME_MATTERS


@dataclass
class Ledgers:
    """``accepted`` as GET /admin/accepted tells, ``events`` in the order of the stream, decoded;
    ``records`` what ``get`` says at the end (None: unknown)."""

    asked: dict[str, Asked]
    accepted: list[Json]
    events: list[Json]
    records: dict[str, Json | None]
    conditions: Conditions = field(default_factory=Conditions)
    calls: Sequence[Call] = ()


@dataclass(frozen=True, order=True)
class Violation:
    """``name`` is the promise that was broken."""

    name: str
    id: str
    what: str = ""


@dataclass
class Verdict:
    """``excused``: what Redis itself lost."""

    violations: list[Violation]
    excused: list[Violation]
    figures: Json


@dataclass
class Life:
    """All that the ledgers know of one message."""

    id: str
    asked: Asked
    accepted: list[Json]
    events: list[Json]
    record: Json | None
    stopped: float | None = None  # when somebody first called cancel of its campaign

    @property
    def job(self) -> Json:
        return self.asked.job

    @property
    def last(self) -> Json:
        """The data of the last event; empty where there is none."""
        return self.events[-1]["data"] if self.events else {}

    @property
    def resends(self) -> bool:
        """Whether its policy is to try again after an unsure answer."""
        choice = self.job.get("onUnsure")
        return (
            choice or ("resend" if self.job["priority"] in ("realtime", "high") else "park")
        ) == ("resend")

    @property
    def from_then(self) -> float:
        """The earliest instant from which its ``ttlSec`` may count."""
        due = datetime.fromisoformat(self.job["sendAt"]).timestamp() if "sendAt" in self.job else 0
        return max(self.asked.called, due)


Finding = tuple[str, str]
Check = Callable[[Life, Conditions], Iterable[Finding]]


def judge(ledgers: Ledgers) -> Verdict:
    """Compare the three ledgers."""
    lives, strangers = join(ledgers)
    violations, excused = list(strangers), list[Violation]()
    for life in lives:
        rewound = _rewound(life, ledgers.conditions)
        for check in CHECKS:
            for name, what in check(life, ledgers.conditions):
                allowed = rewound and name in FORGETTABLE
                (excused if allowed else violations).append(Violation(name, life.id, what))
    figures = _figures(lives, ledgers, excused)
    most = figures["unsure at most"]
    if figures["unsure attempts"] > most:
        what = f"{figures['unsure attempts']} unsure attempts, faults explain {most}"
        violations.append(Violation("unsure without a fault", "", what))
    return Verdict(violations, excused, figures)


def join(ledgers: Ledgers) -> tuple[list[Life], list[Violation]]:
    """The ledgers by message, and what belongs to none."""
    by_address = {_address(asked.job): id for id, asked in ledgers.asked.items()}
    assert len(by_address) == len(ledgers.asked), "addresses must tell messages apart"
    accepted, events = defaultdict[str, list[Json]](list), defaultdict[str, list[Json]](list)
    strangers = []
    for each in ledgers.accepted:
        address = str(each["message"].get("address"))
        if address in by_address:
            accepted[by_address[address]].append(each)
        else:
            strangers.append(Violation("accepted unasked", address))
    for event in ledgers.events:
        events[str(event.get("subject"))].append(event)
    for id in events.keys() - ledgers.asked.keys():
        strangers.append(Violation("event for an unknown id", id))
    stopped = dict[str | None, float]()
    for call in ledgers.calls:
        if call.act == "cancel":
            stopped.setdefault(call.name, call.called)
    lives = [
        Life(
            *(id, asked, accepted[id], events[id], ledgers.records.get(id)),
            stopped.get(asked.campaign),
        )
        for id, asked in ledgers.asked.items()
    ]
    return lives, strangers


def _address(job: Mapping[str, Any]) -> str:
    return str(job["address"]).removeprefix("+")


def _rewound(life: Life, conditions: Conditions) -> bool:
    """Whether anything that happened to it may have been forgotten by a killed Redis."""
    acts = [act for act in conditions.acts if act.forgets]
    if not acts:
        return False
    instants = [each["at"] for each in life.accepted]
    instants += [life.asked.stored] if life.asked.stored else []
    instants += [each.answered for each in (*life.asked.cancels, *life.asked.listings)]
    # A settle follows its acceptance by at most a request's deadline.
    wide = conditions.forgotten + conditions.deadline
    return any(act.begun - wide <= instant <= act.over for act in acts for instant in instants)


def is_stalled(instant: float, conditions: Conditions) -> bool:
    """Whether what left then may come from a worker that was stopped right before it."""
    stalls = [act for act in conditions.acts if act.kind == "stalled worker"]
    return any(act.begun <= instant <= act.over + conditions.deadline for act in stalls)


def _astray(life: Life, conditions: Conditions) -> float:
    """Seconds by which what Redis's clock decides of a message may seem to come early or late.

    Deadlines go by that clock: where it steps, they come sooner or later. Until a sweep has noticed
    a step back, dates by the new clock look like delays by the old one.
    """
    begun, over = life.asked.called - NOTICED, life.asked.called
    if life.events:
        over = max(over, datetime.fromisoformat(life.events[-1]["time"]).timestamp())
    over = max([over, *(each["at"] for each in life.accepted)])
    offsets, ends = conditions.offsets, [at for at, _ in conditions.offsets[1:]]
    lived = [
        offset
        for (at, offset), end in zip(offsets, [*ends, float("inf")], strict=True)
        if at <= over + TIME_MATTERS and begun - TIME_MATTERS <= end
    ]
    unnoticed = NOTICED if len(lived) > 1 else 0.0
    return TIME_MATTERS + unnoticed + max([0.0, *lived]) - min([0.0, *lived])


def _numbering(life: Life, _: Conditions) -> Iterator[Finding]:
    for n, event in enumerate(life.events, 1):
        data = event["data"]
        if event["id"] != f"{life.id}:{n}":
            yield "numbers with gaps", f"{event['id']} in place {n}"
        if data["messageId"] != life.id or event["type"] != f"viber.message.{data['status']}":
            yield "event at odds with itself", event["id"]
        if data.get("campaign") != life.asked.campaign:
            yield "campaign altered", f"{data.get('campaign')} of {life.asked.campaign}"


def _ending(life: Life, _: Conditions) -> Iterator[Finding]:
    finals = [n for n, event in enumerate(life.events, 1) if event["data"]["final"]]
    if life.record is None and not life.events:
        if life.asked.stored is not None and life.asked.task:
            yield "task never run", "Celery took it, and nobody knows it"
        elif life.asked.stored is not None:
            yield "unknown", "enqueue returned, and nobody knows it"
    elif not finals:
        yield "never ended", f"after {len(life.events)} events"
    if len(finals) > 1:
        yield "ended twice", f"events {finals}"
    if finals and finals[0] != len(life.events):
        yield "event after the end", f"event {finals[0]} of {len(life.events)} is final"
    for event in life.events:
        status, final = event["data"]["status"], event["data"]["final"]
        if final != (status not in OPEN) and not (status in CLOSABLE and not final):
            yield "wrong finality", f"{status}, final {final}"


def _order(life: Life, _: Conditions) -> Iterator[Finding]:
    was: Json = {}
    for event in life.events:
        data = event["data"]
        status, before = data["status"], was.get("status")
        legal = status in (AFTER.get(before, set()) if before else FIRST)
        if not legal or (status == before and not data["final"]):
            yield "illegal order", f"{before} -> {status}"
        for name in ("attempts", "unsure"):
            if data[name] < was.get(name, 0):
                yield "counter went back", f"{name} {was[name]} -> {data[name]}"
        if was and data["providerId"] != was["providerId"]:
            yield "provider id changed", f"{was['providerId']} -> {data['providerId']}"
        was = data


def _reasons(life: Life, conditions: Conditions) -> Iterator[Finding]:
    for event in life.events:
        data = event["data"]
        status, reason = data["status"], data["reason"] or ""
        table = REASONS if data["providerId"] else REASONS_UNSENT
        closing = status == "sent" and data["final"]
        wanted = "tracking-ended" if closing else table.get(status, "")
        if not re.fullmatch(wanted, reason):
            yield "illegal reason", f"{status}, {reason or None}"
        if status == "unconfirmed" and not data["unsure"]:
            yield "unconfirmed without unsure", str(reason)
        if status in ("rejected", "unconfirmed") and re.fullmatch(_CODE, reason):
            own = {"50": "error-address-unknown", "51": "error-subject-unknown"}
            given = {own.get(_address(life.job)[-2:], "")} | conditions.refusals
            if reason not in given:
                yield "refused by nobody", reason
        if dict(data["metadata"]) != life.job.get("metadata", {}):
            yield "metadata altered", event["id"]


def _acceptance(life: Life, _: Conditions) -> Iterator[Finding]:
    data = life.last
    if not data:
        return
    given = {str(each["providerId"]) for each in life.accepted}
    if data["providerId"]:
        if data["providerId"] not in given:
            yield "provider id never given", data["providerId"]
    elif data["status"] not in FIRST - {"submitted"}:
        yield "never accepted, not explained", data["status"]
    elif given and data["status"] not in ("unconfirmed", "lost"):
        yield "accepted without an end that says so", f"{data['status']}, {data['reason']}"


def _doubles(life: Life, conditions: Conditions) -> Iterator[Finding]:
    times, data = len(life.accepted), life.last
    if times > 1 and not life.resends:
        yield "doubled though parked", f"{times} times"
    for each in life.accepted[:-1]:
        if cause_of(each, conditions) is None:
            yield "double unexplained", f"request {each['request']}"
    if not data:
        return
    if times > data["attempts"]:
        yield "accepted more often than tried", f"{times} times, {data['attempts']} attempts"
    if times > 1 + conditions.resends or data["unsure"] > 1 + conditions.resends:
        yield "sent again too often", f"{times} times, unsure {data['unsure']}"
    if times > data["unsure"] + (bool(data["providerId"]) or data["status"] == "lost"):
        yield "doubled silently", f"{times} times, unsure {data['unsure']}"


def cause_of(accepted: Json, conditions: Conditions) -> str | None:
    """Why the answer to an acceptance was not believed: a broken answer, an act around it."""
    if accepted["request"] in conditions.broken:
        return conditions.broken[accepted["request"]]
    reach = conditions.deadline + TIME_MATTERS
    for act in conditions.acts:
        if act.requests and act.begun - reach <= accepted["at"] <= act.over + reach:
            return act.kind
    return None


def _content(life: Life, conditions: Conditions) -> Iterator[Finding]:
    wanted = {k: v for k, v in life.job.items() if k not in OPTIONS}
    wanted |= {"type": "viber", "address": _address(life.job)}
    resend = life.job.get("resendSms", "smsText" in life.job)
    ttl = life.job.get("ttlSec")
    left = ttl and ttl + _astray(life, conditions) - TIME_MATTERS
    for each in life.accepted:
        got = dict(each["message"])
        if each["resendSms"] is not resend:
            yield "resendSms altered", f"asked {resend}, sent {each['resendSms']}"
        for name, default in VALIDITIES.items():
            asked, sent = wanted.get(name), got.pop(name, None)
            clipped = ttl is not None and (resend or name == "validityPeriodSec")
            most = min(asked or default, left) if clipped else 0
            down = sent is not None and LEAST_VALIDITY <= sent <= most
            if not same(asked, sent) and not down:
                yield "validity altered", f"{name} {asked} -> {sent}"
        rest = {k: v for k, v in wanted.items() if k not in VALIDITIES}
        if not same(rest, got):
            wrong = [k for k in rest.keys() | got.keys() if not same(rest.get(k), got.get(k))]
            yield "content altered", ", ".join(sorted(wrong))


def same(one: object, other: object) -> bool:
    """Equal as JSON: True is not 1."""
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(same(one[name], other[name]) for name in one)
    return type(one) is type(other) and one == other


def _cancelling(life: Life, _: Conditions) -> Iterator[Finding]:
    promised = [cancel for cancel in life.asked.cancels if cancel.result]
    if promised and life.accepted:
        yield "cancelled but accepted", f"{len(life.accepted)} times"
    if promised and (life.last.get("status"), life.last.get("reason")) != (
        "cancelled",
        "by-request",
    ):
        yield "cancelled but otherwise ended", str(life.last.get("status"))
    stopped = life.last.get("reason") == "by-request"
    if stopped and not life.asked.cancels and life.stopped is None:
        yield "cancelled unasked", str(life.last.get("status"))
    denied = not promised and life.stopped is None
    if stopped and life.last.get("status") == "cancelled" and denied:
        yield "cancelled but denied", "every answer was False"


def _suppressing(life: Life, conditions: Conditions) -> Iterator[Finding]:
    """Lanes that advertise obey the list from a number's listing on."""
    listings, last = life.asked.listings, life.last
    heeds = life.job["priority"] in ("normal", "low") and not life.job.get("ignoreSuppression")
    if last.get("reason") == "suppressed":
        at = datetime.fromisoformat(life.events[-1]["time"]).timestamp()
        till = at + _astray(life, conditions)
        if not heeds or not any(each.on and each.called <= till for each in listings):
            yield "suppressed unasked", last["status"]
    for n, each in enumerate(listings if heeds else ()):
        if each.on:
            before = each.answered <= life.asked.called
            since = each.answered + (0 if before else conditions.reach)
            until = listings[n + 1].called if n + 1 < len(listings) else float("inf")
            sent = [a["at"] - each.answered for a in life.accepted if since < a["at"] < until]
            if sent and (before or not is_stalled(each.answered + sent[0], conditions)):
                yield "sent though suppressed", f"{sent[0]:.1f} s later"
            ends = {"rejected": "suppressed", "cancelled": "by-request", "expired": "ttl"}
            right = ends.get(last.get("status", "")) == last.get("reason")
            if before and until == float("inf") and last.get("final") and not right:
                yield "suppressed but otherwise ended", f"{last['status']}, {last['reason']}"


def _schedule(life: Life, conditions: Conditions) -> Iterator[Finding]:
    astray = _astray(life, conditions)
    for each in life.accepted:
        if "sendAt" in life.job and each["at"] < life.from_then - astray:
            yield "sent too early", f"{life.from_then - each['at']:.1f} s"
        if "ttlSec" in life.job and life.asked.stored is not None:
            till = max(life.from_then, life.asked.stored) + life.job["ttlSec"]
            if each["at"] > till + astray:
                yield "sent too late", f"{each['at'] - till:.1f} s"
    if life.last.get("status") == "expired":
        at = datetime.fromisoformat(life.events[-1]["time"]).timestamp()
        till = life.from_then + life.job.get("ttlSec", 86400)
        if at < till - LEAST_VALIDITY - astray:
            yield "expired too early", f"{till - at:.1f} s left"


def _tracking(life: Life, conditions: Conditions) -> Iterator[Finding]:
    if life.last.get("reason") != "tracking-ended":
        return
    ended = datetime.fromisoformat(life.events[-1]["time"]).timestamp()
    for each in life.accepted:
        if str(each["providerId"]) == life.last["providerId"]:
            periods = [*VALIDITIES][: 2 if each["resendSms"] else 1]
            patience = sum(each["message"].get(name, VALIDITIES[name]) for name in periods)
            # Periods count from the request's begin.
            if ended < each["at"] + patience - _astray(life, conditions) - conditions.waits:
                yield "given up too early", f"{ended - each['at']:.1f} of {patience} s"


def _outcome(life: Life, _: Conditions) -> Iterator[Finding]:
    status, digits = life.last.get("status"), _address(life.job)[-2:]
    if not life.last.get("final") or not life.last["providerId"] or status in GIVEN_UP:
        return
    resend = life.job.get("resendSms", "smsText" in life.job)
    if status not in ENDS.get(digits, (_READ, _READ))[resend]:
        yield "ended otherwise than the provider said", f"{digits}: {status}"


def _records(life: Life, _: Conditions) -> Iterator[Finding]:
    if not life.events:
        return
    if life.record is None:
        yield "record missing", life.last["status"]
        return
    for name in ("status", "final", "reason", "attempts", "unsure", "providerId"):
        if not same(life.record[name], life.last[name]):
            yield "record at odds with its event", f"{name} {life.record[name]}, {life.last[name]}"


CHECKS: tuple[Check, ...] = (
    *(_numbering, _ending, _order, _reasons, _acceptance, _doubles),
    *(_content, _cancelling, _suppressing, _schedule, _tracking, _outcome, _records),
)


def _figures(lives: list[Life], ledgers: Ledgers, excused: list[Violation]) -> Json:
    conditions = ledgers.conditions
    ends = Counter(
        f"{life.last['status']}{':' + life.last['reason'] if life.last['reason'] else ''}"
        for life in lives
        if life.last.get("final")
    )
    doubled = [life for life in lives if len(life.accepted) > 1]
    causes = Counter(
        cause_of(each, conditions) or "?" for life in doubled for each in life.accepted[:-1]
    )
    may = conditions.batch * sum(act.requests for act in conditions.acts)
    return {
        "asked": len(lives),
        "through the task door": sum(life.asked.task for life in lives),
        "enqueued again": sum(max(0, life.asked.times - 1) for life in lives),
        "accepted": sum(bool(life.accepted) for life in lives),
        "acceptances": len(ledgers.accepted),
        "accepted more than once": len(doubled),
        "because of": dict(causes.most_common()),
        "said to be unsure": sum(life.last.get("unsure", 0) > 0 for life in lives),
        "unsure attempts": sum(life.last.get("unsure", 0) for life in lives),
        "unsure at most": conditions.unsure_answers + may,
        "cancelled on request": sum(any(c.result for c in life.asked.cancels) for life in lives),
        "cancels denied": sum(any(not c.result for c in life.asked.cancels) for life in lives),
        "numbers suppressed": sum(any(x.on for x in life.asked.listings) for life in lives),
        "events": len(ledgers.events),
        "by end": dict(ends.most_common()),
        "lost by Redis": dict(Counter(each.name for each in excused)),
    }

"""What must be true after the demo: pure functions of what was asked, told and received."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

Json = Mapping[str, Any]

READ = "read"
ENDS = {  # by the last two digits of the address: without the resend flag, and with it
    10: ("delivered", "delivered"),  # nobody reads it
    20: ("undelivered", "undelivered"),  # the user blocked the sender, and no SMS comes
    21: ("undelivered", "sms_delivered"),
    22: ("undelivered", "sms_delivered"),  # in segments, whose number grows
    23: ("undelivered", "undelivered"),  # one segment is lost
    24: ("undelivered", "lost"),  # the SMS stays on its way
    30: ("failed", "failed"),
    31: ("failed", "sms_delivered"),
    40: ("cancelled", "cancelled"),
    50: ("rejected", "rejected"),
    51: ("rejected", "rejected"),
    60: (READ, READ),  # after one error-system
    61: ("failed", "failed"),  # error-system for ever: our attempts are used up
    62: (READ, READ),  # /status doesn't know it at first
    70: ("sent", "sent"),  # and no more is heard of it
    71: ("lost", "lost"),  # nothing at all is heard of it
    80: ("undelivered", "undelivered"),
    81: ("delivered", "delivered"),  # by Viber and by SMS
    82: (READ, READ),
}
"""The final status that an address stands for; all others are read. The simulator's table is in
`ops.simulator_rules`, in the provider's words; this is what an app should be told."""

OURS = ("id", "sendAt", "ttlSec", "onUnsure", "metadata", "resendSms")
"""A job's fields that the provider never sees as part of a message."""


@dataclass(frozen=True)
class Asked:
    """A message as its app asked for it; ``end`` where that isn't up to the address."""

    job: Json
    end: str = ""

    @property
    def resend(self) -> bool:
        """Whether an SMS may follow."""
        return bool(self.job.get("resendSms", "smsText" in self.job))

    @property
    def expected(self) -> str:
        """The final status that its app must be told."""
        return self.end or ENDS.get(int(self.job["address"][-2:]), (READ, READ))[self.resend]

    @property
    def wire(self) -> dict[str, Any]:
        """The message that the provider must get, in full."""
        return {"type": "viber", **{k: v for k, v in self.job.items() if k not in OURS}}


@dataclass(frozen=True)
class Evidence:
    """Everything there is to know after a run."""

    asked: Mapping[str, Asked]  # by message id
    events: Sequence[Json]  # the whole stream, in its order
    accepted: Sequence[Json]  # the simulator's /admin/accepted
    requests: Json  # and its /admin/requests
    records: Mapping[str, str]  # the statuses by Producer.get

    @property
    def finals(self) -> list[Json]:
        """The data of the final events."""
        return [event["data"] for event in self.events if event["data"]["final"]]

    @property
    def submitted(self) -> dict[str, str]:
        """Message ids by the provider's."""
        told = (event["data"] for event in self.events)
        return {d["providerId"]: d["messageId"] for d in told if d["status"] == "submitted"}


def _by_message(evidence: Evidence) -> dict[str, list[Json]]:
    found: dict[str, list[Json]] = {id: [] for id in evidence.asked}
    for event in evidence.events:
        found.setdefault(event["subject"], []).append(event)
    return found


def final_events(evidence: Evidence) -> Iterator[str]:
    """One final event a message, the last of its events, with the right status."""
    for id, events in _by_message(evidence).items():
        if id not in evidence.asked:
            yield f"{id}: nobody asked for this message"
            continue
        finals = [n for n, event in enumerate(events) if event["data"]["final"]]
        if finals != [len(events) - 1]:
            yield f"{id}: {len(finals)} final events among {len(events)}"
            continue
        status, expected = events[-1]["data"]["status"], evidence.asked[id].expected
        if status != expected:
            address = evidence.asked[id].job["address"]
            yield f"{id}: {status}, but its address {address} stands for {expected}"


def numbers(evidence: Evidence) -> Iterator[str]:
    """Each message's events are numbered 1, 2, 3 ... in the order of the stream."""
    for id, events in _by_message(evidence).items():
        found = [event["id"] for event in events]
        if found != [f"{id}:{n}" for n in range(1, len(events) + 1)]:
            yield f"{id}: its events are {', '.join(e.rpartition(':')[2] for e in found)}"


def deliveries(evidence: Evidence) -> Iterator[str]:
    """The provider got each submitted message once, as it was asked for, and no other."""
    ids = evidence.submitted
    seen = Counter[str]()
    for entry in evidence.accepted:
        id = ids.get(str(entry["providerId"]), "")
        seen[id] += 1
        if id not in evidence.asked:
            yield f"the provider accepted {entry['providerId']}, and no event says so"
            continue
        asked = evidence.asked[id]
        if entry["message"] != asked.wire:
            yield f"{id}: the provider got another content than was asked for"
        if entry["resendSms"] != asked.resend:
            yield f"{id}: sent with resendSms {entry['resendSms']}"
    for id in ids.values():
        if seen[id] != 1:
            yield f"{id}: accepted {seen[id]} times"


def sums(evidence: Evidence) -> Iterator[str]:
    """What was enqueued, told, submitted and received adds up."""
    requests, finals = evidence.requests, evidence.finals
    entries = sum(requests["batches"])
    for left, what, right, other in (
        (len(finals), "final events", len(evidence.asked), "messages enqueued"),
        (len(evidence.submitted), "messages submitted", requests["messages"], "accepted"),
        (len(evidence.accepted), "messages recorded", requests["messages"], "accepted"),
        (requests["messages"] + requests["refused"], "answers", entries, "entries received"),
        (sum(each["attempts"] for each in finals), "attempts", entries, "entries received"),
    ):
        if left != right:
            yield f"{left} {what}, but {right} {other}"


def lookups(evidence: Evidence) -> Iterator[str]:
    """Producer.get says the same as the final event."""
    told = {each["messageId"]: each["status"] for each in evidence.finals}
    for id in evidence.asked:
        if evidence.records.get(id) != told.get(id):
            yield f"{id}: get() says {evidence.records.get(id)}, the event {told.get(id)}"


CHECKS: dict[str, Callable[[Evidence], Iterator[str]]] = {
    "every message has one final event, with the status its address stands for": final_events,
    "the events of each message are numbered without gaps": numbers,
    "the provider accepted each submitted message once, with the content asked": deliveries,
    "the sums agree: messages, events, attempts, entries in requests": sums,
    "Producer.get() says of each message what its last event said": lookups,
}


def funnel(evidence: Evidence) -> dict[str, int]:
    """How far the messages came, and what stopped the others."""
    reached: dict[str, set[str]] = {}
    for event in evidence.events:
        reached.setdefault(event["data"]["status"], set()).add(event["subject"])
    read, ends = reached.get("read", set()), Counter(each["status"] for each in evidence.finals)
    return {
        "enqueued": len(evidence.asked),
        "submitted": len(reached.get("submitted", ())),
        "delivered": len(reached.get("delivered", set()) | read),
        "read": len(read),
        "SMS instead": ends["sms_delivered"],
        "not delivered": sum(ends[end] for end in ("undelivered", "failed", "cancelled")),
        "unknown": sum(ends[end] for end in ("sent", "lost", "unconfirmed")),
        "refused, expired": ends["rejected"] + ends["expired"],
    }


def bytes_in_full(evidence: Evidence) -> int:
    """Bytes of the accepted messages one by one, each in full, as compact JSON in UTF-8."""
    return sum(
        len(json.dumps(e["message"], ensure_ascii=False, separators=(",", ":")).encode())
        for e in evidence.accepted
    )

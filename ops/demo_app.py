"""The demo's app, and pure checks of what must be true after it ran."""

import csv
import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from importlib.resources import files
from itertools import product
from typing import Any

from viber_courier import EnqueueError, Preview, Producer
from viber_courier.schemas.lanes import LANES

Json = Mapping[str, Any]
ENDS = {  # final status by the last two digits of the address; others end `read`
    **dict.fromkeys((10, 81), "delivered"),
    **dict.fromkeys((20, 21, 22, 23, 24, 80), "undelivered"),
    **dict.fromkeys((30, 31, 61), "failed"),
    **dict.fromkeys((50, 51), "rejected"),
    **dict.fromkeys((60, 62, 82), "read"),
    **{40: "cancelled", 70: "sent", 71: "lost"},  # the provider reports nothing more of these two
}
"""`ops.simulator_rules` holds the simulator's table, in the provider's words."""
BY_SMS = (21, 22, 31)
"""Digits of addresses that end `sms_delivered` if an SMS may follow."""
OURS = ("id", "sendAt", "ttlSec", "onUnsure", "metadata", "resendSms")
"""Fields of a job that are not part of the provider's message."""
SHORT = {"validityPeriodSec": 15}
SHORT_SMS = {"smsValidityPeriodSec": 15, "smsSrcAddress": "Shop"}
"""The shortest validity periods that the API allows, so that tracking ends within the demo."""
CAMPAIGN, RATE = "nov-sale", 120
"""Its name, and how many of its messages leave in a second: few enough to watch."""
SALE = "Ноябрьская распродажа: всё тёплое на треть дешевле, до воскресенья. Ждём вас!"


@dataclass(frozen=True)
class Asked:
    """A message as the app enqueued it; ``end``: its final status if the address doesn't decide."""

    job: Json
    end: str = ""

    @property
    def resend(self) -> bool:
        """Whether an SMS may follow."""
        return bool(self.job.get("resendSms", "smsText" in self.job))

    @property
    def expected(self) -> str:
        """The final status that it must reach."""
        digits = int(self.job["address"][-2:])
        by_sms = "sms_delivered" if self.resend and digits in BY_SMS else ""
        return self.end or by_sms or ENDS.get(digits, "read")

    @property
    def wire(self) -> dict[str, Any]:
        """The message in full, as the provider must get it."""
        return {"type": "viber", **{k: v for k, v in self.job.items() if k not in OURS}}


def read_recipients() -> list[dict[str, str]]:
    """Returns the recipients that come with the package."""
    text = (files("viber_courier.ops") / "recipients.csv").read_text(encoding="utf-8")
    return list(csv.DictReader(text.splitlines()))


class App:
    """``asked``: the enqueued messages by id. ``refused``: an error for each wrong row."""

    def __init__(self, producer: Producer) -> None:
        self.producer = producer
        self.asked: dict[str, Asked] = {}
        self.refused: list[EnqueueError] = []
        self._people = read_recipients()
        self._sale = _common("low", content={"text": SALE})
        self.campaign = producer.campaign(CAMPAIGN, self._sale, rate=RATE)
        people = [person for person in self._people[19:] if not person["order"]]
        self._rows = [_row(person, "Распродажа до воскресенья: -33%") for person in people]

    def enqueue(self) -> None:
        """Enqueues single messages, some with options, and personal texts from a file."""
        for job, end in [*_singles(self._people[:16]), *_options(self._people[16:19])]:
            id = self.producer.enqueue(job)
            self.asked[id] = Asked(job, end)
            if end == "cancelled":
                self.producer.cancel(id)
        orders, common = [], _common("normal")
        for person in self._people[19:]:
            if person["order"]:
                text = f"{person['name']}, заказ {person['order']} ждёт вас: {person['city']}."
                orders.append(_row(person, "Заказ готов") | {"content": {"text": text}})
        self._many(orders, common, partial(self.producer.enqueue_many, common=common))

    def preview(self) -> Preview:
        """Suppresses a number of the campaign's list, and returns what the list would become."""
        self.producer.suppressions.add(self._rows[0]["address"], "by phone")
        return self.campaign.preview(self._rows)

    def start_campaign(self) -> None:
        """Adds the list to the campaign."""
        self._many(self._rows, self._sale, self.campaign.add, suppressed=self._rows[:1])

    def _many(
        self, rows: list[Any], common: Any, add: Callable[..., list[str]], suppressed: Any = ()
    ) -> None:
        accepted = dict(enumerate(rows))

        def refuse(number: int, _: Any, error: EnqueueError) -> None:
            del accepted[number]
            self.refused.append(error)

        for id, row in zip(add(rows, on_invalid=refuse), accepted.values(), strict=True):
            end = "rejected" if row in suppressed else ""
            self.asked[id] = Asked({**common, **row}, end)


def _singles(people: list[dict[str, str]]) -> Iterator[tuple[Any, str]]:
    picture = {"imageUrl": "https://shop.example/autumn.png"}
    press = {"text": "Заказ собран", "caption": "Где он?", "action": "https://shop.example/o/7"}
    text = {"text": "Ваш код 4821"}
    kinds = (("text", text), ("button", press), ("button", press | picture), ("image", picture))
    for (lane, (kind, content)), person in zip(product(LANES, kinds), people, strict=True):
        job = {"subject": "Shop", "priority": lane, "address": person["address"], **SHORT}
        yield {**job, "contentType": kind, "content": content}, ""


def _options(people: list[dict[str, str]]) -> Iterator[tuple[Any, str]]:
    text = {"subject": "Shop", "contentType": "text", "content": {"text": "Ваш код 4821"}}
    code, later, twice = ({**text, **SHORT, "address": p["address"]} for p in people)
    yield {**code, "priority": "realtime", "ttlSec": 15}, "expired"
    tomorrow = (datetime.now(UTC) + timedelta(days=1)).isoformat()
    yield {**later, "priority": "high", "sendAt": tomorrow}, "cancelled"
    yield from [({**twice, "priority": "high", "id": "order-1001"}, "")] * 2


def _common(priority: str, **more: Any) -> Any:
    return {"subject": "Shop", "contentType": "text", "priority": priority, **SHORT, **more}


def _row(person: dict[str, str], sms: str) -> dict[str, Any]:
    options = {"smsText": sms, **SHORT_SMS} if person["sms"] == "yes" else {}
    return {"address": person["address"], **options}


@dataclass(frozen=True)
class Evidence:
    """What is known after a run."""

    asked: Mapping[str, Asked]  # by message id
    events: Sequence[Json]  # of the whole stream, in order
    accepted: Sequence[Json]  # the simulator's /admin/accepted
    requests: Json  # the simulator's /admin/requests
    records: Mapping[str, str]  # status by Producer.get
    counted: Mapping[str, float]  # messages that entered each status, by the counters
    held: Sequence[int]  # the campaign's waiting messages when it stood still, and at its resume

    @property
    def finals(self) -> list[Json]:
        """The data of the final events."""
        return [event["data"] for event in self.events if event["data"]["final"]]

    @property
    def submitted(self) -> dict[str, str]:
        """Message ids by provider id."""
        data = (event["data"] for event in self.events)
        return {d["providerId"]: d["messageId"] for d in data if d["status"] == "submitted"}


def _by_message(evidence: Evidence) -> dict[str, list[Json]]:
    found: dict[str, list[Json]] = {id: [] for id in evidence.asked}
    for event in evidence.events:
        found.setdefault(event["subject"], []).append(event)
    return found


def final_events(evidence: Evidence) -> Iterator[str]:
    """Each message has one final event, the last, with the right status."""
    for id, events in _by_message(evidence).items():
        ends = [(n, e["data"]["status"]) for n, e in enumerate(events, 1) if e["data"]["final"]]
        asked = evidence.asked.get(id)
        if asked is None or ends != [(len(events), asked.expected)]:
            yield f"{id}: enqueued as {asked}, ended as {ends} of {len(events)} events"


def numbers(evidence: Evidence) -> Iterator[str]:
    """The events of each message have the numbers 1, 2, 3 ... in order."""
    for id, events in _by_message(evidence).items():
        found = [event["id"] for event in events]
        if found != [f"{id}:{n}" for n in range(1, len(events) + 1)]:
            yield f"{id}: its events are {', '.join(e.rpartition(':')[2] for e in found)}"


def deliveries(evidence: Evidence) -> Iterator[str]:
    """The provider got each submitted message once, as enqueued, and no other."""
    ids = evidence.submitted
    times = Counter[str]()
    for entry in evidence.accepted:
        id = ids.get(str(entry["providerId"]), "")
        times[id] += 1
        asked = evidence.asked.get(id)
        if asked is None or (entry["message"], entry["resendSms"]) != (asked.wire, asked.resend):
            yield f"{id or 'no event'}: the provider got {entry}, enqueued was {asked}"
    yield from (f"{id}: accepted {times[id]} times" for id in ids.values() if times[id] != 1)


def sums(evidence: Evidence) -> Iterator[str]:
    """Messages, events, requests and answers add up."""
    requests, finals = evidence.requests, evidence.finals
    entries, accepted = sum(requests["batches"]), requests["messages"]
    for what, number, other in (
        ("final events, messages enqueued", len(finals), len(evidence.asked)),
        ("messages submitted, accepted", len(evidence.submitted), accepted),
        ("answers, entries received", accepted + requests["refused"], entries),
        ("attempts, entries received", sum(each["attempts"] for each in finals), entries),
    ):
        if number != other:
            yield f"{what}: {number}, {other}"


def lookups(evidence: Evidence) -> Iterator[str]:
    """Producer.get returns the status of each message's final event."""
    final = {each["messageId"]: each["status"] for each in evidence.finals}
    for id in evidence.asked:
        if evidence.records.get(id) != final.get(id):
            yield f"{id}: get() says {evidence.records.get(id)}, the event {final.get(id)}"


def counters(evidence: Evidence) -> Iterator[str]:
    """The counters agree with the events, status by status."""
    entered = {(event["subject"], event["data"]["status"]) for event in evidence.events}
    by_events = Counter(status for _, status in entered) + Counter(queued=len(evidence.asked))
    for status, number in evidence.counted.items():
        if number != by_events[status]:
            yield f"{status}: {number:g} by the counters, {by_events[status]} by the events"


def standstill(evidence: Evidence) -> Iterator[str]:
    """Nothing of the campaign left while it was paused."""
    if len({*evidence.held}) != 1 or not all(evidence.held):
        yield f"waiting when it stood still, and later: {evidence.held}"


CHECKS = {
    f"{c.__doc__}": c
    for c in (final_events, numbers, deliveries, sums, lookups, counters, standstill)
}


def funnel(asked: int, events: Sequence[Json]) -> dict[str, int]:
    """Returns how far the messages got by these events, and how the others ended."""
    entered = {(event["subject"], event["data"]["status"]) for event in events}
    ends = Counter(event["data"]["status"] for event in events if event["data"]["final"])
    return {
        "enqueued": asked,
        "submitted": sum(status == "submitted" for _, status in entered),
        "delivered": len({id for id, status in entered if status in ("delivered", "read")}),
        "read": ends["read"],
        "SMS instead": ends["sms_delivered"],
        "not delivered": ends["undelivered"] + ends["failed"] + ends["cancelled"],
        "unknown": ends["sent"] + ends["lost"] + ends["unconfirmed"],
        "refused, expired": ends["rejected"] + ends["expired"],
    }


def bytes_in_full(evidence: Evidence) -> int:
    """Returns the bytes of the accepted messages, each in full, as compact JSON in UTF-8."""
    compact = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode
    return sum(len(compact(entry["message"]).encode()) for entry in evidence.accepted)

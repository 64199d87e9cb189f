"""The demo's app: it enqueues, and notes what it asked for so that it can be checked."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta
from importlib.resources import files
from itertools import product
from typing import Any

from ops.demo_checks import Asked
from producers import EnqueueError, Producer
from schemas.keys import LANES

SHORT = {"validityPeriodSec": 15}
SHORT_SMS = {"smsValidityPeriodSec": 15, "smsSrcAddress": "Shop"}
"""Validity periods as short as the API allows: with them tracking ends within the demo."""

Job = dict[str, Any]
Row = Mapping[str, str]


def read_recipients() -> list[Row]:
    """The recipients that ship with the package."""
    text = (files("ops") / "recipients.csv").read_text(encoding="utf-8")
    return list(csv.DictReader(text.splitlines()))


def singles(people: list[Row]) -> Iterator[Job]:
    """A job for each priority and kind of content."""
    picture = {"imageUrl": "https://shop.example/autumn.png"}
    press = {"text": "Заказ собран", "caption": "Где он?", "action": "https://shop.example/o/7"}
    for (lane, kind), person in zip(product(LANES, range(4)), people, strict=True):
        hello = f"{person['name']}, ваш код 4821"
        content_type = ("text", "button", "button", "image")[kind]
        content = ({"text": hello}, press, press | picture, picture)[kind]
        job = {"subject": "Shop", "priority": lane, "address": person["address"], **SHORT}
        yield {**job, "contentType": content_type, "content": content}


class App:
    """``asked`` has what was accepted, by message id; ``refused`` an error for each wrong row."""

    def __init__(self, producer: Producer) -> None:
        self.producer = producer
        self.asked: dict[str, Asked] = {}
        self.refused: list[EnqueueError] = []

    def enqueue(self) -> None:
        """Single messages, messages with options, then the file: personal texts, a campaign."""
        people = read_recipients()
        for job in singles(people[:16]):
            self._one(job)
        self._options(people[16:19])
        rest = people[19:]
        shared = {"subject": "Shop", "contentType": "text", **SHORT}
        orders = [
            {"content": {"text": f"{p['name']}, заказ {p['order']} ждёт вас: {p['city']}."}}
            | _row(p, f"Заказ {p['order']} готов")
            for p in rest
            if p["order"]
        ]
        self._many(orders, {**shared, "priority": "normal"})
        text = "Ноябрьская распродажа: всё тёплое на треть дешевле, до воскресенья. Ждём вас!"
        campaign = {"priority": "low", "content": {"text": text}, "metadata": {"campaign": "nov"}}
        rows = [_row(p, "Распродажа до воскресенья: -33%") for p in rest if not p["order"]]
        self._many(rows, shared | campaign)

    def _one(self, job: Job, end: str = "") -> str:
        id = self.producer.enqueue(job)
        self.asked[id] = Asked(job, end)
        return id

    def _many(self, rows: list[Job], common: Job) -> None:
        wrong: dict[int, EnqueueError] = {}
        ids = self.producer.enqueue_many(
            rows, common, on_invalid=lambda number, row, error: wrong.update({number: error})
        )
        good = [row for number, row in enumerate(rows) if number not in wrong]
        for id, row in zip(ids, good, strict=True):
            self.asked[id] = Asked({**common, **row})
        self.refused += wrong.values()

    def _options(self, people: list[Row]) -> None:
        text = {"subject": "Shop", "contentType": "text", "content": {"text": "Ваш код 4821"}}
        code, later, twice = ({**text, **SHORT, "address": p["address"]} for p in people)
        self._one({**code, "priority": "realtime", "ttlSec": 15}, "expired")
        tomorrow = (datetime.now(UTC) + timedelta(days=1)).isoformat()
        id = self._one({**later, "priority": "high", "sendAt": tomorrow}, "cancelled")
        self.producer.cancel(id)
        for _ in range(2):
            self._one({**twice, "priority": "high", "id": "order-1001"})


def _row(person: Row, sms: str) -> Job:
    wishes = {"smsText": sms, **SHORT_SMS} if person["sms"] == "yes" else {}
    return {"address": person["address"], **wishes}

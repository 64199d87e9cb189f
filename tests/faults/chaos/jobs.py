"""What apps ask for in a chaos run: every kind of message, by a seed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from random import Random
from typing import Any

Json = dict[str, Any]

_OFTEN = (10, 20, 21, 22, 23, 24, 30, 31, 40, 50, 51, 60, 62, 70, 71, 80, 81, 82, *(99,) * 24)
ENDINGS = (*_OFTEN * 3, 61)
"""Last two digits of addresses (ops/simulator_rules.py), as often as they come."""
NEVER_FINAL = (24, 70, 71)
SHORT_VALIDITY = 15
WORDS = ("Код", "Скидки", "заказ", "🙂", "order", "1234", "\u2028", '"', "\\", "<b>", "é")
SIZES = (2, 7, 30, 100, 400, 1200)
"""Rows of a bulk."""
PRIORITIES = ("realtime", "high", "normal", "low")


NAMES = ("Анна", "Bob", "O'Neil", "d\\n", "李")
RATED, RATE = 4, 40.0
"""Every which campaign has a rate of its own, and how many messages a second that is."""


@dataclass(frozen=True)
class Order:
    """One call of an app: ``enqueue(rows[0])``, ``enqueue_many(rows, common)``, or ``add(rows)`` of
    a campaign, whose ``rate`` is its own; with ``template`` each row has a column."""

    rows: list[Json]
    common: Json | None = None
    campaign: str | None = None
    template: bool = False
    rate: float | None = None

    @property
    def jobs(self) -> list[Json]:
        """Each row as the message that it means: it replaces whole fields, null takes away."""
        merged = [{**(self.common or {}), **row} for row in self.rows]
        if self.template:
            merged = [_rendered(job, job.pop("name")) for job in merged]
        return [{k: v for k, v in job.items() if v is not None} for job in merged]


def _rendered(value: Any, name: str) -> Any:
    if isinstance(value, dict):
        return {k: _rendered(each, name) for k, each in value.items()}
    if not isinstance(value, str):
        return value
    return value.replace("{name}", name).replace("{{", "{").replace("}}", "}")


def orders(
    chance: Random,
    name: str,
    first: int,
    count: int,
    endings: Sequence[int] = ENDINGS,
    sizes: Sequence[int] = SIZES,
    campaigns: Sequence[str] = (),
    part: float = 0.0,
) -> Iterator[Order]:
    """Singles and bulks, ``count`` messages in all, with addresses numbered from ``first``. Such a
    part of the bulks goes into campaigns."""
    done = 0
    while done < count:
        if chance.random() < 0.4:
            yield Order([_single(chance, f"{name}:{done}", first + done, endings)])
            done += 1
            continue
        size = min(count - done, count // 10 + 1, chance.choice(sizes))
        common = _shared(chance)
        rows = [
            _row(chance, f"{name}:{done + n}", first + done + n, common, endings)
            for n in range(size)
        ]
        of_campaign = campaigns and chance.random() < part
        yield _campaign(chance, rows, common, campaigns) if of_campaign else Order(rows, common)
        done += size


def _campaign(chance: Random, rows: list[Json], common: Json, names: Sequence[str]) -> Order:
    """The same rows in a campaign: some from a template, some in hours that are open."""
    place = chance.randrange(len(names))
    rate = RATE if place % RATED == 0 else None
    if chance.random() < 0.3:
        now = datetime.now(UTC)
        hours = {
            f"{word}": f"{now + timedelta(hours=h):%H:%M}" for word, h in (("from", -6), ("to", 6))
        }
        common["sendWindow"] = {**hours, "zone": "UTC"}
    template = "text" in common["content"] and chance.random() < 0.4
    if template:
        text = f"{{name}}: {{{{-20 %}}}} {common['content']['text']}"
        common["content"] = {**common["content"], "text": text}
        if "smsText" in common:
            common["smsText"] = "{name} " + common["smsText"]
        rows = [{**row, "name": chance.choice(NAMES)} for row in rows]
    return Order(rows, common, names[place], template, rate)


def _single(chance: Random, id: str, number: int, endings: Sequence[int]) -> Json:
    job = _shared(chance)
    return {
        k: v for k, v in {**job, **_row(chance, id, number, job, endings)}.items() if v is not None
    }


def _row(chance: Random, id: str, number: int, common: Json, endings: Sequence[int]) -> Json:
    """An address of its own, and now and then more. Its last digits decide how it ends."""
    ending = chance.choice(endings)
    row: Json = {"id": id, "address": f"{chance.choice(('', '+'))}79{number:07}{ending:02}"}
    resend = common.get("resendSms", "smsText" in common)
    if ending in NEVER_FINAL:  # tracking must end them soon
        row["validityPeriodSec"] = SHORT_VALIDITY
        if resend:
            row["smsValidityPeriodSec"] = SHORT_VALIDITY
    if chance.random() < 0.1:
        row["comment"] = _text(chance, 3)
    if chance.random() < 0.1:
        row["metadata"] = {"row": number, "ok": True, "word": chance.choice(WORDS)}
    if chance.random() < 0.1 and common["contentType"] == "text":
        row["content"] = {"text": _text(chance, 8)}
    if chance.random() < 0.05:
        row["onUnsure"] = chance.choice(("park", "resend", None))
    if chance.random() < 0.03:
        row["sendAt"] = _instant(chance.uniform(-5, 6))
    if chance.random() < 0.03:
        row["ttlSec"] = chance.randint(16, 40)
    if chance.random() < 0.02:
        row["ignoreSuppression"] = True
    return row


def _shared(chance: Random) -> Json:
    kind = chance.choice(("text", "text", "button", "image"))
    job: Json = {
        "subject": chance.choice(("Shop", "Магазин", "Bank")),
        "priority": chance.choice(PRIORITIES),
        "contentType": kind,
        "content": _content(chance, kind),
    }
    if chance.random() < 0.5:
        job["onUnsure"] = chance.choice(("park", "resend"))
    if chance.random() < 0.3:
        job["validityPeriodSec"] = chance.choice((15, 60, 3600, 86400))
    if chance.random() < 0.2:
        job["metadata"] = {"campaign": chance.randrange(100)}
    if kind != "image" and chance.random() < 0.5:
        job["smsText"] = _text(chance, 5)
        if chance.random() < 0.5:
            job["smsSrcAddress"] = "Shop"
        if chance.random() < 0.5:
            job["smsValidityPeriodSec"] = chance.choice((15, 600))
    elif kind != "image" and chance.random() < 0.3:
        job["resendSms"] = chance.choice((True, False))
    if chance.random() < 0.1:
        job["ttlSec"] = chance.choice((30, 60, 600))
    return job


def _content(chance: Random, kind: str) -> Json:
    link = f"https://example.com/{chance.randrange(1000)}?a=б"
    if kind == "image":
        return {"imageUrl": link}
    if kind == "text":
        return {"text": _text(chance, chance.choice((2, 10, 40)))}
    more = {"imageUrl": link} if chance.random() < 0.5 else {}
    return {"text": _text(chance, 6), "caption": "Открыть", "action": link, **more}


def _text(chance: Random, words: int) -> str:
    return " ".join(chance.choice(WORDS) for _ in range(words))


def _instant(ahead: float) -> str:
    return (datetime.now(UTC) + timedelta(seconds=ahead)).isoformat()

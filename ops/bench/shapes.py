"""The shapes of jobs that are measured: one table for our producer and for every peer.

Adding a shape is a line in ``SHAPES``. Each job has an address of its own and, where the shape says
so, a text of its own: 70 to 300 characters of Cyrillic, as campaigns and notifications have.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

Message = dict[str, Any]

TEXT = "Здравствуйте! Только до воскресенья скидка 20 % на всё: покажите это сообщение на кассе."
SHOP = {"subject": "Shop", "priority": "low", "contentType": "text"}
PAGE = (
    "Здравствуйте, Анна! Он собран и ждёт вас в пункте выдачи до конца недели. Курьер позвонит за"
    " час до приезда; перенести доставку можно в личном кабинете. Скидка 20 % на следующую покупку"
    " действует при оплате картой до воскресенья, подробности на сайте магазина, в приложении и у"
    " наших продавцов."
)


def _text(number: int) -> str:
    return f"Заказ {number}. {PAGE[: 62 + number * 37 % 220]}"


def _own(number: int) -> Message:
    return {"content": {"text": _text(number)}, "comment": f"autumn, row {number}"}


def _sms(text: str) -> Message:
    """The fields of a message that is sent again as SMS where Viber can't deliver it."""
    sender = {"smsSrcAddress": "Shop", "smsValidityPeriodSec": 3600}
    return {"resendSms": True, "smsText": text[:134], **sender}


def _half_sms(number: int) -> Message:
    text = _text(number)
    return {"content": {"text": text}, **(_sms(text) if number % 2 else {})}


def _mixed(number: int) -> Message:
    """Jobs of every kind in turn; between them they use every field that a job may have."""
    text, order = _text(number), f"https://shop.example/orders/{number}"
    image = {"imageUrl": "https://shop.example/autumn.jpg"}
    button = {"text": text, "caption": "Посмотреть", "action": order}
    options: tuple[Message, ...] = (
        {"source": "shop", "campaign": "autumn", "ignoreSuppression": True},
        {"sendWindow": {"from": "00:00", "to": "24:00", "zone": "Asia/Omsk"}},
        {"contentType": "button", "content": button, "comment": "autumn"},
        {"contentType": "image", "content": image, "ttlSec": 600, "validityPeriodSec": 300},
        {**_sms(text), "id": f"order-{number}:ready", "priority": "high"},
        {"contentType": "button", "content": {**button, **image}, "validityPeriodSec": 3600},
        {"metadata": {"order": number, "shop": "Тверская"}, "onUnsure": "resend", "ttlSec": 900},
        {"sendAt": "2026-01-15T10:00:00+03:00", "priority": "normal", "comment": f"row {number}"},
        {"contentType": "button", "content": button, **_sms(text), "metadata": {"order": number}},
    )
    return {"content": {"text": text}, **options[number % len(options)]}


@dataclass(frozen=True)
class Shape:
    """The fields that all jobs share, those of the job with this number, and the first address."""

    common: Message
    own: Callable[[int], Message] = lambda _: {}
    first: int = 79_000_000_000

    def rows(self, count: int) -> list[Message]:
        """Rows for ``enqueue_many`` with ``common``."""
        return [{"address": str(self.first + row), **self.own(row)} for row in range(count)]

    def jobs(self, count: int) -> list[Message]:
        """The same as whole jobs."""
        return [{**self.common, **row} for row in self.rows(count)]

    def wire(self, count: int) -> list[Message]:
        """The same for peers' tasks, which post them as they are: our worker adds ``type``."""
        return [{"type": "viber", **job} for job in self.jobs(count)]


CODE = {"content": {"text": "Ваш код 1234, никому его не говорите"}, "priority": "realtime"}
SHAPES = {
    "plain": Shape({**SHOP, "content": {"text": TEXT}}),
    "code": Shape({**SHOP, **CODE}, first=78_000_000_000),
    "long": Shape({**SHOP, "content": {"text": "Ж" * 1000}}),
    "own": Shape(SHOP, _own),
    "sms": Shape(SHOP, _half_sms),
    "mixed": Shape(SHOP, _mixed),
}

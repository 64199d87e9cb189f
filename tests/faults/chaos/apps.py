"""One app of a chaos run, as a process: enqueues by its seed, repeats itself, cancels, suppresses.

`python -m tests.faults.chaos.apps '<JSON>'`; writes its ledger as JSON lines while it goes.
"""

from __future__ import annotations

import heapq
import time
from collections.abc import Callable
from itertools import count
from pathlib import Path
from random import Random
from typing import TextIO

from tests.faults.chaos.jobs import Json, Order, orders
from tests.faults.chaos.ledger import Notes, Part, persist
from viber_courier import CampaignCancelled, Producer
from viber_courier.store.connection import StoreUnavailable


class App:
    """Enqueues at an even pace; some orders again, cancels a part of what it asked for.

    Some numbers are suppressed before their message is enqueued, some later, some for a while.
    """

    def __init__(self, part: Part, ledger: TextIO) -> None:
        self.part, self.notes = part, Notes(ledger)
        self.chance = Random(f"{part.seed}:{part.name}")
        self.producer = Producer.from_env(part.env)
        self.number = count()
        self.plans: list[tuple[float, int, Callable[[], None]]] = []

    def run(self) -> None:
        part, begun, done = self.part, time.monotonic(), 0
        more = {"campaigns": part.campaigns, "part": part.part}
        for order in orders(self.chance, part.name, part.first, part.count, part.endings, **more):
            self._suppress_some(order)
            self._enqueue(order)
            if self.chance.random() < 0.05:
                self._enqueue(order)  # an app that forgot that it had
            done += len(order.rows)
            self._plan_cancels(order)
            while time.monotonic() < begun + part.seconds * done / part.count:
                self._do_what_is_due()
                time.sleep(0.005)
        while self.plans:
            self._do_what_is_due()
            time.sleep(0.005)
        self.producer.close()

    def _enqueue(self, order: Order) -> None:
        """Until it returns; written down before, as an app would that means it."""
        jobs = order.jobs
        self.notes.asked(jobs, campaign=order.campaign)
        try:
            _, calls = persist(lambda: self._call(order), StoreUnavailable)
        except CampaignCancelled:
            self.notes.refused(jobs)
        else:
            self.notes.stored(jobs, calls)

    def _call(self, order: Order) -> None:
        if order.campaign:
            given = {"common": order.common, "template": order.template, "rate": order.rate}
            self.producer.campaign(order.campaign, **given).add(iter(order.rows))
        elif order.common is None:
            self.producer.enqueue(order.rows[0])
        else:
            self.producer.enqueue_many(iter(order.rows), common=order.common)

    def _plan_cancels(self, order: Order) -> None:
        if self.chance.random() < 0.3:
            for row in self.chance.sample(order.rows, -(-len(order.rows) // 20)):
                wait = self.chance.choice((0.0, 0.05, 0.3, 1.0, 4.0))
                self._plan(wait, lambda id=row["id"]: self._cancel(id))

    def _cancel(self, id: str) -> None:
        called = time.time()
        result, _ = persist(lambda: self.producer.cancel(id), StoreUnavailable)
        self.notes.cancelled(id, called, result)

    def _suppress_some(self, order: Order) -> None:
        """Now, or while they wait or are sent; a part of them is taken off the list again."""
        if not self.part.part or self.chance.random() > 0.3:
            return
        rows = self.chance.sample(order.rows, -(-len(order.rows) // 20))
        wait = self.chance.choice((0.0, 0.0, 0.3, 2.0, 6.0))
        if wait:
            self._plan(wait, lambda: self._list(rows, on=True))
        else:
            self._list(rows, on=True)
        if self.chance.random() < 0.3:
            self._plan(wait + self.chance.uniform(0.0, 4.0), lambda: self._list(rows, on=False))

    def _list(self, rows: list[Json], on: bool) -> None:
        called, listed = time.time(), self.producer.suppressions
        phones = [row["address"] for row in rows]

        def change() -> None:
            if on:
                listed.add_many(phones, "asked")
            else:
                for phone in phones:
                    listed.remove(phone)

        persist(change, StoreUnavailable)
        self.notes.listed([row["id"] for row in rows], called, on)

    def _plan(self, wait: float, act: Callable[[], None]) -> None:
        heapq.heappush(self.plans, (time.monotonic() + wait, next(self.number), act))

    def _do_what_is_due(self) -> None:
        while self.plans and self.plans[0][0] <= time.monotonic():
            heapq.heappop(self.plans)[2]()


if __name__ == "__main__":
    part = Part.given()
    with Path(part.ledger).open("w") as ledger:
        App(part, ledger).run()

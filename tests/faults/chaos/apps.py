"""One app of a chaos run, as a process: enqueues by its seed, repeats itself, cancels.

`python -m tests.faults.chaos.apps '<JSON>'`; writes its ledger as JSON lines while it goes.
"""

from __future__ import annotations

import heapq
import time
from pathlib import Path
from random import Random
from typing import TextIO

from tests.faults.chaos.jobs import Order, orders
from tests.faults.chaos.ledger import Notes, Part, persist
from viber_courier import Producer
from viber_courier.store.connection import StoreUnavailable


class App:
    """Enqueues at an even pace; some orders again, cancels a part of what it asked for."""

    def __init__(self, part: Part, ledger: TextIO) -> None:
        self.part, self.notes = part, Notes(ledger)
        self.chance = Random(f"{part.seed}:{part.name}")
        self.producer = Producer.from_env(part.env)
        self.cancels: list[tuple[float, str]] = []

    def run(self) -> None:
        part, begun, done = self.part, time.monotonic(), 0
        for order in orders(self.chance, part.name, part.first, part.count, part.endings):
            self._enqueue(order)
            if self.chance.random() < 0.05:
                self._enqueue(order)  # an app that forgot that it had
            done += len(order.rows)
            self._plan_cancels(order)
            while time.monotonic() < begun + part.seconds * done / part.count:
                self._cancel_due()
                time.sleep(0.005)
        while self.cancels:
            self._cancel_due()
            time.sleep(0.005)
        self.producer.close()

    def _enqueue(self, order: Order) -> None:
        """Until it returns; written down before, as an app would that means it."""
        jobs = order.jobs
        self.notes.asked(jobs)
        _, calls = persist(lambda: self._call(order), StoreUnavailable)
        self.notes.stored(jobs, calls)

    def _call(self, order: Order) -> None:
        if order.common is None:
            self.producer.enqueue(order.rows[0])
        else:
            self.producer.enqueue_many(iter(order.rows), common=order.common)

    def _plan_cancels(self, order: Order) -> None:
        if self.chance.random() < 0.3:
            for row in self.chance.sample(order.rows, -(-len(order.rows) // 20)):
                wait = self.chance.choice((0.0, 0.05, 0.3, 1.0, 4.0))
                heapq.heappush(self.cancels, (time.monotonic() + wait, row["id"]))

    def _cancel_due(self) -> None:
        while self.cancels and self.cancels[0][0] <= time.monotonic():
            _, id = heapq.heappop(self.cancels)
            called = time.time()
            result, _ = persist(lambda id=id: self.producer.cancel(id), StoreUnavailable)
            self.notes.cancelled(id, called, result)


if __name__ == "__main__":
    part = Part.given()
    with Path(part.ledger).open("w") as ledger:
        App(part, ledger).run()

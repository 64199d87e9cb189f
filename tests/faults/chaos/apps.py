"""One app of a chaos run, as a process: enqueues by its seed, repeats itself, cancels.

`python -m tests.faults.chaos.apps '<JSON>'`; writes its ledger as JSON lines while it goes.
"""

from __future__ import annotations

import heapq
import json
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from random import Random
from typing import Any, TextIO

from celery import Celery
from kombu.exceptions import OperationalError

from tests.faults.chaos.jobs import ENDINGS, Json, Order, orders
from tests.faults.chaos.oracle import Asked, Cancel
from viber_courier import Producer
from viber_courier.store.connection import StoreUnavailable

PATIENCE = 120.0
"""Seconds that one call is repeated for while Redis can't be used."""


@dataclass(frozen=True)
class Part:
    """Which messages are this app's, how long it takes for them, where its ledger is."""

    name: str
    seed: int
    first: int
    count: int
    seconds: float
    ledger: str
    env: dict[str, str]
    endings: tuple[int, ...] = ENDINGS
    tasks: float = 0.0

    def command(self) -> list[str]:
        return [sys.executable, "-m", "tests.faults.chaos.apps", json.dumps(asdict(self))]


class App:
    """Enqueues at an even pace; some orders again, cancels a part of what it asked for."""

    def __init__(self, part: Part, ledger: TextIO) -> None:
        self.part, self.ledger = part, ledger
        self.chance = Random(f"{part.seed}:{part.name}")
        self.producer = Producer.from_env(part.env)
        self.celery = Celery(broker=part.env["COURIER_REDIS_URL"])
        self.celery.conf.broker_transport_options = {"socket_timeout": 5, "max_retries": 1}
        self.cancels: list[tuple[float, str]] = []

    def run(self) -> None:
        part, begun, done = self.part, time.monotonic(), 0
        for order in orders(
            self.chance, part.name, part.first, part.count, part.endings, part.tasks
        ):
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
        called, deadline, calls = time.time(), time.monotonic() + PATIENCE, 0
        jobs = order.jobs
        self._note("asked", called, [job["id"] for job in jobs], jobs=jobs, task=order.task)
        while True:
            calls += 1
            try:
                self._call(order)
                break
            except (StoreUnavailable, OperationalError):
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.1)
        self._note("stored", time.time(), [job["id"] for job in jobs], calls=calls)

    def _call(self, order: Order) -> None:
        if order.task:
            namespace = self.part.env["COURIER_NAMESPACE"]
            args, queue = [order.jobs], f"{namespace}.enqueue"
            self.celery.send_task("courier.enqueue", args=args, queue=queue, retry=False)
        elif order.common is None:
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
            called, deadline = time.time(), time.monotonic() + PATIENCE
            while True:
                try:
                    result = self.producer.cancel(id)
                    break
                except StoreUnavailable:
                    if time.monotonic() > deadline:
                        raise
                    time.sleep(0.1)
            self._note("cancelled", called, [id], answered=time.time(), result=result)

    def _note(self, what: str, at: float, ids: list[str], **more: Any) -> None:
        line = {"what": what, "at": at, "ids": ids, **more}
        self.ledger.write(json.dumps(line, ensure_ascii=False) + "\n")
        self.ledger.flush()


def read_ledger(path: Path) -> dict[str, Asked]:
    """What an app asked for, by message."""
    asked: dict[str, Asked] = {}
    for text in path.read_text().split("\n")[:-1]:
        line: Json = json.loads(text)
        if line["what"] == "asked":
            for job in line["jobs"]:
                asked.setdefault(job["id"], Asked(job, line["at"], times=0, task=line["task"]))
        for id in line["ids"]:
            if line["what"] == "stored":
                asked[id].stored = line["at"]
                asked[id].times += line["calls"]
            elif line["what"] == "cancelled":
                cancel = Cancel(line["at"], line["answered"], line["result"])
                asked[id].cancels.append(cancel)
    return asked


if __name__ == "__main__":
    part = Part(**json.loads(sys.argv[1]))
    with Path(part.ledger).open("w") as ledger:
        App(part, ledger).run()

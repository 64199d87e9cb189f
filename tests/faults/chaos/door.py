"""The app behind the task door: a plain Celery client, without the package.

`python -m tests.faults.chaos.door '<JSON>'`; its ledger is like the other apps'. It puts tasks
``courier.enqueue`` on their queue in bursts, so that some always pass while workers are killed.
"""

from __future__ import annotations

import sys
import time
import uuid
from pathlib import Path
from random import Random
from typing import TextIO

from celery import Celery
from kombu.exceptions import OperationalError

from tests.faults.chaos.jobs import Json, Order, orders
from tests.faults.chaos.ledger import Notes, Part, persist

SIZES = (1, 1, 1, 1, 2, 5, 40)
"""Jobs in a task, as often as they come, beside single ones."""
BURST = 100
"""Messages that it puts on the queue at once."""


class Door:
    def __init__(self, part: Part, ledger: TextIO) -> None:
        self.part, self.notes = part, Notes(ledger)
        self.chance = Random(f"{part.seed}:{part.name}")
        self.celery = Celery(broker=part.env["COURIER_BROKER_URL"])
        self.celery.conf.broker_transport_options = {"socket_timeout": 5, "max_retries": 1}
        self.queue = f"{part.env['COURIER_NAMESPACE']}.enqueue"

    def run(self) -> None:
        part, begun, done = self.part, time.monotonic(), 0
        for order in orders(self.chance, part.name, part.first, part.count, part.endings, SIZES):
            self._put(order)
            done += len(order.rows)
            due = begun + part.seconds * (done // BURST * BURST) / part.count
            time.sleep(max(0.0, due - time.monotonic()))
        self.celery.close()

    def _put(self, order: Order) -> None:
        """One task; half of them leave the ids to the courier, which makes them of the task's."""
        task = uuid.UUID(int=self.chance.getrandbits(128), version=4)
        # Nobody can tell from outside when a task has stored its jobs: no ttlSec.
        sent = [{k: v for k, v in job.items() if k != "ttlSec"} for job in order.jobs]
        jobs = sent
        if self.chance.random() < 0.5:
            jobs = [{**job, "id": str(uuid.uuid5(task, str(n)))} for n, job in enumerate(sent)]
            sent = [{k: v for k, v in job.items() if k != "id"} for job in sent]
        self.notes.asked(jobs, task=True)
        _, calls = persist(lambda: self._send(str(task), sent), OperationalError)
        if self.chance.random() < 0.05:
            calls += persist(lambda: self._send(str(task), sent), OperationalError)[1]
        self.notes.stored(jobs, calls)

    def _send(self, task: str, jobs: list[Json]) -> None:
        self.celery.send_task(
            "courier.enqueue", args=[jobs], task_id=task, queue=self.queue, retry=False
        )


if __name__ == "__main__":
    part = Part.given()
    with Path(part.ledger).open("w") as ledger:
        Door(part, ledger).run()
    assert "viber_courier" not in sys.modules, "this client must be a plain one"

"""An app, run by the interpreter of any version: ``<python> program.py enqueue|read '<JSON>'``.

It uses what an app may use of the package and nothing of these tests, whose code is this version's.
"""

from __future__ import annotations

import json
import random
import sys
import time
from pathlib import Path
from typing import Any

from celery import Celery

from viber_courier import Producer


def enqueue(given: dict[str, Any]) -> None:
    """Enqueues the orders of a file at an even pace, some twice, until another file is there.

    Cancels some messages.

    Its ledger is that of a chaos run's app (tests/faults/chaos/apps.py).
    """
    producer, chance = Producer.from_env(given["env"]), random.Random(given["name"])
    celery = Celery(broker=given["env"]["COURIER_REDIS_URL"])
    orders = json.loads(Path(given["orders"]).read_text())
    begun, enough = time.monotonic(), Path(given["until"])
    with Path(given["ledger"]).open("w") as ledger:

        def note(what: str, ids: list[str], **more: Any) -> None:
            line = {"what": what, "at": time.time(), "ids": ids} | more
            ledger.write(json.dumps(line) + "\n")
            ledger.flush()

        def call(order: dict[str, Any], ids: list[str]) -> None:
            note("asked", ids, jobs=order["jobs"], task=order["task"])
            if order["task"]:
                queue = f"{given['env']['COURIER_NAMESPACE']}.enqueue"
                celery.send_task("courier.enqueue", args=[order["jobs"]], queue=queue)
            elif order["common"] is None:
                producer.enqueue(order["rows"][0])
            else:
                producer.enqueue_many(order["rows"], common=order["common"])
            note("stored", ids, calls=1)

        for n, order in enumerate(orders, 1):
            if enough.exists():
                break
            ids = [job["id"] for job in order["jobs"]]
            call(order, ids)
            if chance.random() < 0.1:
                call(order, ids)
            if not order["task"] and chance.random() < 0.3:
                id, at = chance.choice(ids), time.time()
                result = producer.cancel(id)
                note("cancelled", [id], at=at, answered=time.time(), result=result)
            time.sleep(max(0.0, begun + n * given["pause"] - time.monotonic()))
        else:
            raise SystemExit("no orders are left")
    producer.close()


def read(given: dict[str, Any]) -> None:
    """Prints what an app of this version sees of these messages: events and records."""
    producer = Producer.from_env(given["env"])
    events = [
        [event.id, event.data]
        for event in producer.results(group=given["group"], consumer="one", block=1.0)
    ]
    records = {}
    for id in given["ids"]:
        if (record := producer.get(id)) is not None:
            # Versions of format 2 have ids as numbers, and "" for no date (CHANGELOG.md).
            values = {name: getattr(record, name) or None for name in given["fields"]}
            values["provider_id"] = record.provider_id and str(record.provider_id)
            records[id] = {**values, "sms": [[str(s.id), s.state] for s in record.sms]}
    print(json.dumps({"events": events, "records": records}))
    producer.close()


if __name__ == "__main__":
    {"enqueue": enqueue, "read": read}[sys.argv[1]](json.loads(sys.argv[2]))

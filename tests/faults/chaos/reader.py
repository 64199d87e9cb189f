"""An app that reads results all through a run: `python -m tests.faults.chaos.reader <JSON>`.

Writes down the id of each event that it acknowledges; ends after TERM and some silence.
"""

from __future__ import annotations

import json
import signal
import sys
import threading
import time
from pathlib import Path

from viber_courier import Producer
from viber_courier.store.connection import StoreUnavailable

SILENCE = 2.0
"""Seconds without news after which nothing more comes."""


def command(env: dict[str, str], ledger: Path) -> list[str]:
    asked = json.dumps({"env": env, "ledger": str(ledger)})
    return [sys.executable, "-m", "tests.faults.chaos.reader", asked]


def read(env: dict[str, str], ledger: Path) -> None:
    told = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: told.set())
    producer = Producer.from_env(env)
    with ledger.open("w") as file:
        while True:
            last = told.is_set()
            try:
                for event in producer.results("chaos", "reader", block=SILENCE):
                    file.write(event.id + "\n")
                    event.ack()
            except StoreUnavailable:
                time.sleep(0.1)
                continue
            file.flush()
            if last:
                return


if __name__ == "__main__":
    given = json.loads(sys.argv[1])
    read(given["env"], Path(given["ledger"]))

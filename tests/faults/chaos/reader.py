"""An app that reads results all through a run: `python -m tests.faults.chaos.reader <JSON>`.

Writes down each event that it acknowledges, and each EventsMissed; ends after TERM and some
silence. With ``naps`` it reads a little now and then, and slowly, so that trimming overtakes it.
"""

from __future__ import annotations

import json
import signal
import sys
import threading
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from random import Random
from typing import TextIO

from tests.faults.chaos.accounts import Account, Entry, Seen, Told, digest
from tests.faults.chaos.archive import entry_of
from viber_courier import EventsMissed, Producer
from viber_courier.store.connection import StoreUnavailable

SILENCE = 2.0
"""Seconds without news after which nothing more comes."""


@dataclass(frozen=True)
class Reading:
    """``naps``: the shortest and the longest time for which it reads nothing, in seconds."""

    env: dict[str, str]
    ledger: str
    group: str
    seed: int
    naps: tuple[float, float] | None = None

    def command(self) -> list[str]:
        return [sys.executable, "-m", "tests.faults.chaos.reader", json.dumps(asdict(self))]


class Reader:
    def __init__(self, reading: Reading, file: TextIO) -> None:
        self._reading, self._file = reading, file
        self._chance = Random(f"{reading.seed}:{reading.group}")
        self._producer = Producer.from_env(reading.env)
        self.told = threading.Event()

    def run(self) -> None:
        while True:
            last, naps = self.told.is_set(), self._reading.naps
            try:
                if naps and not last:
                    self._read(self._chance.uniform(0.2, 3.0), self._chance.choice((0.0, 0.02)))
                    self.told.wait(self._chance.uniform(*naps))
                    continue
                self._read(float("inf"), 0.0)
            except StoreUnavailable:
                time.sleep(0.1)
                continue
            if last:
                return

    def _read(self, seconds: float, pause: float) -> None:
        """Until nothing comes, or for so long, with a pause after each event."""
        begun = time.monotonic()
        stream = self._producer.results(self._reading.group, "reader", block=SILENCE)
        try:
            while time.monotonic() - begun < seconds:
                try:
                    event = next(stream)
                except EventsMissed as missed:
                    since, until = (at.timestamp() * 1000 for at in (missed.since, missed.until))
                    self._note("missed", f"{round(since)} {round(until)} {time.time()}")
                except StopIteration:
                    return
                else:
                    self._note(event.id, f"{event._entry} {digest(event.data)}")
                    event.ack()
                    time.sleep(pause)
        finally:
            stream.close()
            self._file.flush()

    def _note(self, what: str, more: str) -> None:
        self._file.write(f"{what} {more}\n")


def read_account(name: str, path: Path) -> Account:
    """What a group was given, and told."""
    read, told = list[tuple[Entry, Seen]](), list[Told]()
    for line in path.read_text().splitlines():
        what, *more = line.split(" ")
        if what == "missed":
            told.append(Told(int(more[0]), int(more[1]), float(more[2])))
        else:
            read.append((entry_of(more[0]), Seen(what, more[1])))
    return Account(name, read, told)


if __name__ == "__main__":
    given = json.loads(sys.argv[1])
    with Path(given["ledger"]).open("w") as file:
        reader = Reader(Reading(**given), file)
        signal.signal(signal.SIGTERM, lambda *_: reader.told.set())
        reader.run()

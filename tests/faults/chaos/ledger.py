"""What an app of a chaos run is told to do, and its ledger: JSON lines, written while it goes.

Imports nothing of the courier: the app behind the task door has no such package.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TextIO

from tests.faults.chaos.jobs import ENDINGS, Json
from tests.faults.chaos.oracle import Asked, Call, Cancel, Listing

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
    campaigns: tuple[str, ...] = ()
    part: float = 0.0  # of the bulks: so many go into campaigns

    def command(self, program: str) -> list[str]:
        return [sys.executable, "-m", f"tests.faults.chaos.{program}", json.dumps(asdict(self))]

    @classmethod
    def given(cls) -> Part:
        """As the command line of this process says."""
        return cls(**json.loads(sys.argv[1]))


class Notes:
    """Writes a ledger: what a call means before it is made, and that it has returned."""

    def __init__(self, file: TextIO) -> None:
        self._file = file

    def asked(self, jobs: list[Json], task: bool = False, campaign: str | None = None) -> None:
        self._write("asked", time.time(), jobs, jobs=jobs, task=task, campaign=campaign)

    def stored(self, jobs: list[Json], calls: int) -> None:
        self._write("stored", time.time(), jobs, calls=calls)

    def cancelled(self, id: str, called: float, result: bool) -> None:
        self._write("cancelled", called, [{"id": id}], answered=time.time(), result=result)

    def refused(self, jobs: list[Json]) -> None:
        """Their campaign was cancelled; some may be stored."""
        self._write("refused", time.time(), jobs)

    def listed(self, ids: list[str], called: float, on: bool) -> None:
        """Their numbers were put on the list of suppressed ones, or taken off it."""
        about = [{"id": id} for id in ids]
        self._write("listed", called, about, answered=time.time(), on=on)

    def _write(self, what: str, at: float, about: list[Json], **more: Any) -> None:
        line = {"what": what, "at": at, "ids": [each["id"] for each in about], **more}
        self._file.write(json.dumps(line, ensure_ascii=False) + "\n")
        self._file.flush()


def persist(call: Callable[[], Any], *errors: type[Exception]) -> tuple[Any, int]:
    """Repeats a call while it raises one of these; what it returns, and how many calls it took."""
    deadline, calls = time.monotonic() + PATIENCE, 0
    while True:
        calls += 1
        try:
            return call(), calls
        except errors:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.1)


def read_ledger(path: Path) -> dict[str, Asked]:
    """What an app asked for, by message."""
    asked: dict[str, Asked] = {}
    lines: list[Json] = [json.loads(text) for text in path.read_text().split("\n")[:-1]]
    for line in lines:
        if line["what"] == "asked":
            of = line.get("campaign")  # an app that has none writes none
            for row, job in enumerate(line["jobs"]):
                new = Asked(job, line["at"], times=0, task=line["task"], campaign=of, row=row)
                asked.setdefault(job["id"], new)
    for line in lines:  # a number may be suppressed before its message is asked for
        for id in line["ids"]:
            if line["what"] == "stored":
                asked[id].stored = line["at"]
                asked[id].times += line["calls"]
            elif line["what"] == "cancelled":
                cancel = Cancel(line["at"], line["answered"], line["result"])
                asked[id].cancels.append(cancel)
            elif line["what"] == "refused":
                asked[id].refused = line["at"]
            elif line["what"] == "listed":
                asked[id].listings.append(Listing(line["at"], line["answered"], line["on"]))
    return asked


def read_calls(path: Path) -> list[Call]:
    """What the marketer has called."""
    return [Call(**json.loads(line)) for line in path.read_text().splitlines()]

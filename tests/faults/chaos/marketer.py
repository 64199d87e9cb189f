"""Who runs the campaigns of a chaos run: `python -m tests.faults.chaos.marketer '<JSON>'`.

Pauses, resumes and cancels them at random until TERM, and then resumes what isn't cancelled. Writes
down each call after it, also one that was not answered: it may or may not have held.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from random import Random
from typing import TextIO

from tests.faults.chaos.ledger import persist
from tests.faults.chaos.oracle import Call, Json
from viber_courier import CampaignCancelled, Producer, Progress
from viber_courier.store.connection import StoreUnavailable

ACTS = {"pause": 6, "resume": 7, "cancel": 2, "progress": 3}
AIM = 30
"""Looks for a campaign that is worth a pause: a request is a matter of milliseconds."""
NUMBERS = ("added", "waiting", "inside", "ended")


@dataclass(frozen=True)
class Marketing:
    """``pauses``: seconds between two calls. ``most``: campaigns that it may cancel."""

    env: dict[str, str]
    ledger: str
    names: tuple[str, ...]
    seed: int
    pauses: tuple[float, float]
    most: int

    def command(self) -> list[str]:
        return [sys.executable, "-m", "tests.faults.chaos.marketer", json.dumps(asdict(self))]


class Marketer:
    def __init__(self, marketing: Marketing, file: TextIO) -> None:
        self._marketing, self._file = marketing, file
        self._chance = Random(f"{marketing.seed}:marketer")
        self._producer = Producer.from_env(marketing.env)
        self._known, self._cancelled = set[str](), set[str]()
        self.told = threading.Event()

    def run(self) -> None:
        names, pauses = self._marketing.names, self._marketing.pauses
        while not self.told.wait(self._chance.uniform(*pauses) if names else None):
            name = self._chance.choice(names)
            (act,) = self._chance.choices([*ACTS], [*ACTS.values()])
            if act in ("pause", "cancel") and self._chance.random() < 0.4:
                name = self._aim(name)
            if act == "cancel" and name not in self._known:
                act = "pause"  # nothing is cancelled of a campaign that nobody knows
            if act == "cancel" and name not in self._cancelled:
                if len(self._cancelled) == self._marketing.most:
                    continue
                self._cancelled.add(name)
            if act == "cancel" and self._chance.random() < 0.3:
                self._die_in_cancel(name)
            elif self._chance.random() < 0.5:
                self._persist(name, act)
            else:
                with suppress(StoreUnavailable):
                    self._call(name, act)
        for name in names:
            self._persist(name, "resume")
        self._producer.close()

    def _aim(self, name: str) -> str:
        """A campaign with messages inside a request, if one is soon found."""
        for _ in range(AIM):
            other = self._chance.choice(self._marketing.names)
            with suppress(StoreUnavailable):
                if self._producer.campaign(other).progress().inside:
                    return other
        return name

    def _persist(self, name: str, act: str) -> None:
        persist(lambda: self._call(name, act), StoreUnavailable)

    def _call(self, name: str, act: str) -> None:
        campaign, called, answer = self._producer.campaign(name), time.time(), None
        calls: dict[str, Callable[[], Progress]] = {
            **{"pause": campaign.pause, "resume": campaign.resume},
            **{"cancel": campaign.cancel, "progress": campaign.progress},
        }
        try:
            answer = told(calls[act]())
            self._known |= {name} if act == "pause" else set()
        except CampaignCancelled:
            answer = {"refused": True}
        finally:
            self._note(Call(name, act, called, time.time() if answer else None, answer))

    def _die_in_cancel(self, name: str) -> None:
        """As an app that is killed meanwhile; workers end what it has not."""
        called, child = time.time(), os.fork()
        if not child:
            with suppress(StoreUnavailable):
                Producer.from_env(self._marketing.env).campaign(name).cancel()
            os._exit(0)
        time.sleep(self._chance.uniform(0.005, 0.1))
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        self._note(Call(name, "cancel", called))

    def _note(self, call: Call) -> None:
        self._file.write(json.dumps(asdict(call)) + "\n")
        self._file.flush()


def told(progress: Progress) -> Json:
    """A progress as a ledger has it."""
    numbers = {name: getattr(progress, name) for name in NUMBERS}
    return {
        **{"state": progress.state, **numbers, "entered": {**progress.entered}},
        "statuses": {str(status): n for status, n in progress.statuses.items()},
    }


if __name__ == "__main__":
    given = json.loads(sys.argv[1])
    with Path(given["ledger"]).open("w") as file:
        marketer = Marketer(Marketing(**given), file)
        signal.signal(signal.SIGTERM, lambda *_: marketer.told.set())
        marketer.run()

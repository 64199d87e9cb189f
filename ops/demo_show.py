"""What the demo looks like: in a terminal with live bars, elsewhere as plain lines."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from itertools import groupby
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.highlighter import JSONHighlighter
from rich.live import Live
from rich.padding import Padding
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from ops.demo_checks import Evidence, Json, bytes_in_full, funnel
from schemas.status import Status

SAMPLES = ("sms_delivered", "read", "rejected")
"""Statuses of the events that are shown."""


class Show:
    """Narrates; as a context it holds the live bars, if there is a terminal for them."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self._started, self._drawn = time.monotonic(), 0.0
        self._status: dict[str, str] = {}
        self._ended: set[str] = set()
        self._submitted: set[str] = set()
        self._waiting = False
        self._told: object = None
        self._live = Live(console=console, auto_refresh=False, transient=True)

    def __enter__(self) -> Show:
        self.console.print(
            "[bold]viber-courier, the whole system in half a minute.[/] An app, Redis, a Celery"
            " worker and a simulated provider run on this machine only; nothing leaves it."
        )
        if self.console.is_terminal:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Take the bars away."""
        self._live.stop()

    @property
    def done(self) -> bool:
        """Whether every message has ended."""
        return self.left == 0

    @property
    def left(self) -> int:
        """How many messages have not ended."""
        return len(self._status) - len(self._ended)

    def enqueue(self) -> None:
        """Phase 1."""
        self._phase(
            1,
            "An app enqueues",
            "Single messages of every priority and kind, then a file of recipients: personal texts,"
            " and a campaign whose text is stored once. No worker runs yet, so they wait in Redis.",
        )

    def enqueued(self, ids: Collection[str], refused: Sequence[Exception]) -> None:
        """The end of phase 1."""
        self._status = dict.fromkeys(ids, Status.QUEUED)
        texts = Counter(str(error) for error in refused)
        wrong = "".join(f" {n} rows were refused at once: {text}." for text, n in texts.items())
        self._say(f"{len(ids)} messages are stored.{wrong}")
        self.update(True)

    def submit(self) -> None:
        """Phase 2."""
        self._phase(
            2,
            "A worker starts: celery -A worker worker -B",
            "It takes what is due, urgent lanes first, up to 100 messages a request. Then it asks"
            " for their statuses; each change is an event on a Redis stream, which the app reads.",
        )

    def wait(self, requests: Json) -> None:
        """Phase 3, once."""
        if self._waiting:
            return
        self._waiting = True
        self._phase(
            3,
            f"{self.left} messages are left",
            "Their endings never come, as happens in life. Tracking closes them when their"
            " validity is over: after 15 s here, 30 s where an SMS may follow.",
        )

    def note(self, id: str, data: Mapping[str, Any]) -> None:
        """An event has come."""
        self._status[id] = data["status"]
        if data["status"] == Status.SUBMITTED:
            self._submitted.add(id)
        if data["final"]:
            self._ended.add(id)
        self.update()

    def update(self, now: bool = False) -> None:
        """Draw, if it is time to."""
        pause = 0.1 if self._live.is_started else 3.0
        if not now and not self.done and time.monotonic() - self._drawn < pause:
            return
        self._drawn = time.monotonic()
        if self._live.is_started:
            self._live.update(self._frame(), refresh=True)
        elif (state := self._line()) != self._told:
            self._told = state
            self._say(f"{time.monotonic() - self._started:4.1f} s: {state}")

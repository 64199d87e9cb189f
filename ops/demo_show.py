"""What the demo looks like: in a terminal with live bars, elsewhere as plain lines."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from itertools import groupby
from textwrap import wrap
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.highlighter import JSONHighlighter
from rich.live import Live
from rich.padding import Padding
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from ops.demo_checks import Evidence, bytes_in_full, funnel
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
        self._rested = False
        self._told = ""
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
        self._say(f"{len(ids)} messages are stored.")
        for text, count in Counter(str(error) for error in refused).items():
            self._say(f"{count} rows of the file were refused at once: {text}.")
        self.update(True)

    def submit(self) -> None:
        """Phase 2."""
        self._phase(
            2,
            "A worker starts: celery -A worker worker -B",
            "It takes what is due, urgent lanes first, up to 100 messages a request. Then it polls"
            " their statuses; each change is an event on a Redis stream, which the app reads.",
        )

    @property
    def settled(self) -> bool:
        """Whether nothing is left to send, for the first time it is asked."""
        if self._rested or Status.QUEUED in self._status.values():
            return False
        self._rested = True
        return True

    def rest(self, evidence: Evidence, raw: Sequence[str]) -> None:
        """Phases 3 and 4: something to read while the last messages are waited for."""
        self._phase(3, "What went over the wire, and what the app is told")
        self._batches(evidence)
        self._say(f"{len(raw)} events so far; three of them, as they stand on the stream:")
        for status in SAMPLES:
            found = [text for text in raw if f'"viber.message.{status}"' in text]
            if found:
                self.console.print()
                text = JSONHighlighter()(max(found, key=len))
                self.console.print(text, soft_wrap=True)
        self._phase(
            4,
            f"{self.left} messages are left",
            "Their endings never come, as happens in life. Tracking closes them when their"
            " validity is over: after 15 s here, 30 s where an SMS may follow.",
        )
        self.update(True)

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

    def _counts(self) -> list[tuple[str, int]]:
        counts = Counter(self._status.values())
        return [(status, counts[status]) for status in Status if counts[status]]

    def _bars(self) -> list[tuple[str, int, int]]:
        total, submitted = len(self._status), len(self._submitted)
        never = len(self._ended - self._submitted)
        return [
            ("enqueued", total, total),
            ("submitted", submitted, total - never),
            ("ended", len(self._ended), total),
        ]

    def _line(self) -> str:
        return ", ".join(f"{done} {name}" for name, done, _ in self._bars())

    def _frame(self) -> RenderableType:
        bars = Table.grid(padding=(0, 2, 0, 0))
        for name, done, total in self._bars():
            bars.add_row(name, ProgressBar(total, done, width=40), f"{done} of {total}")
        seconds = f"{time.monotonic() - self._started:.0f} s"
        statuses = Table.grid(padding=(0, 2, 0, 0))
        cells = [Text(f"{n:>4} {status}") for status, n in self._counts()]
        for first in range(0, len(cells), 4):
            statuses.add_row(*cells[first : first + 4])
        return Padding(Group(bars, seconds, statuses), (1, 0, 1, 3))

    def _phase(self, number: int, title: str, text: str = "") -> None:
        self.console.print(f"\n[bold cyan]{number}  {title}[/]")
        self._say(text)

    def _say(self, text: str) -> None:
        width = min(self.console.width, 100) - 3
        for line in wrap(text, width):
            self.console.print(Text(f"   {line}"))

    def _put(self, table: Table) -> None:
        self.console.print(Padding(table, (1, 0, 0, 3), expand=False))

    def results(self, evidence: Evidence) -> None:
        """Phase 5: how far the messages came, and how they ended."""
        self._phase(5, "How far they came, and how they ended")
        self._funnel(funnel(evidence))
        self._endings(evidence)

    def _funnel(self, counts: Mapping[str, int]) -> None:
        table = Table.grid(padding=(0, 2, 0, 0))
        for name, count in counts.items():
            bar = ProgressBar(counts["enqueued"], count, width=40)
            table.add_row(name, Text(str(count), justify="right"), bar)
        self._put(table)

    def _endings(self, evidence: Evidence) -> None:
        table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
        for name in ("messages", "status", "reason"):
            table.add_column(name, justify="right" if name == "messages" else "left")
        order = list(Status)
        ends = Counter((order.index(e["status"]), e["reason"] or "") for e in evidence.finals)
        for (place, reason), count in sorted(ends.items()):
            table.add_row(str(count), order[place], reason)
        self._put(table)

    def _batches(self, evidence: Evidence) -> None:
        requests = evidence.requests
        sizes = [(size, len(list(run))) for size, run in groupby(requests["batches"])]
        shown = ", ".join(f"{n} x {size}" if n > 1 else str(size) for size, n in sizes)
        sent, full = sum(requests["log"]), bytes_in_full(evidence)
        self._say(
            "What the messages of a request share travels once, in its commonData."
            f" {len(requests['batches'])} requests carried {sum(requests['batches'])} messages,"
            f" retries included. Messages per request, in order: {shown}."
        )
        self._say(
            f"{sent:,} bytes were sent. The {requests['messages']} accepted messages alone, each in"
            f" full, have {full:,}: commonData saved {1 - sent / full:.0%} at least."
        )

    def verdict(self, surprises: Mapping[str, Sequence[str]], log: str) -> int:
        """What the checks found; the exit code."""
        self.console.print("\n[bold]Checks[/]")
        for name, faults in surprises.items():
            mark = "[red]WRONG[/]" if faults else "[green]ok[/]"
            self.console.print(f"   {mark}  {name}")
            for fault in [*faults[:5], *([f"and {len(faults) - 5} more"] if faults[5:] else [])]:
                self.console.print(Text(f"          {fault}"))
        seconds = time.monotonic() - self._started
        if any(surprises.values()):
            self.console.print(f"\nThe last lines of the worker's log:\n{log}", markup=False)
            self.console.print(f"\n[bold red]Not as it should be[/], after {seconds:.0f} s.")
            return 1
        self.console.print(f"\n[bold green]All as it should be[/], after {seconds:.0f} s.")
        return 0

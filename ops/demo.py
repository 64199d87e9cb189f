"""``courier demo``: the whole system on this machine for 20 seconds, and whether it was right.

Redis, a Celery worker and the simulated provider are real processes. What an app does is in
``ops.demo_app``, and what must be true then.
"""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack, closing, suppress
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory
from textwrap import fill, indent
from typing import Any
from urllib.request import urlopen

import click
from rich import box
from rich.console import Console, RenderableType
from rich.progress import BarColumn, Progress
from rich.table import Table

from viber_courier import Producer
from viber_courier.ops.demo_app import CHECKS, App, Evidence, bytes_in_full, funnel
from viber_courier.ops.look import take_look
from viber_courier.ops.redis_server import NoServerError, RedisServer
from viber_courier.schemas.status import Status
from viber_courier.store.keys import Keys

SETTINGS = {  # everything that takes hours in life takes seconds here
    "COURIER_API_LOGIN": "tester",
    "COURIER_API_PASSWORD": "111111",
    "COURIER_POLL_DELAYS": "0.5",
    "COURIER_READ_WINDOW": "3",
    "COURIER_SMS_GRACE": "3",
    "COURIER_TRACKING_MARGIN": "0",
    "COURIER_RETRY_BASE": "0.5",
    "COURIER_MAX_ATTEMPTS": "4",
    "COURIER_SWEEP_INTERVAL": "0.3",
}
PATIENCE = 60.0
"""Seconds after the worker's start in which everything must have ended."""


class _Bars(Progress):
    """A bar for each phase of a message's way, and under them how many are in which status."""

    statuses: Mapping[str, int] = {}

    def get_renderables(self) -> Iterable[RenderableType]:
        """What rich draws: rich's documented way to add to the bars."""
        yield from super().get_renderables()
        table = Table("status", "messages", box=box.SIMPLE_HEAD)
        for status in Status:
            if count := self.statuses.get(status):
                table.add_row(status, str(count))
        yield table


class Show:
    """Narrates; the bars are live in a terminal, elsewhere rich prints them when they stop."""

    def __init__(self, console: Console) -> None:
        self.console, self._begun, self._drawn = console, time.monotonic(), time.monotonic()
        words = "   {task.description:17}{task.completed:4}"
        self.bars = _Bars(words, BarColumn(), console=console)
        for name in funnel(0, []):
            self.bars.add_task(name)

    def phase(self, title: str, *texts: str) -> None:
        """A title and paragraphs of what it means."""
        self.console.print(f"\n[bold cyan]{title}[/]")
        for text in texts:
            self.say(text)

    def say(self, text: str) -> None:
        """A paragraph, as it is."""
        text = indent(fill(text, min(self.console.width, 100) - 3), "   ")
        self.console.print(text, markup=False)

    def update(self, counts: Mapping[str, int], statuses: Mapping[str, int]) -> None:
        """Move the bars; a line every 3 seconds where they aren't live."""
        self.bars.statuses = statuses
        for task, count in zip(self.bars.tasks, counts.values(), strict=True):
            self.bars.update(task.id, completed=count, total=counts["enqueued"])
        if not self.console.is_terminal and time.monotonic() - self._drawn > 3:
            self._drawn = time.monotonic()
            self.say(", ".join(f"{count} {status}" for status, count in statuses.items()))

    def wire(self, evidence: Evidence) -> None:
        """Batches, bytes, sample events."""
        batches, total = evidence.requests["batches"], evidence.requests["messages"]
        sent, full = sum(evidence.requests["log"]), bytes_in_full(evidence)
        self.phase(
            "3  What went over the wire, and what the app is told",
            "What the messages of a request share travels once, in its commonData."
            f" {len(batches)} requests carried {', '.join(map(str, batches))} messages.",
            f"{sent:,} bytes were sent; the {total} accepted messages, each in full, would be"
            f" {full:,}: commonData saved {1 - sent / full:.0%} at least.",
            f"{len(evidence.events)} events so far; three of them:",
        )
        last = {event["data"]["status"]: event for event in evidence.events}
        for status in ("sms_delivered", "read", "rejected"):
            self.console.print_json(data=last.get(status), indent=None)

    def verdict(self, surprises: Mapping[str, Sequence[str]], log: str) -> int:
        """What the checks found; the exit code."""
        self.console.print("\n[bold]Checks[/]")
        for name, faults in surprises.items():
            self.console.print("   [red]WRONG[/]" if faults else "   [green]ok[/]", "", name)
            for fault in faults[:5]:
                self.console.print(f"          {fault}", markup=False)
        wrong = any(surprises.values())
        if wrong:
            self.console.print(f"\nThe last lines of the worker's log:\n{log}", markup=False)
        result = "[bold red]Not as it should be" if wrong else "[bold green]All as it should be"
        self.console.print(f"\n{result}[/], after {time.monotonic() - self._begun:.0f} s.")
        return int(wrong)


class Run:
    """The processes of one run, with all their files in one temporary folder, and its story."""

    def __init__(self, stack: ExitStack, show: Show, signals: list[int]) -> None:
        self._stack, self._show, self._signals = stack, show, signals
        folder = TemporaryDirectory(prefix="courier-demo-", ignore_cleanup_errors=True)
        self._folder = Path(stack.enter_context(folder))
        with socket.create_server(("127.0.0.1", 0)) as probe:
            server = RedisServer(self._folder, probe.getsockname()[1])
        stack.callback(server.stop)
        server.start()
        self._env = {**os.environ, **SETTINGS, "COURIER_REDIS_URL": server.url}
        producer = stack.enter_context(closing(Producer.from_env(self._env)))
        self._app, self._told = App(producer), list[dict[str, Any]]()
        self._started: dict[str, subprocess.Popen[bytes]] = {}

    def enqueue(self) -> None:
        """What the app does, before there is a worker."""
        self._show.phase(
            "1  An app enqueues",
            "Single messages, personal texts from a file, a campaign: its text is stored once.",
        )
        self._app.enqueue()
        self._show.say(f"{len(self._app.asked)} messages are stored.")
        refused = self._app.refused
        self._show.say(f"{len(refused)} rows of the file were refused at once: {refused[0]}.")

    def submit(self) -> tuple[Evidence, str]:
        """What provider and worker do, until all have ended: the evidence, and the worker's log."""
        self._start("viber_courier.ops.simulator", "--port", "0", "--step", "0.4")
        while not (line := re.search(r"http://\S+\n", self._log("viber_courier.ops.simulator"))):
            self._check()
            time.sleep(0.02)
        self._env["COURIER_API_URL"] = line[0].strip()
        time.sleep(1.2)  # in which the code that may wait 15 s becomes too old
        self._show.phase(
            "2  A worker starts: celery -A viber_courier.worker worker -B",
            "Urgent lanes go first, up to 100 messages a request; each change is an event.",
        )
        self._start("celery", "-A", "viber_courier.worker", "worker", "-B", "-c", "2", "-l", "INFO")
        with self._show.bars:
            self._follow(calm=1.5)
            self._show.wire(self._gather())
            self._show.phase(
                "4  A few messages are left",
                "Nothing more is heard of them. Tracking ends when their 15 s of validity do.",
            )
            self._follow(calm=PATIENCE)
            self._show.phase("5  How far they came, and how they ended")
        end(self._started["celery"])
        return self._gather(), self._log("celery")

    def _follow(self, calm: float) -> None:
        """Read events as an app would: until all have ended, or all were heard of and are calm."""
        total, news = len(self._app.asked), time.monotonic()
        deadline = news + PATIENCE
        while (now := time.monotonic()) < min(news + calm, deadline):
            self._check()
            events = [*islice(self._app.producer.results("demo", "console", block=0.5), 25)]
            for event in events:
                event.ack()
                self._told.append({"subject": event.subject, "data": event.data})
            latest = {event["subject"]: event["data"]["status"] for event in self._told}
            waiting = {Status.QUEUED: total - len(latest)} if len(latest) < total else {}
            self._show.update(funnel(total, self._told), waiting | Counter(latest.values()))
            if sum(event["data"]["final"] for event in self._told) == total:
                return
            if events or len({event["subject"] for event in self._told}) < total:
                news = now

    def _check(self) -> None:
        """Leave if a signal has come or a process has ended; between steps, cutting no start."""
        if self._signals:
            raise SystemExit(128 + self._signals[0])
        for name, process in self._started.items():
            if process.poll() is not None:
                raise click.ClickException(f"{name} ended:\n{self._log(name)}")

    def _start(self, name: str, *options: str) -> None:
        """Start a module of this Python; what it writes is its log."""
        with (self._folder / f"{name}.log").open("wb") as log:
            process = subprocess.Popen(  # noqa: S603
                [sys.executable, "-m", name, *options],
                env=self._env,
                cwd=self._folder,
                stdout=log,
                stderr=log,
                start_new_session=True,  # a Ctrl-C is for us: we end our parts in their order
            )
        self._started[name] = process
        self._stack.callback(end, process)

    def _log(self, name: str) -> str:
        return (self._folder / f"{name}.log").read_text(errors="replace")[-2000:]

    def _gather(self) -> Evidence:
        """What there is to know by now."""
        app = self._app
        stream: Any = app.producer.redis.xrange(Keys("courier").results)
        return Evidence(
            asked=app.asked,
            events=[json.loads(fields["event"]) for _, fields in stream],
            accepted=self._ask("/admin/accepted"),
            requests=self._ask("/admin/requests"),
            records={id: r.status for id in app.asked if (r := app.producer.get(id)) and r.final},
            counted=take_look(app.producer.redis, "courier").counters.statuses,
        )

    def _ask(self, path: str) -> Any:
        with urlopen(f"{self._env['COURIER_API_URL']}{path}", timeout=10) as reply:  # noqa: S310
            return json.load(reply)


def end(process: subprocess.Popen[bytes]) -> None:
    """End a process that leads a session of its own, by TERM, and whatever it left behind."""
    process.terminate()
    with suppress(subprocess.TimeoutExpired):
        process.wait(10)
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


@click.command()
def demo() -> None:
    """See the whole system at work, against a simulated provider.

    Takes 20 seconds. Everything runs on this machine, under free ports and in a temporary folder,
    and is gone afterwards. The exit code is 0 if every message ended as it should.
    """
    for name in filter(re.compile("(?i)COURIER_|CELERY_|.*_PROXY").match, list(os.environ)):
        del os.environ[name]  # whatever is set up here for real is not for the demo
    signals: list[int] = []
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):  # a closed terminal, too
        signal.signal(number, lambda number, _: signals.append(number))
    show = Show(Console(highlight=False))
    show.phase("viber-courier, the whole system in 20 seconds, on this machine only")
    try:
        with ExitStack() as stack:
            run = Run(stack, show, signals)
            run.enqueue()
            evidence, log = run.submit()
    except NoServerError as error:
        raise click.ClickException(str(error)) from None
    except SystemExit:
        show.console.print("Stopped; every process of the demo has ended.")
        raise
    surprises = {name: list(check(evidence)) for name, check in CHECKS.items()}
    sys.exit(show.verdict(surprises, log))

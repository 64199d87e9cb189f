"""``courier demo``: runs the whole system on this machine for half a minute and checks the results.

Redis, a Celery worker and the simulated provider are real processes. ``ops.demo_app`` holds the
demo's app and the checks.
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
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack, closing, suppress
from decimal import Decimal
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

from viber_courier import Preview, Producer, ReportRow
from viber_courier import Progress as CampaignProgress
from viber_courier.ops.demo_app import CAMPAIGN, CHECKS, RATE, App, Evidence, bytes_in_full, funnel
from viber_courier.ops.look import take_look
from viber_courier.ops.redis_server import NoServerError, RedisServer
from viber_courier.schemas.status import Status
from viber_courier.store.keys import Keys

SETTINGS = {  # in production these waits are minutes to days
    "COURIER_API_LOGIN": "tester",
    "COURIER_API_PASSWORD": "111111",
    "COURIER_POLL_DELAYS": "0.5",
    "COURIER_READ_WINDOW": "3",
    "COURIER_SMS_GRACE": "3",
    "COURIER_TRACKING_MARGIN": "0",
    "COURIER_RETRY_BASE": "0.5",
    "COURIER_MAX_ATTEMPTS": "4",
    "COURIER_SWEEP_INTERVAL": "0.3",
    "COURIER_SUPPRESSION_KEY": "the key of a demo",
}
PRICE = Decimal("4.50")
"""Of one segment of an SMS."""
PAUSE = 1.5
"""Seconds for which the campaign stands still."""
TIME_LIMIT = 60.0
"""Seconds from the worker's start in which every message must end."""


class _Bars(Progress):
    """A bar for each stage of the funnel, and below them the number of messages by status."""

    statuses: Mapping[str, int] = {}

    def get_renderables(self) -> Iterable[RenderableType]:
        """Returns what rich draws. Overriding this is its documented way to add to the bars."""
        yield from super().get_renderables()
        table = Table("status", "messages", box=box.SIMPLE_HEAD)
        for status in Status:
            if count := self.statuses.get(status):
                table.add_row(status, str(count))
        yield table


class Narrator:
    """Prints the story. Bars move in a terminal; elsewhere rich prints them when they stop."""

    def __init__(self, console: Console) -> None:
        self.console, self._started, self._printed = console, time.monotonic(), time.monotonic()
        columns = "   {task.description:17}{task.completed:4}"
        self.bars = _Bars(columns, BarColumn(), console=console)
        for name in funnel(0, []):
            self.bars.add_task(name)

    def phase(self, title: str, *texts: str) -> None:
        """Prints a title and paragraphs."""
        self.console.print(f"\n[bold cyan]{title}[/]")
        for text in texts:
            self.say(text)

    def say(self, text: str) -> None:
        """Prints a paragraph without markup."""
        text = indent(fill(text, min(self.console.width, 100) - 3), "   ")
        self.console.print(text, markup=False)

    def update(self, counts: Mapping[str, int], statuses: Mapping[str, int]) -> None:
        """Moves the bars, or prints a line every 3 seconds where there is no terminal."""
        self.bars.statuses = statuses
        for task, count in zip(self.bars.tasks, counts.values(), strict=True):
            self.bars.update(task.id, completed=count, total=counts["enqueued"])
        if not self.console.is_terminal and time.monotonic() - self._printed > 3:
            self._printed = time.monotonic()
            self.say(", ".join(f"{count} {status}" for status, count in statuses.items()))

    def preview(self, found: Preview) -> None:
        """Shows what a dry run has found."""
        self.phase(
            f"2  A campaign: courier bulk list.csv --campaign {CAMPAIGN} --dry-run",
            f"{found.rows} rows would be {found.messages} messages, {found.suppressed} of them to a"
            f" suppressed number. {found.refused} rows are wrong: {'; '.join(found.reasons)}.",
        )
        if sms := found.sms:
            self.say(
                f"{sms.messages} may fall back to SMS: {sms.segments} segments, which cost"
                f" {sms.segments * PRICE:,} at most, at {PRICE} each. Nothing is stored yet."
            )

    def progress(self, what: str, found: CampaignProgress) -> None:
        """Shows how far the campaign is."""
        self.say(
            f"{what}: {found.added} added, {found.waiting} wait, {found.inside} of these inside a"
            f" request, {found.ended} ended."
        )

    def report(self, rows: Iterable[ReportRow]) -> None:
        """Shows the first row of the campaign's report that ended in each status."""
        first = {row.status: row for row in reversed([*rows])}
        table = Table("row", "status", "reason", "attempts", "ended", box=box.SIMPLE_HEAD)
        for row in sorted(first.values(), key=lambda row: row.row or 0):
            values = row.row, row.status, row.reason or "", row.attempts, str(row.ended)[11:19]
            table.add_row(*map(str, values))
        self.phase(
            f"8  The campaign's report: courier campaign report {CAMPAIGN} --csv FILE",
            "It has a line for each row. The first of each status:",
        )
        self.console.print(table)

    def wire(self, evidence: Evidence) -> None:
        """Shows batches, bytes and sample events."""
        batches, total = evidence.requests["batches"], evidence.requests["messages"]
        sent, full = sum(evidence.requests["log"]), bytes_in_full(evidence)
        self.phase(
            "5  What went over the wire, and the events that the app reads",
            "A request carries what its messages share once, in its commonData."
            f" {len(batches)} requests carried {min(batches)} to {max(batches)} messages.",
            f"They took {sent:,} bytes. The {total} accepted messages, each in full, would take"
            f" {full:,}: commonData saved {1 - sent / full:.0%} at least.",
            f"There are {len(evidence.events)} events so far. One of them:",
        )
        last = {event["data"]["status"]: event for event in evidence.events}
        self.console.print_json(data=last.get("sms_delivered"), indent=None)

    def verdict(self, found: Mapping[str, Sequence[str]], log: str) -> int:
        """Prints what the checks found. Returns the exit code."""
        self.console.print("\n[bold]Checks[/]")
        for name, faults in found.items():
            self.console.print("   [red]WRONG[/]" if faults else "   [green]ok[/]", "", name)
            for fault in faults[:5]:
                self.console.print(f"          {fault}", markup=False)
        wrong = any(found.values())
        if wrong:
            self.console.print(f"\nThe worker's log ends with:\n{log}", markup=False)
        result = "[bold red]Some checks failed" if wrong else "[bold green]All checks passed"
        self.console.print(f"\n{result}[/], after {time.monotonic() - self._started:.0f} s.")
        return int(wrong)


class Run:
    """Runs the processes, with all their files in one temporary folder, and narrates."""

    def __init__(self, stack: ExitStack, narrator: Narrator, signals: list[int]) -> None:
        self._stack, self._narrator, self._signals = stack, narrator, signals
        folder = TemporaryDirectory(prefix="courier-demo-", ignore_cleanup_errors=True)
        self._folder = Path(stack.enter_context(folder))
        with socket.create_server(("127.0.0.1", 0)) as probe:
            server = RedisServer(self._folder, probe.getsockname()[1])
        stack.callback(server.stop)
        server.start()
        self._env = {**os.environ, **SETTINGS, "COURIER_REDIS_URL": server.url}
        producer = stack.enter_context(closing(Producer.from_env(self._env)))
        self._app, self._events = App(producer), list[dict[str, Any]]()
        self._held = list[int]()
        self._started: dict[str, subprocess.Popen[bytes]] = {}

    def enqueue(self) -> None:
        """Does what the app does, before a worker runs."""
        self._narrator.phase("1  An app enqueues single messages, and personal texts from a file")
        self._app.enqueue()
        self._narrator.say(f"{len(self._app.asked)} messages are stored.")
        self._narrator.preview(self._app.preview())
        self._app.start_campaign()
        self._narrator.progress("Now it is stored", self._app.campaign.progress())

    def submit(self) -> tuple[Evidence, str]:
        """Lets provider and worker run until all have ended. Returns evidence and worker's log."""
        self._start("viber_courier.ops.simulator", "--port", "0", "--step", "0.4")
        while not (line := re.search(r"http://\S+\n", self._log("viber_courier.ops.simulator"))):
            self._check()
            time.sleep(0.02)
        self._env["COURIER_API_URL"] = line[0].strip()
        time.sleep(1.2)  # the code with 15 s to live becomes too old meanwhile
        self._narrator.phase(
            "3  A worker starts: celery -A viber_courier.worker worker -B",
            "It sends urgent lanes first, up to 100 messages a request, and the campaign at its own"
            f" rate of {RATE} a second. Each change is an event.",
        )
        self._start("celery", "-A", "viber_courier.worker", "worker", "-B", "-c", "2", "-l", "INFO")
        with self._narrator.bars:
            self._pause_campaign()
            self._follow(quiet=1.5)
            self._narrator.wire(self._gather())
            self._narrator.phase(
                "6  A few messages are left",
                "The provider reports nothing more. Tracking ends with their 15 s of validity.",
            )
            self._follow(quiet=TIME_LIMIT)
            self._narrator.phase("7  How far the messages got, and how they ended")
        self._narrator.report(self._app.campaign.report())
        end(self._started["celery"])
        return self._gather(), self._log("celery")

    def _pause_campaign(self) -> None:
        """Pauses the campaign amid its messages, and lets it go on."""
        campaign, tell = self._app.campaign, self._narrator.progress
        self._follow(until=lambda: campaign.progress().waiting < len(self._app.asked) // 2)
        campaign.pause("wrong price")
        self._narrator.phase(f"4  It is stopped: courier campaign pause {CAMPAIGN} 'wrong price'")
        self._follow(until=lambda: campaign.progress().inside == 0)
        tell("Nothing more of it leaves", campaign.progress())
        self._held.append(campaign.progress().waiting)
        later = time.monotonic() + PAUSE
        self._follow(until=lambda: time.monotonic() > later)
        self._held.append(campaign.progress().waiting)
        tell(f"{PAUSE} s later", campaign.progress())
        self._narrator.say(f"It goes on: courier campaign resume {CAMPAIGN}")
        campaign.resume()

    def _follow(self, quiet: float = TIME_LIMIT, until: Callable[[], bool] = bool) -> None:
        """Reads events as an app would, until every message has ended.

        Ends earlier if ``until`` is true, or if all have an event and none has come for ``quiet``
        seconds.
        """
        total, latest_event = len(self._app.asked), time.monotonic()
        deadline = latest_event + TIME_LIMIT
        while (now := time.monotonic()) < min(latest_event + quiet, deadline):
            self._check()
            events = [*islice(self._app.producer.results("demo", "console", block=0.5), 25)]
            for event in events:
                event.ack()
                self._events.append({"subject": event.subject, "data": event.data})
            latest = {event["subject"]: event["data"]["status"] for event in self._events}
            waiting = {Status.QUEUED: total - len(latest)} if len(latest) < total else {}
            self._narrator.update(funnel(total, self._events), waiting | Counter(latest.values()))
            if until() or sum(event["data"]["final"] for event in self._events) == total:
                return
            if events or len({event["subject"] for event in self._events}) < total:
                latest_event = now

    def _check(self) -> None:
        """Exits if a signal has come or a process has ended. Called between steps only."""
        if self._signals:
            raise SystemExit(128 + self._signals[0])
        for name, process in self._started.items():
            if process.poll() is not None:
                raise click.ClickException(f"{name} ended:\n{self._log(name)}")

    def _start(self, name: str, *options: str) -> None:
        """Starts a module as a process that writes its output to a log."""
        with (self._folder / f"{name}.log").open("wb") as log:
            process = subprocess.Popen(  # noqa: S603
                [sys.executable, "-m", name, *options],
                env=self._env,
                cwd=self._folder,
                stdout=log,
                stderr=log,
                start_new_session=True,  # Ctrl-C reaches us alone: we end the processes in order
            )
        self._started[name] = process
        self._stack.callback(end, process)

    def _log(self, name: str) -> str:
        return (self._folder / f"{name}.log").read_text(errors="replace")[-2000:]

    def _gather(self) -> Evidence:
        """Returns what is known by now."""
        app = self._app
        stream: Any = app.producer.redis.xrange(Keys("courier").results)
        return Evidence(
            asked=app.asked,
            events=[json.loads(fields["event"]) for _, fields in stream],
            accepted=self._ask("/admin/accepted"),
            requests=self._ask("/admin/requests"),
            records={id: r.status for id in app.asked if (r := app.producer.get(id)) and r.final},
            counted=take_look(app.producer.redis, "courier").counters.statuses,
            held=self._held,
        )

    def _ask(self, path: str) -> Any:
        with urlopen(f"{self._env['COURIER_API_URL']}{path}", timeout=10) as reply:  # noqa: S310
            return json.load(reply)


def end(process: subprocess.Popen[bytes]) -> None:
    """Ends a process by SIGTERM, then what is left of its session by SIGKILL."""
    process.terminate()
    with suppress(subprocess.TimeoutExpired):
        process.wait(10)
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


@click.command()
def demo() -> None:
    """See the whole system at work, with a simulated provider.

    Takes half a minute. Everything runs on this machine, on free ports and in a temporary folder,
    and is gone afterwards. The exit code is 0 if every message ended as it should.
    """
    for name in filter(re.compile("(?i)COURIER_|CELERY_|.*_PROXY").match, list(os.environ)):
        del os.environ[name]  # the demo must not touch a real installation
    signals: list[int] = []
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):  # SIGHUP: the terminal was closed
        signal.signal(number, lambda number, _: signals.append(number))
    narrator = Narrator(Console(highlight=False))
    narrator.phase("viber-courier: the whole system in half a minute, on this machine only")
    try:
        with ExitStack() as stack:
            run = Run(stack, narrator, signals)
            run.enqueue()
            evidence, log = run.submit()
    except NoServerError as error:
        raise click.ClickException(str(error)) from None
    except SystemExit:
        narrator.console.print("Stopped. Every process of the demo has ended.")
        raise
    faults = {name: list(check(evidence)) for name, check in CHECKS.items()}
    sys.exit(narrator.verdict(faults, log))

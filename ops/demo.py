"""``courier demo``: the whole system on this machine for half a minute, and whether it was right.

Redis, a Celery worker and the simulated provider are real processes. What an app does is in
``ops.demo_app``, what must be true then in ``ops.demo_checks``, what is shown in ``ops.demo_show``.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from contextlib import ExitStack, closing, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import click
from rich.console import Console

from ops.demo_app import App
from ops.demo_checks import CHECKS, Evidence
from ops.demo_show import Show
from ops.redis_server import NoServerError, RedisServer
from producers import Producer
from schemas.keys import Keys

STEP = "0.4"
SETTINGS = {  # everything that takes hours in life takes seconds here
    "COURIER_NAMESPACE": "courier",
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
PATIENCE = 75.0
"""Seconds after the worker's start in which everything must have ended."""


class Stopped(Exception):
    """A signal came; ``number`` is its number."""

    def __init__(self, number: int) -> None:
        self.number = number
        super().__init__(number)


class Signals:
    """Notes SIGINT, SIGTERM and SIGHUP; looked at between steps, so that no start is cut in two."""

    def __init__(self) -> None:
        self._got = 0
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, self._note)

    def _note(self, number: int, _: object) -> None:
        self._got = self._got or number

    def check(self) -> None:
        """Raise Stopped if a signal has come."""
        if self._got:
            raise Stopped(self._got)

    def pause(self, until: float) -> None:
        """Sleep until that instant of the monotonic clock, or until a signal comes."""
        while (left := until - time.monotonic()) > 0:
            self.check()
            time.sleep(min(left, 0.1))


class Parts:
    """The processes of one run, with all their files in one temporary folder."""

    def __init__(self, stack: ExitStack) -> None:
        self._stack = stack
        folder = TemporaryDirectory(prefix="courier-demo-", ignore_cleanup_errors=True)
        self.folder = Path(stack.enter_context(folder))
        self.env = {**os.environ, **SETTINGS}
        server = RedisServer(self.folder, _free_port())
        stack.callback(server.stop)
        server.start()
        self.env["COURIER_REDIS_URL"] = server.url
        self._simulator = self._spawn("simulator", "ops.simulator", "--port", "0", "--step", STEP)
        self.worker: subprocess.Popen[str] | None = None

    def find_simulator(self) -> None:
        """Wait for the simulator's address."""
        assert self._simulator.stdout is not None  # noqa: S101 (a pipe was asked for)
        with self._simulator.stdout as line:
            words = line.readline().split()
        if not words:
            raise click.ClickException(f"the simulator didn't start:\n{self.tail('simulator')}")
        self.env["COURIER_API_URL"] = words[-1]

    def start_worker(self) -> None:
        """``celery -A worker worker -B``, with two processes whatever the machine."""
        self.worker = self._spawn(
            "worker", "celery", "-A", "worker", "worker", "-B", "-c", "2", "-l", "INFO"
        )

    def ask(self, path: str) -> Any:
        """A JSON answer of the simulator."""
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(f"{self.env['COURIER_API_URL']}{path}", timeout=10) as reply:
            return json.load(reply)

    def tail(self, name: str) -> str:
        """The last lines that a process wrote."""
        lines = (self.folder / f"{name}.log").read_text(errors="replace").splitlines()
        return "\n".join(lines[-15:])

    def _spawn(self, name: str, *command: str) -> subprocess.Popen[str]:
        with (self.folder / f"{name}.log").open("ab") as log:
            process = subprocess.Popen(  # noqa: S603
                [sys.executable, "-m", *command],
                env=self.env,
                cwd=self.folder,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE if name == "simulator" else log,
                stderr=log,
                text=True,
                start_new_session=True,  # a Ctrl-C is for us: we end our parts in their order
            )
        self._stack.callback(end, process)
        return process


def end(process: subprocess.Popen[str]) -> None:
    """End a process that leads a session of its own, by TERM, and whatever it left behind."""
    if process.poll() is None:
        process.terminate()
        with suppress(subprocess.TimeoutExpired):
            process.wait(10)
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def follow(parts: Parts, app: App, show: Show, signals: Signals) -> None:
    """Read result events as an app would, until every message has ended."""
    deadline, news = time.monotonic() + PATIENCE, time.monotonic()
    while not show.done and time.monotonic() < deadline:
        for event in app.producer.results("demo", "console", block=0.5):
            event.ack()
            show.note(event.subject, event.data)
            news = time.monotonic()
            signals.check()
            if show.done:
                return
        signals.check()
        show.update()
        if time.monotonic() - news > 1.5 and show.settled:
            show.rest(*gather(parts, app))
        if parts.worker and parts.worker.poll() is not None:
            raise click.ClickException(f"the worker ended:\n{parts.tail('worker')}")


def gather(parts: Parts, app: App) -> tuple[Evidence, list[str]]:
    """What there is to know by now; the events also as they stand on the stream."""
    stream: Any = app.producer.redis.xrange(Keys(app.producer.settings.namespace).results)
    raw = [fields["event"] for _, fields in stream]
    found = {id: app.producer.get(id) for id in app.asked}
    evidence = Evidence(
        asked=app.asked,
        events=[json.loads(text) for text in raw],
        accepted=parts.ask("/admin/accepted"),
        requests=parts.ask("/admin/requests"),
        records={id: record.status for id, record in found.items() if record and record.final},
    )
    return evidence, raw


def story(console: Console, signals: Signals) -> int:
    """The whole run; the exit code."""
    with ExitStack() as stack:
        show = stack.enter_context(Show(console))
        parts = Parts(stack)
        producer = stack.enter_context(closing(Producer.from_env(parts.env)))
        app = App(producer)
        show.enqueue()
        app.enqueue()
        enqueued = time.monotonic()
        show.enqueued(app.asked, app.refused)
        parts.find_simulator()
        signals.pause(enqueued + 1.2)  # in which the code that may wait 15 s becomes too old
        parts.start_worker()
        show.submit()
        follow(parts, app, show, signals)
        if parts.worker:
            end(parts.worker)
        show.close()
        evidence, _ = gather(parts, app)
        signals.check()
        surprises = {name: list(check(evidence)) for name, check in CHECKS.items()}
        log = parts.tail("worker")
    show.results(evidence)
    return show.verdict(surprises, log)


@click.command()
def demo() -> None:
    """See the whole system at work, against a simulated provider.

    Takes half a minute. Everything runs on this machine, under free ports and in a temporary
    folder, and is gone afterwards. The exit code is 0 if every message ended as it should.
    """
    for name in [name for name in os.environ if name.startswith(("COURIER_", "CELERY_"))]:
        del os.environ[name]  # whatever is set up here for real is not for the demo
    signals, console = Signals(), Console(highlight=False)
    try:
        code = story(console, signals)
    except NoServerError as error:
        raise click.ClickException(str(error)) from None
    except Stopped as stopped:
        console.print("Stopped; every process of the demo has ended.")
        code = 128 + stopped.number
    sys.exit(code)

"""Private Redis servers, the provider's double, workers and loads, each a process of its own.

CPU times come from Linux's /proc.
"""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from urllib.request import urlopen

import redis

from viber_courier.ops.bench.load import SINGLE
from viber_courier.ops.demo import end
from viber_courier.ops.redis_server import RedisServer
from viber_courier.store.keys import Keys

Process = subprocess.Popen[bytes]

APP = "viber_courier.worker"
BENCH = "viber_courier.ops.bench"
TICK = os.sysconf("SC_CLK_TCK")
LONGEST_WAIT = 300.0
"""Seconds after which a wait fails."""

OURS = {
    "COURIER_API_LOGIN": "bench",
    "COURIER_API_PASSWORD": "bench",
    "COURIER_POLL_DELAYS": "3600",  # peers follow nothing: /status has a row of its own
    "COURIER_POLL_RATE_LIMIT": "0",
}


@dataclass(frozen=True)
class System:
    """A way of sending that is measured: the load that queues messages, the Celery app that sends
    them, its worker's options, messages per drain (0 ms, and with a slow provider), jobs' shape."""

    name: str
    load: str
    app: str
    options: tuple[str, ...]
    fast: int
    slow: int = 0
    shape: str = "plain"


@dataclass(frozen=True)
class Drain:
    """``rate`` in messages/s from the first request on; ``cpu`` in seconds per 1,000 messages, of
    producer, worker and Redis; ``server`` is Redis's part of that."""

    rate: float
    cpu: float
    server: float


class Provider:
    """The double's address, and its /admin calls."""

    def __init__(self, url: str) -> None:
        self.url = url

    def reset(self, **options: Any) -> None:
        self.get("reset?" + "&".join(f"{name}={value}" for name, value in options.items()))

    def get(self, path: str) -> Any:
        with urlopen(f"{self.url}/admin/{path}", timeout=60) as reply:  # noqa: S310 (its own)
            return json.load(reply)


class Lab:
    """What all measures share; whatever it starts ends with ``stack``."""

    def __init__(self, stack: ExitStack) -> None:
        self._stack = stack
        made = TemporaryDirectory(prefix="courier-bench-", ignore_cleanup_errors=True)
        self._folder = Path(stack.enter_context(made))
        # The bench must not use an installation that this shell is configured for.
        ours = re.compile("(?i)COURIER_|CELERY_|BENCH_|.*_PROXY").match
        self.env = {name: value for name, value in os.environ.items() if not ours(name)}
        said = self._folder / "provider.url"
        with said.open("wb") as file:
            stack.callback(end, self.start(f"{BENCH}.provider", self.env, stdout=file))
        self.provider = Provider(wait_for(lambda: said.read_text().strip()))
        self.others: list[float] = []
        self.server_version = ""
        self._begun = machine_cpu()

    def noise(self) -> str:
        """How busy the machine was right before the latest run."""
        load = ", ".join(f"{value:.1f}" for value in os.getloadavg())
        return f"others use {self.others[-1]:.0%}, {self.stolen():.1%} stolen, load {load}"

    def stolen(self) -> float:
        """The share of the machine's time that other guests of its host have taken so far."""
        whole, _, stolen = (
            now - then for now, then in zip(machine_cpu(), self._begun, strict=True)
        )
        return stolen / max(whole, 1e-9)

    @contextmanager
    def bench(self, **env: str) -> Iterator[Bench]:
        """Starts an empty Redis, as durable for every system: appendonly, fsync each second."""
        self.others.append(busy(0.3))
        with ExitStack() as stack, TemporaryDirectory(dir=self._folder) as folder:
            with socket.create_server(("127.0.0.1", 0)) as probe:
                server = RedisServer(Path(folder), probe.getsockname()[1])
            stack.callback(server.stop)
            server.start()
            bench = Bench(self, server, Path(folder), stack, env)
            self.server_version = bench.redis.info("server")["redis_version"]
            yield bench

    def start(self, module: str, env: dict[str, str], *options: str, **files: Any) -> Process:
        return subprocess.Popen(  # noqa: S603
            [sys.executable, "-m", module, *options],
            env=env,
            cwd=Path(__file__).resolve().parents[2],
            start_new_session=True,
            **files,
        )


class Bench:
    """One Redis, and the loads and workers that use it."""

    def __init__(
        self, lab: Lab, server: RedisServer, folder: Path, stack: ExitStack, env: dict[str, str]
    ) -> None:
        self.lab, self._server, self._folder, self._stack = lab, server, folder, stack
        self.redis = stack.enter_context(
            redis.Redis.from_url(server.url, decode_responses=True, protocol=2)
        )
        self.keys = Keys("courier")
        self._env = {**lab.env, **OURS, **env}
        for who in ("COURIER", "BENCH"):
            self._env[f"{who}_REDIS_URL"] = server.url
            self._env[f"{who}_API_URL"] = lab.provider.url

    def has(self, command: str) -> bool:
        """Whether the server knows a command."""
        found: Any = self.redis.eval("return redis.call('COMMAND', 'INFO', ARGV[1])[1]", 0, command)
        return bool(found)

    def replicate(self, count: int) -> None:
        """Starts so many replicas, which follow when this returns."""
        for number in range(count):
            (folder := self._folder / f"replica-{number}").mkdir()
            with socket.create_server(("127.0.0.1", 0)) as probe:
                follow = ["--replicaof", "127.0.0.1", str(self._server.port)]
                server = RedisServer(folder, probe.getsockname()[1], follow)
            self._stack.callback(server.stop)
            server.start()
        self.redis.set(self.keys.kept, "1")
        wait_for(lambda: self.redis.wait(count, 100) == count)

    def load(self, what: str, count: int, shape: str = "plain", rate: float = 0) -> dict[str, Any]:
        """Runs a load to its end; returns what it measured."""
        return finish(self.loading(what, count, shape, rate))

    def loading(self, what: str, count: int, shape: str = "plain", rate: float = 0) -> Process:
        """Starts a load that runs beside; for ``finish``."""
        options = [what, str(count), shape, str(rate)]
        return self.lab.start(f"{BENCH}.load", self._env, *options, stdout=subprocess.PIPE)

    @contextmanager
    def worker(self, app: str, *options: str) -> Iterator[int]:
        """Runs a Celery worker of ``app``; yields its process id once it takes tasks."""
        path = self._folder / f"{time.monotonic_ns()}.log"
        flags = ("--without-gossip", "--without-mingle", *options)
        with path.open("wb") as log:
            process = self.lab.start(
                "celery", self._env, "-A", app, "worker", *flags, stdout=log, stderr=log
            )
        before = self._takers()
        try:
            wait_for(lambda: self._takers() > before or process.poll() is not None)
            if process.poll() is not None:
                raise RuntimeError(f"the worker ended:\n{path.read_text()[-2000:]}")
            yield process.pid
        finally:
            end(process)

    def _takers(self) -> int:
        """How many workers wait for tasks."""
        return sum(client["cmd"] == "brpop" for client in self.redis.client_list())

    def drain(self, system: System, count: int, delay: int = 0) -> Drain:
        """Queues so many messages, then measures how fast a worker sends them."""
        before = self.redis_cpu()
        self.lab.provider.reset(delay=delay)
        cpu = self.load(system.load, count, system.shape)["cpu"]
        redis = self.redis_cpu() - before
        count += system.load in SINGLE
        with self.worker(system.app, *system.options) as pid:
            first = wait_for(lambda: self.lab.provider.get("counts")["first"])
            worker, server = tree_cpu(pid), self.redis_cpu()
            last = self._until(system.app, count)
            cpu += tree_cpu(pid) - worker
            redis += self.redis_cpu() - server
        each = 1000 / count
        return Drain(count / (last - first), (cpu + redis) * each, redis * each)

    def _until(self, app: str, count: int) -> float:
        """Returns when the last message was answered and, if ours, recorded with its event."""
        if app == APP:
            wait_for(lambda: self.count("submitted") >= count)
            return time.monotonic()
        counts = wait_for(
            lambda: (c := self.lab.provider.get("counts"))["messages"] >= count and c, 0.05
        )
        return float(counts["last"])

    def count(self, name: str) -> int:
        """Our counter of a status."""
        return int(self.redis.hget(self.keys.counts, name) or 0)

    def forget_repeats(self) -> None:
        """Deletes the replies kept for repeated calls, which expire within a lease anyway."""
        for key in self.redis.scan_iter(self.keys.once("*"), count=10_000):
            self.redis.delete(key)

    def redis_cpu(self) -> float:
        """CPU seconds of the server so far."""
        return tree_cpu(self._server.process.pid) if self._server.process else 0.0


def finish(process: Process) -> dict[str, Any]:
    """Waits for a load to end; returns what it measured."""
    out = process.communicate(timeout=LONGEST_WAIT)[0]
    if process.returncode:
        raise RuntimeError(f"a load failed: {process.args!r}")
    said: dict[str, Any] = json.loads(out)
    return said


def wait_for(condition: Callable[[], Any], pause: float = 0.02) -> Any:
    """Waits until the condition holds; returns its value. Raises TimeoutError."""
    deadline = time.monotonic() + LONGEST_WAIT
    while not (value := condition()):
        if time.monotonic() > deadline:
            raise TimeoutError
        time.sleep(pause)
    return value


def tree_cpu(leader: int) -> float:
    """CPU seconds, user and system, of a session's processes and their ended children."""
    total = 0
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rpartition(")")[2].split()
        except OSError:  # the process has just ended
            continue
        if int(fields[3]) == leader:
            total += sum(map(int, fields[11:15]))
    return total / TICK


def machine_cpu() -> tuple[float, float, float]:
    """CPU seconds of the whole machine since its start: all, idle, taken by other guests."""
    first = Path("/proc/stat").read_text().splitlines()[0].split()[1:9]
    numbers = [int(number) / TICK for number in first]
    return sum(numbers), numbers[3] + numbers[4], numbers[7]


def busy(seconds: float) -> float:
    """The share of the machine that is in use during the next ``seconds``."""
    before = machine_cpu()
    time.sleep(seconds)
    whole, idle, _ = (now - then for now, then in zip(machine_cpu(), before, strict=True))
    return max(0.0, 1 - idle / max(whole, 1e-9))

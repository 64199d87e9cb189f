"""A whole installation under chaos, and what its ledgers say in the end."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import redis

from tests.conftest import Simulator, free_port
from tests.faults.chaos.apps import Part, read_ledger
from tests.faults.chaos.disturb import SLOTS, Disturber, is_unsure, refusal_codes
from tests.faults.chaos.jobs import ENDINGS
from tests.faults.chaos.oracle import Act, Asked, Conditions, Ledgers, Verdict, Violation, judge
from tests.faults.chaos.reader import command as reading
from tests.faults.parts import Proxy, Supervised
from viber_courier import Producer
from viber_courier.ops.redis_server import RedisServer
from viber_courier.store.keys import Keys

LINGER = 60.0
"""Seconds after the last call of an app in which things still break, if much is still waiting."""
ROOT = Path(__file__).parents[3]
Json = dict[str, Any]
LEASE, CONNECT, READ = 7.0, 0.5, 2.0
BATCH = 100
SHORT = {
    "COURIER_API_LOGIN": "tester",
    "COURIER_API_PASSWORD": "111111",
    "COURIER_LEASE": str(LEASE),
    "COURIER_CONNECT_TIMEOUT": str(CONNECT),
    "COURIER_READ_TIMEOUT": str(READ),
    "COURIER_BATCH_SIZE": str(BATCH),
    "COURIER_RETRY_BASE": "0.3",
    "COURIER_RETRY_CAP": "1",
    "COURIER_MAX_ATTEMPTS": "12",
    "COURIER_POLL_DELAYS": "0.4,0.6,1",
    "COURIER_READ_WINDOW": "2",
    "COURIER_SMS_GRACE": "1.5",
    "COURIER_TRACKING_MARGIN": "1",
    "COURIER_SWEEP_INTERVAL": "0.5",
}
"""Every wait is short, so that minutes hold all of a message's life."""


@dataclass(frozen=True)
class Options:
    """``seconds``: what the apps spread their calls over. ``rate``: of each kind of
    fault, ``pauses``: seconds between two acts."""

    seed: int
    messages: int
    seconds: float
    apps: int = 3
    workers: int = 2
    rate: float = 0.005
    pauses: tuple[float, float] = (3.0, 10.0)
    acts: bool = True
    fsync: str = "everysec"
    plant: str = ""
    endings: tuple[int, ...] = ENDINGS
    tasks: float = 0.0  # of the bulks, the part that goes through Celery; these may end late
    patience: float = 180.0  # seconds for everything to end once nothing breaks any more


@dataclass
class Report:
    """What became of a run; seconds it took, faults by kind, acts by kind."""

    verdict: Verdict
    ledgers: Ledgers
    seconds: dict[str, float]
    faults: dict[str, int]
    acts: dict[str, int]
    exits: int


class Installation:
    """Redis behind a proxy, the provider, supervised workers: ended with the ``with`` block."""

    def __init__(self, options: Options, folder: Path, stack: ExitStack) -> None:
        self.server = RedisServer(folder, free_port(), ("--appendfsync", options.fsync))
        self.server.start()
        stack.callback(self.server.stop)
        self.proxy = Proxy(self.server.port)
        stack.callback(self.proxy.close)
        self.simulator = Simulator("--step", "0.3", "--seed", str(options.seed))
        stack.callback(self.simulator.stop)
        self.env = {
            **SHORT,
            "COURIER_NAMESPACE": "chaos",
            "COURIER_REDIS_URL": f"redis://127.0.0.1:{self.proxy.port}/0",
            "COURIER_API_URL": self.simulator.url,
            "PYTHONPATH": str(ROOT),
            "CHAOS_PLANT": options.plant,
        }
        program = [sys.executable, "-m", "tests.faults.chaos.program", "-A", "viber_courier.worker"]
        worker = [*program, "worker", "-c", str(SLOTS), "--without-gossip", "--without-mingle"]
        self.beat = Supervised([*program, "beat", "-l", "INFO"], self.env, folder)
        stack.callback(self.beat.stop)
        self.workers: list[Supervised] = []
        for _ in range(options.workers):
            self.workers.append(Supervised([*worker, "-l", "INFO"], self.env, folder))
            stack.callback(self.workers[-1].stop)
        # Our own looks go past the proxy.
        self.client = redis.Redis.from_url(self.server.url, decode_responses=True, protocol=2)
        self.producer = Producer.from_env({**self.env, "COURIER_REDIS_URL": self.server.url})
        self.keys = Keys("chaos")

    def waiting(self) -> tuple[int, int]:
        """Messages in line, and messages that are followed; waits while Redis is away."""
        while True:
            try:
                lanes = sum(self.client.zcard(lane) for lane in self.keys.lanes)
                return lanes, int(self.client.zcard(self.keys.watch))
            except redis.RedisError:
                time.sleep(0.2)

    def unfinished(self, messages: int) -> bool:
        """Whether something still waits, is followed, or lies in a task that nobody has run."""
        stored = int(self.client.hget(self.keys.counts, "queued") or 0)
        return any(self.waiting()) or stored < messages


def run(options: Options, folder: Path, say: Callable[[str], object] = print) -> Report:
    """Break everything for a while, then let it end, then judge. Evidence stays in ``folder``."""
    begun, marks = time.monotonic(), dict[str, float]()
    with ExitStack() as stack:
        place = Installation(options, folder, stack)
        disturber = Disturber(
            options.seed,
            place.workers,
            place.beat,
            place.server,
            place.proxy,
            place.simulator,
            rate=options.rate,
            pauses=options.pauses,
            lease=LEASE,
            forgets=options.fsync != "always",
        )
        if options.acts:
            disturber.start()
        reader = _start(reading(place.env, folder / "read.txt"), folder / "reader.log")
        stack.callback(_end, reader)
        parts = _parts(options, place.env, folder)
        with _apps(parts, folder) as apps:
            while any(app.poll() is None for app in apps):
                _tell(place, disturber, begun, say)
            for app, part in zip(apps, parts, strict=True):
                if app.returncode != 0:
                    raise RuntimeError((folder / f"{part.name}.log").read_text()[-2000:])
        marks["enqueued"] = time.monotonic() - begun
        linger = time.monotonic() + (LINGER if options.acts else 0)
        while sum(place.waiting()) > options.messages / 10 and time.monotonic() < linger:
            _tell(place, disturber, begun, say)  # most of what was asked last meets faults too
        disturber.stop()
        marks["healed"] = time.monotonic() - begun
        deadline = time.monotonic() + options.patience
        while place.unfinished(options.messages) and time.monotonic() < deadline:
            _tell(place, disturber, begun, say)
        marks["ended"] = time.monotonic() - begun
        for program in (*place.workers, place.beat):
            program.stop()
        reader.terminate()
        reader.wait(60)
        ledgers = _collect(place, parts, options, disturber, folder)
        exits = sum(len(worker.exits) for worker in place.workers)
    verdict = judge(ledgers)
    # The other workers may hide that one works no more.
    hung = [n for n, worker in enumerate(place.workers) if worker.hung]
    verdict.violations += [
        Violation("worker hung", f"worker {n}", "had to be killed") for n in hung
    ]
    marks["judged"] = time.monotonic() - begun
    return Report(verdict, ledgers, marks, dict(disturber.fired), dict(disturber.told()), exits)


def _parts(options: Options, env: dict[str, str], folder: Path) -> list[Part]:
    each = options.messages // options.apps
    counts = [each] * (options.apps - 1)
    counts.append(options.messages - sum(counts))
    return [
        Part(
            name=f"app{n}",
            seed=options.seed,
            first=n * each,
            count=count,
            seconds=options.seconds,
            ledger=str(folder / f"asked-{n}.jsonl"),
            env=env,
            endings=options.endings,
            tasks=options.tasks,
        )
        for n, count in enumerate(counts)
    ]


@contextmanager
def _apps(parts: list[Part], folder: Path) -> Iterator[list[subprocess.Popen[bytes]]]:
    started: list[subprocess.Popen[bytes]] = []
    try:
        for part in parts:
            started.append(_start(part.command(), folder / f"{part.name}.log"))
        yield started
    finally:
        for app in started:
            _end(app)


def _start(command: list[str], log: Path) -> subprocess.Popen[bytes]:
    with log.open("wb") as file:
        return subprocess.Popen(command, cwd=ROOT, stdout=file, stderr=file)


def _end(program: subprocess.Popen[bytes]) -> None:
    program.kill()
    program.wait(10)


def _tell(
    place: Installation, disturber: Disturber, begun: float, say: Callable[[str], object]
) -> None:
    """A line about how far it is, every few seconds."""
    time.sleep(3)
    lanes, watched = place.waiting()
    accepted = place.simulator.get("requests")["messages"]
    acts = ", ".join(f"{n} {kind}" for kind, n in sorted(disturber.told().items()))
    say(
        f"{time.monotonic() - begun:5.0f} s  {lanes} waiting, {accepted} accepted,"
        f" {watched} followed; {acts}"
    )


def _collect(
    place: Installation, parts: list[Part], options: Options, disturber: Disturber, folder: Path
) -> Ledgers:
    asked: dict[str, Asked] = {}
    for part in parts:
        asked |= read_ledger(Path(part.ledger))
    accepted = place.simulator.accepted()
    told = place.simulator.get("requests")
    broken = {
        number: f"{kind} {code}".strip()
        for number, kind, code in told["broken"]
        if is_unsure(kind, code)
    }
    events = list(_events(place))
    records = {id: _record(place.producer, id) for id in asked}
    acts = [*disturber.acts, *_exits(place.workers)]
    conditions = Conditions(
        batch=BATCH,
        deadline=CONNECT + READ,
        broken=broken,
        unsure_answers=sum(told["batches"][number - 1] for number in broken),
        refusals=refusal_codes(),
        acts=acts,
    )
    _write(folder / "accepted.jsonl", accepted)
    _write(folder / "events.jsonl", events)
    _write(folder / "records.jsonl", [{"id": id, "record": each} for id, each in records.items()])
    _write(folder / "acts.jsonl", [asdict(act) for act in acts])
    _write(folder / "broken.jsonl", list(broken.items()))
    read = (folder / "read.txt").read_text().split()
    return Ledgers(asked, accepted, events, records, conditions, read)


def _events(place: Installation) -> Iterator[Json]:
    start = "-"
    while page := place.client.xrange(place.keys.results, min=start, count=2000):
        entries: Any = page
        yield from (json.loads(fields["event"]) for _, fields in entries)
        start = f"({entries[-1][0]}"


def _record(producer: Producer, id: str) -> Json | None:
    record = producer.get(id)
    if record is None:
        return None
    return {
        **{"status": str(record.status), "final": record.final, "reason": record.reason},
        **{"attempts": record.attempts, "unsure": record.unsure, "providerId": record.provider_id},
    }


def _exits(workers: list[Supervised]) -> list[Act]:
    """A worker that ended by itself had requests too. Those that were killed are acts already."""
    return [
        Act("worker exited", at - 1, at, SLOTS)
        for worker in workers
        for at, code in zip(worker.exit_times, worker.exits, strict=False)
        if code != -9
    ]


def _write(path: Path, lines: list[Any]) -> None:
    with path.open("w") as file:
        file.writelines(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)

"""A whole installation under chaos, and what its ledgers say in the end."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any, TypeVar

import redis

from tests.conftest import Simulator
from tests.faults.chaos.accounts import Evidence, Left, Seen, digest, settle_accounts
from tests.faults.chaos.archive import Archive
from tests.faults.chaos.campaigns import ROW, Kept, settle_campaigns
from tests.faults.chaos.disturb import LAGGING, SLOTS, Disturber, Target
from tests.faults.chaos.jobs import ENDINGS
from tests.faults.chaos.ledger import Part, read_calls, read_ledger
from tests.faults.chaos.marketer import Marketing, told
from tests.faults.chaos.oracle import Act, Asked, Conditions, Ledgers, Verdict, Violation, judge
from tests.faults.chaos.reader import Reading, read_account
from tests.faults.chaos.rules import is_unsure, refusal_codes
from tests.faults.chaos.stores import LOADING, Sentinels, Single, Store
from tests.faults.faked import LIBRARIES, Faked
from tests.faults.parts import Supervised
from viber_courier import Producer
from viber_courier.store.keys import Keys

T = TypeVar("T")
NAMESPACE, DOOR = "chaos", "door"
LINGER = 60.0
"""Seconds after the last call of an app in which things still break, if much is still waiting."""
UNHEARD = 75.0
"""Seconds without any change after which what has not come does not come: longer than a task may
lie with a worker that is gone."""
ROOT = Path(__file__).parents[3]
Json = dict[str, Any]
LEASE, CONNECT, READ = 10.0, 0.5, 2.0
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
    "COURIER_SUPPRESSION_KEY": "known to all of this run",
}
"""Every wait is short, so that minutes hold all of a message's life."""
REPLICATED = {"COURIER_REPLICAS": "2", "COURIER_REPLICAS_TIMEOUT": "1"}
"""With sentinels: what must not be lost has both replicas before it counts."""


@dataclass(frozen=True)
class Options:
    """``seconds``: what the apps spread their calls over. ``rate``: of each kind of answer's
    fault, ``pauses``: seconds between two troubles, ``without``: troubles left out."""

    seed: int
    messages: int
    seconds: float
    apps: int = 3
    workers: int = 2
    rate: float = 0.005
    pauses: tuple[float, float] = (2.0, 8.0)
    acts: bool = True
    without: frozenset[str] = frozenset()
    redis: str = "single"  # or sentinel: a master, two replicas, three sentinels
    fsync: str = "everysec"
    plant: str = ""
    endings: tuple[int, ...] = ENDINGS
    door: float = 0.1  # the part of the messages that comes as tasks of a plain Celery client
    part: float = 0.3  # of the apps' bulks: so many go into campaigns
    campaigns: int = 24
    marketing: tuple[float, float] = (0.05, 0.4)  # seconds between two calls about campaigns
    farthest: float = 40.0  # seconds by which Redis's clock may be off, either way
    retention: float = 30.0  # seconds for which events are kept
    naps: tuple[float, float] = (5.0, 60.0)  # seconds in which the lagging reader reads nothing
    patience: float = 240.0  # seconds for everything to end once nothing breaks any more

    @property
    def strict(self) -> bool:
        """Whether Redis must lose nothing."""
        return self.redis == "sentinel" or self.fsync == "always"


@dataclass
class Report:
    """What became of a run; seconds it took, faults by kind, troubles by kind."""

    verdict: Verdict
    ledgers: Ledgers
    seconds: dict[str, float]
    faults: dict[str, int]
    acts: dict[str, int]
    exits: int
    left_out: list[str]


class Installation:
    """Redis, the provider, supervised workers: ended with the ``with`` block."""

    def __init__(self, options: Options, folder: Path, stack: ExitStack) -> None:
        self.faked = Faked(folder / "faketime", cached=1) if LIBRARIES else None
        self.store, self.broker = self._redis(options, folder, stack)
        self.simulator = Simulator("--step", "0.3", "--seed", str(options.seed))
        stack.callback(self.simulator.stop)
        self.env = {
            **SHORT,
            **(REPLICATED if isinstance(self.store, Sentinels) else {}),
            "COURIER_RESULTS_RETENTION": str(options.retention),
            "COURIER_NAMESPACE": NAMESPACE,
            "COURIER_REDIS_URL": self.store.url,
            "COURIER_BROKER_URL": self.broker.url,
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
        self.producer = Producer.from_env({**self.env, "COURIER_REDIS_URL": self.store.own_url})
        stack.callback(self.producer.close)
        self.keys = Keys(NAMESPACE)
        self.campaigns = tuple(f"c{n}" for n in range(options.campaigns if options.part else 0))
        self.archive = Archive(self.store, self.keys.results)
        self.archive.start()

    def _redis(self, options: Options, folder: Path, stack: ExitStack) -> tuple[Store, Single]:
        """Store and broker. Where the store is replicated the broker is a server of its own that
        loses nothing: what a plain client puts there is not the courier's to replicate."""
        if options.redis == "single":
            both = Single(folder / "redis", options.fsync, self.faked)
            stack.callback(both.stop)
            return both, both
        store = Sentinels(folder / "store", options.fsync, self.faked)
        stack.callback(store.stop)
        broker = Single(folder / "broker", "always", None)
        stack.callback(broker.stop)
        return store, broker

    def ask(self, what: Callable[[redis.Redis], T], store: Store | None = None) -> T:
        """Something of the store's master, or the broker; waits while it is away."""
        deadline = time.monotonic() + LOADING
        while True:
            try:
                with (store or self.store).admin() as client:
                    return what(client)
            except redis.RedisError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.2)

    def waiting(self) -> tuple[int, int, int]:
        """Messages in line, messages in campaigns' lines, and messages that are followed."""
        lines = [f"{lane}:{name}" for lane in self.keys.lanes for name in self.campaigns]

        def look(client: redis.Redis) -> tuple[int, int, int]:
            with client.pipeline(transaction=False) as pipe:
                for key in (*self.keys.lanes, *lines, self.keys.watch):
                    pipe.zcard(key)
                *sizes, watched = pipe.execute()
            plain = len(self.keys.lanes)
            return sum(sizes[:plain]), sum(sizes[plain:]), watched

        return self.ask(look)

    def known(self) -> int:
        """Messages stored."""
        return self.ask(lambda client: int(client.hget(self.keys.counts, "queued") or 0))


def run(options: Options, folder: Path, say: Callable[[str], object] = print) -> Report:
    """Break everything for a while, then let it end, then judge. Evidence stays in ``folder``."""
    begun, marks = time.monotonic(), dict[str, float]()

    def mark(name: str) -> None:
        marks[name] = time.monotonic() - begun

    with ExitStack() as stack:
        place = Installation(options, folder, stack)
        disturber = _disturber(options, place)
        if options.acts:
            disturber.start()
        readings = _readings(options, place.env, folder)
        readers = [_start(each.command(), folder / f"{each.group}.log") for each in readings]
        for reader in readers:
            stack.callback(_end, reader)
        parts = _parts(options, place, folder)
        marketing = _marketing(options, place, folder)
        marketer = _start(marketing.command(), folder / "marketer.log")
        stack.callback(_end, marketer)

        def tell() -> None:
            _tell(place, disturber, begun, say)

        _enqueue(parts, folder, tell)
        mark("enqueued")
        _linger(options, place, tell)
        disturber.stop()
        mark("healed")
        _tell_to_end(marketer, folder / "marketer.log")
        _let_end(options, place, parts, tell)
        mark("ended")
        for program in (*place.workers, place.beat):
            program.stop()
        for reader in readers:
            reader.terminate()
        for reader in readers:
            reader.wait(120)
        place.archive.stop()
        calls = Path(marketing.ledger)
        ledgers = _collect(place, parts, calls, disturber, folder)
        verdict = judge(ledgers)
        kept = {name: _kept(place, name) for name in place.campaigns}
        _write(
            folder / "campaigns.jsonl", [{"name": n, **asdict(each)} for n, each in kept.items()]
        )
        settle_campaigns(verdict, ledgers, kept)
        settle_accounts(verdict, ledgers, _evidence(options, place, disturber, readings))
        exits = sum(len(worker.exits) for worker in place.workers)
    verdict.violations += disturber.violations
    verdict.violations += [  # the other workers may hide that one works no more
        Violation("worker hung", f"worker {n}", "had to be killed")
        for n, worker in enumerate(place.workers)
        if worker.hung
    ]
    mark("judged")
    left_out = sorted(options.without) + ([] if place.faked else ["clock step: no libfaketime"])
    faults, acts = dict(disturber.fired), dict(disturber.told())
    return Report(verdict, ledgers, marks, faults, acts, exits, left_out)


def _disturber(options: Options, place: Installation) -> Disturber:
    target = Target(
        workers=place.workers,
        beat=place.beat,
        store=place.store,
        broker=place.broker,
        simulator=place.simulator,
        archive=place.archive,
        faked=place.faked,
        namespace=NAMESPACE,
        lease=LEASE,
        farthest=options.farthest,
        forgets=not options.strict,
    )
    return Disturber(
        target, options.seed, rate=options.rate, pauses=options.pauses, without=options.without
    )


def _linger(options: Options, place: Installation, tell: Callable[[], None]) -> None:
    """Most of what was asked last meets faults too."""
    linger = time.monotonic() + (LINGER if options.acts else 0)
    while time.monotonic() < linger:
        plain, _, watched = place.waiting()  # campaigns may be paused
        if plain + watched <= options.messages / 10:
            return
        tell()


def _let_end(
    options: Options, place: Installation, parts: list[Part], tell: Callable[[], None]
) -> None:
    """Wait until all that was asked for has ended, or nothing has changed for long."""
    asked = {id: each for part in parts for id, each in read_ledger(Path(part.ledger)).items()}
    refused = [id for id, each in asked.items() if each.stored is None]
    wanted = options.messages - sum(place.producer.get(id) is None for id in refused)
    deadline, before, since = time.monotonic() + options.patience, (0, 0), time.monotonic()
    while time.monotonic() < deadline:
        now = sum(place.waiting()), place.known()
        if not now[0] and now[1] >= wanted:
            return
        if now != before:
            before, since = now, time.monotonic()
        if not now[0] and time.monotonic() - since > UNHEARD:
            return  # the rest is lost
        tell()


def _readings(options: Options, env: dict[str, str], folder: Path) -> list[Reading]:
    """One group that reads all the time, one that lags."""
    naps = {"steady": None} | ({} if LAGGING in options.without else {"lagging": options.naps})
    return [
        Reading(env, str(folder / f"read-{name}.txt"), name, options.seed, nap)
        for name, nap in naps.items()
    ]


def _marketing(options: Options, place: Installation, folder: Path) -> Marketing:
    """At most a third of the campaigns are cancelled, so that the others show their ends."""
    return Marketing(
        env=place.env,
        ledger=str(folder / "marketer.jsonl"),
        names=place.campaigns,
        seed=options.seed,
        pauses=options.marketing,
        most=len(place.campaigns) // 3,
    )


def _tell_to_end(program: subprocess.Popen[bytes], log: Path) -> None:
    program.terminate()
    if program.wait(150):
        raise RuntimeError(log.read_text()[-2000:])


def _kept(place: Installation, name: str) -> Kept:
    """A campaign in the end."""
    campaign = place.producer.campaign(name)
    rows = [{n: getattr(row, n) for n in ("id", "row", *ROW)} for row in campaign.report()]
    return Kept(told(campaign.progress()), rows)


def _parts(options: Options, place: Installation, folder: Path) -> list[Part]:
    door = round(options.messages * options.door)
    each = (options.messages - door) // options.apps
    counts = {f"app{n}": each for n in range(options.apps - 1)}
    counts[f"app{options.apps - 1}"] = options.messages - door - sum(counts.values())
    counts |= {DOOR: door} if door else {}
    firsts = [0, *accumulate(counts.values())]
    return [
        Part(
            name=name,
            seed=options.seed,
            first=first,
            count=count,
            seconds=options.seconds,
            ledger=str(folder / f"asked-{name}.jsonl"),
            env=place.env,
            endings=options.endings,
            campaigns=place.campaigns,
            part=options.part,
        )
        for (name, count), first in zip(counts.items(), firsts, strict=False)
    ]


def _enqueue(parts: list[Part], folder: Path, tell: Callable[[], None]) -> None:
    """All apps, until the last one has ended."""
    with ExitStack() as stack:
        apps = []
        for part in parts:
            program = "door" if part.name == DOOR else "apps"
            apps.append(_start(part.command(program), folder / f"{part.name}.log"))
            stack.callback(_end, apps[-1])
        while any(app.poll() is None for app in apps):
            tell()
    for app, part in zip(apps, parts, strict=True):
        if app.returncode != 0:
            raise RuntimeError((folder / f"{part.name}.log").read_text()[-2000:])


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
    lanes, lines, watched = place.waiting()
    accepted = place.simulator.get("requests")["messages"]
    acts = ", ".join(f"{n} {kind}" for kind, n in sorted(disturber.told().items()))
    say(
        f"{time.monotonic() - begun:5.0f} s  {lanes} waiting, {lines} in campaigns,"
        f" {accepted} accepted, {watched} followed; {acts}"
    )


def _collect(
    place: Installation, parts: list[Part], calls: Path, disturber: Disturber, folder: Path
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
    events = [json.loads(text) for _, text in sorted(place.archive.events.items())]
    records = {id: _record(place.producer, id) for id in asked}
    acts = [*disturber.acts, *_exits(place.workers)]
    conditions = Conditions(
        batch=BATCH,
        deadline=CONNECT + READ,
        broken=broken,
        unsure_answers=sum(told["batches"][number - 1] for number in broken),
        refusals=refusal_codes(),
        acts=acts,
        offsets=disturber.offsets,
        waits=LEASE if isinstance(place.store, Sentinels) else 0.0,
        lease=LEASE,
    )
    _write(folder / "accepted.jsonl", accepted)
    _write(folder / "events.jsonl", events)
    _write(folder / "forgotten.jsonl", place.archive.forgotten)
    _write(folder / "records.jsonl", [{"id": id, "record": each} for id, each in records.items()])
    _write(folder / "acts.jsonl", [asdict(act) for act in acts])
    _write(folder / "offsets.jsonl", list(disturber.offsets))
    _write(folder / "broken.jsonl", list(broken.items()))
    return Ledgers(asked, accepted, events, records, conditions, read_calls(calls))


def _evidence(
    options: Options, place: Installation, disturber: Disturber, readings: list[Reading]
) -> Evidence:
    events = {entry: json.loads(text) for entry, text in place.archive.events.items()}
    accounts = [read_account(reading.group, Path(reading.ledger)) for reading in readings]
    keys = place.ask(lambda client: _left(client, place.keys))
    if place.broker is not place.store:
        keys += place.ask(lambda client: _left(client, place.keys), place.broker)
    return Evidence(
        written={at: Seen(each["id"], digest(each["data"])) for at, each in events.items()},
        accounts=accounts,
        counts=place.ask(lambda client: client.hgetall(place.keys.counts)),
        keys=keys,
        memory=place.ask(lambda client: int(client.info("memory")["used_memory"])),
        namespace=NAMESPACE,
        retention=options.retention,
        strict=options.strict,
        breaking=[act for act in disturber.acts if act.requests > SLOTS],  # Redis's, not a worker's
    )


def _left(client: redis.Redis, keys: Keys) -> list[Left]:
    """All keys of a server. Of messages' own there are many: their sizes are not asked for."""
    found: list[Left] = []
    names = list(client.scan_iter(count=1000))
    for at in range(0, len(names), 1000):
        page = names[at : at + 1000]
        asking = client.pipeline(transaction=False)
        for name in page:
            asking.type(name).pttl(name)
        replies = asking.execute()
        for name, type, expiry in zip(page, replies[::2], replies[1::2], strict=True):
            if expiry != -2:
                found.append(Left(name, type, expiry > 0, _size(client, name, type, keys)))
    return found


def _size(client: redis.Redis, name: str, type: str, keys: Keys) -> int:
    if name.startswith((keys.records, keys.contents)):
        return 1
    sizes = {"list": client.llen, "zset": client.zcard, "stream": client.xlen, "hash": client.hlen}
    return int(sizes[type](name)) if type in sizes else 1


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

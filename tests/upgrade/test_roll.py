"""The landed version before this one, and this one, on the same Redis under load.

The ledgers of apps, provider and events are compared as after a chaos run (tests/faults/chaos): all
that was enqueued ended, once, and nothing was sent twice.
"""

from __future__ import annotations

import json
import random
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import redis

from tests.conftest import ROOT, Simulator, free_port, wait_for
from tests.faults.chaos.jobs import Order, orders
from tests.faults.chaos.ledger import read_ledger
from tests.faults.chaos.oracle import Asked, Conditions, Ledgers, judge
from tests.faults.chaos.run import BATCH, CONNECT, READ, SHORT
from tests.faults.parts import Supervised
from tests.upgrade.versions import NEXT, NOW, Version, before
from viber_courier.ops.redis_server import RedisServer
from viber_courier.store.format import FORMAT, NEEDED
from viber_courier.store.keys import Keys

PAUSE, SECONDS = 0.15, 8.0
"""Seconds between two calls of an app; least seconds of load."""
PART, PARTS = 400, 40
"""Messages of an app, at most: a part has about 15 calls."""
ENDINGS = (10, 20, 21, 22, 23, 30, 31, 40, 50, 51, 60, *(99,) * 12)
"""Those that come soon (ops/simulator_rules.py)."""
TASKS = 0.3
"""The part of the bulks that goes through Celery."""
FIELDS = (
    *("status", "final", "reason", "attempts", "unsure", "provider_id", "provider_status"),
    *("provider_code", "status_at", "metadata", "resend_of", "resent_as"),
)
APP = str(Path(__file__).with_name("program.py"))
KEYS = Keys("upgrade")


@pytest.fixture(scope="session")
def old() -> Version:
    return before()


def call(order: Order, task: bool) -> dict[str, Any]:
    """A call of an app (program.py)."""
    jobs = order.jobs
    if task := task and order.common is not None:
        # Nobody can tell from outside when a task has stored its jobs: no ttlSec.
        jobs = [{k: v for k, v in job.items() if k != "ttlSec"} for job in jobs]
    return {**vars(order), "jobs": jobs, "task": task}


class Place:
    """An installation whose programs are of one version or the other."""

    def __init__(self, folder: Path, stack: ExitStack) -> None:
        self.folder, self._stack = folder, stack
        self.server = RedisServer(folder, free_port())
        self.server.start()
        stack.callback(self.server.stop)
        self.simulator = Simulator("--step", "0.3", "--seed", "5")
        stack.callback(self.simulator.stop)
        self.env = {
            **SHORT,
            "COURIER_NAMESPACE": "upgrade",
            "COURIER_REDIS_URL": self.server.url,
            "COURIER_API_URL": self.simulator.url,
        }
        self.client = redis.Redis.from_url(self.server.url, decode_responses=True)
        stack.callback(self.client.close)
        self.apps: list[subprocess.Popen[bytes]] = []
        self.ledgers: list[Path] = []
        self.workers: list[Supervised] = []

    def worker(self, version: Version) -> Supervised:
        """One that is ready, with a beat."""
        name = f"w{len(self.workers)}@%h"
        options = ("-B", "-c", "2", "-n", name, "--without-gossip", "--without-mingle")
        words = ("-m", "celery", "-A", "viber_courier.worker", "worker", "-l", "INFO", *options)
        made = Supervised(version.command(*words), self.env, self.folder)
        self._stack.callback(made.stop)
        self.workers.append(made)
        wait_for(lambda: " ready." in made.log or made.exits, 40)
        assert not made.exits, made.log
        return made

    def app(self, version: Version) -> None:
        n = len(self.apps)
        path, ledger = self.folder / f"orders-{n}.json", self.folder / f"asked-{n}.jsonl"
        chance, first = random.Random(n), n * PART * PARTS
        calls = [
            call(order, chance.random() < TASKS)
            for k in range(PARTS)
            for order in orders(chance, f"app{n}:{k}", first + k * PART, PART, ENDINGS)
        ]
        path.write_text(json.dumps(calls))
        given = {"name": n, "orders": str(path), "ledger": str(ledger)}
        given |= {"pause": PAUSE, "until": f"{ledger}.enough"}
        command = version.command(APP, "enqueue", json.dumps({**given, "env": self.env}))
        with (self.folder / f"app-{n}.log").open("wb") as log:
            program = subprocess.Popen(command, cwd=self.folder, stdout=log, stderr=log)
        self._stack.callback(program.kill)
        self.apps.append(program)
        self.ledgers.append(ledger)

    def seen(self, version: Version, ids: Sequence[str]) -> Any:
        given = {"env": self.env, "group": version.name, "ids": [*ids], "fields": FIELDS}
        command = version.command(APP, "read", json.dumps(given))
        done = subprocess.run(command, cwd=self.folder, capture_output=True, timeout=100)
        assert done.returncode == 0, done.stderr.decode()
        return json.loads(done.stdout)

    def end_app(self, n: int) -> None:
        assert self.apps[n].poll() is None, "it has ended by itself"
        Path(f"{self.ledgers[n]}.enough").touch()
        assert self.apps[n].wait(60) == 0, (self.folder / f"app-{n}.log").read_text()

    def finish(self, first: int = 0) -> None:
        """Ends the apps' load, and waits until all that they have asked for has ended."""
        for n in range(first, len(self.apps)):
            self.end_app(n)
        asked = len(self.asked())

        def ended() -> bool:
            stored: Any = self.client.hget(KEYS.counts, "queued")
            waiting: list[Any] = [self.client.zcard(key) for key in (*KEYS.lanes, KEYS.watch)]
            return int(stored or 0) >= asked and not any(waiting)

        wait_for(ended, 60, "messages still wait")

    def asked(self) -> dict[str, Asked]:
        return {id: each for path in self.ledgers for id, each in read_ledger(path).items()}

    def check(self, *versions: Version, refused: Sequence[Supervised] = ()) -> None:
        """Ends all workers; what ledgers and the versions' apps say of the messages.

        ``refused``: workers that could not read the store at the end.
        """
        for worker in self.workers:
            worker.stop()
            assert not worker.hung and worker.process.returncode == 0, worker.log[-3000:]
            bad = [word for word in ("Traceback", "redis refuses") if word in worker.log]
            assert worker.exits == [] and (worker in refused or not bad), worker.log[-3000:]
        asked = self.asked()
        stream: Any = self.client.xrange(KEYS.results)
        events = [json.loads(fields["event"]) for _, fields in stream]
        seen = [self.seen(version, [*asked]) for version in versions]
        for each in seen:  # of all versions alike
            assert not differences(seen[0]["records"], each["records"])
            assert each["events"] == seen[0]["events"]
            assert [id for id, _ in each["events"]] == [event["id"] for event in events]
        records = {
            id: {
                **{name: record[name] or 0 for name in ("attempts", "unsure")},
                **{"final": bool(record["final"]), "providerId": record["provider_id"]},
                **{name: record[name] for name in ("status", "reason")},
            }
            for id, record in seen[0]["records"].items()
        }
        conditions = Conditions(batch=BATCH, deadline=CONNECT + READ)  # nothing was broken
        accepted = self.simulator.accepted()
        verdict = judge(Ledgers(asked, accepted, events, records, conditions))
        print(verdict.figures)
        assert verdict.violations == []
        assert verdict.figures["unsure attempts"] == 0
        assert verdict.figures["accepted more than once"] == 0
        assert verdict.figures["accepted"] > 250


def differences(one: dict[str, Any], other: dict[str, Any]) -> list[Any]:
    """What two versions' ``get`` say otherwise of the same messages."""
    return [
        (id, name, one[id][name], other[id].get(name))
        for id in one
        for name in one[id]
        if id not in other or one[id][name] != other[id].get(name)
    ]


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    with ExitStack() as stack:
        yield Place(tmp_path, stack)


def test_each_version_runs_its_own_code(old: Version, tmp_path: Path) -> None:
    code = "import viber_courier.worker.send as it; print(it.__file__)"
    said = [
        subprocess.run(each.command("-c", code), cwd=tmp_path, capture_output=True, text=True)
        for each in (old, NOW)
    ]
    assert all(each.returncode == 0 for each in said), said
    files = [Path(each.stdout.strip()).resolve() for each in said]
    assert files[1] == ROOT / "worker" / "send.py"
    assert files[0] == Path(old.python).parents[1] / "tree" / "worker" / "send.py"


def test_apps_of_the_version_before_with_workers_of_this_one(old: Version, place: Place) -> None:
    place.worker(NOW)
    place.app(old)
    time.sleep(SECONDS)
    place.finish()
    place.check(old, NOW)


def test_apps_of_this_version_with_workers_of_the_one_before(old: Version, place: Place) -> None:
    # They ignore the number that apps leave, and can read what it says
    place.worker(old)
    place.app(NOW)
    time.sleep(SECONDS)
    place.finish()
    assert place.client.hgetall(KEYS.format) == {"written": str(FORMAT), "needed": str(NEEDED)}
    place.check(old, NOW)


@pytest.mark.parametrize("back", [False, True], ids=["a roll", "a roll back"])
def test_workers_are_replaced_one_by_one_under_load(back: bool, old: Version, place: Place) -> None:
    # Given two workers of one version, and apps of both that enqueue all the while
    first, second = (NOW, old) if back else (old, NOW)
    workers = [place.worker(first), place.worker(first)]
    for version in (old, NOW):
        place.app(version)
    # When each is stopped after one of the other version is ready
    for worker in workers:
        place.worker(second)
        time.sleep(SECONDS / 8)  # both at work
        worker.stop()
    place.finish()
    # Then all has ended as it should, whoever began it
    place.check(old, NOW)


def test_a_version_leaves_to_the_next_what_it_can_not_read(place: Place) -> None:
    # Given workers of this version, with messages in line and in requests
    workers = [place.worker(NOW), place.worker(NOW)]
    place.app(NOW)
    time.sleep(SECONDS / 2)
    place.end_app(0)
    # When workers and apps of another begin, whose format they can't read
    place.worker(NEXT)
    place.app(NEXT)
    for worker in workers:
        wait_for(lambda worker=worker: "redis refuses" in worker.log, 20, worker.log)
    time.sleep(SECONDS / 2)
    for worker in workers:
        worker.stop()
    place.finish(first=1)
    # Then nothing is lost, nor sent twice
    place.check(NEXT, refused=workers)
    assert place.client.hget(KEYS.format, "needed") == str(FORMAT + 1)

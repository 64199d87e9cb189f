"""The hand that breaks things in a chaos run: a plan by a seed, and what each trouble does."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from random import Random

import redis

from tests.conftest import Simulator
from tests.faults.chaos.archive import Archive
from tests.faults.chaos.oracle import Act, Violation
from tests.faults.chaos.rules import STORMS, Json, rules
from tests.faults.chaos.stores import Sentinels, Single, Store
from tests.faults.faked import Faked
from tests.faults.parts import Supervised

Replacing = Callable[[int], contextlib.AbstractContextManager[None]]
SLOTS = 2
"""Requests that one worker makes at a time (WORKER in tests/faults/parts.py)."""
ALWAYS = {
    "kill -9 worker": 6,
    "kill -9 child": 3,
    "kill -9 beat": 1,
    "no beat": 2,
    "stalled worker": 2,
    "provider down": 2,
    "Redis restarted": 2,
    "kill -9 Redis": 2,
    "Redis cut off": 2,
    "Redis vanished": 1,
}
"""Troubles, and how often each comes."""
DOOR = {"kill -9 at the door": 3}
CLOCK = {"clock step": 2}
FAILOVER = {
    "kill -9 master": 5,
    "planned failover": 5,
    "master cut off": 5,
    "master stalled": 3,
    "kill -9 replica": 2,
}
LAGGING = "lagging readers"
TROUBLES = sorted({*ALWAYS, *DOOR, *CLOCK, *FAILOVER, LAGGING})
LEAST_STEP = 8.0
"""Seconds: smaller steps are no trouble (docs/decisions/0029)."""
NO_BEAT = (12.0, 20.0)
"""Seconds without any beat: the shortest and the longest time."""
UNSWEPT = 15.0
"""Seconds within which a worker must sweep where no beat does, on a busy machine."""


def plan(seed: int, weights: Mapping[str, int]) -> Iterator[tuple[str, Random]]:
    """What happens one after the other, each with chances of its own; first a bit of everything."""
    chance = Random(f"{seed}:disturber")
    kinds = [kind for kind, weight in weights.items() for _ in range(weight)]
    soon = chance.sample(sorted(set(kinds)), len(set(kinds)))
    while True:
        kind = soon.pop() if soon else chance.choice(kinds)
        yield kind, Random(chance.random())


@dataclass(frozen=True)
class Target:
    """What can be broken. ``broker`` is ``store`` itself where one Redis is both."""

    workers: list[Supervised]
    beat: Supervised
    store: Store
    broker: Single
    simulator: Simulator
    archive: Archive
    faked: Faked | None
    namespace: str
    lease: float
    farthest: float  # seconds by which Redis's clock may be off, either way
    forgets: bool  # a Redis that is killed may forget its last writes


class Disturber(threading.Thread):
    """Does something to the installation every few seconds, until told to stop."""

    def __init__(
        self,
        target: Target,
        seed: int,
        *,
        rate: float,
        pauses: tuple[float, float],
        without: frozenset[str] = frozenset(),
    ) -> None:
        super().__init__(daemon=True)
        self._target, self._pauses, self._rate = target, pauses, rate
        self._over = threading.Event()
        self._beat_returns = 0.0
        self.acts: list[Act] = []
        self.offsets: list[tuple[float, float]] = [(0.0, 0.0)]
        """From which instant on Redis's clock was so many seconds ahead."""
        self.fired = Counter[str]()
        self.violations: list[Violation] = []
        self.error: BaseException | None = None
        does: dict[str, Callable[[Random], None]] = {
            "kill -9 worker": self._kill_worker,
            "kill -9 child": self._kill_child,
            "kill -9 beat": self._kill_beat,
            "no beat": self._keep_beat_down,
            "stalled worker": self._freeze,
            "provider down": self._storm,
            "Redis restarted": self._end_redis,
            "kill -9 Redis": self._kill_redis,
            "Redis cut off": self._cut,
            "Redis vanished": self._vanish,
            "kill -9 at the door": self._kill_at_the_door,
            "clock step": self._step,
            "kill -9 master": self._kill_master,
            "planned failover": self._fail_over,
            "master cut off": self._cut_off_master,
            "master stalled": self._stall_master,
            "kill -9 replica": self._kill_replica,
        }
        weights = ALWAYS | DOOR | (CLOCK if target.faked else {})
        weights |= FAILOVER if isinstance(target.store, Sentinels) else {}
        self._does = does
        self._plan = plan(seed, {kind: n for kind, n in weights.items() if kind not in without})
        self._rules(rules(rate))

    def run(self) -> None:
        try:
            for kind, chance in self._plan:
                if self._over.wait(chance.uniform(*self._pauses)):
                    return
                self._does[kind](chance)
                if self._beat_returns and time.monotonic() > self._beat_returns:
                    self._let_beat_run()
        except BaseException as error:
            self.error = error

    def stop(self) -> None:
        """Everything works from now on."""
        self._over.set()
        if self.is_alive():
            self.join(120)
        self._rules([])
        self._target.store.heal()
        self._target.broker.heal()
        if self._beat_returns:
            self._let_beat_run()
        if self.error is not None:
            raise self.error

    def told(self) -> Counter[str]:
        return Counter(act.kind for act in self.acts)

    @contextlib.contextmanager
    def _act(self, kind: str, requests: int, *, forgets: bool = False) -> Iterator[None]:
        begun = time.time()
        yield
        self.acts.append(Act(kind, begun, time.time(), requests, forgets))

    @property
    def _all(self) -> int:
        return SLOTS * len(self._target.workers)

    # --- programs ---------------------------------------------------------------------------------

    def _kill_worker(self, chance: Random) -> None:
        with self._act("kill -9 worker", SLOTS):
            chance.choice(self._target.workers).kill()

    def _kill_child(self, chance: Random) -> None:
        with self._act("kill -9 child", 1):
            if children := chance.choice(self._target.workers).children():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(chance.choice(children), signal.SIGKILL)

    def _kill_at_the_door(self, chance: Random) -> None:
        """Whole workers, while tasks ``courier.enqueue`` pass."""
        for _ in range(3):
            self._wait_for_tasks(5.0)
            self._over.wait(chance.uniform(0.0, 0.3))
            with self._act("kill -9 at the door", SLOTS):
                chance.choice(self._target.workers).kill()
            self._over.wait(chance.uniform(0.5, 2.0))

    def _wait_for_tasks(self, seconds: float) -> None:
        queue, deadline = f"{self._target.namespace}.enqueue", time.monotonic() + seconds
        while time.monotonic() < deadline and not self._over.is_set():
            with (
                contextlib.suppress(redis.RedisError),
                self._target.broker.admin() as broker,
            ):
                if broker.llen(queue):
                    return
            time.sleep(0.02)

    def _kill_beat(self, _: Random) -> None:
        with self._act("kill -9 beat", 0):
            self._target.beat.kill()

    def _keep_beat_down(self, chance: Random) -> None:
        """All beats are gone for a while, in which other things break too."""
        if self._beat_returns:
            return
        self._target.beat.keep_down()
        self._no_beat_since = time.time()
        self._beat_returns = time.monotonic() + chance.uniform(*NO_BEAT)

    def _let_beat_run(self) -> None:
        """Somebody must have swept meanwhile."""
        self._beat_returns, deadline = 0.0, time.monotonic() + UNSWEPT
        since, before = self._no_beat_since, self._swept()
        while (now := self._swept()) == before or now is None:
            if time.monotonic() > deadline:
                self.violations.append(Violation("nobody swept", "", f"for {UNSWEPT} s, no beat"))
                break
            time.sleep(0.1)
        self._target.beat.let_run()
        self.acts.append(Act("no beat", since, time.time()))

    def _swept(self) -> str | None:
        with contextlib.suppress(redis.RedisError), self._target.store.admin() as client:
            return client.get(f"{{{self._target.namespace}}}:swept")  # type: ignore[return-value]
        return None

    def _freeze(self, chance: Random) -> None:
        worker = chance.choice(self._target.workers)
        with self._act("stalled worker", SLOTS):
            worker.freeze()
            self._over.wait(self._target.lease + chance.uniform(0.0, 2.0))
            worker.thaw()

    # --- the Redis that is the broker, and without Sentinel the store, too ------------------------

    def _end_redis(self, chance: Random) -> None:
        with self._act("Redis restarted", self._all):
            self._target.broker.server.stop()
            self._over.wait(chance.uniform(0.0, 2.0))
            self._target.broker.start()

    def _kill_redis(self, chance: Random) -> None:
        with self._act("kill -9 Redis", self._all, forgets=self._target.forgets):
            self._target.broker.server.stop(kill=True)
            self._over.wait(chance.uniform(0.0, 2.0))
            self._target.broker.start()

    def _cut(self, _: Random) -> None:
        with self._act("Redis cut off", self._all):
            self._target.broker.proxy.cut()
            if isinstance(self._target.store, Sentinels):
                with self._target.store.admin() as client:
                    client.execute_command("CLIENT", "KILL", "TYPE", "normal")

    def _vanish(self, _: Random) -> None:
        with self._act("Redis vanished", self._all):
            self._target.broker.proxy.vanish()

    # --- clocks -----------------------------------------------------------------------------------

    def _step(self, chance: Random) -> None:
        """Redis's clock steps, either way. Before that the archive has all events: a step forward
        lets them be trimmed at once."""
        assert self._target.faked
        now, farthest = self.offsets[-1][1], self._target.farthest
        new = chance.uniform(-farthest, farthest)
        if abs(new - now) < LEAST_STEP:
            new = now - LEAST_STEP if now > 0 else now + LEAST_STEP
        with self._target.store.admin() as client:
            client.execute_command("CLIENT", "PAUSE", "5000", "WRITE")
            try:
                deadline = time.monotonic() + 4
                while not self._target.archive.is_level(client):
                    if time.monotonic() > deadline:
                        return
                    time.sleep(0.01)
                self.offsets.append((time.time(), new))
                with self._act(f"clock {'ahead' if new > now else 'back'}", 0):
                    self._target.faked.set(new)
                    while abs(client.time()[0] - time.time() - new) > 2:
                        time.sleep(0.05)  # the server has not looked yet
            finally:
                client.execute_command("CLIENT", "UNPAUSE")

    # --- Sentinel ---------------------------------------------------------------------------------

    @property
    def _sentinels(self) -> Sentinels:
        assert isinstance(self._target.store, Sentinels)
        return self._target.store

    def _kill_master(self, chance: Random) -> None:
        self._replace_master("kill -9 master", self._sentinels.killed, chance)

    def _fail_over(self, chance: Random) -> None:
        self._replace_master("planned failover", self._sentinels.asked, chance)

    def _cut_off_master(self, chance: Random) -> None:
        self._replace_master("master cut off", self._sentinels.cut_off, chance)

    def _stall_master(self, chance: Random) -> None:
        self._replace_master("master stalled", self._sentinels.stalled, chance)

    def _replace_master(self, kind: str, by: Replacing, chance: Random) -> None:
        """Another one becomes the master; some time later the old one is back, as a replica."""
        store, begun, old = self._sentinels, time.time(), self._sentinels.master()
        with by(old):
            vain = "" if store.replaced(old) else ", in vain"
            self._over.wait(chance.uniform(0.0, 4.0))
        store.heal()
        self.acts.append(Act(kind + vain, begun, time.time(), self._all))

    def _kill_replica(self, chance: Random) -> None:
        """With all replicas asked for, nothing is taken meanwhile."""
        store, master = self._sentinels, self._sentinels.master()
        replica = chance.choice([each for each in store.servers if each.port != master])
        with self._act("kill -9 replica", self._all):
            replica.stop(kill=True)
            self._over.wait(chance.uniform(1.0, 4.0))
            store.heal()

    # --- the provider -----------------------------------------------------------------------------

    def _storm(self, chance: Random) -> None:
        rule = chance.choice(STORMS)
        with self._act("provider down", 0):
            self._rules([{**rule, "on": on} for on in ("send", "status")])
            self._over.wait(chance.uniform(2.0, 6.0))
            self._rules(rules(self._rate))

    def _rules(self, wanted: list[Json]) -> None:
        """Other rules from now on; what the old ones did is counted."""
        for rule in self._target.simulator.get("faults"):
            code = f" {rule['code']}" if rule["code"] else ""
            self.fired[f"{rule['on']} {rule['kind']}{code}"] += rule["fired"]
        self._target.simulator.forget_faults()
        self._target.simulator.faults(wanted)

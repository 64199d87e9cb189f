"""What breaks in a chaos run: rules for the provider's answers, and a hand that kills and cuts."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from collections import Counter
from random import Random
from typing import Any

from tests.conftest import Simulator
from tests.faults.chaos.oracle import Act
from tests.faults.parts import Proxy, Supervised
from viber_courier.ops.redis_server import RedisServer

Json = dict[str, Any]
SLOTS = 2
"""Requests that one worker makes at a time (WORKER in tests/faults/parts.py)."""


NOT_SENT: list[Json] = [
    {"kind": "status", "code": "error-system"},
    {"kind": "status", "code": "error-syntax"},
    {"kind": "status", "code": "error-subject-format"},
    {"kind": "status", "code": "error-never-heard-of"},
    {"kind": "entry", "code": "error-system"},
    {"kind": "http", "code": 503, "retry_after": 1},
    {"kind": "http", "code": 429, "retry_after": 1},
    {"kind": "http", "code": 408},
    {"kind": "http", "code": 422},
    {"kind": "slow", "seconds": 0.5},
    *({"kind": kind} for kind in ("disagree", "quoted", "no_id")),
]
BLOCKING: list[Json] = [
    {"kind": "redirect"},
    {"kind": "status", "code": "error-auth"},
    {"kind": "http", "code": 404},
]
"""Each of these stops everybody for a while: rarer."""
UNSURE: list[Json] = [
    {"kind": "entry", "code": "weird"},
    {"kind": "http", "code": 500},
    {"kind": "http", "code": 502, "accept": True},
    {"kind": "http", "code": 200, "body": "<html>", "accept": True},
    {"kind": "drop_before"},
    {"kind": "drop_after"},
    {"kind": "hang_before"},
    {"kind": "hang_after"},
    {"kind": "trickle", "seconds": 0.5},
    {"kind": "oversized", "bytes": 5 * 2**20},
    *({"kind": kind} for kind in ("garbled", "short", "long", "same_id")),
]
REFUSING = {"entry": "error-refused-by-chance"}
STORMS: list[Json] = [
    {"kind": "http", "code": 503},
    {"kind": "http", "code": 503, "retry_after": 2},
    {"kind": "status", "code": "error-system"},
    {"kind": "hang_before"},
    {"kind": "drop_after"},
]


def rules(rate: float) -> list[Json]:
    """Every fault that the simulator knows, on both paths; with 0.005 about a seventh of all."""
    refusal = {"kind": "entry", "code": REFUSING["entry"], "rate": rate / 4}
    often = [{**rule, "rate": rate} for rule in NOT_SENT + UNSURE]
    seldom = [{**rule, "rate": rate / 5} for rule in BLOCKING]
    return [{**rule, "on": on} for on in ("send", "status") for rule in (*often, *seldom, refusal)]


def refusal_codes() -> frozenset[str]:
    """With what a message may end ``rejected`` by these rules."""
    codes = [rule.get("code") for rule in NOT_SENT] + [REFUSING["entry"]]
    return frozenset(f"http-{code}" if isinstance(code, int) else str(code) for code in codes)


def is_unsure(kind: str, code: str | int) -> bool:
    """Whether nobody can know what came of a /send that such a rule has answered."""
    return any(rule["kind"] == kind and rule.get("code", "") in ("", code) for rule in UNSURE)


class Disturber(threading.Thread):
    """Does something to the installation every few seconds, until told to stop."""

    def __init__(
        self,
        seed: int,
        workers: list[Supervised],
        beat: Supervised,
        server: RedisServer,
        proxy: Proxy,
        simulator: Simulator,
        *,
        rate: float,
        pauses: tuple[float, float],
        lease: float,
        forgets: bool,
    ) -> None:
        super().__init__(daemon=True)
        self._chance = Random(f"{seed}:disturber")
        self._workers, self._beat = workers, beat
        self._server, self._proxy = server, proxy
        self._simulator, self._rate = simulator, rate
        self._pauses, self._lease, self._forgets = pauses, lease, forgets
        self._over = threading.Event()
        self.acts: list[Act] = []
        self.fired = Counter[str]()
        self.error: BaseException | None = None
        self._rules(rules(rate))

    def run(self) -> None:
        weights = {
            self._kill_worker: 6,
            self._kill_child: 3,
            self._kill_beat: 1,
            self._freeze: 2,
            self._end_redis: 2,
            self._kill_redis: 2,
            self._cut: 2,
            self._vanish: 1,
            self._storm: 2,
        }
        acts = [act for act, weight in weights.items() for _ in range(weight)]
        soon = self._chance.sample([*weights], len(weights))  # a short run has some of each
        try:
            while not self._over.wait(self._chance.uniform(*self._pauses)):
                (soon.pop() if soon else self._chance.choice(acts))()
        except BaseException as error:
            self.error = error

    def stop(self) -> None:
        """Everything works from now on."""
        self._over.set()
        if self.is_alive():
            self.join(60)
        self._rules([])
        if self.error is not None:
            raise self.error

    def told(self) -> Counter[str]:
        return Counter(act.kind for act in self.acts)

    def _act(self, kind: str, begun: float, requests: int, forgets: bool = False) -> None:
        self.acts.append(Act(kind, begun, time.time(), requests, forgets))

    def _kill_worker(self) -> None:
        begun = time.time()
        self._chance.choice(self._workers).kill()
        self._act("kill -9 worker", begun, SLOTS)

    def _kill_child(self) -> None:
        begun, children = time.time(), self._chance.choice(self._workers).children()
        if children:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self._chance.choice(children), signal.SIGKILL)
        self._act("kill -9 child", begun, 1)

    def _kill_beat(self) -> None:
        begun = time.time()
        self._beat.kill()
        self._act("kill -9 beat", begun, 0)

    def _freeze(self) -> None:
        begun, worker = time.time(), self._chance.choice(self._workers)
        worker.freeze()
        self._over.wait(self._lease + self._chance.uniform(0.0, 2.0))
        worker.thaw()
        self._act("stalled worker", begun, SLOTS)

    def _end_redis(self) -> None:
        begun = time.time()
        self._server.stop()
        self._over.wait(self._chance.uniform(0.0, 2.0))
        self._start_redis()
        self._act("Redis restarted", begun, SLOTS * len(self._workers))

    def _kill_redis(self) -> None:
        begun = time.time()
        self._server.stop(kill=True)
        self._over.wait(self._chance.uniform(0.0, 2.0))
        self._start_redis()
        self._act("kill -9 Redis", begun, SLOTS * len(self._workers), self._forgets)

    def _start_redis(self) -> None:
        """On a busy machine its port may be taken for a moment, or loading take long."""
        for attempt in range(5):
            try:
                return self._server.start()
            except RuntimeError:
                if attempt == 4:
                    raise
                time.sleep(1)

    def _cut(self) -> None:
        begun = time.time()
        self._proxy.cut()
        self._act("Redis cut off", begun, SLOTS * len(self._workers))

    def _vanish(self) -> None:
        begun = time.time()
        self._proxy.vanish()
        self._act("Redis vanished", begun, SLOTS * len(self._workers))

    def _storm(self) -> None:
        begun, rule = time.time(), self._chance.choice(STORMS)
        self._rules([{**rule, "on": on} for on in ("send", "status")])
        self._over.wait(self._chance.uniform(2.0, 5.0))
        self._rules(rules(self._rate))
        self._act("provider down", begun, 0)

    def _rules(self, wanted: list[Json]) -> None:
        """Other rules from now on; what the old ones did is counted."""
        for rule in self._simulator.get("faults"):
            code = f" {rule['code']}" if rule["code"] else ""
            self.fired[f"{rule['on']} {rule['kind']}{code}"] += rule["fired"]
        self._simulator.forget_faults()
        self._simulator.faults(wanted)

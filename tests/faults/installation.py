"""A whole installation in miniature under steady load: app, worker, beat and reader of results."""

from __future__ import annotations

import contextlib
import json
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import redis

from tests.conftest import Simulator, text_job, wait_for
from tests.faults.parts import BEAT, WORKER, Supervised
from viber_courier import Event, Producer, StoreUnavailable
from viber_courier.store.keys import Keys

SHORT = {
    "COURIER_API_LOGIN": "tester",
    "COURIER_API_PASSWORD": "111111",
    "COURIER_CONNECT_TIMEOUT": "1",
    "COURIER_READ_TIMEOUT": "4",
    "COURIER_LEASE": "20",
    "COURIER_POLL_DELAYS": "0.2,0.4",
    "COURIER_RETRY_BASE": "0.3",
    "COURIER_RETRY_CAP": "1",
    "COURIER_SWEEP_INTERVAL": "0.3",
    "COURIER_BATCH_SIZE": "20",
}
"""Every wait is short; the lease still outlives each outage, as the default does."""

JOINED = 60.0
"""Seconds after which a thread of ours that is still there has hung."""


class Load:
    """An app: single jobs and small bulks under ids of its own, repeated while Redis is away.

    Every other message is urgent (sent again when unsure), the others are parked then.
    """

    PAUSE = 0.1
    """Seconds between calls, and before a repeat."""

    def __init__(self, producer: Producer, prefix: str = "m", first: int = 0) -> None:
        self._producer, self._prefix, self._number = producer, prefix, first
        self.stored: dict[str, str] = {}
        """Ids whose call has returned, and their addresses."""
        self.refusals: list[str] = []
        self.waiting = ""
        """The id of the call that is being made, or the first of its ids."""
        self.slowest = 0.0
        """Seconds that the longest call took, be it stored or refused."""
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        self._over.set()
        self._thread.join(JOINED)
        assert not self._thread.is_alive(), "the app hangs"

    def _run(self) -> None:
        while not self._over.is_set():
            jobs = [self._job() for _ in range(10 if self._number % 50 == 0 else 1)]
            self.waiting = jobs[0]["id"]
            while not self._store(jobs):
                if self._over.wait(self.PAUSE):
                    return
            self.stored |= {job["id"]: job["address"] for job in jobs}
            self._over.wait(self.PAUSE)

    def _job(self) -> dict[str, Any]:
        self._number += 1
        lane = ("high", "low")[self._number % 2]
        number = f"{self._prefix}{self._number}"
        return text_job(f"79{self._number:07}99", id=number, priority=lane)

    def _store(self, jobs: list[dict[str, Any]]) -> bool:
        started = time.monotonic()
        try:
            if len(jobs) > 1:
                self._producer.enqueue_many(jobs)
            else:
                self._producer.enqueue(jobs[0])
            return True
        except StoreUnavailable as error:
            self.refusals.append(str(error))
            return False
        finally:
            self.slowest = max(self.slowest, time.monotonic() - started)


class Reader:
    """Reads and acknowledges results all the time; one reader sits every outage out."""

    BLOCK = 30.0
    """Seconds of silence that it bears: more than any outage here."""

    def __init__(self, producer: Producer) -> None:
        self._producer = producer
        self.events: dict[str, list[Event]] = defaultdict(list)
        """By message, in order, each event once."""
        self.ended: set[str] = set()
        self.repeats = 0
        self.error: Exception | None = None
        self.forked: set[str] = set()
        """One event id came twice with other content: a failover has lost the first."""
        self._known: dict[str, Event] = {}
        self._over = False
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """It looks up at the next event, so one is made; without Redis, after BLOCK."""
        self._over = True
        last = dict.fromkeys(("id", "type", "subject", "time"), "over") | {"data": {}}
        with contextlib.suppress(redis.RedisError):
            stream = Keys(self._producer.settings.namespace).results
            self._producer.redis.xadd(stream, {"event": json.dumps(last)})
            self._thread.join(5)

    def _run(self) -> None:
        try:
            for event in self._producer.results("crm", "web-1", block=self.BLOCK):
                if self._over:
                    return
                self._take(event)
                event.ack()
        except Exception as error:  # the test asserts that there was none
            self.error = error

    def _take(self, event: Event) -> None:
        known = self._known.get(event.id)
        if known == event:
            self.repeats += 1
            return
        if known is not None:
            self.forked.add(event.subject)
        self._known[event.id] = event
        self.events[event.subject].append(event)
        if event.data["final"]:
            self.ended.add(event.subject)


@dataclass
class Ledger:
    """What became of all messages."""

    asked: int
    unsure: int = 0
    """Attempts of which nobody knows."""
    doubled: list[str] = field(default_factory=list)
    """Accepted more than once, and it says so."""
    repeated: list[str] = field(default_factory=list)
    """Accepted more than once, and it doesn't say so: only asynchronous replication may do that."""
    forked: list[str] = field(default_factory=list)
    """An event's number was given twice: likewise."""
    lost: list[str] = field(default_factory=list)
    """``enqueue`` returned and nobody knows of it: likewise."""

    @property
    def figures(self) -> str:
        counts = {"doubled": self.doubled, "repeated": self.repeated}
        counts |= {"forked": self.forked, "lost": self.lost}
        said = ", ".join(f"{len(ids)} {what}" for what, ids in counts.items())
        return f"{self.asked} messages, {self.unsure} unsure, {said}"


@dataclass
class Installation:
    """All its programs; ``env`` is what they run with."""

    env: dict[str, str]
    simulator: Simulator
    load: Load
    reader: Reader
    worker: Supervised
    beat: Supervised

    @property
    def exits(self) -> list[int]:
        """Of worker and beat, so far."""
        return self.worker.exits + self.beat.exits

    def at_work(self, messages: int = 10) -> None:
        """Wait until that many more messages have ended: all parts run and are busy."""
        target = len(self.reader.ended) + messages
        self._wait(lambda: len(self.reader.ended) >= target, 40)

    def back_at_work(self, within: float) -> float:
        """Seconds until the app sees the end of a message it enqueues from now on.

        App, worker, beat (it rings for polls) and reader all have to be back for that.
        """
        started, before = time.monotonic(), set(self.load.stored)
        self._wait(lambda: self.reader.ended & (self.load.stored.keys() - before), within)
        return time.monotonic() - started

    def ledger(self, seconds: float = 40, asynchronous: bool = False) -> Ledger:
        """Stop the app and hold asked, accepted and told against each other.

        Every message ended once, its events without gaps; the provider accepted it once, or its
        ``unsure`` says why not. The reader, never restarted, saw all of it. Where replication is
        ``asynchronous``, what a failover has cost is counted instead.
        """
        self.load.stop()
        asked, reader, ledger = dict(self.load.stored), self.reader, Ledger(len(self.load.stored))
        with contextlib.closing(Producer.from_env(self.env)) as app:

            def missing() -> list[str]:
                left = sorted(asked.keys() - reader.ended)
                if asynchronous:  # nobody knows what is lost at once: the old master may answer yet
                    ledger.lost = [id for id in left if app.get(id) is None]
                return left

            self._wait(lambda: reader.error or missing() == ledger.lost, seconds)
        for id in ledger.lost:
            del asked[id]
        assert reader.error is None
        ledger.forked = sorted(reader.forked)
        for id in reader.events.keys() - {*ledger.lost, *ledger.forked}:
            events = reader.events[id]
            assert [event.id for event in events] == [f"{id}:{n + 1}" for n in range(len(events))]
            finals = [event.data["final"] for event in events]
            assert finals == [False] * (len(events) - 1) + [True], events
        times = Counter(each["message"]["address"] for each in self.simulator.accepted())
        for id, address in asked.items():
            end = reader.events[id][-1].data
            ledger.unsure += end["unsure"]
            if times[address] > 1:
                (ledger.doubled if end["unsure"] else ledger.repeated).append(id)
            assert end["status"] == "read" or (end["status"] == "unconfirmed" and end["unsure"]), (
                end
            )
            assert times[address] or end["status"] == "unconfirmed", end
        assert asynchronous or not (ledger.repeated or ledger.forked)
        return ledger

    def _wait(self, condition: Callable[[], Any], seconds: float) -> None:
        try:
            wait_for(condition, seconds)
        except AssertionError:
            missing = sorted(self.load.stored.keys() - self.reader.ended)
            told = f"{len(missing)} without an end: {missing[:5]}\n{self.load.refusals[-1:]}\n"
            logs = (self.worker.log[-4000:], self.beat.log[-1000:])
            raise AssertionError(f"not in {seconds} s; {told}" + "\n".join(logs)) from None


@contextlib.contextmanager
def running(
    folder: Path, simulator: Simulator, namespace: str, url: str, broker: str = "", **more: str
) -> Iterator[Installation]:
    """An installation at work on the Redis at ``url``; ``broker`` where that has its own."""
    env = {
        **SHORT,
        "COURIER_REDIS_URL": url,
        "COURIER_BROKER_URL": broker or url,
        "COURIER_NAMESPACE": namespace,
        "COURIER_API_URL": simulator.url,
        **more,
    }
    # Clients of their own, as an app and a reader in other processes would have.
    app, results = Producer.from_env(env), Producer.from_env(env)
    worker, beat = Supervised(WORKER, env, folder), Supervised(BEAT, env, folder)
    load, reader = Load(app), Reader(results)
    system = Installation(env, simulator, load, reader, worker, beat)
    try:
        system.at_work()
        yield system
    finally:
        reader.stop()
        load.stop()
        for program in (beat, worker):
            program.stop()
        app.close()
        results.close()

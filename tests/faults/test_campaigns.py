"""Campaigns added to, paused, resumed and cancelled at random while their workers are killed."""

from __future__ import annotations

import os
import random
import signal
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import redis

from tests.conftest import Simulator, common_job, events_of, iso_in, wait_for
from tests.faults.installation import SHORT
from tests.faults.parts import BEAT, WORKER, Supervised
from viber_courier import Campaign, CampaignCancelled, Producer
from viber_courier.ops.redis_server import RedisServer
from viber_courier.store.keys import Keys
from viber_courier.store.scripts import Script, shared

SECONDS = 30.0
"""How long everything is disturbed."""
LEASE = 7.0
NAMES = ("slow", "b", "c", "d", "e", "f")
FAULTS: list[dict[str, Any]] = [
    {"kind": "slow", "seconds": 0.7, "times": 6},
    {"kind": "hang_after", "times": 1},
    {"kind": "drop_after", "times": 2},
    {"kind": "status", "code": "error-system", "times": 2},
    {"kind": "http", "code": 503, "times": 3},
]
ACTS = {
    "add": 20,
    "pause": 6,
    "resume": 7,
    "cancel": 1,
    "one": 2,
    "kill": 3,
    "freeze": 1,
    "fault": 3,
}


class Shop:
    """A marketing team in a hurry, and what befalls its workers."""

    def __init__(self, env: dict[str, str], folder: Path, simulator: Simulator, seed: int) -> None:
        self.chance, self.simulator = random.Random(seed), simulator
        self.producer = Producer.from_env(env)
        self.keys = Keys(self.producer.settings.namespace)
        self.client: redis.Redis = redis.Redis.from_url(
            env["COURIER_REDIS_URL"], decode_responses=True
        )
        programs = [[*WORKER, "-n", f"{n}@%h"] for n in "ab"] + [[*BEAT]]
        self.programs = [Supervised(program, env, folder) for program in programs]
        self.asked: dict[str, tuple[str, str]] = {}  # by id: campaign ("": none) and address
        self.cancelled: dict[str, tuple[float, int]] = {}  # since when, inside then

    def campaign(self, name: str) -> Campaign:
        rate = 15 if name == "slow" else None
        common: Any = common_job(
            priority=self.chance.choice(["low", "normal"]), resendSms=False, ttlSec=3600
        )
        return self.producer.campaign(name, common=common, rate=rate)

    def disturb(self) -> None:
        name = self.chance.choice(NAMES)
        act = self.chance.choices([*ACTS], [*ACTS.values()])[0]
        with suppress(CampaignCancelled):
            getattr(self, act)(name)
            assert act not in ("add", "pause", "resume") or name not in self.cancelled

    def add(self, name: str) -> None:
        first, rows = len(self.asked), list[Any]()
        for n in range(first, first + self.chance.randint(1, 40)):
            rows.append({"id": f"m{n}", "address": f"7926{n:05}99"})
            if self.chance.random() < 0.2:
                rows[-1]["sendAt"] = iso_in(self.chance.randint(1, 10))
            elif self.chance.random() < 0.1:
                hours = {"from": "00:00", "to": "23:59", "zone": "recipient"}
                rows[-1] |= {"ttlSec": 30} if self.chance.random() < 0.5 else {"sendWindow": hours}
        self.campaign(name).add(rows)
        self.asked |= {row["id"]: (name, row["address"]) for row in rows}
        if self.chance.random() < 0.3:  # some have left by now, others wait
            self.producer.suppressions.add_many([rows[-1]["address"]], "asked")
        plain = f"m{len(self.asked)}", f"7926{len(self.asked):05}99"
        row: Any = {"id": plain[0], "address": plain[1]}
        self.producer.enqueue_many([row], common=common_job(priority="low"))  # type: ignore[arg-type]
        self.asked[plain[0]] = "", plain[1]

    def pause(self, name: str) -> None:
        self.campaign(name).pause()

    def resume(self, name: str) -> None:
        self.campaign(name).resume()

    def cancel(self, name: str) -> None:
        """Half of the time the app dies after the first call."""
        if len(self.cancelled) == 3 or not any(name == each for each, _ in self.asked.values()):
            return
        if self.chance.random() < 0.5:
            act = Script(self.client, "campaign", shared(self.producer.settings))
            act(name=name, act="cancel", value="")
            progress = self.campaign(name).progress()
        else:
            progress = self.campaign(name).cancel()
            assert progress.waiting == progress.inside
        self.cancelled.setdefault(name, (time.time(), progress.inside))

    def one(self, _: str) -> None:
        if self.asked:
            self.producer.cancel(self.chance.choice([*self.asked]))

    def kill(self, _: str) -> None:
        self.programs[self.chance.randrange(2)].kill()

    def freeze(self, _: str) -> None:
        """SIGSTOP for longer than a lease."""
        group = self.programs[self.chance.randrange(2)].process.pid

        def tell(what: signal.Signals) -> None:
            with suppress(ProcessLookupError):
                os.killpg(group, what)

        tell(signal.SIGSTOP)
        threading.Timer(LEASE + 2, tell, [signal.SIGCONT]).start()

    def fault(self, _: str) -> None:
        self.simulator.fault(**self.chance.choice(FAULTS))

    def check_lines(self) -> None:
        """Each line that has messages stands in the one queue where claims look at it."""
        for key in [key for key in self.client.scan_iter("*:lane:*") if key.count(":") > 3]:
            _, _, lane, resend, name = key.split(":")
            turns, held = self.keys.queues(lane)
            with self.client.pipeline() as pipe:
                pipe.zcard(key)
                for queue in (turns, held):
                    pipe.zscore(queue, f"{resend}:{name}")
                pipe.hexists(self.keys.campaigns + name, "paused")
                size, turn, hold, paused = pipe.execute()
            assert not size or (turn is None, hold is None) == (paused, not paused), key

    def ends(self) -> Counter[str]:
        """How many final events each message has."""
        events = events_of(self.client, self.producer.settings)
        return Counter(event["subject"] for event in events if event["data"]["final"])

    def stop(self) -> None:
        for program in self.programs:
            program.stop()
        self.producer.close()
        self.client.close()


@pytest.fixture(params=[1, 2])
def shop(
    request: pytest.FixtureRequest,
    tmp_path: Path,
    own_server: RedisServer,
    namespace: str,
    simulator: Simulator,
) -> Iterator[Shop]:
    env = {
        **SHORT,
        "COURIER_REDIS_URL": own_server.url,
        "COURIER_BROKER_URL": own_server.url,
        "COURIER_NAMESPACE": namespace,
        "COURIER_API_URL": simulator.url,
        "COURIER_LEASE": str(LEASE),
        "COURIER_READ_TIMEOUT": "2",
        "COURIER_MAX_ATTEMPTS": "12",
        "COURIER_READ_WINDOW": "2",
        "COURIER_TRACKING_MARGIN": "1",
        "COURIER_BATCH_SIZE": "10",
        "COURIER_SUPPRESSION_KEY": "all the tests know it",
    }
    made = Shop(env, tmp_path, simulator, request.param)
    try:
        yield made
    finally:
        made.stop()


def test_no_line_is_forgotten_while_workers_die(shop: Shop) -> None:
    end = time.monotonic() + SECONDS
    while time.monotonic() < end or len(shop.cancelled) < 2:
        shop.disturb()
        shop.check_lines()
        time.sleep(0.1)
    shop.simulator.forget_faults()
    for name in NAMES:
        with suppress(CampaignCancelled):
            shop.resume(name)

    def ended() -> bool:
        shop.check_lines()
        return len(shop.ends()) == len(shop.asked)

    wait_for(ended, 180, "some messages have no end")
    assert set(shop.ends().values()) == {1}
    records = {id: shop.producer.get(id) for id in shop.asked}
    accepted = shop.simulator.accepted()
    times = Counter(each["message"]["address"] for each in accepted)
    for id, (_, address) in shop.asked.items():
        record = records[id]
        assert record is not None and record.final
        assert times[address] <= 1 + record.unsure, record
        assert times[address] or record.status not in ("submitted", "delivered", "read"), record
        assert not times[address] or record.status not in ("cancelled", "expired"), record
    assert any(record and record.unsure for record in records.values())  # killed inside a request
    for name in NAMES:
        ours = {id for id, (each, _) in shop.asked.items() if each == name}
        progress = shop.campaign(name).progress()
        assert progress.statuses == Counter(records[id].status for id in ours)  # type: ignore[union-attr]
        assert progress.added == progress.ended == len(ours)
        assert progress.waiting == progress.inside == 0
        assert {row.id for row in shop.campaign(name).report()} == ours
        since, inside = shop.cancelled.get(name, (float("inf"), 0))
        addresses = {shop.asked[id][1] for id in ours}
        late = [a for a in accepted if a["at"] > since and a["message"]["address"] in addresses]
        assert len(late) <= inside, name

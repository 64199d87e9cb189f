"""Failovers with COURIER_REPLICAS: nothing that was promised is lost, nothing is sent twice."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tests.cluster import Cluster
from tests.conftest import Simulator, common_job, free_port, text_job, wait_for
from tests.faults.installation import Installation, Load, running
from tests.faults.test_sentinel import Failover, admin, following, role
from viber_courier import Campaign, CampaignCancelled, Producer, StoreUnavailable
from viber_courier.ops.redis_server import RedisServer

BACK = 40.0
"""Seconds within which everything is at work again."""
APPS = 3
"""Apps that enqueue ten messages a second each."""
REPLICAS = os.environ.get("TEST_REPLICAS", "1")
ROUNDS = os.environ.get("TEST_FAILOVERS", "planned killed lost").split()
"""What happens to the master, one after the other. By hand: more (docs/decisions/0030)."""


@pytest.fixture
def failover(tmp_path: Path) -> Iterator[Failover]:
    made = Failover(tmp_path, replicas=2)
    yield made
    made.stop()


def kill(failover: Failover, master: RedisServer) -> Callable[[], None]:
    master.stop(kill=True)
    return master.start


def lose(failover: Failover, master: RedisServer) -> Callable[[], None]:
    failover.cut_off(master)
    return lambda: failover.join(master)


def plan(failover: Failover, master: RedisServer) -> Callable[[], None]:
    failover.plan()
    return lambda: None


FAULTS = {"killed": kill, "lost": lose, "planned": plan}


@contextlib.contextmanager
def more_apps(system: Installation) -> Iterator[list[Load]]:
    """Further apps; what they stored is the installation's in the end."""
    producers = [Producer.from_env(system.env) for _ in range(APPS - 1)]
    loads = [Load(each, first=n * 10**6) for n, each in enumerate(producers, 1)]
    try:
        yield loads
    finally:
        for load, producer in zip(loads, producers, strict=True):
            load.stop()
            system.load.stored |= load.stored
            producer.close()


def test_failovers_lose_nothing_and_double_nothing(
    failover: Failover, simulator: Simulator, namespace: str, tmp_path: Path
) -> None:
    # Given an installation whose promises wait for replicas
    more = {"COURIER_REPLICAS": REPLICAS}
    with running(tmp_path, simulator, namespace, failover.url, **more) as system:
        with more_apps(system) as loads:
            for last, fault in enumerate(ROUNDS, 1 - len(ROUNDS)):
                system.at_work(60)
                # When the master is killed, parted from all but its clients, or replaced
                old, began = failover.master(), time.monotonic()
                mend = FAULTS[fault](failover, old)
                wait_for(lambda old=old: failover.master() is not old, 30)
                replaced = time.monotonic() - began
                back = system.back_at_work(BACK)
                # And comes back
                mend()
                if last < 0:
                    wait_for(failover.complete, 60, "not in step again")
                    assert role(old) == "slave"
                print(
                    f"{fault}: replaced {replaced:.1f} s, back {replaced + back:.1f} s, "
                    f"in step {time.monotonic() - began:.1f} s"
                )
            slowest = max(load.slowest for load in (system.load, *loads))
            refusals = {each for load in (system.load, *loads) for each in load.refusals}
        ledger = system.ledger(asynchronous=True)
        print(f"slowest call {slowest:.1f} s, {ledger.figures}\n{refusals}")
        print(sorted(ledger.lost)[:20], sorted(ledger.repeated)[:20], sorted(ledger.forked)[:20])
        # Then what was promised is kept: all is sent, nothing twice in silence, no event forks
        assert (ledger.lost, ledger.repeated, ledger.forked) == ([], [], [])
        assert system.exits == []


def test_a_replica_that_is_preferred_and_lags_takes_nothing_away(tmp_path: Path) -> None:
    # Given two replicas, of which Sentinel prefers one, soon after that one has lost its master
    failover = Failover(tmp_path, replicas=2, down_after=5000)
    more = {"COURIER_REDIS_URL": failover.url, "COURIER_REPLICAS": "1"}
    try:
        with contextlib.closing(Producer.from_env(more)) as app:
            old, preferred = failover.master(), failover.servers[2]
            with admin(preferred) as client:
                client.config_set("replica-priority", 10)
                wait_for(lambda: failover.replica(preferred)["slave-priority"] == 10, 30)
                client.config_set("masterauth", "wrong")
            with admin(old) as client:
                client.execute_command("CLIENT", "KILL", "TYPE", "replica")
            wait_for(lambda: failover.replica(preferred)["master-link-status"] == "err", 30)
            # When an app enqueues, and the master dies
            kept = list[str]()
            for n in range(5):
                with contextlib.suppress(StoreUnavailable):
                    kept.append(app.enqueue(text_job(id=f"m{n}")))
            old.stop(kill=True)
            wait_for(lambda: failover.master() is preferred, 60)
            # Then what was accepted is there
            wait_for(lambda: role(preferred) == "master")
            with admin(preferred) as client:
                assert [id for id in kept if not client.exists(app._keys.records + id)] == []
    finally:
        failover.stop()


def is_followed(server: RedisServer) -> bool:
    """Whether it has a replica: one that is up may still follow the master before."""
    with admin(server) as client:
        found: dict[str, Any] = client.info("replication")  # type: ignore[assignment]
    return any(found.get(f"slave{n}", {}).get("state") == "online" for n in range(2))


ROWS: list[Any] = [{"address": f"7925{n:07}"} for n in range(1500)]
SUPPRESSED = "79250009999"


class Team:
    """What a marketing team has asked for, call by call."""

    def __init__(self, app: Producer, round: int) -> None:
        self.app, self.name = app, f"sale{round}"
        self.added = self.campaign("added")

    def campaign(self, what: str) -> Campaign:
        common: Any = common_job(priority="low")
        return self.app.campaign(f"{self.name}-{what}", common=common)

    def prepare(self) -> None:
        for what in ("paused", "cancelled"):
            self.campaign(what).add(ROWS)

    def calls(self) -> list[Callable[[], Any]]:
        return [
            self.campaign("paused").pause,
            self.campaign("cancelled").cancel,
            lambda: self.added.add(ROWS),
            lambda: self.app.suppressions.add(SUPPRESSED, self.name),
        ]

    def check(self, app: Producer) -> None:
        """That another app finds all of it."""
        team, self.app = self, app
        assert team.campaign("paused").progress().state == "paused"
        cancelled = team.campaign("cancelled").progress()
        assert (cancelled.state, cancelled.waiting) == ("cancelled", 0)
        assert cancelled.statuses == {"cancelled": len(ROWS)}
        assert {row.status for row in team.campaign("cancelled").report()} == {"cancelled"}
        with pytest.raises(CampaignCancelled):
            team.campaign("cancelled").add(ROWS)
        assert team.campaign("added").progress().waiting == len(ROWS)
        entry = app.suppressions.get(SUPPRESSED)
        assert entry and entry.reason == self.name


def test_what_a_campaign_was_told_outlives_a_failover(tmp_path: Path) -> None:
    # Given two replicas, one of which must have what is promised
    failover = Failover(tmp_path, replicas=2)
    more = {"COURIER_REDIS_URL": failover.url, "COURIER_REPLICAS": "1"}
    more |= {"COURIER_REPLICAS_TIMEOUT": "4", "COURIER_SUPPRESSION_KEY": "k" * 16}
    try:
        for round, fault in enumerate((kill, plan)):
            with contextlib.closing(Producer.from_env(more)) as app, ThreadPoolExecutor() as pool:
                team = Team(app, round)
                team.prepare()
                old, replicas = failover.master(), failover.replicas()
                # When the replicas stand still for a moment, then no call returns meanwhile
                for each in replicas:
                    each.process.send_signal(signal.SIGSTOP)  # type: ignore[union-attr]
                calls = [pool.submit(call) for call in team.calls()]
                time.sleep(0.6)  # shorter than what makes sentinels look elsewhere
                early = [call.done() for call in calls]
                for each in replicas:
                    each.process.send_signal(signal.SIGCONT)  # type: ignore[union-attr]
                for call in calls:
                    call.result(20)
                # And when the master goes as soon as all have returned
                fault(failover, old)
                began = time.monotonic()
                wait_for(lambda old=old: failover.master() is not old, 30)
                assert early == [False] * 4
            # Then the next one has all of it
            new = failover.master()
            wait_for(lambda new=new: role(new) == "master")
            wait_for(lambda: all(map(following, failover.replicas())), 30)
            wait_for(lambda new=new: is_followed(new), 30)
            with contextlib.closing(Producer.from_env(more)) as other:
                team.check(other)
            print(f"{fault.__name__}: {time.monotonic() - began:.1f} s")
    finally:
        failover.stop()


def test_a_cluster_s_node_dies_and_nothing_is_lost(
    simulator: Simulator, namespace: str, tmp_path: Path
) -> None:
    # Given an installation on a cluster, whose promises wait for the node's replica
    cluster, broker = Cluster(tmp_path, 3, 3), RedisServer(tmp_path, free_port())
    try:
        broker.start()
        old, more = cluster.owner(namespace), {"COURIER_REPLICAS": REPLICAS}
        new = cluster.replica(old)
        with running(tmp_path, simulator, namespace, cluster.url(), broker.url, **more) as system:
            with more_apps(system):
                # When the node is killed, and is back once its replica has taken over and refuses
                old.stop(kill=True)
                wait_for(lambda: cluster.owner(namespace, new) is new, 20)
                wait_for(lambda: "0 of 1 replicas have it" in str(system.load.refusals), 20)
                old.start()
                back = system.back_at_work(BACK)
            ledger = system.ledger(asynchronous=True)
            print(f"back {back:.1f} s, {ledger.figures}")
            # Then what was promised is kept
            assert (ledger.lost, ledger.repeated, ledger.forked) == ([], [], [])
    finally:
        cluster.stop()
        broker.stop(kill=True)

"""Redis Cluster as the store: masters die under load, and the namespace's slot moves under load."""

from __future__ import annotations

import contextlib
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import requests

from tests.cluster import Cluster
from tests.conftest import Simulator, free_port, text_job, wait_for
from tests.faults.installation import SHORT, Installation, running
from tests.faults.parts import WORKER
from tests.tls import Authority
from viber_courier import Producer, StoreUnavailable
from viber_courier.ops.redis_server import RedisServer
from viber_courier.schemas.settings import Settings

COURIER = (str(Path(sys.executable).parent / "courier"),)
BACK = 20.0
"""Seconds within which everything is at work again."""


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    made = Cluster(tmp_path, 3, 3)
    yield made
    made.stop()


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[str]:
    (tmp_path / "broker").mkdir()
    server = RedisServer(tmp_path / "broker", free_port())
    server.start()
    yield server.url
    server.stop(kill=True)


def courier(system: Installation, *words: str) -> subprocess.CompletedProcess[str]:
    command = [*COURIER, *words]
    env = {**os.environ, **system.env}
    return subprocess.run(command, env=env, capture_output=True, text=True, timeout=60, check=False)


def no_traceback(system: Installation) -> None:
    for program in (system.worker, system.beat):
        before, found, after = program.log.partition("Traceback")
        assert not found, f"{before[-1000:]}{found}{after[:5000]}"


def test_every_part_works_on_a_cluster(
    cluster: Cluster, broker: str, simulator: Simulator, namespace: str, tmp_path: Path
) -> None:
    # Given an installation at work on a cluster, of which its URL names one node without its slot
    url = cluster.url(cluster.other(namespace))
    with running(tmp_path, simulator, namespace, url, broker) as system:
        # When someone looks, then all that should be well is well
        doctor = courier(system, "doctor", "--json")
        assert doctor.stdout, doctor.stderr
        said = json.loads(doctor.stdout)
        assert [each for each in said if each["severity"] == "error"] == []
        assert courier(system, "ready").stdout == "ready\n"
        assert json.loads(courier(system, "top", "--once", "--json").stdout)
        # And a refused message is a dead letter, which can be sent again
        to = ["--to", "79250000051", "--subject", "Shop", "--priority", "high", "--text", "t"]
        sent = courier(system, "send", *to, "--id", "refused")
        assert sent.stdout == "refused\n", sent.stderr
        wait_for(lambda: "refused" in courier(system, "dead", "list").stdout, 20)
        again = courier(system, "dead", "resend", "refused")
        assert again.returncode == 0, again.stderr
        shown = json.loads(courier(system, "show", "refused", "--json").stdout)
        assert shown["status"] == "rejected" and shown["resentAs"]
        # And lanes can be paused and resumed
        assert courier(system, "pause", "low").returncode == 0
        assert courier(system, "resume").stdout == "Resumed: low\n"
        # And the exporter tells of the lanes
        port = free_port()
        exporter = subprocess.Popen(
            [*COURIER, "exporter", "--port", str(port)],
            env={**os.environ, **system.env},
            stdout=subprocess.DEVNULL,
        )
        try:
            wait_for(lambda: "courier_up 1.0" in scrape(port), 20, "the exporter tells nothing")
        finally:
            exporter.terminate()
            exporter.wait(10)
        assert system.exits == []
        no_traceback(system)


def scrape(port: int) -> str:
    try:
        return requests.get(f"http://127.0.0.1:{port}/metrics", timeout=10).text
    except requests.ConnectionError:
        return ""


@pytest.mark.parametrize("frozen", [False, True], ids=["killed", "frozen"])
def test_the_master_dies_under_load(
    frozen: bool,
    cluster: Cluster,
    broker: str,
    simulator: Simulator,
    namespace: str,
    tmp_path: Path,
) -> None:
    # Given an installation at work, whose URL names the node with its slot and no other
    old = cluster.owner(namespace)
    new = cluster.replica(old)
    with running(tmp_path, simulator, namespace, cluster.url(old), broker) as system:
        # When that node is killed, or answers no more
        assert cluster.owner(namespace) is old, "the machine was so busy that it was replaced"
        if frozen:
            old.freeze()
        else:
            old.stop(kill=True)
        # Then all go on with its replica
        back = system.back_at_work(BACK)
        assert cluster.owner(namespace, new) is new
        # And stay there when the old one is back, as a replica
        if frozen:
            old.thaw()
        else:
            old.start()
        wait_for(lambda: old.admin("ROLE")[0] == "slave", 20)
        system.at_work()
        ledger = system.ledger(asynchronous=True)
        print(f"back {back:.1f} s, slowest call {system.load.slowest:.1f} s, {ledger.figures}")
        assert system.exits == []
        if not frozen:  # a call that times out twice ends a task, as with one server
            no_traceback(system)
        # And what replication may cost was not more than the last second
        assert len(ledger.lost) + len(ledger.repeated) + len(ledger.forked) <= 20


def test_a_planned_failover_loses_nothing(
    cluster: Cluster, broker: str, simulator: Simulator, namespace: str, tmp_path: Path
) -> None:
    # Given an installation at work
    with running(tmp_path, simulator, namespace, cluster.url(), broker) as system:
        new = cluster.replica(cluster.owner(namespace))
        # When an operator has the replica take over
        new.admin("CLUSTER", "FAILOVER")
        wait_for(lambda: cluster.owner(namespace) is new, 20)
        # Then all follow, and nothing is lost or sent twice
        back = system.back_at_work(BACK)
        ledger = system.ledger()
        print(f"back {back:.1f} s, slowest call {system.load.slowest:.1f} s, {ledger.figures}")
        assert system.exits == []
        no_traceback(system)


def test_the_slot_moves_under_load(
    cluster: Cluster, broker: str, simulator: Simulator, namespace: str, tmp_path: Path
) -> None:
    # Given an installation at work
    with running(tmp_path, simulator, namespace, cluster.url(), broker) as system:
        for _ in range(3):
            # When the slot moves to another node, key by key and slowly, and everything waits
            began = time.monotonic()
            to = cluster.move(namespace, pause=0.005, meanwhile=lambda: time.sleep(0.5))
            moved = time.monotonic() - began
            # Then everything goes on there
            back = system.back_at_work(BACK)
            print(f"moved in {moved:.1f} s, back {back:.1f} s")
            assert cluster.owner(namespace) is to
        # And nothing is lost or doubled, no event is missing
        ledger = system.ledger()
        print(f"slowest call {system.load.slowest:.1f} s, {ledger.figures}")
        # And apps were told no more than that the slot was not to be had, within seconds
        places = r"127\.0\.0\.1:\d+(, 127\.0\.0\.1:\d+)*"
        told = rf"Redis can't be used now \({places}\): SlotUnavailable"
        assert [said for said in system.load.refusals if not re.fullmatch(told, said)] == []
        assert system.load.refusals
        assert system.load.slowest < 5
        assert system.exits == []
        no_traceback(system)


def test_a_cluster_behind_tls(tmp_path: Path, namespace: str) -> None:
    # Given nodes that clients reach by TLS only, with certificates of an own authority
    authority = Authority(tmp_path)
    cluster = Cluster(tmp_path, authority=authority)
    try:
        other = cluster.other(namespace)
        url = cluster.url(other, query=f"?ssl=true&ssl_ca_certs={authority.ca}")
        settings = Settings(namespace=namespace, redis_url=url)
        with contextlib.closing(Producer(settings)) as app:
            # When an app calls, before and after its slot has moved
            before = app.enqueue(text_job())
            cluster.move(namespace)
            after = app.enqueue(text_job())
            # Then it reaches every node by TLS
            assert app.get(before) and app.get(after)
            fronts = [node.front for node in cluster.nodes if node.front]
            assert sum(bool(front.encrypted) for front in fronts) >= 2
            assert not any(front.plain for front in fronts)
        # And checks who that is
        unknown = cluster.url(other, query="?ssl=true")
        app = Producer(replace(settings, redis_url=unknown))
        with contextlib.closing(app), pytest.raises(StoreUnavailable):
            app.enqueue(text_job())
    finally:
        cluster.stop()


def test_a_worker_ends_at_the_wrong_scheme(
    cluster: Cluster, broker: str, simulator: Simulator, namespace: str, tmp_path: Path
) -> None:
    # Given cluster:// to a single server, and redis:// to a node without the slot
    env = {**os.environ, **SHORT, "COURIER_NAMESPACE": namespace, "COURIER_API_URL": simulator.url}
    env["COURIER_BROKER_URL"] = broker
    wrong = {
        broker.replace("redis://", "cluster://"): "the URL must be redis://",
        cluster.other(namespace).url: "the URL must be cluster://host:port",
    }
    for url, line in wrong.items():
        env["COURIER_REDIS_URL"] = url
        # When a worker starts, then it ends with one line, and the doctor has the same
        ended = subprocess.run(
            WORKER, env=env, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False
        )
        told = [each for each in ended.stderr.splitlines() if "can't start" in each]
        assert ended.returncode and len(told) == 1 and line in told[0], ended.stderr
        assert "Traceback" not in ended.stderr
        doctor = subprocess.run(
            [*COURIER, "doctor", "--no-provider"],
            env={**env, "COLUMNS": "300"},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert doctor.returncode == 2 and line in doctor.stdout, doctor.stdout

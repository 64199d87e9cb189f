"""How the work of many accounts spreads over a cluster's nodes (docs/scaling.md has a run).

``pytest -s tests/faults/test_cluster_spread.py`` prints the table. Each account has a namespace and
a process, which is its app and its worker; the provider is a double in that process.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path

import pytest

from tests.cluster import Cluster, Node
from tests.conftest import common_job, free_port
from tests.workshop import Provider
from viber_courier import Producer
from viber_courier.ops.redis_server import RedisServer
from viber_courier.schemas.settings import Settings
from viber_courier.store.connection import connect
from viber_courier.store.leases import Store
from viber_courier.worker.decisions import Decider
from viber_courier.worker.send import Sender

MESSAGES = 5000
"""Of each account."""
ACCOUNTS = 6
ROUNDS = 3


def send_all(url: str, namespace: str, messages: int) -> None:
    """One account's app and worker, without HTTP: store all, then send all."""
    settings = Settings(namespace=namespace, redis_url=url)
    with closing(connect(url, namespace)) as client:
        rows = ({"address": f"79{n:09}"} for n in range(messages))
        Producer(settings, client=client).enqueue_many(rows, common=common_job())
        provider = Provider()
        sender = Sender(settings, Store(client, settings), provider, Decider(settings))  # type: ignore[arg-type]
        while sum(provider.sizes) < messages:
            sender.serve("low")


class Row:
    """One way to host the accounts: its servers, and how the accounts reach them."""

    def __init__(
        self, name: str, url: str, servers: list[RedisServer], accounts: list[str]
    ) -> None:
        self.name, self.url, self.servers, self.accounts = name, url, servers, accounts
        self.rates: list[float] = []
        self.busiest: list[float] = []
        self.all: list[float] = []

    def run(self, number: int) -> None:
        program = "import sys; from tests.faults.test_cluster_spread import send_all as s; "
        program += f"print('ready', flush=True); input(); s(sys.argv[1], sys.argv[2], {MESSAGES})"
        loads = [
            subprocess.Popen(
                [sys.executable, "-c", program, self.url, account],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
            )
            for account in self.accounts[number * ACCOUNTS : (number + 1) * ACCOUNTS]
        ]
        for load in loads:  # what a process needs to start is no part of it
            assert load.stdout and load.stdout.readline() == b"ready\n"
        before, started = [cpu(each) for each in self.servers], time.monotonic()
        for load in loads:
            assert load.stdin
            load.stdin.write(b"\n")
            load.stdin.flush()
        for load in loads:
            load.communicate(timeout=300)
            assert load.returncode == 0
        seconds, thousands = time.monotonic() - started, ACCOUNTS * MESSAGES / 1000
        spent = [cpu(each) - was for each, was in zip(self.servers, before, strict=True)]
        self.rates.append(1000 * thousands / seconds)
        self.busiest.append(max(spent) / thousands)
        self.all.append(sum(spent) / thousands)

    @property
    def line(self) -> str:
        rate, busiest, whole = map(statistics.median, (self.rates, self.busiest, self.all))
        return f"| {self.name} | {rate:,.0f} | {busiest:.4f} | {whole:.4f} |"


def cpu(server: RedisServer) -> float:
    """Seconds of CPU that a server has used."""
    with closing(connect(server.url)) as client:
        found = client.info("cpu")
    return float(found["used_cpu_user"] + found["used_cpu_sys"])


def accounts(cluster: Cluster, nodes: list[Node]) -> list[str]:
    """Namespaces that fall on these nodes in turn, so that each has as many."""

    def of(node: Node) -> Iterator[str]:
        return (name for n in range(10_000) if cluster.owner(name := f"a{n}") is node)

    found = [of(node) for node in nodes]
    return [next(found[n % len(nodes)]) for n in range(ROUNDS * ACCOUNTS)]


@pytest.fixture
def rows(tmp_path: Path) -> Iterator[list[Row]]:
    with ExitStack() as stack:
        (tmp_path / "single").mkdir()
        single = RedisServer(tmp_path / "single", free_port())
        single.start()
        stack.callback(single.stop, kill=True)
        (tmp_path / "one").mkdir()
        (tmp_path / "three").mkdir()
        one, three = Cluster(tmp_path / "one", 1), Cluster(tmp_path / "three", 3)
        stack.callback(one.stop)
        stack.callback(three.stop)
        names = accounts(three, three.nodes)
        yield [
            Row("a Redis of its own", single.url, [single], names),
            Row("a cluster of 1 node", one.url(), [*one.nodes], names),
            Row("a cluster of 3 nodes", three.url(), [*three.nodes], names),
        ]


def test_three_nodes_share_the_work_of_six_accounts(rows: list[Row]) -> None:
    # When six accounts store and send at once, on each in turn
    for number in range(ROUNDS):
        for row in rows:
            row.run(number)
    print("", *(row.line for row in rows), sep="\n")
    single, one, three = (statistics.median(row.busiest) for row in rows)
    # Then the busiest of three nodes does little more than a third of the work
    assert three < 0.5 * one
    # And a cluster's node costs little more than a server of its own
    assert one < 1.5 * single

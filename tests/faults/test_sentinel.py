"""Sentinel: a master, a replica and three sentinels; the system follows the master by itself."""

from __future__ import annotations

import asyncio
import itertools
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
import redis

from tests.conftest import Simulator, free_port, text_job, wait_for
from tests.faults.installation import running
from tests.faults.parts import start_sentinel
from viber_courier import AsyncProducer, Producer, StoreUnavailable
from viber_courier.ops.redis_server import RedisServer
from viber_courier.schemas.settings import Settings

BACK = 20.0
"""Seconds within which everything is at work again."""
DOWN_AFTER = 1000
"""Milliseconds of silence after which a sentinel takes a server for dead."""
NAME = "courier"


class Failover:
    """Servers, of which the first is the master for now, watched by three sentinels.

    Replicas and sentinels log in as ``peer``, clients as ``app``: a master can be cut off from the
    former alone.
    """

    def __init__(self, folder: Path, replicas: int = 1, down_after: int = DOWN_AFTER) -> None:
        self.servers = list[RedisServer]()
        users = [[*f"--user {name} on >secret ~* &* +@all".split()] for name in ("peer", "app")]
        login = [*users[0], *users[1], "--masteruser", "peer", "--masterauth", "secret"]
        for n in range(1 + replicas):
            (folder / f"redis-{n}").mkdir()
            more = ["--replicaof", "127.0.0.1", str(self.servers[0].port)] if n else []
            more += ["--repl-diskless-sync-delay", "0", "--repl-ping-replica-period", "1"]
            self.servers.append(RedisServer(folder / f"redis-{n}", free_port(), [*more, *login]))
            self.servers[-1].start()
        # A sentinel asks for replicas every 10 s: one that follows by then is known by the first.
        wait_for(lambda: all(map(following, self.servers[1:])), 60, "a replica doesn't follow")
        self._down_after = down_after
        self.folder, self.ports = folder, [free_port() for _ in range(3)]
        self.sentinels = [self._start(port) for port in self.ports]
        hosts = ",".join(f"127.0.0.1:{port}" for port in self.ports)
        self.url = f"sentinel://app:secret@{hosts}/0?master={NAME}"
        wait_for(self.complete, 60, "the sentinels have not found each other and the replica")

    def _start(self, port: int) -> subprocess.Popen[bytes]:
        given = port, self.servers[0].port, NAME, "peer", "secret", self._down_after
        return start_sentinel(self.folder, *given)

    def complete(self) -> bool:
        """Whether all sentinels agree, and all other servers follow the master and are known so."""
        try:
            ports, replicas = set[int](), len(self.servers) - 1
            for port in self.ports:
                with redis.Redis(port=port, decode_responses=True) as client:
                    state: dict[str, Any] = client.sentinel_masters()[NAME]
                    found: Any = client.sentinel_slaves(NAME)
                healthy = [
                    each
                    for each in found
                    if each["flags"] == "slave" and each["master-link-status"] == "ok"
                ]
                if len(healthy) < replicas or state["num-other-sentinels"] < 2:
                    return False
                ports.add(state["port"])
            return len(ports) == 1 and all(self._in_step(each) for each in self.servers)
        except (redis.RedisError, KeyError):
            return False

    def _in_step(self, server: RedisServer) -> bool:
        with admin(server) as client:
            said = client.info("replication")
        if said["role"] == "master":
            return server is self.master()
        return bool(
            said["master_link_status"] == "up" and said["master_port"] == self.master().port
        )

    def cut_off(self, server: RedisServer) -> None:
        """Part a server from all other servers and sentinels, but not from clients."""
        with redis.Redis(port=server.port, username="app", password="secret") as client:
            client.execute_command("ACL", "SETUSER", "default", "resetpass")
            client.execute_command("ACL", "SETUSER", "peer", "off")
            client.execute_command("CLIENT", "KILL", "USER", "peer")

    def join(self, server: RedisServer) -> None:
        """End that."""
        with redis.Redis(port=server.port, username="app", password="secret") as client:
            client.execute_command("ACL", "SETUSER", "default", "nopass")
            client.execute_command("ACL", "SETUSER", "peer", "on")

    def replica(self, server: RedisServer) -> dict[str, Any]:
        """What a sentinel says of a replica."""
        with redis.Redis(port=self.ports[0], decode_responses=True) as client:
            said: Any = client.sentinel_slaves(NAME)
        return next(each for each in said if each["port"] == server.port)

    def master(self) -> RedisServer:
        """As the sentinels see it."""
        with redis.Redis(port=self.ports[0], decode_responses=True) as client:
            _, port = client.sentinel_get_master_addr_by_name(NAME)
        return next(server for server in self.servers if server.port == int(port))

    def replicas(self) -> list[RedisServer]:
        """All others that run."""
        master = self.master()
        return [each for each in self.servers if each is not master and each.process]

    def plan(self) -> None:
        """Change the roles of both servers without need."""
        with redis.Redis(port=self.ports[0]) as client:
            client.execute_command("SENTINEL", "FAILOVER", NAME)

    def stop(self) -> None:
        for sentinel in self.sentinels:
            sentinel.terminate()
            sentinel.wait(10)
        for server in self.servers:
            server.stop(kill=True)


@pytest.fixture
def failover(tmp_path: Path) -> Iterator[Failover]:
    made = Failover(tmp_path)
    yield made
    made.stop()


def following(server: RedisServer) -> bool:
    with admin(server) as client:
        return bool(client.info("replication").get("master_link_status") == "up")


def admin(server: RedisServer) -> redis.Redis:
    return redis.Redis(port=server.port, decode_responses=True)


def role(server: RedisServer) -> str:
    with admin(server) as client:
        return str(client.info("replication")["role"])


def test_the_master_dies_under_load(
    failover: Failover, simulator: Simulator, namespace: str, tmp_path: Path
) -> None:
    # Given an installation at work, its store and its broker by Sentinel
    with running(tmp_path, simulator, namespace, failover.url) as system:
        old, new = failover.servers
        # When the master is killed
        old.stop(kill=True)
        # Then all go on with the other one
        back = system.back_at_work(BACK)
        assert failover.master() is new
        # And stay there when the old one is back, as a replica
        old.start()
        wait_for(lambda: role(old) == "slave")
        system.at_work()
        ledger = system.ledger(asynchronous=True)
        print(f"back {back:.1f} s, slowest call {system.load.slowest:.1f} s, {ledger.figures}")
        assert system.exits == []
        # And what replication may cost was not more than the last second
        assert len(ledger.lost) + len(ledger.repeated) + len(ledger.forked) <= 20


@pytest.mark.parametrize("paused", [False, True], ids=["at-once", "writes-paused"])
def test_a_planned_failover(
    paused: bool, failover: Failover, simulator: Simulator, namespace: str, tmp_path: Path
) -> None:
    # Given an installation at work, its store and its broker by Sentinel
    with running(tmp_path, simulator, namespace, failover.url) as system:
        old, new = failover.servers
        # When the servers change roles, while the old master takes nothing new or as it is
        with admin(old) as client:
            if paused:
                client.execute_command("CLIENT", "PAUSE", "15000", "WRITE")
            failover.plan()
        wait_for(lambda: failover.master() is new)
        # Then all follow
        back = system.back_at_work(BACK)
        ledger = system.ledger(asynchronous=True)
        print(f"back {back:.1f} s, slowest call {system.load.slowest:.1f} s, {ledger.figures}")
        assert system.exits == []
        # And what the old master took in between is lost, as Sentinel demotes it late: if any
        assert len(ledger.lost) + len(ledger.repeated) + len(ledger.forked) <= (0 if paused else 90)


def test_without_a_replica_nothing_is_taken_if_the_master_is_told_so(
    failover: Failover, simulator: Simulator, namespace: str, tmp_path: Path
) -> None:
    # Given a master that must have a replica which follows
    master, replica = failover.servers
    with admin(master) as client:
        client.config_set("min-replicas-max-lag", "2")
        client.config_set("min-replicas-to-write", "1")
    with running(tmp_path, simulator, namespace, failover.url) as system:
        # When the replica stands still
        assert replica.process is not None
        replica.process.send_signal(signal.SIGSTOP)
        # Then apps are refused soon, with the reason, and nothing is stored
        wait_for(lambda: system.load.refusals, 10)
        time.sleep(3.0)
        assert set(system.load.refusals) == {"Redis has too few replicas: nothing was stored"}
        with admin(master) as client:
            assert not client.exists(f"{{{namespace}}}:m:{system.load.waiting}")
        # And all go on when it follows again
        replica.process.send_signal(signal.SIGCONT)
        back = system.back_at_work(BACK)
        ledger = system.ledger()
        print(f"back {back:.1f} s, exits {system.exits}, {ledger.figures}")


@pytest.mark.parametrize("planned", [True, False], ids=["planned", "killed"])
def test_an_event_loop_follows_a_failover(
    planned: bool, failover: Failover, namespace: str
) -> None:
    old, new = failover.servers

    async def main() -> None:
        settings = Settings(redis_url=failover.url, namespace=namespace)
        async with AsyncProducer(settings) as producer:
            # Given an app whose requests come all the time
            stored, slowest = list[str](), 0.0

            async def work(name: str) -> None:
                nonlocal slowest
                for n in itertools.count():
                    begun = time.monotonic()
                    while True:
                        with suppress(StoreUnavailable):
                            stored.append(await producer.enqueue(text_job(id=f"{name}-{n}")))
                            break
                        await asyncio.sleep(0.05)
                    slowest = max(slowest, time.monotonic() - begun)
                    await asyncio.sleep(0.005)

            tasks = [asyncio.create_task(work(f"w{n}")) for n in range(5)]
            await asyncio.sleep(0.5)
            # When the other server becomes the master
            failover.plan() if planned else old.stop(kill=True)
            deadline = time.monotonic() + 20
            while role(new) != "master":
                assert time.monotonic() < deadline, "no failover"
                await asyncio.sleep(0.1)
            count = len(stored)
            while len(stored) < count + 200:
                assert time.monotonic() < deadline + 20, "it did not follow"
                await asyncio.sleep(0.1)
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            # Then it has followed within seconds, and what it stores is there
            print(f"slowest call {slowest:.1f} s")
            assert slowest < BACK
            assert all([await producer.get(id) for id in stored[-100:]])

    asyncio.run(main())


@contextmanager
def one_sees_the_dead(failover: Failover) -> Iterator[None]:
    """The first sentinel is cut off from the others, and knows the dead master only."""
    old = failover.servers[0]

    def seen_by(port: int) -> dict[str, Any]:
        with redis.Redis(port=port, decode_responses=True) as client:
            said: dict[str, Any] = client.sentinel_masters()[NAME]
        return said

    old.stop(kill=True)
    wait_for(lambda: all(seen_by(port)["port"] != old.port for port in failover.ports), 30)
    first = failover.sentinels[0]
    first.terminate()
    first.wait(10)
    given = failover.ports[0], old.port, NAME, "peer", "secret", DOWN_AFTER
    failover.sentinels[0] = start_sentinel(failover.folder, *given)

    def sees_it_down() -> bool:
        with suppress(redis.ConnectionError):
            return bool(seen_by(failover.ports[0])["is_sdown"])
        return False

    wait_for(sees_it_down, 30)
    yield


@contextmanager
def one_hangs(failover: Failover) -> Iterator[None]:
    """The first sentinel is there, and says nothing."""
    failover.sentinels[0].send_signal(signal.SIGSTOP)
    try:
        yield
    finally:
        failover.sentinels[0].send_signal(signal.SIGCONT)


@pytest.mark.parametrize("fault", [one_hangs, one_sees_the_dead])
def test_another_sentinel_is_asked_where_the_first_one_is_of_no_use(
    fault: Any, failover: Failover, namespace: str
) -> None:
    settings = Settings(redis_url=failover.url, namespace=namespace)

    def slow(seconds: list[float]) -> int:
        return sum(each > 0.5 for each in seconds)

    async def asynchronous() -> list[float]:
        took = list[float]()
        async with AsyncProducer(settings) as producer:
            for _ in range(20):
                begun = time.monotonic()
                await producer.enqueue(text_job())
                took.append(time.monotonic() - begun)
                await asyncio.sleep(0.2)
        return took

    # Given a first sentinel that says nothing, or knows nothing new
    with fault(failover):
        with closing(Producer(settings)) as producer:
            took = list[float]()
            for _ in range(20):
                begun = time.monotonic()
                producer.enqueue(text_job())
                took.append(time.monotonic() - begun)
                time.sleep(0.2)
        # Then apps find the master, and only the first call waits for that sentinel
        assert slow(took) <= 1, took
        took = asyncio.run(asynchronous())
        assert slow(took) <= 1, took

"""Redis restarts, stalls, vanishes and fills up under load: all parts recover without a hand."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest
import redis

from tests.conftest import Simulator, common_job, free_port, iso_in, text_job, wait_for
from tests.faults.installation import SHORT, Reader, running
from tests.faults.parts import BEAT, WORKER, Proxy, supervised
from viber_courier import Producer, Record, StoreUnavailable
from viber_courier.ops.redis_server import RedisServer
from viber_courier.schemas.errors import Conflict
from viber_courier.schemas.settings import Settings
from viber_courier.worker.bells import Bells

AWAY = 8.0
"""Seconds of an outage: more than the socket timeout, less than the lease."""
BACK = 20.0
"""Seconds within which everything is at work again."""
NOTICED = 40.0
"""The same for half-open TCP: the worker's connections are found out one after the other. It waits
its 5 s for each, as a Redis that is only slow may already have given it a task."""
CALL = 12.0
"""Seconds that one call of an app lasts at most: a socket timeout for store and for broker."""

Servers = Callable[[], RedisServer]


@pytest.fixture
def servers(tmp_path: Path) -> Iterator[Servers]:
    """Servers of this test's own, as a real installation has them: AOF, everysec, noeviction."""
    started: list[RedisServer] = []

    def start() -> RedisServer:
        folder = tmp_path / f"redis-{len(started)}"
        folder.mkdir()
        started.append(RedisServer(folder, free_port()))
        started[-1].start()
        return started[-1]

    yield start
    for server in started:
        server.stop()


@pytest.fixture
def proxied(servers: Servers) -> Iterator[tuple[str, Proxy]]:
    """A Redis behind a proxy: its URL and the proxy."""
    proxy = Proxy(servers().port)
    yield f"redis://127.0.0.1:{proxy.port}/0", proxy
    proxy.close()


def admin(server: RedisServer) -> redis.Redis:
    return redis.Redis(port=server.port, decode_responses=True)


@pytest.mark.parametrize("kill", [False, True], ids=["TERM", "kill-9"])
def test_redis_restarts(
    kill: bool, servers: Servers, simulator: Simulator, namespace: str, tmp_path: Path
) -> None:
    # Given an installation at work
    server = servers()
    with running(tmp_path, simulator, namespace, server.url) as system:
        # When its Redis is away for a while
        server.stop(kill=kill)
        started = time.monotonic()
        wait_for(lambda: system.load.refusals, 5)
        quick = time.monotonic() - started
        time.sleep(max(0.0, AWAY - quick))
        server.start()
        # Then the app is told within seconds, and all go on by themselves when it is there again
        back = system.back_at_work(BACK)
        ledger = system.ledger()
        print(f"refused after {quick:.1f} s, slowest {system.load.slowest:.1f}, back {back:.1f} s")
        assert system.load.slowest < 3
        # And no answer of the provider was dropped: nothing is unsure
        assert (ledger.unsure, system.exits) == (0, [])


def test_peers_vanish_without_a_word(
    proxied: tuple[str, Proxy], simulator: Simulator, namespace: str, tmp_path: Path
) -> None:
    # Given an installation whose every connection leads through a proxy
    url, proxy = proxied
    with running(tmp_path, simulator, namespace, url) as system:
        # When the other end of all of them is gone and nobody is told
        proxy.vanish()
        # Then all notice and connect anew, without a restart
        back = system.back_at_work(NOTICED)
        ledger = system.ledger()
        print(f"back {back:.1f} s, slowest call {system.load.slowest:.1f} s")
        assert system.load.slowest < CALL
        assert (ledger.unsure, system.exits) == (0, [])


def test_the_network_stalls_and_what_was_held_arrives(
    proxied: tuple[str, Proxy], simulator: Simulator, namespace: str, tmp_path: Path
) -> None:
    # Given an installation at work
    url, proxy = proxied
    with running(tmp_path, simulator, namespace, url) as system:
        # When nothing passes for longer than the socket timeout, and then everything does
        proxy.hold()
        time.sleep(AWAY)
        proxy.resume()
        # Then late commands double nothing
        back = system.back_at_work(BACK)
        ledger = system.ledger()
        print(f"back {back:.1f} s, slowest call {system.load.slowest:.1f} s")
        assert system.load.slowest < CALL
        assert (ledger.unsure, system.exits) == (0, [])


def test_redis_is_slow(
    servers: Servers, simulator: Simulator, namespace: str, tmp_path: Path
) -> None:
    # Given an installation at work
    server = servers()
    with running(tmp_path, simulator, namespace, server.url) as system, admin(server) as client:
        # When Redis answers nobody for longer than the socket timeout, then in short fits
        client.execute_command("CLIENT", "PAUSE", "8000")
        time.sleep(AWAY)
        back = system.back_at_work(BACK)
        for _ in range(8):
            client.execute_command("CLIENT", "PAUSE", "400")
            time.sleep(0.6)
        # Then nothing is lost or doubled
        again = system.back_at_work(BACK)
        ledger = system.ledger()
        print(f"back {back:.1f} s, {again:.1f} s, slowest call {system.load.slowest:.1f} s")
        assert system.load.slowest < CALL
        assert (ledger.unsure, system.exits) == (0, [])


@pytest.mark.parametrize("own", [False, True], ids=["one-redis", "own-broker"])
def test_memory_is_used_up(
    own: bool, servers: Servers, simulator: Simulator, namespace: str, tmp_path: Path
) -> None:
    # Given an installation with requests on their way
    server = servers()
    broker = servers() if own else server
    simulator.fault(kind="slow", seconds=0.5)
    with (
        running(tmp_path, simulator, namespace, server.url, broker.url) as system,
        admin(server) as client,
    ):
        # When Redis has reached its maxmemory
        system.worker.freeze()
        wait_for(lambda: client.llen(f"{{{namespace}}}:wake"))
        client.config_set("maxmemory", "1")
        wait_for(lambda: system.load.refusals, 5)
        system.worker.thaw()
        time.sleep(AWAY / 2)
        client.config_set("maxmemory", "0")
        # Then the app is told why, and all go on by themselves when there is memory again
        back = system.back_at_work(BACK)
        ledger = system.ledger()
        print(f"back {back:.1f} s, exits {system.exits}, {ledger.figures}")
        assert set(system.load.refusals) == {"Redis has reached its maxmemory: nothing was stored"}
        assert ledger.unsure == 0
        # And with a broker of its own nobody even had to restart
        assert not own or system.exits == []


def test_memory_of_the_broker_is_used_up(
    servers: Servers, simulator: Simulator, namespace: str, tmp_path: Path
) -> None:
    # Given an installation whose broker has a Redis of its own
    store, broker = servers(), servers()
    with (
        running(tmp_path, simulator, namespace, store.url, broker.url) as system,
        admin(broker) as client,
        admin(store) as stored,
    ):
        # When that one has reached its maxmemory while a bell is to be rung there
        system.worker.freeze()
        wait_for(lambda: stored.llen(f"{{{namespace}}}:wake"))
        client.config_set("maxmemory", "1")
        system.worker.thaw()
        before = len(system.load.stored)
        time.sleep(AWAY / 2)
        assert len(system.load.stored) > before + 10  # apps don't notice
        client.config_set("maxmemory", "0")
        # Then the sweep finds what has waited, and no worker has ended
        back = system.back_at_work(BACK)
        ledger = system.ledger()
        print(f"back {back:.1f} s, exits {system.exits}, {ledger.figures}")
        assert system.load.refusals == [] and system.exits == []


def test_the_broker_hangs(
    servers: Servers,
    proxied: tuple[str, Proxy],
    simulator: Simulator,
    namespace: str,
    tmp_path: Path,
) -> None:
    # Given an installation whose broker has a Redis of its own
    broker, proxy = proxied
    with running(tmp_path, simulator, namespace, servers().url, broker) as system:
        before = len(system.load.stored)
        # When that one answers nobody for a while
        proxy.hold()
        time.sleep(AWAY)
        stored = len(system.load.stored) - before
        proxy.resume()
        # Then apps have not noticed, and all that they stored is sent
        back = system.back_at_work(BACK)
        ledger = system.ledger()
        print(f"{stored} stored meanwhile, slowest call {system.load.slowest:.1f} s")
        print(f"back {back:.1f} s, exits {system.exits}, {ledger.figures}")
        assert system.load.refusals == []
        assert system.load.slowest < CALL / 2
        assert stored >= 20


def test_beat_goes_on_whatever_happens_to_redis(
    servers: Servers, simulator: Simulator, namespace: str, tmp_path: Path
) -> None:
    # Given a beat whose broker hangs, and a message whose word is lost
    store = servers()
    with socket.create_server(("127.0.0.1", 0)) as hangs:
        env = {
            **SHORT,
            "COURIER_REDIS_URL": store.url,
            "COURIER_BROKER_URL": f"redis://127.0.0.1:{hangs.getsockname()[1]}/0",
            "COURIER_NAMESPACE": namespace,
            "COURIER_API_URL": simulator.url,
        }
        app, wakes = Producer.from_env(env), f"{{{namespace}}}:wake"
        app.enqueue(text_job())
        app.redis.delete(wakes)
        with admin(store) as client, supervised(env, tmp_path, BEAT) as (beat,):
            # When beat sweeps, then the word is there again, also after the store was away
            wait_for(lambda: client.lrange(wakes, 0, -1) == ["high"])
            client.delete(wakes)
            store.stop(kill=True)
            wait_for(lambda: "no sweep" in beat.log)
            store.start()
            wait_for(lambda: _words(client, wakes) == ["high"], 10)
            assert beat.exits == []
        app.close()


def _words(client: redis.Redis, wakes: str) -> list[str]:
    try:
        return client.lrange(wakes, 0, -1)  # type: ignore[return-value]
    except redis.RedisError:
        return []


def test_a_reader_sits_a_failover_out(servers: Servers, namespace: str) -> None:
    # Given a reader, and a Redis that is no master for a while, as in a failover
    server = servers()
    settings = Settings(namespace=namespace, redis_url=server.url)
    with admin(server) as client, closing(Producer(settings)) as app:
        app.enqueue(text_job(id="before"))
        client.replicaof("127.0.0.1", "1")
        reader = Reader(app)
        with pytest.raises(StoreUnavailable):
            app.enqueue(text_job(id="meanwhile"))
        time.sleep(1.5)
        # When it is one again and something happens
        client.replicaof("NO", "ONE")
        assert app.cancel("before")
        # Then the reader is still there to see it
        wait_for(lambda: "before" in reader.ended or reader.error, 5)
        assert reader.error is None


def test_a_full_redis_stores_all_of_a_call_or_nothing(servers: Servers, namespace: str) -> None:
    # Given a Redis that holds something already, and is full
    server = servers()
    settings = Settings(namespace=namespace, redis_url=server.url)
    rows = [text_job(f"79{i:09}", id=f"m{i}") for i in range(2000)]
    with admin(server) as client, closing(Producer(settings)) as app:
        app.enqueue_many(rows[:500], common=common_job())
        before = contents(client)
        client.config_set("maxmemory", "1")
        # When an app enqueues one job, or a campaign
        for call in (
            lambda: app.enqueue(rows[600]),
            lambda: app.enqueue_many(rows[600:800], common=common_job(content={"text": "Новый"})),
        ):
            with pytest.raises(StoreUnavailable, match="has reached its maxmemory") as refused:
                call()
            assert list(refused.value.accepted) == []
        # Then not a key is another one
        assert contents(client) == before
        # And where memory ends between two chunks, the error says what is stored
        client.config_set("maxmemory", str(client.info("memory")["used_memory"] + 150_000))
        with pytest.raises(StoreUnavailable) as refused:
            app.enqueue_many(rows)
        accepted = refused.value.accepted
        assert 500 <= len(accepted) < 2000
        assert [app.get(row["id"]) is not None for row in rows] == [
            row["id"] in accepted for row in rows
        ]
        waiting = client.zcard(f"{{{namespace}}}:lane:high:0")
        assert waiting == len(accepted) == int(client.hget(f"{{{namespace}}}:counts", "queued"))
        # And the same ids, asked for again when there is memory, are all there once
        client.config_set("maxmemory", "0")
        assert app.enqueue_many(rows) == [row["id"] for row in rows]
        assert client.zcard(f"{{{namespace}}}:lane:high:0") == 2000


def contents(client: redis.Redis) -> dict[str, bytes]:
    """All keys and what they hold."""
    with redis.Redis(port=client.connection_pool.connection_kwargs["port"]) as raw:
        return {key.decode(): raw.dump(key) for key in raw.scan_iter()}


def test_the_broker_forgets_everything(
    servers: Servers, simulator: Simulator, namespace: str, tmp_path: Path
) -> None:
    # Given an installation whose broker has a Redis of its own, with bells in it
    broker = servers()
    with (
        running(tmp_path, simulator, namespace, servers().url, broker.url) as system,
        admin(broker) as client,
    ):
        # When all of it is lost, at rest and while the worker stands still
        client.flushdb()
        system.at_work()
        system.worker.freeze()
        Bells(Settings(namespace=namespace, broker_url=broker.url)).ring("high")
        client.flushdb()
        system.worker.thaw()
        # Then the sweep rings for what waits
        back = system.back_at_work(BACK)
        ledger = system.ledger()
        print(f"back {back:.1f} s")
        assert ledger.unsure == 0
        assert (system.exits, system.load.refusals) == ([], [])


def answered(record: Record | None) -> bool:
    """Whether a request is over, and its answer stored: what is killed before that is unsure."""
    return record is not None and record.status == "queued" and record.attempts == 1


def test_promises_outlive_restarts(
    servers: Servers, simulator: Simulator, namespace: str, tmp_path: Path
) -> None:
    # Given a provider that wants to be left alone for a while, and messages of every kind
    server, quiet = servers(), 18.0
    env = {
        **SHORT,
        "COURIER_REDIS_URL": server.url,
        "COURIER_NAMESPACE": namespace,
        "COURIER_API_URL": simulator.url,
        "COURIER_RETRY_CAP": "20",
    }
    simulator.fault(kind="http", code=429, retry_after=int(quiet), times=1)
    app, results = Producer.from_env(env), Producer.from_env(env)
    reader = Reader(results)
    addresses = {id: f"79{n:07}99" for n, id in enumerate(("held", "short", "later", "stopped"))}
    jobs = {id: text_job(address, id=id) for id, address in addresses.items()}
    jobs["short"]["ttlSec"] = 15
    due = time.time() + quiet + 3
    jobs["later"]["sendAt"] = iso_in(quiet + 3)
    jobs["stopped"]["sendAt"] = iso_in(3)
    with supervised(env, tmp_path, WORKER, BEAT) as programs:
        app.enqueue(jobs["held"])
        started = time.time()
        wait_for(lambda: answered(app.get("held")))
        app.enqueue_many(jobs.values())
        assert app.cancel("stopped")
        # When Redis, worker and beat are killed
        server.stop(kill=True)
        for program in programs:
            program.kill()
        server.start()
        # Then a repeat is the same message, another job is a conflict, a cancelled one stays so
        assert app.enqueue_many(jobs.values()) == list(jobs)
        with pytest.raises(Conflict):
            app.enqueue(text_job("79250000000", id="held"))
        assert app.cancel("stopped")
        # And schedule, deadline and the provider's pause hold as if nothing had happened
        wait_for(lambda: reader.ended >= jobs.keys(), quiet + 20)
    ends = {id: reader.events[id][-1].data for id in jobs}
    assert {id: end["status"] for id, end in ends.items()} == {
        "held": "read",
        "short": "expired",
        "later": "read",
        "stopped": "cancelled",
    }
    assert not any(end["unsure"] for end in ends.values())
    first, second = simulator.accepted()
    assert (first["message"]["address"], second["message"]["address"]) == (
        addresses["held"],
        addresses["later"],
    )
    assert first["at"] - started > quiet - 2
    assert second["at"] >= due
    for producer in (app, results):
        producer.close()

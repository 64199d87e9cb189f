"""A Redis Cluster as the store: each call reaches the namespace's node, or does nothing at all."""

from __future__ import annotations

import multiprocessing
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from typing import Any

import pytest
import redis
from redis import exceptions as errors
from redis.backoff import NoBackoff
from redis.retry import Retry

from tests.awaited import Awaited, Loop
from tests.cluster import Cluster, Node, slot_of
from tests.conftest import ROOT, free_port, text_job, wait_for
from viber_courier import AsyncProducer, ConfigError, Producer, StoreUnavailable
from viber_courier.ops.redis_server import RedisServer
from viber_courier.schemas.settings import Settings
from viber_courier.store import cluster as ours
from viber_courier.store.cluster import SlotUnavailable
from viber_courier.store.connection import broker, connect
from viber_courier.store.keys import Keys
from viber_courier.store.leases import Store
from viber_courier.store.replies import run
from viber_courier.store.scripts import Script, shared, source

SCRIPTS = sorted(path.stem for path in (ROOT / "store" / "lua").glob("*.lua"))


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    made = Cluster(tmp_path_factory.mktemp("cluster"))
    yield made
    made.stop()


@pytest.fixture(params=["blocking", "asyncio"])
def face(request: pytest.FixtureRequest) -> str:
    """The contract of Producer and of AsyncProducer."""
    return str(request.param)


@pytest.fixture
def app(cluster: Cluster, namespace: str, face: str) -> Iterator[Producer]:
    # Its bells outlast a test: one that expires would be a change.
    settings = Settings(namespace=namespace, redis_url=cluster.url(), sweep_interval=3600)
    if face == "blocking":
        with closing(Producer(settings)) as producer:
            yield producer
        return
    with closing(Loop()) as loop, closing(Awaited(loop, AsyncProducer(settings))) as awaited:
        yield awaited  # type: ignore[misc]


def impatient(url: str, namespace: str, **more: Any) -> redis.Redis:
    """A client that repeats nothing."""
    return connect(url, namespace, retry=Retry(NoBackoff(), 0), **more)


def a_namespace_of(node: Node, cluster: Cluster) -> str:
    return next(name for n in range(1000) if cluster.owner(name := f"own{n}") is node)


def looks(cluster: Cluster) -> int:
    """Requests for the topology so far, without those of the harness."""
    found = 0
    for node in cluster.nodes:
        stats = node.admin("INFO", "commandstats")
        names = (name for name in stats if name.startswith("cmdstat_cluster"))
        found += sum(stats[name]["calls"] for name in names) - node.asked
    return found


def contents(cluster: Cluster, namespace: str) -> dict[str, str]:
    """All keys of a slot, on whichever node, and what they hold."""
    found = {}
    for node in cluster.nodes:
        with redis.Redis(port=node.port, decode_responses=False) as client:
            for key in node.admin("CLUSTER", "GETKEYSINSLOT", slot_of(namespace), 1000):
                with client.pipeline(transaction=False) as pipe:
                    # ASKING: during a move the new node shows its keys to nobody else.
                    found[key] = repr(pipe.execute_command("ASKING").dump(key).execute()[1])
    return found


def test_namespaces_are_spread_over_the_nodes(cluster: Cluster) -> None:
    # Given a namespace on each node, and a URL that names one of the nodes
    for node in cluster.nodes:
        name = a_namespace_of(node, cluster)
        settings = Settings(namespace=name, redis_url=cluster.url(cluster.nodes[0]))
        with closing(Producer(settings)) as app:
            # When an app and a worker use it
            id = app.enqueue(text_job())
            lease = Store(app.redis, settings).claim("low", answered=True)
            # Then the message is on that node, in a plain client's reach
            assert [each.id for each in lease.messages] == [id]  # type: ignore[union-attr]
            assert node.admin("EXISTS", Keys(name).records + id) == 1


def test_a_slot_that_has_moved_is_followed(cluster: Cluster, app: Producer, namespace: str) -> None:
    # Given a message of an app that is connected
    before = app.enqueue(text_job())
    looked = looks(cluster)
    # When its slot moves, to a node that has none of the scripts
    to = cluster.move(namespace)
    to.admin("SCRIPT", "FLUSH")
    # Then the app follows at its next call, without asking any node where to
    after = app.enqueue(text_job())
    assert cluster.owner(namespace) is to
    assert app.get(before) and app.get(after)
    assert looks(cluster) == looked


@pytest.mark.parametrize("moved", ["none", "half", "all"])
@pytest.mark.parametrize("face", ["blocking"])  # scripts and commands, one by one
def test_while_the_slot_moves_nothing_is_half_done(
    moved: str, cluster: Cluster, app: Producer, namespace: str
) -> None:
    # Given messages, and a slot of whose keys none, half or all are on the new node already
    ids = [app.enqueue(text_job(id=f"m{n}")) for n in range(6)]
    given = shared(app.settings)
    source_node, target = cluster.owner(namespace), cluster.other(namespace)
    slot = slot_of(namespace)
    target.admin("CLUSTER", "SETSLOT", slot, "IMPORTING", source_node.id)
    source_node.admin("CLUSTER", "SETSLOT", slot, "MIGRATING", target.id)
    keys = sorted(source_node.admin("CLUSTER", "GETKEYSINSLOT", slot, 1000))
    for key in keys[: {"none": 0, "half": len(keys) // 2, "all": len(keys)}[moved]]:
        source_node.admin("MIGRATE", "127.0.0.1", target.port, key, 0, 5000)
    before = contents(cluster, namespace)
    with impatient(cluster.url(), namespace) as client:
        # When any script is called, whatever its other keys are
        for name in SCRIPTS:
            script, head = Script(client, name, given), source(name)
            words: dict[str, Any] = {
                each: [given["records"] + "m1"] * max(1, size or 0) if size is not None else "1"
                for each, size in head.sizes.items()
                if each not in given
            }
            words |= {p.name: given["records"] + "m1" for p in head.keys if p.size is None}
            words["guard"] = given["guard"]
            # Then it is refused
            with pytest.raises(SlotUnavailable):
                script(**words)
        # And so is what would make a key
        for make in (
            lambda: client.set(given["guard"], "1"),
            lambda: client.xgroup_create(f"{given['results']}:new", "g", mkstream=True),
            lambda: client.blpop([f"{given['wakes']}:new"], timeout=1),
            lambda: client.pipeline().hincrby(f"{given['counts']}:new", "a", 1).execute(),
        ):
            with pytest.raises(SlotUnavailable):
                make()
    # And nothing has changed
    assert contents(cluster, namespace) == before
    # And when the move is over, everything is there
    for key in source_node.admin("CLUSTER", "GETKEYSINSLOT", slot, 1000):
        source_node.admin("MIGRATE", "127.0.0.1", target.port, key, 0, 5000)
    for node in (target, source_node):
        node.admin("CLUSTER", "SETSLOT", slot, "NODE", target.id)
    assert all(app.get(id) for id in ids)
    assert contents(cluster, namespace) == before


def test_a_short_move_is_not_noticed(cluster: Cluster, app: Producer, namespace: str) -> None:
    # Given an app that enqueues all the time
    stop, ids = threading.Event(), list[str]()

    def work() -> None:
        while not stop.is_set():
            ids.append(app.enqueue(text_job()))

    with ThreadPoolExecutor() as pool:
        working = pool.submit(work)
        wait_for(lambda: len(ids) > 20)
        # When the slot moves within half a second
        cluster.move(namespace)
        count = len(ids)
        wait_for(lambda: len(ids) > count + 20 or working.done())
        stop.set()
        # Then no call has failed, and each message is there once
        working.result()
    assert all(app.get(id) for id in ids)
    with connect(cluster.url(), namespace) as client:
        assert sum(client.zcard(key) for key in Keys(namespace).lanes) == len(ids)


@pytest.mark.parametrize("face", ["blocking"])  # test_aio.py forks
def test_threads_and_forks_share_a_client(cluster: Cluster, app: Producer, namespace: str) -> None:
    looked = looks(cluster)
    with ThreadPoolExecutor(8) as pool:
        ids = list(pool.map(lambda _: app.enqueue(text_job()), range(200)))
    fork = multiprocessing.get_context("fork")
    child = fork.Process(target=lambda: [app.enqueue(text_job(id=f"c{n}")) for n in range(50)])
    child.start()
    ids += [app.enqueue(text_job()) for _ in range(50)]
    child.join(20)
    assert child.exitcode == 0
    assert all(app.get(id) for id in [*ids, *(f"c{n}" for n in range(50))])
    # The topology was asked for by the first calls only: at most one of each thread
    assert 1 <= looks(cluster) - looked <= 8


def test_named_nodes_that_are_down_are_passed_over(cluster: Cluster, namespace: str) -> None:
    down = f"cluster://127.0.0.1:{free_port()},127.0.0.1:{cluster.other(namespace).port}"
    with closing(connect(down, namespace)) as client:
        assert client.set(Keys(namespace).swept, "1")
    with (
        closing(impatient(f"cluster://127.0.0.1:{free_port()}", namespace)) as client,
        pytest.raises(redis.ConnectionError),
    ):
        client.ping()


def test_a_login_is_used_for_every_node(cluster: Cluster, namespace: str) -> None:
    # Given users on all nodes
    for node in cluster.nodes:
        node.admin("ACL", "SETUSER", "shop", "on", ">p@ss:w/rd", "~*", "+@all")
    login = "shop:p%40ss%3Aw%2Frd@"
    # When a client logs in at a node without the slot, then it is let in there and at the right one
    with closing(
        impatient(cluster.url(cluster.other(namespace), login=login), namespace)
    ) as client:
        assert client.execute_command("ACL WHOAMI") == "shop"
        assert client.set(Keys(namespace).swept, "1")
        assert "p@ss" not in f"{client!r} {client.connection_pool!r}"
    # And a wrong password is told as with one server
    wrong = impatient(cluster.url(login="shop:geheim@"), namespace)
    with pytest.raises(redis.AuthenticationError), closing(wrong):
        wrong.ping()
    # And the least that a user needs to find the slot is one permission
    for node in cluster.nodes:
        node.admin("ACL", "SETUSER", "shop", "resetkeys", f"~{{{namespace}}}:*")
        node.admin("ACL", "SETUSER", "shop", "-@all", "+cluster|slots", "+set")
    with closing(impatient(cluster.url(login=login), namespace)) as client:
        assert client.set(Keys(namespace).swept, "1")
    # And who lacks it is told so
    for node in cluster.nodes:
        node.admin("ACL", "SETUSER", "shop", "-@all", "+set")
    with pytest.raises(errors.NoPermissionError):
        impatient(cluster.url(login=login), namespace).ping()


def test_the_wrong_scheme_is_one_line(
    cluster: Cluster, redis_server: RedisServer, namespace: str
) -> None:
    # Given cluster:// to a single server, and redis:// to a cluster's node without the slot
    single = f"cluster://127.0.0.1:{redis_server.port}"
    lines = {
        single: "the server is no Redis Cluster: the URL must be redis://",
        cluster.other(namespace).url: "the server is a node of a Redis Cluster: the URL must be"
        " cluster://host:port",
    }
    for url, line in lines.items():
        with closing(Producer(Settings(namespace=namespace, redis_url=url))) as app:
            # When it is used, then the error says so at once
            with pytest.raises(StoreUnavailable) as caught:
                app.enqueue(text_job())
            assert str(caught.value) == f"Redis refuses (COURIER_REDIS_URL): {line}"


@pytest.mark.parametrize(
    ("name", "url", "says"),
    [
        ("REDIS", "cluster://a:1/1", "must have database 0"),
        ("REDIS", "cluster://", "must name each host"),
        ("REDIS", "cluster://a:1,,b:2", "must name each host"),
        ("REDIS", "cluster://a:1?protocol=3", "must be without protocol"),
        ("BROKER", "cluster://:geheim@a:1", "can't be cluster://"),
    ],
)
def test_a_wrong_url_is_refused_by_name(name: str, url: str, says: str) -> None:
    with pytest.raises(ConfigError) as caught:
        Settings.from_env({f"COURIER_{name}_URL": url})
    assert list(caught.value.faults) == [f"COURIER_{name}_URL"]
    assert says in caught.value.faults[f"COURIER_{name}_URL"]
    assert "geheim" not in str(caught.value)


def test_only_workers_need_another_redis_as_the_broker() -> None:
    env = {"COURIER_REDIS_URL": "cluster://a:1,[::1]:2"}
    app = Settings.from_env(env)
    env |= {"COURIER_API_LOGIN": "l", "COURIER_API_PASSWORD": "p"}
    with pytest.raises(
        ConfigError, match="COURIER_BROKER_URL: must be set, and can't be cluster://"
    ):
        Settings.from_env(env, provider=True)
    # And a command that needs the broker says the same
    with pytest.raises(
        ConfigError, match="COURIER_BROKER_URL: must be set, and can't be cluster://"
    ):
        broker(app.broker_url)
    Settings.from_env({**env, "COURIER_BROKER_URL": "redis://b"}, provider=True)


@pytest.mark.parametrize(
    ("said", "asked", "place"),
    [
        ("3999 127.0.0.1:6381", "a", ("127.0.0.1", 6381)),
        ("3999 ::1:6381", "a", ("::1", 6381)),
        ("3999 host-name.example:6381", "a", ("host-name.example", 6381)),
        ("3999 :6381", "a", ("a", 6381)),  # its own address is unknown to the node
        ("3999 ?:6381", "a", ("a", 6381)),
    ],
)
def test_where_a_slot_has_moved_to(said: str, asked: str, place: tuple[str, int]) -> None:
    # redis-py 5.0 has no class of its own for MOVED
    for error in (errors.MovedError(said), redis.ResponseError(f"MOVED {said}")):
        slot = ours.Slot(3999, [], redis.Connection, {})
        slot.heed(error, asked)
        assert run(slot.place()) == place


def answers(ranges: Sequence[Any]) -> type:
    """A connection to a node that answers CLUSTER SLOTS so."""

    class Answering(redis.Connection):
        def connect(self) -> None:
            pass

        def send_command(self, *words: Any, **options: Any) -> None:
            assert words == ("CLUSTER", "SLOTS")

        def read_response(self, *_: Any, **__: Any) -> Any:
            return ranges

    return Answering


@pytest.mark.parametrize("host", ["::1", "node.example", "", "?", None])
def test_what_a_node_calls_itself(host: str | None) -> None:
    ranges = [[0, 5000, [host, 6380, "id"]], [5001, 16383, ["b", 1, "id", ["ip", "1.1.1.1"]]]]
    slot = ours.Slot(3999, [("seed", 7000)], answers(ranges), {})
    assert run(slot.place()) == (host if host and host != "?" else "seed", 6380)


def test_a_node_that_does_not_know_the_slot_is_passed_over() -> None:
    slot = ours.Slot(3999, [("seed", 7000)], answers([[4000, 16383, ["b", 1, "id"]]]), {})
    with pytest.raises(SlotUnavailable):
        run(slot.place())

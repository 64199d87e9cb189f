"""COURIER_REPLICAS: a promise is made once replicas, or the disk, have what it rests on."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import redis

from tests.awaited import Awaited, Loop
from tests.conftest import common_job, free_port, text_job, wait_for
from tests.test_send import Post
from viber_courier import AsyncProducer, Producer, StoreUnavailable
from viber_courier.ops.redis_server import RedisServer
from viber_courier.producers.results import EventStream
from viber_courier.schemas.settings import ON_DISK, Settings
from viber_courier.store.connection import connect
from viber_courier.store.keys import Keys
from viber_courier.store.leases import Store
from viber_courier.store.refusals import store_fault
from viber_courier.store.replicas import kept
from viber_courier.store.succession import Place, Word, candidates, lacks
from viber_courier.worker.decisions import Decider
from viber_courier.worker.send import Sender

A, B, C = ("10.0.0.1", 6379), ("10.0.0.2", 6379), ("10.0.0.3", 6379)


class Pair:
    """A master and its replica, which can stand still."""

    def __init__(self, folder: Path) -> None:
        self.master = RedisServer(
            folder / "master", free_port(), ["--repl-diskless-sync-delay", "0"]
        )
        more = ["--replicaof", "127.0.0.1", str(self.master.port)]
        self.replica = RedisServer(folder / "replica", free_port(), more)
        for name, server in (("master", self.master), ("replica", self.replica)):
            (folder / name).mkdir()
            server.start()
        with redis.Redis(port=self.replica.port) as client:
            wait_for(lambda: client.info("replication")["master_link_status"] == "up")

    def signal(self, number: int) -> None:
        assert self.replica.process
        self.replica.process.send_signal(number)

    def stop(self) -> None:
        self.replica.stop(kill=True)
        self.master.stop(kill=True)


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    made = Pair(tmp_path_factory.mktemp("pair"))
    yield made
    made.stop()


@pytest.fixture
def still(pair: Pair) -> Iterator[Callable[[], None]]:
    """Makes the replica stand still; it goes on after the test."""
    yield lambda: pair.signal(signal.SIGSTOP)
    pair.signal(signal.SIGCONT)


@pytest.fixture
def settings(pair: Pair, namespace: str) -> Settings:
    return Settings(
        namespace=namespace,
        redis_url=pair.master.url,
        replicas=1,
        replicas_timeout=0.1,
        suppression_key="k" * 16,
        lease=1.5,
        connect_timeout=0.2,
        read_timeout=0.3,
    )


@pytest.fixture
def store(settings: Settings) -> Iterator[Store]:
    with closing(connect(settings.redis_url)) as client:
        yield Store(client, settings)


@pytest.fixture(params=["blocking", "asyncio"])
def face(request: pytest.FixtureRequest) -> str:
    """The contract of Producer and of AsyncProducer."""
    return str(request.param)


@pytest.fixture
def app(settings: Settings, face: str) -> Iterator[Producer]:
    if face == "blocking":
        with closing(Producer(settings)) as made:
            yield made
        return
    with closing(Loop()) as loop, closing(Awaited(loop, AsyncProducer(settings))) as awaited:
        yield awaited  # type: ignore[misc]


def work(store: Store, settings: Settings, post: Post) -> str:
    """Send what is due."""
    return Sender(settings, store, post, Decider(settings)).serve("high")  # type: ignore[arg-type]


def test_without_a_replica_nothing_is_promised(
    redis_server: RedisServer, settings: Settings
) -> None:
    # Given a master that has no replica
    with closing(Producer(replace(settings, redis_url=redis_server.url))) as app:
        # When an app enqueues, then it is told that this is not safe, as often as it repeats that
        for _ in range(2):
            with pytest.raises(StoreUnavailable, match="0 of 1 replicas have it"):
                app.enqueue(text_job(id="a"))
        # Though Redis has it
        assert app.get("a")


def test_a_promise_waits_for_the_replica_also_where_its_repeat_writes_nothing(
    app: Producer, settings: Settings, pair: Pair, still: Callable[[], None]
) -> None:
    # Given a message that a replica has, and one that it lacks
    app.enqueue(text_job(id="a"))
    still()
    with pytest.raises(StoreUnavailable):
        app.enqueue(text_job(id="b"))
    # When calls are repeated by an app that is connected anew, then they still promise nothing
    with closing(Producer(settings)) as other:
        with pytest.raises(StoreUnavailable):
            other.enqueue(text_job(id="b"))
        for _ in range(2):
            with pytest.raises(StoreUnavailable):
                other.cancel("a")
        # Until the replica follows
        pair.signal(signal.SIGCONT)
        wait_for(lambda: kept_now(other, "b"))
        assert other.cancel("a") is True


@pytest.mark.slow
def test_campaigns_and_suppressions_wait_for_the_replica(
    app: Producer, pair: Pair, still: Callable[[], None]
) -> None:
    # Given campaigns that a replica has
    common: Any = common_job(priority="low")
    names = ("add", "rated", "pause", "resume", "cancel")
    shops = {name: app.campaign(name, common=common) for name in names}
    for shop in shops.values():
        shop.add([{"address": "79250000001"}])
    shops["resume"].pause()
    app.suppressions.add("79250000009", "asked us")
    calls: dict[str, Callable[[], Any]] = {
        "add": lambda: shops["add"].add([{"id": "b", "address": "79250000002"}]),
        "rated": lambda: app.campaign("rated", common=common, rate=5).add([]),
        "pause": shops["pause"].pause,
        "resume": shops["resume"].resume,
        "cancel": shops["cancel"].cancel,
        "suppress": lambda: app.suppressions.add("79250000008", "asked us"),
        "unsuppress": lambda: app.suppressions.remove("79250000009"),
    }
    # When it stands still, then no change is promised, also by a repeat that changes nothing
    still()
    for name, call in [*calls.items()] * 2:
        with pytest.raises(StoreUnavailable, match="0 of 1 replicas have it"):
            call()
        assert name
    # And all are once it follows
    pair.signal(signal.SIGCONT)
    for call in calls.values():
        wait_for(lambda call=call: promised(call))
    with redis.Redis(port=pair.replica.port, decode_responses=True) as replica:
        keys = Keys(app.settings.namespace)
        assert replica.hget(keys.campaigns + "rated", "rate") == "5"
        held = [replica.hget(keys.campaigns + name, "paused") for name in ("pause", "resume")]
        assert held == ["by hand", None]
        assert replica.hget(keys.campaigns + "cancel", "cancelled:by-request") == "1"
        assert replica.hget(keys.campaigns + "add", "added") == "2"
        assert replica.hlen(keys.suppressed) == 2


def promised(call: Callable[[], Any]) -> bool:
    try:
        call()
        return True
    except StoreUnavailable:
        return False


def test_what_redis_has_is_not_called_refused_when_its_memory_is_used_up(
    app: Producer, pair: Pair
) -> None:
    # Given a message that is stored, in a Redis that takes nothing new
    app.enqueue(text_job(id="a"))
    master = redis.Redis.from_url(pair.master.url)
    master.config_set("maxmemory", 1)
    try:
        # When its app repeats the call, then it is told that this is not safe yet
        with pytest.raises(StoreUnavailable, match="not safe yet: Redis takes no more writes"):
            app.enqueue(text_job(id="a"))
        # but of another, that nothing was stored
        with pytest.raises(StoreUnavailable, match="nothing was stored"):
            app.enqueue(text_job(id="b"))
    finally:
        master.config_set("maxmemory", 0)
        master.close()
    assert app.enqueue(text_job(id="a")) == "a" and app.get("b") is None


def test_doctor_finds_a_replica_that_hangs(
    settings: Settings, pair: Pair, still: Callable[[], None]
) -> None:
    from viber_courier.ops.commands import health

    with closing(connect(pair.master.url)) as client:
        assert "1 follow, 1 waited for" in str(list(health._store(client, settings)))
        still()
        found = [each for each in health._store(client, settings) if each.severity]
    assert "a write isn't safe: 0 of 1 replicas have it" in str(found)


def kept_now(app: Producer, id: str) -> bool:
    try:
        return app.enqueue(text_job(id=id)) == id
    except StoreUnavailable:
        return False


def test_a_dead_letter_is_sent_again_once_the_replica_knows(
    app: Producer, store: Store, settings: Settings, pair: Pair, still: Callable[[], None]
) -> None:
    # Given a dead letter
    app.enqueue(text_job(id="a"))
    work(store, settings, Post(bad="Shop"))
    assert [letter.id for letter in app.dead.list()] == ["a"]
    # When it is sent again while the replica stands still, then that is not promised
    still()
    with pytest.raises(StoreUnavailable):
        app.dead.resend("a")
    # Nor by a repeat that finds it done
    with closing(Producer(replace(settings, replicas=0))) as careless:
        new = careless.dead.resend("a")
    with pytest.raises(StoreUnavailable):
        app.dead.resend("a")
    pair.signal(signal.SIGCONT)
    assert wait_for(lambda: resent(app)) == new


def resent(app: Producer) -> str:
    try:
        return app.dead.resend("a")
    except StoreUnavailable:
        return ""


def test_nothing_leaves_before_the_replica_has_its_mark_and_it_was_not_sent_then(
    app: Producer, store: Store, settings: Settings, pair: Pair, still: Callable[[], None]
) -> None:
    # Given a message, and a replica that stands still
    app.enqueue(text_job(id="a"))
    still()
    # When a worker would send it, until its lease is nearly over
    post = Post()
    began = time.monotonic()
    summary = work(store, settings, post)
    assert 0.5 < time.monotonic() - began < 10
    # Then nothing has left, and the message waits as if nobody had tried
    assert post.bodies == []
    assert "retry" in summary
    record = app.get("a")
    assert record and (record.status, record.attempts, record.unsure) == ("queued", 0, 0)
    # And it is sent once the replica follows
    pair.signal(signal.SIGCONT)
    wait_for(lambda: work(store, settings, post) and post.bodies)
    record = app.get("a")
    assert record and (record.status, record.attempts, record.unsure) == ("submitted", 1, 0)


def test_an_answer_counts_as_written_once_the_replica_has_it(
    app: Producer, store: Store, settings: Settings, pair: Pair, still: Callable[[], None]
) -> None:
    # Given a replica that stands still from the request until a while after its answer
    app.enqueue(text_job(id="a"))

    class Last(Post):
        def send(self, body: bytes, count: int) -> list:  # type: ignore[type-arg]
            still()
            threading.Timer(0.5, pair.signal, (signal.SIGCONT,)).start()
            return super().send(body, count)

    # When a worker writes the answer, then it waits for the replica
    began = time.monotonic()
    work(store, settings, Last())
    assert time.monotonic() - began >= 0.5
    with redis.Redis(port=pair.replica.port, decode_responses=True) as replica:
        assert replica.hget(store.keys.records + "a", "status") == "submitted"


def test_an_event_is_told_once_the_replica_has_it(
    app: Producer, pair: Pair, still: Callable[[], None]
) -> None:
    # Given an event that only the master has
    app.enqueue(text_job(id="a"))
    events: EventStream = app.results("crm", "web-1", block=0.3)
    assert list(events) == []
    still()
    with pytest.raises(StoreUnavailable):
        app.cancel("a")
    # When it is read, then it isn't told
    with pytest.raises(StoreUnavailable, match="0 of 1 replicas"):
        next(app.results("crm", "web-1", block=0.3))
    # Until the replica has it
    pair.signal(signal.SIGCONT)
    assert next(app.results("crm", "web-1", block=5)).id == "a:1"


def test_a_missing_permission_is_named(
    redis_server: RedisServer, settings: Settings, namespace: str
) -> None:
    # Given a user who may do all but wait
    with redis.Redis.from_url(redis_server.url) as admin:
        admin.execute_command("ACL", "SETUSER", "impatient", "on", ">p", "~*", "+@all", "-wait")
    url = redis_server.url.replace("//", "//impatient:p@")
    settings = replace(settings, redis_url=url)
    with closing(Producer(settings)) as app:
        # When an app enqueues, or a worker checks what it may do, then it is told what to grant
        with pytest.raises(StoreUnavailable, match=r"grant \+wait"):
            app.enqueue(text_job())
        assert "grant +wait" in store_fault(app.redis, namespace, kept(app.redis, settings))


def test_the_disk_needs_a_server_that_can_wait_for_it(
    redis_server: RedisServer, settings: Settings
) -> None:
    settings = replace(settings, redis_url=redis_server.url, replicas=ON_DISK, replicas_timeout=0.3)
    with closing(Producer(settings)) as app:
        if can_wait_for_disk(app.redis):
            app.enqueue(text_job())
            app.redis.config_set("appendfsync", "no")
            try:
                with pytest.raises(StoreUnavailable, match="the disk doesn't have it yet"):
                    app.enqueue(text_job())
            finally:
                app.redis.config_set("appendfsync", "everysec")
        else:
            fault = "COURIER_REPLICAS=disk needs Redis 7.2 or newer"
            with pytest.raises(StoreUnavailable, match=fault):
                app.enqueue(text_job())
            must = kept(app.redis, settings)
            assert fault in store_fault(app.redis, settings.namespace, must)


def can_wait_for_disk(client: redis.Redis) -> bool:
    try:
        client.execute_command("WAITAOF", 0, 0, 1)
        return True
    except redis.ResponseError:
        return False


def test_with_sentinels_all_who_may_become_the_master_must_have_it() -> None:
    def word(master: Place | None, usable: set[Place], known: set[Place], all: bool = True) -> Word:
        return Word(0.0, master, frozenset(usable), frozenset(known), all)

    for enough, got, least, said in [
        # all replicas have it: whoever becomes the master has it, and nobody need be asked
        (True, 2, 1, word(None, {B, C}, {B, C})),
        (False, 2, 1, word(None, {B, C}, {B, C}, all=False)),
        (False, 2, 3, word(A, {B, C}, {B, C})),
        # one lags, or has just been promoted
        (False, 1, 1, word(A, {B, C}, {B, C})),
        # one is dead, or still catches up
        (True, 1, 1, word(A, {B}, {B, C})),
        (False, 0, 1, word(A, set(), {B, C})),
        (False, 1, 2, word(A, {B}, {B, C})),
        # most name another, or are not to be had, or a failover goes on
        (False, 1, 1, word(C, {B}, {B, C})),
        (False, 1, 1, word(None, {B}, {B, C})),
    ]:
        assert (lacks(got, least, A, said) == "") is enough, (got, least, said)
    assert lacks(1, 1, None, None) == ""
    assert lacks(1, 2, None, None) == "1 of 2 replicas have it"


@pytest.mark.parametrize(
    ("replicas", "waited_for"),
    [
        # by replica-priority: 0 never becomes the master, else the lowest comes first
        ([(100, "ok", "slave"), (100, "ok", "slave")], [0, 1]),
        ([(100, "ok", "slave"), (100, "err", "slave")], [0]),
        ([(100, "ok", "slave"), (200, "err", "slave")], [0]),
        ([(100, "ok", "slave"), (10, "err", "slave")], [0, 1]),
        ([(100, "ok", "slave"), (10, "err", "slave,s_down")], [0]),
        ([(100, "ok", "slave"), (0, "err", "slave")], [0]),
        # what follows and never becomes the master doesn't stand for one that may
        ([(0, "ok", "slave"), (100, "err", "slave")], [0, 1]),
        ([(100, "ok", "slave,disconnected")], []),
    ],
)
def test_a_replica_without_its_master_counts_if_sentinel_prefers_it(
    replicas: list[tuple[int, str, str]], waited_for: list[int]
) -> None:
    states = [
        {"port": n, "slave-priority": each[0], "master-link-status": each[1], "flags": each[2]}
        for n, each in enumerate(replicas)
    ]
    assert [each["port"] for each in candidates(states)] == waited_for

"""How we reach Redis, and how Celery does: pools, scripts, Celery's spelling of URLs."""

from __future__ import annotations

import gc
import itertools
import socket
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from types import FrameType
from typing import Any

import pytest
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from tests.conftest import wait_for
from tests.faults.parts import Proxy
from viber_courier.ops.redis_server import RedisServer
from viber_courier.schemas.errors import ConfigError
from viber_courier.store.connection import SOCKET_OPTIONS, broker, connect
from viber_courier.store.pools import WholePool
from viber_courier.store.scripts import Parameter, Script, Source

INTERRUPTED = "(KeyboardInterrupt, UnboundLocalError)"
"""How an interruption ends a call: redis-py 5 makes the second of one inside its constructor."""


def test_celery_gets_the_spelling_that_it_knows() -> None:
    made = broker("sentinel://:sec%3Bret@a:1,[::1]:2/3?master=mine", visibility_timeout=60)
    assert made["broker_url"] == "sentinel://:sec%3Bret@a:1/3;sentinel://:sec%3Bret@[::1]:2/3"
    options = made["broker_transport_options"]
    assert options["master_name"] == "mine" and options["socket_timeout"] == 5
    assert options["visibility_timeout"] == 60 and options["sentinel_kwargs"]["socket_timeout"] == 5
    assert broker("redis://a/0") == {
        "broker_url": "redis://a:6379/0",
        "broker_use_ssl": False,
        "broker_transport_options": {**SOCKET_OPTIONS, "ack_emulation": False},
    }
    assert broker("unix:///r?db=5")["broker_url"] == "redis+socket:///r?virtual_host=5"


def test_a_broker_checks_its_servers_certificate_like_the_store() -> None:
    """kombu would not: it takes rediss:// without options for one that checks nothing."""
    for url in ("rediss://a/0", "sentinels://a?master=m"):
        made = broker(url)
        assert made["broker_use_ssl"] == {"ssl_cert_reqs": "required", "ssl_check_hostname": True}
    asking = made["broker_transport_options"]["sentinel_kwargs"]
    assert asking["ssl"] is True and asking["ssl_cert_reqs"] == "required"


def test_a_cluster_is_no_broker() -> None:
    with pytest.raises(ConfigError, match=r"COURIER_BROKER_URL: .* can't be cluster://"):
        broker("cluster://a")


def test_nothing_that_can_be_printed_shows_the_password() -> None:
    for url in (
        "sentinel://app:geheim@127.0.0.1:1/0?master=mine&sentinel_password=geheim",
        "redis://app:geheim@127.0.0.1:1",
        "unix:///r?password=geheim",
        "rediss://:geheim@h?ssl_password=geheim",
    ):
        client = connect(url)
        assert "geheim" not in f"{client!r} {client.connection_pool!r}"


def test_a_script_that_must_be_repeated_needs_no_second_connection(
    redis_server: RedisServer,
) -> None:
    # Given a pool of one connection and a script that Redis doesn't know yet
    pool: redis.ConnectionPool = WholePool.from_url(redis_server.url, max_connections=1)
    ours = Script(
        redis.Redis(connection_pool=pool), Source("of a pool of one", "return 17", (), ())
    )
    # When it is called in two halves
    fetch = ours.begin()
    # Then it is loaded and called over the same connection
    assert fetch() == 17
    pool.disconnect()


def test_a_server_that_hangs_is_not_asked_again() -> None:
    # Given a server that takes connections and says nothing
    with socket.create_server(("127.0.0.1", 0)) as hangs:
        pool: redis.ConnectionPool = WholePool(
            port=hangs.getsockname()[1], socket_timeout=0.2, retry=Retry(NoBackoff(), 0), protocol=2
        )
        # When a script is begun, then it fails at once
        with pytest.raises(redis.TimeoutError):
            Script(redis.Redis(connection_pool=pool), Source("one", "return 1", (), ())).begin()


@pytest.mark.slow
def test_a_signal_whose_handler_raises_breaks_nothing(redis_server: RedisServer) -> None:
    # Given a program in which a signal's handler raises, as Ctrl-C's does, again and again
    program = f"""
import random, signal
from viber_courier.store.connection import connect
from viber_courier.store.scripts import Parameter, Script, Source

armed = False

def interrupt(*_):
    if armed:
        raise KeyboardInterrupt

signal.signal(signal.SIGALRM, interrupt)
count = Source("count", "return {{#ARGV, ARGV[1]}}", (), (Parameter("given", 0),))
ours = Script(connect("{redis_server.url}"), count)
asked = 0

def ask():  # of its own: where a loop jumps back, no try around it catches (seen on 3.14)
    global armed, asked
    armed = True
    for _ in range(60):
        asked += 1
        answer = ours(given=[asked] + [10**15] * 200)
        assert answer == [201, str(asked)], answer
    armed = False

for _ in range(3000):
    signal.setitimer(signal.ITIMER_REAL, random.uniform(0.0003, 0.002))
    try:
        ask()
    except {INTERRUPTED}:
        armed = False
signal.setitimer(signal.ITIMER_REAL, 0)
print("whole")
"""
    # When it has called scripts with many numbers, on connections old and new
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, timeout=180)
    # Then it lives, and every answer was to its own question
    assert (done.returncode, done.stdout) == (0, b"whole\n"), done.stderr


def test_connections_at_hand_are_looked_at_first(redis_server: RedisServer) -> None:
    # Given two connections that were used
    client = connect(redis_server.url)
    pool: Any = client.connection_pool
    kept = [pool.get_connection() for _ in range(2)]
    for connection in kept:
        connection.send_command("CLIENT", "ID")
        connection.read_response()
        pool.release(connection)
    pool.release(kept[1])  # once too often, as an interrupted pipeline does it
    # When both are asked for, then nobody gets another's
    assert len({pool.get_connection() for _ in range(2)}) == 2
    # When one comes back in the middle of an answer, the other closed by Redis
    kept[0].send_command("PING")
    pool.release(kept[0])
    pool.release(kept[1])
    with connect(redis_server.url) as other:
        other.client_kill_filter(_type="normal", skipme=True)
    # Then neither is given out as it is
    assert (client.echo("mine"), client.connection_pool.get_connection().can_read()) == (
        "mine",
        False,
    )
    client.close()


def test_more_threads_than_a_pool_has_by_default(redis_server: RedisServer) -> None:
    # Given a client and more threads than redis-py's pool gives connections
    client = connect(redis_server.url)
    # When all wait at once, then none is refused
    with ThreadPoolExecutor(120) as threads:
        waits = [threads.submit(client.blpop, ["nothing"], 1) for _ in range(120)]
        assert [wait.result(20) for wait in waits] == [None] * 120
    client.close()


def test_an_interruption_gives_no_connection_to_two(redis_server: RedisServer) -> None:
    # Given a pipeline whose end was interrupted right after it gave its connection back
    client = connect(redis_server.url)
    pool: Any = client.connection_pool
    release, times = pool.release, iter([KeyboardInterrupt])

    def interrupted(connection: Any) -> None:
        release(connection)
        for error in times:
            raise error

    pool.release = interrupted
    with pytest.raises(KeyboardInterrupt), client.pipeline(transaction=False) as pipeline:
        pipeline.ping()
        pipeline.execute()  # redis-py gives it back once more
    # When two ask for connections, then each has its own
    assert pool.get_connection() is not pool.get_connection()


def test_a_connection_given_back_too_late_is_not_taken_from_its_next_user(
    redis_server: RedisServer,
) -> None:
    # Given a connection that was given back, and taken by another thread since
    client = connect(redis_server.url)
    pool: Any = client.connection_pool
    first = pool.get_connection()
    pool.release(first)
    with ThreadPoolExecutor(1) as thread:
        assert thread.submit(pool.get_connection).result(10) is first
        # When the call before, interrupted at its end, gives it back once more
        pool.release(first)
        # Then nobody else gets it
        assert pool.get_connection() is not first
    client.close()


class Interruption:
    """Raises KeyboardInterrupt at the ``at``-th line that runs of redis-py and the store."""

    def __init__(self, at: int) -> None:
        self.left = at

    def __enter__(self) -> Interruption:
        sys.settrace(self._trace)
        return self

    def __exit__(self, *_: object) -> None:
        sys.settrace(None)

    def _trace(self, frame: FrameType, event: str, _: object) -> Any:
        file = frame.f_code.co_filename
        if "/redis/" not in file and "/store/" not in file:
            return None
        self.left -= event == "line"
        if self.left == 0:
            raise KeyboardInterrupt
        return self._trace


@pytest.mark.skipif(sys.version_info < (3, 12), reason="3.11 breaks where a trace function raises")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # in __del__
@pytest.mark.filterwarnings("ignore::ResourceWarning")  # of redis-py's sockets
@pytest.mark.parametrize("fresh", [True, False], ids=["new-connection", "used-connection"])
def test_a_call_interrupted_at_any_line_never_answers_the_next(
    fresh: bool, redis_server: RedisServer
) -> None:
    # Given a client, and a script that repeats what it is asked
    client = connect(f"{redis_server.url.rpartition('/')[0]}/1")  # 1: more of a handshake
    script = Script(client, Source("echo", "return ARGV[1]", (), (Parameter("given", None),)))
    script(given="warm")
    with connect(redis_server.url) as other:
        before = len(other.client_list())
    for line in itertools.count(1):
        if fresh:
            client.connection_pool.disconnect()
        # When a call is interrupted at this line of the pool, the script or redis-py
        with suppress(KeyboardInterrupt, UnboundLocalError), Interruption(line) as interruption:
            script(given=f"interrupted {line}")
        # Then the next gets its own answer
        assert script(given=f"asked {line}") == f"asked {line}"
        assert client.echo(f"asked {line}") == f"asked {line}"
        if interruption.left > 0:  # the call has fewer lines
            break
    assert line > 30
    # And no connection is left behind
    gc.collect()
    with connect(redis_server.url) as other:
        wait_for(lambda: len(other.client_list()) <= before + 2)
    client.close()


def test_what_is_in_use_while_a_pool_is_closed_is_closed_when_given_back(
    redis_server: RedisServer,
) -> None:
    # Given a client that is closed during a call
    client = connect(redis_server.url)
    with ThreadPoolExecutor(1) as thread:
        call = thread.submit(client.blpop, ["a-list"], 10)
        wait_for(lambda: any(each["cmd"] == "blpop" for each in client.client_list()))
        client.close()
        # When the call ends
        client.rpush("a-list", "a value")
        assert call.result(10) == ("a-list", "a value")
    # Then only the connection made since is left
    with connect(redis_server.url) as other:
        wait_for(lambda: not any(each["cmd"] == "blpop" for each in other.client_list()))
    client.close()


def test_interruptions_leave_no_connections_behind(redis_server: RedisServer) -> None:
    # Given a program whose signal's handler raises at any time, also between question and answer
    program = f"""
import gc, random, signal
from viber_courier.store.connection import connect
from viber_courier.store.scripts import Parameter, Script, Source

armed = False

def interrupt(*_):
    if armed:
        raise KeyboardInterrupt

signal.signal(signal.SIGALRM, interrupt)
client = connect("{redis_server.url}")
script = Script(client, Source("one", "return 1", (), ()))

def ask():
    global armed
    armed = True
    for _ in range(60):
        answer = script.begin()
        client.echo("x")
        answer()
    armed = False

for _ in range(1500):
    signal.setitimer(signal.ITIMER_REAL, random.uniform(0.0003, 0.001))
    try:
        ask()
    except {INTERRUPTED}:
        armed = False
signal.setitimer(signal.ITIMER_REAL, 0)
gc.collect()
client.connection_pool.disconnect(inuse_connections=False)
print(len(client.client_list()))
"""
    # When it has been interrupted many times
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, timeout=60)
    # Then what was in use has been closed
    assert done.stdout and int(done.stdout) < 20, (done.stdout, done.stderr)


def test_a_process_forked_while_a_thread_connects_goes_on(redis_server: RedisServer) -> None:
    # Given threads that make their connections while their process forks
    program = f"""
import faulthandler, os, threading
from viber_courier.store.connection import connect

connect("{redis_server.url}").ping()  # imports what redis-py imports late: Python's lock, not ours
for _ in range(30):
    client = connect("{redis_server.url}")
    threads = [threading.Thread(target=client.ping) for _ in range(6)]
    for thread in threads:
        thread.start()
    child = os.fork()
    if not child:
        faulthandler.dump_traceback_later(20, exit=True)
        client.ping()
        os._exit(0)
    for thread in threads:
        thread.join()
    assert os.waitpid(child, 0)[1] == 0
    client.close()
print("whole")
"""
    # Then each child has a connection of its own
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, timeout=60)
    assert done.stdout == b"whole\n", done.stderr


def test_only_what_broke_a_conversation_off_costs_the_connection(redis_server: RedisServer) -> None:
    # Given a client with a connection
    with connect(redis_server.url) as client:
        first = client.client_id()
        # When it is used where the caller handles an error of its own, or Redis answers with one
        try:
            raise ValueError
        except ValueError:
            seconds = [client.client_id() for _ in range(2)]
        with pytest.raises(redis.ResponseError):
            client.execute_command("NEVER-HEARD-OF")
        # Then it is kept
        assert [*seconds, client.client_id()] == [first] * 3


def test_a_dead_peer_costs_one_timeout(redis_server: RedisServer) -> None:
    # Given connections at hand whose peer vanishes
    with (
        closing(Proxy(redis_server.port)) as proxy,
        closing(connect(f"redis://127.0.0.1:{proxy.port}/0")) as client,
    ):
        pool: Any = client.connection_pool
        pool.connection_kwargs["socket_timeout"] = 0.5
        for connection in [pool.get_connection() for _ in range(5)]:
            pool.release(connection)
        proxy.vanish()
        # When they are used, then the first call fails and the next connects anew
        with pytest.raises(redis.TimeoutError):
            client.ping()
        assert client.ping()

"""The gateway under load and attack, and while Redis is away; each with real processes."""

from __future__ import annotations

import json
import os
import resource
import signal
import socket
import statistics
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest
import requests

from tests.conftest import free_port, text_job, wait_for
from tests.gateway import PHONE, TEXT, Gateway, private_job
from viber_courier import Producer
from viber_courier.ops.redis_server import RedisServer
from viber_courier.store.keys import Keys

PROMISED = 2000
"""Messages a second in lists of 100, on one core beside Redis; a busy machine's test asks for
a quarter."""


@pytest.fixture
def server(tmp_path: Path) -> Iterator[RedisServer]:
    """A Redis of the test's own, to be stopped and ended."""
    (tmp_path / "redis").mkdir()
    made = RedisServer(tmp_path / "redis", free_port())
    made.start()
    yield made
    made.stop()


@pytest.fixture
def start(tmp_path: Path, server: RedisServer) -> Iterator[Callable[..., Gateway]]:
    """Starts gateways; whatever they met, their log says nothing of a message."""
    made = list[Gateway]()

    def begin(*prefix: str, **settings: str) -> Gateway:
        env = {"COURIER_REDIS_URL": server.url, **settings}
        made.append(Gateway(tmp_path, env, ("shop",), prefix=prefix))
        return made[-1]

    yield begin
    for gateway in made:
        log = gateway.log
        gateway.close()
        assert PHONE not in log and TEXT not in log, log
        assert "Traceback" not in log and "Warning" not in log, log


@pytest.fixture
def gateway(start: Callable[..., Gateway]) -> Gateway:
    return start()


def took(call: Callable[[], requests.Response]) -> tuple[float, requests.Response]:
    started = time.monotonic()
    answer = call()
    return time.monotonic() - started, answer


def quick(gateway: Gateway, times: int = 10) -> float:
    """The median time of /healthz, in seconds."""
    return statistics.median(
        took(lambda: gateway.call("GET", "/healthz", None))[0] for _ in range(times)
    )


def refused_at_once(gateway: Gateway) -> None:
    """Every call that needs Redis says 503, and when to come again."""
    calls: list[Callable[[], requests.Response]] = [
        lambda: gateway.post(private_job(id="away")),
        lambda: gateway.post([private_job(id="away")] * 50),
        lambda: gateway.call("GET", "/v1/messages/away"),
        lambda: gateway.call("POST", "/v1/messages/away/cancel"),
        lambda: gateway.call("GET", "/v1/events?group=crm&wait=60"),
        lambda: gateway.call("POST", "/v1/events/ack", json={"group": "crm", "ackids": ["1-0"]}),
    ]
    for call in calls:
        seconds, answer = min((took(call) for _ in range(5)), key=lambda each: each[0])
        assert answer.status_code == 503 and answer.headers["Retry-After"] == "1", answer.text
        assert seconds < 0.1
    assert gateway.call("GET", "/readyz", None).status_code == 503
    assert quick(gateway) < 0.1


def test_redis_away_and_back(gateway: Gateway, server: RedisServer) -> None:
    assert gateway.post(private_job(id="before")).status_code == 202
    server.stop()
    seconds, answer = took(lambda: gateway.post(private_job(id="away")))
    assert answer.status_code == 503 and seconds < 3
    refused_at_once(gateway)
    server.start()
    wait_for(lambda: gateway.post(private_job(id="away")).status_code == 202, 5)
    assert gateway.call("GET", "/v1/messages/before").status_code == 200
    assert gateway.call("GET", "/readyz", None).status_code == 200
    # Who has no token does not learn where Redis is
    server.stop()
    away = gateway.call("GET", "/readyz", None)
    assert away.status_code == 503 and f":{server.port}" not in away.text


def test_redis_hung(gateway: Gateway, server: RedisServer) -> None:
    assert gateway.post(private_job(id="before")).status_code == 202
    assert server.process is not None
    os.kill(server.process.pid, signal.SIGSTOP)
    try:
        with ThreadPoolExecutor(60) as pool:  # more than there are connections
            first = [pool.submit(took, lambda: gateway.post(private_job())) for _ in range(60)]
            time.sleep(0.5)
            assert quick(gateway) < 0.1
            found = [each.result() for each in first]
        assert {answer.status_code for _, answer in found} == {503}
        assert min(found, key=lambda each: each[0])[0] < 3
        assert max(found, key=lambda each: each[0])[0] < 6
        refused_at_once(gateway)
    finally:
        os.kill(server.process.pid, signal.SIGCONT)
    wait_for(lambda: gateway.post(private_job(id="away")).status_code == 202, 5)


def test_replicas_that_are_waited_for_are_no_outage(start: Callable[..., Gateway]) -> None:
    gateway = start(COURIER_REPLICAS="1", COURIER_REPLICAS_TIMEOUT="2.5")
    for _ in range(2):  # the first also loads the script
        seconds, answer = took(lambda: gateway.post(private_job(id="one")))
        assert answer.status_code == 503 and seconds > 2.4
    assert gateway.call("GET", "/readyz", None).status_code == 200


def test_a_poll_that_waits_while_redis_goes_is_told(gateway: Gateway, server: RedisServer) -> None:
    with ThreadPoolExecutor(2) as pool:
        poll = pool.submit(gateway.call, "GET", "/v1/events?group=crm&wait=60")
        accept = {"Accept": "text/event-stream"}
        with gateway.call("GET", "/v1/events?group=sse", headers=accept, stream=True) as stream:
            time.sleep(0.5)
            server.stop()
            assert poll.result(10).status_code == 503
            assert all(line in ("", ": nothing") for line in stream.iter_lines(decode_unicode=True))


def test_a_stream_that_breaks_and_is_repeated_stores_nothing_twice(
    gateway: Gateway, server: RedisServer
) -> None:
    rows = [json.dumps(private_job()).encode() + b"\n" for _ in range(1700)]
    key = "Content-Type: application/x-ndjson", "Idempotency-Key: night"
    head = gateway.head("/v1/messages", "shop", *key) + b"Transfer-Encoding: chunked\r\n\r\n"
    producer = Producer.from_env({"COURIER_REDIS_URL": server.url})

    def stored() -> int:
        names = f"{Keys('courier').records}*"
        return sum(1 for _ in producer.redis.scan_iter(names, count=1000))

    for sent, whole_chunks in ((600, 500), (1111, 1000)):
        with gateway.connect() as client:
            client.sendall(head)
            for row in rows[:sent]:
                client.sendall(b"%x\r\n%b\r\n" % (len(row), row))
            client.sendall(b"%x\r\n%b" % (len(rows[0]), rows[0][:20]))  # in the middle of a line
            wait_for(lambda count=whole_chunks: stored() >= count)  # type: ignore[misc]
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    headers = {"Content-Type": "application/x-ndjson", "Idempotency-Key": "night"}
    for _ in range(2):
        whole = gateway.call("POST", "/v1/messages", data=iter(rows), headers=headers)
        assert whole.json() == {"accepted": 1700, "refused": []}
    assert stored() == 1700
    producer.close()


def test_slow_and_idle_clients_hold_nobody_up(gateway: Gateway) -> None:
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    head = gateway.head("/v1/messages", "shop", "Content-Type: application/json")
    over = threading.Event()
    with ExitStack() as stack:
        for _ in range(1000):
            stack.enter_context(gateway.connect())
        slow = [stack.enter_context(gateway.connect()) for _ in range(300)]
        for client in slow:
            client.sendall(head + b"Content-Length: 100000\r\n\r\n{")

        def drip() -> None:
            while not over.wait(1):
                for client in slow:
                    client.sendall(b" ")

        thread = threading.Thread(target=drip)
        thread.start()
        try:
            seconds = [took(lambda: gateway.post(private_job()))[0] for _ in range(30)]
            assert gateway.post(private_job()).status_code == 202
        finally:
            over.set()
            thread.join()
        # A client that reads nothing of its answers
        deaf = stack.enter_context(gateway.connect())
        deaf.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        ask = b"GET /openapi.json HTTP/1.1\r\nHost: localhost\r\n\r\n"
        deaf.settimeout(1)
        with suppress(TimeoutError):
            deaf.sendall(ask * 2000)
        seconds += [took(lambda: gateway.post(private_job()))[0] for _ in range(10)]
    assert statistics.median(seconds) < 0.1


def test_large_bodies_and_bombs_leave_memory_alone(gateway: Gateway) -> None:
    def resident() -> int:
        text = Path(f"/proc/{gateway.process.pid}/status").read_text()
        return int(text.split("VmHWM:")[1].split()[0]) * 1024

    before = resident()
    part = b"x" * 2**20

    def large(type: str = "application/json") -> int:
        given = {"Content-Type": type, "Idempotency-Key": "large"}
        try:
            return gateway.call(
                "POST", "/v1/messages", data=(part for _ in range(100)), headers=given
            ).status_code
        except requests.ConnectionError:  # it was answered, and closed, while it was being sent
            return 413

    assert large() == 413
    with ThreadPoolExecutor(8) as pool:
        assert {each.result() for each in [pool.submit(large) for _ in range(8)]} == {413}
    assert large("application/x-ndjson") == 413
    # 30 bodies that come slowly are refused before they fill the memory
    head = gateway.head("/v1/messages", "shop", "Content-Type: application/json")
    with ExitStack() as stack:
        clients = [stack.enter_context(gateway.connect()) for _ in range(30)]
        for client in clients:
            client.settimeout(1)
            with suppress(TimeoutError, ConnectionError):
                client.sendall(head + b"Content-Length: 8000000\r\n\r\n" + b" " * 7_000_000)
        assert gateway.post(private_job()).status_code in (202, 503)
        wait_for(lambda: gateway.metric('courier_gateway_requests_total{code="503"') > 0)
    wait_for(lambda: gateway.post(private_job()).status_code == 202)
    assert resident() - before < 250 * 2**20


def test_polls_leave_connections_to_others(gateway: Gateway) -> None:
    over = threading.Event()

    def poll(number: int) -> int:
        while True:  # its turn comes when there is room
            path = f"/v1/events?group=g{number}&start=new&wait=5"
            answer = gateway.call("GET", path)
            if over.is_set() or answer.status_code != 200:
                return answer.status_code

    with ThreadPoolExecutor(60) as pool:
        polls = [pool.submit(poll, number) for number in range(60)]
        wait_for(lambda: sum(each.done() for each in polls) == 20)
        assert {each.result() for each in polls if each.done()} == {503}
        seconds, answer = took(lambda: gateway.post([private_job()] * 100))
        assert answer.status_code == 202 and seconds < 2
        acks = {"group": "g1", "ackids": ["1-0"]}
        assert gateway.call("POST", "/v1/events/ack", json=acks).json() == {"acknowledged": 0}
        over.set()
        assert [each.result() for each in polls].count(200) == 40


def test_guessed_tokens_are_counted_and_refused(gateway: Gateway) -> None:
    real = gateway.tokens["shop"]
    with ThreadPoolExecutor(8) as pool:
        guesses = [real[:-1], real + "x", real.swapcase(), "x" * 60_00, *map(str, range(400))]
        answers = pool.map(
            lambda token: gateway.post(
                private_job(), None, headers={"Authorization": f"Bearer {token}"}
            ),
            guesses,
        )
        assert {answer.status_code for answer in answers} == {401}
    assert gateway.metric("courier_gateway_tokens_refused_total") == len(guesses)
    assert real not in gateway.log and gateway.post(private_job()).status_code == 202


def test_term_finishes_the_requests_at_work(start: Callable[..., Gateway]) -> None:
    gateway = start()
    with ThreadPoolExecutor(4) as pool:
        polls = [
            pool.submit(gateway.call, "GET", f"/v1/events?group={name}&wait=60") for name in "ab"
        ]
        accept = {"Accept": "text/event-stream"}
        stream = gateway.call("GET", "/v1/events?group=c", headers=accept, stream=True)
        head = gateway.head("/v1/messages", "shop", "Content-Type: application/json")
        body = json.dumps(private_job()).encode()
        with gateway.connect() as client, gateway.connect() as idle:
            client.sendall(head + f"Content-Length: {len(body)}\r\n\r\n".encode() + body[:10])
            time.sleep(0.5)
            gateway.process.terminate()
            time.sleep(0.5)
            client.sendall(body[10:])
            assert b" 202 " in client.recv(1000)
            assert gateway.process.wait(15) == 0
            assert idle.recv(10) == b""
        for poll in polls:
            assert poll.result().json() == {"events": []}
        stream.close()


@pytest.mark.parametrize("how", ["lists", "lines"])
def test_throughput_on_one_core_beside_redis(
    start: Callable[..., Gateway], server: RedisServer, how: str
) -> None:
    gateway = start("taskset", "-c", "0")
    assert server.process is not None
    os.sched_setaffinity(server.process.pid, {0})
    lists = [json.dumps([text_job() for _ in range(100)]).encode() for _ in range(40)]
    given = {"Authorization": f"Bearer {gateway.tokens['shop']}", "Idempotency-Key": "a"}

    def send(part: list[bytes]) -> None:
        with requests.Session() as session:
            session.headers.update({**given, "Content-Type": "application/json"})
            for number, body in enumerate(part):
                session.headers["Idempotency-Key"] = f"{id(part)}-{number}"
                answer = session.post(f"{gateway.url}/v1/messages", data=body)
                assert all("id" in each for each in answer.json()["results"])

    started = time.monotonic()
    if how == "lists":
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(send, (lists[n::4] for n in range(4))))
    else:
        row = json.dumps(text_job()).encode() + b"\n"
        lines = {"Content-Type": "application/x-ndjson", "Idempotency-Key": "b"}
        answer = gateway.call("POST", "/v1/messages", data=iter([row * 100] * 40), headers=lines)
        assert answer.json()["accepted"] == 4000
    rate = 4000 / (time.monotonic() - started)
    print(f"{how}: {rate:.0f} messages/s")
    assert rate > PROMISED / 4

"""Pushed events as others get them: a receiver in Node.js, workers of an app's own Celery."""

from __future__ import annotations

import asyncio
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import kombu
import pytest

from tests.apps.conftest import ROOT
from tests.conftest import free_port, wait_for
from tests.push import SECRET, in_order, many, metric, until
from tests.rabbit import Rabbit
from tests.rabbit import rabbit as rabbitmq
from tests.test_forward import forwarding, tasks
from viber_courier import Producer
from viber_courier.ops.redis_server import RedisServer
from viber_courier.store.keys import Keys

PAGE = (ROOT / "docs" / "push.md").read_text()
BLOCKS = {name: code for name, code in re.findall(r"(?s)<!-- (\S+) -->\n```\w+\n(.+?)```", PAGE)}
COURIER = [sys.executable, "-c", "from viber_courier.ops.cli import main; main()"]

Run = Callable[..., subprocess.Popen[bytes]]


@pytest.fixture
def env(redis_server: RedisServer, namespace: str) -> dict[str, str]:
    return {"COURIER_REDIS_URL": redis_server.url, "COURIER_NAMESPACE": f"{namespace}-push"}


@pytest.fixture
def producer(env: dict[str, str]) -> Iterator[Producer]:
    with closing(Producer.from_env(env)) as made:
        yield made


@pytest.fixture
def run(tmp_path: Path, env: dict[str, str]) -> Iterator[Run]:
    """Start programs; each ends with the test. What they say is in files of these names."""
    started = list[subprocess.Popen[bytes]]()

    def start(name: str, *command: Any, **more: str) -> subprocess.Popen[bytes]:
        with (tmp_path / name).open("ab") as out:
            given: Any = {"cwd": tmp_path, "stdout": out, "stderr": out}
            process = subprocess.Popen(command, env={**os.environ, **env, **more}, **given)
        started.append(process)
        return process

    yield start
    for process in started:
        if process.poll() is None:
            process.kill()
        process.wait(10)


def lines(path: Path) -> list[str]:
    return path.read_text().splitlines() if path.exists() else []


def left(producer: Producer, group: str) -> int:
    """Events that are unacknowledged, or wait for a webhook."""
    keys = Keys(producer.settings.namespace)
    found: Any = producer.redis.xpending(keys.results, group)
    waiting: Any = producer.redis.xlen(keys.push("waiting", group))
    return int(found["pending"]) + int(waiting)


# Webhook


@pytest.fixture(scope="session")
def node(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the page's receiver and the library of npm."""
    if not (shutil.which("node") and shutil.which("npm")):
        pytest.skip("needs Node.js 18 or newer, and npm")
    folder = tmp_path_factory.mktemp("node")
    install = ["npm", "install", "--silent", "--no-audit", "--no-fund", "standardwebhooks@1"]
    if subprocess.run(install, cwd=folder, capture_output=True, check=False).returncode:
        pytest.skip("npm can't install standardwebhooks")
    code = BLOCKS["receiver.mjs"]
    assert len([line for line in code.splitlines() if line]) <= 15
    (folder / "receiver.mjs").write_text(code)
    slow = "response.writeHead(204).end();"
    assert code.count(slow) == 1
    (folder / "slow.mjs").write_text(code.replace(slow, f"setTimeout(() => {{ {slow} }}, 50);"))
    return folder


@pytest.fixture
def start_webhook(run: Run, tmp_path: Path) -> Callable[..., subprocess.Popen[bytes]]:
    (tmp_path / "secret").write_text(SECRET)

    def start(port: int, *options: str) -> subprocess.Popen[bytes]:
        url = f"http://localhost:{port}/"
        given = ["--group", "crm", "--url", url, "--secret-file", "secret", *options]
        given += ["--allow", "127.0.0.0/8,::1", "--port", str(free_port())]
        return run("webhook.log", *COURIER, "webhook", *given)

    return start


def receive(run: Run, node: Path, file: str = "receiver.mjs", secret: str = SECRET) -> int:
    port = free_port()
    run("received", "node", node / file, SECRET=secret, PORT=str(port))
    return port


@pytest.mark.parametrize("batch", ["0", "20"])
def test_two_senders_killed_again_and_again_lose_nothing_and_keep_the_order(
    run: Run,
    node: Path,
    producer: Producer,
    tmp_path: Path,
    start_webhook: Callable[..., subprocess.Popen[bytes]],
    batch: str,
) -> None:
    port, chance, each, rounds = receive(run, node), random.Random(1), 5, 40

    def load() -> None:
        for n in range(rounds):
            many(producer, 20, each, start=20 * n)
            time.sleep(0.4)

    thread = threading.Thread(target=load)
    thread.start()
    senders = [start_webhook(port, "--batch", batch) for _ in range(2)]
    for _ in range(4):
        time.sleep(chance.uniform(2.5, 5))
        for n in chance.sample([0, 1], chance.choice([1, 2])):
            senders[n].kill()
            senders[n].wait(10)
            senders[n] = start_webhook(port, "--batch", batch)
    thread.join()
    wait_for(lambda: len(lines(tmp_path / "received")) >= 20 * each * rounds, 60)
    wait_for(lambda: left(producer, "crm") == 0)
    # Then each came, verified by another language's library, and their first copies in order
    received = [line.split()[0] for line in lines(tmp_path / "received")]
    assert len(received) == 20 * each * rounds  # the receiver has left out what came twice
    assert in_order(received)
    for sender in senders:
        sender.terminate()
        assert sender.wait(20) == 0


def test_a_sender_that_was_stopped_and_goes_on_beside_its_successor_keeps_the_order(
    run: Run,
    node: Path,
    producer: Producer,
    tmp_path: Path,
    start_webhook: Callable[..., subprocess.Popen[bytes]],
) -> None:
    port, rounds, over = receive(run, node, "slow.mjs"), 0, threading.Event()

    def load() -> None:
        nonlocal rounds
        while not over.wait(0.4):
            many(producer, 20, 5, start=20 * rounds)
            rounds += 1

    def came() -> int:
        return len(lines(tmp_path / "received"))

    senders = [start_webhook(port) for _ in range(2)]
    lease = Keys(producer.settings.namespace).push("lease", "crm")
    wait_for(lambda: producer.redis.exists(lease))
    thread = threading.Thread(target=load)
    thread.start()
    for sender in senders:  # one of them sends; the other takes over after 5 s
        before = came()
        wait_for(lambda at=before: came() > at)
        sender.send_signal(signal.SIGSTOP)
        before = came()
        wait_for(lambda at=before: came() > at + 100, 60)  # more than it had on their way
        sender.send_signal(signal.SIGCONT)
    over.set()
    thread.join()
    wait_for(lambda: came() >= 100 * rounds, 60)
    wait_for(lambda: left(producer, "crm") == 0)
    received = [line.split()[0] for line in lines(tmp_path / "received")]
    assert len(received) == 100 * rounds
    assert in_order(received)


def test_a_wrong_secret_is_refused_by_the_receiver(
    run: Run,
    node: Path,
    producer: Producer,
    tmp_path: Path,
    start_webhook: Callable[..., subprocess.Popen[bytes]],
) -> None:
    many(producer, 1)
    start_webhook(receive(run, node, secret="whsec_" + "c2Vjb25k" * 5))
    log = tmp_path / "webhook.log"
    wait_for(lambda: '"reason": "http-400"' in log.read_text() or "http-400" in log.read_text())
    assert lines(tmp_path / "received") == []


def test_lists_carry_more_than_single_requests(
    run: Run,
    node: Path,
    producer: Producer,
    tmp_path: Path,
    start_webhook: Callable[..., subprocess.Popen[bytes]],
) -> None:
    received, rates = tmp_path / "received", list[float]()
    port, start, keys = receive(run, node, "slow.mjs"), 0, Keys(producer.settings.namespace)
    cases = ((200, ["--concurrency", "1"]), (3000, []), (10_000, ["--batch", "100"]))
    for total, options in cases:
        before = len(lines(received))
        sender = start_webhook(port, *options)
        wait_for(lambda: producer.redis.exists(keys.push("lease", "crm")))
        many(producer, total, start=start)
        start += total
        wait_for(lambda before=before: len(lines(received)) > before)
        first, began = len(lines(received)), time.perf_counter()
        wait_for(lambda goal=before + total: len(lines(received)) >= goal, 60)
        rates.append((total - (first - before)) / (time.perf_counter() - began))
        sender.terminate()
        sender.wait(20)
    print("events/s one at a time, 32 at once, in lists of 100:", *map(round, rates))
    assert rates[1] > 4 * rates[0]
    assert rates[2] > 25 * rates[0]  # 20 a second, were it not for the 50 ms


# Forward


@pytest.fixture(scope="session")
def celery(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The Python of an environment with Celery, and without our package."""
    folder = tmp_path_factory.mktemp("celery")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True)
    pip = [sys.executable, "-W", "ignore", "-m", "pip", "--python", folder / "bin" / "python"]
    constraints = ["-c", ROOT / "ops" / "constraints.txt"]
    quiet = ["--quiet", "--disable-pip-version-check"]
    subprocess.run([*pip, "install", *quiet, *constraints, "celery[redis,yaml]"], check=True)
    return folder / "bin" / "python"


def answers(port: int) -> bool:
    with suppress(OSError), urlopen(f"http://127.0.0.1:{port}/healthz", timeout=1) as answer:
        return bool(answer.status == 200)
    return False


YAML = (
    'app.conf.update(task_serializer="yaml", accept_content=["yaml"], result_serializer="yaml")\n'
)


@pytest.fixture(scope="module")
def rabbit() -> Iterator[Rabbit]:
    with rabbitmq() as made:
        yield made


@pytest.fixture(params=["redis", "rabbitmq"])
def broker(request: pytest.FixtureRequest, redis_server: RedisServer) -> str:
    """The URL of the app's broker."""
    if request.param == "redis":
        return redis_server.url.rpartition("/")[0] + "/3"
    made: Rabbit = request.getfixturevalue("rabbit")
    return made.url


@pytest.mark.parametrize(
    ("broker", "serializer"),
    [("redis", "json"), ("redis", "yaml"), ("rabbitmq", "json")],
    indirect=["broker"],
)
def test_killed_again_and_again_every_event_runs_in_the_apps_worker(
    run: Run,
    celery: Path,
    producer: Producer,
    tmp_path: Path,
    broker: str,
    serializer: str,
) -> None:
    chance = random.Random(2)
    code = BLOCKS["shop.py"].replace("redis://shop-redis:6379/0", broker)
    code = code.replace('["final"])', '["final"], file=open("ran", "a"))')
    (tmp_path / "shop.py").write_text(code + (YAML if serializer == "yaml" else ""))
    alone = subprocess.run(
        [celery, "-c", "import viber_courier"], cwd="/", check=False, capture_output=True
    )
    assert b"ModuleNotFoundError" in alone.stderr
    worker = run(
        "worker", *[celery, "-m", "celery", "-A", "shop", "worker", "-l", "INFO"], "-Qshop"
    )
    options = ["--group", "shop", "--broker", broker, "--task", "shop.on_result", "--queue", "shop"]
    port = free_port()
    options += ["--serializer", serializer, "--consumer", "one", "--port", str(port)]
    total = 0
    for _ in range(4):
        forward = run("forward.log", *COURIER, "forward", *options)
        for _ in range(5):
            many(producer, 40, start=total)
            total += 40
            time.sleep(chance.uniform(0.2, 0.6))
        forward.send_signal(signal.SIGKILL)
        forward.wait(10)
    forward = run("forward.log", *COURIER, "forward", *options)

    wait_for(lambda: len({*lines(tmp_path / "ran")}) == total, 180)
    wait_for(lambda: left(producer, "shop") == 0)
    wait_for(lambda: answers(port))  # else it does not handle TERM yet
    forward.terminate()
    assert forward.wait(20) == 0
    # And a task that came twice has the same id
    found = re.findall(r"on_result\[([0-9a-f-]{36})\] received", (tmp_path / "worker").read_text())
    assert len({*found}) == total
    worker.terminate()
    worker.wait(30)


def test_a_rabbit_that_is_killed_keeps_what_it_has_confirmed(
    producer: Producer, rabbit: Rabbit
) -> None:
    declare(rabbit, "shop", {"x-queue-type": "quorum"})  # what Celery's detect_quorum_queues is for
    rabbit.sync()
    many(producer, 500)

    async def run() -> None:
        async with forwarding(producer, rabbit.url, batch=50) as metrics:
            await until(lambda: metric(metrics, "courier_push_events_total") >= 100, 60)
            await asyncio.to_thread(rabbit.kill)
            many(producer, 500, start=500)
            await until(lambda: metric(metrics, "courier_push_failing_seconds") > 0)
            await asyncio.to_thread(rabbit.start)
            await until(lambda: metric(metrics, "courier_push_events_total") == 1000, 120)

    asyncio.run(run())
    found = [message.payload[0][0]["id"] for message in tasks(rabbit.url)]
    assert len(found) >= 1000 and {*found} == {f"m{n}:1" for n in range(1000)}


@pytest.mark.parametrize("arguments", [{"x-queue-type": "quorum"}, {"x-max-priority": 10}])
def test_a_rabbits_queue_may_be_of_any_type(
    producer: Producer, rabbit: Rabbit, arguments: dict[str, Any]
) -> None:
    declare(rabbit, "shop", arguments)
    many(producer, 2)

    async def run() -> None:
        async with forwarding(producer, rabbit.url) as metrics:
            await until(lambda: metric(metrics, "courier_push_events_total") == 2)

    asyncio.run(run())
    assert len(tasks(rabbit.url)) == 2


def test_events_wait_for_a_rabbits_queue_that_is_missing_or_full(
    producer: Producer, rabbit: Rabbit, caplog: pytest.LogCaptureFixture
) -> None:
    declare(rabbit, "shop", None)
    many(producer, 2)

    def said(text: str) -> bool:
        return any(vars(each).get("error") == text for each in caplog.records)

    async def run() -> None:
        async with forwarding(producer, rabbit.url) as metrics:
            # Given no worker of the app so far
            await until(lambda: said("no queue shop: the app's worker makes it"))
            assert left(producer, "crm") == 2
            # When there is one whose queue takes a single task
            declare(rabbit, "shop", {"x-max-length": 1, "x-overflow": "reject-publish"})
            await until(lambda: said("queue shop is full"))
            assert (left(producer, "crm"), taken()) == (2, ["m0:1"])
            # Then the rest comes when there is room
            await until(lambda: left(producer, "crm") == 0)
            assert metric(metrics, "courier_push_events_total") == 2

    def taken() -> list[str]:
        return [message.payload[0][0]["id"] for message in tasks(rabbit.url)]

    asyncio.run(run())
    assert taken() == ["m1:1"]


def declare(rabbit: Rabbit, name: str, arguments: dict[str, Any] | None) -> None:
    """Makes a queue as the app's worker does, in place of any that was there; None: makes none."""
    with kombu.Connection(rabbit.url) as connection:
        connection.default_channel.queue_delete(name)
        if arguments is not None:
            queue = kombu.Queue(name, kombu.Exchange(name), name, queue_arguments=arguments)
            queue.bind(connection.default_channel).declare()

"""Real parts for the tests: Redis, the simulator, Celery workers; each ended by its id."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import pty
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import fakeredis
import pytest
import redis

from tests.awaited import Loop, awaited
from viber_courier import Producer
from viber_courier.ops.redis_server import RedisServer
from viber_courier.schemas.settings import Settings
from viber_courier.store.connection import connect

# What a base install lacks is imported where it is used: tests/versions does without.
if TYPE_CHECKING:
    from click.testing import Result

# A job in the background starts with SIGINT ignored, and its processes inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)

ROOT = Path(__file__).parents[1]
_numbers = itertools.count(1)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def wait_for(condition: Callable[[], Any], seconds: float = 20.0, what: str = "") -> Any:
    """Wait until the condition holds and return what it gave; AssertionError at the deadline."""
    deadline = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < deadline, what or "the condition did not hold in time"
        time.sleep(0.02)
    return value


@pytest.fixture(scope="session")
def redis_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    server = RedisServer(tmp_path_factory.mktemp("redis"), free_port())
    server.start()
    yield server
    server.stop()


@pytest.fixture
def own_server(tmp_path: Path) -> Iterator[RedisServer]:
    """A server that no other test uses."""
    server = RedisServer(tmp_path, free_port())
    server.start()
    yield server
    server.stop()


@pytest.fixture
def namespace() -> str:
    """A fresh namespace for each test: nothing is ever flushed."""
    return f"t{next(_numbers)}"


@pytest.fixture(params=["redis", "fakeredis"])
def client(request: pytest.FixtureRequest) -> Iterator[redis.Redis]:
    """The contract suite's server: a real one and fakeredis."""
    if request.param == "redis":
        made = connect(request.getfixturevalue("redis_server").url)
    else:
        made = fakeredis.FakeRedis(server=fakeredis.FakeServer(), decode_responses=True)
    yield made
    made.close()


@pytest.fixture
def settings(namespace: str) -> Settings:
    """Loud where a test forgets to say more: the provider's address leads nowhere."""
    return Settings(namespace=namespace, api_url="https://you-forgot-the-simulator.invalid")


def pytest_runtest_setup(item: pytest.Item) -> None:
    """pytest has one handler for all tests: a worker's log, set up in one, would be in the next."""
    plugin: Any = item.config.pluginmanager.get_plugin("logging-plugin")
    for handler in (plugin.caplog_handler, plugin.report_handler):
        handler.filters.clear()
        handler.setFormatter(plugin.formatter)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """AsyncProducer over fakeredis: one of the suites has it, the others would take too long."""
    rare = [i for i in items if "fakeredis-asyncio" in i.name and "test_dead" not in i.nodeid]
    items[:] = [item for item in items if item not in rare]


@pytest.fixture
def face() -> str:
    """Which face of the rules a test sees; the contract suites have both."""
    return "blocking"


@pytest.fixture
def producer(client: redis.Redis, settings: Settings, face: str) -> Iterator[Producer]:
    """Producer, or where ``face`` is asyncio an AsyncProducer behind the same calls."""
    if face == "blocking":
        yield Producer(settings, client=client)
        return
    with closing(Loop()) as loop, closing(awaited(loop, settings, client)) as made:
        yield made


class Simulator:
    """The provider's double as a process of its own."""

    def __init__(self, *options: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "viber_courier.ops.simulator", "--port", "0", *options],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        assert self.process.stdout is not None
        self.url = self.process.stdout.readline().split()[-1]

    def get(self, path: str) -> Any:
        return self._request("GET", path, timeout=60).json()

    def fault(self, **rule: Any) -> None:
        self.faults([rule])

    def faults(self, rules: list[dict[str, Any]]) -> None:
        self._request("POST", "faults", json=rules)

    def forget_faults(self) -> None:
        self._request("DELETE", "faults")

    def reset(self) -> None:
        self._request("POST", "reset")

    def _request(self, method: str, path: str, timeout: float = 10, **options: Any) -> Any:
        import requests

        url = f"{self.url}/admin/{path}"
        answer = requests.request(method, url, timeout=timeout, **options)
        answer.raise_for_status()
        return answer

    def accepted(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self.get("accepted")
        return found

    def stop(self) -> None:
        self.process.terminate()
        self.process.wait(10)
        assert self.process.stdout is not None
        self.process.stdout.close()


@pytest.fixture(scope="session")
def simulator_process() -> Iterator[Simulator]:
    made = Simulator("--step", "0.2", "--seed", "7")
    yield made
    made.stop()


@pytest.fixture
def simulator(simulator_process: Simulator) -> Simulator:
    simulator_process.reset()
    return simulator_process


class Worker:
    """``celery -A viber_courier.worker worker -B`` as a supervisor runs it; keeps its log."""

    COMMAND = (sys.executable, "-m", "celery", "-A", "viber_courier.worker", "worker")
    MORE: tuple[str, ...] = ("-c", "2", "--without-gossip", "--without-mingle", "-l", "INFO")

    def __init__(
        self,
        env: dict[str, str],
        folder: Path,
        *options: str,
        beat: bool = True,
        command: Sequence[str] = COMMAND,
    ) -> None:
        self.process = subprocess.Popen(
            [*command, *(["-B"] if beat else []), *self.MORE, *options],
            env={**os.environ, **env},
            cwd=folder,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        self.lines: list[str] = []
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        with self.process.stdout as stream:
            self.lines.extend(iter(stream.readline, ""))

    @property
    def log(self) -> str:
        return "".join(self.lines)

    def ready(self) -> Worker:
        wait_for(lambda: " ready." in self.log or self.process.poll() is not None, 30)
        assert self.process.poll() is None, self.log
        return self

    def kill(self) -> None:
        """kill -9 of the whole process group, children and beat included."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self._end()

    def stop(self) -> None:
        if self.process.poll() is None:
            self.process.terminate()
        try:
            self._end()
        except subprocess.TimeoutExpired:
            self.kill()

    def _end(self) -> None:
        self.process.wait(40)
        self._reader.join(10)


@pytest.fixture
def system_env(redis_server: RedisServer, simulator: Simulator, namespace: str) -> dict[str, str]:
    """A whole installation in miniature: every wait is short."""
    return {
        "COURIER_REDIS_URL": redis_server.url,
        "COURIER_NAMESPACE": namespace,
        "COURIER_API_URL": simulator.url,
        "COURIER_API_LOGIN": "tester",
        "COURIER_API_PASSWORD": "111111",
        "COURIER_POLL_DELAYS": "0.2,0.4",
        "COURIER_RETRY_BASE": "0.3",
        "COURIER_READ_WINDOW": "2",
        "COURIER_SMS_GRACE": "2",
        "COURIER_SWEEP_INTERVAL": "0.3",
    }


@pytest.fixture
def start_worker(system_env: dict[str, str], tmp_path: Path) -> Iterator[Callable[..., Worker]]:
    """Start workers with more options or other settings; all are ended with the test."""
    started: list[Worker] = []

    def start(
        *options: str, beat: bool = True, command: Any = Worker.COMMAND, **env: str
    ) -> Worker:
        env = {**system_env, **env}
        started.append(Worker(env, tmp_path, *options, beat=beat, command=command))
        return started[-1].ready()

    yield start
    for worker in started:
        worker.kill()


@pytest.fixture
def app(system_env: dict[str, str]) -> Iterator[Producer]:
    producer = Producer.from_env(system_env)
    yield producer
    producer.close()


def ends(producer: Producer, count: int, seconds: float = 60.0) -> dict[str, list[dict[str, Any]]]:
    """Every event of every message, by message, once that many have ended."""
    seen: dict[str, list[dict[str, Any]]] = defaultdict(list)
    final: set[str] = set()
    deadline = time.monotonic() + seconds
    while len(final) < count and time.monotonic() < deadline:
        for event in producer.results("test", "one", block=1.0):
            event.ack()
            seen[event.subject].append({"id": event.id, **event.data})
            if event.data["final"]:
                final.add(event.subject)
            if len(final) >= count:
                break
    assert len(final) == count, Counter(events[-1]["status"] for events in seen.values())
    return seen


def check_events(seen: dict[str, list[dict[str, Any]]]) -> None:
    """Numbers without gaps, one final event, the last."""
    for id, events in seen.items():
        assert [event["id"] for event in events] == [f"{id}:{n + 1}" for n in range(len(events))]
        assert [event["final"] for event in events] == [False] * (len(events) - 1) + [True]


def log_lines(log: str, text: str, **data: Any) -> list[dict[str, Any]]:
    """Lines of a log with this text and at least these data."""
    objects = [json.loads(line) for line in log.splitlines() if line.startswith("{")]
    wanted = {"text": text, **data}.items()
    return [line for line in objects if wanted <= line.items()]


class Clock:
    """The Redis server's clock as the scripts see it, moved ahead by the test."""

    def __init__(self) -> None:
        self.ahead = 0.0
        self._frozen: float | None = None

    def __call__(self) -> int:
        now = time.time() if self._frozen is None else self._frozen
        return int((now + self.ahead) * 1_000_000)

    def freeze(self) -> None:
        """Let no time pass by itself, however slow the machine."""
        self._frozen = time.time()

    def advance(self, seconds: float) -> None:
        self.ahead += seconds


@pytest.fixture
def clock() -> Clock:
    return Clock()


class Courier:
    """The command line in this process, by the settings in ``env``."""

    def __init__(self, env: dict[str, str]) -> None:
        self.env = env

    def __call__(self, *args: str, code: int = 0, input: str | None = None, **env: str) -> Result:
        """Run a command; AssertionError unless it ends with this exit code."""
        from click.testing import CliRunner

        from viber_courier.ops.cli import main

        whole = {name: None for name in os.environ if name.startswith("COURIER_")}
        got = CliRunner().invoke(main, args, input=input, env={**whole, **self.env, **env})
        if got.exception and not isinstance(got.exception, SystemExit):
            raise got.exception
        assert got.exit_code == code, got.output
        assert "Traceback" not in got.output
        return got

    def json(self, *args: str, code: int = 0, **more: str) -> Any:
        """The one JSON document that it prints with --json."""
        return json.loads(self(*args, "--json", code=code, **more).stdout)

    def start(self, *args: str, **more: Any) -> subprocess.Popen[str]:
        """Run a command as a process of its own."""
        return subprocess.Popen(
            [sys.executable, "-c", "from viber_courier.ops.cli import main; main()", *args],
            env={**os.environ, **self.env},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            **more,
        )

    def type(self, answer: str, *args: str) -> tuple[int, str, str]:
        """Run a command on a terminal and type a line; its exit code, stdout and stderr."""
        person, terminal = pty.openpty()
        try:
            process = self.start(*args, stdin=terminal)
            os.write(person, f"{answer}\n".encode())
            stdout, stderr = process.communicate(timeout=30)
            return process.returncode, stdout, stderr
        finally:
            os.close(person)
            os.close(terminal)


@pytest.fixture
def courier(redis_server: RedisServer, namespace: str) -> Courier:
    return Courier({"COURIER_REDIS_URL": redis_server.url, "COURIER_NAMESPACE": namespace})


Start = Callable[..., Worker]
"""The start_worker fixture."""


def text_job(address: str = "79250000001", **more: Any) -> dict[str, Any]:
    """A small valid job."""
    return {
        "subject": "Shop",
        "priority": "high",
        "contentType": "text",
        "content": {"text": "Код 1234 🙂"},
        "address": address,
        **more,
    }


def common_job(**more: Any) -> dict[str, Any]:
    """What a campaign's rows share: all of a small job but the address."""
    return {name: value for name, value in text_job(**more).items() if name != "address"}


def iso_in(seconds: float) -> str:
    """That many seconds ahead, as ``sendAt`` takes it."""
    return (datetime.now(UTC) + timedelta(seconds=seconds)).isoformat()


def events_of(client: redis.Redis, settings: Settings, id: str | None = None) -> list[Any]:
    """Result events on the stream, oldest first; of one message where ``id`` is given."""
    entries: Any = client.xrange(f"{{{settings.namespace}}}:results")
    events = [json.loads(fields["event"]) for _, fields in entries]
    return [event for event in events if id in (None, event["subject"])]


@pytest.fixture(scope="session", autouse=True)
def no_file_is_loaded_under_two_names() -> Iterator[None]:
    """As ``viber_courier.worker.send`` and as ``worker.send``; looked at after all tests."""
    yield
    names = defaultdict[str, list[str]](list)
    for name, module in list(sys.modules.items()):
        file = Path(getattr(module, "__file__", None) or "/").resolve()
        if file.is_relative_to(ROOT) and ".venv" not in file.parts:
            names[str(file)].append(name)
    assert names, "none of our modules is loaded: this looks in the wrong place"
    assert not {file: found for file, found in names.items() if len(found) > 1}

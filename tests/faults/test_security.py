"""Secrets, phone numbers and texts: a run full of errors shows none of them anywhere."""

from __future__ import annotations

import base64
import contextlib
import itertools
import json
import os
import pickle
import re
import subprocess
import threading
import time
import traceback
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
import redis
import requests
from celery import Celery
from kombu import pools

from tests.conftest import Simulator, Worker, free_port, iso_in, text_job, wait_for
from tests.faults.parts import CELERY, Supervised
from viber_courier import ConfigError, CourierError, Producer
from viber_courier.ops.redis_server import RedisServer
from viber_courier.schemas.message import parse_job
from viber_courier.schemas.settings import Settings
from viber_courier.store.leases import Store
from viber_courier.worker.bells import Bells
from viber_courier.worker.decisions import Decider
from viber_courier.worker.poll import Poller
from viber_courier.worker.provider import Provider
from viber_courier.worker.send import Sender

API_PASSWORD = "Zq7api-p4ss:w/rd@"
STORE_PASSWORD = "Zq7store-p4ss/w@rd"
BROKER_PASSWORD = "Zq7broker-p4ss%w?rd"
PHONE = "792511100"
"""All numbers of this run begin so."""
TEXT = "Zq7-text"
LOGIN = "tester"
PERSONAL = re.compile(rb"\{[a-z0-9]+\}:(m|c|common):|[a-z0-9]+\.enqueue|unacked$")
"""Redis keys that may hold numbers and texts: records, contents, courier.enqueue on its way."""

PROBE = """
import logging, os, traceback
from viber_courier.worker.celery import intake
intake.time_limit = 2
handle = logging.Logger.handle
def dump(self, record):
    handle(self, record)  # after the filters: what any handler, however it formats, can see
    why = "".join(traceback.format_exception(*record.exc_info)) if record.exc_info else ""
    with open(os.environ["PROBE"], "a") as file:
        file.write(f"{record.__dict__!r} {why}\\n")
logging.Logger.handle = dump
"""


def spellings(text: str) -> set[bytes]:
    """A text as it may turn up: plain, in a URL, and in the middle of something in base64."""
    raw = text.encode()
    found = {raw, quote(text, safe="").encode(), json.dumps(text)[1:-1].encode()}
    for offset in range(3):
        code = base64.b64encode(b"\0" * offset + raw)
        found.add(code[4 if offset else 0 : len(code) - 4])
    return found


SECRETS = {
    "API password": spellings(API_PASSWORD),
    "Authorization": {base64.b64encode(f"{LOGIN}:{API_PASSWORD}".encode())},
    "store's password": spellings(STORE_PASSWORD),
    "broker's password": spellings(BROKER_PASSWORD),
}
PERSONS = {"phone number": spellings(PHONE), "text": spellings(TEXT)}


def leaks(where: str, data: bytes, *, persons: bool = True) -> list[str]:
    """What of all that must not show does show."""
    wanted = SECRETS | (PERSONS if persons else {})
    found = []
    for what, forms in wanted.items():
        for form in forms:
            if (place := data.find(form)) >= 0:
                found.append(f"{what} in {where}: {data[max(0, place - 120) : place + 60]!r}")
                break
    return found


def stored(url: str) -> Iterator[tuple[bytes, bytes]]:
    """Every key of every database with all it holds."""
    for number in range(16):
        with redis.Redis.from_url(url.rpartition("/")[0] + f"/{number}") as client:
            for key in client.scan_iter(count=1000):
                kind = client.type(key).decode()
                read: dict[str, Callable[[], Any]] = {
                    "string": lambda key=key, c=client: c.get(key),
                    "hash": lambda key=key, c=client: c.hgetall(key),
                    "list": lambda key=key, c=client: c.lrange(key, 0, -1),
                    "set": lambda key=key, c=client: c.smembers(key),
                    "zset": lambda key=key, c=client: c.zrange(key, 0, -1, withscores=True),
                    "stream": lambda key=key, c=client: c.xrange(key),
                    "none": lambda: b"",
                }
                yield key, _flat(read[kind]())


def _flat(value: Any) -> bytes:
    if isinstance(value, bytes):
        return value
    if isinstance(value, dict):
        value = [each for pair in value.items() for each in pair]
    if isinstance(value, list | tuple | set):
        return b"\n".join(map(_flat, value))
    return repr(value).encode()


def processes(parent: int) -> list[Path]:
    """The /proc folders of a process and all that descend from it."""
    children: dict[int, list[int]] = {}
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            above = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
            children.setdefault(above, []).append(int(folder.name))
    found, wanted = list[Path](), [parent]
    while wanted:
        found.append(Path("/proc") / str(wanted[0]))
        wanted += children.get(wanted.pop(0), [])
    return found


class Watch:
    """Flower's view, kept: every event, and every answer to what its pages ask of workers."""

    def __init__(self, url: str) -> None:
        self._url, self.app = url, Celery(broker=url, set_as_current=False)
        self.events: list[bytes] = []
        self.answers: list[bytes] = []
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._listen)
        self._thread.start()

    def _listen(self) -> None:
        def take(event: dict[str, Any]) -> None:
            self.events.append(repr(event).encode())

        while not self._end.is_set():
            with contextlib.suppress(Exception), self.app.connection_for_read() as connection:
                receiver = self.app.events.Receiver(connection, handlers={"*": take})
                for _ in receiver.itercapture(limit=None, timeout=1.0, wakeup=False):
                    pass

    def ask(self) -> str:
        """What Flower and ``celery inspect`` show of workers now."""
        names = ("active", "reserved", "scheduled", "conf", "stats", "report", "active_queues")
        pools.reset()  # Redis may have restarted
        with Celery(broker=self._url, set_as_current=False) as app:
            inspect = app.control.inspect(timeout=1.0)
            self.answers += [repr(getattr(inspect, name)()).encode() for name in names]
        return b"".join(self.answers[-7:-5]).decode()

    def close(self) -> None:
        self._end.set()
        self._thread.join(10)
        self.app.close()


@pytest.fixture
def servers(tmp_path: Path) -> Iterator[dict[str, RedisServer]]:
    made = {}
    for name, password in (("store", STORE_PASSWORD), ("broker", BROKER_PASSWORD)):
        folder = tmp_path / name
        folder.mkdir()
        secret = folder / "secret.conf"
        secret.write_text(f'requirepass "{password}"\n')  # not an option: those show in ps
        server = RedisServer(folder, free_port(), ("--include", str(secret)))
        server.url = f"redis://:{quote(password, safe='')}@127.0.0.1:{server.port}/0"
        server.start()
        made[name] = server
    yield made
    for server in made.values():
        server.stop()


@pytest.fixture
def provider(monkeypatch: pytest.MonkeyPatch) -> Iterator[Simulator]:
    with monkeypatch.context() as only_there:
        only_there.setenv("SIMULATOR_PASSWORD", API_PASSWORD)
        made = Simulator("--step", "0.2", "--seed", "7")
    yield made
    made.stop()


@pytest.fixture
def env(
    servers: dict[str, RedisServer], provider: Simulator, namespace: str, tmp_path: Path
) -> dict[str, str]:
    """Secrets come from files, so that not even /proc/<pid>/environ holds them."""
    (tmp_path / "probe.py").write_text(PROBE)
    values = {
        "COURIER_REDIS_URL": servers["store"].url,
        "COURIER_BROKER_URL": servers["broker"].url,
        "COURIER_API_PASSWORD": API_PASSWORD,
    }
    for name, value in values.items():
        (tmp_path / name).write_text(value)
    return {
        **{f"{name}_FILE": str(tmp_path / name) for name in values},
        "COURIER_NAMESPACE": namespace,
        "COURIER_API_URL": provider.url,
        "COURIER_API_LOGIN": LOGIN,
        "COURIER_POLL_DELAYS": "0.2,0.4",
        "COURIER_RETRY_BASE": "0.2",
        "COURIER_RETRY_CAP": "1",
        "COURIER_CONNECT_TIMEOUT": "0.3",
        "COURIER_READ_TIMEOUT": "0.4",
        "COURIER_LEASE": "2",
        "COURIER_SWEEP_INTERVAL": "0.3",
        "PYTHONPATH": str(tmp_path),
        "PROBE": str(tmp_path / "records.log"),
    }


ECHO = json.dumps({"status": 401, "message": f"{LOGIN}:{API_PASSWORD} {PHONE}0001 {TEXT}"})
FAULTS: list[dict[str, Any]] = [
    *({"kind": "status", "code": f"error-{code}"} for code in ("auth", "account-locked")),
    *({"kind": "status", "code": f"error-{code}"} for code in ("system", "syntax", "never-heard")),
    *({"kind": "entry", "code": f"error-{code}"} for code in ("system", "subject-unknown", "new")),
    {"kind": "status", "code": f"error-{PHONE}0001-{TEXT}"},
    {"kind": "entry", "code": f"error-{PHONE}0001-{TEXT}"},
    *({"kind": "http", "code": code, "body": ECHO} for code in (400, 401, 403, 404, 500, 503)),
    *({"kind": kind, "times": 1} for kind in ("redirect", "drop_before", "drop_after")),
    *({"kind": kind} for kind in ("hang_before", "hang_after", "slow", "trickle", "oversized")),
    *(
        {"kind": kind}
        for kind in (*("disagree", "garbled", "short", "long"), *("no_id", "same_id", "quoted"))
    ),
]


COMMAND = (*CELERY, "worker", "-B", "-c", "2", "-E", "-l", "DEBUG", "-I", "probe")


class Run:
    """A worker that logs and tells all that it can, somebody who listens, and what goes wrong."""

    def __init__(
        self,
        servers: dict[str, RedisServer],
        provider: Simulator,
        env: dict[str, str],
        folder: Path,
    ) -> None:
        self.store, self.broker = servers["store"], servers["broker"]
        self.provider, self.env, self.folder = provider, env, folder
        self.namespace = env["COURIER_NAMESPACE"]
        self.app, self.watch = Producer.from_env(env), Watch(self.broker.url)
        self.worker = Supervised(COMMAND, env, folder)
        self.numbers = itertools.count(1)
        self.found: list[str] = []

    def close(self) -> None:
        self.worker.stop()
        self.watch.close()
        self.app.close()

    def job(self, **more: Any) -> dict[str, Any]:
        text = {"text": f"{TEXT} {'long ' * 20}"}
        return text_job(f"{PHONE}{next(self.numbers):04}", content=text, **more)

    def send(
        self, *args: Any, name: str = "courier.enqueue", to: str = "enqueue", **more: Any
    ) -> Any:
        return self.watch.app.send_task(name, args=args, queue=f"{self.namespace}.{to}", **more)

    def look(self) -> None:
        """At every key of both Redis and at every process of the worker."""
        for server in (self.store, self.broker):
            for key, value in stored(server.url):
                self.found += leaks(f"key {key!r}", key)
                self.found += leaks(f"{key!r}", value, persons=not PERSONAL.match(key))
        for folder in processes(self.worker.process.pid):
            with contextlib.suppress(OSError):
                self.found += leaks(str(folder / "cmdline"), (folder / "cmdline").read_bytes())
                self.found += leaks(str(folder / "environ"), (folder / "environ").read_bytes())

    def said(self, text: str, seconds: float = 30) -> None:
        wait_for(lambda: text in self.worker.log, seconds, text)

    def open_gates(self) -> None:
        """What would keep everybody waiting for a minute."""
        self.app.redis.delete(*(f"{{{self.namespace}}}:gate:{what}" for what in ("send", "poll")))

    def fired(self) -> int:
        self.open_gates()
        count: int = self.provider.get("faults")[-1]["fired"]
        return count

    def every_fault(self, on: str) -> None:
        for fault in FAULTS:
            self.provider.fault(**{"times": 2, **fault, "on": on})
            self.app.enqueue(self.job(priority="realtime"))
            self.app.enqueue(self.job(priority="realtime"))
            wait_for(self.fired, 20, str(fault))
            requests.delete(f"{self.provider.url}/admin/faults", timeout=10).raise_for_status()
            self.open_gates()
        self.look()

    def wrong_tasks(self) -> None:
        """No job, no task of ours, no JSON; arguments that are shown on purpose."""
        send, job = self.send, self.job
        send([job()], argsrepr=f"({PHONE}0001,)", kwargsrepr=f"{{{TEXT}}}", shadow=TEXT)
        send([job()], headers={"argsrepr": PHONE, "root_id": PHONE, "stamps": {"a": TEXT}})
        send([job(sendAt=f"{PHONE}")], [job()])
        send(kwargs={"jobs": [job()], TEXT: PHONE})
        send([job()], name="courier.enqueu")
        send([job()], name=f"courier.{PHONE}.{TEXT}")
        send([job()], name="courier.send", to="send.high")
        send(f"{PHONE}0001", name="courier.send", to="send.high")
        send("high", f"{PHONE}", name="courier.send", to="send.high")
        send(name="courier.poll", to="poll", kwargs={TEXT: PHONE})
        send([job()], serializer="pickle")
        send([job()], eta=iso_in(3600))  # held until then
        send([job()], expires=time.time() - 5)
        send([job(id="limits")], soft_time_limit=0.001, time_limit=0.001)
        send([job(id="late")], link=self.watch.app.signature(TEXT, args=[PHONE]))
        self.raw(f'[{{"address": "{PHONE}0002", "{TEXT}'.encode())
        self.raw(f'"{PHONE}0002 {TEXT}"'.encode())
        for id in ("late", "limits"):
            wait_for(lambda id=id: self.app.get(id), what=id)
        for why in ("unknown task", "can't be decoded", "invalid task"):
            self.said(f"message refused: {why}")
        self.look()

    def raw(self, body: bytes, **headers: Any) -> None:
        post(self.broker.url, f"{self.namespace}.enqueue", body, **headers)

    def store_hangs(self) -> None:
        """So that time limits fire in a send and in an enqueue; others wait for a slot."""
        self.provider.fault(kind="hang_before", times=1)
        self.app.enqueue(self.job(priority="realtime"))
        wait_for(self.fired)
        with redis.Redis.from_url(self.store.url) as client:
            client.execute_command("CLIENT", "PAUSE", "6000")
        self.send([self.job(id="paused")])
        for _ in range(4):
            self.send([self.job(), self.job()])
        shown = self.watch.ask()
        assert "courier.intake" in shown, shown
        self.said("exceeded for courier.send")
        self.said("Hard time limit (2s) exceeded for courier.intake")
        wait_for(lambda: self.app.get("paused"), 60)

    def redis_restarts(self) -> None:
        for server in (self.store, self.broker):
            server.stop()
            self.app.redis.close()
            time.sleep(0.5)
            server.start()
        wait_for(lambda: _stored(self.app, self.job(id="after")), 30)

        def read() -> bool:
            self.open_gates()
            return (record := self.app.get("after")) is not None and record.status == "read"

        wait_for(read, 60)
        self.watch.ask()
        self.look()

    def report(self) -> bytes:
        return subprocess.run(
            [*CELERY, "report"],
            env={**os.environ, **self.env},
            cwd=self.folder,
            capture_output=True,
            check=True,
        ).stdout


def test_a_run_full_of_errors_shows_no_secret_number_or_text(
    servers: dict[str, RedisServer], provider: Simulator, env: dict[str, str], tmp_path: Path
) -> None:
    run = Run(servers, provider, env, tmp_path)
    try:
        # When everything goes wrong
        run.said(" ready.")
        run.every_fault("send")
        run.every_fault("status")
        run.wrong_tasks()
        run.store_hangs()
        run.redis_restarts()
        report = run.report()
    finally:
        run.close()
    # Then nothing shows anywhere
    found = run.found + leaks("log", run.worker.log.encode()) + leaks("report", report)
    found += leaks("log records", (tmp_path / "records.log").read_bytes())
    for event in run.watch.events:
        found += leaks("event", event)
    for answer in run.watch.answers:
        found += leaks("inspect", answer)
    assert not found, "\n".join(sorted(set(found)))
    # And there was something to see
    assert b"broker_url" in report and any(b"broker_url" in each for each in run.watch.answers)
    assert any(b"task-received" in event for event in run.watch.events)
    assert "paused" in run.worker.log and "request sent" in run.worker.log
    assert len(run.watch.events) > 50


WRONG = [
    {"COURIER_REDIS_URL": f"redis://:{STORE_PASSWORD}@127.0.0.1:1/0"},  # not quoted
    {"COURIER_REDIS_URL": f"http://:{quote(STORE_PASSWORD, safe='')}@127.0.0.1:1/0"},
    {"COURIER_REDIS_URL": f"sentinel://:{quote(STORE_PASSWORD, safe='')}@h:x/0?master=m"},
    {"COURIER_BROKER_URL": f"amqp://u:{quote(BROKER_PASSWORD, safe='')}@127.0.0.1:1/0"},
    {"COURIER_API_URL": f"https://{LOGIN}:{quote(API_PASSWORD, safe='')}@127.0.0.1"},
    {"COURIER_API_URL": f"http://example.com/{quote(API_PASSWORD, safe='')}"},
    {"COURIER_API_LOGIN": f"{LOGIN}:{API_PASSWORD}"},
    {"COURIER_API_PASSWORD": f"{API_PASSWORD}\n{API_PASSWORD}"},
    {"COURIER_PROXY": f"socks5://u:{quote(API_PASSWORD, safe='')}@127.0.0.1"},
    *({name: API_PASSWORD} for name in ("COURIER_ALLOW", "COURIER_LEASE", "COURIER_NAMESPACE")),
    *({name: API_PASSWORD} for name in ("COURIER_POLL_DELAYS", "COURIER_BATCH_SIZE")),
    {"COURIER_API_PASSWORD": API_PASSWORD, "COURIER_API_PASSWORD_FILE": __file__},
]


@pytest.mark.parametrize("wrong", WRONG, ids=range(len(WRONG)))
def test_a_wrong_setting_is_refused_without_its_value(wrong: dict[str, str]) -> None:
    env = {"COURIER_API_LOGIN": LOGIN, "COURIER_API_PASSWORD": API_PASSWORD, **wrong}
    with pytest.raises(ConfigError) as caught:
        Settings.from_env(env, provider=True)
    assert set(caught.value.faults) <= set(wrong)
    assert not leaks("error", _told(caught.value))


def _told(error: BaseException) -> bytes:
    """All that an exception can tell, to a log or to another process."""
    told = "".join(traceback.format_exception(error))
    with contextlib.suppress(Exception):  # redis-py's own don't promise to be picklable
        told += repr(pickle.dumps(error))
    chain = [error]
    while (cause := chain[-1].__cause__ or chain[-1].__context__) is not None:
        chain.append(cause)
    return (
        told + "".join(f"{each} {each!r} {each.args} {each.__dict__}" for each in chain)
    ).encode()


def test_neither_values_nor_errors_tell_a_secret_a_number_or_a_text(
    servers: dict[str, RedisServer],
) -> None:
    url = servers["store"].url
    proxy = f"http://u:{quote(API_PASSWORD, safe='')}@127.0.0.1:{free_port()}"
    settings = Settings(
        redis_url=url,
        broker_url=url,
        api_url="https://localhost:1",
        api_login=LOGIN,
        api_password=API_PASSWORD,
        proxy=proxy,
    )
    app = Producer(settings)
    provider, store = Provider(settings), Store(app.redis, settings)
    sender = Sender(settings, store, provider, Decider(settings))
    poller = Poller(settings, store, provider, Decider(settings))
    job = text_job(f"{PHONE}0001", content={"text": TEXT})
    app.enqueue({**job, "id": "taken"})
    shown = [settings, app, app.redis, Bells(settings), provider, store, sender, poller]
    shown += [provider.send(b"{}", 1), provider.status([1]), provider._session()]
    shown += [app.get("taken"), parse_job(job, time.time()).digest]
    found = [leak for each in shown for leak in leaks(type(each).__name__, repr(each).encode())]
    # And what an app or an operator gets as an exception
    wrong = Settings(redis_url=url.replace("Zq7store", "Zq7api"), broker_url=url)
    gone = Settings(redis_url=url.replace(str(servers["store"].port), str(free_port())))
    bad = {"address": f"{PHONE}000000000000", "content": {"text": 5, "no": TEXT}, "id": "a b"}
    for producer, raw in (
        *((app, {**job, **{name: value}}) for name, value in bad.items()),
        *((app, {**job, name: {"a": [PHONE, TEXT]}}) for name in job),
        *((app, {**job, name: f"{TEXT}\0{PHONE}" * 500}) for name in job),
        (app, {**job, "id": "taken", "comment": TEXT}),
        (Producer(wrong), job),
        (Producer(gone), job),
    ):
        with pytest.raises((CourierError, redis.RedisError)) as caught:
            producer.enqueue(raw)
        found += leaks("exception", _told(caught.value))
        producer.close()
    provider._session().close()
    assert not found, "\n".join(found)


def _stored(app: Producer, job: dict[str, Any]) -> bool:
    with contextlib.suppress(redis.RedisError):
        return bool(app.enqueue(job))
    return False


def post(url: str, queue: str, body: bytes, task: Any = "courier.enqueue", **headers: Any) -> None:
    """Put a message on a queue as a Celery client of another language might; None: leave out."""
    given = {"task": task, "id": str(uuid.uuid4()), "lang": "py", **headers}
    message = {
        "body": base64.b64encode(body).decode(),
        "content-encoding": "utf-8",
        "content-type": "application/json",
        "headers": {name: value for name, value in given.items() if value is not None},
        "properties": {
            "body_encoding": "base64",
            "delivery_info": {"exchange": "", "routing_key": queue},
            "delivery_tag": str(uuid.uuid4()),
        },
    }
    with redis.Redis.from_url(url) as client:
        client.lpush(queue, json.dumps(message))


DEEP = b"[" * 100_000 + b"]" * 100_000
MALFORMED: list[tuple[bytes, dict[str, Any]]] = [
    *((body, {}) for body in (b"", b"null", b"5", b'"x"', b"[]", b"[1]", b"{}", b"[[], {}]")),
    *((body, {}) for body in (b"[1, 2, 3]", b"[[], [], []]", b"[null, null, null]", b"\xff\xfe")),
    *((body, {}) for body in (b"[[], {}, [1]]", b'[[[]], {}, {"callbacks": [1]}]', DEEP)),
    (b"[[" + DEEP + b"], {}, {}]", {}),
    (b'[[[{"a": ' + b'{"a": ' * 100_000 + b"1" + b"}" * 100_000 + b"}]], {}, {}]", {}),
    (b"[[[" + b"9" * 100_000 + b"]], {}, {}]", {}),
    (b"[[[NaN, Infinity]], {}, {}]", {}),
    *((b"[[[]], {}, {}]", {"id": id}) for id in (None, 5, [], {}, "", "x" * 100_000)),
    *((b"[[[]], {}, {}]", {"task": task}) for task in (None, 5, [], {}, "", "x" * 100_000)),
    *((b"[[[]], {}, {}]", {"eta": eta}) for eta in ("x", 5, [], "9999-12-31T23:59:59-23:59")),
    *((b"[[[]], {}, {}]", {"expires": when}) for when in ("x", [], {}, "0001-01-01T00:00:00")),
    *((b"[[[]], {}, {}]", {"timelimit": limit}) for limit in ("x", 5, [1], [1e-9, 1e-9], {})),
    *((b"[[[]], {}, {}]", {"retries": "x", "group": [], "stamps": 5, "stamped_headers": 5}),),
    *((b"[[[]], {}, {}]", {"argsrepr": {}, "kwargsrepr": 5, "lang": [], "shadow": {}}),),
    *((b"[[[]], {}, {}]", {"task": task}) for task in ("celery.backend_cleanup", "celery.chord")),
    (b'[[{"task": "courier.send"}, [["nowhere"]]], {}, {}]', {"task": "celery.starmap"}),
    (b'[[[{"address": 1}], 2], {}, {}]', {"task": "courier.send"}),
    (b'[["high"], {"lane": "low"}, {}]', {"task": "courier.send"}),
    (b'[["nowhere"], {}, {}]', {"task": "courier.send"}),
    (b"[[1], {}, {}]", {"task": "courier.poll"}),
]


def test_no_message_ends_the_worker_or_comes_back_for_ever(
    servers: dict[str, RedisServer], env: dict[str, str], namespace: str, tmp_path: Path
) -> None:
    # Given messages that no client should send, each followed by a good one
    broker, app = servers["broker"].url, Producer.from_env(env)
    queue = f"{namespace}.enqueue"
    worker = Worker(env, tmp_path)
    try:
        worker.ready()
        for number, (body, headers) in enumerate(MALFORMED):
            post(broker, queue, body, **headers)
            good = [text_job(f"{PHONE}{number:04}", id=f"good-{number}", sendAt=iso_in(600))]
            post(broker, queue, json.dumps([[good], {}, {}]).encode())
            # When the worker takes both, then it lives and stores the good one
            wait_for(lambda id=f"good-{number}": app.get(id), 20, f"{headers} {body[:80]!r}")
            assert worker.process.poll() is None, (headers, body[:80])
        # And nothing is left of the others on queues or in hand
        with redis.Redis.from_url(broker) as client:
            left = (queue, f"{queue}.held", f"{queue}.bodies", "unacked")
            wait_for(lambda: not client.exists(*left), 20)
        assert "Traceback" not in worker.log, worker.log
        # Python's own warning, that root runs it, is long.
        assert max(len(line) for line in worker.lines if "py.warnings" not in line) < 300
    finally:
        worker.stop()
        app.close()

"""Workers and beat where Redis refuses something: at the start, and while they run."""

from __future__ import annotations

import contextlib
import fnmatch
import json
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest
import redis
from celery import Celery

from tests.conftest import (
    Courier,
    Simulator,
    Start,
    Worker,
    check_events,
    common_job,
    ends,
    free_port,
    log_lines,
    text_job,
    wait_for,
)
from tests.test_permissions import PASSWORD, Users, granted
from viber_courier import Producer
from viber_courier.ops.commands import health
from viber_courier.ops.redis_server import RedisServer
from viber_courier.store.connection import SOCKET_OPTIONS
from viber_courier.store.keys import Keys

NAMESPACE = "courier"
OURS = ("courier-worker", "courier-cli")


@pytest.fixture
def make_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., RedisServer]]:
    made: list[RedisServer] = []

    def make(*options: str) -> RedisServer:
        made.append(RedisServer(tmp_path_factory.mktemp("redis"), free_port(), options))
        made[-1].start()
        return made[-1]

    yield make
    for server in made:
        server.stop()


class Watcher:
    """What each user of a server asks it, but for what checks of permissions ask."""

    def __init__(self, server: RedisServer) -> None:
        self.seen: dict[str, dict[str, set[str]]] = defaultdict(lambda: defaultdict(set))
        self._users: dict[str, str] = {}
        self._admin, self._client = (
            redis.Redis.from_url(server.url, decode_responses=True, protocol=2) for _ in range(2)
        )
        self._monitor = self._client.monitor()
        self._monitor.__enter__()
        threading.Thread(target=self._watch, daemon=True).start()

    def _watch(self) -> None:
        user = ""
        with contextlib.suppress(redis.RedisError, OSError, ValueError):  # until the server ends
            for found in self._monitor.listen():
                name, *args = found["command"].lower().split()
                address = f"{found['client_address']}:{found['client_port']}"
                if name in ("hello", "auth"):
                    self._users.pop(address, None)  # a new connection
                    continue
                if found["client_type"] != "lua":  # a script's calls follow its own
                    user = self._user(address)
                checks = ":check:" in found["command"] or f"{NAMESPACE}.check" in args
                if name == "getdel" or not checks:
                    self.seen[user][name].update(args)
                    self.seen[user][f"{name}|{args[0] if args else ''}"].update(args)

    def _user(self, address: str) -> str:
        if address not in self._users:
            self._users |= {each["addr"]: each["user"] for each in self._admin.client_list()}
        return self._users.get(address, "")

    def unused(self, user: str, rules: Sequence[str]) -> set[str]:
        """Those of the rules whose command, key or channel the user has not used."""
        # "": of connections that were closed before their user was asked for
        seen = {**self.seen[""], **self.seen[f"{user}-{NAMESPACE}"]}
        words = {word for words in seen.values() for word in words}
        patterns = [rule for rule in rules if rule[0] in "~&"]
        return {rule for rule in granted(list(rules)) if rule[1:] not in seen} | {
            rule for rule in patterns if not fnmatch.filter(words, rule[1:])
        }


class Whole(Worker):
    """A worker as ``celery -A viber_courier.worker worker -B`` starts it."""

    MORE = ("-c", "2", "-l", "INFO")


class Beat(Worker):
    """``celery -A viber_courier.worker beat``."""

    COMMAND = (*Worker.COMMAND[:-1], "beat")
    MORE = ("-l", "INFO")


def lapse(admin: redis.Redis, id: str) -> None:
    """Let a waiting message look like one whose worker died with it, before its request."""
    for lane in Keys(NAMESPACE).lanes:
        if (score := admin.zscore(lane, id)) is not None:
            admin.zadd(lane, {id: score + 1})


def pop_unacked(admin: redis.Redis) -> None:
    """Let the task that waits look like one that a worker took, and died with, an hour ago."""
    task = json.loads(str(admin.lpop(f"{NAMESPACE}.enqueue")))
    whole = [task, "", f"{NAMESPACE}.enqueue"]
    admin.hset("unacked", "tag", json.dumps(whole))
    admin.zadd("unacked_index", {"tag": time.time() - 3600})


def test_everything_runs_with_exactly_the_documented_permissions(
    make_server: Callable[..., RedisServer],
    system_env: dict[str, str],
    simulator: Simulator,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # Given a store and a broker whose users have what docs/redis.md grants them
    servers = make_server(), make_server()
    stored, queued = (Users(server, NAMESPACE) for server in servers)
    env = {**system_env, "COURIER_NAMESPACE": NAMESPACE, "COURIER_MAX_QUEUED": "1000"}
    app = Producer.from_env({**env, "COURIER_REDIS_URL": stored.make("courier-app")})
    env |= {"COURIER_REDIS_URL": stored.make("courier-worker")}
    env |= {"COURIER_BROKER_URL": queued.make("courier-worker"), "COURIER_RESULTS_RETENTION": "8"}
    operator = {"COURIER_REDIS_URL": stored.make("courier-cli")}
    operator |= {"COURIER_BROKER_URL": queued.make("courier-cli")}
    # and messages of each kind: one that a dead worker has left, and a task of another app's
    ids = [app.enqueue(text_job(id="lapsed")), app.enqueue(text_job(priority="low"))]
    ids += app.enqueue_many([{"address": "79250000001"}] * 3, common_job())
    ids += [app.enqueue(text_job("79250000030", id=f"dead-{n}")) for n in range(3)]
    lapse(stored.admin, "lapsed")
    other = Celery(broker=queued.url("default", "").replace("default:@", ""))
    other.send_task(
        "courier.enqueue", args=[[text_job(id="task-1", campaign="c")]], queue="courier.enqueue"
    )
    pop_unacked(queued.admin)
    queued.admin.zadd("_kombu.binding_deadlines", {"gone": 1})
    # When a worker runs
    watched, asked = (Watcher(server) for server in servers)
    worker = Whole(env, tmp_path, "-n", "one@here").ready()
    try:
        # Then everything is delivered
        ends(app, 9)
        idle = time.monotonic() + SOCKET_OPTIONS["health_check_interval"] + 1
        wait_for(lambda: time.monotonic() > idle)  # a connection is checked before it is used
        # and a campaign that had ended goes on
        rows = [text_job(id="task-2", priority="realtime", campaign="c"), {"wrong": 1}]
        other.send_task("courier.enqueue", args=[rows], queue="courier.enqueue")
        seen = ends(app, 2)
        assert sorted(events[-1]["status"] for events in seen.values()) == ["read", "rejected"]
        # and the command line works
        monkeypatch.setattr(health, "ANSWER_SECONDS", 0.5)
        operate(Courier({**env, **operator}), ids[0])
        following = Courier({**env, **operator}).start("results", "--follow")
        wait_for(lambda: "xread" in watched.seen[f"courier-cli-{NAMESPACE}"])
        following.kill()
        following.communicate()
        # and a step of Redis's clock is mended
        stored.admin.set("{courier}:paused:low", "for a while", px=3_600_000)
        stored.admin.set("{courier}:swept", round(1000 * time.time()) + 3_600_000)
        wait_for(lambda: {"pttl", "zcount"} <= watched.seen[f"courier-worker-{NAMESPACE}"].keys())
        # and nothing was refused
        assert "refuses" not in worker.log and "Traceback" not in worker.log
        worker.process.terminate()
        worker.process.wait(30)
        # and no command, key or channel is granted without a use
        store, broker, more = (rules for name, rules in stored.lines if name in OURS)

        def unused() -> set[str]:
            of_cli = watched.unused("courier-cli", more) & asked.unused("courier-cli", more)
            return (
                of_cli
                | watched.unused("courier-worker", store)
                | asked.unused("courier-worker", broker)
            )

        wait_for(lambda: not unused(), 10, f"nothing has used: {unused()}")
    finally:
        worker.stop()


def operate(courier: Courier, id: str) -> None:
    """Use every command that needs Redis, and so that it finds something."""
    courier("ready")
    courier("live", "--worker", "one@here")
    assert {each["severity"] for each in courier.json("doctor", code=0)} == {"ok"}
    courier("show", id)
    courier("find", "79250000001")
    courier("results")
    courier("results", "--group", "desk")
    consuming = courier.start("consume", "builtins:print", "--group", "desk-2")
    assert consuming.stdout and "Event(" in consuming.stdout.readline()
    consuming.terminate()
    consuming.communicate()
    assert consuming.returncode == 0
    courier("pause", "low", "--for", "90s")
    courier("send", input=json.dumps(text_job(id="late", priority="low")))
    courier("cancel", "late")
    courier("resume")
    courier("top", "--once")
    courier("suppress", "list", COURIER_SUPPRESSION_KEY="k" * 32)
    courier("dead", "list")
    courier("dead", "show", "dead-0", "--reveal")
    courier("dead", "resend", "dead-0")
    courier("dead", "drop", "dead-1")
    courier("dead", "resend", "--all", "--rate", "5", code=1)  # one has no content


def end_of(env: dict[str, str], folder: Path, kind: type[Worker] = Worker) -> str:
    """The log of a process that must end by itself, not with code 0 and without a traceback."""
    worker = kind(env, folder, beat=False, command=kind.COMMAND)
    try:
        wait_for(lambda: worker.process.poll() is not None, 40, "it has not ended")
    finally:
        worker.stop()
    assert worker.process.returncode != 0, worker.log
    assert "Traceback" not in worker.log and PASSWORD not in worker.log, worker.log
    return worker.log


STORE_RULES = {
    "a wrong password": (["resetpass", ">other"], "wrong user name or password (WRONGPASS)"),
    "a user that is off": (["off"], "wrong user name or password (WRONGPASS)"),
    "two commands missing": (["-zmscore", "-xtrim"], "grant +zmscore +xtrim"),
    "what older versions did without": (["-hgetall"], "grant +hgetall"),
    "read only": (["-@write"], "grant +set"),
    "no scripts": (["-@scripting"], "grant +script|load"),
    "other keys": (["resetkeys", "~other:*"], "no permission for a key"),
    "nothing": (["-@all"], "grant +set"),
    "no INFO": (
        ["-info"],
        "unknown whether it keeps messages: no permission (NOPERM): grant +info",
    ),
}


@pytest.mark.parametrize("kind", STORE_RULES)
def test_a_refusal_of_the_store_ends_worker_and_beat_with_one_line(
    kind: str,
    make_server: Callable[..., RedisServer],
    system_env: dict[str, str],
    tmp_path: Path,
) -> None:
    # Given a store that refuses something, and a broker that doesn't
    rules, words = STORE_RULES[kind]
    stored = Users(make_server(), NAMESPACE)
    env = {**system_env, "COURIER_NAMESPACE": NAMESPACE, "COURIER_BROKER_URL": stored.server.url}
    env["COURIER_REDIS_URL"] = stored.make("courier-worker", more=" ".join(rules))
    # When worker and beat are started, then each ends and says what to grant
    for process in (Worker, Beat) if kind == "two commands missing" else (Worker,):
        log = end_of(env, tmp_path, process)
        (line,) = [line for line in log.splitlines() if "can't start" in line]
        assert line.startswith("viber-courier can't start: COURIER_REDIS_URL: ") and words in line


BROKER_RULES = {
    "a wrong password": (["resetpass", ">other"], "wrong user name or password (WRONGPASS)"),
    "two commands missing": (["-brpop", "-smembers"], "grant +smembers +brpop"),
    "no channels": (["resetchannels"], "no permission for a channel"),
    "no subscription": (["-psubscribe"], "grant +psubscribe"),
    "other keys": (["resetkeys", "~other:*"], "no permission for a key"),
    "not kombu's keys": (["resetkeys", "~courier.*"], "no permission for a key"),
    "nothing": (["-@all"], "grant +ping"),
}


@pytest.mark.parametrize("kind", BROKER_RULES)
def test_a_refusal_of_the_broker_ends_the_worker_with_one_line(
    kind: str,
    make_server: Callable[..., RedisServer],
    system_env: dict[str, str],
    tmp_path: Path,
) -> None:
    rules, words = BROKER_RULES[kind]
    queued = Users(make_server(), NAMESPACE)
    env = {**system_env, "COURIER_NAMESPACE": NAMESPACE}
    env["COURIER_BROKER_URL"] = queued.make("courier-worker", more=" ".join(rules))
    log = end_of(env, tmp_path)
    assert [
        line for line in log.splitlines() if "COURIER_BROKER_URL: " in line and words in line
    ], log


@pytest.mark.parametrize(
    ("options", "url", "words"),
    [
        (["--rename-command", "EVALSHA", ""], "", "evalsha is unknown: renamed or disabled"),
        (["--rename-command", "BLPOP", "blpop-7"], "", "blpop is unknown: renamed or disabled"),
        (["--rename-command", "INFO", ""], "", "COURIER_ALLOW=volatile-redis accepts that"),
        (["--databases", "2"], "/5", "no database of this number"),
        ([], "NOAUTH", "the server wants a password (NOAUTH)"),
        ([], "//:wrong@", "the server has no password, but the URL has one"),
    ],
)
def test_a_server_that_lacks_something_ends_worker_and_beat(
    make_server: Callable[..., RedisServer],
    system_env: dict[str, str],
    tmp_path: Path,
    options: list[str],
    url: str,
    words: str,
) -> None:
    given = make_server(*options).url.replace("/0", "/5" if url == "/5" else "/0")
    if url == "NOAUTH":
        with redis.Redis.from_url(given) as admin:
            admin.config_set("requirepass", PASSWORD)
    given = given.replace("//", url) if url.startswith("//") else given
    env = {**system_env, "COURIER_REDIS_URL": given, "COURIER_BROKER_URL": given}
    for process in (Worker, Beat):
        log = end_of(env, tmp_path, process)
        assert "can't start: COURIER_REDIS_URL: " in log and words in log
    # the command line says the same; INFO alone is not what it needs, so it misses workers then
    env["COURIER_NAMESPACE"] = NAMESPACE
    if "INFO" not in options:
        said = Courier(env)("ready", code=3).stderr.splitlines()
        assert len(said) == 1 and words in said[0]


def test_a_worker_starts_where_unknown_durability_is_accepted(
    make_server: Callable[..., RedisServer],
    system_env: dict[str, str],
    start_worker: Start,
) -> None:
    # Given a store that tells nothing of itself
    stored = Users(make_server(), NAMESPACE)
    env = {
        "COURIER_NAMESPACE": NAMESPACE,
        "COURIER_REDIS_URL": stored.make("courier-worker", without="+info"),
    }
    env["COURIER_BROKER_URL"] = stored.server.url
    app = Producer.from_env(
        {
            **system_env,
            "COURIER_NAMESPACE": NAMESPACE,
            "COURIER_REDIS_URL": stored.make("courier-app"),
        }
    )
    # When that danger is accepted, then the worker says so, starts and sends
    worker = start_worker(COURIER_ALLOW="volatile-redis", **env)
    assert "messages may be lost" in worker.log and "grant +info" in worker.log
    app.enqueue(text_job())
    check_events(ends(app, 1))


CHANGES = {
    "a command of a script": ("store", "-zmscore"),
    "another of one": ("store", "-hincrby"),
    "the listener's": ("store", "-blpop"),
    "keys": ("store", "resetkeys ~other:*"),
    "everything": ("store", "-@all"),
    "the password": ("store", "resetpass >other"),
    "the bell's": ("broker", "-llen"),
    "its task": ("broker", "-lpush"),
    "the door's": ("broker", "-blmove"),
    "the broker's password": ("broker", "resetpass >other"),
}


@pytest.mark.parametrize("kind", CHANGES)
def test_a_change_while_running_is_logged_and_ends_with_its_cause(
    kind: str,
    make_server: Callable[..., RedisServer],
    system_env: dict[str, str],
    start_worker: Start,
) -> None:
    # Given a running worker
    place, rules = CHANGES[kind]
    users = {place: Users(make_server(), NAMESPACE) for place in ("store", "broker")}
    env = {"COURIER_NAMESPACE": NAMESPACE}
    env["COURIER_REDIS_URL"] = users["store"].make("courier-worker")
    env["COURIER_BROKER_URL"] = users["broker"].make("courier-worker")
    app = Producer.from_env(
        {**system_env, **env, "COURIER_REDIS_URL": users["store"].make("courier-app")}
    )
    env |= {"COURIER_CONNECT_TIMEOUT": "1", "COURIER_READ_TIMEOUT": "2", "COURIER_LEASE": "5"}
    worker = start_worker("-n", "one@here", **env)
    check_events({id: ends(app, 1)[id] for id in [app.enqueue(text_job())]})
    # When it loses a permission, or its password is changed and its connections are closed
    users[place].make("courier-worker", more=rules)
    if "resetpass" in rules:
        users[place].admin.client_kill_filter(_type="normal", skipme=True)
    app.enqueue(text_job())
    # Then it says so, not often and without a traceback, and goes on
    setting = f"COURIER_{'REDIS' if place == 'store' else 'BROKER'}_URL: "
    wait_for(lambda: setting in worker.log, 20)
    # When that is over, then the message is sent
    users[place].make("courier-worker")
    check_events(ends(app, 1))
    assert worker.process.poll() is None
    assert "Traceback" not in worker.log, worker.log
    assert len(log_lines(worker.log, "redis refuses")) < 10, worker.log


def test_an_answer_in_hand_waits_for_its_permission(
    make_server: Callable[..., RedisServer],
    system_env: dict[str, str],
    simulator: Simulator,
    start_worker: Start,
) -> None:
    # Given a request that takes a while
    stored = Users(make_server(), NAMESPACE)
    env = {"COURIER_NAMESPACE": NAMESPACE, "COURIER_REDIS_URL": stored.make("courier-worker")}
    env["COURIER_BROKER_URL"] = stored.server.url
    app = Producer.from_env({**system_env, **env, "COURIER_REDIS_URL": stored.make("courier-app")})
    worker = start_worker(**env)
    simulator.fault(kind="slow", seconds=2, times=1)
    id = app.enqueue(text_job())
    wait_for(lambda: (record := app.get(id)) and record.status == "sending")
    # When Redis refuses the worker until after the answer
    stored.make("courier-worker", more="-@all")
    wait_for(lambda: simulator.accepted())
    wait_for(lambda: "redis refuses" in worker.log)
    stored.make("courier-worker")
    # Then the answer is recorded, and the message is sent once
    (events,) = ends(app, 1).values()
    assert (events[-1]["status"], events[-1]["unsure"]) == ("read", 0)
    assert len(simulator.accepted()) == 1

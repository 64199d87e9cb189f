"""Workers and beat where Redis refuses something: at the start, and while they run."""

from __future__ import annotations

import contextlib
import fnmatch
import json
import subprocess
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

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
    iso_in,
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
BEAT = (*Worker.COMMAND[:-1], "beat", "-l", "INFO")


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
                if found["client_type"] != "lua":  # a script's calls follow its own
                    user = self._user(f"{found['client_address']}:{found['client_port']}")
                name, *args = found["command"].lower().split()
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
        seen = self.seen[f"{user}-{NAMESPACE}"]
        words = {word for words in seen.values() for word in words}
        patterns = [rule for rule in rules if rule[0] in "~&"]
        return {rule for rule in granted(list(rules)) if rule[1:] not in seen} | {
            rule for rule in patterns if not fnmatch.filter(words, rule[1:])
        }


class Whole(Worker):
    """A worker as ``celery -A viber_courier.worker worker -B`` starts it."""

    ALONE = ()


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
    env |= {"COURIER_BROKER_URL": queued.make("courier-worker")}
    operator = {"COURIER_REDIS_URL": stored.make("courier-cli")}
    operator |= {"COURIER_BROKER_URL": queued.make("courier-cli")}
    # and messages of each kind: one that a dead worker has left, and a task of another app's
    ids = [app.enqueue(text_job(id="lapsed")), app.enqueue(text_job(priority="low"))]
    ids += app.enqueue_many([{"address": "79250000001"}] * 3, common_job())
    ids += [app.enqueue(text_job("79250000030", id=f"dead-{n}")) for n in range(3)]
    lapse(stored.admin, "lapsed")
    other = Celery(broker=queued.url("default", "").replace("default:@", ""))
    other.send_task("courier.enqueue", args=[[text_job(id="task-1")]], queue="courier.enqueue")
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
        rows = [text_job(id="task-2", priority="realtime"), {"wrong": 1}]
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
        # and nothing was refused
        assert "refuses" not in worker.log and "Traceback" not in worker.log
        worker.process.terminate()
        worker.process.wait(30)
        # and no command, key or channel is granted without a use
        rules = [(name, rules) for name, rules in stored.lines if name in OURS]
        (_, store), (_, broker), (_, more) = rules
        assert watched.unused("courier-worker", store) == set()
        assert asked.unused("courier-worker", broker) == set()
        assert watched.unused("courier-cli", more) & asked.unused("courier-cli", more) == set()
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
    courier("pause", "low", "--for", "90s")
    courier("send", input=json.dumps(text_job(id="late", priority="low")))
    courier("cancel", "late")
    courier("resume")
    courier("top", "--once")
    courier("dead", "list")
    courier("dead", "show", "dead-0", "--reveal")
    courier("dead", "resend", "dead-0")
    courier("dead", "drop", "dead-1")
    courier("dead", "resend", "--all", "--rate", "5", code=1)  # one has no content

"""``courier doctor``, ``live`` and ``ready``: pure rules, and real workers."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
from pathlib import Path
from typing import Any

import pytest
from celery.utils.nodenames import worker_direct

from tests.conftest import Courier, Simulator, Start, free_port, text_job, wait_for
from viber_courier import Producer
from viber_courier.ops.commands import findings, health
from viber_courier.ops.redis_server import RedisServer
from viber_courier.store.keys import Keys
from viber_courier.worker.outcome import Blocked, NotSent, RequestRefused, Retryable, Statuses

WELL = {
    **{"redis_version": "7.0.15", "aof_enabled": 1, "maxmemory_policy": "noeviction"},
    **{"role": "master", "used_memory": 10, "maxmemory": 100},
}


@pytest.mark.parametrize(
    ("info", "skew", "severity", "words"),
    [
        ({}, 0.1, 0, ""),
        ({"redis_version": "6.0.9"}, 0, 2, "6.2 or newer"),
        ({"redis_version": "6.2.0"}, 0, 0, ""),
        ({"server_name": "valkey", "valkey_version": "8.1.1", "redis_version": "7.2.4"}, 0, 0, ""),
        ({"aof_enabled": 0}, 0, 2, "appendonly yes"),
        ({"maxmemory_policy": "allkeys-lru"}, 0, 2, "noeviction"),
        ({"aof_last_write_status": "err"}, 0, 2, "disk"),
        ({"role": "slave"}, 0, 2, "master"),
        ({"used_memory": 80}, 0, 1, "raise maxmemory"),
        ({"used_memory": 95}, 0, 2, "raise maxmemory"),
        ({"maxmemory": 0, "total_system_memory": 11}, 0, 2, "raise maxmemory"),
        ({"maxmemory": 0}, 0, 0, ""),
        ({}, 30, 1, "NTP"),
        ({}, -30, 1, "NTP"),
    ],
)
def test_what_redis_says_of_itself(
    info: dict[str, Any], skew: float, severity: int, words: str
) -> None:
    found = list(findings.redis({**WELL, **info}, skew))
    worst = max(found)
    assert worst.severity == severity and words in worst.do
    assert all(each.do for each in found if each.severity)


@pytest.mark.parametrize(
    ("wanted", "info", "sentinel", "severity", "words"),
    [
        (0, {"connected_slaves": 0}, False, 0, ""),
        (0, {"connected_slaves": 2}, False, 0, "2 follow, none waited for"),
        (0, {"connected_slaves": 0}, True, 0, "COURIER_REPLICAS=1"),
        (1, {"connected_slaves": 2}, False, 0, "COURIER_REPLICAS to their number"),
        (2, {"connected_slaves": 2}, False, 0, "2 follow, 2 waited for"),
        (2, {"connected_slaves": 1}, False, 2, "lower COURIER_REPLICAS"),
        (2, {}, False, 0, "2 waited for"),
        (-1, {"connected_slaves": 0}, False, 0, "disk"),
    ],
)
def test_as_many_replicas_follow_as_are_waited_for(
    wanted: int, info: dict[str, Any], sentinel: bool, severity: int, words: str
) -> None:
    found = list(findings.replicas(wanted, info, sentinel))
    assert max([each.severity for each in found], default=0) == severity
    assert words in " ".join(f"{each.seen} {each.do}" for each in found)


@pytest.mark.parametrize("wanted", [1, -1])
def test_a_replica_that_follows_and_hangs_is_found(wanted: int) -> None:
    info = {"connected_slaves": 1}
    (found,) = findings.replicas(wanted, info, True, "0 of 1 replicas have it")
    assert found.severity == 2 and "isn't safe: 0 of 1 replicas have it" in found.seen


def test_each_lane_needs_a_worker() -> None:
    assert [each.severity for each in findings.workers("x", {})] == [2]
    bulk = {"x.send.normal", "x.send.low", "x.poll", "a.dq2"}
    found = {each.about: each for each in findings.workers("x", {"bulk@a": bulk, "b@b": bulk})}
    assert found["workers: low"].seen == "2: b@b, bulk@a"
    assert (found["workers: high"].severity, found["workers: enqueue"].severity) == (2, 1)
    assert "-Q x.send.high" in found["workers: high"].do
    # One that answers and runs nothing is no worker
    serving = {"a@a": bulk | {"x.send.high"}, "b@b": bulk}
    found = {each.about: each for each in findings.workers("x", serving, {"a@a"})}
    assert (found["workers: high"].severity, found["workers: low"].severity) == (2, 0)
    assert "a@a" in found["worker: a@a"].do


@pytest.mark.parametrize(("ago", "severity"), [(None, 2), (16, 0), (60, 2), (-3, 0)])
def test_beat_ticks(ago: float | None, severity: int) -> None:
    assert findings.beat(ago, 1.0).severity == severity


@pytest.mark.parametrize(
    ("outcome", "severity"),
    [
        (Statuses({}), 0),
        (NotSent("connection refused"), 2),
        (Blocked("http-401"), 2),
        (Retryable("http-500", whole=True), 1),
        (RequestRefused("http-400"), 1),
        (RequestRefused("error-instant-message-provider-id-unknown"), 0),
    ],
)
def test_what_the_provider_answers(outcome: Any, severity: int) -> None:
    assert findings.provider(outcome).severity == severity


def test_odd_answers_are_told_for_a_day() -> None:
    now, counts = 1e6, {"strangers": 3, "no-provider-id": 1, "late": 2}
    seen = {"strangers": now - 60, "no-provider-id": now - 3600, "late": now - 90_000}
    found = {each.about: each for each in findings.odd(counts, seen, now)}
    assert {name: each.severity for name, each in found.items()} == {
        "odd answers: strangers": 1,
        "odd answers: no-provider-id": 2,
    }
    assert all("3 in all" in each.seen or "1 in all" in each.seen for each in found.values())


@pytest.mark.parametrize(
    ("silent", "seconds", "severity"),
    [(0, 0, 0), (4, 9999, 0), (5, 899, 0), (500, 60, 0), (5, 900, 2), (700, 5000, 2)],
)
def test_polls_without_news_are_told(silent: int, seconds: float, severity: int) -> None:
    assert findings.polls(silent, seconds).severity == severity


@pytest.mark.parametrize(
    ("why", "do"),
    [
        ("TLS: unknown CA, self-signed certificate", "set COURIER_CA_FILE"),
        ("TLS: certificate has expired", "clock"),
        ("TLS: hostname mismatch", "COURIER_API_URL"),
        ("TLS: no TLS on this port, wrong version number", "http://"),
        ("TLS: unsupported protocol, tlsv1 alert protocol version", "TLS 1.2"),
        ("TLS: broken off", "COURIER_CA_FILE"),
        ("proxy: HTTP 407", "COURIER_PROXY, its login"),
        ("DNS: Name or service not known", "DNS"),
        ("connection refused", "firewall"),
    ],
)
def test_a_provider_that_is_not_reached_has_advice_by_its_cause(why: str, do: str) -> None:
    found = findings.provider(NotSent(why))
    assert found.seen == f"can't be reached: {why}" and do in found.do


@pytest.mark.parametrize(
    ("more", "severity"),
    [
        ({}, 0),
        ({"idle": 9999.0}, 0),  # it has read all that there is
        ({"last-delivered-id": "1-0"}, 0),
        ({"last-delivered-id": "1-0", "idle": 9999.0}, 1),
        ({"pending": 7, "unacked": 9999.0}, 1),
    ],
)
def test_who_reads_results(more: dict[str, Any], severity: int) -> None:
    group = {"name": "crm", "last-delivered-id": "2-0", "idle": 1.0, "unacked": 0, "pending": 0}
    assert [f.severity for f in findings.consumers("2-0", [{**group, **more}])] == [severity]
    assert [f.severity for f in findings.consumers("2-0", [])] == [1]
    assert not list(findings.consumers(None, []))


@pytest.fixture
def system(system_env: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> Courier:
    monkeypatch.setattr(health, "ANSWER_SECONDS", 0.5)  # workers of this machine have no far way
    return Courier(system_env)


def severities(courier: Courier, *options: str, code: int, **env: str) -> dict[str, str]:
    found = courier.json("doctor", *options, code=code, **env)
    assert all(each["do"] for each in found if each["severity"] != "ok")
    return {each["about"]: each["severity"] for each in found}


@pytest.mark.slow
def test_a_whole_system_is_well_ready_and_alive(
    system: Courier,
    app: Producer,
    start_worker: Start,
    simulator: Simulator,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    worker = start_worker("-n", "one@here")
    wait_for(lambda: app.redis.get(app._keys.swept))
    # All is well
    assert set(severities(system, code=0).values()) == {"ok"}
    assert system.json("ready") == {"ready": True, "workers": ["one@here"], "withoutWorker": []}
    assert system.json("live", "--worker", "one@here")["live"]
    # The provider was asked for a status, and nothing was sent
    assert simulator.get("requests")["messages"] == 0
    # What is held back, or isn't read, is a warning; wrong credentials are an error
    system("pause", "low", "--reason", "closed")
    app.cancel(app.enqueue(text_job(priority="low")))
    said = system("doctor", code=2, COURIER_API_PASSWORD="wrong", COLUMNS="80").stdout
    for words in ("refuses us: error-auth", "COURIER_API_LOGIN", "closed", "no app reads them"):
        assert words in said
    assert max(map(len, said.splitlines())) <= 80
    # A worker whose processes all hang still answers a ping, but is not alive
    listed = subprocess.run(
        ["ps", "-o", "pid=", "--ppid", str(worker.process.pid)],
        capture_output=True,
        text=True,
        check=True,
    )
    children = [int(pid) for pid in listed.stdout.split()]
    for child in children:
        os.kill(child, signal.SIGSTOP)
    dead = system("live", "--worker", "one@here", "--timeout", "0.5s", code=1)
    assert "one@here ran no task in 0.5 s" in dead.stderr and dead.stdout == ""
    assert not system.json("ready", "--timeout", "1s", code=1)["ready"]
    monkeypatch.setattr(health, "TASK_SECONDS", 0.5)
    found = severities(system, "--no-provider", code=2)
    assert (found["worker: one@here"], found["workers: low"]) == ("warning", "error")
    for child in children:
        os.kill(child, signal.SIGCONT)
    system("live", "--worker", "one@here")


@pytest.mark.slow
def test_a_lane_without_a_worker_is_named(system: Courier, start_worker: Start) -> None:
    namespace = system.env["COURIER_NAMESPACE"]
    start_worker("-n", "slow@here", "-Q", f"{namespace}.send.low", beat=False)
    told = system.json("ready", "--timeout", "2s", code=1)
    assert told["withoutWorker"] == ["realtime", "high", "normal", "poll"]
    found = severities(system, "--no-provider", code=2)
    assert (found["workers: low"], found["workers: high"], found["beat"]) == (
        "ok",
        "error",
        "ok",  # without beat, a worker's listener sweeps
    )


def test_a_worker_that_is_not_there_leaves_nothing_on_its_queue(
    system: Courier, app: Producer
) -> None:
    gone = system("live", "--worker", "gone@here", "--timeout", "0.3s", code=1)
    assert "gone@here ran no task" in gone.stderr
    assert app.redis.llen(worker_direct("gone@here").name) == 0
    assert system.json("ready", "--timeout", "1s", code=1)["workers"] == []


@pytest.mark.slow
def test_workers_that_are_started_meanwhile_are_waited_for(
    system: Courier, start_worker: Start
) -> None:
    waiting = system.start("ready", "--timeout", "60s")
    start_worker("-n", "late@here")
    said = waiting.communicate(timeout=90)
    assert (waiting.returncode, said[0]) == (0, "ready\n"), said


@pytest.mark.slow
@pytest.mark.parametrize("late", ["COURIER_REDIS_URL", "COURIER_BROKER_URL"])
def test_redis_and_a_broker_that_are_started_meanwhile_are_waited_for(
    late: str, system: Courier, tmp_path: Path
) -> None:
    server = RedisServer(tmp_path, free_port())
    env = {"COURIER_BROKER_URL": system.env["COURIER_REDIS_URL"], late: server.url}
    start = threading.Timer(1, server.start)
    start.start()
    said = system("ready", "--timeout", "8s", code=1, **env)
    assert "no worker runs tasks for" in said.stderr
    start.join()
    server.stop()


@pytest.mark.slow
def test_what_cannot_be_reached_is_named_without_its_password(
    system: Courier, app: Producer
) -> None:
    nowhere = f"redis://:hidden@127.0.0.1:{free_port()}/0"
    said = system("doctor", code=2, COURIER_REDIS_URL=nowhere)
    assert "Redis can't be used" in said.stdout and "hidden" not in said.output
    api = f"http://127.0.0.1:{free_port()}"
    found = severities(system, code=2, COURIER_BROKER_URL=nowhere, COURIER_API_URL=api)
    assert (found["broker"], found["provider"], found["durability"]) == ("error", "error", "ok")
    for command in ("live", "ready"):
        store = {
            "COURIER_REDIS_URL": nowhere,
            "COURIER_BROKER_URL": system.env["COURIER_REDIS_URL"],
        }
        brief = (command, "--timeout", "1s")
        assert "hidden" not in system(*brief, code=3, **store).output
        broker = system(*brief, code=3, COURIER_BROKER_URL=nowhere)
        assert "COURIER_BROKER_URL" in broker.stderr and "hidden" not in broker.output
    # And what else is wrong is found all the same, but for the provider where nobody wants that
    gate = {"until": 1_800_000_000_000_000, "reason": "refused"}
    app.redis.hset(Keys(app.settings.namespace).gate("poll"), mapping=gate)
    found = severities(system, code=2, COURIER_API_PASSWORD="")
    assert (found["gate: poll"], found["COURIER_API_PASSWORD"]) == ("warning", "error")
    assert "provider" not in severities(system, "--no-provider", code=2, COURIER_API_PASSWORD="")

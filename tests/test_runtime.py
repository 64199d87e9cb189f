"""worker/runtime/: our app among another Celery's settings, on each broker URL, in each pool."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
from celery import Celery

from tests.conftest import Simulator, Start, ends, iso_in, text_job, wait_for
from tests.faults.parts import BEAT, supervised
from viber_courier import Producer
from viber_courier.store.connection import broker
from viber_courier.worker.runtime.app import App
from viber_courier.worker.runtime.broker import Connection, SentinelTransport, Transport

# --- another Celery's settings --------------------------------------------------------------------

NOWHERE = "redis://127.0.0.1:1/0"
HOSTILE = """
open(__file__ + ".read", "w").close()
task_serializer = result_serializer = event_serializer = "pickle"
accept_content = result_accept_content = ["pickle"]
task_protocol, task_compression, timezone, enable_utc = 1, "zlib", "Asia/Tokyo", False
broker_transport_options = {"global_keyprefix": "theirs-"}
broker_url = broker_read_url = broker_write_url = "redis://127.0.0.1:1/0"
task_always_eager = True
task_routes = {"*": "nowhere"}
imports = ["no.such.module"]
beat_scheduler = "no.such:Scheduler"
worker_pool = "solo"
"""
OTHERS = {
    "CELERY_CONFIG_MODULE": "others_celeryconfig",
    "CELERY_CONFIG": "others_celeryconfig",
    "CELERY_APP": "no.such",
    "CELERY_BROKER": NOWHERE,
    "CELERY_TASK_SERIALIZER": "pickle",
    "CELERY_ACCEPT_CONTENT": "pickle",
    "CELERY_TIMEZONE": "Asia/Tokyo",
    "CELERY_CUSTOM_WORKER_POOL": "no.such:Pool",
    "CELERY_LOG_LEVEL": "50",
    "CELERYD_OPTS": "-c 1 -P solo",
    "CELERYBEAT_OPTS": "-S no.such:Scheduler",
    "CELERY_WORKER_CONCURRENCY": "1",
    "CELERY_WORKER_LOGLEVEL": "CRITICAL",
    "CELERY_WORKER_PURGE": "1",
    "CELERY_WORKER_DETACH": "1",
    "CELERY_WORKER_TIME_LIMIT": "0.001",
    "REMAP_SIGTERM": "SIGQUIT",
    "FORKED_BY_MULTIPROCESSING": "1",
    "C_STRICT_APP": "1",
    "C_WNOCONF": "1",
    "KOMBU_LOG_DEBUG": "1",
    "KOMBU_DEBUG_POOL": "1",
    "DISABLE_TRACEBACKS": "1",
    "CELERY_LOADER": "default",
    **{f"CELERY_BROKER{kind}_URL": NOWHERE for kind in ("", "_READ", "_WRITE")},
    "BROKER_URL": NOWHERE,
    "CELERY_RESULT_BACKEND": "no-such-backend://",
    "CELERY_WORKER_QUEUES": "celery",
    "CELERY_WORKER_POOL": "solo",
    "CELERY_WORKER_SCHEDULER": "no.such:Scheduler",
    "CELERY_BEAT_SCHEDULER": "no.such:Scheduler",
    "DJANGO_SETTINGS_MODULE": "no.such.settings",
}
"""What an app may have set for a Celery of its own."""


@pytest.fixture
def others(tmp_path: Path) -> dict[str, str]:
    (tmp_path / "others_celeryconfig.py").write_text(HOSTILE)
    (tmp_path / "celeryconfig.py").write_text(HOSTILE)
    return {**OTHERS, "PYTHONPATH": str(tmp_path)}


@pytest.mark.slow
def test_another_celerys_settings_reach_no_worker_and_no_beat(
    others: dict[str, str],
    system_env: dict[str, str],
    app: Producer,
    start_worker: Start,
    tmp_path: Path,
) -> None:
    # Given a worker with its beat in an environment made for another Celery
    worker = start_worker(**others)
    # When a message waits for its time, so that beat has to ring, and has to be polled
    id = app.enqueue(text_job("79250000099", sendAt=iso_in(1.0)))
    # Then it ends as ever, in a pool of processes
    assert ends(app, 1)[id][-1]["status"] == "read"
    assert worker.process.poll() is None
    # And an operator's commands reach the worker from there, too
    code = "from viber_courier.ops.cli import main; main()"
    command = [sys.executable, "-c", code, "live"]
    subprocess.run(command, env={**os.environ, **system_env, **others}, check=True)
    # And nobody has even read the other's configuration
    assert not list(tmp_path.glob("*.read"))


@pytest.mark.slow
def test_beat_alone_is_as_deaf(
    others: dict[str, str],
    system_env: dict[str, str],
    app: Producer,
    start_worker: Start,
    tmp_path: Path,
) -> None:
    start_worker(beat=False)
    with supervised({**system_env, **others}, tmp_path, BEAT) as (beat,):
        id = app.enqueue(text_job("79250000099", sendAt=iso_in(1.0)))
        assert ends(app, 1)[id][-1]["status"] == "read"
    assert beat.exits == [] and not list(tmp_path.glob("*.read"))


def test_our_app_changes_no_environment(system_env: dict[str, str]) -> None:
    # Given a process that might become Flower, and one with a Celery of its own
    code = "import os; before = dict(os.environ); import sys; sys.modules['flower.options'] = m;"
    code = f"import types; m = types.ModuleType('m'); m.options = types.SimpleNamespace(); {code}"
    code += "m.options.add_parse_callback = lambda call: None; import viber_courier.worker.celery;"
    code += "assert dict(os.environ) == before; assert m.options.address == '127.0.0.1'"
    env = {**os.environ, **system_env, "CELERY_BROKER_URL": NOWHERE}
    subprocess.run([sys.executable, "-c", code], env=env, check=True)


# --- the broker's URLs ----------------------------------------------------------------------------

PASSWORD = "Zq7-br0ker"


def made(url: str) -> tuple[App, Connection]:
    """An app for that COURIER_BROKER_URL, and its connection."""
    app = App(set_as_current=False)
    app.conf.update(broker(url))
    return app, app.connection_for_read()


@pytest.mark.parametrize(
    ("url", "wanted"),
    [
        (f"redis://:{PASSWORD}@a:1/2", Transport),
        (f"rediss://:{PASSWORD}@a:1/2?ssl_cert_reqs=required", Transport),
        (f"rediss://a?ssl_password={PASSWORD}", Transport),
        (f"unix://u:{PASSWORD}@/tmp/redis.sock?db=2", Transport),
        (f"sentinel://:{PASSWORD}@a:1,b:2,c:3/2?master=m", SentinelTransport),
        (f"sentinels://a:1?master=m&sentinel_password={PASSWORD}", SentinelTransport),
    ],
    ids=["redis", "rediss", "key", "socket", "sentinel", "sentinels"],
)
def test_every_url_has_our_transport_and_shows_no_password(
    url: str, wanted: type, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CELERY_BROKER_URL", "memory://theirs")
    app, connection = made(url)
    for each in (connection, connection.clone(), app.connection(), app.connection_for_write()):
        assert each.get_transport_cls() is wanted
        assert bool(each.ssl) is url.startswith(("rediss", "sentinels"))
    # Nor does what Celery's logs, `report`, `inspect` and Flower show of it tell the password
    shown = {**connection.info(), "password": None}
    for text in (connection.as_uri(), app.bugreport(), app.conf.table(), shown):
        assert PASSWORD not in str(text)
    assert connection.info()["password"] in (None, PASSWORD), "Celery takes that out itself"


def test_a_failover_lists_next_url_has_our_transport_too() -> None:
    _, connection = made(f"sentinel://:{PASSWORD}@a:1,b:2/2?master=m")
    assert (connection.hostname, connection.port) == ("a", 1)
    connection.maybe_switch_next()
    assert (connection.hostname, connection.port) == ("b", 2)
    assert connection.get_transport_cls() is SentinelTransport
    assert connection.password == PASSWORD


# --- pools ----------------------------------------------------------------------------------------


OURS = "viber_courier.worker.runtime.pool:TaskPool"
POOLS = {
    "": OURS,
    "prefork": OURS,
    "threads": "celery.concurrency.thread:TaskPool",
    "solo": "celery.concurrency.solo:TaskPool",
    "gevent": "celery.concurrency.gevent:TaskPool",
    "eventlet": "celery.concurrency.eventlet:TaskPool",
}


GREEN = {"gevent", "eventlet"}


@pytest.mark.parametrize(
    "pool", [pytest.param(pool, marks=[pytest.mark.slow] * (pool != "prefork")) for pool in POOLS]
)
def test_a_worker_runs_in_each_pool_that_the_command_line_chooses(
    pool: str,
    others: dict[str, str],
    app: Producer,
    start_worker: Start,
    simulator: Simulator,
    system_env: dict[str, str],
    tmp_path: Path,
) -> None:
    if pool in GREEN and find_spec(pool) is None:
        pytest.skip(f"{pool} is not installed")
    del others["REMAP_SIGTERM"]  # else its processes would have no TERM to fear
    if pool in GREEN:
        del others["C_STRICT_APP"]  # an aid for debugging, which Celery itself stumbles over there
    # Given a worker with this pool among another Celery's settings, and a beat: -B and a green
    # pool exclude each other
    worker = start_worker(*(["-P", pool] if pool else []), beat=False, **others)
    # When messages come, one of them from a plain Celery client
    app.enqueue(text_job("79250000099"))
    with (
        Celery(broker=system_env["COURIER_REDIS_URL"], set_as_current=False) as client,
        supervised(system_env, tmp_path, BEAT),
    ):
        queue = f"{system_env['COURIER_NAMESPACE']}.enqueue"
        client.send_task("courier.enqueue", args=[[text_job("79250000199")]], queue=queue)
        seen = ends(app, 2)
        # Then they end, and it is this pool
        assert [events[-1]["status"] for events in seen.values()] == ["read", "read"]
        (stats,) = (client.control.inspect(timeout=5, limit=1).stats() or {}).values()
    assert stats["pool"].get("implementation", OURS) == POOLS[pool]
    # And all of its processes are told to end, as systemd does, while one is inside a request
    simulator.fault(kind="slow", seconds=0.5, times=1)
    id = app.enqueue(text_job(priority="low"))
    wait_for(lambda: simulator.get("faults")[0]["fired"])
    os.killpg(worker.process.pid, signal.SIGTERM)
    worker.process.wait(20)
    # Then the request is finished first
    assert worker.process.returncode == 0, worker.log[-2000:]
    record = app.get(id)
    assert record and record.provider_id and (record.attempts, record.unsure) == (1, 0)

"""docker-compose.yml on a real engine: what docs/operations.md says to type, kills, stops, rolls.

The tests use one system and go on from each other, in this order. Skips where no engine can be
started (engine.py), with the reason.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest
import redis
import requests
import yaml

from tests.conftest import Simulator, ends, text_job, wait_for
from tests.console import Person, words
from tests.containers.engine import ROOT, Engine, NoEngineError, engine
from tests.faults.installation import Installation, Load, Reader
from viber_courier import Event, Producer

PAGE = (ROOT / "docs/operations.md").read_text("utf-8")
START, LOOK, POST, CAMPAIGN, TOKEN, ROLL, SCALE, STOP = re.findall(
    r"(?s)\*\(run in containers\)\*\n\n```sh\n(.+?)```", PAGE
)
WORKERS = ("send-urgent", "send-bulk", "poll")
PROGRAMS = (*WORKERS, "beat", "flower", "exporter", "console", "gateway")
PUSHING = ("webhook", "forward")
ENV = {"COURIER_REDIS_URL": "redis://127.0.0.1:6379/0"}
WAITS = {
    "COURIER_CONNECT_TIMEOUT": "1",
    "COURIER_READ_TIMEOUT": "4",
    "COURIER_LEASE": "20",
    "COURIER_POLL_DELAYS": "1,1,2",
    "COURIER_RETRY_BASE": "0.3",
    "COURIER_RETRY_CAP": "1",
}
"""Settings that bring the end of an outage within reach of a test."""
PUSHED = {
    "COURIER_WEBHOOK_URL": "http://gateway:8080/nowhere",  # whatever answers in the network
    "COURIER_WEBHOOK_ALLOW": "172.16.0.0/12,192.168.0.0/16",
    "COURIER_WEBHOOK_GROUP": "hook",
    "COURIER_FORWARD_BROKER": "redis://redis:6379/1",
    "COURIER_FORWARD_GROUP": "crm",
    "COURIER_FORWARD_TASK": "crm.on_result",
    "COURIER_FORWARD_QUEUE": "crm",
}
"""An app's Celery in another database of our Redis, and an endpoint that refuses everything."""
OVERRIDE = """
services:
  grafana: {profiles: [left-out]}
"""
"""What is different here: no Grafana, which Debian does not have; more frequent health checks."""


class Published(Simulator):
    """The simulator's container, at its published port."""

    def __init__(self) -> None:
        self.url = "http://127.0.0.1:8044"


class Container:
    """A program as the ledger knows it, for its report of a failure."""

    def __init__(self, host: Host, name: str) -> None:
        self._host, self._name = host, name
        self.exits: list[int] = []

    @property
    def log(self) -> str:
        return self._host.type(f"docker compose logs --tail 30 {self._name}")


class LaterReader(Reader):
    """Reads on after another of its name, whose last word it finds."""

    BLOCK = 120.0  # seven programs are killed one after the other: longer than any single outage

    def _take(self, event: Event) -> None:
        if event.subject != "over":
            super()._take(event)


class Host:
    """A machine with an engine and a checkout that was made under umask 077."""

    def __init__(self, made: Engine, folder: Path) -> None:
        self.engine, self.folder = made, folder
        files = subprocess.run(
            ["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True
        ).stdout
        before = os.umask(0o077)
        for name in filter(None, files.split("\0")):
            target = folder / name
            target.parent.mkdir(parents=True, exist_ok=True)
            if (ROOT / name).is_symlink():
                target.symlink_to(os.readlink(ROOT / name))
            else:
                target.write_bytes((ROOT / name).read_bytes())
        services = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]
        # A check each half minute would be most of the time; a busy machine starts late.
        often = {"interval": "10s", "start_period": "5m", "timeout": "2m"}
        override = yaml.safe_load(OVERRIDE)
        for name in services.keys() - {"grafana", "redis"}:
            override["services"][name] = {"healthcheck": often}
        (folder / "override.yml").write_text(yaml.safe_dump(override))
        os.umask(before)

    def type(self, block: str, seconds: float = 300) -> str:
        """What a person sees who types this in the checkout."""
        env = {**self.engine.env, "COMPOSE_FILE": "docker-compose.yml:override.yml"}
        run = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", "umask 077\n" + block],
            cwd=self.folder,
            env=env,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=seconds,
        )
        assert run.returncode == 0, run.stdout[-6000:] + self.complaints()
        return run.stdout

    def complaints(self) -> str:
        """The state of each container, and the last lines of those that aren't well."""
        env = {**self.engine.env, "COMPOSE_FILE": "docker-compose.yml:override.yml"}
        line = "docker compose ps -a; docker compose logs --tail 8"
        run = subprocess.run(line, shell=True, cwd=self.folder, env=env, capture_output=True)
        return "\n" + run.stdout.decode()[-8000:]

    def ids(self, *names: str) -> dict[str, list[str]]:
        """The containers of each service."""
        return {
            name: sorted(self.type(f"docker compose ps -aq {name}").split())
            for name in names or ("redis", "simulator", "prometheus", *PROGRAMS)
        }

    def inspect(self, name: str) -> dict[str, Any]:
        """What the engine knows of a service's one container."""
        (id,) = self.ids(name)[name]
        return self.engine.inspect(id)

    def program(self, name: str) -> int:
        """The host's number of the program's process: the child of the container's init."""
        pid = self.inspect(name)["State"]["Pid"]
        listed = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        return int(listed[0])

    def kill(self, name: str) -> None:
        """kill -9 from outside of the container; returns when the engine has started it again."""
        restarts = self.inspect(name)["RestartCount"]
        os.kill(self.program(name), signal.SIGKILL)
        wait_for(lambda: self.inspect(name)["RestartCount"] > restarts, 20, name)

    def wait_until_well(self, name: str) -> None:
        """Waits until a service's container is healthy."""
        wait_for(lambda: self.inspect(name)["State"]["Health"]["Status"] == "healthy", 60, name)

    @contextmanager
    def load(self, prefix: str) -> Iterator[Installation]:
        """An app enqueues and a reader reads while the block runs; then the ledger must agree."""
        Published().reset()
        app, results = Producer.from_env(ENV), Producer.from_env(ENV)
        worker, beat = Container(self, "poll"), Container(self, "beat")
        given: Any = (worker, beat)
        load, reader = Load(app, prefix), LaterReader(results)
        system = Installation(ENV, Published(), load, reader, *given)
        try:
            system.at_work()
            yield system
        except AssertionError:
            print(reader.error, *load.refusals[-3:], self.complaints(), sep="\n")
            raise
        finally:
            load.stop()
            reader.stop()
            app.close()
            results.close()


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Host]:
    folder = tmp_path_factory.mktemp("checkout") / "courier"
    folder.mkdir()
    try:
        running = engine()
        made = running.__enter__()
    except NoEngineError as error:
        pytest.skip(f"no Docker engine: {error}")
    found = Host(made, folder)
    try:
        yield found
    finally:
        try:
            for name in ("docker-compose.yml", "courier.env"):
                (folder / name).exists() or shutil.copy(ROOT / "ops/simulator.env", folder / name)
            found.type("docker compose kill; docker compose --profile '*' down -v --timeout 1")
        finally:
            running.__exit__(None, None, None)


def test_the_documented_start_works_in_a_checkout_under_umask_077(host: Host) -> None:
    # Given the page's first block, and settings whose waits are short
    more = as_lines(WAITS | PUSHED)
    block = START.replace(
        "docker compose up", f"printf '%s' '{more}' >> courier.env\ndocker compose up"
    )
    # When it is typed
    host.type(block, 600)
    # Then everything is healthy, and the page's questions are answered
    said = host.type(LOOK)
    assert "\nready\n" in said and '"text"' in said
    # And what may do little can do its work: Prometheus has the exporter's series
    query = "http://127.0.0.1:9090/api/v1/query?query=up"
    wait_for(lambda: [each["value"][1] for each in ask(query)["data"]["result"]] == ["1"], 30)


def test_a_second_up_recreates_nothing(host: Host) -> None:
    before = host.ids()
    host.type("docker compose up -d --wait")
    assert host.ids() == before
    host.type("docker compose up -d --build --wait")
    assert host.ids() == before


def test_a_campaign_ends(host: Host) -> None:
    with closing(Producer.from_env(ENV)) as app:
        jobs = [text_job(f"7925{n:05}99", id=f"c{n}", priority="low") for n in range(1000)]
        app.enqueue_many(jobs)
        seen = ends(app, 1001)  # one is the page's own
    assert {events[-1]["status"] for events in seen.values()} == {"read"}
    accepted = [each["message"]["address"] for each in Published().accepted()]
    assert sorted(accepted) == sorted([*(job["address"] for job in jobs), "79250000001"])


def test_the_gateway_takes_a_message_and_knows_its_apps(host: Host) -> None:
    id = json.loads(host.type(POST))["id"]
    with closing(Producer.from_env(ENV)) as app:
        wait_for(lambda: app.get(id).status == "read", 60)
    url = "http://127.0.0.1:8080/v1/messages"
    assert requests.post(url, json=text_job(), timeout=10).status_code == 401
    # And the page's way to another app's token
    token, line = re.findall(r"(?m): +(\S+)\r?$", host.type(TOKEN))
    (host.folder / "secrets/gateway_tokens").chmod(0o644)
    with (host.folder / "secrets/gateway_tokens").open("a") as file:
        file.write(f"\n{line}\n")
    headers = {"Authorization": f"Bearer {token}"}
    wait_for(lambda: requests.get(f"{url}/{id}", headers=headers, timeout=10).status_code == 404)


def test_a_campaign_from_a_list_is_paused_and_resumed_in_the_console(host: Host) -> None:
    person = Person("http://127.0.0.1:8090")
    password = (host.folder / "secrets/console_password").read_text()
    assert person.log_in("operator", "not " + password).status_code == 403
    assert "Lanes" in words(person.log_in("operator", password))
    # Given a campaign of the page, added while its lane is paused
    *add, show, report = CAMPAIGN.strip().splitlines()
    host.type("docker compose exec send-urgent courier pause low --reason test")
    assert "200" in host.type("\n".join(add))
    # When somebody pauses it in the console, then nothing of it leaves
    assert "Paused" in words(person.fill("/do/pause-campaign?name=nov-sale", reason="wrong price"))
    host.type("docker compose exec send-urgent courier resume low")
    with closing(Producer.from_env(ENV)) as app:
        other = app.enqueue(text_job("79269999999", priority="low"))
        wait_for(lambda: app.get(other).final)
        assert "wrong price" in host.type(show)
        assert app.campaign("nov-sale").progress().waiting == 200
        # And when it is resumed, all of it comes to its end, and the report says so
        assert "Paused" not in words(person.fill("/do/resume-campaign?name=nov-sale"))
        wait_for(lambda: app.campaign("nov-sale").progress().waiting == 0, 120)
    wait_for(lambda: re.search(r"read +200", host.type(report)), 120)
    assert person.get("/campaigns/nov-sale/report.csv").text.count(",read,") == 200
    assert "pause campaign" in host.type("docker compose exec send-urgent courier audit")


def test_all_programs_have_the_same_key_of_suppressed_numbers(host: Host) -> None:
    # Given a number that somebody suppresses in the console
    person = Person("http://127.0.0.1:8090")
    person.log_in("operator", (host.folder / "secrets/console_password").read_text())
    person.fill("/do/suppress", phone="79267777777", reason="complained")
    # Then a message that the gateway takes ends so, and so does one of an app that has no key
    said = host.type(POST.replace("79250000001", "79267777777").replace('"high"', '"low"'))
    id = json.loads(said)["id"]
    with closing(Producer.from_env(ENV)) as app:
        mine = app.enqueue(text_job("79267777777", priority="low"))
        for each in (id, mine):
            wait_for(lambda each=each: app.get(each).final)
            assert (app.get(each).status, app.get(each).reason) == ("rejected", "suppressed")


def test_results_are_pushed(host: Host) -> None:
    host.type(f"docker compose up -d --wait {' '.join(PUSHING)}")
    with closing(Producer.from_env(ENV)) as app, closing(redis.Redis(db=1)) as broker:
        id = app.enqueue(text_job())
        wait_for(lambda: any(id.encode() in each for each in broker.lrange("crm", 0, -1)), 30)
    wait_for(lambda: "events not taken" in host.type("docker compose logs webhook"), 30)
    for name in PUSHING:
        host.kill(name)
        host.wait_until_well(name)
    host.type(f"docker compose rm -sf {' '.join(PUSHING)}")


def test_each_program_comes_back_after_kill_9_under_load(host: Host) -> None:
    with host.load("k") as system:
        for name in (*PROGRAMS, "redis"):
            host.kill(name)
        for name in (*PROGRAMS, "redis"):
            host.wait_until_well(name)
        system.back_at_work(60)
        ledger = system.ledger(120)
    assert ledger.asked > 30


def test_a_stop_under_load_leaves_nothing_unsure(host: Host) -> None:
    with host.load("s") as system:
        started = time.monotonic()
        host.type(f"docker compose stop {' '.join(WORKERS)}")
        assert time.monotonic() - started < 120  # the grace is 130 s
        assert {host.inspect(name)["State"]["ExitCode"] for name in WORKERS} == {0}
        host.type("docker compose up -d --wait")
        ledger = system.ledger(120)
    assert (ledger.unsure, ledger.doubled) == (0, [])


def test_a_stop_right_after_a_start_does_not_wait(host: Host) -> None:
    for name in ("send-bulk", "beat"):
        host.type(f"docker compose up -d --no-deps --force-recreate {name}")
        started = time.monotonic()
        host.type(f"docker compose stop {name}")
        assert time.monotonic() - started < 10, name
    host.type("docker compose up -d --wait")


def test_the_documented_roll_under_load_brings_a_changed_secret(host: Host) -> None:
    secret = host.folder / "secrets/flower_password"
    secret.unlink()
    secret.write_text("another-p4ssword")
    secret.chmod(0o444)
    before = host.ids()
    with host.load("r") as system:
        host.type(ROLL)
        system.back_at_work(60)
        ledger = system.ledger(120)
    assert (ledger.unsure, ledger.doubled) == (0, [])
    after = host.ids()
    assert {name for name in before if before[name] != after[name]} == {*PROGRAMS}
    page = "http://127.0.0.1:5555/workers"
    assert requests.get(page, auth=("operator", "another-p4ssword"), timeout=10).status_code == 200


def test_three_containers_of_a_worker_work_under_names_of_their_own(host: Host) -> None:
    host.type(SCALE)
    assert len(host.ids("send-bulk")["send-bulk"]) == 3
    said = host.type("docker compose exec send-urgent courier ready --json")
    assert said.count('"send-bulk@') == 3


def test_down_and_up_keep_what_waits_and_leave_nothing_running(host: Host) -> None:
    with closing(Producer.from_env(ENV)) as app:
        host.type("docker compose exec send-urgent courier pause low --reason test")
        ids = app.enqueue_many(
            text_job(f"7926{n:05}99", id=f"d{n}", priority="low") for n in range(200)
        )
    host.type(STOP)
    assert host.engine.docker("ps", "-aq") == ""
    host.type("docker compose up -d --wait")
    host.type("docker compose exec send-urgent courier resume low")
    with closing(Producer.from_env(ENV)) as app:
        wait_for(lambda: {app.get(id).status for id in ids} == {"read"}, 60)
    accepted = [each["message"]["address"] for each in Published().accepted()]
    assert len(accepted) == len({*accepted}) == len(ids)


def as_lines(values: Mapping[str, str]) -> str:
    return "".join(f"{name}={value}\n" for name, value in values.items())


def ask(url: str) -> Any:
    return requests.get(url, timeout=10).json()

"""Under a real supervisord: whatever ends comes back, and restarts are nobody's loss."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from configparser import RawConfigParser
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import redis
import requests
import yaml
from aiohttp import web

from tests.conftest import Simulator, ends, free_port, text_job, wait_for
from tests.console import USER, Person, words
from tests.faults.installation import SHORT, Installation, Load, Reader
from tests.ops.supervision import (
    BIN,
    CONFIG,
    PROGRAMS,
    ROOT,
    WORKERS,
    Supervisord,
    children,
    is_alive,
    supervised_system,
)
from tests.push import SECRET, Receiver, cancelled, until
from viber_courier import Producer
from viber_courier.ops.gateway.tokens import new_token
from viber_courier.ops.redis_server import RedisServer
from viber_courier.schemas.settings import Settings
from viber_courier.store.keys import Keys


@dataclass
class Log:
    """A program as the ledger asks for it."""

    system: Supervisord
    name: str

    @property
    def log(self) -> str:
        return self.system.log(self.name)


@pytest.fixture
def env(redis_server: RedisServer, simulator: Simulator, namespace: str) -> dict[str, str]:
    where = {"COURIER_REDIS_URL": redis_server.url, "COURIER_API_URL": simulator.url}
    return {**SHORT, **where, "COURIER_NAMESPACE": f"{namespace}-sup"}


@pytest.fixture
def system(env: dict[str, str]) -> Iterator[Supervisord]:
    with supervised_system(env) as made:
        yield made


@pytest.fixture
def at_work(
    system: Supervisord, env: dict[str, str], simulator: Simulator
) -> Iterator[Installation]:
    """The system with an app that enqueues and one that reads results, all the time."""
    with closing(Producer.from_env(env)) as app, closing(Producer.from_env(env)) as results:
        load, reader = Load(app), Reader(results)
        worker, beat = Log(system, "send-bulk"), Log(system, "beat")
        try:
            yield Installation(env, simulator, load, reader, worker, beat)
        finally:
            reader.stop()
            load.stop()


def test_each_program_killed_comes_back_and_messages_flow(
    system: Supervisord, at_work: Installation
) -> None:
    at_work.at_work()
    for name in PROGRAMS:
        # Given a program and its processes
        pid = system.pid(name)
        family = [pid, *children(pid)]
        said = len(system.log(name))
        # When it is killed
        os.kill(pid, signal.SIGKILL)
        # Then it is back, none of the old processes stays, and a new message comes to its end
        wait_for(lambda name=name, pid=pid: system.pid(name) not in (0, pid), 20)
        wait_for(lambda family=family: not any(map(is_alive, family)), 20, f"{name} left some")
        if name in WORKERS:
            wait_for(lambda n=name, said=said: " ready." in system.log(n)[said:], 20)
        at_work.back_at_work(30)
    # And nothing is lost; what nobody can know of says so
    ledger = at_work.ledger(60)
    print(ledger.figures)


def test_a_rolling_restart_under_load_loses_and_doubles_nothing(
    system: Supervisord, at_work: Installation
) -> None:
    at_work.at_work()
    took = {}
    for name in (*WORKERS, "beat"):
        pid, started = system.pid(name), time.monotonic()
        # When one after the other is restarted while messages come and go
        assert f"{name}: started" in system.ctl("restart", name)
        # Then the others go on, and so does it
        took[name] = round(time.monotonic() - started, 1)
        assert system.pid(name) not in (0, pid)
        at_work.back_at_work(30)
    assert max(took.values()) < 20, took
    ledger = at_work.ledger()
    print(ledger.figures, took)
    assert ledger.asked > 50
    assert (ledger.unsure, ledger.doubled, ledger.lost) == (0, [], [])


def test_stop_lets_a_running_request_finish(
    system: Supervisord, env: dict[str, str], simulator: Simulator
) -> None:
    with closing(Producer.from_env(env)) as app:
        # Given a request whose answer takes its time
        simulator.fault(kind="slow", seconds=3, times=1)
        id = app.enqueue(text_job(priority="low"))
        wait_for(simulator.accepted)
        asked = time.monotonic()
        # When its worker is stopped
        assert "send-bulk: stopped" in system.ctl("stop", "send-bulk")
        # Then the answer is waited for and written
        assert 1 < time.monotonic() - asked < 20
        record = app.get(id)
        assert record is not None and (record.status, record.unsure) != ("sending", 1)
        assert record.provider_id is not None and record.unsure == 0
        system.ctl("start", "send-bulk")
        assert ends(app, 1)[id][-1]["status"] == "read"
        assert len(simulator.accepted()) == 1


def test_a_setting_changes_with_a_restart_and_a_wrong_one_is_named_until_it_is_mended(
    system: Supervisord,
) -> None:
    # When a wrong setting comes with a restart
    system.set(COURIER_LEASE="1")
    system.ctl("restart", "beat")
    # Then the program says so, and is tried again and again
    wait_for(lambda: system.state("beat") == "BACKOFF")
    assert "viber-courier can't start: COURIER_LEASE" in system.log("beat")
    # And starts by itself when it is right
    system.set()
    wait_for(lambda: system.state("beat") == "RUNNING", 30)


def test_the_containers_health_checks_tell_who_works(system: Supervisord) -> None:
    services = yaml.safe_load((ROOT / "docker-compose.yml").read_text("utf-8"))["services"]
    env = {**system.env, **system.settings, "PATH": f"{BIN}:{os.environ['PATH']}"}

    def check(name: str) -> int:
        kind, *words = services[name]["healthcheck"]["test"]
        line = words[0].replace("$$", "$") if kind == "CMD-SHELL" else shlex.join(words)
        for ours, port in (("5555", "FLOWER_PORT"), ("9540", "COURIER_EXPORTER_PORT")):
            line = line.replace(ours, env[port])
        return subprocess.run(line, shell=True, env=env, capture_output=True, timeout=60).returncode

    # Given that all work, all are well
    assert {name: check(name) for name in PROGRAMS} == dict.fromkeys(PROGRAMS, 0)
    # When the processes of a worker hang, its main process could still answer a ping
    hung = children(system.pid("send-urgent"))
    for pid in hung:
        os.kill(pid, signal.SIGSTOP)
    # Then it isn't well
    assert check("send-urgent") != 0
    for pid in hung:
        os.kill(pid, signal.SIGCONT)
    # And nobody is well who is away
    system.ctl("stop", "flower", "exporter")
    assert check("flower") != 0 and check("exporter") != 0


def test_the_gateway_runs_where_it_has_tokens(system: Supervisord) -> None:
    # Given none, it does nothing, and says why
    wait_for(lambda: system.state("gateway") == "RUNNING")
    assert "no gateway, COURIER_GATEWAY_TOKENS is not set" in system.log("gateway")
    # When there are
    token, line = new_token("shop")
    (system.folder / "tokens").write_text(line)
    port = str(free_port())
    tokens = str(system.folder / "tokens")
    system.set(COURIER_GATEWAY_TOKENS=tokens, COURIER_GATEWAY_PORT=port)
    system.ctl("restart", "gateway")
    # Then it serves, and comes back after any exit
    headers = {"Authorization": f"Bearer {token}"}

    def post() -> int:
        url = f"http://127.0.0.1:{port}/v1/messages"
        with contextlib.suppress(requests.ConnectionError):
            return requests.post(url, json=text_job(), headers=headers, timeout=10).status_code
        return 0

    wait_for(lambda: post() == 202)
    for number in (signal.SIGKILL, signal.SIGTERM):
        pid = system.pid("gateway")
        os.kill(pid, number)
        wait_for(lambda pid=pid: system.pid("gateway") not in (0, pid))
        wait_for(lambda: post() == 202)


def test_a_webhook_runs_where_it_has_a_url_and_stays_ended_when_its_endpoint_is_gone(
    system: Supervisord, env: dict[str, str]
) -> None:
    app = Producer.from_env(env)
    wait_for(lambda: system.state("webhook") == system.state("forward") == "RUNNING")
    assert "no webhook, COURIER_WEBHOOK_URL is not set" in system.log("webhook")
    assert "no forward, COURIER_FORWARD_BROKER is not set" in system.log("forward")
    receiver = Receiver()

    async def answer(_: Receiver, events: list[dict[str, Any]]) -> web.Response | None:
        return web.Response(status=410) if events[0]["id"] == "last:1" else None

    async def run() -> None:
        async with receiver.serve() as url:
            (system.folder / "secret").write_text(SECRET)
            given = {"URL": url, "GROUP": "hook", "SECRET_FILE": str(system.folder / "secret")}
            given |= {"ALLOW": "127.0.0.1,::1", "START": "new", "PORT": str(free_port())}
            system.set(**{f"COURIER_WEBHOOK_{name}": text for name, text in given.items()})
            await asyncio.to_thread(system.ctl, "restart", "webhook")
            await until(lambda: "hook" in groups(app), 30)
            # It comes back after it was killed
            first = system.pid("webhook")
            os.kill(first, signal.SIGKILL)
            cancelled(app, "hooked")
            await until(lambda: receiver.taken == ["hooked:1"], 40)
            assert await asyncio.to_thread(system.pid, "webhook") != first
            # And not after an answer that it shall not
            receiver._answer = answer
            cancelled(app, "last")
            await until(lambda: system.state("webhook") == "EXITED", 40)

    asyncio.run(run())
    assert "410 Gone" in system.log("webhook")
    app.close()


def groups(app: Producer) -> set[str]:
    stream = Keys(app.settings.namespace).results
    found: Any = app.redis.xinfo_groups(stream) if app.redis.exists(stream) else []
    return {each["name"] for each in found}


def test_the_console_runs_where_it_has_a_login_and_comes_back(system: Supervisord) -> None:
    wait_for(lambda: system.state("console") == "RUNNING")
    wait_for(lambda: "no console, COURIER_CONSOLE_LOGIN or" in system.log("console"))
    port = str(free_port())
    system.set(**USER, COURIER_CONSOLE_PORT=port)
    system.ctl("restart", "console")
    person = Person(f"http://127.0.0.1:{port}")

    def is_there() -> bool:
        with contextlib.suppress(requests.ConnectionError):
            return person.get("/healthz").status_code == 200
        return False

    wait_for(is_there)
    for number in (signal.SIGKILL, signal.SIGTERM):
        assert "Lanes" in words(person.log_in())
        pid = system.pid("console")
        os.kill(pid, number)
        wait_for(lambda pid=pid: system.pid("console") not in (0, pid))
        wait_for(is_there)  # and knows nobody who was logged in


def test_a_forward_runs_where_it_has_a_broker_and_comes_back(
    system: Supervisord, env: dict[str, str], redis_server: RedisServer
) -> None:
    broker = redis_server.url.rpartition("/")[0] + "/5"
    given = {"BROKER": broker, "GROUP": "crm", "TASK": "crm.on", "QUEUE": env["COURIER_NAMESPACE"]}
    port = free_port()
    given |= {"START": "new", "PORT": str(port)}
    system.set(**{f"COURIER_FORWARD_{name}": text for name, text in given.items()})
    system.ctl("restart", "forward")
    with closing(Producer.from_env(env)) as app, closing(redis.Redis.from_url(broker)) as queue:
        for n, number in enumerate((signal.SIGKILL, signal.SIGTERM), 1):
            wait_for(lambda: listening(port), 30)
            cancelled(app, f"event-{n}")
            wait_for(lambda n=n: queue.llen(given["QUEUE"]) == n, 30)
            pid = system.pid("forward")
            os.kill(pid, number)
            wait_for(lambda pid=pid: system.pid("forward") not in (0, pid), 40)


def test_what_has_a_port_is_reached_from_this_machine_only_until_another_host_is_asked_for(
    system: Supervisord, env: dict[str, str], tmp_path: Path
) -> None:
    (tmp_path / "tokens").write_text(new_token("shop")[1])
    (tmp_path / "secret").write_text(SECRET)
    doors = {name: free_port() for name in ("GATEWAY", "CONSOLE", "WEBHOOK", "FORWARD")}
    given = {
        **USER,
        "COURIER_GATEWAY_TOKENS": str(tmp_path / "tokens"),
        "COURIER_WEBHOOK_URL": "https://shop.invalid/hook",
        "COURIER_WEBHOOK_GROUP": "hook",
        "COURIER_WEBHOOK_SECRET_FILE": str(tmp_path / "secret"),
        "COURIER_FORWARD_BROKER": env["COURIER_REDIS_URL"],
        "COURIER_FORWARD_GROUP": "crm",
        "COURIER_FORWARD_TASK": "crm.on_result",
        **{f"COURIER_{name}_PORT": str(port) for name, port in doors.items()},
    }
    system.set(**given)
    system.ctl("restart", *map(str.lower, doors))
    ports = [*doors.values(), *(int(system.settings[name]) for name in PORTS)]
    for port in ports:
        wait_for(lambda port=port: listening(port) == {"127.0.0.1"}, 30, str(port))
    system.set(**given, COURIER_GATEWAY_HOST="0.0.0.0", COURIER_CONSOLE_HOST="0.0.0.0")
    system.ctl("restart", "gateway", "console")
    for name in ("GATEWAY", "CONSOLE"):
        wait_for(lambda name=name: listening(doors[name]) == {"0.0.0.0"}, 30, name)
    # Without a login, or tokens, neither is a door for everybody
    open_to_all = {"COURIER_CONSOLE_USERS": "", "COURIER_CONSOLE_LOGIN": ""}
    run = subprocess.run(
        [BIN / "courier", "console", "--host", "0.0.0.0", "--port", "0"],
        env={**system.env, **env, **open_to_all},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert run.returncode == 2 and "beyond loopback" in run.stderr


PORTS = ("FLOWER_PORT", "COURIER_EXPORTER_PORT")


def listening(port: int) -> set[str]:
    """The addresses on which this machine listens at a port."""
    found = set()
    for name, family in (("tcp", socket.AF_INET), ("tcp6", socket.AF_INET6)):
        for line in Path(f"/proc/net/{name}").read_text().splitlines()[1:]:
            address, _, at = line.split()[1].partition(":")
            if int(at, 16) == port and line.split()[3] == "0A":
                given = b"".join(
                    int(address[n : n + 8], 16).to_bytes(4, sys.byteorder)
                    for n in range(0, len(address), 8)
                )
                found.add(socket.inet_ntop(family, given))
    return found


def test_secrets_are_in_no_environment_and_no_command(system: Supervisord) -> None:
    for name in PROGRAMS:
        for pid in (system.pid(name), *children(system.pid(name))):
            said = (
                Path(f"/proc/{pid}/environ").read_bytes()
                + Path(f"/proc/{pid}/cmdline").read_bytes()
            )
            assert SHORT["COURIER_API_PASSWORD"].encode() not in said, name


def test_only_its_owner_commands_supervisord(system: Supervisord) -> None:
    assert (system.folder / "supervisor.sock").stat().st_mode & 0o077 == 0


# --- the configuration ----------------------------------------------------------------------------


def sections() -> RawConfigParser:
    parser = RawConfigParser(inline_comment_prefixes=(";",))
    parser.read(CONFIG)
    return parser


@pytest.mark.parametrize("name", WORKERS)
def test_a_stop_waits_longer_than_the_longest_request(name: str) -> None:
    program = sections()[f"program:{name}"]
    assert program.getint("stopwaitsecs") > Settings().lease > Settings().deadline
    assert (program["stopsignal"], program["stopasgroup"]) == ("TERM", "false")


def test_every_program_comes_back_after_any_exit_and_rotates_its_log() -> None:
    parser = sections()
    programs = [parser[name] for name in parser.sections() if name.startswith("program:")]
    assert len(programs) == 10
    for program in programs:
        # but a webhook whose endpoint is gone
        ends = ("unexpected", "4") if program.name == "program:webhook" else ("true", None)
        assert (program["autorestart"], program.get("exitcodes")) == ends
        assert program.getint("startretries") > 10**5
        assert program["stderr_logfile_maxbytes"] and program.getint("stderr_logfile_backups")


# --- make up --------------------------------------------------------------------------------------


def test_make_up_is_a_whole_system_until_ctrl_c() -> None:
    with tempfile.TemporaryDirectory(prefix="courier-") as folder:
        env = {name: v for name, v in os.environ.items() if not name.startswith("COURIER_")}
        env |= {"COURIER_PROCESSES_BULK": "2", "COURIER_PROCESSES_URGENT": "1"}
        process = subprocess.Popen(
            [Path(sys.executable).parent / "courier", "up", "--folder", folder],
            env=env,
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        assert process.stdout is not None
        lines: list[str] = []
        reader = threading.Thread(target=lambda: lines.extend(process.stdout))
        reader.start()
        try:
            # Given what it says and leaves for other terminals
            wait_for(lambda: "Flower " in "".join(lines))
            given = dict(
                re.findall(r"export (\w+)=(\S+)\n", Path(folder, "courier.env").read_text())
            )
            with closing(Producer.from_env(given)) as app:
                # When an app sends, then the simulated person reads
                wait_for(lambda: _answers(app), 20)
                id = app.enqueue(text_job("79250000001"))
                assert ends(app, 1, 150)[id][-1]["status"] == "read"
                assert app.suppressions.add("79250000009", "complained")  # there is a key
            text = "".join(lines)
            # And what it says to try, but for the last, which goes on for ever, works as it stands
            tries = re.search(r"In another terminal:\n(.+?)   courier top\n", text, re.S)
            assert tries is not None
            wait_for(lambda: text_of(tries[1], "status").count("RUNNING") == 12, 30)
            said = text_of(tries[1])
            assert re.search(r"(?m)^[0-9a-f-]{36}$", said), said  # the id of what was sent
            assert re.search(r"send-bulk +RUNNING", said) and "error" not in said.lower(), said
            wait_for(lambda: "exited: send-bulk (terminated by SIGKILL" in "".join(lines), 20)
            wait_for(lambda: text_of(tries[1], "status").count("RUNNING") == 12, 30)
            # And the last that it said is where the console is, and how to get in
            entry = re.search(r"console    (\S+)/ \(login (\S+), password (\S+)\)\n\n", text)
            assert entry is not None
            assert not re.sub("(?m)^.* CRIT .*$", "", text[entry.end() :]).strip()
            person = Person(entry[1])
            person.log_in(entry[2], "wrong")
            assert "/login" in person.get("/").url
            assert person.log_in(entry[2], entry[3]).url == f"{entry[1]}/"
            assert "realtime" in words(person.get("/"))
            assert f"Flower     http://127.0.0.1:{given['FLOWER_PORT']}/tasks" in text
            assert f"exporter   http://127.0.0.1:{given['COURIER_EXPORTER_PORT']}/" in text
            assert f"provider   {given['COURIER_API_URL']}" in text
            family = children(process.pid)
            assert len(family) >= 2 + len(PROGRAMS)
        finally:
            # When it is interrupted
            process.send_signal(signal.SIGINT)
            process.wait(60)
            reader.join(10)
            process.stdout.close()
        # Then nothing of it is left
        assert not any(map(is_alive, family))


def text_of(commands: str, part: str = "") -> str:
    """What somebody sees who types them, or the first and those with this part."""
    lines = commands.splitlines()
    chosen = [line for n, line in enumerate(lines) if part in line or n == 0]
    run = subprocess.run(
        ["bash", "-c", "\n".join(chosen)], cwd=ROOT, capture_output=True, text=True, timeout=100
    )
    return run.stdout + run.stderr


def _answers(app: Producer) -> bool:
    try:
        return bool(app.redis.ping())
    except Exception:
        return False

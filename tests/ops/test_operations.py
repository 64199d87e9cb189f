"""docs/operations.md: what it says to type works."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from tests.conftest import Simulator, ends, free_port, text_job, wait_for
from tests.console import Person, words
from tests.faults.installation import SHORT
from tests.ops.supervision import BIN, PROGRAMS, ROOT
from viber_courier import Producer
from viber_courier.ops.redis_server import RedisServer

PAGE = (ROOT / "docs/operations.md").read_text("utf-8")
CONTAINERS = re.findall(r"(?s)\*\(run in containers\)\*\n\n```sh\n(.+?)```", PAGE)
"""Blocks that tests/containers runs."""
BLOCKS = re.findall(r"(?s)\*\(tested\)\*\n\n```sh\n(.+?)```", PAGE)


class Host:
    """A machine of its own as far as the page is concerned: its folders and ports are elsewhere."""

    def __init__(self, folder: Path, redis_url: str) -> None:
        self.folder, self.port = folder, free_port()
        self.env = {"PATH": os.environ["PATH"], "HOME": str(folder)}
        (folder / "opt").mkdir()
        (folder / "opt/viber-courier").symlink_to(BIN.parent)
        self.moved = {
            "/etc/viber-courier": f"{folder}/etc",
            "/var/lib/viber-courier": f"{folder}/var",
            "/opt/viber-courier": f"{folder}/opt/viber-courier",
            "redis://localhost:6379/0": redis_url,
            ":5555/": f":{self.port}/",
        }

    def type(self, block: str, answers: str = "") -> str:
        """What a person sees who types this; its exports stay."""
        for here, there in self.moved.items():
            block = block.replace(here, there)
        exports = "\n".join(re.findall(r"(?m)^export .+", block))
        run = subprocess.run(
            ["bash", "-eo", "pipefail", "-c", block],
            input=answers,
            env=self.env,
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=200,
        )
        assert run.returncode == 0, run.stdout + run.stderr
        shown = subprocess.run(
            ["bash", "-c", f"{exports}\nenv -0"],
            env=self.env,
            capture_output=True,
            text=True,
            check=True,
        )
        self.env = dict(each.split("=", 1) for each in shown.stdout.split("\0") if each)
        return run.stdout + run.stderr

    def ctl(self, *words: str) -> str:
        command = [BIN / "supervisorctl", "-c", self.folder / "etc/supervisord.conf", *words]
        run = subprocess.run(command, env=self.env, capture_output=True, text=True, timeout=200)
        return run.stdout

    def running(self) -> bool:
        lines = {line.split()[0]: line.split()[1] for line in self.ctl("status").splitlines()}
        return all(lines.get(name) == "RUNNING" for name in PROGRAMS)


@pytest.fixture
def host(redis_server: RedisServer) -> Iterator[Host]:
    with tempfile.TemporaryDirectory(prefix="courier-") as folder:
        made = Host(Path(folder), redis_server.url)
        yield made
        if (made.folder / "var/supervisord.pid").exists():
            pid = int((made.folder / "var/supervisord.pid").read_text())
            made.ctl("shutdown")
            wait_for(lambda: not Path(f"/proc/{pid}").exists(), 100)


def test_each_step_works(host: Host, simulator: Simulator, namespace: str) -> None:
    install, run, status, restart, logs, flower = BLOCKS
    # Install
    host.type(install, "tester\n111111\nZq7-flower-p4ss\nZq7-console-p4ss\n")
    secrets = host.folder / "etc/secrets"
    assert (secrets / "api_login").read_text() == "tester"
    assert all(path.stat().st_mode & 0o077 == 0 for path in secrets.iterdir())
    more = {
        **{name: value for name, value in SHORT.items() if not name.startswith("COURIER_API")},
        "COURIER_API_URL": simulator.url,
        "COURIER_NAMESPACE": namespace,
        "COURIER_PROCESSES_BULK": "2",
        "COURIER_PROCESSES_URGENT": "1",
        "COURIER_PROCESSES_POLL": "1",
        "FLOWER_PORT": str(host.port),
        "COURIER_EXPORTER_PORT": str(free_port()),
        "COURIER_CONSOLE_PORT": str(free_port()),
    }
    with (host.folder / "etc/env").open("a") as file:
        file.writelines(f"{name}={value}\n" for name, value in more.items())
    # Run
    host.type(run)
    wait_for(host.running, 40)
    redis_url = host.moved["redis://localhost:6379/0"]
    with closing(
        Producer.from_env({"COURIER_REDIS_URL": redis_url, "COURIER_NAMESPACE": namespace})
    ) as app:
        id = app.enqueue(text_job("79250000001"))
        assert ends(app, 1)[id][-1]["status"] == "read"
        # Look
        said = host.type(status)
        assert "send-bulk" in said and "poll: started" in said and '"text"' in said
        assert '"text": "request sent"' in host.type(logs)
        assert host.type(flower).strip() == "OK"
        person = Person(f"http://127.0.0.1:{more['COURIER_CONSOLE_PORT']}")
        assert "Lanes" in words(person.log_in("operator", "Zq7-console-p4ss"))
        # Suppress: whoever sends and whoever looks have the same key
        person.fill("/do/suppress", phone="79250000003", reason="complained")
        suppressed = app.enqueue(text_job("79250000003", priority="low"))
        assert ends(app, 1)[suppressed][-1]["reason"] == "suppressed"
        # Restart everything
        said = host.type(restart)
        assert said.count(": started") == 10, said
        wait_for(host.running, 40)
        id = app.enqueue(text_job("79250000002"))
        assert ends(app, 1)[id][-1]["status"] == "read"


def test_every_command_of_the_page_is_run_by_some_test() -> None:
    elsewhere = {  # or is one that installs packages or containers
        "make up",
        "courier flower",
        "python3 -m venv /opt/viber-courier",
        "/opt/viber-courier/bin/pip install -c ops/constraints.txt '.[worker,ops,run]'",
        "/opt/viber-courier/bin/pip install --upgrade -c ops/constraints.txt '.[worker,ops,run]'",
        # or belongs to systemd, whose unit tests/ops/test_systemd.py runs
        "cp ops/systemd/viber-courier@.service /etc/systemd/system/",
        "useradd --system courier",
        "chgrp -R courier /etc/viber-courier && chmod -R g+rX /etc/viber-courier",
        "systemctl daemon-reload",
        "systemctl enable --now viber-courier@send-urgent viber-courier@send-bulk"
        " viber-courier@poll \\",
        "  viber-courier@beat viber-courier@flower viber-courier@exporter",
        "journalctl -u 'viber-courier@*' -o cat -n 20",
        "chmod 700 secrets && chmod 444 secrets/*",
        "chmod -R go+rX ops/redis.conf ops/prometheus ops/grafana",
        "sysctl -w vm.overcommit_memory=1",
        "echo vm.overcommit_memory=1 > /etc/sysctl.d/90-redis.conf",
        "kubectl create secret generic courier-provider --from-file=secrets/api_login"
        " --from-file=secrets/api_password",
        "kubectl create secret generic courier-flower --from-file=secrets/flower_password",
        "kubectl create secret generic courier-gateway --from-file=secrets/gateway_tokens",
        "kubectl create secret generic courier-console --from-file=secrets/console_password",
        "kubectl create secret generic courier-suppression --from-file=secrets/suppression_key",
        "kubectl apply -f ops/kubernetes/",
        "kubectl rollout status deployment/courier-beat",
        "kubectl rollout restart deployment -l app.kubernetes.io/name=viber-courier",
    }
    lines = {
        line
        for block in re.findall(r"(?s)```sh\n(.+?)```", PAGE)
        if block not in (*BLOCKS, *CONTAINERS)
        for line in block.splitlines()
    }
    assert lines == elsewhere


def test_its_names_are_those_of_the_files() -> None:
    named = {
        name
        for path in ("ops/program.sh", "ops/supervisord.conf", "ops/flowerconfig.py")
        for name in re.findall(r"COURIER_[A-Z_]+[A-Z]", (ROOT / path).read_text())
    } - {"COURIER_API_PASSWORD_FILE", "COURIER_NAMESPACE", "COURIER_CONSOLE_LOGIN_FILE"}
    short = {
        "_BULK": "COURIER_PROCESSES",
        "_POLL": "COURIER_PROCESSES",
        "_PORT": "COURIER_EXPORTER",
    }
    ports = re.findall(r"`(COURIER_\w+)_HOST`, `_PORT`", PAGE)
    said = set(re.findall(r"`(COURIER_[A-Z_]+)`", PAGE)) | {f"{name}_PORT" for name in ports}
    said |= {f"{before}{name}" for name, before in short.items() if f"`{name}`" in PAGE}
    assert named <= said, named - said


# --- compose --------------------------------------------------------------------------------------


def test_composes_own_parser_takes_the_file(tmp_path: Path) -> None:
    parser = shutil.which("docker-compose")
    if parser is None:
        pytest.skip("no docker-compose: make test-ops installs it where it is root on Debian")
    # Given the folder as the page makes it
    for name in ("docker-compose.yml", "ops"):
        (tmp_path / name).symlink_to(ROOT / name)
    shutil.copy(ROOT / "ops/simulator.env", tmp_path / "courier.env")
    secrets = ROOT / "ops/simulator-secrets.sh"
    subprocess.run(["sh", secrets], cwd=tmp_path, check=True, capture_output=True)
    # When it is read, against its schema and with everything put in its place
    command = [parser, "--profile", "simulator", "--profile", "gateway"]
    command += ["--profile", "webhook", "--profile", "forward", "--profile", "console"]
    command += ["config", "--services"]
    run = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert run.returncode == 0, run.stderr
    others = {"console", "gateway", "webhook", "forward", "redis", "simulator", "prometheus"}
    others.add("grafana")
    assert {*PROGRAMS, *others} == set(run.stdout.split())

"""docker-compose.yml and what it uses: names and commands that exist, images that stay the same."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import time
import tomllib
from dataclasses import fields
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import click
import pytest
import redis
import yaml
from celery.bin.worker import worker as worker_command

from tests.conftest import free_port
from viber_courier.ops.cli import COMMANDS
from viber_courier.ops.gateway.tokens import SETTING, Tokens
from viber_courier.ops.push.endpoint import Secrets
from viber_courier.ops.redis_server import find_server
from viber_courier.schemas.lanes import LANES
from viber_courier.schemas.settings import FROM_FILE, PREFIX, Settings

ROOT = Path(__file__).parent.parent
COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text("utf-8"))
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
DOCKERFILE = (ROOT / "ops/Dockerfile").read_text("utf-8")
PINNED = r"[a-z][a-z0-9./-]*:v?\d+\.\d+\.\d+(-[a-z0-9.-]+)?"


VERSION = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["version"]
IMAGE = f"viber-courier:{VERSION}"
OURS = [name for name in SERVICES if SERVICES[name]["image"] == IMAGE]
"""Services that run our image."""
PROGRAMS = ("send-urgent", "send-bulk", "poll", "beat", "flower", "exporter")
WORKERS = PROGRAMS[:3]
OF_FLOWER = {"COURIER_FLOWER_LOGIN", "COURIER_FLOWER_PASSWORD_FILE"}
"""Read by ops/flowerconfig.py."""
OF_CONSOLE = {name.replace("FLOWER", "CONSOLE") for name in OF_FLOWER}
NEEDS_KEY = {*WORKERS, "console", "gateway"}
"""Services that look suppressed numbers up, or add them."""


def known_variables() -> set[str]:
    names = {PREFIX + each.name.upper() for each in fields(Settings)}
    files = {f"{PREFIX}{name.upper()}_FILE" for name in FROM_FILE}
    return names | files | OF_FLOWER | OF_CONSOLE | {SETTING, "COURIER_WEBHOOK_SECRET_FILE"}


def simulators() -> dict[str, str]:
    """What ops/simulator.env sets."""
    lines = (ROOT / "ops/simulator.env").read_text("utf-8").splitlines()
    return dict(line.split("=", 1) for line in lines if not line.startswith("#"))


def test_there_is_a_service_for_each_program() -> None:
    optional = {"console", "gateway", "webhook", "forward", "simulator"}
    assert {*PROGRAMS, "redis", "prometheus", "grafana", *optional} == SERVICES.keys()
    assert {name for name in SERVICES if "profiles" in SERVICES[name]} == optional


@pytest.mark.parametrize("name", OURS)
def test_every_variable_is_a_setting(name: str) -> None:
    environment = SERVICES[name].get("environment", {})
    assert all(isinstance(value, str) for value in environment.values())
    assert {key for key in environment if key.startswith(PREFIX)} <= known_variables()
    assert simulators().keys() <= known_variables()
    others = {key for key in environment if not key.startswith(PREFIX)}
    assert others <= {"FLOWER_ADDRESS"}


def test_settings_come_from_a_file_and_secrets_from_files_of_their_own() -> None:
    folders = {f"/run/secrets/{name}" for name in COMPOSE["secrets"]}
    for name in {*OURS} - {"simulator"}:
        service = SERVICES[name]
        assert service["env_file"] == ["courier.env"]
        given = {f"/run/secrets/{secret}" for secret in service["secrets"]}
        environment = service["environment"]
        asked = {v for key, v in environment.items() if key.endswith(("_FILE", "_TOKENS"))}
        assert asked == given <= folders, name
        assert ("COURIER_SUPPRESSION_KEY_FILE" in environment) == (name in NEEDS_KEY), name
    assert SERVICES["exporter"]["secrets"] == []
    for secret in COMPOSE["secrets"].values():
        assert secret["file"].startswith("./secrets/")
    ignored = (ROOT / ".gitignore").read_text().splitlines()
    assert {"/secrets/", "/courier.env", "/.env"} <= {*ignored}
    assert "!secrets" not in (ROOT / ".dockerignore").read_text().split()
    assert (ROOT / ".dockerignore").read_text().splitlines()[1] == "*"


@pytest.mark.parametrize("name", [name for name in PROGRAMS if name != "exporter"])
def test_settings_for_the_simulator_are_valid(name: str) -> None:
    environment = simulators() | SERVICES[name]["environment"]
    settings = Settings.from_env(environment, provider=True, read=lambda path: "any-file-s-secret")
    assert settings.redis_url == "redis://redis:6379/0"
    assert settings.api_url == "http://simulator:8044"


def test_the_simulators_secrets_are_made_once(tmp_path: Path) -> None:
    # Given a checkout under umask 077
    mounted = ("redis.conf", "prometheus/alerts.yml", "grafana/dashboards/courier.json")
    for name in ("simulator-secrets.sh", *mounted):
        (tmp_path / "ops" / name).parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        shutil.copy(ROOT / "ops" / name, tmp_path / "ops" / name)
        (tmp_path / "ops" / name).chmod(0o600)
    script = ["sh", "ops/simulator-secrets.sh"]
    # When the script runs twice
    subprocess.run(script, cwd=tmp_path, check=True, capture_output=True)
    first = {path.name: path.read_text() for path in (tmp_path / "secrets").iterdir()}
    subprocess.run(script, cwd=tmp_path, check=True, capture_output=True)
    second = {path.name: path.read_text() for path in (tmp_path / "secrets").iterdir()}
    token = first["gateway_token"]  # an app's, which no container needs
    assert first == second and first.keys() - {"gateway_token"} == COMPOSE["secrets"].keys()
    assert Tokens(tmp_path / "secrets" / "gateway_tokens").name_of(token) == "demo"
    key = {"COURIER_SUPPRESSION_KEY_FILE": str(tmp_path / "secrets/suppression_key")}
    assert Settings.from_env(key).suppression_key
    assert Secrets(tmp_path / "secrets" / "webhook_secret")
    assert first["api_login"] == "tester" and len(first["flower_password"]) == 24
    assert first["flower_password"] != first["grafana_password"]
    # And the users in the containers may read what they mount
    for name in mounted:
        assert (tmp_path / "ops" / name).stat().st_mode & 0o044 == 0o044
        assert (
            name == "redis.conf" or (tmp_path / "ops" / name).parent.stat().st_mode & 0o055 == 0o055
        )


def test_nothing_of_the_callers_environment_comes_in() -> None:
    text = (ROOT / "docker-compose.yml").read_text("utf-8")
    assert "devinotele" not in text
    assert "$" not in text.replace("$$(hostname)", "")


@pytest.mark.parametrize("name", SERVICES)
def test_each_service_may_do_little(name: str) -> None:
    service = SERVICES[name]
    size = "256m" if name == "console" else "64m"  # lists of campaigns that are begun there
    assert service["read_only"] is True and service["tmpfs"] == [f"/tmp:size={size}"]
    assert service["init"] is True  # else a SIGTERM before the program's handlers is ignored
    assert bytes_of(service["mem_limit"]) <= 4 * 2**30 and service["pids_limit"] <= 200
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert service["restart"] == "unless-stopped"
    assert service["logging"]["options"].keys() == {"max-size", "max-file"}
    if name not in OURS:  # ours is in the Dockerfile
        assert service["user"] not in ("root", "0")


def bytes_of(size: str) -> int:
    """What ``512m`` or ``2gb`` stands for."""
    number, unit = re.fullmatch(r"(\d+)([mg])b?", size).groups()  # type: ignore[union-attr]
    return int(number) * {"m": 2**20, "g": 2**30}[unit]


def test_redis_is_full_before_its_container_is() -> None:
    words = SERVICES["redis"]["command"]
    full = bytes_of(words[words.index("--maxmemory") + 1])
    assert 2 * full <= bytes_of(SERVICES["redis"]["mem_limit"])  # it forks to rewrite its file


def test_redis_may_take_minutes_to_load() -> None:
    assert SERVICES["redis"]["healthcheck"]["start_period"] == "10m"


def test_one_service_builds_the_image_and_nobody_pulls_it() -> None:
    assert {*OURS} == {*PROGRAMS, "console", "gateway", "webhook", "forward", "simulator"}
    assert [name for name in SERVICES if "build" in SERVICES[name]] == ["send-urgent"]
    build = SERVICES["send-urgent"]["build"]
    assert (ROOT / build["context"] / build["dockerfile"]).exists()
    assert {SERVICES[name]["pull_policy"] for name in OURS} == {"never"}


@pytest.mark.parametrize("name", [name for name in SERVICES if name not in OURS])
def test_images_of_others_are_pinned(name: str) -> None:
    assert re.fullmatch(PINNED, SERVICES[name]["image"])


def test_the_image_says_what_it_is() -> None:
    labels = dict(re.findall(r'org\.opencontainers\.image\.(\w+)="([^"]+)"', DOCKERFILE))
    assert (labels["title"], labels["version"]) == ("viber-courier", VERSION)
    assert labels["description"] and f"-t {IMAGE} ." in DOCKERFILE


def test_who_watches_does_not_reach_redis() -> None:
    networks = {name: {*SERVICES[name]["networks"]} for name in SERVICES}
    assert {name for name in SERVICES if "watch" in networks[name]} == {
        *("console", "exporter", "gateway", "webhook", "forward", "prometheus", "grafana")
    }
    assert networks["exporter"] == {"store", "watch"}
    assert {name for name in SERVICES if "store" not in networks[name]} == {"prometheus", "grafana"}
    assert COMPOSE["networks"].keys() == {"store", "watch"}


def test_prometheus_keeps_no_more_than_fits() -> None:
    words = SERVICES["prometheus"]["command"]
    assert {"--storage.tsdb.retention.time=30d", "--storage.tsdb.retention.size=4GB"} <= {*words}


def test_base_images_are_pinned() -> None:
    bases = re.findall(r"(?m)^FROM (\S+)", DOCKERFILE)
    assert len(bases) == 2
    assert all(re.fullmatch(PINNED, base) for base in bases)


def test_the_image_runs_as_nobody_special() -> None:
    last = DOCKERFILE.rpartition("\nFROM ")[2]
    assert re.search(r"(?m)^USER (?!root|0)\w+", last)


def test_the_image_copies_what_exists() -> None:
    for sources in re.findall(r"(?m)^COPY (?!--from)(.+) \S+$", DOCKERFILE):
        for source in sources.split():
            assert (ROOT / source).exists(), source


def check_command(words: list[str]) -> None:
    """That what a container is to run is there."""
    match words:
        case ["celery", "-q", "-A", module, program, *options]:
            assert find_spec(f"{module}.celery")
            assert program in ("worker", "beat", "flower")
            if program == "worker":
                parse = worker_command.make_parser(click.Context(worker_command)).parse_args
                given, rest, _ = parse(options)
                assert rest == [] and given["hostname"].endswith("@%h")
        case ["courier", command, *_]:
            assert command in COMMANDS
        case ["python", "-m", module]:
            assert find_spec(module)
        case ["python", "-c", program, url]:
            compile(program, "check", "exec")
            assert url.startswith("http://127.0.0.1:")
        case other:
            pytest.fail(f"not known: {other}")


@pytest.mark.parametrize("name", OURS)
def test_commands_name_what_exists(name: str) -> None:
    check_command(SERVICES[name]["command"])
    match SERVICES[name]["healthcheck"]["test"]:
        case ["CMD", *words]:
            check_command(words)
        case ["CMD-SHELL", line]:
            check_command(shlex.split(line))


def test_redis_reads_our_configuration() -> None:
    mounts = dict(each.split(":")[1::-1] for each in SERVICES["redis"]["volumes"])
    assert (ROOT / mounts[SERVICES["redis"]["command"][1]]).is_file()


@pytest.mark.parametrize("name", ["prometheus", "grafana"])
def test_what_others_mount_exists(name: str) -> None:
    folders = [each.split(":")[0] for each in SERVICES[name]["volumes"] if each.startswith(".")]
    assert folders and all((ROOT / folder).is_dir() for folder in folders)


def test_each_lane_and_queue_has_a_worker_of_its_own_name() -> None:
    taken: dict[str, set[str]] = {}
    for name in WORKERS:
        words = SERVICES[name]["command"]
        assert words[words.index("-n") + 1] == f"{name}@%h"
        taken[name] = set(words[words.index("-Q") + 1].split(","))
        # And its health check asks this very one, by the name that Celery gives it
        assert f"--worker {name}@$$(hostname)" in SERVICES[name]["healthcheck"]["test"][1]
    every = {f"courier.{name}" for name in ("poll", "enqueue", *(f"send.{each}" for each in LANES))}
    assert set().union(*taken.values()) == every
    assert taken["send-urgent"] == {"courier.send.realtime", "courier.send.high"}


@pytest.mark.parametrize("name", SERVICES)
def test_each_service_has_a_health_check(name: str) -> None:
    assert SERVICES[name]["healthcheck"]["test"][0] in ("CMD", "CMD-SHELL")


def test_ports_are_open_on_this_machine_only() -> None:
    for service in SERVICES.values():
        assert all(port.startswith("127.0.0.1:") for port in service.get("ports", []))


@pytest.mark.parametrize("name", SERVICES)
def test_what_is_waited_for_can_be_waited_for(name: str) -> None:
    needs = SERVICES[name].get("depends_on", {})
    for other, wanted in needs.items() if isinstance(needs, dict) else ():
        assert other in SERVICES
        if wanted["condition"] == "service_healthy":
            assert "healthcheck" in SERVICES[other]


@pytest.mark.parametrize("name", WORKERS)
def test_a_worker_may_finish_its_request(name: str) -> None:
    grace = int(SERVICES[name]["stop_grace_period"].removesuffix("s"))
    assert grace > Settings().lease > Settings().deadline


def test_redis_starts_with_the_configuration(tmp_path: Path) -> None:
    shutil.copy(ROOT / "ops/redis.conf", tmp_path)
    port = free_port()
    command = [find_server(), str(tmp_path / "redis.conf"), "--port", str(port), "--dir", tmp_path]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 20
        with redis.Redis(port=port, decode_responses=True) as client:
            while True:
                try:
                    client.ping()
                    break
                except redis.ConnectionError:
                    assert time.monotonic() < deadline
                    time.sleep(0.05)
            assert client.config_get("maxmemory-policy")["maxmemory-policy"] == "noeviction"
            assert client.config_get("appendonly")["appendonly"] == "yes"
    finally:
        process.terminate()
        process.wait(10)

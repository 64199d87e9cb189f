"""docker-compose.yml and what it uses: names and commands that exist, images that stay the same."""

from __future__ import annotations

import re
import shutil
import subprocess
import time
from dataclasses import fields
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import redis
import yaml

from ops.cli import COMMANDS
from ops.redis_server import find_server
from schemas.settings import FROM_FILE, PREFIX, Settings
from tests.conftest import free_port

ROOT = Path(__file__).parent.parent
COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text("utf-8"))
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
DOCKERFILE = (ROOT / "ops/Dockerfile").read_text("utf-8")
PINNED = r"[a-z][a-z0-9./-]*:\d+\.\d+\.\d+(-[a-z0-9.-]+)?"


def known_variables() -> set[str]:
    names = {PREFIX + each.name.upper() for each in fields(Settings)}
    return names | {f"{PREFIX}{name.upper()}_FILE" for name in FROM_FILE}


def test_the_services_are_there() -> None:
    assert {"redis", "simulator", "worker"} <= SERVICES.keys()


@pytest.mark.parametrize("name", SERVICES)
def test_every_variable_is_a_setting(name: str) -> None:
    environment = SERVICES[name].get("environment", {})
    assert {key for key in environment if key.startswith(PREFIX)} <= known_variables()


def test_the_workers_settings_are_valid() -> None:
    environment = SERVICES["worker"]["environment"]
    assert all(isinstance(value, str) for value in environment.values())
    settings = Settings.from_env(environment, provider=True)
    assert settings.redis_url == "redis://redis:6379/0"
    assert settings.api_url == "http://simulator:8044"


def test_no_service_can_reach_the_real_provider() -> None:
    text = (ROOT / "docker-compose.yml").read_text("utf-8")
    assert "devinotele" not in text
    assert "$" not in text, "nothing of the caller's environment comes in"


@pytest.mark.parametrize("name", SERVICES)
def test_images_are_pinned_or_built_here(name: str) -> None:
    service = SERVICES[name]
    if "build" in service:
        assert (ROOT / service["build"]["context"] / service["build"]["dockerfile"]).exists()
    else:
        assert re.fullmatch(PINNED, service["image"])


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


@pytest.mark.parametrize("name", SERVICES)
def test_commands_name_what_exists(name: str) -> None:
    match SERVICES[name]["command"]:
        case ["celery", "-A", module, "worker", *_]:
            assert find_spec(f"{module}.celery")
        case ["courier", command, *_]:
            assert command in COMMANDS
        case ["redis-server", config, *_]:
            mounts = dict(each.split(":")[1::-1] for each in SERVICES[name]["volumes"])
            assert (ROOT / mounts[config]).is_file()
        case other:
            pytest.fail(f"not known: {other}")


def test_ports_are_open_on_this_machine_only() -> None:
    for service in SERVICES.values():
        assert all(port.startswith("127.0.0.1:") for port in service.get("ports", []))


@pytest.mark.parametrize("name", SERVICES)
def test_what_is_waited_for_can_be_waited_for(name: str) -> None:
    for other, wanted in SERVICES[name].get("depends_on", {}).items():
        assert other in SERVICES
        if wanted["condition"] == "service_healthy":
            assert "healthcheck" in SERVICES[other]


def test_the_worker_may_finish_its_request() -> None:
    grace = int(SERVICES["worker"]["stop_grace_period"].removesuffix("s"))
    assert grace > Settings().deadline


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

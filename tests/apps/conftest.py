"""Apps that have installed the wheel, each in an environment of its own."""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PIP = (sys.executable, "-W", "ignore", "-m", "pip")
QUIET = {"PIP_QUIET": "1", "PIP_DISABLE_PIP_VERSION_CHECK": "1", "PIP_ROOT_USER_ACTION": "ignore"}


@pytest.fixture(scope="session")
def pip_env(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """An environment in which `pip install viber-courier` installs this checkout's wheel."""
    base = tmp_path_factory.getbasetemp()
    folder = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base
    wheels = folder / "wheels"
    with (folder / "wheel.lock").open("w") as lock:  # once for all of pytest's processes
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not wheels.exists():
            build = [*PIP, "wheel", "--no-deps", "-w", wheels, ROOT]
            subprocess.run(build, check=True, env={**os.environ, **QUIET})
    links = " ".join([str(wheels), os.environ.get("PIP_FIND_LINKS", "")])
    constraints = str(ROOT / "ops" / "constraints.txt")
    return {**QUIET, "PIP_FIND_LINKS": links, "PIP_CONSTRAINT": constraints}


def environment(folder: Path) -> Path:
    """Makes a fresh environment; returns its folder of programs, with a `pip` that fills it."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True)
    # A copy of pip, and bytecode of what is never imported, would take longer than all the rest.
    pip, outer = folder / "bin" / "pip", " ".join(PIP)
    text = f'PIP_NO_COMPILE=1 exec {outer} --python {folder}/bin/python "$@"'
    pip.write_text(f"#!/bin/sh\n{text}\n")
    pip.chmod(0o755)
    return folder / "bin"


@pytest.fixture(scope="session")
def installed(tmp_path_factory: pytest.TempPathFactory, pip_env: dict[str, str]) -> Path:
    """The Python of a fresh environment that has viber-courier as an app installs it."""
    programs = environment(tmp_path_factory.mktemp("app") / "env")
    install = [programs / "pip", "install", "viber-courier"]
    subprocess.run(install, check=True, env={**os.environ, **pip_env})
    return programs / "python"

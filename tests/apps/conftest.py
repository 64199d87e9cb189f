"""Apps that have installed the wheel, each in an environment of its own."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="session")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The Python of a fresh environment that has viber-courier as an app installs it."""
    folder = tmp_path_factory.mktemp("app")
    python, pip = folder / "env" / "bin" / "python", [sys.executable, "-W", "ignore", "-m", "pip"]
    quiet = ["--quiet", "--disable-pip-version-check"]
    subprocess.run([*pip, "wheel", *quiet, "--no-deps", "-w", folder, ROOT], check=True)
    (wheel,) = folder.glob("*.whl")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder / "env"], check=True)
    constraints = ["-c", ROOT / "ops" / "constraints.txt"]
    subprocess.run([*pip, "--python", python, "install", *quiet, *constraints, wheel], check=True)
    return python

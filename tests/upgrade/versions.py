"""The versions that have landed, and how the latest of them is started beside this one.

This is the one place that names their commits. When a version lands: add it to LANDED, and make its
dump if its format is new (tests/golden/make_dump.py).
"""

from __future__ import annotations

import subprocess
import sys
import sysconfig
import tarfile
import tempfile
import tomllib
from contextlib import suppress
from dataclasses import dataclass
from importlib.metadata import version
from io import BytesIO
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from tests.conftest import ROOT

LANDED = (
    (1, "f9f5803b7676661f6ff4e58771f21a3c0f34ce3b"),
    (2, "81b655fc7b3d261390938ef7eafb40f7e82c313e"),
    (3, "6f6b3ab2dd5a41de3539936fd8ec1ce062919bf2"),
)
"""Format and commit of each, the latest last."""
BEFORE = LANDED[-1][1]
FOLDER = ROOT / ".venvs"


@dataclass(frozen=True)
class Version:
    """An installed version: its interpreter imports its code and no other."""

    name: str
    python: str
    program: tuple[str, ...] = ()

    def command(self, *words: str) -> list[str]:
        return [self.python, "-P", *self.program, *words]


NOW = Version("this one", sys.executable)
NEXT = Version("the next", sys.executable, (str(Path(__file__).with_name("next.py")),))
"""One whose messages this version can't read."""


def before() -> Version:
    """The version that landed before this one, in a virtual environment of its own.

    Its code comes from git, what it depends on is this version's: nothing is downloaded. Skips
    where the commit isn't here, as in a shallow clone.
    """
    look = ["git", "-C", str(ROOT), "cat-file", "-e", f"{BEFORE}^{{commit}}"]
    known = subprocess.run(look, capture_output=True)
    if known.returncode:
        pytest.skip(f"commit {BEFORE[:7]} isn't here: git fetch --unshallow")
    venv = FOLDER / f"landed-{BEFORE[:7]}"
    tree = venv / "tree"
    if not venv.exists():
        FOLDER.mkdir(exist_ok=True)
        with tempfile.TemporaryDirectory(dir=FOLDER) as folder:
            _install(Path(folder) / venv.name, tree)
            with suppress(OSError):  # another process of the same run was faster
                (Path(folder) / venv.name).rename(venv)
    project = tomllib.loads((tree / "pyproject.toml").read_text())["project"]
    wanted = [*project["dependencies"], *project["optional-dependencies"]["worker"]]
    for each in map(Requirement, wanted):
        found = version(each.name)
        assert each.specifier.contains(found), f"it wants {each}, this version has {found}"
    return Version(f"version {BEFORE[:7]}", str(venv / "bin" / "python"))


def _install(venv: Path, tree: Path) -> None:
    """Makes an environment that will be elsewhere: ``tree`` is where its code will be then."""
    command = [sys.executable, "-m", "venv", "--without-pip", str(venv)]
    subprocess.run(command, check=True, capture_output=True)
    command = ["git", "-C", str(ROOT), "archive", BEFORE]
    archive = subprocess.run(command, check=True, capture_output=True).stdout
    with tarfile.open(fileobj=BytesIO(archive)) as tar:
        tar.extractall(venv / tree.name, filter="data")
    # As plain paths: no .pth file of this version's environment leads to this version's code.
    base = {"base": str(venv), "platbase": str(venv)}
    paths = f"{tree}\n{sysconfig.get_path('purelib')}\n"
    (Path(sysconfig.get_path("purelib", vars=base)) / "landed.pth").write_text(paths)

"""What is built: a wheel with one top-level name, the same from a checkout, an sdist and a .zip."""

from __future__ import annotations

import io
import os
import signal
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from email import message_from_bytes
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from tests.conftest import ROOT

PACKAGES = ("schemas", "store", "producers", "worker", "ops")
PACKAGES += ("ops/commands", "ops/lists", "ops/testing")
BUILD = """
import sys
from setuptools import build_meta
getattr(build_meta, f"build_{sys.argv[1]}")(sys.argv[2])
"""


def git(*args: str, at: Path = ROOT, check: bool = True, **env: str) -> bytes:
    command = ["git", *args]
    env = {**os.environ, **env}
    return subprocess.run(command, cwd=at, check=check, capture_output=True, env=env).stdout


def work_tree(folder: Path, root: Path = ROOT) -> str:
    """The work tree as it is, changes to it included; a new file is in it once it is added."""
    # Git locks the index for this: others that run beside it would fail.
    index = folder / "index"
    place = git("rev-parse", "--git-path", "index", at=root).decode().strip()
    index.write_bytes((root / place).read_bytes())
    # Without this, it ends with 1 where a file was touched and is as it was.
    git("update-index", "-q", "--refresh", at=root, check=False, GIT_INDEX_FILE=str(index))
    person = {"GIT_AUTHOR_NAME": "t", "GIT_AUTHOR_EMAIL": "t@t"}  # it makes a commit
    person |= {"GIT_COMMITTER_NAME": "t", "GIT_COMMITTER_EMAIL": "t@t"}
    made = git("stash", "create", at=root, GIT_INDEX_FILE=str(index), **person)
    return made.decode().strip() or "HEAD"


class Builds:
    """Calls the build backend as pip does, in folders of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        wanted = tomllib.loads((ROOT / "pyproject.toml").read_text())["build-system"]["requires"]
        pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        subprocess.run([*pip, "--target", folder / "backend", *wanted], check=True)
        tree = work_tree(folder)
        self.checkout = folder / "checkout"
        with tarfile.open(fileobj=io.BytesIO(git("archive", tree))) as archive:
            archive.extractall(self.checkout, filter="tar")
        self.zip = folder / "viber-courier.zip"
        self.zip.write_bytes(git("archive", "--format=zip", "--prefix=viber-courier/", tree))
        self.sdist = self.build("sdist", self.checkout)
        self.wheel = self.build("wheel", self.checkout)

    def build(self, what: str, source: Path) -> Path:
        """The one file that the backend makes of these sources."""
        into = self.folder / f"{what}-of-{source.name}"
        into.mkdir()
        environment = {"PYTHONPATH": str(self.folder / "backend"), "PATH": ""}
        command = [sys.executable, "-c", BUILD, what, str(into)]
        run = subprocess.run(command, cwd=source, env=environment, capture_output=True, text=True)
        assert run.returncode == 0, run.stderr
        (built,) = into.iterdir()
        return built


def test_a_work_tree_is_read_while_git_is_at_work_there(tmp_path: Path) -> None:
    root = tmp_path / "root"
    root.mkdir()
    git("init", "-q", at=root)
    (root / "file").write_text("committed")
    git("add", "file", at=root)
    git("-c", "user.name=t", "-c", "user.email=t@t", "commit", "-qm", "first", at=root)
    # A file that was touched is not changed
    os.utime(root / "file", (0, 0))
    assert work_tree(tmp_path, root) == "HEAD"
    # Given a changed one, and another git that has locked the index
    (root / "file").write_text("changed")
    (root / ".git/index.lock").touch()
    # Then it is read as it is, and the lock is left to whom it belongs
    assert git("show", f"{work_tree(tmp_path, root)}:file", at=root) == b"changed"
    assert (root / ".git/index.lock").exists()


@pytest.fixture(scope="session")
def builds(tmp_path_factory: pytest.TempPathFactory) -> Builds:
    return Builds(tmp_path_factory.mktemp("builds"))


def names_in(wheel: Path) -> set[str]:
    with zipfile.ZipFile(wheel) as archive:
        return set(archive.namelist())


@pytest.mark.slow
def test_the_wheel_holds_one_name_and_all_that_belongs_to_it(builds: Builds) -> None:
    names = names_in(builds.wheel)
    assert {name.split("/")[0] for name in names} == {
        "viber_courier",
        "viber_courier-0.1.0.dist-info",
    }
    files = [path for folder in PACKAGES for path in (ROOT / folder).glob("*.py")]
    files += (ROOT / "store" / "lua").rglob("*.lua")
    assert {f"viber_courier/{path.relative_to(ROOT)}" for path in files} <= names
    django = (ROOT / "viber_courier" / "django").rglob("*.py")
    assert {str(path.relative_to(ROOT)) for path in django} <= names
    assert {"viber_courier/__init__.py", "viber_courier/py.typed"} <= names
    assert {"viber_courier/ops/recipients.csv", "viber_courier/ops/redis.conf"} <= names
    inside = [name.removeprefix("viber_courier/") for name in names]
    assert not [name for name in inside if name.startswith(("tests", "ops/bench", "docs"))]


@pytest.mark.slow
def test_an_sdist_and_an_archive_without_links_build_the_same_wheel(builds: Builds) -> None:
    # Given the sdist, and an archive as GitHub offers it, unpacked where there are no links
    with tarfile.open(builds.sdist) as archive:
        archive.extractall(builds.folder / "of-sdist", filter="data")
    with zipfile.ZipFile(builds.zip) as archive:
        archive.extractall(builds.folder / "of-zip")
    (of_sdist,) = (builds.folder / "of-sdist").iterdir()
    of_zip = builds.folder / "of-zip" / "viber-courier"
    assert not (of_zip / "viber_courier" / "schemas").is_dir()
    # Then what they build has the same files
    for source in (of_sdist, of_zip):
        assert names_in(builds.build("wheel", source)) == names_in(builds.wheel)


@pytest.mark.slow
def test_an_app_installs_two_dependencies(builds: Builds) -> None:
    with zipfile.ZipFile(builds.wheel) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith("/METADATA"))
        metadata = message_from_bytes(archive.read(name))
    wanted = [Requirement(text) for text in metadata.get_all("Requires-Dist", [])]
    base = {each.name: each.specifier for each in wanted if each.marker is None}
    assert set(base) == {"marshmallow", "redis"}
    for name, versions in {"marshmallow": ("3.20.0", "4.4.0"), "redis": ("5.0.0", "8.1.0")}.items():
        assert all(base[name].contains(version) for version in versions)


def test_the_suite_runs_where_sigint_is_ignored() -> None:
    # Given a process as a shell's job in the background is: it ignores SIGINT
    code = "import signal, tests.conftest; print(signal.getsignal(signal.SIGINT).__name__)"
    ignoring = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        # When the suite starts there, then processes that it starts take Ctrl-C again
        command = [sys.executable, "-c", code]
        run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    finally:
        signal.signal(signal.SIGINT, ignoring)
    assert run.stdout == "default_int_handler\n", run.stderr

"""The pages of docs/examples: each is installed and run as it stands, until messages are read."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
import requests

from tests.apps.conftest import ROOT, environment
from tests.conftest import free_port, wait_for
from tests.postgres import postgres

EXAMPLES = ROOT / "docs" / "examples"
BLOCK = re.compile(r"(?:<!-- ([^>]+) -->\n)?```(\w+)\n(.*?)```", re.S)
ANOTHER, NOT_RUN = "another terminal", "not run"
SMALL = {f"COURIER_PROCESSES_{name}": "2" for name in ("URGENT", "BULK", "POLL")}
NODE = not (shutil.which("node") and shutil.which("npm"))

Run = Callable[..., None]


class Terminals:
    """Somebody who follows a page: keeps its files, types its commands, sees what it shows.

    A block after ``<!-- NAME -->`` is a file, one after ``<!-- another terminal -->`` goes on until
    the page is over, one after ``<!-- not run -->`` is for others, and each line of a ``text``
    block is seen in some terminal, in this order.
    """

    def __init__(self, folder: Path, env: dict[str, str]) -> None:
        self.folder, self.env, self.outputs = folder, env, list[Path]()
        self.started: list[subprocess.Popen[bytes]] = []

    def follow(self, page: str) -> None:
        for mark, language, code in BLOCK.findall(page):
            if mark == NOT_RUN:
                continue
            if language == "text":
                self.see(code.splitlines())
            elif mark and mark != ANOTHER:
                (self.folder / mark).write_text(code)
            elif mark:
                self.started.append(self.start(code))
            else:
                code_of_exit = self.start(code).wait(120)
                assert code_of_exit == 0, (code, self.said)

    def start(self, code: str) -> subprocess.Popen[bytes]:
        self.outputs.append(self.folder / f"terminal-{len(self.outputs)}")
        with self.outputs[-1].open("wb") as output:
            return subprocess.Popen(
                ["bash", "-euo", "pipefail", "-c", code],
                cwd=self.folder,
                env=self.env,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def see(self, lines: list[str]) -> None:
        deadline = time.monotonic() + 60
        while not any(in_order(lines, each.read_text().splitlines()) for each in self.outputs):
            assert time.monotonic() < deadline, (lines, self.said)
            assert all(process.poll() is None for process in self.started), self.said
            time.sleep(0.1)

    @property
    def said(self) -> str:
        return "\n".join(f"--- {each.name}\n{each.read_text()[-4000:]}" for each in self.outputs)

    def close(self) -> None:
        for process in reversed(self.started):
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGTERM)
            process.wait(60)
            wait_for(lambda process=process: not is_alive(process.pid), 60)


def in_order(lines: list[str], said: list[str]) -> bool:
    left = iter(said)
    return all(any(line in each for each in left) for line in lines)


def is_alive(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True


@contextmanager
def terminals(folder: Path, env: dict[str, str]) -> Iterator[Terminals]:
    made = Terminals(folder, env)
    try:
        yield made
    finally:
        made.close()


def text_of(name: str) -> str:
    """A page; the port that it names is a free one here."""
    return (EXAMPLES / name).read_text().replace("8000", str(free_port()))


@pytest.fixture(scope="module")
def system(
    tmp_path_factory: pytest.TempPathFactory, pip_env: dict[str, str]
) -> Iterator[dict[str, str]]:
    """What pages are tried on, as README.md there says; the settings of an app."""
    folder, tools = tmp_path_factory.mktemp("system"), tmp_path_factory.mktemp("tools")
    (tools / "python3").symlink_to(Path(sys.executable).resolve())
    foreign = ("COURIER_", "PYTHON", "VIRTUAL_ENV", "PYTEST_")
    env = {name: value for name, value in os.environ.items() if not name.startswith(foreign)}
    env |= {**pip_env, "PYTHONUNBUFFERED": "1"}
    programs = [tools, *(Path(found).parent for found in [shutil.which("node")] if found)]
    env["PATH"] = ":".join(map(str, [*programs, "/usr/bin", "/bin"]))
    with terminals(folder, {**env, **SMALL}) as made:
        made.follow(text_of("README.md"))
        settings = (folder / "var" / "up" / "courier.env").read_text()
        for name in ("COURIER_REDIS_URL", "COURIER_API_URL", "GATEWAY", "TOKEN"):
            env[name] = re.findall(rf"export {name}=(\S+)", settings)[0]
        yield env


def accepted(env: dict[str, str]) -> int:
    """How many messages have reached the provider."""
    return len(requests.get(f"{env['COURIER_API_URL']}/admin/accepted", timeout=30).json())


@pytest.fixture
def follow(system: dict[str, str], tmp_path: Path) -> Iterator[Run]:
    """Follows a page in an environment that has what the page installs, and nothing more."""
    path = f"{environment(tmp_path / 'env')}:{system['PATH']}"
    folder = tmp_path / "page"
    folder.mkdir()
    with terminals(folder, {**system, "PATH": path}) as made:

        def run(page: str, **env: str) -> None:
            made.env |= env
            made.follow(page)

        yield run


def test_what_pages_are_tried_on_is_there_as_the_first_page_says(system: dict[str, str]) -> None:
    assert accepted(system) >= 1


@pytest.mark.parametrize(
    ("name", "messages"),
    [
        ("fastapi.md", 1),
        ("celery.md", 2),
        pytest.param("nodejs.md", 1, marks=pytest.mark.skipif(NODE, reason="needs Node.js")),
        ("shell.md", 2),
        ("typed.md", 1),
    ],
)
def test_a_page_runs_as_it_stands(
    name: str, messages: int, system: dict[str, str], follow: Run
) -> None:
    before = accepted(system)
    follow(text_of(name))
    wait_for(lambda: accepted(system) == before + messages)


@pytest.mark.skipif(NODE, reason="needs Node.js and npm")
def test_node_js_by_redis(system: dict[str, str], follow: Run, tmp_path: Path) -> None:
    npm = subprocess.run(["npm", "install", "redis"], cwd=tmp_path, capture_output=True, text=True)
    if npm.returncode:
        pytest.skip(f"npm can't install redis: {npm.stderr[-300:]}")
    before = accepted(system)
    follow(text_of("nodejs-redis.md"))
    wait_for(lambda: accepted(system) == before + 1)


def without(heading: str) -> str:
    """The page about databases, but for one of them."""
    page = re.sub(rf"\n## {heading}\n.*?(?=\n## |\Z)", "", text_of("exactly-once.md"), flags=re.S)
    assert f"## {heading}" not in page and page.count("\n## ") == 1
    return page


def test_exactly_once_into_sqlite(follow: Run) -> None:
    follow(without("PostgreSQL"))


def test_exactly_once_into_postgresql(follow: Run) -> None:
    with postgres() as database:
        follow(without("SQLite"), DATABASE_URL=database)


def test_every_page_is_in_the_table_and_run() -> None:
    pages = {path.name for path in EXAMPLES.glob("*.md")} - {"README.md"}
    table = (EXAMPLES / "README.md").read_text()
    code = Path(__file__).read_text()
    assert {name for name in pages if f"({name})" in table and f'"{name}"' in code} == pages

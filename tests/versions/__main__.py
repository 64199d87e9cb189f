"""Runs the producer's suites from the wheel, as an app installs it: ``make test-versions``.

On each Python that is here: with the lowest and with the newest direct dependencies. On the second
one also: with each major version of redis-py between them, and beside an old Celery of the app's.
An environment's log is in ``.venvs``.
``make test-versions ONLY=corners`` has three of them, for CI.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import time
import tomllib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from packaging.requirements import Requirement

from viber_courier.ops.redis_server import find_server

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / ".venvs"
PYTHONS = ("3.11", "3.12", "3.13", "3.14")
REDIS = ("producer", "results", "connection", "aio", "consume")
"""Suites that talk to Redis."""
SUITES = ("message", "event", "status", "wire", "settings", "testing", *REDIS)
"""Those that need nothing but the package, its extra ``testing`` and pytest."""
BESIDE = ("beside", "dead", "store", "gate", *REDIS)
TOOLS = ("pytest", "pytest-timeout", "hypothesis")
OWN = {"marshmallow", "redis", "celery", "kombu", "amqp", "billiard", "vine", "hiredis"}
"""What ops/constraints.txt pins for the worker, and these environments choose themselves."""
LEFT_OUT = (
    "test_wire.py::test_any_json_is_read_or_called_malformed",
    "test_message.py::test_a_row_is_the_merged_job_given_whole",
    "test_dead.py::test_under_a_real_worker_letters_are_sent_again_and_read",
    "test_aio.py::test_many_requests_hold_the_loop_no_longer_than_one_after_the_other",
    "test_testing.py::test_a_message_ends_as_under_a_worker",
    "test_testing.py::test_the_fixture_works_as_the_guide_shows",
)
"""Hypothesis' longest two, half of a run's time, which see nothing of versions, as a loop's holds
don't; what needs a worker's libraries, or the documentation."""
ABSENT = "celery kombu requests click aiohttp"
SECONDS = 300


@dataclass(frozen=True)
class Environment:
    """One virtual environment: its name, its Python and what it has beside the package."""

    name: str
    python: Path
    requirements: tuple[str, ...]
    suites: tuple[str, ...] = SUITES

    def run(self, wheel: Path, tests: Path, constraints: Path) -> tuple[bool, str]:
        """Install and test it; whether all is well, and a line that says so."""
        begun, venv = time.monotonic(), FOLDER / self.name
        python, log = venv / "bin" / "python", FOLDER / f"{self.name}.log"
        pip = [sys.executable, "-W", "ignore", "-m", "pip", "--python", str(python), "install"]
        wanted = [f"viber-courier[testing] @ {wheel.as_uri()}", *self.requirements, *TOOLS]
        look = f"""import importlib.metadata as m, importlib.util as u
print("versions:", *(f"{{n}} {{m.version(n)}}" for n in ("marshmallow", "redis")))
assert {self.suites == BESIDE} or not [n for n in "{ABSENT}".split() if u.find_spec(n)]"""
        files = [f"tests/test_{suite}.py" for suite in self.suites]
        files += [f"--deselect=tests/{test}" for test in LEFT_OUT]
        env = {**os.environ, "PYTHONWARNINGS": "ignore", "PYTHONDONTWRITEBYTECODE": "1"}
        env["PATH"] = f"{Path(find_server()).parent}:{env['PATH']}"
        with log.open("w") as out:
            for command in (
                [self.python, "-m", "venv", "--clear", "--without-pip", venv],
                [*pip, "--quiet", "--disable-pip-version-check", "-c", constraints, *wanted],
                [python, "-c", look],
                [python, "-m", "pytest", "-p", "no:cacheprovider", "-m", "not slow", *files],
            ):
                done = subprocess.run(
                    command, cwd=tests, env=env, stdout=out, stderr=out, timeout=SECONDS
                )
                if done.returncode:
                    break
        said = log.read_text()
        found = re.findall(r"^(?:versions: (.*)|(\d+ (?:passed|failed).*) in .*)$", said, re.M)
        line = ", ".join(filter(None, (each for pair in found for each in pair)))
        line = f"{self.name}: {line} ({time.monotonic() - begun:.0f} s)"
        return not done.returncode, line if not done.returncode else f"{line}\n{said[-2000:]}"


def interpreter(version: str) -> Path | None:
    """A Python of this version that runs: on PATH, pyenv's, or what .ci/python3.14 has made."""
    found = [Path(path) for path in [shutil.which(f"python{version}")] if path]
    found += sorted(Path.home().glob(f".pyenv/versions/{version}.*/bin/python"))
    found += FOLDER.glob(f"python{version}/usr/bin/python{version}")
    for path in found:
        code = "import sys, venv; print('%d.%d' % sys.version_info[:2])"
        said = subprocess.run([path, "-c", code], capture_output=True, text=True)
        if said.stdout.strip() == version:
            return path
    return None


def environments() -> Iterator[Environment]:
    """Every one that this machine can have."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wide = [Requirement(text) for text in project["dependencies"]]
    bounds = [{spec.operator: spec.version for spec in each.specifier} for each in wide]
    low = [f"{each.name}=={bound['>=']}" for each, bound in zip(wide, bounds, strict=True)]
    here = {version: path for version in PYTHONS if (path := interpreter(version))}
    for version in PYTHONS:
        if version not in here:
            print(f"python{version}: not on this machine, skipped")
            continue
        yield Environment(f"py{version}-lowest", here[version], tuple(low))
        yield Environment(f"py{version}-newest", here[version], ("hiredis",))
    version, python = list(here.items())[:2][-1]  # 3.12: it can interrupt a call at any line
    for major in (5, 6, 7):
        within = f"redis>={major},<{major + 1}"
        yield Environment(f"py{version}-redis{major}", python, (within,), REDIS)
    app = (
        "celery==5.3.*",
        "kombu==5.3.*",
        "redis==5.0.*",
        "marshmallow==3.*",
        "hiredis",
        "requests",
    )
    yield Environment(f"py{version}-beside-celery5.3", python, app, BESIDE)


def corners(found: list[Environment]) -> list[Environment]:
    """The oldest Python with the lowest, the newest with the newest, and the old Celery's."""
    pythons = [each for each in found if each.name.endswith(("-lowest", "-newest"))]
    return [pythons[0], pythons[-1], found[-1]]


def main(only: str) -> int:
    """Run all of them, one more at a time than there are cores; 1 if one fails."""
    found = list(environments())
    found = corners(found) if only == "corners" else found
    shutil.rmtree(FOLDER / "work", ignore_errors=True)
    work = FOLDER / "work"
    shutil.copytree(ROOT / "tests", work / "tests", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", work)
    constraints = work / "constraints.txt"
    pins = (ROOT / "ops" / "constraints.txt").read_text().splitlines()
    constraints.write_text("\n".join(pin for pin in pins if pin.split("==")[0] not in OWN))
    build = [sys.executable, "-m", "pip", "wheel", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*build, "--no-deps", "-w", work, ROOT], check=True)
    (wheel,) = work.glob("*.whl")
    failed = passed = 0
    with ThreadPoolExecutor((os.cpu_count() or 1) + 1) as threads:  # part of a run is waiting
        runs = [threads.submit(each.run, wheel, work, constraints) for each in found]
        for run in runs:
            well, line = run.result()
            passed, failed = passed + well, failed + (not well)
            print(line, flush=True)
    print(f"versions: {passed} passed, {failed} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))

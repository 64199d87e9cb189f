"""Mutates the rules and counts the mutants that tests kill: ``make mutants [ONLY=worker/policy]``.

The rules are the pure modules in RULES. mutmut tries each mutant in a fork that has the modules
loaded, with those quick tests of ``make test`` that call the mutated function. What survives there
is tried again in a process of its own, in which the mutant is in place before anything is imported
(much of schemas runs then), with more tests. docs/mutants.md argues the survivors: the run fails if
it has another one, or if fewer than 95 % are killed.

mutmut can't mutate a package whose folders are links, so it works in a copy without them. There
this module is pytest's plugin, too: it leaves out the tests that need a server.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import venv
from collections import Counter
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from viber_courier.ops.redis_server import find_server

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / ".venvs" / "mutants"
PYTHON = FOLDER / "venv" / "bin" / "python"
MUTMUT = "mutmut==3.8.1"
LEAST = 0.95
WORKER = ("policy", "tracking", "breaker", "batching", "provider", "odd_replies")
SCHEMAS = ("status", "event", "wire", "message", "settings", "redis_url", "golden", "agreement")
STORE = ("store", "send", "gate", "producer", "dead", "results", "events_missed")
RULES = {
    **{f"worker/{each}": WORKER for each in ("policy", "tracking", "breaker", "batching", "codes")},
    "store/records": (*WORKER, "dead"),
    **{
        f"schemas/{each}": SCHEMAS
        for each in ("encoding", "errors", "event", "fields", "instants", "message", "redis_url")
    },
    **{f"schemas/{each}": SCHEMAS for each in ("settings", "status", "wire")},
}
"""The modules that are mutated, and the suites for each."""
SERVED = {"redis_server", "simulator_process", "start_worker", "serve", "connect", "tls", "place"}
"""Fixtures that start a server."""
OPTIONS = ["-p", "tests.mutants", "-p", "no:cacheprovider", "-p", "no:xdist"]
OPTIONS += ["--hypothesis-profile", "ci", "--timeout", "60"]
KILLED = {1, 3, -24, 24, 36, 152, 255}
"""Exit codes of a run that a test or the time limit has ended."""


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out the tests that start a server."""
    left = [item for item in items if needs_server(item)]
    config.hook.pytest_deselected(items=left)
    items[:] = [item for item in items if item not in left]


def needs_server(item: pytest.Item) -> bool:
    spec = getattr(item, "callspec", None)
    real = spec is not None and spec.params.get("client") == "redis"
    return real or bool(SERVED & {*getattr(item, "fixturenames", ())})


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip a test where it starts a process: mutants are seen in this one."""

    def start(*_: object, **__: object) -> None:
        pytest.skip("starts a process")

    subprocess.Popen.__init__ = start  # type: ignore[method-assign, assignment]


def install() -> None:
    """Make the environment: what the project needs, without the project itself."""
    if PYTHON.exists():
        return
    venv.create(PYTHON.parents[1], with_pip=True)
    pip = [str(PYTHON), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    pins = ["-c", str(ROOT / "ops" / "constraints.txt")]
    subprocess.run([*pip, *pins, f"{ROOT}[worker,ops,testing,dev]", MUTMUT], check=True)
    subprocess.run([str(PYTHON), "-m", "pip", "uninstall", "-qy", "viber-courier"], check=True)


def environment(mutant: str = "") -> dict[str, str]:
    path = f"{Path(find_server()).parent}:{os.environ['PATH']}"
    return {**os.environ, "PATH": path, **({"MUTANT_UNDER_TEST": mutant} if mutant else {})}


def files(suites: Iterable[str]) -> list[str]:
    return [f"tests/test_{suite}.py" for suite in suites]


def mutate(tree: Path, rules: list[str], suites: tuple[str, ...]) -> None:
    """Copy what the tests need, links as folders, and run mutmut there."""
    shutil.rmtree(tree, ignore_errors=True)
    for name in ("viber_courier", "docs", "tests"):
        shutil.copytree(ROOT / name, tree / name, ignore=shutil.ignore_patterns("__pycache__"))
    config = {
        "source_paths": ["viber_courier"],
        "also_copy": ["docs"],
        "only_mutate": [f"viber_courier/{rule}.py" for rule in rules],
        "pytest_add_cli_args": OPTIONS,
        "pytest_add_cli_args_test_selection": files(suites),
        "timeout_multiplier": 2,
        "timeout_constant": 15.0,
    }
    lines = [f"{name} = {json.dumps(value)}" for name, value in config.items()]
    text = (ROOT / "pyproject.toml").read_text()
    (tree / "pyproject.toml").write_text("\n".join([text, "[tool.mutmut]", *lines, ""]))
    command = [str(PYTHON), "-m", "mutmut", "run", "--max-children", "2"]
    subprocess.run(command, cwd=tree, env=environment(), check=True)


def codes(tree: Path, rule: str) -> dict[str, int | None]:
    """Returns the exit code of each mutant's run."""
    meta = tree / "mutants" / "viber_courier" / f"{rule}.py.meta"
    found: dict[str, int | None] = json.loads(meta.read_text())["exit_code_by_key"]
    return found


def survives(tree: Path, rule: str, mutant: str) -> bool:
    """Try a mutant in a process of its own, with its module's suites and then the store's."""
    for suites in (RULES[rule], STORE):
        command = [str(PYTHON), "-m", "pytest", "-x", *OPTIONS, *files(suites)]
        try:
            done = subprocess.run(
                command, cwd=tree / "mutants", env=environment(mutant), capture_output=True,
                timeout=600, check=False,
            )  # fmt: skip
        except subprocess.TimeoutExpired:
            return False
        if done.returncode:
            return False
    return True


def diff(tree: Path, mutant: str) -> str:
    """Returns a mutant's function and the lines that it changes: "function: - old + new"."""
    command = [str(PYTHON), "-m", "mutmut", "show", mutant]
    shown = subprocess.run(command, cwd=tree, capture_output=True, text=True, check=True).stdout
    changed = " ".join(re.findall(r"(?m)^[-+](?![-+]).*", shown))
    name = mutant.removeprefix("viber_courier.").rpartition("__mutmut")[0].replace("ǁ", "x_")
    return re.sub(r"\s+", " ", f"{name.replace('x_', '')}: {changed}")


def main(only: str = "") -> int:
    install()
    groups: dict[tuple[str, ...], list[str]] = {}
    for rule, suites in RULES.items():
        if only in rule:
            groups.setdefault(suites, []).append(rule)
    total, killed, unargued = Counter[str](), Counter[str](), 0
    page = (ROOT / "docs" / "mutants.md").read_text()
    for suites, rules in groups.items():
        tree = FOLDER / rules[0].replace("/", "-")
        mutate(tree, rules, suites)
        for rule in rules:
            found = codes(tree, rule)
            total[rule] = len(found)
            again = [mutant for mutant, code in found.items() if code not in KILLED]
            with ThreadPoolExecutor(2) as pool:
                alive = list(pool.map(lambda mutant: survives(tree, rule, mutant), again))  # noqa: B023
            survivors = [mutant for mutant, lives in zip(again, alive, strict=True) if lives]
            killed[rule] = total[rule] - len(survivors)
            print(f"\n{rule}: {killed[rule]} of {total[rule]} killed", flush=True)
            for line in sorted(diff(tree, mutant) for mutant in survivors):
                unargued += line not in page
                print(line, "" if line in page else "  (not in docs/mutants.md)", flush=True)
    print(f"{killed.total()} of {total.total()} killed")
    return bool(unargued) or killed.total() < LEAST * total.total()


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))

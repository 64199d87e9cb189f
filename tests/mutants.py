"""Mutates the rules and counts the mutants that tests kill: ``make mutants [ONLY=worker/policy]``.

The rules are the pure modules in RULES. mutmut makes the mutants: a copy of each module that holds
them all, and obeys MUTANT_UNDER_TEST. Each is tried in a fork of a pytest that has collected the
quick tests of ``make test``, with those of them that call the mutated function; mutmut's own runner
does the same, but starts pytest anew in each fork, which takes ten times as long. What survives is
tried again in a process of its own, in which the mutant is in place before anything is imported
(much of schemas runs then), with more tests. docs/mutants.md argues the survivors: the run fails if
it has another one, or if fewer than 95 % are killed.

mutmut can't mutate a package whose folders are links, so it works in a copy without them. There
this module is pytest's plugin, too: it leaves out the tests that need a server.
"""

from __future__ import annotations

import json
import os
import re
import resource
import shutil
import subprocess
import sys
import time
import venv
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import hypothesis
import pytest
from hypothesis import HealthCheck, Phase

from viber_courier.ops.redis_server import find_server

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / ".venvs" / "mutants"
PYTHON = FOLDER / "venv" / "bin" / "python"
MUTMUT = "mutmut==3.8.1"
LEAST = 0.95
DECISIONS = ("policy", "tracking", "breaker", "batching")
REPLIES, JOBS = ("status", "event", "wire"), ("errors", "instants", "message", "event")
STORE = ("store", "send", "gate", "dead")
RULES = {
    **{f"worker/{each}": DECISIONS for each in DECISIONS},
    "worker/codes": ("provider",),
    "store/records": ("records", "tracking", "batching", *STORE),
    **{f"schemas/{each}": REPLIES for each in REPLIES},
    **{f"schemas/{each}": JOBS for each in ("errors", "encoding", "fields", "instants", "message")},
    **{f"schemas/{each}": (each,) for each in ("redis_url", "settings")},
}
"""The modules that are mutated, and the suites for each."""
SERVED = {"redis_server", "simulator_process", "start_worker", "serve", "connect", "tls", "place"}
"""Fixtures that start a server."""
OPTIONS = ["-p", "tests.mutants", "-p", "no:cacheprovider", "-p", "no:xdist"]
OPTIONS += ["--hypothesis-profile", "mutants", "--timeout", "300", "--tb", "no"]
hypothesis.settings.register_profile(
    "mutants",
    derandomize=True,
    deadline=None,
    database=None,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=[*HealthCheck],
)
GENERATE = (
    "from mutmut.__main__ import copy_also_copy_files, copy_src_dir, create_mutants;"
    "copy_src_dir(); copy_also_copy_files(); create_mutants(2)"
)
CPU_SECONDS = 20
"""What the tests of a mutant may take: one that never ends is killed."""
CHILDREN = 3 * (os.cpu_count() or 1)


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


def pytest_runtestloop(session: pytest.Session) -> bool | None:
    """Try each of the mutants that MUTANTS names, a file; write the survivors back into it."""
    if "MUTANTS" not in os.environ:
        return None
    file = Path(os.environ["MUTANTS"])
    calls = file.with_suffix(".calls")
    _wait({_fork(lambda: _note_calls(session, calls)): ""})
    if not calls.exists():
        pytest.exit("the tests fail without any mutant", 1)
    tests: dict[str, list[int]] = json.loads(calls.read_text())
    survivors, running = list[str](), dict[int, str]()
    for mutant in json.loads(file.read_text()):
        indexes = tests.get(mutant.rpartition("__mutmut_")[0], [])
        items = [session.items[index] for index in indexes]
        running[_fork(lambda: [*_run(session, items)], mutant)] = mutant  # noqa: B023
        if len(running) == CHILDREN:
            survivors += _wait(running)
    while running:
        survivors += _wait(running)
    file.write_text(json.dumps(survivors))
    return True


def _fork(do: Callable[[], object], mutant: str = "stats") -> int:
    if child := os.fork():
        return child
    code = 1
    try:
        os.environ["MUTANT_UNDER_TEST"] = mutant
        resource.setrlimit(resource.RLIMIT_CPU, (CPU_SECONDS if mutant != "stats" else -1,) * 2)
        do()
        code = 0
    finally:
        os._exit(code)


def _wait(running: dict[int, str]) -> list[str]:
    """Returns the mutant of the next child that ends, if it survived."""
    child, status = os.wait()
    mutant = running.pop(child)
    return [mutant] if status == 0 and mutant else []


def _run(session: pytest.Session, items: list[pytest.Item]) -> Iterator[int]:
    """Yields the index of each test that has passed."""
    for index, item in enumerate(items):
        # The session's fixtures are left as they are: the child ends.
        item.ihook.pytest_runtest_protocol(item=item, nextitem=(items[index + 1 :] or [item])[0])
        assert not session.testsfailed
        yield index


def _note_calls(session: pytest.Session, file: Path) -> None:
    """Write which tests call each function that has mutants, the fastest first."""
    from mutmut.state import state

    seconds, calls = dict[int, float](), defaultdict[str, list[int]](list)
    begun = time.process_time()
    for index in _run(session, session.items):
        seconds[index], begun = time.process_time() - begun, time.process_time()
        for function in state()._stats:
            calls[function].append(index)
        state()._stats.clear()
    ordered = {name: sorted(found, key=seconds.__getitem__) for name, found in calls.items()}
    file.write_text(json.dumps(ordered))


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


def mutants(tree: Path, rules: list[str]) -> dict[str, list[str]]:
    """Copy what the tests need, links as folders; return the mutants of each module there."""
    shutil.rmtree(tree, ignore_errors=True)
    for name in ("viber_courier", "docs", "tests"):
        shutil.copytree(ROOT / name, tree / name, ignore=shutil.ignore_patterns("__pycache__"))
    config = f"""
[tool.mutmut]
source_paths = ["viber_courier"]
also_copy = ["docs"]
only_mutate = {[f"viber_courier/{rule}.py" for rule in rules]}
"""
    (tree / "pyproject.toml").write_text((ROOT / "pyproject.toml").read_text() + config)
    quiet = {"cwd": tree, "check": True, "stdout": subprocess.DEVNULL}
    subprocess.run([str(PYTHON), "-c", GENERATE], **quiet)  # type: ignore[call-overload]
    made = {rule: tree / "mutants" / "viber_courier" / f"{rule}.py.meta" for rule in rules}
    return {rule: [*json.loads(m.read_text())["exit_code_by_key"]] for rule, m in made.items()}


def try_in_forks(tree: Path, mutants: list[str], suites: Iterable[str]) -> list[str]:
    """Returns the mutants that survive. Raises CalledProcessError if tests fail without any."""
    file = tree / "left.json"
    file.write_text(json.dumps(mutants))
    command = [str(PYTHON), "-m", "pytest", *OPTIONS, *files(suites)]
    env = environment() | {"MUTANTS": str(file)}
    with (tree / "log").open("w") as log:
        subprocess.run(command, cwd=tree / "mutants", env=env, check=True, stdout=log)
    left: list[str] = json.loads(file.read_text())
    return left


def survives(tree: Path, rule: str, mutant: str) -> bool:
    """Try a mutant in a process of its own, with its module's suites and then the store's."""
    for suites in (RULES[rule], STORE if "schemas" not in rule else ("golden", "producer")):
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
        made = mutants(tree, rules)
        left = try_in_forks(tree, [each for found in made.values() for each in found], suites)
        if not survives(tree, rules[0], "none"):
            raise SystemExit("tests fail without any mutant")
        for rule, found in made.items():
            total[rule] = len(found)
            again = [mutant for mutant in found if mutant in left]
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

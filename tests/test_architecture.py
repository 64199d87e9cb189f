"""The structure's own promises: imports in one direction, light producers, small files."""

from __future__ import annotations

import ast
import io
import re
import subprocess
import sys
import tokenize
from functools import cache
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
ORDER = ["schemas", "store", "producers", "worker", "ops"]
"""Each package may import those before it."""
DJANGO = ("viber_courier/django", "viber_courier/django/management/commands")
"""Django imports an app's modules by names; it may import what an app's process has."""
APP_FOLDERS = ("ops/testing", "ops/gateway", "ops/push", *DJANGO)
"""What apps of one kind need: tests, a framework, another language (docs/decisions/0036)."""
PARTS = ("worker/runtime", "ops/commands", "ops/console", "ops/lists", *APP_FOLDERS)
FOLDERS = [ROOT / name for name in (*ORDER, *PARTS)]
SCRIPTS = sorted([*(ROOT / "store" / "lua").rglob("*.lua"), ROOT / "ops" / "look.lua"])
MODULES = sorted(path for folder in FOLDERS for path in folder.glob("*.py"))
PURE = [
    "schemas",
    "worker/policy",
    "worker/breaker",
    "worker/tracking",
    "worker/batching",
    "worker/outcome",
    "worker/answers",
    "worker/codes",
    "store/counters",
    "store/durability",
    "store/gate",
    "store/keys",
    "store/records",
    "ops/commands/findings",
    "ops/push/line",
    "ops/lists/columns",
    "ops/lists/recipients",
]
CORE, OPS, COMMANDS, LISTS, APPS = 8658, 1755, 2336, 1193, 2201
CONSOLE = 1712
"""Lines of code: all but ``ops``, ``ops``, its commands, its lists, what apps of one kind need, the
console (docs/decisions/0021, 0027, 0036, 0045)."""


def imported(path: Path) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names.add(node.module or "")
    return names


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT).with_suffix(""))


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_imports_go_one_way(path: Path) -> None:
    home = path.relative_to(ROOT).parts[0]
    allowed = ["types", *ORDER[: ORDER.index(home) + 1]] if home in ORDER else ["types", "django"]
    allowed += ORDER[:3] if home not in ORDER else []
    ours = [name.split(".") for name in imported(path) if name.startswith("viber_courier")]
    for name in ours:
        assert len(name) == 1 or name[1] in allowed, f"{name_of(path)} imports {'.'.join(name)}"
    names = {name.split(".")[0] for name in imported(path)}
    assert not names & {*ORDER, "tests"}, "an import by a name that only a checkout has"


def test_the_modules_that_these_tests_look_at_import_each_other() -> None:
    assert any("viber_courier.schemas.status" in imported(path) for path in MODULES)


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_pure_modules_have_no_clock_no_chance_and_no_io(path: Path) -> None:
    if name_of(path).startswith(tuple(PURE)):
        banned = {"time", "random", "socket", "redis", "requests", "celery", "os", "threading"}
        assert not {name.split(".")[0] for name in imported(path)} & banned


def test_suites_that_make_test_leaves_out_import_what_there_is() -> None:
    missing = []
    for path in sorted((ROOT / "tests").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("tests."):
                module = ROOT.joinpath(*(node.module or "").split("."))
                there = defined(module.with_suffix(".py"))
                missing += [
                    f"{name_of(path)}: {node.module}.{alias.name}"
                    for alias in node.names
                    if alias.name not in there and not (module / f"{alias.name}.py").exists()
                ]
    assert missing == []


@cache
def defined(path: Path) -> set[str]:
    """Names that a module has: of its top level, and of blocks there."""
    found = set[str]()
    nodes = ast.parse(path.read_text()).body if path.exists() else []
    while nodes:
        node: Any = nodes.pop()
        names = [getattr(node, "target", None), *getattr(node, "targets", ())]
        found |= {
            each.id for name in names if name for each in ast.walk(name) if hasattr(each, "id")
        }
        found |= {
            alias.asname or alias.name
            for alias in getattr(node, "names", ())
            if hasattr(alias, "asname")
        }
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            found.add(node.name)
        elif isinstance(node, (ast.If, ast.Try, ast.With)):
            nodes += [*node.body, *getattr(node, "orelse", ())]
    return found


def test_the_simulator_shares_no_reading_of_the_document() -> None:
    for path in (ROOT / "ops").glob("simulator*.py"):
        assert not [
            name
            for name in imported(path)
            if name.startswith("viber_courier.") and name.split(".")[1] != "ops"
        ]


LOADED = "; print(*sorted({*sys.modules}))"
HEAVY = (
    "requests",
    "celery",
    "kombu",
    "fakeredis",
    "phonenumbers",
    "click",
    "viber_courier.worker",
)
LIGHT_OPS = {"viber_courier.ops", "viber_courier.ops.lists", "viber_courier.ops.lists.phone"}
"""Where normalize_address is; it loads its library at the first call."""


def loaded_by(program: str) -> list[str]:
    command = [sys.executable, "-c", f"import sys; {program}{LOADED}"]
    run = subprocess.run(command, capture_output=True, text=True, check=True)
    return run.stdout.split()


def test_importing_is_light() -> None:
    assert "marshmallow" not in loaded_by("import viber_courier")
    loaded = loaded_by("from viber_courier import *; Producer(Settings())")
    assert {"marshmallow", "viber_courier.producers.client"} <= {*loaded}
    assert not [name for name in loaded if name.startswith(HEAVY)]
    assert {name for name in loaded if name.startswith("viber_courier.ops")} == LIGHT_OPS


def test_a_health_check_loads_little() -> None:
    loaded = loaded_by("import viber_courier.ops.commands.live, viber_courier.ops.cli")
    # It runs each half minute beside each worker: Celery alone would double what it costs
    assert not [name for name in loaded if name.split(".")[0] in ("celery", "requests", "aiohttp")]
    assert not [name for name in loaded if name.startswith(("viber_courier.worker", "marshmallow"))]


def test_the_old_names_of_a_checkout_lead_to_the_new_ones() -> None:
    loaded = loaded_by(
        "from producers import Producer; import viber_courier; "
        "assert Producer is viber_courier.Producer"
    )
    assert "producers.client" not in loaded
    run = subprocess.run(
        [sys.executable, "-m", "celery", "-A", "worker", "worker"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 1
    assert "celery -A viber_courier.worker" in run.stderr


def code_lines(path: Path) -> int:
    """Lines that hold code: no blank ones, no comments, no docstrings."""
    text = path.read_text()
    if path.suffix == ".lua":
        lines = [line.strip() for line in text.splitlines()]
        return sum(1 for line in lines if line and not line.startswith("--"))
    thin = {tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT}
    found: set[int] = set()
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type not in thin | {tokenize.ENDMARKER}:
            found |= set(range(token.start[0], token.end[0] + 1))
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            found -= set(range(node.lineno, (node.end_lineno or node.lineno) + 1))
    return len(found)


def test_the_four_packages_stay_small() -> None:
    sizes = {path: code_lines(path) for path in (*MODULES, *SCRIPTS)}
    commands = sum(size for path, size in sizes.items() if name_of(path.parent) == "ops/commands")
    lists = sum(size for path, size in sizes.items() if name_of(path.parent) == "ops/lists")
    core = sum(size for path, size in sizes.items() if path.relative_to(ROOT).parts[0] in ORDER[:4])
    apps = sum(size for path, size in sizes.items() if name_of(path.parent) in APP_FOLDERS)
    console = sum(size for path, size in sizes.items() if path.parent.name == "console")
    assert core <= CORE
    assert sum(sizes.values()) - core - commands - lists - apps - console <= OPS
    assert console <= CONSOLE
    assert lists <= LISTS
    assert apps <= APPS
    assert commands <= COMMANDS
    assert sum(map(code_lines, (ROOT / "ops" / "bench").glob("*.py"))) <= 1098
    assert not {name_of(path): size for path, size in sizes.items() if size > 300}


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_functions_fit_on_a_screen(path: Path) -> None:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            assert (node.end_lineno or 0) - node.lineno < 55, f"{name_of(path)}: {node.name}"


def test_provider_words_stay_at_the_edge() -> None:
    words = re.compile(r"error-[a-z-]+|not-viber-user|vp_expired|visited")
    edge = {"worker/codes", "schemas/wire", "ops/simulator", "ops/simulator_rules"}
    edge.add("ops/testing/life")  # it answers in the provider's place
    for path in MODULES:
        if name_of(path) not in edge:
            strings = [
                node.value
                for node in ast.walk(ast.parse(path.read_text()))
                if isinstance(node, ast.Constant) and isinstance(node.value, str)
            ]
            code = [text for text in strings if words.fullmatch(text)]
            assert not code, f"{name_of(path)}: {code}"


def test_keys_names_every_key_that_a_script_uses() -> None:
    for path in SCRIPTS:
        for line in path.read_text().splitlines():
            assert "{ns}" not in line and "courier" not in line, f"{path.name}: {line}"
            if path.parent.name != "lib":
                assert path.read_text().count("-- KEYS") == 1

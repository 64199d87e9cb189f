"""The structure's own promises: imports in one direction, light producers, small files."""

from __future__ import annotations

import ast
import io
import re
import subprocess
import sys
import tokenize
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
ORDER = ["schemas", "producers", "worker", "ops"]
"""Each package may import those before it."""
FOLDERS = [*(ROOT / name for name in ORDER), ROOT / "ops" / "commands"]
MODULES = sorted(path for folder in FOLDERS for path in folder.glob("*.py"))
PURE = [
    "schemas",
    "worker/policy",
    "worker/breaker",
    "worker/tracking",
    "worker/batching",
    "worker/outcome",
    "worker/durability",
    "ops/commands/findings",
]
BUDGET = 5650
"""Lines of code in the four packages (docs/decisions/0002-what-a-line-is.md)."""


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
    allowed = ORDER[: ORDER.index(path.relative_to(ROOT).parts[0]) + 1]
    for name in imported(path):
        top = name.split(".")[0]
        assert top not in ORDER or top in allowed, f"{name_of(path)} imports {name}"
        assert top != "tests"


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_pure_modules_have_no_clock_no_chance_and_no_io(path: Path) -> None:
    if name_of(path).startswith(tuple(PURE)):
        banned = {"time", "random", "socket", "redis", "requests", "celery", "os", "threading"}
        assert not {name.split(".")[0] for name in imported(path)} & banned


def test_the_simulator_shares_no_reading_of_the_document() -> None:
    for path in (ROOT / "ops").glob("simulator*.py"):
        assert not {name.split(".")[0] for name in imported(path)} & set(ORDER[:3])


def test_importing_producers_is_light() -> None:
    program = "import sys, producers; print(*sorted({m.split('.')[0] for m in sys.modules}))"
    loaded = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    ).stdout.split()
    assert "marshmallow" in loaded
    assert not {"requests", "celery", "kombu", "worker", "ops", "fakeredis"} & set(loaded)


def test_a_shadowed_schemas_is_named(tmp_path: Path) -> None:
    (tmp_path / "schemas.py").write_text("")
    run = subprocess.run(
        [sys.executable, "-c", "import producers"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 1
    assert f"shadowed by another of that name: {tmp_path}" in run.stderr


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
    sizes = {
        path: code_lines(path)
        for folder in FOLDERS
        for path in folder.iterdir()
        if path.suffix in (".py", ".lua")
    }
    commands = sum(size for path, size in sizes.items() if path.parent.name == "commands")
    assert sum(sizes.values()) - commands <= BUDGET
    assert commands <= 1200
    assert sum(map(code_lines, (ROOT / "ops" / "bench").glob("*.py"))) <= 1000
    assert not {name_of(path): size for path, size in sizes.items() if size > 300}


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_functions_fit_on_a_screen(path: Path) -> None:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            assert (node.end_lineno or 0) - node.lineno < 55, f"{name_of(path)}: {node.name}"


def test_provider_words_stay_at_the_edge() -> None:
    words = re.compile(r"error-[a-z-]+|not-viber-user|vp_expired|visited")
    edge = {"worker/provider", "schemas/wire", "ops/simulator", "ops/simulator_rules"}
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
    for path in [*(ROOT / "producers").glob("*.lua"), *(ROOT / "worker").glob("*.lua")]:
        for line in path.read_text().splitlines():
            assert "{ns}" not in line and "courier" not in line, f"{path.name}: {line}"
            if path.stem not in ("clock", "move", "gate", "bury", "bucket"):
                assert path.read_text().count("-- KEYS") == 1

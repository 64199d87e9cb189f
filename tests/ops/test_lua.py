"""The scripts as a linter reads them: each file as written, and each script as Redis gets it."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from tests.test_scripts import LUA, NAMES
from viber_courier.store.scripts import source


def test_a_linter_reads_every_file_and_finds_nothing(tmp_path: Path) -> None:
    if not shutil.which("luacheck"):
        pytest.skip("luacheck is not installed (Debian: lua-check)")
    for name in NAMES:
        (tmp_path / f"{name}.lua").write_text(source(name).text)
    # As written, the names of a head and the fragments' functions are not defined in the file.
    raw = ["--std", "lua51", "--globals", "redis", "cjson", "KEYS", "ARGV", "--no-max-line-length"]
    files = [*map(str, LUA.rglob("*.lua"))]
    as_written = [*raw, "--ignore", "113", "111", "112", "211", "--", *files]
    resolved = [*raw, "--ignore", "211", "431", "421", "--", *map(str, tmp_path.glob("*.lua"))]
    for options in (as_written, resolved):
        run = subprocess.run(
            ["luacheck", "-q", *options], capture_output=True, text=True, check=False
        )
        assert run.returncode == 0, run.stdout

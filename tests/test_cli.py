"""The command line: every command is there, and only the one that is used gets imported."""

from __future__ import annotations

import subprocess
import sys

import click
import pytest
from click.testing import CliRunner

from viber_courier.ops.cli import COMMANDS, main


def test_help_lists_every_command_with_its_line() -> None:
    result = CliRunner().invoke(main, ["--help"])
    assert result.exit_code == 0
    for name, (_, line) in COMMANDS.items():
        assert name in result.output
        assert line in " ".join(result.output.split())


def test_help_imports_no_command() -> None:
    code = "import sys; from viber_courier.ops.cli import main;"
    code += "main(['--help'], standalone_mode=False);"
    code += "print(*sys.modules, file=sys.stderr)"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not {"aiohttp", "rich", "celery", "redis", "requests"} & set(found.stderr.split())


@pytest.mark.parametrize("name", COMMANDS)
def test_each_command_exists_and_has_help(name: str) -> None:
    command = main.get_command(click.Context(main), name)
    assert command is not None
    result = CliRunner().invoke(main, [name, "--help"])
    assert result.exit_code == 0
    assert f"courier {name}" in result.output.replace("main", "courier")
    assert command.help


def test_an_unknown_command_is_refused() -> None:
    result = CliRunner().invoke(main, ["no-such-command"])
    assert result.exit_code == 2


def test_the_script_is_installed() -> None:
    script = [f"{sys.executable.rpartition('/')[0]}/courier", "--version"]
    found = subprocess.run(script, capture_output=True, text=True, check=True)
    assert found.stdout.startswith("courier, version ")


def test_without_its_extra_the_command_names_it() -> None:
    code = "import sys; sys.modules['click'] = None; import viber_courier.ops.cli"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert run.returncode == 1
    assert run.stderr == "courier needs the extra ops: pip install 'viber-courier[ops]'\n"

"""``make up``: what is set is used, what is not is started."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from viber_courier.ops.cli import main
from viber_courier.ops.gateway.tokens import Tokens
from viber_courier.ops.up import SHELL, instructions, prepare

REAL = {
    "COURIER_REDIS_URL": "redis://store.example/0",
    "COURIER_API_URL_FILE": "/etc/viber-courier/url",
    "FLOWER_PORT": "5999",
    "COURIER_CONSOLE_USERS": "/etc/viber-courier/users",
}


def test_without_settings_redis_and_provider_are_started_too(tmp_path: Path) -> None:
    added, config = prepare(tmp_path, {})
    assert "[program:redis]" in config and "[program:simulator]" in config
    assert added["COURIER_REDIS_URL"].startswith("redis://127.0.0.1:")
    assert added["COURIER_API_URL"].startswith("http://127.0.0.1:")
    said = instructions(added, tmp_path, {})
    assert added["COURIER_REDIS_URL"] in said and added["COURIER_CONSOLE_PASSWORD"] in said


def test_with_settings_the_real_ones_are_used_and_nothing_of_the_simulators(tmp_path: Path) -> None:
    added, config = prepare(tmp_path, REAL)
    assert "[program:" not in config
    assert added.keys() == {
        "COURIER_RUN",
        "COURIER_BIN",
        "FLOWER_PORT",
        "COURIER_EXPORTER_PORT",
        "COURIER_CONSOLE_PORT",
        "COURIER_GATEWAY_PORT",
        "COURIER_GATEWAY_TOKENS",
        "GATEWAY",
        "TOKEN",
    }
    assert added["FLOWER_PORT"] == "5999"
    said = instructions(added, tmp_path, {"COURIER_REDIS_URL": "redis://:geheim@there", "PATH": ""})
    assert "really sends" in said
    # And which variables the other terminal needs, but no value
    assert "(also set COURIER_REDIS_URL there)" in said and "geheim" not in said


def test_the_gateway_s_token_is_for_those_who_may_read_it_and_stays(tmp_path: Path) -> None:
    added, _ = prepare(tmp_path, {})
    assert Tokens(Path(added["COURIER_GATEWAY_TOKENS"])).name_of(added["TOKEN"]) == "try"
    assert (tmp_path / "gateway_token").stat().st_mode & 0o077 == 0
    said = instructions(added, tmp_path, {})
    assert added["GATEWAY"] in said and added["TOKEN"] not in said
    # And a shell that has read it goes on after a restart; a lost half makes a new whole
    assert prepare(tmp_path, {})[0]["TOKEN"] == added["TOKEN"]
    (tmp_path / "gateway_token").unlink()
    again, _ = prepare(tmp_path, {})
    assert Tokens(Path(again["COURIER_GATEWAY_TOKENS"])).name_of(again["TOKEN"]) == "try"
    # And given tokens are used
    added, _ = prepare(tmp_path, {"COURIER_GATEWAY_TOKENS": "/etc/tokens"})
    assert "TOKEN" not in added and "your tokens" in instructions(added, tmp_path, {})


def test_without_supervisord_it_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("viber_courier.ops.up.BIN", tmp_path)
    said = CliRunner().invoke(main, ["up", "--folder", str(tmp_path / "up")])
    assert said.exit_code == 1 and "pip install 'viber-courier[run]'" in said.output
    assert [*tmp_path.iterdir()] == []


def test_an_app_s_own_environment_stays_first_on_its_path() -> None:
    program = f"export COURIER_BIN=/courier; PATH=/app\n{SHELL}echo $PATH"
    run = subprocess.run(["/bin/bash", "-c", program], capture_output=True, text=True, check=True)
    assert run.stdout == "/app:/courier\n"


@pytest.mark.parametrize("name", ["send-Bulk", "", "redis; true"])
def test_a_program_of_no_name_is_refused(name: str) -> None:
    script = Path(__file__).parents[1] / "ops/program.sh"
    run = subprocess.run(["sh", script, name], capture_output=True, text=True, check=False)
    assert run.returncode == 2 and f"no program is called {name}" in run.stderr


@pytest.mark.parametrize("form", ["{}", "\ufeff{}", "crlf"])
def test_the_pools_queues_are_those_of_the_namespace(form: str, tmp_path: Path) -> None:
    # Given a celery that only repeats what it is asked
    fake = tmp_path / "celery"
    fake.write_text(f"#!{sys.executable}\nimport sys\nprint(*sys.argv[1:])\n")
    fake.chmod(0o755)
    written = "COURIER_NAMESPACE='shop'\n\nCOURIER_PROCESSES_BULK=3\n"  # maybe on Windows
    written = written.replace("\n", "\r\n") if form == "crlf" else form.format(written)
    (tmp_path / "env").write_bytes(written.encode())
    script = Path(__file__).parents[1] / "ops/program.sh"
    run = subprocess.run(
        ["sh", script, "send-bulk"],
        env={"PATH": f"{tmp_path}:/usr/bin:/bin", "COURIER_ENV_FILE": f"{tmp_path}/env"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert "-A viber_courier.worker worker -n send-bulk@%h -c 3 " in run.stdout
    lanes = ",".join(f"shop.send.{lane}" for lane in ("realtime", "high", "normal", "low"))
    assert f"-Q {lanes},shop.enqueue " in run.stdout

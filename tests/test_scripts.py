"""Scripts and their heads: names on both sides, includes, and what a call is told of a mistake."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import redis

from tests.conftest import ROOT
from viber_courier.store.scripts import Parameter, Script, Source, source

LUA = Path(__file__).parents[1] / "store" / "lua"
NAMES = sorted(path.stem for path in LUA.glob("*.lua"))
ONE = Parameter("id", None)


@pytest.mark.parametrize("name", NAMES)
def test_every_script_uses_names_only_and_every_name(name: str) -> None:
    body = "\n".join(
        line for line in (LUA / f"{name}.lua").read_text().splitlines() if line[:2] != "--"
    )
    assert not re.search(r"(KEYS|ARGV)\[\d", body)
    assert source(name).keys[0] == Parameter("guard", None)  # for a cluster only
    for parameter in (*source(name).keys[1:], *source(name).args):
        assert re.search(rf"\b{parameter.name}\b", body), parameter.name


@pytest.mark.parametrize("name", NAMES)
def test_a_fragment_comes_once_and_after_what_it_needs(name: str) -> None:
    text = source(name).text
    assert text.count("local function now(") <= 1
    for fragment, need in (("bury", "text"), ("report", "text")):
        if f"local function {fragment}(" in text:
            assert text.index(f"local function {need}(") < text.index(f"local function {fragment}(")


@pytest.mark.parametrize("name", NAMES)
def test_a_server_compiles_it(name: str, client: redis.Redis) -> None:
    assert client.script_load(source(name).text) == source(name).digest


KEYS = {"guard": "g", "format": "f", "formats": (1, 1), "lanes": ["x"] * 8}


def test_a_name_too_many_or_too_few_is_an_error_at_the_call(client: redis.Redis) -> None:
    call = Script(client, "get", KEYS)
    with pytest.raises(TypeError, match="script get: missing: id, record"):
        call()
    with pytest.raises(TypeError, match="script get: ids is unknown"):
        call(record="r", id="a", ids=["a"])
    with pytest.raises(TypeError, match="script get: lanes has 7 values"):
        call(record="r", id="a", lanes=["x"] * 7)


def test_no_script_is_given_an_empty_key(client: redis.Redis) -> None:
    with pytest.raises(TypeError, match="script get: a key is empty"):
        Script(client, "get", KEYS)(record="", id="a")


def test_values_go_over_as_text(client: redis.Redis) -> None:
    tail = Parameter("rest", 0)
    echo = Script(client, Source("echo", "return {ARGV[1], unpack(ARGV, 2)}", (), (ONE, tail)))
    assert echo(id=None, rest=[True, False, 12, 0.5, "б"]) == ["", "1", "0", "12", "0.5", "б"]


UPGRADED = """
import sys
from pathlib import Path
import viber_courier.worker.celery as worker
from viber_courier.ops.look import take_look

package = Path(worker.__file__).parents[1]
assert package == Path(sys.argv[1])
for each in package.rglob("*.lua"):
    each.unlink()
system, namespace = worker.system(), worker.settings.namespace
system.store.sweep()
assert take_look(system.store.redis, namespace).lanes["low"].size == 0
system.intake._producer.dead.list()
assert system.sender.serve("low") and system.poller.serve() and system.intake.serve()
"""


def test_a_process_keeps_its_version_s_scripts_when_an_upgrade_replaces_them(
    system_env: dict[str, str], tmp_path: Path
) -> None:
    # A process of a worker's pool makes its objects for its first task, perhaps after the upgrade.
    package = tmp_path / "viber_courier"
    shutil.copytree(ROOT / package.name, package, ignore=shutil.ignore_patterns("__pycache__"))
    done = subprocess.run(
        [sys.executable, "-c", UPGRADED, package],
        env={**system_env, "PYTHONPATH": str(tmp_path)},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr

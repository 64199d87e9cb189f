"""What README and docs show is what runs."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import Simulator, Start, text_job, wait_for
from viber_courier import Producer
from viber_courier.schemas.settings import PREFIX, Settings
from viber_courier.schemas.status import Status, is_final

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()


def block(text: str, language: str) -> str:
    found = re.search(rf"<!-- [^>]+ -->\n```{language}\n(.+?)```", text, re.S)
    assert found is not None
    return found[1]


def test_the_example_runs_as_written(
    system_env: dict[str, str], start_worker: Start, simulator: Simulator, tmp_path: Path
) -> None:
    start_worker()
    (tmp_path / "example.py").write_text(block(README, "python"))
    run = subprocess.run(
        [sys.executable, "example.py"],
        cwd=tmp_path,
        env={**os.environ, **system_env},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    assert "must have 1 to 11" in run.stdout
    assert "order-1234:code:1 read True" in run.stdout
    # 20 addresses are refused, 10 never taken, one was cancelled, perhaps too late.
    assert len(simulator.accepted()) in (970, 971)


def test_the_dead_letters_example_runs_as_written(
    system_env: dict[str, str], start_worker: Start, simulator: Simulator, tmp_path: Path
) -> None:
    # Given a message whose attempts are used up, and two that the provider refuses
    start_worker(COURIER_MAX_ATTEMPTS="1")
    producer = Producer.from_env(system_env)
    for id, ending in (("order-1:code", "60"), ("order-2:code", "50"), ("order-3:code", "50")):
        producer.enqueue(text_job(f"792500000{ending}", id=id))
    wait_for(lambda: len(list(producer.dead.list())) == 3)
    # When the example runs
    (tmp_path / "example.py").write_text(
        block((ROOT / "docs/dead-letters.md").read_text(), "python")
    )
    run = subprocess.run(
        [sys.executable, "example.py"],
        cwd=tmp_path,
        env={**os.environ, **system_env},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    # Then it says so, and what it has sent again arrives
    assert run.returncode == 0, run.stderr
    first, *rest = run.stdout.splitlines()
    assert re.fullmatch(r"order-1:code attempts 20\S+Z 1 {}", first)
    assert rest == ["79250000060", "order-1:code", "0 sent again, 0 not", "1 dropped"]
    record = producer.get("order-1:code")
    assert record is not None and record.resent_as is not None
    new = record.resent_as
    wait_for(lambda: (found := producer.get(new)) is not None and found.status == Status.READ)
    producer.close()


def test_the_event_shown_has_the_form_of_a_real_one(
    system_env: dict[str, str], start_worker: Start, simulator: Simulator
) -> None:
    shown = json.loads(block((ROOT / "docs/events.md").read_text(), "json"))
    start_worker()
    producer = Producer.from_env(system_env)
    id = producer.enqueue(text_job("79250000010", id=shown["subject"]))
    key = f"{{{system_env['COURIER_NAMESPACE']}}}:results"
    entries = wait_for(lambda: len(found := producer.redis.xrange(key)) >= 2 and found)
    real = json.loads(entries[-1][1]["event"])
    assert list(real) == list(shown) and list(real["data"]) == list(shown["data"])
    assert real["subject"] == real["data"]["messageId"] == id
    assert type(real["data"]["providerId"]) is type(shown["data"]["providerId"]) is str
    producer.close()


def table(heading: str) -> list[list[str]]:
    section = README.split(f"## {heading}\n")[1].split("\n## ")[0]
    rows = [
        line.strip("| ").split(" | ") for line in section.splitlines() if line.startswith("| `")
    ]
    assert rows
    return rows


def test_every_setting_is_in_the_table_with_its_default() -> None:
    named = {}
    for names, default, *_ in table("Settings"):
        parts = re.findall(r"`([A-Z_]+)`", names)
        values = default.strip("`").split(", ") if len(parts) > 1 else [default.strip("`")]
        named.update(zip(parts, values if len(values) == len(parts) else [""] * 9, strict=False))
    fields = {PREFIX + name.upper(): name for name in Settings.__dataclass_fields__}
    assert set(named) == set(fields)
    for name, shown in named.items():
        value = getattr(Settings(), fields[name])
        if re.fullmatch(r"[0-9.]+", shown):
            assert float(shown) == value, name


def test_every_status_is_in_the_table_with_its_finality() -> None:
    shown = {}
    for names, final, *_ in table("Statuses"):
        shown.update(dict.fromkeys(re.findall(r"`(\w+)`", names), final))
    assert set(shown) == set(Status)
    for status, final in shown.items():
        assert (final == "yes") == is_final(Status(status))


@pytest.mark.parametrize("path", sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")]), ids=str)
def test_links_and_files_that_are_named_exist(path: Path) -> None:
    text = path.read_text()
    for target in re.findall(r"\]\((?!http)([^)#]+)", text):
        assert (path.parent / target).exists(), target
    if (path.parent.name == "decisions" and path.name < "0016") or path.name == "CHANGELOG.md":
        return  # written when files had the names of then
    for named in re.findall(
        r"`((?:viber_courier|schemas|store|producers|worker|ops|tests|docs)/[\w./-]+\.\w+)`", text
    ):
        assert (ROOT / named).exists(), named


def test_each_fault_names_a_test_that_exists() -> None:
    table = README.split("## Faults")[1].split("**What Redis")[0]
    rows = re.findall(r"^\| .+ \| .+ \| `(\w+)::(\w+)` \|$", table, re.M)
    assert len(rows) == table.count("\n| ") - 2  # all but the head
    for file, name in rows:
        text = (ROOT / "tests" / "faults" / f"test_{file}.py").read_text()
        assert f"def test_{name}(" in text, (file, name)

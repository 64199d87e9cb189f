"""What docs/guide.md shows runs as it stands there; docs/cli.md is what the commands say."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner

from tests.conftest import Simulator, Start, text_job, wait_for
from viber_courier import Producer
from viber_courier.ops.cli import COMMANDS, main
from viber_courier.ops.commands.terminal import Command

DOCS = Path(__file__).parents[1] / "docs"
MARK = "<!-- commands -->\n"


@pytest.mark.slow
def test_the_guide_runs_from_its_first_block_to_its_last(
    system_env: dict[str, str],
    start_worker: Start,
    simulator: Simulator,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    # Given a whole system, and an app and a shell with its settings
    start_worker()
    here = Path(sys.executable).parent
    for name, value in {**system_env, "PATH": f"{here}:{os.environ['PATH']}"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.chdir(tmp_path)
    text = (DOCS / "guide.md").read_text()
    blocks = re.findall(r"(?:<!-- (\S+) -->\n)?```(\w+)\n(.+?)```", text, re.S)
    assert len(blocks) == text.count("```") / 2
    # When each block is run in its turn
    names: dict[str, Any] = {}
    shells = ""
    for file, language, code in blocks:
        if language == "python":
            exec(compile(code, f"guide.md: {code[:40]!r}", "exec"), names)
        elif language == "sh":
            run = subprocess.run(
                ["bash", "-euo", "pipefail", "-c", code],
                capture_output=True,
                text=True,
                timeout=60,
                check=False,
            )
            assert run.returncode == 0, (code, run.stderr)
            shells += run.stdout
        else:
            (tmp_path / file).write_text(code)
    # Then it says what the guide says
    printed = capsys.readouterr().out
    assert "another job has this id already" in printed and "300 stored, 1 refused" in printed
    assert "336 have ended" in printed and "True\ncancelled False" in printed
    assert "{'id': 'login-81:code:1'} {'error': 'address: must" in printed
    assert "login-81:code:1 is submitted" in printed
    assert "1 content.text: has no value for {name}" in printed
    assert "2 messages stored, 0 were there before" in shells
    assert "0 messages stored, 2 were there before" in shells
    assert "reminder-5  cancelled" in shells and "login-79:code:1" in shells
    assert len((tmp_path / "events.jsonl").read_text().splitlines()) > 305
    # And everybody got one message
    producer = Producer.from_env(system_env)
    wait_for(lambda: (record := producer.get("invoice-9")) and record.final)
    producer.close()
    wait_for(lambda: len(simulator.accepted()) >= 308)
    assert len(simulator.accepted()) == 308


HOSTILE = """
task_serializer = "pickle"
task_protocol = 1
task_create_missing_queues = False
broker_transport_options = {"global_keyprefix": "shop:"}
broker_write_url = "redis://127.0.0.1:1"
"""
"""Another Celery's configuration, which the snippet of docs/examples/celery.md keeps out."""

SENT = 'assert send([{**code, "id": "login-80:code:1"}]) == ["login-80:code:1"]'
MISTAKES = """
def send(*args, name="courier.enqueue", **options):
    jobs.send_task(name, args=args, queue=f"{namespace}.enqueue", ignore_result=True, **options)

send([{**code, "id": "lost"}], serializer="pickle")
send([{**code, "id": "lost"}], serializer="yaml")
send([{**code, "id": "lost"}], serializer="pickle", task_id="79250000001")
send([{**code, "id": "lost"}], name="courier.enqueu")
jobs.conf.task_protocol = 1
send([{**code, "id": "lost"}], serializer="pickle")
send({**code, "id": "alone"})
"""


@pytest.mark.slow
def test_a_task_of_an_app_with_another_celery_arrives_and_mistakes_look_as_the_page_says(
    system_env: dict[str, str], start_worker: Start, app: Producer, tmp_path: Path
) -> None:
    # Given the page's snippet, in an app whose environment belongs to another Celery
    worker = start_worker(beat=False)
    section = (DOCS / "examples" / "celery.md").read_text()
    snippet = section.split("```python\n")[1].split("```")[0]
    (tmp_path / "hostile.py").write_text(HOSTILE)
    ours = {name: system_env[name] for name in ("COURIER_REDIS_URL", "COURIER_NAMESPACE")}
    theirs = {"CELERY_CONFIG_MODULE": "hostile", "CELERY_BROKER_URL": "redis://127.0.0.1:1"}
    theirs |= {"CELERY_RESULT_BACKEND": "redis://127.0.0.1:1"}
    # When it runs, and then with each mistake that reaches a worker
    run = subprocess.run(
        [sys.executable, "-c", f"code = {text_job()!r}\n{snippet}\n{SENT}\n{MISTAKES}"],
        cwd=tmp_path,
        env={**ours, **theirs, "PATH": ""},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    # Then the message is stored, and the log says of each mistake what the page says
    (rejected,) = (
        e for e in app.results("crm", "web-1", block=5) if e.data["status"] == "rejected"
    )
    assert rejected.data["errors"][""][0] in section
    assert app.get("login-80:code:1") is not None and app.get("lost") is None
    texts = [json.loads(line) for line in worker.lines if "message refused" in line]
    assert [line["text"] for line in texts] == [
        *['message refused: not JSON: set task_serializer="json"'] * 3,
        "message refused: unknown task",
        'message refused: not JSON: set task_serializer="json"',
    ]
    assert ["task_id" in line for line in texts] == [True, True, False, True, True]
    for said in {line["text"] for line in texts}:
        assert f"`{said}`" in section
    assert "79250000001" not in worker.log


def commands(group: click.Group, name: str) -> Iterator[tuple[str, click.Command]]:
    """Every command under its whole name, those of groups too."""
    context = click.Context(group)
    for each in group.list_commands(context):
        command = group.get_command(context, each)
        assert command is not None
        yield f"{name} {each}", command
        if isinstance(command, click.Group):
            yield from commands(command, f"{name} {each}")


ALL = dict(commands(main, "courier"))


def page() -> str:
    """docs/cli.md below the mark, by the commands themselves."""
    parts = []
    for name in ALL:
        args = [*name.split()[1:], "--help"]
        said = CliRunner().invoke(main, args, prog_name="courier", terminal_width=100)
        parts.append(f"## {name}\n\n```text\n{said.output.rstrip()}\n```\n")
    return "\n" + "\n".join(parts)


def test_the_page_of_commands_is_what_they_say() -> None:
    assert (DOCS / "cli.md").read_text().split(MARK)[1] == page(), "python -m tests.test_guide"


@pytest.mark.parametrize(
    "path",
    [DOCS.parent / "README.md", *sorted(DOCS.glob("*.md")), *sorted(DOCS.glob("examples/*.md"))],
    ids=lambda path: path.name,
)
def test_every_command_that_a_page_names_is_so(path: Path) -> None:
    said = path.read_text().split(MARK)[0]
    for line in re.findall(r"(?:^|`|\| )courier ([a-z]+(?: [a-z]+)?[^`|\n]*)", said, re.M):
        words = line.split()
        assert words[0] in COMMANDS, line
        deep = 2 if words[0] in ("dead", "suppress", "campaign") else 1
        deep = 3 if words[:2] == ["webhook", "failed"] else deep
        name = " ".join(["courier", *words[:deep]])
        options = ["--help", *(opt for each in ALL[name].params for opt in each.opts)]
        assert {w for w in words if re.fullmatch("--[a-z-]+", w)} <= set(options), line


@pytest.mark.parametrize("name", [n for n, c in ALL.items() if isinstance(c, Command)])
def test_each_command_names_its_exit_codes_and_knows_json(name: str) -> None:
    command = ALL[name]
    assert isinstance(command, Command)
    assert {0, 2, 130} <= command.exits.keys() <= {0, 1, 2, 3, 4, 130}
    programs = ("consume", "console", "forward", "gateway", "webhook")
    prints_nothing = name in [f"courier {each}" for each in programs]
    assert prints_nothing or "--json" in [opt for each in command.params for opt in each.opts]
    section = page().split(f"## {name}\n")[1].split("\n## ")[0]
    for code, text in command.exits.items():
        assert re.search(rf"^ +{code} +{re.escape(text)}", section, re.M), (code, text)


if __name__ == "__main__":
    head = (DOCS / "cli.md").read_text().split(MARK)[0]
    (DOCS / "cli.md").write_text(head + MARK + page())

"""``courier consume``: what it takes, what it refuses, how it ends (more: tests/faults)."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.conftest import Courier, free_port, log_lines, text_job
from viber_courier import Producer


def test_it_calls_a_function_of_the_current_folder_until_it_is_told_to_end(
    courier: Courier, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    handler = "def handle(events):\n    print(*[event.subject for event in events], flush=True)\n"
    (tmp_path / "shop_results.py").write_text(handler)
    monkeypatch.chdir(tmp_path)
    producer = Producer.from_env(courier.env)
    for id, source in (("a", "shop"), ("b", "crm"), ("c", "shop")):
        producer.enqueue(text_job(id=id, source=source))
        producer.cancel(id)
    producer.close()
    process = courier.start(
        *("consume", "shop_results:handle", "--group", "crm", "--source", "shop", "--batch", "50")
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "a c\n"
    process.terminate()
    assert process.communicate(timeout=20)[0] == ""
    assert process.returncode == 0


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["shop"], "must be MODULE:FUNCTION, such as shop.results:handle"),
        (["no_such.module:handle"], "there is no module no_such"),
        (["json:no_such"], "json has no function no_such that isn't async"),
        (["json:__doc__"], "json has no function __doc__ that isn't async"),
        (["asyncio:sleep"], "asyncio has no function sleep that isn't async"),
        (["builtins:print", "--group", ""], "--group must not be empty"),
        (["builtins:print", "--source", "a b"], "must be 1 to 32 of A-Za-z0-9_.-"),
        (["builtins:print", "--on-poison", "json:no"], "json has no function no"),
    ],
)
def test_what_is_wrong_is_said_before_it_reads(
    courier: Courier, options: list[str], said: str
) -> None:
    assert said in courier("consume", "--group", "crm", *options, code=2).stderr


def test_redis_that_refuses_ends_it_and_one_that_is_away_is_waited_for(
    courier: Courier, tmp_path: Path
) -> None:
    wrong = courier.env["COURIER_REDIS_URL"].replace("//", "//nobody:wrong@")
    ended = courier("consume", "builtins:print", "--group", "crm", code=3, COURIER_REDIS_URL=wrong)
    assert "wrong user name or password" in ended.stderr
    courier.env["COURIER_REDIS_URL"] = f"redis://127.0.0.1:{free_port()}"
    process = courier.start("consume", "builtins:print", "--group", "crm")
    assert process.stderr is not None
    line = process.stderr.readline()
    assert log_lines(line, "results not readable", level="WARNING")
    process.terminate()
    process.communicate(timeout=20)
    assert process.returncode == 0

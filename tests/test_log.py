"""What a log line shows: the constant text, our data beside it, and nothing of Celery's."""

from __future__ import annotations

import io
import json
import logging
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import redis
from redis.exceptions import NoScriptError, OutOfMemoryError

from tests.conftest import Start, ends, log_lines, text_job, wait_for
from viber_courier import Producer
from viber_courier.worker.log import REPEAT_SECONDS, set_up


class Terminal(io.StringIO):
    """What a person reads."""

    def isatty(self) -> bool:
        return True


def written(stream: io.StringIO) -> Iterator[io.StringIO]:
    handler = logging.StreamHandler(stream)
    handler.setFormatter(logging.Formatter("%(levelname)s %(message)s"))
    loggers = [
        logging.getLogger(f"{name}.test")
        for name in ("viber_courier.worker.send", "celery.app.trace")
    ]
    for logger in loggers:
        logger.handlers, logger.propagate = [handler], False
        set_up(logger)  # twice for the handler: once must be enough
    yield stream
    for logger in loggers:
        logger.handlers, logger.propagate = [], True


@pytest.fixture
def terminal() -> Iterator[io.StringIO]:
    yield from written(Terminal())


@pytest.fixture
def file() -> Iterator[io.StringIO]:
    yield from written(io.StringIO())


def fail(**more: Any) -> None:
    try:
        raise KeyError("x")
    except KeyError:
        logging.getLogger("viber_courier.worker.send.test").exception("failed", extra=more)


# --- on a terminal --------------------------------------------------------------------------------


def test_our_lines_show_their_data(terminal: io.StringIO) -> None:
    more = {"reason": "error-auth", "what": "send", "messages": 3}
    logging.getLogger("viber_courier.worker.send.test").error("paused", extra=more)
    assert terminal.getvalue() == "ERROR paused messages=3 reason=error-auth what=send\n"


def test_a_value_stays_in_its_line(terminal: io.StringIO) -> None:
    logging.getLogger("viber_courier.worker.send.test").error(
        "odd", extra={"code": "error-x\nERROR paused"}
    )
    assert terminal.getvalue() == "ERROR odd code='error-x\\nERROR paused'\n"


def test_celerys_own_data_is_not_shown(terminal: io.StringIO) -> None:
    extra = {"data": {"args": "79250000001"}}
    logging.getLogger("celery.app.trace.test").warning("Task received", extra=extra)
    assert terminal.getvalue() == "WARNING Task received\n"


def test_a_traceback_comes_after_the_data(terminal: io.StringIO) -> None:
    fail(message_id="m")
    first, second, *_ = terminal.getvalue().splitlines()
    assert first == "ERROR failed message_id=m" and second.startswith("Traceback")


# --- elsewhere ------------------------------------------------------------------------------------


def test_elsewhere_a_line_is_an_object(file: io.StringIO) -> None:
    more = {"reason": "odd\n\udc80 'Код'", "messages": 3, "seconds": 0.21, "text": "not this"}
    logging.getLogger("viber_courier.worker.send.test").error("paused", extra=more)
    (line,) = file.getvalue().splitlines()
    found = json.loads(line)
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}\+00:00", found.pop("time"))
    assert isinstance(found.pop("process"), int)
    assert found == {
        "level": "ERROR",
        "logger": "viber_courier.worker.send.test",
        "text": "paused",
        "reason": "odd\n\udc80 'Код'",
        "messages": 3,
        "seconds": 0.21,
    }
    assert [*json.loads(line)][:5] == ["time", "level", "logger", "process", "text"]
    assert line.isascii()


@pytest.mark.parametrize("error", [NoScriptError("No matching script"), OutOfMemoryError("OOM")])
def test_what_redis_cannot_do_now_has_no_traceback(file: io.StringIO, error: Exception) -> None:
    # As kombu writes it when its scripts have been flushed just after it loaded them
    try:
        raise error
    except redis.ResponseError:
        logging.getLogger("celery.app.trace.test").warning("will retry", exc_info=True)
    found = json.loads(file.getvalue())
    assert (found["error"], "exception" in found) == (type(error).__name__, False)


def test_celerys_own_data_is_in_no_object(file: io.StringIO) -> None:
    extra = {"data": {"args": "79250000001"}}
    logging.getLogger("celery.app.trace.test").warning("Task %s", "received", extra=extra)
    found = json.loads(file.getvalue())
    assert found["text"] == "Task received" and "7925000" not in file.getvalue()


def test_the_same_failure_is_written_once_a_minute(file: io.StringIO) -> None:
    logger = logging.getLogger("viber_courier.worker.send.test")
    for error in ("ConnectionError", "ConnectionError", "TimeoutError", "ConnectionError"):
        logger.warning("no sweep", extra={"error": error})
    logger.warning("doorbell not rung", extra={"error": "ConnectionError"})
    for _ in range(2):
        logger.warning("paused", extra={"reason": "connection refused"})  # no failure's line
    found = [json.loads(line) for line in file.getvalue().splitlines()]
    assert [(line["text"], line.get("error")) for line in found] == [
        ("no sweep", "ConnectionError"),
        ("no sweep", "TimeoutError"),
        ("doorbell not rung", "ConnectionError"),
        ("paused", None),
        ("paused", None),
    ]
    later = logger.makeRecord(logger.name, logging.WARNING, "", 0, "no sweep", (), None)
    later.error, later.created = "TimeoutError", later.created + REPEAT_SECONDS  # type: ignore[attr-defined]
    logger.handle(later)
    assert len(file.getvalue().splitlines()) == 6


def test_a_traceback_is_a_field(file: io.StringIO) -> None:
    fail(message_id="m")
    found = json.loads(file.getvalue())
    assert found["message_id"] == "m"
    assert found["exception"].startswith("Traceback") and "KeyError: 'x'" in found["exception"]


BROKEN = """
import os, sys
os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # what Celery has to say to people
import viber_courier.worker.celery
from viber_courier.worker.send import Sender
real = Sender.serve
def serve(self, lane):
    print("said to nobody")
    if lane == "low":
        raise KeyError("a bug")
    return real(self, lane)
Sender.serve = serve
from celery.__main__ import main
sys.argv[0] = "celery"
main()
"""


@pytest.mark.slow
def test_each_line_of_a_real_worker_is_an_object(
    app: Producer, start_worker: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Given a worker that logs all that it can, stumbles over a bug, prints, and has a beat in it
    (tmp_path / "broken.py").write_text(BROKEN)
    command = (sys.executable, str(tmp_path / "broken.py"), "-A", "viber_courier.worker", "worker")
    worker = start_worker("-l", "DEBUG", command=command)
    # When it sends, fails and ends
    app.enqueue(text_job("79250000001"))
    app.enqueue(text_job("79250000002", priority="low"))
    has: Callable[[str], bool] = lambda text: text in worker.log  # noqa: E731
    wait_for(lambda: has("a bug") and has('"request sent"') and has("statuses asked"))
    ends(app, 1)
    worker.stop()
    # Then each line is an object, Celery's too, and says nothing of persons
    lines = [json.loads(line) for line in worker.lines]
    assert all({"time", "level", "logger", "process", "text"} <= line.keys() for line in lines)
    names = {line["logger"].partition(".")[0] for line in lines}
    assert {"celery", "viber_courier", "kombu"} <= names
    sent = next(line for line in lines if line["text"] == "request sent")
    assert (sent["messages"], sent["accepted"]) == (1, 1)
    assert sent["bytes"] > 100 and 0 < sent["seconds"] < 5
    failed = next(line for line in lines if "exception" in line)
    assert failed["exception"].startswith("Traceback") and "a bug" in failed["exception"]
    assert any(line["text"] == "said to nobody" for line in lines)
    assert "7925000" not in worker.log and "1234" not in worker.log
    assert log_lines(worker.log, "request sent", messages=1)

"""What a log line shows: the constant text, our data beside it, and nothing of Celery's."""

from __future__ import annotations

import io
import logging

import pytest

from worker.log import show_data


@pytest.fixture
def written() -> io.StringIO:
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(logging.Formatter("%(levelname)s %(message)s"))
    for name in ("worker.send", "celery.app.trace"):
        logger = logging.getLogger(f"{name}.test")
        logger.handlers, logger.propagate = [handler], False
    show_data(logger)
    return stream


def test_our_lines_show_their_data(written: io.StringIO) -> None:
    more = {"reason": "error-auth", "what": "send", "messages": 3}
    logging.getLogger("worker.send.test").error("paused", extra=more)
    assert written.getvalue() == "ERROR paused messages=3 reason=error-auth what=send\n"


def test_a_value_stays_in_its_line(written: io.StringIO) -> None:
    logging.getLogger("worker.send.test").error("odd", extra={"code": "error-x\nERROR paused"})
    assert written.getvalue() == "ERROR odd code='error-x\\nERROR paused'\n"


def test_celerys_own_data_is_not_shown(written: io.StringIO) -> None:
    extra = {"data": {"args": "79250000001"}}
    logging.getLogger("celery.app.trace.test").warning("Task received", extra=extra)
    assert written.getvalue() == "WARNING Task received\n"


def test_a_traceback_comes_after_the_data(written: io.StringIO) -> None:
    try:
        raise KeyError("x")
    except KeyError:
        logging.getLogger("worker.send.test").exception("failed", extra={"message_id": "m"})
    first, second, *_ = written.getvalue().splitlines()
    assert first == "ERROR failed message_id=m" and second.startswith("Traceback")

"""Formats log lines: text in a terminal, elsewhere one JSON object a line.

The text of our lines is constant. Their data, ids and figures only, is in ``extra``, which Celery's
own formats leave out.
"""

import json
import logging
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import redis
from redis.exceptions import NoScriptError, OutOfMemoryError

from viber_courier.store.refusals import refusal

OURS = "viber_courier"
"""The logger whose ``extra`` is printed. That of Celery's loggers may hold jobs."""
REPEAT_SECONDS = 60.0
"""Seconds for which a process does not repeat a line about the same failure."""
_NOT_NOW = (redis.ConnectionError, redis.TimeoutError, OutOfMemoryError, NoScriptError)
"""What passes by itself. A script may be flushed just after it was loaded."""
_USUAL = frozenset({*vars(logging.makeLogRecord({})), "message", "asctime"})


def data(record: logging.LogRecord) -> dict[str, Any]:
    """Returns the data of a line of our own; of any other line, nothing."""
    if record.name.partition(".")[0] != OURS:
        return {}
    return {name: value for name, value in sorted(vars(record).items()) if name not in _USUAL}


def plain_error(record: logging.LogRecord) -> str:
    """Returns what Redis refuses, or cannot do now, without a traceback; "" for other errors.

    What Celery's own loggers say of Redis is about the broker.
    """
    error = record.exc_info[1] if record.exc_info else None
    if why := refusal(error):
        return f"COURIER_{'REDIS' if record.name.startswith(OURS) else 'BROKER'}_URL: {why}"
    return type(error).__name__ if isinstance(error, _NOT_NOW) else ""


def _text(record: logging.LogRecord, why: str) -> str:
    """Returns a line's text; ``why`` stands for the error in it, which may quote a command."""
    if why and isinstance(given := record.args, tuple):
        record = logging.makeLogRecord(vars(record))
        record.args = tuple(type(a).__name__ if isinstance(a, Exception) else a for a in given)
    return record.getMessage()


class ForPeople(logging.Formatter):
    """Appends ``name=value`` for each of our data to a handler's own format."""

    def __init__(self, inner: logging.Formatter) -> None:
        super().__init__()
        self._inner, self._message = inner, inner.formatMessage
        inner.formatMessage = self.formatMessage  # type: ignore[method-assign]

    def format(self, record: logging.LogRecord) -> str:
        """Returns the line in the handler's format; a traceback follows the data."""
        if why := plain_error(record):
            record = logging.makeLogRecord({**vars(record), "exc_info": None, "exc_text": None})
            record.msg, record.args = f"{_text(record, why)}: {why}", ()
        return self._inner.format(record)

    def formatMessage(self, record: logging.LogRecord) -> str:
        """Returns text and data; escapes what can't be printed, such as line ends."""
        texts = {name: str(value) for name, value in data(record).items()}
        plain = {name: v if v.isprintable() else ascii(v) for name, v in texts.items()}
        return self._message(record) + "".join(f" {name}={v}" for name, v in plain.items())


class JsonLines(logging.Formatter):
    """Formats a line as a JSON object: text, our data, a traceback as ``exception``."""

    def format(self, record: logging.LogRecord) -> str:
        """Returns the object in ASCII, so that no locale can break it."""
        line = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "logger": record.name,
            "process": record.process,
            "text": _text(record, why := plain_error(record)),
        }
        line = {**line, **data(record), **line}  # these five come first and can't be replaced
        if why:
            line["error"] = why
        elif record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        if record.stack_info:
            line["stack"] = record.stack_info
        return json.dumps(line, default=str)


def seldom() -> Callable[[logging.LogRecord], bool]:
    """Returns a filter that drops a line whose ``error`` repeats: one a minute is enough."""
    latest: dict[tuple[str, str, str], float] = {}

    def is_new(record: logging.LogRecord) -> bool:
        key = (record.name, record.msg, str(getattr(record, "error", "")))
        new = not key[2] or record.created - latest.get(key, 0.0) >= REPEAT_SECONDS
        latest.update({key: record.created} if key[2] and new else {})
        return new

    return is_new


def set_up(logger: logging.Logger) -> None:
    """Sets the formatter of each of the logger's handlers; a repeated call changes nothing."""
    for handler in logger.handlers:
        stream = getattr(handler, "stream", None)
        if stream is None or isinstance(handler.formatter, ForPeople | JsonLines):
            continue
        handler.addFilter(seldom())
        known = handler.formatter or logging.Formatter()
        handler.setFormatter(ForPeople(known) if stream.isatty() else JsonLines())

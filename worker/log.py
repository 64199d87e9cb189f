"""How log lines look: for people on a terminal, everywhere else one JSON object each.

Celery's formats print a line's text alone, which in ours is constant: what it is about is in
``extra``, ids and figures only.
"""

import json
import logging
from datetime import UTC, datetime
from typing import Any

OURS = "viber_courier"
"""The logger whose ``extra`` is texts. Celery's has the arguments of tasks in it: jobs."""
_USUAL = frozenset({*vars(logging.makeLogRecord({})), "message", "asctime"})


def data(record: logging.LogRecord) -> dict[str, Any]:
    """What one of our own lines is about; of anybody else's, nothing."""
    if record.name.partition(".")[0] != OURS:
        return {}
    return {name: value for name, value in sorted(vars(record).items()) if name not in _USUAL}


class ForPeople(logging.Formatter):
    """A handler's own format with ``name=value`` after the text for each of our data."""

    def __init__(self, inner: logging.Formatter) -> None:
        super().__init__()
        self._inner, self._message = inner, inner.formatMessage
        inner.formatMessage = self.formatMessage  # type: ignore[method-assign]

    def format(self, record: logging.LogRecord) -> str:
        """As the handler had it: a traceback comes after the data."""
        return self._inner.format(record)

    def formatMessage(self, record: logging.LogRecord) -> str:
        """The text and the data; what can't be printed keeps to its line."""
        texts = {name: str(value) for name, value in data(record).items()}
        plain = {name: v if v.isprintable() else ascii(v) for name, v in texts.items()}
        return self._message(record) + "".join(f" {name}={v}" for name, v in plain.items())


class JsonLines(logging.Formatter):
    """One object a line: our data beside the text, a traceback as ``exception``."""

    def format(self, record: logging.LogRecord) -> str:
        """ASCII only, so that no locale can break it."""
        line = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "logger": record.name,
            "process": record.process,
            "text": record.getMessage(),
        }
        line = {**line, **data(record), **line}  # these five first, and as they are
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        if record.stack_info:
            line["stack"] = record.stack_info
        return json.dumps(line, default=str)


def set_up(logger: logging.Logger) -> None:
    """Give each of the logger's handlers the form for where it writes; a repeat changes nothing."""
    for handler in logger.handlers:
        stream = getattr(handler, "stream", None)
        if stream is None or isinstance(handler.formatter, ForPeople | JsonLines):
            continue
        known = handler.formatter or logging.Formatter()
        handler.setFormatter(ForPeople(known) if stream.isatty() else JsonLines())

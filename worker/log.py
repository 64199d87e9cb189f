"""Our log lines with their data: Celery's format prints the text alone, which is constant."""

from __future__ import annotations

import logging
from collections.abc import Callable

OURS = ("worker", "producers")
"""Loggers whose ``extra`` is shown. Celery's own has the arguments of tasks in it: jobs."""
_USUAL = frozenset({*vars(logging.makeLogRecord({})), "message", "asctime"})


def with_data(text: str, record: logging.LogRecord) -> str:
    """The text and, of our own records, ``name=value`` for each value given as ``extra``."""
    if record.name.partition(".")[0] not in OURS:
        return text
    data = {name: str(value) for name, value in vars(record).items() if name not in _USUAL}
    shown = {name: value if value.isprintable() else ascii(value) for name, value in data.items()}
    return text + "".join(f" {name}={value}" for name, value in sorted(shown.items()))


def show_data(logger: logging.Logger) -> None:
    """Let the logger's handlers show it, in the format that they have."""
    for handler in logger.handlers:
        if handler.formatter is not None:
            handler.formatter.formatMessage = _wrapped(  # type: ignore[assignment, method-assign]
                handler.formatter.formatMessage
            )


def _wrapped(inner: Callable[[logging.LogRecord], str]) -> Callable[[logging.LogRecord], str]:
    return lambda record: with_data(inner(record), record)

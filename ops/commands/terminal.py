"""What all commands share: how they print, fail and end."""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TextIO

import click
import redis
from rich.console import Console
from rich.table import Table
from rich.text import Text

from viber_courier.schemas.errors import ConfigError, CourierError, InvalidMessage, QueueFull
from viber_courier.store.connection import StoreUnavailable, is_transient

PARTLY, WRONG, UNAVAILABLE, INTERRUPTED = 1, 2, 3, 130
"""Exit codes: some of it not done, wrong usage or settings, Redis away, Ctrl-C."""


class Failure(click.ClickException):
    """One line on stderr, and an exit code."""

    def __init__(self, text: str, code: int = PARTLY) -> None:
        super().__init__(text)
        self.exit_code = code  # type: ignore[misc]


class Command(click.Command):
    """A command that names its exit codes, and whose errors are lines that say what to do."""

    exits: Mapping[int, str]

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Exit codes"):
            formatter.write_dl([(str(code), text) for code, text in self.exits.items()])

    def invoke(self, ctx: click.Context) -> Any:
        arguments = (ctx.params[str(p.name)] for p in self.params if isinstance(p, click.Argument))
        if any(value == "" or (isinstance(value, tuple) and "" in value) for value in arguments):
            raise click.UsageError("an argument is empty", ctx)
        try:
            return super().invoke(ctx)
        except (CourierError, redis.RedisError) as error:
            raise failure(error) from None
        except BrokenPipeError:
            raise  # whoever read it has seen enough
        except UnicodeEncodeError as error:
            text = f"an argument is no UTF-8, or the output can't show all signs: {error.encoding}"
            raise Failure(text, WRONG) from None
        except OSError as error:
            raise Failure(f"what was asked may be done, but: {error.strerror}") from None


def command(
    name: str | None = None,
    done: str = "done",
    partly: str = "",
    wrong: str = "wrong usage or settings",
    away: str = "Redis can't be used",
    stopped: str = "interrupted (Ctrl-C)",
) -> Callable[[Callable[..., Any]], Command]:
    """A decorator: ``click.command`` with what each exit code means (``partly`` "": never)."""
    exits = {0: done, PARTLY: partly, WRONG: wrong, UNAVAILABLE: away, INTERRUPTED: stopped}

    def decorate(function: Callable[..., Any]) -> Command:
        made = click.command(name, cls=Command)(function)
        made.exits = {code: text for code, text in exits.items() if text}
        return made

    return decorate


def failure(error: CourierError | redis.RedisError) -> Failure:
    """The error as a line for an operator: what is wrong, what to do, no secret, no traceback."""
    if isinstance(error, ConfigError):
        return Failure("; ".join(f"{name} {fault}" for name, fault in error.faults.items()), WRONG)
    if isinstance(error, InvalidMessage):
        faults = (f"{path or 'the job'} {' '.join(t)}" for path, t in sorted(error.errors.items()))
        return Failure("nothing was stored: " + "; ".join(faults))
    if isinstance(error, QueueFull):
        return Failure(f"{error}. Wait until workers have sent some, or raise it.", UNAVAILABLE)
    if not isinstance(error, redis.RedisError):
        return Failure(str(error))
    away = isinstance(error, StoreUnavailable)
    text = str(error) if away else f"Redis can't be used now: {type(error).__name__}"
    cause = error.__cause__ if away else error
    advice = (
        "the server and COURIER_REDIS_URL" if is_transient(cause) else "what the server refuses"
    )
    return Failure(f"{text}. Look at {advice}; `courier doctor` may tell more.", UNAVAILABLE)


json_option = click.option("--json", "as_json", is_flag=True, help="JSON on stdout, nothing else.")
reveal_option = click.option("--reveal", is_flag=True, help="Show phone number and texts, too.")


def emit(value: object) -> None:
    """One JSON document, on one line."""
    click.echo(json.dumps(value, ensure_ascii=False))


def is_terminal(stream: TextIO | None) -> bool:
    """Whether somebody looks; None: it was closed before we began."""
    return stream is not None and stream.isatty()


def console() -> Console:
    """Stdout; where that is no terminal nothing is cut to a terminal's width."""
    narrow = is_terminal(sys.stdout) or "COLUMNS" in os.environ
    return Console(highlight=False, width=None if narrow else 160)


def plain(value: object, style: str = "") -> Text:
    """Somebody else's words: no markup, and nothing that steers a terminal."""
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return Text(text if text.isprintable() else ascii(text)[1:-1], style, overflow="fold")


def grid(rows: Iterable[Sequence[object]], *header: str) -> Table:
    """Rows in columns; a name that begins with ">" is that of figures."""
    table = Table(box=None, pad_edge=False, show_header=bool(header))
    for name in header:
        table.add_column(name.lstrip(">"), justify="right" if name[:1] == ">" else "left")
    for row in rows:
        table.add_row(*(cell if isinstance(cell, Text) else plain(cell) for cell in row))
    return table


class Duration(click.ParamType):  # type: ignore[type-arg]
    """Seconds, or with a unit: 90, 90s, 15m, 2h, 1d."""

    name = "duration"

    def convert(self, value: Any, param: Any, ctx: Any) -> float:
        found = re.fullmatch(r"([0-9]{1,7}(?:\.[0-9]+)?)([smhd]?)", str(value))
        units = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86400}
        seconds = float(found[1]) * units[found[2]] if found else 0
        if not 0.001 <= seconds <= 366 * 86400:
            self.fail("must be as 90, 90s, 15m, 2h or 1d, above 0 and at most 366d", param, ctx)
        return seconds

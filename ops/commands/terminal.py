"""What all commands share: output, errors and exit codes."""

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
from viber_courier.store.refusals import refusal

PARTLY, WRONG, UNAVAILABLE, GONE, INTERRUPTED = 1, 2, 3, 4, 130
"""Exit codes: partly done, wrong usage or settings, Redis unavailable, endpoint gone, Ctrl-C."""


class Failure(click.ClickException):
    """Ends the command with one line on stderr and an exit code."""

    def __init__(self, text: str, code: int = PARTLY) -> None:
        super().__init__(text)
        self.exit_code = code  # type: ignore[misc]


class Command(click.Command):
    """A command that lists its exit codes in --help and reports each error in one line."""

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
            raise  # the reader of our output has closed it, as `head` does
        except UnicodeEncodeError as error:
            text = f"an argument is not UTF-8, or {error.encoding} can't encode the output"
            raise Failure(text, WRONG) from None
        except OSError as error:
            raise Failure(f"the command may have taken effect, but: {error.strerror}") from None


class Group(Command, click.Group):
    """A command that has commands of its own."""


def command(
    name: str | None = None,
    done: str = "done",
    partly: str = "",
    wrong: str = "wrong usage or settings",
    away: str = "Redis can't be used",
    stopped: str = "interrupted (Ctrl-C)",
    gone: str = "",
    cls: Any = Command,
    **more: Any,
) -> Callable[[Callable[..., Any]], Command]:
    """Returns ``click.command`` with the meaning of each exit code; "" for one it never has.

    ``more``: arguments of click's.
    """
    exits = {0: done, PARTLY: partly, WRONG: wrong, UNAVAILABLE: away, GONE: gone}
    exits[INTERRUPTED] = stopped
    context = {"show_default": True, **more.pop("context_settings", {})}

    def decorate(function: Callable[..., Any]) -> Command:
        make: Any = click.command
        made: Command = make(name, cls, context_settings=context, **more)(function)
        made.exits = {code: text for code, text in exits.items() if text}
        return made

    return decorate


def failure(error: CourierError | redis.RedisError) -> Failure:
    """Returns the error as one line that says what is wrong and what to do, without secrets."""
    if isinstance(error, ConfigError):
        return Failure("; ".join(f"{name} {fault}" for name, fault in error.faults.items()), WRONG)
    if isinstance(error, InvalidMessage):
        faults = (f"{path or 'the job'} {' '.join(t)}" for path, t in sorted(error.errors.items()))
        return Failure("nothing was stored: " + "; ".join(faults))
    if isinstance(error, QueueFull):
        return Failure(
            f"{error}. Wait until workers have sent some, or raise the limit.", UNAVAILABLE
        )
    if not isinstance(error, redis.RedisError):
        return Failure(str(error))
    if why := refusal(error):
        return Failure(f"Redis refuses (COURIER_REDIS_URL): {why}", UNAVAILABLE)
    ours = isinstance(error, StoreUnavailable)
    text = str(error) if ours else f"Redis can't be used now: {type(error).__name__}"
    cause = error.__cause__ if ours else error
    subject = (
        "the server and COURIER_REDIS_URL" if is_transient(cause) else "why the server refuses it"
    )
    return Failure(f"{text}. Check {subject}; `courier doctor` may tell more.", UNAVAILABLE)


json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON only.")
reveal_option = click.option("--reveal", is_flag=True, help="Also show the phone number and texts.")

yes_option = click.option("--yes", "agreed", is_flag=True, help="Don't ask for confirmation.")


def confirm(agreed: bool, question: Callable[[], str]) -> None:
    """Asks before what can't be undone, on a terminal only. Raises Failure unless one agrees."""
    if agreed or not is_terminal(sys.stdin):
        return
    click.echo(f"{question()} [y/N] ", nl=False, err=True)
    if sys.stdin.readline().strip().lower() not in ("y", "yes"):
        raise Failure("not confirmed: nothing was changed")


def emit(value: object) -> None:
    """Prints one JSON document on one line."""
    click.echo(json.dumps(value, ensure_ascii=False))


def is_terminal(stream: TextIO | None) -> bool:
    """Whether a person reads the stream. None: it was closed before the program started."""
    return stream is not None and stream.isatty()


def console() -> Console:
    """Returns stdout for rich. Lines are cut to the terminal's width only in a terminal."""
    narrow = is_terminal(sys.stdout) or "COLUMNS" in os.environ
    return Console(highlight=False, width=None if narrow else 160)


def plain(value: object, style: str = "") -> Text:
    """Returns a value that others wrote as text without markup and control characters."""
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return Text(text if text.isprintable() else ascii(text)[1:-1], style, overflow="fold")


def grid(rows: Iterable[Sequence[object]], *header: str) -> Table:
    """Returns a table. A column whose name begins with ">" is aligned to the right."""
    table = Table(box=None, pad_edge=False, show_header=bool(header))
    for name in header:
        table.add_column(name.lstrip(">"), justify="right" if name[:1] == ">" else "left")
    for row in rows:
        table.add_row(*(cell if isinstance(cell, Text) else plain(cell) for cell in row))
    return table


class Duration(click.ParamType):  # type: ignore[type-arg]
    """Seconds, or a number with a unit: 90, 90s, 15m, 2h, 1d."""

    name = "duration"

    def convert(self, value: Any, param: Any, ctx: Any) -> float:
        found = re.fullmatch(r"([0-9]{1,7}(?:\.[0-9]+)?)([smhd]?)", str(value))
        units = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86400}
        seconds = float(found[1]) * units[found[2]] if found else 0
        if not 0.001 <= seconds <= 366 * 86400:
            self.fail("must look like 90, 90s, 15m, 2h or 1d: above 0, at most 366d", param, ctx)
        return seconds

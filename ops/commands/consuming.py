"""``courier consume``: gives result events to an app's function, as a program of its own."""

from __future__ import annotations

import logging
import sys
from importlib import import_module
from inspect import iscoroutinefunction
from typing import Any

import click

from viber_courier import Producer
from viber_courier import consume as run
from viber_courier.ops.commands.terminal import command
from viber_courier.schemas.fields import SOURCE
from viber_courier.worker.log import set_up


class Function(click.ParamType):  # type: ignore[type-arg]
    """``module:function``; modules of the current folder are found, too."""

    name = "module:function"

    def convert(self, value: Any, param: Any, ctx: Any) -> Any:
        module, _, function = str(value).partition(":")
        if not module or not function:
            self.fail("must be MODULE:FUNCTION, such as shop.results:handle", param, ctx)
        if "" not in sys.path:
            sys.path.insert(0, "")
        try:
            found = getattr(import_module(module), function, None)
        except ModuleNotFoundError as missing:
            if not f"{module}.".startswith(f"{missing.name}."):
                raise  # one that the app's module imports: its traceback tells
            self.fail(f"there is no module {missing.name}", param, ctx)
        if not callable(found) or iscoroutinefunction(found):
            self.fail(f"{module} has no function {function} that isn't async", param, ctx)
        return found


def require_source(ctx: Any, param: Any, text: str) -> str:
    """Returns the option's text if a source may be called so."""
    if text and not SOURCE.fullmatch(text):
        raise click.BadParameter("must be 1 to 32 of A-Za-z0-9_.-")
    return text


@command(
    done="ended by SIGTERM or Ctrl-C",
    away="Redis refuses the first read",
    stopped="interrupted before it began",
)
@click.argument("handler", type=Function(), metavar="MODULE:FUNCTION")
@click.option("--group", required=True, help="The consumer group: each gets every event.")
@click.option(
    "--source", default="", callback=require_source, help="Only events of this app's messages."
)
@click.option("--batch", type=click.IntRange(1, 10_000), default=500, help="Most events at once.")
@click.option("--start", type=click.Choice(["oldest", "new"]), default="oldest")
@click.option("--consumer", default="", help="A name that a restart keeps. [default: a new one]")
@click.option("--attempts", type=click.IntRange(1), default=5, help="Tries of an event alone.")
@click.option("--on-poison", type=Function(), help="Gets an event that failed so often.")
def consume(handler: Any, group: str, **options: Any) -> None:
    """Call a function with lists of result events, until SIGTERM or Ctrl-C.

    The function gets up to --batch events, in order, and they are acknowledged when it has
    returned. If it raises, each event is tried again alone, with backoff. After --attempts
    failures it is given to --on-poison(event, error), or stays unacknowledged and comes again
    after a minute. Restarts and outages of Redis lose nothing; an event may come twice
    (docs/guide.md#results).

    The first signal ends the command after the events in hand. --start is where a new group
    starts. With a --consumer of its own, a process that was killed gets its events back at once,
    without one another process takes them over after a minute.
    """
    if not group:  # an unset shell variable
        raise click.UsageError("--group must not be empty")
    logging.basicConfig(level=logging.INFO)
    set_up(logging.getLogger())
    producer = Producer.from_env()
    run(producer, group, handler, **options)
    producer.close()

"""``courier campaign``: watches, pauses, resumes, cancels and reports campaigns."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import click

from viber_courier import Campaign, Producer, Progress
from viber_courier.ops.commands import terminal
from viber_courier.ops.commands.bulk import PATH, reading
from viber_courier.ops.commands.looking import event_fields
from viber_courier.ops.commands.terminal import (
    WRONG,
    Failure,
    command,
    confirm,
    emit,
    grid,
    json_option,
    plain,
    yes_option,
)
from viber_courier.ops.console.actions import Actions, of_operator
from viber_courier.ops.console.campaigns import report_lines
from viber_courier.ops.lists.files import NotAList
from viber_courier.ops.lists.outcomes import COLUMNS, ends_of, outcomes
from viber_courier.ops.lists.storing import Ids, ListFile
from viber_courier.ops.lists.tables import Reading, Table

UNKNOWN = "no campaign has this name, or it is too long over (COURIER_RETENTION)"
NUMBERS = ("added", "waiting", "inside", "ended")


@click.group()
def campaign() -> None:
    """Watch, pause, resume, cancel and report campaigns.

    See docs/guide.md. courier bulk adds to a campaign.
    """


def _stored(name: str) -> tuple[Campaign, Progress]:
    try:
        found = Producer.from_env().campaign(name)
    except ValueError as error:
        raise Failure(str(error), WRONG) from None
    progress = found.progress()
    if progress.state == "unknown":
        like = get_close_matches(name, [each.name for each in Producer.from_env().campaigns()])
        asks = f": did you mean {' or '.join(map(repr, like))}?" if like else ""
        raise Failure(f"{UNKNOWN}{asks} `courier campaign list` shows all that there are")
    return found, progress


@command("list")
@json_option
def list_(as_json: bool) -> None:
    """List campaigns, the newest first; each until COURIER_RETENTION after its end."""
    found = Producer.from_env().campaigns()
    if as_json:
        return emit([event_fields(each) for each in found])
    rows = [(p.name, p.state, *(f"{getattr(p, n):,}" for n in NUMBERS), _left(p)) for p in found]
    terminal.console().print(
        grid(rows, "campaign", "state", *(f">{n}" for n in NUMBERS), ">time left")
    )


@command(partly=UNKNOWN)
@click.argument("name")
@json_option
def show(name: str, as_json: bool) -> None:
    """Show how far a campaign has come."""
    _print(_stored(name)[1], as_json)


@command(partly=UNKNOWN + ", or it is cancelled")
@click.argument("name")
@click.argument("reason", default="by hand")
@json_option
def pause(name: str, reason: str, as_json: bool) -> None:
    """Stop sending a campaign's messages; its apps can keep adding, and its messages expire.

    Others see the REASON. After this command nothing leaves but what is inside a request then.
    """
    _act(name, as_json, lambda actions: actions.pause_campaign(name, reason))


@command(partly=UNKNOWN + ", or it is cancelled")
@click.argument("name")
@json_option
def resume(name: str, as_json: bool) -> None:
    """Go on sending a paused campaign."""
    _act(name, as_json, lambda actions: actions.resume_campaign(name))


@command(partly=UNKNOWN + ", or you did not confirm")
@click.argument("name")
@yes_option
@json_option
def cancel(name: str, agreed: bool, as_json: bool) -> None:
    """End all messages of a campaign that have not left yet, for good.

    Asks for confirmation on a terminal. Nothing can be added from then on. If the command is
    interrupted, workers end the rest, or start it again.
    """
    progress = _stored(name)[1]
    waiting = progress.waiting - progress.inside
    confirm(agreed, lambda: f"End {waiting:,} waiting messages of campaign {name} for good?")
    _act(name, as_json, lambda actions: actions.cancel_campaign(name))


@command(partly=UNKNOWN)
@click.argument("name")
@click.option("--csv", metavar="FILE", help='"-": stdout, without totals.')
@click.option("--list", "listed", type=PATH, help="Write this list's rows, each with its end.")
@reading
@click.option("--repeat", is_flag=True, help="As courier bulk was called.")
@json_option
def report(name: str, csv: str | None, listed: Path | None, as_json: bool, **how: Any) -> None:
    """Show what became of a campaign: totals, and with --csv FILE a line for each message.

    A line has the row in the list, id, status, reason and times, and no phone number. Rows of
    several lists have the same numbers. So give the list, too, with the options that courier bulk
    had: --list LIST --csv FILE writes the list itself, in its own form, with four columns more:
    status, reason, submitted and ended. Who did not get it is then a filter away, and can be given
    to courier bulk as a list for another campaign.
    """
    if listed and csv in (None, "-"):
        raise click.UsageError("--list needs --csv FILE")
    found, progress = _stored(name)
    if listed and csv:
        _write_list(found, listed, Path(csv), **how)
    elif csv:
        try:
            with click.open_file(csv, "w", "utf-8") as file:
                file.writelines(report_lines(found.report()))
        except OSError as error:
            raise Failure(f"{csv} can't be written: {error.strerror}", WRONG) from None
    if csv != "-":
        _print(progress, as_json)


def _write_list(
    found: Campaign, listed: Path, path: Path, country: str | None, repeat: bool, **how: Any
) -> None:
    places = [path, Path(f"{path}.old")] if path.exists() else []  # what is there becomes .old
    if any(each.exists() and each.samefile(listed) for each in places):
        raise click.UsageError("--csv must be another file than --list")
    try:
        table = Table(listed, Reading(**how, template=True))
        width = max((len(row.cells) for row in table.rows()), default=0)
        ends = ends_of(found.report())
        with ExitStack() as stack:
            file = ListFile(path, table, width, COLUMNS, stack)
            for row, end in outcomes(table, country, Ids(found.name, repeat), ends, repeat):
                file.write(row, end)
            table.require_unchanged()
    except NotAList as error:
        raise Failure(str(error), WRONG) from None
    except OSError as error:
        raise Failure(f"{error.filename} can't be used: {error.strerror}", WRONG) from None


def _act(name: str, as_json: bool, act: Callable[[Actions], Progress]) -> None:
    _stored(name)
    _print(act(of_operator()), as_json)


def _print(progress: Progress, as_json: bool) -> None:
    values = event_fields(progress)
    if as_json:
        return emit(values)
    values |= {"time left": _left(progress), "secondsLeft": None, "entered": None}
    values |= {name: f"{getattr(progress, name):,}" for name in (*NUMBERS, "resent")}
    values["statuses"] = None
    shown = [(name, value) for name, value in values.items() if value is not None]
    shown += [(f"  {status}", f"{n:,}") for status, n in progress.statuses.items()]
    reasons = {name: n for name, n in progress.entered.items() if ":" in name}
    shown += [(f"  {name}", f"{n:,}") for name, n in reasons.items()]
    terminal.console().print(grid((plain(name), plain(value)) for name, value in shown))


def _left(progress: Progress) -> str:
    if progress.seconds_left is None or not progress.waiting:
        if 2 * progress.later > progress.waiting:
            return "later"
        return "-" if progress.waiting else ""
    minutes, seconds = divmod(round(progress.seconds_left), 60)
    return f"{minutes // 60}:{minutes % 60:02}:{seconds:02}"


for _each in (list_, show, pause, resume, cancel, report):
    campaign.add_command(_each)

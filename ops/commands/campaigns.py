"""``courier campaign``: watches, pauses, resumes, cancels and reports campaigns."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import TextIO

import click

from viber_courier import Campaign, Producer, Progress
from viber_courier.ops.commands import terminal
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
        raise Failure(UNKNOWN)
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
@click.option("--csv", "file", type=click.File("w", "utf-8", lazy=False), metavar="FILE")
@json_option
def report(name: str, file: TextIO | None, as_json: bool) -> None:
    """Show what became of a campaign: totals, and with --csv FILE a line for each message.

    A line has the row in the list, id, status, reason and times; "-" writes them to stdout, without
    totals. It holds no phone numbers: the row finds the recipient in the list.
    """
    found, progress = _stored(name)
    if file is not None:
        file.writelines(report_lines(found.report()))
    if file is not sys.stdout:
        _print(progress, as_json)


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
        return "-" if progress.waiting else ""
    minutes, seconds = divmod(round(progress.seconds_left), 60)
    return f"{minutes // 60}:{minutes % 60:02}:{seconds:02}"


for _each in (list_, show, pause, resume, cancel, report):
    campaign.add_command(_each)

"""Commands that change what the system does: ``pause``, ``resume``, ``cancel``, ``dead``."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import click

from viber_courier import DeadLetterError, InvalidMessage, Producer
from viber_courier.ops.commands import terminal
from viber_courier.ops.commands.looking import event_fields
from viber_courier.ops.commands.terminal import (
    PARTLY,
    Duration,
    command,
    confirm,
    emit,
    json_option,
    reveal_option,
    yes_option,
)
from viber_courier.ops.console.actions import of_operator
from viber_courier.ops.look import PAUSABLE
from viber_courier.producers.preview import mask
from viber_courier.schemas.lanes import LANES
from viber_courier.schemas.status import DEAD

lanes_argument = click.argument("lanes", nargs=-1, type=click.Choice(PAUSABLE))


@command()
@lanes_argument
@click.option("--reason", default="by hand", help="Other operators see it.")
@click.option("--for", "duration", type=Duration(), help="90s, 15m, 2h: resume by itself then.")
@json_option
def pause(lanes: tuple[str, ...], reason: str, duration: float | None, as_json: bool) -> None:
    """Pause sending in these lanes (in all four if you name none), or polling ("poll").

    Requests in progress finish as usual, apps can keep enqueueing, and messages that run out of
    time still expire.
    """
    of_operator().pause(lanes or LANES, reason, duration)
    if as_json:
        return emit({"paused": list(lanes or LANES), "reason": reason[:200], "seconds": duration})
    until = f"for {duration:g} s" if duration else "until `courier resume`"
    click.echo(f"Paused {until}: {', '.join(lanes or LANES)}")


@command()
@lanes_argument
@json_option
def resume(lanes: tuple[str, ...], as_json: bool) -> None:
    """Resume these lanes or poll; if you name none, everything that is paused."""
    resumed = of_operator().resume(lanes or PAUSABLE)
    if as_json:
        return emit({"resumed": resumed})
    click.echo(f"Resumed: {', '.join(resumed)}" if resumed else "None of these was paused.")


@command(partly="some could not be cancelled (each is named)")
@click.argument("ids", nargs=-1, required=True)
@json_option
def cancel(ids: tuple[str, ...], as_json: bool) -> None:
    """Cancel messages. A cancelled message was never sent and never will be."""
    actions = of_operator()
    outcomes = {id: actions.cancel(id) for id in ids}
    if as_json:
        emit(outcomes)
    for id, status in () if as_json else outcomes.items():
        click.echo(f"{id}  {status}" if status == "cancelled" else f"{id}  not cancelled: {status}")
    sys.exit(0 if set(outcomes.values()) <= {"cancelled"} else PARTLY)


@click.group()
def dead() -> None:
    """Manage dead letters: messages that ended failed, unconfirmed, rejected or lost.

    See docs/dead-letters.md.
    """


Filtered = Callable[..., None]


def _filters(function: Filtered) -> Filtered:
    function = click.option("--reason", help="Only with this reason.")(function)
    statuses = click.Choice(sorted(map(str, DEAD)))
    return click.option("--status", type=statuses, help="Only with this status.")(function)


def _chosen(ids: tuple[str, ...], everything: bool, status: str | None, reason: str | None) -> None:
    if bool(ids) == everything or (ids and (status or reason)):
        raise click.UsageError("name IDS, or use --all (--status and --reason narrow it)")


@command("list")
@_filters
@click.option("--most", type=click.IntRange(1), default=100, help="List at most this many.")
@json_option
def list_(status: str | None, reason: str | None, most: int, as_json: bool) -> None:
    """List dead letters, the earliest end first. With --json: one document on each line."""
    letters = Producer.from_env().dead.list(status, reason)
    for number, letter in enumerate(letters):
        if number == most:
            click.echo("There are more (--most).", err=True)
            break
        parts = (f"{letter.ended[:19]}Z", letter.id, letter.status, letter.reason or "")
        emit(event_fields(letter)) if as_json else click.echo("  ".join(parts))


@command("show", partly="not a dead letter, or its content was erased")
@click.argument("id")
@reveal_option
@json_option
def show_(id: str, reveal: bool, as_json: bool) -> None:
    """Show the job of a dead letter as the app enqueued it; texts only with --reveal."""
    actions = of_operator()
    if reveal:
        actions.record("reveal", id)
    job = actions.producer.dead.job(id)
    if not reveal:
        hidden: dict[str, Any] = {
            name: "***" for name in ("content", "smsText", "comment") if name in job
        }
        job = {**job, **hidden, "address": mask(job["address"])}
    if as_json:
        return emit(job)
    terminal.console().print(terminal.grid(job.items()))


@command(
    partly="some were not resent (each is named)",
    away="Redis can't be used, or the queue is full: repeat the command, it resends nothing twice",
)
@click.argument("ids", nargs=-1)
@click.option("--all", "everything", is_flag=True, help="All that are on the list now.")
@_filters
@click.option("--rate", type=click.FloatRange(0.01), default=10.0, help="Messages a second.")
@click.option("--unconfirmed", is_flag=True, help="Include messages that may have been sent.")
@json_option
def resend(
    ids: tuple[str, ...], everything: bool, rate: float, unconfirmed: bool, **more: Any
) -> None:
    """Resend dead letters as new messages; with --all at --rate messages a second."""
    as_json = more.pop("as_json")
    _chosen(ids, everything, **more)
    actions = of_operator()
    sent, refused = dict[str, str](), dict[str, str]()
    if everything:
        resent = actions.resend_many(rate, unconfirmed, **more)
        sent, refused = resent.ids, {id: str(error) for id, error in resent.refused.items()}
    for id in ids:
        try:
            sent[id] = actions.resend(id, unconfirmed)
        except (DeadLetterError, InvalidMessage) as error:
            refused[id] = str(error)
    if as_json:
        emit({"resent": sent, "refused": refused})
    else:
        lines = [f"{old}  sent again as {new}" for old, new in sent.items()]
        lines += [f"{id}  not sent: {why}" for id, why in refused.items()]
        click.echo("\n".join([*lines, f"{len(sent)} sent again, {len(refused)} not"]))
    sys.exit(PARTLY if refused else 0)


@command(partly="some are not dead letters (each is named), or you did not confirm")
@click.argument("ids", nargs=-1)
@click.option("--all", "everything", is_flag=True, help="All that are on the list now.")
@_filters
@yes_option
@json_option
def drop(ids: tuple[str, ...], everything: bool, agreed: bool, as_json: bool, **more: Any) -> None:
    """Remove dead letters from the list and erase their phone numbers and texts. Records stay.

    With --all it asks for confirmation on a terminal.
    """
    _chosen(ids, everything, **more)
    actions, refused = of_operator(), dict[str, str]()
    letters = actions.producer.dead.list(**more)
    confirm(agreed or not everything, lambda: f"Drop {sum(1 for _ in letters):,} dead letters?")
    dropped = actions.drop_many(**more) if everything else 0
    for id in ids:
        try:
            actions.drop(id)
            dropped += 1
        except DeadLetterError as error:
            refused[id] = str(error)
    if as_json:
        emit({"dropped": dropped, "refused": refused})
    else:
        lines = [f"{id}  not dropped: {why}" for id, why in refused.items()]
        click.echo("\n".join([*lines, f"{dropped} dropped"]))
    sys.exit(PARTLY if refused else 0)


for _each in (list_, show_, resend, drop):
    dead.add_command(_each)

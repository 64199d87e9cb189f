"""Commands that change what happens: ``pause``, ``resume``, ``cancel``, ``dead``."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import click

from viber_courier import DeadLetterError, InvalidMessage, Producer
from viber_courier.ops.commands import terminal
from viber_courier.ops.commands.looking import mask, told
from viber_courier.ops.commands.terminal import (
    PARTLY,
    Duration,
    command,
    emit,
    json_option,
    reveal_option,
)
from viber_courier.schemas.lanes import LANES, POLL
from viber_courier.schemas.status import DEAD, Status
from viber_courier.store.connection import store_errors
from viber_courier.store.keys import Keys

lanes_argument = click.argument("lanes", nargs=-1, type=click.Choice([*LANES, POLL]))


@command()
@lanes_argument
@click.option("--reason", default="by hand", show_default=True, help="What others are told.")
@click.option("--for", "duration", type=Duration(), help="90s, 15m, 2h: goes on by itself.")
@json_option
def pause(lanes: tuple[str, ...], reason: str, duration: float | None, as_json: bool) -> None:
    """Stop sending what is in these lanes (all four, if none is named), or polling: poll.

    Requests that are on their way end as usual, apps may go on enqueueing, and what must end
    (expired, for one) does.
    """
    producer = Producer.from_env()
    keys, ms = Keys(producer.settings.namespace), round(duration * 1000) if duration else None
    with store_errors(), producer.redis.pipeline() as pipe:
        for name in lanes or LANES:
            pipe.set(keys.paused(name), reason[:200], px=ms)
        pipe.execute()
    if as_json:
        return emit({"paused": list(lanes or LANES), "reason": reason[:200], "seconds": duration})
    until = f"for {duration:g} s" if duration else "until `courier resume`"
    click.echo(f"Paused {until}: {', '.join(lanes or LANES)}")


@command()
@lanes_argument
@json_option
def resume(lanes: tuple[str, ...], as_json: bool) -> None:
    """Go on with these lanes or poll; with everything that is paused, if none is named."""
    producer = Producer.from_env()
    keys, names = Keys(producer.settings.namespace), lanes or (*LANES, POLL)
    with store_errors(), producer.redis.pipeline() as pipe:
        for name in names:
            pipe.delete(keys.paused(name))
        resumed = [name for name, was in zip(names, pipe.execute(), strict=True) if was]
    if as_json:
        return emit({"resumed": resumed})
    click.echo(f"Resumed: {', '.join(resumed)}" if resumed else "Nothing of it was paused.")


@command(partly="some have left already, may have, or are unknown (each is named)")
@click.argument("ids", nargs=-1, required=True)
@json_option
def cancel(ids: tuple[str, ...], as_json: bool) -> None:
    """Stop messages: each that never left now never will."""
    producer = Producer.from_env()
    ends = {id: _cancel(producer, id) for id in ids}
    if as_json:
        emit(ends)
    for id, status in () if as_json else ends.items():
        click.echo(f"{id}  {status}" if status == "cancelled" else f"{id}  not cancelled: {status}")
    sys.exit(0 if set(ends.values()) <= {"cancelled"} else PARTLY)


def _cancel(producer: Producer, id: str) -> str:
    """``cancelled``, or what it is instead."""
    if producer.cancel(id):
        return "cancelled"
    record = producer.get(id)
    if record is None:
        return "unknown"
    # The provider has such a status, too.
    by_provider = record.status == Status.CANCELLED
    return "cancelled by the provider" if by_provider else str(record.status)


@click.group()
def dead() -> None:
    """Dead letters: what ended failed, unconfirmed, rejected or lost. See docs/dead-letters.md."""


Filtered = Callable[..., None]


def _filters(function: Filtered) -> Filtered:
    function = click.option("--reason", help="Only those that ended for this reason.")(function)
    return click.option("--status", type=click.Choice(sorted(map(str, DEAD))), help="Only those.")(
        function
    )


def _chosen(ids: tuple[str, ...], everything: bool, status: str | None, reason: str | None) -> None:
    if bool(ids) == everything or (ids and (status or reason)):
        raise click.UsageError("name IDS, or say --all (which --status and --reason narrow)")


@command("list")
@_filters
@click.option("--most", type=click.IntRange(1), default=100, show_default=True)
@json_option
def list_(status: str | None, reason: str | None, most: int, as_json: bool) -> None:
    """Dead letters in the order of their ends. JSON is one document a line."""
    letters = Producer.from_env().dead.list(status, reason)
    for shown, letter in enumerate(letters):
        if shown == most:
            click.echo("there are more (--most)", err=True)
            break
        words = (f"{letter.ended[:19]}Z", letter.id, letter.status, letter.reason or "")
        emit(told(letter)) if as_json else click.echo("  ".join(words))


@command("show", partly="it is no dead letter, or its content was erased")
@click.argument("id")
@reveal_option
@json_option
def show_(id: str, reveal: bool, as_json: bool) -> None:
    """The job of a dead letter as it was asked for; texts only with --reveal."""
    job = Producer.from_env().dead.job(id)
    if not reveal:
        hidden: dict[str, Any] = {
            name: "***" for name in ("content", "smsText", "comment") if name in job
        }
        job = {**job, **hidden, "address": mask(job["address"])}
    if as_json:
        return emit(job)
    terminal.console().print(terminal.grid(job.items()))


@command(
    partly="some were not sent again (each is named)",
    away="Redis can't be used, or the queue is full: repeat it, nothing is sent twice",
)
@click.argument("ids", nargs=-1)
@click.option("--all", "everything", is_flag=True, help="All on the list now.")
@_filters
@click.option("--rate", type=click.FloatRange(0.01), default=10.0, show_default=True)
@click.option("--unconfirmed", is_flag=True, help="Also what may have been sent already.")
@json_option
def resend(
    ids: tuple[str, ...], everything: bool, rate: float, unconfirmed: bool, **more: Any
) -> None:
    """Send dead letters again as new messages; with --all at --rate messages a second."""
    as_json = more.pop("as_json")
    _chosen(ids, everything, **more)
    letters = Producer.from_env().dead
    sent, refused = dict[str, str](), dict[str, str]()
    if everything:
        done = letters.resend_many(rate=rate, unconfirmed=unconfirmed, **more)
        sent, refused = done.ids, {id: str(error) for id, error in done.refused.items()}
    for id in ids:
        try:
            sent[id] = letters.resend(id, unconfirmed)
        except (DeadLetterError, InvalidMessage) as error:
            refused[id] = str(error)
    if as_json:
        emit({"resent": sent, "refused": refused})
    else:
        lines = [f"{old}  sent again as {new}" for old, new in sent.items()]
        lines += [f"{id}  not sent: {why}" for id, why in refused.items()]
        click.echo("\n".join([*lines, f"{len(sent)} sent again, {len(refused)} not"]))
    sys.exit(PARTLY if refused else 0)


@command(partly="some are no dead letters (each is named)")
@click.argument("ids", nargs=-1)
@click.option("--all", "everything", is_flag=True, help="All on the list now.")
@_filters
@json_option
def drop(ids: tuple[str, ...], everything: bool, as_json: bool, **more: Any) -> None:
    """Take dead letters off the list and erase phone number and texts; records stay."""
    _chosen(ids, everything, **more)
    letters, refused = Producer.from_env().dead, dict[str, str]()
    dropped = letters.drop_many(**more) if everything else 0
    for id in ids:
        try:
            letters.drop(id)
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

"""Commands that change what happens: ``pause``, ``resume``, ``cancel``, ``dead``."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable
from dataclasses import asdict
from itertools import islice
from typing import Any

import click
from rich.table import Table

from ops.commands.looking import mask
from ops.commands.terminal import (
    PARTLY,
    UNAVAILABLE,
    Command,
    Duration,
    console,
    emit,
    json_option,
    plain,
    reveal_option,
)
from producers import DeadLetterError, InvalidMessage, Producer
from producers.connection import store_errors
from schemas.keys import LANES, POLL, Keys
from schemas.status import DEAD, Status

lanes_argument = click.argument("lanes", nargs=-1, type=click.Choice([*LANES, POLL]))


@click.command(cls=Command, exits={})
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


@click.command(cls=Command, exits={})
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


@click.command(
    cls=Command, exits={PARTLY: "some have left already, may have, or are unknown (each is named)"}
)
@click.argument("ids", nargs=-1, required=True)
@json_option
def cancel(ids: tuple[str, ...], as_json: bool) -> None:
    """Stop messages: each that never left now never will."""
    producer = Producer.from_env()
    told = {id: _cancel(producer, id) for id in ids}
    if as_json:
        emit(told)
    for id, status in () if as_json else told.items():
        click.echo(f"{id}  {status}" if status == "cancelled" else f"{id}  not cancelled: {status}")
    sys.exit(0 if set(told.values()) <= {"cancelled"} else PARTLY)


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


def _filters(command: Filtered) -> Filtered:
    command = click.option("--reason", help="Only those that ended for this reason.")(command)
    return click.option("--status", type=click.Choice(sorted(DEAD)), help="Only those.")(command)


def _chosen(ids: tuple[str, ...], everything: bool, status: str | None, reason: str | None) -> None:
    if bool(ids) == everything or (ids and (status or reason)):
        raise click.UsageError("name IDS, or say --all (which --status and --reason narrow)")


@dead.command("list", cls=Command, exits={})
@_filters
@click.option("--most", type=click.IntRange(1), default=100, show_default=True)
@json_option
def list_(status: str | None, reason: str | None, most: int, as_json: bool) -> None:
    """Dead letters in the order of their ends. JSON is one document a line."""
    letters = Producer.from_env().dead.list(status, reason)
    table = Table(box=None, pad_edge=False)
    for name in ("id", "status", "reason", "ended", "attempts"):
        table.add_column(name, overflow="fold", justify="right" if name == "attempts" else "left")
    for letter in islice(letters, most):
        if as_json:
            emit({**asdict(letter), "provider_id": letter.provider_id and str(letter.provider_id)})
        words = (letter.id, letter.status, letter.reason or "", letter.ended[:19], letter.attempts)
        table.add_row(*map(plain, words))
    more = "" if next(letters, None) is None else "; there are more (--most)"
    if not as_json:
        console().print(table)
        click.echo(f"{table.row_count} dead letters{more}", err=True)


@dead.command("show", cls=Command, exits={PARTLY: "no dead letter, or its content was erased"})
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
    table = Table.grid(padding=(0, 2))
    for name, value in job.items():
        table.add_row(name, plain(value))
    console().print(table)


@dead.command(
    cls=Command,
    exits={
        PARTLY: "some were not sent again (each is named)",
        UNAVAILABLE: "Redis can't be used, or the queue is full: repeat it, nothing is sent twice",
    },
)
@click.argument("ids", nargs=-1)
@click.option("--all", "everything", is_flag=True, help="All on the list now.")
@_filters
@click.option("--rate", type=click.FloatRange(0.01), default=10.0, show_default=True)
@click.option("--unconfirmed", is_flag=True, help="Also what may have been sent already.")
@json_option
def resend(
    ids: tuple[str, ...],
    everything: bool,
    status: str | None,
    reason: str | None,
    rate: float,
    unconfirmed: bool,
    as_json: bool,
) -> None:
    """Send dead letters again as new messages; with --all at --rate messages a second."""
    _chosen(ids, everything, status, reason)
    letters = Producer.from_env().dead
    sent, refused = dict[str, str](), dict[str, str]()
    if everything:
        done = letters.resend_many(status, reason, rate, unconfirmed)
        sent, refused = done.ids, {id: str(error) for id, error in done.refused.items()}
    for id in ids:
        try:
            sent[id] = letters.resend(id, unconfirmed)
        except (DeadLetterError, InvalidMessage) as error:
            refused[id] = str(error)
    if as_json:
        emit({"resent": sent, "refused": refused})
    else:
        _lines(f"{old}  sent again as {new}" for old, new in sent.items())
        _lines(f"{id}  not sent: {why}" for id, why in refused.items())
        click.echo(f"{len(sent)} sent again, {len(refused)} not", err=True)
    sys.exit(PARTLY if refused else 0)


@dead.command(cls=Command, exits={PARTLY: "some are no dead letters (each is named)"})
@click.argument("ids", nargs=-1)
@click.option("--all", "everything", is_flag=True, help="All on the list now.")
@_filters
@json_option
def drop(
    ids: tuple[str, ...], everything: bool, status: str | None, reason: str | None, as_json: bool
) -> None:
    """Take dead letters off the list and erase phone number and texts; records stay."""
    _chosen(ids, everything, status, reason)
    letters = Producer.from_env().dead
    dropped, refused = letters.drop_many(status, reason) if everything else 0, dict[str, str]()
    for id in ids:
        try:
            letters.drop(id)
            dropped += 1
        except DeadLetterError as error:
            refused[id] = str(error)
    if as_json:
        emit({"dropped": dropped, "refused": refused})
    else:
        _lines(f"{id}  not dropped: {why}" for id, why in refused.items())
        click.echo(f"{dropped} dropped")
    sys.exit(PARTLY if refused else 0)


def _lines(lines: Iterable[Any]) -> None:
    for line in lines:
        click.echo(line)

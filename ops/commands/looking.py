"""Commands that show what there is: ``show``, ``find``, ``results``, ``audit``."""

from __future__ import annotations

import json
import re
import socket
import sys
from collections.abc import Iterator
from dataclasses import asdict
from itertools import islice
from typing import Any

import click

from viber_courier import Event, EventsMissed, Producer, Record
from viber_courier.ops.commands import terminal
from viber_courier.ops.commands.terminal import (
    PARTLY,
    Failure,
    command,
    emit,
    json_option,
    reveal_option,
)
from viber_courier.ops.console.audit import entries, operator, record
from viber_courier.producers.preview import mask
from viber_courier.schemas.instants import iso
from viber_courier.schemas.lanes import LANES
from viber_courier.schemas.status import Status
from viber_courier.store.connection import store_errors
from viber_courier.store.keys import Keys
from viber_courier.store.records import merge, unpack

SCAN_COUNT = 1000
"""Keys that Redis examines in one step of a scan."""
Json = dict[str, Any]


def event_fields(record: Any) -> Json:
    """Returns a record, or another dataclass, under names as events use them."""
    values = asdict(record).items()
    return {re.sub("_(.)", lambda found: found[1].upper(), n): v for n, v in values}


def describe(producer: Producer, id: str, reveal: bool) -> Json | None:
    """Returns all that is known of a message, under events' names; None if it is unknown."""
    record = producer.get(id)
    if record is None:
        return None
    details, (job, lane_set) = event_fields(record), _stored(producer, id)
    details["address"] = job and (job["address"] if reveal else mask(job["address"]))
    if reveal:
        details["job"] = job
    if record.status in (Status.QUEUED, Status.SENDING) and lane_set:
        details |= _waiting(producer, record, lane_set)
    return details


def _stored(producer: Producer, id: str) -> tuple[Json | None, int]:
    """Returns its wire fields (None: erased) and the number of its lane set, from 1."""
    keys, client = Keys(producer.settings.namespace), producer.redis
    with store_errors():
        record: Any = client.hmget(keys.records + id, "row", "common", "set")
        own: Any = record[0] or client.get(keys.contents + id)
        common: Any = client.get(keys.commons + record[1]) if record[1] else "{}"
    job = merge(unpack(own), json.loads(common)) if own and common else None
    return job, int(record[2] or 0)


def _waiting(producer: Producer, record: Record, lane_set: int) -> Json:
    """Returns where a message waits, until when, and what else holds it there."""
    keys, lane = Keys(producer.settings.namespace), LANES[(lane_set - 1) // 2]
    line = f":{record.campaign}" if record.campaign else ""
    with store_errors(), producer.redis.pipeline(transaction=False) as pipe:
        pipe.zscore(keys.lanes[lane_set - 1] + line, record.id)
        pipe.get(keys.paused(lane))
        pipe.hmget(keys.gate("send"), "until", "reason")
        pipe.hget(f"{keys.campaigns}{record.campaign}", "paused")
        score, paused, (until, reason), stopped = pipe.execute()
    held: list[str] = [] if paused is None else [f"lane {lane} is paused: {paused}"]
    held += [f"sending is closed until {iso(int(until) / 1e6)}: {reason}"] if until else []
    held += [] if stopped is None else [f"campaign {record.campaign} is paused: {stopped}"]
    due = iso(score / 1e6) if score else None
    return {"lane": lane, "due": due, "leased": bool(score and score % 4), "heldBy": held}


def _print(details: Json) -> None:
    given = {name: value for name, value in details.items() if value not in (None, [], {}, ())}
    terminal.console().print(terminal.grid(given.items()))


@command(partly="no message has this id")
@click.argument("id")
@reveal_option
@json_option
def show(id: str, reveal: bool, as_json: bool) -> None:
    """Show one message: its status, what holds it, and what the provider said."""
    producer = Producer.from_env()
    if reveal:
        record(producer, operator(), "reveal", id)
    details = describe(producer, id, reveal)
    if details is None:
        raise Failure("no message has this id, or its record has expired (COURIER_RETENTION)")
    emit(details) if as_json else _print(details)


@command(partly="no message found among those examined")
@click.argument("phone")
@click.option("--most", type=click.IntRange(1), default=100_000, help="Examine at most this many.")
@reveal_option
@json_option
def find(phone: str, most: int, reveal: bool, as_json: bool) -> None:
    """Find messages by phone number ("-": read it from stdin).

    There is no index of phone numbers: the command examines up to --most messages, in no particular
    order, and says whether there are more. It can't find a message whose content was erased
    (COURIER_CONTENT_RETENTION).
    """
    number = re.sub(r"[\s()+-]", "", sys.stdin.readline() if phone == "-" else phone)
    if not number.isdecimal():
        raise click.UsageError("PHONE must be a phone number")
    producer = Producer.from_env()
    examined, found = 0, []
    scan = _contents(producer)
    for id, own in islice(scan, most):
        examined += 1
        if number in own and unpack(own)["address"] == number:
            if reveal:
                record(producer, operator(), "reveal", id)
            found += [details] if (details := describe(producer, id, reveal)) else []
    all_examined = next(scan, None) is None
    if as_json:
        emit({"lookedAt": examined, "all": all_examined, "messages": found})
    for details in () if as_json else found:
        _print(details)
        click.echo()
    rest = "there are no others" if all_examined else "there are more (--most)"
    click.echo(f"{len(found)} found, {examined:,} messages examined: {rest}", err=True)
    sys.exit(0 if found else PARTLY)


def _contents(producer: Producer) -> Iterator[tuple[str, str]]:
    """Yields each message's id and its own wire fields as stored ("": erased), in no order."""
    keys, client = Keys(producer.settings.namespace), producer.redis
    cursor: int | None = None
    while cursor != 0:
        with store_errors():
            reply: Any = client.scan(cursor or 0, match=keys.records + "*", count=SCAN_COUNT)
            cursor, names = reply
            with client.pipeline(transaction=False) as pipe:
                for name in names:
                    pipe.hget(name, "row")
                    pipe.get(keys.contents + name.removeprefix(keys.records))
                texts = pipe.execute() if names else []
        for name, row, own in zip(names, texts[::2], texts[1::2], strict=True):
            yield name.removeprefix(keys.records), row or own or ""


@command(partly="events were deleted before the group read them")
@click.option("--group", help="Read as this consumer group and acknowledge each event.")
@click.option("--last", type=click.IntRange(0), default=20, help="How many events to show.")
@click.option("--follow", is_flag=True, help="Keep showing new events until Ctrl-C.")
@json_option
def results(group: str | None, last: int, follow: bool, as_json: bool) -> None:
    """Show the --last result events, one on a line, oldest first. It takes none from a group.

    With --group the command reads as a consumer of that group: it acknowledges what it shows, and
    the group's other consumers don't get it. If events were deleted before the group read them, it
    says so on stderr and goes on. With --json each line is a CloudEvents document.
    """
    if group == "":  # an unset shell variable
        raise click.UsageError("--group must not be empty")
    producer = Producer.from_env()
    events = _consumed(producer, group, follow) if group else _peeked(producer, last, follow)
    for event in events:
        emit(event) if as_json else _print_event(event)


def _peeked(producer: Producer, last: int, follow: bool) -> Iterator[Json]:
    client, stream = producer.redis, Keys(producer.settings.namespace).results
    with store_errors():
        newest: Any = client.xrevrange(stream, count=max(1, last))
    after = newest[0][0] if newest else "0"
    yield from (json.loads(fields["event"]) for _, fields in reversed(newest[:last]))
    while follow:
        with store_errors():
            reply: Any = client.xread({stream: after}, count=100, block=1000)
        for entry, fields in reply[0][1] if reply else ():
            after = entry
            yield json.loads(fields["event"])


def _consumed(producer: Producer, group: str, follow: bool) -> Iterator[Json]:
    source = f"viber-courier/{producer.settings.namespace}"
    consumer = f"courier-cli@{socket.gethostname()}"
    missed, reading = False, True
    while reading:
        events = producer.results(group, consumer, block=5.0 if follow else 0.0)
        try:
            for event in events:
                yield _document(event, source)
                event.ack()  # the caller has printed it
            reading = follow
        except EventsMissed as error:
            click.echo(f"Warning: {error}", err=True)
            missed = True
    if missed:
        sys.exit(PARTLY)


def _document(event: Event, source: str) -> Json:
    head = {"specversion": "1.0", "id": event.id, "source": source, "type": event.type}
    more = {"subject": event.subject, "time": event.time}
    return {**head, **more, "datacontenttype": "application/json", "data": event.data}


def _print_event(event: Json) -> None:
    data = event["data"]
    final = "final" if data["final"] else ""
    parts = (event["time"], data["messageId"], data["status"], final, data["reason"] or "")
    click.echo("  ".join(str(terminal.plain(part)) for part in parts if part))


@command()
@click.option("--most", type=click.IntRange(1), default=100, help="Print at most this many.")
@json_option
def audit(most: int, as_json: bool) -> None:
    """Print what people did, by console and command line, the newest first.

    Each line says when, who, from where, and what. Entries are kept for 90 days, at most some
    10,000 of them.
    """
    for entry in entries(Producer.from_env(), most):
        if as_json:
            emit(entry._asdict())
        else:
            click.echo("  ".join(str(terminal.plain(text)) for text in entry if text))

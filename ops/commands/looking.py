"""Commands that look at messages and at their result events: ``show``, ``find``, ``results``."""

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

from viber_courier import Producer, Record
from viber_courier.ops.commands import terminal
from viber_courier.ops.commands.terminal import (
    PARTLY,
    Failure,
    command,
    emit,
    json_option,
    reveal_option,
)
from viber_courier.schemas.instants import iso
from viber_courier.schemas.lanes import LANES
from viber_courier.schemas.status import Status
from viber_courier.store.connection import store_errors
from viber_courier.store.keys import Keys
from viber_courier.store.records import merge, unpack

SCAN = 1000
"""Keys that Redis passes over in one step of a scan."""
Json = dict[str, Any]


def mask(address: str) -> str:
    """A phone number as it may be shown to anybody: five digits are missing."""
    return f"{address[: max(0, min(4, len(address) - 7))]}***{address[-2:]}"


def told(record: Record) -> Json:
    """A record in the events' names."""
    values = asdict(record)
    values["provider_id"] = record.provider_id and str(record.provider_id)  # 64 bits
    return {re.sub("_(.)", lambda found: found[1].upper(), n): v for n, v in values.items()}


def describe(producer: Producer, id: str, reveal: bool) -> Json | None:
    """All that is known of a message, in the events' names; None if it is unknown."""
    record = producer.get(id)
    if record is None:
        return None
    seen, (job, place) = told(record), _stored(producer, id)
    seen["address"] = job and (job["address"] if reveal else mask(job["address"]))
    if reveal:
        seen["job"] = job
    if record.status in (Status.QUEUED, Status.SENDING) and place:
        seen |= _waiting(producer, id, place)
    return seen


def _stored(producer: Producer, id: str) -> tuple[Json | None, int]:
    """Its wire fields (None: erased) and the number of its lane set."""
    keys, client = Keys(producer.settings.namespace), producer.redis
    with store_errors():
        record: Any = client.hmget(keys.record + id, "row", "common", "set")
        own: Any = record[0] or client.get(keys.content + id)
        common: Any = client.get(keys.common + record[1]) if record[1] else "{}"
    job = merge(unpack(own), json.loads(common)) if own and common else None
    return job, int(record[2] or 0)


def _waiting(producer: Producer, id: str, place: int) -> Json:
    """Where a message waits, until when, and what else keeps it there."""
    keys, lane = Keys(producer.settings.namespace), LANES[(place - 1) // 2]
    with store_errors(), producer.redis.pipeline(transaction=False) as pipe:
        pipe.zscore(keys.lanes[place - 1], id)
        pipe.get(keys.paused(lane))
        pipe.hmget(keys.gate("send"), "until", "reason")
        score, paused, (until, reason) = pipe.execute()
    held: list[str] = [] if paused is None else [f"lane {lane} is paused: {paused}"]
    held += [f"sending is closed until {iso(int(until) / 1e6)}: {reason}"] if until else []
    due = iso(score / 1e6) if score else None
    return {"lane": lane, "due": due, "leased": bool(score and score % 4), "heldBy": held}


def _print(seen: Json) -> None:
    words = {name: value for name, value in seen.items() if value not in (None, [], {}, ())}
    terminal.console().print(terminal.grid(words.items()))


@command(partly="no message has this id")
@click.argument("id")
@reveal_option
@json_option
def show(id: str, reveal: bool, as_json: bool) -> None:
    """Show one message: where it is, why, and what the provider said."""
    seen = describe(Producer.from_env(), id, reveal)
    if seen is None:
        raise Failure("no message has this id, or none any more (COURIER_RETENTION)")
    emit(seen) if as_json else _print(seen)


@command(partly="none was found among those looked at")
@click.argument("phone")
@click.option("--most", type=click.IntRange(1), default=100_000, show_default=True)
@reveal_option
@json_option
def find(phone: str, most: int, reveal: bool, as_json: bool) -> None:
    """Find messages by phone number ("-": read it from stdin).

    No index of phone numbers is kept: this looks at --most messages, in no order, and says if there
    were more. Erased content (COURIER_CONTENT_RETENTION) is not found any more.
    """
    number = re.sub(r"[\s()+-]", "", sys.stdin.readline() if phone == "-" else phone)
    if not number.isdecimal():
        raise click.UsageError("PHONE must be a phone number")
    producer = Producer.from_env()
    looked, found = 0, []
    scan = _contents(producer)
    for id, own in islice(scan, most):
        looked += 1
        if number in own and unpack(own)["address"] == number:
            found += [seen] if (seen := describe(producer, id, reveal)) else []
    whole = next(scan, None) is None
    if as_json:
        emit({"lookedAt": looked, "all": whole, "messages": found})
    for seen in () if as_json else found:
        _print(seen)
        click.echo()
    rest = "all there are" if whole else "there are more (--most)"
    click.echo(f"{len(found)} found, {looked:,} messages looked at: {rest}", err=True)
    sys.exit(0 if found else PARTLY)


def _contents(producer: Producer) -> Iterator[tuple[str, str]]:
    """Each message's id and its own wire fields as stored ("": erased), in no order."""
    keys, client = Keys(producer.settings.namespace), producer.redis
    cursor: int | None = None
    while cursor != 0:
        with store_errors():
            reply: Any = client.scan(cursor or 0, match=keys.record + "*", count=SCAN)
            cursor, names = reply
            with client.pipeline(transaction=False) as pipe:
                for name in names:
                    pipe.hget(name, "row")
                    pipe.get(keys.content + name.removeprefix(keys.record))
                texts = pipe.execute() if names else []
        for name, row, own in zip(names, texts[::2], texts[1::2], strict=True):
            yield name.removeprefix(keys.record), row or own or ""


@command()
@click.option("--group", help="Read as this consumer group and acknowledge what is shown.")
@click.option("--last", type=click.IntRange(0), default=20, show_default=True)
@click.option("--follow", is_flag=True, help="Go on with new ones, until Ctrl-C.")
@json_option
def results(group: str | None, last: int, follow: bool, as_json: bool) -> None:
    """Show the --last result events, one a line, oldest first; nothing is taken from anybody.

    With --group each event of the group is shown once and acknowledged: the group's other consumers
    don't get it. JSON is one CloudEvents document a line.
    """
    if group == "":  # a shell's variable that is not set
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
    while True:
        for event in producer.results(group, consumer, block=5.0 if follow else 0.0):
            head = {"specversion": "1.0", "id": event.id, "source": source, "type": event.type}
            more = {"subject": event.subject, "time": event.time}
            yield {**head, **more, "datacontenttype": "application/json", "data": event.data}
            event.ack()  # it has been printed
        if not follow:
            return


def _print_event(event: Json) -> None:
    data = event["data"]
    mark = "final" if data["final"] else ""
    words = (event["time"], data["messageId"], data["status"], mark, data["reason"] or "")
    click.echo("  ".join(str(terminal.plain(word)) for word in words if word))

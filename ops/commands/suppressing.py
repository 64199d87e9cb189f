"""``courier suppress``: numbers that get no messages of the lanes ``normal`` and ``low``."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click

from viber_courier import InvalidMessage, Producer, Suppression, normalize_address
from viber_courier.ops.commands.bulk import PATH, reading
from viber_courier.ops.commands.terminal import (
    PARTLY,
    WRONG,
    Duration,
    Failure,
    command,
    emit,
    json_option,
)
from viber_courier.ops.console.actions import of_operator
from viber_courier.ops.lists.columns import Refusal
from viber_courier.ops.lists.files import NotAList
from viber_courier.ops.lists.recipients import read_recipient
from viber_courier.ops.lists.tables import Reading, Table

NAMED = 10
"""Most wrong numbers that are named."""
SOME_WRONG = "some are no phone numbers (each is named)"


@click.group()
def suppress() -> None:
    """Manage suppressed numbers: they get no messages of the lanes normal and low.

    Messages to them end "rejected" for the reason "suppressed", unless their job has
    ignoreSuppression. Redis keeps hashes of the numbers only, made with COURIER_SUPPRESSION_KEY.
    PHONES are numbers, or "-": one on each line of stdin, where `ps` doesn't show them.
    """


def _phones(function: Callable[..., None]) -> Callable[..., None]:
    text = "A list instead of PHONES: CSV or a workbook."
    function = click.option("--list", "listed", type=PATH, help=text)(
        reading(json_option(function))
    )
    return click.argument("phones", nargs=-1)(function)


def _read(
    phones: tuple[str, ...],
    country: str | None = None,
    listed: Path | None = None,
    **how: Any,
) -> tuple[dict[str, int], int]:
    """Returns the numbers with their places, and how many are none, which it names on stderr."""
    if bool(phones) == bool(listed):
        raise click.UsageError('give PHONES, "-" or --list FILE')
    found, wrong = dict[str, int](), 0
    given = sys.stdin if phones == ("-",) else phones
    try:
        for place, number, fault in (
            _rows(listed, country, how) if listed else _numbers(given, country)
        ):
            if number:
                found.setdefault(number, place)
                continue
            wrong += 1
            if wrong <= NAMED:
                click.echo(f"{'line' if listed else 'number'} {place} {fault}", err=True)
    except (NotAList, ImportError, ValueError, OSError) as error:
        raise Failure(str(error), WRONG) from None
    if wrong > NAMED:
        click.echo(f"... and {wrong - NAMED:,} more", err=True)
    return found, wrong


def _numbers(texts: Iterable[str], country: str | None) -> Iterator[tuple[int, str, str]]:
    """Yields each number with its place from 1, or "" and why it is none."""
    for place, text in enumerate(texts, 1):
        try:
            if text.strip():
                yield place, normalize_address(text, country), ""
        except InvalidMessage as error:
            yield place, "", " ".join(error.errors["address"])


def _rows(path: Path, country: str | None, how: Any) -> Iterator[tuple[int, str, str]]:
    """Yields each row's number with its line, or "" and why it has none."""
    table = Table(path, Reading(**how, template=True))
    for row in table.rows():
        try:
            yield row.line, read_recipient(row, table.columns, country).number.digits, ""
        except Refusal as wrong:
            yield row.line, "", str(wrong)


def _tell(as_json: bool, wrong: int, text: str, **counts: int) -> None:
    emit({**counts, "refused": wrong}) if as_json else click.echo(text.format(**counts))
    sys.exit(PARTLY if wrong else 0)


@command(partly=SOME_WRONG)
@_phones
@click.option("--reason", default="by hand", help="Why: it is listed beside the hash.")
@click.option("--for", "duration", type=Duration(), help="30d: only for so long.")
def add(as_json: bool, reason: str, duration: float | None, **given: Any) -> None:
    """Suppress numbers, for good or with --for. A number that is suppressed gets the new reason.

    A list has a column of phone numbers: --list blocked.xlsx --map Phone=address.
    """
    numbers, wrong = _read(**given)
    until = datetime.fromtimestamp(time.time() + duration, UTC) if duration else None
    try:
        new = of_operator().suppress(numbers, reason, until)
    except ValueError as error:
        raise click.UsageError(str(error)) from None
    counts = {"added": new, "there": len(numbers) - new}
    _tell(as_json, wrong, "{added:,} suppressed, {there:,} already were", **counts)


@command(partly=SOME_WRONG)
@_phones
def remove(as_json: bool, **given: Any) -> None:
    """Let numbers get messages again."""
    numbers, wrong = _read(**given)
    done = of_operator().unsuppress(numbers)
    counts = {"removed": done, "others": len(numbers) - done}
    _tell(as_json, wrong, "{removed:,} no longer suppressed, {others:,} were not", **counts)


@command(done="none is suppressed", partly="some are suppressed, or no phone numbers")
@_phones
def check(as_json: bool, **given: Any) -> None:
    """Say which numbers are suppressed, by their place among PHONES, or by their line."""
    numbers, wrong = _read(**given)
    listed = Producer.from_env().suppressions
    entries = [(numbers[each], listed.get(each)) for each in listed.among(numbers)]
    found = [(place, entry) for place, entry in entries if entry]
    if as_json:
        emit([{"number": place, **_shown(entry)} for place, entry in found])
    for place, entry in () if as_json else found:
        click.echo(f"{'line' if given['listed'] else 'number'} {place}  {_line(entry)}")
    if not (found or as_json):
        click.echo("None of these is suppressed.")
    sys.exit(PARTLY if found or wrong else 0)


@command("list")
@click.option("--most", type=click.IntRange(1), default=100, help="List at most this many.")
@json_option
def list_(most: int, as_json: bool) -> None:
    """List suppressed numbers, as hashes. With --json: one document on each line."""
    for number, entry in enumerate(Producer.from_env().suppressions.list()):
        if number == most:
            click.echo("There are more (--most).", err=True)
            break
        emit(_shown(entry)) if as_json else click.echo(f"{entry.hash}  {_line(entry)}")


@command()
@click.argument("file", type=click.File("w", encoding="utf-8", lazy=True))
@json_option
def export(file: Any, as_json: bool) -> None:
    """Write the list to FILE, as hashes, for `courier suppress import` under the same key."""
    exported = 0
    for each in Producer.from_env().suppressions.list():
        file.write(f"{json.dumps(asdict(each))}\n")
        exported += 1
    emit({"exported": exported}) if as_json else click.echo(f"{exported:,} exported")


@command("import", wrong="wrong usage or settings, or the file is no export or of another key")
@click.argument("file", type=click.File(encoding="utf-8"))
@json_option
def import_(file: Any, as_json: bool) -> None:
    """Add what `export` has written to FILE ("-": stdin). What holds as long already stays."""
    try:
        new = of_operator().import_suppressions(map(_entry, file))
    except (ValueError, TypeError) as error:
        advice = "Phone numbers are for `courier suppress add`"
        raise Failure(f"what is before it is imported: {error}. {advice}", WRONG) from None
    emit({"added": new}) if as_json else click.echo(f"{new:,} suppressed")


def _entry(line: str) -> Suppression:
    return Suppression(**json.loads(line))


def _shown(entry: Suppression) -> dict[str, Any]:
    return {name: value for name, value in asdict(entry).items() if name != "key"}


def _line(entry: Suppression) -> str:
    until = f"until {entry.until[:10]}" if entry.until else "for good"
    return f"since {entry.since[:10]}, {until}: {entry.reason}"


for _each in (add, remove, check, list_, export, import_):
    suppress.add_command(_each)

"""``courier suppress``: numbers that get no messages of the lanes ``normal`` and ``low``."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any

import click

from viber_courier import InvalidMessage, Producer, Suppression, normalize_address
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

SOME_WRONG = "some are no phone numbers (each is named)"


@click.group()
def suppress() -> None:
    """Manage suppressed numbers: they get no messages of the lanes normal and low.

    Messages to them end "rejected" for the reason "suppressed", unless their job has
    ignoreSuppression. Redis keeps hashes of the numbers only, made with COURIER_SUPPRESSION_KEY.
    PHONES are numbers, or "-": one on each line of stdin, where `ps` doesn't show them.
    """


def _phones(function: Callable[..., None]) -> Callable[..., None]:
    text = "Also read this country's national numbers."
    function = click.option("--country", metavar="XX", help=text)(json_option(function))
    return click.argument("phones", nargs=-1, required=True)(function)


def _read(phones: tuple[str, ...], country: str | None) -> tuple[dict[str, int], int]:
    """Returns the numbers with their places, and how many are none, which it names on stderr."""
    found, wrong = dict[str, int](), 0
    for place, text in enumerate(sys.stdin if phones == ("-",) else phones, 1):
        try:
            if text.strip():
                found.setdefault(normalize_address(text, country), place)
        except InvalidMessage as error:
            wrong += 1
            click.echo(f"number {place} {' '.join(error.errors['address'])}", err=True)
        except (ImportError, ValueError) as error:
            raise Failure(str(error), WRONG) from None
    return found, wrong


def _tell(as_json: bool, wrong: int, text: str, **counts: int) -> None:
    emit({**counts, "refused": wrong}) if as_json else click.echo(text.format(**counts))
    sys.exit(PARTLY if wrong else 0)


@command(partly=SOME_WRONG)
@_phones
@click.option("--reason", default="by hand", help="Why: it is listed beside the hash.")
@click.option("--for", "duration", type=Duration(), help="30d: only for so long.")
def add(phones: tuple[str, ...], country: str | None, as_json: bool, **how: Any) -> None:
    """Suppress numbers, for good or with --for. A number that is suppressed gets the new reason."""
    numbers, wrong = _read(phones, country)
    until = datetime.fromtimestamp(time.time() + how["duration"], UTC) if how["duration"] else None
    try:
        new = of_operator().suppress(numbers, how["reason"], until)
    except ValueError as error:
        raise click.UsageError(str(error)) from None
    counts = {"added": new, "there": len(numbers) - new}
    _tell(as_json, wrong, "{added:,} suppressed, {there:,} already were", **counts)


@command(partly=SOME_WRONG)
@_phones
def remove(phones: tuple[str, ...], country: str | None, as_json: bool) -> None:
    """Let numbers get messages again."""
    numbers, wrong = _read(phones, country)
    done = of_operator().unsuppress(numbers)
    counts = {"removed": done, "others": len(numbers) - done}
    _tell(as_json, wrong, "{removed:,} no longer suppressed, {others:,} were not", **counts)


@command(done="none is suppressed", partly="some are suppressed, or no phone numbers")
@_phones
def check(phones: tuple[str, ...], country: str | None, as_json: bool) -> None:
    """Say which numbers are suppressed, by their place among PHONES."""
    numbers, wrong = _read(phones, country)
    listed = Producer.from_env().suppressions
    entries = [(numbers[each], listed.get(each)) for each in listed.among(numbers)]
    found = [(place, entry) for place, entry in entries if entry]
    if as_json:
        emit([{"number": place, **_shown(entry)} for place, entry in found])
    for place, entry in () if as_json else found:
        click.echo(f"number {place}  {_line(entry)}")
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
        raise Failure(f"what is before it is imported: {error}", WRONG) from None
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

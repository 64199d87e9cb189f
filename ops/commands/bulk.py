"""``courier bulk``: sends to a list from a file. Started again, it sends nothing twice."""

from __future__ import annotations

import json
import re
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from decimal import Decimal
from difflib import get_close_matches
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from viber_courier import ConfigError, InvalidMessage, Producer, QueueFull, StoreUnavailable
from viber_courier.ops.commands.terminal import (
    PARTLY,
    WRONG,
    Duration,
    Failure,
    command,
    emit,
    is_terminal,
    json_option,
)
from viber_courier.ops.commands.trial import (
    REASONS,
    country_name,
    price_of,
    show,
    try_out,
)
from viber_courier.ops.lists.columns import Row
from viber_courier.ops.lists.files import NotAList
from viber_courier.ops.lists.phone import require_country
from viber_courier.ops.lists.recipients import Survey, counted
from viber_courier.ops.lists.storing import Ids, RefusedRows, Storing
from viber_courier.ops.lists.tables import Reading, Table
from viber_courier.producers.campaigns import require_campaign
from viber_courier.producers.client import CHUNK_ROWS
from viber_courier.producers.preview import reason_of
from viber_courier.schemas.encoding import digest_of
from viber_courier.store.connection import is_transient

RETRY_SECONDS = 0.5
"""Pause between tries while the queue is full or Redis can't be used."""
REPEATED = (
    "with --repeat, rows of one number are told apart by their order: mend the rows in the list"
    " itself, and give the whole list again, without the column 'reason'"
)
"""Why a file of refused rows is not taken: its rows would be taken for those that are stored."""
T = TypeVar("T")
PATH = click.Path(dir_okay=False, path_type=Path)


def retrying(wait: float) -> Callable[[Callable[[], T]], T]:
    """Returns a function that repeats a call while the queue is full or Redis can't be used.

    It gives up after ``wait`` seconds.
    """

    def retry(call: Callable[[], T]) -> T:
        end, announced = time.monotonic() + wait, False
        while True:
            try:
                return call()
            except (QueueFull, StoreUnavailable) as error:
                lasting = isinstance(error, StoreUnavailable) and not is_transient(error.__cause__)
                if lasting or time.monotonic() + RETRY_SECONDS > end:
                    raise
                if not announced:
                    click.echo(f"Waiting up to {wait:g} s: {error}", err=True)
                announced = True
                time.sleep(RETRY_SECONDS)

    return retry


def _wrong(text: str) -> Failure:
    return Failure(f"nothing was stored: {text}", WRONG)


@contextmanager
def _before_storing() -> Iterator[None]:
    """Ends the command where the file or the common part is wrong."""
    try:
        yield
    except NotAList as error:
        raise _wrong(str(error)) from None
    except InvalidMessage as error:
        raise _wrong(reason_of(error)) from None  # the common part is wrong, not a row
    except ImportError as error:
        raise _wrong(str(error)) from None


def _read_common(path: Path | None) -> Any:
    if path is None:
        return None
    try:
        return json.loads(path.read_bytes())
    except OSError as error:
        raise _wrong(f"{path} can't be read: {error.strerror}") from None
    except (ValueError, RecursionError):
        raise _wrong(f"{path} is not JSON") from None


def _renamed(ctx: Any, param: Any, pairs: tuple[str, ...]) -> dict[str, str]:
    if not all(re.fullmatch(".+=.+", pair.strip(), re.S) for pair in pairs):
        raise click.BadParameter("must be COLUMN=FIELD")
    return dict(pair.partition("=")[::2] for pair in pairs)


def _delimiter(ctx: Any, param: Any, text: str | None) -> str | None:
    char = {"tab": "\t", "\\t": "\t"}.get(text or "", text)
    if char is not None and (len(char) != 1 or char in '"\r\n\0' or char.isalnum()):
        raise click.BadParameter('must be one character, such as ";", or "tab"')
    return char


def _country(ctx: Any, param: Any, text: str | None) -> str | None:
    try:
        require_country(country := text.upper() if text else None)
    except ValueError:
        raise click.BadParameter("must be a country's two letters, such as RU") from None
    except ImportError as error:
        raise click.UsageError(str(error)) from None
    return country


def reading(function: Callable[..., None]) -> Callable[..., None]:
    """Adds the options that say how a list is read."""
    for option in (
        click.option("--encoding", help="[default: found out]"),
        click.option("--delimiter", callback=_delimiter, help="[default: found out]"),
        click.option("--sheet", metavar="NAME", help="Of a workbook. [default: the first]"),
        click.option("--map", "renamed", multiple=True, metavar="COLUMN=FIELD", callback=_renamed),
        click.option("--country", callback=_country, help="Whose national numbers to read: RU ..."),
    ):
        function = option(function)
    return function


@command(
    partly="some rows were refused (see the file named); the others are stored",
    wrong="wrong usage, settings, file or common part: nothing was stored",
    away="Redis or a full queue blocked it for too long: repeat the command to go on",
    stopped="interrupted (Ctrl-C): repeat the command to go on",
)
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--common", "common_file", type=PATH, help="JSON: the fields that all rows share.")
@click.option("--campaign", help="Add to this campaign. [default: common's, if it names one]")
@click.option("--dry-run", is_flag=True, help="Show what would be sent; store nothing.")
@click.option("--sms-price", metavar="PRICE", callback=price_of, help="Of a segment; adds it up.")
@click.option("--template", is_flag=True, help="Texts hold {column} for a row's value.")
@click.option("--repeat", is_flag=True, help="Send also to numbers that earlier rows have.")
@reading
@click.option("--refused", "refused_file", type=PATH, help="[default: FILE.refused.csv]")
@click.option("--wait", type=Duration(), default="10m", help="Longest time to keep retrying.")
@json_option
def bulk(
    file: Path,
    common_file: Path | None,
    campaign: str | None,
    country: str | None,
    dry_run: bool,
    sms_price: Decimal | None,
    repeat: bool,
    as_json: bool,
    **more: Any,
) -> None:
    """Store a message for each row of a list: a CSV file or a workbook (.xlsx).

    The first line names the fields: address, id, subject, content.text, metadata.order ... For an
    empty cell the common part's value is used. --map COLUMN=FIELD renames a column, --map COLUMN=-
    ignores it. Encoding and delimiter are found out.

    Phone numbers may be written as people write them, but internationally. With --country RU,
    Russia's national numbers are read too: 8 (925) 000-00-01. Each number gets one message, however
    often and however spelled the list has it; with --repeat, one for each row.

    After an interruption, start the same command again: it sends nothing twice, even if you have
    edited the file: ids are made from the campaign (or the common part) and the phone number.
    To send the same again, name another campaign. courier campaign shows, pauses and cancels it.

    Refused rows go to a file in the list's own form, with the reason as the last column; a dry
    run's to --refused only. Mend it, and give it to the same command. It waits for Redis (--wait).
    """
    if sms_price is not None and not dry_run:
        raise click.UsageError("--sms-price needs --dry-run")
    common, wait, template = _read_common(common_file), more.pop("wait"), more["template"]
    refused_file = _refused_file(file, common_file, named := more.pop("refused_file"))
    campaign = _campaign(campaign, common, dry_run)
    with _before_storing(), ExitStack() as stack:
        table, survey = _table(file, repeat, **more), Survey()
        if dry_run:
            keep = _rows_to_mend(named, table, stack)
            survey = try_out(table, country, common, campaign, template, repeat, keep)
        else:
            survey.add(table.rows(), table.columns, country)
    notes = [*table.notes, *survey.notes(repeat, country_name), *table.value_notes(common)]
    notes += _campaign_notes(campaign, table, dry_run)
    if dry_run:
        show(survey, notes, sms_price, as_json, named if survey.refused else None)
        sys.exit(PARTLY if survey.refused else 0)
    producer = Producer.from_env()
    click.echo("".join(f"Note: {note}\n" for note in notes if not as_json), err=True, nl=False)
    with ExitStack() as stack:
        refused = _refused_rows(refused_file, table, survey.width, stack)
        ids, sends = Ids(campaign or digest_of(common), counts=repeat), (repeat, template)
        given = producer, table, country, ids, refused, common, *sends, retrying(wait), campaign
        storing = Storing(*given)
        _store_all(storing, table, file.name, survey.rows)
    _report(storing, refused, refused_file, survey, notes if as_json else None)
    sys.exit(PARTLY if refused.count else 0)


def _table(file: Path, sends_all: bool, **more: Any) -> Table:
    table = Table(file, Reading(**more))
    if sends_all and table.columns.has_reasons and "id" not in table.columns.names:
        raise NotAList(REPEATED)
    return table


def _rows_to_mend(
    path: Path | None, table: Table, stack: ExitStack
) -> Callable[[Row, str], None] | None:
    if path is None:
        return None
    width = max((len(row.cells) for row in table.rows()), default=0)
    return _refused_rows(path, table, width, stack).add


def _refused_rows(path: Path, table: Table, width: int, stack: ExitStack) -> RefusedRows:
    try:
        return RefusedRows(path, table, width, stack)
    except OSError as error:
        text = f"no file of refused rows can be made: {error.strerror} (--refused FILE)"
        raise _wrong(text) from None


def _campaign(given: str | None, common: Any, dry_run: bool) -> str | None:
    """Returns the campaign that the command line or the common part names."""
    if common is None and not (given or dry_run):
        raise click.UsageError("without --common, you must name the --campaign")
    named = common.get("campaign") if isinstance(common, Mapping) else None
    if given and named and given != named:
        text = f"--campaign is {given!r}, but the common part's campaign is {named!r}"
        raise click.UsageError(f"{text}: name one")
    name = given or named
    try:
        return require_campaign(name) if name else None
    except ValueError as error:
        raise click.UsageError(str(error)) from None


def _campaign_notes(name: str | None, table: Table, dry_run: bool) -> Iterator[str]:
    """Yields what there is under a campaign's name, or almost under it: it may be another's."""
    if name is None and "campaign" in table.columns.names:
        return
    if name is None:
        yield "no --campaign: nobody can watch, pause or cancel these messages together"
        return
    try:
        producer = Producer.from_env()
        found = producer.campaign(name).progress()
        names = [] if found.added else [each.name for each in producer.campaigns()]
    except (ConfigError, StoreUnavailable) as error:
        if not dry_run:
            raise
        yield f"whether campaign {name!r} exists is not looked up: {error}"
        return
    if found.state == "cancelled":
        text = f"campaign {name!r} was cancelled, and takes no more: use another --campaign NAME"
        if not dry_run:
            raise _wrong(text)
        yield text
    elif found.added:
        had = f"campaign {name!r} has {counted(found.added, 'message')} since {found.created}"
        yield f"{had} ({found.state}): this list is added to it"
    elif others := [*map(repr, {*get_close_matches(name, names)} - {name})]:
        yield f"campaign {name!r} is new, and there is {' and '.join(others)}: is the name right?"


def _refused_file(file: Path, common_file: Path | None, given: Path | None) -> Path:
    path = given or file.with_name(f"{file.name}.refused.csv")
    if not file.is_file():
        raise click.UsageError("FILE must be a regular file: it is read twice")
    if path.exists():
        old = Path(f"{path}.old")  # what is replaced when there is a file already
        places = [each for each in (path, old) if each.exists()]
        given_files = [each for each in (file, common_file) if each and each.exists()]
        if any(place.samefile(each) for place in places for each in given_files):
            raise click.UsageError("--refused must be another file than FILE and --common")
        if not path.is_file():
            raise click.UsageError("--refused must be a regular file")
    return path


def _store_all(storing: Storing, table: Table, name: str, total: int) -> None:
    with _bar() as bar:
        task = bar.add_task(name, total=total, rate="")
        began, done, rows = time.monotonic(), 0, table.rows()
        try:
            while chunk := list(islice(rows, CHUNK_ROWS)):
                table.require_unchanged()
                with _before_storing():
                    storing.store(chunk)
                done += len(chunk)
                rate = f"{done / (time.monotonic() - began):,.0f}/s"
                bar.update(task, completed=done, rate=rate)
        except (KeyboardInterrupt, QueueFull, StoreUnavailable, NotAList):
            bar.stop()
            stored = storing.stored + storing.stored_before
            advice = "Start the same command again to go on; it sends nothing twice."
            click.echo(f"Stopped: {stored:,} of {total:,} rows are stored. {advice}", err=True)
            raise


def _bar() -> Progress:
    return Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(None),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}", markup=False),
        TimeRemainingColumn(compact=True),
        console=Console(stderr=True, highlight=False),
        disable=not is_terminal(sys.stderr),
        transient=True,
        expand=True,
    )


def _report(
    storing: Storing, refused: RefusedRows, path: Path, survey: Survey, notes: list[str] | None
) -> None:
    """Prints what was done; as JSON if there are ``notes``, which are printed before else."""
    kept = str(path) if refused.count else None
    if notes is not None:
        counts = {"stored": storing.stored, "storedBefore": storing.stored_before}
        counts |= {"repeated": storing.repeated, "refused": refused.count}
        counts |= {"suppressed": storing.suppressed}
        found = {"reasons": dict(refused.reasons.most_common()), "countries": survey.countries}
        return emit({**counts, "refusedFile": kept, **found, "notes": notes})
    new, before = counted(storing.stored, "message"), storing.stored_before
    click.echo(f"{new} stored, {before:,} {'was' if before == 1 else 'were'} there before")
    if storing.suppressed:
        click.echo(f"{counted(storing.suppressed, 'message')} to suppressed numbers: not sent")
    if storing.stored_before and not storing.stored:
        click.echo("This campaign has nothing new. To send it again, use --campaign NAME.")
    if kept:
        click.echo(f"{counted(refused.count, 'row')} refused: see {kept}", err=True)
        for reason, count in refused.reasons.most_common(REASONS):
            click.echo(f"  {count:,}: {reason}", err=True)

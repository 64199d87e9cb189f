"""``courier bulk``: streams a campaign from a CSV file. Started again, it sends nothing twice."""

from __future__ import annotations

import csv
import json
import os
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from itertools import islice
from pathlib import Path
from typing import Any, TextIO, TypeVar
from uuid import NAMESPACE_OID, uuid5

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from viber_courier import (
    Conflict,
    EnqueueError,
    InvalidMessage,
    Producer,
    QueueFull,
    StoreUnavailable,
)
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
from viber_courier.producers.client import CHUNK_ROWS
from viber_courier.schemas.encoding import digest_of
from viber_courier.schemas.fields import CONTENT, JOB, Seconds
from viber_courier.store.connection import is_transient, store_errors
from viber_courier.store.keys import Keys

FIELDS = JOB.fields
COLUMNS = {
    *(FIELDS.keys() - {"content", "metadata"}),
    *(f"content.{name}" for schema in CONTENT.values() for name in schema.fields),
}
"""Allowed names of columns, besides ``metadata.<name>``."""
RETRY_SECONDS = 0.5
"""Pause between tries while the queue is full or Redis can't be used."""
T = TypeVar("T")
Row = tuple[int, list[str]]
"""The line on which a row begins, from 1, and its cells."""


class Table:
    """A CSV file (RFC 4180): its columns and its rows, which can be read again."""

    def __init__(
        self, path: Path, encoding: str, delimiter: str | None, renamed: Mapping[str, str]
    ) -> None:
        self._path = path
        # utf-8-sig reads files with and without a BOM.
        self._encoding = "utf-8-sig" if encoding.lower() in ("utf-8", "utf8") else encoding
        with self._open() as file:
            first = file.readline()
        self._delimiter = delimiter or max(",;\t|", key=first.count)
        self.header = next(self._records(), (1, [""]))[1]
        self.names = [renamed.get(name.strip(), name.strip()) for name in self.header]
        if missing := [name for name in renamed if name not in map(str.strip, self.header)]:
            raise _wrong(f"--map names a column {missing[0]!r} that the file doesn't have")
        for place, name in enumerate(self.names, 1):
            if name not in COLUMNS and not name.startswith("metadata.") and name != "-":
                # In a file without a header this would be a phone number.
                column = repr(name) if any(map(str.isalpha, name)) else f"number {place}"
                raise _wrong(
                    f"column {column} is not a field of a job: the first line must name the fields;"
                    " --map COLUMN=FIELD renames a column, --map COLUMN=- ignores it"
                )
        if twice := [n for n, times in Counter(self.names).items() if times > 1 and n != "-"]:
            raise _wrong(f"there are two columns {twice[0]!r}")
        if "address" not in self.names:
            raise _wrong("no column 'address' for the phone numbers (--map COLUMN=address)")

    def rows(self) -> Iterator[Row]:
        """Yields the rows below the header, without empty ones."""
        return ((line, cells) for line, cells in islice(self._records(), 1, None) if any(cells))

    def count(self) -> int:
        """Counts the rows, and so finds what can't be read before anything is stored."""
        return sum(1 for _ in self.rows())

    def job(self, cells: Sequence[str]) -> dict[str, Any]:
        """Returns a row as a job, without the fields of empty cells."""
        job: dict[str, Any] = {}
        for name, cell in zip(self.names, cells, strict=True):
            if cell and name != "-":
                outer, dot, inner = name.partition(".")
                digits = isinstance(FIELDS[outer], Seconds) and cell.isascii() and cell.isdigit()
                value = int(cell) if digits and len(cell) < 10 else cell
                (job.setdefault(outer, {}) if dot else job)[inner or outer] = value
        return job

    def _open(self) -> TextIO:
        return self._path.open(encoding=self._encoding, newline="")

    def _records(self) -> Iterator[Row]:
        try:
            with self._open() as file:
                reader, line = csv.reader(file, delimiter=self._delimiter, strict=True), 1
                for cells in reader:
                    if cells:
                        yield line, cells
                    line = reader.line_num + 1
        except csv.Error as error:
            raise _wrong(f"the row that begins on line {line} can't be read: {error}") from None


class Ids:
    """Makes each row's id from the campaign and the phone number, not from the row's place.

    So a row that moves, or comes again in another file, stays the same message. A number's second
    row in one file is another message. Takes about 100 bytes of memory for each number.
    """

    def __init__(self, campaign: str) -> None:
        self._space = uuid5(NAMESPACE_OID, campaign)
        self._rows = Counter[str]()

    def next(self, address: str) -> str:
        """Returns the id of the next row with this number."""
        number = address.removeprefix("+")
        self._rows[number] += 1
        return str(uuid5(self._space, f"{number} {self._rows[number]}"))


class Refused:
    """The file of refused rows. The first of them creates it, readable by its owner only."""

    def __init__(self, path: Path, header: Sequence[str], stack: ExitStack) -> None:
        self._path, self._header, self._stack = path, header, stack
        self._writer: Any = None
        self.count = 0
        path.unlink(missing_ok=True)  # one that an earlier run left would be taken for ours

    def add(self, line: int, reason: str, cells: Sequence[str]) -> None:
        self.count += 1
        if self._writer is None:
            fd = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with_bom = "utf-8-sig"  # without a BOM, Excel guesses the encoding wrong
            file = self._stack.enter_context(os.fdopen(fd, "w", encoding=with_bom, newline=""))
            self._writer = csv.writer(file)
            self._writer.writerow(["line", "reason", *self._header])
        self._writer.writerow([line, reason, *cells])


class Run:
    """One pass over the file. ``stored_before``: rows that an earlier run had stored."""

    def __init__(
        self,
        producer: Producer,
        table: Table,
        ids: Ids,
        refused: Refused,
        common: Mapping[str, Any] | None,
        retry: Callable[[Callable[[], Any]], Any],
    ) -> None:
        self._producer, self._table, self._ids, self._refused = producer, table, ids, refused
        self._common, self._retry = common, retry
        self._record = Keys(producer.settings.namespace).records
        self.stored = self.stored_before = 0

    def store(self, chunk: Sequence[Row]) -> None:
        """Stores those of the rows that are valid. Repeating it changes nothing."""
        complete: list[tuple[Row, dict[str, Any]]] = []
        refused: list[tuple[Row, str]] = []
        for row in chunk:
            if len(row[1]) != len(self._table.names):
                text = f"has {len(row[1])} cells; the first line has {len(self._table.names)}"
                refused.append((row, text))
            else:
                job = self._table.job(row[1])
                id = self._ids.next(job.get("address", ""))
                complete.append((row, {"id": id, **job}))
        before = self._retry(lambda: self._exist([job["id"] for _, job in complete]))
        ids, faults = self._retry(lambda: self._enqueue([job for _, job in complete]))
        refused += [(complete[n][0], _reason(error, self._table.names)) for n, error in faults]
        for (line, cells), text in sorted(refused):
            self._refused.add(line, text, cells)
        self.stored_before += len(before.intersection(ids))
        self.stored += len(set(ids) - before)

    def _exist(self, ids: Sequence[str]) -> set[str]:
        with store_errors(), self._producer.redis.pipeline(transaction=False) as pipe:
            for id in ids:
                pipe.exists(self._record + id)
            return {id for id, found in zip(ids, pipe.execute(), strict=True) if found}

    def _enqueue(self, jobs: list[dict[str, Any]]) -> tuple[list[str], list[tuple[int, Any]]]:
        faults: list[tuple[int, EnqueueError]] = []
        ids = self._producer.enqueue_many(
            jobs, self._common, lambda number, _, error: faults.append((number, error))
        )
        return ids, faults


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


def _reason(error: EnqueueError, names: Sequence[str]) -> str:
    if isinstance(error, Conflict) and "id" not in names:
        return "this number has another message in this campaign: use a new --campaign NAME"
    if isinstance(error, InvalidMessage):
        return "; ".join(f"{path} {' '.join(t)}" for path, t in sorted(error.errors.items()))
    return str(error)


def _wrong(text: str) -> Failure:
    return Failure(f"nothing was stored: {text}", WRONG)


def _open_table(path: Path, encoding: str, *more: Any) -> tuple[Table, int]:
    """Returns the table and its number of rows; Failure if it can't be read to its end."""
    try:
        table = Table(path, encoding, *more)
        return table, table.count()
    except LookupError:
        raise click.UsageError(f"no such encoding: {encoding}") from None
    except UnicodeError:
        with path.open("rb") as file:
            bad = next((n for n, line in enumerate(file, 1) if not _decodes(line, encoding)), 1)
        text = f"line {bad} is not {encoding}: name the encoding with --encoding, e.g. cp1251"
        raise _wrong(text) from None


def _decodes(line: bytes, encoding: str) -> bool:
    try:
        line.decode(encoding)
    except UnicodeError:
        return False
    return True


def _read_common(path: Path | None) -> Any:
    if path is None:
        return None
    try:
        return json.loads(path.read_bytes())
    except (ValueError, RecursionError):
        raise _wrong(f"{path} is not JSON") from None


def _renamed(ctx: Any, param: Any, pairs: tuple[str, ...]) -> dict[str, str]:
    return dict(pair.partition("=")[::2] for pair in pairs)


PATH = click.Path(dir_okay=False, path_type=Path)


@command(
    partly="some rows were refused (see the file named); the others are stored",
    wrong="wrong usage, settings, file or common part: nothing was stored",
    away="Redis or a full queue blocked it for too long: repeat the command to go on",
    stopped="interrupted (Ctrl-C): repeat the command to go on",
)
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--common", "common_file", type=PATH, help="JSON: the fields that all rows share.")
@click.option("--campaign", help="Name that the ids are made from. [default: the common part]")
@click.option("--map", "renamed", multiple=True, metavar="COLUMN=FIELD", callback=_renamed)
@click.option("--delimiter", help="[default: found in the first line: , ; tab or |]")
@click.option("--encoding", default="utf-8", help="With or without a BOM.")
@click.option("--refused", "refused_file", type=PATH, help="[default: FILE.refused.csv]")
@click.option("--wait", type=Duration(), default="10m", help="Longest time to keep retrying.")
@json_option
def bulk(
    file: Path,
    common_file: Path | None,
    campaign: str | None,
    refused_file: Path | None,
    wait: float,
    as_json: bool,
    **form: Any,
) -> None:
    """Store a message for each row of a CSV file.

    The first line names the fields: address, id, subject, content.text, metadata.order ... For an
    empty cell the common part's value is used. --map COLUMN=FIELD renames a column, --map COLUMN=-
    ignores it.

    After an interruption, start the same command again: it sends nothing twice, even if you have
    edited the file, because ids are made from the campaign and the phone number. A number that is
    in the file twice gets two messages. To send the same again, name another campaign.

    Refused rows go to a file, with their line and the reason. While the queue is full or Redis
    can't be used, the command retries for up to --wait.
    """
    common = _read_common(common_file)
    if common is None and not campaign:
        raise click.UsageError("without --common, you must name the --campaign")
    if not file.is_file():
        raise click.UsageError("FILE must be a regular file: it is read twice")
    refused_file = refused_file or file.with_name(f"{file.name}.refused.csv")
    if refused_file.resolve() == file.resolve():
        raise click.UsageError("--refused must be another file than FILE")
    table, total = _open_table(file, form["encoding"], form["delimiter"], form["renamed"])
    producer = Producer.from_env()
    with ExitStack() as stack:
        bar = stack.enter_context(_bar())
        task = bar.add_task(file.name, total=total, rate="")
        refused = Refused(refused_file, table.header, stack)
        ids = Ids(campaign or digest_of(common))
        run = Run(producer, table, ids, refused, common, retrying(wait))
        began, done, rows = time.monotonic(), 0, table.rows()
        try:
            while chunk := list(islice(rows, CHUNK_ROWS)):
                run.store(chunk)
                done += len(chunk)
                rate = f"{done / (time.monotonic() - began):,.0f}/s"
                bar.update(task, completed=done, rate=rate)
        except InvalidMessage as error:
            raise _wrong(_reason(error, ())) from None  # the common part is wrong, not a row
        except (KeyboardInterrupt, QueueFull, StoreUnavailable):
            bar.stop()
            _report_interruption(run, total)
            raise
    _report(run, refused, refused_file, as_json)
    sys.exit(PARTLY if refused.count else 0)


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


def _report_interruption(run: Run, total: int) -> None:
    stored = run.stored + run.stored_before
    advice = "Start the same command again to go on; it sends nothing twice."
    click.echo(f"Stopped: {stored:,} of {total:,} rows are stored. {advice}", err=True)


def _report(run: Run, refused: Refused, path: Path, as_json: bool) -> None:
    kept = str(path) if refused.count else None
    if as_json:
        counts = {"stored": run.stored, "storedBefore": run.stored_before, "refused": refused.count}
        return emit({**counts, "refusedFile": kept})
    click.echo(f"{run.stored:,} messages stored, {run.stored_before:,} were there before")
    if run.stored_before and not run.stored:
        click.echo("This campaign has nothing new. To send it again, use --campaign NAME.")
    if kept:
        click.echo(f"{refused.count:,} rows refused: see {kept}", err=True)

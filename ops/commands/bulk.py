"""``courier bulk``: a campaign from a CSV file, streamed; started again it sends nobody twice."""

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
from viber_courier.producers.client import CHUNK
from viber_courier.schemas.encoding import digest_of
from viber_courier.schemas.fields import CONTENT, JOB, Seconds
from viber_courier.store.connection import passes, store_errors
from viber_courier.store.keys import Keys

FIELDS = JOB.fields
COLUMNS = {
    *(FIELDS.keys() - {"content", "metadata"}),
    *(f"content.{name}" for schema in CONTENT.values() for name in schema.fields),
}
"""What a column may be called; ``metadata.<name>`` besides."""
PAUSE = 0.5
"""Seconds between tries while the queue is full or Redis away."""
T = TypeVar("T")
Row = tuple[int, list[str]]
"""The line that a row begins on, from 1, and its cells."""


class Table:
    """A CSV file (RFC 4180): its columns, and its rows as often as they are asked for."""

    def __init__(
        self, path: Path, encoding: str, delimiter: str | None, renamed: Mapping[str, str]
    ) -> None:
        self._path = path
        # With BOM or without. Anything else is as the operator says.
        self._encoding = "utf-8-sig" if encoding.lower() in ("utf-8", "utf8") else encoding
        with self._open() as file:
            first = file.readline()
        self._delimiter = delimiter or max(",;\t|", key=first.count)
        self.header = next(self._records(), (1, [""]))[1]
        self.names = [renamed.get(name.strip(), name.strip()) for name in self.header]
        if lost := [name for name in renamed if name not in map(str.strip, self.header)]:
            raise _wrong(f"--map names a column {lost[0]!r} that isn't there")
        for place, name in enumerate(self.names, 1):
            if name not in COLUMNS and not name.startswith("metadata.") and name != "-":
                # Of a file without a header this would be a phone number.
                named = repr(name) if any(map(str.isalpha, name)) else f"number {place}"
                raise _wrong(
                    f"column {named} is no field of a job: the first line names columns, --map"
                    " COLUMN=FIELD renames one, --map COLUMN=- leaves it out"
                )
        if twice := [n for n, times in Counter(self.names).items() if times > 1 and n != "-"]:
            raise _wrong(f"column {twice[0]!r} is there twice")
        if "address" not in self.names:
            raise _wrong("no column 'address' has the phone numbers (--map COLUMN=address)")

    def rows(self) -> Iterator[Row]:
        """Rows below the header; those with nothing in them are passed over."""
        return ((line, cells) for line, cells in islice(self._records(), 1, None) if any(cells))

    def count(self) -> int:
        """How many rows there are. What can't be read is found now, before anything is stored."""
        return sum(1 for _ in self.rows())

    def job(self, cells: Sequence[str]) -> dict[str, Any]:
        """A row as a job; an empty cell is a field that isn't given."""
        job: dict[str, Any] = {}
        for name, cell in zip(self.names, cells, strict=True):
            if cell and name != "-":
                outer, dot, inner = name.partition(".")
                whole = isinstance(FIELDS[outer], Seconds) and cell.isascii() and cell.isdigit()
                value = int(cell) if whole and len(cell) < 10 else cell
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
    """An id for each row, by campaign and phone number: not by its place in a file that is edited.

    So a row that is moved, or comes again in another file, is the same message. The same number
    once more in one file is another one. Keeps some 100 bytes for each number.
    """

    def __init__(self, campaign: str) -> None:
        self._space = uuid5(NAMESPACE_OID, campaign)
        self._seen = Counter[str]()

    def next(self, address: str) -> str:
        """The id of the next row to this number."""
        number = address.removeprefix("+")
        self._seen[number] += 1
        return str(uuid5(self._space, f"{number} {self._seen[number]}"))


class Refused:
    """The file of refused rows, made with the first of them: readable by its owner only."""

    def __init__(self, path: Path, header: Sequence[str], stack: ExitStack) -> None:
        self._path, self._header, self._stack = path, header, stack
        self._writer: Any = None
        self.count = 0
        path.unlink(missing_ok=True)  # an earlier run's would be taken for this one's

    def add(self, line: int, reason: str, cells: Sequence[str]) -> None:
        self.count += 1
        if self._writer is None:
            place = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with_bom = "utf-8-sig"  # Excel takes it for something else without
            file = self._stack.enter_context(os.fdopen(place, "w", encoding=with_bom, newline=""))
            self._writer = csv.writer(file)
            self._writer.writerow(["line", "reason", *self._header])
        self._writer.writerow([line, reason, *cells])


class Run:
    """One pass over the file. ``before``: rows that an earlier run had stored."""

    def __init__(
        self,
        producer: Producer,
        table: Table,
        ids: Ids,
        refused: Refused,
        common: Mapping[str, Any] | None,
        patiently: Callable[[Callable[[], Any]], Any],
    ) -> None:
        self._producer, self._table, self._ids, self._refused = producer, table, ids, refused
        self._common, self._patiently = common, patiently
        self._record = Keys(producer.settings.namespace).record
        self.stored = self.before = 0

    def store(self, chunk: Sequence[Row]) -> None:
        """Store what is right of these rows; a repeat changes nothing."""
        good: list[tuple[Row, dict[str, Any]]] = []
        wrong: list[tuple[Row, str]] = []
        for row in chunk:
            if len(row[1]) != len(self._table.names):
                text = f"has {len(row[1])} cells, the first line {len(self._table.names)}"
                wrong.append((row, text))
            else:
                job = self._table.job(row[1])
                id = self._ids.next(job.get("address", ""))
                good.append((row, {"id": id, **job}))
        before = self._patiently(lambda: self._exist([job["id"] for _, job in good]))
        ids, faults = self._patiently(lambda: self._enqueue([job for _, job in good]))
        wrong += [(good[n][0], _why(error, self._table.names)) for n, error in faults]
        for (line, cells), text in sorted(wrong):
            self._refused.add(line, text, cells)
        self.before += len(before.intersection(ids))
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


def patience(wait: float) -> Callable[[Callable[[], T]], T]:
    """Calls what it is given again while the queue is full or Redis away, for ``wait`` seconds."""

    def patiently(call: Callable[[], T]) -> T:
        end, said = time.monotonic() + wait, False
        while True:
            try:
                return call()
            except (QueueFull, StoreUnavailable) as error:
                lasting = isinstance(error, StoreUnavailable) and not passes(error.__cause__)
                if lasting or time.monotonic() + PAUSE > end:
                    raise
                if not said:
                    click.echo(f"Waiting, at most {wait:g} s: {error}", err=True)
                said = True
                time.sleep(PAUSE)

    return patiently


def _why(error: EnqueueError, names: Sequence[str]) -> str:
    if isinstance(error, Conflict) and "id" not in names:
        return "this number has another message in this campaign (--campaign NAME: a new one)"
    if isinstance(error, InvalidMessage):
        return "; ".join(f"{path} {' '.join(t)}" for path, t in sorted(error.errors.items()))
    return str(error)


def _wrong(text: str) -> Failure:
    return Failure(f"nothing was stored: {text}", WRONG)


def _open_table(path: Path, encoding: str, *more: Any) -> tuple[Table, int]:
    """The table and its number of rows, read through once; Failure where that isn't possible."""
    try:
        table = Table(path, encoding, *more)
        return table, table.count()
    except LookupError:
        raise click.UsageError(f"no such encoding: {encoding}") from None
    except UnicodeError:
        with path.open("rb") as file:
            bad = next((n for n, line in enumerate(file, 1) if not _decodes(line, encoding)), 1)
        text = f"line {bad} is not {encoding}: --encoding cp1251, utf-16 ... says what it is"
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
        raise _wrong(f"{path} holds no JSON") from None


def _renamed(ctx: Any, param: Any, pairs: tuple[str, ...]) -> dict[str, str]:
    return dict(pair.partition("=")[::2] for pair in pairs)


PATH = click.Path(dir_okay=False, path_type=Path)


@command(
    partly="some rows were refused (see the file named), the others are stored",
    wrong="wrong usage, settings, file or common part: nothing was stored",
    away="Redis was away or the queue full for too long: start again to go on",
    stopped="interrupted (Ctrl-C): start again to go on",
)
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--common", "common_file", type=PATH, help="JSON: what all rows share.")
@click.option("--campaign", help="Its name: part of the ids. Else the common part names it.")
@click.option("--map", "renamed", multiple=True, metavar="COLUMN=FIELD", callback=_renamed)
@click.option("--delimiter", help="Else found in the first line: , ; tab or |")
@click.option("--encoding", default="utf-8", show_default=True, help="BOM or not.")
@click.option("--refused", "refused_file", type=PATH, help="Else FILE.refused.csv")
@click.option("--wait", type=Duration(), default="10m", show_default=True)
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

    The first line names the fields: address, id, subject, content.text, metadata.order ... An empty
    cell takes the common part's value. Interrupted and started again it sends nobody twice, also
    after the file was edited: ids come from the campaign and the phone number. A number that
    stands twice in the file gets two messages. To send the same once more, name another campaign.

    Refused rows go to a file with line and reason. While the queue is full or Redis is away it
    waits (--wait), then stops. --map COLUMN=- leaves a column out.
    """
    common = _read_common(common_file)
    if common is None and not campaign:
        raise click.UsageError("without --common, --campaign must name what is sent")
    if not file.is_file():
        raise click.UsageError("FILE must be a file: it is read twice")
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
        run = Run(producer, table, ids, refused, common, patience(wait))
        began, done, rows = time.monotonic(), 0, table.rows()
        try:
            while chunk := list(islice(rows, CHUNK)):
                run.store(chunk)
                done += len(chunk)
                rate = f"{done / (time.monotonic() - began):,.0f}/s"
                bar.update(task, completed=done, rate=rate)
        except InvalidMessage as error:
            raise _wrong(_why(error, ())) from None  # the common part: a row's is in the file
        except (KeyboardInterrupt, QueueFull, StoreUnavailable):
            bar.stop()
            _tell_rest(run, total)
            raise
    _tell(run, refused, refused_file, as_json)
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


def _tell_rest(run: Run, total: int) -> None:
    stored = run.stored + run.before
    again = "start the same command again to go on, nobody is sent twice"
    click.echo(f"Stopped: {stored:,} of {total:,} rows are stored; {again}.", err=True)


def _tell(run: Run, refused: Refused, path: Path, as_json: bool) -> None:
    kept = str(path) if refused.count else None
    if as_json:
        counts = {"stored": run.stored, "storedBefore": run.before, "refused": refused.count}
        return emit({**counts, "refusedFile": kept})
    click.echo(f"{run.stored:,} messages stored, {run.before:,} were there before")
    if run.before and not run.stored:
        click.echo("Nothing is new in this campaign; --campaign NAME sends all of it once more.")
    if kept:
        click.echo(f"{refused.count:,} rows refused: lines and reasons are in {kept}", err=True)

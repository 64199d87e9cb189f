"""Stores a list's messages, each number once, so that a second run sends nothing twice."""

from __future__ import annotations

import csv
import os
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from uuid import NAMESPACE_OID, uuid5

from viber_courier import Conflict, EnqueueError, InvalidMessage, Producer
from viber_courier.ops.lists.columns import REASON, Refusal, Row
from viber_courier.ops.lists.recipients import NOT_ITS_ID, Recipient, read_recipient
from viber_courier.ops.lists.tables import Table
from viber_courier.producers.preview import reason_of
from viber_courier.store.connection import store_errors
from viber_courier.store.keys import Keys


class Ids:
    """Makes each message's id from the campaign and the phone number, not from the row's place.

    So a row that moves, is spelled otherwise or comes in another file stays the same message. With
    ``counts``, a number's second row in one file is another message.
    """

    def __init__(self, campaign: str, counts: bool) -> None:
        self._space = uuid5(NAMESPACE_OID, campaign)
        self._rows, self._counts = Counter[str](), counts

    def next(self, number: str) -> str:
        """Returns the id of the next row with this number."""
        if self._counts:
            self._rows[number] += 1
        return str(uuid5(self._space, f"{number} {self._rows[number] if self._counts else 1}"))


class RefusedRows:
    """The file of refused rows, in the list's own form and with the reason as the last column.

    It is readable by its owner only, and not kept if it has none. An earlier run's file gets the
    ending ``.old``: rows may have been mended in it. ``width``: the list's widest row.
    """

    def __init__(self, path: Path, table: Table, width: int, stack: ExitStack) -> None:
        self.reasons = Counter[str]()
        self._rows = ListFile(path, table, width, [REASON], stack)
        stack.callback(lambda: None if self.count else path.unlink())

    def add(self, row: Row, reason: str) -> None:
        """Writes a row."""
        self.reasons[reason] += 1
        self._rows.write(row, [reason])

    @property
    def count(self) -> int:
        """How many rows were refused."""
        return self.reasons.total()


class ListFile:
    """A file in a list's own form, with its rows and more columns at their end.

    It is readable by its owner only. ``width``: the list's widest row. A file that is there gets
    the ending ``.old``.
    """

    def __init__(
        self, path: Path, table: Table, width: int, more: Sequence[str], stack: ExitStack
    ) -> None:
        self._header = [*table.columns.header]
        self._header += [""] * (width - len(self._header))
        if path.exists():
            path.replace(f"{path}.old")
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        # A reason may name a column in letters that the list's encoding lacks.
        form = {"encoding": table.form.encoding, "errors": "backslashreplace", "newline": ""}
        file = stack.enter_context(os.fdopen(fd, "w", **form))  # type: ignore
        table.form.begin(file)
        form = {"delimiter": table.form.delimiter, "lineterminator": table.form.line_end}
        self._writers = [
            csv.writer(file, quoting=quoting, **form)  # type: ignore
            for quoting in (csv.QUOTE_MINIMAL, csv.QUOTE_ALL)
        ]
        self._write([*self._header, *more])

    def write(self, row: Row, more: Sequence[str]) -> None:
        """Writes a row."""
        fill = [""] * (len(self._header) - len(row.cells))
        self._write([*row.cells, *fill, *more])

    def _write(self, cells: Sequence[str]) -> None:
        # Python before 3.13 quotes only the line breaks that it ends lines with.
        has_breaks = any("\r" in cell or "\n" in cell for cell in cells)
        self._writers[has_breaks].writerow(cells)


class Storing:
    """One pass over a list. ``stored_before``: messages that an earlier run had stored."""

    def __init__(
        self,
        producer: Producer,
        table: Table,
        country: str | None,
        ids: Ids,
        refused: RefusedRows,
        common: Mapping[str, Any] | None,
        sends_all: bool,
        template: bool,
        retry: Callable[[Callable[[], Any]], Any],
        campaign: str | None = None,
    ) -> None:
        self._producer, self._columns, self._country = producer, table.columns, country
        self._ids, self._refused, self._common = ids, refused, common
        self._sends_all, self._template, self._retry = sends_all, template, retry
        self._record = Keys(producer.settings.namespace).records
        self._numbers, self._campaign = set[int](), campaign
        self.stored = self.stored_before = self.repeated = 0
        self._suppressed = set[str]()

    @property
    def suppressed(self) -> int:
        """How many messages were stored for suppressed numbers, which get none."""
        return len(self._suppressed)

    def store(self, chunk: Sequence[Row]) -> None:
        """Stores those of the rows that are valid. Repeating it changes nothing."""
        good, refused, made = list[Recipient](), list[tuple[Row, str]](), dict[int, str]()
        for row in chunk:
            try:
                good.append(read_recipient(row, self._columns, self._country))
                number = good[-1].number.digits
            except Refusal as wrong:
                refused.append((row, str(wrong)))
                number = wrong.number
            made[row.line] = self._ids.next(number)  # once mended, it has the same place
        while good:
            batch, good = self._split(good)
            refused += self._enqueue(batch, made)
        for row, reason in sorted(refused):
            self._refused.add(row, reason)

    def _split(self, rows: list[Recipient]) -> tuple[list[Recipient], list[Recipient]]:
        """Returns the first row of each number, and those to look at again after these are stored.

        A number's second row is sent if its first is refused.
        """
        if self._sends_all:
            return rows, []
        batch, later = dict[str, Recipient](), list[Recipient]()
        for each in rows:
            if int(each.number.digits) in self._numbers:
                self.repeated += 1
            elif batch.setdefault(each.number.digits, each) is not each:
                later.append(each)
        return [*batch.values()], later

    def _enqueue(
        self, batch: list[Recipient], made: Mapping[int, str]
    ) -> Iterator[tuple[Row, str]]:
        """Stores rows, under ids ``made`` by line; returns those that were refused, and why."""
        jobs = [{"id": made[each.row.line], **each.job} for each in batch]
        before = self._retry(lambda: self._existing([job["id"] for job in jobs]))
        lines = [each.row.line for each in batch]
        ids, faults = self._retry(lambda: self._attempt(jobs, lines))
        self.stored_before += len(before.intersection(ids))
        self.stored += len(set(ids) - before)
        if not self._sends_all:
            self._numbers.update(int(each.number.digits) for each in batch)
            self._numbers.difference_update(int(batch[n].number.digits) for n, _ in faults)
        return ((batch[n].row, self._reason(error, "id" in batch[n].job)) for n, error in faults)

    def _existing(self, ids: Sequence[str]) -> set[str]:
        with store_errors(), self._producer.redis.pipeline(transaction=False) as pipe:
            for id in ids:
                pipe.exists(self._record + id)
            return {id for id, found in zip(ids, pipe.execute(), strict=True) if found}

    def _attempt(
        self, jobs: list[Any], lines: Sequence[int]
    ) -> tuple[list[str], list[tuple[int, Any]]]:
        faults: list[tuple[int, EnqueueError]] = []
        # Of a file: known to no type checker
        common: Any = self._common
        given: Any = {
            "on_invalid": lambda number, _, error: faults.append((number, error)),
            "on_suppressed": lambda _, __, id: self._suppressed.add(id),
        }
        if self._campaign is None:
            given["template"] = self._template
            return self._producer.enqueue_many(jobs, common, **given), faults
        campaign = self._producer.campaign(self._campaign, common, template=self._template)
        return campaign.add(jobs, numbers=lines, **given), faults

    def _reason(self, error: EnqueueError, has_own_id: bool) -> str:
        if isinstance(error, Conflict):
            if has_own_id:
                return NOT_ITS_ID
            return "this number has another message in this campaign: use a new --campaign NAME"
        return reason_of(error) if isinstance(error, InvalidMessage) else str(error)

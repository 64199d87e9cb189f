"""A list of recipients from a file of any form: its columns, and its rows, repeatedly."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from viber_courier.ops.lists.columns import (
    BLANKS,
    HEADER_ROWS,
    Columns,
    Row,
    find_header,
    has_no_header,
)
from viber_courier.ops.lists.files import HEAD, NotAList, is_workbook
from viber_courier.ops.lists.recipients import counted
from viber_courier.ops.lists.sheets import Sheet
from viber_courier.ops.lists.texts import Text


@dataclass(frozen=True)
class Reading:
    """What the user says of a list's form; None: it is found out.

    ``renamed`` maps names in the header to names of fields. ``template``: other columns may have
    any name.
    """

    renamed: Mapping[str, str]
    encoding: str | None = None
    delimiter: str | None = None
    sheet: str | None = None
    template: bool = False


class Table:
    """A list: ``columns``, ``rows()`` and ``form``. Raises NotAList if the file is none."""

    def __init__(self, path: Path, reading: Reading) -> None:
        self._path, self._mark = path, _mark(path)
        with path.open("rb") as file:
            head = file.read(HEAD)
        given = {name.strip(BLANKS).casefold(): name for name in reading.renamed}
        renamed = {name: reading.renamed[as_given].strip() for name, as_given in given.items()}
        self._source: Sheet | Text
        if is_workbook(path, head):
            self._source = Sheet(path, reading.sheet)
        elif reading.sheet is not None:
            raise NotAList("--sheet names a sheet, and the file is no workbook")
        else:
            self._source = Text(path, reading.encoding, reading.delimiter, renamed)
        self.form = self._source.form
        first = list(islice(self._source.records(), HEADER_ROWS))
        if not first:
            raise NotAList("the list is empty")
        place = find_header(first, renamed)
        self.has_header = place > 0 or not has_no_header(first[0].cells)
        others = self._source.others if isinstance(self._source, Sheet) else 0
        more = f"not read: {counted(others, 'more sheet')}; --sheet NAME reads another"
        try:
            header = first[place].cells if self.has_header else ["address"]
            self.columns = Columns(header, renamed, reading.template)
        except NotAList as wrong:
            raise NotAList(f"{wrong} ({more})" if others else str(wrong)) from None
        if missing := [given[name] for name in given.keys() - _seen(first[place])]:
            raise NotAList(f"--map names a column {missing[0]!r} that the file doesn't have")
        self._above = place + 1 if self.has_header else 0
        self.notes = [*self._notes(place), *([more] if others else ())]

    def require_unchanged(self) -> None:
        """Raises NotAList if the file isn't what it was: its columns may be others by now."""
        if _mark(self._path) != self._mark:
            raise NotAList("the file was changed in the meantime")

    def rows(self) -> Iterator[Row]:
        """Yields the rows below the header with a cell for each column, without blank ones."""
        for line, cells in islice(self._source.records(), self._above, None):
            mine = self.columns.cells(cells)
            if any(mine):
                yield Row(line, mine)

    def value_notes(self, common: object) -> Iterator[str]:
        """Yields a note on columns in texts whose values a sheet may show otherwise.

        Only once the rows have been read.
        """
        if isinstance(self._source, Sheet):
            named = {
                n: name for n, name in enumerate(self.columns.names) if f"{{{name}}}" in str(common)
            }
            if found := [repr(named[n]) for n in sorted(self._source.formatted) if n in named]:
                text = (
                    "texts get 0.15 for 15 %, 2026-11-30 for 30.11.2026, whatever the sheet shows"
                )
                yield f"column {' and '.join(found)}: {text}. Format it as text to choose"

    def _notes(self, place: int) -> Iterator[str]:
        if not self.has_header:
            yield "the list has no header: its one column is taken as the phone numbers"
        elif place:
            yield f"left out: {counted(place, 'row')} above the header"
        if isinstance(self._source, Sheet) and self._source.hidden is None:
            yield "errors and merged cells look empty in this format: save the list as .xlsx"
        elif isinstance(self._source, Sheet) and self._source.hidden:
            yield f"read all the same: {counted(self._source.hidden, 'hidden row')} of the sheet"


def _mark(path: Path) -> tuple[int, ...]:
    about = path.stat()
    return about.st_ino, about.st_size, about.st_mtime_ns


def _seen(header: Row) -> set[str]:
    return {cell.strip(BLANKS + "\"'").casefold() for cell in header.cells}

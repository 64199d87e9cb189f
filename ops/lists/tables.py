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
from viber_courier.ops.lists.sheets import Sheet
from viber_courier.ops.lists.texts import Text


@dataclass(frozen=True)
class Reading:
    """What the user says of a list's form; None: it is found out.

    ``renamed`` maps names in the header to names of fields.
    """

    renamed: Mapping[str, str]
    encoding: str | None = None
    delimiter: str | None = None
    sheet: str | None = None


class Table:
    """A list: ``columns``, ``rows()`` and ``form``. Raises NotAList if the file is none."""

    def __init__(self, path: Path, reading: Reading) -> None:
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
        self.has_header = not has_no_header(first[0].cells)
        self.columns = Columns(first[place].cells if self.has_header else ["address"], renamed)
        if missing := [given[name] for name in given.keys() - _seen(first[place])]:
            raise NotAList(f"--map names a column {missing[0]!r} that the file doesn't have")
        self._above = place + 1 if self.has_header else 0
        self.notes = list(self._notes(place))

    def rows(self) -> Iterator[Row]:
        """Yields the rows below the header with a cell for each column, without blank ones."""
        for line, cells in islice(self._source.records(), self._above, None):
            mine = self.columns.cells(cells)
            if any(mine):
                yield Row(line, mine)

    def _notes(self, place: int) -> Iterator[str]:
        if not self.has_header:
            yield "the list has no header: its one column is taken as the phone numbers"
        elif place:
            yield f"{place} rows above the header are left out"
        if isinstance(self._source, Sheet) and self._source.others:
            yield f"{len(self._source.others)} more sheets are not read; --sheet NAME reads another"


def _seen(header: Row) -> set[str]:
    return {cell.strip(BLANKS + "\"'").casefold() for cell in header.cells}

"""A list's columns: which fields of a job they are, and what a row's cells say. Pure."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from viber_courier.ops.lists.files import NotAList
from viber_courier.schemas.fields import CONTENT, JOB, Seconds

FIELDS = JOB.fields
COLUMNS = {
    *(FIELDS.keys() - {"content", "metadata", "sendWindow"}),
    *(f"content.{name}" for schema in CONTENT.values() for name in schema.fields),
    *("sendWindow.from", "sendWindow.to", "sendWindow.zone"),
}
"""Allowed names of columns, besides ``metadata.<name>``."""
_FOLDED = {name.casefold(): name for name in COLUMNS}
TEXTS = ("content.text", "content.caption", "smsText", "comment")
"""Cells of these, and of ``metadata``, are kept as they are: blanks around a text are its own."""
IGNORED = "-"
REASON = "reason"
"""The last column of a file of refused rows. It is ignored when that file is given back."""
HEADER_ROWS = 10
"""Rows among which the header is looked for: titles may stand above it."""
BLANKS = (
    " \t\r\n\v\f\x1a\x1c\x1d\x1e\x1f\x85\xa0\xad\u1680\u2028\u2029\u202f\u205f\u3000\ufeff"
    "\u2000\u2001\u2002\u2003\u2004\u2005\u2006\u2007\u2008\u2009\u200a\u200b\u200c\u200d\u200e"
    "\u200f\u202a\u202b\u202c\u202d\u202e\u2060\u2066\u2067\u2068\u2069"
)
"""What is invisible: a cell of nothing else is empty."""
ERROR = re.compile(
    r"#(?:N/A|REF!|VALUE!|DIV/0!|NAME\?|NUM!|NULL!|SPILL!|CALC!|GETTING_DATA|\#+)|"
    r"#(?:Н/Д|ССЫЛКА!|ЗНАЧ!|ДЕЛ/0!|ИМЯ\?|ЧИСЛО!|ПУСТО!)"
)
"""What a spreadsheet shows in place of a value, in English and Russian."""
MERGED = "#MERGED"
"""What stands for a cell that a sheet shows with the value of one above."""
WORDS = {"true": "true", "false": "false", "истина": "true", "ложь": "false"}
WHOLE = re.compile(r"([0-9]{1,9})(?:[.,]0+)?")


class Row(NamedTuple):
    """A row: the line on which it begins, from 1, and its cells, one for each column."""

    line: int
    cells: Sequence[str]


class Refusal(Exception):
    """A row can't be used. The text says why and repeats no cell. ``number``: if it can be read."""

    number = ""


def is_blank(cell: str) -> bool:
    """Returns whether a cell holds nothing that can be seen."""
    return not cell or not cell.strip(BLANKS)


def name_of(cell: str, renamed: Mapping[str, str]) -> str:
    """Returns the field that a header's cell names, as the API spells it; else the cell itself."""
    cell = cell.strip(BLANKS + "\"'")
    name = renamed.get(cell.casefold(), cell)
    if name[:9].casefold() == "metadata.":
        return "metadata." + name[9:]
    return _FOLDED.get(name.casefold(), name)


def is_field(name: str) -> bool:
    """Returns whether a column may have this name."""
    return name in COLUMNS or name in ("", IGNORED) or name.startswith("metadata.")


class Columns:
    """The columns that a header names. ``header`` is the header as written, without ``reason``.

    ``has_reasons``: it is that of a file of refused rows.

    With ``template``, other names are a template's (schemas/template.py). Otherwise raises NotAList
    if it names what is no field of a job; also without an ``address``.
    """

    def __init__(
        self, header: Sequence[str], renamed: Mapping[str, str], template: bool = False
    ) -> None:
        self.header = list(trimmed(header))
        names = [name_of(cell, renamed) for cell in self.header]
        is_ours = len(names) > 1 and names[-1].casefold() == REASON and REASON not in renamed
        self._reason = len(names) - 1 if is_ours else None
        self.has_reasons = is_ours
        if is_ours:
            del names[-1], self.header[-1]
        self.names = names
        if not is_header(names):
            raise NotAList(
                "no column is a field of a job: the first line must name the fields, such as"
                " address;content.text; --map COLUMN=FIELD renames a column"
            )
        for place, name in enumerate(names, 1):
            if not (template or is_field(name)):
                # A name or a number in what is no header must not be repeated.
                is_word = any(map(str.isalpha, name)) and sum(map(str.isdigit, name)) < 5
                column = repr(name) if is_word else f"number {place}"
                raise NotAList(
                    f"column {column} is not a field of a job: the first line must name the fields;"
                    " --map COLUMN=FIELD renames a column, --map COLUMN=- ignores it,"
                    " --template takes it for texts, as {column}"
                )
        if twice := [n for n, times in Counter(names).items() if times > 1 and n not in ("", "-")]:
            raise NotAList(f"there are two columns {twice[0]!r}")
        if "address" not in names:
            raise NotAList("no column 'address' for the phone numbers (--map COLUMN=address)")
        self._fields = [(n, name) for n, name in enumerate(names) if name != IGNORED]

    def cells(self, cells: Sequence[str]) -> list[str]:
        """Returns a record's cells without the reason, filled up to the columns' number.

        There may be more of them, if some have no column.
        """
        mine = list(cells)
        if self._reason is not None and len(mine) > self._reason:
            del mine[self._reason]
        mine = list(trimmed(mine))
        return mine + [""] * (len(self.names) - len(mine))

    def job(self, cells: Sequence[str]) -> dict[str, Any]:
        """Returns a row as a job, without the fields of empty cells. Raises Refusal."""
        for place, cell in enumerate(cells[len(self.names) :], len(self.names) + 1):
            if not is_blank(cell):
                raise Refusal(f"column {place} has a value and no name")
        job: dict[str, Any] = {}
        for place, name in self._fields:
            cell = cells[place]
            if is_blank(cell):
                continue
            if not name:
                raise Refusal(f"column {place + 1} has a value and no name")
            if cell == MERGED:
                raise Refusal(f"{name} is merged with the row above, and has no value of its own")
            if cell[0] == "#" and ERROR.fullmatch(cell.strip(BLANKS)):
                text = "an error, as #N/A, or a formula that was never calculated"
                raise Refusal(f"{name} holds {text}: mend it, and save it in Excel")
            outer, dot, inner = name.partition(".") if is_field(name) else (name, "", "")
            (job.setdefault(outer, {}) if dot else job)[inner or outer] = _value(name, outer, cell)
        return job


def is_header(names: Sequence[str]) -> bool:
    """Returns whether a record is the header, and no row or title: it names fields."""
    return any(name in COLUMNS or name.startswith("metadata.") for name in names)


def trimmed(cells: Sequence[str]) -> Sequence[str]:
    """Returns cells without the empty ones at their end."""
    size = len(cells)
    while size and is_blank(cells[size - 1]):
        size -= 1
    return cells[:size]


def _value(name: str, outer: str, cell: str) -> Any:
    if name in TEXTS or outer == "metadata" or name == "address":
        return cell
    cell = cell.strip(BLANKS)
    if isinstance(FIELDS.get(outer), Seconds) and (whole := WHOLE.fullmatch(cell)):
        return int(whole[1])
    return WORDS.get(cell.casefold(), cell) if name == "resendSms" else cell


def find_header(records: Sequence[Row], renamed: Mapping[str, str]) -> int:
    """Returns which of the first records is the header: the first that names an address, else 0."""
    for n, record in enumerate(records[:HEADER_ROWS]):
        names = [name_of(cell, renamed) for cell in trimmed(record.cells)]
        if "address" in names:
            return n
    return 0


def fit(records: Sequence[Row], renamed: Mapping[str, str]) -> tuple[int, ...]:
    """Returns how well records fit a list's form; of several readings the greatest fits best.

    That is: how many names of the header are fields; how few are none, as a template's; how few
    rows have more cells than the header; how little is left in the cells once the delimiters are
    taken out.
    """
    if not records:
        return (-1, 0, 0, 0)
    place = find_header(records, renamed)
    names = [name_of(cell, renamed) for cell in trimmed(records[place].cells)]
    known = sum(is_field(n) or n.casefold() == REASON for n in names)
    below = [len(trimmed(record.cells)) for record in records[place + 1 :]]
    left = sum(len(cell.strip(" ")) for record in records for cell in record.cells)
    longer = sum(size > len(names) for size in below)
    return known if is_header(names) else 0, known - len(names), -longer, -left


def has_no_header(first: Sequence[str]) -> bool:
    """Returns whether a list begins with one number and nothing else: it has one column."""
    cells = trimmed(first)
    is_one = len(cells) == 1 and not any(map(str.isalpha, cells[0]))
    return is_one and sum(map(str.isdigit, cells[0])) >= 7

"""Reads a list from a sheet of a workbook: .xlsx, and what else python-calamine reads."""

from __future__ import annotations

import re
import zipfile
from collections.abc import Iterator
from datetime import date, time, timedelta
from html import unescape
from pathlib import Path
from typing import Any

from viber_courier.ops.lists.columns import MERGED, Row, is_blank
from viber_courier.ops.lists.files import NotAList
from viber_courier.ops.lists.texts import Form

ERROR = "#N/A"
"""What stands for a cell with an error, or with a formula that was never calculated."""
SHEET = re.compile(rb"<(?:\w+:)?sheet\b[^>]*>")
HIDDEN = re.compile(rb"<(?:\w+:)?row\b[^>]*\shidden=[\"'](?:1|true)[\"']")
AREA = re.compile(rb"<(?:\w+:)?mergeCell\b[^>]*\bref=[\"']([A-Z]+)([0-9]+):([A-Z]+)([0-9]+)[\"']")
BAD_CELL = re.compile(
    rb"<(?:\w+:)?c\b([^>]*\bt=[\"']e[\"'][^>]*)>|"
    rb"<(?:\w+:)?c\b([^>]*)>\s*<(?:\w+:)?f\b(?:[^>]*/>|[^>]*>[^<]*</(?:\w+:)?f>)\s*"
    rb"(?:(<(?:\w+:)?v\s*/>|<(?:\w+:)?v></(?:\w+:)?v>)|</(?:\w+:)?c>)"
)
"""An error, or a formula without a value; an empty value of type "str" is one."""
PLACE = re.compile(rb"\br=[\"']([A-Z]{1,3})([0-9]{1,7})[\"']")
IS_TEXT = re.compile(rb"\bt=[\"']str[\"']")


class Sheet:
    """A list in a workbook: the sheet with this name, else the first that isn't hidden."""

    form = Form()

    def __init__(self, path: Path, name: str | None) -> None:
        try:
            import python_calamine as calamine
        except ModuleNotFoundError:
            text = "workbooks are read with python-calamine: pip install 'viber-courier[ops]'"
            raise NotAList(text) from None
        try:
            self._book = calamine.CalamineWorkbook.from_path(path)
        except calamine.PasswordError:
            raise NotAList("the workbook is protected by a password: save it without") from None
        except (calamine.CalamineError, OSError):
            text = "the file is no workbook that can be read: save it as .xlsx or CSV"
            raise NotAList(text) from None
        sheets, visible = self._book.sheets_metadata, calamine.SheetVisibleEnum.Visible
        kind = calamine.SheetTypeEnum.WorkSheet
        shown = [n for n, s in enumerate(sheets) if s.visible == visible and s.typ == kind]
        if name is not None:
            shown = [n for n, sheet in enumerate(sheets) if sheet.name == name]
            if not shown:
                raise NotAList("the workbook has no sheet with the name that --sheet gives")
        if not shown:
            raise NotAList("all sheets are hidden: name one with --sheet")
        try:
            self._sheet = self._book.get_sheet_by_index(shown[0])
        except calamine.CalamineError:
            raise NotAList("the sheet can't be read: save the workbook again") from None
        self.others = len(shown) - 1
        self.formatted = set[int]()  # columns with values that a sheet shows by a format
        self._bad, self._areas, self.hidden = _beside(path, shown[0])

    def records(self) -> Iterator[Row]:
        """Yields all rows but blank ones, the header's included, with each value as text."""
        # Rows come from the sheet's first, cells from the first column that has any.
        _, left = self._sheet.start or (0, 0)
        rows = enumerate(self._sheet.iter_rows(), 1)
        while True:
            try:
                line, values = next(rows)
            except StopIteration:
                return
            except (OverflowError, ValueError):
                text = "a number is formatted as a date or a time: format the column as text"
                raise NotAList(f"the sheet can't be read: {text}") from None
            cells = [_text(value) for value in values]
            self.formatted.update(n for n, value in enumerate(values) if _is_formatted(value))
            for column in self._bad.get(line, ()):
                if left <= column < left + len(cells):
                    cells[column - left] = ERROR
            if not all(map(is_blank, cells)):
                for first, top, last, bottom in self._areas:
                    if top < line <= bottom:
                        for column in range(max(first, left), min(last + 1, left + len(cells))):
                            cells[column - left] = MERGED
                yield Row(line, cells)


def _is_formatted(value: Any) -> bool:
    if isinstance(value, float):
        return not value.is_integer()
    return isinstance(value, date | time | timedelta)


def _text(value: Any) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        return str(int(value)) if value.is_integer() else repr(value)
    return value.isoformat() if isinstance(value, date | time) else str(value)


def _beside(
    path: Path, place: int
) -> tuple[dict[int, list[int]], list[tuple[int, ...]], int | None]:
    """Returns what calamine doesn't tell.

    That is: by line the columns, from 0, of cells that it shows as empty, but aren't; areas of
    merged cells that have several rows; how many rows are hidden, None if this can't be known.
    """
    found, areas, hidden = dict[int, list[int]](), list[tuple[int, ...]](), 0
    try:
        with zipfile.ZipFile(path) as archive, archive.open(_part(archive, place)) as file:
            rest, more = b"", True
            while more:
                more = bool(piece := file.read(1 << 16))
                rest += piece
                # The last row may go on in the next piece.
                end = max(rest.rfind(b"row>"), 0) if more else len(rest)
                for match in BAD_CELL.finditer(rest, 0, end):
                    if match[3] and IS_TEXT.search(match[2]):
                        continue
                    if not (at := PLACE.search(match[1] or match[2])):
                        text = (
                            "errors, or formulas without a value: mend them, and save it in Excel"
                        )
                        raise NotAList(f"the sheet has {text}")
                    found.setdefault(int(at[2]), []).append(_column(at[1]))
                hidden += len(HIDDEN.findall(rest, 0, end))
                for first, top, last, bottom in AREA.findall(rest, 0, end):
                    if top != bottom:
                        areas.append((_column(first), int(top), _column(last), int(bottom)))
                rest = rest[end:]
    except (zipfile.BadZipFile, KeyError, IndexError):
        return {}, [], None  # another format of workbook
    return found, areas, hidden


def _part(archive: zipfile.ZipFile, place: int) -> str:
    """Returns the name of a sheet's part in the archive. Raises KeyError or IndexError."""
    tag = SHEET.findall(archive.read("xl/workbook.xml"))[place]
    links = archive.read("xl/_rels/workbook.xml.rels")
    id = _attribute(tag, rb"\w+:id")
    for link in re.findall(rb"<(?:\w+:)?Relationship\b[^>]*>", links):
        if _attribute(link, b"Id") == id:
            target = unescape(_attribute(link, b"Target").decode())
            return target.removeprefix("/") if target.startswith("/") else f"xl/{target}"
    raise KeyError


def _attribute(tag: bytes, name: bytes) -> bytes:
    found = re.search(rb"\s" + name + rb"\s*=\s*[\"']([^\"']*)[\"']", tag)
    return found[1] if found else b""


def _column(letters: bytes) -> int:
    number = 0
    for letter in letters:
        number = number * 26 + letter - 64
    return number - 1

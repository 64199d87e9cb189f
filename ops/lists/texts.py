"""Reads a list from a text, as CSV in whatever form, and writes refused rows in the same form."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TextIO

from viber_courier.ops.lists.columns import HEADER_ROWS, Row, fit, is_blank
from viber_courier.ops.lists.encodings import find_encoding
from viber_courier.ops.lists.files import HEAD, NotAList

DELIMITERS = (",", ";", "\t", "|")
SAMPLE_ROWS = HEADER_ROWS + 40
SEP = re.compile(r"\ufeff?\"?sep=(.)\"?[,;\t|]*(?:\r\n|\r|\n|$)", re.I)
"""The first line with which Excel is told the delimiter."""


@dataclass(frozen=True)
class Form:
    """How a list is written. The defaults are those of the refused rows of a workbook."""

    encoding: str = "utf-8"
    has_bom: bool = True
    delimiter: str = ";"
    line_end: str = "\r\n"
    has_sep: bool = False

    def begin(self, file: TextIO) -> None:
        """Writes what stands above the header."""
        sep = f"sep={self.delimiter}{self.line_end}" if self.has_sep else ""
        file.write("\ufeff" * self.has_bom + sep)


class Text:
    """A list in a text file. Raises NotAList if it can't be read."""

    def __init__(
        self, path: Path, encoding: str | None, delimiter: str | None, renamed: Mapping[str, str]
    ) -> None:
        self._path = path
        found, has_bom = find_encoding(path, encoding, renamed)
        with path.open("rb") as file:
            # A character may be cut in two at the end.
            head = file.read(HEAD).decode(found, "ignore").removeprefix("\ufeff")
        ends = re.findall(r"\r\n|\r|\n", head)
        sep = SEP.match(head)
        self.form = Form(found, has_bom, delimiter or ",", ends[0] if ends else "\n", bool(sep))
        if sep and not delimiter:
            self.form = Form(found, has_bom, sep[1], self.form.line_end, True)
        elif not delimiter:
            self.form = max(
                (Form(found, has_bom, each, self.form.line_end, False) for each in DELIMITERS),
                key=lambda form: _fit(head, form, renamed),
            )

    def records(self) -> Iterator[Row]:
        """Yields all rows but blank ones, the header's included. Raises NotAList."""
        try:
            with self._path.open(encoding=self.form.encoding, newline="") as file:
                if self.form.has_bom:
                    file.read(1)
                yield from _records(file, self.form)
        except UnicodeError:
            raise NotAList(f"line {self._first_bad_line()} is not {self.form.encoding}") from None

    def _first_bad_line(self) -> int:
        with self._path.open(encoding=self.form.encoding, errors="replace") as file:
            return next((n for n, line in enumerate(file, 1) if "\ufffd" in line), 1)


def _fit(head: str, form: Form, renamed: Mapping[str, str]) -> tuple[int, ...]:
    rows, is_readable = list[Row](), False
    with suppress(NotAList):
        for row in islice(_records(io.StringIO(head, newline=""), form), SAMPLE_ROWS):
            rows.append(row)
        is_readable = True
    known, *more = fit(rows, renamed)
    return known, is_readable, *more


def _records(file: TextIO, form: Form) -> Iterator[Row]:
    reader, line = csv.reader(file, delimiter=form.delimiter, strict=True), 1
    try:
        for cells in reader:
            if not (line == 1 and form.has_sep) and not all(map(is_blank, cells)):
                yield Row(line, cells)
            line = reader.line_num + 1
    except csv.Error as error:
        raise NotAList(f"the row that begins on line {line} can't be read: {error}") from None

"""Who is on a list: a row as a job with its number, and what all rows together hold. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, NamedTuple

from viber_courier.ops.lists.columns import Columns, Refusal, Row
from viber_courier.ops.lists.phone import Number, read_number
from viber_courier.schemas.errors import InvalidMessage

SHOWN = 3
"""Messages that a dry run shows."""
LINES = 5
"""Lines of repeated numbers that are named."""
FEW = 0.1
"""A country with at most this part of a list's numbers, or with one of them, is told."""


class Recipient(NamedTuple):
    """A row as a job, whose ``address`` is the number that it was read as."""

    row: Row
    job: dict[str, Any]
    number: Number


def read_recipient(row: Row, columns: Columns, country: str | None) -> Recipient:
    """Returns a row's job and number. Raises Refusal."""
    job = columns.job(row.cells)
    if "address" not in job:
        raise Refusal("address is required")
    try:
        number = read_number(job["address"], country)
    except InvalidMessage as wrong:
        raise Refusal(reason_of(wrong)) from None
    job["address"] = number.digits
    return Recipient(row, job, number)


def reason_of(wrong: InvalidMessage) -> str:
    """Returns every fault of a job by field, without its values."""
    return "; ".join(f"{path} {' '.join(texts)}" for path, texts in sorted(wrong.errors.items()))


class Survey:
    """Counts what a list holds before any of it is stored. ``check`` raises for an invalid job."""

    def __init__(self, check: Callable[[Mapping[str, Any]], object] | None = None) -> None:
        self._check, self._seen = check, set[int]()
        self.rows = self.refused = self.repeated = self.landlines = self.width = 0
        self.reasons, self.countries = Counter[str](), Counter[str]()
        self.first: list[Recipient] = []
        self.repeated_lines: list[int] = []

    def add(self, rows: Iterable[Row], columns: Columns, country: str | None) -> None:
        """Counts rows. Takes about 100 bytes of memory for each number."""
        for row in rows:
            self.rows += 1
            self.width = max(self.width, len(row.cells))
            try:
                recipient = read_recipient(row, columns, country)
                if self._check:
                    self._check(recipient.job)
            except (Refusal, InvalidMessage) as wrong:
                text = reason_of(wrong) if isinstance(wrong, InvalidMessage) else str(wrong)
                self.reasons[text] += 1
                self.refused += 1
            else:
                self._count(recipient)

    def _count(self, recipient: Recipient) -> None:
        number = int(recipient.number.digits)
        if number in self._seen:
            self.repeated += 1
            if self.repeated <= LINES:
                self.repeated_lines.append(recipient.row.line)
            return
        self._seen.add(number)
        self.countries[recipient.number.country] += 1
        self.landlines += recipient.number.is_landline
        if len(self.first) < SHOWN:
            self.first.append(recipient)

    @property
    def numbers(self) -> int:
        """How many different numbers there are."""
        return len(self._seen)

    def few(self) -> Iterator[tuple[str, int]]:
        """Yields the countries that the list otherwise hardly has, with how many numbers."""
        if self.numbers < 3 or max(self.countries.values()) <= self.numbers / 2:
            return
        for country, count in self.countries.most_common()[1:]:
            if count <= max(1, FEW * self.numbers):
                yield country, count

    def notes(self, sends_all: bool, name_of: Callable[[str], str]) -> Iterator[str]:
        """Yields a sentence on each thing that the sender should know."""
        for country, count in self.few():
            yield f"{count:,} of {self.numbers:,} numbers {_is(count)} in {name_of(country)}"
        if self.repeated:
            lines = ", ".join(map(str, self.repeated_lines))
            more = " ..." if self.repeated > LINES else ""
            does = "sent all the same (--repeat)" if sends_all else "left out (--repeat sends all)"
            rows = f"{self.repeated:,} {'row repeats' if self.repeated == 1 else 'rows repeat'}"
            line = "line" if self.repeated == 1 else "lines"
            yield f"{rows} an earlier row's number: {does}, {line} {lines}{more}"
        if self.landlines:
            what = "a landline" if self.landlines == 1 else "landlines"
            numbers = f"{self.landlines:,} of {self.numbers:,} numbers {_is(self.landlines)} {what}"
            yield f"{numbers}, where hardly anybody has Viber"


def _is(count: int) -> str:
    return "is" if count == 1 else "are"


def counted(count: int, noun: str) -> str:
    """Returns "1 row", "2 rows"."""
    return f"{count:,} {noun}{'s' * (count != 1)}"

"""Who is on a list: a row as a job with its number, and what all rows together hold. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from typing import Any, NamedTuple

from viber_courier.ops.lists.columns import Columns, Refusal, Row
from viber_courier.ops.lists.phone import Number, read_number
from viber_courier.producers.preview import Tally, reason_of
from viber_courier.producers.rows import Checks
from viber_courier.schemas.errors import InvalidMessage
from viber_courier.schemas.message import require_in_time

LINES = 5
"""Lines of repeated numbers that are named."""
NOT_ITS_ID = "id belongs to another message"
"""Why a row is refused that has another message's id."""
FEW = 0.1
"""A country with at most this part of a list's numbers, or with one of them, is told."""


class Recipient(NamedTuple):
    """A row as a job, whose ``address`` is the number that it was read as."""

    row: Row
    job: dict[str, Any]
    number: Number


def read_recipient(row: Row, columns: Columns, country: str | None) -> Recipient:
    """Returns a row's job and number. Raises Refusal."""
    try:
        job = columns.job(row.cells)
    except Refusal as wrong:
        with suppress(InvalidMessage):
            address = row.cells[columns.names.index("address")]
            wrong.number = read_number(address, country).digits
        raise
    if "address" not in job:
        raise Refusal("address is required")
    try:
        number = read_number(job["address"], country)
    except InvalidMessage as wrong:
        raise Refusal(reason_of(wrong)) from None
    job["address"] = number.digits
    return Recipient(row, job, number)


class Survey(Tally):
    """Counts what a list holds before any of it is stored.

    With ``checks``, as of ``now``, rows are checked and counted as messages, too: each number's
    first, or each with ``sends_all``. ``refused`` is given each refused row and why.
    """

    def __init__(
        self,
        checks: Checks | None = None,
        now: float = 0,
        sends_all: bool = False,
        refused: Callable[[Row, str], None] | None = None,
    ) -> None:
        super().__init__()
        self._refused = refused
        self._checks, self._now, self._sends_all = checks, now, sends_all
        self.landlines = self.width = 0
        self.lines = dict[str, int]()  # the first of each reason
        self._owners = dict[int, int]()  # whose is each id of the list's own; hashes, to be small
        self.repeated_lines: list[int] = []

    def add(self, rows: Iterable[Row], columns: Columns, country: str | None) -> None:
        """Counts rows. Takes about 100 bytes of memory for each number."""
        for row in rows:
            self.rows += 1
            self.width = max(self.width, len(row.cells))
            try:
                recipient = read_recipient(row, columns, country)
                self._count(recipient)
            except (Refusal, InvalidMessage) as wrong:
                reason = str(wrong) if isinstance(wrong, Refusal) else reason_of(wrong)
                self.lines.setdefault(reason, row.line)
                self.refuse(reason)
                if self._refused:
                    self._refused(row, reason)

    def _count(self, recipient: Recipient) -> None:
        number, checks = recipient.number, self._checks
        job = checks and require_in_time(checks.parse(recipient.job, self._now))
        if job and job.id and (self._sends_all or int(number.digits) not in self._seen):
            self._require_own(job.id, job.digest)
        if is_new := self.number(number.digits, lambda _: number.country):
            self.landlines += number.is_landline
        elif self.repeated <= LINES:
            self.repeated_lines.append(recipient.row.line)
        if checks and job and (is_new or self._sends_all):
            self.message(checks, recipient.job, job, checks.wire(job))

    def _require_own(self, id: str, digest: str) -> None:
        if self._owners.setdefault(hash(id), hash(digest)) != hash(digest):
            raise Refusal(NOT_ITS_ID)

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

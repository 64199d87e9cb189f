"""What became of each row of a list: joined by id, since several lists may have the same line."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from viber_courier import ReportRow
from viber_courier.ops.lists.columns import Refusal, Row
from viber_courier.ops.lists.recipients import NOT_ITS_ID, read_recipient
from viber_courier.ops.lists.storing import Ids
from viber_courier.ops.lists.tables import Table

COLUMNS = ("status", "reason", "submitted", "ended")
"""The columns that a row gets at its end."""
End = tuple[str, str, str, str]
EXPIRED, ABSENT = "no longer known", "not in this campaign"


def ends_of(report: Iterable[ReportRow]) -> dict[str, End]:
    """Returns what became of each message of a report; the last of those that were sent again."""
    ends, first = dict[str, End](), dict[str, str]()
    for row in report:
        id = row.id
        if row.resend_of:
            id = first[id] = first.get(row.resend_of, row.resend_of)
        status = row.status or EXPIRED
        ends[id] = status, row.reason or "", row.submitted or "", row.ended or ""
    return ends


def outcomes(
    table: Table, country: str | None, ids: Ids, ends: dict[str, End], sends_all: bool
) -> Iterator[tuple[Row, End]]:
    """Yields a list's rows with what became of each."""
    seen, owners = set[int](), dict[str, str]()
    for row in table.rows():
        try:
            recipient = read_recipient(row, table.columns, country)
        except Refusal as wrong:
            ids.next(wrong.number)
            yield row, ("refused", str(wrong), "", "")
            continue
        number = recipient.number.digits
        id, own = ids.next(number), recipient.job.get("id")
        if int(number) in seen and not (sends_all or own in ends):
            yield row, ("repeated", "an earlier row has this number", "", "")
            continue
        seen.add(int(number))
        if own and owners.setdefault(own, number) != number:
            yield row, ("refused", NOT_ITS_ID, "", "")
            continue
        yield row, ends.get(own or id, ("", ABSENT, "", ""))

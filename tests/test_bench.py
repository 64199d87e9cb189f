"""The bench's own honesty: its double answers as the API does, its table says what was found."""

from __future__ import annotations

import pytest

from viber_courier.ops.bench.figures import Row, Values, quantile, spread
from viber_courier.ops.bench.report import line
from viber_courier.schemas.wire import read_send, read_status, send_body, status_body


def row(ours: list[float], goal: float, sign: str, peer: list[float] | None = None) -> Row:
    against = Values("a peer", peer) if peer else None
    return Row("figure", "ms", Values("ours", ours), goal, sign, against)  # type: ignore[arg-type]


def test_the_double_answers_what_the_worker_can_read() -> None:
    pytest.importorskip("uvloop", reason="extra bench")
    from viber_courier.ops.bench.provider import Book

    book, text = Book(), 'a quoted "address" is no message'
    messages = [{"address": f"7925000000{n}", "content": {"text": text}} for n in range(3)]
    sent = read_send(book.send(send_body({"subject": "Shop"}, messages, False)))
    assert sent.status == "ok" and sent.entries
    assert [entry.code for entry in sent.entries] == ["ok"] * 3
    ids = [entry.provider_id for entry in sent.entries if entry.provider_id]
    assert len(set(ids)) == 3
    known = read_status(book.status(status_body(ids)))
    assert known.entries and [entry.provider_id for entry in known.entries] == ids
    assert {entry.status for entry in known.entries} == {"sent"}
    assert book.counts["messages"] == 3


@pytest.mark.parametrize(
    ("found", "reached"),
    [
        (row([30.0, 50.0, 40.0], 2.0, ">=", [20.0]), True),
        (row([30.0, 50.0, 40.0], 2.1, ">=", [20.0]), False),
        (row([150.0], 150.0, "<="), True),
        (row([151.0], 150.0, "<="), False),
        (row([1.0], 1 / 12, "<=", [11.0]), False),
    ],
)
def test_a_goal_is_reached_by_the_medians_or_it_is_not(found: Row, reached: bool) -> None:
    assert (found.fraction >= 1) is reached
    assert line(found).endswith("| yes |" if reached else "| **no** |")


def test_values_show_their_median_and_how_far_runs_went() -> None:
    assert spread(Values("ours", [12345.0, 999.4, 3.0])) == "999 (3 - 12,300)"
    assert quantile(list(range(200)), 0.99) == 198

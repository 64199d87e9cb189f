"""The bench's own honesty: its double answers as the API does, its table says what was found."""

from __future__ import annotations

import json
import time
from contextlib import ExitStack
from pathlib import Path

import pytest

from viber_courier.ops.bench.figures import Found, Row, Values, quantile, spread
from viber_courier.ops.bench.load import paced
from viber_courier.ops.bench.report import line, machine, write
from viber_courier.ops.bench.shapes import SHAPES
from viber_courier.schemas.fields import JOB
from viber_courier.schemas.message import Campaign, parse_job
from viber_courier.schemas.wire import read_send, read_status, send_body, status_body


def row(ours: list[float], goal: float | None, sign: str, peer: list[float] | None = None) -> Row:
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


def test_a_row_without_a_goal_shows_only_the_ratio() -> None:
    assert line(row([1.0], None, "<=", [4.0])).endswith("|  | 1/4 x | |")


def test_a_run_is_written_as_a_page_and_as_json(tmp_path: Path) -> None:
    found = Found([row([30.0], 2.0, ">=", [10.0])], [("other", "ms", Values("a peer", [5.0]))])
    found.notes.append("a note")
    write(found, machine("6.2", [0.1], 0.0), 3, tmp_path)
    page = (tmp_path / "benchmarks.md").read_text()
    assert line(found.rows[0]) in page
    assert "\n| other | a peer | 5 ms |\n" in page and "\n\n- a note\n" in page
    assert json.loads((tmp_path / "benchmarks.json").read_text())["rows"][0]["score"] == 3.0


@pytest.mark.parametrize("name", SHAPES)
def test_jobs_of_every_shape_are_valid_one_by_one_and_as_rows(name: str) -> None:
    shape, now = SHAPES[name], time.time()
    campaign = Campaign(shape.common, now)
    for job, own in zip(shape.jobs(40), shape.rows(40), strict=True):
        assert parse_job(job, now).digest == campaign.parse_row(own, now).digest
    assert len({job["address"] for job in shape.jobs(40)}) == 40


def test_mixed_jobs_have_every_kind_and_field_and_texts_of_a_usual_length() -> None:
    jobs = SHAPES["mixed"].wire(500)
    assert {name for job in jobs for name in job} == {*JOB.fields}
    buttons = [job["content"] for job in jobs if job["contentType"] == "button"]
    assert {"imageUrl" in content for content in buttons} == {True, False}
    texts = [job["content"]["text"] for job in jobs if job["contentType"] != "image"]
    assert {job["contentType"] for job in jobs} == {"text", "button", "image"}
    assert len({*texts}) == len(texts) and all(70 <= len(text) <= 300 for text in texts)


def test_a_paced_load_measures_each_call() -> None:
    got: list[str] = []

    def emit(job: dict[str, str]) -> None:
        got.append(job["address"])
        time.sleep(0.002)

    measured = paced(emit, SHAPES["plain"].jobs(5), 200)
    assert [*measured["begun"]] == got and len(got) == 5
    assert len(measured["calls"]) == len(measured["call_cpu"]) == 5
    assert min(measured["calls"]) >= 0.002


def test_a_peer_posts_messages_with_and_without_sms_in_two_requests(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in ("uvloop", "celery_batches"):
        pytest.importorskip(name, reason="extra bench")
    from viber_courier.ops.bench.lab import Lab
    from viber_courier.ops.bench.peers import post

    with ExitStack() as stack:
        provider = Lab(stack).provider
        monkeypatch.setenv("BENCH_API_URL", provider.url)
        post(SHAPES["sms"].wire(10))
        counts = provider.get("counts")
        assert (counts["requests"], counts["messages"]) == (2, 10)
        post(SHAPES["plain"].wire(10))
        assert provider.get("counts")["requests"] == 3

"""The counters: their names, and the one reading of them that every view shows."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

import pytest

from tests.conftest import Courier, Start, common_job, ends
from tests.test_exporter import scrape
from viber_courier import Producer
from viber_courier.ops.commands.top import FUNNEL
from viber_courier.ops.counters import by_status, read_counters
from viber_courier.schemas.settings import Settings
from viber_courier.schemas.status import Reason, Status
from viber_courier.store.counters import (
    BOUNDS,
    GATES,
    UNSURE,
    Oddity,
    code_field,
    observed,
    seen_field,
    status_field,
)

LUA = Path(__file__).parents[1] / "store" / "lua"


def test_what_is_written_under_a_name_is_read_by_it() -> None:
    # Given a counter of every kind, written under the names that writers use
    written = {
        status_field(Status.QUEUED): 9,
        status_field(Status.READ): 2,
        status_field(Status.FAILED, Reason.ATTEMPTS): 3,
        status_field(Status.FAILED, "http-503"): 4,
        code_field("error-system"): 5,
        UNSURE: 6,
        **{"bells": 7, "claims": 8, "claims:empty": 1, "closed:poll": 2},
        Oddity.LATE: 3,
        seen_field(Oddity.LATE): 5_000_000,
    }
    # When they are read
    found = read_counters({name: str(n) for name, n in written.items()}, {})
    # Then each is in its place, and what was never counted is 0
    assert found.fields == written
    assert found.statuses.keys() == {*Status} - {Status.SENDING}
    assert {name: n for name, n in found.statuses.items() if n} == {
        "queued": 9, "read": 2, "failed": 7,
    }  # fmt: skip
    assert found.reasons == {
        ("queued", ""): 9, ("read", ""): 2, ("failed", "attempts"): 3, ("failed", "http-503"): 4,
    }  # fmt: skip
    assert found.codes == {"error-system": 5, "not-sent": 0, "other": 0}
    assert (found.unsure, found.bells, found.claims, found.empty_claims) == (6, 7, 8, 1)
    assert found.closings == {"send": 0, "poll": 2}
    assert found.seen == {Oddity.LATE: 5.0}
    assert found.oddities == {**dict.fromkeys(Oddity, 0), Oddity.LATE: 3}


@pytest.mark.parametrize("gate", GATES)
@pytest.mark.parametrize("measure", BOUNDS)
def test_a_histogram_is_read_as_it_was_written(gate: str, measure: str) -> None:
    low, high = BOUNDS[measure][0], BOUNDS[measure][-1]
    adds = Counter[str]()
    for value in (low, low, high, 2 * high):
        adds.update(observed(gate, **{measure: value}))
    found = read_counters({}, {name: str(n) for name, n in adds.items()})
    buckets, total = found.histograms[gate, measure]
    assert [bound for bound, _ in buckets] == [*map(str, BOUNDS[measure]), "inf"]
    assert [n for _, n in buckets] == [2] * (len(buckets) - 2) + [3, 4]
    assert total == pytest.approx(2 * low + 3 * high)


def test_a_field_that_could_hold_a_phone_number_or_a_text_is_not_read() -> None:
    odd = {"rejected:7925 Иван": "1", "rejected:": "1", "code:A B": "1", "nothing-of-ours": "1"}
    found = read_counters(odd, {})
    assert not found.reasons and set(found.codes) == {"not-sent", "other"}
    assert not any(found.statuses.values())


def test_speeds_are_added_up_as_counters_are() -> None:
    assert by_status({"failed:attempts": 0.5, "failed": 0.25, "bells": 3.0})["failed"] == 0.75


def test_scripts_count_under_names_that_the_reader_knows() -> None:
    texts = [path.read_text() for path in LUA.rglob("*.lua")]
    words = re.findall(r"HINCRBY', counts, (.*?), ", "".join(texts))
    spelled = {word for each in words for word in re.findall("'([a-z:]+)'", each)}
    assert spelled == {"bells", "claims", "claims:empty"}
    closing = "added[gate_change .. ':' .. request.name] = 1"  # closed:<gate>
    assert any(closing in text for text in texts)


def test_each_status_is_on_one_line_of_the_funnel() -> None:
    parts = Counter(part for parts in FUNNEL.values() for part in parts)
    assert set(parts.values()) == {1}
    assert {*Status} - set(parts) == {Status.SENDING, Status.SENT, Status.SMS_SENT}


@pytest.mark.slow
def test_top_and_exporter_count_every_end_as_the_events_do(
    system_env: dict[str, str], start_worker: Start, app: Producer
) -> None:
    # Given messages that end in every way, most of them for a reason
    digits = ("01", "10", "20", "30", "31", "40", "50", "51")
    rows = [{"address": f"7925000{n:02}{end}"} for n in range(4) for end in digits]
    ids = app.enqueue_many(rows, common=common_job(priority="low"))
    app.cancel(ids[0])
    start_worker()
    # When all have ended
    events = ends(app, len(rows))
    entered = {(id, event["status"]) for id, each in events.items() for event in each}
    expected = Counter(status for _, status in entered) + Counter(queued=len(rows))
    assert {"undelivered", "failed", "rejected", "cancelled", "delivered"} <= set(expected)
    # Then top counts them as the events do: each message once in each status that it entered
    courier = Courier(system_env)
    statuses = courier.json("top", "--once")["statuses"]
    assert {name: n for name, n in statuses.items() if n} == expected
    # And so does what it prints
    lines = dict(
        re.findall(r"(?m)^(\w+(?: \w+)?) +([\d,]+) +[\d.]+ *$", courier("top", "--once").stdout)
    )
    assert lines == {
        name: str(sum(expected[part] for part in parts)) for name, parts in FUNNEL.items()
    }
    # And the exporter
    exported = scrape(Settings.from_env(system_env)).all("courier_statuses_total")
    assert {status: n for (status,), n in exported.items() if n} == expected

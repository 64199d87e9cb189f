"""A small chaos run, and runs with planted faults that its oracle must find."""

from __future__ import annotations

import shutil
from itertools import islice
from pathlib import Path

import pytest

from tests.conftest import wait_for
from tests.faults.chaos.archive import Archive
from tests.faults.chaos.disturb import ALWAYS, plan
from tests.faults.chaos.jobs import ENDINGS, NEVER_FINAL
from tests.faults.chaos.report import table
from tests.faults.chaos.run import Options, run
from tests.faults.chaos.stores import Single

SMALL = {
    **{"pauses": (0.5, 2.0), "farthest": 10.0, "retention": 4.0, "naps": (3.0, 8.0)},
    **{"campaigns": 8, "marketing": (0.02, 0.3)},
    "endings": tuple(each for each in ENDINGS if each not in NEVER_FINAL),
}


def test_a_small_chaos_run_breaks_no_promise(tmp_path: Path) -> None:
    # Given workers, Redis and the provider that break every few seconds
    options = Options(seed=3, messages=1500, seconds=18.0, rate=0.01, **SMALL)  # type: ignore[arg-type]
    # When three apps have enqueued, repeated themselves and cancelled
    report = run(options, tmp_path)
    # Then every message ended, and the three ledgers agree
    said = table(options, report)
    print(said)
    assert report.verdict.violations == [], said
    # And it was chaos
    figures = report.verdict.figures
    assert figures["asked"] == 1500 and figures["said to be unsure"] > 0
    campaigns = figures["campaigns"]
    assert campaigns["messages"] > 100 and campaigns["pauses"] > 0
    assert sum(report.acts.values()) >= 3 and sum(report.faults.values()) >= 10
    shutil.rmtree(tmp_path)


def test_a_seed_repeats_its_plan_which_begins_with_a_bit_of_everything() -> None:
    one, other, third = (
        [(kind, chance.random()) for kind, chance in islice(plan(seed, ALWAYS), 40)]
        for seed in (3, 3, 4)
    )
    assert one == other != third
    assert sorted(kind for kind, _ in one[: len(ALWAYS)]) == sorted(ALWAYS)


def test_the_archive_keeps_what_is_trimmed_and_drops_what_redis_forgot(tmp_path: Path) -> None:
    # Given events of which some are trimmed once the archive has them
    store = Single(tmp_path / "redis", "everysec", None)
    archive = Archive(store, "results")
    archive.start()
    try:
        with store.admin() as client:
            for n in range(1, 7):
                client.xadd("results", {"event": f"e{n}"}, id=f"{n}-0")
            wait_for(lambda: archive.is_level(client))
            client.xtrim("results", minid="3-0", approximate=False)
            # When one of the others is gone as Redis comes back, and a new one comes
            client.xdel("results", "5-0")
            client.client_kill_filter(_type="normal", skipme=True)
            client.xadd("results", {"event": "e7"}, id="7-0")
        archive.stop()
    finally:
        store.stop()
    # Then it has all but that one
    assert [*archive.events.values()] == ["e1", "e2", "e3", "e4", "e6", "e7"]
    assert archive.forgotten == [((5, 0), "e5")]


CALM = {"messages": 600, "seconds": 3.0, "rate": 0.0, "acts": False, "apps": 2, "patience": 60.0}
CALM |= {"campaigns": 6, "marketing": (0.02, 0.2)}
"""Nothing breaks but what is planted."""
SOON = (10, 20, 50, 99, 99)
"""Endings that come soon."""


@pytest.mark.parametrize(
    ("plant", "violation"),
    [
        ("", None),
        ("lost-settle", "never ended"),
        ("double-claim", "doubled silently"),
        ("altered", "content altered"),
        ("second-end", "ended twice"),
        ("deaf-to-pauses", "left a paused campaign"),
        ("lost-count", "campaign's total wrong"),
    ],
)
def test_a_planted_fault_is_found(plant: str, violation: str | None, tmp_path: Path) -> None:
    # Given workers of which one thing is wrong now and then (or, first, nothing)
    options = Options(seed=5, plant=plant, endings=SOON, **CALM)  # type: ignore[arg-type]
    # When nothing else breaks
    report = run(options, tmp_path)
    # Then the oracle names it, and nothing without it
    found = {each.name for each in report.verdict.violations}
    assert (violation in found) if violation else not found, table(options, report)
    assert report.verdict.figures["asked"] == 600
    shutil.rmtree(tmp_path)

"""A small chaos run, and runs with planted faults that its oracle must find."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.faults.chaos.jobs import ENDINGS, NEVER_FINAL
from tests.faults.chaos.report import table
from tests.faults.chaos.run import Options, run

SMALL = {
    **{"pauses": (0.5, 2.0), "farthest": 10.0, "retention": 4.0, "naps": (3.0, 8.0)},
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
    assert sum(report.acts.values()) >= 3 and sum(report.faults.values()) >= 10
    shutil.rmtree(tmp_path)


CALM = {"messages": 600, "seconds": 3.0, "rate": 0.0, "acts": False, "apps": 2, "patience": 60.0}
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

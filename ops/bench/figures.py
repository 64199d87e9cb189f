"""Figures of the bench: values of some runs, what they are held against, and the goal."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Any, Literal

BATCH = 100
"""Messages of a request, everybody's."""


@dataclass(frozen=True)
class Values:
    """One figure of one system, once for each run."""

    of: str
    runs: list[float]

    @property
    def median(self) -> float:
        return median(self.runs)


@dataclass(frozen=True)
class Row:
    """A goal of the table. With a ``peer`` the goal is a ratio of medians, else a value."""

    figure: str
    unit: str
    ours: Values
    goal: float
    sign: Literal[">=", "<="]
    peer: Values | None = None

    @property
    def score(self) -> float:
        return self.ours.median / self.peer.median if self.peer else self.ours.median

    @property
    def fraction(self) -> float:
        """How much of the goal is reached: 1 and more is all of it."""
        return self.score / self.goal if self.sign == ">=" else self.goal / self.score


Points = list[tuple[float, float]]


@dataclass
class Found:
    """What a measure brings: rows with a goal, values without one, curves for the plots."""

    rows: list[Row] = field(default_factory=list)
    others: list[tuple[str, str, Values]] = field(default_factory=list)
    curves: dict[str, dict[str, Points]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def add(self, more: Found) -> None:
        self.rows += more.rows
        self.others += more.others
        self.curves.update(more.curves)
        self.notes += more.notes


@dataclass(frozen=True)
class Scale:
    """How much is measured: ``runs`` of everything, ``size`` 1.0 for runs of some seconds each."""

    runs: int = 3
    size: float = 1.0

    def count(self, messages: int) -> int:
        """So many messages at this scale; whole batches."""
        return max(200, int(messages * self.size) // 100 * 100)

    def seconds(self, seconds: float) -> float:
        return max(2.0, seconds * min(1.0, self.size))


def quantile(values: Sequence[float], share: float) -> float:
    """The value that so much of them does not exceed."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))]


def number(value: float) -> str:
    """Three or four digits that count."""
    if value >= 1000:
        return f"{float(f'{value:.3g}'):,.0f}"
    return f"{value:.3g}"


def spread(values: Values) -> str:
    """median (min - max)."""
    low, high = min(values.runs), max(values.runs)
    if len(values.runs) == 1:
        return number(low)
    return f"{number(values.median)} ({number(low)} - {number(high)})"


def plain(found: Found) -> dict[str, Any]:
    """For JSON."""
    return {
        "rows": [
            {
                "figure": row.figure,
                "unit": row.unit,
                "goal": {"sign": row.sign, "value": row.goal, "ratio": row.peer is not None},
                "ours": vars(row.ours),
                "peer": vars(row.peer) if row.peer else None,
                "score": row.score,
                "reached": row.fraction >= 1,
            }
            for row in found.rows
        ],
        "others": [
            {"figure": figure, "unit": unit, **vars(values)}
            for figure, unit, values in found.others
        ],
        "curves": found.curves,
        "notes": found.notes,
    }

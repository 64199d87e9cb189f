"""Figures of the bench: the values of some runs, the peer they are compared with, and the goal."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from statistics import median
from typing import Any, Literal

BATCH = 100
"""Messages per request, for every system."""


@dataclass(frozen=True)
class Values:
    """One figure of one system: a value per run."""

    of: str
    runs: list[float]

    @property
    def median(self) -> float:
        return median(self.runs)


@dataclass(frozen=True)
class Row:
    """A row of the table of goals. With a ``peer`` the goal is a ratio of medians, without one a
    value; None: there is none."""

    figure: str
    unit: str
    ours: Values
    goal: float | None
    sign: Literal[">=", "<="]
    peer: Values | None = None

    @property
    def score(self) -> float:
        return self.ours.median / self.peer.median if self.peer else self.ours.median

    @property
    def fraction(self) -> float:
        """The share of the goal that is reached; 1 or more is all of it."""
        goal = self.goal or self.score
        return self.score / goal if self.sign == ">=" else goal / self.score


Points = list[tuple[float, float]]


@dataclass
class Found:
    """What a measure returns: rows with a goal, values without one, curves for the plots."""

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
    """How much is measured: the runs of each figure, and their length (1.0: some seconds)."""

    runs: int = 3
    size: float = 1.0

    def count(self, messages: int) -> int:
        """Messages of a run at this scale, in whole batches."""
        return max(200, int(messages * self.size) // 100 * 100)

    def seconds(self, seconds: float) -> float:
        return max(2.0, seconds * min(1.0, self.size))


def quantile(values: Sequence[float], share: float) -> float:
    """The value that this share of them does not exceed."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))]


def number(value: float) -> str:
    """Three significant digits."""
    return f"{float(f'{value:.3g}'):,.0f}" if value >= 1000 else f"{value:.3g}"


def spread(values: Values) -> str:
    """The median and, of several runs, (least - most)."""
    low, high = min(values.runs), max(values.runs)
    if len(values.runs) == 1:
        return number(low)
    return f"{number(values.median)} ({number(low)} - {number(high)})"


def plain(found: Found) -> dict[str, Any]:
    """For JSON."""
    rows = [{**asdict(row), "score": row.score, "reached": row.fraction >= 1} for row in found.rows]
    others = [{"figure": figure, "unit": unit, **vars(of)} for figure, unit, of in found.others]
    return {**vars(found), "rows": rows, "others": others}

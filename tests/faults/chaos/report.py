"""A chaos run's ledger as text."""

from __future__ import annotations

import textwrap
from collections import Counter
from typing import Any

from tests.faults.chaos.run import Options, Report

WIDTH = 26
SHOWN = 5
"""Violations of one name that are shown one by one."""


def table(options: Options, report: Report) -> str:
    """All figures, and each broken promise."""
    seconds = ", ".join(f"{mark} {at:.0f} s" for mark, at in report.seconds.items())
    figures: dict[str, Any] = {
        "seed": options.seed,
        "Redis": f"{options.redis}, appendfsync {options.fsync}",
        "time": seconds,
        **report.verdict.figures,
        "provider's faults": sum(report.faults.values()),
        "  of these": dict((+Counter(report.faults)).most_common()),
        "troubles": sum(report.acts.values()),
        "  each": dict(sorted(report.acts.items())),
        "  left out": ", ".join(report.left_out) or "-",
        "exits of workers": report.exits,
    }
    lines = [f"{name:<{WIDTH}}{_shown(value)}" for name, value in figures.items()]
    violations = report.verdict.violations
    by_name = Counter(violation.name for violation in violations)
    for name, times in by_name.most_common():
        lines.append(f"VIOLATED {times} times: {name}")
        some = [violation for violation in violations if violation.name == name][:SHOWN]
        lines += [f"  {violation.id}  {violation.what}" for violation in some]
    return "\n".join([*lines, "" if violations else "no violation"])


def _shown(value: Any) -> str:
    if not isinstance(value, dict):
        return str(value)
    text = ", ".join(f"{name} {n}" for name, n in value.items()) or "-"
    return f"\n{'':{WIDTH}}".join(textwrap.wrap(text, 100 - WIDTH, break_on_hyphens=False))

"""Writes what was found as JSON and as a page with plots."""

from __future__ import annotations

import json
import os
import platform
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from importlib.metadata import distributions, version
from pathlib import Path
from typing import Any

from viber_courier.ops.bench.figures import Found, Points, Row, Values, number, plain, spread

PACKAGES = ("celery", "kombu", "celery-batches", "redis", "hiredis", "requests", "uvloop")

PAGE = Path(__file__).with_name("page.md")
PLOTS = {
    "batch size": ("throughput-batch", "Throughput by batch size", "messages per request", "msg/s"),
    "provider": ("throughput-provider", "Throughput by response time", "ms", "msg/s"),
    "workers": ("throughput-workers", "Throughput by worker processes", "processes", "msg/s"),
    "latency": ("latency", "Latency under load", "messages/s enqueued", "ms to the provider"),
    "backlog": ("backlog", "Cost against backlog", "messages waiting", "drain, messages/s"),
}
"""By curve: the picture's name, its title and its axes."""


def machine(server: str, others: list[float], stolen: float) -> dict[str, Any]:
    """What it ran on; ``others`` are the shares of the machine that were in use before each run."""
    cpu = re.search(r"(?m)^model name\s*: (.+)", Path("/proc/cpuinfo").read_text())
    return {
        "date": datetime.now(UTC).date().isoformat(),
        "cpu": cpu[1].strip() if cpu else platform.machine(),
        "cores": len(os.sched_getaffinity(0)),
        "system": f"{platform.system()} {platform.release().split('-')[0]}",
        "versions": {
            "Python": platform.python_version(),
            "Redis": server,
            **{name: version(name) for name in PACKAGES if any(distributions(name=name))},
        },
        "otherLoad": {"runs": others, "stolen": stolen},
    }


def write(found: Found, on: Mapping[str, Any], runs: int, docs: Path) -> None:
    """Writes docs/benchmarks.json, docs/benchmarks.md and docs/img/bench-*.png."""
    (docs / "img").mkdir(parents=True, exist_ok=True)
    whole = {"machine": on, "runs": runs, **plain(found)}
    text = json.dumps(whole, ensure_ascii=False, indent=1) + "\n"
    (docs / "benchmarks.json").write_text(text, encoding="utf-8")
    others = found.others
    page = PAGE.read_text(encoding="utf-8").format(
        runs=runs,
        machine=_about(on),
        rows="\n".join(map(line, found.rows)),
        notes="".join(f"\n- {note}\n" for note in found.notes),
        others="".join(f"| {name} | {v.of} | {spread(v)} {unit} |\n" for name, unit, v in others),
        pictures="\n".join(
            _plot(docs / "img", curve, found.curves[curve])
            for curve in PLOTS
            if curve in found.curves
        ),
    )
    (docs / "benchmarks.md").write_text(page, encoding="utf-8")


def line(row: Row) -> str:
    """A row of the table of goals."""
    sign = "at least" if row.sign == ">=" else "at most"
    reached = "yes" if row.fraction >= 1 else "**no**"
    return " | ".join(
        (
            f"| {row.figure}",
            f"{spread(row.ours)} {row.unit}",
            f"{row.peer.of}: {spread(row.peer)}" if row.peer else "",
            f"{sign} {_times(row, row.goal)}" if row.goal else "",
            _times(row, row.score),
            f"{reached} |" if row.goal else "|",
        )
    )


def _times(row: Row, value: float) -> str:
    if row.peer is None:
        return number(value)
    return f"1/{number(1 / value)} x" if value <= 0.5 else f"{number(value)} x"


def _about(on: Mapping[str, Any]) -> str:
    others = Values("", on["otherLoad"]["runs"] or [0.0])
    names = ", ".join(f"{name} {number}" for name, number in on["versions"].items())
    return (
        f"{on['date']}, {on['cores']} cores of {on['cpu']}, {on['system']}. {names}.\n"
        f"Right before the runs other processes used {others.median:.0%} of the machine"
        f" ({min(others.runs):.0%} - {max(others.runs):.0%}); during them other guests of its host"
        f" took {on['otherLoad']['stolen']:.1%} of its time."
    )


def _plot(folder: Path, curve: str, lines: Mapping[str, Points]) -> str:
    """Draws one picture; returns the line of the page that shows it."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    name, title, across, up = PLOTS[curve]
    figure, axes = pyplot.subplots(figsize=(7, 4))
    for label, points in lines.items():
        axes.plot(*zip(*points, strict=True), marker="o", label=label)
    if curve in ("batch size", "backlog"):
        axes.set_xscale("log")
        across += " (logarithmic)"
    if curve == "provider":
        axes.set_yscale("log")
        up += " (logarithmic)"
    else:
        axes.set_ylim(bottom=0)
    places = sorted({x for points in lines.values() for x, _ in points})
    axes.set_xticks(places, [number(x) for x in places], minor=False)
    axes.minorticks_off()
    axes.set(title=title, xlabel=across, ylabel=up)
    axes.grid(alpha=0.3)
    if len(lines) > 1:
        axes.legend(loc="center left", bbox_to_anchor=(1, 0.5))
    figure.savefig(folder / f"bench-{name}.png", dpi=110, bbox_inches="tight", metadata={})
    pyplot.close(figure)
    return f"![{title}](img/bench-{name}.png)"

"""What was found, as JSON and as a page with plots."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Mapping
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from viber_courier.ops.bench.figures import Found, Points, Row, Values, number, plain, spread

PACKAGES = ("celery", "kombu", "celery-batches", "redis", "hiredis", "requests", "uvloop")

HEAD = """# Benchmarks

Made by `make bench` (`ops/bench/`), not by hand. All of it in one run on one machine, which also
ran the provider's double and Redis (`appendonly yes`, `appendfsync everysec` for everybody).
Systems that are compared took turns, and each run began with an empty Redis. Values are medians
(least - most) of {runs} runs. Peers are told to do no more than post: they keep no record, no
status and no events; viber-courier has every guarantee on. /status isn't asked during drains; it
has a row of its own.

{machine}

## Goals

A goal with an `x` is a ratio of medians.

| figure | viber-courier | against | goal | found | reached |
| --- | --- | --- | --- | --- | --- |
{rows}
"""

PLOTS = {
    "batch size": ("throughput-batch", "Throughput by batch size", "messages a request", "msg/s"),
    "provider": ("throughput-provider", "Throughput by the provider's time", "ms", "msg/s"),
    "workers": ("throughput-workers", "Throughput by worker processes", "processes", "msg/s"),
    "latency": ("latency", "Latency under load", "messages/s enqueued", "ms to the provider"),
    "backlog": ("backlog", "Cost against backlog", "messages waiting", "drain, messages/s"),
}
"""By curve: the picture's name, its title and axes."""


def machine(server: str, others: list[float], stolen: float) -> dict[str, Any]:
    """What it ran on; ``others`` are shares of the machine used by others right before each run."""
    cpu = next(
        (
            line.partition(":")[2].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if line.startswith("model name")
        ),
        platform.machine(),
    )
    return {
        "date": datetime.now(UTC).date().isoformat(),
        "cpu": cpu,
        "cores": len(os.sched_getaffinity(0)),
        "system": f"{platform.system()} {platform.release().split('-')[0]}",
        "versions": {
            "Python": platform.python_version(),
            "Redis": server,
            **{name: version(name) for name in PACKAGES},
        },
        "otherLoad": {"runs": others, "stolen": stolen},
    }


def write(found: Found, on: Mapping[str, Any], runs: int, docs: Path) -> None:
    """docs/benchmarks.json, docs/benchmarks.md and docs/img/bench-*.png."""
    (docs / "img").mkdir(parents=True, exist_ok=True)
    whole = {"machine": on, "runs": runs, **plain(found)}
    text = json.dumps(whole, ensure_ascii=False, indent=1) + "\n"
    (docs / "benchmarks.json").write_text(text, encoding="utf-8")
    pictures = [
        _plot(docs / "img", curve, found.curves[curve]) for curve in PLOTS if curve in found.curves
    ]
    page = HEAD.format(runs=runs, machine=_about(on), rows="\n".join(map(line, found.rows)))
    if found.notes:
        page += "\n" + "\n".join(f"- {note}" for note in found.notes) + "\n"
    page += "\n## Everybody\n\n| figure | of | |\n| --- | --- | --- |\n"
    page += "".join(
        f"| {figure} | {values.of} | {spread(values)} {unit} |\n"
        for figure, unit, values in found.others
    )
    page += "\n## Curves\n\nOne run for each point.\n\n" + "\n".join(pictures) + "\n"
    (docs / "benchmarks.md").write_text(page, encoding="utf-8")


def line(row: Row) -> str:
    """A row of the table of goals."""
    sign = "at least" if row.sign == ">=" else "at most"
    return " | ".join(
        (
            f"| {row.figure}",
            f"{spread(row.ours)} {row.unit}",
            f"{row.peer.of}: {spread(row.peer)}" if row.peer else "",
            f"{sign} {_times(row, row.goal)}",
            _times(row, row.score),
            "yes |" if row.fraction >= 1 else "**no** |",
        )
    )


def _times(row: Row, value: float) -> str:
    if row.peer is None:
        return number(value)
    return f"1/{number(1 / value)} x" if value < 0.5 else f"{number(value)} x"


def _about(on: Mapping[str, Any]) -> str:
    others = Values("", on["otherLoad"]["runs"] or [0.0])
    names = ", ".join(f"{name} {number}" for name, number in on["versions"].items())
    return (
        f"{on['date']}, {on['cores']} cores of {on['cpu']}, {on['system']}. {names}.\n"
        f"Right before the runs others used {others.median:.0%} of the machine"
        f" ({min(others.runs):.0%} - {max(others.runs):.0%}); its host stole"
        f" {on['otherLoad']['stolen']:.1%} of its time."
    )


def _plot(folder: Path, curve: str, lines: Mapping[str, Points]) -> str:
    """Draw the lines of one picture; the page's line that shows it."""
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

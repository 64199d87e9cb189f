"""``python -m viber_courier.ops.bench``: all measures, or with ``--quick`` a minute of them."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import click

from viber_courier.ops.bench import measures, report
from viber_courier.ops.bench.figures import Found, Scale, number, spread
from viber_courier.ops.bench.lab import Lab
from viber_courier.ops.redis_server import NoServerError

DOCS = Path(__file__).resolve().parents[2] / "docs"
TOLERATED = 0.5
"""Below this share of a goal is a regression; above it may be noise."""

Measure = Callable[[Lab, Scale], Found]
ENQUEUES: dict[str, Measure] = {
    name: partial(measures.enqueue, name=name) for name in measures.ENQUEUES
}
WHOLE: dict[str, Measure] = {
    "limits": measures.limits,
    "drains": measures.drains,
    "drains-sms": measures.sms_drains,
    "slow-drains": measures.slow_drains,
    **ENQUEUES,
    "at-rest": measures.at_rest,
    "promises": measures.promises,
    "latency": measures.latency,
    "realtime": measures.realtime,
    "backlog": measures.backlog,
    "memory": measures.memory,
    "campaigns": measures.campaigns,
    "cancels": measures.cancels,
    "stages": measures.stages,
    "statuses": measures.statuses,
    "curves": measures.curves,
}
QUICK: dict[str, Measure] = {
    "drains": partial(measures.drains, systems=(measures.OURS, measures.BATCHES)),
    "drains-sms": measures.sms_drains,
    "slow-drains": partial(measures.slow_drains, systems=(measures.MANY, measures.BATCHES)),
    **ENQUEUES,
    "at-rest": measures.at_rest,
}


def some(_: click.Context, __: click.Parameter, names: str) -> dict[str, Measure]:
    """Returns the measures that ``--only`` lists."""
    chosen = [name for name in names.split(",") if name]
    if unknown := {*chosen} - {*WHOLE}:
        raise click.BadParameter(f"no measure is called {', '.join(sorted(unknown))}")
    return {name: WHOLE[name] for name in chosen}


@click.command()
@click.option("--quick", is_flag=True, help="Small versions of the main rows, once.")
@click.option("--runs", default=3, help="Runs of each.", show_default=True)
@click.option("--size", default=1.0, help="Length of a run: 1 is some seconds.", show_default=True)
@click.option("--only", default="", callback=some, help=f"Some of {','.join(WHOLE)}.")
def main(quick: bool, runs: int, size: float, only: dict[str, Measure]) -> None:
    """Measure viber-courier beside its peers; a whole run writes docs/benchmarks.md.

    Exit code 1 if less than half of a goal is reached, 2 if there is no Redis server program.
    """
    chosen = QUICK if quick else only or WHOLE
    scale = Scale(1, 0.3) if quick else Scale(runs, size)
    found, began = Found(), time.monotonic()
    try:
        with ExitStack() as stack:
            lab = Lab(stack)
            for name, measure in chosen.items():
                got = measure(lab, scale)
                show(got)
                found.add(got)
                print(f"-- {name}, {time.monotonic() - began:.0f} s, {lab.noise()}", flush=True)
            on = report.machine(lab.server_version, lab.others, lab.stolen())
    except NoServerError as error:
        print(error, file=sys.stderr)
        sys.exit(2)
    if chosen is WHOLE:
        report.write(found, on, scale.runs, DOCS)
    # The p99 of a hundred calls is the worst but one: a quick run can't tell it from noise.
    judged = [row for row in found.rows if not (quick and row.figure.endswith("p99"))]
    sys.exit(any(row.fraction < TOLERATED for row in judged))


def show(found: Found) -> None:
    """Prints the figures of one measure."""
    for figure, unit, values in found.others:
        print(f"     {figure}, {values.of}: {spread(values)} {unit}")
    for row in found.rows:
        print(report.line(row))
    for curve, lines in found.curves.items():
        for label, points in lines.items():
            print(f"     {curve}, {label}:", *(f"{x:g}: {number(y)}" for x, y in points))
    for note in found.notes:
        print(f"     {note}")


if __name__ == "__main__":
    main()

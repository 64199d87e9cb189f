"""``python -m viber_courier.ops.bench``: the whole table, or with ``--quick`` a minute of it."""

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

DOCS = Path(__file__).parents[2] / "docs"
TOLERATED = 0.5
"""Less than so much of a goal is a regression, and no noise."""

Measure = Callable[[Lab, Scale], Found]
WHOLE: dict[str, Measure] = {
    "limits": measures.limits,
    "drains": measures.drains,
    "slow-drains": measures.slow_drains,
    "enqueues": measures.enqueues,
    "latency": measures.latency,
    "realtime": measures.realtime,
    "backlog": measures.backlog,
    "memory": measures.memory,
    "stages": measures.stages,
    "statuses": measures.statuses,
    "curves": measures.curves,
}
QUICK: dict[str, Measure] = {
    "drains": partial(measures.drains, systems=(measures.CELERY, measures.BATCHES, measures.OURS)),
    "slow-drains": partial(
        measures.slow_drains, systems=(measures.CELERY, measures.BATCHES, measures.MANY)
    ),
    "enqueues": measures.enqueues,
}


@click.command()
@click.option("--quick", is_flag=True, help="The drains and enqueues only, once; writes nothing.")
@click.option("--runs", default=3, help="Runs of each.", show_default=True)
@click.option("--size", default=1.0, help="Length of a run: 1 is some seconds.", show_default=True)
@click.option("--only", default="", help=f"Some of {','.join(WHOLE)}; writes nothing.")
def main(quick: bool, runs: int, size: float, only: str) -> None:
    """Measure viber-courier beside its peers.

    Exit code 1 if a goal is missed by half, 2 if there is no Redis server program.
    """
    chosen = QUICK if quick else {name: WHOLE[name] for name in only.split(",")} if only else WHOLE
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
    judged = [row for row in found.rows if row.unit == "messages/s" or not quick]
    sys.exit(any(row.fraction < TOLERATED for row in judged))


def show(found: Found) -> None:
    """Print figures as they come."""
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

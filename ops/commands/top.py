"""``courier top``: what is happening right now."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from typing import Any

import click
from rich.console import Group, RenderableType
from rich.live import Live
from rich.text import Text

from viber_courier import Producer, StoreUnavailable
from viber_courier.ops.commands.terminal import command, console, emit, grid, json_option, plain
from viber_courier.ops.counters import by_status
from viber_courier.ops.look import Backlog, Gate, Look, take_look
from viber_courier.schemas.instants import iso
from viber_courier.schemas.lanes import POLL
from viber_courier.schemas.status import Status
from viber_courier.store.connection import store_errors
from viber_courier.store.refusals import refusal

FUNNEL = {
    "enqueued": ("queued",),
    "submitted": ("submitted",),
    "delivered": ("delivered",),
    "read": ("read",),
    "by SMS": ("sms_delivered",),
    "undelivered": ("undelivered",),
    "failed": ("failed", "cancelled", "rejected", "expired"),
    "unknown": ("unconfirmed", "lost"),
}
"""Statuses by the line that counts them. A poll may find a message read that it never found
delivered, so ``read`` can be more than ``delivered``."""
Rates = Mapping[str, float]
"""How fast the counters grow, per second, by their fields."""


def document(look: Look) -> dict[str, Any]:
    """Returns a look as JSON shows it."""
    return {
        "time": iso(look.now),
        "lanes": {lane: _line(backlog) for lane, backlog in look.lanes.items()},
        "watched": _line(look.watched),
        "paused": dict(look.paused),
        "gates": {name: _gate(gate) for name, gate in look.gates.items()},
        "counts": dict(look.counters.fields),
        "statuses": dict(look.counters.statuses),
        "sweptSecondsAgo": None if look.swept is None else round(look.swept, 1),
        "deadLetters": look.dead,
        "events": look.events,
    }


def _line(backlog: Backlog) -> dict[str, float]:
    """``later``: scheduled, waiting for a retry, or held by a worker. ``late``: seconds."""
    later = backlog.size - backlog.due
    return {"due": backlog.due, "later": later, "late": round(backlog.overdue, 1)}


def _gate(gate: Gate) -> dict[str, Any]:
    if gate.until is None:
        return {"open": True}
    return {"open": False, "until": iso(gate.until), "reason": gate.reason}


def rates(before: Look | None, now: Look) -> Rates | None:
    """Returns how fast the counters grew between two looks; None if there is only one."""
    if before is None:
        return None
    was, seconds = before.counters.fields, max(now.now - before.now, 0.001)
    return {n: round((v - was.get(n, 0)) / seconds, 1) for n, v in now.counters.fields.items()}


def picture(look: Look, speed: Rates | None) -> RenderableType:
    """Returns a look as a person reads it."""
    lanes: list[list[object]] = []
    for name, backlog in [*look.lanes.items(), (POLL, look.watched)]:
        paused = f"paused: {look.paused[name]}" if name in look.paused else ""
        overdue = f"{backlog.overdue:,.0f} s" if backlog.due else "-"
        figures = (f"{backlog.due:,}", f"{backlog.size - backlog.due:,}", overdue)
        lanes.append([name, *figures, plain(paused, "yellow")])
    statuses, per_second = look.counters.statuses, by_status(speed) if speed else {}
    total, funnel = statuses[Status.QUEUED] or 1, []
    for name, parts in FUNNEL.items():
        number = sum(statuses[part] for part in parts)
        rate = f"{sum(per_second[part] for part in parts):,.1f}" if speed else ""
        funnel.append([name, f"{number:,}", f"{100 * number / total:.1f}", rate])
    return Group(
        *(_head(look, speed), Text()),
        *(grid(lanes, "lane", ">due", ">later", ">oldest due", ""), Text()),
        grid(funnel, "status", ">messages", ">%", ">per second"),
    )


def _head(look: Look, speed: Rates | None) -> RenderableType:
    fresh = look.swept is not None and look.swept < 15
    swept = "never" if look.swept is None else f"{look.swept:,.0f} s ago"
    lines = [Text(f"{iso(look.now)}   latest sweep: {swept}", "" if fresh else "red")]
    for name, gate in look.gates.items():
        if gate.until is not None:
            text = f"/{name} is closed until {iso(gate.until)}: {gate.reason}"
            lines.append(plain(text, "red"))
    tail = f"dead letters: {look.dead:,}   events kept: {look.events:,}"
    if speed:
        claims, bells = speed.get("claims", 0), speed.get("bells", 0)
        tail += f"   per second: {claims:,.0f} claims, {bells:,.0f} bells"
    return Group(*lines, Text(tail))


@command()
@click.option("--once", is_flag=True, help="Print once, without rates, and exit.")
@click.option("--every", type=click.FloatRange(0.2), default=1.0, help="Seconds.")
@json_option
def top(once: bool, every: float, as_json: bool) -> None:
    """Watch lanes, gates, pauses and how far messages get, until Ctrl-C.

    With --json it prints one document for each look, on a line of its own.
    """
    producer = Producer.from_env()
    if once:
        look = _look(producer)
        return emit(document(look)) if as_json else console().print(picture(look, None))
    if as_json:
        for look, speed in _looks(producer, every):
            emit({**document(look), "perSecond": speed})
    with Live(console=console(), auto_refresh=False) as live:
        while True:
            try:
                for look, speed in _looks(producer, every):
                    live.update(picture(look, speed), refresh=True)
            except (
                StoreUnavailable
            ) as error:  # an operator who watches an outage wants to see its end
                if refusal(error):
                    raise
                live.update(Text(str(error), "red"), refresh=True)
                time.sleep(every)


def _look(producer: Producer) -> Look:
    with store_errors():
        return take_look(producer.redis, producer.settings.namespace)


def _looks(producer: Producer, every: float) -> Iterator[tuple[Look, Rates | None]]:
    """Yields looks without end, each with the changes per second since the one before."""
    before = None
    while True:
        look = _look(producer)
        yield look, rates(before, look)
        before = look
        time.sleep(every)

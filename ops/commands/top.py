"""``courier top``: what is going on right now."""

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
from viber_courier.schemas.instants import iso
from viber_courier.schemas.lanes import LANES, POLL
from viber_courier.schemas.status import Status
from viber_courier.store.connection import store_errors
from viber_courier.store.keys import Keys

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
"""Where messages were seen, by status. A poll may find one read that it never saw delivered."""
Look = dict[str, Any]


def look(producer: Producer) -> Look:
    """One look at everything, in one round trip; it costs the same with a million messages."""
    keys = Keys(producer.settings.namespace)
    sets = [*keys.lanes, keys.watch]
    with store_errors():
        seconds, micros = producer.redis.time()
        now = int(seconds) * 1_000_000 + int(micros)
        with producer.redis.pipeline(transaction=False) as pipe:
            for each in sets:
                pipe.zcount(each, "-inf", now)
                pipe.zcount(each, f"({now}", "+inf")
                pipe.zrange(each, 0, 0, withscores=True)
            for name in (*LANES, POLL):
                pipe.get(keys.paused(name))
            for what in ("send", POLL):
                pipe.hmget(keys.gate(what), "until", "reason")
            pipe.hgetall(keys.counts)
            pipe.get(keys.swept)
            pipe.zcard(keys.dead)
            pipe.xlen(keys.results)
            *got, counts, swept, dead, events = pipe.execute()
    lines = [_line(now, *got[3 * n : 3 * n + 3]) for n in range(len(sets))]
    paused, gates = got[3 * len(sets) : -2], got[-2:]
    return {
        "time": iso(now / 1e6),
        "lanes": {lane: _sum(*lines[2 * n : 2 * n + 2]) for n, lane in enumerate(LANES)},
        "watched": lines[-1],
        "paused": {n: p for n, p in zip((*LANES, POLL), paused, strict=True) if p is not None},
        "gates": {w: _gate(*gate) for w, gate in zip(("send", POLL), gates, strict=True)},
        "counts": {name: int(value) for name, value in sorted(counts.items())},
        "sweptSecondsAgo": None if swept is None else round(now / 1e6 - int(swept) / 1e3, 1),
        "deadLetters": dead,
        "events": events,
    }


def _line(now: int, due: int, later: int, first: list[tuple[str, float]]) -> dict[str, float]:
    """``later``: scheduled, waiting for a retry, or in a worker's hands. ``late``: seconds."""
    late = max(0.0, now - first[0][1]) / 1e6 if first else 0.0
    return {"due": due, "later": later, "late": round(late, 1)}


def _sum(one: Mapping[str, float], two: Mapping[str, float]) -> dict[str, float]:
    return {name: one[name] + two[name] for name in ("due", "later")} | {
        "late": max(one["late"], two["late"])
    }


def _gate(until: str | None, reason: str | None) -> dict[str, Any]:
    closed = {"open": False, "until": iso(int(until or 0) / 1e6), "reason": reason}
    return closed if until else {"open": True}


def rates(before: Look | None, now: Look, seconds: float) -> dict[str, float] | None:
    """Changes of the counters per second between two looks; None where there is only one."""
    if before is None:
        return None
    was = before["counts"]
    return {n: round((v - was.get(n, 0)) / seconds, 1) for n, v in now["counts"].items()}


def picture(seen: Look, speed: Mapping[str, float] | None) -> RenderableType:
    """A look as a person reads it."""
    lanes: list[list[object]] = []
    for name, line in [*seen["lanes"].items(), (POLL, seen["watched"])]:
        paused = f"paused: {seen['paused'][name]}" if name in seen["paused"] else ""
        late = f"{line['late']:,.0f} s" if line["due"] else "-"
        figures = (f"{line['due']:,}", f"{line['later']:,}", late)
        lanes.append([name, *figures, plain(paused, "yellow")])
    counts, funnel = seen["counts"], []
    total = counts.get(Status.QUEUED, 0) or 1
    for name, parts in FUNNEL.items():
        number = sum(counts.get(part, 0) for part in parts)
        rate = f"{sum(speed.get(part, 0) for part in parts):,.1f}" if speed else ""
        funnel.append([name, f"{number:,}", f"{100 * number / total:.1f}", rate])
    return Group(
        *(_head(seen, speed), Text()),
        *(grid(lanes, "lane", ">due", ">later", ">oldest due", ""), Text()),
        grid(funnel, "seen as", ">messages", ">%", ">per second"),
    )


def _head(seen: Look, speed: Mapping[str, float] | None) -> RenderableType:
    ago = seen["sweptSecondsAgo"]
    fresh = ago is not None and ago < 15
    swept = "never" if ago is None else f"{ago:,.0f} s ago"
    lines = [Text(f"{seen['time']}   latest sweep: {swept}", "" if fresh else "red")]
    for what, gate in seen["gates"].items():
        if not gate["open"]:
            lines.append(plain(f"/{what} is closed until {gate['until']}: {gate['reason']}", "red"))
    tail = f"dead letters: {seen['deadLetters']:,}   events kept: {seen['events']:,}"
    if speed:
        claims, bells = speed.get("claims", 0), speed.get("bells", 0)
        tail += f"   per second: {claims:,.0f} claims, {bells:,.0f} bells"
    return Group(*lines, Text(tail))


@command()
@click.option("--once", is_flag=True, help="One look, without rates.")
@click.option("--every", type=click.FloatRange(0.2), default=1.0, show_default=True)
@json_option
def top(once: bool, every: float, as_json: bool) -> None:
    """Watch lanes, rates, funnel, gates and pauses, until Ctrl-C. JSON is one document a look."""
    producer = Producer.from_env()
    if once:
        seen = look(producer)
        return emit(seen) if as_json else console().print(picture(seen, None))
    if as_json:
        for seen, speed in _looks(producer, every):
            emit({**seen, "perSecond": speed})
    with Live(console=console(), auto_refresh=False) as live:
        while True:
            try:
                for seen, speed in _looks(producer, every):
                    live.update(picture(seen, speed), refresh=True)
            except StoreUnavailable as error:  # who watches an outage wants to see its end
                live.update(Text(str(error), "red"), refresh=True)
                time.sleep(every)


def _looks(producer: Producer, every: float) -> Iterator[tuple[Look, dict[str, float] | None]]:
    """Looks without end, each with the changes per second since the one before."""
    before, was = None, 0.0
    while True:
        seen, taken = look(producer), time.monotonic()
        yield seen, rates(before, seen, taken - was)
        before, was = seen, taken
        time.sleep(every)

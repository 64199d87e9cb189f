"""Rules of ``courier doctor``: pure functions from what it saw to findings and advice."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from viber_courier.ops.look import Gate
from viber_courier.schemas.instants import iso
from viber_courier.schemas.lanes import LANES, POLL, queue
from viber_courier.store.durability import dangers
from viber_courier.worker.outcome import Blocked, NotSent, Retryable, StatusOutcome

OK, WARNING, ERROR = 0, 1, 2
"""Severities, and doctor's exit codes."""
SKEW = 2.0
"""Seconds that two clocks may differ by. The times in events come from the machine's clock."""
RECENT = 86400.0
"""Seconds that a step of Redis's clock is told of."""
IDLE = 300.0
"""Seconds after which a consumer with events to read counts as stuck."""


LATE_SHARE = 0.5
"""Share of the retention that a group may be behind."""


class Finding(NamedTuple):
    """What was checked, what was found and, unless all is well, what to do."""

    severity: int
    about: str
    seen: str
    do: str = ""


def redis(info: Mapping[str, Any], skew: float) -> Iterator[Finding]:
    """Checks the server by its INFO; ``skew``: seconds that its clock is ahead of ours."""
    compatible = str(info.get("redis_version", "0"))
    numbers = [int(part) for part in re.findall("[0-9]+", compatible)[:2]]
    name = info.get("server_name", "redis")
    version = f"{name} {info.get(f'{name}_version', compatible)}"
    if numbers < [6, 2]:
        yield Finding(ERROR, "version", version, "upgrade: 6.2 or newer is needed")
    else:
        yield Finding(OK, "version", version)
    found = [danger.split(": ", 1) for danger in dangers(info)]
    yield from (Finding(ERROR, "durability", seen, do) for seen, do in found)
    if info.get("aof_last_write_status", "ok") != "ok":
        yield Finding(ERROR, "durability", "its latest write to disk failed", "check its disk")
    elif not found:
        yield Finding(OK, "durability", "appendonly is on, nothing is evicted")
    if info.get("role", "master") != "master":
        yield Finding(ERROR, "role", "a replica", "set COURIER_REDIS_URL to the master")
    yield _memory(info)
    difference = f"{abs(skew):.1f} s {'ahead of' if skew > 0 else 'behind'} this machine's clock"
    if abs(skew) > SKEW:
        yield Finding(WARNING, "clock", difference, "run NTP on both: times in events are wrong")
    else:
        yield Finding(OK, "clock", difference)


def clock_steps(noted: Mapping[str, str], now: float) -> Iterator[Finding]:
    """Checks that Redis's clock has not stepped lately; ``noted``: ``{ns}:clock``."""
    by, at = float(noted.get("by", 0)), float(noted.get("at", 0)) / 1000
    if by and now - at < RECENT:
        seen = f"{abs(by):,.0f} s {'ahead' if by > 0 else 'back'} at {iso(at)}"
        do = "keep its host's clock by NTP that slews: see CourierClockStepped in docs/runbook.md"
        yield Finding(WARNING, "clock steps", seen, do)


def _memory(info: Mapping[str, Any]) -> Finding:
    used, most = int(info.get("used_memory", 0)), int(info.get("maxmemory", 0))
    total = most or int(info.get("total_system_memory", 0))
    if not total:
        return Finding(OK, "memory", f"{used / 1e6:,.0f} MB used")
    share = used / total
    of = "maxmemory" if most else "the machine's memory; maxmemory is not set"
    seen = f"{used / 1e6:,.0f} MB used, {share:.0%} of {of}"
    if share < 0.75:
        return Finding(OK, "memory", seen)
    do = "raise maxmemory, or set COURIER_MAX_QUEUED: a full Redis stores nothing"
    return Finding(ERROR if share > 0.9 else WARNING, "memory", seen, do)


def workers(
    namespace: str, serving: Mapping[str, set[str]], hangs: Collection[str] = ()
) -> Iterator[Finding]:
    """Checks that each queue has a worker.

    ``serving``: the queues of each worker that answered. ``hangs``: those workers that did not run
    a task in time.
    """
    if not serving:
        yield Finding(
            ERROR, "workers", "none answers", "start one: celery -A viber_courier.worker worker -B"
        )
        return
    for host in sorted(hangs):
        do = f"it is busy or hangs: restart it if `courier live --worker {host}` fails"
        yield Finding(WARNING, f"worker: {host}", "answers, but ran no task in time", do)
    for name in (*LANES, POLL, "enqueue"):
        takers = [host for host, queues in serving.items() if queue(namespace, name) in queues]
        if takers and set(takers) <= set(hangs):
            do = "see above, or start another"
            yield Finding(ERROR, f"workers: {name}", "none ran a task in time", do)
        elif takers:
            yield Finding(OK, f"workers: {name}", f"{len(takers)}: {', '.join(sorted(takers))}")
        else:
            do = f"start one with -Q {queue(namespace, name)}"
            severity = WARNING if name == "enqueue" else ERROR  # only some apps use this queue
            yield Finding(severity, f"workers: {name}", "none", do)


def beat(ago: float | None, interval: float) -> Finding:
    """Checks the latest sweep, ``ago`` seconds ago; None: there was none."""
    if ago is not None and ago < 15 + 2 * interval:
        return Finding(OK, "beat", f"latest sweep {max(0.0, ago):.0f} s ago")
    seen = "no sweep yet" if ago is None else f"latest sweep {ago:,.0f} s ago"
    do = "start celery -A viber_courier.worker beat: retries and polls wait for it"
    return Finding(ERROR, "beat", seen, do)


def provider(outcome: StatusOutcome) -> Finding:
    """Checks the answer to a harmless /status request about an id that no message has."""
    match outcome:
        case NotSent(why):
            do = "check COURIER_API_URL, COURIER_PROXY, COURIER_CA_FILE, DNS and the firewall"
            return Finding(ERROR, "provider", f"can't be reached: {why}", do)
        case Blocked(code):
            do = "check COURIER_API_LOGIN, _PASSWORD and _URL, then ask the provider"
            return Finding(ERROR, "provider", f"refuses us: {code}", do)
        case Retryable(why):
            do = "run doctor again later; workers retry by themselves"
            return Finding(WARNING, "provider", f"doesn't answer properly: {why}", do)
    return Finding(OK, "provider", "accepts our login and password")


def held(paused: Mapping[str, str], gates: Mapping[str, Gate]) -> Iterator[Finding]:
    """Checks what holds messages back: ``paused``, by its reason, and closed gates."""
    for name, reason in paused.items():
        yield Finding(WARNING, f"paused: {name}", reason or "by hand", f"courier resume {name}")
    for name, gate in gates.items():
        if gate.until is not None:
            seen = f"closed until {iso(gate.until)}: {gate.reason}"
            yield Finding(WARNING, f"gate: {name}", seen, "workers retry by themselves then")


def consumers(newest: str | None, groups: Sequence[Mapping[str, Any]]) -> Iterator[Finding]:
    """Checks that apps read and acknowledge result events.

    ``groups``: as XINFO GROUPS returns them, plus ``idle``, the seconds since a consumer last read,
    and ``unacked``, the seconds that an unacknowledged event has waited.
    """
    if newest and not groups:
        do = "read them with producer.results(...): events are deleted after a while"
        yield Finding(WARNING, "results", "no app reads them", do)
    for group in groups:
        about = f"results: {group['name']}"
        do = "restart its app, or remove the group with XGROUP DESTROY"
        behind = group["last-delivered-id"] != newest and newest
        if "missed" in group:
            do = "its next read raises EventsMissed: look those messages up with producer.get"
            yield Finding(WARNING, about, "events were deleted before it read them", do)
        if group.get("share", 0.0) > LATE_SHARE:
            seen = f"{group['share']:.0%} of COURIER_RESULTS_RETENTION behind"
            do = "start its app now, or raise that retention: events are deleted unread"
            yield Finding(ERROR, about, seen, do)
        elif group["unacked"] > IDLE:
            seen = f"{group['pending']:,} unacknowledged, one of them for {group['unacked']:,.0f} s"
            do = "fix its app: it reads events and doesn't acknowledge them"
            yield Finding(WARNING, about, seen, do)
        elif behind and group["idle"] > IDLE:
            yield Finding(WARNING, about, "behind, and no consumer reads", do)
        else:
            seen = "reading" if behind else "has read all"
            yield Finding(OK, about, f"{seen}, {group['pending']:,} unacknowledged")

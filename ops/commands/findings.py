"""What ``courier doctor`` makes of what it sees: pure rules, each with what to do."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from viber_courier.ops.look import Gate
from viber_courier.schemas.instants import iso
from viber_courier.schemas.lanes import LANES, POLL, queue
from viber_courier.store.durability import dangers
from viber_courier.worker.outcome import Again, Blocked, NotSent, StatusOutcome

OK, WARNING, ERROR = 0, 1, 2
"""Severities, and doctor's exit codes."""
SKEW = 2.0
"""Seconds that two clocks may differ by: events' times are by this machine's."""
IDLE = 300.0
"""Seconds after which a consumer that has something to do is taken for stuck."""


class Finding(NamedTuple):
    """Something looked at, what was seen and, unless it is well, what to do."""

    severity: int
    about: str
    seen: str
    do: str = ""


def redis(info: Mapping[str, Any], skew: float) -> Iterator[Finding]:
    """The server, by its INFO; ``skew``: seconds that its clock is ahead of ours."""
    version = str(info.get("redis_version", "0"))
    numbers = [int(part) for part in re.findall("[0-9]+", version)[:2]]
    name = info.get("server_name", "redis")
    shown = f"{name} {info.get(f'{name}_version', version)}"
    if numbers < [6, 2]:
        yield Finding(ERROR, "version", shown, "6.2 or newer is needed")
    else:
        yield Finding(OK, "version", shown)
    found = [danger.split(": ", 1) for danger in dangers(info)]
    yield from (Finding(ERROR, "durability", seen, do) for seen, do in found)
    if info.get("aof_last_write_status", "ok") != "ok":
        yield Finding(ERROR, "durability", "its latest write to disk failed", "look at its disk")
    elif not found:
        yield Finding(OK, "durability", "appendonly is on, nothing is evicted")
    if info.get("role", "master") != "master":
        yield Finding(ERROR, "role", "a replica", "COURIER_REDIS_URL must lead to the master")
    yield _memory(info)
    away = f"{abs(skew):.1f} s {'ahead of' if skew > 0 else 'behind'} this machine's clock"
    if abs(skew) > SKEW:
        yield Finding(WARNING, "clock", away, "run NTP on both: the times of events are wrong")
    else:
        yield Finding(OK, "clock", away)


def _memory(info: Mapping[str, Any]) -> Finding:
    used, most = int(info.get("used_memory", 0)), int(info.get("maxmemory", 0))
    total = most or int(info.get("total_system_memory", 0))
    if not total:
        return Finding(OK, "memory", f"{used / 1e6:,.0f} MB used")
    share = used / total
    of = "maxmemory" if most else "the machine's, maxmemory is not set"
    seen = f"{used / 1e6:,.0f} MB used, {share:.0%} of {of}"
    if share < 0.75:
        return Finding(OK, "memory", seen)
    do = "full, it stores nothing more: raise maxmemory, or set COURIER_MAX_QUEUED"
    return Finding(ERROR if share > 0.9 else WARNING, "memory", seen, do)


def workers(
    namespace: str, serving: Mapping[str, set[str]], hangs: Collection[str] = ()
) -> Iterator[Finding]:
    """Who takes what; ``serving``: the queues that each worker which answered takes from.

    ``hangs``: those of them that have not run a task that was sent to them.
    """
    if not serving:
        yield Finding(
            ERROR, "workers", "none answers", "start some: celery -A viber_courier.worker worker -B"
        )
        return
    for host in sorted(hangs):
        do = f"its processes are busy or hang: restart it if `courier live --worker {host}` fails"
        yield Finding(WARNING, f"worker: {host}", "answers, but has run no task in time", do)
    for name in (*LANES, POLL, "enqueue"):
        takers = [host for host, queues in serving.items() if queue(namespace, name) in queues]
        if takers and set(takers) <= set(hangs):
            do = "see above, or start another"
            yield Finding(ERROR, f"workers: {name}", "none that runs a task in time", do)
        elif takers:
            yield Finding(OK, f"workers: {name}", f"{len(takers)}: {', '.join(sorted(takers))}")
        else:
            do = f"start one with -Q {queue(namespace, name)}"
            severity = WARNING if name == "enqueue" else ERROR  # only some apps use that
            yield Finding(severity, f"workers: {name}", "none", do)


def beat(ago: float | None, interval: float) -> Finding:
    """``ago``: seconds since the latest sweep."""
    if ago is not None and ago < 15 + 2 * interval:
        return Finding(OK, "beat", f"latest sweep {max(0.0, ago):.0f} s ago")
    seen = "no sweep yet" if ago is None else f"latest sweep {ago:,.0f} s ago"
    do = "start celery -A viber_courier.worker beat: retries, polls and schedules wait for it"
    return Finding(ERROR, "beat", seen, do)


def provider(outcome: StatusOutcome) -> Finding:
    """The answer to a harmless /status, about an id that nobody has."""
    match outcome:
        case NotSent(why):
            do = "look at COURIER_API_URL, COURIER_PROXY, COURIER_CA_FILE, DNS and the firewall"
            return Finding(ERROR, "provider", f"can't be reached: {why}", do)
        case Blocked(code):
            do = "look at COURIER_API_LOGIN, _PASSWORD and _URL, then ask the provider"
            return Finding(ERROR, "provider", f"refuses us: {code}", do)
        case Again(why):
            do = "try again; workers do so by themselves"
            return Finding(WARNING, "provider", f"doesn't answer as it should: {why}", do)
    return Finding(OK, "provider", "takes our login and password")


def held(paused: Mapping[str, str], gates: Mapping[str, Gate]) -> Iterator[Finding]:
    """Returns what keeps messages back: pauses, with their reasons, and closed gates."""
    for name, reason in paused.items():
        yield Finding(WARNING, f"paused: {name}", reason or "by hand", f"courier resume {name}")
    for name, gate in gates.items():
        if gate.until is not None:
            seen = f"closed until {iso(gate.until)}: {gate.reason}"
            yield Finding(WARNING, f"gate: {name}", seen, "workers try again by themselves then")


def consumers(newest: str | None, groups: Sequence[Mapping[str, Any]]) -> Iterator[Finding]:
    """Who reads result events.

    ``groups`` as XINFO tells, with ``idle``, seconds since one of its consumers last read, and
    ``unacked``, seconds that its oldest unacknowledged event has been waiting.
    """
    if newest and not groups:
        do = "have an app read producer.results(...): events are erased after a while"
        yield Finding(WARNING, "results", "nobody reads them", do)
    for group in groups:
        about = f"results: {group['name']}"
        do = "start its app again, or give the group up: XGROUP DESTROY"
        behind = group["last-delivered-id"] != newest and newest
        if group["unacked"] > IDLE:
            seen = f"{group['pending']:,} unacknowledged, one for {group['unacked']:,.0f} s"
            yield Finding(WARNING, about, seen, "its app takes events and doesn't ack them")
        elif behind and group["idle"] > IDLE:
            yield Finding(WARNING, about, "behind, and nobody reads", do)
        else:
            seen = "reading" if behind else "has read all"
            yield Finding(OK, about, f"{seen}, {group['pending']:,} unacknowledged")

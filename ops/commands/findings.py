"""Rules of ``courier doctor``: pure functions from what it saw to findings and advice."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

from viber_courier.ops.look import Gate
from viber_courier.schemas.instants import iso
from viber_courier.schemas.lanes import DOOR, INTAKE, LANES, POLL, queue
from viber_courier.schemas.settings import ON_DISK
from viber_courier.schemas.suppression import NumberHash
from viber_courier.store.counters import Oddity
from viber_courier.store.door import Waiting
from viber_courier.store.durability import DURABLE, dangers
from viber_courier.store.refusals import OTHER_KEY
from viber_courier.worker.outcome import Blocked, NotSent, RequestRefused, Retryable, StatusOutcome

OK, WARNING, ERROR = 0, 1, 2
"""Severities, and doctor's exit codes."""
SKEW = 2.0
"""Seconds that two clocks may differ by. The times in events come from the machine's clock."""
RECENT = 86400.0
"""Seconds that a step of Redis's clock is told of."""
IDLE = 300.0
"""Seconds after which a consumer with events to read counts as stuck."""
DAY = 86400.0
"""Seconds that an odd answer is reported for."""
SILENT_POLLS, SILENT_SECONDS = 5, 900.0
"""Polls in a row without news, and their least time, that count as silence; as in alerts.yml."""


LATE_SHARE = 0.5
"""Share of the retention that a group may be behind."""


_ALL = "set COURIER_REPLICAS to their number: a failover to any of them then loses nothing"


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
    elif missing := [name for name in DURABLE if name not in info]:
        do = "ask who runs it whether it keeps all data"
        yield Finding(WARNING, "durability", f"INFO leaves out {', '.join(missing)}", do)
    elif not found:
        yield Finding(OK, "durability", "appendonly is on, nothing is evicted")
    if info.get("role", "master") != "master":
        yield Finding(ERROR, "role", "a replica", "set COURIER_REDIS_URL to the master")
    yield _memory(info)
    yield clock(skew)


def replicas(
    wanted: int, info: Mapping[str, Any], sentinel: bool, lacks: str = ""
) -> Iterator[Finding]:
    """Checks by INFO that as many replicas follow as COURIER_REPLICAS waits for.

    ``lacks``: why a write of just now is not safe, if it isn't: one may follow, but hang.
    """
    count, about = int(info.get("connected_slaves", 0)), "replicas"
    follow = f"{count} follow, {wanted or 'none'} waited for"
    if wanted == ON_DISK and not lacks:
        yield Finding(OK, about, "promises wait for the master's disk")
    elif wanted > count and "connected_slaves" in info:
        do = "start them, or lower COURIER_REPLICAS: apps are refused and nothing is sent"
        yield Finding(ERROR, about, follow, do)
    elif lacks:
        do = "apps are refused and nothing is sent: see which one hangs or lags (INFO replication)"
        yield Finding(ERROR, about, f"{follow}; a write isn't safe: {lacks}", do)
    elif not wanted and (count or sentinel):
        do = "COURIER_REPLICAS=1 loses nothing in a failover" if sentinel else _ALL
        yield Finding(OK, about, follow, do)
    elif wanted:
        yield Finding(OK, about, follow, "" if sentinel or wanted == count else _ALL)


def unknown(why: str, accepted: bool) -> Finding:
    """Returns that Redis doesn't tell whether it keeps messages; ``accepted`` by COURIER_ALLOW."""
    do = "" if accepted else "; workers refuse to start (COURIER_ALLOW=volatile-redis accepts that)"
    severity = WARNING if accepted else ERROR
    return Finding(severity, "durability", f"unknown: INFO is refused: {why}", f"grant +info{do}")


def clock(skew: float) -> Finding:
    """Checks Redis's clock, so many seconds ahead of ours."""
    difference = f"{abs(skew):.1f} s {'ahead of' if skew > 0 else 'behind'} this machine's clock"
    if abs(skew) > SKEW:
        do = "run NTP on both: times in events are wrong"
        return Finding(WARNING, "clock", difference, do)
    return Finding(OK, "clock", difference)


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
    namespace: str,
    serving: Mapping[str, set[str]],
    hangs: Collection[str] = (),
    refused: Mapping[str, str] = MappingProxyType({}),
) -> Iterator[Finding]:
    """Checks that each queue has a worker.

    ``serving``: the queues of each worker that answered. ``hangs``: those workers that did not run
    a task in time. ``refused``: what Redis refuses to some of them.
    """
    if not serving:
        yield Finding(
            ERROR, "workers", "none answers", "start one: celery -A viber_courier.worker worker -B"
        )
        return
    for host, why in refused.items():
        yield Finding(ERROR, f"worker: {host}", why, "grant it; the worker goes on by itself")
    for host in sorted({*hangs} - {*refused}):
        do = f"it is busy or hangs: restart it if `courier live --worker {host}` fails"
        yield Finding(WARNING, f"worker: {host}", "answers, but ran no task in time", do)
    for name in (*LANES, POLL, DOOR):
        # A worker that serves the door's queue consumes the bells for it; older ones the queue.
        either = {queue(namespace, each) for each in ((name, INTAKE) if name == DOOR else (name,))}
        takers = [host for host, queues in serving.items() if queues & either]
        if takers and set(takers) <= set(hangs):
            do = "see above, or start another"
            yield Finding(ERROR, f"workers: {name}", "none ran a task in time", do)
        elif takers:
            yield Finding(OK, f"workers: {name}", f"{len(takers)}: {', '.join(sorted(takers))}")
        else:
            do = f"start one with -Q {queue(namespace, name)}"
            severity = WARNING if name == DOOR else ERROR  # only some apps use this queue
            yield Finding(severity, f"workers: {name}", "none", do)


def door(waiting: Waiting) -> Finding:
    """Checks the tasks that Celery clients have left."""
    seen = f"{waiting.tasks:,} waiting, {waiting.held:,} in hand or for later"
    if waiting.seconds < IDLE:
        return Finding(OK, "tasks", seen)
    seen = f"{seen}; the oldest waits for {waiting.seconds:,.0f} s or longer"
    do = (
        "look for `jobs not stored yet` in the workers' logs; start more that serve courier.enqueue"
    )
    return Finding(WARNING, "tasks", seen, do)


def beat(ago: float | None, interval: float) -> Finding:
    """Checks the latest sweep, ``ago`` seconds ago; None: there was none."""
    if ago is not None and ago < 15 + 2 * interval:
        return Finding(OK, "beat", f"latest sweep {max(0.0, ago):.0f} s ago")
    seen = "no sweep yet" if ago is None else f"latest sweep {ago:,.0f} s ago"
    do = "start celery -A viber_courier.worker beat: retries and polls wait for it"
    return Finding(ERROR, "beat", seen, do)


UNREACHED = {
    "TLS: unknown CA": "set COURIER_CA_FILE to the file of the CA that signs it, if you trust it",
    "TLS: no TLS": "check COURIER_API_URL: this port is for http://, or not the API's",
    "TLS: unsupported protocol": "tell the provider: it offers only versions below TLS 1.2",
    "TLS: certificate": "check this machine's clock, then tell the provider",
    "TLS: hostname": "check COURIER_API_URL: its host is not one that the certificate names",
    "TLS: ip address": "give COURIER_API_URL a host that the certificate names, not its address",
    "TLS": "check COURIER_API_URL and COURIER_CA_FILE, then tell the provider",
    "proxy": "check COURIER_PROXY, its login and what it allows",
    "DNS": "check the host in COURIER_API_URL, and this machine's DNS",
    "": "check COURIER_API_URL, COURIER_PROXY, COURIER_CA_FILE, DNS and the firewall",
}
"""What to do where no connection is made, by the beginning of its cause (worker/transport.py)."""


def provider(outcome: StatusOutcome) -> Finding:
    """Checks the answer to a harmless /status request about an id that no message has."""
    match outcome:
        case NotSent(why):
            do = next(do for begin, do in UNREACHED.items() if why.startswith(begin))
            return Finding(ERROR, "provider", f"can't be reached: {why}", do)
        case Blocked(code):
            do = "check COURIER_API_LOGIN, _PASSWORD and _URL, then ask the provider"
            return Finding(ERROR, "provider", f"refuses us: {code}", do)
        case Retryable(why):
            do = "run doctor again later; workers retry by themselves"
            return Finding(WARNING, "provider", f"doesn't answer properly: {why}", do)
        case RequestRefused(code) if "provider-id" not in code:  # the id asked for is no one's
            do = "check COURIER_API_URL, then show the provider this answer"
            return Finding(WARNING, "provider", f"refuses a harmless /status: {code}", do)
    return Finding(OK, "provider", "accepts our login and password")


def held(paused: Mapping[str, str], gates: Mapping[str, Gate]) -> Iterator[Finding]:
    """Checks what holds messages back: ``paused``, by its reason, and closed gates."""
    for name, reason in paused.items():
        yield Finding(WARNING, f"paused: {name}", reason or "by hand", f"courier resume {name}")
    for name, gate in gates.items():
        if gate.until is not None:
            seen = f"closed until {iso(gate.until)}: {gate.reason}"
            yield Finding(WARNING, f"gate: {name}", seen, "workers retry by themselves then")


def odd(counts: Mapping[str, int], seen: Mapping[str, float], now: float) -> Iterator[Finding]:
    """Checks for answers of the provider that should never come, in the last day."""
    for name, at in seen.items():
        if now - at < DAY:
            do = "see docs/runbook.md: CourierUnknownCode"
            severity = WARNING
            if name == Oddity.NO_PROVIDER_ID:
                severity, do = ERROR, "see docs/runbook.md: CourierAcceptedWithoutId"
            found = f"{counts[name]:,} in all, the latest at {iso(at)}"
            yield Finding(severity, f"odd answers: {name}", found, do)


def polls(silent: int, seconds: float) -> Finding:
    """Checks that polls bring news: ``silent`` of them in a row, for so long, have not."""
    if silent < SILENT_POLLS or seconds < SILENT_SECONDS:
        return Finding(OK, "polls", "nothing odd")
    seen = f"{silent:,} in a row said nothing about any message, for {seconds:,.0f} s"
    do = "check that the account is the one that sent them; see docs/runbook.md: CourierSilentPolls"
    return Finding(ERROR, "polls", seen, do)


def suppressions(key: str | None, ours: NumberHash | None) -> Iterator[Finding]:
    """Checks that this program can read the suppressed numbers; ``key``: their fingerprint."""
    if key is None:
        return
    if ours and ours.fingerprint == key:
        yield Finding(OK, "suppressions", f"hashed with the key {key}, as it is set here")
    else:
        seen = OTHER_KEY.format(key, ours.fingerprint if ours else "not set")
        do = "set the same key everywhere: suppressed numbers may get messages"
        yield Finding(ERROR if ours else WARNING, "suppressions", seen, do)


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

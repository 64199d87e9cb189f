"""What the exporter says, as a function of what Redis held; docs/metrics.md lists it.

No label holds an id, a phone number or a text: values come from our own vocabulary, or are those of
counters whose names ``worker/send.py`` keeps few. What is unknown here is not exported.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)

from schemas.keys import LANES, POLL
from schemas.metrics import BOUNDS
from schemas.status import Status
from worker.provider import is_known

SECOND = 1_000_000
HANDS = (*LANES, POLL)
"""What an operator can pause, in the order of ``Seen.paused``."""
GATES = ("send", POLL)
ODDITIES = ("late", "unknown-code", "unknown-state", "status-fault", "strangers")
"""Counters of what nobody should see."""
STATUSES = [status for status in Status if status is not Status.SENDING]
"""Those that are counted: entering ``sending`` is no event."""


@dataclass(frozen=True, slots=True)
class Seen:
    """What one look at Redis has brought: ``look`` as look.lua replies, hashes as they are."""

    look: Sequence[Any]
    counts: Mapping[str, str]
    requests: Mapping[str, str]
    paused: Sequence[str | None]
    gates: Sequence[Mapping[str, str]]
    dead: int
    events: int
    memory: Mapping[str, Any]


def up(value: int) -> Metric:
    """Whether Redis answered."""
    return _gauge("courier_up", "Whether Redis answered the exporter.", [([], value)])


def families(seen: Seen) -> Iterator[Metric]:
    """Every metric, in the order of docs/metrics.md."""
    yield up(1)
    for part in (_lanes, _followed, _pauses, _totals, _requests, _results, _redis):
        yield from part(seen)


Samples = Sequence[tuple[Sequence[str], float]]


def _gauge(name: str, help: str, samples: Samples, labels: Sequence[str] = ()) -> Metric:
    family = GaugeMetricFamily(name, help, labels=labels)
    for values, value in samples:
        family.add_metric(values, value)
    return family


def _counter(name: str, help: str, samples: Samples, labels: Sequence[str] = ()) -> Metric:
    family = CounterMetricFamily(name, help, labels=labels)
    for values, value in samples:
        family.add_metric(values, value)
    return family


def _lanes(seen: Seen) -> Iterator[Metric]:
    now, sets = int(seen.look[0]), seen.look[2]
    lanes = {lane: sets[2 * place : 2 * place + 2] for place, lane in enumerate(LANES)}

    def each(value: Callable[[Any], float]) -> Samples:
        return [([lane], sum(map(value, two))) for lane, two in lanes.items()]

    def age(*oldest: str) -> float:
        return max((now - float(score)) / SECOND if score else 0.0 for score in oldest)

    def later(one: Any) -> float:
        return float(max(0, one[0] - one[1] - one[3] - one[4]))

    yield _gauge(
        "courier_lane_due_messages",
        "Messages that could go now.",
        each(lambda one: one[1]),
        ["lane"],
    )
    yield _gauge(
        "courier_lane_oldest_due_seconds",
        "How long the oldest message has been due; 0: none is.",
        [([lane], age(*(one[2] for one in two))) for lane, two in lanes.items()],
        ["lane"],
    )
    yield _gauge(
        "courier_scheduled_messages", "Messages due later: sendAt, retries.", each(later), ["lane"]
    )
    leased = [
        ([lane, inside], sum(one[column] for one in two))
        for lane, two in lanes.items()
        for inside, column in (("no", 3), ("yes", 4))
    ]
    help = "Messages held by workers, inside a request or before; at least so many."
    yield _gauge("courier_leased_messages", help, leased, ["lane", "inside"])


def _followed(seen: Seen) -> Iterator[Metric]:
    now, watch = int(seen.look[0]), seen.look[2][-1]
    lag = max(0.0, now - float(watch[2] or now)) / SECOND
    yield _gauge(
        "courier_watched_messages", "Accepted messages that are followed.", [([], watch[0])]
    )
    yield _gauge(
        "courier_watched_due_messages", "Accepted messages whose poll is due.", [([], watch[1])]
    )
    yield _gauge("courier_poll_lag_seconds", "How overdue the oldest poll is.", [([], lag)])
    yield _gauge(
        "courier_dead_letters",
        "Ended messages that can be sent again or dropped.",
        [([], seen.dead)],
    )
    swept = (now / SECOND - int(seen.look[1]) / 1000) if seen.look[1] else float("inf")
    yield _gauge(
        "courier_sweep_age_seconds",
        "Time since the latest sweep; +Inf: never.",
        [([], max(0.0, swept))],
    )


def _pauses(seen: Seen) -> Iterator[Metric]:
    now, gates = int(seen.look[0]), dict(zip(GATES, seen.gates, strict=True))
    paused = [([what, "gate"], float("until" in gate)) for what, gate in gates.items()]
    hands = zip(HANDS, seen.paused, strict=True)
    paused += [([what, "hand"], float(reason is not None)) for what, reason in hands]
    help = "1: paused, by its gate (what the provider answers) or by hand."
    yield _gauge("courier_paused", help, paused, ["what", "by"])
    closed = {what: gate for what, gate in gates.items() if "until" in gate}
    reasons = [([what, _reason(gate.get("reason", ""))], 1.0) for what, gate in closed.items()]
    yield _gauge("courier_gate_reason", "Why a gate is closed.", reasons, ["what", "reason"])
    for name, field, help in (
        ("courier_gate_failures", "row", "Failed requests in a row."),
        ("courier_gate_closings", "step", "Closings in a row, no success between."),
    ):
        rows = [([what], float(gate.get(field, 0))) for what, gate in gates.items()]
        yield _gauge(name, help, rows, ["what"])
    waits = [
        ([what], max(0.0, (float(gate.get("until", 0)) - now) / SECOND))
        for what, gate in gates.items()
    ]
    yield _gauge(
        "courier_gate_retry_seconds",
        "Time until a closed gate lets one request try.",
        waits,
        ["what"],
    )


def _reason(text: str) -> str:
    """A gate's reason is ours or a provider's code, and of those only the document's are few."""
    ours = re.fullmatch("[A-Za-z0-9-]{1,64}", text) and not text.startswith("error-")
    return text if ours or is_known(text) else "other"


def _totals(seen: Seen) -> Iterator[Metric]:
    counts = {name: int(n) for name, n in seen.counts.items()}
    rows, codes = [], {"not-sent": 0, "other": 0}
    entered = Counter({str(status): 0 for status in STATUSES})
    for name, n in sorted(counts.items()):
        head, _, tail = name.partition(":")
        if re.fullmatch("[a-z0-9-]{0,64}", tail) is None:
            continue
        if head in entered:
            rows.append(([head, tail], float(n)))
            entered[head] += n
        elif head == "code":
            codes[tail] = n
    totals = [([status], float(n)) for status, n in entered.items()]
    help = "Messages that entered a status; queued: enqueued."
    yield _counter("courier_statuses", help, totals, ["status"])
    help = "Messages that entered a status, by reason."
    yield _counter("courier_messages", help, rows, ["status", "reason"])
    said = [([code], float(n)) for code, n in codes.items()]
    help = "Attempts of messages by the code that did not accept them."
    yield _counter("courier_send_outcomes", help, said, ["code"])

    def one(name: str) -> Samples:
        return [([], float(counts.get(name, 0)))]

    yield _counter("courier_unsure_outcomes", "Attempts that may have been sent.", one("unsure"))
    yield _counter("courier_bells", "Doorbells rung.", one("bells"))
    claims = [(["leased"], counts.get("claims", 0)), (["nothing"], counts.get("claims:empty", 0))]
    yield _counter("courier_claims", "Looks of workers for work.", claims, ["found"])
    odd = [([what], counts.get(what, 0)) for what in ODDITIES]
    yield _counter("courier_oddities", "What nobody should see.", odd, ["what"])


def _requests(seen: Seen) -> Iterator[Metric]:
    for measure, name, help, kinds in (
        ("size", "courier_request_messages", "Messages in a request.", GATES),
        ("seconds", "courier_request_seconds", "Time from a request to its answer.", GATES),
        ("bytes", "courier_request_bytes", "Bytes of a request's body.", GATES[:1]),
    ):
        family = HistogramMetricFamily(name, help, labels=["what"])
        for what in kinds:
            buckets, total = [], 0
            for bound in (*map(str, BOUNDS[measure]), "inf"):
                total += int(seen.requests.get(f"{what}:{measure}:le:{bound}", 0))
                buckets.append((bound.replace("inf", "+Inf"), total))
            sum_ = float(seen.requests.get(f"{what}:{measure}:sum", 0))
            family.add_metric([what], buckets, sum_ / SECOND if measure == "seconds" else sum_)
        yield family


def _results(seen: Seen) -> Iterator[Metric]:
    now, groups = int(seen.look[0]) / SECOND, seen.look[3]

    def since(event: str) -> float:
        return max(0.0, now - int(event.partition("-")[0]) / 1000) if event else 0.0

    yield _gauge("courier_results_events", "Events on the results stream.", [([], seen.events)])
    yield _gauge("courier_results_groups", "Groups that read the stream.", [([], len(groups))])
    rows: list[Sequence[Any]] = [
        (_group(g[0]), since(g[3]), g[2], since(g[4]), g[1]) for g in groups
    ]
    for column, (name, help) in enumerate(_GROUP_GAUGES, 1):
        worst: dict[str, float] = {}
        for row in rows:
            if row[column] != "":  # Redis doesn't tell
                worst[row[0]] = max(worst.get(row[0], 0.0), float(row[column]))
        samples = [([group], value) for group, value in worst.items()]
        yield _gauge(f"courier_results_{name}", help, samples, ["group"])


_GROUP_GAUGES = (
    ("lag_seconds", "Age of the oldest event that the group has not read."),
    ("lag_events", "Events that the group has not read; from Redis 7 on."),
    ("unacked_seconds", "Age of the group's oldest event that is read and not acknowledged."),
    ("unacked_events", "Events that are read and not acknowledged."),
)


def _group(name: str) -> str:
    """An app's own word: those that may be a number or a text share one label, the worst counts."""
    return name if re.fullmatch("[A-Za-z][A-Za-z0-9_.-]{0,63}", name) else "other"


def _redis(seen: Seen) -> Iterator[Metric]:
    for name, field, help in (
        ("used", "used_memory", "Memory that Redis uses."),
        ("max", "maxmemory", "Redis's maxmemory; 0: no limit."),
        ("system", "total_system_memory", "Memory of Redis's machine."),
    ):
        value = float(seen.memory.get(field, 0))
        yield _gauge(f"courier_redis_memory_{name}_bytes", help, [([], value)])

"""What the exporter says, as a function of what Redis held; docs/metrics.md lists it.

No label holds an id, a phone number or a text: values come from our own vocabulary, or are those of
counters whose names ``worker/send.py`` keeps few. What is unknown here is not exported.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from prometheus_client.core import Metric

from viber_courier.schemas.lanes import LANES, POLL
from viber_courier.schemas.metrics import BOUNDS
from viber_courier.schemas.status import Status
from viber_courier.worker.codes import is_known

SECOND = 1_000_000
HANDS = (*LANES, POLL)
"""What an operator can pause, in the order of ``Seen.paused``."""
GATES = ("send", POLL)
ODDITIES = ("late", "unknown-code", "unknown-state", "status-fault", "strangers")
"""Counters of what nobody should see."""

G, C, H = "gauge", "counter", "histogram"
METRICS = {
    "courier_up": (G, "Whether Redis answered the exporter."),
    "courier_lane_due_messages": (G, "Messages that could go now."),
    "courier_lane_oldest_due_seconds": (G, "How long the oldest has been due; 0: none is."),
    "courier_scheduled_messages": (G, "Messages due later: sendAt, retries."),
    "courier_leased_messages": (G, "Messages held by workers, at least; inside a request or not."),
    "courier_watched_messages": (G, "Accepted messages that are followed."),
    "courier_watched_due_messages": (G, "Accepted messages whose poll is due."),
    "courier_poll_lag_seconds": (G, "How overdue the oldest poll is; 0: none is."),
    "courier_dead_letters": (G, "Ended messages that can be sent again or dropped."),
    "courier_sweep_age_seconds": (G, "Time since the latest sweep; +Inf: never."),
    "courier_paused": (G, "1: paused, by its gate (what the provider answers) or by hand."),
    "courier_gate_reason": (G, "1 for the reason of a closed gate."),
    "courier_gate_failures": (G, "Failed requests in a row."),
    "courier_gate_closings": (G, "Closings in a row, no success between."),
    "courier_gate_closed": (C, "Times that a gate was closed."),
    "courier_gate_retry_seconds": (G, "Time until a closed gate lets one request try."),
    "courier_statuses": (C, "Messages that entered a status; queued: enqueued."),
    "courier_messages": (C, "Messages that entered a status, by reason."),
    "courier_send_outcomes": (C, "Attempts of messages, by the code that did not accept them."),
    "courier_unsure_outcomes": (C, "Attempts of messages that may have been sent."),
    "courier_bells": (C, "Doorbells rung."),
    "courier_claims": (C, "Looks of workers for work."),
    "courier_oddities": (C, "What nobody should see."),
    "courier_request_messages": (H, "Messages in a request."),
    "courier_request_seconds": (H, "Time from a request to its answer."),
    "courier_request_bytes": (H, "Bytes of a request's body."),
    "courier_results_events": (G, "Events on the results stream."),
    "courier_results_groups": (G, "Groups that read the stream."),
    "courier_results_lag_seconds": (G, "Age of the oldest event that the group has not read."),
    "courier_results_lag_events": (G, "Events that the group has not read; from Redis 7 on."),
    "courier_results_unacked_seconds": (G, "Age of its oldest event read and not acknowledged."),
    "courier_results_unacked_events": (G, "Events that are read and not acknowledged."),
    "courier_redis_memory_used_bytes": (G, "Memory that Redis uses."),
    "courier_redis_memory_max_bytes": (G, "Redis's maxmemory; 0: no limit."),
    "courier_redis_memory_system_bytes": (G, "Memory of Redis's machine."),
}
"""What each is, by its name without the endings of counters and histograms."""

Sample = tuple[str, dict[str, str], float]


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


def families(seen: Seen | None) -> Iterable[Metric]:
    """Every metric; where Redis did not answer (None) only that."""
    if seen is None:
        return _metrics([("courier_up", {}, 0)], ["courier_up"])
    parts = (_lanes, _followed, _pauses, _counters, _histograms, _results)
    return _metrics((sample for part in parts for sample in part(seen)), METRICS)


def _metrics(samples: Iterable[Sample], names: Iterable[str]) -> Iterable[Metric]:
    made = {name: Metric(name, METRICS[name][1], METRICS[name][0]) for name in names}
    for name, labels, value in samples:
        made[re.sub("_(total|bucket|sum|count)$", "", name)].add_sample(name, labels, value)
    return made.values()


def _age(now: int, *scores: str) -> float:
    """Seconds since the oldest of them; 0 where there is none."""
    return max(max(0.0, now - float(score)) / SECOND if score else 0.0 for score in scores)


def _micros(millis: str) -> str:
    return f"{millis}000" if millis else ""


def _lanes(seen: Seen) -> Iterator[Sample]:
    for place, lane in enumerate(LANES):
        sizes, due, oldest, held, inside = zip(
            *seen.look[2][2 * place : 2 * place + 2], strict=True
        )
        later = sum(sizes) - sum(due) - sum(held) - sum(inside)
        label = {"lane": lane}
        yield "courier_lane_due_messages", label, sum(due)
        yield "courier_lane_oldest_due_seconds", label, _age(int(seen.look[0]), *oldest)
        yield "courier_scheduled_messages", label, later
        yield "courier_leased_messages", {**label, "inside": "no"}, sum(held)
        yield "courier_leased_messages", {**label, "inside": "yes"}, sum(inside)


def _followed(seen: Seen) -> Iterator[Sample]:
    now, swept, sets, _ = seen.look
    size, due, oldest, *_ = sets[-1]
    yield "courier_up", {}, 1
    yield "courier_watched_messages", {}, size
    yield "courier_watched_due_messages", {}, due
    yield "courier_poll_lag_seconds", {}, _age(int(now), oldest)
    yield "courier_dead_letters", {}, seen.dead
    age = _age(int(now), _micros(swept)) if swept else float("inf")
    yield "courier_sweep_age_seconds", {}, age
    for name, field in (
        ("used", "used_memory"),
        ("max", "maxmemory"),
        ("system", "total_system_memory"),
    ):
        yield f"courier_redis_memory_{name}_bytes", {}, seen.memory.get(field, 0)


def _pauses(seen: Seen) -> Iterator[Sample]:
    for what, why in zip(HANDS, seen.paused, strict=True):
        yield "courier_paused", {"what": what, "by": "hand"}, why is not None
    for what, gate in zip(GATES, seen.gates, strict=True):
        label = {"what": what}
        yield "courier_paused", {**label, "by": "gate"}, "until" in gate
        if "until" in gate:
            yield "courier_gate_reason", {**label, "reason": _reason(gate.get("reason", ""))}, 1
        yield "courier_gate_failures", label, float(gate.get("row", 0))
        yield "courier_gate_closings", label, float(gate.get("step", 0))
        wait = float(gate.get("until", 0)) - int(seen.look[0])
        yield "courier_gate_retry_seconds", label, max(0.0, wait / SECOND)


def _reason(text: str) -> str:
    """A gate's reason is ours or a provider's code, and of those only the document's are few."""
    ours = re.fullmatch("[A-Za-z0-9-]{1,64}", text) and not text.startswith("error-")
    return text if ours or is_known(text) else "other"


def _counters(seen: Seen) -> Iterator[Sample]:
    counts = {name: int(n) for name, n in seen.counts.items()}
    # Those that are there from 0 on: a rate doesn't see the first step of others.
    entered = Counter({str(status): 0 for status in Status if status is not Status.SENDING})
    codes = Counter({"not-sent": 0, "other": 0})
    for name, n in sorted(counts.items()):
        head, _, tail = name.partition(":")
        if head in entered and re.fullmatch("[a-z0-9-]{0,64}", tail):
            entered[head] += n
            yield "courier_messages_total", {"status": head, "reason": tail}, n
        elif head == "code" and re.fullmatch("[a-z0-9-]{1,64}", tail):
            codes[tail] = n
    for status, n in entered.items():
        yield "courier_statuses_total", {"status": status}, n
    for code, n in codes.items():
        yield "courier_send_outcomes_total", {"code": code}, n
    for what in GATES:
        yield "courier_gate_closed_total", {"what": what}, counts.get(f"closed:{what}", 0)
    yield "courier_unsure_outcomes_total", {}, counts.get("unsure", 0)
    yield "courier_bells_total", {}, counts.get("bells", 0)
    for found, name in (("leased", "claims"), ("nothing", "claims:empty")):
        yield "courier_claims_total", {"found": found}, counts.get(name, 0)
    for what in ODDITIES:
        yield "courier_oddities_total", {"what": what}, counts.get(what, 0)


def _histograms(seen: Seen) -> Iterator[Sample]:
    for name, measure, unit, kinds in (
        ("courier_request_messages", "size", 1, GATES),
        ("courier_request_seconds", "seconds", SECOND, GATES),
        ("courier_request_bytes", "bytes", 1, GATES[:1]),
    ):
        for what in kinds:
            label, total = {"what": what}, 0
            for bound in (*map(str, BOUNDS[measure]), "inf"):
                total += int(seen.requests.get(f"{what}:{measure}:le:{bound}", 0))
                yield f"{name}_bucket", {**label, "le": bound.replace("inf", "+Inf")}, total
            yield f"{name}_count", label, total
            yield f"{name}_sum", label, int(seen.requests.get(f"{what}:{measure}:sum", 0)) / unit


def _results(seen: Seen) -> Iterator[Sample]:
    now, groups = int(seen.look[0]), seen.look[3]
    yield "courier_results_events", {}, seen.events
    yield "courier_results_groups", {}, len(groups)
    worst: dict[tuple[str, str], float] = {}
    for group, unacked, lag, unread, oldest in groups:
        # An app's own word. Those that may be a number or a text share a label: the worst counts.
        label = group if re.fullmatch("[A-Za-z][A-Za-z0-9_.-]{0,63}", group) else "other"
        ages = (_age(now, _micros(id.partition("-")[0])) for id in (unread, oldest))
        names = ("lag_seconds", "unacked_seconds", "lag_events", "unacked_events")
        for name, value in zip(names, (*ages, lag, unacked), strict=True):
            if value != "":  # Redis doesn't tell
                worst[name, label] = max(worst.get((name, label), 0.0), float(value))
    for (name, label), value in worst.items():
        yield f"courier_results_{name}", {"group": label}, value

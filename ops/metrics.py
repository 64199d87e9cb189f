"""Turns a look at Redis into the metrics that docs/metrics.md lists.

No label holds an id, a phone number or a text: labels are words of ours, known codes of the
provider and names of groups and campaigns.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

from prometheus_client.core import Metric

from viber_courier.ops.counters import by_status
from viber_courier.ops.look import PAUSABLE, Look, silence
from viber_courier.schemas.lanes import POLL
from viber_courier.schemas.status import Reason, Status
from viber_courier.store.counters import status_field
from viber_courier.store.door import Waiting
from viber_courier.store.suppressions import ADDED, BY_WORKERS, REMOVED
from viber_courier.worker.codes import is_known

G, C, H = "gauge", "counter", "histogram"
METRICS = {
    "courier_up": (G, "Whether Redis answered the exporter."),
    "courier_lane_due_messages": (G, "Messages that are due now."),
    "courier_lane_oldest_due_seconds": (G, "How long the oldest has been due; 0: none is."),
    "courier_scheduled_messages": (G, "Messages due later: sendAt, retries."),
    "courier_leased_messages": (G, "Messages held by workers, at least; inside a request or not."),
    "courier_watched_messages": (G, "Accepted messages that are polled."),
    "courier_watched_due_messages": (G, "Accepted messages whose poll is due."),
    "courier_poll_lag_seconds": (G, "How overdue the oldest poll is; 0: none is."),
    "courier_intake_waiting_tasks": (G, "Tasks of Celery clients that no worker has taken yet."),
    "courier_intake_waiting_seconds": (G, "How long the oldest has waited, at least."),
    "courier_intake_held_tasks": (G, "Tasks that workers hold, or that have an eta."),
    "courier_dead_letters": (G, "Messages on the list of dead letters."),
    "courier_silent_polls": (G, "Answered polls in a row that said nothing about any message."),
    "courier_silent_polls_seconds": (G, "How long that has gone on; 0: it hasn't."),
    "courier_sweep_age_seconds": (G, "Time since the latest sweep; +Inf: never."),
    "courier_paused": (G, "1: paused, by its gate (after answers of the provider) or by hand."),
    "courier_gate_reason": (G, "1 for the reason of a closed gate."),
    "courier_gate_failures": (G, "Failed requests in a row."),
    "courier_gate_closings": (G, "Closings in a row without a success between."),
    "courier_gate_closed": (C, "Times that the gate was closed."),
    "courier_gate_retry_seconds": (G, "Time until a closed gate lets one request try."),
    "courier_statuses": (C, "Messages that entered a status; queued: enqueued."),
    "courier_messages": (C, "Messages that entered a status, by reason."),
    "courier_send_outcomes": (C, "Attempts of messages that were not accepted, by code."),
    "courier_unsure_outcomes": (C, "Attempts of messages that may have been sent."),
    "courier_bells": (C, "Doorbells rung."),
    "courier_claims": (C, "Claims of workers, by whether something was due."),
    "courier_suppressed": (C, "Messages that ended unsent: their numbers are suppressed."),
    "courier_suppressions": (C, "Changes of the list of suppressed numbers."),
    "courier_oddities": (C, "Things that should never happen."),
    "courier_campaign_messages": (G, "Messages in a status now; queued: also inside a request."),
    "courier_campaign_inside_messages": (G, "Messages inside a request."),
    "courier_campaign_oldest_due_seconds": (G, "How long the oldest has been due."),
    "courier_campaign_paused": (G, "1: paused."),
    "courier_campaign_cancelled": (G, "1: cancelled."),
    "courier_campaign_rate_limit": (G, "Its own limit in messages per second."),
    "courier_campaign_statuses": (C, "Messages that entered a status; queued: added."),
    "courier_campaign_ended_messages": (G, "Messages that have ended."),
    "courier_campaign_suppressed_messages": (
        G,
        "Messages that ended unsent: their numbers are suppressed.",
    ),
    "courier_campaigns_left_out": (G, "Campaigns that are not exported."),
    "courier_request_messages": (H, "Messages in a request."),
    "courier_request_seconds": (H, "Time from a request to its answer."),
    "courier_request_bytes": (H, "Bytes of a request's body."),
    "courier_results_events": (G, "Events on the results stream."),
    "courier_results_groups": (G, "Groups that read the stream."),
    "courier_results_retention_seconds": (
        G,
        "How long events are kept, by the exporter's settings.",
    ),
    "courier_results_lag_seconds": (G, "Age of the oldest event that the group has not read."),
    "courier_results_lag_events": (G, "Events that the group has not read; from Redis 7 on."),
    "courier_results_unacked_seconds": (G, "Age of its oldest event read and not acknowledged."),
    "courier_results_unacked_events": (G, "Events that are read and not acknowledged."),
    "courier_redis_memory_used_bytes": (G, "Memory that Redis uses."),
    "courier_redis_memory_max_bytes": (G, "Redis's maxmemory; 0: no limit."),
    "courier_redis_memory_system_bytes": (G, "Memory of Redis's machine."),
    "courier_redis_replicas": (G, "Replicas that follow the master."),
    "courier_replicas_wanted": (G, "COURIER_REPLICAS of the exporter's settings."),
}
"""Type and help text by name, without the suffixes of counters and histograms."""

_SUPPRESSED = status_field(Status.REJECTED, Reason.SUPPRESSED)
_NUMBER = re.compile(r"[._-]*(?:\d[._-]*){9,}")
"""What names of campaigns may be, and phone numbers are; a date is shorter."""

Sample = tuple[str, dict[str, str], float]


def families(
    look: Look | None, retention: float = 0.0, replicas: int = 0, door: Waiting | None = None
) -> Iterable[Metric]:
    """Returns every metric; only ``courier_up`` if Redis did not answer (None).

    ``retention``: seconds that events are kept. ``replicas``: how many promises wait for. ``door``:
    None if the broker did not answer.
    """
    if look is None:
        return _metrics([("courier_up", {}, 0)], ["courier_up"])
    parts = (_lanes, _others, _pauses, _counters, _histograms, _results, _campaigns)
    given: list[Sample] = [("courier_results_retention_seconds", {}, retention)]
    given.append(("courier_replicas_wanted", {}, max(0, replicas)))
    others = (sample for part in parts for sample in part(look))
    return _metrics((*given, *_tasks(door), *others), METRICS)


def _metrics(samples: Iterable[Sample], names: Iterable[str]) -> Iterable[Metric]:
    made = {name: Metric(name, METRICS[name][1], METRICS[name][0]) for name in names}
    for name, labels, value in samples:
        made[re.sub("_(total|bucket|sum|count)$", "", name)].add_sample(name, labels, value)
    return made.values()


def _tasks(door: Waiting | None) -> Iterator[Sample]:
    if door is not None:
        yield "courier_intake_waiting_tasks", {}, door.tasks
        yield "courier_intake_waiting_seconds", {}, door.seconds
        yield "courier_intake_held_tasks", {}, door.held


def _lanes(look: Look) -> Iterator[Sample]:
    for lane, backlog in look.lanes.items():
        label = {"lane": lane}
        yield "courier_lane_due_messages", label, backlog.due
        yield "courier_lane_oldest_due_seconds", label, backlog.overdue
        yield "courier_scheduled_messages", label, backlog.scheduled
        yield "courier_leased_messages", {**label, "inside": "no"}, backlog.leased
        yield "courier_leased_messages", {**label, "inside": "yes"}, backlog.inside


def _others(look: Look) -> Iterator[Sample]:
    yield "courier_up", {}, 1
    yield "courier_watched_messages", {}, look.watched.size
    yield "courier_watched_due_messages", {}, look.watched.due
    yield "courier_poll_lag_seconds", {}, look.watched.overdue
    yield "courier_dead_letters", {}, look.dead
    polls, seconds = silence(look)
    yield "courier_silent_polls", {}, polls
    yield "courier_silent_polls_seconds", {}, seconds
    age = float("inf") if look.swept is None else max(0.0, look.swept)
    yield "courier_sweep_age_seconds", {}, age
    for name, field in (
        ("used", "used_memory"),
        ("max", "maxmemory"),
        ("system", "total_system_memory"),
    ) * bool(look.info):
        yield f"courier_redis_memory_{name}_bytes", {}, look.info.get(field, 0)
    if "connected_slaves" in look.info:
        yield "courier_redis_replicas", {}, look.info["connected_slaves"]


def _pauses(look: Look) -> Iterator[Sample]:
    for name in PAUSABLE:
        yield "courier_paused", {"what": name, "by": "hand"}, name in look.paused
    for name, gate in look.gates.items():
        label, wait = {"what": name}, 0.0
        yield "courier_paused", {**label, "by": "gate"}, gate.until is not None
        if gate.until is not None:
            yield "courier_gate_reason", {**label, "reason": _reason(gate.reason)}, 1
            wait = max(0.0, gate.until - look.now)
        yield "courier_gate_failures", label, gate.failures
        yield "courier_gate_closings", label, gate.closings
        yield "courier_gate_retry_seconds", label, wait


def _reason(text: str) -> str:
    """Returns a gate's reason if it is ours or a documented code of the provider."""
    ours = re.fullmatch("[A-Za-z0-9:, -]{1,80}", text) and not text.startswith("error-")
    return text if ours or is_known(text) else "other"


def _counters(look: Look) -> Iterator[Sample]:
    counters = look.counters
    for (status, reason), n in counters.reasons.items():
        yield "courier_messages_total", {"status": status, "reason": reason}, n
    for status, entered in counters.statuses.items():
        yield "courier_statuses_total", {"status": status}, entered
    for code, n in counters.codes.items():
        yield "courier_send_outcomes_total", {"code": code}, n
    for gate, n in counters.closings.items():
        yield "courier_gate_closed_total", {"what": gate}, n
    yield "courier_unsure_outcomes_total", {}, counters.unsure
    yield "courier_bells_total", {}, counters.bells
    yield "courier_claims_total", {"found": "leased"}, counters.claims
    yield "courier_claims_total", {"found": "nothing"}, counters.empty_claims
    yield "courier_suppressed_total", {}, counters.fields.get(_SUPPRESSED, 0)
    for how in (ADDED, REMOVED, BY_WORKERS):
        label = {"how": how.partition(":")[2]}
        yield "courier_suppressions_total", label, counters.fields.get(how, 0)
    for oddity, n in counters.oddities.items():
        yield "courier_oddities_total", {"what": oddity}, n


def _histograms(look: Look) -> Iterator[Sample]:
    names = {"size": "messages", "seconds": "seconds", "bytes": "bytes"}
    for (gate, measure), histogram in look.counters.histograms.items():
        if (gate, measure) == (POLL, "bytes"):
            continue  # its requests hold ids only
        name, label = f"courier_request_{names[measure]}", {"what": gate}
        for bound, n in histogram.buckets:
            yield f"{name}_bucket", {**label, "le": bound.replace("inf", "+Inf")}, n
        yield f"{name}_count", label, histogram.buckets[-1][1]
        yield f"{name}_sum", label, histogram.total


def _results(look: Look) -> Iterator[Sample]:
    yield "courier_results_events", {}, look.events
    yield "courier_results_groups", {}, len(look.groups)
    worst: dict[tuple[str, str], float] = {}
    for group in look.groups:
        # Apps choose the names. Those that may be a number or a text share a label, and the worst
        # of them counts.
        known = re.fullmatch("[A-Za-z][A-Za-z0-9_./-]{0,96}", group.name)
        label = group.name if known else "other"
        for name, value in (
            ("lag_seconds", group.lag_seconds),
            ("lag_events", group.lag),
            ("unacked_seconds", group.unacked_seconds),
            ("unacked_events", group.unacked),
        ):
            if value is not None:
                worst[name, label] = max(worst.get((name, label), 0.0), float(value))
    for (name, label), value in worst.items():
        yield f"courier_results_{name}", {"group": label}, value


def _campaigns(look: Look) -> Iterator[Sample]:
    shown = [each for each in look.campaigns if not _NUMBER.fullmatch(each.progress.name)]
    yield "courier_campaigns_left_out", {}, look.left_out + len(look.campaigns) - len(shown)
    for progress, overdue in shown:
        label, name = {"campaign": progress.name}, "courier_campaign"
        yield f"{name}_inside_messages", label, progress.inside
        yield f"{name}_paused", label, progress.state == "paused"
        yield f"{name}_cancelled", label, progress.state == "cancelled"
        yield f"{name}_ended_messages", label, progress.ended
        yield f"{name}_suppressed_messages", label, progress.entered.get(_SUPPRESSED, 0)
        if progress.rate is not None:
            yield f"{name}_rate_limit", label, progress.rate
        for lane, seconds in overdue.items():
            yield f"{name}_oldest_due_seconds", {**label, "lane": lane}, seconds
        for status, number in progress.statuses.items():
            yield f"{name}_messages", {**label, "status": status}, number
        for entered, n in (by_status(progress.entered) | {Status.QUEUED: progress.added}).items():
            yield f"{name}_statuses_total", {**label, "status": entered}, n

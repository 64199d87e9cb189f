"""The counters of a namespace: how their fields are named, and what they say.

``{ns}:counts``:

========================== ===============================================================
field                      counts
========================== ===============================================================
``<status>``               messages that entered the status, where there is no reason
``<status>:<reason>``      the same with a reason; its words are few, see worker/send.py
``code:<code>``            attempts of messages that the provider answered with this code;
                           ``not-sent``: no connection, ``other``: a code that isn't its own
``unsure``                 attempts of messages that may have been sent
``bells``                  doorbells rung
``claims``                 claims that leased something
``claims:empty``           claims that found nothing
``closed:<gate>``          times that the gate of ``send`` or ``poll`` was closed
each word of ``Oddity``    what should never happen
========================== ===============================================================

``{ns}:requests`` holds the histograms. ``<gate>:<measure>:le:<bound>`` counts the requests up to
this bound and above the one before it, ``...:sum`` adds their values up (seconds in microseconds),
``...:count`` counts them all.

Scripts add to ``bells``, ``claims``, ``claims:empty`` and ``closed:<gate>`` by themselves.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple

from viber_courier.schemas.instants import SECOND
from viber_courier.schemas.lanes import POLL
from viber_courier.schemas.status import Status

GATES = ("send", POLL)
BOUNDS: dict[str, tuple[float, ...]] = {
    "size": (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000),
    "seconds": (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60),
    "bytes": (1_000, 3_000, 10_000, 30_000, 100_000, 300_000, 1_000_000, 3_000_000),
}
"""Upper bounds by what is measured: messages, seconds and bytes of one request."""
UNSURE, NOT_SENT, OTHER = "unsure", "not-sent", "other"
_ENTERED = [str(status) for status in Status if status is not Status.SENDING]
_FIELD = re.compile("([a-z_-]+)(?::([a-z0-9-]{1,64}))?")
"""Fields of any other form are not read, so no phone number and no text is ever shown."""


class Oddity(StrEnum):
    """Something that should never happen, counted to raise an alert."""

    LATE = "late"
    UNKNOWN_CODE = "unknown-code"
    UNKNOWN_STATE = "unknown-state"
    STATUS_FAULT = "status-fault"
    STRANGERS = "strangers"


def status_field(status: str, reason: str | None = None) -> str:
    """Returns the field that counts messages which enter a status."""
    return f"{status}:{reason}" if reason else status


def code_field(code: str) -> str:
    """Returns the field that counts attempts which were answered with this code."""
    return f"code:{code}"


def observed(gate: str, **values: float) -> dict[str, int]:
    """Returns what one request adds to the histograms, by field."""
    adds = {}
    for measure, value in values.items():
        bound = _bounds(measure)[bisect_left(BOUNDS[measure], value)]
        total = value * SECOND if measure == "seconds" else value
        adds[f"{gate}:{measure}:le:{bound}"] = 1
        adds[f"{gate}:{measure}:sum"] = round(total)
        adds[f"{gate}:{measure}:count"] = 1
    return adds


class Histogram(NamedTuple):
    """``buckets``: the requests up to each bound, ``inf`` the last. ``total``: the sum."""

    buckets: list[tuple[str, int]]
    total: float


@dataclass(frozen=True, slots=True)
class Counters:
    """The counters as values. Every status, gate and oddity is there, from 0 on.

    ``fields``: ``{ns}:counts`` as it is stored. ``statuses``: messages that entered each status,
    for whatever reason; ``reasons``: the same by status and reason ("" where there is none).
    ``closings``: by gate. ``histograms``: by gate and measure.
    """

    fields: Mapping[str, int]
    statuses: Mapping[str, float]
    reasons: Mapping[tuple[str, str], int]
    codes: Mapping[str, int]
    closings: Mapping[str, int]
    oddities: Mapping[str, int]
    unsure: int
    bells: int
    claims: int
    empty_claims: int
    histograms: Mapping[tuple[str, str], Histogram]


def read_counters(counts: Mapping[str, str], requests: Mapping[str, str]) -> Counters:
    """Reads ``{ns}:counts`` and ``{ns}:requests``."""
    fields = Counter({name: int(n) for name, n in sorted(counts.items())})
    parts = [(*_split(name), n) for name, n in fields.items()]
    codes = {tail: n for head, tail, n in parts if head == "code"}
    return Counters(
        fields=fields,
        statuses=by_status(fields),
        reasons={(head, tail): n for head, tail, n in parts if head in _ENTERED},
        codes={NOT_SENT: 0, OTHER: 0} | codes,
        closings={gate: fields[f"closed:{gate}"] for gate in GATES},
        oddities={oddity: fields[oddity] for oddity in Oddity},
        unsure=fields[UNSURE],
        bells=fields["bells"],
        claims=fields["claims"],
        empty_claims=fields["claims:empty"],
        histograms={(gate, m): _histogram(requests, gate, m) for gate in GATES for m in BOUNDS},
    )


def by_status(fields: Mapping[str, float]) -> dict[str, float]:
    """Returns sums over the reasons of each status: of counters, or of their rates."""
    sums: dict[str, float] = dict.fromkeys(_ENTERED, 0)
    for name, n in fields.items():
        if (status := _split(name)[0]) in sums:
            sums[status] += n
    return sums


def _split(field: str) -> tuple[str, str]:
    """Returns a field's two parts, "" twice if its form is not ours."""
    found = _FIELD.fullmatch(field)
    return (found[1], found[2] or "") if found else ("", "")


def _bounds(measure: str) -> list[str]:
    return [*map(str, BOUNDS[measure]), "inf"]


def _histogram(requests: Mapping[str, str], gate: str, measure: str) -> Histogram:
    head, buckets, count = f"{gate}:{measure}", [], 0
    for bound in _bounds(measure):
        count += int(requests.get(f"{head}:le:{bound}", 0))
        buckets.append((bound, count))
    unit = SECOND if measure == "seconds" else 1
    return Histogram(buckets, int(requests.get(f"{head}:sum", 0)) / unit)

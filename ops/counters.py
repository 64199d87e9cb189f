"""What the counters of a namespace say (store/counters.py names their fields)."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

from viber_courier.schemas.instants import SECOND
from viber_courier.schemas.status import Status
from viber_courier.store.counters import (
    BOUNDS,
    GATES,
    NOT_SENT,
    OTHER,
    UNSURE,
    Oddity,
    bounds_of,
    seen_field,
)

_ENTERED = [str(status) for status in Status if status is not Status.SENDING]
_FIELD = re.compile("([a-z_-]+)(?::([a-z0-9-]{1,64}))?")
"""Fields of any other form are not read, so no phone number and no text is ever shown."""


class Histogram(NamedTuple):
    """``buckets``: the requests up to each bound, ``inf`` the last. ``total``: the sum."""

    buckets: list[tuple[str, int]]
    total: float


@dataclass(frozen=True, slots=True)
class Counters:
    """The counters as values. Every status, gate and oddity is there, from 0 on.

    ``fields``: ``{ns}:counts`` as it is stored. ``statuses``: messages that entered each status,
    for whatever reason; ``reasons``: the same by status and reason ("" where there is none).
    ``closings``: by gate. ``histograms``: by gate and measure. ``seen``: when each oddity was last
    counted, in seconds since 1970 by Redis's clock.
    """

    fields: Mapping[str, int]
    statuses: Mapping[str, float]
    reasons: Mapping[tuple[str, str], int]
    codes: Mapping[str, int]
    closings: Mapping[str, int]
    oddities: Mapping[str, int]
    seen: Mapping[str, float]
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
        seen={each: n / SECOND for each in Oddity if (n := fields[seen_field(each)])},
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


def _histogram(requests: Mapping[str, str], gate: str, measure: str) -> Histogram:
    head, buckets, count = f"{gate}:{measure}", [], 0
    for bound in bounds_of(measure):
        count += int(requests.get(f"{head}:le:{bound}", 0))
        buckets.append((bound, count))
    unit = SECOND if measure == "seconds" else 1
    return Histogram(buckets, int(requests.get(f"{head}:sum", 0)) / unit)

"""The counters of a namespace: how their fields are named (ops/counters.py reads them).

``{ns}:counts``:

========================== ===============================================================
field                      counts
========================== ===============================================================
``<status>``               messages that entered the status, where there is no reason
``<status>:<reason>``      the same with a reason; worker/decisions.py bounds the reasons
``code:<code>``            attempts that the provider answered with this code; ``not-sent``: no
                           connection was made, ``other``: an unknown code
``unsure``                 attempts of messages that may have been sent
``bells``                  doorbells rung
``claims``                 claims that leased something
``claims:empty``           claims that found nothing
``suppressed:<how>``       changes of the list of suppressed numbers: ``added``, ``removed`` by
                           apps, ``blocked`` by workers
``closed:<gate>``          how often the gate of ``send`` or ``poll`` was closed
each word of ``Oddity``    what should never happen
``seen:<oddity>``          no count: its latest instant (us), by Redis's clock
========================== ===============================================================

``{ns}:requests`` holds histograms. ``<gate>:<measure>:le:<bound>`` counts the requests up to this
bound and above the one before it. ``...:sum`` is the sum of their values (seconds are kept as
microseconds), ``...:count`` their number.

Scripts count ``bells``, ``claims``, ``claims:empty``, ``closed:<gate>`` and ``events-missed``
themselves.
"""

from bisect import bisect_left
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from viber_courier.schemas.instants import SECOND
from viber_courier.schemas.lanes import POLL

GATES = ("send", POLL)
BOUNDS: dict[str, tuple[float, ...]] = {
    "size": (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000),
    "seconds": (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60),
    "bytes": (1_000, 3_000, 10_000, 30_000, 100_000, 300_000, 1_000_000, 3_000_000),
}
"""Upper bounds of each histogram: messages, seconds and bytes of one request."""
UNSURE, NOT_SENT, OTHER = "unsure", "not-sent", "other"


class Oddity(StrEnum):
    """Something that should never happen, counted to raise an alert."""

    LATE = "late"
    UNKNOWN_CODE = "unknown-code"
    UNKNOWN_STATE = "unknown-state"
    STATUS_FAULT = "status-fault"
    STRANGERS = "strangers"
    UNREADABLE = "unreadable"
    UNREADABLE_SEND = "unreadable-send"
    NO_PROVIDER_ID = "no-provider-id"
    CLOCK_STEP = "clock-step"
    EVENTS_MISSED = "events-missed"
    SHARED_ID = "shared-id"


ODDITIES = frozenset(Oddity)


@dataclass(frozen=True, slots=True)
class Figures:
    """What one request adds to ``Keys.counts`` and to the histograms (store/counters.py)."""

    counts: Mapping[str, int]
    histograms: Mapping[str, int] = field(default_factory=dict)


def status_field(status: str, reason: str | None = None) -> str:
    """Returns the field that counts messages entering a status."""
    return f"{status}:{reason}" if reason else status


def code_field(code: str) -> str:
    """Returns the field that counts attempts answered with this code."""
    return f"code:{code}"


def seen_field(oddity: str) -> str:
    """Returns the field of an oddity's latest instant."""
    return f"seen:{oddity}"


def observed(gate: str, **values: float) -> dict[str, int]:
    """Returns what one request adds to the histograms, by field."""
    adds = {}
    for measure, value in values.items():
        bound = bounds_of(measure)[bisect_left(BOUNDS[measure], value)]
        total = value * SECOND if measure == "seconds" else value
        adds[f"{gate}:{measure}:le:{bound}"] = 1
        adds[f"{gate}:{measure}:sum"] = round(total)
        adds[f"{gate}:{measure}:count"] = 1
    return adds


def bounds_of(measure: str) -> list[str]:
    """Returns the bounds as they appear in fields; the last is ``inf``."""
    return [*map(str, BOUNDS[measure]), "inf"]

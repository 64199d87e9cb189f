"""What is counted of requests: the bounds of their histograms and the names of their fields."""

from __future__ import annotations

from bisect import bisect_left

BOUNDS: dict[str, tuple[float, ...]] = {
    "size": (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000),
    "seconds": (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60),
    "bytes": (1_000, 3_000, 10_000, 30_000, 100_000, 300_000, 1_000_000, 3_000_000),
}
"""Upper bounds by what is measured: messages, seconds and bytes of one request."""


def bucket(what: str, measure: str, value: float) -> str:
    """The field of the histogram that counts this value: ``send:size:le:100``, ``...:le:inf``."""
    bounds = BOUNDS[measure]
    place = bisect_left(bounds, value)
    bound: float | str = bounds[place] if place < len(bounds) else "inf"
    return f"{what}:{measure}:le:{bound}"


def observed(what: str, **values: float) -> dict[str, int]:
    """What one request adds to which fields; sums of seconds are in microseconds."""
    adds = {}
    for measure, value in values.items():
        total = value * 1_000_000 if measure == "seconds" else value
        adds[bucket(what, measure, value)] = 1
        adds[f"{what}:{measure}:sum"] = round(total)
        adds[f"{what}:{measure}:count"] = 1
    return adds

"""Notices steps of the Redis server's clock, which every instant in the store goes by.

A step back shows by itself: it is earlier than at the latest sweep. A step forward shows to a
process that swept before and after it, and knows by its own clock how long that was. That clock
runs evenly, whatever sets the host's time. lua/lib/clock_step.lua says what a step leads to.
"""

import time
from threading import Lock

from viber_courier.schemas.settings import Settings

STEP = 5.0
"""Seconds that the clock must step by to be noticed."""
STALE_SWEEPS = 1.5
"""Sweep intervals without a sweep after which a worker's listener sweeps: perhaps no beat runs.

It looks each half interval, so that what is due waits for two at most.
"""


def longest_gap(settings: Settings) -> float:
    """Returns how long after a sweep the next comes at the latest, in seconds."""
    return STEP + (STALE_SWEEPS + 0.5) * settings.sweep_interval


def even_seconds() -> float:
    """Returns seconds that pass evenly, also while this machine sleeps (where it can tell)."""
    return time.clock_gettime(getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC))


class StepWatch:
    """Compares the server's clock with this process's even seconds, from sweep to sweep."""

    def __init__(self) -> None:
        self._lock, self._last = Lock(), (0, 0.0)

    def expected(self, now: float) -> int | None:
        """Returns what the server's clock should show, in ms; None before the first sweep."""
        server, at = self._last
        return server + round((now - at) * 1000) if server else None

    def step(self, server: int, before: int, began: float, ended: float) -> float:
        """Returns the seconds that the clock has stepped by, 0.0 if it hasn't.

        ``server``: what it showed at a sweep, ``before``: at the latest sweep of any process, both
        in ms. The sweep's call ``began`` and ``ended`` in even seconds. Each step shows once.
        """
        with self._lock:
            latest = self.expected(ended)
            self._last = server, began
        if server - before < -1000 * STEP:
            return (server - before) / 1000
        if latest is not None and min(server - before, server - latest) > 1000 * STEP:
            return (server - latest) / 1000
        return 0.0

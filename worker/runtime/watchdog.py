"""A worker whose event loop stands still ends itself: a supervisor starts it again."""

import faulthandler
import sys
from typing import Any

from celery import bootsteps
from celery.concurrency import solo

HEARTBEAT_INTERVAL = 5.0
"""Seconds between two signs of life."""
HUNG_AFTER = 120.0
"""Seconds without one after which the worker has hung: many times what a dead Redis costs it."""


class Watchdog(bootsteps.StartStopStep):  # type: ignore[misc]
    """Nothing else notices a hung worker: it is alive, and takes no tasks, without a log line.

    Python's own watchdog (faulthandler) then writes where it hangs, and ends it. While the worker
    looks for its broker, and once it was told to end, it isn't watched.
    """

    requires = ("celery.worker.consumer.connection:Connection",)

    def __init__(self, consumer: Any, **_: Any) -> None:
        # In the solo pool a task runs in the event loop, however long it takes.
        self.enabled = consumer.hub is not None and not isinstance(consumer.pool, solo.TaskPool)
        self._pulse: Any = None

    def start(self, consumer: Any) -> None:
        """The broker is there: the event loop is about to run."""
        _alive()
        self._pulse = consumer.timer.call_repeatedly(HEARTBEAT_INTERVAL, _alive)

    def stop(self, consumer: Any) -> None:
        """The broker is lost, or the worker ends."""
        if self._pulse is not None:
            self._pulse.cancel()
        faulthandler.cancel_dump_traceback_later()


def _alive() -> None:
    faulthandler.dump_traceback_later(HUNG_AFTER, exit=True, file=sys.__stderr__ or sys.stderr)

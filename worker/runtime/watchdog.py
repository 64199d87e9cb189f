"""Ends a worker whose event loop stands still, so that its supervisor restarts it."""

import faulthandler
import sys
from typing import Any

from celery import bootsteps
from celery.concurrency import solo

HEARTBEAT_INTERVAL = 5.0
"""Seconds between heartbeats of the event loop."""
HUNG_AFTER = 120.0
"""Seconds without a heartbeat that end the worker; a dead Redis blocks it for far less."""


class Watchdog(bootsteps.StartStopStep):  # type: ignore[misc]
    """Writes where a hung worker hangs and ends it, by means of Python's faulthandler.

    Nothing else notices a hung worker: its process lives and logs nothing, but takes no tasks. It
    is not watched while it connects to its broker, nor after it was asked to end.
    """

    requires = ("celery.worker.consumer.connection:Connection",)

    def __init__(self, consumer: Any, **_: Any) -> None:
        # In the solo pool tasks run in the event loop, however long they take.
        self.enabled = consumer.hub is not None and not isinstance(consumer.pool, solo.TaskPool)
        self._pulse: Any = None

    def start(self, consumer: Any) -> None:
        """Starts the heartbeat: the event loop is about to run."""
        _alive()
        self._pulse = consumer.timer.call_repeatedly(HEARTBEAT_INTERVAL, _alive)

    def stop(self, consumer: Any) -> None:
        """Stops the watchdog: the broker is lost, or the worker ends."""
        if self._pulse is not None:
            self._pulse.cancel()
        faulthandler.cancel_dump_traceback_later()


def _alive() -> None:
    faulthandler.dump_traceback_later(HUNG_AFTER, exit=True, file=sys.__stderr__ or sys.stderr)

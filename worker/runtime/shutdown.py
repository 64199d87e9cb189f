"""Makes a worker finish its requests on TERM and HUP, and its beat end with it."""

import os
import signal
from typing import Any

from billiard import current_process
from celery import bootsteps
from celery.worker import state

_NOHUP = signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
"""The worker was started with nohup; read before Celery replaces that."""


class Shutdown(bootsteps.StartStopStep):  # type: ignore[misc]
    """Sets the signal handlers of a worker's main process, after Celery has set its own.

    Celery's ends tasks on TERM if another app's ``REMAP_SIGTERM`` is set. HUP (a terminal was
    closed, systemd's ``SendSIGHUP``) starts Celery's worker anew, or kills it in a terminal.
    """

    def start(self, worker: Any) -> None:
        """Sets the handlers: the worker is about to start its pool."""
        if os.environ.get("REMAP_SIGTERM"):
            signal.signal(signal.SIGTERM, _finish)
        signal.signal(signal.SIGHUP, signal.SIG_IGN if _NOHUP else _finish)


def _finish(*_: Any) -> None:
    """Starts a warm shutdown: no new tasks; those that run are finished."""
    if state.should_stop is None:
        state.should_stop = os.EX_OK


def end_with_worker(parent: int) -> None:
    """Ends this process if it is a worker's beat, once the worker, ``parent``, is gone.

    Celery's beat would outlive a killed worker, one for each time.
    """
    if current_process().name != "MainProcess" and os.getppid() != parent:
        raise SystemExit("the worker of this beat is gone")

"""Makes a worker finish its requests on TERM and HUP, and its beat end with it."""

import os
import signal
from typing import Any

from billiard import current_process
from celery.concurrency.base import BasePool
from celery.worker import state

_ON_HUP = signal.getsignal(signal.SIGHUP)
"""As the worker was started, perhaps with nohup; read before Celery replaces it."""


def set_handlers(pool: Any) -> None:
    """Sets signal handlers of a worker's main process, after Celery has set its own.

    Celery's ends tasks on TERM if another app's ``REMAP_SIGTERM`` is set. HUP (a terminal was
    closed, systemd's ``SendSIGHUP``) starts Celery's worker anew, or kills it in a terminal. Its
    cold shutdown fails in a pool that can't end a task, solo or threads: the request is lost, and
    solo's worker goes on.
    """
    if getattr(pool.terminate_job, "__func__", None) is BasePool.terminate_job:
        pool.terminate_job = lambda *_: None  # so tasks that run are finished
    if "REMAP_SIGTERM" in os.environ:
        signal.signal(signal.SIGTERM, _finish)
    signal.signal(signal.SIGHUP, signal.SIG_IGN if _ON_HUP == signal.SIG_IGN else _finish)


def _finish(*_: Any) -> None:
    state.should_stop = os.EX_OK  # a warm shutdown: tasks that run are finished


def end_orphan(parent: int) -> None:
    """Ends this process if it is the beat of a worker, ``parent``, that is gone.

    Celery's beat outlives a killed worker: there would be one more each time.
    """
    if current_process().name != "MainProcess" and os.getppid() != parent:
        raise SystemExit

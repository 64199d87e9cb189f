"""Celery's prefork pool, with processes that obey the worker alone and leave nothing locked."""

import os
import signal
import threading
import time
from typing import Any

from billiard import pool
from celery.concurrency import asynpool, prefork

ENDING = (signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)
"""Signals that end a process of the pool, if the worker's main process sends them."""
STOPPED = 1.0
"""Seconds by which a time limit is late only if the worker was stopped, or its machine."""
THAW = 3.0
"""Seconds that its processes have from then on to write down the answers they hold."""


LAST_RESULT = 1.0
"""Seconds that a process waits at its end for the worker to read its last result."""


class PoolWorker(asynpool.Worker):  # type: ignore[misc]
    """A process of the pool: billiard's, but for three of its habits.

    billiard's ends on any TERM. systemd, supervisord's ``stopasgroup`` and a shell send it to each
    process at once, and so cut off a request that a warm shutdown would finish.

    billiard's takes a lock to read the count of its results, ten times a second. A process past its
    time limit gets TERM and, a tenth of a second later, KILL: perhaps while it holds that lock. If
    its result has arrived after all (the machine was asleep), the worker waits for ever.

    billiard's waits 30 s at its end for the worker to count its last result, also in a shutdown,
    when the worker counts no more and waits for it.
    """

    on_ready_counter: Any

    def after_fork(self) -> None:
        """Makes the new process obey its parent only. It has no task yet."""
        super().after_fork()
        signal.signal(signal.SIGUSR1, signal.SIG_IGN)  # a soft time limit would break off a request
        if hasattr(signal, "sigwaitinfo"):  # macOS has none, and does not tell who sends a signal
            signal.pthread_sigmask(signal.SIG_BLOCK, ENDING)  # in threads to come, too
            threading.Thread(target=_obey, args=(os.getppid(),), daemon=True, name="obey").start()

    def _ensure_messages_consumed(self, completed: int) -> bool:
        if not self.on_ready_counter:
            return False
        end = time.monotonic() + LAST_RESULT
        while self.on_ready_counter.get_obj().value < completed and time.monotonic() < end:
            time.sleep(pool.GUARANTEE_MESSAGE_CONSUMPTION_RETRY_INTERVAL)
        return bool(self.on_ready_counter.get_obj().value >= completed)


def _obey(parent: int) -> None:
    """Ends this process when its parent says so: after a time limit, or in a cold shutdown."""
    while (sent := signal.sigwaitinfo(ENDING)).si_pid != parent:
        pass  # from a supervisor, to all processes: the parent has it too, and decides
    os._exit(sent.si_signo)


class _Pool(asynpool.AsynPool):  # type: ignore[misc]
    Worker = PoolWorker
    _hub: Any

    def _create_timelimit_handlers(self, hub: Any) -> None:
        self._hub = hub
        super()._create_timelimit_handlers(hub)

    def _on_hard_timeout(self, job: int) -> None:
        """Kills a process past its time limit; not yet if the worker itself was stopped, too.

        Then the process was stopped with it, and the provider's answer may be in its socket: it has
        some seconds to write that down. Its leases are over, so it can do no harm.
        """
        result = self._cache.get(job)
        if result and result._time_accepted and not getattr(result, "is_spared", False):
            late = time.monotonic() - result._time_accepted - (result._timeout or self.timeout)
            if late > STOPPED:
                result.is_spared = True
                timer = self._hub.call_later(THAW, self._on_hard_timeout, job)
                self._tref_for_id[job] = timer
                return
        super()._on_hard_timeout(job)


class TaskPool(prefork.TaskPool):  # type: ignore[misc]
    """The ``worker_pool`` of our app; ``-P`` on the command line chooses another."""

    Pool = _Pool

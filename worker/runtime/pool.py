"""Celery's prefork pool, in which a killed process hangs the worker no more."""

import time
from typing import Any

from billiard import pool
from celery.concurrency import asynpool, prefork

STOPPED = 1.0
"""Seconds by which a time limit is late only if the worker was stopped, or its machine."""
THAW = 3.0
"""Seconds that its processes have from then on to write down the answers they hold."""


class LocklessWorker(asynpool.Worker):  # type: ignore[misc]
    """A process of the pool that waits, without a lock, until the worker has read its results.

    billiard's takes a lock to read their count, ten times a second. A process past its time limit
    gets TERM and, a tenth of a second later, KILL: perhaps while it holds that lock. If its result
    has arrived after all (the machine was asleep), the worker then waits for the lock for ever.
    """

    on_ready_counter: Any

    def _ensure_messages_consumed(self, completed: int) -> bool:
        if not self.on_ready_counter:
            return False
        for _ in range(pool.GUARANTEE_MESSAGE_CONSUMPTION_RETRY_LIMIT):
            if self.on_ready_counter.get_obj().value >= completed:
                return True
            time.sleep(pool.GUARANTEE_MESSAGE_CONSUMPTION_RETRY_INTERVAL)
        return False


class _Pool(asynpool.AsynPool):  # type: ignore[misc]
    Worker = LocklessWorker
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

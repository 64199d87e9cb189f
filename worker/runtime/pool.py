"""Celery's prefork pool, in which a killed process hangs the worker no more."""

import time
from typing import Any

from billiard import pool
from celery.concurrency import asynpool, prefork


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


class TaskPool(prefork.TaskPool):  # type: ignore[misc]
    """The ``worker_pool`` of our app; ``-P`` on the command line chooses another."""

    Pool = _Pool

"""Celery's pool of processes, where a killed one would hang the worker."""

import time
from typing import Any

from billiard import pool
from celery.concurrency import asynpool, prefork


class LocklessWorker(asynpool.Worker):  # type: ignore[misc]
    """A process of the pool, which at its end waits until the worker has read all its results.

    billiard's reads their count under a lock, ten times a second. A process past its hard time
    limit gets TERM, and a tenth of a second later KILL: just when it may hold that lock. If its
    result had come all the same (after a machine's sleep), the worker waits for the lock for ever.
    Reading a number needs none.
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
    """The ``worker_pool`` of our app: ``-P`` on the command line chooses another."""

    Pool = _Pool

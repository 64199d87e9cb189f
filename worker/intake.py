"""Stores the jobs of ``courier.enqueue`` tasks, for apps that don't install the package."""

import logging
import time
import uuid
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import redis

from viber_courier.producers.client import Producer
from viber_courier.schemas.encoding import digest_of
from viber_courier.schemas.errors import (
    CampaignCancelled,
    Conflict,
    CourierError,
    EnqueueError,
    InvalidMessage,
    QueueFull,
)
from viber_courier.schemas.event import Change, render
from viber_courier.schemas.fields import ID, SOURCE
from viber_courier.schemas.message import BOUNDED, printable
from viber_courier.schemas.status import Reason, Status
from viber_courier.store.connection import StoreUnavailable, store_errors
from viber_courier.store.door import LEASE, Door, Task
from viber_courier.store.keys import Keys
from viber_courier.store.records import end_fields
from viber_courier.store.refusals import reason, report
from viber_courier.store.replicas import kept
from viber_courier.store.scripts import Script, shared
from viber_courier.worker.runtime.messages import Refused

BUDGET = 0.2
"""Seconds after which a process takes no more tasks: messages to send may be waiting for it."""
RENEW = 5.0
"""Seconds after which it renews the leases of what it holds."""
RETRY = 3.0
"""Seconds until a task that could not be stored is tried again."""
FULL_PAUSE = 1.0
"""Seconds for which no task is taken when the store took none."""

logger = logging.getLogger(__name__)

Json = dict[str, Any]


class Intake:
    """Stores the jobs of the tasks at the door (store/door.py), a process's share of them.

    ``unpack`` reads a task's message, and raises Refused if it is none.
    """

    def __init__(self, door: Door, producer: Producer, unpack: Callable[[bytes], Any]) -> None:
        self._door, self._producer, self._unpack = door, producer, unpack

    def serve(self) -> str:
        """Takes and stores tasks for about BUDGET seconds; returns what it did."""
        end, did = time.monotonic() + BUDGET, Counter[str]()
        try:
            while time.monotonic() < end and (tasks := self._door.take()):
                if not self._store(tasks, did):
                    break
        except redis.RedisError as error:  # what is held comes due by itself
            if not report(error, "COURIER_BROKER_URL"):
                logger.warning("tasks not taken", extra={"error": reason(error)})
        accepted, rejected = did["accepted"], did["rejected"]
        return f"enqueue: {accepted} accepted, {rejected} rejected; tasks: {did['tasks']}"

    def _store(self, tasks: list[Task], did: Counter[str]) -> bool:
        """Stores what one call has taken; returns False if the store takes nothing now."""
        left, done = deque(tasks), list[Task]()
        renew = every(RENEW, lambda: self._door.keep(left, LEASE))
        try:
            while left:
                wait = self._store_one(left[0], did, renew)
                if wait is None:
                    done.append(left.popleft())
                    continue
                self._door.keep([left.popleft()], wait)
        except (StoreUnavailable, QueueFull) as error:
            if not report(error):
                logger.warning("jobs not stored yet", extra={"error": reason(error)})
            # Others have their turn before this one comes due again.
            self._door.pause(FULL_PAUSE)
            self._door.keep([left.popleft()], RETRY)
            self._door.keep(left, 0)
            return False
        finally:
            self._door.done(done)
        return True

    def _store_one(self, task: Task, did: Counter[str], renew: Callable[[], None]) -> float | None:
        """Stores one task's jobs; returns in how many seconds it must be seen again, if at all."""
        try:
            request = self._unpack(task.body)
        except Refused:
            return None
        if request.expires or request.eta:
            now = self._door.now()
            if request.expires and request.expires.timestamp() < now:
                logger.warning("task expired", extra={"task_id": request.id})
                return None
            if request.eta and (wait := request.eta.timestamp() - now) > 0:
                return float(wait)
        jobs = request.args[0] if len(request.args) == 1 and not request.kwargs else None
        try:
            accepted, rejected = enqueue_task_jobs(self._producer, request.id, jobs, renew)
        except CourierError:
            raise
        except Exception:
            # Losing the task would lose its messages. What of it is stored is the same next time.
            logger.exception("jobs not stored yet", extra={"task_id": request.id})
            return RETRY
        did.update(tasks=1, accepted=accepted, rejected=rejected)
        return None


def every(seconds: float, act: Callable[[], None]) -> Callable[[], None]:
    """Returns a function that acts when it is called, but once in so many seconds at most."""
    last = time.monotonic()

    def call() -> None:
        nonlocal last
        if time.monotonic() - last >= seconds:
            last = time.monotonic()
            act()

    return call


def enqueue_task_jobs(
    producer: Producer, task_id: str, jobs: object, alive: Callable[[], None] = lambda: None
) -> tuple[int, int]:
    """Stores the jobs of one task; returns how many were accepted, and how many rejected.

    Repeating the task stores and rejects nothing twice: a job without ``id`` gets one made of the
    task's id and the job's index. An invalid job becomes a ``rejected`` event. Calls ``alive`` for
    each job. Raises QueueFull or StoreUnavailable if the task must be repeated.
    """
    task, rejected = _uuid(task_id), list[int]()

    def refuse(row: int, raw: object, error: EnqueueError) -> None:
        # Not the job's own id: that may belong to another message.
        fresh = str(uuid.uuid5(task, f"{row}:rejected"))
        RejectionRecorder(producer).record(raw, fresh, error)
        rejected.append(row)

    if not isinstance(jobs, list) or not jobs:
        refuse(0, jobs, InvalidMessage({"": ["must be a list of jobs, alone"]}))
        return 0, 1
    rows = _rows(task, jobs, alive)
    return len(producer.enqueue_many(rows, on_invalid=refuse)), len(rejected)


class RejectionRecorder:
    """Records jobs refused outside of their app, which gets an event instead of an error."""

    def __init__(self, producer: Producer, clock: Callable[[], float] = time.time) -> None:
        self._settings, self._clock = producer.settings, clock
        self._keys = Keys(producer.settings.namespace)
        settings, client = producer.settings, producer.redis
        self._script = Script(client, "reject", shared(settings), kept(client, settings))

    def record(self, raw: object, fresh: str, error: EnqueueError) -> str:
        """Records a refused job and returns the id of its event.

        The id is the job's own, or ``fresh`` if the job has none, an unusable one, or one that
        another message has. Repeating the call changes nothing.
        """
        conflict = isinstance(error, Conflict)
        path = "id" if conflict else "campaign"
        faults = error.errors if isinstance(error, InvalidMessage) else {path: [str(error)]}
        more: Json = {"errors": faults}
        own, source = (raw.get(n) if isinstance(raw, Mapping) else None for n in ("id", "source"))
        named = {"source": source} if isinstance(source, str) and SOURCE.fullmatch(source) else {}
        reason = Reason.CONFLICT if conflict else Reason.INVALID
        if isinstance(error, CampaignCancelled):
            reason = Reason.BY_REQUEST
        digest = digest_of(BOUNDED.repr(raw))
        if own is not None:
            usable = isinstance(own, str) and ID.fullmatch(own)
            if usable and self._reject(str(own), digest, reason, more, named):
                return str(own)
            more["requestedId"] = printable(own)
        self._reject(fresh, digest, reason, more, named)
        return fresh

    def _reject(
        self, id: str, digest: str, reason: Reason, more: Json, source: Mapping[str, str]
    ) -> bool:
        # The record that names the source to move.lua does not exist yet.
        change = Change(status=Status.REJECTED, final=True, reason=reason, more={**more, **source})
        with store_errors():
            recorded = self._script(
                record=self._keys.records + id,
                id=id,
                digest=digest,
                to=Status.REJECTED,
                draft=render(change, self._settings.namespace, self._clock()),
                count=f"{Status.REJECTED}:{reason}",
                fields=end_fields(reason, **source),
            )
        return bool(recorded)


def _rows(task: uuid.UUID, jobs: list[Any], alive: Callable[[], None]) -> Iterator[Any]:
    for row, job in enumerate(jobs):
        alive()
        if isinstance(job, Mapping) and job.get("id") is None:
            yield {**job, "id": str(uuid.uuid5(task, str(row)))}
        else:
            yield job


def _uuid(task_id: str) -> uuid.UUID:
    try:
        return uuid.UUID(task_id)
    except ValueError:
        return uuid.uuid5(uuid.NAMESPACE_OID, task_id)

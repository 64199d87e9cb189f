"""Stores the jobs of ``courier.enqueue`` tasks, for apps that don't install the package."""

import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from viber_courier.producers.client import Producer
from viber_courier.schemas.encoding import digest_of
from viber_courier.schemas.errors import Conflict, EnqueueError, InvalidMessage
from viber_courier.schemas.event import Change, render
from viber_courier.schemas.fields import ID, SOURCE
from viber_courier.schemas.message import BOUNDED, printable
from viber_courier.schemas.status import Reason, Status
from viber_courier.store.connection import store_errors
from viber_courier.store.keys import Keys
from viber_courier.store.records import end_fields
from viber_courier.store.replicas import kept
from viber_courier.store.scripts import Script, shared

Json = dict[str, Any]


def enqueue_task_jobs(producer: Producer, task_id: str, jobs: object) -> str:
    """Stores the jobs of one task; repeating the task stores and rejects nothing twice.

    A job without ``id`` gets one made of the task's id and the job's index. An invalid job becomes
    a ``rejected`` event. Raises QueueFull or StoreUnavailable if the task must be repeated.
    """
    task, did, rejections = _uuid(task_id), Counter[str](), RejectionRecorder(producer)

    def refuse(row: int, raw: object, error: EnqueueError) -> None:
        # Not the job's own id: that may belong to another message.
        rejections.record(raw, str(uuid.uuid5(task, f"{row}:rejected")), error)
        did["rejected"] += 1

    if isinstance(jobs, list) and jobs:
        accepted = len(producer.enqueue_many(_rows(task, jobs), on_invalid=refuse))
    else:
        accepted = 0
        refuse(0, jobs, InvalidMessage({"": ["must be a list of jobs, alone"]}))
    return f"enqueue: {accepted} accepted, {did['rejected']} rejected"


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
        faults = error.errors if isinstance(error, InvalidMessage) else {"id": [str(error)]}
        more: Json = {"errors": faults}
        own, source = (raw.get(n) if isinstance(raw, Mapping) else None for n in ("id", "source"))
        named = {"source": source} if isinstance(source, str) and SOURCE.fullmatch(source) else {}
        reason = Reason.CONFLICT if conflict else Reason.INVALID
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


def _rows(task: uuid.UUID, jobs: list[Any]) -> Iterator[Any]:
    for row, job in enumerate(jobs):
        if isinstance(job, Mapping) and job.get("id") is None:
            yield {**job, "id": str(uuid.uuid5(task, str(row)))}
        else:
            yield job


def _uuid(task_id: str) -> uuid.UUID:
    try:
        return uuid.UUID(task_id)
    except ValueError:
        return uuid.uuid5(uuid.NAMESPACE_OID, task_id)

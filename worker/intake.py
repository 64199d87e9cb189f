"""The ``courier.enqueue`` use case: jobs of apps that don't install the package."""

from __future__ import annotations

import uuid
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

from viber_courier.producers.client import Producer
from viber_courier.schemas.errors import EnqueueError, InvalidMessage


def take(producer: Producer, task_id: str, jobs: object) -> str:
    """Store the jobs of one task. A repeat of the task stores and rejects nothing again.

    A job without ``id`` gets one made of the task's id and its row; a wrong one becomes a
    ``rejected`` event. Raises QueueFull and StoreUnavailable: the task is to be repeated.
    """
    task, did = _uuid(task_id), Counter[str]()

    def refuse(row: int, raw: object, error: EnqueueError) -> None:
        # Its own namespace: the job's id may be the very one that is taken.
        producer.reject(raw, str(uuid.uuid5(task, f"{row}:rejected")), error)
        did["rejected"] += 1

    if isinstance(jobs, list) and jobs:
        accepted = len(producer.enqueue_many(_rows(task, jobs), on_invalid=refuse))
    else:
        accepted = 0
        refuse(0, jobs, InvalidMessage({"": ["must be a list of jobs, alone"]}))
    return f"enqueue: {accepted} accepted, {did['rejected']} rejected"


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

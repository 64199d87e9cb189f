"""What people would use instead, as a Celery app (``-A viber_courier.ops.bench.peers``).

One task per message, celery-batches, and 100 messages per task by hand. None of them tracks
anything: they keep no record, retry nothing and make no events.
"""

from __future__ import annotations

import json
import os
from collections import defaultdict
from functools import cache
from typing import Any

import requests
from celery import Celery
from celery_batches import Batches

from viber_courier.ops.bench.figures import BATCH

app = Celery("peers", broker=os.environ.get("BENCH_REDIS_URL", "redis://localhost"))
app.conf.update(task_ignore_result=True, accept_content=["json"], task_serializer="json")


@cache
def _session() -> requests.Session:
    """One kept-alive session per process, made after the fork by the first task that needs it."""
    session = requests.Session()
    session.trust_env = False
    return session


def post(jobs: list[dict[str, Any]]) -> None:
    """Posts jobs to /send; of the answers it looks only at whether all were accepted.

    ``resendSms`` holds for a whole request, so jobs with and without it go in two.
    """
    groups = defaultdict(list)
    for job in jobs:
        groups[job.pop("resendSms", False)].append(job)
    for resend, messages in groups.items():
        body = {"resendSms": "true" if resend else "false", "messages": messages}
        answer = _session().post(
            os.environ["BENCH_API_URL"] + "/send",
            data=json.dumps(body, ensure_ascii=False).encode(),
            headers={"Content-Type": "application/json; charset=utf-8"},
            timeout=30,
        )
        answer.raise_for_status()
        if any(entry["code"] != "ok" for entry in answer.json()["messages"]):
            raise ValueError("refused")


@app.task
def single(job: dict[str, Any]) -> None:
    post([job])


@app.task(base=Batches, flush_every=BATCH, flush_interval=0.2)
def batched(calls: list[Any]) -> None:
    post([call.args[0] for call in calls])


@app.task
def by_hand(jobs: list[dict[str, Any]]) -> None:
    post(jobs)

"""What people would use instead, as a Celery app (``-A viber_courier.ops.bench.peers``).

One task per message, celery-batches, and 100 messages per task by hand. None of them tracks
anything: no record, no retry of its own, no events.
"""

from __future__ import annotations

import json
import os
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
    """Kept alive, one for each process: made after the fork, when the first task needs it."""
    session = requests.Session()
    session.trust_env = False
    return session


def post(body: dict[str, Any]) -> None:
    """A /send request, and no look at its answer beyond that all was accepted."""
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
def single(message: dict[str, Any]) -> None:
    post({"resendSms": "false", "messages": [message]})


@app.task(base=Batches, flush_every=BATCH, flush_interval=0.2)
def batched(calls: list[Any]) -> None:
    post({"resendSms": "false", "messages": [call.args[0] for call in calls]})


@app.task
def by_hand(messages: list[dict[str, Any]]) -> None:
    post({"resendSms": "false", "messages": messages})

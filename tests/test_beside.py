"""An app that has a Celery of its own, of any version, beside the package."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import Worker, wait_for
from viber_courier import Producer, Settings
from viber_courier.ops.redis_server import RedisServer

pytest.importorskip("celery")

APP = """
import os
from celery import Celery
from viber_courier import Producer

app = Celery("shop", broker=os.environ["COURIER_REDIS_URL"])
app.conf.task_default_queue = os.environ["COURIER_NAMESPACE"]
app.conf.broker_connection_retry_on_startup = True
producer = Producer.from_env()

@app.task
def send_code(order):
    producer.enqueue({
        "id": order,
        "subject": "Shop",
        "priority": "high",
        "contentType": "text",
        "content": {"text": "Your code is 1234"},
        "address": "79250000001",
    })
"""


@pytest.mark.parametrize("pool", ["prefork", pytest.param("threads", marks=pytest.mark.slow)])
def test_an_apps_own_celery_task_enqueues(
    pool: str, redis_server: RedisServer, namespace: str, tmp_path: Path
) -> None:
    # Given an app whose own Celery worker enqueues from a task
    (tmp_path / "shop.py").write_text(APP)
    env = {"COURIER_REDIS_URL": redis_server.url, "COURIER_NAMESPACE": namespace}
    command = (sys.executable, "-m", "celery", "-A", "shop", "worker")
    worker = Worker(env, tmp_path, "-P", pool, beat=False, command=command)
    try:
        worker.ready()
        # When the task is called in another process
        code = "from shop import send_code; send_code.delay('order-1')"
        call = [sys.executable, "-c", code]
        subprocess.run(call, cwd=tmp_path, env={**env, "PATH": ""}, check=True, timeout=60)
        # Then the message is stored
        producer = Producer(Settings(redis_url=redis_server.url, namespace=namespace))
        wait_for(lambda: producer.get("order-1"), 30, "the task has not enqueued")
        producer.close()
    finally:
        worker.stop()
    assert "Traceback" not in worker.log

"""The guide's program of supervisord that runs an app's handler: killed, restarted, stopped."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import wait_for
from tests.faults.test_consume import APP, cancelled, pending, sold
from tests.ops.supervision import BIN, ROOT, is_alive
from viber_courier import Producer
from viber_courier.ops.redis_server import RedisServer
from viber_courier.store.keys import Keys


@pytest.fixture
def producer(redis_server: RedisServer, namespace: str) -> Iterator[Producer]:
    env = {"COURIER_REDIS_URL": redis_server.url, "COURIER_NAMESPACE": f"{namespace}-crm"}
    with closing(Producer.from_env(env)) as made:
        yield made


@pytest.fixture
def supervisord(tmp_path: Path, producer: Producer) -> Iterator[subprocess.Popen[bytes]]:
    (tmp_path / "shop.py").write_text(APP, encoding="utf-8")
    (found,) = re.findall(r"```ini\n(.+?)```", (ROOT / "docs/guide.md").read_text(), re.S)
    program = found.replace("/srv/shop", str(tmp_path)).replace("shop.results:", "shop:")
    head = f"[supervisord]\nlogfile={tmp_path}/supervisord.log\npidfile={tmp_path}/pid\n"
    (tmp_path / "supervisord.conf").write_text(
        f"{head}{program}stderr_logfile={tmp_path}/%(process_num)d.log\nstartsecs=0\n"
    )
    settings = producer.settings
    env = {"COURIER_REDIS_URL": settings.redis_url, "COURIER_NAMESPACE": settings.namespace}
    process = subprocess.Popen(
        [BIN / "supervisord", "-n", "-c", tmp_path / "supervisord.conf"],
        env={**os.environ, **env, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"},
        stdout=subprocess.DEVNULL,
    )
    yield process
    process.terminate()
    process.wait(60)


def consumers(supervisord: subprocess.Popen[bytes]) -> list[int]:
    path = Path(f"/proc/{supervisord.pid}/task/{supervisord.pid}/children")
    return [pid for pid in map(int, path.read_text().split()) if is_alive(pid)]


def test_both_killed_every_two_seconds_lose_nothing(
    supervisord: subprocess.Popen[bytes], producer: Producer, tmp_path: Path
) -> None:
    total = 0
    for _ in range(5):
        before = wait_for(lambda: len(found := consumers(supervisord)) == 2 and found)
        cancelled(producer, 300, total)
        total += 300
        time.sleep(2)
        for pid in before:
            os.kill(pid, signal.SIGKILL)
        wait_for(lambda before=before: not {*before} & {*consumers(supervisord)})
    wait_for(lambda: len(sold(tmp_path)) == total, 60)
    wait_for(lambda: pending(producer) == 0)
    assert {times for _, times in sold(tmp_path)} == {1}
    # And stopped by supervisord, while they read, they end by themselves and leave no names
    stream = Keys(producer.settings.namespace).results

    def idle() -> list[int]:
        found: Any = producer.redis.xinfo_consumers(stream, "crm")
        return [each["idle"] for each in found]

    wait_for(lambda: max(idle()) < 1500)
    supervisord.terminate()
    supervisord.wait(60)
    assert idle() == []

"""A Redis that would lose messages is refused at the start."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import free_port, wait_for
from viber_courier.ops.redis_server import RedisServer
from viber_courier.store.durability import dangers


@pytest.mark.parametrize(
    ("info", "words"),
    [
        ({"aof_enabled": 1, "maxmemory_policy": "noeviction"}, []),
        ({}, []),
        ({"aof_enabled": 0}, ["appendonly yes"]),
        ({"aof_enabled": 1, "maxmemory_policy": "volatile-ttl"}, ["maxmemory-policy noeviction"]),
        (
            {"aof_enabled": 0, "maxmemory_policy": "allkeys-lru"},
            ["appendonly yes", "maxmemory-policy noeviction"],
        ),
    ],
)
def test_each_danger_names_what_mends_it(info: dict[str, object], words: list[str]) -> None:
    found = dangers(info)
    assert len(found) == len(words)
    assert all(word in text for word, text in zip(words, found, strict=True))


@pytest.mark.slow
def test_a_worker_refuses_such_a_redis_unless_told_otherwise(tmp_path: Path) -> None:
    server = RedisServer(tmp_path, free_port(), ["--appendonly", "no"])
    server.start()
    env = {
        **os.environ,
        "COURIER_REDIS_URL": server.url,
        "COURIER_API_LOGIN": "tester",
        "COURIER_API_PASSWORD": "111111",
        "COURIER_API_URL": "http://127.0.0.1:9",
    }
    command = [
        sys.executable,
        "-m",
        "celery",
        "-A",
        "viber_courier.worker",
        "worker",
        "-P",
        "solo",
        "-l",
        "INFO",
    ]
    try:
        run = subprocess.run(
            command, env=env, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False
        )
        assert run.returncode == 1
        assert "can't start: COURIER_REDIS_URL: a restart forgets messages" in run.stderr
        env["COURIER_ALLOW"] = "volatile-redis"
        with (tmp_path / "log").open("wb") as log:
            worker = subprocess.Popen(command, env=env, cwd=tmp_path, stdout=log, stderr=log)
        try:
            wait_for(lambda: " ready." in (tmp_path / "log").read_text(), 30)
        finally:
            worker.kill()
            worker.wait()
    finally:
        server.stop()

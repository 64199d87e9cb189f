"""A real supervisord with our configuration, for the tests of operating."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, cast
from xmlrpc.client import ServerProxy

from supervisor.xmlrpc import SupervisorTransport

from tests.conftest import free_port, wait_for

ROOT = Path(__file__).parents[2]
BIN = Path(sys.executable).parent
CONFIG = ROOT / "ops/supervisord.conf"
PROGRAMS = ("send-urgent", "send-bulk", "poll", "beat", "flower", "exporter")
WORKERS = ("send-urgent", "send-bulk", "poll")


def children(pid: int) -> list[int]:
    """Its processes."""
    try:
        return [int(each) for each in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except (FileNotFoundError, ProcessLookupError):
        return []


def _family(pid: int) -> Iterator[int]:
    yield pid
    for each in children(pid):
        yield from _family(each)


def is_alive(pid: int) -> bool:
    """Whether it runs; one that has ended and waits to be asked about does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


class Supervisord:
    """Runs the programs; settings are in a file, secrets in files of their own."""

    def __init__(self, folder: Path, settings: Mapping[str, str]) -> None:
        self.folder = folder
        settings = {
            "COURIER_PROCESSES_URGENT": "1",
            "COURIER_PROCESSES_BULK": "2",
            "COURIER_PROCESSES_POLL": "1",
            "FLOWER_PORT": str(free_port()),
            "COURIER_EXPORTER_PORT": str(free_port()),
            **settings,
        }
        for name in ("COURIER_API_LOGIN", "COURIER_API_PASSWORD"):
            (folder / name).write_text(settings.pop(name))
            settings[f"{name}_FILE"] = str(folder / name)
        self.settings = settings
        self.env = {name: v for name, v in os.environ.items() if not name.startswith("COURIER_")}
        self.env |= {
            "COURIER_RUN": str(folder),
            "COURIER_BIN": str(BIN),
            "COURIER_ENV_FILE": str(folder / "courier.env"),
        }
        self.set()
        with (folder / "terminal.log").open("wb") as terminal:
            self.process = subprocess.Popen(
                [BIN / "supervisord", "-n", "-c", CONFIG],
                env=self.env,
                stdout=terminal,
                stderr=terminal,
                start_new_session=True,
            )

    def set(self, **more: str) -> None:
        """Write the file of settings; who starts from now on reads it."""
        lines = [f"{name}='{value}'\n" for name, value in {**self.settings, **more}.items()]
        (self.folder / "courier.env").write_text("".join(lines))

    def ctl(self, *words: str) -> str:
        """What supervisorctl says."""
        command = [BIN / "supervisorctl", "-c", CONFIG, *words]
        run = subprocess.run(command, env=self.env, capture_output=True, text=True, timeout=120)
        return run.stdout + run.stderr

    def _info(self, name: str) -> dict[str, Any]:
        """Asked as supervisorctl does, which would take its time to start for each look."""
        where = f"unix://{self.folder}/supervisor.sock"
        with (
            contextlib.suppress(OSError),  # it is about to start
            ServerProxy("http://127.0.0.1", SupervisorTransport(serverurl=where)) as proxy,
        ):
            return cast("dict[str, Any]", proxy.supervisor.getProcessInfo(name))
        return {"statename": "", "pid": 0}

    def state(self, name: str) -> str:
        """RUNNING, BACKOFF ..."""
        return str(self._info(name)["statename"])

    def pid(self, name: str) -> int:
        """0 while it doesn't run."""
        return int(self._info(name)["pid"])

    def log(self, name: str) -> str:
        """What it has written so far."""
        path = self.folder / f"{name}.log"
        return path.read_text(errors="replace") if path.exists() else ""

    def ready(self, *names: str) -> None:
        """Wait until all of them run, workers take tasks and Flower answers."""
        for name in names or PROGRAMS:
            wait_for(lambda name=name: self.state(name) == "RUNNING", 120, self.log(name)[-2000:])
            if name in WORKERS:
                wait_for(lambda name=name: " ready." in self.log(name), 120)

    def kill(self) -> None:
        """With all that it has started; stopped first, so that it starts none of them again."""
        self.process.send_signal(signal.SIGSTOP)
        family = list(_family(self.process.pid))
        for pid in family:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.process.wait(20)
        wait_for(lambda: not any(map(is_alive, family)))


@contextlib.contextmanager
def supervised_system(settings: Mapping[str, str]) -> Iterator[Supervisord]:
    """It runs while the block does. A socket's path is short: no folder of pytest's will do."""
    with tempfile.TemporaryDirectory(prefix="courier-") as folder:
        system = Supervisord(Path(folder), settings)
        try:
            system.ready()
            yield system
        finally:
            system.kill()

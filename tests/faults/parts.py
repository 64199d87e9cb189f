"""What breaks things, and what supervises them: for tests of faults with real processes."""

from __future__ import annotations

import contextlib
import itertools
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from viber_courier.ops.redis_server import find_server

CELERY = (sys.executable, "-m", "celery", "-A", "viber_courier.worker")
WORKER = (*CELERY, "worker", "-c", "2", "--without-gossip", "--without-mingle", "-l", "INFO")
BEAT = (*CELERY, "beat", "-l", "INFO")


class Supervised:
    """A program in a process group of its own, started again on any exit, as supervisord does.

    All that it prints goes to one file.
    """

    PAUSE = 0.5
    """Seconds between an exit and the next start."""

    def __init__(self, command: Sequence[str], env: dict[str, str], folder: Path) -> None:
        self._command, self._env, self._folder = command, {**os.environ, **env}, folder
        self._file = (folder / f"program-{id(self):x}.log").open("ab")
        self.hung = False
        """It had to be killed when it was told to end."""
        self.exits: list[int] = []
        self.exit_times: list[float] = []  # of the wall clock
        self._over, self._may_run = threading.Event(), threading.Event()
        self._may_run.set()
        self.process = self._start()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def _start(self) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            self._command,
            env=self._env,
            cwd=self._folder,
            stdout=self._file,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )

    def _watch(self) -> None:
        while True:
            code = self.process.wait()
            self._signal_group(signal.SIGKILL)  # children that outlived it
            if self._over.is_set():
                return
            self.exits.append(code)
            self.exit_times.append(time.time())
            self._over.wait(self.PAUSE)
            self._may_run.wait()
            if self._over.is_set():
                return
            self.process = self._start()

    @property
    def log(self) -> str:
        return Path(self._file.name).read_text(errors="replace")

    def kill(self) -> None:
        """kill -9 of the whole group; it is started again."""
        self._signal_group(signal.SIGKILL)

    def keep_down(self) -> None:
        """kill -9 of the whole group; it is started again when it is let."""
        self._may_run.clear()
        self.kill()

    def let_run(self) -> None:
        self._may_run.set()

    def children(self) -> list[int]:
        """Process ids of the pool's processes."""
        try:
            found = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text()
        except FileNotFoundError:
            return []  # between an exit and the next start
        return [int(pid) for pid in found.split()]

    def freeze(self) -> None:
        """SIGSTOP: the program and its pool stall as they stand."""
        self._signal_group(signal.SIGSTOP)

    def thaw(self) -> None:
        """SIGCONT."""
        self._signal_group(signal.SIGCONT)

    def stop(self) -> None:
        """TERM to the parent only, as a supervisor does; kill -9 of what is left after 40 s."""
        self._over.set()
        self._may_run.set()
        self.thaw()
        with contextlib.suppress(ProcessLookupError):
            self.process.terminate()
        self._thread.join(40)
        self.hung = self.hung or self._thread.is_alive()
        if self._thread.is_alive():
            self._signal_group(signal.SIGKILL)
            self._thread.join(10)
        self._file.close()

    def _signal_group(self, number: int) -> None:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.process.pid, number)


class Proxy:
    """TCP from a free loopback port to ``port``; what passes can be held, lost or cut."""

    def __init__(self, port: int) -> None:
        self._target = port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._flows, self._lost = threading.Event(), set[socket.socket]()
        self._links: list[tuple[socket.socket, socket.socket]] = []
        self._threads = [threading.Thread(target=self._accept, daemon=True)]
        self._threads[0].start()
        self.resume()

    def hold(self) -> None:
        """Nothing passes any more, on old connections or new ones; nobody is told."""
        self._flows.clear()

    def resume(self) -> None:
        """What was held passes, and everything after it."""
        self._flows.set()

    def vanish(self) -> None:
        """The peers of all open connections are gone without a word; new connections work."""
        for near, far in self._links:
            self._lost.add(near)
            _shut(far)

    def cut(self) -> None:
        """Break all open connections, on both sides."""
        for link in self._links:
            for each in link:
                _shut(each)

    def retarget(self, port: int) -> None:
        """Where new connections lead from now on."""
        self._target = port

    def close(self) -> None:
        self._flows.set()
        _shut(self._listener)
        self.cut()
        for thread in self._threads:
            thread.join(10)
        for each in (self._listener, *itertools.chain(*self._links)):
            each.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                near, _ = self._listener.accept()
                try:
                    far = socket.create_connection(("127.0.0.1", self._target), 5)
                except OSError:
                    near.close()
                    continue
                far.settimeout(None)
                self._links.append((near, far))
                for pair in ((near, far), (far, near)):
                    self._threads.append(
                        threading.Thread(target=self._pump, args=pair, daemon=True)
                    )
                    self._threads[-1].start()

    def _pump(self, source: socket.socket, sink: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                self._flows.wait()
                if not self._lost & {source, sink}:
                    sink.sendall(data)
        if sink not in self._lost:
            _shut(sink)


def start_sentinel(
    folder: Path, port: int, master: int, name: str, login: str, password: str, down_after: int
) -> subprocess.Popen[bytes]:
    """A sentinel on ``port`` that watches ``master``; two of them decide."""
    config = folder / f"sentinel-{port}.conf"
    config.write_text(
        f"port {port}\nbind 127.0.0.1\n"
        f"sentinel monitor {name} 127.0.0.1 {master} 2\n"
        f"sentinel auth-user {name} {login}\nsentinel auth-pass {name} {password}\n"
        f"sentinel down-after-milliseconds {name} {down_after}\n"
        f"sentinel failover-timeout {name} 4000\n"
    )
    with (folder / f"sentinel-{port}.log").open("ab") as log:
        return subprocess.Popen([find_server(), str(config), "--sentinel"], stdout=log, stderr=log)


def _shut(sock: socket.socket) -> None:
    with contextlib.suppress(OSError):
        sock.shutdown(socket.SHUT_RDWR)


@contextlib.contextmanager
def supervised(
    env: dict[str, str], folder: Path, *commands: Sequence[str]
) -> Iterator[list[Supervised]]:
    """Programs that run while the block does, and end when they are told to."""
    programs = [Supervised(command, env, folder) for command in commands]
    try:
        yield programs
    finally:
        for program in programs:
            program.stop()
    assert not any(program.hung for program in programs), "a program hung: it did not end on TERM"

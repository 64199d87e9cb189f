"""A command of ``courier`` that serves HTTP, as a process."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import urlsplit


class Served:
    """The program, on a free port of loopback; its log is a file of the folder."""

    def __init__(
        self,
        name: str,
        folder: Path,
        env: dict[str, str],
        options: Sequence[str] = (),
        prefix: Sequence[str] = (),
    ) -> None:
        self._log = folder / f"{name}.log"
        program = [sys.executable, "-c", "from viber_courier.ops.cli import main; main()"]
        with self._log.open("ab") as log:
            self.process = subprocess.Popen(
                [*prefix, *program, name, "--port", "0", *options],
                env={**os.environ, **env},
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
            )
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line.startswith(f"{name} listening on "), line + self.log
        self.url = line.split()[-1]
        self.port = urlsplit(self.url).port or 0

    @property
    def log(self) -> str:
        return self._log.read_text()

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait(10)
        assert self.process.stdout is not None
        self.process.stdout.close()

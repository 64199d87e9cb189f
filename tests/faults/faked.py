"""A clock that steps, for a program: Debian's libfaketime."""

from __future__ import annotations

import shutil
from pathlib import Path

LIBRARIES = sorted(Path("/usr/lib").glob("*/faketime/libfaketime.so.1"))
"""Empty where it is not installed."""


class Faked:
    """Makes the clock of programs step: they are run behind its command.

    ``cached``: seconds after which they notice, at most. Without it they read the file each time
    that they look at the clock, which is slow.
    """

    def __init__(self, file: Path, cached: int = 0) -> None:
        self._file = file
        self.set(0)
        self.env = {
            "LD_PRELOAD": str(LIBRARIES[0]),
            "FAKETIME_TIMESTAMP_FILE": str(file),
            **({"FAKETIME_CACHE_DURATION": str(cached)} if cached else {"FAKETIME_NO_CACHE": "1"}),
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        }

    def command(self, *words: str) -> list[str]:
        env = shutil.which("env") or "/usr/bin/env"
        return [env, *(f"{name}={value}" for name, value in self.env.items()), *words]

    def set(self, seconds: float) -> None:
        """Lets the clock be so many seconds ahead of the true time."""
        new = self._file.with_suffix(".new")
        new.write_text(f"{seconds:+}\n")
        new.replace(self._file)

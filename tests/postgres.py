"""A PostgreSQL server for tests, on a socket of its own in a folder of its own."""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import wait_for

_DEBIAN = sorted(Path("/usr/lib/postgresql").glob("*/bin"))
BIN = _DEBIAN[-1] if _DEBIAN else Path(shutil.which("initdb") or "/").parent


@contextlib.contextmanager
def postgres() -> Iterator[str]:
    """The address of a fresh database, as libpq takes it; skips where PostgreSQL is missing."""
    if not (BIN / "initdb").exists():
        pytest.skip("needs PostgreSQL (Debian: apt install postgresql)")
    # It refuses to run as root. A socket's path is short: pytest's own folders are too deep.
    owner = {"user": "postgres", "group": "postgres"} if os.geteuid() == 0 else {}
    with tempfile.TemporaryDirectory(prefix="pg") as folder:
        if owner:
            os.chown(folder, (user := pwd.getpwnam("postgres")).pw_uid, user.pw_gid)
        run = [str(BIN / "initdb"), "-D", f"{folder}/data", "-U", "app", "-A", "trust", "-N"]
        subprocess.run(run, check=True, capture_output=True, cwd="/", **owner)  # type: ignore[call-overload]
        options = ["-D", f"{folder}/data", "-k", folder, "-h", ""]
        process = subprocess.Popen(  # type: ignore[call-overload]
            [str(BIN / "postgres"), *options], cwd="/", stderr=subprocess.DEVNULL, **owner
        )
        try:
            ready = [str(BIN / "pg_isready"), "-q", "-h", folder]
            wait_for(lambda: subprocess.run(ready, check=False).returncode == 0, 60)
            yield f"host={folder} user=app dbname=postgres"
        finally:
            process.terminate()
            process.wait(30)

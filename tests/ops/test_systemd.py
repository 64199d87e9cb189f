"""Our unit under a real systemd, which sends TERM to each process of a unit that is stopped."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from configparser import RawConfigParser
from pathlib import Path

import pytest

from tests.conftest import Simulator, ends, text_job, wait_for
from tests.ops.supervision import BIN, CONFIG, PROGRAMS, ROOT, WORKERS, children
from viber_courier import Producer
from viber_courier.schemas.settings import Settings

UNIT = ROOT / "ops/systemd/viber-courier@.service"
SYSTEMD = Path("/lib/systemd/systemd")
MANAGER = """
set -e
mount -t tmpfs tmpfs /run  # in a mount namespace of its own; systemd looks whether it booted
mkdir -p /run/systemd/system "$XDG_RUNTIME_DIR"
chmod 700 "$XDG_RUNTIME_DIR"
for group in /sys/fs/cgroup/systemd /sys/fs/cgroup/unified /sys/fs/cgroup; do
  if [ -e $group/cgroup.procs ]; then mkdir -p $group/$1; echo $$ > $group/$1/cgroup.procs; fi
done
exec /lib/systemd/systemd --user
"""
OVERRIDE = """
[Service]
User=
Environment=COURIER_ENV_FILE={env} COURIER_BIN={bin}
ExecStart=
ExecStart=/bin/sh {root}/ops/program.sh %i
ProtectSystem=no
ProtectHome=no
PrivateTmp=no
StandardOutput=append:{log}
StandardError=append:{log}
"""
"""Other folders; this machine's user; and a user's systemd has no right to shut folders off."""


class Systemd:
    """A systemd of one user, with our unit and settings in a file."""

    def __init__(self, folder: Path, settings: dict[str, str]) -> None:
        self.log_file, self._name = folder / "log", f"courier-{os.getpid()}"
        lines = [f"{name}='{value}'\n" for name, value in settings.items()]
        (folder / "env").write_text("".join(lines))
        units = folder / "systemd/user"
        (drop_in := units / f"{UNIT.name}.d").mkdir(parents=True)
        shutil.copy(UNIT, units)
        given = {"env": folder / "env", "bin": BIN, "root": ROOT, "log": self.log_file}
        (drop_in / "here.conf").write_text(OVERRIDE.format(**given))
        places = {"XDG_RUNTIME_DIR": "/run/courier", "XDG_CONFIG_HOME": str(folder)}
        known = {name: v for name, v in os.environ.items() if not name.startswith("COURIER_")}
        self._env = {**known, **places, "SYSTEMD_LOG_TARGET": "console"}
        with (folder / "systemd.log").open("wb") as log:
            self.process = subprocess.Popen(
                ["unshare", "--mount", "sh", "-c", MANAGER, "sh", self._name],
                env=self._env,
                stdout=log,
                stderr=log,
            )

    def ctl(self, *words: str, check: bool = True) -> str:
        """What systemctl says."""
        inside = ["nsenter", "--mount", "--target", str(self.process.pid)]
        command = [*inside, "systemctl", "--user", *words]
        run = subprocess.run(
            command, env=self._env, capture_output=True, text=True, timeout=200, check=False
        )
        assert not (check and run.returncode), run.stderr
        return run.stdout.strip()

    @property
    def log(self) -> str:
        return self.log_file.read_text() if self.log_file.exists() else ""

    def stop(self) -> None:
        self.process.terminate()
        self.process.wait(30)
        for group in ("systemd/", "unified/", ""):
            top = Path("/sys/fs/cgroup") / group / self._name
            for path in sorted([*top.rglob("*/"), top], reverse=True) if top.exists() else []:
                if path.is_dir():
                    path.rmdir()


@pytest.fixture
def systemd(system_env: dict[str, str], tmp_path: Path) -> Iterator[Systemd]:
    if os.geteuid() or not SYSTEMD.exists() or not shutil.which("nsenter"):
        pytest.skip("needs root, systemd and nsenter")
    made = Systemd(tmp_path, {**system_env, "COURIER_PROCESSES_BULK": "2"})
    try:
        try:
            wait_for(lambda: made.ctl("is-system-running", check=False) == "running", 10)
        except AssertionError:
            pytest.skip("systemd does not run here: no right to mount or to make a cgroup")
        yield made
    finally:
        made.stop()


def section(name: str) -> dict[str, str]:
    parser = RawConfigParser(strict=False)
    parser.optionxform = str  # type: ignore[assignment,method-assign]
    parser.read(UNIT)
    return dict(parser[name])


def test_systemd_finds_no_fault_with_the_unit() -> None:
    if shutil.which("systemd-analyze") is None:
        pytest.skip("needs systemd-analyze")
    unit = UNIT.with_name(UNIT.name.replace("@", "@send-bulk"))
    command = ["systemd-analyze", "verify", "--man=no", str(unit)]
    run = subprocess.run(command, capture_output=True, text=True, check=True)
    assert not (run.stdout + run.stderr)


def test_both_supervisors_wait_longer_than_a_lease() -> None:
    wait, settings = int(section("Service")["TimeoutStopSec"]), Settings()
    assert settings.deadline < settings.lease < wait <= settings.lease + 30
    assert section("Service").get("KillMode", "control-group") == "control-group"
    conf = RawConfigParser(inline_comment_prefixes=";")
    conf.read(CONFIG)
    for name in WORKERS:
        assert int(conf[f"program:{name}"]["stopwaitsecs"]) == wait


@pytest.mark.parametrize("page", [UNIT, ROOT / "docs/operations.md"], ids=["unit", "page"])
def test_page_and_unit_start_each_program(page: Path) -> None:
    started = set(re.findall(r"viber-courier@([a-z-]+)", page.read_text())) - {"service"}
    assert started == set(PROGRAMS)


@pytest.mark.parametrize("how", ["stop", "restart", "kill"])
def test_a_stopped_unit_finishes_the_request_in_flight(
    how: str, systemd: Systemd, app: Producer, simulator: Simulator
) -> None:
    # Given the unit, in a request of each of its two processes
    unit = "viber-courier@send-bulk"
    systemd.ctl("start", unit)
    wait_for(lambda: " ready." in systemd.log, 30, systemd.log)
    main = int(systemd.ctl("show", "--value", "--property", "MainPID", unit))
    simulator.fault(kind="slow", seconds=3.0, times=2)
    ids = [app.enqueue(text_job()), app.enqueue(text_job("79250000002", priority="low"))]
    wait_for(lambda: simulator.get("faults")[0]["fired"] == 2)
    assert len(children(main)) == 2
    # When systemd stops it: TERM to all of them at once
    if how == "kill":
        systemd.ctl("kill", unit)  # and it comes back
        wait_for(lambda: systemd.log.count(" ready.") == 2, 60)
    else:
        systemd.ctl(how, unit)
    # Then it ended by itself, in time and well
    if how == "stop":
        shown = systemd.ctl("show", "--property", "Result,ExecMainStatus,ExecMainCode", unit)
        assert {"Result=success", "ExecMainStatus=0"} <= set(shown.split()), shown
    # And both answers are recorded: nothing is doubled, nothing unconfirmed
    records = [app.get(id) for id in ids]
    assert [r and r.provider_id and (r.attempts, r.unsure) for r in records] == [(1, 0)] * 2
    if how != "stop":
        systemd.ctl("start", "viber-courier@poll")
        assert {events[-1]["status"] for events in ends(app, 2).values()} == {"read"}
    assert len(simulator.accepted()) == 2

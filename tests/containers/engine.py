"""A Docker engine of our own, with stand-ins for the base images, in a network of its own.

Everything is kept in var/containers, so that the second run is quick; delete the folder to begin
anew. Debian's packages and PyPI are all that is needed from outside, and only the first time.
"""

from __future__ import annotations

import ctypes
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import time
import tomllib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "var/containers"
BASE, CONTEXT = FOLDER / "base.tar", FOLDER / "context"
IMPORTED = FOLDER / "data/imported"
"""Beside the images, so that it goes with them."""
SUITE, PYTHON = "bookworm", "3.11"
"""Debian's release in the stand-ins, and its Python."""
PACKAGES = (
    "ca-certificates,netbase,tzdata,python3,python3-venv,python3-pip,redis-server,prometheus,wget"
)
COMPOSE_SUITE = "trixie"
"""The first release of Debian whose docker-compose is version 2; it runs on older ones as well."""
NEW_NETWORK = 0x40000000
"""CLONE_NEWNET of unshare(2)."""

STAND_INS = {
    "python": """
        RUN ln -s /usr/bin/python3 /usr/local/bin/python
        COPY wheels /wheels
        RUN printf '[global]\\nno-index = true\\nfind-links = /wheels\\n' > /etc/pip.conf
        """,
    "redis": "RUN mkdir /data && chown redis:redis /data\nWORKDIR /data",
    "prom/prometheus": """
        RUN mkdir /prometheus && chown nobody:nogroup /prometheus
        ENTRYPOINT ["/usr/bin/prometheus"]
        """,
}
"""By image: what makes it of the common base. Each has what the real one has and we rely on."""


class NoEngineError(Exception):
    """No engine can be started here; says why."""


def run(*command: str | Path, **options: Any) -> str:
    """Returns what a command says; raises with it if it fails."""
    options = {"timeout": 600, "stdin": subprocess.DEVNULL, **options}
    done = subprocess.run(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, **options
    )
    if done.returncode:
        raise RuntimeError(f"{command} exited with {done.returncode}:\n{done.stdout[-4000:]}")
    return done.stdout


def need(*programs: str) -> None:
    """Raises NoEngineError unless these are on PATH."""
    if missing := [name for name in programs if shutil.which(name) is None]:
        raise NoEngineError(
            f"not installed: {', '.join(missing)} (make test-containers does so as root on Debian)"
        )


def requirements() -> list[str]:
    """Returns what our image installs besides us, and what builds us."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
    extras = project["project"]["optional-dependencies"]
    wanted = [*project["project"]["dependencies"], *extras["worker"], *extras["ops"], "flower"]
    for each in wanted:  # an extra may name others of ours, whose own come last
        if found := re.fullmatch(r"viber-courier\[(.+)\]", each):
            wanted += [one for name in found[1].split(",") for one in extras[name]]
    wanted += [*project["build-system"]["requires"], "wheel"]
    wanted += ["async-timeout"]  # redis-py's, before Python 3.11.3; Debian's is 3.11.2
    return [each for each in wanted if not each.startswith("viber-courier")]


def download_wheels(folder: Path) -> None:
    """Downloads the wheels that our image needs, for the stand-in's Python."""
    given = [ROOT / "ops/constraints.txt", ROOT / "pyproject.toml", Path(__file__)]
    digest = hashlib.sha256(b"".join(path.read_bytes() for path in given)).hexdigest()
    if (folder / "digest").exists() and (folder / "digest").read_text() == digest:
        return
    shutil.rmtree(folder, ignore_errors=True)
    pip = (sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check")
    where = ("--dest", folder, "--only-binary=:all:", "--python-version", PYTHON)
    run(*pip, *where, "--constraint", ROOT / "ops/constraints.txt", *requirements())
    (folder / "digest").write_text(digest)


def fetch_compose(plugins: Path) -> None:
    """Gets Compose v2 from the release of Debian that has it, into a folder of our own."""
    if (plugins / "docker-compose").exists():
        return
    sources = FOLDER / "compose.sources"
    (FOLDER / "lists/partial").mkdir(parents=True, exist_ok=True)
    (FOLDER / "archives/partial").mkdir(parents=True, exist_ok=True)
    # The mirror from which this machine has its own release.
    asked = ("--format", "$(REPO_URI)", "Origin: Debian", "Component: main")
    mirror = min(run("apt-get", "indextargets", *asked).split(), key=len)
    sources.write_text(
        f"Types: deb\nURIs: {mirror}\nSuites: {COMPOSE_SUITE}\n"
        "Components: main\nSigned-By: /usr/share/keyrings/debian-archive-keyring.gpg\n"
    )
    apart = {
        "Dir::Etc::sourcelist": sources,
        "Dir::Etc::sourceparts": "/dev/null",
        "Dir::State::lists": FOLDER / "lists",
        "Dir::Cache": FOLDER,
        "APT::Sandbox::User": "root",
    }
    options = [word for name, value in apart.items() for word in ("-o", f"{name}={value}")]
    run("apt-get", *options, "update", "-qq")
    run("apt-get", *options, "download", "-qq", "docker-compose", cwd=FOLDER)
    (package,) = FOLDER.glob("docker-compose_*.deb")
    run("dpkg", "-x", package, FOLDER / "compose")
    plugins.mkdir(parents=True, exist_ok=True)
    (found,) = (FOLDER / "compose").glob("usr/*/docker/cli-plugins/docker-compose")
    shutil.copy(found, plugins)


def is_imported() -> bool:
    """Whether the engine has the base image, of these packages."""
    return IMPORTED.exists() and IMPORTED.read_text() == PACKAGES


def make_base(tar: Path) -> None:
    """Makes one Debian that all stand-ins are made of: about a minute, once."""
    if tar.exists():
        return
    lean = [f"--dpkgopt=path-exclude=/usr/share/{name}/*" for name in ("doc", "man", "locale")]
    part = tar.with_suffix(".part.tar")
    run("mmdebstrap", "--quiet", "--variant=apt", f"--include={PACKAGES}", *lean, SUITE, part)
    part.rename(tar)


def base_images() -> list[str]:
    """Returns the images, with tags, that our files name and we have a stand-in for."""
    text = (ROOT / "docker-compose.yml").read_text() + (ROOT / "ops/Dockerfile").read_text()
    named = sorted({*re.findall(r"(?m)^(?:FROM| +image:) (\S+:\S+)", text)})
    return [image for image in named if image.partition(":")[0] in STAND_INS]


@contextmanager
def network_of_its_own() -> Iterator[None]:
    """This thread, and what it starts, has ports, bridges and packet filters of its own."""
    libc, before = ctypes.CDLL(None, use_errno=True), os.open("/proc/self/ns/net", os.O_RDONLY)
    if libc.unshare(NEW_NETWORK):
        raise NoEngineError(f"no network of its own: {os.strerror(ctypes.get_errno())}")
    try:
        run("ip", "link", "set", "lo", "up")
        yield
    finally:
        libc.setns(before, NEW_NETWORK)
        os.close(before)


class Engine:
    """A running dockerd, and ``docker`` that talks to it."""

    def __init__(self) -> None:
        self.env = {
            "PATH": os.environ["PATH"],
            "HOME": str(FOLDER),
            "DOCKER_HOST": f"unix://{FOLDER}/docker.sock",
            "DOCKER_CONFIG": str(FOLDER / "config"),
        }

    def start(self) -> subprocess.Popen[bytes]:
        """Starts dockerd and waits for it; raises NoEngineError with its last words."""
        command: Sequence[str | Path] = [
            *("setpriv", "--pdeathsig", "TERM", "dockerd", "--data-root", FOLDER / "data"),
            *("--exec-root", FOLDER / "exec", "--pidfile", FOLDER / "docker.pid"),
            *("--host", self.env["DOCKER_HOST"], "--config-file", FOLDER / "daemon.json"),
        ]
        (FOLDER / "daemon.json").write_text("{}")
        (FOLDER / "docker.pid").unlink(missing_ok=True)
        with (FOLDER / "dockerd.log").open("wb") as log:
            process = subprocess.Popen(command, stdout=log, stderr=log, stdin=subprocess.DEVNULL)
        deadline = time.monotonic() + 60
        while subprocess.run(["docker", "info"], env=self.env, capture_output=True).returncode:
            if process.poll() is not None or time.monotonic() > deadline:
                process.terminate()
                process.wait(60)
                said = (FOLDER / "dockerd.log").read_text(errors="replace").splitlines()
                raise NoEngineError(f"dockerd did not start: {said[-1] if said else 'no word'}")
            time.sleep(0.1)
        return process

    def docker(self, *words: str | Path, **options: Any) -> str:
        """Returns what ``docker`` says."""
        return run("docker", *words, env=self.env, **options)

    def inspect(self, name: str) -> dict[str, Any]:
        """Returns what is known of a container or an image."""
        found: list[dict[str, Any]] = json.loads(self.docker("inspect", name))
        return found[0]

    def clean(self) -> None:
        """Removes what a run left that was killed, and images of the days before."""
        if left := self.docker("ps", "--all", "--quiet").split():
            self.docker("rm", "--force", *left)
        if left := self.docker("volume", "ls", "--quiet").split():
            self.docker("volume", "rm", *left)
        self.docker("network", "prune", "--force")
        self.docker("image", "prune", "--force", "--filter", "until=72h")

    def make_stand_ins(self) -> None:
        """Makes the base images under the tags that our files name."""
        if not is_imported():
            self.docker("import", BASE, "stand-in:base")
            IMPORTED.write_text(PACKAGES)
            BASE.unlink()
        for image in base_images():
            lines = STAND_INS[image.partition(":")[0]].strip().splitlines()
            recipe = "\n".join(("FROM stand-in:base", *map(str.strip, lines)))
            (CONTEXT / "Dockerfile").write_text(recipe)
            classic = {**self.env, "DOCKER_BUILDKIT": "0"}  # the other is a package of its own
            run("docker", "build", "--quiet", "--tag", image, CONTEXT, env=classic)


@contextmanager
def engine() -> Iterator[Engine]:
    """A Docker engine while the block runs. Raises NoEngineError where none can be had."""
    if sys.platform != "linux" or os.geteuid() != 0:
        raise NoEngineError("an engine of one's own needs root on Linux")
    need("docker", "dockerd", "containerd", "mmdebstrap", "apt-get", "ip", "setpriv")
    CONTEXT.mkdir(parents=True, exist_ok=True)
    made = Engine()
    try:
        fetch_compose(FOLDER / "config/cli-plugins")
        download_wheels(CONTEXT / "wheels")
        if not is_imported():
            make_base(BASE)
    except (RuntimeError, OSError) as error:
        raise NoEngineError(str(error)) from error
    with network_of_its_own():
        process = made.start()
        try:
            made.clean()
            made.make_stand_ins()
            yield made
        finally:
            process.terminate()
            process.wait(120)

"""Flower: who may look at it, and that what it shows tells of tasks and of no person."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import requests

from tests.conftest import Start, common_job, ends, free_port, text_job, wait_for
from tests.ops.browser import chromium
from tests.test_redis_url import Place
from tests.test_runtime import HOSTILE, OTHERS
from viber_courier import Producer
from viber_courier.ops.redis_server import RedisServer

ROOT = Path(__file__).parents[2]
CONFIG = f"--conf={ROOT / 'ops/flowerconfig.py'}"
LOGIN, PASSWORD = "night-shift", "Zq7-flower-p4ss"
ELSEWHERE = "192.0.2.1"
"""An address that no machine has (RFC 5737): to be open there can be asked for, and fails."""


CELERYS = (sys.executable, "-m", "celery", "-A", "viber_courier.worker", "flower")
OURS = (sys.executable, "-c", "from viber_courier.ops.cli import main; main()", "flower")


class Flower:
    """Flower by this command with these options; keeps its output."""

    def __init__(
        self, env: dict[str, str], folder: Path, *options: str, command: Sequence[str] = CELERYS
    ) -> None:
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self._path = folder / f"flower-{self.port}.log"
        with self._path.open("wb") as log:
            self.process = subprocess.Popen(
                [*command, f"--port={self.port}", *options],
                env={**os.environ, **env},
                cwd=folder,
                stdout=log,
                stderr=log,
            )

    @property
    def log(self) -> str:
        return self._path.read_text()

    def ready(self) -> Flower:
        wait_for(self._answers, 30, self.log)
        return self

    def _answers(self) -> bool:
        with suppress(requests.ConnectionError):
            return requests.get(f"{self.url}/healthcheck", timeout=5).ok
        return False

    def refused(self) -> str:
        """Why it didn't start."""
        assert self.process.wait(30) != 0
        return self.log

    def stop(self) -> None:
        self.process.terminate()
        try:
            self.process.wait(15)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait(5)


@pytest.fixture
def flower(system_env: dict[str, str], tmp_path: Path) -> Iterator[Callable[..., Flower]]:
    started: list[Flower] = []

    def start(*options: str, command: Sequence[str] = CELERYS, **more: str) -> Flower:
        started.append(Flower({**system_env, **more}, tmp_path, *options, command=command))
        return started[-1]

    yield start
    for each in started:
        each.stop()


def listens(port: int) -> set[str]:
    """Addresses on which somebody of this machine listens at this port."""
    found = set()
    for name in ("tcp", "tcp6"):
        for line in Path(f"/proc/net/{name}").read_text().splitlines()[1:]:
            fields = line.split()
            address, _, number = fields[1].partition(":")
            if fields[3] == "0A" and int(number, 16) == port:
                found.add(socket.inet_ntoa(bytes.fromhex(address)[::-1]) if name == "tcp" else "v6")
    return found


# --- who may look ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("command", "options"), [(CELERYS, ()), (CELERYS, (CONFIG,)), (OURS, ())], ids=range(3)
)
def test_started_plainly_it_is_there_for_this_machine_only(
    flower: Callable[..., Flower], command: Sequence[str], options: tuple[str, ...]
) -> None:
    made = flower(*options, command=command).ready()
    assert listens(made.port) == {"127.0.0.1"}
    assert requests.get(f"{made.url}/workers", timeout=5).status_code == 200
    # And changes nothing
    stop = requests.post(f"{made.url}/api/worker/shutdown/celery@x", timeout=5)
    assert stop.status_code in (401, 403)


@pytest.mark.parametrize("command", [CELERYS, OURS], ids=["celery", "courier"])
def test_another_celerys_settings_do_not_reach_it(
    command: Sequence[str],
    flower: Callable[..., Flower],
    start_worker: Start,
    app: Producer,
    tmp_path: Path,
) -> None:
    for name in ("others_celeryconfig.py", "celeryconfig.py"):
        (tmp_path / name).write_text(HOSTILE)
    start_worker()
    others = {name: value for name, value in OTHERS.items() if name != "C_STRICT_APP"}
    # (an aid for debugging, with which Flower uses Celery in a way that this forbids)
    made = flower(command=command, **others, PYTHONPATH=str(tmp_path)).ready()
    # It hears of our workers' tasks, through our broker
    page: Callable[[str], str] = lambda path: requests.get(f"{made.url}/{path}", timeout=5).text  # noqa: E731
    wait_for(lambda: "celery@" in page("workers"), 30, made.log)
    app.enqueue(text_job())
    ends(app, 1)
    assert made.process.poll() is None and "Traceback" not in made.log
    assert not list(tmp_path.glob("*.read"))


@pytest.mark.parametrize(
    "how", [("--address=",), (f"--address={ELSEWHERE}",), ("--address=::", CONFIG), "environment"]
)
@pytest.mark.parametrize("command", [CELERYS, OURS], ids=["celery", "courier"])
def test_it_refuses_to_be_open_without_a_login(
    flower: Callable[..., Flower], command: Sequence[str], how: Any
) -> None:
    env = {"FLOWER_ADDRESS": "0.0.0.0"} if how == "environment" else {}
    made = flower(*(() if env else how), command=command, **env)
    said = made.refused()
    assert "open to other machines, without a login" in said and "Traceback" not in said


def test_with_a_login_it_may_be_open(flower: Callable[..., Flower], tmp_path: Path) -> None:
    (tmp_path / "password").write_bytes(f"\ufeff{PASSWORD}\r\n\r\n".encode())
    login = {
        "COURIER_FLOWER_LOGIN": LOGIN,
        "COURIER_FLOWER_PASSWORD_FILE": str(tmp_path / "password"),
    }
    # It isn't refused: it fails at what no machine can
    said = flower(CONFIG, f"--address={ELSEWHERE}", **login).refused()
    assert "without a login" not in said and "Cannot assign requested address" in said
    # And whoever wants to look has to know the password
    made = flower(command=OURS, **login).ready()
    pages = ("workers", "tasks", "broker", "api/workers", "api/tasks")
    for page in pages:
        asked = requests.get(f"{made.url}/{page}", timeout=5)
        assert asked.status_code == 401, page
        wrong = requests.get(f"{made.url}/{page}", auth=(LOGIN, "wrong"), timeout=5)
        assert wrong.status_code == 401, page
        known = requests.get(f"{made.url}/{page}", auth=(LOGIN, PASSWORD), timeout=5)
        assert known.status_code == 200, page
    assert PASSWORD not in made.log


@pytest.mark.parametrize(
    "env",
    [
        {"COURIER_FLOWER_LOGIN": LOGIN},
        {"COURIER_FLOWER_PASSWORD": PASSWORD},
        {"COURIER_FLOWER_LOGIN": LOGIN, "COURIER_FLOWER_PASSWORD": "short"},
        {"COURIER_FLOWER_LOGIN": "a:b", "COURIER_FLOWER_PASSWORD": PASSWORD},
        {"COURIER_FLOWER_LOGIN": LOGIN, "COURIER_FLOWER_PASSWORD_FILE": "/does/not/exist"},
    ],
    ids=str,
)
def test_half_a_login_is_no_login(flower: Callable[..., Flower], env: dict[str, str]) -> None:
    said = flower(CONFIG, **env).refused()
    assert "Flower can't start: COURIER_FLOWER_" in said
    assert PASSWORD not in said and "Traceback" not in said


@pytest.mark.parametrize("form", ["rediss://app:PW@TLS/2?ssl_ca_certs=OWN_CA", "unix://{}/plain"])
def test_the_broker_may_be_behind_tls_or_a_socket(
    flower: Callable[..., Flower], form: str, tmp_path: Path
) -> None:
    place = Place(tmp_path)
    (tmp_path / "plain").symlink_to(place.socket)  # Flower's own page unquotes no path
    try:
        made = flower(COURIER_REDIS_URL=place.fill(form.format(tmp_path))).ready()
        page = requests.get(f"{made.url}/broker", timeout=5)
        assert page.status_code == 200 and ".send.realtime" in page.text
        assert PASSWORD not in page.text + made.log
    finally:
        place.close()


# --- what it shows --------------------------------------------------------------------------------


class Browser:
    """A logged-in person's Chromium: it keeps every answer that it got."""

    def __init__(self, context: Any, url: str) -> None:
        self.url, self.seen = url, dict[str, bytes]()
        self.far: list[str] = []
        self.page = context.new_page()
        self.page.on("request", self._note)
        self.page.on("response", self._keep)

    def _note(self, request: Any) -> None:
        if not request.url.startswith((self.url, "data:")):
            self.far.append(request.url)

    def _keep(self, response: Any) -> None:
        if "/static/" not in response.url:
            with suppress(Exception):  # a redirect has no body
                self.seen[response.url] = response.body()

    def open(self, path: str) -> str:
        """The text that a person reads there."""
        self.page.goto(f"{self.url}/{path}")
        self.page.wait_for_load_state("networkidle")
        self.seen[f"{path} as it looks"] = self.page.content().encode()
        text: str = self.page.inner_text("body")
        return text


@pytest.fixture
def browse(tmp_path: Path) -> Iterator[Callable[[str], Browser]]:
    login = {"username": LOGIN, "password": PASSWORD}
    size = {"width": 1440, "height": 1040}
    with chromium(tmp_path / "profile", http_credentials=login, viewport=size) as context:
        yield lambda url: Browser(context, url)


def test_its_pages_tell_what_tasks_do_and_nothing_of_persons(
    browse: Callable[[str], Browser],
    flower: Callable[..., Flower],
    start_worker: Start,
    system_env: dict[str, str],
    redis_server: RedisServer,
    app: Producer,
    namespace: str,
) -> None:
    # Given Flower with a login, a worker, and messages that end in several ways
    made = flower(CONFIG, COURIER_FLOWER_LOGIN=LOGIN, COURIER_FLOWER_PASSWORD=PASSWORD).ready()
    start_worker("-E", "-n", "send-bulk@%h")  # else Flower asks for events within 5 s
    start_worker("-E", "-n", "poll@%h", "-Q", f"{namespace}.poll", beat=False)
    api = requests.Session()
    api.auth = (LOGIN, PASSWORD)
    wait_for(lambda: _workers(api, made.url) == 2, 30)
    password = system_env["COURIER_API_PASSWORD"]  # all digits, as instants have them, too
    told = ("79250000", "Код", "Zq7", "Shop", PASSWORD, f'"{password}"', f"'{password}'")
    common = common_job(priority="low", content={"text": "Zq7 скидки"})
    rows = [{"address": f"79250000{n:03}"} for n in range(100)]
    app.enqueue_many(rows, common=common)
    app.enqueue(text_job("79250000101", priority="realtime"))
    _outside(system_env, namespace, [text_job("79250000199")])
    ends(app, 90)  # some of them never end
    # When a person looks at every page
    person = browse(made.url)
    workers = person.open("workers")
    person.open("tasks")
    if picture := os.environ.get("COURIER_SCREENSHOT"):
        person.page.screenshot(path=picture)
    person.page.select_option("select", "100")
    # The task of the lane low serves the urgent message, too, where that came in time.
    claimed = re.compile("low: 10[01] claimed")
    wait_for(lambda: claimed.search(person.page.inner_text("body")), 20)
    tasks = person.page.inner_text("body")
    shown = api.get(f"{made.url}/api/tasks", timeout=10).json()
    for task in shown:
        person.open(f"task/{task}")
    for name in _names(api, made.url):
        person.open(f"worker/{name}")
        for tab in person.page.query_selector_all(".nav-link, [data-bs-toggle]"):
            with suppress(Exception):  # not every one can be clicked
                tab.click(timeout=300)
        person.seen[f"{name}, all tabs"] = person.page.content().encode()
    broker = person.open("broker")
    # Then the list says what happened
    assert "send-bulk@" in workers and "poll@" in workers
    line = next(line for line in tasks.splitlines() if claimed.search(line))
    assert "courier.send" in tasks and "submitted" in line and " s" in line
    results = {str(task["result"]) for task in shown.values()}
    assert any("enqueue: 1 accepted" in each for each in results), results
    assert f"{namespace}.poll" in broker
    # And no page, nor anything that the browser got, has to do with a person or a secret
    assert len(person.seen) > 10
    for where, body in person.seen.items():
        for word in told:
            for form in (word, json.dumps(word)[1:-1]):
                place = body.find(form.encode())
                assert place < 0, f"{word} in {where}: {body[max(0, place - 100) : place + 60]!r}"
    assert person.far == []


def _outside(env: dict[str, str], namespace: str, jobs: list[Any]) -> None:
    """What an app without our package does."""
    from celery import Celery

    with Celery(broker=env["COURIER_REDIS_URL"]) as other:
        other.send_task("courier.enqueue", args=[jobs], queue=f"{namespace}.enqueue")


def _names(api: requests.Session, url: str) -> list[str]:
    return [*api.get(f"{url}/api/workers?refresh=1", timeout=20).json()]


def _workers(api: requests.Session, url: str) -> int:
    return len(_names(api, url))


# --- what it does by itself -----------------------------------------------------------------------


def test_canary_flower_is_open_to_all_machines_and_may_stop_workers() -> None:
    """It fails once Flower starts as worker/runtime/flower.py makes it start."""
    asked = "from flower.options import options as o; print(repr(o.address), o.read_only)"
    said = subprocess.check_output([sys.executable, "-c", asked], text=True)
    assert said.split() == ["''", "False"]

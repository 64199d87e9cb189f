"""`courier demo`: the whole run once, its ends by signals and crashes, and its checks on lies."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from copy import deepcopy
from dataclasses import replace
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from tests.conftest import wait_for
from viber_courier.ops.demo import Narrator
from viber_courier.ops.demo_app import (
    CHECKS,
    ENDS,
    App,
    Asked,
    Evidence,
    bytes_in_full,
    funnel,
    read_recipients,
)
from viber_courier.ops.simulator_rules import ENDINGS
from viber_courier.producers.testing import memory_producer
from viber_courier.schemas.settings import Settings

HOSTILE = {  # an installation of the caller's own, which the demo must not touch
    "COURIER_REDIS_URL": "redis://you-forgot-the-demo.invalid/0",
    "COURIER_API_URL": "https://you-forgot-the-demo.invalid",
    "COURIER_BATCH_SIZE": "not a number",
    "CELERY_BROKER_URL": "redis://you-forgot-the-demo.invalid/0",
    "HTTP_PROXY": "http://you-forgot-the-demo.invalid",
    "COLUMNS": "80",
}


def processes_in(folder: Path) -> dict[int, str]:
    """The processes whose working directory is there (gone or not), with their commands."""
    found = {}
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            if os.readlink(entry / "cwd").startswith(str(folder)):
                found[int(entry.name)] = (entry / "cmdline").read_text().replace("\0", " ")
        except OSError:
            continue  # ended meanwhile, a zombie, or somebody else's
    return found


class Demo:
    """A run in a session of its own, with its output in a file and its files under ``folder``."""

    def __init__(self, folder: Path) -> None:
        self.output, self.folder = folder / "output", folder / "tmp"
        self.folder.mkdir()
        with self.output.open("wb") as output:
            self.process = subprocess.Popen(
                [Path(sys.executable).parent / "courier", "demo"],
                env={**os.environ, **HOSTILE, "TMPDIR": str(self.folder)},
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    @property
    def text(self) -> str:
        return self.output.read_text("utf-8")

    def wait_for_text(self, text: str) -> None:
        wait_for(lambda: text in self.text or self.process.poll() is not None, 30, text)
        assert self.process.poll() is None, self.text

    def worker(self) -> int | None:
        """The process id of the Celery worker's parent."""
        found = [pid for pid, words in processes_in(self.folder).items() if "celery" in words]
        return min(found, default=None)

    def assert_nothing_is_left(self) -> None:
        wait_for(lambda: not processes_in(self.folder), 5, str(processes_in(self.folder)))
        assert list(self.folder.iterdir()) == []


@pytest.fixture
def demo(tmp_path: Path) -> Iterator[Demo]:
    made = Demo(tmp_path)
    yield made
    if made.process.poll() is None:
        made.process.terminate()
        made.process.wait(30)


@pytest.mark.slow
def test_the_whole_demo(demo: Demo) -> None:
    code = demo.process.wait(110)

    text = demo.text
    assert code == 0, text
    assert "All checks passed" in text
    assert "\x1b" not in text, "no control codes where there is no terminal"
    assert "Traceback" not in text
    for word in ("enqueued", "submitted", "delivered", "read", "SMS instead", "commonData saved"):
        assert word in text
    for name in CHECKS:
        assert f"ok  {name}" in text
    for status in {*ENDS.values(), "sms_delivered", "expired"}:
        assert re.search(rf"\d\s+{status}\b", text), status
    events = [json.loads(line) for line in text.splitlines() if line.startswith("{")]
    assert len(events) == 1
    for story in (
        *("503 rows would be 501 messages, 1 of them to a suppressed number", "segments, which"),
        *("0 of these inside a", "It goes on", "wrong price", "courier campaign report"),
    ):
        assert story in " ".join(text.split()), story
    assert re.search(r"\d+ +rejected +suppressed", text)
    assert all(event["specversion"] == "1.0" for event in events)
    assert all(len(line) <= 80 for line in text.splitlines() if not line.startswith("{"))
    demo.assert_nothing_is_left()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("number", "when"),
    [
        (signal.SIGINT, "A worker starts"),
        (signal.SIGTERM, "An app enqueues"),
        (signal.SIGHUP, "A worker starts"),
    ],
)
def test_a_signal_ends_everything(demo: Demo, number: signal.Signals, when: str) -> None:
    demo.wait_for_text(when)
    if number == signal.SIGINT:
        if sys.platform == "linux":
            wait_for(demo.worker)
        os.killpg(demo.process.pid, number)  # as a terminal does
    else:
        for _ in range(2):
            demo.process.send_signal(number)

    assert demo.process.wait(30) == 128 + number, demo.text
    assert "Stopped" in demo.text
    assert "Traceback" not in demo.text
    demo.assert_nothing_is_left()


@pytest.mark.skipif(sys.platform != "linux", reason="finds the worker in /proc")
@pytest.mark.slow
def test_a_worker_that_dies_is_told(demo: Demo) -> None:
    demo.wait_for_text("A worker starts")
    os.kill(wait_for(demo.worker), signal.SIGKILL)

    assert demo.process.wait(30) == 1
    assert "celery ended" in demo.text
    demo.assert_nothing_is_left()


def test_without_a_server_it_says_what_to_install(tmp_path: Path) -> None:
    code = "import viber_courier.ops.redis_server as r; r.shutil.which = lambda name: None;"
    code += "r.importlib.util.find_spec = lambda name: None;"
    code += "from viber_courier.ops.cli import main; main(['demo'])"
    env = {**os.environ, "TMPDIR": str(tmp_path)}
    command = [sys.executable, "-c", code]
    found = subprocess.run(command, env=env, capture_output=True, text=True, timeout=30)
    assert found.returncode == 1
    assert "install redis-server" in found.stderr
    assert list(tmp_path.iterdir()) == []


# What it enqueues


def test_every_ending_is_expected_and_has_recipients() -> None:
    people = read_recipients()
    assert ENDS.keys() == ENDINGS.keys()
    found = {(p["address"][-2:], p["sms"]) for p in people}
    slow = {("24", "yes"), ("70", "yes"), ("71", "yes")}  # tracked for half a minute
    assert {(f"{ending}", sms) for ending in ENDINGS for sms in ("yes", "no")} - slow <= found
    assert not slow & found


def test_recipients_are_nobodys_numbers_and_distinct() -> None:
    addresses = [p["address"] for p in read_recipients()]
    real = [a for a in addresses if a.isdigit()]
    assert len(addresses) - len(real) == 2, "two rows are wrong on purpose"
    assert all(len(a) == 11 and a.startswith("7000") for a in real), "+7 000 is given to nobody"
    assert len(set(addresses)) == len(addresses)


def test_the_app_asks_for_every_priority_and_kind() -> None:
    app = App(memory_producer(Settings(suppression_key="the key of a test")))
    app.enqueue()
    assert app.preview().messages == 501
    app.start_campaign()
    assert app.campaign.progress().added == 501
    jobs = [asked.job for asked in app.asked.values()]
    assert len(jobs) == len(read_recipients()) - 2
    assert len(app.refused) == 2
    kinds = {(j["priority"], j["contentType"], "imageUrl" in j["content"]) for j in jobs}
    for lane in ("realtime", "high", "normal", "low"):
        pictures = {("text", False), ("button", False), ("button", True), ("image", True)}
        assert {(kind, picture) for p, kind, picture in kinds if p == lane} == pictures
    assert {app.asked[id].end for id in app.asked} == {"", "expired", "cancelled", "rejected"}


# Its checks


def event(id: str, number: int, status: str, final: bool, **data: Any) -> dict[str, Any]:
    data = {"messageId": id, "status": status, "final": final, "attempts": 1, "reason": None} | data
    return {"id": f"{id}:{number}", "subject": id, "data": {"providerId": None, **data}}


def ledger() -> Evidence:
    """A run of three messages in which all is well: read, by SMS, refused."""
    text = {"subject": "Shop", "contentType": "text", "content": {"text": "Привет"}}
    jobs = {
        "a": text | {"address": "70000000001", "id": "a"},
        "b": text | {"address": "70000000021", "smsText": "sms", "metadata": {"n": 1}},
        "c": text | {"address": "70000000050"},
    }
    asked = {id: Asked(job) for id, job in jobs.items()}
    accepted = [
        {"providerId": 2**60 + n, "resendSms": id == "b", "message": asked[id].wire}
        for n, id in enumerate("ab")
    ]
    return Evidence(
        asked=asked,
        events=[
            event("a", 1, "submitted", False, providerId=str(2**60)),
            event("c", 1, "rejected", True, reason="error-address-unknown"),
            event("b", 1, "submitted", False, providerId=str(2**60 + 1)),
            event("a", 2, "read", True),
            event("b", 2, "sms_sent", False),
            event("b", 3, "sms_delivered", True),
        ],
        accepted=accepted,
        requests={"batches": [2, 1], "log": [300, 100], "messages": 2, "refused": 1},
        records={"a": "read", "b": "sms_delivered", "c": "rejected"},
        counted={"queued": 3, "submitted": 2, "read": 1, "rejected": 1, "failed": 0},
        held=[200, 200],
    )


def surprises(evidence: Evidence) -> dict[str, list[str]]:
    found = {check.__name__: list(check(evidence)) for check in CHECKS.values()}
    return {name: faults for name, faults in found.items() if faults}


def test_a_run_in_which_all_is_well_has_no_surprises() -> None:
    assert surprises(ledger()) == {}


def drop(place: int) -> Callable[[Evidence], Evidence]:
    return lambda e: replace(e, events=[*e.events[:place], *e.events[place + 1 :]])


def append(extra: dict[str, Any]) -> Callable[[Evidence], Evidence]:
    return lambda e: replace(e, events=[*e.events, extra])


def accept(change: Callable[[list[Any]], Any]) -> Callable[[Evidence], Evidence]:
    def plant(evidence: Evidence) -> Evidence:
        accepted = deepcopy([*evidence.accepted])
        change(accepted)
        return replace(evidence, accepted=accepted)

    return plant


PLANTED = {
    "no final event": (drop(5), "final_events"),
    "a second final event": (append(event("a", 3, "read", True)), "final_events"),
    "an event after the final one": (append(event("a", 3, "sent", False)), "final_events"),
    "a stranger's event": (append(event("x", 1, "read", True)), "final_events"),
    "another status": (
        lambda e: replace(e, asked={**e.asked, "a": Asked(e.asked["a"].job, "lost")}),
        "final_events",
    ),
    "a gap in the numbers": (drop(4), "numbers"),
    "a number twice": (append(event("a", 2, "read", True)), "numbers"),
    "sent twice": (accept(lambda a: a.append(a[0])), "deliveries"),
    "never sent": (accept(lambda a: a.pop()), "deliveries"),
    "sent and never told": (accept(lambda a: a[0].update(providerId=7)), "deliveries"),
    "another text": (accept(lambda a: a[0]["message"].update(content={})), "deliveries"),
    "another flag": (accept(lambda a: a[1].update(resendSms=False)), "deliveries"),
    "a sum": (lambda e: replace(e, requests={**e.requests, "refused": 2}), "sums"),
    "an attempt": (lambda e: replace(e, requests={**e.requests, "batches": [2, 2]}), "sums"),
    "a record": (lambda e: replace(e, records={**e.records, "a": "sent"}), "lookups"),
    "a counter": (lambda e: replace(e, counted={**e.counted, "failed": 1}), "counters"),
    "sent while paused": (lambda e: replace(e, held=[200, 199]), "standstill"),
    "never paused": (lambda e: replace(e, held=[]), "standstill"),
    "no record": (lambda e: replace(e, records={}), "lookups"),
}


@pytest.mark.parametrize("what", PLANTED)
def test_a_planted_surprise_is_found(what: str) -> None:
    plant, check = PLANTED[what]
    assert check in surprises(plant(ledger()))


def test_a_surprise_is_named_and_the_exit_code_is_1() -> None:
    output = StringIO()
    narrator = Narrator(Console(file=output, width=80))
    faults = [f"message {n} vanished" for n in range(9)]
    assert narrator.verdict({"all is well": [], "nothing is lost": faults}, "[log] line") == 1
    assert "WRONG  nothing is lost" in output.getvalue()
    assert "message 0 vanished" in output.getvalue()
    assert "[log] line" in output.getvalue()
    assert narrator.verdict({"all is well": []}, "") == 0


def test_the_funnel_adds_up() -> None:
    counts = funnel(3, ledger().events)
    assert counts["enqueued"] == 3
    assert counts["submitted"] == 2
    assert (counts["read"], counts["SMS instead"], counts["refused, expired"]) == (1, 1, 1)
    parts = counts.keys() - {"enqueued", "submitted", "read"}  # read is a part of delivered
    assert sum(counts[part] for part in parts) == counts["enqueued"]


def test_bytes_in_full_are_those_of_utf_8() -> None:
    alone = replace(ledger(), accepted=[{"message": {"text": "Я"}}])
    assert bytes_in_full(alone) == len('{"text":"Я"}'.encode())


def test_in_a_terminal_there_are_bars() -> None:
    output = StringIO()
    narrator = Narrator(Console(file=output, width=80, force_terminal=True))
    with narrator.bars:
        narrator.update(funnel(3, ledger().events), {"read": 3})
    assert re.search(r"enqueued +3 .*━", output.getvalue())
    assert "SMS instead" in output.getvalue()

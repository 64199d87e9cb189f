"""The console's pages of campaigns and suppressions, where the Producer has them."""

from __future__ import annotations

import csv
import io
import re
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import requests

import viber_courier
from tests.conftest import common_job, wait_for
from tests.console import LOGIN, PHONE, TEXT, USER, Console, Person, app, discreet, person, words
from viber_courier import Producer
from viber_courier.ops.commands.looking import event_fields
from viber_courier.ops.console import audit
from viber_courier.ops.redis_server import RedisServer

__all__ = ["app", "person"]


@pytest.fixture(scope="module")
def env(redis_server: RedisServer) -> dict[str, str]:
    place = {"COURIER_REDIS_URL": redis_server.url, "COURIER_NAMESPACE": "console-camp"}
    return {**place, "COURIER_SUPPRESSION_KEY": "a key of sixteen characters"}


@pytest.fixture(scope="module")
def console(tmp_path_factory: pytest.TempPathFactory, env: dict[str, str]) -> Iterator[Console]:
    with discreet(tmp_path_factory.mktemp("console"), env) as made:
        yield made


def newest(app: Producer) -> tuple[str, ...]:
    """Who did what to what, and how, by the latest entry."""
    entry = next(audit.entries(app, 1))
    return (entry.who, *entry[3:])


def test_a_campaign_is_watched_paused_cancelled_and_reported(person: Person, app: Any) -> None:
    assert "There are none" in words(person.get("/campaigns"))
    rows = [{"address": f"79250{n:06}"} for n in range(1200)]
    common = common_job(priority="low", content={"text": TEXT})
    ids = app.campaign("nov-sale", common=common).add(rows)
    app.campaign("other", common=common).add(rows[:1])
    row = "nov-sale Running 1,200 1,200 0"
    wait_for(lambda: row in words(person.get("/campaigns")))  # the list may be a second old
    shown = person.get("/campaigns/nov-sale")
    assert "Added 1,200 Waiting 1,200" in words(shown) and "queued 1,200 100.0 %" in words(shown)
    assert TEXT not in shown.text and "79250000" not in shown.text
    message = person.get(f"/messages?id={ids[0]}")
    assert "/campaigns/nov-sale" in message.text
    # Pause asks once, and says what it did
    assert "Pause campaign nov-sale?" in words(person.get("/do/pause-campaign?name=nov-sale"))
    assert app.campaign("nov-sale").progress().state == "running"
    paused = person.fill("/do/pause-campaign?name=nov-sale", reason="<b>wrong price")
    assert "Paused. Progress" not in words(paused) and "Paused." in words(paused)
    assert "Paused : <b>wrong price" in words(paused) and "<b>" not in paused.text
    assert app.campaign("nov-sale").progress().reason == "<b>wrong price"
    assert newest(app) == (LOGIN, "pause campaign", "nov-sale", "<b>wrong price")
    person.fill("/do/resume-campaign?name=nov-sale")
    assert app.campaign("nov-sale").progress().state == "running"
    cancelled = person.fill("/do/cancel-campaign?name=nov-sale")
    assert "Cancelled: what waited has ended." in words(cancelled)
    assert "cancelled by-request 1,200" in words(cancelled)
    refused = person.fill("/do/resume-campaign?name=nov-sale")
    assert refused.status_code == 409 and "Not done" in words(refused)
    # The report has a line for each message, and no number
    report = person.get("/campaigns/nov-sale/report.csv")
    assert report.headers["Content-Type"].startswith("text/csv")
    assert "nov-sale.csv" in report.headers["Content-Disposition"]
    reader = csv.DictReader(io.StringIO(report.text))
    lines = list(reader)
    row: Any = viber_courier.ReportRow(row=None, id="", status=None)  # type: ignore[attr-defined]
    assert reader.fieldnames == [*event_fields(row)], "the columns of `courier campaign report`"
    assert [line["id"] for line in lines] == ids
    assert {(line["status"], line["reason"]) for line in lines} == {("cancelled", "by-request")}
    assert "79250000" not in report.text
    for do in ("resume", "cancel"):
        answer = person.fill(f"/do/{do}-campaign?name=nobody")
        assert answer.status_code == 422 and "no such campaign" in words(answer), do
    for path in ("/campaigns/nobody", "/campaigns/a%20b", "/campaigns/nobody/report.csv"):
        assert person.get(path).status_code == 404, path
    nobody = requests.get(f"{person.url}/campaigns/nov-sale/report.csv", timeout=10)
    assert "by-request" not in nobody.text


@pytest.mark.slow
def test_reports_that_nobody_reads_hold_up_no_page_and_not_the_end(
    tmp_path: Any, env: dict[str, str], app: Any
) -> None:
    rows = [{"address": f"79250{n:06}"} for n in range(30_000)]
    app.campaign("unread", common=common_job(priority="low")).add(rows)
    made = Console(tmp_path, {**env, **USER})
    with ExitStack() as stack:
        stack.callback(made.close)
        someone = made.person()
        cookies = "; ".join(f"{each.name}={each.value}" for each in someone.session.cookies)
        head = f"Host: 127.0.0.1:{made.port}\r\nCookie: {cookies}\r\n\r\n"
        for _ in range(20):
            client = stack.enter_context(socket.socket())
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
            client.connect(("127.0.0.1", made.port))
            client.sendall(f"GET /campaigns/unread/report.csv HTTP/1.1\r\n{head}".encode())
        before = resident(made)
        for _ in range(5):
            began = time.monotonic()
            assert "unread" in words(someone.get("/campaigns"))
            assert time.monotonic() - began < 5
        assert resident(made) - before < 50
        began = time.monotonic()
        made.process.terminate()
        made.process.wait(20)
        assert time.monotonic() - began < 10, "12 s and more before"


def resident(console: Console) -> int:
    """Its memory, in MB."""
    status = Path(f"/proc/{console.process.pid}/status").read_text()
    return int(re.findall(r"VmRSS:\s+(\d+)", status)[0]) // 1024


def test_open_pages_of_campaigns_share_a_look(person: Person, app: Any) -> None:
    app.campaign("shared", common=common_job()).add([{"address": PHONE}])

    def evals() -> int:
        stats = app.redis.info("commandstats")
        return sum(stats.get(f"cmdstat_{name}", {}).get("calls", 0) for name in ("evalsha", "eval"))

    person.get("/campaigns/shared")
    before = evals()
    for _ in range(20):
        person.get("/campaigns/shared", headers={"X-Refresh": "1"})
    assert evals() - before <= 10
    app.campaign("shared").cancel()


def test_numbers_are_suppressed_looked_up_and_taken_off(person: Person, app: Any) -> None:
    assert "None." in words(person.get("/suppressions"))
    done = person.fill("/do/suppress", phone=f"+{PHONE}", reason="asked <i>us", **{"for": "30d"})
    assert "7925***23 is suppressed." in words(done) and "asked <i>us" in words(done)
    assert PHONE in app.suppressions and PHONE not in done.text and PHONE not in done.url
    assert newest(app) == (LOGIN, "suppress", "7925***23", "asked <i>us")
    again = person.fill("/do/suppress", phone=PHONE)
    assert "was suppressed already" in words(again)
    assert "is suppressed since" in words(person.fill("/do/check-number", phone=PHONE))
    assert "is no longer suppressed" in words(person.fill("/do/unsuppress", phone=PHONE))
    assert PHONE not in app.suppressions
    assert "is not suppressed" in words(person.fill("/do/check-number", phone=PHONE))
    for wrong in ("5", "number", "8 925 555 01 23"):
        answer = person.fill("/do/suppress", phone=wrong)
        assert answer.status_code in (409, 422) and "Not done" in words(answer)
    assert person.fill("/do/suppress", phone=PHONE, reason="x" * 100).status_code == 422
    assert PHONE not in str(list(audit.entries(app, 100)))


@pytest.mark.slow
def test_without_a_key_it_says_so(tmp_path: Any, env: dict[str, str]) -> None:
    made = Console(tmp_path, {**env, **USER, "COURIER_SUPPRESSION_KEY": ""})
    try:
        someone = made.person()
        assert "COURIER_SUPPRESSION_KEY must be set" in words(someone.get("/suppressions"))
        assert someone.fill("/do/suppress", phone=PHONE).status_code == 409
    finally:
        made.close()

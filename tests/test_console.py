"""``courier console``: its pages and forms, and those who attack it. tests/ops has the browser."""

from __future__ import annotations

import asyncio
import json
import os
import pwd
import re
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, suppress
from http.client import HTTPConnection
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest
import requests

from tests.conftest import Courier, text_job, wait_for
from tests.console import (
    LOGIN,
    PASSWORD,
    PHONE,
    TEXT,
    USER,
    Console,
    Person,
    app,
    discreet,
    inputs,
    person,
    words,
)
from tests.test_permissions import Users
from tests.tls import Authority
from viber_courier import Producer
from viber_courier.ops.console import accounts, audit, story
from viber_courier.ops.console.accounts import Accounts, Brake, new_user
from viber_courier.ops.console.sessions import IDLE_SECONDS, LONGEST_SECONDS, Sessions
from viber_courier.ops.console.watch import Picture, Watch
from viber_courier.ops.look import take_look
from viber_courier.ops.redis_server import RedisServer
from viber_courier.schemas.errors import ConfigError
from viber_courier.store.keys import Keys

__all__ = ["app", "person"]

PAGES = ("/", "/messages", "/dead", "/audit", "/do/pause?lane=low", "/live")
HOSTILE = "<script>alert(1)</script>\"'&{{7*7}}"


@pytest.fixture(scope="module")
def env(redis_server: RedisServer) -> dict[str, str]:
    return {"COURIER_REDIS_URL": redis_server.url, "COURIER_NAMESPACE": "console"}


@pytest.fixture(scope="module")
def console(tmp_path_factory: pytest.TempPathFactory, env: dict[str, str]) -> Iterator[Console]:
    """One for all; whatever they do, its log says nothing of a message and no password."""
    with discreet(tmp_path_factory.mktemp("console"), env, PASSWORD) as made:
        yield made


@pytest.fixture
def shell(env: dict[str, str]) -> Courier:
    """The command line beside it."""
    return Courier(env)


def private_job(**more: Any) -> dict[str, Any]:
    return text_job(PHONE, **{"content": {"text": TEXT}, **more})


def dead_letter(app: Producer, id: str, **more: Any) -> None:
    """A message that ended rejected: written as a worker's answer would leave it."""
    app.enqueue(private_job(id=id, priority="low", **more))
    keys = Keys(app.settings.namespace)
    app.redis.hset(keys.records + id, mapping={"status": "rejected", "reason": "x-1", "final": "1"})
    app.redis.zrem(keys.lanes[6], id)
    app.redis.zadd(keys.dead, {id: time.time_ns() // 1000})


# --- what people do -------------------------------------------------------------------------------


def test_home_shows_lanes_and_a_pause_and_says_what_was_done(
    person: Person, app: Producer, shell: Courier
) -> None:
    app.enqueue(private_job(id="home-1", priority="low"))
    wait_for(lambda: re.search(r"low runs 1 0 \d+ s", words(person.get("/"))))
    # When a lane is paused, it asks once
    asked = person.get("/do/pause?lane=low")
    assert "Pause low?" in words(asked) and "low" not in shell.json("top", "--once")["paused"]
    done = person.fill("/do/pause?lane=low", reason=HOSTILE)
    # Then it says so, and so does the command line
    assert done.url == person.url + "/" and "Paused low." in words(done)
    assert f"Paused: {HOSTILE}" in words(done) and "<script>alert" not in done.text
    assert "Paused low." not in words(person.get("/")), "it is said once"
    assert shell.json("top", "--once")["paused"] == {"low": HOSTILE}
    assert "Resumed low." in words(person.fill("/do/resume?lane=low"))
    assert "low was not paused." in words(person.fill("/do/resume?lane=low"))
    wrong = person.fill("/do/pause?lane=low", **{"for": "soon"})
    assert wrong.status_code == 422 and "Not done: For how long: must look like" in words(wrong)
    assert person.get("/do/pause?lane=dead").status_code == 400
    assert person.get("/do/nothing").status_code == 404
    app.cancel("home-1")


def test_a_pause_may_end_by_itself(person: Person, app: Producer) -> None:
    assert "Paused poll for 60 s." in words(person.fill("/do/pause?lane=poll", **{"for": "60"}))
    assert 0 < app.redis.pttl(Keys("console").paused("poll")) <= 60_000
    person.fill("/do/resume?lane=poll")


def test_a_message_is_found_shown_and_cancelled(person: Person, app: Producer) -> None:
    id = "m:1"
    app.enqueue(private_job(id=id, metadata={"order": HOSTILE}))
    shown = person.get("/messages", params={"id": id})
    assert "queued" in words(shown) and HOSTILE in words(shown) and "<script>a" not in shown.text
    assert "7925***23" in shown.text and "Cancel" in words(shown)
    path = re.findall(r'href="(/do/cancel[^"]*)"', shown.text)[0].replace("&amp;", "&")
    done = person.fill(path)
    assert "Cancelled." in words(done) and "by-request" in words(done)
    # And its story has the event
    events = words(done).split("What happened")[1]
    assert "cancelled (by-request) final event 1" in events and "not found" not in events
    unknown = person.get("/messages?id=nobody")
    assert unknown.status_code == 404 and "No message has this id" in words(unknown)


def test_texts_are_in_no_page_before_reveal_and_that_is_on_record(
    person: Person, app: Producer
) -> None:
    app.enqueue(private_job(id="secret-1", priority="low"))
    dead_letter(app, "secret-2")
    pages = [person.get(path, stream=path == "/live") for path in PAGES]
    pages += [person.get(f"/messages?id=secret-{n}") for n in (1, 2)]
    pages += [person.get(f"/do/{do}?id=secret-2") for do in ("reveal", "resend", "drop")]
    live = pages.pop(PAGES.index("/live"))
    said = next(live.iter_content(65536)).decode()
    live.close()
    for text in [said, *(page.text for page in pages)]:
        assert PHONE not in text and TEXT not in text
    before = len(list(audit.entries(app, 1000)))
    shown = person.fill("/do/reveal?id=secret-1")
    assert PHONE in shown.text and TEXT in shown.text and shown.headers["Cache-Control"]
    newest, *rest = audit.entries(app, 1000)
    assert len(rest) == before
    assert newest[1:] == (LOGIN, "127.0.0.1", "reveal", "secret-1", "")
    # And not again without being asked
    assert TEXT not in person.get("/messages?id=secret-1").text
    app.cancel("secret-1")
    app.dead.drop("secret-2")


def test_dead_letters_are_sent_again_and_dropped(person: Person, app: Producer) -> None:
    for n in range(5):
        dead_letter(app, f"d-{n}")
    dead_letter(app, "d-x", metadata={"campaign": HOSTILE})
    listed = person.get("/dead?status=rejected&reason=x-1")
    assert "rejected x-1 6" in words(listed) and "d-4" in words(listed)
    one = person.fill("/do/resend?id=d-0")
    assert (new := re.search(r"Sent again as (\S+)\.", words(one))) and app.get(new[1])
    assert "Dropped" in words(person.fill("/do/drop?id=d-1"))
    gone = person.fill("/do/drop?id=nobody")
    assert gone.status_code == 409 and "Not done" in words(gone)
    slow = person.fill("/do/resend-all?status=rejected&reason=x-1", rate="0")
    assert slow.status_code == 422
    every = person.fill("/do/resend-all?status=rejected&reason=other", rate="5")
    assert "0 sent again, 0 not" in words(every)
    every = person.fill("/do/drop-all?status=rejected&reason=x-1")
    assert "4 dropped." in words(every) and "There are none." in words(every)
    said = [entry[3:] for entry in audit.entries(app, 4)]
    assert said[0] == ("drop", "all dead letters rejected x-1", "")
    assert said[1] == ("resend", "all dead letters rejected other", "5 a second")


def test_the_command_line_is_on_record_too(shell: Courier, app: Producer, person: Person) -> None:
    app.enqueue(text_job("79255550124", id="cli-1", priority="low"))
    shell("pause", "low", "--reason", "night", "--for", "5m")
    shell("resume", "low")
    shell("show", "cli-1", "--reveal")
    shell("find", "79255550124", "--reveal")
    shell("cancel", "cli-1")
    dead_letter(app, "cli-2")
    shell("dead", "show", "cli-2", "--reveal")
    shell("dead", "drop", "cli-2")
    printed = [
        json.loads(line) for line in shell("audit", "--most", "7", "--json").stdout.split("\n")[:-1]
    ]
    assert [(each["what"], each["on"], each["how"]) for each in reversed(printed)] == [
        ("pause", "low", "for 300 s: night"),
        ("resume", "low", ""),
        ("reveal", "cli-1", ""),
        ("reveal", "cli-1", ""),
        ("cancel", "cli-1", ""),
        ("reveal", "cli-2", ""),
        ("drop", "cli-2", ""),
    ]
    assert all(each["who"] and "command line" in each["place"] for each in printed)
    assert "79255550124" not in json.dumps(printed)
    assert "for 300 s: night" in words(person.get("/audit"))
    assert "for 300 s: night" in shell("audit").stdout


def test_the_audit_stream_is_bounded(
    app: Producer, monkeypatch: pytest.MonkeyPatch, namespace: str
) -> None:
    monkeypatch.setattr(audit, "MOST_ENTRIES", 200)
    key, actor = Keys("console").audit, audit.Actor("a", "b")
    old = int(time.time() * 1000) - audit.KEPT_MS - 1000
    app.redis.delete(key)
    app.redis.xadd(key, {"what": "old"}, id=f"{old}-0")
    audit.record(app, actor, "new")
    assert [entry.what for entry in audit.entries(app, 10)] == ["new"]
    for n in range(450):
        audit.record(app, actor, "pause", f"{n}")
    kept = list(audit.entries(app, 10_000))
    assert 200 <= len(kept) <= 300 and kept[0].on == "449"
    assert 0 < app.redis.pttl(key) <= audit.KEPT_MS


# --- a message's story ----------------------------------------------------------------------------


def test_events_are_found_near_instants_of_the_record_and_the_rest_is_told(
    app: Producer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(story, "CHUNK", 50)
    monkeypatch.setattr(story, "NEAR", 100)
    monkeypatch.setattr(story, "BACK", 100)
    keys = Keys("console")
    app.enqueue(private_job(id="story-1", priority="low"))
    assert app.cancel("story-1")
    event: Any = app.redis.xrevrange(keys.results, count=1)[0][1]
    other = {"event": event["event"].replace("story-1", "other-1")}
    # Far behind the newest event, where only the record's instants lead
    with app.redis.pipeline(transaction=False) as pipe:
        for _ in range(1000):
            pipe.xadd(keys.results, other)
        pipe.execute()
    told = story.tell(app, "story-1")
    assert told and [each["data"]["status"] for each in told.events] == ["cancelled"]
    assert told.missing == 0 and told.examined <= 500
    # An event that is gone is told as missing, at a bounded cost
    app.redis.hset(keys.records + "story-1", "n", 2)
    told = story.tell(app, "story-1")
    assert told and (told.missing, len(told.events)) == (1, 1) and told.examined <= 500
    assert story.tell(app, "nobody") is None
    app.redis.xtrim(keys.results, maxlen=0)


# --- live -----------------------------------------------------------------------------------------


def calls(app: Producer) -> int:
    """Commands that Redis has run, but those of this look."""
    stats: Any = app.redis.info("commandstats")
    return sum(each["calls"] for each in stats.values())


@pytest.mark.slow
def test_twenty_open_pages_cost_redis_what_one_does(person: Person, app: Producer) -> None:
    def watch(seconds: float, into: list[int]) -> None:
        with person.get("/live", stream=True) as stream:
            end = time.monotonic() + seconds
            for line in stream.iter_lines():
                into.append(line.startswith(b"data: ") and b'id="time"' in line)
                if time.monotonic() > end:
                    return

    def cost(pages: int, seconds: float) -> tuple[float, int]:
        """Commands for each picture, and pictures that the page had which got the most."""
        seen: list[list[int]] = [[] for _ in range(pages)]
        threads = [threading.Thread(target=watch, args=(seconds, each)) for each in seen]
        before = calls(app)
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        counts = [sum(each) for each in seen]
        assert min(counts) >= 3, counts
        return (calls(app) - before) / max(counts), max(counts)

    before = calls(app)
    for _ in range(10):
        take_look(app.redis, "console")
    scrape = (calls(app) - before) / 10
    wait_for(lambda: "Alerts" in words(person.get("/")), 30)
    one, _ = cost(1, 6)
    twenty, pictures = cost(20, 6)
    assert pictures <= 9, "more than a look a second"
    assert twenty <= 1.5 * one + 2 and twenty <= 4 * scrape, (one, twenty, scrape)
    metrics = requests.get(f"{person.url}/metrics", timeout=10).text
    assert "courier_console_live_pages" in metrics


def test_a_live_page_ends_with_its_session(console: Console, person: Person) -> None:
    with person.get("/live", stream=True) as stream:
        lines = stream.iter_lines()
        assert next(lines).startswith(b"data:")
        person.post("/logout", {"token": inputs(person.get("/").text)["token"]})
        began = time.monotonic()
        assert all(b"79255" not in line for line in lines)
        assert time.monotonic() - began < 20
    assert person.get("/live").status_code == 401


@pytest.mark.slow
def test_redis_away_is_said_and_the_page_stays(tmp_path: Path, redis_server: RedisServer) -> None:
    away = Console(tmp_path, {"COURIER_REDIS_URL": "redis://127.0.0.1:1/0", **USER})
    try:
        someone = Person(away.url)
        shown = someone.log_in()
        assert shown.status_code == 200 and "Redis can't be used now" in words(shown)
        assert someone.get("/audit").status_code == 503
        done = someone.fill("/do/pause?lane=low")
        assert done.status_code == 503 and "Redis can't be used now" in words(done)
        assert "Traceback" not in away.log
    finally:
        away.close()


# --- logins ---------------------------------------------------------------------------------------


def test_nothing_is_shown_without_a_login(console: Console) -> None:
    nobody = Person(console.url)
    for path in PAGES:
        answer = nobody.get(path, allow_redirects=False)
        assert answer.status_code in (303, 401) and "low" not in answer.text, path
    wrong = nobody.log_in(password="Zq7-console-p4sS")
    assert wrong.status_code == 403 and "Wrong name or password" in words(wrong)
    assert nobody.log_in("nobody").status_code == 403
    assert nobody.get("/", allow_redirects=False).status_code == 303
    # It leads back to the page that was asked for, and to no other site
    asked = nobody.get("/messages?id=a%20b")
    assert "/login?next=" in asked.url
    after = nobody.post("/login", {**inputs(asked.text), "name": LOGIN, "password": PASSWORD})
    assert after.url == f"{console.url}/messages?id=a%20b"
    for elsewhere in ("//evil.example/", "https://evil.example/", "/\\evil.example", "/\nx: y"):
        sent = Person(console.url)
        token = inputs(sent.get("/login").text)["token"]
        given = {"token": token, "name": LOGIN, "password": PASSWORD, "next": elsewhere}
        answer = sent.post("/login", given, allow_redirects=False)
        assert answer.headers["Location"] == "/", elsewhere


def test_the_cookie_is_kept_from_scripts_and_other_sites(
    console: Console, tmp_path: Path, env: dict[str, str]
) -> None:
    someone = Person(console.url)
    set_by = someone.get("/login").headers["Set-Cookie"]
    first = someone.session.cookies[f"courier-console-{console.port}"]
    assert "HttpOnly" in set_by and "SameSite=Strict" in set_by and "Secure" not in set_by
    someone.log_in()
    assert someone.session.cookies[f"courier-console-{console.port}"] != first, (
        "a session fixed before the login"
    )
    proxied = requests.get(
        f"{console.url}/login", headers={"X-Forwarded-Proto": "https"}, timeout=10
    )
    assert "Secure" in proxied.headers["Set-Cookie"]
    authority = Authority(tmp_path)
    pair = ("--cert", authority.certificate, "--key", authority.key)
    safe = Console(tmp_path, {**env, **USER}, *pair)
    try:
        answer = requests.get(f"{safe.url}/login", verify=authority.ca, timeout=10)
        assert safe.url.startswith("https://") and "Secure" in answer.headers["Set-Cookie"]
    finally:
        safe.close()


def test_a_session_ends_where_it_is_ended_and_none_can_be_forged(
    console: Console, person: Person
) -> None:
    cookie = person.session.cookies[f"courier-console-{console.port}"]
    nonce, _, mark = cookie.partition(".")

    def is_in(value: str) -> bool:
        headers = {"Cookie": f"courier-console-{console.port}={value}"}
        answer = requests.get(console.url, headers=headers, timeout=10, allow_redirects=False)
        return answer.status_code == 200

    assert is_in(cookie)
    flipped = mark[:-1] + ("0" if mark[-1] != "0" else "1")
    forged = (f"{nonce}.{flipped}", nonce, f"{nonce}.", f".{mark}", f"x{nonce}.{mark}", "ü.é", "")
    for value in forged:
        assert not is_in(value.encode().decode("latin-1")), value
    person.post("/logout", {"token": inputs(person.get("/").text)["token"]})
    assert not is_in(cookie), "the cookie of a session that was ended"


def test_sessions_end_by_themselves_and_are_bounded() -> None:
    now = [1000.0]
    sessions = Sessions(lambda: now[0])
    cookie = sessions.cookie(sessions.start("a"))

    def who() -> str:
        found = sessions.find(cookie)
        return found.who if found else "?"

    for _ in range(int(LONGEST_SECONDS / IDLE_SECONDS)):
        now[0] += IDLE_SECONDS - 5
        assert who() == "a"
    now[0] += IDLE_SECONDS - 5
    assert who() == "", "used all the time, and too old"
    cookie = sessions.cookie(sessions.start("a"))
    now[0] += IDLE_SECONDS + 1
    assert who() == "", "not used"
    cookie = sessions.cookie(sessions.start("a"))
    for _ in range(1000):
        sessions.start("b")
    assert who() == "" and len(sessions._live) == 1000
    assert Sessions().find(cookie) is None, "of a process before this one"


@pytest.mark.slow
def test_trying_passwords_is_slowed_for_an_address_and_for_all(
    tmp_path: Path, env: dict[str, str]
) -> None:
    made = Console(tmp_path, {**env, **USER}, "--trust-proxy")

    def attempt(address: str, password: str = "wrong") -> requests.Response:
        someone = Person(made.url, {"X-Forwarded-For": f"6.6.6.6, {address}"})
        return someone.log_in(password=password)

    try:
        # Many at once from one address: few get an answer
        with ThreadPoolExecutor(10) as pool:
            statuses = list(pool.map(lambda _: attempt("192.0.2.7").status_code, range(20)))
        assert statuses.count(403) <= accounts.FREE_TRIES + 4, statuses
        # And each further wrong one makes it wait twice as long, the right one, too
        wait_for(lambda: int(attempt("192.0.2.7").headers.get("Retry-After", 0)) >= 6, 60)
        late = attempt("192.0.2.7", PASSWORD)
        assert late.status_code == 429 and "Too many wrong passwords" in words(late)
        # And nobody else is kept out
        assert attempt("192.0.2.8", PASSWORD).status_code == 200
        metrics = requests.get(f"{made.url}/metrics", timeout=10).text
        refused = re.search(r"(?m)^courier_console_logins_refused_total (\S+)", metrics)
        assert refused and float(refused[1]) >= 20
        assert "login refused" in made.log and "wrong" not in made.log
        assert PASSWORD not in made.log
    finally:
        made.close()


def test_the_brake_is_bounded_in_memory_and_forgets() -> None:
    now = [0.0]
    brake = Brake(lambda: now[0])
    for n in range(accounts.FREE_TRIES + 30):
        brake.count("192.0.2.1")
        now[0] += 60  # all together are slow
        if n < accounts.FREE_TRIES - 1:
            assert brake.wait("192.0.2.1") == 0
    assert 200 < brake.wait("192.0.2.1") <= accounts.WAIT_MOST
    now[0] += accounts.WAIT_MOST
    assert brake.wait("192.0.2.1") == 0
    brake.forget("192.0.2.1")
    assert brake.wait("192.0.2.1") == 0
    # One customer's 64 bits of addresses count as one
    for n in range(accounts.FREE_TRIES):
        brake.count(f"2001:db8::{n + 1:x}")
    assert brake.wait("2001:db8::ffff") > 0 and brake.wait("2001:db8:0:1::1") == 0
    # Ever new addresses: all together are slowed, and remembered at a bound
    for n in range(accounts.ADDRESSES + 500):
        brake.count(f"10.0.{n // 250}.{n % 250}")
    assert len(brake._tries) == accounts.ADDRESSES
    assert brake.wait("172.16.0.1") > 60


def test_tries_from_many_addresses_do_not_lock_out_who_was_in_before() -> None:
    now = [0.0]
    brake = Brake(lambda: now[0])
    brake.count("192.0.2.1")
    brake.forget("192.0.2.1")
    for n in range(200):
        brake.count(f"10.0.0.{n}")
    assert brake.wait("192.0.2.2") > 60, "somebody new waits with all others"
    assert brake.wait("192.0.2.1") == 0
    # But a proven address has no more tries than others
    for _ in range(accounts.FREE_TRIES):
        brake.count("192.0.2.1")
    assert brake.wait("192.0.2.1") > 0
    for n in range(accounts.ADDRESSES + 10):
        brake.forget(f"10.1.{n // 250}.{n % 250}")
    assert len(brake._proven) == accounts.ADDRESSES


def test_the_address_is_what_the_proxy_said_last(tmp_path: Path, env: dict[str, str]) -> None:
    made = Console(tmp_path, {**env, **USER}, "--trust-proxy")
    try:
        for lines, address in (
            # haproxy adds a line of its own behind the client's
            (("6.6.6.6", "192.0.2.7"), "192.0.2.7"),
            (("6.6.6.6, 192.0.2.8:4711",), "192.0.2.8"),
            (("6.6.6.6, [2001:db8::1]:4711",), "2001:db8::1"),
            (("::ffff:192.0.2.9",), "192.0.2.9"),
            (("anna, command line",), "127.0.0.1"),
        ):
            page = requests.get(f"{made.url}/login", timeout=10)
            body = urlencode({**inputs(page.text), "name": "x", "password": "wrong"})
            client = HTTPConnection("127.0.0.1", made.port, timeout=10)
            client.putrequest("POST", "/login")
            for name, text in (
                ("Origin", made.url),
                ("Cookie", page.headers["Set-Cookie"].partition(";")[0]),
                ("Content-Type", "application/x-www-form-urlencoded"),
                ("Content-Length", str(len(body))),
                *(("X-Forwarded-For", line) for line in lines),
            ):
                client.putheader(name, text)
            client.endheaders(body.encode())
            assert client.getresponse().status == 403
            client.close()
            refused = json.loads(made.log.splitlines()[-1])
            assert (refused["text"], refused["address"]) == ("login refused", address)
    finally:
        made.close()


def test_a_file_of_users(tmp_path: Path, courier: Courier) -> None:
    said = courier("console", "--new-user", "anna").output.splitlines()
    password, line = (each.split()[-1] for each in said)
    other, more = new_user("boris")
    users = tmp_path / "users"
    users.write_text(f"{line}\n{more}\n")
    known = Accounts.from_env({"COURIER_CONSOLE_USERS": str(users), **USER})
    assert known is not None and password not in users.read_text()
    assert known.is_right("anna", password) and known.is_right("boris", other)
    assert known.is_right(LOGIN, PASSWORD)
    for name, given in (("anna", other), ("carl", password), ("", ""), ("anna", "\udcff")):
        assert not known.is_right(name, given)
    for text in ("", "anna:1:2", f"{line}\nanna", f"{line}\n{line}"):
        users.write_text(text)
        with pytest.raises(ConfigError, match="name:salt:hash"):
            Accounts.from_env({"COURIER_CONSOLE_USERS": str(users)})
    with pytest.raises(ConfigError, match="must be a file"):
        Accounts.from_env({"COURIER_CONSOLE_USERS": str(tmp_path / "none")})
    assert Accounts.from_env({}) is None


def test_unknown_names_take_as_long_as_known_ones() -> None:
    known = Accounts.from_env(USER)
    assert known is not None

    def seconds(name: str) -> float:
        began = time.process_time()
        for _ in range(5):
            known.is_right(name, "wrong")
        return time.process_time() - began

    seconds(LOGIN)
    ratio = seconds("nobody") / seconds(LOGIN)
    assert 0.4 < ratio < 2.5, ratio


# --- without logins -------------------------------------------------------------------------------


@pytest.mark.slow
def test_without_logins_it_is_for_this_machine_only(
    courier: Courier, tmp_path: Path, env: dict[str, str]
) -> None:
    for host in ("0.0.0.0", "::", "192.0.2.1"):
        said = courier("console", "--host", host, "--port", "0", code=2).stderr
        assert "beyond loopback it needs COURIER_CONSOLE_LOGIN" in said
    half = {"COURIER_CONSOLE_LOGIN": LOGIN}
    assert "COURIER_CONSOLE_LOGIN must be" in courier("console", code=2, **half).stderr
    made = Console(tmp_path, env)
    try:
        someone = Person(made.url)
        assert "Lanes" in words(someone.get("/"))
        # A name of another site that leads here (DNS rebinding)
        for path in ("/", "/live", "/metrics"):
            answer = someone.get(path, headers={"Host": "evil.example"})
            assert answer.status_code == 403 and "Lanes" not in answer.text
        # Its forms have tokens all the same
        assert someone.post("/do/pause?lane=low", {"lane": "low"}).status_code == 403
        assert "Paused low." in words(someone.fill("/do/pause?lane=low"))
        someone.fill("/do/resume?lane=low")
    finally:
        made.close()


# --- attacks --------------------------------------------------------------------------------------


def test_every_answer_forbids_what_it_does_not_need(console: Console, person: Person) -> None:
    paths = (*PAGES, "/login", "/none", "/static/console.js", "/static/../server.py", "/healthz")
    for path in paths:
        with person.get(path, stream=True) as answer:
            given = answer.headers
        assert given["Content-Security-Policy"] == (
            "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
            "connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
        ), path
        assert given["X-Frame-Options"] == "DENY", path
        assert given["X-Content-Type-Options"] == "nosniff", path
        assert given["Cache-Control"] == "no-store", path
        assert given["Referrer-Policy"] == "same-origin", path
    for path in PAGES[:-1]:
        text = person.get(path).text
        assert "style=" not in text and "onclick" not in text and "<script>" not in text
        assert not re.search(r"(?:src|href)=\"(?:https?:)?//", text)


@pytest.mark.parametrize("origin", ["http://evil.example", "null", "", "http://127.0.0.1:1"])
def test_a_form_of_another_site_does_nothing(person: Person, app: Producer, origin: str) -> None:
    token = inputs(person.get("/do/pause?lane=low").text)["token"]
    data = {"token": token, "lane": "low", "reason": "x", "for": ""}
    for path in ("/do/pause", "/logout"):
        answer = person.post(path, data, headers={"Origin": origin})
        assert answer.status_code == 403 and "another site" in words(answer)
    assert not app.redis.exists(Keys("console").paused("low"))
    assert person.get("/", allow_redirects=False).status_code == 200


def test_a_form_without_its_token_does_nothing(
    console: Console, person: Person, app: Producer
) -> None:
    other = console.person()
    theirs = inputs(other.get("/do/pause?lane=low").text)["token"]
    for token in ("", "x", theirs, "ü"):
        data = {"token": token, "lane": "low", "reason": "x", "for": ""}
        answer = person.post("/do/pause", data)
        assert answer.status_code == 403 and "too old" in words(answer), token
    assert person.get("/do/pause?lane=low&token=" + theirs).status_code == 200
    assert not app.redis.exists(Keys("console").paused("low"))
    for method in ("PUT", "DELETE", "OPTIONS", "TRACE"):
        answer = person.session.request(method, f"{person.url}/do/pause?lane=low", timeout=10)
        assert answer.status_code == 405
    # A login is a form, too: nobody can be logged in as somebody else
    stranger = Person(console.url)
    given = {"name": LOGIN, "password": PASSWORD, "token": theirs}
    assert stranger.post("/login", given).status_code == 403


def test_odd_requests_get_a_page_and_no_traceback(console: Console, person: Person) -> None:
    token = inputs(person.get("/do/pause?lane=low").text)["token"]
    large = person.post("/do/pause", {"token": token, "lane": "low", "reason": "x" * 100_000})
    assert large.status_code == 413
    for data in ({"lane": "low", "reason": "x" * 500}, {"lane": "low", "reason": "a\x00b"}, {}):
        answer = person.post("/do/pause", {"token": token, **data})
        assert answer.status_code == 422 and "Not done" in words(answer)
    for path in (
        "/messages?id=%00",
        "/messages?id=%ff",
        "/messages?id=" + "a" * 3000,
        "/dead?status=%00",
    ):
        assert person.get(path).status_code in (200, 404), path
    files = {"token": (None, token), "lane": ("low", b"low"), "reason": ("a", b"b")}
    answer = person.session.post(
        f"{person.url}/do/pause", files=files, headers={"Origin": person.url}, timeout=10
    )
    assert answer.status_code == 415
    assert "request failed" not in console.log


FORM = "application/x-www-form-urlencoded"


@pytest.mark.parametrize(
    ("status", "headers", "body"),
    [
        (400, {"Content-Type": f"{FORM}; charset=none-such"}, b"token=x"),
        (400, {"Content-Type": f"{FORM}; charset=unicode_escape"}, b"token=\\ud8"),
        (403, {"Content-Type": f"{FORM}; charset=unicode_escape"}, b"token=\\ud800"),
        (400, {"Content-Type": FORM}, b"token=\xff\xfe"),
        (400, {"Content-Type": FORM, "Content-Encoding": "gzip"}, b"token=x"),
        (415, {"Content-Type": "multipart/form-data"}, b"x"),
        (415, {"Content-Type": "multipart/form-data; boundary=x"}, b"--x\r\nA: b\r\n\r\n--y"),
        (403, {"Content-Type": FORM, "Cookie": b"courier-console-%d=abc.\xff\xfe"}, b"token=x"),
        (403, {"Content-Type": FORM, "Origin": "http://[::1"}, b"token=x"),
    ],
)
def test_a_stranger_s_garbage_is_no_error_of_ours(
    console: Console, status: int, headers: dict[str, Any], body: bytes
) -> None:
    # Each of them cost a line at level ERROR, as a bug of ours would
    if "Cookie" in headers:
        headers = {**headers, "Cookie": headers["Cookie"] % console.port}
    given = {"Origin": console.url, **headers}
    answer = requests.post(f"{console.url}/login", data=body, headers=given, timeout=20)
    assert answer.status_code == status, words(answer)
    assert "request failed" not in console.log


def test_a_form_that_is_sent_twice_acts_once_and_says_the_same(
    person: Person, app: Producer
) -> None:
    # Given a page of a form, whose button is clicked twice at once
    given = inputs(person.get("/do/pause?lane=high").text)
    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(lambda _: person.post("/do/pause", given), range(4)))
    assert all(answer.url == person.url + "/" for answer in answers)
    pauses = [e for e in audit.entries(app, 50) if (e.what, e.on) == ("pause", "high")]
    assert len(pauses) == 1
    # And a second person's resume is not undone by a reload of the first's
    person.fill("/do/resume?lane=high")
    person.post("/do/pause", given)
    assert not app.redis.exists(Keys("console").paused("high"))
    # But whoever opens the form anew means it
    person.fill("/do/pause?lane=high")
    assert app.redis.exists(Keys("console").paused("high"))
    person.fill("/do/resume?lane=high")
    # A letter that was sent again by the first click is not called unknown by the second
    dead_letter(app, "twice-1")
    given = inputs(person.get("/do/resend?id=twice-1").text)
    said = [words(person.post("/do/resend", given)) for _ in range(2)]
    assert all("Sent again as" in each for each in said)
    # Each look at a text is on record
    given = inputs(person.get("/do/reveal?id=twice-1").text)
    for _ in range(2):
        person.post("/do/reveal", given)
    assert [e.what for e in audit.entries(app, 2)] == ["reveal", "reveal"]


def test_what_was_done_is_not_said_to_a_page_that_only_renews_its_figures(person: Person) -> None:
    given = inputs(person.get("/do/resume?lane=low").text)
    person.post("/do/resume", given, allow_redirects=False)
    # Another tab is faster than the browser that follows the redirection
    other = person.get("/campaigns", headers={"X-Refresh": "1"})
    assert "was not paused" not in words(other)
    assert "low was not paused." in words(person.get("/"))


def test_characters_that_hide_or_turn_others_around_are_shown(
    person: Person, app: Producer, shell: Courier
) -> None:
    shell("pause", "low", "--reason", "safe \u202eegnahc\u2066 \u200b!")
    try:
        shown = person.get("/").text + person.get("/audit").text
        assert "safe \\u202eegnahc\\u2066 \\u200b!" in shown
        assert not re.search("[\u202a-\u202e\u2066-\u2069\u200b]", shown)
    finally:
        shell("resume", "low")


def test_who_acts_is_not_what_the_environment_says(shell: Courier, app: Producer) -> None:
    shell("resume", "low", LOGNAME="anna", USER="anna")
    assert next(audit.entries(app, 1)).who == pwd.getpwuid(os.getuid()).pw_name


@pytest.mark.slow
def test_two_consoles_on_one_host_do_not_end_each_other_s_sessions(
    tmp_path: Path, person: Person, env: dict[str, str]
) -> None:
    other = Console(tmp_path, {**env, **USER})
    try:
        # A browser sends its cookies to all ports of a host
        elsewhere = Person(other.url)
        elsewhere.session = person.session
        elsewhere.log_in()
        for each in (person, elsewhere):
            assert each.get("/", allow_redirects=False).status_code == 200
    finally:
        other.close()


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["live", "body", "answer"])
def test_it_ends_within_five_seconds_whoever_is_connected(
    tmp_path: Path, env: dict[str, str], kind: str
) -> None:
    made = Console(tmp_path, {**env, **USER})
    host = f"HTTP/1.1\r\nHost: 127.0.0.1:{made.port}\r\n"
    with ExitStack() as stack:
        stack.callback(made.close)
        someone = made.person()
        cookie = "; ".join(f"{each.name}={each.value}" for each in someone.session.cookies)
        request = {
            "live": f"GET /live {host}Cookie: {cookie}\r\n\r\n",
            "body": f"POST /login {host}Origin: {made.url}\r\nContent-Type: {FORM}\r\n"
            "Content-Length: 99\r\n\r\na=",
            "answer": f"GET /login {host}\r\n" * 5000,  # and none of the answers is read
        }[kind]
        for _ in range(10):
            client = stack.enter_context(socket.create_connection(("127.0.0.1", made.port)))
            client.settimeout(1.0)
            with suppress(TimeoutError):
                client.sendall(request.encode())
        if kind == "live":
            metric = "courier_console_live_pages 10.0"
            wait_for(lambda: metric in requests.get(f"{made.url}/metrics", timeout=10).text)
        began = time.monotonic()
        made.process.terminate()
        made.process.wait(20)
        assert time.monotonic() - began < 5 and made.process.returncode == 0


# --- what it needs --------------------------------------------------------------------------------


@pytest.mark.slow
def test_its_redis_user_needs_what_the_command_line_needs(
    redis_server: RedisServer, namespace: str, tmp_path: Path
) -> None:
    users = Users(redis_server, namespace)
    plain = {"COURIER_REDIS_URL": redis_server.url, "COURIER_NAMESPACE": namespace}
    given = {**plain, "COURIER_REDIS_URL": users.make("courier-cli")}
    made = Console(tmp_path, {**given, **USER})
    try:
        with closing(Producer.from_env(plain)) as app:
            app.enqueue(private_job(id="acl-1", priority="low"))
            someone = Person(made.url)
            assert "Redis answers" in words(someone.log_in()) or "No sweep" in words(
                someone.get("/")
            )
            assert "low runs 1" in words(someone.get("/"))
            assert TEXT in someone.fill("/do/reveal?id=acl-1").text
            assert "Cancelled." in words(someone.fill("/do/cancel?id=acl-1"))
            assert "event 1" in words(someone.get("/messages?id=acl-1"))
            assert "Paused low." in words(someone.fill("/do/pause?lane=low"))
            assert "Resumed low." in words(someone.fill("/do/resume?lane=low"))
            assert "There are none." in words(someone.get("/dead"))
            assert "0 dropped." in words(someone.fill("/do/drop-all?status=&reason="))
            assert "cancel acl-1" in words(someone.get("/audit"))
            wait_for(lambda: "none answers" in words(someone.get("/")), 30)
            assert "refuses" not in words(someone.get("/"))
    finally:
        made.close()
        users.close()


def test_a_look_that_fails_is_said_and_the_next_one_is_tried(app: Producer) -> None:
    broken = [True]

    async def run(function: Any, *args: Any) -> Any:
        if broken[0]:
            raise ValueError("unexpected")
        return function(*args)

    async def main() -> list[str]:
        watch = Watch(app, run)
        number, first = await watch.next()
        broken[0] = False
        _, second = await watch.next(number)
        await watch.close()
        return [first.fault, second.fault]

    assert asyncio.run(main()) == ["The look at Redis failed: ValueError", ""]


@pytest.mark.slow
def test_pages_that_ask_for_the_same_picture_get_the_same(app: Producer) -> None:
    async def main() -> dict[int, Picture]:
        watch, seen = Watch(app, asyncio.to_thread), dict[int, Picture]()
        end = time.monotonic() + 30
        while not (seen and seen[max(seen)].checked) and time.monotonic() < end:
            number, picture = await watch.next()
            # Also while doctor's checks come to an end
            assert seen.setdefault(number, picture) == picture
            await asyncio.sleep(0.02)
        await watch.close()
        return seen

    seen = asyncio.run(main())
    assert len(seen) > 1 and seen[min(seen)].alerts != seen[max(seen)].alerts

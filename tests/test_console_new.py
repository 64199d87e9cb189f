"""Campaigns that are begun in the console: the form, the dry run, the add, and what goes wrong."""

from __future__ import annotations

import io
import os
import re
import shutil
import socket
import time
import zipfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, suppress
from pathlib import Path
from typing import Any

import openpyxl
import pytest
import requests

from tests.conftest import common_job, wait_for
from tests.console import LOGIN, USER, Console, Person, app, discreet, inputs, person, words
from viber_courier import Producer
from viber_courier.ops.console import audit, drafts, upload
from viber_courier.ops.console.bulk import common_of, plain
from viber_courier.ops.console.drafts import Drafts
from viber_courier.ops.redis_server import RedisServer
from viber_courier.ops.up import free_port
from viber_courier.store.keys import Keys

__all__ = ["app", "person"]

TEXT = "Привет, {Имя}! Скидка {Скидка} %"
FIELDS = {"subject": "Shop", "text": TEXT, "template": "yes", "paused": "yes", "hours": "24"}
FIELDS |= {"priority": "low", "column": "Телефон", "country": "RU", "zone": "recipient"}
NAMES = ("Ольга", "Иван", "Мария")
NESTED = "--x\r\nContent-Type: multipart/mixed; boundary=z\r\n\r\n--z--\r\n--x--"
EVIL = "<img src=x onerror=alert(1)>\u202exslx.csv"


@pytest.fixture(scope="module")
def env(redis_server: RedisServer) -> dict[str, str]:
    place = {"COURIER_REDIS_URL": redis_server.url, "COURIER_NAMESPACE": "console-new"}
    return {**place, "COURIER_SUPPRESSION_KEY": "a key of sixteen characters"}


@pytest.fixture(scope="module")
def console(tmp_path_factory: pytest.TempPathFactory, env: dict[str, str]) -> Iterator[Console]:
    folder = tmp_path_factory.mktemp("console")
    with discreet(folder, {**env, "TMPDIR": str(folder)}, "Ольга", "925000") as made:
        yield made
    assert not list(folder.glob("courier-console-*")), "lists are left on disk"


def workbook(rows: int) -> bytes:
    """A marketing team's list: the phone, a name in Cyrillic, a number, and what nobody needs."""
    book = openpyxl.Workbook()
    sheet: Any = book.active
    sheet.append(["Телефон", "Имя", "Скидка", "Менеджер"])
    for n in range(rows):
        sheet.append([f"8 (925) 000-{n // 100:02}-{n % 100:02}", NAMES[n % 3], 5 + n % 20, "Анна"])
    file = io.BytesIO()
    book.save(file)
    return file.getvalue()


def send(person: Person, list: Any, called: str = "list.xlsx", **given: str) -> requests.Response:
    """Fill the form of a new campaign, and send it with a list."""
    page = person.get("/new-campaign")
    hidden = {key: inputs(page.text)[key] for key in ("token", "draft")}
    fields = {**hidden, **FIELDS, **given}
    files = {"list": (called, list)} if list is not None else {"list": ("", b"")}
    parts = [(key, (None, value)) for key, value in fields.items()]
    return person.session.post(
        f"{person.url}/new-campaign",
        files=[*parts, *files.items()],
        headers={"Origin": person.url},
        timeout=60,
    )


def looked(person: Person, sent: requests.Response) -> requests.Response:
    """The page of a dry run that has ended."""
    assert sent.status_code == 200, words(sent)
    path = sent.url.removeprefix(person.url)
    wait_for(lambda: "is being looked through" not in person.get(path).text, 300)
    return person.get(path)


def press_start(person: Person, page: requests.Response) -> requests.Response:
    path = re.findall(r'href="(/do/start-campaign[^"]*)"', page.text)[0].replace("&amp;", "&")
    return person.fill(path)


def added(person: Person, name: str) -> str:
    """What a campaign's page says once its list is added."""
    path = f"/campaigns/{name}"

    def has_ended() -> bool:
        said = words(person.get(path))
        return any(each in said for each in ("The list is added", "Stopped", "It failed"))

    wait_for(has_ended, 300)
    return words(person.get(path))


def entries(app: Producer, name: str) -> list[tuple[str, ...]]:
    """The audit stream's entries of a campaign, the oldest first."""
    found = [entry for entry in audit.entries(app, 1000) if entry.on == name]
    return [(entry.who, entry.what, entry.how) for entry in reversed(found)]


@pytest.mark.slow
def test_a_list_is_looked_through_revealed_started_and_added(person: Person, app: Producer) -> None:
    assert "/new-campaign" in person.get("/campaigns").text
    app.suppressions.add("79250000001", "asked us")
    book = openpyxl.load_workbook(io.BytesIO(workbook(30)))
    sheet: Any = book.active
    sheet.append(["8 (925) 000-00-00", "Ольга", 5])
    sheet.append(["12345", "Иван", 5])
    sheet.append(["+7 701 000 00 01", "", 5])
    sheet.append(["+7 701 000 00 02", "Айгуль", 5])
    file = io.BytesIO()
    book.save(file)
    given = {"price": "4.50", "resendSms": "yes", "rate": "50", "from": "09:00", "to": "21:00"}
    page = looked(person, send(person, file.getvalue(), name="nov-sale", **given))
    said = words(page)
    assert "Rows 34 Messages 31 Refused rows 2 Rows that repeat a number 1" in said
    assert "suppressed numbers, not sent 1" in said
    assert "SMS segments 30; they cost 135.00 at 4.50 each" in said
    assert "09:00 to 21:00, each recipient’s own time" in said
    assert 'data-country="KZ"' in page.text
    assert "its country has no such numbers 33 1" in said
    assert "Text has no value for {Имя} 34 1" in said
    # No number and no name before it is asked for, and that is on record
    assert "Ольга" not in said and "7925" not in said
    shown = person.fill(re.findall(r'href="(/do/reveal-list[^"]*)"', page.text)[0])
    assert "Привет, Ольга! Скидка 5 %" in words(shown) and "7925***00" in words(shown)
    assert entries(app, "nov-sale") == [(LOGIN, "reveal", "a dry run's first messages")]
    # The rows to mend, which is on record, too
    link = r'href="(/new-campaign/[^"]*refused.csv)"'
    (place,) = re.findall(link, page.text)
    rows = person.get(place)
    assert rows.headers["Content-Type"] == "text/csv"
    assert "attachment" in rows.headers["Content-Disposition"]
    first = rows.content.decode("utf-8-sig").splitlines()
    assert [line.split(";")[0] for line in first] == ["Телефон", "12345", "+7 701 000 00 01"]
    assert entries(app, "nov-sale")[-1] == (LOGIN, "reveal", "rows that were refused")
    # Nothing is stored yet
    assert app.campaign("nov-sale").progress().state == "unknown"
    begun = press_start(person, page)
    assert begun.url.endswith("/campaigns/nov-sale") and "Started" in words(begun)
    text = "The list is added: 31 messages stored, 2 refused, 1 repeated, 1 to suppressed numbers"
    assert text in added(person, "nov-sale")
    progress = app.campaign("nov-sale").progress()
    assert (progress.state, progress.reason) == ("paused", "waits for a last look")
    assert (progress.added, progress.rate) == (31, 50)
    begin, end = entries(app, "nov-sale")[2:]
    assert begin == (LOGIN, "add list", "31 messages, paused at first, 50 a second")
    assert end[:2] == (LOGIN, "added list") and text in end[2]
    # The same rows are refused
    (place,) = re.findall(link, person.get(begun.url[len(person.url) :]).text)
    assert person.get(place).content == rows.content
    assert entries(app, "nov-sale")[-1] == (LOGIN, "reveal", "rows that were refused")
    # The same list again stores nothing twice
    again = looked(person, send(person, file.getvalue(), name="nov-sale", **given))
    assert "has 31 messages since" in words(again) and "this list is added to it" in words(again)
    press_start(person, again)
    assert "0 messages stored, 31 were there before" in added(person, "nov-sale")
    assert app.campaign("nov-sale").progress().added == 31


@pytest.mark.slow
def test_what_is_wrong_is_said_and_the_list_is_kept(person: Person, app: Producer) -> None:
    for name, given, fault in (
        ("no name", {"name": "два слова"}, "Name: 1 to 64"),
        ("a name of no page", {"name": ".."}, "Name: 1 to 64"),
        ("no sender", {"subject": ""}, "Sender: 1 to 11"),
        ("hours", {"hours": "0"}, "Hours: a whole number"),
        ("rate", {"rate": "fast"}, "Own rate"),
        ("no rate", {"rate": "0.0"}, "Own rate"),
        ("price", {"price": "-1"}, "Price of an SMS segment"),
    ):
        sent = send(person, workbook(1), **{"name": "wrong", **given})
        assert sent.status_code == 422 and fault in words(sent), name
        assert "list.xlsx is kept" in words(sent)
        assert TEXT in words(sent), "what was typed is kept"
    assert "List: choose a file" in words(send(person, None, name="wrong"))
    # Given a text that no provider takes, the dry run says so in the form's own words
    page = looked(person, send(person, workbook(3), name="wrong", text="x" * 1001))
    assert "Text must have 1 to 1000 characters" in words(page) and "--" not in words(page)
    draft = re.findall(r'href="/new-campaign\?draft=([^"]*)"', page.text)[0]
    form = person.get(f"/new-campaign?draft={draft}")
    assert inputs(form.text)["name"] == "wrong"
    # The same list is used when the text is mended
    mended = looked(person, send(person, None, name="wrong", draft=draft))
    assert "Rows 3 Messages 3" in words(mended)
    picture = {"imageUrl": "https://example.com/a.png"}
    page = looked(person, send(person, None, name="wrong", draft=draft, **picture))
    assert "Button’s link is required; Button’s caption is required 2 3" in words(page)
    # What was looked through before the form was changed can't be started any more
    page = looked(person, send(person, None, name="wrong", draft=draft))
    assert "Hours" in words(send(person, None, name="wrong", draft=draft, hours="0", text="Other"))
    refused = press_start(person, page)
    assert refused.status_code == 422 and "started already, or can" in words(refused)
    assert app.campaign("wrong").progress().state == "unknown"
    again = person.get(f"/new-campaign/{draft}")
    assert "has not been looked through as the form is now" in words(again)
    # A cancelled campaign takes no more
    app.campaign("gone", common=common_job()).add([{"address": "79250000009"}])
    app.campaign("gone").cancel()
    page = looked(person, send(person, workbook(2), name="gone"))
    assert "was cancelled, and takes no more" in words(page)
    refused = press_start(person, page)
    assert refused.status_code == 409 and "cancelled" in words(refused)
    # and nobody is told that its list was broken off
    said = "The latest add did not begin, and has stored nothing."
    assert said in words(person.get("/campaigns/gone"))
    assert entries(app, "gone")[-1] == (LOGIN, "added list", said)
    # Of an add that has stopped, the draft doesn't say that nothing was stored
    page = looked(person, send(person, workbook(2), name="gone", paused=""))
    press_start(person, page)
    assert "Stopped. Campaign 'gone' was cancelled" in added(person, "gone")
    assert "Nothing is stored yet" not in words(person.get(page.url[len(person.url) :]))
    # Days without hours are not left out in silence
    page = looked(person, send(person, workbook(2), name="wrong", days="mon"))
    assert "From is required" in words(page)


@pytest.mark.parametrize(
    ("list", "fault"),
    [
        (b"", "List: choose a file"),
        (b"%PDF-1.4 ...", "The file is a PDF"),
        (b"PK\x03\x04 and no more", "damaged .xlsx"),
        (b"\x89PNG\r\n", "an image"),
        ("Имя\nОльга\n".encode(), "no column is a field"),
        (b"\0" * 1000, "file is empty"),
    ],
    ids=["empty", "pdf", "zip", "png", "no phones", "zeros"],
)
def test_files_that_are_no_list(person: Person, list: bytes, fault: str) -> None:
    sent = send(person, list, name="odd")
    page = sent if sent.status_code == 422 else looked(person, sent)
    assert fault.casefold() in words(page).casefold(), words(page)


@pytest.mark.slow
def test_a_file_may_have_any_name(person: Person) -> None:
    rows = "Телефон;Имя;Скидка\n+79250000000;<b>Ольга</b>;5\n".encode()
    page = looked(person, send(person, rows, EVIL, name="any-name"))
    assert "<img src=x" not in page.text and "\u202e" not in page.text and "\\u202e" in page.text
    assert "Messages 1" in words(page)
    # Bytes that are no text
    token = inputs(person.get("/new-campaign").text)["token"]
    fields = {"token": token, **FIELDS, "name": "any-name"}
    head = '--x\r\nContent-Disposition: form-data; name="{}"'
    body = "".join(f"{head.format(name)}\r\n\r\n{text}\r\n" for name, text in fields.items())
    part = head.format("list").encode() + b'; filename="\xcf\xf0.csv"\r\n\r\n' + rows
    kind = {"Origin": person.url, "Content-Type": "multipart/form-data; boundary=x"}
    data = body.encode() + part + b"\r\n--x--\r\n"
    sent = person.session.post(f"{person.url}/new-campaign", data=data, headers=kind, timeout=30)
    assert "List \\udccf\\udcf0.csv" in words(looked(person, sent))
    page = looked(person, send(person, rows, "../../../etc/passwd", name="any-name"))
    assert "List passwd" in words(page)


@pytest.mark.slow
def test_an_earlier_looks_page_starts_nothing(person: Person, app: Producer) -> None:
    # Given a list that somebody has looked through, and somebody else again with another text
    first = looked(person, send(person, workbook(2), name="two-looks"))
    draft = re.findall(r'href="/new-campaign\?draft=([^"]*)"', first.text)[0]
    second = looked(person, send(person, workbook(5), name="two-looks", draft=draft, text="Other"))
    # When the first one starts what was shown then
    refused = press_start(person, first)
    # Then what was not shown is not sent
    assert refused.status_code == 422 and "looked through anew" in words(refused)
    assert app.campaign("two-looks").progress().state == "unknown"
    press_start(person, second)
    assert "5 messages stored" in added(person, "two-looks")


@pytest.mark.slow
def test_a_text_is_sent_as_people_paste_it(person: Person, app: Producer) -> None:
    """With spaces that hold a number together, and emoji that are joined."""
    text = "Скидка 5\xa0000\u202f₽ \U0001f469\u200d\U0001f4bb"
    page = looked(person, send(person, workbook(1), name="pasted", text=text))
    draft = re.findall(r'href="/new-campaign\?draft=([^"]*)"', page.text)[0]
    assert text in person.get(f"/new-campaign?draft={draft}").text, "Change keeps it"
    press_start(person, page)
    assert "1 message stored" in added(person, "pasted")
    (row,) = app.campaign("pasted").report()
    found = person.fill(f"/do/reveal?id={row.id}")
    assert text in found.text


@pytest.mark.slow
def test_a_campaigns_page_has_the_rows_of_its_latest_add(person: Person, app: Producer) -> None:
    # Given two lists for one campaign, and the one that came first is added last
    head, pages = "Телефон;Имя;Скидка\n", []
    for n, wrong in enumerate(("11", "22")):
        rows = f"{head}+7925000000{n};Ольга;5\n{wrong};Иван;5\n"
        pages.append(looked(person, send(person, rows.encode(), "list.csv", name="both")))
    for n in (1, 0):
        press_start(person, pages[n])
        wait_for(lambda n=n: app.campaign("both").progress().added == 2 - n, 60)  # type: ignore
        wait_for(lambda: "is being added" not in words(person.get("/campaigns/both")), 60)
    # Then its page has the rows that this one refused
    page = person.get("/campaigns/both").text
    (place,) = re.findall(r'href="(/new-campaign/[^"]*refused.csv)"', page)
    assert "11;" in person.get(place).content.decode("utf-8")


@pytest.mark.slow
def test_a_double_click_starts_once(person: Person, app: Producer) -> None:
    page = looked(person, send(person, workbook(500), name="double"))
    path = re.findall(r'href="(/do/start-campaign[^"]*)"', page.text)[0].replace("&amp;", "&")
    form = inputs(person.get(path).text)
    with ThreadPoolExecutor(2) as pool:
        answers = [pool.submit(person.post, path, form) for _ in range(2)]
        assert all(each.result().url.endswith("/campaigns/double") for each in answers)
    # Another form of the same
    late = person.post(path, {**form, "once": "another"})
    assert late.status_code == 422 and "started already" in words(late)
    assert "500 messages stored" in added(person, "double")
    assert [what for _, what, _ in entries(app, "double")] == ["add list", "added list"]


@pytest.mark.slow
def test_it_begins_at_once_if_asked(person: Person, app: Producer) -> None:
    page = looked(person, send(person, workbook(5), name="at-once", paused=""))
    assert "begins at once" in words(page)
    press_start(person, page)
    assert "5 messages stored" in added(person, "at-once")
    assert app.campaign("at-once").progress().state == "running"


# --- attackers ------------------------------------------------------------------------------------


def test_a_list_needs_the_token_first_and_our_own_site(person: Person, console: Console) -> None:
    page = person.get("/new-campaign")
    token = inputs(page.text)["token"]
    url, good = f"{person.url}/new-campaign", {"Origin": person.url}
    file = ("list", ("a.csv", b"address\n79250000000\n"))
    late = [("name", (None, "x")), ("token", (None, token)), file]
    for parts, headers, status in (
        ([("token", (None, token)), file], {"Origin": "http://evil.example"}, 403),
        ([("token", (None, token)), file], {}, 403),
        ([("token", (None, "0" * 64)), file], good, 403),
        (late, good, 403),
        ([file], good, 403),
        ([("token", ("token.txt", b"x" * 20_000)), file], good, 400),
        ([("token", (None, token)), ("text", (None, "x" * 20_000)), file], good, 400),
        ([("token", (None, token)), ("text", (None, "a\0b")), file], good, 400),
        ([("token", (None, token)), *[("x", (None, "y"))] * 50], good, 400),
    ):
        sent = person.session.post(url, files=parts, headers=headers, timeout=30)
        assert sent.status_code == status, (parts[0], headers)
    for kind, body, status in (
        ("application/x-www-form-urlencoded", f"token={token}", 415),
        ("application/json", "{}", 415),
        ("multipart/form-data", "no boundary", 400),
        ("multipart/form-data; boundary=x", "--y\r\n\r\n", 400),
        (
            "multipart/form-data; boundary=x",
            "--x\r\nContent-Type: multipart/mixed; boundary=z\r\n\r\n--z--\r\n--x--",
            403,
        ),
    ):
        headers = {**good, "Content-Type": kind}
        sent = person.session.post(url, data=body, headers=headers, timeout=30)
        assert sent.status_code == status, (kind, body)
    with requests.Session() as nobody:
        login = nobody.get(f"{person.url}/login", timeout=10)
        parts = [("token", (None, inputs(login.text)["token"])), file]
        sent = nobody.post(url, files=parts, headers=good, timeout=10, allow_redirects=False)
        assert sent.status_code == 303 and "/login" in sent.headers["Location"]
    assert "script" not in page.text.partition("<body>")[2] and "style=" not in page.text
    assert person.get("/new-campaign/nothing").status_code == 404


def test_what_a_form_calls_its_parts_is_in_no_log(console: Console) -> None:
    """Nobody needs a login to send it, and each text would be kept in memory, too."""
    kind = {"Origin": console.url, "Content-Type": "multipart/form-data; boundary=x"}
    for odd in (
        "form-data; name=79255550123",
        "form-data; name*=x''%ff; filename*=y''79255550123",
        ";",
    ):
        body = f"--x\r\nContent-Disposition: {odd}\r\n\r\nx\r\n--x--\r\n"
        sent = requests.post(f"{console.url}/new-campaign", data=body, headers=kind, timeout=30)
        assert sent.status_code == 403
    assert "Disposition" not in console.log


@pytest.mark.slow
def test_at_most_two_lists_at_once_and_no_larger_than_allowed(person: Person) -> None:
    token = inputs(person.get("/new-campaign").text)["token"]
    cookies = "; ".join(f"{each.name}={each.value}" for each in person.session.cookies)
    port = person.url.rpartition(":")[2]
    head = (
        f"POST /new-campaign HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nOrigin: {person.url}\r\n"
        f"Cookie: {cookies}\r\nContent-Type: multipart/form-data; boundary=x\r\n"
        f"Content-Length: {10**9}\r\n\r\n"
        f'--x\r\nContent-Disposition: form-data; name="token"\r\n\r\n{token}\r\n'
        '--x\r\nContent-Disposition: form-data; name="list"; filename="a.csv"\r\n\r\n'
    )
    with ExitStack() as stack:
        for _ in range(2):
            client = stack.enter_context(socket.create_connection(("127.0.0.1", int(port)), 10))
            client.sendall(head.encode() + b"address\n")
        wait_for(lambda: send(person, workbook(1), name="third").status_code == 503, 10)
        third = send(person, workbook(1), name="third")
        assert "Two lists are being looked through" in words(third)
        assert third.headers["Retry-After"] and "Campaigns" in words(person.get("/campaigns"))
    # Once these have gone, there is room
    wait_for(lambda: send(person, workbook(1), name="third").status_code == 200, 20)
    rows = b"address\n" + b"79250000000\n" * (upload.MOST_BYTES // 12 + 9000)
    large = send(person, rows, "large.csv", name="large")
    while large.status_code == 503:  # the second of the two, or the third's dry run, is still there
        large = send(person, rows, "large.csv", name="large")
    assert large.status_code == 413, words(large)
    assert "larger than 50 MB" in words(large)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_zip_bomb_takes_nothing_with_it(person: Person, console: Console, app: Producer) -> None:
    """Its sheet has 1.3 GB of text."""
    bomb = io.BytesIO()
    cell = b'<c r="A5" t="inlineStr"><is><t>%s</t></is></c>' % (b"y" * 2000)
    with (
        zipfile.ZipFile(io.BytesIO(workbook(3))) as old,
        zipfile.ZipFile(bomb, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as new,
    ):
        for item in old.infolist():
            begin, mark, end = old.read(item).partition(b"</sheetData>")
            with new.open(item.filename, "w", force_zip64=True) as file:
                file.write(begin)
                for _ in range(32_000 if mark else 0):
                    file.write(b"<row>" + 20 * cell + b"</row>")
                file.write(mark + end)
    before = memory(console.process.pid)
    sent = send(person, bomb.getvalue(), name="bomb")
    began = time.monotonic()
    while "is being looked through" in person.get(sent.url[len(person.url) :]).text:
        assert time.monotonic() - began < 300
        asked = time.monotonic()
        assert person.get("/campaigns").status_code == 200
        assert time.monotonic() - asked < 5
        time.sleep(0.2)
    assert "too large or too odd" in words(person.get(sent.url[len(person.url) :]))
    assert memory(console.process.pid) - before < 60


def memory(pid: int, what: str = "VmRSS") -> int:
    """Of a process, in MB; 0 if it has ended."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return 0
    return sum(map(int, re.findall(rf"{what}:\s+(\d+)", status))) // 1024


def children(pid: int) -> list[int]:
    """The processes that a process has started."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            if path.read_text().rpartition(")")[2].split()[1] == str(pid):
                found.append(int(path.parent.name))
    return found


# --- what breaks in the middle --------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_large_lists_hold_up_no_page_and_their_memory_is_bounded(
    person: Person, console: Console, app: Producer
) -> None:
    rows = "".join(f"+7925{n:07};{NAMES[n % 3]};{n % 30}\n" for n in range(300_000))
    sent = send(person, ("Телефон;Имя;Скидка\n" + rows).encode(), "big.csv", name="big")
    path, most, slowest = sent.url[len(person.url) :], 0, 0.0

    def watch() -> None:
        nonlocal most, slowest
        most = max([most, *(memory(each, "VmHWM") for each in children(console.process.pid))])
        began = time.monotonic()
        assert person.get("/campaigns").status_code == 200
        slowest = max(slowest, time.monotonic() - began)
        time.sleep(0.2)

    while "is being looked through" in person.get(path).text:
        watch()
    assert "Messages 300,000" in words(person.get(path))
    press_start(person, person.get(path))
    while "is being added" in words(person.get("/campaigns/big")):
        watch()
    assert "300,000 messages stored" in added(person, "big")
    print(
        f"child {most} MB, console {memory(console.process.pid)} MB, slowest page {slowest:.2f} s"
    )
    assert 0 < most < 200 and 0 < memory(console.process.pid) < 200
    assert slowest < 3
    app.campaign("big").cancel()


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("how", ["term", "kill"])
def test_a_restart_in_the_middle_says_so_and_the_same_list_goes_on(
    how: str, tmp_path: Path, env: dict[str, str], app: Producer
) -> None:
    name, keys = f"restart-{how}", Keys(app.settings.namespace)
    rows = "".join(f"+7925{n:07};{NAMES[n % 3]};{n % 30}\n" for n in range(30_000))
    data = ("Телефон;Имя;Скидка\n" + rows).encode()
    folders = {"TMPDIR": str(tmp_path)}
    made = Console(tmp_path, {**env, **USER, **folders})
    with ExitStack() as stack:
        stack.callback(made.close)
        someone = made.person()
        press_start(someone, looked(someone, send(someone, data, "big.csv", name=name)))
        wait_for(lambda: app.campaign(name).progress().added > 1000, 30)
        orphans = children(made.process.pid)
        if how == "term":
            made.process.terminate()
        else:
            made.process.kill()
            for orphan in orphans:
                os.kill(orphan, 9)
        made.process.wait(20)
        assert "Traceback" not in made.log
    assert bool(list(tmp_path.glob("courier-console-*"))) == (how == "kill")
    count = app.campaign(name).progress().added
    assert count < 30_000
    made = Console(tmp_path, {**env, **USER, **folders})
    with ExitStack() as stack:
        stack.callback(made.close)
        someone = made.person()
        said = words(someone.get(f"/campaigns/{name}"))
        assert "Add the same list again to go on: nothing is stored twice" in said
        if how == "term":
            assert re.search(r"Stopped: [\d,]+ of 30,000 rows are stored. the console was", said)
        page = looked(someone, send(someone, data, "big.csv", name=name))
        assert len(list(tmp_path.glob("courier-console-*"))) == 1, "the killed one's lists are gone"
        press_start(someone, page)
        assert re.search(r"[\d,]+ messages stored, [\d,]+ were there before", added(someone, name))
        assert app.campaign(name).progress().added == 30_000
    app.campaign(name).cancel()
    assert app.redis.exists(keys.audit)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_redis_that_goes_away_in_the_middle_is_waited_for(
    tmp_path: Path,
) -> None:
    own = RedisServer(tmp_path, free_port(0))
    own.start()
    env = {"COURIER_REDIS_URL": own.url, "COURIER_NAMESPACE": "away", "TMPDIR": str(tmp_path)}
    made = Console(tmp_path, {**env, **USER})
    with ExitStack() as stack:
        stack.callback(own.stop)
        stack.callback(made.close)
        someone = made.person()
        rows = "".join(f"+7925{n:07};{NAMES[n % 3]};{n % 30}\n" for n in range(20_000))
        data = ("Телефон;Имя;Скидка\n" + rows).encode()
        press_start(someone, looked(someone, send(someone, data, "big.csv", name="away")))
        with closing(Producer.from_env(env)) as app:
            wait_for(lambda: app.campaign("away").progress().added > 1000, 30)
            app.redis.execute_command("CLIENT", "PAUSE", "8000", "ALL")
            assert "20,000 messages stored" in added(someone, "away")
            assert app.campaign("away").progress().added == 20_000


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_full_queue_is_waited_for_and_said(tmp_path: Path, env: dict[str, str]) -> None:
    own = {**env, "COURIER_NAMESPACE": "console-full", "TMPDIR": str(tmp_path)}
    made = Console(tmp_path, {**own, **USER, "COURIER_MAX_QUEUED": "50"})
    with ExitStack() as stack:
        stack.callback(made.close)
        app = stack.enter_context(closing(Producer.from_env(own)))
        someone = made.person()
        press_start(someone, looked(someone, send(someone, workbook(80), name="full")))
        wait_for(lambda: "Waiting up to 600 s" in words(someone.get("/campaigns/full")), 30)
        assert app.campaign("full").progress().added == 50
        # Once there is room, it goes on
        for row in list(app.campaign("full").report())[:40]:
            app.cancel(row.id)
        assert "80 messages stored" in added(someone, "full")


# --- parts ----------------------------------------------------------------------------------------


def test_a_form_becomes_the_common_part() -> None:
    empty = dict.fromkeys(upload.NAMES, "")
    base = {**empty, "subject": "Shop", "priority": "low", "text": "Hi"}
    assert common_of(base) == {
        "contentType": "text",
        "subject": "Shop",
        "priority": "low",
        "content": {"text": "Hi"},
    }
    button = {"caption": "Buy", "action": "https://a.example", "imageUrl": "https://a.example/b"}
    assert common_of({**base, **button})["contentType"] == "button"
    assert (
        common_of({**base, "text": "", "imageUrl": "https://a.example"})["contentType"] == "image"
    )
    sms = common_of({**base, "smsText": "Hi!", "smsSrcAddress": "Shop", "hours": "48"})
    assert (sms["resendSms"], sms["smsText"], sms["ttlSec"]) == (True, "Hi!", 172_800)
    hours = common_of({**base, "from": "09:00", "to": "21:00", "days": "mon fri"})["sendWindow"]
    assert hours == {"from": "09:00", "to": "21:00", "zone": "recipient", "days": ["mon", "fri"]}


def test_the_commands_words_become_the_forms() -> None:
    assert plain("nothing was stored: common.content.text must be") == "Text must be"
    assert plain("no column 'address' (--map COLUMN=address)") == "No column 'address'"
    assert plain("common.sendWindow.zone is unknown") == "Time zone is unknown"
    text = (
        "such as address;content.text; --map COLUMN=FIELD renames a column (not read: 1 more sheet)"
    )
    assert plain(f"name them, {text}").endswith("in the form (not read: 1 more sheet)")


@pytest.mark.slow
def test_refused_rows_of_an_earlier_list_are_gone(person: Person) -> None:
    page = looked(person, send(person, b"address\n1\n79250000001\n", name="mixed", column=""))
    (place,) = re.findall(r'href="(/new-campaign/[^"]*refused.csv)"', page.text)
    assert person.get(place).status_code == 200
    draft = place.split("/")[2]
    page = looked(person, send(person, b"%PDF-1.4", name="mixed", draft=draft))
    assert page.url.endswith(draft) and "is a PDF" in words(page)
    assert person.get(place).status_code == 404


@pytest.mark.slow
def test_no_fault_names_an_option_that_the_form_lacks(person: Person) -> None:
    for given, list, fault in (
        ({"column": ""}, workbook(1), "name that of the phone numbers in the form"),
        ({"column": "Имя"}, b"address\n1\n", "numbers names a column 'Имя' that"),
        ({"sheet": "A"}, workbook(1), "the name that the field Sheet gives"),
        ({"sheet": "A"}, b"address\n1\n", "The field Sheet names a sheet, and"),
        ({"country": "zz"}, workbook(1), "Country: must be a country's two letters"),
        ({"country": ""}, workbook(1), "national numbers these are, by the field Country"),
        ({"column": ""}, b"address;smsText\n79250000001;\xdf\n", "save the list as .xlsx"),
    ):
        said = words(looked(person, send(person, list, "l", name="words", **given)))
        assert fault in said and "--" not in said, said


def test_drafts_are_few_and_expire(
    tmp_path: Path, app: Producer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    kept = Drafts(app)
    first = kept.new()
    first.list.write_text("address\n79250000001\n")
    assert oct(first.folder.stat().st_mode)[-3:] == "700"
    more = [kept.new() for _ in range(drafts.MOST_DRAFTS)]
    assert kept.get(first.id) is None and not first.folder.exists()
    more[1].used -= drafts.KEPT_SECONDS + 1
    assert kept.get(more[1].id) is None and not more[1].folder.exists()
    assert kept.get(more[2].id) is more[2]
    # Whoever tidies up the folder of temporary files may take an idle console's
    (place,) = tmp_path.iterdir()
    shutil.rmtree(place)
    assert kept.new().folder.is_dir()
    kept.close()
    assert not list(tmp_path.iterdir())

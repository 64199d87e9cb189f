"""The console as a person uses it: in a real browser, beside real workers."""

from __future__ import annotations

import contextlib
import json
import os
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import product
from pathlib import Path
from typing import Any

import openpyxl
import pytest

from tests.conftest import Simulator, Start, common_job, iso_in, text_job, wait_for
from tests.console import LOGIN, PASSWORD, TEXT, USER, Console
from tests.ops.browser import chromium
from viber_courier import Producer
from viber_courier.store.keys import Keys

AXE = Path(__file__).parents[2] / ".venvs/axe/node_modules/axe-core/axe.min.js"
"""`make test-ops` installs it from npm."""
SIZES = {"wide": {"width": 1280, "height": 900}, "narrow": {"width": 390, "height": 844}}
WIDE = SIZES["wide"]
KEY = {"COURIER_SUPPRESSION_KEY": "a key of sixteen characters"}
REFUSED = "79250000050"
"""The simulator refuses this address: the message becomes a dead letter."""


@pytest.fixture
def console(system_env: dict[str, str], tmp_path: Path) -> Iterator[Console]:
    made = Console(tmp_path, {**system_env, **USER, **KEY})
    yield made
    made.close()
    assert "request failed" not in made.log and "Traceback" not in made.log


class Person:
    """Somebody with a browser: it keeps every answer that it got, and every complaint."""

    def __init__(self, context: Any, url: str) -> None:
        self.url, self.page = url, context.new_page()
        self.answers, self.complaints, self.far = dict[str, str](), list[str](), list[str]()
        self.page.on("console", lambda said: self.complaints.append(said.text))
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("response", self._keep)
        self.page.on("request", self._note)

    def _note(self, request: Any) -> None:
        if not request.url.startswith(self.url):
            self.far.append(request.url)

    def _keep(self, response: Any) -> None:
        if not response.url.endswith("/live"):
            with contextlib.suppress(Exception):  # a redirect has no body
                self.answers[f"{len(self.answers)} {response.url}"] = response.text()

    def open(self, path: str) -> str:
        """What a person reads there."""
        self.page.goto(self.url + path)
        return self.said()

    def said(self) -> str:
        text: str = self.page.inner_text("body")
        return text

    def sees(self, *texts: str) -> None:
        """Wait until the page says all of them: a click doesn't wait for the page it leads to."""

        def are_there() -> bool:
            with contextlib.suppress(Exception):  # between two pages
                said = self.said()
                return all(text in said for text in texts)
            return False

        wait_for(are_there, 20, f"{texts} are not in {self.page.url}")

    def log_in(self) -> None:
        self.open("/login")
        self.page.get_by_label("Name").fill(LOGIN)
        self.page.get_by_label("Password").fill(PASSWORD)
        self.page.get_by_role("button", name="Log in").click()
        self.page.get_by_role("heading", name="Now").wait_for()

    def click(self, name: str, role: str = "link") -> None:
        self.page.get_by_role(role, name=name, exact=True).first.click()


Browse = Callable[..., Person]


@pytest.fixture
def browse(tmp_path: Path, console: Console) -> Iterator[Browse]:
    with contextlib.ExitStack() as stack:

        def start(**options: Any) -> Person:
            context = chromium(tmp_path / "profile", **{"viewport": WIDE, **options})
            return Person(stack.enter_context(context), console.url)

        yield start


def test_a_lane_is_paused_and_stops_and_is_resumed(
    browse: Browse, start_worker: Start, app: Producer, simulator: Simulator
) -> None:
    # Given a lane that sends slowly for long
    start_worker(COURIER_RATE_LIMIT="20", COURIER_BATCH_SIZE="5")
    rows = [{"address": f"7925{n:07}"} for n in range(100, 4100, 1)]
    app.enqueue_many(rows, common=common_job(priority="low"))
    wait_for(lambda: simulator.accepted(), 30)
    # When a person logs in and pauses it
    person = browse()
    person.log_in()
    person.click("Pause low")
    person.sees("Pause low?")
    person.page.get_by_label("Reason").fill("wrong price")
    person.click("Pause", "button")
    person.sees("Paused low.", "Paused: wrong price")
    # Then nothing leaves, once what was on its way has gone
    keys = Keys(app.settings.namespace)

    def held() -> bool:
        scores = [app.redis.zrange(key, 0, -1, withscores=True) for key in keys.lanes[6:]]
        return not any(int(score) % 4 for pairs in scores for _, score in pairs)

    wait_for(held, 30)
    count = len(simulator.accepted())
    page = person.page
    seen = page.inner_text("#time")
    wait_for(lambda: page.inner_text("#time") != seen, 10, "the page is not live")
    before = page.inner_text("#low-due")
    for _ in range(2):
        seen = page.inner_text("#time")
        wait_for(lambda seen=seen: page.inner_text("#time") != seen, 10)
    assert page.inner_text("#low-due") == before
    assert len(simulator.accepted()) == count
    assert page.inner_text("#link") == "Live."
    # And goes on when it is resumed
    person.click("Resume low")
    person.click("Resume", "button")
    person.sees("Resumed low.")
    wait_for(lambda: len(simulator.accepted()) > count, 20)
    wait_for(lambda: page.inner_text("#low-due") != before, 20)
    assert person.complaints == [] and person.far == []


def test_a_message_is_found_revealed_and_a_dead_letter_sent_again(
    browse: Browse, start_worker: Start, app: Producer
) -> None:
    start_worker()
    app.enqueue(text_job(REFUSED, id="order:1", content={"text": TEXT}, metadata={"order": "1"}))
    app.enqueue(text_job("79250000010", id="order:2", content={"text": TEXT}))
    wait_for(lambda: (found := app.get("order:1")) and found.final, 30)
    wait_for(lambda: (found := app.get("order:2")) and found.status == "delivered", 30)
    person = browse()
    person.log_in()
    # Find a message
    person.click("Messages")
    person.page.get_by_label("Message id").fill("order:2")
    person.click("Find", "button")
    story = person.page.locator(".story").inner_text()
    assert [word for word in ("due", "submitted", "delivered") if word in story] == [
        "due",
        "submitted",
        "delivered",
    ]
    # A dead letter, by its reason
    person.click("Dead letters")
    person.sees("rejected")
    person.click("order:1")
    person.sees("What happened", "provider said")
    # So far the browser got no number and no text
    for where, answer in person.answers.items():
        assert REFUSED not in answer and "79250000010" not in answer and TEXT not in answer, where
    person.click("Reveal phone number and texts")
    person.click("Reveal", "button")
    person.sees(REFUSED, TEXT)
    # Send it again
    person.page.goto(f"{person.url}/messages?id=order:1")
    person.click("Send again")
    person.click("Send again", "button")
    person.sees("Sent again as")
    new = person.page.locator("dd a").inner_text()  # "Sent again as"
    person.click(new)
    person.sees("Sends again")
    wait_for(lambda: (found := app.get(new)) and found.status == "rejected", 30)
    # All of it is on record
    person.click("Audit")
    person.sees("What people did")
    entries = person.page.locator(".story li").all_inner_texts()
    kinds = [entry.split("\n")[1].split()[0] for entry in entries]
    assert kinds == ["resend", "reveal", "log"], entries
    assert f"{LOGIN}, 127.0.0.1" in entries[0]
    assert person.complaints == [] and person.far == []
    person.click("Log out", "button")
    person.page.wait_for_url(f"{person.url}/login**")
    person.page.go_back()
    person.page.get_by_label("Password").wait_for()
    assert "order:1" not in person.said(), "a page from the browser's memory"


def test_it_works_without_scripts_and_with_a_keyboard(browse: Browse, app: Producer) -> None:
    person = browse(java_script_enabled=False)
    page, keys = person.page, Keys(app.settings.namespace)
    person.open("/")
    press = page.keyboard.press
    page.get_by_label("Name").focus()
    page.keyboard.type(LOGIN)
    press("Tab")
    page.keyboard.type(PASSWORD)
    press("Enter")
    page.get_by_role("heading", name="Now").wait_for()
    # The first Tab leads past the links, the ninth or so to a lane's button
    page.get_by_role("link", name="Pause realtime").focus()
    press("Enter")
    page.get_by_label("Reason").focus()
    page.keyboard.type("by keyboard")
    press("Enter")
    page.get_by_text("Paused realtime.").wait_for()
    assert app.redis.get(keys.paused("realtime")) == "by keyboard"
    assert page.locator("noscript meta[http-equiv=refresh]").count() == 1


def test_a_campaign_is_paused_and_stops_and_the_rest_is_cancelled(
    browse: Browse, start_worker: Start, app: Any, simulator: Simulator
) -> None:
    start_worker(COURIER_RATE_LIMIT="20", COURIER_BATCH_SIZE="5")
    common = common_job(priority="low", content={"text": TEXT})
    rows = [{"address": f"79250{n:06}"} for n in range(100, 3100)]
    sale = app.campaign("nov-sale", common=common)
    sale.add(rows)
    wait_for(lambda: simulator.accepted(), 30)
    person = browse()
    person.log_in()
    person.click("Campaigns")
    person.click("nov-sale")
    # Its figures move by themselves
    ended = person.page.inner_text("#c-2")
    wait_for(lambda: person.page.inner_text("#c-2") != ended, 20, "the page is not live")
    person.click("Pause")
    person.page.get_by_label("Reason").fill("wrong price")
    person.click("Pause", "button")
    person.sees("Paused.", "wrong price")
    wait_for(lambda: sale.progress().inside == 0, 20)
    count = len(simulator.accepted())
    seen = [faults(person, "/campaigns", "campaigns-wide-light")]
    for _ in range(2):  # sweeps and claims go on
        swept = app.redis.get(Keys(app.settings.namespace).swept)
        wait_for(lambda swept=swept: app.redis.get(Keys(app.settings.namespace).swept) != swept, 10)
    assert len(simulator.accepted()) == count
    for scheme, (width, size) in product(("light", "dark"), SIZES.items()):
        person.page.emulate_media(color_scheme=scheme)
        person.page.set_viewport_size(size)
        for page, path in (("campaign", "/campaigns/nov-sale"), ("campaigns", "/campaigns")):
            seen.append(faults(person, path, f"{page}-{width}-{scheme}"))
    assert not any(seen), seen
    person.open("/campaigns/nov-sale")
    with person.page.expect_download() as download:
        person.click("Report (CSV)")
    assert download.value.suggested_filename == "nov-sale.csv"
    person.click("Cancel the rest")
    person.click("Cancel the rest", "button")
    person.sees("Cancelled: what waited has ended.")
    wait_for(lambda: sale.progress().waiting == 0, 20)
    assert len(simulator.accepted()) == count
    for answer in person.answers.values():
        assert TEXT not in answer and "79250000" not in answer


def test_a_campaign_is_begun_from_a_workbook_and_the_rest_is_cancelled(
    browse: Browse, start_worker: Start, app: Any, simulator: Simulator, tmp_path: Path
) -> None:
    # Given an Excel file as a marketing team has it
    start_worker(COURIER_RATE_LIMIT="20", COURIER_BATCH_SIZE="5")
    book = openpyxl.Workbook()
    sheet: Any = book.active
    sheet.append(["Телефон", "Имя", "Скидка", "Менеджер"])
    for n in range(1500):
        phone = f"8 (925) 000-{n // 100:02}-{n % 100:02}"
        sheet.append([phone, ("Ольга", "Иван", "Мария")[n % 3], 15])
    sheet.append(["8 (925) 000-00-01", "Пётр", 10])
    sheet.append(["7 701 000 00 01", "Айгуль", 10])
    sheet.append(["12-34", "Иван", 10])
    sheet.append(["+7 925 100 00 00", None, 10])
    book.save(tmp_path / "Клиенты ноябрь.xlsx")
    person = browse()
    page = person.page
    person.log_in()
    person.click("Campaigns")
    seen = looks(person, "/new-campaign", "new-form")
    page.set_viewport_size(WIDE)
    # When somebody fills the form, with a mistake
    person.open("/campaigns")
    person.click("New campaign")
    page.get_by_label("Name", exact=True).fill("nov-sale")
    page.get_by_label("Excel file").set_input_files(tmp_path / "Клиенты ноябрь.xlsx")
    page.get_by_label("Column of phone numbers").fill("Телефон")
    page.get_by_label("Country of national numbers").fill("RU")
    page.get_by_label("Sender", exact=True).fill("Shop")
    page.get_by_label("Text", exact=True).fill("Здравствуйте, {Имя}! Ваша скидка — {Скидка} %")
    page.get_by_label("Send an SMS").check()
    page.get_by_label("Price of an SMS").fill("four")
    page.get_by_label("From", exact=True).fill("00:00")
    page.get_by_label("To", exact=True).fill("23:59")
    person.click("Look through the list", "button")
    person.sees("Price of an SMS segment: such as 4.50", "Клиенты ноябрь.xlsx is kept")
    # And mends it
    page.get_by_label("Price of an SMS").fill("4.50")
    person.click("Look through the list", "button")
    person.sees("What would be sent", "1,504", "Refused because", "Kazakhstan", "6,754.50")
    person.sees("1 row repeats an earlier row's number", "1 of 1,501 numbers is in Kazakhstan")
    draft = page.url.removeprefix(person.url)
    seen += looks(person, draft, "new-dry-run")
    for answer in person.answers.values():
        assert "Ольга" not in answer and "7925000" not in answer
    person.open(draft)
    person.click("Reveal the first messages")
    person.click("Reveal", "button")
    person.sees("Здравствуйте, Ольга! Ваша скидка — 15 %", "7925***00")
    shot(person, "new-revealed-wide-light")
    person.open(draft)
    person.click("Start")
    person.sees("Start campaign nov-sale?")
    person.click("No, go back")
    person.sees("Nothing is stored yet.")
    assert app.campaign("nov-sale").progress().state == "unknown"
    person.click("Start")
    person.click("Start", "button")
    person.sees("waits for a last look", "The list is added: 1,501 messages stored, 2 refused")
    seen += looks(person, "/campaigns/nov-sale", "new-added")
    page.set_viewport_size(WIDE)
    with page.expect_download() as download:
        person.click("Refused rows (CSV)")
    assert "12-34" in Path(download.value.path()).read_text("utf-8-sig")
    # Then nothing leaves before it is resumed
    assert not simulator.accepted()
    person.click("Resume")
    person.click("Resume", "button")
    person.sees("Resumed.")
    ended = page.inner_text("#c-2")
    wait_for(lambda: page.inner_text("#c-2") != ended, 30, "the page is not live")
    wait_for(lambda: simulator.accepted(), 30)
    person.click("Pause")
    page.get_by_label("Reason").fill("wrong price")
    person.click("Pause", "button")
    person.sees("Paused.", "wrong price")
    person.click("Cancel the rest")
    person.click("Cancel the rest", "button")
    person.sees("Cancelled: what waited has ended.")
    with page.expect_download() as download:
        person.click("Report (CSV)")
    lines = Path(download.value.path()).read_text("utf-8").splitlines()
    assert len(lines) == 1502 and any("cancelled" in line for line in lines)
    assert not any(seen), seen
    assert [each for each in person.complaints if " 422 " not in each] == [] and person.far == []
    person.click("Audit")
    person.sees("add list", "added list", "a dry run's first messages")


def test_a_campaign_is_begun_without_scripts_and_with_a_keyboard(
    browse: Browse, app: Any, tmp_path: Path
) -> None:
    list = tmp_path / "list.csv"
    list.write_text("address;Имя\n79250000001;Ольга\n79250000002;Иван\n")
    person = browse(java_script_enabled=False)
    page, press = person.page, person.page.keyboard.press
    person.open("/login")
    page.get_by_label("Name").fill(LOGIN)
    page.get_by_label("Password").fill(PASSWORD)
    press("Enter")
    page.get_by_role("heading", name="Now").wait_for()
    person.open("/campaigns")
    page.get_by_role("link", name="New campaign").focus()
    press("Enter")
    page.get_by_label("Excel file").set_input_files(list)
    page.get_by_label("Name", exact=True).focus()
    page.keyboard.type("by-keyboard")
    page.get_by_label("Sender", exact=True).focus()
    page.keyboard.type("Shop")
    press("Tab")
    page.keyboard.type("Hi, ")
    page.keyboard.insert_text("{Имя}!")
    page.get_by_role("button", name="Look through the list").focus()
    press("Enter")
    person.sees("What would be sent")  # it reloads by itself
    page.get_by_role("link", name="Start").focus()
    press("Enter")
    page.get_by_role("button", name="Start").focus()
    press("Enter")
    wait_for(lambda: app.campaign("by-keyboard").progress().added == 2, 30)


def looks(person: Person, path: str, name: str) -> list[list[str]]:
    """What is wrong with a page, in each size and scheme."""
    found = []
    for scheme, (width, size) in product(("light", "dark"), SIZES.items()):
        person.page.emulate_media(color_scheme=scheme)
        person.page.set_viewport_size(size)
        found.append(faults(person, path, f"{name}-{width}-{scheme}"))
    person.page.emulate_media(color_scheme="light")
    person.page.set_viewport_size(WIDE)
    return found


def shot(person: Person, name: str) -> None:
    """A picture of the page, where a folder for pictures is named."""
    if folder := os.environ.get("COURIER_SCREENSHOTS"):
        person.page.screenshot(path=f"{folder}/console-{name}.png", full_page=True)


class Evil(BaseHTTPRequestHandler):
    """Another site, which frames the console and sends its forms."""

    target = ""

    def do_GET(self) -> None:
        page = f"""<iframe id=f src="{self.target}/do/pause?lane=low"></iframe>
        <form id=x method=post action="{self.target}/do/pause">
        <input name=lane value=low><input name=reason value=evil><input name=for value=""></form>"""
        body = f"<!doctype html><title>evil</title>{page}".encode()
        self.send_response(200)
        self.send_header("Content-Type", "text/html")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        pass


def test_another_site_can_neither_frame_it_nor_send_its_forms(
    browse: Browse, console: Console, app: Producer
) -> None:
    person = browse()
    person.log_in()
    handler = type("Handler", (Evil,), {"target": console.url})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        page = person.page
        page.goto(f"http://127.0.0.1:{server.server_port}/")
        frame = page.frame_locator("#f")
        assert "Pause low" not in frame.locator("body").inner_text()
        assert any("frame-ancestors" in said or "X-Frame" in said for said in person.complaints)
        # The browser is logged in, and to it this is the same site
        page.evaluate("document.getElementById('x').submit()")
        page.get_by_text("sent by another site").wait_for()
        assert not app.redis.exists(Keys(app.settings.namespace).paused("low"))
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


PAGES = {
    "home": "/",
    "message": "/messages?id=order:1",
    "dead": "/dead?status=rejected",
    "audit": "/audit",
    "pause": "/do/pause?lane=low",
    "resend": "/do/resend-all?status=rejected&reason=",
    "unknown": "/messages?id=nobody",
    "none": "/none",
}
if "suppressions" in (Producer.__doc__ or ""):
    PAGES |= {"suppressions": "/suppressions", "suppress": "/do/suppress"}


def test_everybody_can_read_it(browse: Browse, start_worker: Start, app: Producer) -> None:
    # Given an installation at work, with something of everything
    start_worker(COURIER_RATE_LIMIT="200")
    app.enqueue(text_job(REFUSED, id="order:1", metadata={"order": "1"}))
    others = ("10", "10", "20", "30", "50", "51", "61", "62", "99")
    rows = [{"address": f"79250{n:04}{end}"} for n in range(60) for end in others]
    app.enqueue_many(rows, common=common_job(priority="normal"))
    wait_for(lambda: app.redis.zcard(Keys(app.settings.namespace).dead) > 5, 30)
    wait_for(lambda: (found := app.get("order:1")) and found.final, 30)
    app.enqueue_many(rows, common=common_job(priority="low", sendAt=iso_in(86400)))
    person = browse()
    found = {}
    for scheme, (width, size) in product(("light", "dark"), SIZES.items()):
        person.page.emulate_media(color_scheme=scheme)
        person.page.set_viewport_size(size)
        found[f"login-{width}-{scheme}"] = faults(person, "/login", f"login-{width}-{scheme}")
    person.log_in()
    person.open("/do/pause?lane=low")
    person.page.get_by_label("Reason").fill("wrong price")
    person.click("Pause", "button")
    wait_for(lambda: person.page.locator("#rate-1").inner_text() not in ("–", ""), 20)
    wait_for(lambda: "paused: low" in person.page.inner_text("#alerts"), 30)
    for scheme, (width, size) in product(("light", "dark"), SIZES.items()):
        person.page.emulate_media(color_scheme=scheme)
        person.page.set_viewport_size(size)
        for page, path in PAGES.items():
            name = f"{page}-{width}-{scheme}"
            found[name] = faults(person, path, name)
    # Then axe finds nothing, and nothing is wider than the window
    assert {name: texts for name, texts in found.items() if texts} == {}


def test_long_names_and_reasons_fit_in_every_window(
    browse: Browse, app: Producer, system_env: dict[str, str]
) -> None:
    # Given names, reasons and metadata as long as they may be, without a space
    name, keys = "n" * 64, Keys(app.settings.namespace)
    more: Any = {"priority": "low", "metadata": {"m" * 64: "w" * 64}}
    app.enqueue(text_job(REFUSED, id=name, **more))
    ended = {"status": "rejected", "reason": "z" * 64, "final": "1", "providerCode": "z" * 64}
    app.redis.hset(keys.records + name, mapping=ended)
    app.redis.zrem(keys.lanes[6], name)
    app.redis.zadd(keys.dead, {name: 1})
    sale = app.campaign(name, common=common_job(priority="low"))
    sale.add([{"address": REFUSED}])
    sale.pause("p" * 200)
    app.redis.set(keys.paused("low"), "w" * 200)
    with contextlib.closing(Producer.from_env({**system_env, **KEY})) as keyed:
        keyed.suppressions.add(REFUSED, "r" * 64)
    person = browse()
    person.log_in()
    kind = "status=rejected&reason=" + "z" * 64
    found = {}
    pages = ("/", "/campaigns", f"/campaigns/{name}", f"/dead?{kind}", f"/messages?id={name}")
    forms = ("/suppressions", "/audit", f"/do/resend-all?{kind}", f"/do/pause-campaign?name={name}")
    for (width, size), path in product(SIZES.items(), pages + forms):
        person.page.set_viewport_size(size)
        found[f"{path} {width}"] = faults(person, path, "long")
    assert {name: texts for name, texts in found.items() if texts} == {}


def faults(person: Person, path: str, name: str) -> list[str]:
    """What is wrong with a page for those who can't see, or see little."""
    page = person.page
    person.open(path)
    if path == "/":
        wait_for(lambda: page.inner_text("#link") == "Live.", 20)
        wait_for(lambda: page.inner_text("#rate-1") not in ("–", ""), 20)
    shot(person, name)
    found = []
    if page.evaluate("document.documentElement.scrollWidth > window.innerWidth"):
        found.append("it is wider than the window")
    if AXE.exists():
        page.evaluate(AXE.read_text("utf-8"))
        said = page.evaluate("axe.run({resultTypes: ['violations']})")
        for each in said["violations"]:
            found += [f"{each['id']}: {json.dumps(node['html'])}" for node in each["nodes"]]
    return found


def test_axe_is_there() -> None:
    if not AXE.exists():
        pytest.skip("no axe-core: make test-ops installs it from npm, which was not to be had")
    assert "axe" in AXE.read_text("utf-8")[:200]

"""The pages on which a campaign is begun: a form with a list, its dry run, its refused rows."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable
from decimal import Decimal
from typing import Any

from aiohttp import BodyPartReader, MultipartReader, web
from aiohttp.http_exceptions import BadHttpMessage

from viber_courier.ops.console.actions import Actions
from viber_courier.ops.console.drafts import Draft, Drafts
from viber_courier.ops.console.forms import Values, WrongValue, forms
from viber_courier.ops.console.problems import Problem
from viber_courier.schemas.fields import CAMPAIGN
from viber_courier.schemas.lanes import LANES
from viber_courier.schemas.window import DAYS

PATH = "/new-campaign"
PARTS: web.RequestKey[MultipartReader] = web.RequestKey("parts")
"""The rest of a form with a file, whose token was right."""
MOST_BYTES = 50 * 2**20
"""Of a list."""
UPLOAD_SECONDS, CHUNK_SECONDS = 900.0, 60.0
"""How long a list may take to come, and each part of it."""
MOST_CHARACTERS, MOST_PARTS = 2100, 40
"""Of a field, and of a form."""
PASTED = dict.fromkeys(map(ord, "\n\xa0\u2009\u200c\u200d\u202f"))
"""What else a text may have: line ends, spaces that hold together, what joins emoji."""
CHUNK = 2**16
TICK_SECONDS = 60.0
"""How often drafts are looked at that may have expired."""
UNREADABLE = (
    *(ValueError, LookupError, RuntimeError, ConnectionError),
    *(web.RequestPayloadError, BadHttpMessage),
)
"""What is raised where a form is no form, or its sender has gone."""
Run = Callable[..., Awaitable[Any]]
FRESH = {"priority": "low", "template": "yes", "paused": "yes", "zone": "recipient", "hours": "24"}
"""What a new form has in it."""
NAMES = (
    *("name", "column", "country", "sheet", "subject", "priority", "text", "template", "caption"),
    *("action", "imageUrl", "resendSms", "smsText", "smsSrcAddress", "price", "from", "to"),
    *("zone", "days", "hours", "rate", "paused"),
)
BOXES = ("template", "resendSms", "paused", "days")
PATTERNS = {
    # No browser asks for a page that is called . or ..
    "name": (rf"(?!\.\.?$){CAMPAIGN.pattern}", "Name: 1 to 64 of A-Z, a-z, 0-9, _ . -"),
    "subject": (".{1,11}", "Sender: 1 to 11 characters"),
    "country": ("([A-Za-z]{2})?", "Country: two letters, such as RU"),
    "priority": ("|".join(LANES), "Lane: one of the list"),
    "hours": ("[1-9][0-9]{0,2}", "Hours: a whole number from 1 to 720"),
    "rate": (r"((?=.*[1-9])[0-9]{1,6}(\.[0-9]{1,6})?)?", "Own rate: messages a second, such as 20"),
    "price": (r"([0-9]{1,6}(\.[0-9]{1,6})?)?", "Price of an SMS segment: such as 4.50"),
}


class Upload:
    """Handlers. ``draw`` renders a page, ``run`` calls a function in a thread for a request."""

    def __init__(self, drafts: Drafts, draw: Callable[..., web.Response], run: Run) -> None:
        self._drafts, self._draw, self._run, self._ticks = drafts, draw, run, False
        self.forms = forms({"start-campaign": drafts.start, "reveal-list": self._record_reveal})

    def add_to(self, app: web.Application) -> None:
        """Adds the routes."""
        for path, handler in (
            (PATH, self._ask),
            (f"{PATH}/{{draft}}", self._show),
            (f"{PATH}/{{draft}}/refused.csv", self._refused),
        ):
            app.router.add_get(path, handler, allow_head=False)
        app.router.add_post(PATH, self._take)

    async def reveal(self, request: web.Request, values: Values) -> web.Response:
        """Returns the page of a dry run with the first messages."""
        return self._page(request, values["draft"], is_revealed=True)

    async def _show(self, request: web.Request) -> web.Response:
        return self._page(request, request.match_info["draft"])

    def _page(self, request: web.Request, id: str, is_revealed: bool = False) -> web.Response:
        draft = self._draft(id)
        given = {"draft": draft, "revealed": is_revealed, "cost": _cost(draft)}
        return self._draw("draft.html", request, **given)

    async def _ask(self, request: web.Request) -> web.Response:
        """GET: the form, with what a draft has."""
        id = request.query.get("draft", "")
        return self._form(request, self._draft(id) if id else None)

    async def _take(self, request: web.Request) -> web.Response:
        """POST: takes the list in, begins the dry run, and leads to its page."""
        if not self._drafts.take():
            text = "Two lists are being looked through: try again in a minute."
            raise Problem(503, text, {"Retry-After": "60"})
        self._tick()
        try:
            draft = await self._accept(request[PARTS])
            if fault := _fault(draft):
                self._drafts.give()
                return self._form(request, draft, fault)
            self._drafts.look(draft)
        except BaseException as error:
            self._drafts.give()
            if isinstance(error, OSError):
                text = f"The list can't be kept: {error.strerror}."
                raise Problem(503, text) from None
            raise
        raise Problem(303, "", {"Location": f"{PATH}/{draft.id}"})

    async def _accept(self, parts: MultipartReader) -> Draft:
        """Returns a draft with what a form has sent; it may be an earlier one, changed."""
        draft = self._drafts.new()
        draft.state = "looking"  # nobody deletes it while it comes
        try:
            async with asyncio.timeout(UPLOAD_SECONDS):
                draft.values = await self._receive(parts, draft)
        except TimeoutError:
            raise Problem(408, "The list did not come in time.") from None
        except UNREADABLE:
            raise Problem(400, "The form can't be read.") from None
        finally:
            draft.state = "new"
            if not draft.values:
                self._drafts.drop(draft)
        return self._drafts.merge(draft, draft.values.pop("draft"))

    async def _receive(self, parts: MultipartReader, draft: Draft) -> dict[str, str]:
        values, count = dict.fromkeys(("draft", *NAMES), ""), 0
        while part := await parts.next():
            count += 1
            if count > MOST_PARTS or not isinstance(part, BodyPartReader):
                raise Problem(400, "This is no form of ours.")
            if part.name == "list":
                await _save(part, draft)
            elif part.name in values:
                text = await text_of(part)
                values[part.name] = f"{values[part.name]} {text}".strip()
        return values

    async def _refused(self, request: web.Request) -> web.StreamResponse:
        """GET: the rows that were refused. The look is on record."""
        draft = self._draft(request.match_info["draft"])
        if not draft.refused.exists() or draft.is_at_work:
            raise web.HTTPNotFound
        await self._run(request, _record_rows, draft)
        name = f'attachment; filename="{draft.name}.refused.csv"'
        headers = {"Content-Disposition": name, "Content-Type": "text/csv"}
        return web.FileResponse(draft.refused, headers=headers)

    def _form(self, request: web.Request, draft: Draft | None, fault: str = "") -> web.Response:
        values = draft.values if draft else dict.fromkeys(NAMES, "") | FRESH
        given: dict[str, Any] = {
            "values": values,
            "draft": draft,
            "fault": fault,
            "lanes": LANES,
            "days": DAYS,
        }
        given |= {"most": MOST_BYTES // 2**20}
        return self._draw("new.html", request, 422 if fault else 200, **given)

    def _tick(self, is_next: bool = False) -> None:
        """Lets drafts expire, also if nobody comes."""
        if is_next or not self._ticks:
            self._ticks = True
            self._drafts.expire()
            asyncio.get_running_loop().call_later(TICK_SECONDS, self._tick, True)

    def _draft(self, id: str) -> Draft:
        if draft := self._drafts.get(id):
            return draft
        raise Problem(404, "This draft is no longer here: begin anew, and upload the list again.")

    def _record_reveal(self, actions: Actions, given: Values) -> str:
        if (draft := self._drafts.get(given["draft"])) is None:
            raise WrongValue("the draft is no longer here")
        actions.record("reveal", draft.name, "a dry run's first messages")
        return ""


async def text_of(part: BodyPartReader) -> str:
    """Returns a field of a form. Raises Problem if it is too long or no text."""
    data = b""
    while not part.at_eof():
        data += await asyncio.wait_for(part.read_chunk(CHUNK), CHUNK_SECONDS)
        if len(data) > 4 * MOST_CHARACTERS:
            raise Problem(400, "A field is too long.")
    try:
        text = data.decode().replace("\r\n", "\n").strip()
    except UnicodeDecodeError:
        raise Problem(400, "The form can't be read.") from None
    if len(text) > MOST_CHARACTERS or not text.translate(PASTED).isprintable():
        raise Problem(400, "A field is too long, or not printable.")
    return text


async def _save(part: BodyPartReader, draft: Draft) -> None:
    """Writes a list to disk as it comes."""
    size = 0
    with draft.list.open("wb") as file:
        while not part.at_eof():
            chunk = await asyncio.wait_for(part.read_chunk(CHUNK), CHUNK_SECONDS)
            size += len(chunk)
            if size > MOST_BYTES:
                raise Problem(413, f"The list is larger than {MOST_BYTES // 2**20} MB: divide it.")
            file.write(chunk)
    draft.file = (part.filename or "").replace("\\", "/").rpartition("/")[2][:200] if size else ""


def _record_rows(actions: Actions, draft: Draft) -> None:
    actions.record("reveal", draft.name, "rows that were refused")


def _fault(draft: Draft) -> str:
    """Returns what is wrong with a form, as far as that needs no look at the list."""
    if not draft.list.exists() or not draft.file:
        return "List: choose a file"
    for name, (pattern, text) in PATTERNS.items():
        if not re.fullmatch(pattern, draft.values[name]):
            return text
    return PATTERNS["hours"][1] if int(draft.values["hours"]) > 720 else ""


def _cost(draft: Draft) -> str:
    """Returns what the SMS segments cost, "" if that is not known."""
    sms = (draft.found or {}).get("sms") or {}
    return f"{Decimal(sms['cost']):,.2f}" if sms.get("cost") else ""

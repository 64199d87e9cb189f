"""The console's pages and forms."""

from __future__ import annotations

import asyncio
import json
import re
import secrets
import time
from collections import Counter, OrderedDict
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any
from urllib.parse import quote

import jinja2
from aiohttp import web

from viber_courier import CourierError, Producer, StoreUnavailable
from viber_courier.ops.commands.terminal import failure
from viber_courier.ops.commands.top import FUNNEL
from viber_courier.ops.console import campaigns
from viber_courier.ops.console.actions import Actions
from viber_courier.ops.console.audit import Actor, entries
from viber_courier.ops.console.bulk import plain
from viber_courier.ops.console.drafts import Drafts
from viber_courier.ops.console.forms import FORMS, Form, WrongValue
from viber_courier.ops.console.problems import Problem
from viber_courier.ops.console.sessions import MOST_DONE, Session, Sessions
from viber_courier.ops.console.story import tell
from viber_courier.ops.console.upload import Upload
from viber_courier.ops.console.watch import EVERY, Picture, Watch
from viber_courier.ops.counters import by_status
from viber_courier.producers.dead import DeadLetter
from viber_courier.schemas.instants import iso
from viber_courier.schemas.lanes import POLL
from viber_courier.schemas.status import DEAD, Status

SESSION: web.RequestKey[Session] = web.RequestKey("session")
LETTERS_COUNTED, LETTERS_SHOWN = 5_000, 50
"""Dead letters that are counted by reason, and that are listed."""
ENTRIES_SHOWN = 200
"""Entries of the audit stream on its page."""
ACT_SECONDS = 20.0
"""How long a form waits for its action, which goes on after that."""
FILES, FILE_SECONDS = 2, 60.0
"""Files that are read from Redis at once: pages don't wait behind them. How long a browser may
leave a part of one unread."""
MAX_LIVE, LIVE_SECONDS, WRITE_SECONDS = 200, 600.0, 10.0
"""Live pages at once; how long a stream lasts, whose page then opens the next; and how long a
browser may leave it unread."""
NAV = {"/": "Home", "/messages": "Messages", "/dead": "Dead letters", "/audit": "Audit"}

_UNSEEN = re.compile(
    "[\x00-\x09\x0b-\x1f\x7f-\x9f\xad\u061c\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ud800-\udfff\ufeff]"
)
"""Control characters, line ends but one, marks of direction, what has no width or is no text."""
Run = Callable[..., Awaitable[Any]]


class Pages:
    """Handlers. ``run`` calls a function in a thread, ``actor`` says who sends a request."""

    def __init__(
        self,
        producer: Producer,
        run: Run,
        actor: Callable[[web.Request], Actor],
        sessions: Sessions,
    ) -> None:
        self._producer, self._run, self._actor, self._sessions = producer, run, actor, sessions
        self._watch, self._drawn = Watch(producer, run), (-1, b"")
        self._is_over, self.live_pages = False, 0
        self._files = asyncio.Semaphore(FILES)
        self._reads = OrderedDict[tuple[str, ...], tuple[float, asyncio.Future[Any]]]()
        loader = jinja2.FileSystemLoader(Path(__file__).parent / "templates")
        self._templates = jinja2.Environment(
            loader=loader,
            autoescape=True,
            undefined=jinja2.StrictUndefined,
            finalize=_visible,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        self._templates.filters["stamp"] = _stamp
        self._drafts = Drafts(producer)
        self._upload = Upload(self._drafts, self.render, self._act_for)
        self._forms = FORMS | campaigns.FORMS | self._upload.forms
        self._reveals = {"reveal": self._reveal, "reveal-list": self._upload.reveal}
        nav = list(NAV.items())
        nav[2:2] = [(page.path, page.label) for page in campaigns.PAGES if page.label]
        self._templates.globals |= {
            "nav": nav,
            "namespace": producer.settings.namespace,
            "funnel": FUNNEL,
            "sum_of": lambda counts, names: sum(counts[name] for name in names),
            "pretty": lambda value: json.dumps(value, ensure_ascii=False, indent=2),
            "dead": DEAD,
            "iso": iso,
            "plain": plain,
        }

    def add_to(self, app: web.Application) -> None:
        """Adds the routes."""
        for path, handler in (
            ("/", self._home),
            ("/live", self._live),
            ("/messages", self._message),
            ("/dead", self._dead),
            ("/audit", self._audit),
            ("/do/{form}", self._ask),
        ):
            app.router.add_get(path, handler, allow_head=False)
        app.router.add_post("/do/{form}", self._act)
        self._upload.add_to(app)
        for page in campaigns.PAGES:
            app.router.add_get(page.path, self._drawer(page), allow_head=False)

    def render(
        self, template: str, request: web.Request, code: int = 200, /, **given: Any
    ) -> web.Response:
        """Returns a page. It shows what the latest action did."""
        session = request[SESSION]
        said: list[str] = []
        if "X-Refresh" not in request.headers:  # of such an answer, only figures are shown
            said, session.said = session.said, []
        page = self._templates.get_template(template)
        text = page.render(session=session, path=request.path, said=said, **given)
        return web.Response(text=text, status=code, content_type="text/html")

    def problem(
        self, request: web.Request, status: int, text: str, headers: Mapping[str, str] = {}
    ) -> web.Response:
        """Returns the page of what went wrong; for a redirection no page."""
        if status == 303:
            return web.Response(status=status, headers=headers)
        response = self.render("problem.html", request, status, text=text)
        response.headers.update(headers)
        return response

    def end(self) -> None:
        """Lets streams end with their next picture."""
        self._is_over = True

    async def close(self) -> None:
        """Ends what goes on by itself."""
        await asyncio.to_thread(self._drafts.close)
        await self._watch.close()

    # --- home -------------------------------------------------------------------------------------

    async def _home(self, request: web.Request) -> web.Response:
        _, picture = await self._watch.next()
        return self.render("home.html", request, **_shown(picture))

    async def _live(self, request: web.Request) -> web.StreamResponse:
        """The middle of the home page, each time it has changed, as server-sent events."""
        if self.live_pages >= MAX_LIVE:
            raise Problem(503, "Too many pages are open.", {"Retry-After": "30"})
        response = web.StreamResponse(headers={"Cache-Control": "no-store"})
        response.content_type = "text/event-stream"
        self.live_pages += 1
        try:
            await response.prepare(request)
            async for event in self._events(request[SESSION]):
                async with asyncio.timeout(WRITE_SECONDS):
                    await response.write(event)
        except (ConnectionError, TimeoutError):
            pass  # the page has gone, or sleeps
        finally:
            self.live_pages -= 1
        return response

    async def _events(self, session: Session) -> AsyncIterator[bytes]:
        end, number = time.monotonic() + LIVE_SECONDS, -1
        while time.monotonic() < end and not self._is_over and self._sessions.is_live(session):
            number, picture = await self._watch.next(number)
            if self._drawn[0] != number:  # once for all pages
                template = self._templates.get_template("live.html")
                lines = template.render(**_shown(picture)).splitlines()
                text = "".join(f"data: {line}\n" for line in lines if line.strip())
                self._drawn = number, f"{text}\n".encode()
            yield self._drawn[1]

    # --- other pages ------------------------------------------------------------------------------

    async def _message(self, request: web.Request) -> web.Response:
        """GET /messages: one message, by its id."""
        if id := request.query.get("id", "").strip():
            return await self._story(request, id, reveal=False)
        return self.render("message.html", request, id="", story=None, revealed=False)

    async def _reveal(self, request: web.Request, values: Mapping[str, str]) -> web.Response:
        return await self._story(request, values["id"], reveal=True)

    async def _story(self, request: web.Request, id: str, reveal: bool) -> web.Response:
        story = await self._run(tell, self._producer, id, reveal)
        given = {"id": id, "story": story, "revealed": reveal}
        return self.render("message.html", request, 200 if story else 404, **given)

    async def _dead(self, request: web.Request) -> web.Response:
        status, reason = (request.query.get(name, "") for name in ("status", "reason"))
        counts, letters = await self._run(self._letters, status, reason)
        given = {"counts": counts, "letters": letters, "status": status, "reason": reason}
        given |= {"most": LETTERS_COUNTED, "shown": LETTERS_SHOWN}
        return self.render("dead.html", request, **given)

    def _letters(self, status: str, reason: str) -> tuple[Any, list[Any]]:
        counts, listed = Counter[tuple[str, str]](), list[DeadLetter]()
        for letter in islice(self._producer.dead.list(), LETTERS_COUNTED):
            kind = (str(letter.status), letter.reason or "")
            counts[kind] += 1
            if kind == (status or kind[0], reason or kind[1]) and len(listed) < LETTERS_SHOWN:
                listed.append(letter)
        return counts.most_common(), listed

    async def _audit(self, request: web.Request) -> web.Response:
        found = await self._run(lambda: list(entries(self._producer, ENTRIES_SHOWN)))
        return self.render("audit.html", request, entries=found)

    def _drawer(self, page: campaigns.Page) -> Callable[..., Awaitable[web.StreamResponse]]:
        async def draw(request: web.Request) -> web.StreamResponse:
            found = await self._read(page, dict(request.match_info))
            if page.template == "campaign.html":
                about = await self._run(self._drafts.about, request.match_info["name"])
                found = campaigns.with_lists(found, about, request.match_info["name"])
            if found is None:
                raise Problem(404, "There is no such thing, or it has expired (COURIER_RETENTION).")
            if isinstance(found, Mapping):
                return self.render(page.template, request, **found)
            return await self._send_file(request, found)

        return draw

    async def _read(self, page: campaigns.Page, given: dict[str, str]) -> campaigns.Read:
        """Returns what a page shows; pages that ask for the same at once share it."""
        if not page.template:  # a file, which nobody can share
            whole: campaigns.Read = await self._run(page.read, self._producer, given)
            return whole
        key, now = (page.path, *given.values()), time.monotonic()
        began, work = self._reads.pop(key, (0.0, None))
        if work is None or now - began > EVERY or (work.done() and work.exception()):
            began, work = now, asyncio.ensure_future(self._run(page.read, self._producer, given))
        self._reads[key] = began, work
        if len(self._reads) > MAX_LIVE:
            self._reads.popitem(last=False)
        found: campaigns.Read = await asyncio.shield(work)
        return found

    async def _send_file(self, request: web.Request, parts: Iterator[str]) -> web.StreamResponse:
        """Sends a CSV file as it is read, however large."""
        name = quote(request.match_info["name"])
        headers = {"Content-Disposition": f'attachment; filename="{name}.csv"'}
        response = web.StreamResponse(headers=headers)
        response.content_type, response.charset = "text/csv", "utf-8"
        await response.prepare(request)
        try:
            while text := await self._next(parts):
                async with asyncio.timeout(FILE_SECONDS):
                    await response.write(text.encode())
        except Exception as error:
            if request.transport:
                request.transport.abort()  # the browser says that the file is not whole
            if not isinstance(error, StoreUnavailable | TimeoutError | ConnectionError):
                raise
        return response

    async def _next(self, parts: Iterator[str]) -> str:
        async with self._files:
            return str(await self._run(next, parts, ""))

    # --- forms ------------------------------------------------------------------------------------

    async def _ask(self, request: web.Request) -> web.Response:
        """GET /do/{form}: asks once, as a page."""
        form = self._form(request)
        try:
            values = form.values(request.query, asks=True)
        except WrongValue as wrong:
            raise Problem(400, str(wrong)) from None
        return self._sheet(request, form, values)

    async def _act(self, request: web.Request) -> web.StreamResponse:
        """POST /do/{form}: does it, and says what it did on the page where it leads."""
        form, sent = self._form(request), await request.post()
        given = {name: text for name, text in sent.items() if isinstance(text, str)}
        actions = self._actions(request)
        reveal = self._reveals.get(request.match_info["form"])
        try:
            values, done = form.values(given), request[SESSION].done
            # Sent twice by a double click, it acts once, and says the same. Each look is on record.
            once = "" if reveal else given.get("once", "")
            if (work := done.get(once)) is None:
                work = asyncio.ensure_future(self._run(form.act, actions, values))
                work.add_done_callback(lambda work: work.cancelled() or work.exception())
                if once:
                    done[once] = work
                    if len(done) > MOST_DONE:
                        done.popitem(last=False)
            said = await asyncio.wait_for(asyncio.shield(work), ACT_SECONDS)
        except TimeoutError:
            said = "It takes longer, and goes on by itself: load the page again."
        except StoreUnavailable:
            raise
        except WrongValue as wrong:
            return self._sheet(request, form, given, f"Not done: {wrong}", 422)
        except CourierError as error:
            return self._sheet(request, form, given, f"Not done: {failure(error).message}", 409)
        self._watch.forget()
        self._reads.clear()
        if reveal:
            return await reveal(request, values)
        if said not in request[SESSION].said:
            request[SESSION].said.append(said)
        quoted = {name: quote(text, safe="") for name, text in values.items()}
        raise Problem(303, "", {"Location": form.back.format(**quoted)})

    def _actions(self, request: web.Request) -> Actions:
        return Actions(self._producer, self._actor(request))

    async def _act_for(self, request: web.Request, act: Callable[..., Any], *given: Any) -> Any:
        return await self._run(act, self._actions(request), *given)

    def _form(self, request: web.Request) -> Form:
        if (form := self._forms.get(request.match_info["form"])) is None:
            raise web.HTTPNotFound()
        return form

    def _sheet(
        self,
        request: web.Request,
        form: Form,
        values: Mapping[str, str],
        fault: str = "",
        status: int = 200,
    ) -> web.Response:
        known = {field.name: values.get(field.name, "") for field in form.fields}
        quoted = {name: quote(text, safe="") for name, text in known.items()}
        given = {
            "form": form,
            "values": known,
            "fault": fault,
            "once": secrets.token_urlsafe(12),
            "title": form.title.format(**known).rstrip(": "),
        }
        return self.render(
            "form.html", request, status, **given, back=(form.no or form.back).format(**quoted)
        )


def _visible(value: Any) -> Any:
    """Returns a text with characters escaped that would hide or turn around what stands by it."""
    if not isinstance(value, str) or not _UNSEEN.search(value):
        return value
    return type(value)(_UNSEEN.sub(lambda found: ascii(found[0])[1:-1], value))


def _stamp(time: str) -> str:
    """Returns an instant in ISO 8601 as people read it; all of ours are in UTC."""
    return f"{time[:10]} {time[11:].removesuffix('Z')} UTC" if time.endswith("Z") else time


def _shown(picture: Picture) -> dict[str, Any]:
    look = picture.look
    total = (look.counters.statuses[Status.QUEUED] or 1) if look else 1
    per_second = by_status(picture.speed) if picture.speed else None
    lines = [*look.lanes.items(), (POLL, look.watched)] if look else []
    return {**picture._asdict(), "lines": lines, "total": total, "per_second": per_second}

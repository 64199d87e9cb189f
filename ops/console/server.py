"""The console's HTTP server: logins, sessions, headers and errors; pages are in ``pages.py``."""

from __future__ import annotations

import asyncio
import logging
import re
import socket
import ssl
import warnings
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from hmac import compare_digest
from math import ceil
from pathlib import Path
from typing import Any
from urllib.parse import quote

from aiohttp import BodyPartReader, hdrs, web
from aiohttp.multipart import BadContentDispositionHeader, BadContentDispositionParam
from prometheus_client import CollectorRegistry, Counter, Gauge, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4

from viber_courier import Producer, Settings, StoreUnavailable
from viber_courier.ops.commands.serving import log_failure
from viber_courier.ops.console.accounts import Accounts, Brake, address_in
from viber_courier.ops.console.audit import Actor, record
from viber_courier.ops.console.pages import SESSION, Pages
from viber_courier.ops.console.problems import Problem
from viber_courier.ops.console.sessions import COOKIE, LONGEST_SECONDS, Session, Sessions
from viber_courier.ops.console.upload import PARTS, PATH, UNREADABLE, text_of
from viber_courier.schemas.settings import is_loopback
from viber_courier.store.connection import connect

THREADS = 8
"""Calls to Redis at once; others wait for their turn."""
MAX_BODY = 64 * 2**10
"""Most bytes of a form."""
BODY_SECONDS = 10.0
"""How long a form may take to come."""
END_SECONDS = 1.5
"""How long requests at work may take after TERM; twice that, if they don't heed it."""
OPEN = ("/login", "/healthz", "/metrics", "/static/")
"""Where paths begin that need no login."""
LOCAL = "local"
"""The name of whoever uses a console without logins."""
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; "
    "img-src 'self'; connect-src 'self'; form-action 'self'; base-uri 'none'; "
    "frame-ancestors 'none'",
    "X-Frame-Options": "DENY",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "same-origin",  # with no-referrer, browsers hide a form's origin, too
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}
"""Of every answer."""
_NEXT = re.compile(r"/(?![/\\])[\x21-\x7e]*")

logger = logging.getLogger(__name__)


class Console:
    """The application. ``accounts`` None: no login, and only requests to a loopback name.

    ``trusts_proxy``: a reverse proxy names the client's address, last in X-Forwarded-For.
    """

    def __init__(
        self, settings: Settings, accounts: Accounts | None, trusts_proxy: bool = False
    ) -> None:
        self._settings, self._accounts, self._trusts_proxy = settings, accounts, trusts_proxy
        self._sessions, self._brake = Sessions(), Brake()
        given: Any = {"namespace": "courier", "subsystem": "console"}
        self._registry = given["registry"] = CollectorRegistry()
        self._refused = Counter("logins_refused", "Logins refused.", **given)
        self._open = Gauge("live_pages", "Pages that are open and updated.", **given)

    def app(self) -> web.Application:
        """Returns the routes."""
        for odd in (BadContentDispositionHeader, BadContentDispositionParam):
            warnings.simplefilter("ignore", odd)  # they repeat what anybody may have sent
        self._producer = Producer(
            self._settings, client=connect(self._settings.redis_url, self._settings.namespace)
        )
        self._threads = ThreadPoolExecutor(THREADS, "console")
        self._hashing = ThreadPoolExecutor(1, "hash")  # one at a time: many would take all memory
        self._pages = pages = Pages(self._producer, self._run, self._actor, self._sessions)
        self._open.set_function(lambda: pages.live_pages)
        app = web.Application(middlewares=[self._tell, self._let_in], client_max_size=MAX_BODY)
        app.on_cleanup.append(self._close)
        app.on_response_prepare.append(self._protect)
        pages.add_to(app)
        app.router.add_get("/login", self._ask)
        app.router.add_post("/login", self._login)
        app.router.add_post("/logout", self._logout)
        app.router.add_get("/healthz", self._healthz)
        app.router.add_get("/metrics", self._metrics)
        app.router.add_static("/static/", Path(__file__).parent / "static")
        return app

    async def serve(
        self, listener: socket.socket, context: ssl.SSLContext | None, stop: asyncio.Event
    ) -> None:
        """Serves until ``stop``; then ends after the requests at work."""
        runner = web.AppRunner(self.app(), access_log=None, shutdown_timeout=END_SECONDS)
        await runner.setup()
        await web.SockSite(runner, listener, ssl_context=context).start()
        await stop.wait()
        self._pages.end()
        await runner.cleanup()

    async def _run(self, function: Any, *args: Any) -> Any:
        return await asyncio.get_running_loop().run_in_executor(self._threads, function, *args)

    async def _close(self, _: web.Application) -> None:
        await self._pages.close()
        self._threads.shutdown(cancel_futures=True)
        self._producer.close()

    # --- every request ----------------------------------------------------------------------------

    @web.middleware
    async def _tell(self, request: web.Request, handler: Any) -> web.StreamResponse:
        """Answers with a page whatever goes wrong."""
        request[SESSION] = Session("", "")
        try:
            response: web.StreamResponse = await handler(request)
        except Problem as problem:
            response = self._pages.problem(request, problem.status, str(problem), problem.headers)
        except web.HTTPException as error:
            response = self._pages.problem(request, error.status, error.reason)
        except StoreUnavailable as error:
            response = self._pages.problem(request, 503, str(error))
        except (ConnectionError, asyncio.CancelledError):
            raise  # the client has gone
        except Exception as error:
            log_failure(logger, error)
            response = self._pages.problem(request, 500, "An error of ours: the log says which.")
        if not response.prepared:
            self._keep_session(request, response)
        return response

    async def _protect(self, _: web.Request, response: web.StreamResponse) -> None:
        response.headers.update(HEADERS)

    def _keep_session(self, request: web.Request, response: web.StreamResponse) -> None:
        session = request[SESSION]
        name = _cookie(request)
        if session.nonce and request.cookies.get(name) != self._sessions.cookie(session):
            response.set_cookie(
                name,
                self._sessions.cookie(session),
                max_age=int(LONGEST_SECONDS),
                httponly=True,
                samesite="Strict",
                secure=request.secure or request.headers.get("X-Forwarded-Proto") == "https",
            )

    @web.middleware
    async def _let_in(self, request: web.Request, handler: Any) -> web.StreamResponse:
        if self._accounts is None and not is_loopback(f"http://{request.host}"):
            # A web site that this machine's user visits could act, by a name that leads here.
            raise Problem(403, "Without logins, only requests to a loopback name are let in.")
        by_itself = request.path == "/live" or "X-Refresh" in request.headers
        session = self._sessions.find(request.cookies.get(_cookie(request), ""), by_itself)
        if session is None or (self._accounts is None and not session.who):
            session = self._sessions.start("" if self._accounts else LOCAL)
            fresh = True
        else:
            fresh = False
        request[SESSION] = session
        if request.method == "POST":
            await self._check(request, session, fresh)
        elif request.method not in ("GET", "HEAD"):
            raise web.HTTPMethodNotAllowed(request.method, ["GET", "POST"])
        if not session.who and not request.path.startswith(OPEN):
            if request.path == "/live":
                raise Problem(401, "Log in first.")
            raise Problem(303, "", {"Location": f"/login?next={quote(request.path_qs)}"})
        response: web.StreamResponse = await handler(request)
        return response

    async def _check(self, request: web.Request, session: Session, fresh: bool) -> None:
        """Raises Problem unless a form of ours has sent this request."""
        if request.headers.get("Origin", "").partition("://")[2] != request.host:
            raise Problem(403, "This form was sent by another site.")
        has_list = request.path == PATH
        form = "multipart/form-data" if has_list else "application/x-www-form-urlencoded"
        if request.content_type != form:
            raise Problem(415, "This is no form of ours.")
        try:
            async with asyncio.timeout(BODY_SECONDS):
                if has_list:
                    given: Any = await _first_part(request)
                else:
                    given = (await request.post()).get("token", "")
        except TimeoutError:
            raise Problem(408, "The form did not come in time.") from None
        except UNREADABLE:
            raise Problem(400, "The form can't be read.") from None
        token = given if isinstance(given, str) else ""
        if fresh or not compare_digest(token.encode(errors="replace"), session.token.encode()):
            raise Problem(403, "This form is too old: go back, load the page anew, try again.")

    # --- logins -----------------------------------------------------------------------------------

    async def _ask(self, request: web.Request) -> web.Response:
        """GET /login."""
        return self._pages.render("login.html", request, next=request.query.get("next", "/"))

    async def _login(self, request: web.Request) -> web.Response:
        """POST /login: a new session, whose cookie nobody knew before."""
        form, address = await _texts(request), self._address(request)
        name, password, after = (form.get(each, "") for each in ("name", "password", "next"))
        if wait := ceil(self._brake.wait(address)):
            self._refused.inc()
            logger.warning("login refused", extra={"address": address, "wait": wait})
            said = f"Too many wrong passwords. Try again in {wait} s."
            raise Problem(429, said, {"Retry-After": str(wait)})
        self._brake.count(address)
        if not await self._is_right(name, password):
            self._refused.inc()
            logger.warning("login refused", extra={"address": address})
            given = {"next": after, "fault": "Wrong name or password."}
            return self._pages.render("login.html", request, 403, **given)
        self._brake.forget(address)
        self._sessions.end(request[SESSION])
        request[SESSION] = self._sessions.start(name)
        await self._note(request, "log in")
        return _seen(after if _NEXT.fullmatch(after) else "/")

    async def _is_right(self, name: str, password: str) -> bool:
        if self._accounts is None:
            return False
        loop, check = asyncio.get_running_loop(), self._accounts.is_right
        return await loop.run_in_executor(self._hashing, check, name, password)

    async def _logout(self, request: web.Request) -> web.Response:
        """POST /logout: its cookie is nobody's from now on."""
        await self._note(request, "log out")
        self._sessions.end(request[SESSION])
        request[SESSION] = self._sessions.start("" if self._accounts else LOCAL)
        return _seen("/login" if self._accounts else "/")

    async def _note(self, request: web.Request, what: str) -> None:
        try:
            await self._run(record, self._producer, self._actor(request), what)
        except StoreUnavailable as error:  # who is on duty must see that, so they may log in
            logger.warning("not recorded", extra={"what": what, "error": str(error)})

    def _actor(self, request: web.Request) -> Actor:
        return Actor(request[SESSION].who, self._address(request))

    def _address(self, request: web.Request) -> str:
        named = ",".join(request.headers.getall("X-Forwarded-For", ())).rpartition(",")[2].strip()
        return (self._trusts_proxy and address_in(named)) or request.remote or ""

    async def _healthz(self, _: web.Request) -> web.Response:
        return web.Response(text="ok")

    async def _metrics(self, _: web.Request) -> web.Response:
        text = generate_latest(self._registry)
        return web.Response(body=text, headers={hdrs.CONTENT_TYPE: CONTENT_TYPE_PLAIN_0_0_4})


def _cookie(request: web.Request) -> str:
    """Returns the cookie's name: browsers share cookies among all ports of a host."""
    port = request.host.rpartition(":")[2]
    return f"{COOKIE}-{port}" if port.isdecimal() else COOKIE


def _seen(path: str) -> web.Response:
    return web.Response(status=303, headers={"Location": path})


async def _first_part(request: web.Request) -> str:
    """Returns the token of a form with a file; nothing else of it is read before that is right."""
    request[PARTS] = parts = await request.multipart()
    part = await parts.next()
    if not isinstance(part, BodyPartReader) or part.name != "token":
        return ""
    return await text_of(part)


async def _texts(request: web.Request) -> Mapping[str, str]:
    """Returns a form's texts; files are none."""
    return {name: text for name, text in (await request.post()).items() if isinstance(text, str)}

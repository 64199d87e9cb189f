"""The gateway's HTTP server: routes, logins, health and metrics."""

import asyncio
import json
import logging
import socket
import ssl
import time
from functools import partial
from typing import Any

from aiohttp import hdrs, web
from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4

from viber_courier import AsyncProducer, CourierError, Settings, StoreUnavailable
from viber_courier.ops.commands.serving import log_failure
from viber_courier.ops.gateway.bodies import Bodies
from viber_courier.ops.gateway.events import Events
from viber_courier.ops.gateway.guard import Guard
from viber_courier.ops.gateway.messages import Messages
from viber_courier.ops.gateway.openapi import document
from viber_courier.ops.gateway.problems import SOURCE, Problem, problem
from viber_courier.ops.gateway.tokens import Tokens
from viber_courier.schemas.settings import is_loopback
from viber_courier.store.aio import connect

REDIS_SECONDS = 2.0
"""How long Redis may take to connect and to answer, beside COURIER_REPLICAS_TIMEOUT.

Above the second of a poll's read.
"""
KEEPALIVE_SECONDS = 30.0
"""How long a connection may stay without a request."""
SHUTDOWN_SECONDS = 10.0
"""How long requests at work may take after TERM."""
OPEN = ("/openapi.json", "/healthz", "/readyz", "/metrics")
"""Paths that need no token."""

logger = logging.getLogger(__name__)


class Gateway:
    """The application. ``tokens`` None: every request is let in, without a source."""

    def __init__(self, settings: Settings, tokens: Tokens | None) -> None:
        self._settings, self._tokens, self._at_work = settings, tokens, 0
        self.metrics = Metrics()

    def app(self) -> web.Application:
        """Returns the routes."""
        app = web.Application(middlewares=[self._measure, self._tell, self._let_in])
        self._producer, reader = self._connected(), self._connected()
        self._guard = guard = Guard(self._producer)

        async def close(_: web.Application) -> None:
            await guard.close()
            await self._producer.close()
            await reader.close()

        bodies = Bodies()
        messages = Messages(self._producer, guard, bodies)
        self._events = events = Events(reader, guard, bodies)
        app.on_cleanup.append(close)
        app.router.add_get("/v1/events", events.get, allow_head=False)
        app.router.add_post("/v1/events/ack", events.ack)
        app.router.add_post("/v1/messages", messages.post)
        app.router.add_get("/v1/messages/{id}", messages.get, allow_head=False)
        app.router.add_post("/v1/messages/{id}/cancel", messages.cancel)
        text = json.dumps(document())
        app.router.add_get("/openapi.json", partial(_text, text), allow_head=False)
        app.router.add_get("/healthz", partial(_text, '{"status": "ok"}'), allow_head=False)
        app.router.add_get("/readyz", self._readyz, allow_head=False)
        app.router.add_get("/metrics", self._metrics, allow_head=False)
        return app

    async def serve(
        self, listener: socket.socket, context: ssl.SSLContext | None, stop: asyncio.Event
    ) -> None:
        """Serves until ``stop``; then ends after the requests at work."""
        given: Any = {"access_log": None, "handler_cancellation": True, "shutdown_timeout": 1.0}
        runner = web.AppRunner(self.app(), keepalive_timeout=KEEPALIVE_SECONDS, **given)
        await runner.setup()
        site = web.SockSite(runner, listener, ssl_context=context)
        await site.start()
        await stop.wait()
        await site.stop()
        self._events.end()
        end = time.monotonic() + SHUTDOWN_SECONDS  # aiohttp's own cleanup reads no more of bodies
        while self._at_work and time.monotonic() < end:
            await asyncio.sleep(0.05)
        await runner.cleanup()

    def _connected(self) -> AsyncProducer:
        settings = self._settings
        longest = settings.replicas_timeout if settings.replicas else 0.0
        brief = {"socket_timeout": REDIS_SECONDS + longest, "socket_connect_timeout": REDIS_SECONDS}
        client = connect(settings.redis_url, settings.namespace, **brief)
        return AsyncProducer(settings, client=client)

    @web.middleware
    async def _measure(self, request: web.Request, handler: Any) -> web.StreamResponse:
        started, status = time.monotonic(), 499  # the client has gone
        self._at_work += 1
        try:
            response: web.StreamResponse = await handler(request)
            status = response.status
            return response
        finally:
            self._at_work -= 1
            route = getattr(request.match_info.route.resource, "canonical", "other")
            self.metrics.count(route, request.method, status, time.monotonic() - started)

    @web.middleware
    async def _tell(self, request: web.Request, handler: Any) -> web.StreamResponse:
        """Turns errors into problems. No answer and no log line holds anything of a message."""
        try:
            response: web.StreamResponse = await handler(request)
            return response
        except CourierError as error:
            told = problem(error)
        except Problem as error:
            told = error
        except web.HTTPMethodNotAllowed as error:
            allowed = {"Allow": error.headers["Allow"]}
            told = Problem(405, "the method is not allowed here", allowed)
        except web.HTTPException as error:
            told = Problem(error.status, error.reason)
        except (ConnectionError, asyncio.CancelledError):
            raise  # the client has gone
        except Exception as error:
            log_failure(logger, error)
            told = Problem(500, "an error of the gateway: its log says which")
        return told.response()

    @web.middleware
    async def _let_in(self, request: web.Request, handler: Any) -> web.StreamResponse:
        request[SOURCE] = None
        if self._tokens is None and not is_loopback(f"http://{request.host}"):
            # A web site that this machine's user visits could send, by a name that leads here.
            raise Problem(403, "without tokens, only requests to a loopback name are let in")
        if self._tokens is not None and request.path not in OPEN:
            kind, _, token = request.headers.get(hdrs.AUTHORIZATION, "").partition(" ")
            name = self._tokens.name_of(token.strip()) if kind.lower() == "bearer" else None
            if name is None:
                self.metrics.refused.inc()
                challenge = {"WWW-Authenticate": 'Bearer realm="viber-courier"'}
                raise Problem(401, "send a token: Authorization: Bearer ...", challenge)
            request[SOURCE] = name
        if request.path.startswith("/v1/"):
            self._guard.require()  # before a body is read
        response: web.StreamResponse = await handler(request)
        return response

    async def _readyz(self, _: web.Request) -> web.Response:
        if fault := self._tokens.fault if self._tokens else "":
            raise Problem(503, fault)
        try:
            with self._guard:
                await self._producer.ping()
        except StoreUnavailable:  # its text names hosts, and nobody has shown a token
            raise Problem(503, "the store can't be used now") from None
        return web.json_response({"status": "ok"})

    async def _metrics(self, _: web.Request) -> web.Response:
        text = generate_latest(self.metrics.registry)
        return web.Response(body=text, headers={hdrs.CONTENT_TYPE: CONTENT_TYPE_PLAIN_0_0_4})


class Metrics:
    """What ``/metrics`` shows (docs/metrics.md)."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        labels = ("route", "method", "code")
        given: Any = {"registry": self.registry, "namespace": "courier", "subsystem": "gateway"}
        self._requests = Counter("requests", "Requests answered.", labels, **given)
        self._seconds = Histogram("request_seconds", "Time to an answer.", ("route",), **given)
        self.refused = Counter("tokens_refused", "Requests without a right token.", **given)

    def count(self, route: str, method: str, status: int, seconds: float) -> None:
        """Counts an answer. Unknown paths share a route, so that nobody can add series."""
        method = method if method in ("GET", "POST") else "other"
        self._requests.labels(route, method, status).inc()
        self._seconds.labels(route).observe(seconds)


async def _text(text: str, _: web.Request) -> web.Response:
    return web.Response(text=text, content_type="application/json")

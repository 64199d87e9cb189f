"""The gateway's HTTP server: routes, logins, limits, health and metrics."""

import asyncio
import json
import logging
import time
import traceback
from pathlib import Path
from typing import Any

from aiohttp import hdrs, web
from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4

from viber_courier import AsyncProducer, CourierError, Settings, StoreUnavailable
from viber_courier.ops.gateway.bodies import MAX_BODY
from viber_courier.ops.gateway.events import Events
from viber_courier.ops.gateway.messages import Messages
from viber_courier.ops.gateway.openapi import document
from viber_courier.ops.gateway.problems import RETRY_AFTER, Problem, problem
from viber_courier.ops.gateway.tokens import Tokens

MAX_REQUESTS = 256
"""Requests at work at once, polls of events aside; one more is told to come again."""
KEEPALIVE_SECONDS = 30.0
"""How long a connection may stay without a request."""
OPEN = ("/openapi.json", "/healthz", "/readyz", "/metrics")
"""Paths that need no token."""

logger = logging.getLogger(__name__)


class Gateway:
    """The application. ``tokens`` None: every request is let in, without a source."""

    def __init__(self, settings: Settings, tokens: Tokens | None) -> None:
        self._settings, self._tokens, self._at_work = settings, tokens, 0
        self._is_away = self._is_tried = False
        self.metrics = Metrics()

    def app(self) -> web.Application:
        """Returns the routes."""
        app = web.Application(
            client_max_size=MAX_BODY,
            middlewares=[self._measure, self._tell, self._let_in, self._limit],
        )
        self._producer = AsyncProducer(self._settings)
        reader = AsyncProducer(self._settings)

        async def close(_: web.Application) -> None:
            await self._producer.close()
            await reader.close()

        app.on_cleanup.append(close)
        messages, events = Messages(self._producer), Events(reader)
        app.router.add_get("/v1/events", events.get, allow_head=False)
        app.router.add_post("/v1/events/ack", events.ack)
        app.router.add_post("/v1/messages", messages.post)
        app.router.add_get("/v1/messages/{id}", messages.get, allow_head=False)
        app.router.add_post("/v1/messages/{id}/cancel", messages.cancel)
        text = json.dumps(document())
        app.router.add_get("/openapi.json", lambda _: _text(text), allow_head=False)
        app.router.add_get("/healthz", self._healthz, allow_head=False)
        app.router.add_get("/readyz", self._readyz, allow_head=False)
        app.router.add_get("/metrics", self._metrics, allow_head=False)
        return app

    @web.middleware
    async def _measure(self, request: web.Request, handler: Any) -> web.StreamResponse:
        started, status = time.monotonic(), 499  # the client has gone
        try:
            response: web.StreamResponse = await handler(request)
            status = response.status
            return response
        finally:
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
            # Not the error's own text, which may quote a message.
            place = traceback.extract_tb(error.__traceback__)[-1]
            where = f"{Path(place.filename).name}:{place.lineno}"
            logger.error("request failed", extra={"error": type(error).__name__, "where": where})
            told = Problem(500, "an error of the gateway: its log says which")
        return told.response()

    @web.middleware
    async def _let_in(self, request: web.Request, handler: Any) -> web.StreamResponse:
        request["source"] = None
        if self._tokens is not None and request.path not in OPEN:
            kind, _, token = request.headers.get(hdrs.AUTHORIZATION, "").partition(" ")
            name = self._tokens.name_of(token.strip()) if kind.lower() == "bearer" else None
            if name is None:
                self.metrics.refused.inc()
                challenge = {"WWW-Authenticate": 'Bearer realm="viber-courier"'}
                raise Problem(401, "send a token: Authorization: Bearer ...", challenge)
            request["source"] = name
        response: web.StreamResponse = await handler(request)
        return response

    @web.middleware
    async def _limit(self, request: web.Request, handler: Any) -> web.StreamResponse:
        """Answers at once where Redis is away or too much is at work: nothing is kept waiting.

        While Redis is away, one request at a time tries it.
        """
        if not request.path.startswith("/v1/messages"):
            response: web.StreamResponse = await handler(request)
            return response
        if self._is_away and self._is_tried:
            raise _again("the store can't be used now: repeat with the same ids")
        if self._at_work >= MAX_REQUESTS:
            raise _again("too many requests are at work")
        self._at_work, trial, self._is_tried = self._at_work + 1, self._is_away, self._is_away
        try:
            response = await handler(request)
            self._is_away = False
            return response
        except (Problem, StoreUnavailable) as error:
            self._is_away = isinstance(error, StoreUnavailable) or error.status == 503
            raise
        finally:
            self._at_work -= 1
            self._is_tried = self._is_tried and not trial

    async def _healthz(self, _: web.Request) -> web.Response:
        return web.json_response({"status": "ok"})

    async def _readyz(self, _: web.Request) -> web.Response:
        if fault := self._tokens.fault if self._tokens else "":
            raise Problem(503, fault)
        try:
            await self._producer.ping()
        except StoreUnavailable as error:
            raise Problem(503, str(error)) from None
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


def _again(detail: str) -> Problem:
    return Problem(503, detail, {hdrs.RETRY_AFTER: str(RETRY_AFTER)})


async def _text(text: str) -> web.Response:
    return web.Response(text=text, content_type="application/json")

"""The gateway's HTTP server: routes, logins, limits, health and metrics."""

import asyncio
import logging
import time
from collections.abc import AsyncIterator
from typing import Any

from aiohttp import hdrs, web
from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4

from viber_courier import AsyncProducer, CourierError, StoreUnavailable
from viber_courier.ops.gateway.bodies import MAX_BODY
from viber_courier.ops.gateway.messages import Messages
from viber_courier.ops.gateway.problems import RETRY_AFTER, Problem, problem
from viber_courier.ops.gateway.tokens import Tokens

MAX_REQUESTS = 256
"""Requests at work at once, long polls aside; one more is told to come again."""
AWAY_SECONDS = 1.0
"""How long requests are refused without a try after Redis could not be used."""
KEEPALIVE_SECONDS = 30.0
"""How long a connection may stay without a request."""
OPEN = ("/openapi.json", "/healthz", "/readyz", "/metrics")
"""Paths that need no token."""

logger = logging.getLogger(__name__)


class Gateway:
    """The application. ``tokens`` None: every request is let in, without a source."""

    def __init__(self, producer: AsyncProducer, tokens: Tokens | None) -> None:
        self._producer, self._tokens = producer, tokens
        self._at_work, self._away_until = 0, 0.0
        self.metrics = Metrics()

    def app(self) -> web.Application:
        """Returns the routes."""
        app = web.Application(
            client_max_size=MAX_BODY,
            middlewares=[self._measure, self._tell, self._let_in, self._limit],
        )
        messages = Messages(self._producer)
        app.router.add_post("/v1/messages", messages.post)
        app.router.add_get("/v1/messages/{id}", messages.get, allow_head=False)
        app.router.add_post("/v1/messages/{id}/cancel", messages.cancel)
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
            told = Problem(405, "the method is not allowed here", {hdrs.ALLOW: error.headers["Allow"]})
        except web.HTTPException as error:
            told = Problem(error.status, error.reason)
        except (ConnectionError, asyncio.CancelledError):
            raise  # the client has gone
        except Exception as error:
            logger.error("request failed", extra={"error": type(error).__name__}, exc_info=True)
            told = Problem(500, "an error of the gateway: its log says which")
        if told.status == 503:
            self._away_until = time.monotonic() + AWAY_SECONDS
        return told.response()

    @web.middleware
    async def _let_in(self, request: web.Request, handler: Any) -> web.StreamResponse:
        request["source"] = None
        if self._tokens is not None and request.path not in OPEN:
            kind, _, token = request.headers.get(hdrs.AUTHORIZATION, "").partition(" ")
            name = self._tokens.name_of(token.strip()) if kind.lower() == "bearer" else None
            if name is None:
                self.metrics.refused.inc()
                challenge = {hdrs.WWW_AUTHENTICATE: 'Bearer realm="viber-courier"'}
                raise Problem(401, "send a token: Authorization: Bearer ...", challenge)
            request["source"] = name
        response: web.StreamResponse = await handler(request)
        return response

    @web.middleware
    async def _limit(self, request: web.Request, handler: Any) -> web.StreamResponse:
        """Answers at once where Redis is away or too much is at work: nothing is kept waiting."""
        if not request.path.startswith("/v1/"):
            response: web.StreamResponse = await handler(request)
            return response
        if time.monotonic() < self._away_until:
            raise _again("the store can't be used now: repeat with the same ids")
        if self._at_work >= MAX_REQUESTS:
            raise _again("too many requests are at work")
        self._at_work += 1
        try:
            response = await handler(request)
            return response
        finally:
            self._at_work -= 1

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

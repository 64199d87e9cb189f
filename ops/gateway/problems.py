"""Answers that say what is wrong: problem details (RFC 9457)."""

import json
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

from aiohttp import web

from viber_courier.schemas.errors import (
    CampaignCancelled,
    Conflict,
    CourierError,
    InvalidMessage,
    QueueFull,
)
from viber_courier.store.connection import StoreUnavailable

RETRY_AFTER = 1
"""Seconds after which a client may try again when Redis is away or the queue is full."""
TYPE = "application/problem+json"
SOURCE: web.RequestKey[str | None] = web.RequestKey("source")
"""The name of a request's token; None without tokens."""


class Problem(Exception):
    """Ends a request with a problem. ``more`` has members beside the standard ones."""

    def __init__(self, status: int, detail: str, headers: Mapping[str, str] = {}, **more: Any):
        super().__init__(detail)
        self.status, self.detail, self.headers, self.more = status, detail, dict(headers), more

    def members(self) -> dict[str, Any]:
        """Returns the object that the answer holds. ``title`` is the phrase of the status."""
        title = HTTPStatus(self.status).phrase
        return {"title": title, "status": self.status, "detail": self.detail, **self.more}

    def response(self) -> web.Response:
        """Returns the answer, in ASCII: a field's name may be what UTF-8 can't encode."""
        text = json.dumps(self.members())
        return web.Response(status=self.status, text=text, content_type=TYPE, headers=self.headers)


def again(status: int, detail: str) -> Problem:
    """Returns a problem that a repeat may not meet."""
    return Problem(status, detail, {"Retry-After": str(RETRY_AFTER)})


def invalid(field: str, text: str) -> Problem:
    """Returns the problem of one wrong parameter."""
    return Problem(422, "the request breaks rules: see errors", errors={field: [text]})


def problem(error: CourierError) -> Problem:
    """Returns what an error of a Producer is to a client. The text has no value of a job."""
    if isinstance(error, InvalidMessage):
        return Problem(422, "the message breaks rules: see errors", errors=error.errors)
    if isinstance(error, Conflict):
        return Problem(409, "another message has this id")
    if isinstance(error, CampaignCancelled):
        return Problem(409, str(error))
    if isinstance(error, QueueFull):
        return again(429, "the queue is full")
    if isinstance(error, StoreUnavailable):
        return again(503, "the store can't be used now: repeat with the same ids")
    raise error

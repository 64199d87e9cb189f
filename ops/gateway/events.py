"""``/v1/events``: result events by long poll or as server-sent events, and their acknowledgement.

With tokens, a group belongs to its source: ``crm`` of the token ``shop`` is the group ``shop/crm``,
and only events of that source come.
"""

import asyncio
import json
import re
import time
from typing import Any

from aiohttp import web

from viber_courier import AsyncProducer, EventsMissed
from viber_courier.ops.gateway.bodies import read_json
from viber_courier.ops.gateway.problems import RETRY_AFTER, Problem
from viber_courier.producers.results import Reader, Start
from viber_courier.schemas.event import is_from
from viber_courier.store.connection import store_errors

MAX_POLLS = 40
"""Requests that wait for events at once: each holds a connection to Redis."""
MAX_WAIT = 60
"""Longest wait of a poll, in seconds."""
MAX_EVENTS = 1000
"""Most events of an answer, and most acknowledgements of a request."""
HEARTBEAT = 15.0
"""Seconds of silence after which a comment keeps a stream of events alive."""
_STARTS: dict[str, Start] = {"oldest": "oldest", "new": "new"}
_NAME = re.compile(r"[A-Za-z0-9_.-]{1,64}")
_ENTRY = re.compile(r"[0-9]{1,20}-[0-9]{1,20}")

Json = dict[str, Any]


class Events:
    """The handlers. They need a producer of their own: what waits holds its connections."""

    def __init__(self, producer: AsyncProducer) -> None:
        self._producer, self._polls = producer, 0

    async def get(self, request: web.Request) -> web.StreamResponse:
        """GET /v1/events: waits for events and gives those that are there."""
        reader, most = self._reader(request), _number(request, "max", 1, 100, MAX_EVENTS)
        wait = _number(request, "wait", 0, 0, MAX_WAIT)
        if self._polls >= MAX_POLLS:
            again = {"Retry-After": str(RETRY_AFTER)}
            raise Problem(503, f"{MAX_POLLS} requests wait for events already", again)
        self._polls += 1
        try:
            if "text/event-stream" in request.headers.get("Accept", ""):
                return await self._stream(request, reader, most)
            return web.json_response(await _next(reader, most, wait))
        finally:
            self._polls -= 1

    async def ack(self, request: web.Request) -> web.Response:
        """POST /v1/events/ack: the group does not get these events again."""
        given = await read_json(request)
        ids = given.get("ackids") if isinstance(given, dict) else None
        if not isinstance(ids, list) or not 1 <= len(ids) <= MAX_EVENTS:
            raise _wrong("ackids", f"must be a list of 1 to {MAX_EVENTS}")
        if not all(isinstance(id, str) and _ENTRY.fullmatch(id) for id in ids):
            raise _wrong("ackids", "must be those of events")
        group = self._group(request, given.get("group"))
        reader = self._producer._reader(group, "gateway", "oldest", "")
        with store_errors():
            return web.json_response({"acknowledged": await reader.ack(ids)})

    def _reader(self, request: web.Request) -> Reader:
        query = request.query
        group = self._group(request, query.get("group"))
        consumer, start = (
            query.get("consumer", "gateway"),
            _STARTS.get(query.get("start", "oldest")),
        )
        if not _NAME.fullmatch(consumer):
            raise _wrong("consumer", "must be 1 to 64 of A-Za-z0-9_.-")
        if start is None:
            raise _wrong("start", "must be oldest or new")
        return self._producer._reader(group, consumer, start, request["source"] or "")

    def _group(self, request: web.Request, name: object) -> str:
        if not isinstance(name, str) or not _NAME.fullmatch(name):
            raise _wrong("group", "must be 1 to 64 of A-Za-z0-9_.-")
        source = request["source"]
        return name if source is None else f"{source}/{name}"

    async def _stream(self, request: web.Request, reader: Reader, most: int) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Cache-Control": "no-store"})
        response.content_type = "text/event-stream"
        found = await _next(reader, most, 0)
        await response.prepare(request)
        while True:
            lines = [f"id: {e['ackid']}\ndata: {json.dumps(e)}\n\n" for e in found["events"]]
            if missed := found.get("missed"):
                lines.append(f"event: missed\ndata: {json.dumps(missed)}\n\n")
            await response.write("".join(lines or [": nothing\n\n"]).encode())
            found = await _next(reader, most, HEARTBEAT)


async def _next(reader: Reader, most: int, wait: float) -> Json:
    """Returns the next events; none if none comes within ``wait`` seconds."""
    end, source = time.monotonic() + wait, reader.source
    while True:
        left = max(0.0, end - time.monotonic())
        try:
            with store_errors():
                entries = await reader.read(min(left, 1.0), most)
                found = [(id, fields["event"]) for id, fields in entries if fields]
                ours = [row for row in found if not source or is_from(row[1], source)]
                kept = {id for id, _ in ours}
                others = [id for id, _ in entries if id not in kept]
                if others:
                    await reader.ack(others)
        except EventsMissed as missed:
            span = {"from": missed.since.isoformat(), "to": missed.until.isoformat()}
            return {"events": [], "missed": span}
        events = [{**json.loads(text), "ackid": id} for id, text in ours]
        if events or left == 0.0:
            return {"events": events}
        await asyncio.sleep(0)


def _number(request: web.Request, name: str, least: int, default: int, most: int) -> int:
    text = request.query.get(name, str(default))
    if not re.fullmatch("[0-9]{1,4}", text) or not least <= int(text) <= most:
        raise _wrong(name, f"must be a whole number from {least} to {most}")
    return int(text)


def _wrong(name: str, text: str) -> Problem:
    return Problem(422, "the request breaks rules: see errors", errors={name: [text]})

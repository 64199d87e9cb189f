"""``/v1/events``: result events by long poll or as server-sent events, and their acknowledgement.

With tokens, a group belongs to its source: ``crm`` of the token ``shop`` is the group ``shop/crm``,
and only events of that source come.
"""

import asyncio
import json
import logging
import re
import time
from typing import Any

from aiohttp import web

from viber_courier import AsyncProducer, CourierError, EventsMissed
from viber_courier.ops.gateway.bodies import Bodies
from viber_courier.ops.gateway.guard import Guard
from viber_courier.ops.gateway.problems import SOURCE, Problem, again, invalid
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
STREAM_SECONDS = 600.0
"""How long a stream lasts; the client's next one shows its token again."""
WRITE_SECONDS = 30.0
"""How long a client may leave a stream unread."""
PATIENCE = 5.0
"""Seconds for which a poll passes over other sources' events beyond its wait."""
_STARTS: dict[str, Start] = {"oldest": "oldest", "new": "new"}
NAME = re.compile(r"[A-Za-z0-9_.-]{1,64}")
"""What a group and a consumer may be called."""
ENTRY = re.compile(r"[0-9]{1,19}-[0-9]{1,19}")
"""What an ackid looks like."""

Json = dict[str, Any]
logger = logging.getLogger(__name__)


class Events:
    """The handlers. They need a producer of their own: what waits holds its connections."""

    def __init__(self, producer: AsyncProducer, guard: Guard, bodies: Bodies) -> None:
        self._producer, self._guard, self._bodies = producer, guard, bodies
        self._polls, self._is_over = 0, False

    async def get(self, request: web.Request) -> web.StreamResponse:
        """GET /v1/events: waits for events and gives those that are there."""
        reader, most = self._reader(request), _number(request, "max", 1, 100, MAX_EVENTS)
        wait = _number(request, "wait", 0, 0, MAX_WAIT)
        if self._polls >= MAX_POLLS:
            raise again(503, f"{MAX_POLLS} requests wait for events already")
        self._polls += 1
        try:
            if "text/event-stream" in request.headers.get("Accept", ""):
                return await self._stream(request, reader, most)
            return web.json_response(await self._next(reader, most, wait))
        finally:
            self._polls -= 1

    async def ack(self, request: web.Request) -> web.Response:
        """POST /v1/events/ack: the group does not get these events again."""
        given = await self._bodies.read_json(request)
        ids = given.get("ackids") if isinstance(given, dict) else None
        if not isinstance(ids, list) or not 1 <= len(ids) <= MAX_EVENTS:
            raise invalid("ackids", f"must be a list of 1 to {MAX_EVENTS}")
        if not all(isinstance(id, str) and ENTRY.fullmatch(id) for id in ids):
            raise invalid("ackids", "must be those of events")
        group = self._group(request, given.get("group"))
        reader = self._producer._reader(group, "gateway", "oldest")
        with self._guard, store_errors():
            return web.json_response({"acknowledged": await reader.ack(ids)})

    def end(self) -> None:
        """Lets what waits answer within a second."""
        self._is_over = True

    def _reader(self, request: web.Request) -> Reader:
        query = request.query
        group, consumer = self._group(request, query.get("group")), query.get("consumer", "gateway")
        if not NAME.fullmatch(consumer):
            raise invalid("consumer", "must be 1 to 64 of A-Za-z0-9_.-")
        if (start := _STARTS.get(query.get("start", "oldest"))) is None:
            raise invalid("start", "must be oldest or new")
        return self._producer._reader(group, consumer, start, request[SOURCE] or "")

    def _group(self, request: web.Request, name: object) -> str:
        if not isinstance(name, str) or not NAME.fullmatch(name):
            raise invalid("group", "must be 1 to 64 of A-Za-z0-9_.-")
        source = request[SOURCE]
        return name if source is None else f"{source}/{name}"

    async def _stream(self, request: web.Request, reader: Reader, most: int) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Cache-Control": "no-store"})
        response.content_type = "text/event-stream"
        end, found = time.monotonic() + STREAM_SECONDS, await self._next(reader, most, 0)
        await response.prepare(request)
        while True:
            lines = [f"id: {e['ackid']}\ndata: {json.dumps(e)}\n\n" for e in found["events"]]
            if missed := found.get("missed"):
                lines.append(f"event: missed\ndata: {json.dumps(missed)}\n\n")
            try:
                async with asyncio.timeout(WRITE_SECONDS):
                    await response.write("".join(lines or [": nothing\n\n"]).encode())
                if self._is_over or time.monotonic() > end:
                    return response
                found = await self._next(reader, most, HEARTBEAT)
            except (CourierError, Problem, TimeoutError):  # too late for another answer
                return response

    async def _next(self, reader: Reader, most: int, wait: float) -> Json:
        """Returns the next events; none if none comes within ``wait`` seconds."""
        end, source = time.monotonic() + wait, reader.source
        while True:
            left = 0.0 if self._is_over else max(0.0, end - time.monotonic())
            try:
                with self._guard, store_errors():
                    entries = await reader.read(min(left, 1.0), most)
                    found = [(id, fields["event"]) for id, fields in entries if fields]
                    ours = [row for row in found if not source or is_from(row[1], source)]
                    kept = {id for id, _ in ours}
                    if others := [id for id, _ in entries if id not in kept]:
                        await reader.ack(others)
            except EventsMissed as missed:
                span = {"from": missed.since.isoformat(), "to": missed.until.isoformat()}
                logger.error("events missed", extra={"group": reader.group})
                return {"events": [], "missed": span}
            is_past = not others or time.monotonic() > end + PATIENCE
            if ours or (left == 0.0 and is_past):
                return {"events": [{**json.loads(text), "ackid": id} for id, text in ours]}
            await asyncio.sleep(0)


def _number(request: web.Request, name: str, least: int, default: int, most: int) -> int:
    text = request.query.get(name, str(default))
    if not re.fullmatch("[0-9]{1,4}", text) or not least <= int(text) <= most:
        raise invalid(name, f"must be a whole number from {least} to {most}")
    return int(text)

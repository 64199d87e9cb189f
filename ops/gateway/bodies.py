"""Reads requests' bodies: bounded in size, in depth, in time and, all together, in memory."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, NoReturn

from aiohttp import http_exceptions, web

from viber_courier.ops.gateway.problems import Problem, again

MAX_BODY = 8 * 2**20
"""Most bytes of a body that is read whole."""
MAX_PARTS = 400_000
"""Most brackets and commas of a body. Those of 8 MiB would hold everybody up for a second."""
MAX_HELD = 64 * 2**20
"""Most bytes of all bodies that are being read."""
MAX_LINE = 64 * 2**10
"""Most bytes of a line in a stream of JSON lines."""
CHUNK, CHUNK_BYTES = 500, 2**20
"""Lines of a stream that are given out together, and bytes after which there are fewer."""
READ_SECONDS = 30.0
"""How long a body may take that is read whole, and each line of a stream."""
LINES = ("application/x-ndjson", "application/jsonl")
"""Content types of a stream of JSON lines."""


class Bodies:
    """Knows how much is being read."""

    def __init__(self) -> None:
        self._held = 0

    async def read_json(self, request: web.Request) -> Any:
        """Returns the JSON of a body. Raises Problem."""
        if request.content_type != "application/json":
            raise Problem(415, f"send application/json, or {LINES[0]} to stream messages")
        if (request.content_length or 0) > MAX_BODY:
            raise _large()
        body = bytearray()
        try:
            async with _reading():
                async for part in request.content.iter_any():
                    body += part
                    self._hold(len(part))
                    if len(body) > MAX_BODY:
                        raise _large()
            if sum(map(body.count, b"[{,")) > MAX_PARTS:
                raise Problem(413, "the body has too many parts: send JSON lines")
            return parse(body)
        finally:
            self._held -= len(body)

    async def read_lines(self, request: web.Request) -> AsyncIterator[list[Any]]:
        """Yields the JSON of a stream's lines, many at once; empty lines count for nothing.

        Raises Problem. Close it: it counts the lines as held until the next are asked for.
        """
        rows, size = list[Any](), 0
        try:
            while line := await self._line(request):
                if line.strip():
                    rows.append(parse(line))
                    size += len(line)
                    self._hold(len(line))
                if len(rows) == CHUNK or size >= CHUNK_BYTES:
                    yield rows
                    self._held -= size
                    rows, size = [], 0
            yield rows
        finally:
            self._held -= size

    async def _line(self, request: web.Request) -> bytes:
        too_long = Problem(413, f"a line has at most {MAX_LINE} bytes")
        async with _reading():
            try:
                line = await request.content.readline()
            except http_exceptions.LineTooLong:
                raise too_long from None
        if len(line) > MAX_LINE:
            raise too_long
        return line

    def _hold(self, size: int) -> None:
        self._held += size
        if self._held > MAX_HELD:
            raise again(503, "too much is being read")


def parse(text: bytes | bytearray) -> Any:
    """Returns a JSON value. Raises Problem, also for one that is nested too deep."""
    try:
        return json.loads(text.decode(), parse_constant=_refuse)
    except (ValueError, RecursionError):
        raise Problem(400, "the body is not JSON in UTF-8, or is nested too deep") from None


@asynccontextmanager
async def _reading() -> AsyncIterator[None]:
    try:
        async with asyncio.timeout(READ_SECONDS):
            yield
    except TimeoutError:
        raise Problem(408, f"the body did not come within {READ_SECONDS:g} s") from None
    except (web.RequestPayloadError, http_exceptions.HttpProcessingError):
        raise Problem(400, "the body's length, chunks or compression are broken") from None


def _large() -> Problem:
    return Problem(413, f"a body has at most {MAX_BODY} bytes: send JSON lines")


def _refuse(constant: str) -> NoReturn:
    raise ValueError("NaN and Infinity are no JSON")

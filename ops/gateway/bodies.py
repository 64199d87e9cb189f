"""Reads requests' bodies: bounded in size, in depth and in time."""

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

from aiohttp import web

from viber_courier.ops.gateway.problems import Problem

MAX_BODY = 8 * 2**20
"""Most bytes of a body that is read whole."""
MAX_LINE = 64 * 2**10
"""Most bytes of a line in a stream of JSON lines."""
READ_SECONDS = 30.0
"""How long a body may take that is read whole, and each line of a stream."""
LINES = ("application/x-ndjson", "application/jsonl")
"""Content types of a stream of JSON lines."""


async def read_json(request: web.Request) -> Any:
    """Returns the JSON of a body. Raises Problem."""
    if request.content_type != "application/json":
        raise Problem(415, f"send application/json, or {LINES[0]} to stream messages")
    try:
        async with asyncio.timeout(READ_SECONDS):
            body = await request.read()
    except TimeoutError:
        raise _SLOW from None
    except web.HTTPRequestEntityTooLarge:
        raise Problem(413, f"a body has at most {MAX_BODY} bytes") from None
    return parse(body)


async def read_lines(request: web.Request) -> AsyncIterator[Any]:
    """Yields the JSON of each line of a stream; empty lines count for nothing. Raises Problem."""
    while True:
        try:
            async with asyncio.timeout(READ_SECONDS):
                line = await request.content.readline()
        except TimeoutError:
            raise _SLOW from None
        except ValueError:
            raise _LONG from None
        if not line:
            return
        if len(line) > MAX_LINE:
            raise _LONG
        if line.strip():
            yield parse(line)


def parse(text: bytes) -> Any:
    """Returns a JSON value. Raises Problem, also for one that is nested too deep."""
    try:
        return json.loads(text.decode())
    except (ValueError, RecursionError):
        raise Problem(400, "the body is not JSON in UTF-8, or is nested too deep") from None


_SLOW = Problem(408, f"the body did not come within {READ_SECONDS:g} s")
_LONG = Problem(413, f"a line has at most {MAX_LINE} bytes")

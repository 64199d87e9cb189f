"""``/v1/messages``: takes messages, shows and cancels those of the same source."""

import re
import uuid
from collections.abc import Mapping
from contextlib import aclosing
from typing import Any

from aiohttp import web

from viber_courier import AsyncProducer, CourierError, QueueFull, Record, StoreUnavailable
from viber_courier.ops.commands.looking import event_fields
from viber_courier.ops.gateway.bodies import LINES, Bodies
from viber_courier.ops.gateway.guard import Guard
from viber_courier.ops.gateway.problems import SOURCE, Problem, problem
from viber_courier.schemas.errors import EnqueueError, InvalidMessage
from viber_courier.schemas.fields import ID

MAX_LIST = 1000
"""Most messages of a list; a stream of JSON lines has no limit."""
MAX_TOLD = 1000
"""Most refused lines of a stream that the answer names."""
KEY = re.compile(r"[\x20-\x7e]{1,255}")
"""What an Idempotency-Key may be."""

Json = dict[str, Any]


class Messages:
    """The handlers. A message belongs to its token's source; without tokens, to anybody."""

    def __init__(self, producer: AsyncProducer, guard: Guard, bodies: Bodies) -> None:
        self._producer, self._guard, self._bodies = producer, guard, bodies

    async def post(self, request: web.Request) -> web.Response:
        """POST /v1/messages: one message, a list, or a stream of JSON lines."""
        identity = _Identity(request)
        if request.content_type in LINES:
            return await self._stream(identity, request)
        given = await self._bodies.read_json(request)
        if not isinstance(given, list):
            return await self._one(identity, given)
        if not 1 <= len(given) <= MAX_LIST:
            raise Problem(413 if given else 422, f"a list has 1 to {MAX_LIST} messages")
        results = await self._store(identity, given, 0)
        accepted = sum("id" in result for result in results)
        return _answer(accepted, {"results": results}, len(given) - accepted)

    async def get(self, request: web.Request) -> web.Response:
        """GET /v1/messages/{id}: the record."""
        return web.json_response(event_fields(await self._own(request)))

    async def cancel(self, request: web.Request) -> web.Response:
        """POST /v1/messages/{id}/cancel: whether the message never left, and now never will."""
        record = await self._own(request)
        with self._guard:
            return web.json_response({"cancelled": await self._producer.cancel(record.id)})

    async def _own(self, request: web.Request) -> Record:
        """Returns the record of a message of the request's own source. Raises Problem."""
        id, record, source = request.match_info["id"], None, request[SOURCE]
        if ID.fullmatch(id):
            with self._guard:
                record = await self._producer.get(id)
        if record is None or (source is not None and record.source != source):
            raise Problem(404, "no message of yours has this id")
        return record

    async def _one(self, identity: "_Identity", given: Any) -> web.Response:
        job = identity.job(given, 0)
        with self._guard:
            id = await self._producer.enqueue(job)
        return web.json_response({"id": id}, status=202)

    async def _store(self, identity: "_Identity", rows: list[Any], first: int) -> list[Json]:
        """Returns each row's id, or its problem. Raises Problem if the rows must be repeated."""
        results = list[Json]([{} for _ in rows])
        jobs = list[Any]()
        for row, given in enumerate(rows):
            try:
                jobs.append((row, identity.job(given, first + row)))
            except InvalidMessage as error:
                results[row] = problem(error).members()

        def refuse(number: int, _: Any, error: EnqueueError) -> None:
            results[jobs[number][0]] = problem(error).members()

        try:
            with self._guard:
                given = (job for _, job in jobs)
                ids = iter(await self._producer.enqueue_many(given, on_invalid=refuse))
        except (QueueFull, StoreUnavailable) as error:
            told = problem(error)
            told.more["accepted"] = [*error.accepted]
            raise told from error
        return [result or {"id": next(ids)} for result in results]

    async def _stream(self, identity: "_Identity", request: web.Request) -> web.Response:
        accepted = refused = 0
        told = list[Json]()
        try:
            async with aclosing(self._bodies.read_lines(request)) as chunks:  # type: ignore[type-var]
                async for rows in chunks:
                    identity.require(rows)
                    first = accepted + refused
                    for row, result in enumerate(await self._store(identity, rows, first), first):
                        if "id" in result:
                            accepted += 1
                            continue
                        refused += 1
                        if len(told) < MAX_TOLD:
                            told.append({"row": row, **result})
        except (Problem, CourierError) as error:  # what was stored stays: a repeat is safe
            ended = error if isinstance(error, Problem) else problem(error)
            ended.more["accepted"] = accepted + len(ended.more.get("accepted", ()))
            raise ended from None
        return _answer(accepted, {"accepted": accepted, "refused": told}, refused)


class _Identity:
    """Gives messages their source, and ids made of the ``Idempotency-Key``."""

    def __init__(self, request: web.Request) -> None:
        self._source = request[SOURCE]
        self._key = request.headers.get("Idempotency-Key")
        if self._key is not None and not KEY.fullmatch(self._key):
            raise Problem(400, "Idempotency-Key must be 1 to 255 characters of ASCII")

    def job(self, given: Any, row: int) -> Any:
        """Returns the job of a message; ``row`` is its number in the request.

        Raises InvalidMessage if it names another source.
        """
        if not isinstance(given, Mapping):
            return given
        job = dict(given)
        if self._source is not None and job.setdefault("source", self._source) != self._source:
            raise InvalidMessage({"source": ["is your token's name: leave it out"]})
        if self._key and job.get("id") is None:
            name = f"{self._source or ''}\n{self._key}\n{row}"
            job["id"] = str(uuid.uuid5(uuid.NAMESPACE_OID, name))
        return job

    def require(self, rows: list[Any]) -> None:
        """Raises Problem for messages that a repeated stream would send again."""
        if not self._key and any(isinstance(r, Mapping) and r.get("id") is None for r in rows):
            detail = "a stream needs an Idempotency-Key, or an id in each line"
            raise Problem(422, f"{detail}: else a repeat would send twice")


def _answer(accepted: int, body: Json, refused: int) -> web.Response:
    """Returns 202 if anything was accepted or nothing was refused; else 422."""
    return web.json_response(body, status=202 if accepted or not refused else 422)

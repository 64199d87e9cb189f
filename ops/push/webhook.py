"""Sends a group's events to its endpoint: ``Webhook``.

One process at a time holds the group's lease. It copies events from the stream of results to the
group's own (outbox.py), from there into memory (``Line``), and removes them when the endpoint has
taken them. An event is sent only after those before it, of its message, were taken or put aside. So
the first copy of each that a receiver sees is in order, also beside a process that was stopped and
sends on.
"""

import asyncio
import logging
import random
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import redis

from viber_courier import AsyncEvent, AsyncProducer, StoreUnavailable, aconsume
from viber_courier.ops.push.endpoint import Endpoint
from viber_courier.ops.push.line import TICK, TRIES, Failure, Line, Waiting
from viber_courier.ops.push.outbox import LEASE, PAGE, Outbox, age
from viber_courier.ops.push.serving import Metrics, as_json
from viber_courier.producers.results import Start
from viber_courier.store.connection import is_transient, store_errors
from viber_courier.store.refusals import reason

CONSUMER = "webhook"
"""The consumer of all processes of a group: each begins with what another had read."""
GONE = "http-410"
REMOVE_EVERY = 0.05
"""Seconds between removals of what was taken: a sender that is killed repeats no more than that."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Options:
    """``batch`` 0: an event a request, no list. ``give_up``: seconds."""

    group: str
    source: str
    start: Start
    batch: int
    concurrency: int
    give_up: float


class Webhook:
    """Sends until ``stop``, or until the endpoint is gone (``is_gone``)."""

    def __init__(
        self,
        producer: AsyncProducer,
        endpoint: Endpoint,
        options: Options,
        metrics: Metrics,
        stop: asyncio.Event,
    ) -> None:
        self._producer, self._endpoint, self._options = producer, endpoint, options
        self._metrics, self._stop, self.is_gone = metrics, stop, False
        self._outbox = Outbox(producer.redis, producer.settings.namespace, options.group)
        self._lease, self._wake = self._outbox.lease, asyncio.Event()
        self._taken, self._has_more = list[str](), True
        """Entries that the endpoint has taken, to be removed; whether more may wait in Redis."""

    async def run(self) -> None:
        """Sends whenever this process has the lease. Raises StoreUnavailable if Redis refuses."""
        async with self._endpoint:
            while not self._stop.is_set():
                pause = TICK
                try:
                    with store_errors(self._producer.redis):
                        if is_held := await self._lease.acquire():
                            await self._remove()  # of a turn that Redis's outage ended: read next
                except StoreUnavailable as error:
                    if not is_transient(error.__cause__):
                        raise
                    logger.warning("lease not asked for", extra={"error": str(error)})
                    is_held, pause = False, LEASE
                if is_held:
                    await self._send_all()
                await self._pause(pause)

    async def _pause(self, seconds: float) -> None:
        with suppress(TimeoutError):
            await asyncio.wait_for(self._stop.wait(), seconds)

    def is_set(self) -> bool:
        """Returns whether this process's turn has ended. It is what ``aconsume`` is stopped by."""
        return self._stop.is_set() or not self._lease.is_held

    async def wait(self) -> None:
        """Waits for the end of the program."""
        await self._stop.wait()

    async def _send_all(self) -> None:
        """Sends while the lease lasts."""
        options, until, keeper = self._options, self, asyncio.create_task(self._keep())
        given: Any = {"consumer": CONSUMER, "source": options.source, "start": options.start}
        given["batch"] = PAGE
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(
                    aconsume(self._producer, options.group, self._copy, stop=until, **given)  # type: ignore[arg-type]
                )
                tasks.create_task(self._remove_taken())
                await self._dispatch(tasks)
        except ExceptionGroup as several:
            raise several.exceptions[0] from None
        finally:
            keeper.cancel()
            self._metrics.show()
            with suppress(redis.RedisError):
                await self._remove()
                await self._lease.release()

    async def _keep(self) -> None:
        while self._lease.is_held:
            with suppress(redis.RedisError):
                await self._lease.renew()
                self._metrics.show(active=1, **await self._outbox.sizes())
            await asyncio.sleep(TICK)

    async def _copy(self, events: list[AsyncEvent]) -> None:
        """Handles events of the stream of results: they are acknowledged when it returns."""
        namespace = self._producer.settings.namespace
        texts = [(event.subject, event.id, as_json(event, namespace)) for event in events]
        while not self.is_set():
            try:
                await self._outbox.add(texts)
            except redis.RedisError as error:  # what is sent meanwhile makes room in a full Redis
                logger.warning("events not copied", extra={"error": reason(error)})
                await self._pause(TICK)
            else:
                self._has_more = True
                self._wake.set()
                return
        raise asyncio.CancelledError  # ends the reading; they come again in the next turn

    async def _dispatch(self, tasks: asyncio.TaskGroup) -> None:
        options, after, ticked, is_away = self._options, "0", float("-inf"), False
        line = Line(max(1, options.batch), options.concurrency, _jitter)
        while not self.is_set():
            self._wake.clear()
            if time.monotonic() >= ticked + TICK:  # another process may have added some
                ticked, self._has_more, is_away = time.monotonic(), True, False
            try:
                if not is_away and self._has_more and line.room >= PAGE:
                    self._has_more = False
                    found = await self._outbox.read(after, line.room)
                    line.add(found)
                    if found:
                        after, self._has_more = found[-1].entry, True
            except redis.RedisError as error:
                is_away = True  # until the next tick
                logger.warning("waiting events not read", extra={"error": reason(error)})
            self._start(tasks, line)
            if is_away or not self._has_more or line.room < PAGE:
                with suppress(TimeoutError):
                    await asyncio.wait_for(self._wake.wait(), line.wait(time.monotonic()))

    def _start(self, tasks: asyncio.TaskGroup, line: Line) -> None:
        """Begins the requests that may be at work now."""
        while not self.is_set() and (events := line.take(time.monotonic())):
            tasks.create_task(self._post(tasks, line, events))

    async def _post(self, tasks: asyncio.TaskGroup, line: Line, events: Sequence[Waiting]) -> None:
        if self.is_set():  # since it was begun: a process can be stopped anywhere
            return
        begun = time.monotonic()
        failure = await self._endpoint.post(events, bool(self._options.batch))
        if failure is None:
            line.succeeded(events, begun)
            self._taken += [event.entry for event in events]
            self._metrics.succeeded(len(events))
        else:
            about = {"event_id": events[0].id, "events": len(events), "reason": failure.reason}
            logger.warning("events not taken", extra=about)
            self._metrics.failed(failure.reason)
            if failure.reason == GONE:
                self.is_gone = True
                self._stop.set()
            is_given_up = await self._gave_up(line, events, failure)
            line.failed(events, failure, begun, time.monotonic(), is_given_up)
        self._start(tasks, line)  # at once: the loop may wait for Redis
        self._wake.set()

    async def _gave_up(self, line: Line, events: Sequence[Waiting], failure: Failure) -> bool:
        """Puts an event aside that goes on failing after it has waited for so long."""
        event, is_general = events[0], failure.is_general or self.is_gone or len(events) > 1
        is_old = age(event.entry, time.time()) >= self._options.give_up
        if is_general or not is_old or line.failures(event) < TRIES - 1:
            return False
        try:
            await self._outbox.put_aside(event, failure.reason)
        except redis.RedisError as error:
            logger.warning("event not put aside", extra={"error": reason(error)})
            return False
        logger.error("event put aside", extra={"event_id": event.id, "reason": failure.reason})
        return True

    async def _remove_taken(self) -> None:
        while not self.is_set():
            pause = REMOVE_EVERY
            try:
                await self._remove()
            except redis.RedisError as error:
                pause = TICK
                logger.warning("taken events not removed", extra={"error": reason(error)})
            await asyncio.sleep(pause)

    async def _remove(self) -> None:
        while taken := self._taken[:500]:
            await self._outbox.remove(taken)
            del self._taken[: len(taken)]


def _jitter(seconds: float) -> float:
    return random.uniform(seconds / 2, seconds)  # noqa: S311 (not a secret)

"""The one reader of Redis behind all open pages: a look each second, while somebody watches."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any, NamedTuple

import redis

from viber_courier import CourierError, Producer
from viber_courier.ops.commands import health
from viber_courier.ops.commands.findings import ERROR, OK, Finding
from viber_courier.ops.commands.live import BrokerUnavailable
from viber_courier.ops.commands.top import Rates, rates
from viber_courier.ops.look import Look, take_look
from viber_courier.store.connection import StoreUnavailable, store_errors

EVERY = 1.0
"""Seconds between two looks."""
OVER = 10
"""Looks over which rates are taken."""
LINGER = 5.0
"""Seconds for which it goes on looking after the latest page has asked."""
STORE_EVERY, WORKERS_EVERY = 15.0, 60.0
"""Seconds between two checks of the store, and of workers and the broker, as doctor makes them."""

Run = Callable[..., Awaitable[Any]]
logger = logging.getLogger(__name__)


class Picture(NamedTuple):
    """What pages show. ``look``: the latest that succeeded. ``fault``: why the one after it failed.

    ``alerts``: what doctor would warn of. ``checked``: whether it has looked at workers, too.
    """

    look: Look | None
    speed: Rates | None
    alerts: list[Finding]
    checked: bool
    fault: str


class Watch:
    """Gives pictures to any number of pages. ``run`` calls a function in a thread."""

    def __init__(self, producer: Producer, run: Run) -> None:
        self._producer, self._run = producer, run
        self._looks = deque[Look](maxlen=OVER + 1)
        self._store: list[Finding] = []
        self._workers: list[Finding] | None = None
        self._due = {self._check_store: 0.0, self._check_workers: 0.0}
        self._checks = dict[Any, asyncio.Task[None]]()
        self._fault, self._number, self._wanted = "", 0, 0.0
        self._picture = self._drawn()
        self._old, self._hurry = 0, asyncio.Event()
        self._news = asyncio.Condition()
        self._task: asyncio.Task[None] | None = None

    async def next(self, after: int = -1) -> tuple[int, Picture]:
        """Returns the first picture with a higher number than ``after``, and its number."""
        self._wanted = time.monotonic() + LINGER
        if self._task is None or self._task.done():
            self._old = self._number  # seen by the last page of earlier
            self._task = asyncio.create_task(self._look_on())
        async with self._news:
            await self._news.wait_for(lambda: self._number > max(after, self._old))
        return self._number, self._picture

    def forget(self) -> None:
        """Notes that somebody has changed something: what was seen before is shown no more."""
        self._due[self._check_store] = 0.0
        self._old = self._number + 1  # a look may be on its way
        self._hurry.set()

    async def close(self) -> None:
        """Ends the looks."""
        tasks = [task for task in (self._task, *self._checks.values()) if task]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _drawn(self) -> Picture:
        look = self._looks[-1] if self._looks else None
        first = self._looks[0] if len(self._looks) > 1 else None
        found = [*self._store, *(self._workers or ())]
        alerts = sorted((each for each in found if each.severity > OK), key=lambda f: -f.severity)
        speed = rates(first, look) if look else None
        return Picture(look, speed, alerts, self._workers is not None, self._fault)

    async def _look_on(self) -> None:
        self._looks.clear()
        while time.monotonic() < self._wanted:
            began = time.monotonic()
            for check, due in self._due.items():
                if began >= due and (check not in self._checks or self._checks[check].done()):
                    every = STORE_EVERY if check == self._check_store else WORKERS_EVERY
                    self._due[check] = began + every
                    self._checks[check] = asyncio.create_task(check())
            try:
                self._looks.append(await self._run(self._look))
                self._fault = ""
            except StoreUnavailable as error:
                self._fault = str(error)
            except Exception as error:  # a page that waits for ever would say nothing
                self._fault = f"The look at Redis failed: {type(error).__name__}"
                logger.error("look failed", extra={"error": type(error).__name__})
            self._picture = self._drawn()  # once: all who ask for this number see the same
            async with self._news:
                self._number += 1
                self._news.notify_all()
            if self._number > self._old:
                self._hurry.clear()
            with suppress(TimeoutError):
                wait = max(0.1, began + EVERY - time.monotonic())
                await asyncio.wait_for(self._hurry.wait(), wait)

    def _look(self) -> Look:
        with store_errors(self._producer.redis):
            return take_look(self._producer.redis, self._producer.settings.namespace)

    async def _check_store(self) -> None:
        self._store = await self._run(_listed, health.store_findings, self._producer)

    async def _check_workers(self) -> None:
        self._workers = await self._run(_listed, health.worker_findings, self._producer)


def _listed(check: Callable[..., Any], producer: Producer) -> list[Finding]:
    try:
        return list(check(producer.redis, producer.settings))
    except BrokerUnavailable as error:
        return [Finding(ERROR, "broker", str(error), error.do)]
    except (CourierError, redis.RedisError) as error:
        return [health.away(error)]
    except Exception as error:
        return [Finding(ERROR, "doctor", f"failed: {type(error).__name__}", "run courier doctor")]

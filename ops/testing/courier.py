"""The courier of an app's tests: what the app asked for, and what becomes of it."""

from __future__ import annotations

import functools
import inspect
import sys
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from itertools import count
from typing import Any
from unittest.mock import patch

from viber_courier.ops.testing.calls import CALLS, Asked, Book, Fault
from viber_courier.ops.testing.life import Impossible, Life
from viber_courier.ops.testing.memory import in_memory
from viber_courier.producers.client import Producer
from viber_courier.schemas.errors import QueueFull
from viber_courier.schemas.settings import Settings
from viber_courier.store.connection import StoreUnavailable
from viber_courier.store.keys import Keys

FIRST_ID = 3158611117333282817
"""The provider's first id: of a size that floats can't hold, as in life."""
_TEXTS: dict[type[Exception], tuple[Any, ...]] = {
    StoreUnavailable: ("Redis can't be used now: the test said so",),
    QueueFull: (1,),
}
"""What errors are made of that ``fail_next`` gets as classes."""


class Courier:
    """Takes the place of Redis, workers and provider while it is entered.

    Every Producer and AsyncProducer of the process then works in memory, wherever and whenever it
    was made. Its scripts and a worker's decide, so what can't happen raises Impossible here: a
    message that has ended is not delivered.
    """

    def __init__(self) -> None:
        self._book, self._stack = Book(), ExitStack()
        self._producer: Producer | None = None
        self._numbers, self._lives = count(FIRST_ID), dict[Settings, Life]()

    def __enter__(self) -> Courier:
        with ExitStack() as stack:
            self._client = stack.enter_context(in_memory())
            if outbox := sys.modules.get("viber_courier.django.outbox"):  # a Redis that was away
                stack.enter_context(patch.object(outbox, "_pause_until", 0.0))
            for owner, name, make in CALLS:
                original = inspect.unwrap(getattr(owner, name))  # not another Courier's
                made = functools.wraps(original)(make(self._book, original))
                stack.enter_context(patch.object(owner, name, made))
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.close()

    @property
    def outbox(self) -> list[Asked]:
        """Returns what was accepted of the app, in order. The list is the test's own."""
        return self._book.outbox

    @property
    def producer(self) -> Producer:
        """Returns a Producer for the test itself, made by ``Producer.from_env()``."""
        self._producer = self._producer or Producer.from_env()
        return self._producer

    def accept(self, ids: str | Iterable[str]) -> None:
        """Has the provider accept waiting messages: they are ``submitted``."""
        for id, life in self._each(ids):
            life.accept(id)

    def deliver(self, ids: str | Iterable[str]) -> None:
        """Has Viber deliver messages: they are ``delivered``, and may still be read."""
        for id, life in self._each(ids):
            life.deliver(id)

    def sms(self, ids: str | Iterable[str], state: str, reason: str | None = None) -> None:
        """Has the SMS be ``enqueued``, ``sent``, ``delivered`` or ``undelivered``.

        ``reason`` is the provider's word for why Viber did not reach the person.
        """
        for id, life in self._each(ids):
            life.sms(id, state, reason)

    def finish(self, ids: str | Iterable[str], status: str, reason: str | None = None) -> None:
        """Ends messages in this status. One that waits is accepted first, where that is due."""
        for id, life in self._each(ids):
            life.finish(id, status, reason)

    def fail_next(
        self, error: type[Exception] | Exception, *, after: int = 0, stored: bool = False
    ) -> None:
        """Has a Producer's next call raise this error. Two such lines: the next two calls.

        Calls are ``enqueue``, ``enqueue_many``, ``get``, ``cancel``, ``ping`` and each read of
        ``results``. ``after``: rows that ``enqueue_many`` stores before. ``stored``: the call does
        its work, and only its answer is lost.
        """
        if isinstance(error, type):
            error = error(*_TEXTS.get(error, ()))
        if not isinstance(error, Exception):
            raise TypeError(f"fail_next takes an exception or its class, not {error!r}")
        self._book.faults.append(Fault(error, after, stored))

    def full(self, is_full: bool = True) -> None:
        """Has the queue be full, so that ``enqueue`` raises QueueFull, until ``full(False)``."""
        self._book.is_full = is_full

    def _each(self, ids: str | Iterable[str]) -> Iterator[tuple[str, Life]]:
        found: Any = self._client.keys("{*}:counts")  # each namespace has it from its first message
        namespaces = [key[1:].partition("}")[0] for key in found]
        for id in [ids] if isinstance(ids, str) or not isinstance(ids, Iterable) else ids:
            for name in namespaces:
                if self._client.exists(f"{Keys(name).records}{id}"):
                    settings = self._book.settings_of(name)
                    if settings not in self._lives:
                        self._lives[settings] = Life(self._client, settings, self._numbers)
                    yield id, self._lives[settings]
                    break
            else:
                raise Impossible(f"there is no message with the id {id!r}")


class CourierMixin:
    """Gives each test of a ``unittest.TestCase`` an entered Courier, ``self.courier``."""

    courier: Courier

    def run(self, result: Any = None) -> Any:
        """Runs the test, its setUp and its tearDown with a courier."""
        with Courier() as self.courier:
            return super().run(result)  # type: ignore[misc]

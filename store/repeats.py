"""Repeats a call until Redis answers, and until enough replicas have what it wrote."""

import logging
import time
from collections.abc import Callable
from typing import Any

import redis

from viber_courier.store.connection import is_transient
from viber_courier.store.refusals import report
from viber_courier.store.replicas import TooFewReplicas

logger = logging.getLogger(__name__)

RETRY_PAUSE = 0.2
"""Seconds between repeats of a call that Redis has not answered."""


def call_until(
    call: Callable[[], Any], name: str, ends: float, kept_until: float
) -> tuple[Any, bool]:
    """Returns the reply to a script's call, and whether enough replicas have what it wrote.

    Gives up on replicas at ``kept_until``; raises the last other error at ``ends`` (monotonic).
    """
    while True:
        try:
            return call(), True
        except redis.RedisError as error:
            now = time.monotonic() + RETRY_PAUSE
            if isinstance(error, TooFewReplicas) and now >= min(kept_until, ends):
                logger.error("not replicated", extra={"script": name, "error": str(error)})
                return error.reply, False
            # A refusal is waited for only with an answer in hand: someone may end it.
            refused = name == "settle" and report(error)
            if now >= ends or not (refused or is_transient(error)):
                raise
            if not refused:
                more = {"script": name, "error": type(error).__name__}
                logger.warning("redis did not answer", extra=more)
            time.sleep(RETRY_PAUSE)

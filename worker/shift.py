"""Runs one task: claims lease after lease, until nothing is due or the time is used up."""

import time
from collections.abc import Callable
from typing import TypeVar

from viber_courier.schemas.settings import Settings
from viber_courier.store.leases import Lease, RateLimited
from viber_courier.store.records import Waiting, Watched
from viber_courier.store.refusals import reported

BUDGET = 1.0
"""Seconds after which a task claims no more: other tasks may be waiting for its slot."""

M = TypeVar("M", Waiting, Watched)


def task_limit(settings: Settings) -> float:
    """Returns the seconds after which a task is killed: less than a lease."""
    return settings.lease - min(1.0, settings.lease / 20)


def budget(settings: Settings) -> float:
    """Returns the seconds after which a task begins no request, so that the last ends in time."""
    return max(0.0, min(BUDGET, task_limit(settings) - settings.deadline))


def work_off(
    claim: Callable[[bool], Lease[M] | RateLimited | None],
    serve: Callable[[Lease[M]], bool],
    wake: Callable[[], None],
    seconds: float,
) -> None:
    """Claims and serves one lease after the other, for about so many ``seconds``.

    ``serve`` returns whether to claim again even if nothing else was due. If it has when the time
    is used up, or the rate limit has kept messages back, calls ``wake``. Logs what Redis refuses.
    """
    with reported():
        end, answered = time.monotonic() + seconds, True
        while (got := claim(answered)) is not None:
            if isinstance(got, RateLimited):
                time.sleep(got.seconds)
                answered, is_left = True, True
            else:
                again = serve(got)
                answered, is_left = False, again or got.out_of_tokens
                if not (got.more or again):
                    return
            if time.monotonic() >= end:
                if is_left:
                    wake()
                return

"""What one doorbell leads to: lease after lease, until nothing is due or the time is used up."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import TypeVar

from viber_courier.store.leases import Later, Lease

M = TypeVar("M")


def leases(
    claim: Callable[[bool], Lease[M] | Later | None], ring: Callable[[], None], seconds: float
) -> Iterator[Lease[M]]:
    """Leases to work off one after the other, for about so many ``seconds``.

    Rings for idle slots before the first call of a lease, and at the end for what the rate limit
    has left. Whoever works one off may set its ``more``.
    """
    end, answered = time.monotonic() + seconds, True
    while (got := claim(answered)) is not None:
        if isinstance(got, Later):
            time.sleep(got.seconds)
            answered, left = True, True
        else:
            if got.ring:
                ring()
            yield got
            answered, left = False, got.dry
            if not got.more:
                return
        if time.monotonic() >= end:
            if left:
                ring()
            return

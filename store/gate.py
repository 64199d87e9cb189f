"""The gate's figures, and what a request tells it; its arithmetic is lua/lib/gate.lua."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from viber_courier.schemas.lanes import LANES
from viber_courier.schemas.settings import Settings

FAILURES = 5
"""Failed requests in a row that close the gate."""
FIRST, LONGEST = 1.0, 60.0
"""Seconds that it closes for at first, and at most; each opening in a row doubles them."""
REFUSALS = 20
"""Messages refused alone in a row, none accepted between, that are an answer about us."""


@dataclass(frozen=True, slots=True)
class Shown:
    """``pause`` in seconds closes the gate whatever came before; ``both`` that of /status too."""

    verdict: Literal["good", "bad", "refused", ""] = ""
    taken: bool = False
    pause: float = 0.0
    reason: str = ""
    both: bool = False


def resent_by_default(settings: Settings, sets: int) -> str:
    """A character for each lane set, most urgent first: "1" where unsure messages are resent.

    Those make the better probe: if its answer is lost too, nothing is parked.
    """
    flags = "".join("1" if settings.unsure_policy(lane) == "resend" else "0" for lane in LANES)
    return "".join(flag * 2 for flag in flags)[:sets]

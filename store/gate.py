"""The gate and the rate limit that all workers share, and what a request reports to the gate.

lua/lib/gate.lua and lua/lib/bucket.lua do their arithmetic.
"""

from dataclasses import asdict, dataclass
from typing import Any, Literal

from viber_courier.schemas.instants import SECOND, micros
from viber_courier.schemas.lanes import LANES
from viber_courier.schemas.settings import Settings

FAILURES = 5
"""Failed requests in a row that close the gate."""
PAUSE, MAX_PAUSE = 1.0, 60.0
"""Seconds that the gate closes for, at first and at most. Each closing in a row doubles them."""
REFUSALS = 20
"""Messages refused alone in a row, with none accepted between, that close the gate."""
RATE_SLICE = 0.1
"""Seconds of the rate that a claim waits for, so that messages share a request."""


RATE_SLICE = 0.1
"""Seconds of the rate that a claim waits for, so that messages share a request."""


@dataclass(frozen=True, slots=True)
class ProviderSignal:
    """What a request shows of the provider.

    ``accepted``: it accepted a message. ``pause``: seconds to close the gate for, whatever came
    before (0: none); ``both``: close the other gate, too. ``silent``: an answered /status that says
    nothing about any message.
    """

    verdict: Literal["good", "bad", "refused", ""] = ""
    accepted: bool = False
    pause: float = 0.0
    reason: str = ""
    both: bool = False
    silent: bool = False


def signal_values(
    signal: ProviderSignal, settings: Settings, name: str, begun: int
) -> dict[str, Any]:
    """Returns a signal and the gate's limits, as gate.lua reads them; ``begun`` in microseconds."""
    figures = {"limit": FAILURES, "most": REFUSALS, "base": micros(PAUSE), "cap": micros(MAX_PAUSE)}
    request = {"name": name, "begun": begun, "takes": micros(settings.deadline)}
    return {**asdict(signal), **figures, **request, "pause": micros(signal.pause)}


def resent_by_default(settings: Settings, sets: int) -> str:
    """Returns a character for each lane set, most urgent first: "1" if it resends when unsure.

    Messages of such a set are preferred as probes: if the answer is lost, none is parked.
    """
    resent = [settings.unsure_policy(lane) == "resend" for lane in LANES]
    return "".join("11" if each else "00" for each in resent)[:sets]


def rate_values(limit: float, burst: float) -> dict[str, float]:
    """Returns claim.lua's arguments for ``limit`` tokens a second (0: none), ``burst`` at most."""
    wanted = max(1, int(limit * RATE_SLICE))
    return {"cost": SECOND / limit if limit else 0, "burst": max(1.0, burst), "wanted": wanted}

"""The gate that all workers share: its figures, and what a request tells it.

Its arithmetic is lua/lib/gate.lua.
"""

from dataclasses import asdict, dataclass
from typing import Any, Literal

from viber_courier.schemas.instants import micros
from viber_courier.schemas.lanes import LANES
from viber_courier.schemas.settings import Settings

FAILURES = 5
"""Failed requests in a row that close the gate."""
FIRST, LONGEST = 1.0, 60.0
"""Seconds that it closes for at first, and at most; each closing in a row doubles them."""
REFUSALS = 20
"""Messages refused alone in a row, none accepted between, that are an answer about us."""


@dataclass(frozen=True, slots=True)
class ProviderSignal:
    """What a request has shown of the provider.

    ``accepted``: something was. ``pause`` in seconds closes the gate whatever came before; ``both``
    that of /status too.
    """

    verdict: Literal["good", "bad", "refused", ""] = ""
    accepted: bool = False
    pause: float = 0.0
    reason: str = ""
    both: bool = False


def signal_values(
    signal: ProviderSignal, settings: Settings, name: str, begun: int
) -> dict[str, Any]:
    """Returns a signal with the gate's figures, as gate.lua takes it; ``begun`` in microseconds."""
    figures = {"limit": FAILURES, "most": REFUSALS, "base": micros(FIRST), "cap": micros(LONGEST)}
    request = {"name": name, "begun": begun, "takes": micros(settings.deadline)}
    return {**asdict(signal), **figures, **request, "pause": micros(signal.pause)}


def resent_by_default(settings: Settings, sets: int) -> str:
    """Returns a character for each lane set, most urgent first: "1" where unsure ones are resent.

    Those make the better probe: if its answer is lost too, nothing is parked.
    """
    resent = [settings.unsure_policy(lane) == "resend" for lane in LANES]
    return "".join("11" if each else "00" for each in resent)[:sets]

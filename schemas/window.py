"""Sending hours: whether a window is open in its time zones, and when it opens next. Pure.

Open is what the clock on the wall says: where clocks are set back, an hour counts twice; where they
are set ahead, a window inside the hour left out does not open on that day.
"""

from datetime import datetime, timedelta
from functools import lru_cache
from itertools import cycle
from typing import Any, NamedTuple
from zoneinfo import ZoneInfo

from viber_courier.schemas.instants import SECOND

DAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
RECIPIENT = "recipient"
"""Stands for the time zones of the message's address."""
DAY = 86400
HORIZON = 31 * DAY
"""How far ahead an opening is looked for, in seconds: further than any ``ttlSec`` reaches."""
MONTH = 30 * DAY
YEAR = range(0, 13 * MONTH, 14 * DAY)
"""Instants at which zones are compared, in seconds: each of a year's changes lies between two."""


class NoZone(Exception):
    """A time zone can't be found. The text says what to do."""


class Window(NamedTuple):
    """Hours of the day: open while they are open in all ``zones``.

    ``opens`` and ``closes`` are minutes from midnight; it closes on the next day unless ``closes``
    is the later one. ``days`` has a bit for each day on which it opens; Monday's is 1.
    """

    opens: int
    closes: int
    days: int
    zones: tuple[str, ...]


@lru_cache(1024)
def next_opening(at: int, window: Window) -> int | None:
    """Returns the first instant from ``at`` on at which a window is open; None: none in 31 days.

    Instants are microseconds since 1970. Raises NoZone.
    """
    second, agreed = at // SECOND, 0
    end = second + HORIZON
    for zone in cycle(map(find_zone, window.zones)):
        later = _opening(second, window, zone)
        agreed, second = agreed + 1 if later == second else 1, later
        if agreed == len(window.zones):
            return max(at, second * SECOND)
        if second > end:
            break
    return None


def _opening(at: int, window: Window, zone: ZoneInfo) -> int:
    """Returns the first second from ``at`` on at which a window is open in one zone."""
    while wait := _closed_for(window, datetime.fromtimestamp(at, zone)):
        here, later = _offset(at, zone), at + wait
        if _offset(later, zone) == here:
            return later
        while later - at > 1:  # its clocks change in between: look again where they do
            middle = (at + later) // 2
            at, later = (middle, later) if _offset(middle, zone) == here else (at, middle)
        at = later
    return at


def _closed_for(window: Window, wall: datetime) -> int:
    """Returns the seconds until a window opens by a clock on the wall; 0: it is open."""
    opens, closes, days, _ = window
    minute, day = wall.hour * 60 + wall.minute, wall.weekday()
    today, yesterday = days >> day & 1, days >> (day - 1) % 7 & 1
    if opens < closes:
        is_open = today and opens <= minute < closes
    else:
        is_open = (today and minute >= opens) or (yesterday and minute < closes)
    waits = (ahead * DAY + (opens - minute) * 60 - wall.second for ahead in range(8))
    next_days = (wait for n, wait in enumerate(waits) if wait > 0 and days >> (day + n) % 7 & 1)
    return 0 if is_open else next(next_days)


def _offset(at: int, zone: ZoneInfo) -> timedelta:
    return datetime.fromtimestamp(at, zone).utcoffset() or timedelta()


@lru_cache(1024)
def find_zone(name: str) -> ZoneInfo:
    """Returns a time zone by its IANA name. Raises NoZone."""
    try:
        return ZoneInfo(name)
    except (KeyError, ValueError, OSError):  # OSError: a folder's name
        pass
    try:
        ZoneInfo("Europe/London")
    except KeyError:
        raise NoZone("this machine has no time zone data: pip install tzdata") from None
    raise NoZone("is no time zone here: name one as Europe/Moscow, or pip install -U tzdata")


def _library() -> Any:
    try:
        from phonenumbers import timezone
    except ModuleNotFoundError:
        text = "recipient needs phonenumbers: pip install 'viber-courier[phone]'"
        raise NoZone(text) from None
    return timezone


def require_zone(name: str) -> None:
    """Raises NoZone unless a window may name this zone."""
    if name == RECIPIENT:
        _library()
    else:
        find_zone(name)


def settled(window: Window, address: str, at: int) -> Window:
    """Returns a window with zones in place of ``recipient``: those of E.164 digits. Raises NoZone.

    ``at`` (microseconds) is about when it is to be looked at.
    """
    if window.zones != (RECIPIENT,):
        return window
    library = _library()
    from phonenumbers import NumberParseException, parse

    try:
        zones = library.time_zones_for_number(parse("+" + address))
    except NumberParseException:
        zones = ()
    if not zones or library.UNKNOWN_TIMEZONE in zones:
        raise NoZone("is not known of this address: name a zone")
    return _decisive(window._replace(zones=tuple(zones)), at // SECOND // MONTH * MONTH)


@lru_cache(1024)
def _decisive(window: Window, at: int) -> Window:
    """Returns a window with those zones alone that decide: it is open in the others if in these.

    That is so of zones whose clocks are between two others' all year, if these are not so far apart
    that the window may be open there on one day and here on the next. A mobile number of +7 has 16
    zones, and one of nine to nine is decided by two: a record stays small.
    """
    apart = timedelta(days=1, minutes=-((window.closes - window.opens) % 1440 or 1440))
    found = {tuple(_offset(at + s, find_zone(n)) for s in YEAR): n for n in window.zones}
    rest = sorted(found)
    kept = rest[:1]
    while rest := rest[1:]:
        low = kept[-1]
        ends = [
            n
            for n, high in enumerate(rest)
            if all(b - a <= apart for a, b in zip(low, high, strict=True))
            and all(a <= x <= b for r in rest[:n] for a, x, b in zip(low, r, high, strict=True))
        ]
        rest = rest[max(ends, default=0) :]
        kept.append(rest[0])
    return window._replace(zones=tuple(found[offsets] for offsets in kept))


@lru_cache(1024)
def window_text(window: Window) -> str:
    """Returns a window as records hold it."""
    return " ".join((*map(str, window[:3]), *window.zones))


@lru_cache(1024)
def read_window(text: str) -> Window:
    """Returns the window that ``window_text`` has written."""
    opens, closes, days, *zones = text.split(" ")
    return Window(int(opens), int(closes), int(days), tuple(zones))


def window_fields(window: Window) -> dict[str, Any]:
    """Returns a window as a job has it."""
    first, last = (f"{minute // 60:02}:{minute % 60:02}" for minute in window[:2])
    days = [name for bit, name in enumerate(DAYS) if window.days >> bit & 1]
    zone = window.zones[0] if len(window.zones) == 1 else [*window.zones]
    return {"from": first, "to": last, "zone": zone, **({"days": days} if len(days) < 7 else {})}

"""Units of time: scores are microseconds, Redis commands take milliseconds, settings seconds."""

from datetime import UTC, datetime

SECOND = 1_000_000
"""A second in microseconds."""


def micros(seconds: float) -> int:
    """Returns seconds as microseconds, a multiple of four as every score is (store/keys.py)."""
    return int(seconds * SECOND) // 4 * 4


def millis(seconds: float) -> int:
    """Returns seconds as milliseconds."""
    return round(seconds * 1000)


def iso(seconds: float) -> str:
    """Returns seconds since 1970 as ISO 8601 in UTC, to the millisecond."""
    stamp = datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds")
    return stamp.replace("+00:00", "Z")

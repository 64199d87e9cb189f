"""Units of time: scores are multiples of four microseconds."""

from __future__ import annotations

import pytest

from viber_courier.schemas.instants import SECOND, iso, micros, millis


@pytest.mark.parametrize(
    ("seconds", "score", "milliseconds", "text"),
    [
        (0, 0, 0, "1970-01-01T00:00:00.000Z"),
        (0.000_007, 4, 0, "1970-01-01T00:00:00.000Z"),
        (0.000_008, 8, 0, "1970-01-01T00:00:00.000Z"),
        (1.2346, 1_234_600, 1235, "1970-01-01T00:00:01.234Z"),
        (1_795_430_400, 1_795_430_400 * SECOND, 1_795_430_400_000, "2026-11-23T10:40:00.000Z"),
    ],
)
def test_an_instant_in_each_unit(seconds: float, score: int, milliseconds: int, text: str) -> None:
    assert (micros(seconds), millis(seconds), iso(seconds)) == (score, milliseconds, text)

"""The errors of the project: what each says, and that it stays itself between processes."""

from __future__ import annotations

import pickle
from datetime import UTC, datetime

import pytest

from viber_courier.schemas.errors import (
    ConfigError,
    Conflict,
    ContentGone,
    CourierError,
    EnqueueError,
    EventsMissed,
    InvalidMessage,
    NotDead,
    QueueFull,
    Unconfirmed,
)

FAULTS = {"b": ["is required"], "a": ("must be x", "and y")}
SINCE, UNTIL = datetime(2026, 11, 23, 10, tzinfo=UTC), datetime(2026, 11, 23, 11, tzinfo=UTC)
SAYS: list[tuple[CourierError, str, dict[str, object]]] = [
    (ConfigError({"B": "x", "A": "y"}), "B: x; A: y", {"faults": {"B": "x", "A": "y"}}),
    (
        InvalidMessage(FAULTS),
        "a: must be x and y; b: is required",
        {"errors": {"b": ["is required"], "a": ["must be x", "and y"]}},
    ),
    (Conflict("m"), "id 'm' was accepted before with another job", {"id": "m"}),
    (QueueFull(5), "the queue is full: COURIER_MAX_QUEUED is 5", {"limit": 5}),
    (
        EventsMissed("g", SINCE, UNTIL),
        "group 'g' has missed events from 2026-11-23T10:00:00+00:00 to 2026-11-23T11:00:00+00:00: "
        "they were deleted unread",
        {"group": "g", "since": SINCE, "until": UNTIL},
    ),
    (NotDead("m", "is queued"), "message 'm' is queued", {"id": "m"}),
    (ContentGone("m"), "message 'm' has no content any more: content-gone", {"id": "m"}),
    (
        Unconfirmed("m"),
        "message 'm' may have been sent already: say unconfirmed=True to send it again",
        {"id": "m"},
    ),
]


@pytest.mark.parametrize(("error", "text", "known"), SAYS, ids=lambda each: type(each).__name__)
def test_an_error_says_it_and_keeps_it_between_processes(
    error: CourierError, text: str, known: dict[str, object]
) -> None:
    if isinstance(error, EnqueueError):
        assert (error.row, error.accepted) == (None, ())
        error.row = 3
        known = {**known, "row": 3}
    for each in (error, pickle.loads(pickle.dumps(error))):
        assert (type(each), str(each), vars(each)) == (type(error), text, known)
        assert repr(each) == f"{type(error).__name__}({text!r})"

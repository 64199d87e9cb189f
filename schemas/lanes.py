"""The lanes: one for each priority of the API, and the Celery queues named after them."""

LANES = ("realtime", "high", "normal", "low")
"""The API's priorities (docs/provider-api.md, "priority"), most urgent first."""
POLL = "poll"
"""Names the watch set's bell, gate and queue, beside one of each lane."""
INTAKE = "enqueue"
"""Names the queue of ``courier.enqueue`` tasks."""


def queue(namespace: str, name: str) -> str:
    """Returns the Celery queue of a lane, of ``poll`` or of ``enqueue`` (contract)."""
    return f"{namespace}.{name}" if name in (POLL, INTAKE) else f"{namespace}.send.{name}"

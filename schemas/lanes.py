"""The lanes, one for each priority of the API, and the names of their Celery queues."""

LANES = ("realtime", "high", "normal", "low")
"""The API's priorities (docs/provider-api.md, "priority"), most urgent first."""
POLL = "poll"
"""Names the bell, gate and queue of polling, as a lane's name does for the lane."""
INTAKE = "enqueue"
"""Names the queue of ``courier.enqueue`` tasks."""


def queue(namespace: str, name: str) -> str:
    """Returns the Celery queue of a lane, of ``poll`` or of ``enqueue``; a public name."""
    return f"{namespace}.{name}" if name in (POLL, INTAKE) else f"{namespace}.send.{name}"

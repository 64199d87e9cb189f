"""The lanes, one for each priority of the API, and the names of their Celery queues."""

LANES = ("realtime", "high", "normal", "low")
"""The API's priorities (docs/provider-api.md, "priority"), most urgent first."""
POLL = "poll"
"""Names the bell, gate and queue of polling, as a lane's name does for the lane."""
DOOR = "enqueue"
"""Names the list where Celery clients leave ``courier.enqueue`` tasks (store/door.py)."""
INTAKE = "intake"
"""Names the queue of the bells that make a worker store what is there."""


def queue(namespace: str, name: str) -> str:
    """Returns the Celery queue of a lane, of ``poll``, ``enqueue`` or ``intake``; a public name."""
    return f"{namespace}.send.{name}" if name in LANES else f"{namespace}.{name}"

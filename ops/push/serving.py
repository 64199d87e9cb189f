"""What runs around a push: signals, ``/healthz`` and ``/metrics`` (docs/metrics.md)."""

import asyncio
import json
import signal
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from aiohttp import hdrs, web
from prometheus_client import CollectorRegistry, Counter, Gauge, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4

from viber_courier import AsyncEvent
from viber_courier.schemas.errors import ConfigError
from viber_courier.schemas.event import SOURCE


class Metrics:
    """What ``/metrics`` shows of one group."""

    def __init__(self, group: str) -> None:
        self.registry, self._failing_since = CollectorRegistry(), 0.0
        given: Any = {"registry": self.registry, "namespace": "courier", "subsystem": "push"}
        self._group = group
        self._events = Counter("events", "Events that were taken.", ["group"], **given)
        self._failures = Counter("failures", "Failed attempts.", ["group", "reason"], **given)
        gauges = (
            ("active", "Whether this process pushes the group's events."),
            ("waiting", "Events that wait in the group's own stream."),
            ("oldest_seconds", "Age of the oldest of them there."),
            ("put_aside", "Events that were given up and put aside."),
        )
        made = {name: Gauge(name, text, ["group"], **given) for name, text in gauges}
        self._gauges = {name: gauge.labels(group) for name, gauge in made.items()}
        failing = Gauge("failing_seconds", "Since the last success.", ["group"], **given)
        failing.labels(group).set_function(self._failing)
        self._events.labels(group)

    def succeeded(self, events: int) -> None:
        """Counts events that were taken."""
        self._events.labels(self._group).inc(events)
        self._failing_since = 0.0

    def failed(self, reason: str) -> None:
        """Counts a failed attempt."""
        self._failures.labels(self._group, reason).inc()
        self._failing_since = self._failing_since or time.monotonic()

    def show(self, **values: float) -> None:
        """Sets gauges; those that are not named become 0. Who isn't active doesn't fail, either."""
        if not values:
            self._failing_since = 0.0
        for name, gauge in self._gauges.items():
            gauge.set(values.get(name, 0))

    def _failing(self) -> float:
        return time.monotonic() - self._failing_since if self._failing_since else 0.0


@asynccontextmanager
async def serving(metrics: Metrics, host: str, port: int) -> AsyncIterator[asyncio.Event]:
    """Serves during the block; yields an event that SIGTERM and SIGINT set."""
    stop, loop = asyncio.Event(), asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)

    async def show(_: web.Request) -> web.Response:
        kind = {hdrs.CONTENT_TYPE: CONTENT_TYPE_PLAIN_0_0_4}
        return web.Response(body=generate_latest(metrics.registry), headers=kind)

    async def healthz(_: web.Request) -> web.Response:
        return web.json_response({"status": "ok"})

    app = web.Application()
    app.router.add_get("/metrics", show)
    app.router.add_get("/healthz", healthz)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    try:
        try:
            await web.TCPSite(runner, host, port).start()
        except OSError as error:
            fault = f"can't be listened on: {error.strerror}"
            raise ConfigError({f"{host}:{port}": fault}) from None
        yield stop
    finally:
        await runner.cleanup()


def document(event: AsyncEvent, namespace: str) -> dict[str, Any]:
    """Returns the CloudEvents document (docs/events.md) that the event was read from."""
    return {
        "specversion": "1.0",
        "id": event.id,
        "source": f"{SOURCE}/{namespace}",
        "type": event.type,
        "subject": event.subject,
        "time": event.time,
        "datacontenttype": "application/json",
        "data": event.data,
    }


def as_json(event: AsyncEvent, namespace: str) -> str:
    """Returns the document as text."""
    return json.dumps(document(event, namespace), ensure_ascii=False, separators=(",", ":"))

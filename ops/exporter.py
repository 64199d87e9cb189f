"""``courier exporter``: serves metrics to Prometheus. Reads Redis at each scrape."""

from __future__ import annotations

import logging
import os
import signal
import threading
from collections.abc import Iterable
from contextlib import closing
from typing import Any

import click
import redis
from prometheus_client import CollectorRegistry, start_http_server
from prometheus_client.core import Metric
from prometheus_client.registry import Collector
from redis.backoff import NoBackoff
from redis.retry import Retry

from viber_courier.ops.look import take_look
from viber_courier.ops.metrics import families
from viber_courier.schemas.errors import ConfigError
from viber_courier.schemas.redis_url import AddressError
from viber_courier.schemas.settings import Settings
from viber_courier.store.connection import connect
from viber_courier.store.door import Door, Waiting
from viber_courier.store.refusals import lasting, reason, report
from viber_courier.worker.log import set_up

IMPATIENT: dict[str, Any] = {
    "socket_timeout": 2,
    "socket_connect_timeout": 1,
    "retry": Retry(NoBackoff(), 0),
    "retry_on_error": [],
}
"""Prometheus waits 10 seconds by default, and must learn by then that Redis hangs."""

logger = logging.getLogger(__name__)


class CourierCollector(Collector):
    """Reads one namespace at each scrape: one round trip to the store and one to the broker."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings

    def describe(self) -> list[Metric]:
        """Returns nothing: otherwise the registry would scrape once to learn the names."""
        return []

    def collect(self) -> Iterable[Metric]:
        """Returns every metric, or only ``courier_up 0`` if Redis does not answer."""
        try:
            return self._families()
        except redis.RedisError as error:
            if not report(error):
                logger.warning("redis not read", extra={"error": reason(error)})
            return families(None)

    def _families(self) -> Iterable[Metric]:
        namespace = self._settings.namespace
        with closing(connect(self._settings.redis_url, namespace, **IMPATIENT)) as client:
            look = take_look(client, namespace, self._settings.retention)
        settings = self._settings
        return families(look, settings.results_retention, settings.replicas, self._door())

    def _door(self) -> Waiting | None:
        """Returns what the task door holds; None if the broker can't be asked."""
        url, namespace = self._settings.broker_url, self._settings.namespace
        try:
            with closing(Door(url, namespace, **IMPATIENT)) as door:
                return door.look()
        except redis.RedisError as error:
            if not report(error, "COURIER_BROKER_URL"):
                logger.warning("broker not read", extra={"error": reason(error)})
        except AddressError:
            pass  # apps' settings may have no broker, or the store's cluster in its place
        return None

    def fault(self) -> str:
        """Returns what Redis refuses, in words; "" if nothing, or if Redis can't be reached."""
        try:
            self._families()
        except redis.RedisError as error:
            return lasting(error)
        return ""


@click.command()
@click.option("--host", default="127.0.0.1", show_default=True)
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    default=9540,
    show_default=True,
    help="0: any free port.",
)
def exporter(host: str, port: int) -> None:
    """Serve metrics for Prometheus at /metrics (listed in docs/metrics.md).

    Needs COURIER_REDIS_URL and COURIER_NAMESPACE, no credentials of the provider.
    """
    try:
        settings = Settings.from_env(os.environ)
    except ConfigError as error:
        raise click.ClickException(str(error)) from None
    logging.basicConfig()
    set_up(logging.getLogger())
    registry, collector = CollectorRegistry(), CourierCollector(settings)
    if fault := collector.fault():
        raise click.ClickException(f"COURIER_REDIS_URL: Redis refuses: {fault}")
    registry.register(collector)
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    try:
        server, thread = start_http_server(port, host, registry)
    except OSError as error:
        raise click.ClickException(str(error)) from error
    click.echo(f"exporter listening on http://{host}:{server.server_port}/metrics")
    stop.wait()
    server.shutdown()
    thread.join()


if __name__ == "__main__":
    exporter()

"""Health check of one worker: ``live``. Loads no Celery, since it may run every few seconds."""

from __future__ import annotations

import os
import socket
import time
import uuid
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from datetime import UTC, datetime, timedelta
from typing import Any

import click
from kombu import Connection
from kombu.exceptions import OperationalError
from redis import RedisError

from viber_courier.ops.commands.terminal import (
    UNAVAILABLE,
    Duration,
    Failure,
    command,
    emit,
    json_option,
)
from viber_courier.schemas.errors import CourierError
from viber_courier.schemas.settings import Settings
from viber_courier.store.connection import broker, connect, store_errors
from viber_courier.store.keys import Keys
from viber_courier.store.refusals import reason, refusal

ONE_TRY = {"socket_timeout": 2, "max_retries": 1, "interval_start": 0, "interval_step": 0}
"""Transport options: a broker that does not answer fails the check in time."""


class BrokerUnavailable(CourierError):
    """The broker failed or did not answer. The text holds no address."""

    do = "check it and COURIER_BROKER_URL"


class BrokerRefuses(BrokerUnavailable):
    """The broker will answer the same again."""


@contextmanager
def broker_errors() -> Iterator[None]:
    """Raises BrokerUnavailable for the errors of kombu and of the network."""
    try:
        yield
    except (OperationalError, RedisError, OSError) as error:
        if why := refusal(error):
            raise BrokerRefuses(f"the broker refuses: {why}") from None
        raise BrokerUnavailable(
            f"the broker can't be used now: {reason(error.__cause__ or error)}"
        ) from None


@contextmanager
def unavailable() -> Iterator[None]:
    """Ends the command with its exit code if the broker is unavailable."""
    try:
        yield
    except BrokerUnavailable as error:
        raise Failure(f"{error}: {error.do}", UNAVAILABLE) from None


timeout_option = click.option(
    "--timeout", type=Duration(), default="10s", help="Longest time to wait."
)


class Checks:
    """Tasks on the queues of single workers, in the form of Celery's protocol 2."""

    def __init__(self, settings: Settings) -> None:
        made = broker(settings.broker_url, **ONE_TRY)
        self._broker: Any = Connection(  # type: ignore[no-untyped-call]
            made["broker_url"],
            ssl=made["broker_use_ssl"] or None,
            transport_options=made["broker_transport_options"],
        )

    def send(self, host: str, nonce: str, seconds: float) -> None:
        """Sends a worker the task that records its name under the nonce, if it runs in time."""
        expires = datetime.now(UTC) + timedelta(seconds=seconds)
        headers = {"lang": "py", "task": "courier.check", "id": str(uuid.UUID(nonce))}
        with broker_errors():
            self._broker.Producer().publish(
                [[nonce], {}, {}],
                routing_key=f"{host}.dq2",
                serializer="json",
                headers={**headers, "expires": expires.isoformat()},
            )

    def forget(self, host: str) -> None:
        """Empties the queue of a worker that runs no tasks. It holds nothing but checks."""
        with suppress(BrokerUnavailable), broker_errors():
            self._broker.default_channel.queue_purge(f"{host}.dq2")

    def close(self) -> None:
        """Closes the connection to the broker."""
        self._broker.release()


@command(partly="no answer in time", away="Redis or the broker can't be used")
@click.option("--worker", help="The worker's name. [default: celery@<this host>]")
@timeout_option
@json_option
def live(worker: str | None, timeout: float, as_json: bool) -> None:
    """Prove that one worker runs tasks: send it one and wait until it has run.

    A worker whose processes all hang still answers Celery's ping, but fails this check. Use it as
    the worker's health check.
    """
    host = worker or socket.gethostname()
    host = host if "@" in host else f"celery@{host}"
    began = time.monotonic()
    settings = Settings.from_env(os.environ)
    nonce, answer = uuid.uuid4().hex, None
    key = Keys(settings.namespace).check(nonce)
    with (
        unavailable(),
        connect(settings.redis_url, settings.namespace) as client,
        closing(Checks(settings)) as checks,
    ):
        try:
            checks.send(host, nonce, timeout)
            while answer is None and time.monotonic() < began + timeout:
                time.sleep(0.05)
                with store_errors():
                    answer = client.getdel(key)
        finally:
            if answer is None:
                checks.forget(host)
    seconds = round(time.monotonic() - began, 3)
    if as_json:
        emit({"worker": host, "live": answer == host, "seconds": seconds})
    elif answer == host:
        click.echo(f"{host} ran a task in {seconds:.2f} s")
    if answer != host:
        if answer:
            raise Failure(f"{host}: Redis refuses it: {answer}")
        raise Failure(f"{host} ran no task in {timeout:g} s: restart it if this goes on")

"""What commands share that serve HTTP: an address, TLS, the end by a signal."""

from __future__ import annotations

import asyncio
import logging
import resource
import signal
import socket
import ssl
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import click
from aiohttp import http_exceptions, web

from viber_courier.ops.commands.terminal import WRONG, Failure
from viber_courier.schemas.settings import is_loopback
from viber_courier.worker.log import set_up


class Server(Protocol):
    """Serves until ``stop``."""

    async def serve(
        self, listener: socket.socket, context: ssl.SSLContext | None, stop: asyncio.Event
    ) -> None: ...


def address_options(port: int) -> Callable[[Any], Any]:
    """Returns a decorator that adds --host, --port, --cert and --key."""
    file = click.Path(exists=True, dir_okay=False)
    options = (
        click.option("--host", default="127.0.0.1", help="The address to listen on."),
        click.option(
            "--port", type=click.IntRange(0, 65535), default=port, help="0: any free port."
        ),
        click.option("--cert", type=file, help="TLS: certificate chain."),
        click.option("--key", type=file, help="TLS: its private key."),
    )

    def decorate(function: Any) -> Any:
        for option in reversed(options):
            function = option(function)
        return function

    return decorate


def is_near(host: str) -> bool:
    """Returns whether only this machine reaches an address."""
    return is_loopback(f"http://{_shown(host)}")


def tls(cert: str | None, key: str | None) -> ssl.SSLContext | None:
    """Returns the context of --cert and --key. Raises UsageError or Failure."""
    if (cert is None) != (key is None):
        raise click.UsageError("--cert and --key belong together")
    if cert is None:
        return None
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    try:
        context.load_cert_chain(cert, key, password="")  # without one, OpenSSL asks the terminal
    except (OSError, ValueError) as error:
        raise Failure(f"--cert and --key can't be used: {type(error).__name__}", WRONG) from None
    return context


def serve(name: str, server: Server, host: str, port: int, context: ssl.SSLContext | None) -> None:
    """Listens, says so, and serves until SIGTERM or Ctrl-C. Raises Failure."""
    logging.basicConfig()
    set_up(logging.getLogger())
    logging.getLogger("aiohttp.server").addFilter(_discreet)
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]  # a connection is a file
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        listener = socket.create_server((host, port), family=family, backlog=1024)
    except OSError as error:
        raise Failure(f"can't listen on {host}:{port}: {error.strerror}", WRONG) from None
    url = f"{'https' if context else 'http'}://{_shown(host)}:{listener.getsockname()[1]}"
    asyncio.run(_serve(server, listener, context, f"{name} listening on {url}"))


async def _serve(
    server: Server, listener: socket.socket, context: ssl.SSLContext | None, said: str
) -> None:
    stop, loop = asyncio.Event(), asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    click.echo(said)
    await server.serve(listener, context, stop)


def log_failure(logger: logging.Logger, error: Exception) -> None:
    """Logs an unexpected error: its type and place, but not its text, which may quote a message."""
    place = traceback.extract_tb(error.__traceback__)[-1]
    where = f"{Path(place.filename).name}:{place.lineno}"
    logger.error("request failed", extra={"error": type(error).__name__, "where": where})


def _discreet(record: logging.LogRecord) -> bool:
    """Filters aiohttp's log, whose errors quote what a client has sent."""
    error = record.exc_info[1] if record.exc_info else None
    record.msg = f"request failed outside of its handler: {type(error).__name__}"
    record.args, record.exc_info = (), None
    return not isinstance(error, http_exceptions.HttpProcessingError | web.RequestPayloadError)


def _shown(host: str) -> str:
    return f"[{host}]" if ":" in host else host

"""``courier gateway``: serves messages and events by HTTP."""

from __future__ import annotations

import asyncio
import logging
import os
import resource
import signal
import socket
import ssl
from pathlib import Path

import click

from viber_courier import Settings
from viber_courier.ops.commands.consuming import require_source
from viber_courier.ops.commands.terminal import WRONG, Failure, command
from viber_courier.ops.gateway.server import Gateway, discreet
from viber_courier.ops.gateway.tokens import Tokens, add_token
from viber_courier.ops.gateway.tokens import new_token as made_token
from viber_courier.schemas.settings import is_loopback
from viber_courier.worker.log import set_up


@command(wrong="wrong usage, settings or tokens", partly="")
@click.option("--host", default="127.0.0.1", help="The address to listen on.")
@click.option("--port", type=click.IntRange(0, 65535), default=8080, help="0: any free port.")
@click.option(
    "--tokens",
    type=click.Path(path_type=Path),
    envvar="COURIER_GATEWAY_TOKENS",
    help="File with a line name:sha256 for each token.",
)
@click.option(
    "--cert", type=click.Path(exists=True, dir_okay=False), help="TLS: certificate chain."
)
@click.option("--key", type=click.Path(exists=True, dir_okay=False), help="TLS: its private key.")
@click.option(
    "--new-token",
    metavar="NAME",
    callback=require_source,
    help="Print a new token and end. Adds its line to --tokens, or prints that, too.",
)
def gateway(
    host: str,
    port: int,
    tokens: Path | None,
    cert: str | None,
    key: str | None,
    new_token: str,
) -> None:
    """Serve messages and their events by HTTP (docs/gateway.md).

    A token's name is the source of its messages: it sees no others. Without --tokens anybody who
    reaches the port may send, so it listens on loopback only.
    """
    if new_token and tokens:
        try:
            click.echo(add_token(new_token, tokens))
        except (OSError, UnicodeDecodeError) as error:
            raise Failure(f"can't add to {tokens}: {type(error).__name__}", WRONG) from None
        return
    if new_token:
        token, line = made_token(new_token)
        click.echo(f"token (give it to the app): {token}\nline (for the file):       {line}")
        return
    if tokens is None and not is_loopback(f"http://{_shown(host)}"):
        raise Failure("beyond loopback it needs --tokens: anybody could send messages", WRONG)
    if (cert is None) != (key is None):
        raise click.UsageError("--cert and --key belong together")
    context = _context(cert, key) if cert else None
    known, settings = Tokens(tokens) if tokens else None, Settings.from_env(os.environ)
    logging.basicConfig()
    set_up(logging.getLogger())
    logging.getLogger("aiohttp.server").addFilter(discreet)
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]  # a connection is a file
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    try:
        listener = socket.create_server((host, port), family=_family(host), backlog=1024)
    except OSError as error:
        raise Failure(f"can't listen on {host}:{port}: {error.strerror}", WRONG) from None
    url = f"{'https' if context else 'http'}://{_shown(host)}:{listener.getsockname()[1]}"
    asyncio.run(_serve(Gateway(settings, known), listener, context, url))


async def _serve(
    server: Gateway, listener: socket.socket, context: ssl.SSLContext | None, url: str
) -> None:
    stop, loop = asyncio.Event(), asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    click.echo(f"gateway listening on {url}")
    await server.serve(listener, context, stop)


def _context(cert: str, key: str | None) -> ssl.SSLContext:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    try:
        context.load_cert_chain(cert, key, password="")  # without one, OpenSSL asks the terminal
    except (OSError, ValueError) as error:
        raise Failure(f"--cert and --key can't be used: {type(error).__name__}", WRONG) from None
    return context


def _family(host: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in host else socket.AF_INET


def _shown(host: str) -> str:
    return f"[{host}]" if ":" in host else host

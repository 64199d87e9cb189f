"""``courier gateway``: serves messages and events by HTTP."""

from __future__ import annotations

import os
from pathlib import Path

import click

from viber_courier import Settings
from viber_courier.ops.commands.consuming import require_source
from viber_courier.ops.commands.serving import address_options, is_near, serve, tls
from viber_courier.ops.commands.terminal import WRONG, Failure, command
from viber_courier.ops.gateway.server import Gateway
from viber_courier.ops.gateway.tokens import Tokens, add_token
from viber_courier.ops.gateway.tokens import new_token as made_token


@command(wrong="wrong usage, settings or tokens", partly="")
@address_options(8080)
@click.option(
    "--tokens",
    type=click.Path(path_type=Path),
    envvar="COURIER_GATEWAY_TOKENS",
    help="File with a line name:sha256 for each token.",
)
@click.option(
    "--new-token",
    metavar="NAME",
    callback=require_source,
    help="Print a new token and end. Adds its line to --tokens, or prints that, too.",
)
def gateway(
    host: str,
    port: int,
    cert: str | None,
    key: str | None,
    tokens: Path | None,
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
    if tokens is None and not is_near(host):
        raise Failure("beyond loopback it needs --tokens: anybody could send messages", WRONG)
    context, known = tls(cert, key), Tokens(tokens) if tokens else None
    serve("gateway", Gateway(Settings.from_env(os.environ), known), host, port, context)

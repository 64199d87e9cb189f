"""``courier console``: serves pages for people."""

from __future__ import annotations

import os

import click

from viber_courier import Settings
from viber_courier.ops.commands.consuming import require_source
from viber_courier.ops.commands.serving import address_options, is_near, serve, tls
from viber_courier.ops.commands.terminal import WRONG, Failure, command
from viber_courier.ops.console.accounts import Accounts
from viber_courier.ops.console.accounts import new_user as made_user
from viber_courier.ops.console.server import Console


@command(wrong="wrong usage, settings or users", partly="", away="")
@address_options(8090)
@click.option(
    "--trust-proxy",
    is_flag=True,
    envvar="COURIER_CONSOLE_TRUST_PROXY",
    help="A reverse proxy names clients, last in X-Forwarded-For.",
)
@click.option(
    "--new-user",
    metavar="NAME",
    callback=require_source,
    help="Print a new password and its line, and end.",
)
def console(
    host: str, port: int, cert: str | None, key: str | None, trust_proxy: bool, new_user: str
) -> None:
    """Serve pages for the people on duty and those who run campaigns (docs/console.md).

    It asks for the login of COURIER_CONSOLE_LOGIN and COURIER_CONSOLE_PASSWORD (or ..._FILE), or
    of the file that COURIER_CONSOLE_USERS names. Without any it asks for none, and listens on
    loopback only.
    """
    if new_user:
        password, line = made_user(new_user)
        click.echo(f"password (give it to them): {password}\nline (for the file):        {line}")
        return
    accounts = Accounts.from_env(os.environ)
    if accounts is None and not is_near(host):
        needed = "COURIER_CONSOLE_LOGIN and COURIER_CONSOLE_PASSWORD_FILE"
        raise Failure(f"beyond loopback it needs {needed}: anybody could act", WRONG)
    made = Console(Settings.from_env(os.environ), accounts, trust_proxy)
    serve("console", made, host, port, tls(cert, key))

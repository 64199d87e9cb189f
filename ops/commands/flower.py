"""``courier flower``: Celery's web pages of workers and tasks, with a login where one is set."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import click

CONFIG = Path(__file__).resolve().parents[1] / "flowerconfig.py"
"""Reads ``COURIER_FLOWER_LOGIN`` and its password."""


@click.command(context_settings={"ignore_unknown_options": True})
@click.argument("options", nargs=-1, type=click.UNPROCESSED, metavar="[FLOWER'S OPTIONS]...")
def flower(options: tuple[str, ...]) -> None:
    """Serve Flower: pages that show workers and tasks.

    It listens on 127.0.0.1:5555 and changes nothing. With COURIER_FLOWER_LOGIN and
    COURIER_FLOWER_PASSWORD (or ..._FILE) it asks for them; without, it refuses any other address.

    Flower's own options, such as --port=5556, and its FLOWER_... variables go before all that.
    --conf=FILE takes the place of the login's configuration.
    """
    if find_spec("flower") is None:
        raise click.ClickException("Flower is not installed: pip install 'viber-courier[run]'")
    from celery.bin.celery import celery

    own = () if any(option.startswith("--conf") for option in options) else (f"--conf={CONFIG}",)
    celery.main(["-q", "-A", "viber_courier.worker", "flower", *own, *options], prog_name="celery")

"""Whether sweeps are done: ``python -m viber_courier.ops.swept``, a health check, exits 0 or 1."""

from __future__ import annotations

import os
import sys

from viber_courier.schemas.settings import Settings
from viber_courier.store.connection import connect
from viber_courier.store.keys import Keys

PATIENCE = 60.0
"""Seconds since the latest sweep, at most."""


def main() -> None:
    """As far as Redis knows: beat ticks and could write it."""
    settings = Settings.from_env(os.environ)
    with connect(settings.redis_url) as client:
        swept, (seconds, _) = client.get(Keys(settings.namespace).swept), client.time()
    ago = float(seconds) - float(swept or 0) / 1000
    sys.exit(f"no sweep for {ago:.0f} s" if ago > PATIENCE + settings.sweep_interval else 0)


if __name__ == "__main__":
    main()

"""Health check of the sweep: ``python -m viber_courier.ops.swept`` exits with 0 or 1."""

from __future__ import annotations

import os
import sys

from viber_courier.schemas.settings import Settings
from viber_courier.store.connection import connect
from viber_courier.store.keys import Keys

MAX_AGE = 60.0
"""Seconds since the latest sweep, at most, plus one sweep interval."""


def main() -> None:
    """Exits with 0 if there was a sweep lately, so beat runs and Redis takes writes."""
    settings = Settings.from_env(os.environ)
    with connect(settings.redis_url, settings.namespace) as client:
        swept, (seconds, _) = client.get(Keys(settings.namespace).swept), client.time()
    ago = float(seconds) - float(swept or 0) / 1000
    sys.exit(f"no sweep for {ago:.0f} s" if ago > MAX_AGE + settings.sweep_interval else 0)


if __name__ == "__main__":
    main()

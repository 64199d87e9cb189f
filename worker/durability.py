"""Which Redis is safe to keep messages in: a rule over what its INFO says."""

from __future__ import annotations

from collections.abc import Mapping

OLDEST = (6, 2)
"""The oldest Redis that has what the scripts use."""


def too_old(info: Mapping[str, object]) -> str | None:
    """What is wrong with the server's version, if anything is."""
    version = str(info.get("redis_version", ""))
    numbers = tuple(int(part) for part in version.split(".")[:2] if part.isdigit())
    if numbers and numbers < OLDEST:
        return f"it is Redis {version}: 6.2 or newer is needed"
    return None


def dangers(info: Mapping[str, object], *, store: bool) -> list[str]:
    """What a server does that loses messages, each with the setting that mends it.

    ``store``: messages live there; else it is only Celery's broker. A hosted Redis that doesn't say
    is not accused.
    """
    found = []
    if store and str(info.get("aof_enabled", "1")) != "1":
        found.append("appendonly is off, a restart forgets messages: set appendonly yes")
    policy = str(info.get("maxmemory_policy", "noeviction"))
    if policy != "noeviction":
        found.append(
            f"a full server throws keys away ({policy}): set maxmemory-policy noeviction"
        )
    return found

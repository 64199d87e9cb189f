"""Finds settings of a Redis server that lose messages."""

from collections.abc import Mapping

DURABLE = ("aof_enabled", "maxmemory_policy")
"""Fields of INFO that say whether a server keeps all data."""


def dangers(info: Mapping[str, object]) -> list[str]:
    """Returns how a server may lose messages, each with the setting that prevents it.

    ``info`` is the reply to INFO. What a hosted Redis leaves out of it counts as safe.
    """
    found = []
    if str(info.get("aof_enabled", 1)) != "1":
        found.append("a restart forgets messages: set appendonly yes")
    if (policy := info.get("maxmemory_policy", "noeviction")) != "noeviction":
        found.append(f"when full it throws keys away ({policy}): set maxmemory-policy noeviction")
    return found

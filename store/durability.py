"""Which Redis is safe to keep messages in: a rule over what its INFO says."""

from collections.abc import Mapping


def dangers(info: Mapping[str, object]) -> list[str]:
    """What a server does that loses messages, each with what mends it.

    ``info`` is the reply to INFO; a hosted Redis that leaves something out is not accused of it.
    """
    found = []
    if str(info.get("aof_enabled", 1)) != "1":
        found.append("a restart forgets messages: set appendonly yes")
    if (policy := info.get("maxmemory_policy", "noeviction")) != "noeviction":
        found.append(f"when full it throws keys away ({policy}): set maxmemory-policy noeviction")
    return found

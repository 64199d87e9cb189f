"""JSON as it is stored: compact, in UTF-8, and what a campaign's rows have in common only once."""

from __future__ import annotations

import json
from base64 import b64encode
from collections.abc import Mapping
from hashlib import blake2b
from typing import Any


def pack(own: Mapping[str, Any]) -> str:
    """A row's own wire fields as they are stored: JSON, or the address where there is no more."""
    return str(own["address"]) if own.keys() == {"address"} else dumps(own)


def unpack(text: str) -> dict[str, Any]:
    """What ``pack`` was given."""
    return loads(text) if text.startswith("{") else {"address": text}


def merge(own: Mapping[str, Any], common: Mapping[str, Any]) -> dict[str, Any]:
    """The wire fields of a stored message: its own over its campaign's ``common``."""
    merged = {**common, **own}
    if None in merged.values():  # a row may take away what the campaign has
        return {name: value for name, value in merged.items() if value is not None}
    return merged


def digest_of(value: object) -> str:
    """A digest of any JSON value: names a campaign's content, and a job that isn't valid."""
    return b64encode(blake2b(dumps(value, sort=True).encode(), digest_size=15).digest()).decode()


_COMPACT = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":"))
_SORTED = json.JSONEncoder(
    ensure_ascii=False, allow_nan=False, separators=(",", ":"), sort_keys=True
)
loads = json.JSONDecoder().decode
"""A JSON text of our own as a value; json.loads takes the time of a short one to look at it."""


def dumps(value: object, *, sort: bool = False) -> str:
    """Compact JSON as UTF-8 text. Raises ValueError for what JSON can't say (NaN, infinity)."""
    return (_SORTED if sort else _COMPACT).encode(value)

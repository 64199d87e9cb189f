"""Compact JSON in UTF-8, and digests of values."""

from __future__ import annotations

import json
from base64 import b64encode
from hashlib import blake2b


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

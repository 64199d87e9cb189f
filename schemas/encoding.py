"""Compact JSON in UTF-8, and digests of values."""

import json
from base64 import b64encode
from hashlib import blake2b

dumps = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode
dumps_sorted = json.JSONEncoder(
    ensure_ascii=False, allow_nan=False, separators=(",", ":"), sort_keys=True
).encode
"""Compact JSON as UTF-8 text. Both raise ValueError for what JSON can't say (NaN, infinity)."""
loads = json.JSONDecoder().decode
"""A JSON text of our own as a value; json.loads takes the time of a short one to look at it."""


def digest_of(value: object) -> str:
    """A digest of any JSON value: names a campaign's content, and a job that isn't valid."""
    return b64encode(blake2b(dumps_sorted(value).encode(), digest_size=15).digest()).decode()

"""Compact JSON in UTF-8, and digests of values."""

import json
from base64 import b64encode
from hashlib import blake2b

dumps = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode
dumps_sorted = json.JSONEncoder(
    ensure_ascii=False, allow_nan=False, separators=(",", ":"), sort_keys=True
).encode
"""Both return a value as compact JSON. Raise ValueError for NaN and infinity."""
loads = json.JSONDecoder().decode
"""Returns the value of our own JSON; json.loads' checks would double the time of a short one."""


def digest_of(value: object) -> str:
    """Returns a digest of any JSON value: it names a campaign's content or an invalid job."""
    return b64encode(blake2b(dumps_sorted(value).encode(), digest_size=15).digest()).decode()

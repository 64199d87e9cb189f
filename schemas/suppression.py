"""Suppressed numbers: which messages heed the list, and the keyed hashes that stand for numbers."""

from base64 import b64encode
from collections.abc import Iterable
from functools import cache
from hashlib import blake2b

HEEDING = ("normal", "low")
"""Lanes whose messages are not sent to suppressed numbers, unless they say otherwise."""
BLOCKED = "user-blocked"
"""The provider's word for a person who has blocked the sender; the reason of numbers added so."""
NONE = " " * 16
"""Stands in place of a hash for a message that does not heed the list."""


class NumberHash:
    """Makes the hashes of one key: 12 bytes of keyed BLAKE2b in 16 characters of base64.

    ``fingerprint`` tells keys apart, and nothing about them.
    """

    def __init__(self, secret: str) -> None:
        key = blake2b(secret.encode()).digest()  # of any length
        self._state = blake2b(key=key, digest_size=12, person=b"suppression")
        self.fingerprint = blake2b(key=key, digest_size=6, person=b"fingerprint").hexdigest()

    def of(self, address: str) -> str:
        """Returns the hash of a number in E.164 digits, without a plus."""
        state = self._state.copy()  # takes half the time of a new hash
        state.update(address.encode())
        return b64encode(state.digest()).decode()

    def joined(self, addresses: Iterable[str | None]) -> str:
        """Returns numbers' hashes as scripts take them, blank for None; "" if all are."""
        found = "".join([NONE if each is None else self.of(each) for each in addresses])
        return self.fingerprint + found if found.strip() else ""


@cache
def number_hash(secret: str) -> NumberHash | None:
    """Returns the hashes of COURIER_SUPPRESSION_KEY; None if it is not set."""
    return NumberHash(secret) if secret else None

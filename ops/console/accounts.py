"""Who may log in, and how often somebody may try."""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from contextlib import suppress
from ipaddress import IPv6Address, ip_address
from pathlib import Path

from viber_courier.schemas.errors import ConfigError
from viber_courier.schemas.settings import read_value

USERS = "COURIER_CONSOLE_USERS"
LEAST = 8
"""Characters of a password."""
SCRYPT = {"n": 2**14, "r": 8, "p": 1}
"""Some 50 ms and 16 MB for each try."""
FREE_TRIES = 5
"""Wrong passwords of an address before it has to wait."""
WAIT_MOST = 300.0
"""Longest wait of an address, in seconds; each wrong password doubles it."""
ADDRESSES = 1000
"""Addresses that are remembered. ``ALL_TRIES`` bounds those who have more."""
ALL_TRIES, ALL_SECONDS = 50, 1.0
"""Wrong passwords of all addresses at once, and seconds after which one more is allowed."""
_LINE = re.compile(r"([A-Za-z0-9_.@-]{1,32}):([0-9a-f]{32}):([0-9a-f]{64})")
_FORM = "must hold a line name:salt:hash for each person (courier console --new-user), a name once"


def read_login(env: Mapping[str, str], part: str) -> tuple[str, str] | None:
    """Returns ``COURIER_<part>_LOGIN`` and its password; None for neither. Raises ConfigError."""
    names, values = [f"COURIER_{part}_{each}" for each in ("LOGIN", "PASSWORD")], []
    for name in names:
        try:
            values.append(read_value(env, name))
        except ValueError as error:
            raise ConfigError({name: str(error)}) from None
    login, password = values
    if not login and not password:
        return None
    wrong = not login.isascii() or not password.isascii() or not login or ":" in login
    if wrong or len(password) < LEAST:
        form = f"must be ASCII without a colon, {names[1]} ASCII of at least {LEAST} characters"
        raise ConfigError({names[0]: form})
    return login, password


def new_user(name: str) -> tuple[str, str]:
    """Returns a new password, and its line in the file of users."""
    password = secrets.token_urlsafe(12)
    return password, ":".join((name, *_hashed(password)))


class Accounts:
    """The people, each with the salt and hash of a password."""

    def __init__(self, known: Mapping[str, tuple[str, str]]) -> None:
        self._known, self._nobody = known, (secrets.token_hex(16), "0" * 64)

    @classmethod
    def from_env(cls, env: Mapping[str, str]) -> Accounts | None:
        """Returns those of the file of users, and the one of the environment; None for neither.

        Raises ConfigError.
        """
        known = _read_users(Path(path)) if (path := env.get(USERS, "").strip()) else {}
        if login := read_login(env, "CONSOLE"):
            known[login[0]] = _hashed(login[1])
        return cls(known) if known else None

    def is_right(self, name: str, password: str) -> bool:
        """Returns whether the password is that of the name, after the same time for any name."""
        salt, digest = self._known.get(name, self._nobody)
        return hmac.compare_digest(_hash(password, bytes.fromhex(salt)), digest)


class Brake:
    """Slows down who tries passwords: each address, and all unproven ones together.

    An address is proven once a right password came from it: others can't lock it out by their
    tries. Memory is bounded.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._tries = OrderedDict[str, tuple[int, float]]()
        self._proven = OrderedDict[str, None]()
        self._all = 0.0  # the instant at which all wrong passwords so far are forgotten

    def wait(self, address: str) -> float:
        """Returns for how many seconds this address may not try; 0 if it may."""
        now, network = self._clock(), _network(address)
        together = self._all - now - (ALL_TRIES - 1) * ALL_SECONDS
        alone = self._tries.get(network, (0, 0.0))[1] - now
        return max(0.0, alone, 0.0 if network in self._proven else together)

    def count(self, address: str) -> None:
        """Notes a try, as a wrong one: others of the same moment are then counted, too."""
        now, network = self._clock(), _network(address)
        tries = self._tries.pop(network, (0, 0.0))[0] + 1
        wait = min(WAIT_MOST, 2.0 ** min(tries - FREE_TRIES, 20)) if tries >= FREE_TRIES else 0.0
        self._tries[network] = (tries, now + wait)
        if len(self._tries) > ADDRESSES:
            self._tries.popitem(last=False)
        self._all = max(now, self._all) + ALL_SECONDS

    def forget(self, address: str) -> None:
        """Notes that the latest try was right."""
        network = _network(address)
        for known in (self._tries, self._proven):
            known.pop(network, None)
        self._proven[network] = None
        if len(self._proven) > ADDRESSES:
            self._proven.popitem(last=False)
        self._all -= ALL_SECONDS


def _read_users(path: Path) -> dict[str, tuple[str, str]]:
    try:
        lines = path.read_text(encoding="utf-8").split()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError({USERS: f"must be a file: {type(error).__name__}"}) from None
    found = {match[1]: (match[2], match[3]) for line in lines if (match := _LINE.fullmatch(line))}
    if not found or len(found) < len(lines):
        raise ConfigError({USERS: _FORM})
    return found


def address_in(named: str) -> str:
    """Returns the address that a proxy names, with or without a port; "" for anything else."""
    for text in (named, named.rpartition(":")[0].strip("[]")):
        with suppress(ValueError):
            found = ip_address(text)
            return str(getattr(found, "ipv4_mapped", None) or found)
    return ""


def _network(address: str) -> str:
    """Returns what counts as one address: of IPv6, the 64 bits that one customer has."""
    with suppress(ValueError):
        return str(int(IPv6Address(address)) >> 64)
    return address


def _hashed(password: str) -> tuple[str, str]:
    salt = secrets.token_bytes(16)
    return salt.hex(), _hash(password, salt)


def _hash(password: str, salt: bytes) -> str:
    given = password.encode(errors="replace")[:1024]
    return hashlib.scrypt(given, salt=salt, dklen=32, maxmem=2**26, **SCRYPT).hex()

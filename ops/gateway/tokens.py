"""Bearer tokens (RFC 6750) of the gateway: a file with a line ``name:sha256`` for each."""

import hmac
import re
import secrets
import time
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path

from viber_courier.schemas.errors import ConfigError
from viber_courier.schemas.fields import SOURCE

CHECK_INTERVAL = 1.0
"""Seconds between looks at whether the file has changed."""
SETTING = "COURIER_GATEWAY_TOKENS"
_LINE = re.compile(rf"({SOURCE.pattern}):([0-9a-f]{{64}})")
_FORM = "must hold a line name:sha256 for each token; the name, 1 to 32 of A-Za-z0-9_.-, once"


def new_token(name: str) -> tuple[str, str]:
    """Returns a token and its line in the file."""
    token = secrets.token_urlsafe(32)
    return token, f"{name}:{_digest(token)}"


def add_token(name: str, path: Path) -> str:
    """Adds a line for a new token to the file, which need not exist. Returns the token."""
    known = path.read_text(encoding="utf-8") if path.exists() else ""
    if known.split() and name in _read(path):
        raise ConfigError({SETTING: f"has a token for {name}: delete its line, or take a new name"})
    token, line = new_token(name)
    with path.open("a", encoding="utf-8") as file:
        file.write(f"\n{line}\n" if known and not known.endswith("\n") else f"{line}\n")
    return token


class Tokens:
    """Knows whose a token is. Reads the file again when it has changed.

    A file that has become unreadable or wrong changes nothing: the tokens before it stay.
    """

    def __init__(self, path: Path, clock: Callable[[], float] = time.monotonic) -> None:
        self._path, self._clock = path, clock
        self._looked, self._seen = clock(), _version(path)
        self._names, self._fault = _read(path), ""

    @property
    def fault(self) -> str:
        """What is wrong with the file as it is now; "" if nothing is."""
        self._look()
        return self._fault

    def name_of(self, token: str) -> str | None:
        """Returns the name of a token, or None, after the same time."""
        self._look()
        digest, found = _digest(token), None
        for name, known in self._names.items():
            if hmac.compare_digest(digest, known):
                found = name
        return found

    def _look(self) -> None:
        if self._clock() - self._looked < CHECK_INTERVAL:
            return
        self._looked = self._clock()
        if (version := _version(self._path)) == self._seen:
            return
        try:
            self._names, self._seen, self._fault = _read(self._path), version, ""
        except ConfigError as error:
            self._fault = str(error)


def _version(path: Path) -> tuple[int, int, int] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino


def _digest(token: str) -> str:
    return sha256(token.encode(errors="replace")).hexdigest()


def _read(path: Path) -> dict[str, str]:
    """Returns each name's digest. Raises ConfigError, whose text holds nothing of the file."""
    try:
        lines = path.read_text(encoding="utf-8").split()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError({SETTING: f"must be a file: {type(error).__name__}"}) from None
    found = [(match[1], match[2]) for line in lines if (match := _LINE.fullmatch(line))]
    names = dict(found)
    if not names or len(found) < len(lines) or len(names) < len(found):
        raise ConfigError({SETTING: _FORM})
    return names

"""All settings as one frozen value, read once from a mapping such as ``os.environ``.

Durations are seconds and may have fractions. An error names every wrong variable, and holds no
value: it may be a secret.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field, fields
from ipaddress import ip_address
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from viber_courier.schemas import redis_url as redis_urls
from viber_courier.schemas.errors import ConfigError

PREFIX = "COURIER_"
FROM_FILE = ("redis_url", "broker_url", "api_url", "api_login", "api_password", "suppression_key")
"""Settings that may also be read from the file that ``..._FILE`` names."""


OF_PROVIDER = ("api_url", "api_login", "api_password", "ca_file", "proxy")
"""Settings that only workers read; an app may have no right to read their files."""


DANGERS = ("plain-http", "volatile-redis")
"""Words of ``COURIER_ALLOW``: each accepts a danger that is refused otherwise."""
ON_DISK = -1
"""``COURIER_REPLICAS=disk``: wait for the master's disk."""
_AROUND = re.compile(r"\A[\s\ufeff]*[\r\n\ufeff]|[\r\n\ufeff][\s\ufeff]*\Z")
_QUOTED = re.compile(r"\s*(['\"]).*\1\s*")
_CONTROL = re.compile(r"[\x00-\x1f\x7f\ufeff\ud800-\udfff]")


class _WrongError(ValueError):
    """A setting is wrong; the text says what is allowed and goes into the ConfigError."""


def _read(path: str) -> str:
    return Path(path).read_text(encoding="utf-8")


def read_value(
    env: Mapping[str, str], name: str, filed: bool = True, read: Callable[[str], str] = _read
) -> str:
    """Returns a variable's value, or that of the file which ``..._FILE`` names; "" for neither.

    Line ends, blank lines and a BOM around it are no part of it; a password keeps its spaces.
    Quotation marks around a variable's value are an error: ``docker --env-file`` keeps them, shells
    and others don't. Raises ValueError, whose text holds no value.
    """
    text = _AROUND.sub("", env.get(name, ""))
    path = _AROUND.sub("", env.get(f"{name}_FILE", "")).strip() if filed else ""
    if text and path:
        raise _WrongError(f"is set twice: here and by {name}_FILE")
    try:
        text = _AROUND.sub("", read(path)) if path else text
    except (OSError, UnicodeDecodeError) as error:
        raise _WrongError(f"must be in {name}_FILE: {type(error).__name__}") from None
    text = text if name.endswith("_PASSWORD") else text.strip()
    if _CONTROL.search(text):
        raise _WrongError("must be one line, without control characters")
    if not path and _QUOTED.fullmatch(text):
        raise _WrongError("must be without quotation marks around it")
    if path and not text:  # else a default would be used
        raise _WrongError(f"must be in {name}_FILE, which is empty")
    return text


def _number(least: float, *, above: bool = False, most: float = 1e10) -> Callable[[str], float]:
    def parse(text: str) -> float:
        start = "above" if above else "from"
        wrong = _WrongError(f"must be a number {start} {least:g} to {most:g}".replace("e+", "e"))
        try:
            value = float(text)
        except ValueError:
            raise wrong from None
        if not (least < value if above else least <= value) or value > most:
            raise wrong
        return value

    return parse


def _whole(least: int, most: int = 10**12) -> Callable[[str], int]:
    def parse(text: str) -> int:
        if not re.fullmatch(r"[0-9]{1,13}", text) or not least <= int(text) <= most:
            raise _WrongError(f"must be a whole number from {least} to {most}")
        return int(text)

    return parse


def _replicas(text: str) -> int:
    if text == "disk":
        return ON_DISK
    try:
        return _whole(0, 100)(text)
    except _WrongError as wrong:
        raise _WrongError(f"{wrong}, or disk") from None


def _url(*schemes: str) -> Callable[[str], str]:
    def parse(text: str) -> str:
        wrong = _WrongError(f"must be a URL that starts with {' or '.join(schemes)}://")
        try:
            parts = urlsplit(text)
            whole = bool(parts.hostname) and parts.port != 0
        except ValueError:
            raise wrong from None
        if parts.scheme not in schemes or not whole or re.search(r"\s", text):
            raise wrong
        return text

    return parse


def _pattern(pattern: str, allowed: str) -> Callable[[str], str]:
    def parse(text: str) -> str:
        if not re.fullmatch(pattern, text):
            raise _WrongError(f"must be {allowed}")
        return text

    return parse


_name = _pattern("[A-Za-z0-9_.-]{1,32}", "1 to 32 of A-Za-z0-9_.-")


def _delays(text: str) -> tuple[float, ...]:
    parse = _number(0, above=True)
    try:
        return tuple(parse(part) for part in text.split(","))
    except _WrongError:
        raise _WrongError("must be seconds above 0 with commas between") from None


def _api_url(text: str) -> str:
    url = _url("https", "http")(text).rstrip("/")
    if "@" in urlsplit(url).netloc:  # it would appear in logs and override API_LOGIN
        raise _WrongError("must be without user name and password")
    if "?" in url or "#" in url:  # paths are appended
        raise _WrongError("must be without ? and #")
    return url


def _is_plain(url: str, proxy: str) -> bool:
    """Returns whether requests leave this machine unencrypted."""
    far = not is_loopback(url) or bool(proxy and not is_loopback(proxy))
    return urlsplit(url).scheme == "http" and far


def is_loopback(url: str) -> bool:
    """Returns whether a URL leads to this machine only."""
    try:
        return is_near(urlsplit(url).hostname or "")
    except ValueError:
        return False


def is_near(host: str) -> bool:
    """Returns whether a host is this machine only; "" means all addresses."""
    try:
        return host == "localhost" or ip_address(host).is_loopback
    except ValueError:
        return False


def _dangers(text: str) -> frozenset[str]:
    words = frozenset(word.strip() for word in text.split(","))
    if not words <= set(DANGERS):
        raise _WrongError(f"may only have, with commas between: {', '.join(DANGERS)}")
    return words


def _redis_url(text: str) -> str:
    redis_urls.tls_context(redis_urls.parse(text).tls)
    return text


def _broker_url(text: str) -> str:
    if redis_urls.parse(_redis_url(text)).scheme == "cluster":
        raise _WrongError(redis_urls.NO_BROKER)
    return text


def _file(text: str) -> str:
    if not Path(text).is_file():
        raise _WrongError("must name a file")
    return text


def _set(default: object, parse: Callable[[str], object], *, secret: bool = False) -> Any:
    return field(default=default, repr=not secret, metadata={"parse": parse})


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Every setting (README, "Settings"): a variable's name in lower case, without its prefix."""

    redis_url: str = _set("redis://localhost:6379/0", _redis_url, secret=True)
    broker_url: str = _set("", _broker_url, secret=True)
    namespace: str = _set("courier", _name)
    source: str = _set("", _name)
    api_url: str = _set("https://viber.devinotele.com:444", _api_url)
    # RFC 7617: a user name with a colon can't be told from its password.
    api_login: str = _set("", _pattern("[^:\\s]+", "without colons and spaces"), secret=True)
    api_password: str = _set("", str, secret=True)
    ca_file: str = _set("", _file)
    proxy: str = _set("", _url("http", "https"), secret=True)
    allow: frozenset[str] = _set(frozenset(), _dangers)
    batch_size: int = _set(100, _whole(1, 1000))
    status_batch_size: int = _set(100, _whole(1, 1000))
    rate_limit: float = _set(0.0, _number(0))
    rate_burst: float = _set(0.0, _number(0, above=True))
    poll_rate_limit: float = _set(20.0, _number(0))
    connect_timeout: float = _set(5.0, _number(0, above=True, most=86400))
    read_timeout: float = _set(30.0, _number(0, above=True, most=86400))
    lease: float = _set(120.0, _number(0, above=True))
    retry_base: float = _set(5.0, _number(0, above=True))
    retry_cap: float = _set(300.0, _number(1))
    max_attempts: int = _set(0, _whole(0))
    on_unsure: str = _set("auto", _pattern("auto|park|resend", "auto, park or resend"))
    unsure_resends: int = _set(2, _whole(0))
    replicas: int = _set(0, _replicas)
    # Below the timeout of our connections, and above the second between two calls of fsync.
    replicas_timeout: float = _set(1.0, _number(0.01, most=4))
    poll_delays: tuple[float, ...] = _set((10, 30, 60, 300, 900, 3600, 14400), _delays)
    read_window: float = _set(86400.0, _number(0))
    sms_grace: float = _set(600.0, _number(0))
    tracking_margin: float = _set(3600.0, _number(0))
    sweep_interval: float = _set(1.0, _number(0.05, most=86400))
    retention: float = _set(604800.0, _number(1))
    content_retention: float = _set(86400.0, _number(1))
    results_retention: float = _set(172800.0, _number(1))
    max_queued: int = _set(0, _whole(0))
    suppression_key: str = _set("", _pattern(".{16,}", "at least 16 characters"), secret=True)
    suppression_expiry: float = _set(0.0, _number(0))
    suppress_blocked: str = _set("on", _pattern("on|off", "on or off"))

    @property
    def deadline(self) -> float:
        """Returns how long one request to the provider may take in all, in seconds."""
        return self.connect_timeout + self.read_timeout

    def unsure_policy(self, lane: str) -> str:
        """Returns ``park`` or ``resend``, for a lane's messages without ``onUnsure``."""
        if self.on_unsure != "auto":
            return self.on_unsure
        return "resend" if lane in ("realtime", "high") else "park"

    @property
    def bell_ttl(self) -> float:
        """Returns how long a bell is set, in seconds; after that it may be rung again."""
        return max(1.0, 2 * self.sweep_interval)

    @classmethod
    def from_env(
        cls,
        env: Mapping[str, str],
        *,
        provider: bool = False,
        read: Callable[[str], str] = _read,
    ) -> Settings:
        """Returns the settings of the ``COURIER_*`` variables; an empty one counts as unset.

        ``provider``: also read the provider's settings, and require login and password (workers,
        not producers). Raises ConfigError with every fault.
        """
        # A file of settings with a BOM gives it to its first name.
        env = {name.lstrip("\ufeff"): text for name, text in env.items()}
        values: dict[str, Any] = {}
        faults: dict[str, str] = {}
        for each in fields(cls):
            if each.name in OF_PROVIDER and not provider:
                continue
            name = PREFIX + each.name.upper()
            try:
                text = read_value(env, name, each.name in FROM_FILE, read)
                if text:
                    values[each.name] = each.metadata["parse"](text)
            except (_WrongError, redis_urls.AddressError) as wrong:
                faults[name] = str(wrong)
        for name in ("api_login", "api_password") if provider else ():
            if name not in values and PREFIX + name.upper() not in faults:
                faults[PREFIX + name.upper()] = f"must be set (or {PREFIX}{name.upper()}_FILE)"
        settings = cls(**values)
        is_cluster = redis_urls.parse(settings.redis_url).scheme == "cluster"
        if provider and is_cluster and not settings.broker_url:  # apps use no broker
            faults.setdefault("COURIER_BROKER_URL", redis_urls.NO_BROKER)
        for name, fault in settings._together(faults.keys()):
            faults.setdefault(name, fault)
        if faults:
            raise ConfigError(faults)
        return cls(**{**settings._derived(), **values})

    def _derived(self) -> dict[str, Any]:
        """Returns the defaults that depend on other settings."""
        return {
            "broker_url": self.redis_url,
            "rate_burst": max(1.0, self.rate_limit),
            "replicas_timeout": 3.0 if self.replicas == ON_DISK else 1.0,
        }

    def _together(self, wrong: Collection[str]) -> Iterator[tuple[str, str]]:
        """Yields faults of settings that contradict each other, but none for those in ``wrong``."""
        timing = {f"{PREFIX}{name}" for name in ("LEASE", "CONNECT_TIMEOUT", "READ_TIMEOUT")}
        if timing.isdisjoint(wrong) and self.lease <= self.deadline:
            both = "COURIER_CONNECT_TIMEOUT and COURIER_READ_TIMEOUT"
            yield "COURIER_LEASE", f"must be longer than {both} together"
        allowed = {"plain-http", "COURIER_ALLOW"} & {*self.allow, *wrong}
        if _is_plain(self.api_url, self.proxy) and not allowed:
            yield (
                "COURIER_API_URL",
                "must start with https:// outside of loopback: texts and password would travel in "
                "the clear (COURIER_ALLOW=plain-http accepts that)",
            )

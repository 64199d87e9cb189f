"""Reads the Redis URLs that people are given, for the store and for the broker alike.

docs/redis.md has a table of all forms. This is not done by ``urlsplit``: it cuts off what follows
a #, and from Python 3.14 on refuses a bracketed host beside others.
"""

import re
import ssl
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, unquote

_KINDS = ("redis", "rediss", "unix", "sentinel", "cluster")
_NAMES = {"valkey": "redis", "valkeys": "rediss", "redis+socket": "unix", "socket": "unix"}
_NAMES |= {"sentinels": "rediss+sentinel", "clusters": "rediss+cluster"}
"""Other spellings of a scheme: Valkey's, Celery's, and short ones. A - may stand for a +."""

_SWITCH = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}
_CHECKS = {f"{head}{w}": w for w in ("required", "optional", "none") for head in ("", "cert_")}
_VERSIONS = {f"{head}1{dot}{n}": 769 + n for head in ("", "tlsv") for dot in "._" for n in (2, 3)}
_VERSIONS |= {"771": 771, "772": 772}
_WORDS: dict[str, Mapping[str, Any]] = {"ssl": _SWITCH, "ssl_check_hostname": _SWITCH}
_WORDS |= {"ssl_cert_reqs": _CHECKS, "ssl_min_version": _VERSIONS}
"""Options with a choice of words: each spelling in lower case, and what redis-py takes for it."""
_TEXTS = (
    *("db", "username", "password", "master", "sentinel_username", "sentinel_password"),
    *("ssl_ca_certs", "ssl_ca_path", "ssl_certfile", "ssl_keyfile", "ssl_password", "ssl_ciphers"),
)
_SAME = {"virtual_host": "db", "master_name": "master", "service_name": "master"}
"""Celery's and others' names of options."""
OPTIONS = (*_TEXTS, *_WORDS)
REFUSED_OPTIONS = (
    *("socket_timeout", "socket_connect_timeout", "socket_keepalive", "socket_read_size"),
    *("timeout", "health_check_interval", "max_connections", "retry_on_timeout", "retry_on_error"),
    *("protocol", "legacy_responses", "decode_responses", "encoding", "encoding_errors", "family"),
    *("client_name", "lib_name", "lib_version", "visibility_timeout", "ssl_ca_data"),
    *("ssl_include_verify_flags", "ssl_exclude_verify_flags", "ssl_ocsp_expected_cert"),
    *("ssl_validate_ocsp", "ssl_validate_ocsp_stapled"),
)
"""Options of redis-py and of other clients that we set ourselves or don't support, by name."""

NO_BROKER = "must be set, and can't be cluster://, when COURIER_REDIS_URL is cluster://"
_QUOTING = "in a password write # as %23, / as %2F, ? as %3F, @ as %40 and % as %25"
_CONTROL = re.compile("[\x00-\x1f\x7f\ufeff\ud800-\udfff]")
_LOGIN_HOSTS = r"(?P<scheme>[a-z+-]+)://((?P<login>[^/?]*)@)?(?P<hosts>[^@/?]*)"
_URL = re.compile(_LOGIN_HOSTS + r"(?P<path>[^?]*)(\?(?P<query>.*))?", re.IGNORECASE)
_LABEL = "[a-z0-9_-]{1,63}"
_NAME = rf"\[([0-9a-f:.]+(?:%\w+)?)\]|({_LABEL}(?:\.{_LABEL})*\.?)"
_HOST = re.compile(rf"(?:{_NAME})(?::([0-9]{{0,5}}))?", re.IGNORECASE)
_PATH = re.compile(r"(?:/(?P<master>(?![0-9]*(?:/|$))[^/]+))?(?:/(?P<db>[0-9]+))?/?")


class AddressError(ValueError):
    """A URL is wrong. The text goes on after the setting's name, and holds nothing of the URL."""


@dataclass(frozen=True, slots=True)
class Address:
    """Where Redis is, how to log in, and how to encrypt."""

    scheme: str
    """``redis``, ``rediss``, ``unix``, ``sentinel`` or ``cluster``."""
    hosts: tuple[tuple[str, int], ...] = ()
    path: str = ""
    """Of the Unix socket."""
    database: int = 0
    username: str | None = field(default=None, repr=False)
    password: str | None = field(default=None, repr=False)
    master: str = ""
    """The name by which sentinels know the master."""
    tls: Mapping[str, Any] = field(default_factory=dict, repr=False)
    """redis-py's ``ssl_...`` options; empty: no TLS."""
    sentinel_login: Mapping[str, str] = field(default_factory=dict, repr=False)

    @property
    def place(self) -> str:
        """Returns the hosts and ports, or the socket's path, for errors."""
        return self.path or ", ".join(f"{host}:{port}" for host, port in self.hosts)

    """``username`` and ``password`` for the sentinels themselves."""


def parse(text: str) -> Address:
    """Returns the address that a URL means. Raises AddressError and nothing else."""
    kind, secure, parts = _split(text)
    found: dict[str, Any] = {}
    for part in parts:
        for name, value in _said(part, kind):
            _require(found.setdefault(name, value) == value, f"must say its {name} only once")
    asked = {name for name in found if name == "master" or name.startswith("sentinel_")}
    good = "master" in asked if kind == "sentinel" else not asked
    _require(good, "must say ?master=NAME with sentinel://, and only there")
    database, number = found.get("db", "0"), re.compile("[0-9]{1,9}")
    _require(number.fullmatch(database), "must have a database's number, of nine digits at most")
    _require(kind != "cluster" or not int(database), "must have database 0, a cluster's only one")
    tls = _tls(found, secure, kind)
    path = unquote(parts[0]["path"]) if kind == "unix" else ""
    _require(len(path) > 1 or kind != "unix", "must name the socket's path, as unix:///path")
    return Address(
        scheme="rediss" if kind == "redis" and tls else kind,
        hosts=_hosts(kind, ",".join(part["hosts"] for part in parts)),
        path=path,
        database=int(database),
        **{name: found[name] for name in ("username", "password", "master") if name in found},
        tls=tls,
        sentinel_login={name[9:]: found[name] for name in asked - {"master"}},
    )


def _require(condition: object, text: str) -> None:
    if not condition:
        raise AddressError(text)


def _split(text: str) -> tuple[str, bool, list[re.Match[str]]]:
    """Returns the kind of address, whether its scheme means TLS, and the parts of its URLs."""
    clean = not re.search(r"\s|^['\"]|['\"]$", text) and not _CONTROL.search(unquote(text))
    _require(clean, "must be without spaces and control characters, and not in quotation marks")
    _require("\ufffd" not in unquote(text), "must have UTF-8 behind each %")
    _require("#" not in text, f"must be without #: {_QUOTING}")
    parts = [_URL.fullmatch(each) for each in re.split(r";(?=[a-z+-]+://)", text)]
    whole = [part for part in parts if part]
    given = {part["scheme"].lower().replace("-", "+") for part in whole}
    name = next(iter(given), "")
    base, _, kind = _NAMES.get(name, name).rpartition("+")
    known = kind in _KINDS and (not base or (base in _KINDS[:2] and kind in _KINDS[3:]))
    right = known and len(given) == 1 and len(whole) == len(parts)
    _require(right, f"must be a URL that starts with {'://, '.join(_KINDS[:-1])}:// or cluster://")
    return kind, "rediss" in (base, kind), whole


def _said(part: re.Match[str], kind: str) -> Iterator[tuple[str, Any]]:
    """Yields what a URL says beside its hosts, by option's name."""
    user, _, password = (part["login"] or "").partition(":")
    path = _PATH.fullmatch("" if kind == "unix" else part["path"])
    good = path and "@" not in part["path"] and (kind == "sentinel" or not path["master"])
    _require(good, f"must end with the number of a database, as /0; {_QUOTING}")
    found = {"username": user, "password": password, **(path.groupdict() if path else {})}
    yield from ((name, unquote(text)) for name, text in found.items() if text)
    query = part["query"] or ""
    _require("+" not in query, "must have + written as %2B in an option")  # libraries read a space
    known = f"may have only these options: {', '.join(OPTIONS)}; {_QUOTING}"
    for given, text in parse_qsl(query, keep_blank_values=True):
        name = _SAME.get(given, given)
        _require(name not in REFUSED_OPTIONS, f"must be without {name}: it can't be chosen here")
        _require(name in OPTIONS, known)
        words = _WORDS.get(name, {})
        value = words.get(text.lower()) if words else text or None
        _require(value is not None, f"must have in {given}: {', '.join(words) or 'a value'}")
        yield name, value


def _tls(found: Mapping[str, Any], secure: bool, kind: str) -> Mapping[str, Any]:
    """Returns redis-py's options, with ours where the URL says nothing; {} means no TLS."""
    chosen = found.get("ssl", secure)
    given = {name: value for name, value in found.items() if name.startswith("ssl_")}
    good = kind != "unix" if chosen else not secure and not given
    _require(good, "must start with rediss://, sentinels:// or clusters:// to have ssl options")
    _require("ssl_certfile" in given or "ssl_keyfile" not in given, "must also have ssl_certfile")
    checked = given.get("ssl_cert_reqs") != "none"
    good = checked or not given.get("ssl_check_hostname")
    _require(good, "must be without ssl_check_hostname where ssl_cert_reqs is none")
    own = {"ssl_cert_reqs": "required", "ssl_check_hostname": checked}
    return own | given if chosen else {}


def tls_context(tls: Mapping[str, Any]) -> ssl.SSLContext | None:
    """Returns what redis-py's blocking client makes of these options; None without any.

    Raises AddressError for a file that can't be used.
    """
    if not tls:
        return None
    context = ssl.create_default_context()
    context.check_hostname = tls["ssl_check_hostname"]
    context.verify_mode = ssl.VerifyMode[f"CERT_{tls['ssl_cert_reqs'].upper()}"]
    context.minimum_version = tls.get("ssl_min_version", context.minimum_version)
    # Without a password, OpenSSL would ask the terminal for one.
    key = {"keyfile": tls.get("ssl_keyfile"), "password": tls.get("ssl_password", "")}

    def load_folder(path: str) -> None:
        next(Path(path).iterdir(), None)  # OpenSSL would take a missing one
        context.load_verify_locations(capath=path)

    loads: dict[str, Callable[[str], object]] = {
        "ssl_ca_path": load_folder,
        "ssl_ca_certs": context.load_verify_locations,
        "ssl_certfile": lambda path: context.load_cert_chain(path, **key),
        "ssl_ciphers": context.set_ciphers,
    }
    for name, load in loads.items():
        try:
            load(tls[name]) if name in tls else None
        except (OSError, ValueError) as error:
            fault = f"has {name} that can't be used: {type(error).__name__}"
            raise AddressError(fault) from None
    return context


def _hosts(kind: str, text: str) -> tuple[tuple[str, int], ...]:
    _require(not text or kind != "unix", f"must have three slashes, as unix:///path; {_QUOTING}")
    found = [_HOST.fullmatch(each) for each in text.split(",") if kind != "unix"]
    port = (
        26379 if kind == "sentinel" else 6379
    )  # redis.io, "High availability with Redis Sentinel"
    places = [(unquote(h[1] or h[2]).lower(), int(h[3] or port)) for h in found if h]
    good = len(places) == len(found) and all(0 < p < 65536 for _, p in places)
    _require(good, f"must name each host as host:port, an IPv6 address in []; {_QUOTING}")
    several = kind in ("sentinel", "cluster")
    _require(several or len(places) < 2, "must name one host: only sentinel and cluster have more")
    return tuple(places)

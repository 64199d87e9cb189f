"""Redis URLs: ``cluster://[user:password@]host[:port][,host[:port]...][?ssl_...=...]``."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qsl, unquote

CLUSTER = "cluster://"
_URL = re.compile(rf"{CLUSTER}(?:([^@/?#\s]*)@)?([^@/?#\s]+)(/0?)?(?:\?([^#\s]*))?")
_HOST = re.compile(r"(\[[^\]]+\]|[^:\s\[\]]+)(?::([0-9]{1,5}))?")


@dataclass(frozen=True, slots=True)
class Address:
    """Where Redis is. ``tls``: redis-py's ssl_ options, empty without TLS."""

    scheme: str
    hosts: tuple[tuple[str, int], ...]
    path: str = ""
    database: int = 0
    username: str | None = None
    password: str | None = None
    master: str = ""
    tls: Mapping[str, Any] = field(default_factory=dict)


def parse(text: str) -> Address:
    """Returns the parts of a URL. Raises ValueError, whose text holds nothing of the URL."""
    parts = _URL.fullmatch(text)
    if not parts:
        raise ValueError("must be cluster://host:port,host:port; a cluster has database 0 only")
    login, hosts, _, query = parts.groups()
    user, _, password = (login or "").partition(":")
    found = [_HOST.fullmatch(host) for host in hosts.split(",")]
    options = dict(parse_qsl(query or "", keep_blank_values=True))
    secure = options.pop("ssl", "") == "true" or bool(options)
    if not all(found) or not all(name.startswith("ssl_") for name in options):
        raise ValueError(
            "must name hosts as host:port with commas between, and only ssl_... options"
        )
    places = tuple((host[1].strip("[]"), int(host[2] or 6379)) for host in found if host)
    return Address(
        "cluster",
        places,
        username=unquote(user) or None,
        password=unquote(password) or None,
        tls={"ssl_cert_reqs": "required", **options} if secure else {},
    )

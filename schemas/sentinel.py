"""``sentinel://[user:password@]host[:port][,host[:port]...][/database]?master=NAME``.

The user and password are those of the master and its replicas. Sentinels are asked without any.
"""

import re
from dataclasses import dataclass
from urllib.parse import parse_qs, unquote

PORT = 26379
"""Sentinel's default port (Redis documentation, "High availability with Redis Sentinel")."""
SCHEME = "sentinel://"
_LOGIN = r"[^][/?#\s\x7f-\U0010ffff]*"
_URL = re.compile(
    rf"{SCHEME}((?P<login>{_LOGIN})@)?(?P<hosts>[^@/?#]*)(?P<path>(/[^?#]*)?)"
    r"(\?(?P<query>[^#]*))?"
)


@dataclass(frozen=True, slots=True)
class Sentinels:
    """The sentinels' addresses, the master's name, and how to log in to the master."""

    hosts: tuple[tuple[str, int], ...]
    master: str
    database: int
    login: str
    """``user:password``, quoted as in the URL; "" for none."""

    @property
    def username(self) -> str | None:
        """Returns the user's name; None if the URL has none."""
        return unquote(self.login.partition(":")[0]) or None

    @property
    def password(self) -> str | None:
        """Returns the password; None if the URL has none."""
        return unquote(self.login.partition(":")[2]) or None


def parse(url: str) -> Sentinels:
    """Returns the parts of a URL. Raises ValueError, whose text holds nothing of the URL."""
    # Not by urlsplit: from Python 3.14 on it refuses a bracketed host beside others.
    parts = _URL.fullmatch(url)
    if not parts:
        raise ValueError("must be a URL, with [, ] and the like quoted in a password") from None
    hosts, options = parts["hosts"], parse_qs(parts["query"] or "", keep_blank_values=True)
    if set(options) != {"master"} or not options["master"][-1]:
        raise ValueError("must say ?master=NAME and no other option")
    if not re.fullmatch("(/[0-9]*)?", parts["path"]):
        raise ValueError("must end with the number of a database, as /0")
    found = [
        re.fullmatch(r"(\[[^\]]+\]|[^:\s\[\]]+)(?::([0-9]{1,5}))?", h) for h in hosts.split(",")
    ]
    places = [(host[1].strip("[]"), int(host[2] or PORT)) for host in found if host]
    if len(places) < len(found) or not all(0 < port < 65536 for _, port in places):
        raise ValueError("must name hosts as host:port with commas between")
    login, database = parts["login"] or "", int(parts["path"][1:] or 0)
    return Sentinels(tuple(places), options["master"][-1], database, login)

"""Adapts requests: no retries, no redirects, and one deadline for a whole call.

It records whether a connection was made: before that, nothing can have been sent.
"""

import contextlib
import http.client
import logging
import os
import re
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from http.cookiejar import DefaultCookiePolicy
from typing import Any

import requests
from requests.adapters import HTTPAdapter
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool

# Its warnings repeat a header that can't be read, and so perhaps what we sent.
logging.getLogger("urllib3").setLevel(logging.ERROR)


@dataclass(slots=True, eq=False)
class Call:
    """The request that a thread is making; ``end`` is its deadline by the monotonic clock."""

    end: float
    made: bool = False
    connection: Any = None
    sock: Any = None

    def cut(self) -> None:
        """Ends the request from another thread, whatever it waits for."""
        # The connection drops its socket once it has read that this reply is its last.
        sock = self.sock or getattr(self.connection, "sock", None)
        if sock is not None:
            # The plain socket's shutdown: an SSLSocket's own would break the thread that reads.
            with contextlib.suppress(OSError):
                socket.socket.shutdown(sock, socket.SHUT_RDWR)


_PLAIN = {
    "unknown CA": "self.signed|issuer|first certificate|unknown ca",
    "unsupported protocol": "protocol version|unknown protocol|protocols available",
    "unsupported protocol or cipher": "handshake failure",
    "no TLS on this port": "wrong version number|record layer failure|http request",
}
"""What OpenSSL's words mean, where they don't say it."""


def cause(error: BaseException, made: bool) -> str:
    """Returns why a request failed, in the words of the system's error, without any address.

    It is at most 80 letters, digits and ``:,-``. ``made``: a connection had been made.
    """
    link: BaseException | None = error
    proxy = "proxy: " if isinstance(error, requests.exceptions.ProxyError) else ""
    while link is not None:
        if words := _words(link, made):
            return re.sub("[^A-Za-z0-9:,-]+", " ", proxy + words).strip()[:80]
        inner = (link.__cause__, link.__context__, *link.args)
        error, link = link, next((e for e in inner if isinstance(e, BaseException)), None)
    return proxy + type(error).__name__


def _words(error: BaseException, made: bool) -> str:
    match error:
        case ssl.SSLError():
            said = getattr(error, "verify_message", None) or error.reason or "broken off"
            # A mismatch goes on, after a comma, with the name that we asked for.
            own = said.partition(",")[0].replace("_", " ").lower()
            plain = next((f"{p}, " for p, theirs in _PLAIN.items() if re.search(theirs, own)), "")
            return f"TLS: {plain}{own}"
        case socket.gaierror():
            return f"DNS: {error.strerror}"
        case TimeoutError():
            phase = "read" if made else "connect"
            return f"{'TLS: handshake' if 'handshake' in str(error) else phase} timeout"
        case OSError(errno=int(number)):
            return os.strerror(number).lower()
    tunnel = re.match(r"Tunnel connection failed: (\d{3})\b", str(error))
    return f"HTTP {tunnel[1]}" if tunnel else ""


_calls = threading.local()


@contextmanager
def deadline(seconds: float) -> Iterator[Call]:
    """Ends requests made in this block after so many seconds.

    The timeouts of requests hold for each read, so a reply that trickles in would never end.
    """
    call = _calls.current = Call(time.monotonic() + seconds)
    deadlines = _deadlines(os.getpid(), seconds)
    deadlines.calls.add(call)
    try:
        yield call
    finally:
        deadlines.calls.discard(call)


class _Deadlines:
    """Watches all calls of a process with the same deadline, in one thread; timers would need one
    each."""

    def __init__(self, seconds: float) -> None:
        self._seconds, self.calls = seconds, set[Call]()
        threading.Thread(target=self._watch, daemon=True, name="deadlines").start()

    def _watch(self) -> None:
        while True:
            now = time.monotonic()
            # Calls that begin while it sleeps end later than this.
            wake = now + self._seconds
            for call in self.calls.copy():
                if call.end > now:
                    wake = min(wake, call.end)
                else:
                    call.cut()
                    self.calls.discard(call)
            time.sleep(wake - now)


@lru_cache(16)
def _deadlines(pid: int, seconds: float) -> _Deadlines:
    return _Deadlines(seconds)  # the process id is part of the key: a fork needs its own thread


class _Final(http.client.HTTPResponse):
    """The answer behind interim ones: http.client skips 100 only, and would take the answer itself
    for the next request's (RFC 9110, 15.2)."""

    def begin(self) -> None:
        super().begin()
        while self.status < 200:
            self.headers: Any = None  # else nothing more is read
            super().begin()


class _Recorded:
    response_class: Any = _Final
    sock: Any

    def connect(self) -> None:
        _calls.current.connection = self  # so that the deadline also ends a slow handshake
        super().connect()  # type: ignore[misc]
        self._record_socket()

    def request(self, *args: Any, **kwargs: Any) -> None:
        if self.sock is not None:
            self._record_socket()
        super().request(*args, **kwargs)  # type: ignore[misc]

    def _record_socket(self) -> None:
        call: Call = _calls.current
        call.connection, call.sock = self, self.sock
        if time.monotonic() >= call.end:
            raise TimeoutError("connected after the deadline")  # nothing else would end it
        call.made = True


class _Http(_Recorded, HTTPConnection):
    pass


class _Https(_Recorded, HTTPSConnection):
    pass


class _HttpPool(HTTPConnectionPool):
    ConnectionCls = _Http


class _HttpsPool(HTTPSConnectionPool):
    ConnectionCls = _Https


class _Adapter(HTTPAdapter):
    """The adapter of requests with our connections."""

    _pools = {"http": _HttpPool, "https": _HttpsPool}  # noqa: RUF012

    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        super().init_poolmanager(*args, **kwargs)
        self.poolmanager.pool_classes_by_scheme = self._pools

    def proxy_manager_for(self, *args: Any, **kwargs: Any) -> Any:
        manager = super().proxy_manager_for(*args, **kwargs)
        manager.pool_classes_by_scheme = self._pools
        return manager


class Session(requests.Session):
    """A session that ignores redirects: requests would read the body to follow one."""

    def __init__(self, ca_file: str, proxy: str) -> None:
        super().__init__()
        self.trust_env = False  # ignores netrc and the environment's proxy
        self.verify = ca_file or True
        self.cookies.set_policy(
            DefaultCookiePolicy(allowed_domains=[])
        )  # none is sent, so none kept
        if proxy:
            self.proxies = dict.fromkeys(("http", "https"), proxy)
        adapter = _Adapter(pool_connections=1, pool_maxsize=1, max_retries=0)
        self.mount("https://", adapter)
        self.mount("http://", adapter)

    def get_redirect_target(self, resp: requests.Response) -> None:
        return None

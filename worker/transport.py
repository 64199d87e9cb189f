"""requests, as a POST needs it here: no retries, no redirects, and a deadline for the whole of it.

A connection notes whether it was made: before that, nothing can have been sent.
"""

import contextlib
import os
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import requests
from requests.adapters import HTTPAdapter
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool


@dataclass(slots=True, eq=False)
class Call:
    """What is known of the request that this thread makes now; ``end`` by the monotonic clock."""

    end: float
    made: bool = False
    connection: Any = None
    sock: Any = None

    def cut(self) -> None:
        """End it from another thread, whatever it waits for."""
        # The connection forgets its socket as soon as it has read that the reply is its last.
        sock = self.sock or getattr(self.connection, "sock", None)
        if sock is not None:
            # Of the plain socket: an SSLSocket's own would pull its state from under the reader.
            with contextlib.suppress(OSError):
                socket.socket.shutdown(sock, socket.SHUT_RDWR)


_calls = threading.local()


@contextmanager
def deadline(seconds: float) -> Iterator[Call]:
    """Cut the requests made in this block after so many seconds.

    requests' own timeouts are per read: a trickling reply would never end.
    """
    call = _calls.current = Call(time.monotonic() + seconds)
    deadlines = _deadlines(os.getpid(), seconds)
    deadlines.calls.add(call)
    try:
        yield call
    finally:
        deadlines.calls.discard(call)


class _Deadlines:
    """One thread for all calls of a process that may take equally long: a timer for each costs a
    thread for each."""

    def __init__(self, seconds: float) -> None:
        self._seconds, self.calls = seconds, set[Call]()
        threading.Thread(target=self._watch, daemon=True, name="deadlines").start()

    def _watch(self) -> None:
        while True:
            now = time.monotonic()
            # Whatever begins while it sleeps ends later than this: nobody need wake it.
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
    return _Deadlines(seconds)  # another process has a thread of its own


class _Noting:
    sock: Any

    def connect(self) -> None:
        _calls.current.connection = self  # the deadline cuts a slow handshake too
        super().connect()  # type: ignore[misc]
        self._note()

    def request(self, *args: Any, **kwargs: Any) -> None:
        if self.sock is not None:
            self._note()
        super().request(*args, **kwargs)  # type: ignore[misc]

    def _note(self) -> None:
        call: Call = _calls.current
        call.connection, call.sock = self, self.sock
        if time.monotonic() >= call.end:
            raise TimeoutError("connected after the deadline")  # which nothing would cut any more
        call.made = True


class _Http(_Noting, HTTPConnection):
    pass


class _Https(_Noting, HTTPSConnection):
    pass


class _HttpPool(HTTPConnectionPool):
    ConnectionCls = _Http


class _HttpsPool(HTTPSConnectionPool):
    ConnectionCls = _Https


class _Adapter(HTTPAdapter):
    """requests' adapter, without retries and with connections that note."""

    _pools = {"http": _HttpPool, "https": _HttpsPool}  # noqa: RUF012

    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        super().init_poolmanager(*args, **kwargs)
        self.poolmanager.pool_classes_by_scheme = self._pools

    def proxy_manager_for(self, *args: Any, **kwargs: Any) -> Any:
        manager = super().proxy_manager_for(*args, **kwargs)
        manager.pool_classes_by_scheme = self._pools
        return manager


class Session(requests.Session):
    """A session that doesn't even look where a redirect leads: it would read its body whole."""

    def __init__(self, ca_file: str, proxy: str) -> None:
        super().__init__()
        self.trust_env = False  # no netrc, no proxy of the environment
        self.verify = ca_file or True
        if proxy:
            self.proxies = dict.fromkeys(("http", "https"), proxy)
        adapter = _Adapter(pool_connections=1, pool_maxsize=1, max_retries=0)
        self.mount("https://", adapter)
        self.mount("http://", adapter)

    def get_redirect_target(self, resp: requests.Response) -> None:
        return None

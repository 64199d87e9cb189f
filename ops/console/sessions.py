"""Sessions: signed cookies, of which the server remembers those who logged in, and until when."""

from __future__ import annotations

import asyncio
import hmac
import secrets
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field

COOKIE = "courier-console"
IDLE_SECONDS, LONGEST_SECONDS = 3600.0, 43_200.0
"""After so long without a request, and after so long in all, a session ends."""
MOST_DONE = 20
"""Forms of a session whose ends are remembered."""
MOST_SESSIONS = 1000
"""Sessions that are remembered; one more ends the one that was used least lately."""


@dataclass(slots=True)
class Session:
    """A visitor's. ``who`` "": nobody has logged in. ``token``: what each form must send.

    ``said``: what the latest action did, until a page has shown it. ``done``: what was done by the
    latest forms, each by the number that it was sent with. Instants are monotonic.
    """

    nonce: str
    token: str
    who: str = ""
    began: float = 0.0
    used: float = 0.0
    said: list[str] = field(default_factory=list)
    done: OrderedDict[str, asyncio.Future[str]] = field(default_factory=OrderedDict)


class Sessions:
    """The sessions of one process: a restart ends them all."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock, self._key = clock, secrets.token_bytes(32)
        self._live = OrderedDict[str, Session]()

    def find(self, cookie: str, by_itself: bool = False) -> Session | None:
        """Returns the session of a cookie that we signed; None for any other.

        If nobody logged in with it, or the session is over, that session has no name.
        ``by_itself``: an open page asks and not a person, so the session lasts no longer for it.
        """
        nonce, _, mark = cookie.partition(".")
        if not hmac.compare_digest(
            mark.encode(errors="replace"), self._sign("session", nonce).encode()
        ):
            return None
        session = self._live.get(nonce)
        if session is None or not self.is_live(session):
            self._live.pop(nonce, None)
            return Session(nonce, self._sign("form", nonce))
        session.used = session.used if by_itself else self._clock()
        self._live.move_to_end(nonce)
        return session

    def start(self, who: str = "") -> Session:
        """Returns a new session; remembers it if it has a name."""
        nonce, now = secrets.token_urlsafe(24), self._clock()
        session = Session(nonce, self._sign("form", nonce), who, now, now)
        if who:
            self._live[nonce] = session
            if len(self._live) > MOST_SESSIONS:
                self._live.popitem(last=False)
        return session

    def is_live(self, session: Session) -> bool:
        """Returns whether a session goes on; looking at that does not make it last longer."""
        ends = min(session.used + IDLE_SECONDS, session.began + LONGEST_SECONDS)
        return session.nonce in self._live and self._clock() <= ends

    def end(self, session: Session) -> None:
        """Forgets a session: its cookie is nobody's from now on."""
        self._live.pop(session.nonce, None)

    def cookie(self, session: Session) -> str:
        """Returns the value of a session's cookie."""
        return f"{session.nonce}.{self._sign('session', session.nonce)}"

    def _sign(self, what: str, nonce: str) -> str:
        text = f"{what} {nonce}".encode(errors="replace")
        return hmac.new(self._key, text, "sha256").hexdigest()

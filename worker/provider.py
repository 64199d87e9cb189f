"""Calls the provider's HTTP API: one POST, within a deadline."""

import base64
import os
import threading
import time
from collections.abc import Collection
from typing import Any

try:
    import requests
    import urllib3
except ModuleNotFoundError:
    raise SystemExit("a worker needs requests: pip install 'viber-courier[worker]'") from None

from viber_courier.schemas import wire
from viber_courier.schemas.settings import Settings
from viber_courier.worker.answers import Answer, read_send_answer, read_status_answer
from viber_courier.worker.outcome import NotSent, Outcome, Retryable, StatusOutcome, Unsure
from viber_courier.worker.transport import Session, cause, deadline

MAX_IDLE = 5.0
"""Seconds after which an idle connection isn't used again: the server may be closing it."""
MAX_REPLY_BYTES = 4 * 1024 * 1024
"""Most bytes read of a reply; an entry has some 100 (docs/provider-api.md#t41)."""


class Provider:
    """Posts to the API; each thread of each process has one session that is kept alive."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        login = f"{settings.api_login}:{settings.api_password}".encode()
        self._headers = {
            "Authorization": "Basic " + base64.b64encode(login).decode(),
            "Content-Type": "application/json; charset=utf-8",
            "Accept-Encoding": "identity",
            "User-Agent": "viber-courier",
        }
        self._local, self._prepared = threading.local(), dict[str, requests.PreparedRequest]()

    def send(self, body: bytes, count: int) -> list[Outcome]:
        """Posts ``count`` messages to /send; returns an outcome for each, in their order."""
        answer = self._post(wire.SEND_PATH, body)
        return read_send_answer(answer, count) if isinstance(answer, Answer) else [answer] * count

    def status(self, provider_ids: Collection[int]) -> StatusOutcome:
        """Posts these ids to /status."""
        answer = self._post(wire.STATUS_PATH, wire.status_body(provider_ids))
        if isinstance(answer, Unsure):
            return Retryable(answer.why, whole=True)
        return read_status_answer(answer) if isinstance(answer, Answer) else answer

    def _post(self, path: str, body: bytes) -> Answer | NotSent | Unsure:
        settings = self._settings
        with deadline(settings.deadline) as call:
            try:
                with self._session().send(
                    self._request(path, body),
                    timeout=(settings.connect_timeout, settings.read_timeout),
                    allow_redirects=False,
                    stream=True,
                ) as response:
                    text = bytearray()
                    for piece in response.iter_content(65536):
                        text += piece
                        if len(text) > MAX_REPLY_BYTES:
                            return Unsure("reply-too-large", odd=True)
                    if time.monotonic() > call.end and not _is_whole(response.raw):
                        return Unsure("deadline")
                    wait, date = map(response.headers.get, ("Retry-After", "Date"))
                    return Answer(response.status_code, bytes(text), wait, date)
            except requests.exceptions.ContentDecodingError:
                return Unsure("undecodable", odd=True)
            except (
                requests.RequestException,
                urllib3.exceptions.HTTPError,
                OSError,
                ValueError,
            ) as error:
                why = cause(error, call.made)
                return Unsure(why) if call.made else NotSent(why)
            finally:
                self._local.used = time.monotonic()

    def _request(self, path: str, body: bytes) -> requests.PreparedRequest:
        """Returns a request with this body. The rest is prepared once, because it takes long."""
        if path not in self._prepared:
            asked = requests.Request("POST", self._settings.api_url + path, headers=self._headers)
            self._prepared[path] = asked.prepare()
        request = self._prepared[path].copy()
        request.body = body
        request.headers["Content-Length"] = str(len(body))
        return request

    def _session(self) -> Session:
        local = self._local
        if getattr(local, "pid", None) != os.getpid():
            session = Session(self._settings.ca_file, self._settings.proxy)
            local.pid, local.used, local.session = os.getpid(), 0.0, session
        elif time.monotonic() - local.used > MAX_IDLE:
            local.session.close()
        kept: Session = local.session
        return kept


def _is_whole(raw: Any) -> bool:
    """Returns whether the reply is complete by its own framing, not cut off by our deadline.

    A process that stalled past the deadline may find a complete answer waiting, and uses it.
    """
    return bool(raw.chunked) or raw.length_remaining == 0

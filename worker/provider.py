"""The provider's HTTP API: one POST, and what its answer means.

The only table of the provider's codes (document, "Таблица кодов возврата") is here.
"""

from __future__ import annotations

import base64
import os
import re
import threading
import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any

import requests
import urllib3

from viber_courier.schemas import wire
from viber_courier.schemas.settings import Settings
from viber_courier.schemas.wire import Malformed, Reply, SendEntry, StatusEntry
from viber_courier.store.counters import Oddity
from viber_courier.worker.outcome import (
    Accepted,
    Again,
    Blocked,
    NotSent,
    Outcome,
    Refused,
    Spoiled,
    Statuses,
    StatusOutcome,
    Unsure,
)
from viber_courier.worker.transport import Session, deadline

IDLE_MOST = 5.0
"""Seconds after which an idle connection isn't used for /send: it may be closing just then."""
REPLY_MOST = 4 * 1024 * 1024
"""Bytes of a reply that are read; the document's replies are some 100 bytes an entry."""

OK, SYSTEM = "ok", "error-system"
AUTH = frozenset({"error-auth", "error-account-locked"})
_SPOILED = (
    "error-syntax",
    "error-instant-message-typeformat",
    "error-instant-message-content-type-format",
    "error-instant-message-content-image-id-format",
    "error-instant-message-client-id-not-unique",
    "error-subject-format",
    "error-subject-unknown",
    "error-subject-not-specified",
    "error-address-format",
    "error-address-unknown",
    "error-address-not-specified",
    "error-priority-format",
    "error-comment-format",
    "error-instant-message-type-format",
    "error-instant-message-type-not-specified",
    "error-content-type-format",
    "error-content-not-specified",
    "error-validity-period-seconds-format",
    "error-instant-message-provider-id-format",
    "error-instant-message-provider-id-duplicate",
    "error-instant-message-provider-id-unknown",
    "error-resend-sms-error",
    "error-resend-sms-validity-period-error",
)
"""Codes that at request level speak of one message, or of the request's form."""


def _squash(code: str) -> str:
    """A code without the differences of its spellings (trap T33)."""
    return code.removeprefix("error-").removeprefix("instant-message-").replace("-", "")


_KNOWN = {_squash(code): code for code in reversed((SYSTEM, *sorted(AUTH), *_SPOILED))}


def canonical(code: str) -> str:
    """The document's spelling of a code; an unknown one as it is."""
    if code.startswith("error-"):
        return code if code in _SPOILED else _KNOWN.get(_squash(code), code)
    return code


_OUR_FAULTS = (
    "error-instant-message-provider-id-format",
    "error-instant-message-provider-id-duplicate",
)
_DELIVERY = ("user-blocked", "not-viber-user")
"""Reasons of ``undelivered`` (document, "error" of /status)."""


def is_known(code: str) -> bool:
    """Whether the document has this code; others are counted together and raise an alarm."""
    return code in _SPOILED or code in AUTH or code in _DELIVERY or code in (OK, SYSTEM)


@dataclass(frozen=True, slots=True)
class Answer:
    """An HTTP answer that was read whole."""

    http: int
    body: bytes
    retry_after: str | None = None


class Provider:
    """Posts to the API with one kept-alive session for each thread of each process."""

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
        """POST /send with ``count`` messages; one outcome for each, in their order."""
        answer = self._post(wire.SEND_PATH, body)
        return read_send_answer(answer, count) if isinstance(answer, Answer) else [answer] * count

    def status(self, provider_ids: Collection[int]) -> StatusOutcome:
        """POST /status for these ids."""
        answer = self._post(wire.STATUS_PATH, wire.status_body(provider_ids))
        if isinstance(answer, Unsure):
            return Again(answer.why, whole=True)
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
                        if len(text) > REPLY_MOST:
                            return Unsure("reply-too-large")
                    if time.monotonic() > call.end and not _whole(response.raw):
                        return Unsure("deadline")
                    retry_after = response.headers.get("Retry-After")
                    return Answer(response.status_code, bytes(text), retry_after)
            except (
                requests.RequestException,
                urllib3.exceptions.HTTPError,
                OSError,
                ValueError,
            ) as error:
                why = type(error).__name__
                return Unsure(why) if call.made else NotSent(why)
            finally:
                self._local.used = time.monotonic()

    def _request(self, path: str, body: bytes) -> requests.PreparedRequest:
        """Prepared once: only the body differs, and preparing takes as long as sending."""
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
        elif time.monotonic() - local.used > IDLE_MOST:
            local.session.close()
        kept: Session = local.session
        return kept


def _whole(raw: Any) -> bool:
    """Whether the reply's framing says that nothing is missing: else its end may be our cut.

    A process stalled past the deadline may find a whole answer waiting: one in hand is not dropped.
    """
    return bool(raw.chunked) or raw.length_remaining == 0


def read_send_answer(answer: Answer, count: int) -> list[Outcome]:
    """What an answer to /send means for each of its messages; the first rule that fits wins."""
    try:
        reply: Reply[SendEntry] = wire.read_send(answer.body)
    except Malformed:
        reply = Reply(None, None)
    if reply.entries and len(reply.entries) == count:
        return _entries(reply.entries)
    return [_whole_send(answer, reply)] * count


def _whole_send(answer: Answer, reply: Reply[SendEntry]) -> Outcome:
    if reply.entries:
        return Unsure("wrong-count")
    code = canonical(reply.status or "")
    if code == OK:
        return Unsure("no-entries")
    return _by_code(code) if code.startswith("error-") else _by_http(answer)


def _by_code(code: str) -> Blocked | Spoiled | Again:
    """What a code at request level says of the whole request."""
    if code in AUTH:
        return Blocked(code)
    if code in _SPOILED or re.fullmatch("error-instant-message-.*-format", code):
        return Spoiled(code)
    return Again(code, whole=True)


def _entries(entries: Sequence[SendEntry]) -> list[Outcome]:
    ids = [entry.provider_id for entry in entries]
    twice = {id for id in ids if id is not None and ids.count(id) > 1} if _repeats(ids) else set()
    return [_entry(entry, entry.provider_id in twice) for entry in entries]


def _repeats(ids: Sequence[int | None]) -> bool:
    given = [id for id in ids if id is not None]
    return len(set(given)) < len(given)


def _entry(entry: SendEntry, twice: bool) -> Outcome:
    code = canonical(entry.code) if entry.code else ""
    if code == OK and entry.provider_id is not None and not twice:
        return Accepted(entry.provider_id)
    if not code.startswith("error-") or entry.provider_id is not None:
        return Unsure("entry")
    if code == SYSTEM:
        return Again(code)
    return Blocked(code) if code in AUTH else Refused(code)


def _by_http(answer: Answer) -> Again | NotSent | Blocked | Spoiled | Unsure:
    http = answer.http
    code = f"http-{http}"
    if http in (408, 429, 503):
        return NotSent(code, retry_after(answer.retry_after))
    if http in (400, 413, 422):
        return Spoiled(code)
    if 300 <= http < 500:
        return Blocked(code)
    return Unsure(code)


def read_status_answer(answer: Answer) -> StatusOutcome:
    """What an answer to /status means; entries count, whatever stands beside them."""
    try:
        reply: Reply[StatusEntry] = wire.read_status(answer.body)
    except Malformed:
        reply = Reply(None, None)
    code = canonical(reply.status or "")
    if reply.entries or (reply.entries is not None and code == OK):
        return Statuses(_by_id(reply.entries))
    if code.startswith("error-"):
        return _by_code(code)
    outcome = Unsure("no-entries") if code == OK else _by_http(answer)
    return Again(outcome.why, whole=True) if isinstance(outcome, Unsure) else outcome


def _by_id(entries: Sequence[StatusEntry]) -> dict[int, StatusEntry]:
    """Entries by their id. Of one that is told in two ways nothing is known: it may be another's,
    and what an event has said is never taken back."""
    told: dict[int, StatusEntry] = {}
    unlike = {e.provider_id for e in entries if told.setdefault(e.provider_id, e) != e}
    return {id: entry for id, entry in told.items() if id not in unlike}


def oddity(entry: StatusEntry) -> Oddity | None:
    """What to count of an entry that nobody should see: an unknown state, a fault of ours."""
    if entry.word is not None and entry.status is None:
        return Oddity.UNKNOWN_STATE
    code = canonical(entry.code) if entry.code else OK
    if entry.status is None and (not is_known(code) or code in _OUR_FAULTS):
        return Oddity.STATUS_FAULT
    return None


def retry_after(value: str | None, now: datetime | None = None) -> float | None:
    """Seconds that a Retry-After header asks for (RFC 9110 section 10.2.3); None if bad or none."""
    if value is None:
        return None
    value = value.strip()
    if value.isascii() and value.isdigit():
        return float(value[:12])
    try:
        moment = parsedate_to_datetime(value)
        moment = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
        return max(0.0, (moment - (now or datetime.now(UTC))).total_seconds())
    except (ValueError, TypeError, OverflowError):
        return None

"""The edge to the provider: section 5's table, and HTTP as real servers on loopback speak it."""

from __future__ import annotations

import base64
import contextlib
import gzip
import json
import logging
import re
import shutil
import socket
import ssl
import struct
import subprocess
import threading
import time
import tracemalloc
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import settings as profile
from hypothesis import strategies as st

from tests.conftest import Clock, Simulator, free_port, text_job, wait_for
from tests.workshop import Workshop
from viber_courier.ops.redis_server import RedisServer
from viber_courier.schemas import wire
from viber_courier.schemas.settings import Settings
from viber_courier.schemas.wire import send_body
from viber_courier.store.connection import connect as store_client
from viber_courier.worker import provider as module
from viber_courier.worker.answers import (
    Answer,
    oddity,
    read_send_answer,
    read_status_answer,
    retry_after,
)
from viber_courier.worker.codes import canonical, is_known
from viber_courier.worker.outcome import (
    Accepted,
    Blocked,
    NotSent,
    Outcome,
    Refused,
    RequestRefused,
    Retryable,
    Statuses,
    Unsure,
)
from viber_courier.worker.provider import Provider
from viber_courier.worker.transport import Session, deadline

ID = 3158611117333282817
OK = {"code": "ok", "providerId": ID}
REQUEST_CODES = [
    *("error-syntax", "error-instant-message-typeformat"),
    "error-instant-message-content-type-format",
    "error-instant-message-content-image-id-format",
]
MESSAGE_CODES = [
    *("error-instant-message-client-id-not-unique", "error-subject-format"),
    *("error-subject-unknown", "error-subject-not-specified", "error-address-format"),
    *("error-address-unknown", "error-address-not-specified", "error-priority-format"),
    *("error-comment-format", "error-instant-message-type-format"),
    *("error-instant-message-type-not-specified", "error-content-type-format"),
    *("error-content-not-specified", "error-validity-period-seconds-format"),
    *("error-instant-message-provider-id-format", "error-instant-message-provider-id-duplicate"),
    *("error-instant-message-provider-id-unknown", "error-resend-sms-error"),
    "error-resend-sms-validity-period-error",
]
AUTH = ["error-auth", "error-account-locked"]
SPRING = {"path": "/send", "error": "x", "message": "x", "timestamp": 1}


def answer(body: Any, http: int = 200, after: str | None = None) -> Answer:
    return Answer(http, body if isinstance(body, bytes) else json.dumps(body).encode(), after)


def said(*entries: Any, status: Any = "ok", http: int = 200) -> Answer:
    return answer({"status": status, "messages": entries}, http)


# /send: the first rule that matches wins.


@pytest.mark.parametrize("http", [200, 400, 401, 404, 429, 500, 503])
@pytest.mark.parametrize("status", ["ok", "error-system", "error-auth", "whatever", None, 401])
def test_with_an_entry_for_each_message_the_entries_decide_alone(http: int, status: Any) -> None:
    entries = [OK, {"code": "error-subject-unknown"}]
    outcomes = read_send_answer(said(*entries, status=status, http=http), 2)
    assert outcomes == [Accepted(ID), Refused("error-subject-unknown")]


@pytest.mark.parametrize("http", [200, 401, 429, 503])
@pytest.mark.parametrize("count", [1, 3, 100])
@pytest.mark.parametrize("status", ["ok", "error-auth", None])
def test_another_count_of_entries_is_unsure_for_all(http: int, count: int, status: Any) -> None:
    entries = [{"code": "ok", "providerId": ID + n} for n in range(2)]
    outcomes = read_send_answer(said(*entries, status=status, http=http), count)
    assert len(outcomes) == count
    assert all(isinstance(each, Unsure) for each in outcomes)


ENTRIES: list[tuple[Any, Outcome | type[Unsure]]] = [
    (OK, Accepted(ID)),
    ({"code": " OK ", "providerId": 1}, Accepted(1)),
    ({"code": "error-system"}, Retryable("error-system")),
    ({"code": "ERROR_SYSTEM"}, Retryable("error-system")),
    *[({"code": code}, Blocked(code)) for code in AUTH],
    *[({"code": code}, Refused(code)) for code in REQUEST_CODES + MESSAGE_CODES],
    ({"code": "error-Subject_Unknown"}, Refused("error-subject-unknown")),
    ({"code": "error-never-heard-of"}, Refused("error-never-heard-of")),
    ({"code": "error-ok"}, Refused("error-ok")),
    *[
        ({"code": "error-subject-unknown", "providerId": bad}, Refused("error-subject-unknown"))
        for bad in (0, -1, None, "7.0", 1.5, True)
    ],
    # Nobody can know:
    ({"providerId": ID}, Unsure),
    ({}, Unsure),
    *[({"code": bad, "providerId": ID}, Unsure) for bad in (None, "", 0, "accepted", "subject")],
    *[({"code": bad}, Unsure) for bad in ("okay", "system", "auth", None, True)],
    *[
        ({"code": code, "providerId": 7}, Unsure)
        for code in ("error-system", "error-auth", "error-subject-unknown", "error-x", "error-ok")
    ],
    ({"code": "error-system", "providerId": "7"}, Unsure),
    # Accepted, and can't be followed:
    *[
        ({"code": "ok", "providerId": bad}, Accepted(None))
        for bad in (0, -1, True, 1.0, 3.2e18, "3.2e18", None, [], {}, 2**64)
    ],
    ({"code": "ok"}, Accepted(None)),
    ({"code": "ok", "providerId": str(ID)}, Accepted(ID)),
    *[(bad, Unsure) for bad in (None, "ok", 1, [])],
]


@pytest.mark.parametrize(("entry", "outcome"), ENTRIES, ids=range(len(ENTRIES)))
def test_each_entry_decides_about_its_own_message(entry: Any, outcome: Any) -> None:
    neighbours = [{"code": "ok", "providerId": 11}, {"code": "ok", "providerId": 12}]
    first, read, last = read_send_answer(said(neighbours[0], entry, neighbours[1]), 3)
    assert (first, last) == (Accepted(11), Accepted(12))
    assert isinstance(read, Unsure) if outcome is Unsure else read == outcome


def test_an_id_given_twice_in_a_reply_is_unsure_for_both() -> None:
    other = {"code": "ok", "providerId": 5}
    one, two, three = read_send_answer(said(OK, other, {**OK, "providerId": f"0{ID}"}), 3)
    assert isinstance(one, Unsure) and isinstance(three, Unsure)
    assert two == Accepted(5)


WHOLE: list[tuple[Answer, Outcome | type[Unsure]]] = [
    # A string status other than ok decides, whatever the HTTP code.
    *[(answer({"status": code}, http), Blocked(code)) for code in AUTH for http in (200, 401, 500)],
    *[
        (answer({"status": "error-system"}, http), Retryable("error-system"))
        for http in (200, 400, 500, 503)
    ],
    (answer({"status": "error-never-heard-of"}), Retryable("error-never-heard-of")),
    (answer({"status": "error-never-heard-of"}, 401), Retryable("error-never-heard-of")),
    *[(answer({"status": code}), RequestRefused(code)) for code in REQUEST_CODES + MESSAGE_CODES],
    (answer({"status": "error-syntax", "messages": []}, 400), RequestRefused("error-syntax")),
    (answer({"status": "Error_Syntax"}), RequestRefused("error-syntax")),
    (answer({"status": "whatever"}), Unsure),
    (answer({"status": ""}), Unsure),
    (answer({"status": "error"}), Unsure),
    # `ok` without entries is unsure.
    (answer({"status": "ok"}), Unsure),
    (answer({"status": "ok", "messages": []}), Unsure),
    (answer({"status": "ok", "messages": None}), Unsure),
    # Else the HTTP code decides.
    *[
        (answer(body, http), NotSent(f"http-{http}"))
        for http in (408, 429, 503)
        for body in (b"", b"<html>busy</html>", {"status": http, **SPRING}, {}, [])
    ],
    *[
        (answer(body, http), Blocked(f"http-{http}"))
        for http in (301, 302, 307, 401, 402, 403, 404, 405, 409, 410, 418, 451)
        for body in (b"", {"status": http, **SPRING})
    ],
    *[(answer(b"bad request", http), RequestRefused(f"http-{http}")) for http in (400, 413, 422)],
    *[(answer(b"oops", http), Unsure) for http in (500, 501, 502, 504, 520, 599)],
    *[
        (answer(body), Unsure)
        for body in (b"", b"<html></html>", b"[]", b"null", b'{"status": "ok"', {}, {"status": 200})
    ],
    (answer(b'{"status":"ok" "messages":[{"providerId":54321,"code":"ok"}]}'), Unsure),
    (answer({"status": "ok", "messages": [OK]}, 204), Unsure),  # one entry for two messages
    (answer(b"", 201), Unsure),
]


@pytest.mark.parametrize(("given_", "outcome"), WHOLE, ids=range(len(WHOLE)))
def test_without_entries_the_whole_request_has_one_outcome(given_: Answer, outcome: Any) -> None:
    outcomes = read_send_answer(given_, 2)
    assert len(outcomes) == 2
    for read in outcomes:
        assert isinstance(read, Unsure) if outcome is Unsure else read == outcome


@profile(deadline=None, max_examples=150)
@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.sampled_from(["ok", *AUTH, "error-x"]),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(
                st.sampled_from(["status", "messages", "code", "providerId", "smsStates"]), inner
            )
        ),
        max_leaves=12,
    ),
    st.sampled_from([200, 204, 302, 400, 401, 404, 429, 500, 503]),
    st.integers(1, 4),
)
def test_every_answer_has_an_outcome_for_each_message(body: Any, http: int, count: int) -> None:
    outcomes = read_send_answer(answer(body, http), count)
    assert len(outcomes) == count
    ids = [e.provider_id for e in outcomes if isinstance(e, Accepted) and e.provider_id]
    assert len(set(ids)) == len(ids)
    assert all(id > 0 for id in ids)
    read_status_answer(answer(body, http))


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        (None, None),
        ("0", 0),
        ("120", 120),
        (" 7 ", 7),
        ("7\x1f", 7),
        (" " * 20 + "7", 7),
        ("9" * 40, 999_999_999_999),
        ("Mon, 23 Nov 2026 10:01:30 GMT", 90),
        ("Monday, 23-Nov-26 10:01:30 GMT", 90),  # RFC 9110 has all three forms
        ("Mon Nov 23 10:01:30 2026", 90),
        ("Mon, 23 Nov 2026 13:01:30 +0300", 90),
        ("Mon, 23 Nov 2026 09:00:00 GMT", 0),
        *[(bad, None) for bad in ("", "-5", "1.5", "soon", "٥", "5 s", "Mon, 99 Nov 2026")],
        ("Mon, 23 Nov 2026 10:00:00 +99999999999999999999", None),
    ],
)
def test_retry_after_is_seconds_or_a_date(value: str | None, seconds: float | None) -> None:
    assert retry_after(value, datetime(2026, 11, 23, 10, tzinfo=UTC)) == seconds


@profile(deadline=None, max_examples=150)
@given(st.text("0123456789 +-:,GMTonNv", max_size=40))
def test_any_retry_after_is_read_or_ignored(value: str) -> None:
    wish = retry_after(value)
    assert wish is None or wish >= 0


@pytest.mark.parametrize("http", [408, 429, 503])
def test_the_wish_to_wait_comes_with_the_outcome(http: int) -> None:
    assert read_send_answer(answer(b"", http, "17"), 1) == [NotSent(f"http-{http}", 17.0)]
    assert read_status_answer(answer(b"", http, "17")) == NotSent(f"http-{http}", 17.0)


@pytest.mark.parametrize(
    ("variant", "code"),
    [
        ("error-type-format", "error-instant-message-typeformat"),
        ("error-instant-message-subject-unknown", "error-subject-unknown"),
        ("error-subjectunknown", "error-subject-unknown"),
        ("error-accountlocked", "error-account-locked"),
        *[(code, code) for code in ("ok", "error-system", *AUTH, *REQUEST_CODES, *MESSAGE_CODES)],
        *[(other, other) for other in ("error-new", "error-ok", "subject-unknown", "")],
    ],
)
def test_codes_have_one_spelling(variant: str, code: str) -> None:
    assert canonical(variant) == code


@pytest.mark.parametrize("code", ["user-blocked", "not-viber-user", *AUTH, *MESSAGE_CODES, "ok"])
def test_the_documents_codes_are_known(code: str) -> None:
    assert is_known(code)
    assert not is_known(code + "x")


# /status.

UNASKED = {"providerId": 5, "status": "read", "code": "ok"}


@pytest.mark.parametrize(
    "given_",
    [
        said(UNASKED),
        said(UNASKED, status="error-system"),
        said(UNASKED, status=None, http=500),
        said(UNASKED, status="error-auth", http=401),
    ],
)
def test_entries_of_a_status_reply_count_whatever_stands_beside_them(given_: Answer) -> None:
    outcome = read_status_answer(given_)
    assert isinstance(outcome, Statuses) and outcome.entries.keys() == {5}


@pytest.mark.parametrize(
    ("given_", "outcome"),
    [
        (answer({"status": "ok", "messages": []}), Statuses({})),
        (said({"code": "ok"}, None, {"providerId": -1}), Statuses({}, unread=3)),
        *[(answer({"status": code}), Blocked(code)) for code in AUTH],
        (answer({"status": "error-syntax"}), RequestRefused("error-syntax")),
        (answer({"status": "error-system"}), Retryable("error-system")),
        (answer({"status": "error-new"}), Retryable("error-new")),
        (answer({"status": "error-system", "messages": []}), Retryable("error-system")),
        *[(answer(b"", http), Blocked(f"http-{http}")) for http in (302, 401, 403, 404, 405)],
        *[(answer(b"", http), RequestRefused(f"http-{http}")) for http in (400, 413, 422)],
        *[(answer(b"", http), NotSent(f"http-{http}")) for http in (408, 429, 503)],
    ],
)
def test_a_status_answer_without_entries_has_an_outcome(given_: Answer, outcome: Any) -> None:
    assert read_status_answer(given_) == outcome


def test_what_a_status_reply_says_in_two_ways_is_not_believed() -> None:
    """One of the entries was meant for another message, and nobody knows which."""
    other = {"providerId": 6, "status": "sent", "code": "ok"}
    same, unlike = said(UNASKED, UNASKED, other), {**UNASKED, "status": "undelivered"}
    for given_, ids in ((same, {5, 6}), (said(UNASKED, unlike, other, UNASKED), {6})):
        outcome = read_status_answer(given_)
        assert isinstance(outcome, Statuses) and outcome.entries.keys() == ids
        assert outcome.unread == 2 - len(ids)


@pytest.mark.parametrize(
    "given_",
    [
        *[answer(b"oops", http) for http in (200, 500, 502, 504)],
        *[answer(body) for body in ({"status": "ok"}, {}, [], b'{"status":"ok" "messages":[]}')],
        answer({"status": "whatever"}),
    ],
)
def test_what_a_status_answer_does_not_say_is_asked_again(given_: Answer) -> None:
    assert isinstance(read_status_answer(given_), Retryable)


# Real connections.

Handler = Callable[[socket.socket, threading.Event], bool]


class Server:
    """A server of raw bytes on loopback; ``handle`` answers each request, False: hang up."""

    def __init__(self, handle: Handler, context: ssl.SSLContext | None = None) -> None:
        self.handle, self.context, self.stop = handle, context, threading.Event()
        self.requests: list[tuple[int, bytes]] = []  # number of the connection, head and body
        self.connections: list[socket.socket] = []
        self.closed = 0
        self.listener = socket.create_server(("127.0.0.1", 0))
        scheme = "https" if context else "http"
        self.url = f"{scheme}://localhost:{self.listener.getsockname()[1]}"
        self.threads = [threading.Thread(target=self._accept)]
        self.threads[0].start()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self.listener.accept()
            except OSError:
                return
            self.connections.append(connection)
            self.threads.append(
                threading.Thread(target=self._serve, args=(connection, len(self.connections)))
            )
            self.threads[-1].start()

    def _serve(self, plain: socket.socket, number: int) -> None:
        connection = plain
        try:
            if self.context:
                connection = self.context.wrap_socket(plain, server_side=True)
            while (request := self._request(connection)) is not None:
                self.requests.append((number, request))
                if not self.handle(connection, self.stop):
                    break
        except OSError:
            pass
        finally:
            connection.close()
            plain.close()
            self.closed += 1

    def _request(self, connection: socket.socket) -> bytes | None:
        data = b""
        while b"\r\n\r\n" not in data:
            if not (piece := connection.recv(65536)):
                return None
            data += piece
        head, _, body = data.partition(b"\r\n\r\n")
        length = next(
            (int(v) for k, _, v in (line.partition(b":") for line in head.split(b"\r\n"))
             if k.lower() == b"content-length"),
            0,
        )  # fmt: skip
        while len(body) < length:
            if not (piece := connection.recv(65536)):
                return None
            body += piece
        return head + b"\r\n\r\n" + body

    def close(self) -> None:
        self.stop.set()
        for each in [self.listener, *self.connections]:
            with contextlib.suppress(OSError):  # it may have ended by itself
                each.shutdown(socket.SHUT_RDWR)
        self.listener.close()
        for thread in self.threads:
            thread.join(10)


def reply(body: bytes, http: str = "200 OK", *headers: str) -> Handler:
    head = "\r\n".join([f"HTTP/1.1 {http}", f"Content-Length: {len(body)}", *headers, "", ""])

    def handle(connection: socket.socket, stop: threading.Event) -> bool:
        connection.sendall(head.encode() + body)
        return True

    return handle


def bytes_then_close(data: bytes) -> Handler:
    def handle(connection: socket.socket, stop: threading.Event) -> bool:
        connection.sendall(data)
        return False

    return handle


def reset(connection: socket.socket, stop: threading.Event) -> bool:
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    return False


def hang(connection: socket.socket, stop: threading.Event) -> bool:
    stop.wait(30)
    return False


ONE = json.dumps({"status": "ok", "messages": [OK]}).encode()
BODY = send_body({}, [{"subject": "Магазин 🙂"}], False)
Serve = Callable[..., Server]
Connect = Callable[..., Provider]


@pytest.fixture
def serve() -> Iterator[Serve]:
    started: list[Server] = []

    def start(handle: Handler, context: ssl.SSLContext | None = None) -> Server:
        started.append(Server(handle, context))
        return started[-1]

    yield start
    for server in started:
        server.close()


@pytest.fixture
def connect() -> Iterator[Connect]:
    made: list[Provider] = []

    def build(url: str, **settings: Any) -> Provider:
        given_ = {"api_login": "tester", "api_password": "111111", "api_url": url}
        limits = {"connect_timeout": 5.0, "read_timeout": 5.0}
        made.append(Provider(Settings(**{**given_, **limits, **settings})))
        return made[-1]

    yield build
    for provider in made:
        provider._session().close()


def only(outcomes: list[Outcome]) -> Outcome:
    (outcome,) = outcomes
    return outcome


def test_the_request_is_the_documents(serve: Serve, connect: Connect) -> None:
    server = serve(reply(ONE))
    provider = connect(server.url, api_login="логин", api_password="па:роль 🙂")
    assert only(provider.send(BODY, 1)) == Accepted(ID)
    ((_, request),) = server.requests
    head, _, body = request.partition(b"\r\n\r\n")
    first, *lines = head.decode().split("\r\n")
    headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
    assert first == "POST /send HTTP/1.1"
    assert body == BODY
    assert headers["content-type"] == "application/json; charset=utf-8"
    scheme, _, token = headers["authorization"].partition(" ")
    assert (scheme, base64.b64decode(token).decode()) == ("Basic", "логин:па:роль 🙂")


def test_the_api_may_live_under_a_path(serve: Serve, connect: Connect) -> None:
    server = serve(reply(b'{"status":"ok","messages":[]}'))
    assert connect(f"{server.url}/viber").status([ID, ID]) == Statuses({})
    ((_, request),) = server.requests
    assert request.startswith(b"POST /viber/status HTTP/1.1")
    assert request.endswith(b'{"messages":[%d]}' % ID)


def test_a_refused_connection_is_not_sent(connect: Connect) -> None:
    provider = connect(f"http://127.0.0.1:{free_port()}")
    outcomes = provider.send(BODY, 3)
    assert len(outcomes) == 3 and all(isinstance(each, NotSent) for each in outcomes)
    assert isinstance(provider.status([ID]), NotSent)


def test_a_name_that_is_none_is_not_sent(connect: Connect, monkeypatch: Any) -> None:
    def no_such_name(*_: Any, **__: Any) -> Any:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", no_such_name)
    assert isinstance(only(connect("http://nowhere.invalid").send(BODY, 1)), NotSent)


def test_a_connection_that_comes_after_the_deadline_sends_nothing(
    serve: Serve, connect: Connect, monkeypatch: Any
) -> None:
    server, look_up, never = serve(reply(ONE)), socket.getaddrinfo, threading.Event()

    def slowly(*where: Any, **more: Any) -> Any:
        never.wait(0.4)
        return look_up(*where, **more)

    monkeypatch.setattr(socket, "getaddrinfo", slowly)
    provider = connect(server.url, connect_timeout=0.1, read_timeout=0.1)
    assert isinstance(only(provider.send(BODY, 1)), NotSent)
    assert server.requests == []


# TLS.


NOW = ("-days", "2")
PAST = ("-startdate", "20200101000000Z", "-enddate", "20200102000000Z")
FUTURE = ("-startdate", "20890101000000Z", "-enddate", "20890102000000Z")
CA = """
[ca]
default_ca = own
[own]
database = {folder}/index
new_certs_dir = {folder}
rand_serial = yes
default_md = sha256
policy = any
copy_extensions = copy
[any]
commonName = supplied
"""


def signed(folder: Path, *when: str, names: str = "DNS:localhost", by: Path | None = None) -> Path:
    """A new key, with its certificate beside it: by itself where there is no other key."""
    folder.mkdir(exist_ok=True)
    key = folder / "own.pem"
    (folder / "index").touch()
    (folder / "ca.cnf").write_text(CA.format(folder=folder))
    signer = ("-keyfile", str(by), "-cert", f"{by}.crt") if by else ("-selfsign", "-keyfile", key)
    for command in (
        [
            *("req", "-new", "-nodes", "-subj", "/CN=localhost", "-keyout", key),
            *("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"),
            *("-addext", f"subjectAltName={names}", "-out", f"{key}.csr"),
        ],
        [
            *("ca", "-batch", "-notext", "-config", folder / "ca.cnf", *signer, *when),
            *("-in", f"{key}.csr", "-out", f"{key}.crt"),
        ],
    ):
        subprocess.run(["openssl", *command], check=True, capture_output=True)
    return key


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A certificate for localhost that nobody knows, with its key."""
    if shutil.which("openssl") is None:
        pytest.skip("needs the openssl command for a certificate")
    return signed(tmp_path_factory.mktemp("tls") / "own", *NOW)


def server_context(key: Path) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(f"{key}.crt", key)
    return context


@pytest.fixture
def tls(certificate: Path) -> ssl.SSLContext:
    return server_context(certificate)


def test_a_certificate_that_nobody_vouches_for_is_not_sent(
    serve: Serve, connect: Connect, tls: ssl.SSLContext
) -> None:
    server = serve(reply(ONE), tls)
    assert isinstance(only(connect(server.url).send(BODY, 1)), NotSent)
    assert server.requests == []


def test_with_its_ca_file_the_certificate_is_good_but_for_its_own_name_only(
    serve: Serve, connect: Connect, tls: ssl.SSLContext, certificate: Path
) -> None:
    server = serve(reply(ONE), tls)
    ca_file = f"{certificate}.crt"
    assert only(connect(server.url, ca_file=ca_file).send(BODY, 1)) == Accepted(ID)
    other = connect(server.url.replace("localhost", "127.0.0.1"), ca_file=ca_file)
    assert isinstance(only(other.send(BODY, 1)), NotSent)
    assert len(server.requests) == 1


def test_a_trickling_reply_over_tls_is_cut_off_too(
    serve: Serve, connect: Connect, tls: ssl.SSLContext, certificate: Path
) -> None:
    server = serve(trickle, tls)
    limits = {"connect_timeout": 0.5, "read_timeout": 0.3}
    provider = connect(server.url, ca_file=f"{certificate}.crt", **limits)
    assert isinstance(only(provider.send(BODY, 1)), Unsure)


def test_a_server_that_speaks_no_tls_is_not_sent(serve: Serve, connect: Connect) -> None:
    server = serve(reply(ONE))
    url = server.url.replace("http:", "https:")
    provider = connect(url, connect_timeout=0.3)  # it waits for the end of our "request"
    assert isinstance(only(provider.send(BODY, 1)), NotSent)
    assert server.requests == []


# Why there is no connection.


def unsent(provider: Provider) -> str:
    """Why nothing was sent; the same for both requests."""
    outcome = only(provider.send(BODY, 1))
    assert isinstance(outcome, NotSent) and provider.status([ID]) == outcome
    assert re.fullmatch("[A-Za-z0-9:, -]{1,80}", outcome.why)
    assert not {"localhost", "127", "nowhere", "secret"} & set(re.findall(r"\w+", outcome.why))
    return outcome.why


@pytest.mark.parametrize(
    ("when", "names", "by", "why"),
    [
        (PAST, "DNS:localhost", None, "TLS: certificate has expired"),
        (FUTURE, "DNS:localhost", None, "TLS: certificate is not yet valid"),
        (NOW, "DNS:other.invalid", None, "TLS: hostname mismatch"),
        (NOW, "DNS:localhost", "stranger", "TLS: unknown CA, unable to get local issuer"),
    ],
)
def test_a_bad_certificate_is_told_in_its_own_words(
    when: tuple[str, ...],
    names: str,
    by: str | None,
    why: str,
    serve: Serve,
    connect: Connect,
    certificate: Path,
    tmp_path: Path,
) -> None:
    stranger = signed(tmp_path / by, *NOW) if by else None
    key = signed(tmp_path / "own", *when, names=names, by=stranger)
    server = serve(reply(ONE), server_context(key))
    ca_file = f"{certificate if by else key}.crt"
    assert unsent(connect(server.url, ca_file=ca_file)).startswith(why)
    assert server.requests == []


def test_a_certificate_for_another_address_and_one_of_its_own_are_told(
    serve: Serve, connect: Connect, tls: ssl.SSLContext, certificate: Path
) -> None:
    server = serve(reply(ONE), tls)
    assert re.fullmatch("TLS: unknown CA, self.signed certificate", unsent(connect(server.url)))
    elsewhere = connect(server.url.replace("localhost", "127.0.0.1"), ca_file=f"{certificate}.crt")
    assert unsent(elsewhere) == "TLS: ip address mismatch"


@pytest.mark.filterwarnings("ignore:ssl.TLSVersion:DeprecationWarning")
@pytest.mark.parametrize("ciphers", ["ALL:@SECLEVEL=0", "DEFAULT"])
def test_an_old_protocol_is_told(
    ciphers: str, serve: Serve, connect: Connect, tls: ssl.SSLContext, certificate: Path
) -> None:
    tls.set_ciphers(ciphers)  # OpenSSL's default has none for old protocols: another alert
    tls.minimum_version, tls.maximum_version = ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1
    why = unsent(connect(serve(reply(ONE), tls).url, ca_file=f"{certificate}.crt"))
    assert why.startswith("TLS: unsupported protocol")


def greet(answer: bytes) -> Handler:
    """Answers whatever comes first, be it no request; without a word it resets the connection."""

    def handle(connection: socket.socket, stop: threading.Event) -> bool:
        connection.recv(65536)
        connection.sendall(answer)
        return reset(connection, stop) if not answer else False

    return handle


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        (b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n", "TLS: no TLS on this port, "),
        (b"", "connection reset by peer"),
    ],
)
def test_a_port_without_tls_is_told(
    answer: bytes, why: str, serve: Serve, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Server, "_request", lambda *_: b"none")
    server = serve(greet(answer))
    assert unsent(connect(server.url.replace("http:", "https:"))).startswith(why)


def test_a_handshake_that_hangs_is_told(serve: Serve, connect: Connect) -> None:
    url = serve(reply(ONE)).url.replace("http:", "https:")  # it waits for our "request"
    assert unsent(connect(url, connect_timeout=0.2)) == "TLS: handshake timeout"


def test_a_refused_connection_and_an_unknown_name_are_told(
    connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    nowhere = f"127.0.0.1:{free_port()}"
    proxied = connect("https://localhost", proxy=f"http://me:secret@{nowhere}")
    assert unsent(connect(f"http://{nowhere}")) == "connection refused"
    assert unsent(proxied) == "proxy: connection refused"

    def no_such_name(*_: Any, **__: Any) -> Any:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", no_such_name)
    assert unsent(connect("https://nowhere.invalid")) == "DNS: Name or service not known"
    assert unsent(proxied) == "proxy: DNS: Name or service not known"


def test_a_connection_that_takes_too_long_is_told(connect: Connect) -> None:
    # Given a listener whose queue is full: nobody answers the next SYN
    with socket.socket() as full, contextlib.ExitStack() as waiting:
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        for _ in range(3):
            one = waiting.enter_context(socket.socket())
            one.setblocking(False)
            one.connect_ex(full.getsockname())
        port = full.getsockname()[1]
        why = unsent(connect(f"http://127.0.0.1:{port}", connect_timeout=0.2))
        assert why == "connect timeout"


@pytest.mark.parametrize("http", ["407 Proxy Authentication Required", "502 Bad Gateway"])
def test_a_proxy_that_refuses_is_told(http: str, serve: Serve, connect: Connect) -> None:
    proxy = serve(reply(b"", http)).url.replace("//", "//me:secret@")
    assert unsent(connect("https://nowhere.invalid", proxy=proxy)) == f"proxy: HTTP {http[:3]}"


def test_why_an_answer_is_missing_is_told_too(serve: Serve, connect: Connect) -> None:
    provider = connect(serve(hang).url, read_timeout=0.1)
    assert only(provider.send(BODY, 1)) == Unsure("read timeout")
    assert provider.status([ID]) == Retryable("read timeout", whole=True)


def test_what_was_not_sent_has_a_log_line_of_its_own_and_the_gate_says_why(
    serve: Serve,
    connect: Connect,
    certificate: Path,
    settings: Settings,
    caplog: pytest.LogCaptureFixture,
    redis_server: RedisServer,
) -> None:
    caplog.set_level(logging.INFO)
    with store_client(redis_server.url) as client:
        house = Workshop(client, settings, Clock())
        # Given an accepted message, a waiting one, and a provider whose certificate nobody knows
        house.producer.enqueue(text_job())
        house.answer()
        house.clock.advance(30)
        house.producer.enqueue(text_job())
        server = serve(reply(ONE), server_context(certificate))
        provider = connect(server.url)
        sender = replace(house.sender, provider=provider)
        # When both requests fail until the gates are closed
        for _ in range(5):
            sender.serve("high")
            replace(house.poller, provider=provider).serve()
            house.clock.advance(400)
        # Then the log and the gates tell why, and that nothing was sent
        texts = Counter(record.message for record in caplog.records)
        assert texts["request not sent"] == texts["statuses not asked"] == 5
        assert texts["request sent"] == texts["statuses asked"] == 0
        lines = [each for each in caplog.records if " not " in each.message]
        why = {getattr(each, "reason", "") for each in lines}
        assert len(why) == 1 and re.fullmatch("TLS: unknown CA, self.signed certificate", *why)
        assert {house.gate(what)["reason"] for what in ("send", "poll")} == why
        # But a refusal over HTTP was sent, and says why as well
        caplog.clear()
        busy = connect(serve(reply(b"", "503 Busy")).url)
        replace(house.sender, provider=busy).serve("high")
        (line,) = [each for each in caplog.records if each.message == "request sent"]
        assert getattr(line, "reason", "") == "http-503"


# After the request was written.


def trickle(connection: socket.socket, stop: threading.Event) -> bool:
    connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n")
    while not stop.wait(0.05):
        connection.sendall(b" ")
    return False


def slow_head(connection: socket.socket, stop: threading.Event) -> bool:
    connection.sendall(b"HTTP/1.1 200 OK\r\n")
    while not stop.wait(0.05):
        connection.sendall(b"X: y\r\n")
    return False


@pytest.mark.parametrize(
    "handle",
    [
        reset,
        bytes_then_close(b""),
        bytes_then_close(b"HTTP/1.1 200 OK\r\nContent-Le"),
        bytes_then_close(b"HTTP/1.1 200 OK\r\nContent-Length: 9999\r\n\r\n" + ONE),  # cut short
        bytes_then_close(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nabc"),
        bytes_then_close(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\nabc\r\n"),
        bytes_then_close(b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\n\r\nnot gzip"),
        bytes_then_close(b"SSH-2.0-OpenSSH_9.6\r\n"),
        bytes_then_close(b"\x00" * 100),
        bytes_then_close(b"HTTP/1.1 200 OK\r\nX: " + b"x" * 70_000 + b"\r\n\r\n"),
    ],
)
def test_a_connection_broken_after_the_request_is_unsure(
    handle: Handler, serve: Serve, connect: Connect
) -> None:
    server = serve(handle)
    provider = connect(server.url)
    outcomes = provider.send(BODY, 2)
    assert len(outcomes) == 2 and all(isinstance(each, Unsure) for each in outcomes)
    assert len(server.requests) == 1  # and never repeated by itself
    assert isinstance(provider.status([ID]), Retryable)


def test_a_read_timeout_is_unsure(serve: Serve, connect: Connect) -> None:
    server = serve(hang)
    provider = connect(server.url, read_timeout=0.1)
    assert isinstance(only(provider.send(BODY, 1)), Unsure)
    assert isinstance(provider.status([ID]), Retryable)


def trickle_after(head: bytes) -> Handler:
    def handle(connection: socket.socket, stop: threading.Event) -> bool:
        connection.sendall(head)
        while not stop.wait(0.05):
            connection.sendall(b" ")
        return False

    return handle


@pytest.mark.parametrize(
    "handle",
    [
        trickle,
        slow_head,
        # Of a reply that is its connection's last, http.client lets the socket go early.
        trickle_after(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n"),
        trickle_after(b"HTTP/1.0 200 OK\r\n\r\n"),
        trickle_after(b"HTTP/1.1 302 Found\r\nLocation: /x\r\nConnection: close\r\n\r\n"),
    ],
)
def test_a_trickling_reply_is_cut_off_at_the_total_deadline(
    handle: Handler, serve: Serve, connect: Connect
) -> None:
    server = serve(handle)
    provider = connect(server.url, connect_timeout=0.1, read_timeout=0.3)
    begun = time.monotonic()
    assert isinstance(only(provider.send(BODY, 1)), Unsure)
    assert 0.4 <= time.monotonic() - begun < 5
    assert len(server.requests) == 1


@pytest.mark.parametrize("location", [b"http://[bad", b"\xff\xfe", b""])
def test_where_a_redirect_leads_is_not_even_looked_at(
    location: bytes, serve: Serve, connect: Connect
) -> None:
    head = b"HTTP/1.1 302 Found\r\nContent-Length: 0\r\nLocation: " + location + b"\r\n\r\n"
    provider = connect(serve(bytes_then_close(head)).url)
    assert only(provider.send(BODY, 1)) == Blocked("http-302")


def test_after_a_cut_the_next_request_has_a_connection_of_its_own(
    serve: Serve, connect: Connect
) -> None:
    server = serve(trickle)
    provider = connect(server.url, connect_timeout=0.4, read_timeout=0.4)
    assert isinstance(only(provider.send(BODY, 1)), Unsure)
    server.handle = reply(ONE)
    assert only(provider.send(BODY, 1)) == Accepted(ID)
    assert [number for number, _ in server.requests] == [1, 2]


@pytest.mark.parametrize("over", [0, 1])
def test_a_reply_is_read_up_to_its_limit(
    over: int, serve: Serve, connect: Connect, monkeypatch: Any
) -> None:
    monkeypatch.setattr(module, "MAX_REPLY_BYTES", 100_000)
    server = serve(reply(ONE + b" " * (100_000 + over - len(ONE))))
    outcome = only(connect(server.url).send(BODY, 1))
    assert (isinstance(outcome, Unsure) and outcome.odd) if over else outcome == Accepted(ID)


def test_a_reply_that_isnt_packed_as_it_says_is_odd(serve: Serve, connect: Connect) -> None:
    outcome = only(connect(serve(reply(ONE, "200 OK", "Content-Encoding: gzip")).url).send(BODY, 1))
    assert outcome == Unsure("undecodable") and outcome.odd


def test_no_log_repeats_a_header_that_cant_be_read(
    serve: Serve, connect: Connect, caplog: pytest.LogCaptureFixture
) -> None:
    server = serve(reply(ONE, "200 OK", "the message for 79250000001"))
    assert only(connect(server.url).send(BODY, 1)) == Accepted(ID)
    assert "79250000001" not in caplog.text


def test_cookies_are_not_kept(serve: Serve) -> None:
    server = serve(reply(ONE, "200 OK", "Set-Cookie: a=1; Max-Age=1000"))
    with Session("", "") as session, deadline(5):
        session.post(server.url)
        assert not session.cookies


def test_interim_replies_are_waited_out_and_answer_no_other_request(
    serve: Serve, connect: Connect
) -> None:
    def interim(connection: socket.socket, stop: threading.Event) -> bool:
        heads = b"HTTP/1.1 102 Processing\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n"
        connection.sendall(heads)
        stop.wait(0.1)
        entry = {"code": "ok", "providerId": ID + len(server.requests)}
        body = json.dumps({"status": "ok", "messages": [entry]}).encode()
        return reply(body)(connection, stop)

    server = serve(interim)
    provider = connect(server.url)
    assert [only(provider.send(BODY, 1)) for _ in range(2)] == [Accepted(ID + 1), Accepted(ID + 2)]
    assert [number for number, _ in server.requests] == [1, 1]


def test_a_reply_that_never_ends_is_not_read_to_its_end(
    serve: Serve, connect: Connect, monkeypatch: Any
) -> None:
    def endless(connection: socket.socket, stop: threading.Event) -> bool:
        connection.sendall(b"HTTP/1.1 200 OK\r\n\r\n" + ONE)
        while not stop.is_set():
            connection.sendall(b" " * 65536)
        return False

    monkeypatch.setattr(module, "MAX_REPLY_BYTES", 1_000_000)
    assert only(connect(serve(endless).url).send(BODY, 1)) == Unsure("reply-too-large")


def test_a_small_reply_that_unpacks_to_a_huge_one_is_not_unpacked(
    serve: Serve, connect: Connect
) -> None:
    packed = gzip.compress(ONE + b" " * 2**26, 1)
    provider = connect(serve(reply(packed, "200 OK", "Content-Encoding: gzip")).url)
    tracemalloc.start()
    try:
        assert isinstance(only(provider.send(BODY, 1)), Unsure)
        assert tracemalloc.get_traced_memory()[1] < 2**24
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    "head",
    [
        b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 10_000,
        b"HTTP/1.1 200 OK\r\nX: " + b"y" * 10_000_000,
        b"HTTP/1.1 200 " + b"y" * 10_000_000,
        b"HTTP/1.1 100 Continue\r\n\r\n" * 100_000,
    ],
    ids=["lines", "line", "reason", "continues"],
)
def test_a_head_that_does_not_end_is_given_up(head: bytes, serve: Serve, connect: Connect) -> None:
    provider = connect(serve(bytes_then_close(head)).url, connect_timeout=1.0, read_timeout=1.0)
    begun = time.monotonic()
    assert isinstance(only(provider.send(BODY, 1)), Unsure)
    assert time.monotonic() - begun < 4


# Connections and their surroundings.


@pytest.mark.parametrize("code", ["301 Moved", "302 Found", "307 Temporary", "308 Permanent"])
def test_a_redirect_is_not_followed(code: str, serve: Serve, connect: Connect) -> None:
    elsewhere = serve(reply(ONE))
    server = serve(reply(b"", code, f"Location: {elsewhere.url}/send"))
    assert only(connect(server.url).send(BODY, 1)) == Blocked(f"http-{code[:3]}")
    assert elsewhere.requests == []
    assert len(server.requests) == 1


def test_a_wish_to_wait_is_read_from_the_header(serve: Serve, connect: Connect) -> None:
    server = serve(reply(b"", "429 Too Many", "Retry-After: 17"))
    assert only(connect(server.url).send(BODY, 1)) == NotSent("http-429", 17.0)


def test_a_date_to_wait_until_counts_from_the_reply_s_own_date(
    serve: Serve, connect: Connect
) -> None:
    # whatever this machine's clock says
    until, date = "Mon, 23 Nov 2026 10:01:30 GMT", "Mon, 23 Nov 2026 10:01:00 GMT"
    server = serve(reply(b"", "429 Too Many", f"Retry-After: {until}\r\nDate: {date}"))
    assert only(connect(server.url).send(BODY, 1)) == NotSent("http-429", 30.0)


def test_neither_netrc_nor_a_proxy_of_the_environment_is_used(
    serve: Serve, connect: Connect, tmp_path: Path, monkeypatch: Any
) -> None:
    server, stranger = serve(reply(ONE)), serve(reply(b"", "502 Bad Gateway"))
    netrc = tmp_path / "netrc"
    netrc.write_text("machine localhost login other password other\n")
    netrc.chmod(0o600)
    monkeypatch.setenv("NETRC", str(netrc))
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy", "HTTPS_PROXY"):
        monkeypatch.setenv(name, stranger.url)
    monkeypatch.delenv("NO_PROXY", raising=False)
    monkeypatch.delenv("no_proxy", raising=False)
    assert only(connect(server.url).send(BODY, 1)) == Accepted(ID)
    assert stranger.requests == []
    ((_, request),) = server.requests
    assert base64.b64encode(b"tester:111111") in request


def test_the_proxy_of_the_settings_is_used(serve: Serve, connect: Connect) -> None:
    proxy = serve(reply(ONE))
    provider = connect("http://viber.invalid:444", proxy=proxy.url)
    assert only(provider.send(BODY, 1)) == Accepted(ID)
    assert proxy.requests[0][1].startswith(b"POST http://viber.invalid:444/send HTTP/1.1")


@pytest.mark.parametrize(
    "handle", [reply(b"", "407 Auth"), reply(b"", "502 Bad Gateway"), reset, bytes_then_close(b"")]
)
def test_a_proxy_that_does_not_connect_is_not_sent(
    handle: Handler, serve: Serve, connect: Connect
) -> None:
    proxy = serve(handle)
    provider = connect("https://viber.invalid:444", proxy=proxy.url)
    assert isinstance(only(provider.send(BODY, 1)), NotSent)
    assert {request.split()[0] for _, request in proxy.requests} == {b"CONNECT"}


def test_a_connection_is_kept_alive_for_the_next_request(serve: Serve, connect: Connect) -> None:
    server = serve(reply(ONE))
    provider = connect(server.url)
    for _ in range(3):
        assert only(provider.send(BODY, 1)) == Accepted(ID)
    assert [number for number, _ in server.requests] == [1, 1, 1]


def test_an_idle_connection_is_not_used_again(
    serve: Serve, connect: Connect, monkeypatch: Any
) -> None:
    assert module.MAX_IDLE == 5.0
    server = serve(reply(ONE))
    provider = connect(server.url)
    assert only(provider.send(BODY, 1)) == Accepted(ID)
    monkeypatch.setattr(module, "MAX_IDLE", 0.0)
    assert only(provider.send(BODY, 1)) == Accepted(ID)
    assert [number for number, _ in server.requests] == [1, 2]


def test_a_connection_that_the_server_has_closed_is_not_used_again(
    serve: Serve, connect: Connect
) -> None:
    server = serve(lambda *both: not reply(ONE)(*both))  # a reply, and hang up
    provider = connect(server.url)
    for n in (1, 2):
        assert only(provider.send(BODY, 1)) == Accepted(ID)
        wait_for(lambda n=n: server.closed == n)
    assert [number for number, _ in server.requests] == [1, 2]


def test_each_thread_has_a_connection_of_its_own(serve: Serve, connect: Connect) -> None:
    server, outcomes = serve(reply(ONE)), []
    provider = connect(server.url)

    def work() -> None:
        outcomes.extend(provider.send(BODY, 1) + provider.send(BODY, 1))
        provider._session().close()

    for _ in range(2):
        thread = threading.Thread(target=work)
        thread.start()
        thread.join(10)
    assert outcomes == [Accepted(ID)] * 4
    assert [number for number, _ in server.requests] == [1, 1, 2, 2]


# The same against the simulator, a process of its own.

MESSAGE = {
    "type": "viber",
    "subject": "Shop",
    "priority": "high",
    "contentType": "text",
    "content": {"text": "Код 1234 🙂"},
}


def send_to(provider: Provider, *digits: str) -> list[Outcome]:
    rows = [{"address": f"792500000{each}"} for each in digits]
    return provider.send(send_body(MESSAGE, rows, False), len(rows))


def test_a_batch_has_an_outcome_for_each_of_its_messages(
    simulator: Simulator, connect: Connect
) -> None:
    provider = connect(simulator.url)
    outcomes = send_to(provider, "01", "50", "61", "70")
    ids = [each["providerId"] for each in simulator.accepted()]
    assert outcomes == [
        Accepted(ids[0]),
        Refused("error-address-unknown"),
        Retryable("error-system"),
        Accepted(ids[1]),
    ]
    statuses = provider.status([*ids, ids[0], 5])
    assert isinstance(statuses, Statuses) and statuses.entries.keys() == {*ids, 5}


@pytest.mark.parametrize(
    ("fault", "kind", "accepted"),
    [
        ({"kind": "drop_before"}, Unsure, 0),
        ({"kind": "drop_after"}, Unsure, 2),
        ({"kind": "hang_after", "seconds": 5.0}, Unsure, 2),
        ({"kind": "trickle", "seconds": 0.05}, Unsure, 2),
        ({"kind": "garbled"}, Unsure, 2),
        ({"kind": "short"}, Unsure, 2),
        ({"kind": "long"}, Unsure, 2),
        ({"kind": "no_id"}, Accepted, 2),
        ({"kind": "quoted"}, Accepted, 2),
        ({"kind": "same_id"}, Unsure, 2),
        ({"kind": "oversized", "bytes": 8 * 2**20}, Unsure, 2),
        ({"kind": "disagree"}, Accepted, 2),
        ({"kind": "http", "code": 500}, Unsure, 0),
        ({"kind": "http", "code": 502, "accept": True}, Unsure, 2),
        ({"kind": "http", "code": 503, "retry_after": 3}, NotSent, 0),
        ({"kind": "http", "code": 401}, Blocked, 0),
        ({"kind": "redirect"}, Blocked, 0),
        ({"kind": "status", "code": "error-system"}, Retryable, 0),
        ({"kind": "status", "code": "error-syntax"}, RequestRefused, 0),
        ({"kind": "status", "code": "error-auth", "http": 401}, Blocked, 0),
        ({"kind": "entry", "code": "error-subject-unknown"}, Refused, 0),
    ],
    ids=lambda each: each.get("kind") if isinstance(each, dict) else "",
)
def test_whatever_goes_wrong_the_outcome_says_what_may_have_been_sent(
    fault: dict[str, Any], kind: type, accepted: int, simulator: Simulator, connect: Connect
) -> None:
    simulator.fault(**fault, times=1)
    limit = 0.3 if fault["kind"] in ("hang_after", "trickle") else 5.0
    provider = connect(simulator.url, connect_timeout=limit, read_timeout=limit)
    outcomes = send_to(provider, "01", "02")
    assert [type(each) for each in outcomes] == [kind] * 2
    assert len(simulator.accepted()) == accepted
    assert simulator.get("requests")["send"] == 1


def test_wrong_credentials_block_and_send_nothing(simulator: Simulator, connect: Connect) -> None:
    provider = connect(simulator.url, api_password="другой")
    assert send_to(provider, "01") == [Blocked("error-auth")]
    assert provider.status([ID]) == Blocked("error-auth")
    assert simulator.accepted() == []


@pytest.mark.parametrize(
    ("status", "http", "expected"),
    [
        (
            "error-instant-message-colour-format",
            200,
            RequestRefused("error-instant-message-colour-format"),
        ),
        ("Unauthorized", 401, Blocked("http-401")),
        ("try later", 503, NotSent("http-503")),
        ("fine", 200, Unsure("http-200")),
        ("ok", 503, Unsure("no-entries")),
    ],
)
def test_a_status_that_is_no_code_leaves_the_word_to_http(
    status: str, http: int, expected: Outcome
) -> None:
    answer = Answer(http, json.dumps({"status": status}).encode())
    assert read_send_answer(answer, 2) == [expected, expected]


@pytest.mark.parametrize(
    ("row", "what"),
    [
        ({"code": "ok", "status": "sent"}, None),
        ({"code": "error-system"}, None),
        ({"code": "error-instant-message-provider-id-unknown"}, None),
        ({"code": "error-instant-message-provider-id-format"}, "status-fault"),
        ({"code": "error-instant-message-provider-id-duplicate"}, "status-fault"),
        ({"code": "error-new"}, "status-fault"),
        ({"code": "ok", "status": "teleported"}, "unknown-state"),
        ({"code": "error-instant-message-provider-id-format", "status": "read"}, None),
    ],
)
def test_what_nobody_should_see_in_a_status_reply_is_counted(
    row: dict[str, Any], what: str | None
) -> None:
    body = json.dumps({"status": "ok", "messages": [{"providerId": 7, **row}]}).encode()
    (entry,) = wire.read_status(body).entries or ()
    assert oddity(entry) == what

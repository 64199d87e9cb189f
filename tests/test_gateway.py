"""``courier gateway``: each call and each of its answers, as a program in any language meets it."""

from __future__ import annotations

import asyncio
import gzip
import json
import re
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import requests
from aiohttp import ClientResponse, web
from aiohttp.test_utils import TestClient, TestServer

from tests.conftest import Courier, text_job, wait_for
from tests.gateway import PHONE, TEXT, Gateway, private_job
from tests.tls import Authority
from viber_courier import Producer, Settings
from viber_courier.ops.gateway import bodies, events
from viber_courier.ops.gateway.bodies import MAX_BODY, MAX_LINE
from viber_courier.ops.gateway.openapi import document
from viber_courier.ops.gateway.server import Gateway as Server
from viber_courier.ops.gateway.tokens import Tokens, new_token
from viber_courier.ops.redis_server import RedisServer
from viber_courier.store.keys import Keys

LINES = {"Content-Type": "application/x-ndjson"}


@pytest.fixture(scope="module")
def env(redis_server: RedisServer) -> dict[str, str]:
    base = {"COURIER_REDIS_URL": redis_server.url, "COURIER_NAMESPACE": "gateway"}
    return {**base, "COURIER_SUPPRESSION_KEY": "k" * 16}


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory, env: dict[str, str]) -> Iterator[Gateway]:
    """One for all; whatever they do, its log says nothing of a message."""
    made = Gateway(tmp_path_factory.mktemp("gateway"), env)
    yield made
    log = made.log
    made.close()
    assert PHONE not in log and TEXT not in log and "Traceback" not in log and "Warning" not in log


@pytest.fixture(scope="module")
def app(env: dict[str, str]) -> Iterator[Producer]:
    producer = Producer.from_env(env)
    yield producer
    producer.close()


def problem(answer: requests.Response, status: int) -> dict[str, Any]:
    """The problem that it holds (RFC 9457)."""
    assert answer.status_code == status, answer.text
    assert answer.headers["Content-Type"].startswith("application/problem+json")
    found: dict[str, Any] = answer.json()
    assert found["status"] == status and found["title"] and found["detail"]
    assert PHONE not in answer.text and TEXT not in answer.text
    return found


def lines(*jobs: Any) -> bytes:
    return b"".join(json.dumps(job).encode() + b"\n" for job in jobs)


def test_a_message_is_stored_shown_and_cancelled(gateway: Gateway, app: Producer) -> None:
    answer = gateway.post(private_job(id="one-1", metadata={"order": 5}))
    assert answer.status_code == 202 and answer.json() == {"id": "one-1"}
    shown = gateway.call("GET", "/v1/messages/one-1").json()
    assert (shown["status"], shown["final"], shown["source"]) == ("queued", False, "shop")
    assert shown["metadata"] == {"order": 5} and "address" not in shown
    record = app.get("one-1")
    assert record is not None and record.source == "shop"
    cancel = "/v1/messages/one-1/cancel"
    assert gateway.call("POST", cancel).json() == {"cancelled": True}
    assert gateway.call("POST", cancel).json() == {"cancelled": True}
    assert gateway.call("GET", "/v1/messages/one-1").json()["status"] == "cancelled"
    fresh = gateway.post(private_job()).json()["id"]
    assert gateway.call("GET", f"/v1/messages/{fresh}").status_code == 200


def test_faults_are_told_by_field_path(gateway: Gateway) -> None:
    wrong = private_job(id="f-1", priority="urgent", ttlSec="5", content={"tekst": TEXT})
    errors = problem(gateway.post(wrong), 422)["errors"]
    assert errors.keys() == {"priority", "ttlSec", "content.tekst", "content.text"}
    assert problem(gateway.post({**private_job(), "\ud800": 1}), 422)["errors"]
    assert problem(gateway.post(private_job(source="crm")), 422)["errors"].keys() == {"source"}
    hours = {"from": "09:00", "to": "21:00", "zone": "Nowhere"}
    told = problem(gateway.post(private_job(sendWindow=hours)), 422)["errors"]
    assert told.keys() == {"sendWindow.zone"}
    hours = {"from": "00:00", "to": "24:00", "zone": "recipient"}
    assert gateway.post(private_job(sendWindow=hours)).status_code == 202
    assert gateway.post(private_job(source="shop")).status_code == 202
    for odd in (None, 5, "text", []):
        problem(gateway.post(odd), 422)


def test_another_job_with_the_same_id_is_a_conflict(gateway: Gateway) -> None:
    for status in (202, 202):  # a repeat is the same message
        assert gateway.post(private_job(id="c-1")).status_code == status
    problem(gateway.post(private_job(id="c-1", priority="low")), 409)


def test_a_suppressed_number_gets_nothing_unless_the_message_ignores_that(
    gateway: Gateway, app: Producer
) -> None:
    app.suppressions.add("79255550199", "asked us to stop")
    for id, more, status in (
        ("quiet-1", {}, "rejected"),
        ("quiet-2", {"ignoreSuppression": False}, "rejected"),
        ("loud", {"ignoreSuppression": True}, "queued"),
    ):
        job = {**private_job(id=id, priority="low", **more), "address": "79255550199"}
        assert gateway.post(job).status_code == 202
        assert gateway.call("GET", f"/v1/messages/{id}").json()["status"] == status
    wrong = private_job(id="odd", ignoreSuppression="yes")
    assert problem(gateway.post(wrong), 422)["errors"].keys() == {"ignoreSuppression"}


def test_another_sources_message_is_unknown_and_its_id_is_taken(gateway: Gateway) -> None:
    assert gateway.post(private_job(id="theirs"), "crm").status_code == 202
    problem(gateway.call("GET", "/v1/messages/theirs"), 404)
    problem(gateway.call("POST", "/v1/messages/theirs/cancel"), 404)
    problem(gateway.post(private_job(id="theirs")), 409)
    assert gateway.call("GET", "/v1/messages/theirs", "crm").json()["status"] == "queued"
    for odd in ("nobody", "%00", "%ff", "a" * 5000, "a%20b"):
        problem(gateway.call("GET", f"/v1/messages/{odd}"), 404)


def test_a_list_has_a_result_for_each_row(gateway: Gateway) -> None:
    rows = [private_job(id="l-0"), private_job(id="l-1", priority="x"), 7, private_job(id="l-0")]
    rows += [private_job(id="l-0", priority="low"), private_job(id="l-5", source="crm")]
    answer = gateway.post(rows)
    results = answer.json()["results"]
    assert answer.status_code == 202 and TEXT not in answer.text
    assert [each.get("id") or each["status"] for each in results] == [
        "l-0",
        422,
        422,
        "l-0",
        409,
        422,
    ]
    assert results[1]["errors"].keys() == {"priority"}
    assert gateway.post([rows[1]]).status_code == 422
    problem(gateway.post([7] * 1001), 413)


def test_the_same_idempotency_key_sends_nothing_twice(gateway: Gateway) -> None:
    key = {"Idempotency-Key": "order 5, first try"}
    first, again = (gateway.post(private_job(), headers=key).json() for _ in range(2))
    other = gateway.post(private_job(), "crm", headers=key).json()
    assert first == again != other
    problem(gateway.post(private_job(priority="low"), headers=key), 409)
    rows = [private_job(), private_job(id="own-id"), private_job()]
    more = {"Idempotency-Key": "list"}
    one, two = (gateway.post(rows, headers=more).json() for _ in range(2))
    assert one == two and one["results"][1] == {"id": "own-id"}
    streamed = gateway.call(
        "POST", "/v1/messages", data=lines(*rows), headers={**LINES, "Idempotency-Key": "list"}
    )
    assert streamed.json() == {"accepted": 3, "refused": []}
    assert len({each["id"] for each in one["results"]}) == 3
    for odd in ("", "a" * 256, "ключ".encode(), b"\xff"):
        problem(gateway.post(private_job(), headers={"Idempotency-Key": odd}), 400)


def test_lines_are_stored_as_they_come(gateway: Gateway, app: Producer) -> None:
    jobs = [text_job(id=f"s-{n}") for n in range(1203)]
    jobs[7]["priority"] = "x"
    body = lines(*jobs[:600]) + b"\n  \n" + lines(*jobs[600:])

    def send(**headers: str) -> requests.Response:
        return gateway.call("POST", "/v1/messages", data=iter([body]), headers={**LINES, **headers})

    first, again = send(), send()
    assert first.status_code == 202 and first.json() == again.json()
    assert first.json()["accepted"] == 1202
    (refused,) = first.json()["refused"]
    assert refused["row"] == 7 and refused["errors"].keys() == {"priority"}
    assert app.get("s-1202") is not None
    # What is wrong with a line ends the stream; what was stored before it stays
    body = lines(*(text_job(id=f"t-{n}") for n in range(500))) + b"{\n"
    assert problem(send(), 400)["accepted"] == 500
    body = lines(text_job())
    assert "Idempotency-Key" in problem(send(), 422)["detail"]
    body = b'{"a": "' + b"x" * MAX_LINE + b'"}\n'
    problem(send(), 413)
    body = b""
    assert send().json() == {"accepted": 0, "refused": []}


def test_bodies_that_are_no_messages(gateway: Gateway) -> None:
    def send(body: bytes, type: str = "application/json", **headers: str) -> requests.Response:
        given = {"Content-Type": type, **headers}
        return gateway.call("POST", "/v1/messages", data=body, headers=given)

    deep = b"[" * 10_000 + b"]" * 10_000
    for body in (b"", b"{", deep, b'{"a":' * 10_000, b"\xff\xfe", b"NaN", b"9" * 5000):
        problem(send(body), 400)
    problem(send(deep, LINES["Content-Type"]), 400)
    problem(send(lines(private_job()), "text/plain"), 415)
    problem(send(lines(private_job()), **{"Content-Encoding": "gzip"}), 400)
    problem(send(b"[" + b"[]," * 2_000_000 + b"[]]"), 413)
    problem(send(b" " * (MAX_BODY + 1)), 413)
    gzipped = {"Content-Encoding": "gzip"}
    problem(send(gzip.compress(b" " * (MAX_BODY + 1)), **gzipped), 413)
    assert send(gzip.compress(json.dumps(private_job()).encode()), **gzipped).status_code == 202
    problem(send(iter([b" " * MAX_BODY, b" "])), 413)  # type: ignore[arg-type]
    # A length that is too short: the rest looks like another request, and is not quoted in the log
    body = json.dumps({"address": PHONE, **private_job()}).encode()
    start = gateway.head("/v1/messages", "shop", "Content-Type: application/json")
    gateway.raw(start + b"Content-Length: 2\r\n\r\n{}" + body)
    chunked = b"Connection: close\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n" + body
    assert b" 400 " in gateway.raw(start + chunked).split(b"\r\n")[0]


def test_unknown_paths_methods_and_callers(gateway: Gateway) -> None:
    problem(gateway.call("GET", "/v2/messages"), 404)
    for method, path in (("GET", "/v1/messages"), ("DELETE", "/v1/events"), ("POST", "/healthz")):
        answer = gateway.call(method, path)
        problem(answer, 405)
        assert answer.headers["Allow"]
    before = gateway.metric("courier_gateway_tokens_refused_total")
    for header in ("Bearer wrong", "Bearer", "Basic c2hvcDo=", "Bearer \xff", ""):
        answer = gateway.post(private_job(), None, headers={"Authorization": header})
        problem(answer, 401)
        assert answer.headers["WWW-Authenticate"].startswith("Bearer")
    assert gateway.metric("courier_gateway_tokens_refused_total") == before + 5
    problem(gateway.call("GET", "/v1/events?group=crm", None), 401)


def test_tokens_are_read_again_and_a_wrong_file_changes_nothing(gateway: Gateway) -> None:
    before = gateway.file.read_text()
    token, line = new_token("new")
    gateway.tokens["new"] = token
    try:
        gateway.file.write_text(f"{before}\n{line}\n")
        wait_for(lambda: gateway.post(private_job(), "new").status_code == 202)
        gateway.file.write_text("shop:secret")
        wait_for(lambda: gateway.post(private_job(), "shop").status_code == 202)
        wait_for(lambda: gateway.call("GET", "/readyz", None).status_code == 503)
        assert "secret" not in gateway.call("GET", "/readyz", None).text
        assert gateway.post(private_job(), "new").status_code == 202
    finally:
        gateway.file.write_text(before)
    wait_for(lambda: gateway.post(private_job(), "new").status_code == 401)
    assert gateway.call("GET", "/readyz", None).json() == {"status": "ok"}


def ended(gateway: Gateway, name: str, *ids: str) -> None:
    """Messages of a source that have an event: they were cancelled."""
    assert gateway.post([private_job(id=id) for id in ids], name).status_code == 202
    for id in ids:
        assert gateway.call("POST", f"/v1/messages/{id}/cancel", name).json() == {"cancelled": True}


def test_events_come_again_until_they_are_acknowledged(gateway: Gateway) -> None:
    ended(gateway, "shop", "e-1", "e-2")
    ended(gateway, "crm", "e-3")
    for _ in range(2):
        events = gateway.events("mail")
        assert {"e-1", "e-2"} <= {event["subject"] for event in events}
        assert {event["data"]["source"] for event in events} == {"shop"}
    acks = [event["ackid"] for event in events]

    def acked(name: str = "shop", **body: Any) -> requests.Response:
        return gateway.call("POST", "/v1/events/ack", name, json={"group": "mail", **body})

    assert acked("crm", ackids=acks).json() == {"acknowledged": 0}
    assert acked(ackids=acks).json() == {"acknowledged": len(acks)}
    assert acked(ackids=acks).json() == {"acknowledged": 0}
    assert gateway.events("mail") == []
    assert gateway.events("late", start="new") == []
    assert "e-3" in {event["subject"] for event in gateway.events("mail", "crm")}
    assert len(gateway.events("few", max=1)) == 1
    for odd in ([], ["1-0"] * 1001, ["x"], [1], "1-0", None):
        assert problem(acked(ackids=odd), 422)["errors"].keys() == {"ackids"}
    assert problem(acked(group="a b", ackids=["1-0"]), 422)["errors"].keys() == {"group"}
    problem(gateway.call("POST", "/v1/events/ack", json=[]), 422)
    for query in ("", "group=", "group=a%2Fb", "group=a&wait=61", "group=a&wait=x"):
        problem(gateway.call("GET", f"/v1/events?{query}"), 422)
    for query in ("max=0", "max=1001", "start=then", "consumer=%00"):
        problem(gateway.call("GET", f"/v1/events?group=a&{query}"), 422)


def test_others_events_are_passed_over(gateway: Gateway, app: Producer) -> None:
    gateway.events("passed", start="new")
    for n in range(35):
        app.enqueue(text_job(id=f"o-{n}", source="crm"))
        app.cancel(f"o-{n}")
    ended(gateway, "shop", "o-mine")
    assert [each["subject"] for each in gateway.events("passed", max=10)] == ["o-mine"]


def served(
    url: str, ask: Callable[[TestClient[Any, Any]], Awaitable[ClientResponse]]
) -> tuple[int, str]:
    """The answer of a gateway in this process, with a path that is wrong."""

    async def wrong(_: web.Request) -> web.Response:
        raise ValueError(PHONE)

    async def run() -> tuple[int, str]:
        app = Server(Settings(redis_url=url), None).app()
        app.router.add_get("/wrong", wrong)
        async with TestClient(TestServer(app)) as client:
            answer = await ask(client)
            return answer.status, await answer.text()

    return asyncio.run(run())


def test_a_fault_of_ours_is_told_without_its_text(
    redis_server: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    status, text = served(redis_server.url, lambda client: client.get("/wrong"))
    assert status == 500 and "its log says which" in text and PHONE not in text
    (line,) = [record for record in caplog.records if record.name.endswith("gateway.server")]
    said = (line.getMessage(), line.error, line.where.split(":")[0])  # type: ignore[attr-defined]
    assert said == ("request failed", "ValueError", "test_gateway.py")
    assert PHONE not in caplog.text


def test_slow_bodies_and_long_streams_end(
    redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bodies, "READ_SECONDS", 0.1)
    monkeypatch.setattr(events, "STREAM_SECONDS", 0.0)

    async def slow() -> AsyncIterator[bytes]:
        yield b"{"
        await asyncio.sleep(5)

    for type in ("application/json", *LINES.values()):
        given: Any = {"data": slow(), "headers": {"Content-Type": type, "Idempotency-Key": "a"}}
        status, text = served(
            redis_server.url, lambda client, given=given: client.post("/v1/messages", **given)
        )
        assert status == 408 and "did not come" in text
    accept = {"headers": {"Accept": "text/event-stream"}}
    status, text = served(
        redis_server.url, lambda client: client.get("/v1/events?group=end", **accept)
    )
    assert (status, text) == (200, ": nothing\n\n")


def test_a_poll_waits_for_the_next_event(gateway: Gateway) -> None:
    assert gateway.events("wait", start="new", wait=0) == []
    timer = threading.Timer(0.3, ended, (gateway, "shop", "w-1"))
    timer.start()
    started = time.monotonic()
    (event,) = gateway.events("wait", wait=20)
    assert event["subject"] == "w-1" and 0.2 < time.monotonic() - started < 15
    timer.join()


def test_events_as_a_stream(gateway: Gateway, app: Producer) -> None:
    # Given a group that has lost events, and others that wait for it
    gateway.events("sse")
    app.redis.hset(Keys("gateway").missed, "shop/sse", "1000-0 2000-0")
    ended(gateway, "shop", "sse-1")
    accept = {"Accept": "text/event-stream"}
    with gateway.call("GET", "/v1/events?group=sse", headers=accept, stream=True) as answer:
        assert answer.headers["Content-Type"].startswith("text/event-stream")
        parts = answer.iter_lines(decode_unicode=True)
        assert next(parts) == "event: missed"
        missed = json.loads(next(parts)[6:])
        assert missed == {"from": "1970-01-01T00:00:01+00:00", "to": "1970-01-01T00:00:02+00:00"}
        seen = next(line for line in parts if "sse-1" in line)
        assert seen.startswith("data: ") and json.loads(seen[6:])["subject"] == "sse-1"
        # And one that comes later
        ended(gateway, "shop", "sse-2")
        assert json.loads(next(line for line in parts if "sse-2" in line)[6:])["ackid"]


def test_missed_events_are_told_to_a_poll(gateway: Gateway, app: Producer) -> None:
    gateway.events("gap")
    app.redis.hset(Keys("gateway").missed, "shop/gap", "1000-0 2000-0")
    answer = gateway.call("GET", "/v1/events?group=gap").json()
    assert answer["missed"]["to"] == "1970-01-01T00:00:02+00:00" and answer["events"] == []
    assert "missed" not in gateway.call("GET", "/v1/events?group=gap").json()


def test_health_metrics_and_document_need_no_token(gateway: Gateway) -> None:
    assert gateway.call("GET", "/healthz", None).json() == {"status": "ok"}
    assert gateway.call("GET", "/openapi.json", None).json() == document()
    for path in ("/nobody/knows/this", "/v1/messages/some"):
        gateway.call("GET", path, None)
    text = gateway.call("GET", "/metrics", None).text
    assert 'route="/v1/messages/{id}"' in text and 'route="other"' in text and "nobody" not in text


def test_a_full_queue_and_no_tokens(
    tmp_path: Path, env: dict[str, str], namespace: str, app: Producer
) -> None:
    settings = {**env, "COURIER_NAMESPACE": namespace, "COURIER_MAX_QUEUED": "2"}
    gateway = Gateway(tmp_path, settings, ())
    try:
        assert gateway.post([private_job(id=f"{n}") for n in range(2)]).status_code == 202
        for body in (private_job(), [private_job()] * 2):
            answer = gateway.post(body)
            problem(answer, 429)
            assert int(answer.headers["Retry-After"]) == 1
        lines_ = gateway.call(
            "POST", "/v1/messages", data=lines(private_job(id="z")), headers=LINES
        )
        assert problem(lines_, 429)["accepted"] == 0
        assert gateway.call("GET", "/v1/messages/1").json()["source"] is None
        # A web site can't reach it by a name of its own that leads to loopback
        evil = {"Host": "evil.example"}
        problem(gateway.call("GET", "/v1/messages/1", headers=evil), 403)
        problem(gateway.call("GET", "/healthz", headers={"Host": "[::1"}), 403)
        gateway.call("POST", "/v1/messages/1/cancel")
        assert gateway.events("crm")[0]["subject"] == "1"
        # A poll that waits does not keep it from ending
        poll = threading.Thread(
            target=gateway.events, args=("other",), kwargs={"start": "new", "wait": 60}
        )
        poll.start()
        stream = Keys(namespace).results
        wait_for(lambda: len(app.redis.xinfo_groups(stream)) == 2)
        assert gateway.stop() < 10
        poll.join()
    finally:
        gateway.close()


def test_tls(tmp_path: Path, env: dict[str, str]) -> None:
    own = Authority(tmp_path)
    files = ("--cert", own.certificate, "--key", own.key)
    gateway = Gateway(tmp_path, env, ("shop",), *files)
    try:
        assert gateway.url.startswith("https://")
        assert gateway.post(private_job(), verify=own.ca).status_code == 202
    finally:
        gateway.close()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--host", "0.0.0.0"], "beyond loopback it needs --tokens"),
        (["--host", "::"], "beyond loopback it needs --tokens"),
        (["--tokens", "/nowhere"], "COURIER_GATEWAY_TOKENS must be a file: FileNotFoundError"),
        (["--tokens", __file__], "COURIER_GATEWAY_TOKENS must hold a line name:sha256"),
        (["--cert", __file__], "--cert and --key belong together"),
        (["--cert", __file__, "--key", __file__], "--cert and --key can't be used: SSLError"),
        (["--new-token", "a b"], "must be 1 to 32 of A-Za-z0-9_.-"),
        (["--host", "192.0.2.1", "--tokens", "T"], "can't listen on 192.0.2.1:"),
    ],
)
def test_what_is_wrong_is_said_at_the_start(
    courier: Courier, tmp_path: Path, options: list[str], said: str
) -> None:
    (tmp_path / "tokens").write_text(new_token("shop")[1])
    given = [str(tmp_path / "tokens") if each == "T" else each for each in options]
    assert said in courier("gateway", *given, code=2).stderr


def test_a_new_token(courier: Courier) -> None:
    token, line = (
        row.split()[-1] for row in courier("gateway", "--new-token", "shop").output.splitlines()
    )
    assert len(token) == 43 and line.startswith("shop:") and token not in line


@pytest.mark.parametrize("before", [None, "", "crm:{}", "crm:{}\n"])
def test_a_new_token_is_added_to_the_file_and_alone_is_printed(
    courier: Courier, tmp_path: Path, before: str | None
) -> None:
    file = tmp_path / "tokens"
    if before is not None:
        file.write_text(before.format("0" * 64))
    add = ("gateway", "--tokens", str(file), "--new-token", "shop")
    token = courier(*add).stdout.rstrip("\n")
    assert Tokens(file).name_of(token) == "shop"
    assert len(file.read_text().splitlines()) == (2 if before else 1)
    # And no line that would spoil the file
    assert "has a token for shop" in courier(*add, code=2).stderr
    file.write_text("shop")
    assert "must hold a line" in courier(*add, code=2).stderr
    folder = courier("gateway", "--tokens", str(tmp_path), "--new-token", "shop", code=2)
    assert "IsADirectoryError" in folder.stderr


def test_docs_list_its_metrics(gateway: Gateway) -> None:
    gateway.call("GET", "/healthz", None)
    text = gateway.call("GET", "/metrics", None).text
    families = set(re.findall(r"(?m)^# TYPE (courier_gateway_\w+) (?!gauge)", text))
    page = (Path(__file__).parents[1] / "docs" / "metrics.md").read_text()
    assert families == set(re.findall(r"(?m)^\| `(courier_gateway_\w+)`", page))

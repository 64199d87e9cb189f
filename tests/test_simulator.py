"""The provider simulator as its clients see it: a real process, asked over HTTP."""

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import requests

from viber_courier.ops import simulator_rules as rules

GOLDEN = Path(__file__).parent / "golden"
ROOT = Path(__file__).parent.parent
STEP = 0.05
SMS = {"smsText": "sms", "smsSrcAddress": "1TEST", "smsValidityPeriodSec": 5000}
TEXT = {
    "subject": "Shop",
    "priority": "high",
    "type": "viber",
    "contentType": "text",
    "content": {"text": "hello"},
    "address": "79250000001",
}
BUTTON = {"text": "t", "caption": "c", "action": "http://company.com/a"}
IMAGE = {"contentType": "image", "content": {"imageUrl": "http://company.com/image.jpg"}}


class Client:
    def __init__(self, url: str) -> None:
        self.url = url
        self.http = requests.Session()
        self.http.trust_env = False
        self.auth: Any = ("tester", "111111")

    def post(self, path: str, body: Any, **options: Any) -> requests.Response:
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        options = {"timeout": 10, "allow_redirects": False} | options
        return self.http.post(self.url + path, data=data, auth=self.auth, **options)

    def send(self, *messages: Any, resend: Any = False, **more: Any) -> dict[str, Any]:
        body = {"resendSms": resend, "messages": messages, **more}
        return self.post("/send", body).json()

    def status(self, *ids: Any) -> dict[str, Any]:
        return self.post("/status", {"messages": ids}).json()

    def admin(self, path: str, method: str = "GET", body: Any = None) -> Any:
        answer = self.http.request(method, f"{self.url}/admin/{path}", json=body, timeout=10)
        assert answer.status_code == 200, answer.text
        return answer.json()

    def fault(self, kind: str, **fields: Any) -> None:
        self.admin("faults", "POST", {"kind": kind, **fields})

    def accepted(self) -> list[dict[str, Any]]:
        return self.admin("accepted")


@contextmanager
def running(*options: str, env: dict[str, str] | None = None) -> Iterator[tuple[Any, Client]]:
    command = [sys.executable, "-m", "viber_courier.ops.simulator", "--port", "0", *options]
    process = subprocess.Popen(
        command,
        cwd=ROOT,
        env={**os.environ, **(env or {})},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout
    try:
        line = process.stdout.readline()
        found = re.fullmatch(r"simulator listening on (http://127\.0\.0\.1:\d+)\n", line)
        assert found, line
        client = Client(found[1])
        with client.http:
            yield process, client
    finally:
        process.kill()
        process.communicate()


@pytest.fixture(scope="module")
def server() -> Iterator[Client]:
    with running("--step", str(STEP), "--seed", "1") as (_, client):
        yield client


@pytest.fixture
def api(server: Client) -> Client:
    server.admin("reset", "POST")
    return server


def until(condition: Callable[[], Any], seconds: float = 10.0) -> Any:
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline, "never came true"
        time.sleep(0.01)
    return found


def text(**changes: Any) -> dict[str, Any]:
    """A good message with these fields changed; None leaves a field out."""
    return {name: value for name, value in (TEXT | changes).items() if value is not None}


# --- the provider's examples ---------------------------------------------------------------------


@pytest.mark.parametrize("name", ["text", "button", "image"])
def test_examples_of_one_message_are_accepted(api: Client, name: str) -> None:
    body = (GOLDEN / f"request_{name}.json").read_bytes()

    answer = api.post("/send", body)

    assert answer.status_code == 200
    assert answer.json()["status"] == "ok"
    (entry,) = answer.json()["messages"]
    assert entry["code"] == "ok" and 2**53 < entry["providerId"] < 2**63
    (kept,) = api.accepted()
    assert kept["message"] == json.loads(body)["messages"][0]
    assert kept["resendSms"] is (name != "image")
    assert kept["providerId"] == entry["providerId"] and kept["request"] == 1
    assert abs(kept["at"] - time.time()) < 60


def test_example_of_several_messages_is_merged(api: Client) -> None:
    body = json.loads((GOLDEN / "request_common.json").read_bytes())

    answer = api.post("/send", body).json()

    first, second = api.accepted()
    assert [entry["code"] for entry in answer["messages"]] == ["ok", "ok"]
    assert first["message"] == body["commonData"] | {"address": "7925000001"}
    assert second["message"]["priority"] == "low"
    assert second["message"]["content"] == {"text": "Message text"}  # replaced whole
    assert second["message"]["subject"] == "Subject"


def test_example_of_status_asks_for_ids_never_given(api: Client) -> None:
    answer = api.post("/status", (GOLDEN / "request_status.json").read_bytes()).json()

    assert answer["status"] == "ok"
    assert {(e["providerId"], e["code"]) for e in answer["messages"]} == {
        (3158611117333282816 + n, "error-instant-message-provider-id-unknown") for n in range(5)
    }


# --- /send: what is refused ----------------------------------------------------------------------


@pytest.mark.parametrize("auth", [None, ("tester", "wrong"), ("tester:1", "11111")])
@pytest.mark.parametrize("path", ["/send", "/status"])
def test_wrong_credentials(api: Client, auth: Any, path: str) -> None:
    other = Client(api.url)
    other.auth = auth
    with other.http:
        answer = other.post(path, {"messages": [TEXT]})
    assert (answer.status_code, answer.json()) == (200, {"status": "error-auth"})
    assert api.accepted() == []


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[]",
        b"{}",
        b'{"messages": []}',
        b'{"messages": {}}',
        b'{"messages": [1]}',
        b'{"messages": [{"address": "79250000001", "address": "79250000001"}]}',
        b'{"messages": [{"validityPeriodSec": NaN}]}',
        b'{"messages": [{"subject": "\xff"}]}',
        '{"messages": [{}]}'.encode("utf-16"),
        b'{"messages": [{}], "resendSms": "True"}',
        b'{"messages": [{}], "resendSms": 1}',
        b'{"messages": [{}], "resendSms": null}',
        b'{"messages": [{}], "resendSms": []}',
        b'{"messages": [{}], "commonData": []}',
        b"[" * 100_000,
    ],
)
def test_syntax(api: Client, body: bytes) -> None:
    assert api.post("/send", body).json() == {"status": "error-syntax"}
    assert api.accepted() == []


CONTENT = "error-content-type-format"
VALIDITY = "error-validity-period-seconds-format"
SMS_VALIDITY = "error-resend-sms-validity-period-error"


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"subject": None}, "error-subject-not-specified"),
        ({"subject": ""}, "error-subject-not-specified"),
        ({"subject": "S" * 12}, "error-subject-format"),
        ({"subject": 5}, "error-subject-format"),
        ({"subject": "\ud800"}, "error-subject-format"),
        ({"address": None}, "error-address-not-specified"),
        ({"address": "+79250000001"}, "error-address-format"),
        ({"address": "09250000001"}, "error-address-format"),
        ({"address": "792500"}, "error-address-format"),
        ({"address": "7" * 16}, "error-address-format"),
        ({"address": "7925000000\u0661"}, "error-address-format"),
        ({"address": "79250000001\n"}, "error-address-format"),
        ({"address": 79250000001}, "error-address-format"),
        ({"priority": None}, "error-priority-format"),
        ({"priority": "HIGH"}, "error-priority-format"),
        ({"priority": []}, "error-priority-format"),
        ({"comment": 1}, "error-comment-format"),
        ({"type": None}, "error-instant-message-type-not-specified"),
        ({"type": "sms"}, "error-instant-message-type-format"),
        ({"contentType": None}, CONTENT),
        ({"contentType": "video"}, CONTENT),
        ({"content": None}, "error-content-not-specified"),
        ({"content": "hello"}, CONTENT),
        ({"content": {}}, CONTENT),
        ({"content": {"text": ""}}, CONTENT),
        ({"content": {"text": "x" * 1001}}, CONTENT),
        ({"contentType": "button", "content": BUTTON | {"text": "x" * 1001}}, CONTENT),
        ({"contentType": "button", "content": BUTTON | {"caption": "c" * 20}}, CONTENT),
        ({"contentType": "button", "content": BUTTON | {"action": "company.com"}}, CONTENT),
        ({"contentType": "button", "content": BUTTON | {"imageUrl": None}}, CONTENT),
        ({"contentType": "button", "content": {"text": "t"}}, CONTENT),
        ({"contentType": "image", "content": {"image": "http://company.com/i.jpg"}}, CONTENT),
        *[({"validityPeriodSec": v}, VALIDITY) for v in (14, 86401, True, 60.0, "60")],
        *[({name: value}, "error-resend-sms-error") for name, value in SMS.items()],
    ],
)
def test_refused_without_resend(api: Client, changes: dict[str, Any], code: str) -> None:
    # Given a wrong message between two good ones
    answer = api.send(TEXT, text(**changes), TEXT)

    # Then it alone is refused, at its place and without an id
    first, wrong, last = answer["messages"]
    assert answer["status"] == "ok" and wrong == {"code": code}
    assert first["code"] == last["code"] == "ok" and first["providerId"] != last["providerId"]
    assert len(api.accepted()) == 2 and api.admin("requests")["refused"] == 1


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        (IMAGE, CONTENT),
        ({"smsText": 1}, "error-resend-sms-error"),
        ({"smsSrcAddress": "TEST-1"}, "error-resend-sms-error"),
        ({"smsSrcAddress": "T" * 12}, "error-resend-sms-error"),
        *[({"smsValidityPeriodSec": v}, SMS_VALIDITY) for v in (14, 86401, True, 60.0, "60")],
    ],
)
@pytest.mark.parametrize("flag", [{"resendSms": True}, {"resendSms": "true"}, {}])
def test_refused_with_resend(
    api: Client, flag: dict[str, Any], changes: dict[str, Any], code: str
) -> None:
    body = {"messages": [text(**changes)], **flag}
    assert api.post("/send", body).json() == {"status": "ok", "messages": [{"code": code}]}


def test_limits_count_code_points_and_unknown_fields_are_kept(api: Client) -> None:
    # Given every limit reached, with characters of two UTF-16 units
    message = text(
        subject="😀" * 11,
        contentType="button",
        content={"text": "😀" * 1000, "caption": "😀" * 19, "action": "https://a.b/я"},
        validityPeriodSec=15,
        comment="",
        smsText="😀",
        smsSrcAddress="A1234567890",
        smsValidityPeriodSec=86400,
        ours={"x": [1.5]},
    )

    answer = api.send(message, resend="true", future=1)

    assert answer["messages"][0]["code"] == "ok"
    assert api.accepted()[0]["message"] == message


def test_common_data_and_rows(api: Client) -> None:
    # Given a wrong common part, which some rows mend, and addresses repeated
    common = text(address=None, subject=None)
    rows = [
        {"address": "79250000001"},
        {"address": "79250000001", "subject": "Shop"},
        {"address": "79250000001", "subject": "Shop"},
        {"subject": "Shop"},
        {"address": "1", "subject": "Shop"},
    ]

    answer = api.send(*rows, commonData=common)

    assert [entry["code"] for entry in answer["messages"]] == [
        "error-subject-not-specified",
        "ok",
        "ok",
        "error-address-not-specified",
        "error-address-format",
    ]


# --- /status and the endings ---------------------------------------------------------------------


def test_status_entries_are_shuffled_and_wrong_ids_named(api: Client) -> None:
    rows = [{"address": f"792500001{n:02}"} for n in range(10)]
    sent = api.send(*rows, commonData=text(address=None))["messages"]
    ids = [entry["providerId"] for entry in sent]
    wrong = [0, -1, 1.5, True, "1", None, [1]]

    answer = api.status(*ids, ids[0], ids[0], 2**60, *wrong)

    entries = answer["messages"]
    codes = [entry["code"].removeprefix("error-instant-message-provider-id-") for entry in entries]
    assert [entry["providerId"] for entry in entries if entry["code"] == "ok"] != ids
    assert {e["providerId"] for e in entries if e["code"] == "ok"} == set(ids)
    assert [codes.count(code) for code in ("duplicate", "unknown", "format")] == [2, 1, len(wrong)]


@pytest.mark.parametrize("body", [b"", b'{"messages": []}', b'{"messages": 1}', b"[1]"])
def test_status_syntax(api: Client, body: bytes) -> None:
    assert api.post("/status", body).json() == {"status": "error-syntax"}


LIVES = [
    # digits, resend, the state (or segments) at steps 0, 1, 2 ...
    (0, True, ["enqueued", "sent", "delivered", "read", "read"]),
    (10, True, ["enqueued", "sent", "delivered", "delivered"]),
    (20, True, ["enqueued", "sent", "undelivered", "undelivered"]),
    (21, False, ["enqueued", "sent", "undelivered", "undelivered"]),
    (21, True, ["enqueued", "sent", "undelivered", ["enqueued"], ["sent"], ["delivered"]]),
    (
        22,
        True,
        [
            *["enqueued", "sent", "undelivered", ["sent"], ["delivered", "sent"]],
            ["delivered", "delivered", "enqueued"],
            ["delivered", "delivered", "sent"],
            ["delivered", "delivered", "delivered"],
        ],
    ),
    (
        23,
        True,
        [
            *["enqueued", "sent", "undelivered", ["sent"] * 3],
            ["delivered", "undelivered", "delivered"],
        ],
    ),
    (24, True, ["enqueued", "sent", "undelivered", ["enqueued"] * 2, ["sent"] * 2, ["sent"] * 2]),
    (30, True, ["enqueued", "sent", "failed", "failed"]),
    (31, False, ["enqueued", "sent", "failed", "failed"]),
    (31, True, ["enqueued", "sent", "failed", ["sent"], ["delivered"]]),
    (40, True, ["enqueued", "sent", "cancelled", "cancelled"]),
    (62, True, [None, None, "read", "read"]),
    (70, True, ["enqueued", "sent", "sent", "sent"]),
    (71, True, ["enqueued", "enqueued", "enqueued"]),
    (80, True, ["enqueued", "sent", "vp_expired", "vp_expired"]),
    (81, False, ["enqueued", "sent", "delivered", "delivered"]),
    (82, True, ["enqueued", "sent", "delivered", "visited", "visited"]),
]


@pytest.mark.parametrize(("digits", "resend", "life"), LIVES)
def test_life_step_by_step(digits: int, resend: bool, life: list[Any]) -> None:
    ending = rules.ENDINGS.get(digits, rules.Ending())
    for steps, state in enumerate(life):
        entry = rules.status_entry(2**60, ending, resend, 1e9, 1e9 + steps * 10.0, 10.0)
        if state is None:
            assert entry == rules.unknown_entry(2**60)
        elif isinstance(state, list):  # docs/provider-api.md#t26: no status beside the segments
            assert [segment["state"] for segment in entry["smsStates"]] == state
            assert len({segment["id"] for segment in entry["smsStates"]}) == len(state)
            assert set(entry) == {"providerId", "code", "smsStates"}
        else:
            reached = life.index(state) * 10 + 40  # 1e9 is 2001-09-09 01:46:40
            assert entry["status"] == state
            assert entry["statusAt"] == f"2001-09-09 01:{46 + reached // 60}:{reached % 60:02}"
            assert ("error" in entry) is (state == "undelivered")
            assert "smsStates" not in entry


def test_both_legs_in_one_reply() -> None:
    entry = rules.status_entry(2**60, rules.ENDINGS[81], True, 1e9, 1e9 + 20, 10.0)
    assert (entry["status"], entry["statusAt"]) == ("delivered", "2001-09-09 01:47:00")
    assert [segment["state"] for segment in entry["smsStates"]] == ["delivered"]


def test_without_steps_everything_has_ended() -> None:
    entry = rules.status_entry(2**60, rules.ENDINGS[22], True, 1e9, 1e9, 0.0)
    assert [segment["state"] for segment in entry["smsStates"]] == ["delivered"] * 3


def test_every_ending_over_http(api: Client) -> None:
    # Given one message for each life
    common = text(address=None)
    for flag in (False, True):
        lives = [(digits, life[-1]) for digits, resend, life in LIVES if resend is flag]
        lives.append((99, "read"))
        rows = [{"address": f"792500000{digits:02}"} for digits, _ in lives]
        entries = api.send(*rows, commonData=common, resend=flag)["messages"]
        wanted = {e["providerId"]: end for e, (_, end) in zip(entries, lives, strict=True)}

        # When it is polled, then it comes to its end
        def states(ids: tuple[int, ...] = tuple(wanted)) -> dict[int, Any]:
            return {
                entry["providerId"]: entry.get("status")
                or [segment["state"] for segment in entry.get("smsStates", [])]
                for entry in api.status(*ids)["messages"]
            }

        assert until(lambda states=states, wanted=wanted: states() == wanted)


def test_reasons_of_undelivered(api: Client) -> None:
    sent = api.send(text(address="79250000020"), text(address="79250000021"))["messages"]
    ids = [entry["providerId"] for entry in sent]

    def reasons() -> dict[int, Any]:
        return {e["providerId"]: e.get("error") for e in api.status(*ids)["messages"]}

    assert until(lambda: reasons() == {ids[0]: "user-blocked", ids[1]: "not-viber-user"})


def test_refusals_by_address(api: Client) -> None:
    def codes(**changes: Any) -> list[str]:
        rows = [text(address=f"792500000{digits}", **changes) for digits in (50, 51, 60, 61)]
        return [entry["code"] for entry in api.send(*rows)["messages"]]

    always = ["error-address-unknown", "error-subject-unknown", "error-system", "error-system"]
    assert codes() == always
    assert codes() == [*always[:2], "ok", "error-system"]
    assert codes(content={"text": "another"}) == always  # seen with this content, not that
    assert {entry["message"]["address"] for entry in api.accepted()} == {"79250000060"}


# --- faults --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rule", "http", "answer"),
    [
        ({"kind": "status", "code": "error-system"}, 200, {"status": "error-system"}),
        ({"kind": "status", "code": "error-x", "http": 502}, 502, {"status": "error-x"}),
        ({"kind": "entry", "code": "error-y"}, 200, [{"code": "error-y"}] * 2),
        ({"kind": "http", "code": 503}, 503, b""),
        ({"kind": "http", "code": 500, "body": "oh"}, 500, b"oh"),
        ({"kind": "redirect"}, 307, b""),
    ],
)
def test_faults_that_accept_nothing(
    api: Client, rule: dict[str, Any], http: int, answer: Any
) -> None:
    api.fault(**rule)

    reply = api.post("/send", {"messages": [TEXT, TEXT]})

    assert reply.status_code == http
    if isinstance(answer, bytes):
        assert reply.content == answer
    else:
        expected = {"status": "ok", "messages": answer} if isinstance(answer, list) else answer
        assert reply.json() == expected
    assert api.accepted() == []


def test_http_fault_with_retry_after_and_redirect_to_itself(api: Client) -> None:
    date = "Fri, 31 Dec 2049 23:59:59 GMT"
    api.fault("http", code=429, retry_after=7, times=1)
    api.fault("http", code=503, retry_after=date, times=1)
    api.fault("http", code=502, accept=True, times=1)
    api.fault("redirect", times=1)

    busy, away, bad, moved = (api.post("/send", {"messages": [TEXT]}) for _ in range(4))

    assert (busy.status_code, busy.headers["Retry-After"]) == (429, "7")
    assert (away.status_code, away.headers["Retry-After"]) == (503, date)
    assert bad.status_code == 502 and len(api.accepted()) == 1
    assert moved.headers["Location"] == "/send"


@pytest.mark.parametrize(
    ("kind", "accepted"),
    [("drop_before", 0), ("drop_after", 1), ("hang_before", 0), ("hang_after", 1)],
)
def test_faults_without_a_reply(api: Client, kind: str, accepted: int) -> None:
    api.fault(kind)
    with pytest.raises((requests.ConnectionError, requests.ReadTimeout)):
        api.post("/send", {"messages": [TEXT]}, timeout=0.5)
    until(lambda: api.admin("faults")[0]["fired"] == 1)
    assert len(api.accepted()) == accepted


def test_a_hang_that_ends_is_a_broken_connection(api: Client) -> None:
    api.fault("hang_after", seconds=0.05)
    with pytest.raises(requests.ConnectionError):
        api.post("/send", {"messages": [TEXT]})
    assert len(api.accepted()) == 1


def test_slow_and_trickle(api: Client) -> None:
    api.fault("slow", seconds=0.1, times=1)
    api.fault("trickle", seconds=0.005, times=1)

    for least in (0.1, 0.005 * len('{"status": "ok"}')):
        begun = time.monotonic()
        assert api.send(TEXT)["status"] == "ok"
        assert time.monotonic() - begun >= least


@pytest.mark.parametrize(("kind", "count"), [("short", 2), ("long", 4)])
def test_wrong_counts(api: Client, kind: str, count: int) -> None:
    api.fault(kind)
    assert len(api.send(TEXT, TEXT, TEXT)["messages"]) == count
    assert len(api.accepted()) == 3


def test_garbled(api: Client) -> None:
    api.fault("garbled")
    reply = api.post("/send", {"messages": [TEXT]})
    with pytest.raises(ValueError):
        reply.json()
    assert reply.text.startswith('{"status": "ok" "messages": [{"providerId": ')
    assert len(api.accepted()) == 1


def test_oversized(api: Client) -> None:
    api.fault("oversized", bytes=3_000_000)
    reply = api.post("/send", {"messages": [TEXT]})
    assert len(reply.content) == 3_000_000 and "Content-Length" not in reply.headers
    assert reply.json()["messages"][0]["code"] == "ok" and len(api.accepted()) == 1


def test_faults_of_entries(api: Client) -> None:
    for kind in ("no_id", "same_id", "disagree"):
        api.fault(kind, times=1)

    bare, same, disagreeing = (api.send(TEXT, TEXT) for _ in range(3))

    assert bare == {"status": "ok", "messages": [{"code": "ok"}] * 2}
    assert len({entry["providerId"] for entry in same["messages"]}) == 1
    assert disagreeing["status"] == "error-system"
    assert [entry["code"] for entry in disagreeing["messages"]] == ["ok", "ok"]
    assert len(api.accepted()) == 6


def test_faults_of_status(api: Client) -> None:
    ids = [entry["providerId"] for entry in api.send(TEXT, TEXT)["messages"]]
    api.fault("entry", on="status", code="error-system", times=1)
    api.fault("short", on="status", times=1)
    api.fault("status", on="status", code="error-account-locked", times=1)

    entries = api.status(*ids)["messages"]
    assert {(e["providerId"], e["code"]) for e in entries} == {(i, "error-system") for i in ids}
    assert len(api.status(*ids)["messages"]) == 1
    assert api.status(*ids) == {"status": "error-account-locked"}
    assert len(api.status(*ids)["messages"]) == 2
    assert api.send(TEXT)["status"] == "ok"  # another path: never touched


def test_one_message_spoils_the_request_that_it_is_in(api: Client) -> None:
    api.fault("status", code="error-syntax", address="77")
    api.fault("http", code=413, address="8")
    good, culprit = {"address": "79250000001"}, {"address": "79250000077"}
    common = text(address=None)

    assert api.send(good, commonData=common)["status"] == "ok"
    assert api.send(good, culprit, good, commonData=common) == {"status": "error-syntax"}
    assert api.send({**TEXT, **culprit})["status"] == "error-syntax"
    assert api.post("/send", {"messages": [{**TEXT, "address": "79250000008"}]}).status_code == 413
    assert api.post("/send", b"{").json() == {"status": "error-syntax"}
    assert [rule["fired"] for rule in api.admin("faults")] == [2, 1]
    assert [kept["message"]["address"] for kept in api.accepted()] == ["79250000001"]


def test_rules_count_and_the_first_that_applies_wins(api: Client) -> None:
    first = {"kind": "status", "code": "error-a", "times": 2}
    never = {"kind": "drop_before", "rate": 0}
    half = {"kind": "status", "code": "error-b", "rate": 0.5}
    api.admin("faults", "POST", [first, never, half])

    seen = [api.send(TEXT)["status"] for _ in range(42)]

    assert seen[:2] == ["error-a", "error-a"] and set(seen[2:]) == {"error-b", "ok"}
    fired = [rule["fired"] for rule in api.admin("faults")]
    assert fired == [2, 0, seen.count("error-b")]
    assert api.admin("faults", "DELETE") == [] and api.send(TEXT)["status"] == "ok"


@pytest.mark.parametrize(
    ("rule", "field"),
    [
        ({}, "kind"),
        ([{"kind": "slow"}, {"kind": "quake"}], "kind"),
        ({"kind": "status"}, "code"),
        ({"kind": "slow", "second": 1}, "second"),
        ({"kind": "slow", "seconds": -1}, "seconds"),
        ({"kind": "slow", "seconds": "1"}, "seconds"),
        ({"kind": "http", "code": 1000}, "code"),
        ({"kind": "short", "rate": 1.5}, "rate"),
        ({"kind": "short", "times": True}, "times"),
        ({"kind": "short", "on": "both"}, "on"),
        ({"kind": "short", "address": 77}, "address"),
        ({"kind": "short", "fired": 1}, "fired"),
    ],
)
def test_wrong_rules_are_named(api: Client, rule: Any, field: str) -> None:
    answer = api.http.post(f"{api.url}/admin/faults", json=rule, timeout=10)
    assert (answer.status_code, answer.json()["field"]) == (400, field)
    assert api.admin("faults") == []


# --- what tests are told, and the process --------------------------------------------------------


def test_requests_and_bodies(api: Client) -> None:
    body = json.dumps({"messages": [TEXT, text(subject=None)]}, ensure_ascii=False).encode()
    api.post("/send", body, headers={"X-Ours": "1"})
    api.post("/send", b"{")
    api.post("/status", b'{"messages": [1]}')

    told = api.admin("requests")
    assert (told["send"], told["status"], told["messages"], told["refused"]) == (2, 1, 1, 1)
    assert told["batches"] == [2, 0] and told["log"] == [len(body), 1]
    assert told["bytes"] == len(body) + 1 + 17
    bodies = api.admin("bodies")
    assert [kept["path"] for kept in bodies] == ["/send", "/send", "/status"]
    assert bodies[0]["body"].encode() == body and bodies[0]["headers"]["X-Ours"] == "1"
    assert "authorization" not in str(bodies).lower()


def test_requests_whose_answers_were_broken(api: Client) -> None:
    api.send({"address": "79250000001"}, commonData=text(address=None))
    for rule in ({"kind": "short", "times": 1}, {"kind": "http", "code": 500, "times": 1}):
        api.admin("faults", "POST", rule)
        api.post("/send", json.dumps({"messages": [TEXT]}).encode())
    assert api.admin("requests")["broken"] == [[2, "short", ""], [3, "http", 500]]


def test_accepted_in_pages_and_reset(api: Client) -> None:
    rows = [{"address": f"7925000000{n}"} for n in range(5)]
    first = api.send(*rows, commonData=text(address=None))["messages"][0]["providerId"]

    assert [kept["message"]["address"][-1] for kept in api.admin("accepted?since=3")] == ["3", "4"]
    assert api.admin("accepted?since=1")[0]["providerId"] == first + 1

    api.admin("reset", "POST")
    assert api.accepted() == [] and api.admin("requests")["batches"] == []
    assert api.status(first)["messages"] == [rules.unknown_entry(first)]
    assert api.send(TEXT)["messages"][0]["providerId"] > first + 4


def test_endings_are_told(api: Client) -> None:
    told = api.admin("endings")
    assert set(told) == {*map(str, rules.ENDINGS), "other"}
    assert told["20"] == "viber enqueued sent undelivered; error user-blocked"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_even_while_requests_hang(number: int) -> None:
    # Given a process with a request that would hang for an hour
    with running() as (process, api):
        api.fault("hang_after")
        hanging = Client(api.url)

        def hang() -> None:
            with hanging.http, pytest.raises(requests.RequestException):
                hanging.post("/send", {"messages": [TEXT]}, timeout=30)

        thread = threading.Thread(target=hang)
        thread.start()
        until(lambda: api.accepted())

        # When it is asked to stop, then it does, and says nothing more
        process.send_signal(number)
        assert process.wait(timeout=5) == 0
        thread.join(timeout=5)
        assert not thread.is_alive()
        assert process.stdout.read() == ""
        assert re.fullmatch(r"simulator seed \d+\n", process.stderr.read())


def test_options(api: Client) -> None:
    env = {"SIMULATOR_LOGIN": "ящик", "SIMULATOR_PASSWORD": "п:1"}
    with running("--no-record", "--step", "0", env=env) as (_, other):
        assert other.send(TEXT) == {"status": "error-auth"}
        other.auth = ("ящик".encode(), "п:1".encode())

        (entry,) = other.send(TEXT)["messages"]
        (state,) = other.status(entry["providerId"])["messages"]

        assert state["status"] == "read" and other.admin("requests")["messages"] == 1
        assert other.http.get(f"{other.url}/admin/accepted", timeout=10).status_code == 409

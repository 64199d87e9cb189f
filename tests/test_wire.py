"""The provider's bodies: what we write, exactly, and what we read, whatever it is."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from viber_courier.schemas.event import SmsState
from viber_courier.schemas.status import Status
from viber_courier.schemas.wire import (
    Reply,
    SendEntry,
    fold,
    is_known_sms,
    read_send,
    read_status,
    send_body,
    sms_leg,
    status_body,
)

ID = 3158611117333282817  # odd and over 2^53: any float on the way would change it
MESSAGE = {"subject": "Магазин", "content": {"text": 'Код 1234 🙂 \u2028 \\ "'}, "address": "7925"}

ANY_JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=8,
)


@pytest.mark.parametrize(("resend", "word"), [(True, "true"), (False, "false")])
def test_a_send_body_has_the_form_of_the_documents_examples(resend: bool, word: str) -> None:
    common = {"priority": "high"}
    body = json.loads(send_body(common, [MESSAGE, MESSAGE], resend))
    assert body == {"resendSms": word, "commonData": common, "messages": [MESSAGE, MESSAGE]}


def test_a_send_body_without_common_fields_has_no_common_data() -> None:
    assert json.loads(send_body({}, [MESSAGE], True)) == {
        "resendSms": "true",
        "messages": [MESSAGE],
    }


def test_texts_go_out_as_utf8_to_the_letter() -> None:
    body = send_body({}, [MESSAGE], False)
    assert "Код 1234 🙂".encode() in body
    assert "Магазин".encode() in body


def test_a_status_body_has_integers_each_once_in_order() -> None:
    assert status_body([ID, 5, ID, 7, 5]) == b'{"messages":[%d,5,7]}' % ID


@pytest.mark.parametrize(
    "body",
    [
        *(b"", b" ", b"null", b"[]", b'"ok"', b"1", b"{", b"<html></html>", b"\xff", b"{}{}"),
        b'{"status":"ok",}',
        *(b'{"status": ok}', b"{'status': 'ok'}"),
        *(b'{"status":"ok"} x', b"[" * 100_000, b'{"a":' * 100_000),
        b'{"status":"ok" "messages":[]}',
    ],
    ids=lambda body: repr(body[:16]),
)
def test_what_is_not_the_apis_json_is_malformed(body: bytes) -> None:
    for read in (read_send, read_status):
        assert read(body) == Reply(None, None)


@pytest.mark.parametrize(
    ("body", "status", "entries"),
    [
        ({}, None, None),
        ({"status": "ok"}, "ok", None),
        ({"status": "error-auth", "messages": None}, "error-auth", None),
        ({"status": "error-auth", "messages": {}}, "error-auth", None),
        ({"status": 401, "error": "Unauthorized", "path": "/send"}, None, None),
        ({"status": None, "messages": []}, None, 0),
        ({"status": True, "messages": []}, None, 0),
        ({"status": " OK ", "messages": []}, "ok", 0),
        ({"status": "ERROR_SYSTEM"}, "error-system", None),
        ({"status": "ok", "extra": [1], "messages": []}, "ok", 0),
    ],
)
def test_a_replys_own_status_is_a_string_or_nothing(body: Any, status: Any, entries: Any) -> None:
    for read in (read_send, read_status):
        reply: Any = read(json.dumps(body).encode())
        assert reply.status == status
        assert (None if reply.entries is None else len(reply.entries)) == entries


def send_entry(row: Any) -> tuple[str | None, int | None]:
    reply = read_send(json.dumps({"status": "ok", "messages": [row]}).encode())
    assert reply.entries is not None
    (entry,) = reply.entries
    return entry.code, entry.provider_id


@pytest.mark.parametrize(
    ("row", "code", "provider_id"),
    [
        ({"code": "ok", "providerId": ID}, "ok", ID),
        ({"code": "ok", "providerId": 1}, "ok", 1),
        ({"code": "ok", "providerId": 2**64 - 1}, "ok", 2**64 - 1),
        ({"code": "error-subject-unknown"}, "error-subject-unknown", None),
        ({"code": " Error_Subject_Unknown"}, "error-subject-unknown", None),
        *[
            ({"code": "ok", "providerId": bad}, "ok", None)
            for bad in (0, -1, True, False, 1.0, 3.2e18, None, [], {}, 2**64, 10**4200, [ID])
        ],
        *[({"code": bad, "providerId": 7}, None, 7) for bad in (None, 0, True, [], {})],
        *[(bad, None, None) for bad in (None, 1, "ok", [], {}, True)],
    ],
)
def test_an_entry_of_a_send_reply_keeps_its_place_and_what_is_usable(
    row: Any, code: str | None, provider_id: int | None
) -> None:
    assert send_entry(row) == (code, provider_id)


@pytest.mark.parametrize(
    ("word", "status"),
    [
        ("enqueued", Status.SUBMITTED),
        ("sent", Status.SENT),
        ("delivered", Status.DELIVERED),
        ("read", Status.READ),
        ("visited", Status.READ),
        ("undelivered", Status.UNDELIVERED),
        ("vp_expired", Status.UNDELIVERED),
        ("failed", Status.FAILED),
        ("cancelled", Status.CANCELLED),
        (" Delivered ", Status.DELIVERED),
        ("READ", Status.READ),
        *[(word, None) for word in ("", "teleported", "ok", None, 3, True, [], {})],
    ],
)
def test_the_providers_states_are_translated_and_kept(word: Any, status: Status | None) -> None:
    entry = status_entry({"status": word})
    assert entry.status is status
    assert entry.word == (str(word) if type(word) in (str, int) else None)
    assert entry.unread == (word is not None and entry.word is None)


def status_entry(row: dict[str, Any]) -> Any:
    body = {"status": "ok", "messages": [{"providerId": ID, "code": "ok", **row}]}
    reply = read_status(json.dumps(body).encode())
    assert reply.entries is not None
    (entry,) = reply.entries
    assert entry.provider_id == ID
    return entry


@pytest.mark.parametrize(
    ("at", "read"),
    [
        ("2016-08-10 15:28:50", "2016-08-10T15:28:50Z"),
        ("1999-05-31 13:20:00", "1999-05-31T13:20:00Z"),
        *[
            (bad, None)
            for bad in (
                *(None, "", 1470842930, True, [], "2016-08-10", "2016-13-10 15:28:50"),
                *("2016-08-10 25:00:00", "10.08.2016 15:28:50", "2016-08-10 15:28:50 \ud800"),
                *("٢٠١٦-08-10 15:28:50", "2016-08-10T15:28:50Z", "2016-02-30 00:00:00"),
            )
        ],
    ],
)
def test_a_date_is_utc_and_a_bad_one_is_none(at: Any, read: str | None) -> None:
    assert status_entry({"status": "read", "statusAt": at}).at == read


@pytest.mark.parametrize(
    ("at", "raw"),
    [("2016-08-10 15:28:50", None), (None, None), ("yesterday", "yesterday"), (7, "7")],
)
def test_what_is_no_date_is_kept_as_it_came(at: Any, raw: str | None) -> None:
    assert status_entry({"status": "read", "statusAt": at}).raw_at == raw


@pytest.mark.parametrize(
    ("row", "error"),
    [
        ({"error": "user-blocked"}, "user-blocked"),
        ({"errorCode": "not-viber-user"}, "not-viber-user"),
        ({"error": "USER_BLOCKED"}, "user-blocked"),
        ({"error": None, "errorCode": "Not-Viber-User"}, "not-viber-user"),
        ({"error": "user-blocked", "errorCode": "x"}, "user-blocked"),
        ({"error": ""}, None),
        ({"error": 5}, None),
        ({}, None),
    ],
)
def test_the_reason_comes_from_either_field(row: Any, error: str | None) -> None:
    assert status_entry(row).error == error


@pytest.mark.parametrize(
    ("states", "read"),
    [
        ([{"id": ID, "state": "sent"}], (SmsState(str(ID), "sent"),)),
        ([{"id": ID, "status": "sent"}], (SmsState(str(ID), "sent"),)),
        ([{"id": str(ID), "state": "sent"}], (SmsState(str(ID), "sent"),)),
        ({"id": f" 0{ID}", "state": "sent"}, (SmsState(str(ID), "sent"),)),
        ([{"id": 5.8e17, "state": "sent"}], (SmsState(None, "sent"),)),
        ([{"id": "x", "state": "sent"}], (SmsState(None, "sent"),)),
        ([{"state": "sent"}], (SmsState(None, "sent"),)),
        ([{"id": 5}], (SmsState("5", ""),)),
        ([{"id": 5, "state": None}], (SmsState("5", ""),)),
        *[(bad, ()) for bad in (None, [], {}, "sent", 1, [None], ["sent"])],
    ],
)
def test_sms_segments_are_read_with_their_ids(states: Any, read: Any) -> None:
    entry = status_entry({"smsStates": states})
    assert entry.sms == read
    unusable = [{"id": 5.8e17, "state": "sent"}], [{"id": "x", "state": "sent"}]
    assert entry.unread == ((bool(states) and not read) or states in unusable)


@pytest.mark.parametrize(
    ("states", "read", "unread"),
    [
        (
            [None, {"id": 5, "state": "delivered"}],
            (SmsState("5", "delivered"), SmsState(None, "")),
            1,
        ),
        ([{"id": 5, "state": {}}], (SmsState("5", ""),), 1),
        ([{"id": 5, "state": ["delivered"]}], (SmsState("5", ""),), 1),
        ([{"id": 5, "state": None, "status": "delivered"}], (SmsState("5", "delivered"),), 0),
        ([{"id": 5}] * 101, (SmsState("5", ""),) * 100 + (SmsState(None, ""),), 0),
    ],
)
def test_what_cant_be_read_of_a_segment_is_told_and_ends_nothing(
    states: Any, read: Any, unread: bool
) -> None:
    entry = status_entry({"smsStates": states})
    assert entry.sms == read and entry.unread >= unread
    assert not unread or sms_leg(entry.sms) == Status.SMS_SENT


def test_what_nobody_sees_in_a_word_changes_nothing() -> None:
    assert send_entry({"code": "\ufeffok\u200b", "providerId": 7}) == ("ok", 7)
    assert status_entry({"status": "\u200edelivered\u2060"}).status == Status.DELIVERED
    (segment,) = status_entry({"smsStates": [{"id": 5, "state": "delivered\u200b"}]}).sms
    assert sms_leg([segment]) == Status.SMS_DELIVERED


def test_status_entries_without_a_usable_id_are_left_out() -> None:
    rows = [{"providerId": bad, "status": "read"} for bad in (0, -1, "7.0", True, 1.0, None)]
    body = json.dumps({"status": "ok", "messages": [*rows, {"status": "read"}, None, "x"]})
    assert read_status(body.encode()) == Reply("ok", [], unread=9)


@pytest.mark.parametrize(
    ("states", "leg"),
    [
        ("", None),
        ("enqueued", Status.SMS_SENT),
        ("sent", Status.SMS_SENT),
        ("delivered", Status.SMS_DELIVERED),
        ("Delivered delivered", Status.SMS_DELIVERED),
        ("undelivered", Status.UNDELIVERED),
        ("delivered undelivered", Status.UNDELIVERED),
        ("delivered sent", Status.SMS_SENT),
        ("undelivered enqueued delivered", Status.SMS_SENT),
        ("delivered teleported", Status.SMS_SENT),  # not known to be finished
    ],
)
def test_segments_speak_together(states: str, leg: Status | None) -> None:
    assert sms_leg([SmsState("1", state) for state in states.split()]) == leg


def test_a_segment_without_a_state_is_not_finished() -> None:
    entry = status_entry({"smsStates": [{"id": 1, "state": "delivered"}, {"id": 2}]})
    assert sms_leg(entry.sms) == Status.SMS_SENT


@pytest.mark.parametrize(
    ("word", "folded"), [("ERROR_System", "error-system"), (" ok\n", "ok"), ("a-b_c", "a-b-c")]
)
def test_words_are_folded(word: str, folded: str) -> None:
    assert fold(word) == folded


@pytest.mark.parametrize("odd", [rb"\ud800", rb"\u0000"])
def test_lone_surrogates_and_nul_of_a_reply_become_something_that_can_be_stored(odd: bytes) -> None:
    row = rb'{"providerId":7,"code":"error-%s","status":"%s","error":"%s",' % (odd, odd, odd)
    body = b'{"status":"%s","messages":[%s"smsStates":[{"id":1,"state":"%s"}]}]}' % (odd, row, odd)
    reply = read_status(body)
    assert reply.entries is not None
    repr(reply).encode()
    (entry,) = reply.entries
    for text in (reply.status, entry.code, entry.word, entry.error, entry.sms[0].state):
        assert text is not None and "\0" not in text
        text.encode()
    send = read_send(body)
    assert send.entries is not None and send.entries[0].code is not None
    send.entries[0].code.encode()


@settings(deadline=None, max_examples=120)
@given(st.dictionaries(st.sampled_from(["status", "messages", "x"]), ANY_JSON), ANY_JSON)
def test_any_json_is_read_or_called_malformed(reply: dict[str, Any], row: Any) -> None:
    if isinstance(reply.get("messages"), list):
        reply["messages"].append(row)
    body = json.dumps(reply).encode()
    sent, asked = read_send(body), read_status(body)
    if isinstance(reply.get("messages"), dict) and reply["messages"]:
        assert sent.entries is not None and len(sent.entries) == 1
    elif isinstance(reply.get("messages"), list):
        assert sent.entries is not None and len(sent.entries) == len(reply["messages"])
        assert asked.entries is not None
    else:
        assert sent.entries is asked.entries is None


@settings(deadline=None, max_examples=120)
@given(st.binary(max_size=40))
def test_any_bytes_are_read_or_called_malformed(body: bytes) -> None:
    for read in (read_send, read_status):
        assert read(body) == Reply(None, None) or b"{" in body


SPELLINGS = (
    *(f"{ID}", f'"{ID}"', f'" {ID}"', f'"{ID} "', f'"\\t{ID}\\n"', f'"+{ID}"', f'"000{ID}"'),
    *(f'"\u00a0{ID}\u2009"', f'"\ufeff{ID}"', f'"\u200e{ID}\u200b"', '"\\u0033158611117333282817"'),
)
UNUSABLE = (
    *("3.15e18", "3158611117333282817.0", '"3.15e18"', f'"{ID}.0"', '"3,158,611"', f'"{ID}L"'),
    *("0", "-1", '"0"', f'"-{ID}"', '"+"', '""', '"0x2b"', '"3_158"', '"٣١٥٨"', f'"{ID} {ID}"'),
    *("true", "false", "null", "[]", f"[{ID}]", f'{{"id":{ID}}}', "NaN", "-Infinity", "1e999999"),
    *(f"{2**64}", f'"{2**64}"', "9" * 5000, '"' + "9" * 5000 + '"', "-" + "1" * 5000),
)


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_any_spelling_of_an_id_is_that_id(spelling: str) -> None:
    body = f'{{"status":"ok","messages":[{{"code":"ok","providerId":{spelling},"status":"sent"}}]}}'
    assert read_send(body.encode()).entries == [SendEntry("ok", ID)]
    (entry,) = read_status(body.encode()).entries or ()
    assert (entry.provider_id, entry.status) == (ID, Status.SENT)


@pytest.mark.parametrize("spelling", UNUSABLE, ids=lambda text: text[:20])
def test_what_spells_no_id_is_unusable_and_spoils_nothing_else(spelling: str) -> None:
    other = '{"code":"ok","providerId":7,"status":"read"}'
    odd = f'{{"code":"ok","providerId":{spelling},"status":"read"}}'
    body = f'{{"status":"ok","messages":[{odd},{other}]}}'.encode()
    assert read_send(body).entries == [SendEntry("ok", None), SendEntry("ok", 7)]
    reply = read_status(body)
    assert [entry.provider_id for entry in reply.entries or ()] == [7]
    assert reply.unread == 1


@pytest.mark.parametrize(
    "encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-32", "cp1251"]
)
@pytest.mark.parametrize("other", ["", "Принято\n\ttab"])
@pytest.mark.parametrize(
    "names",
    [
        ("status", "messages", "code", "providerId"),
        ("Status", "Messages", "Code", "ProviderId"),
        ("STATUS", "MESSAGES", "CODE", "PROVIDER_ID"),
        ("status", "messages", "code", "provider-id"),
    ],
)
def test_a_reply_is_read_in_any_encoding_and_case(
    encoding: str, other: str, names: tuple[str, ...]
) -> None:
    status, messages, code, id = names
    entries = f'[{{"{code}":"ok","{id}":{ID},"text":"{other}"}},{{"{code}":"error-system"}}]'
    body = f'{{"{status}":"ok","{messages}":{entries}}}'.encode(encoding)
    entries_read = [SendEntry("ok", ID), SendEntry("error-system", None)]
    assert read_send(body) == Reply("ok", entries_read)


@pytest.mark.parametrize(
    ("entry", "read"),
    [
        (f'"code":"ok","code":"ok","providerId":{ID},"providerId":{ID}', SendEntry("ok", ID)),
        (f'"code":"ok","Code":"error-system","providerId":{ID}', SendEntry(None, ID)),
        (f'"code":"ok","providerId":{ID},"provider_id":" {ID}"', SendEntry("ok", ID)),
        (f'"code":"ok","providerId":{ID},"providerId":5', SendEntry("ok", None)),
        ('"code":"ok","providerId":5,"providerId":6,"providerId":6', SendEntry("ok", None)),
    ],
)
def test_a_field_given_twice_counts_only_if_both_agree(entry: str, read: SendEntry) -> None:
    body = f'{{"status":"ok","messages":[{{{entry}}}]}}'
    assert read_send(body.encode()).entries == [read]


def test_two_lists_of_entries_are_no_list_at_all() -> None:
    one, other = '[{"code":"ok","providerId":1}]', '[{"code":"error-system"}]'
    body = f'{{"status":"error-system","messages":{one},"messages":{other}}}'
    assert read_send(body.encode()) == Reply("error-system", [SendEntry(None, None)])


@pytest.mark.parametrize(
    ("states", "known"),
    [
        *(([], True), (["", "sent"], True), (["Delivered "], True)),
        *((["teleported"], False), (["delivered", "teleported"], False)),
    ],
)
def test_each_segment_s_state_is_known_or_the_answer_is_odd(states: list[str], known: bool) -> None:
    assert is_known_sms([SmsState(None, state) for state in states]) is known


def test_an_id_is_read_to_the_last_digit_or_not_at_all() -> None:
    for spelled, id in (
        ('"providerId": 3158611117333282817', 3158611117333282817),
        ('"providerId": "x", "provider_id": 1', None),
        ('"providerId": NaN', None),
    ):
        reply = read_send(f'{{"messages": [{{"code": "ok", {spelled}}}]}}'.encode())
        assert reply.entries is not None
        assert [entry.provider_id for entry in reply.entries] == [id]


def test_a_number_with_a_point_is_kept_as_it_is_spelled() -> None:
    reply = read_status(b'{"messages": [{"providerId": 1, "status": 1.50}]}')
    assert reply.entries is not None
    assert (reply.entries[0].word, reply.entries[0].unread) == ("1.50", False)


def test_what_the_provider_says_is_cut_and_without_long_numbers() -> None:
    said = {"providerId": 1, "status": "to 79250000001", "statusAt": "x" * 65}
    reply = read_status(json.dumps({"messages": [said]}).encode())
    assert reply.entries is not None
    assert (reply.entries[0].word, reply.entries[0].raw_at) == ("to *", "x" * 64)

"""Previews: they say what ``add`` then does, by both faces, and store nothing."""

from __future__ import annotations

import json
import re
import sys
from collections import Counter
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import redis
from hypothesis import given
from hypothesis import strategies as st

from tests.conftest import Courier, common_job, free_port
from tests.test_suppressions import KEY
from viber_courier import Producer, Sms
from viber_courier.producers import preview
from viber_courier.producers.preview import country_of, segments
from viber_courier.schemas.settings import Settings

BASIC = (
    "@£$¥èéùìòÇ\nØø\rÅåΔ_ΦΓΛΩΠΨΣΘΞÆæßÉ !\"#¤%&'()*+,-./0123456789:;<=>?¡ABCDEFGHIJKLMNOPQRSTUVWXYZ"
    "ÄÖÑÜ§¿abcdefghijklmnopqrstuvwxyzäöñüà"
)
EXTENSION = "^{}\\[~]|€\f"
"""3GPP TS 23.038, 6.2.1 and 6.2.1.1, typed from the tables and not from the library."""


@pytest.fixture(params=["blocking", "asyncio"])
def face(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def settings(settings: Settings) -> Settings:
    return replace(settings, suppression_key=KEY)


def contents(client: Any, namespace: str) -> dict[str, Any]:
    """All that Redis holds, as it keeps it, but for what is another test's."""
    mine = [key for key in client.keys("*") if not re.match(rf"{{(?!{namespace}}})t\d+}}", key)]
    assert mine
    return {key: (client.dump(key), client.pttl(key) < 0) for key in mine}


def hours_away(first: int, last: int) -> dict[str, str]:
    """A sendWindow from so many hours from now on."""
    now = datetime.now(UTC)
    texts = [f"{now + timedelta(hours=n):%H:00}" for n in (first, last)]
    return {"from": texts[0], "to": texts[1], "zone": "UTC"}


def test_it_says_what_add_does_and_stores_nothing(
    producer: Producer, client: redis.Redis, settings: Settings
) -> None:
    # Given rows of each kind, a suppressed number, and texts of a template
    common: Any = common_job(priority="low", content={"text": "Hello, {name}"}, smsText="{sms}")
    rows: list[dict[str, Any]] = [
        {"address": "+79250000001", "name": "Anna", "sms": "a" * 160},
        {"address": "79250000002", "name": "Anna", "sms": "a" * 161},
        {"address": "79250000001", "name": "again", "sms": "я" * 71},
        {"address": "79250000003", "name": "suppressed", "sms": "я" * 700},
        {"address": "79250000003", "name": "on purpose", "sms": "[", "ignoreSuppression": True},
        {"address": "79250000004", "name": "", "sms": "x"},
        {"address": "1", "name": "x", "sms": "x"},
        {"address": "79250000005", "name": "late", "sms": "x", "sendWindow": hours_away(4, 8)},
        {"address": "923001234567", "name": "no SMS", "smsText": None, "sms": "x"},
        {"address": "79250000006", "name": "other's", "sms": "x", "campaign": "other"},
        {"address": "99900000000", "name": "nowhere", "smsText": None, "resendSms": True},
    ]
    rows[7]["ttlSec"] = 3600
    producer.suppressions.add("79250000003", "asked")
    before = contents(client, settings.namespace)
    campaign = producer.campaign("nov", common, template=True)
    # When they are looked at
    found = campaign.preview(iter(rows), limit=2)
    # Then it is counted, and Redis is as it was
    assert (found.rows, found.messages, found.refused, found.repeated) == (11, 7, 4, 2)
    assert found.suppressed == 1 and found.countries == {"RU": 3, "PK": 1, "ZZ": 1}
    assert found.sms == Sms(messages=5, unicode=1, segments=1 + 2 + 2 + 1 + 1)
    assert contents(client, settings.namespace) == before and found.notes == []
    # And shown as it is sent, but for the number
    first = {**common, "content": {"text": "Hello, Anna"}, "smsText": "a" * 160, "campaign": "nov"}
    assert found.first[0] == {**first, "address": "7925***01"} and len(found.first) == 2
    # When they are added, then that is what happens
    faults, unsent = list[str](), list[int]()
    told: Any = {
        "on_invalid": lambda _, __, error: faults.append(preview.reason_of(error)),
        "on_suppressed": lambda number, *_: unsent.append(number),
    }
    assert (len(campaign.add(rows, **told)), len(faults), unsent) == (7, 4, [3])
    assert found.reasons == Counter(faults)
    assert found.reasons["sendWindow doesn't open before ttlSec is over"] == 1


def test_it_looks_at_rows_in_chunks_however_they_come(
    producer: Producer, face: str, client: redis.Redis
) -> None:
    rows = [{"address": f"7925{n:07}"} for n in range(1203)]
    unsent = [row["address"] for row in rows[::100]]
    producer.suppressions.add_many(unsent, "asked")
    campaign = producer.campaign("nov", common_job(priority="low", smsText="x"))  # type: ignore[arg-type]

    async def coming() -> AsyncIterator[Any]:
        for row in rows:
            yield row

    for given_rows in (rows, coming())[: 1 + (face == "asyncio")]:
        found = campaign.preview(given_rows, limit=0)
        assert (found.rows, found.suppressed, found.first) == (1203, 13, [])
        assert found.sms == Sms(messages=1190, unicode=0, segments=1190)


def test_it_says_what_it_can_t_know(
    producer: Producer, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Given an app without the extras, without a key, or without Redis
    for name in ("phonenumbers", "gsm0338"):
        monkeypatch.setitem(sys.modules, name, None)
    preview.segments.cache_clear()
    away = f"redis://127.0.0.1:{free_port()}/0"
    common: Any = common_job(priority="low", smsText="x")
    for more, why in (
        ({"suppression_key": ""}, "COURIER_SUPPRESSION_KEY must be set"),
        ({"redis_url": away}, "suppressed numbers are not looked up: Redis"),
    ):
        # When rows are looked at
        there = Producer(replace(settings, **more))
        found = there.campaign("nov", common).preview([{"address": "79250000001"}] * 2)
        there.close()
        # Then the rest is counted, and a note names what is missing
        assert (found.messages, found.repeated) == (2, 1)
        assert (found.suppressed, found.countries, found.sms) == (None, None, None)
        countries, sms, suppressed = found.notes
        assert "viber-courier[phone]" in countries and "viber-courier[sms]" in sms
        assert why in suppressed


def test_a_redis_that_goes_away_takes_back_what_it_said(
    settings: Settings, client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Given a first chunk with a suppressed number, and a server that is gone before the second
    there = Producer(settings, client=client)
    there.suppressions.add("79250000000", "asked")

    def rows() -> Any:
        for n in range(501):
            yield {"address": f"7925{n:07}"}
        monkeypatch.setattr(client, "hmget", _gone)

    common: Any = common_job(priority="low", smsText="x")
    found = there.campaign("nov", common).preview(rows())
    # Then nothing is left out of the SMS, as it says
    assert found.suppressed is None and found.sms == Sms(messages=501, unicode=0, segments=501)


def _gone(*_: object) -> None:
    raise redis.ConnectionError("gone")


@pytest.mark.parametrize(
    ("text", "count", "is_unicode"),
    [
        ("a" * 160, 1, False),
        ("a" * 161, 2, False),
        ("a" * 306, 2, False),
        ("a" * 307, 3, False),
        ("€" * 80, 1, False),
        ("€" * 81, 2, False),
        # An escape sequence isn't cut: 152, 2 + 151, 1
        ("a" * 152 + "€" + "a" * 152, 3, False),
        ("я" * 70, 1, True),
        ("я" * 71, 2, True),
        ("я" * 134, 2, True),
        ("я" * 135, 3, True),
        ("🙂" * 35, 1, True),
        ("🙂" * 36, 2, True),
        # Nor a surrogate pair: 66, 2 + 65, 1
        ("я" * 66 + "🙂" + "я" * 66, 3, True),
        ("Ç" * 160, 1, False),
        ("ç" * 71, 2, True),
        ("`" + "a" * 69, 1, True),
    ],
)
def test_segments_at_their_limits(text: str, count: int, is_unicode: bool) -> None:
    assert segments(text) == (count, is_unicode)


def test_the_library_has_the_alphabet_of_the_standard() -> None:
    widths = {char: preview._septets(char) for char in map(chr, range(0xD800)) if char != "\x1b"}
    assert {char for char, width in widths.items() if width == 1} == {*BASIC}
    assert {char for char, width in widths.items() if width == 2} == {*EXTENSION}


@given(st.text(st.sampled_from(BASIC + EXTENSION + "яЖ🙂ç"), min_size=1, max_size=700))
def test_segments_hold_the_text_and_no_fewer_would(text: str) -> None:
    count, is_unicode = segments(text)
    assert is_unicode == (not {*text} <= {*BASIC, *EXTENSION})
    sizes = [1 + (c > "\uffff" if is_unicode else c in EXTENSION) for c in text]
    one, many = (70, 67) if is_unicode else (160, 153)
    if sum(sizes) <= one:
        assert count == 1
    else:  # at most one place of each segment stays empty
        assert -(-sum(sizes) // many) <= count <= -(-sum(sizes) // (many - 1))
        assert segments(text + "a")[0] >= count > 1


def test_countries_of_numbers() -> None:
    found = [country_of(n) for n in ("79250000001", "77011234567", "15012345678", "99900000000")]
    assert found == ["RU", "KZ", "US", "ZZ"] and country_of("0" * 15) == "ZZ"


@pytest.fixture
def bulk(courier: Courier, tmp_path: Path) -> Callable[..., Any]:
    """A dry run of four rows, two of one number, over what the test says is common."""
    file, common = tmp_path / "list.csv", tmp_path / "common.json"
    file.write_text(
        "address,smsText\n79250000001,\n+7 925 000-00-02,Привет\n79250000002,x\n79250000003,x\n"
    )
    common.write_text(json.dumps(common_job(priority="low", smsText="a" * 161)))
    courier.env["COURIER_SUPPRESSION_KEY"] = KEY
    return lambda call, *words, **more: call(
        *("bulk", str(file), "--common", str(common), "--dry-run", *words), **more
    )


def test_bulk_dry_run_leaves_redis_as_it_was(courier: Courier, bulk: Any, tmp_path: Path) -> None:
    # Given one number suppressed
    assert courier.json("suppress", "add", "79250000003", "--reason", "asked")["added"] == 1
    there = Producer.from_env(courier.env)
    before = contents(there.redis, there.settings.namespace)
    # When its list is looked at
    told = bulk(courier.json, "--sms-price", "4.50", "--campaign", "nov")
    # Then it says so, what SMS would cost, and leaves no trace
    assert (told["messages"], told["repeated"], told["suppressed"]) == (3, 1, 1)
    assert told["sms"] == {"messages": 2, "unicode": 1, "segments": 3, "cost": "13.50"}
    assert told["first"][1]["smsText"] == "Привет" and told["first"][0]["campaign"] == "nov"
    said = bulk(courier, "--sms-price", "4.50").stdout
    assert contents(there.redis, there.settings.namespace) == before
    there.close()
    assert "1  of them to suppressed numbers" in said and "They cost 13.50 at 4.50" in said
    assert "7925***01" in said and "79250000001" not in said
    # And rows of another campaign are refused, as they are when they are stored
    file = tmp_path / "others.csv"
    file.write_text("address,campaign\n79250000001,other\n79250000002,nov\n")
    words = ("bulk", str(file), "--common", str(tmp_path / "common.json"), "--campaign", "nov")
    reasons = [courier.json(*words, *more, code=1)["reasons"] for more in (["--dry-run"], [])]
    assert reasons == [{"campaign must be 'nov', or left out": 1}] * 2
    # And with --repeat each row is a message
    told = bulk(courier.json, "--repeat")
    assert (told["messages"], told["sms"]["segments"], told["sms"]["cost"]) == (4, 4, None)


def test_bulk_dry_run_refuses_what_is_too_late(courier: Courier, tmp_path: Path) -> None:
    file, common = tmp_path / "list.csv", tmp_path / "common.json"
    file.write_text("address,ttlSec\n79250000001,3600\n79250000002,86400\n")
    common.write_text(json.dumps(common_job(priority="low", sendWindow=hours_away(4, 8))))
    told = courier.json("bulk", str(file), "--common", str(common), "--dry-run", code=1)
    assert told["reasons"] == {"sendWindow doesn't open before ttlSec is over": 1}
    assert told["messages"] == 1


@pytest.mark.parametrize("price", ["4,50", "-1", "NaN", "Infinity", "x"])
def test_bulk_wants_a_price_that_is_one(courier: Courier, bulk: Any, price: str) -> None:
    said = bulk(courier, "--sms-price", price, code=2).stderr
    assert "must be what one SMS segment costs" in said


def test_bulk_takes_a_price_only_for_a_dry_run(courier: Courier, tmp_path: Path) -> None:
    (tmp_path / "list.csv").write_text("address\n79250000001\n")
    words = ("bulk", str(tmp_path / "list.csv"), "--campaign", "a", "--sms-price", "4")
    assert "--sms-price needs --dry-run" in courier(*words, code=2).stderr

"""Sending hours: the decision against a slow oracle, its edges, and what the parts make of it."""

from __future__ import annotations

import json
import sys
from datetime import UTC, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import example, given
from hypothesis import settings as profile
from hypothesis import strategies as st

from tests.conftest import text_job
from viber_courier.schemas import window as module
from viber_courier.schemas.errors import InvalidMessage
from viber_courier.schemas.fields import JOB
from viber_courier.schemas.instants import SECOND
from viber_courier.schemas.message import Campaign, Job, parse_job, require_in_time
from viber_courier.schemas.window import (
    DAYS,
    NoZone,
    Window,
    find_zone,
    next_opening,
    read_window,
    settled,
    window_fields,
    window_text,
)

ZONES = (
    *("UTC", "Europe/Moscow", "Europe/Berlin", "America/New_York", "Asia/Kathmandu"),
    *("Australia/Lord_Howe", "Pacific/Apia", "Pacific/Chatham", "Africa/Casablanca"),
    *("America/St_Johns", "Asia/Kamchatka", "Pacific/Kiritimati", "America/Havana"),
)
ALL = 127


def at(text: str, zone: str = "UTC") -> int:
    """The instant of a wall clock's time, in microseconds."""
    moment = datetime.fromisoformat(text).replace(tzinfo=ZoneInfo(zone))
    return int(moment.timestamp() * SECOND)


def hours(text: str, *zones: str, days: int = ALL) -> Window:
    first, last = ([int(part) for part in each.split(":")] for each in text.split("-"))
    return Window(first[0] * 60 + first[1], last[0] * 60 + last[1], days, zones)


def is_open(window: Window, minute: int) -> bool:
    """Asks each zone's calendar for the date and time of day; nothing is computed from offsets."""
    for name in window.zones:
        wall = datetime.fromtimestamp(minute * 60, ZoneInfo(name))
        today, before = wall.date(), wall.date() - timedelta(days=1)
        now = wall.hour * 60 + wall.minute
        spans = [(today, window.opens, window.closes)]
        if window.closes < window.opens:
            spans = [(today, window.opens, 1440), (before, 0, window.closes)]
        if not any(
            window.days >> day.weekday() & 1 and first <= now < last for day, first, last in spans
        ):
            return False
    return True


def slowly(instant: int, window: Window, days: int) -> int | None:
    """Tries minute by minute."""
    first = instant // (60 * SECOND)
    if is_open(window, first):
        return instant
    tries = range(first + 1, first + days * 1440)
    return next((m * 60 * SECOND for m in tries if is_open(window, m)), None)


windows = st.builds(
    lambda opens, length, days, zones: Window(
        opens, (opens + length) % 1440 or 1440, days, tuple(zones)
    ),
    st.integers(0, 1439),
    st.integers(1, 1439),
    st.just(ALL) | st.integers(1, 127),
    st.lists(st.sampled_from(ZONES), min_size=1, max_size=3, unique=True),
)
# Of 2026 and 2027, mostly within a day of some zone's change of clocks.
CHANGES = ("2026-03-29T01:00", "2026-10-25T01:00", "2026-03-08T07:00", "2026-11-01T06:00")
CHANGES += ("2026-04-04T15:00", "2026-10-03T15:30", "2027-02-07T02:00", "2027-03-14T02:00")
instants = st.one_of(
    st.integers(at("2026-01-01"), at("2027-12-31")),
    st.builds(
        lambda change, seconds: at(change) + seconds * SECOND,
        st.sampled_from(CHANGES),
        st.integers(-86400, 86400),
    ),
)


@pytest.mark.slow
@profile(deadline=None, max_examples=150)
@given(instant=instants, window=windows)
@example(at("2026-03-29T00:30"), hours("02:30-02:40", "Europe/Berlin"))  # left out that night
@example(at("2026-10-25T01:10"), hours("02:00-02:10", "Europe/Berlin"))  # comes twice
@example(at("2026-10-03T15:00"), hours("02:10-02:20", "Australia/Lord_Howe"))  # half an hour
def test_it_opens_when_a_slow_look_at_every_minute_says_so(instant: int, window: Window) -> None:
    opening = next_opening(instant, window)
    slow = slowly(instant, window, days=9)
    if slow is None:  # opens later, or never: zones too far apart
        assert opening is None or opening > instant + 8 * 86400 * SECOND
    else:
        assert opening == slow


@pytest.mark.parametrize(
    ("now", "window", "opening"),
    [
        ("2026-11-25T08:59:59", hours("09:00-21:00", "UTC"), "2026-11-25T09:00"),
        ("2026-11-25T09:00:00", hours("09:00-21:00", "UTC"), None),
        ("2026-11-25T20:59:59", hours("09:00-21:00", "UTC"), None),
        ("2026-11-25T21:00:00", hours("09:00-21:00", "UTC"), "2026-11-26T09:00"),
        # Over midnight; the day is the one on which it opens. 2026-11-27 is a Friday.
        ("2026-11-28T05:59:00", hours("22:00-06:00", "UTC", days=1 << 4), None),
        ("2026-11-28T06:00:00", hours("22:00-06:00", "UTC", days=1 << 4), "2026-12-04T22:00"),
        ("2026-11-27T05:00:00", hours("22:00-06:00", "UTC", days=1 << 4), "2026-11-27T22:00"),
        # Whole days
        ("2026-11-27T23:59:59", hours("00:00-24:00", "UTC", days=0b11111), None),
        ("2026-11-28T00:00:00", hours("00:00-24:00", "UTC", days=0b11111), "2026-11-30T00:00"),
        # Two zones: nine in the one is twelve in the other
        ("2026-11-27T07:00:00", hours("09:00-13:00", "Europe/Moscow", "UTC"), "2026-11-27T09:00"),
        # Moscow's last hours are not New York's first: 9 to 17 there is 17 to 1 here
        ("2026-11-27T07:00:00", hours("09:00-17:00", "Europe/Moscow", "America/New_York"), "never"),
        # Clocks go ahead from 2 to 3, and back from 3 to 2, in Berlin
        ("2026-03-29T00:00:00", hours("02:30-09:00", "Europe/Berlin"), "2026-03-29T01:00"),
        ("2026-10-25T00:30:00", hours("02:00-02:30", "Europe/Berlin"), "2026-10-25T01:00"),
    ],
)
def test_edges(now: str, window: Window, opening: str | None) -> None:
    expected = at(now) if opening is None else None if opening == "never" else at(opening)
    assert next_opening(at(now), window) == expected


def test_parts_of_a_second_count() -> None:
    window, opens = hours("09:00-21:00", "UTC"), at("2026-11-25T09:00")
    assert next_opening(opens - 1, window) == opens
    assert next_opening(opens + 3, window) == opens + 3


# The zones of a number


def number_zones(address: str) -> tuple[str, ...]:
    from phonenumbers import parse
    from phonenumbers.timezone import time_zones_for_number

    return tuple(time_zones_for_number(parse("+" + address)))


MANY = {"Russia": "79250000001", "Australia": "61412345678", "Spain": "34612345678"}
MANY |= {"Portugal": "351912345678", "Mexico": "525512345678", "New Zealand": "64211234567"}


@pytest.mark.parametrize("country", MANY)
@profile(deadline=None, max_examples=40)
@given(instant=instants, opens=st.integers(0, 1439), length=st.integers(1, 1439), days=st.data())
def test_the_zones_that_decide_decide_as_all_would(
    country: str, instant: int, opens: int, length: int, days: Any
) -> None:
    address, bits = MANY[country], days.draw(st.just(ALL) | st.integers(1, 127))
    whole = Window(opens, (opens + length) % 1440 or 1440, bits, number_zones(address))
    few = settled(whole._replace(zones=("recipient",)), address, instant)
    assert {*few.zones} <= {*whole.zones}
    for later in range(0, 40 * 86400, 7 * 3600):
        # Not while zones change their clocks, which they do hours after one another.
        moment = (instant // SECOND + later) // 60
        walls = {ZoneInfo(n) for n in whole.zones}
        shifts = [
            {datetime.fromtimestamp(moment * 60 + s, zone).utcoffset() for s in (-86400, 0, 86400)}
            for zone in walls
        ]
        if all(len(each) == 1 for each in shifts):
            assert is_open(few, moment) == is_open(whole, moment)


def test_a_mobile_number_s_many_zones_become_few_and_a_record_stays_small() -> None:
    nine = hours("09:00-21:00", "recipient")
    for country, address in MANY.items():
        few = settled(nine, address, at("2026-11-27"))
        assert len(few.zones) <= 2, country
        assert len(window_text(few)) <= 64  # what a listpack takes
    assert settled(nine, "74950000001", 0).zones == ("Europe/Moscow",)
    for unknown in ("88213000000", "99999999"):
        with pytest.raises(NoZone, match="not known of this address"):
            settled(nine, unknown, 0)
    plain = hours("09:00-21:00", "UTC")
    assert settled(plain, "79250000001", 0) is plain


@given(windows)
def test_a_window_is_stored_and_is_a_job_s_again(window: Window) -> None:
    assert read_window(window_text(window)) == window
    again = JOB.fields["sendWindow"].deserialize(window_fields(window))
    assert again == window._replace(zones=tuple(sorted(window.zones)))


# Jobs

NOW = at("2026-11-27T12:00") / SECOND
NINE = {"from": "09:00", "to": "21:00", "zone": "Europe/Moscow"}


def parse(now: float = NOW, **more: Any) -> Job:
    return require_in_time(parse_job(text_job(**more), now))


def refused(now: float = NOW, **more: Any) -> dict[str, list[str]]:
    with pytest.raises(InvalidMessage) as caught:
        parse(now, **more)
    return caught.value.errors


def test_a_job_inside_its_hours_is_due_now_and_outside_when_they_begin() -> None:
    inside = parse(sendWindow=NINE)
    assert (inside.send_at, inside.wait, inside.window) == (None, 0, "540 1260 127 Europe/Moscow")
    night = at("2026-11-27T23:00", "Europe/Moscow")
    outside = parse(night / SECOND, sendWindow=NINE)
    assert (outside.send_at, outside.wait) == (night + 10 * 3600 * SECOND, 10 * 3600 * SECOND)
    later = parse(sendAt="2026-11-28T03:00:00+03:00", sendWindow=NINE)
    assert (later.send_at, later.wait) == (at("2026-11-28T06:00"), 6 * 3600 * SECOND)
    dated = parse(sendAt="2026-11-28T10:00:00+03:00", sendWindow=NINE)
    assert (dated.send_at, dated.wait) == (at("2026-11-28T07:00"), 0)
    assert parse().window == ""


@pytest.mark.parametrize("ttl", [{"ttlSec": 36000}, {"ttlSec": 36015}, {"ttlSec": 15}])
def test_hours_that_begin_too_late_are_refused_with_that_reason(ttl: dict[str, int]) -> None:
    night = at("2026-11-27T23:00", "Europe/Moscow") / SECOND
    too_late = {"sendWindow": ["doesn't open before ttlSec is over"]}
    assert refused(night, sendWindow=NINE, **ttl) == too_late
    assert parse(night, sendWindow=NINE, ttlSec=36016).wait == 36000 * SECOND
    sunday = {**NINE, "days": ["sun"]}
    assert refused(sendWindow=sunday) == too_late  # 86,400 s by default, and it is Friday
    assert parse(sendWindow=sunday, ttlSec=172800).wait
    apart = ["Europe/Moscow", "America/New_York"]
    assert refused(sendWindow={**NINE, "to": "17:00", "zone": apart}, ttlSec=2592000) == too_late


def test_spellings_of_the_same_hours_are_the_same_job() -> None:
    def digest(**more: Any) -> str:
        return parse(sendWindow={**NINE, **more}, ttlSec=2592000).digest

    assert digest() == digest(days=[*reversed(DAYS)]) == digest(zone=["Europe/Moscow"])
    assert digest(days=["mon", "tue"]) == digest(days=("tue", "mon", "tue"))
    both = ["Asia/Omsk", "Europe/Moscow"]
    assert digest(zone=both) == digest(zone=both[::-1]) != digest()
    assert len({digest(), digest(to="22:00"), digest(zone="recipient"), parse().digest}) == 4
    fast, slow = text_job(sendWindow=NINE), {"sendWindow": {**NINE}, **text_job()}
    assert parse_job(fast, NOW).digest == module_slow(slow).digest


def module_slow(job: dict[str, Any]) -> Job:
    """By the schema: what is no dict takes that way."""
    from types import MappingProxyType

    return parse_job(MappingProxyType(job), NOW)


@pytest.mark.parametrize(
    ("wrong", "path", "text"),
    [
        ({"zone": "Europe/Nowhere"}, ".zone", "is no time zone here"),
        ({"zone": "America"}, ".zone", "is no time zone here"),
        ({"zone": "../etc/passwd"}, ".zone", "must be a time zone"),
        ({"zone": ["recipient", "UTC"]}, ".zone", "recipient must stand alone"),
        ({"zone": []}, ".zone", "must be a name or a list"),
        ({"from": "9:00"}, ".from", "must be a time as 09:00"),
        ({"from": "24:00"}, ".from", "must be a time as 09:00"),
        ({"to": "09:00"}, ".to", "must be another time than from"),
        ({"days": ["Mon"]}, ".days", "must be a list of mon"),
        ({"days": []}, ".days", "must be a list of mon"),
        ({"hours": 1}, ".hours", "is not a field"),
    ],
)
def test_a_fault_has_its_path_in_a_job_and_in_a_common_part(
    wrong: dict[str, Any], path: str, text: str
) -> None:
    ((found, (said, *_)),) = refused(sendWindow={**NINE, **wrong}).items()
    assert found == f"sendWindow{path}" and said.startswith(text)
    common = {k: v for k, v in text_job(sendWindow={**NINE, **wrong}).items() if k != "address"}
    with pytest.raises(InvalidMessage) as caught:
        Campaign(common, NOW)
    assert [*caught.value.errors] == [f"common.sendWindow{path}"]


def test_rows_share_a_window_and_each_has_its_recipient_s() -> None:
    def campaign(**more: Any) -> Campaign:
        job = text_job(**more)
        return Campaign({k: v for k, v in job.items() if k != "address"}, NOW)

    shared = campaign(sendWindow=NINE)
    assert "sendWindow" not in json.loads(shared.json)
    assert shared.parse_row({"address": "79250000001"}, NOW).window.endswith(" Europe/Moscow")
    own = {"address": "79250000001", "sendWindow": {**NINE, "zone": "Asia/Omsk"}}
    assert shared.parse_row(own, NOW).window.endswith(" Asia/Omsk")
    assert shared.parse_row({"address": "79250000001", "sendWindow": None}, NOW).window == ""
    each = campaign(sendWindow={**NINE, "zone": "recipient"})
    for address, zones in (
        ("74950000001", "Europe/Moscow"),
        ("12125550123", "America/New_York"),
        ("79250000001", "Europe/Bucharest Asia/Kamchatka"),
    ):
        assert each.parse_row({"address": address}, NOW).window == f"540 1260 127 {zones}"
    with pytest.raises(InvalidMessage) as caught:
        each.parse_row({"address": "99999999"}, NOW)
    assert [*caught.value.errors] == ["sendWindow.zone"]
    ten = campaign(sendWindow={"from": "10:00", "to": "12:00", "zone": "recipient"})
    with pytest.raises(InvalidMessage, match="doesn't open before ttlSec is over"):
        # 16 zones have no such hour in common
        require_in_time(ten.parse_row({"address": "79250000001"}, NOW))


def test_without_phonenumbers_the_recipient_s_zone_is_refused_by_name(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "phonenumbers", None)
    (text,) = refused(sendWindow={**NINE, "zone": "recipient"})["sendWindow.zone"]
    assert "pip install 'viber-courier[phone]'" in text


def test_without_time_zone_data_the_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> Any:
        raise module_error(name)

    from zoneinfo import ZoneInfoNotFoundError as module_error

    monkeypatch.setattr(module, "ZoneInfo", missing)
    find_zone.cache_clear()
    (text,) = refused(sendWindow=NINE)["sendWindow.zone"]
    assert text == "this machine has no time zone data: pip install tzdata"
    find_zone.cache_clear()


def test_instants_are_those_of_the_wall_clock() -> None:
    moment = datetime(2026, 11, 27, 9, tzinfo=UTC)
    assert at("2026-11-27T12:00", "Europe/Moscow") == moment.timestamp() * SECOND

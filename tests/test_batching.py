"""A request's shape: what is shared is written once, and means the same messages."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.workshop import expand
from viber_courier.schemas.instants import SECOND
from viber_courier.store.records import Waiting
from viber_courier.worker.batching import assemble, factor, requests, wire_message

NOW = 1_795_430_400_000_000
DAY = 86400


def same(one: Any, other: Any) -> bool:
    """As JSON: 1, 1.0 and true are three values there."""
    return json.dumps(one, sort_keys=True) == json.dumps(other, sort_keys=True)


SCALARS = st.sampled_from([0, 1, 1.0, True, False, 0.0, "", "1", "text", None, 2**63, 15])
VALUES = SCALARS | st.dictionaries(st.sampled_from("ab"), SCALARS, max_size=2)
NAMES = ["subject", "priority", "content", "comment", "validityPeriodSec", "smsText"]
MESSAGES = st.fixed_dictionaries(
    {"address": st.sampled_from(["79250000001", "79250000002"])},
    optional=dict.fromkeys(NAMES, VALUES),
)


def batches() -> st.SearchStrategy[list[dict[str, Any]]]:
    """Messages that share much: over a random common part, some with changes."""
    shared = st.dictionaries(st.sampled_from(NAMES), VALUES)
    return st.builds(
        lambda common, rows: [{**common, **row} for row in rows],
        shared,
        st.lists(MESSAGES, max_size=5),
    )


@settings(deadline=None, max_examples=300)
@given(batches())
def test_the_factored_request_means_the_same_messages(batch: list[dict[str, Any]]) -> None:
    before = json.dumps(batch)
    common, rest = factor(batch)
    assert same(expand(common, rest), batch)
    assert json.dumps(batch) == before  # nothing was changed in place
    assert len(rest) == len(batch)
    assert "address" not in common
    for name, value in common.items():
        assert all(name in message and same(message[name], value) for message in batch)
        assert not any(name in message for message in rest)


@settings(deadline=None, max_examples=100)
@given(batches().filter(lambda batch: len(batch) > 1))
def test_whatever_all_share_is_written_once(batch: list[dict[str, Any]]) -> None:
    common, _ = factor(batch)
    shared = {
        name
        for name in batch[0]
        if name != "address"
        and all(name in each and same(each[name], batch[0][name]) for each in batch)
    }
    assert common.keys() == shared


def test_a_campaign_is_addresses_only() -> None:
    common = {"subject": "Shop", "content": {"text": "t"}}
    batch = [{**common, "address": str(79250000000 + n)} for n in range(100)]
    assert factor(batch) == (common, [{"address": each["address"]} for each in batch])


def test_content_is_shared_as_a_whole_or_not_at_all() -> None:
    button = {"text": "t", "caption": "c"}
    batch = [
        {"content": button, "address": "1"},
        {"content": {**button, "caption": "d"}, "address": "2"},
    ]
    assert factor(batch) == ({}, batch)


@pytest.mark.parametrize(
    ("one", "other"),
    [(1, True), (1, 1.0), (0, False), (1.0, True), ({"a": 1}, {"a": True}), ("1", 1), (None, "")],
)
def test_values_that_only_python_calls_equal_are_not_shared(one: Any, other: Any) -> None:
    batch = [{"comment": one, "address": "1"}, {"comment": other, "address": "2"}]
    common, rest = factor(batch)
    assert common == {}
    assert same(rest, batch)


@pytest.mark.parametrize("batch", [[], [{"subject": "Shop", "address": "1"}]])
def test_fewer_than_two_have_nothing_in_common(batch: list[dict[str, Any]]) -> None:
    assert factor(batch) == ({}, batch)


def test_a_field_that_one_message_lacks_is_not_shared() -> None:
    batch = [{"comment": None, "address": "1"}, {"address": "2"}]
    assert factor(batch) == ({}, batch)


CAMPAIGN = {"subject": "Shop", "validityPeriodSec": 600}


@pytest.mark.parametrize(
    "other",
    [
        {},
        {"content": {"address": "2", "subject": "Other"}},
        {"content": {"address": "2", "validityPeriodSec": None}},
        {"has_ttl": True},
        {"common": {"subject": "Other"}},
    ],
    ids=repr,
)
def test_a_request_means_its_messages_as_they_are_sent_now(other: dict[str, Any]) -> None:
    # Given messages of one campaign, the last with something of its own
    until = NOW + 100 * SECOND
    campaign: dict[str, Any] = {"content": {"address": "2"}, "common": CAMPAIGN}
    ttl = other.get("has_ttl", False)
    own = {"address": "1"}
    one = Waiting("a", "low", False, until, has_ttl=ttl, content=own, common=CAMPAIGN)
    two = Waiting("b", "low", False, until, **campaign | other)
    for batch in ([one, two], [two, one], [two], [one]):
        common, rest = assemble(batch, NOW)
        assert expand(common, rest) == [wire_message(message, NOW) for message in batch]
        assert not any(name in message for message in rest for name in common)
        assert bool(common) == (len(batch) > 1)
    assert other or assemble([one, two], NOW) == (
        {"type": "viber", **CAMPAIGN}, [{"address": "1"}, {"address": "2"}]
    )  # fmt: skip


def test_what_all_rows_bring_is_shared_in_place_of_their_campaigns() -> None:
    own = [{"address": each, "subject": "Other"} for each in "12"]
    rows = [Waiting("m", "low", False, NOW, content=each, common=CAMPAIGN) for each in own]
    shared = {"type": "viber", **CAMPAIGN, "subject": "Other"}
    assert assemble(rows, NOW) == (shared, [{"address": "1"}, {"address": "2"}])


# Each message as it is sent now.


def wire(left: float, lane: str = "low:0", ttl: bool = True, **content: Any) -> dict[str, Any]:
    until = NOW + int(left * SECOND)
    content = {"subject": "Shop", **content}
    name, _, flag = lane.partition(":")
    given = Waiting("m", name, flag == "1", until, has_ttl=ttl, content=content)
    return wire_message(given, NOW)


@pytest.mark.parametrize(
    ("left", "lane", "given_", "sent"),
    [
        # without the flag: the Viber validity only
        (3600, "low:0", {}, {"validityPeriodSec": 3600}),
        (3599.5, "low:0", {}, {"validityPeriodSec": 3600}),
        (3599, "low:0", {}, {"validityPeriodSec": 3500}),
        (15, "low:0", {}, {"validityPeriodSec": 15}),
        (DAY, "low:0", {}, {"validityPeriodSec": 86000}),
        (30 * DAY, "low:0", {}, {}),  # the API's own default is shorter
        (3600, "low:0", {"validityPeriodSec": 60}, {"validityPeriodSec": 60}),
        (60, "low:0", {"validityPeriodSec": 3600}, {"validityPeriodSec": 60}),
        (60, "low:0", {"validityPeriodSec": 60}, {"validityPeriodSec": 60}),
        # with the flag: the SMS validity as well
        (3600, "low:1", {}, {"validityPeriodSec": 3600, "smsValidityPeriodSec": 3600}),
        (2 * DAY, "low:1", {}, {"smsValidityPeriodSec": 86400}),  # the most that the API allows
        (3 * DAY, "low:1", {}, {"smsValidityPeriodSec": 86400}),  # 250,000 s after rounding
        (4 * DAY, "low:1", {}, {}),
        (
            600,
            "low:1",
            {"smsValidityPeriodSec": 60},
            {"validityPeriodSec": 600, "smsValidityPeriodSec": 60},
        ),
        (
            60,
            "low:1",
            {"smsValidityPeriodSec": 5000},
            {"validityPeriodSec": 60, "smsValidityPeriodSec": 60},
        ),
    ],
)
def test_validities_are_never_longer_than_what_the_app_left(
    left: float, lane: str, given_: dict[str, Any], sent: dict[str, Any]
) -> None:
    assert wire(left, lane, **given_) == {"type": "viber", "subject": "Shop", **sent}


@pytest.mark.parametrize("lane", ["low:0", "low:1"])
def test_a_ttl_of_ours_clips_nothing(lane: str) -> None:
    assert wire(20, lane, ttl=False) == {"type": "viber", "subject": "Shop"}
    assert wire(20, lane, ttl=False, validityPeriodSec=3600)["validityPeriodSec"] == 3600


def test_the_stored_content_is_left_alone() -> None:
    content: dict[str, object] = {"subject": "Shop", "validityPeriodSec": 3600}
    wire_message(Waiting("m", "low", True, NOW + 60 * SECOND, has_ttl=True, content=content), NOW)
    assert content == {"subject": "Shop", "validityPeriodSec": 3600}


def test_messages_of_one_ttl_still_share_their_validity_in_a_batch() -> None:
    batch = [wire(3600 - n * 0.3, address=str(n)) for n in range(100)]
    common, _ = factor(batch[:3])
    assert common["validityPeriodSec"] == 3600


@settings(deadline=None, max_examples=150)
@given(
    left=st.integers(15, 2592000),
    lane=st.sampled_from(["low:0", "low:1"]),
    viber=st.none() | st.integers(15, 86400),
    sms=st.none() | st.integers(15, 86400),
)
def test_clipped_validities_stay_within_the_api_and_the_ttl(
    left: int, lane: str, viber: int | None, sms: int | None
) -> None:
    named = {"validityPeriodSec": viber, "smsValidityPeriodSec": sms if lane == "low:1" else None}
    sent = wire(left, lane, **{name: value for name, value in named.items() if value})
    for name, asked in named.items():
        if name in sent:
            assert 15 <= sent[name] <= min(86400, left, asked or 86400)
    assert sent.get("validityPeriodSec", 86400) <= left


@pytest.mark.parametrize(
    ("lapses", "shape", "waiting"),
    [
        ([], [], 0),
        ([0, 0, 0], [3], 0),
        ([4, 0], [2], 0),
        ([5], [1], 0),
        ([0, 5, 0], [2, 1], 0),
        ([5, 5, 0, 5], [1, 1], 2),
    ],
)
def test_messages_whose_leases_keep_lapsing_go_alone_one_a_claim(
    lapses: list[int], shape: list[int], waiting: int
) -> None:
    claimed = [Waiting(str(n), "low", False, NOW, lapses=each) for n, each in enumerate(lapses)]
    made, others = requests(claimed)
    assert ([len(batch) for batch in made], len(others)) == (shape, waiting)
    assert sorted(m.id for batch in (*made, others) for m in batch) == [m.id for m in claimed]
    assert all(m.lapses >= 5 for m in others)
    assert all(len(batch) == 1 for batch in made if any(m.lapses >= 5 for m in batch))


def test_a_message_of_a_halved_request_whose_leases_keep_lapsing_goes_alone_once() -> None:
    given = Waiting("m", "low", False, NOW, lapses=5, max_batch=50, content={})
    assert requests([given]) == ([[given]], [])


@pytest.mark.parametrize(
    ("withins", "shape"),
    [
        ([50] * 100, [50, 50]),
        ([2, 2, 2], [2, 1]),
        ([0, 4, 1, 0, 1, 4, 0], [1, 1, 2, 3]),  # the smallest first, then what nobody refused
    ],
)
def test_a_refused_request_is_gone_on_with_in_its_halves(
    withins: list[int], shape: list[int]
) -> None:
    claimed = [Waiting(str(n), "low", False, NOW, max_batch=each) for n, each in enumerate(withins)]
    made, _ = requests(claimed)
    assert [len(batch) for batch in made] == shape
    assert sorted(m.id for batch in made for m in batch) == sorted(m.id for m in claimed)
    assert all(len(batch) <= m.max_batch for batch in made for m in batch if m.max_batch)

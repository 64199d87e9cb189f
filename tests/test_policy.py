"""What becomes of a message before it is accepted: pure decisions, time and chance as arguments."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import settings as profile
from hypothesis import strategies as st

from tests.workshop import changed
from viber_courier.schemas.instants import SECOND
from viber_courier.schemas.settings import Settings
from viber_courier.schemas.status import Reason, Status
from viber_courier.store.records import Changes, Step, Waiting, step_fields
from viber_courier.worker.outcome import (
    Accepted,
    Blocked,
    NotSent,
    Outcome,
    Refused,
    RequestRefused,
    Retryable,
    Unsure,
)
from viber_courier.worker.policy import (
    MAX_TRACKING,
    acceptance_key,
    after_send,
    backoff,
    give_up,
    put_back,
    seconds_left,
    triage,
)

NOW = 1_795_430_400_000_000
HOUR = 3600 * SECOND
SETTINGS = Settings()
ID = 3158611117333282817


def waiting(lane: str = "normal:0", left: float = 86400, **known: Any) -> Waiting:
    known.setdefault("content", {"subject": "Shop", "address": "79250000001"})
    name, _, flag = lane.partition(":")
    until = NOW + int(left * SECOND)
    return Waiting(id="m", lane=name, resend=flag == "1", until=until, **known)


def written(step: Step) -> dict[str, Any]:
    """The record's fields as the step writes them."""
    fields = step_fields(step)
    return dict(zip(fields[::2], fields[1::2], strict=True))


def end(step: Step | None) -> tuple[Status | None, str | None] | None:
    return (step.status, step.reason) if step is not None and step.place == "end" else None


def after(outcome: Outcome, message: Waiting, jitter: float = 1.0, **settings: Any) -> Step:
    return after_send(outcome, message, NOW, jitter, Settings(**settings))


# Backoff.


@pytest.mark.parametrize(
    ("failures", "jitter", "seconds"),
    [
        (1, 1.0, 5),
        (2, 1.0, 10),
        (3, 1.0, 20),
        (6, 1.0, 160),
        (7, 1.0, 300),  # the cap
        (1, 0.0, 0),
        (3, 0.25, 5),
        (10_000, 0.5, 150),
    ],
)
def test_backoff_doubles_up_to_the_cap_with_full_jitter(
    failures: int, jitter: float, seconds: float
) -> None:
    assert backoff(failures, jitter, SETTINGS) == seconds


@profile(deadline=None, max_examples=60)
@given(
    st.integers(1, 10**6),
    st.floats(0, 1),
    st.floats(0.01, 1e4),
    st.floats(1, 1e5),
)
def test_backoff_is_never_longer_than_the_cap(
    failures: int, jitter: float, base: float, cap: float
) -> None:
    made = Settings(retry_base=base, retry_cap=cap)
    assert 0 <= backoff(failures, jitter, made) <= min(cap, base * 2.0 ** min(failures - 1, 60))


# Triage: what a claimed message needs instead of being sent.


def test_a_message_in_time_is_sent() -> None:
    message = waiting()
    assert triage(message, NOW, 1.0, SETTINGS) is None
    assert message.attempts == 0


@pytest.mark.parametrize(
    ("left", "ttl", "expired"),
    [
        (0, False, True),
        (-1, False, True),
        (0.000001, False, False),  # ours by default: nothing is clipped by it
        (14, False, False),
        (15, True, False),
        (14.2, True, False),  # rounded up to a second first
        (14, True, True),  # below the API's minimum
        (1, True, True),
        (-3600, True, True),
    ],
)
def test_what_is_past_its_ttl_expires(left: float, ttl: bool, expired: bool) -> None:
    step = triage(waiting(left=left, has_ttl=ttl), NOW, 1.0, SETTINGS)
    assert end(step) == ((Status.EXPIRED, Reason.TTL) if expired else None)


@pytest.mark.parametrize(
    ("left", "seconds"),
    [
        (0, 0),
        (-5, 0),
        (14.000001, 15),
        (15, 15),
        (99, 99),
        (99.5, 100),
        (100, 100),
        (109, 100),
        (3599, 3500),
        (3600, 3600),
        (86399.2, 86000),
        (2592000, 2500000),
    ],
)
def test_what_is_left_is_rounded_up_to_a_second_then_down_to_two_digits(
    left: float, seconds: int
) -> None:
    assert seconds_left(waiting(left=left), NOW) == seconds


@profile(deadline=None, max_examples=80)
@given(st.integers(0, 2592000 * SECOND))
def test_what_is_sent_as_validity_is_at_most_what_is_left(micros: int) -> None:
    message = waiting()._replace(until=NOW + micros)
    seconds = seconds_left(message, NOW)
    assert seconds * SECOND < micros + SECOND
    assert len(str(seconds).rstrip("0")) <= 2


@pytest.mark.parametrize(
    ("lapses", "ended"), [(0, False), (4, False), (5, False), (6, True), (60, True)]
)
def test_a_message_whose_leases_lapse_again_and_again_ends_crashed(
    lapses: int, ended: bool
) -> None:
    step = triage(waiting(lapses=lapses), NOW, 1.0, SETTINGS)
    assert end(step) == ((Status.FAILED, Reason.CRASHED) if ended else None)


def test_a_message_whose_common_content_is_gone_fails() -> None:
    step = triage(waiting(content=None), NOW, 1.0, SETTINGS)
    assert end(step) == (Status.FAILED, Reason.CONTENT_GONE)


@pytest.mark.parametrize(
    ("known", "reason"),
    [
        ({"left": -1}, Reason.TTL),
        ({"lapses": 6}, Reason.CRASHED),
        ({"content": None}, Reason.CONTENT_GONE),
    ],
)
def test_once_unsure_it_ends_unconfirmed_whatever_stops_it(known: Any, reason: str) -> None:
    step = triage(waiting(unsure=1, **known), NOW, 1.0, SETTINGS)
    assert end(step) == (Status.UNCONFIRMED, reason)


# A lapsed lease inside a request is an unsure attempt, like a read timeout.

UNSURE = [
    # setting, the message's own, lane -> what happens
    ("auto", "", "realtime:0", "resend"),
    ("auto", "", "high:1", "resend"),
    ("auto", "", "normal:0", "park"),
    ("auto", "", "low:1", "park"),
    ("park", "", "realtime:0", "park"),
    ("resend", "", "low:0", "resend"),
    ("park", "resend", "low:0", "resend"),
    ("resend", "park", "realtime:0", "park"),
    ("auto", "park", "high:0", "park"),
    ("auto", "resend", "normal:1", "resend"),
]


@pytest.mark.parametrize("how", ["answered", "lapsed"])
@pytest.mark.parametrize(("setting", "own", "lane", "what"), UNSURE)
def test_the_unsure_are_parked_or_sent_again(
    setting: str, own: str, lane: str, what: str, how: str
) -> None:
    made = Settings(on_unsure=setting)
    lapsed = how == "lapsed"
    # Store.begin has counted the attempt, and so has the claim of a message that lapsed inside.
    message = waiting(lane, on_unsure=own, lapsed_inside=lapsed, lapses=lapsed, attempts=1)
    if not lapsed:
        step: Step | None = after_send(Unsure("ReadTimeout"), message, NOW, 1.0, made)
    else:
        step = triage(message, NOW, 1.0, made)
    assert step is not None
    assert (written(step)["unsure"], written(step)["attempts"]) == (1, 1)
    if what == "park":
        assert end(step) == (Status.UNCONFIRMED, Reason.UNSURE)
    else:
        assert (step.place, step.status, step.at) == ("stay", None, NOW + 5 * SECOND)
        assert written(step)["failures"] == 1


@pytest.mark.parametrize("how", ["answered", "lapsed"])
@pytest.mark.parametrize("most", [0, 1, 2, 5])
def test_an_unsure_message_is_sent_again_so_often_and_then_parked(most: int, how: str) -> None:
    made = Settings(unsure_resends=most)
    message, copies = waiting("high:0"), 0
    while True:
        copies += 1
        lapsed = message._replace(lapsed_inside=how == "lapsed")
        step = triage(lapsed, NOW, 1.0, made) if how == "lapsed" else None
        step = step or after_send(Unsure("ReadTimeout"), message, NOW, 1.0, made)
        if step.place == "end":
            break
        message = message._replace(**{"unsure": written(step)["unsure"]})
    assert end(step) == (Status.UNCONFIRMED, Reason.UNSURE)
    assert copies == written(step)["unsure"] == 1 + most


def test_a_message_stored_with_more_unsure_attempts_than_allowed_is_not_sent_again() -> None:
    for unsure, most in ((1, 0), (7, 2)):
        step = triage(waiting("high:0", unsure=unsure), NOW, 1.0, Settings(unsure_resends=most))
        assert step is not None and end(step) == (Status.UNCONFIRMED, Reason.UNSURE)
    assert triage(waiting("high:0", unsure=2), NOW, 1.0, Settings(unsure_resends=2)) is None


@pytest.mark.parametrize("unsure", [0, 1])
def test_ok_without_an_id_is_accepted_and_never_sent_again(unsure: int) -> None:
    step = after_send(Accepted(None), waiting("high:0", unsure=unsure), NOW, 1.0, SETTINGS)
    assert end(step) == (Status.LOST, Reason.NO_PROVIDER_ID)


def test_a_lapse_too_many_inside_a_request_ends_it_unconfirmed_as_crashed() -> None:
    message = waiting("high:0", lapsed_inside=True, lapses=6)
    step = triage(message, NOW, 1.0, SETTINGS)
    assert end(step) == (Status.UNCONFIRMED, Reason.CRASHED)
    assert step is not None and written(step)["unsure"] == 1


def test_an_unsure_lapse_keeps_the_count_of_lapses_and_an_answer_clears_it() -> None:
    lapsed = triage(waiting("high:0", lapsed_inside=True, lapses=3), NOW, 1.0, SETTINGS)
    assert lapsed is not None and "lapses" not in written(lapsed)
    assert written(after(Retryable("error-system"), waiting(lapses=3)))["lapses"] == 0


# After an answer.


@pytest.mark.parametrize(
    ("lane", "content", "follow"),
    [
        ("low:0", {}, 86400 + 3600),
        ("low:0", {"validityPeriodSec": 60}, 60 + 3600),
        ("low:1", {}, 86400 + 259200 + 3600),
        ("low:1", {"validityPeriodSec": 60, "smsValidityPeriodSec": 90}, 60 + 90 + 3600),
        ("low:1", {"smsValidityPeriodSec": 86400}, 86400 + 86400 + 3600),
        ("low:0", {"smsValidityPeriodSec": 86400}, 86400 + 3600),  # no SMS without the flag
    ],
)
def test_an_accepted_message_is_watched_until_its_tracking_ends(
    lane: str, content: dict[str, Any], follow: int
) -> None:
    step = after(Accepted(ID), waiting(lane, content=content, attempts=1))
    assert (step.place, step.status, step.reason) == ("watch", Status.SUBMITTED, None)
    assert step.at == NOW + 10 * SECOND
    said = written(step)
    assert (said["providerCode"], said["attempts"]) == ("ok", 1)
    assert (said["submitted"], said["tracked"]) == (NOW, NOW + follow * SECOND)


def test_tracking_takes_five_days_at_most() -> None:
    step = after(Accepted(ID), waiting("low:1"), tracking_margin=1e6)
    assert written(step)["tracked"] == NOW + MAX_TRACKING * SECOND


def test_the_first_poll_is_never_later_than_the_end_of_tracking() -> None:
    message = waiting("low:0", content={"validityPeriodSec": 15})
    step = after(Accepted(ID), message, tracking_margin=0.0, poll_delays=(3600.0,))
    assert step.at == NOW + 15 * SECOND


@pytest.mark.parametrize("odd", range(8))
def test_due_times_are_multiples_of_four_for_the_kind_is_beside_them(odd: int) -> None:
    for outcome in (
        Accepted(ID),
        Retryable("error-system"),
        NotSent("x", 3.3),
        Blocked("error-auth"),
    ):
        step = after_send(outcome, waiting(), NOW + odd, 0.7, SETTINGS)
        assert step.at % 4 == 0


def test_what_is_put_back_is_due_now_and_keeps_its_attempts_and_the_size_of_its_request() -> None:
    once = put_back(waiting(attempts=2), NOW + 7)
    assert once == Step("stay", NOW + 4, changes=Changes(attempts=2))
    halved = put_back(waiting(attempts=1, max_batch=50), NOW)
    assert halved.changes == Changes(attempts=1, max_batch=50)


@pytest.mark.parametrize(
    ("outcome", "about_us", "code"),
    [
        *((accepted, False, "ok") for accepted in (Accepted(ID), Accepted(None))),
        (Refused("error-subject-unknown"), False, "error-subject-unknown"),
        (Retryable("error-system"), False, "error-system"),
        *((RequestRefused("error-syntax"), about_us, "error-syntax") for about_us in (False, True)),
        (Blocked("error-auth"), False, "error-auth"),
        *((outcome, False, None) for outcome in (Unsure("ReadTimeout"), NotSent("http-503", 1.0))),
    ],
    ids=repr,
)
def test_an_answer_s_code_and_attempt_are_written(
    outcome: Outcome, about_us: bool, code: str | None
) -> None:
    changes = after_send(outcome, waiting(attempts=3), NOW, 1.0, SETTINGS, about_us).changes
    assert (changes.provider_code, changes.attempts, changes.lapses) == (code, 3, None)


@pytest.mark.parametrize(
    ("own", "seconds"),
    [({}, 60), ({"validityPeriodSec": 30}, 30), ({"validityPeriodSec": None}, 86400)],
)
def test_a_campaign_s_validity_is_followed_unless_the_row_has_its_own(
    own: dict[str, Any], seconds: int
) -> None:
    message = waiting(common={"validityPeriodSec": 60}, content={"address": "1", **own})
    assert (
        after(Accepted(ID), message, tracking_margin=0.0).changes.tracked == NOW + seconds * SECOND
    )


COMMON = {"subject": "Shop", "validityPeriodSec": 60}


@pytest.mark.parametrize(
    "other",
    [
        *({"attempts": 2}, {"failures": 1}, {"unsure": 1}, {"lapses": 1}, {"metadata": "{}"}),
        *({"resend_of": "old"}, {"common": dict(COMMON)}, {"common": {}}),
        *({"content": {name: 30}} for name in ("validityPeriodSec", "smsValidityPeriodSec")),
        *({"content": {name: None}} for name in ("validityPeriodSec", "smsValidityPeriodSec")),
    ],
    ids=repr,
)
def test_acceptances_that_differ_in_what_is_written_share_no_write(other: dict[str, Any]) -> None:
    known: dict[str, Any] = {"attempts": 1, "common": COMMON, "content": {"address": "1"}}
    key = acceptance_key(waiting(**known))
    assert acceptance_key(waiting(**known | {"content": {"address": "2"}}, left=9)) == key
    assert acceptance_key(waiting(**known | {"content": None})) == key
    assert acceptance_key(waiting(**known | other)) != key


def test_a_refusal_ends_a_message_with_the_providers_code() -> None:
    step = after(Refused("error-subject-unknown"), waiting(attempts=1))
    assert end(step) == (Status.REJECTED, "error-subject-unknown")
    assert written(step)["providerCode"] == "error-subject-unknown"
    unsure = after(Refused("error-subject-unknown"), waiting(unsure=2))
    assert end(unsure) == (Status.UNCONFIRMED, "error-subject-unknown")


def test_an_acceptance_after_an_unsure_attempt_says_so() -> None:
    step = after(Accepted(ID), waiting(unsure=1, attempts=2))
    assert step.status == Status.SUBMITTED
    assert written(step)["unsure"] == 1


@pytest.mark.parametrize(
    ("failures", "most", "ended"),
    [(0, 0, False), (999, 0, False), (0, 1, True), (1, 3, False), (2, 3, True), (9, 3, True)],
)
def test_error_system_is_tried_again_until_the_attempts_are_used_up(
    failures: int, most: int, ended: bool
) -> None:
    step = after(Retryable("error-system"), waiting(failures=failures), max_attempts=most)
    assert end(step) == ((Status.FAILED, Reason.ATTEMPTS) if ended else None)
    assert written(step)["failures"] == failures + 1
    assert written(step)["providerCode"] == "error-system"


def test_attempts_used_up_after_an_unsure_one_leave_it_unconfirmed() -> None:
    step = after(Retryable("error-system"), waiting(failures=2, unsure=1), max_attempts=3)
    assert end(step) == (Status.UNCONFIRMED, Reason.ATTEMPTS)
    last = after(Unsure("x"), waiting("high:0", failures=2), max_attempts=3)
    assert end(last) == (Status.UNCONFIRMED, Reason.ATTEMPTS)


def test_a_retry_ladder_of_six_hours_is_climbed_in_no_time() -> None:
    message, now, waits = waiting(left=6 * 3600), NOW, []
    while (step := triage(message, now, 1.0, SETTINGS)) is None:
        step = after_send(Retryable("error-system"), message, now, 1.0, SETTINGS)
        waits.append((step.at - now) // SECOND)
        message, now = changed(message, step), step.at
    assert end(step) == (Status.EXPIRED, Reason.TTL)
    assert waits[:8] == [5, 10, 20, 40, 80, 160, 300, 300]
    assert sum(waits) == 6 * 3600  # the last one was clipped to the deadline


@pytest.mark.parametrize(
    "outcome", [NotSent("NewConnectionError"), NotSent("http-429", 40.0), Blocked("error-auth")]
)
def test_what_nobody_could_take_keeps_its_place_and_uses_no_attempt(outcome: Outcome) -> None:
    # How long everybody waits is the gate's (worker/breaker.py).
    step = after(outcome, waiting(failures=3), max_attempts=4)
    assert (step.place, step.status, step.at) == ("stay", None, NOW)
    assert written(step).get("failures", 3) == 3
    assert "unsure" not in written(step)


def test_a_retry_is_clipped_to_the_deadline_so_that_it_expires_in_time() -> None:
    assert after(Retryable("error-system"), waiting(left=2)).at == NOW + 2 * SECOND
    late = after(Retryable("error-system"), waiting(left=-2))  # it ran out during the request
    assert late.at == NOW


def test_a_message_refused_alone_is_rejected_unless_the_answer_is_about_us() -> None:
    assert end(after(RequestRefused("error-syntax"), waiting())) == (
        Status.REJECTED,
        "error-syntax",
    )
    step = after_send(RequestRefused("error-syntax"), waiting(), NOW, 1.0, SETTINGS, about_us=True)
    assert (step.place, step.status, step.at) == ("stay", None, NOW + 300 * SECOND)
    assert "failures" not in written(step)


@pytest.mark.parametrize("status", [Status.FAILED, Status.EXPIRED, Status.REJECTED])
def test_giving_up_keeps_the_tally_and_says_why(status: Status) -> None:
    step = give_up(waiting(attempts=3, failures=2, lapses=1), status, Reason.TTL)
    assert (step.place, step.status, step.reason) == ("end", status, Reason.TTL)
    assert written(step) == {"attempts": 3, "failures": 2, "reason": "ttl"}


OUTCOMES = st.sampled_from(
    [
        *(Accepted(ID), Refused("error-x"), Retryable("error-system"), Unsure("x"), NotSent("x")),
        *(NotSent("x", 1e6), Blocked("error-auth"), RequestRefused("error-syntax")),
    ]
)


@profile(deadline=None, max_examples=150)
@given(
    st.lists(st.tuples(OUTCOMES, st.floats(0, 1), st.integers(0, 400)), max_size=12),
    st.sampled_from(["auto", "park", "resend"]),
    st.sampled_from(["realtime:0", "low:1"]),
    st.integers(0, 4),
)
def test_no_history_ends_a_message_wrongly(
    history: list[tuple[Outcome, float, int]], on_unsure: str, lane: str, most: int
) -> None:
    made = Settings(on_unsure=on_unsure, max_attempts=most)
    message, now, unsure = waiting(lane, left=900), NOW, 0
    for outcome, jitter, pause in history:
        step = triage(message, now, jitter, made)
        if step is None:
            unsure += isinstance(outcome, Unsure)
            step = after_send(outcome, message, now, jitter, made)
        if step.place == "stay":
            assert step.status is None
            assert now - 4 < step.at <= max(message.until, now)
            now = max(now, step.at) + pause * SECOND
            message = changed(message, step)
            continue
        assert step.status is not None
        if step.place == "end":
            # Unsure once and never accepted: unconfirmed, and only then.
            assert (step.status == Status.UNCONFIRMED) == (unsure > 0)
            assert step.reason
        else:
            assert outcome == Accepted(ID)
        assert written(step).get("unsure", 0) == unsure
        return


# Sending hours.

NIGHT = "0 60 127 UTC"  # open from midnight to one o'clock; NOW is 10:40
OPENING = NOW + 800 * 60 * SECOND


@pytest.mark.parametrize(
    ("left", "known", "step"),
    [
        (86400, {}, Step("stay", OPENING)),
        (86400, {"max_batch": 5}, Step("stay", OPENING, changes=Changes(max_batch=5))),
        (86400, {"attempts": 3, "failures": 2, "unsure": 1}, Step("stay", OPENING)),
        (48001, {}, Step("stay", OPENING)),
        (48000, {}, (Status.EXPIRED, Reason.TTL)),
        (48000, {"unsure": 1}, (Status.UNCONFIRMED, Reason.TTL)),
        (0, {}, (Status.EXPIRED, Reason.TTL)),
        (86400, {"lapses": 6}, (Status.FAILED, Reason.CRASHED)),
        (86400, {"content": None}, (Status.FAILED, Reason.CONTENT_GONE)),
        (86400, {"lapsed_inside": True, "on_unsure": "park"}, (Status.UNCONFIRMED, Reason.UNSURE)),
    ],
)
def test_outside_its_hours_a_message_waits_if_they_come_in_time(
    left: float, known: dict[str, Any], step: Any
) -> None:
    found = triage(waiting(left=left, window=NIGHT, **known), NOW, 1.0, SETTINGS)
    assert (found if isinstance(step, Step) else end(found)) == step


def test_inside_its_hours_a_message_can_be_sent() -> None:
    message = waiting(left=2 * 86400, window=NIGHT)
    assert triage(message, OPENING, 1.0, SETTINGS) is None
    assert triage(message, OPENING + HOUR - 1, 1.0, SETTINGS) is None
    after = triage(message, OPENING + HOUR, 1.0, SETTINGS)
    assert after == Step("stay", OPENING + 24 * HOUR)

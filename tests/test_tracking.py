"""Finality (docs/design.md, section 4), whole: what each poll means, and what the clock closes."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import settings as profile
from hypothesis import strategies as st

from tests.workshop import changed
from viber_courier.schemas.event import SmsState
from viber_courier.schemas.instants import SECOND
from viber_courier.schemas.settings import Settings
from viber_courier.schemas.status import NEXT, Reason, Status, is_final
from viber_courier.schemas.wire import STATES, StatusEntry
from viber_courier.store.records import Step, Watched, segments, step_fields
from viber_courier.worker.policy import MAX_TRACKING
from viber_courier.worker.tracking import after_failed_poll, after_poll

S = Status
T0 = 1_795_430_400_000_000
DAY = 86400
ID = 3158611117333282817
SETTINGS = Settings()
AT = "2026-11-23T10:00:00Z"


def watched(status: Status = S.SUBMITTED, **known: Any) -> Watched:
    """A message submitted at T0 whose tracking ends, by default, after 25 hours."""
    known.setdefault("resend", False)
    known.setdefault("tracked", T0 + 25 * 3600 * SECOND)
    return Watched(id="m", provider_id=ID, status=status, submitted=T0, **known)


def entry(word: str | None = None, sms: str = "", **known: Any) -> StatusEntry:
    """An entry of the reply; ``sms`` has the segments' states."""
    said: dict[str, Any] = {
        "provider_id": ID,
        "code": "ok",
        "word": word,
        "status": STATES.get(word or ""),
        "at": AT if word else None,
        "error": None,
        "sms": tuple(SmsState(str(n), state) for n, state in enumerate(sms.split(), 1)),
    }
    return StatusEntry(**{**said, **known})


class Life:
    """One message under polls: its events as an outsider sees them, and its next poll."""

    def __init__(self, message: Watched, **settings: Any) -> None:
        self.message, self.settings = message, Settings(**settings)
        self.events: list[tuple[str, bool, str | None]] = []
        self.next, self.ended = 0, False

    def poll(self, at: float, said: StatusEntry | None) -> Life:
        """Ask at this many seconds after submission."""
        now = T0 + int(at * SECOND)
        return self._take(after_poll(self.message, said, now, self.settings), now)

    def fail(self, at: float, jitter: float = 1.0) -> Life:
        now = T0 + int(at * SECOND)
        return self._take(after_failed_poll(self.message, now, jitter, self.settings), now)

    def _take(self, step: Step, now: int) -> Life:
        assert not self.ended and step.place in ("stay", "end")
        self.ended, self.next = step.place == "end", step.at
        self.message = changed(self.message, step)
        self.message = self.message._replace(status=step.status or self.message.status)
        if step.status is not None:
            final = self.ended or is_final(step.status)
            self.events.append((str(step.status), final, step.reason))
        if not self.ended:
            assert step.at > now
        return self

    @property
    def story(self) -> str:
        """The events in short; a final one has a full stop."""
        return " ".join(f"{status}{'.' * final}" for status, final, _ in self.events)

    @property
    def reason(self) -> str | None:
        return self.events[-1][2]


def live(words: Iterable[StatusEntry | None], message: Watched, **settings: Any) -> Life:
    """Polls a minute apart until the message ends."""
    life = Life(message, **settings)
    for n, said in enumerate(words, 1):
        if not life.ended:
            life.poll(60 * n, said)
    return life


# What Viber says, without a resend.


@pytest.mark.parametrize(
    ("words", "story", "reason"),
    [
        ("enqueued", "", None),
        ("enqueued sent delivered read", "sent delivered read.", None),
        ("read", "read.", None),
        ("visited", "read.", None),
        ("delivered visited", "delivered read.", None),
        ("sent sent sent delivered delivered", "sent delivered", None),
        ("delivered sent enqueued", "delivered", None),  # never backwards
        ("delivered undelivered failed cancelled", "delivered", None),  # never taken back
        ("delivered sent read", "delivered read.", None),
        ("sent undelivered", "sent undelivered.", None),
        ("undelivered", "undelivered.", None),
        ("vp_expired", "undelivered.", None),
        ("failed", "failed.", "provider-failed"),
        ("sent cancelled", "sent cancelled.", None),
        ("teleported sent teleported", "sent", None),  # unknown: changes nothing
        ("teleported", "", None),
    ],
)
def test_the_providers_states_become_events(words: str, story: str, reason: str | None) -> None:
    life = live([entry(word) for word in words.split()], watched())
    assert life.story == story
    if reason:
        assert life.reason == reason


@pytest.mark.parametrize("error", ["user-blocked", "not-viber-user"])
@pytest.mark.parametrize("word", ["undelivered", "failed", "vp_expired"])
def test_the_reason_is_the_providers_own(word: str, error: str) -> None:
    assert live([entry(word, error=error)], watched()).reason == error


@pytest.mark.parametrize("code", [None, "error-system", "error-instant-message-provider-id-format"])
def test_a_known_state_is_believed_whatever_its_code(code: str | None) -> None:
    assert live([entry("read", code=code)], watched()).story == "read."


@pytest.mark.parametrize(
    "said",
    [
        None,
        entry(),
        *[
            entry(code=f"error-{code}")
            for code in (
                *("system", "instant-message-provider-id-unknown"),
                *("instant-message-provider-id-format", "instant-message-provider-id-duplicate"),
            )
        ],
    ],
)
@pytest.mark.parametrize("status", [S.SUBMITTED, S.SENT, S.DELIVERED, S.SMS_SENT])
def test_an_entry_without_a_state_is_pending(status: Status, said: StatusEntry | None) -> None:
    life = live([said], watched(status, since=T0))
    assert (life.story, life.ended) == ("", False)


# With a resend: Viber's bad end waits for the SMS.


@pytest.mark.parametrize("bad", ["undelivered", "failed", "vp_expired"])
def test_a_bad_end_waits_for_the_sms_and_keeps_its_status(bad: str) -> None:
    for status in (S.SUBMITTED, S.SENT):
        life = live([entry(bad), entry(bad)], watched(status, resend=True))
        assert (life.story, life.ended) == ("", False)


@pytest.mark.parametrize(
    ("sms", "story", "reason"),
    [
        ("enqueued", "sms_sent", None),
        ("sent", "sms_sent", None),
        ("delivered", "sms_delivered.", None),
        ("delivered delivered", "sms_delivered.", None),
        ("undelivered", "undelivered.", "sms-undelivered"),
        ("delivered undelivered delivered", "undelivered.", "sms-undelivered"),
        ("undelivered sent", "sms_sent", None),
        ("sent|sent delivered|delivered delivered enqueued", "sms_sent", None),  # they grow
        ("sent|delivered delivered delivered", "sms_sent sms_delivered.", None),
        ("sent|undelivered", "sms_sent undelivered.", "sms-undelivered"),
        ("teleported", "sms_sent", None),
    ],
)
@pytest.mark.parametrize("before", ["undelivered", "failed", ""])
def test_the_segments_decide_together(before: str, sms: str, story: str, reason: Any) -> None:
    polls = [entry(before)] if before else []
    life = live([*polls, *(entry(None, each) for each in sms.split("|"))], watched(resend=True))
    assert life.story == story
    if reason:
        assert life.reason == reason


@pytest.mark.parametrize(
    ("word", "sms", "story"),
    [
        ("read", "delivered", "read."),
        ("read", "undelivered", "read."),
        ("delivered", "delivered", "delivered"),
        ("delivered", "sent", "delivered"),
        ("undelivered", "delivered", "sms_delivered."),
        ("undelivered", "sent", "sms_sent"),
        ("failed", "undelivered", "undelivered."),
        ("sent", "delivered", "sms_delivered."),
        ("enqueued", "enqueued", "sms_sent"),
        ("teleported", "delivered", "sms_delivered."),
    ],
)
def test_of_both_legs_the_better_one_counts(word: str, sms: str, story: str) -> None:
    life = live([entry(word, sms)] * 3, watched(resend=True))
    assert life.story == story
    assert len(segments(life.message.sms)) == len(sms.split())


@pytest.mark.parametrize(
    ("polls", "story"),
    [
        ([entry(None, "sent"), entry("delivered", "delivered"), entry("read")], "delivered read."),
        ([entry(None, "sent"), entry("sent"), entry("enqueued")], ""),
        ([entry(None, "sent"), entry("undelivered")], ""),
        ([entry(None, "sent"), entry("cancelled")], "cancelled."),
        ([entry("delivered"), entry("undelivered", "sent"), entry(None, "delivered")], "delivered"),
        ([entry("undelivered"), entry("delivered"), entry("read")], "delivered read."),
    ],
)
def test_there_is_no_flip_flop_between_the_legs(polls: list[StatusEntry], story: str) -> None:
    life = live(polls, watched(resend=True))
    assert life.story.removeprefix("sms_sent").strip() == story


def test_cancelled_by_the_provider_is_final_with_a_resend_too() -> None:
    assert live([entry("cancelled")], watched(resend=True)).story == "cancelled."


# The SMS grace.


def test_without_an_sms_within_the_grace_the_bad_end_stands() -> None:
    life = Life(watched(S.SENT, resend=True))
    life.poll(100, entry("undelivered", error="not-viber-user"))
    assert life.next <= T0 + 700 * SECOND + 4  # polled at the end of the grace at the latest
    life.poll(699, entry("undelivered", error="not-viber-user"))
    assert life.story == ""
    life.poll(700.000004, entry("undelivered", error="not-viber-user"))
    assert life.events == [("undelivered", True, "not-viber-user")]


def test_the_grace_counts_from_the_first_bad_word_and_keeps_it() -> None:
    life = Life(watched(resend=True), sms_grace=600)
    life.poll(100, entry("failed")).poll(400, entry("undelivered", error="user-blocked"))
    life.poll(701, None)
    assert life.events == [("failed", True, "provider-failed")]


def test_an_answer_within_the_grace_ends_the_wait_even_if_it_comes_late() -> None:
    life = Life(watched(resend=True)).poll(100, entry("undelivered"))
    life.poll(5000, entry("undelivered", "sent"))  # nobody could ask in between
    life.poll(9000, None)
    assert life.story == "sms_sent"


def test_a_grace_needs_a_successful_answer_after_its_end() -> None:
    life = Life(watched(resend=True)).poll(100, entry("undelivered"))
    for at in (800, 3000, 90000, 4 * DAY):
        life.fail(at)
    assert life.story == ""
    assert Life(life.message).poll(4 * DAY + 60, None).story == "undelivered."


def test_a_grace_of_nothing_closes_at_once() -> None:
    life = live([entry("undelivered")], watched(resend=True), sms_grace=0.0)
    assert life.story == "undelivered."


# The read window.


def test_delivered_may_still_become_read_within_the_window() -> None:
    life = Life(watched(S.SENT), read_window=7200.0)
    life.poll(100, entry("delivered")).poll(7299, entry("delivered"))
    assert life.story == "delivered"
    life.poll(7299.5, entry("read"))
    assert life.story == "delivered read."


def test_the_window_closes_delivered_as_itself_with_one_closing_event() -> None:
    life = Life(watched(S.SENT), read_window=7200.0)
    life.poll(100, entry("delivered")).poll(7300.000004, entry("delivered"))
    assert life.events == [("delivered", False, None), ("delivered", True, None)]


def test_read_in_the_answer_that_would_close_it_is_read() -> None:
    life = Life(watched(S.SENT), read_window=7200.0).poll(100, entry("delivered"))
    assert life.poll(9000, entry("read")).story == "delivered read."


def test_without_a_window_delivered_is_final_at_once() -> None:
    life = live([entry("delivered")], watched(), read_window=0.0)
    assert life.events == [("delivered", True, None)]


def test_the_window_is_no_longer_than_tracking() -> None:
    life = Life(watched(S.SENT, tracked=T0 + 1000 * SECOND)).poll(900, entry("delivered"))
    assert life.next <= T0 + 1000 * SECOND + 4
    assert life.poll(1000.000004, entry("delivered")).story == "delivered delivered."


def test_the_window_counts_from_when_we_first_saw_it() -> None:
    life = Life(watched(S.SENT), read_window=100.0)
    life.poll(50, entry("delivered")).poll(120, entry("delivered"))
    assert life.story == "delivered"
    assert life.poll(151, None).story == "delivered delivered."


# The end of tracking.


@pytest.mark.parametrize(
    ("status", "known", "end"),
    [
        (S.SUBMITTED, {}, ("lost", True, Reason.TRACKING_ENDED)),
        (S.SMS_SENT, {"resend": True}, ("lost", True, Reason.TRACKING_ENDED)),
        (S.SENT, {}, ("sent", True, Reason.TRACKING_ENDED)),
        (S.DELIVERED, {"since": T0 + 25 * 3600 * SECOND}, ("delivered", True, None)),
        (
            S.SENT,
            {
                "resend": True,
                "pending_failure": "undelivered user-blocked",
                "since": T0 + 25 * 3600 * SECOND,
            },
            ("undelivered", True, "user-blocked"),
        ),
        (
            S.SUBMITTED,
            {
                "resend": True,
                "pending_failure": "failed provider-failed",
                "since": T0 + 25 * 3600 * SECOND,
            },
            ("failed", True, "provider-failed"),
        ),
        (
            S.SMS_SENT,
            {"resend": True, "pending_failure": "undelivered user-blocked", "since": T0},
            ("lost", True, Reason.TRACKING_ENDED),
        ),
    ],
)
@pytest.mark.parametrize("said", [None, entry(), entry("teleported")])
def test_at_the_end_of_tracking_each_status_closes_its_own_way(
    status: Status, known: dict[str, Any], end: Any, said: StatusEntry | None
) -> None:
    life = Life(watched(status, **known))
    life.poll(25 * 3600 - 1, said)
    assert life.story == ""
    assert life.next <= T0 + 25 * 3600 * SECOND + 4
    life.poll(25 * 3600 + 0.000004, said)
    assert life.events == [end]
    # Nobody could ask: it waits, at most to the five days.
    life = Life(watched(status, **known))
    life.fail(25 * 3600 + 1).fail(5 * DAY - 1)
    assert life.story == ""
    assert life.next <= T0 + MAX_TRACKING * SECOND + 4
    life.fail(5 * DAY)
    assert life.events == [end]


def test_news_in_the_last_answer_still_counts() -> None:
    assert Life(watched(S.SENT)).poll(26 * 3600, entry("read")).story == "read."
    assert Life(watched(S.SENT)).poll(26 * 3600, entry("delivered")).story == "delivered."
    life = Life(watched(S.SENT, resend=True)).poll(26 * 3600, entry(sms="sent"))
    assert life.story == "sms_sent"
    assert life.next <= T0 + (26 * 3600 + 11) * SECOND
    assert life.poll(26 * 3600 + 10, entry(sms="sent")).story == "sms_sent lost."
    life = Life(watched(resend=True)).poll(26 * 3600, entry("undelivered", error="user-blocked"))
    assert life.events == [("undelivered", True, "user-blocked")]
    assert Life(watched()).poll(26 * 3600, entry("sent")).story == "sent."


# When to ask again.


def test_polls_follow_the_schedule_and_the_last_delay_repeats() -> None:
    life, at, seen = Life(watched(), poll_delays=(10.0, 30.0, 60.0)), 10.0, []
    for _ in range(4):
        life.poll(at, None)
        seen.append(round((life.next - T0) / SECOND - at))
        at += 100
    assert seen == [30, 60, 60, 60]


def test_a_failed_poll_uses_no_step_of_the_schedule() -> None:
    life = Life(watched(), poll_delays=(10.0, 30.0, 60.0))
    life.fail(10, jitter=1.0)
    assert life.next == pytest.approx(T0 + 20 * SECOND, abs=4)
    life.fail(20, jitter=0.0)
    assert life.next == pytest.approx(T0 + 25 * SECOND, abs=4)
    life.poll(25, None)
    assert life.next == pytest.approx(T0 + 55 * SECOND, abs=4)


def test_a_failed_poll_waits_no_longer_than_the_cap() -> None:
    life = Life(watched(polls=6)).fail(3600)
    assert life.next <= T0 + (3600 + 300) * SECOND + 4


# Words kept.


def test_a_reason_is_that_of_the_first_bad_word_whatever_its_spelling() -> None:
    for error in (None, "user-blocked", "no such user"):
        life = Life(watched(resend=True)).poll(60, entry("undelivered", error=error))
        assert life.poll(661, None).events == [("undelivered", True, error)]


def test_an_sms_on_its_way_says_why_viber_did_not_reach() -> None:
    life = Life(watched(resend=True)).poll(60, entry(sms="sent", error="not-viber-user"))
    assert life.events == [("sms_sent", False, "not-viber-user")]


def test_a_short_window_is_one() -> None:
    assert Life(watched(), read_window=1.0).poll(60, entry("delivered")).story == "delivered"


@pytest.mark.parametrize(
    ("message", "at", "word", "window"),
    [
        (watched(), 60, "delivered", 0.0),  # ends by itself
        (watched(S.DELIVERED, since=T0), 90_000, "read", 1.0),
        (watched(tracked=T0), 60, "enqueued", 1.0),  # closed by the clock
    ],
)
def test_the_last_answer_s_words_are_written(
    message: Watched, at: int, word: str, window: float
) -> None:
    said = entry(word, raw_at="10:00")
    step = after_poll(message, said, T0 + at * SECOND, Settings(read_window=window))
    changes = step.changes
    assert step.place == "end"
    assert (changes.provider_status, changes.status_at, changes.status_at_raw) == (
        word,
        AT,
        "10:00",
    )


@pytest.mark.parametrize("odd", range(8))
def test_the_next_poll_is_the_first_multiple_of_four_after_its_delay(odd: int) -> None:
    now, settings = T0 + odd, Settings(poll_delays=(10, 20, 100))
    for polls, delay in ((0, 20), (1, 100), (99, 100)):
        at = after_poll(watched(polls=polls), None, now, settings).at
        assert at % 4 == 0 and 0 < at - (now + delay * SECOND) <= 4
    for polls, delay in ((0, 10), (1, 20), (2, 100), (99, 100)):
        at = after_failed_poll(watched(polls=polls), now, 1.0, settings).at
        assert at % 4 == 0 and 0 < at - (now + delay * SECOND) <= 4


@pytest.mark.parametrize("ago", [0, 1, 50])
def test_what_only_needs_one_more_answer_is_asked_for_soon(ago: int) -> None:
    now = T0 + 60 * SECOND
    message = watched(polls=5, tracked=now - ago * SECOND)
    assert after_failed_poll(message, now, 1.0, Settings()).at == now + 10 * SECOND + 4


def test_the_providers_own_words_are_kept_where_they_are_news() -> None:
    message = watched()
    first = after_poll(message, entry("sent"), T0 + SECOND, SETTINGS)
    message = changed(message, first)._replace(status=Status.SENT)
    assert (message.provider_status, message.status_at) == ("sent", AT)
    assert message.provider_code == "ok"
    again = after_poll(message, entry("sent"), T0 + 2 * SECOND, SETTINGS)
    assert step_fields(again) == ["polls", 2]
    odd = after_poll(message, entry("teleported", at=None), T0 + 3 * SECOND, SETTINGS)
    message = changed(message, odd)
    assert (message.provider_status, message.status_at) == ("teleported", "")


def test_segments_are_kept_with_their_64_bit_ids() -> None:
    message = watched(resend=True)
    states = (SmsState("583465579822710785", "sent"), SmsState(None, "Enqueued"))
    step = after_poll(message, replace(entry(), sms=states), T0 + SECOND, SETTINGS)
    message = changed(message, step)
    assert segments(message.sms) == states
    assert segments('[[583465579822710785,"sent"],[null,"Enqueued"]]') == states  # as once stored
    assert after_poll(message, None, T0 + 2 * SECOND, SETTINGS).changes.sms is None


# Any history at all.

WORDS = [None, *STATES, "teleported"]
SMS = ["", "enqueued", "sent", "delivered", "undelivered", "delivered undelivered", "sent sent"]
POLLS = st.lists(
    st.tuples(
        st.sampled_from(WORDS),
        st.sampled_from(SMS),
        st.sampled_from(["poll", "poll", "poll", "none", "fail"]),
        st.sampled_from([1, 30, 700, 5000, 90_000]),
    ),
    max_size=14,
)


@profile(deadline=None, max_examples=300)
@given(POLLS, st.booleans(), st.sampled_from([0.0, 600.0]), st.sampled_from([0.0, 86400.0]))
def test_no_history_breaks_the_order_of_statuses(
    polls: list[tuple[str | None, str, str, int]], resend: bool, grace: float, window: float
) -> None:
    life = Life(watched(resend=resend), sms_grace=grace, read_window=window)
    at = 0
    for word, sms, how, pause in polls:
        at += pause
        if life.ended:
            break
        if how == "fail":
            life.fail(at)
        else:
            life.poll(at, entry(word, sms) if how == "poll" else None)
    statuses = [S.SUBMITTED, *(Status(status) for status, _, _ in life.events)]
    for before, after in pairwise(statuses):
        # The last answer may bring a status that the clock closes in the same step.
        reached = NEXT[before] | {before}
        closing = life.ended and any(after in NEXT[each] | {each} for each in reached)
        assert after in NEXT[before] or closing
    assert [final for _, final, _ in life.events[:-1]] == [False] * (len(life.events) - 1)
    if life.ended:
        assert life.events[-1][1]
    if S.DELIVERED in statuses:
        assert statuses[-1] in (S.DELIVERED, S.READ)
    # And it always ends: an outage of five days at the latest.
    if not life.ended:
        assert at < 5 * DAY or polls[-1][2] != "fail"
        assert life.fail(max(at, 5 * DAY)).ended

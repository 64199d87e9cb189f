"""The vocabulary: who may follow whom, and what nothing follows."""

from __future__ import annotations

import pytest

from viber_courier.schemas.status import NEXT, Reason, Status, is_final

S = Status
FINAL = {
    *(S.READ, S.SMS_DELIVERED, S.UNDELIVERED, S.FAILED, S.CANCELLED, S.REJECTED, S.EXPIRED),
    *(S.UNCONFIRMED, S.LOST),
}
RANK = [S.QUEUED, S.SENDING, S.SUBMITTED, S.SENT, S.SMS_SENT, S.DELIVERED, S.READ]


def test_the_words_are_the_contract() -> None:
    assert [*Status] == [
        *("queued", "sending", "submitted", "sent", "delivered", "read", "sms_sent"),
        *("sms_delivered", "undelivered", "failed", "cancelled", "rejected", "expired"),
        *("unconfirmed", "lost"),
    ]
    assert {*Reason} == {
        *("attempts", "ttl", "crashed", "unsure", "invalid", "conflict", "sms-undelivered"),
        *("provider-failed", "by-request", "tracking-ended", "content-gone", "all-refused"),
        *("no-provider-id", "suppressed"),
    }


def test_every_status_has_its_followers_and_is_one_itself() -> None:
    assert NEXT.keys() == {*Status}
    assert {each for followers in NEXT.values() for each in followers} == {*Status}


@pytest.mark.parametrize("status", Status)
def test_finality_is_the_contracts(status: Status) -> None:
    assert is_final(status) is (status in FINAL)
    assert is_final(status, closed=True)
    assert (not NEXT[status]) is (status in FINAL)


@pytest.mark.parametrize("status", Status)
def test_nothing_moves_backwards_or_follows_itself(status: Status) -> None:
    assert status not in NEXT[status]
    if status in RANK:
        earlier = {*RANK[: RANK.index(status)]}
        back = {S.QUEUED} if status is S.SENDING else set()  # a retry
        assert NEXT[status] & earlier == back


def test_success_is_never_taken_back() -> None:
    assert NEXT[S.DELIVERED] == {S.READ}


def test_only_what_never_left_can_expire_or_be_refused() -> None:
    before = {S.QUEUED, S.SENDING}
    for end in (S.REJECTED, S.EXPIRED, S.UNCONFIRMED):
        assert {status for status in Status if end in NEXT[status]} == before


def test_only_what_was_accepted_can_be_lost_and_only_without_news() -> None:
    # From a lane: accepted without a usable id.
    before = {S.QUEUED, S.SENDING, S.SUBMITTED, S.SMS_SENT}
    assert {status for status in Status if S.LOST in NEXT[status]} == before


def test_every_status_can_be_reached_from_the_start() -> None:
    seen, new = set[Status](), {S.QUEUED}
    while new:
        seen |= new
        new = {each for status in new for each in NEXT[status]} - seen
    assert seen == {*Status}

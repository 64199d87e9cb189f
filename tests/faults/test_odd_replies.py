"""The same as tests/test_odd_replies.py, with many more replies.

``FUZZ_EXAMPLES`` sets how many examples are tried in all (100,000: some hours).
"""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as profile
from hypothesis import strategies as st

from tests.faults.test_fuzz import IN_ALL, fuzz
from tests.odd_replies import SPELLINGS, Spelling
from tests.test_odd_replies import LANE_LISTS, World, judge_send, judge_status, world

__all__ = ["world"]


@fuzz(1.0)
@given(how=SPELLINGS, count=st.integers(1, 6))
def test_no_odd_reply_means_less_than_it_says(how: Spelling, count: int) -> None:
    judge_send(how, count)
    judge_status(how, count)


@pytest.mark.timeout(1200)
@profile(max_examples=max(1, IN_ALL // 20), deadline=None, suppress_health_check=list(HealthCheck))
@given(spellings=st.lists(SPELLINGS, min_size=1, max_size=6), lanes=LANE_LISTS)
def test_whatever_is_answered_no_message_goes_too_often_or_nowhere(
    world: World, spellings: list[Spelling], lanes: list[str]
) -> None:
    world.live(spellings, lanes)

"""Any order of adds, claims, answers, pauses and cancels of campaigns, against a slow model.

The model reads every record and every line anew after each step, and knows no counter and no turn.
"""

from __future__ import annotations

import contextlib
from collections import Counter, defaultdict
from typing import Any, ClassVar

import pytest
from hypothesis import settings as how
from hypothesis import strategies as st
from hypothesis.stateful import initialize, invariant, rule, run_state_machine_as_test

from tests.conftest import iso_in, text_job
from tests.test_machine import Life
from viber_courier import Campaign, CampaignCancelled
from viber_courier.ops.redis_server import RedisServer
from viber_courier.store.connection import connect
from viber_courier.store.leases import Lease
from viber_courier.store.records import Waiting
from viber_courier.store.scripts import Script, shared

NAMES = ("a", "b", "c")
CAMPAIGNS = st.sampled_from(NAMES)
IN_LANES = ("realtime", "high", "normal", "low")


SEEN = Counter[str]()
"""What all runs together had, so that none of it is missing unnoticed."""


class Campaigns(Life):
    """Three campaigns in two lanes beside messages that have none."""

    url: ClassVar[str]

    def __init__(self) -> None:
        super().__init__()
        self.of: dict[str, str] = {}
        self.paused: set[str] = set()
        self.cancelled: set[str] = set()
        self.behind = defaultdict[str, set[str]](set)
        self.clock.freeze()
        calls = self.producer._calls
        for script in (calls._scripts["enqueue"], calls._endings._script):
            self._run_by_the_clock(script)

    def new_client(self) -> Any:
        """A database of the suite's own server: scripts are ten times as fast as in fakeredis."""
        client = connect(self.url.rsplit("/", 1)[0] + "/9")
        client.flushdb()
        return client

    def teardown(self) -> None:
        super().every_life_is_legal()  # type: ignore[misc]
        reports = {name: [*self.producer.campaign(name).report()] for name in NAMES}
        for name, rows in reports.items():
            assert sorted(row.id for row in rows) == sorted(
                i for i in self.of if self.of[i] == name
            )
            SEEN["ended"] += sum(row.final for row in rows)
        SEEN["messages"] += len(self.ids)
        SEEN["paused"] += len(self.paused)
        SEEN["cancelled"] += len(self.cancelled)
        self.client.close()

    def _run_by_the_clock(self, script: Any) -> None:
        """Apps and workers see one clock, as on a server."""
        words = script.words
        script.words = lambda **given: words(**given, time=self.clock())

    @initialize(counts=st.lists(st.integers(0, 7), min_size=4, max_size=4))
    def begin_with(self, counts: list[int]) -> None:
        for name, count in zip([*NAMES, ""], counts, strict=True):
            if count:
                self.enqueue(name, count, count % 2 == 0, "low", 0, 86400)  # type: ignore[misc]

    @rule(
        name=st.sampled_from([*NAMES, ""]),
        count=st.integers(1, 5),
        resend=st.booleans(),
        priority=st.sampled_from(["normal", "low"]),
        later=st.sampled_from([0, 0, 0, 30]),
        ttl=st.sampled_from([86400, 60]),
    )
    def enqueue(  # type: ignore[override]
        self, name: str, count: int, resend: bool, priority: str, later: int, ttl: int
    ) -> None:
        more = {"campaign": name} if name else {}
        job: Any = text_job(resendSms=resend, priority=priority, ttlSec=ttl, **more)
        if later:
            job["sendAt"] = iso_in(self.clock.ahead + later)
        if name in self.cancelled:
            with pytest.raises(CampaignCancelled):
                self.producer.enqueue_many([job] * count)
            return
        jobs = [{**job, "id": f"{len(self.ids) + n}"} for n in range(count)]
        ids = self.producer.enqueue_many(jobs)  # type: ignore[arg-type]
        self.ids += ids
        self.of.update(dict.fromkeys(ids, name))

    def _campaign(self, name: str) -> Campaign:
        made = self.producer.campaign(name)
        self._run_by_the_clock(made._campaign._act)
        return made

    @rule(name=CAMPAIGNS)
    def pause(self, name: str) -> None:
        with self._unless_cancelled(name):
            assert self._campaign(name).pause("why").reason == "why"
            self.paused.add(name)

    @rule(name=CAMPAIGNS)
    def resume(self, name: str) -> None:
        with self._unless_cancelled(name):
            self._campaign(name).resume()
            self.paused.discard(name)

    @rule(name=CAMPAIGNS, rare=st.integers(0, 3), dies=st.booleans())
    def stop(self, name: str, rare: int, dies: bool) -> None:
        if rare or name not in self.of.values():
            return
        self.cancelled.add(name)
        self.paused.discard(name)
        if dies:
            given = shared(self.settings)
            script = Script(self.client, "campaign", given)
            script(name=name, act="cancel", value="", time=self.clock())
        else:
            progress = self._campaign(name).cancel()
            assert progress.waiting == progress.inside

    @rule(jitter=st.sampled_from([0.0, 1.0]))
    def claim(self, jitter: float) -> None:
        due = self._due()
        lease = self.store.claim("low", answered=True)
        if not isinstance(lease, Lease):
            assert not due, "nothing was claimed although something is due"
            return
        self._fair(lease, due)
        if all(message.is_cancelled for message in lease.messages):
            assert lease.line[2:] in self.cancelled
        self.leases.append(self.shop.triage(lease, jitter))
        self._note(*self.shop.last)

    @rule(data=st.data())
    def begin(self, data: st.DataObject) -> None:
        if not self.leases:
            return
        lease = self.leases.pop(data.draw(st.integers(0, len(self.leases) - 1)))
        if lease.messages:
            held = self.shop.begin(lease)
            if lease.line[2:] in self.paused | self.cancelled:
                assert held.messages == []
            self.inside.append(held)

    def _unless_cancelled(self, name: str) -> Any:
        cancelled = name in self.cancelled
        return pytest.raises(CampaignCancelled) if cancelled else contextlib.nullcontext()

    def _due(self) -> set[str]:
        """Sets and lines that a claim may serve, of the most urgent lane that has any."""
        now, found = self.clock(), defaultdict[str, set[str]](set)
        for key, members in self._waiting().items():
            name = key.split(":")[4] if key.count(":") > 3 else ""
            due = any(score <= now for _, score in members)
            if due and name not in self.paused:
                found[key.split(":")[2]].add(key)
        return next((found[lane] for lane in IN_LANES if found[lane]), set())

    def _waiting(self) -> dict[str, list[tuple[str, float]]]:
        keys = self.client.scan_iter("{m}:lane:*")
        return {key: self.client.zrange(key, 0, -1, withscores=True) for key in keys}

    def _fair(self, lease: Lease[Waiting], due: set[str]) -> None:
        """No line has a second turn while another one of its lane waits for the first."""
        served = lease.key
        for key in set(self.behind) - due:
            del self.behind[key]
        others = [key for key in due - {served} if key.count(":") > 3] if lease.line else []
        for key in others if served in due else []:
            if not {served.split(":")[4], key.split(":")[4]} & self.cancelled:
                assert served not in self.behind[key], (served, key)
                self.behind[key].add(served)
        self.behind.pop(served, None)

    def every_life_is_legal(self) -> None:
        """Looked at once, at the end."""

    @invariant()
    def counters_say_what_records_say(self) -> None:
        self.clock.advance(0.001)
        now, waiting = self.clock(), self._waiting()
        with self.client.pipeline(transaction=False) as pipe:
            for id in self.ids:
                pipe.hmget(self.store.keys.records + id, "campaign", "status", "final", "resendOf")
            records = list(pipe.execute())
        self.of = {id: record[0] or "" for id, record in zip(self.ids, records, strict=True)}
        for name in NAMES:
            ours = [record for record in records if record[0] == name]
            lines = [(key, m) for key, m in waiting.items() if key.split(":")[4:] == [name]]
            scores = [score for _, members in lines for _, score in members]
            progress = self.producer.campaign(name).progress()
            assert progress.statuses == Counter(status for _, status, *_ in ours)
            assert progress.added == len(ours)
            assert progress.resent == sum(of is not None for *_, of in ours)
            assert progress.ended == sum(final is not None for _, _, final, _ in ours)
            assert progress.waiting == len(scores)
            assert progress.inside == sum(score % 4 == 2 for score in scores)
            self._check_lines(name, lines, now)

    def _check_lines(self, name: str, lines: Any, now: int) -> None:
        """A line with messages stands in one queue, and claims look at it in time."""
        keys = self.store.keys
        for key, members in lines:
            _, _, lane, resend, _ = key.split(":")
            places = [self.client.zscore(q, f"{resend}:{name}") for q in keys.queues(lane)]
            assert (places[0] is None) == (name in self.paused)
            assert (places[1] is None) == (name not in self.paused)
            latest = max(now, min(score for _, score in members))
            if places[0] is not None:
                assert places[0] <= latest
            else:  # looked at for what must end, each ten seconds
                assert places[1] is not None and places[1] <= latest + 10**7


@pytest.mark.slow
def test_counters_turns_and_stops_under_any_order_of_events(redis_server: RedisServer) -> None:
    Campaigns.url = redis_server.url
    SEEN.clear()
    steps = how(max_examples=80, stateful_step_count=40, deadline=None)
    run_state_machine_as_test(Campaigns, settings=steps)
    assert SEEN["messages"] > 500 and min(SEEN.values()) > 10, SEEN

"""The exporter, against a real Redis: what it says, what it never says, what it costs."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import pytest
import redis
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from tests.conftest import Start, common_job, ends, free_port, iso_in, text_job
from viber_courier import Producer
from viber_courier.ops.exporter import CourierCollector
from viber_courier.ops.redis_server import RedisServer
from viber_courier.schemas.lanes import LANES
from viber_courier.schemas.settings import Settings
from viber_courier.store.connection import connect
from viber_courier.store.counters import observed
from viber_courier.store.keys import Keys
from viber_courier.store.leases import Lease, Store

DOCS = Path(__file__).parents[1] / "docs"
PHONE = "79250001234"


class Scrape:
    """One answer to Prometheus."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.families = {family.name: family for family in text_string_to_metric_families(text)}

    def all(self, name: str) -> dict[tuple[str, ...], float]:
        """Samples by the values of their labels, in the order of the labels' names."""
        return {
            tuple(value for _, value in sorted(sample.labels.items())): sample.value
            for family in self.families.values()
            for sample in family.samples
            if sample.name == name
        }

    def one(self, name: str, *labels: str) -> float:
        return self.all(name)[labels]


def scrape(settings: Settings) -> Scrape:
    registry = CollectorRegistry()
    registry.register(CourierCollector(settings))
    return Scrape(generate_latest(registry).decode())


@pytest.fixture
def client(redis_server: RedisServer) -> Iterator[redis.Redis]:
    made = connect(redis_server.url)
    yield made
    made.close()


@pytest.fixture
def settings(redis_server: RedisServer, namespace: str) -> Settings:
    return Settings(redis_url=redis_server.url, namespace=namespace)


@pytest.fixture
def keys(namespace: str) -> Keys:
    return Keys(namespace)


def back_in_time(client: redis.Redis, set_: str, seconds: int) -> None:
    """As if whoever is in the set had been due for that long."""
    for member in client.zrange(set_, 0, -1):
        client.zincrby(set_, -seconds * 1_000_000, member)


def test_an_empty_namespace_shows_zeros_from_the_start(settings: Settings) -> None:
    seen = scrape(settings)
    assert seen.one("courier_up") == 1
    assert seen.all("courier_lane_due_messages") == {(lane,): 0 for lane in LANES}
    assert seen.one("courier_statuses_total", "unconfirmed") == 0
    assert seen.one("courier_sweep_age_seconds") == float("inf")
    assert set(seen.all("courier_paused").values()) == {0}
    assert seen.one("courier_results_groups") == 0
    assert seen.one("courier_redis_memory_used_bytes") > 0
    assert (seen.one("courier_redis_replicas"), seen.one("courier_replicas_wanted")) == (0, 0)


def test_messages_are_counted_where_they_are(
    producer: Producer, client: redis.Redis, settings: Settings, keys: Keys
) -> None:
    # Given two due for 90 s, five scheduled, three inside a request and two about to be
    for n in range(2):
        producer.enqueue(text_job(f"7925000001{n}", priority="low"))
    back_in_time(client, keys.lanes[6], 90)
    for n in range(5):
        producer.enqueue(text_job(f"7925000002{n}", priority="low", sendAt=iso_in(3600)))
    for n in range(5):
        producer.enqueue(text_job(f"7925000003{n}", priority="realtime", smsText="x"))
    store = Store(client, settings)
    lease = store.claim("realtime", answered=True)
    assert isinstance(lease, Lease)
    store.begin(lease, lease.messages[:3])
    # When Prometheus asks
    seen = scrape(settings)
    # Then each is found once
    assert seen.one("courier_lane_due_messages", "low") == 2
    assert 90 <= seen.one("courier_lane_oldest_due_seconds", "low") < 100
    assert seen.one("courier_scheduled_messages", "low") == 5
    assert seen.all("courier_leased_messages") == {
        (inside, lane): {"no": 2, "yes": 3}[inside] if lane == "realtime" else 0
        for inside in ("no", "yes")
        for lane in LANES
    }
    assert seen.one("courier_lane_due_messages", "realtime") == 0
    assert seen.one("courier_lane_oldest_due_seconds", "realtime") == 0
    assert seen.one("courier_scheduled_messages", "realtime") == 0
    assert seen.one("courier_statuses_total", "queued") == 12


def test_a_lapsed_lease_is_due(
    producer: Producer, client: redis.Redis, settings: Settings, keys: Keys
) -> None:
    producer.enqueue(text_job(priority="high"))
    Store(client, settings).claim("high", answered=True)
    back_in_time(client, keys.lanes[2], 130)
    seen = scrape(settings)
    assert seen.one("courier_lane_due_messages", "high") == 1
    assert 9 <= seen.one("courier_lane_oldest_due_seconds", "high") < 20


def test_leases_are_found_behind_what_is_scheduled_for_one_instant(
    producer: Producer, client: redis.Redis, settings: Settings
) -> None:
    # Given a campaign for the next minute, and a batch that is leased for two
    rows = [{"address": f"7926{n:07}"} for n in range(3000)]
    producer.enqueue_many(rows, common=common_job(priority="low", sendAt=iso_in(60)))
    producer.enqueue(text_job(priority="low"))
    Store(client, settings).claim("low", answered=True)
    # When looked at, then neither is taken for the other
    seen = scrape(settings)
    assert seen.one("courier_leased_messages", "no", "low") == 1
    assert seen.one("courier_scheduled_messages", "low") == 3000


def test_polls_and_sweeps_that_are_late_show(
    client: redis.Redis, settings: Settings, keys: Keys
) -> None:
    now = int(time.time() * 1_000_000) // 4 * 4
    client.zadd(keys.watch, {"a": now - 70_000_000, "b": now + 9_000_000, "c": now - 4})
    client.set(keys.swept, now // 1000 - 45_000)
    client.zadd(keys.dead, {"d": now})
    seen = scrape(settings)
    assert seen.one("courier_watched_messages") == 3
    assert seen.one("courier_watched_due_messages") == 2
    assert 70 <= seen.one("courier_poll_lag_seconds") < 80
    assert 45 <= seen.one("courier_sweep_age_seconds") < 55
    assert seen.one("courier_dead_letters") == 1


def test_pauses_show_by_whom_and_for_what(
    client: redis.Redis, settings: Settings, keys: Keys
) -> None:
    # Given a lane paused by hand, and a closed gate for each of two reasons
    client.set(keys.paused("low"), f"call {PHONE} before you resume")
    later = int(time.time() * 1_000_000) + 40_000_000
    closed = {"until": later, "reason": "http-404", "row": 7, "step": 3}
    client.hset(keys.gate("send"), mapping=closed)
    client.hset(keys.gate("poll"), mapping={"until": 1, "reason": f"error-{PHONE}"})
    # When Prometheus asks
    seen = scrape(settings)
    # Then it learns who paused what and why, as far as that is from our own words
    ones = {labels for labels, value in seen.all("courier_paused").items() if value}
    assert ones == {("hand", "low"), ("gate", "send"), ("gate", "poll")}
    assert seen.all("courier_gate_reason") == {("http-404", "send"): 1, ("other", "poll"): 1}
    # And a connection's failure is told in its own words
    client.hset(keys.gate("send"), "reason", "TLS: certificate has expired")
    wanted = {("TLS: certificate has expired", "send"): 1, ("other", "poll"): 1}
    assert scrape(settings).all("courier_gate_reason") == wanted
    assert seen.one("courier_gate_failures", "send") == 7
    assert seen.one("courier_gate_closings", "send") == 3
    assert 30 < seen.one("courier_gate_retry_seconds", "send") <= 40
    assert seen.one("courier_gate_retry_seconds", "poll") == 0
    assert PHONE not in seen.text


def test_counters_are_split_into_their_labels(
    client: redis.Redis, settings: Settings, keys: Keys
) -> None:
    counts = {
        **{"queued": 50, "submitted": 40, "rejected:error-subject-unknown": 3},
        **{"rejected:other": 2, "code:error-system": 9, "code:not-sent": 4, "unsure": 1},
        **{"bells": 12, "claims": 10, "claims:empty": 2, "late": 1, "unknown-code": 2},
        **{f"rejected:{PHONE} Иван": 1, "not-a-counter": 5},
    }
    client.hset(keys.counts, mapping=counts)
    seen = scrape(settings)
    assert seen.one("courier_statuses_total", "rejected") == 5
    assert seen.all("courier_messages_total") == {
        ("", "queued"): 50,
        ("", "submitted"): 40,
        ("error-subject-unknown", "rejected"): 3,
        ("other", "rejected"): 2,
    }
    codes = {("error-system",): 9, ("not-sent",): 4, ("other",): 0}
    assert seen.all("courier_send_outcomes_total") == codes
    assert seen.one("courier_unsure_outcomes_total") == 1
    assert seen.one("courier_bells_total") == 12
    assert seen.all("courier_claims_total") == {("leased",): 10, ("nothing",): 2}
    assert seen.one("courier_oddities_total", "unknown-code") == 2
    assert seen.one("courier_oddities_total", "strangers") == 0


def test_histograms_are_cumulative_and_in_seconds(
    client: redis.Redis, settings: Settings, keys: Keys
) -> None:
    for size, seconds in ((1, 0.02), (100, 0.3), (100, 120.0)):
        for field, n in observed("send", size=size, seconds=seconds, bytes=5000).items():
            client.hincrby(keys.requests, field, n)
    seen = scrape(settings)
    sizes = {float(le): n for (le, what), n in seen.all("courier_request_messages_bucket").items()
             if what == "send"}  # fmt: skip
    assert (sizes[1], sizes[50], sizes[100], sizes[float("inf")]) == (1, 1, 3, 3)
    assert seen.one("courier_request_messages_sum", "send") == 201
    assert seen.one("courier_request_seconds_sum", "send") == pytest.approx(120.32)
    assert seen.one("courier_request_seconds_bucket", "60", "send") == 2
    assert seen.one("courier_request_seconds_count", "send") == 3
    assert seen.one("courier_request_bytes_bucket", "3000", "send") == 0
    assert seen.one("courier_request_bytes_bucket", "10000", "send") == 3


def test_each_group_shows_what_it_has_not_read_and_not_acknowledged(
    client: redis.Redis, settings: Settings, keys: Keys
) -> None:
    # Given events from 100 s ago to 91 s ago; one group has read four and acknowledged two
    then = int(time.time()) - 100
    ids = [f"{(then + n) * 1000}-0" for n in range(10)]
    for id in ids:
        client.xadd(keys.results, {"event": "{}"}, id=id)
    for group in ("crm", "idle", PHONE, f"{PHONE}-2"):
        client.xgroup_create(keys.results, group, id="0")
    client.xreadgroup("crm", "web-1", {keys.results: ">"}, count=4)
    client.xack(keys.results, "crm", *ids[:2])
    client.xgroup_setid(keys.results, "idle", ids[-1])
    # When Prometheus asks
    seen = scrape(settings)
    # Then ages are those of the oldest such event, and odd names share a label
    assert seen.one("courier_results_events") == 10
    assert seen.one("courier_results_groups") == 4
    assert 96 <= seen.one("courier_results_lag_seconds", "crm") < 106
    assert seen.one("courier_results_lag_seconds", "idle") == 0
    assert 100 <= seen.one("courier_results_lag_seconds", "other") < 110
    assert seen.one("courier_results_unacked_events", "crm") == 2
    assert 98 <= seen.one("courier_results_unacked_seconds", "crm") < 108
    assert seen.one("courier_results_unacked_seconds", "idle") == 0
    # Redis tells the number from 7 on
    known = {("crm",): 6, ("other",): 10, ("idle",): 0}
    new = int(client.info("server")["redis_version"].split(".")[0]) >= 7
    told = seen.all("courier_results_lag_events")
    assert told.items() <= known.items() if new else told == {}
    assert PHONE not in seen.text


def test_campaigns_show_how_far_they_are(
    producer: Producer, client: redis.Redis, settings: Settings, keys: Keys
) -> None:
    # Given a campaign that has waited for 90 s, with three messages inside a request
    common = common_job(priority="low")
    rows = [{"address": f"7926{n:07}"} for n in range(10)]
    producer.campaign("sale", common, rate=20).add(rows)
    back_in_time(client, keys.lanes[6] + ":sale", 90)
    back_in_time(client, keys.turns[3], 90)
    store = Store(client, settings)
    lease = store.claim("low", answered=True)
    assert isinstance(lease, Lease)
    store.begin(lease, lease.messages[:3])
    # And one that is paused, one that is cancelled, and one in two lanes, for later and for now
    producer.campaign("held", common).add(rows[:4])
    producer.campaign("held").pause("wrong price")
    producer.campaign("gone", common).add(rows[:5])
    producer.campaign("gone").cancel()
    producer.campaign("both", {**common, "sendAt": iso_in(3600)}).add(rows[:1])
    producer.campaign("both", {**common, "priority": "normal"}).add(rows[1:2])
    # When Prometheus asks
    seen = scrape(settings)
    # Then it learns of each what an alert or a panel needs
    names = ("both", "gone", "held", "sale")
    assert seen.all("courier_campaign_messages") == {
        **{("both", "queued"): 2, ("gone", "cancelled"): 5},
        **{("held", "queued"): 4, ("sale", "queued"): 10},
    }
    inside = seen.all("courier_campaign_inside_messages")
    assert inside == {(name,): 3 if name == "sale" else 0 for name in names}
    assert seen.all("courier_campaign_paused") == {(name,): name == "held" for name in names}
    assert seen.all("courier_campaign_cancelled") == {(name,): name == "gone" for name in names}
    assert seen.all("courier_campaign_rate_limit") == {("sale",): 20}
    assert seen.one("courier_campaign_statuses_total", "sale", "queued") == 10
    assert seen.one("courier_campaign_statuses_total", "gone", "cancelled") == 5
    assert seen.one("courier_campaign_statuses_total", "sale", "read") == 0
    assert seen.one("courier_campaign_ended_messages", "gone") == 5
    assert seen.one("courier_campaign_suppressed_messages", "held") == 0
    assert seen.one("courier_campaigns_left_out") == 0
    # And how long what is due has been, which nothing of a paused campaign is
    due = seen.all("courier_campaign_oldest_due_seconds")
    assert due.keys() <= {("sale", "low"), ("both", "normal")}
    assert 0 <= due["both", "normal"] < 60
    assert "wrong price" not in seen.text


def test_old_campaigns_and_those_that_may_be_phone_numbers_are_left_out(
    producer: Producer, client: redis.Redis, settings: Settings, keys: Keys
) -> None:
    # Given more campaigns than are exported, the first of which are the oldest
    common = common_job(priority="low")
    for n in range(60):
        producer.campaign(f"c-{n}", common).pause()
        client.hset(f"{keys.campaigns}c-{n}", "created", 1_000_000_000_000_000 + n)
    for name in (PHONE, "2026-11-27"):
        producer.campaign(name, common).add([{"address": PHONE}])
    # And one that ended two days ago, one of which nothing is left
    ended = client.zscore(keys.registry, "c-59")
    assert isinstance(ended, float)
    client.zadd(keys.registry, {"c-59": ended - 2 * 86_400_000_000, "lost": "+inf"})
    # When Prometheus asks, then it gets the newest, and the number of the others
    seen = scrape(settings)
    shown = {name for (name,) in seen.all("courier_campaign_paused")}
    assert shown == {"2026-11-27", *(f"c-{n}" for n in range(11, 59))}
    assert seen.one("courier_campaigns_left_out") == 13
    assert PHONE not in seen.text


def commands(client: redis.Redis) -> dict[str, int]:
    stats: dict[str, Any] = client.info("commandstats")
    counted = {name: stat["calls"] for name, stat in stats.items()}
    return {name: n for name, n in counted.items() if name not in ("cmdstat_info", "cmdstat_auth")}


def test_a_scrape_asks_as_much_of_redis_whatever_waits(tmp_path: Path) -> None:
    server = RedisServer(tmp_path, free_port())
    server.start()
    try:
        settings = Settings(redis_url=server.url)
        client = connect(server.url)
        producer = Producer(settings, client=client)
        costs = []
        for count in (4, 4000):
            # Given a backlog
            rows = [{"address": f"7926{n:07}"} for n in range(count)]
            producer.enqueue_many(rows, common=common_job(priority="low"))
            # When it is scraped
            client.config_resetstat()
            scrape(settings)
            costs.append(commands(client))
        # Then the same few commands have done it
        assert costs[0] == costs[1]
        assert not {name for name in costs[0] if re.search("scan|keys|zrange$", name)}
        assert sum(costs[0].values()) < 100
        # And fifty campaigns cost one command each, and what looking at their lines does
        for count in (1, 100):
            for name in range(50):
                rows = [{"address": f"7926{n:07}"} for n in range(count)]
                producer.campaign(f"c-{name}", common_job(priority="low")).add(rows)
            client.config_resetstat()
            scrape(settings)
            costs.append(commands(client))
        assert costs[2] == costs[3]
        more = {name: n - costs[0].get(name, 0) for name, n in costs[2].items()}
        assert more["cmdstat_hgetall"] == 50
        assert sum(more.values()) <= 6 * 50, more
        client.close()
    finally:
        server.stop()


@pytest.mark.slow
def test_a_redis_that_is_away_or_hangs_is_told_at_once(tmp_path: Path) -> None:
    server = RedisServer(tmp_path, free_port())
    server.start()
    settings = Settings(redis_url=server.url)
    try:
        assert scrape(settings).one("courier_up") == 1
        assert server.process is not None
        for change in (lambda: os.kill(server.process.pid, signal.SIGSTOP), server.stop):
            # Given a Redis that has stopped, by one way or the other
            change()
            # When Prometheus asks
            started = time.monotonic()
            seen = scrape(settings)
            # Then it hears so before it has lost patience, and nothing else
            assert time.monotonic() - started < 6
            assert list(seen.families) == ["courier_up"]
            assert seen.one("courier_up") == 0
            if server.process:
                os.kill(server.process.pid, signal.SIGCONT)
        server.start()
        assert scrape(settings).one("courier_up") == 1
    finally:
        server.stop()


class Exporter:
    """``courier exporter`` as a process."""

    def __init__(self, env: dict[str, str], *options: str) -> None:
        self.process = subprocess.Popen(
            [
                sys.executable,
                "-c",
                "from viber_courier.ops.cli import main; main()",
                "exporter",
                *options,
            ],
            env={**os.environ, **env},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def url(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().split()[-1]

    def end(self) -> tuple[int, str]:
        _, err = self.process.communicate(timeout=10)
        return self.process.returncode, err


@pytest.mark.slow
def test_the_command_shows_what_a_worker_has_done(
    system_env: dict[str, str], start_worker: Start, app: Producer
) -> None:
    # Given an exporter without the provider's credentials, and a worker
    env = {key: value for key, value in system_env.items() if "API" not in key}
    exporter = Exporter(env, "--port", "0")
    try:
        url = exporter.url()
        assert url.startswith("http://127.0.0.1:")
        start_worker()
        # When 30 messages went out, a third of them refused
        rows = [
            {"address": f"79250000{n}{ending}"} for n in range(10) for ending in ("01", "02", "50")
        ]
        app.enqueue_many(rows, common=common_job(metadata={"order": "A-77"}))
        seen = ends(app, 30)
        # Then its figures are the events'
        statuses = [event["status"] for events in seen.values() for event in events]
        with urlopen(url, timeout=10) as reply:
            text = reply.read().decode()
        told = Scrape(text)
        assert told.one("courier_statuses_total", "queued") == 30
        for status in ("submitted", "rejected", "delivered", "read"):
            assert told.one("courier_statuses_total", status) == statuses.count(status), status
        assert told.one("courier_dead_letters") == statuses.count("rejected") == 10
        assert told.one("courier_request_messages_sum", "send") >= 30
        assert told.one("courier_request_seconds_count", "poll") >= 1
        assert told.one("courier_claims_total", "leased") >= 1
        assert told.one("courier_results_lag_seconds", "test") == 0
        assert told.one("courier_sweep_age_seconds") < 10
        # And nothing in it is anybody's
        assert not re.search(r"7925\d{7}|A-77|Shop|Код", text)
        assert not any(id in text for id in seen)
    finally:
        exporter.process.terminate()
        assert exporter.end()[0] == 0


def test_a_port_that_is_taken_and_a_wrong_setting_are_said_in_a_line() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        code, err = Exporter({}, "--port", str(taken.getsockname()[1])).end()
    assert code == 1
    assert err.startswith("Error: ") and len(err.splitlines()) == 1
    code, err = Exporter({"COURIER_NAMESPACE": "a b"}).end()
    assert code == 1
    assert "COURIER_NAMESPACE" in err and "Traceback" not in err


def test_docs_list_exactly_what_is_exported(
    producer: Producer, client: redis.Redis, settings: Settings, keys: Keys
) -> None:
    # Given one of everything
    client.hset(keys.counts, "rejected:other", 1)
    client.hset(keys.gate("send"), mapping={"until": 1, "reason": "http-404"})
    client.xgroup_create(keys.results, "crm", id="0", mkstream=True)
    producer.campaign("sale", common_job(), rate=20).add([{"address": PHONE}])
    # When Prometheus asks
    exported = {
        name + "_total" * (family.type == "counter"): family
        for name, family in scrape(settings).families.items()
    }
    # Then docs know each metric and its labels, and no others
    rows = re.findall(
        r"(?m)^\| `(courier_(?!gateway_|push_|console_)\w+)` \|(.*?)\|",
        (DOCS / "metrics.md").read_text(),
    )
    listed = {name: set(re.findall(r"`(\w+)`", labels)) for name, labels in rows}
    assert listed.keys() == exported.keys()
    for name, family in exported.items():
        labels = {label for sample in family.samples for label in sample.labels}
        assert labels - {"le"} == listed[name] or not family.samples, name

"""Makes format_<n>.json: a namespace as the version that writes format n leaves it behind.

Run once for each format (docs/decisions/0032), in a checkout of the version that landed with it;
tests/upgrade/landed.py lists the commits. No test runs it:

    git worktree add ../landed <commit> && cd ../landed && make setup
    PYTHONPATH=. .venv/bin/python <this file> format_<n>.json

That version's own Producer, Sender, Poller, Store and ``courier pause`` work on a real Redis, with
its simulator as the provider; what a dead worker leaves is what its Store has written when nothing
follows. tests/test_upgrade.py loads the result and says what today's version makes of it.

The dump is JSON, no Redis dump: those belong to one version of Redis.

- ``taken``: the instant of the dump by the Redis server's clock, in microseconds;
- ``jobs``: by id, what the app asked for, a campaign's rows merged over their common part;
- ``provider``: by provider id, what /status goes by: the address's last two digits, resendSms, and
  when it was accepted (seconds since 1970);
- ``keys``: by name without ``{<namespace>}:``, what is stored: type, milliseconds to live (null: no
  end) and value. The stream's value has its entries and, for each group, the last id delivered and
  what is pending: entry, consumer, milliseconds idle, deliveries. Other streams have all fields;
- ``campaigns`` (since format 3): by name, the Progress and the ReportRows that it gives.
"""

# ruff: noqa: I001 (what these imports are, only such a checkout knows)
from __future__ import annotations

import asyncio
import itertools
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import asdict, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import requests
from click.testing import CliRunner

try:
    from viber_courier import Producer
    from viber_courier.ops.cli import main
    from viber_courier.ops.redis_server import RedisServer
    from viber_courier.schemas.settings import Settings
    from viber_courier.store.leases import Store
    from viber_courier.worker.decisions import Decider
    from viber_courier.worker.intake import enqueue_task_jobs as take
    from viber_courier.worker.poll import Poller
    from viber_courier.worker.provider import Provider
    from viber_courier.worker.send import Sender

    SIMULATOR = "viber_courier.ops.simulator"

    def producer(settings: Any) -> Any:
        return Producer(settings)

    def worker(kind: Any, settings: Any, store: Any, chance: float) -> Any:
        decider = Decider(settings, chance=lambda: chance)
        return kind(settings, store, Provider(settings), decider)

except ImportError:  # format 1
    from ops.cli import main
    from ops.redis_server import RedisServer
    from producers import Producer
    from producers.testing import SilentBells
    from schemas.settings import Settings
    from worker.intake import take
    from worker.poll import Poller
    from worker.provider import Provider
    from worker.send import Sender
    from worker.store import Store

    SIMULATOR = "ops.simulator"

    def producer(settings: Any) -> Any:
        return Producer(settings, bells=SilentBells())

    def worker(kind: Any, settings: Any, store: Any, chance: float) -> Any:
        parts = (settings, store, Provider(settings), SilentBells())
        return kind(*parts, chance=lambda: chance)


CAMPAIGNS = hasattr(Producer, "campaign")
"""Since format 3: campaigns, suppressed numbers, webhooks."""
KEY = "a key of sixteen or more characters"
NAMESPACE = "landed"
LATER = 7.0
"""Seconds from now at which a retry or the next poll is due: after the dump, and soon after it."""
ONE_LEASE = {"connect_timeout": 1.9, "read_timeout": 2.0, "lease": 4.0}
"""With no time left for a second lease, or a second request, in one task."""
SHORT = {"validityPeriodSec": 15}
"""Without a margin, tracking ends 15 s after the provider took it."""
SMS = {"smsText": "Скидки!", "smsSrcAddress": "SHOP"}
LINK = "https://shop.example/картинка?a=1&b=2"
LONG = "Здравствуйте! Ваш заказ собран и ждёт Вас в магазине до конца недели. 🙂"
COMMON = {"subject": "Shop", "contentType": "text", "content": {"text": "Скидки до 70 % 🎁"}}


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Landed:
    """The landed version at work; every method is one thing that an app or a worker does."""

    def __init__(self, folder: Path) -> None:
        self.server = RedisServer(folder, free_port())
        self.server.start()
        self.simulator = subprocess.Popen(
            [sys.executable, "-m", SIMULATOR, "--port", "0", "--step", "1", "--seed", "7"],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        assert self.simulator.stdout
        self.settings = Settings(
            redis_url=self.server.url,
            namespace=NAMESPACE,
            api_url=self.simulator.stdout.readline().split()[-1],
            api_login="tester",
            api_password="111111",
            **({"suppression_key": KEY} if CAMPAIGNS else {}),
            # A lease is never shorter than one given before.
            **{"connect_timeout": 0.5, "read_timeout": 1.0, "lease": 2.0},
        )
        self.app = producer(self.settings)
        self.redis = self.app.redis
        self.jobs: dict[str, Any] = {}
        self.rows = Counter[str]()
        self.numbers = itertools.count(1)

    def stop(self) -> None:
        self.simulator.terminate()
        self.simulator.wait(10)
        self.server.stop()

    def address(self, digits: str = "99") -> str:
        return f"7925{next(self.numbers):05}{digits}"

    def job(self, digits: str = "99", **more: Any) -> dict[str, Any]:
        return {**COMMON, "priority": "high", "address": self.address(digits), **more}

    def enqueue(self, id: str, digits: str = "99", **more: Any) -> str:
        self.jobs[id] = self.job(digits, **more)
        return self.app.enqueue({**self.jobs[id], "id": id})

    def campaign(self, name: str, rows: list[dict[str, Any]], **common: Any) -> list[str]:
        common = {**COMMON, **common}
        rows = [
            {"id": f"{name}-{n}", "address": self.address(), **row} for n, row in enumerate(rows)
        ]
        for row in rows:
            merged = {**common, **row}
            kept = {k: v for k, v in merged.items() if v is not None and k != "id"}
            self.jobs[row["id"]] = kept
        return self.app.enqueue_many(rows, common=common)

    def add(
        self, name: str, *rows: tuple[str, dict[str, Any]], rate: float | None = None, **more: Any
    ) -> list[str]:
        """Adds to a campaign: the ids and more of its rows. ``columns`` are for its template."""
        common = {**COMMON, "priority": "normal", **more}
        given = []
        for id, fields in rows:
            columns = fields.get("columns", {})
            row = {"address": self.address(), **fields, "id": id} | columns
            row.pop("columns", None)
            given.append(row)
            job = {**common, "campaign": name, **row}
            if columns:
                job["content"] = {"text": common["content"]["text"].format(**columns)}
            self.jobs[id] = {k: v for k, v in job.items() if k != "id" and k not in columns}
        template = any("columns" in fields for _, fields in rows)
        made = self.app.campaign(name, common, template=template, rate=rate)
        first = self.rows[name]
        self.rows[name] += len(rows)
        return made.add(given, numbers=range(first, first + len(rows)))

    def resend(self, letter: str, **more: Any) -> None:
        self.jobs[self.app.dead.resend(letter, **more)] = self.jobs[letter]

    def fault(self, **rule: Any) -> None:
        url = f"{self.settings.api_url}/admin/faults"
        requests.delete(url, timeout=10).raise_for_status()
        requests.post(url, json=rule, timeout=10).raise_for_status()

    def store(self, **more: Any) -> Store:
        return Store(self.redis, replace(self.settings, **more))

    def send(self, lane: str, chance: float = 1.0, **more: Any) -> None:
        settings = replace(self.settings, **more)
        print(worker(Sender, settings, self.store(**more), chance).serve(lane))

    def poll(self, *delays: float, **more: Any) -> None:
        settings = replace(self.settings, **{**ONE_LEASE, **more}, poll_delays=delays)
        print(worker(Poller, settings, Store(self.redis, settings), 1.0).serve())

    def submit(self, *delays: float, **more: Any) -> None:
        """What is due is accepted; its first poll is due after the first delay."""
        self.send("normal", poll_delays=delays or (0.01,), tracking_margin=0.0, **more)

    def courier(self, *args: str) -> None:
        env = {"COURIER_REDIS_URL": self.server.url, "COURIER_NAMESPACE": NAMESPACE}
        env["COURIER_SUPPRESSION_KEY"] = KEY
        done = CliRunner().invoke(main, args, env={**dict.fromkeys(os.environ), **env})
        assert done.exit_code == 0, done.output


def main_story(landed: Landed) -> None:
    print("-- ended, of every status")
    landed.courier("pause", "low", "--reason", "a change of prices")
    landed.enqueue("expired", priority="low", ttlSec=15)
    crashing(landed)
    ends_unsent(landed)
    landed.enqueue("tracked-out", "71", **SHORT)
    landed.enqueue("tracked-out-sent", "70", **SHORT)
    landed.submit(3600)
    landed.enqueue("sms-soon-lost", "24", **SMS, **SHORT, smsValidityPeriodSec=15)
    begun = time.monotonic()
    for name, digits, more in (
        *(
            ("read", "99", {"metadata": {"order": 7, "shop": "Тверь"}}),
            ("sms-delivered", "21", SMS),
        ),
        *(("undelivered", "20", {}), ("undelivered-sms", "23", SMS)),
        *(("failed-there", "30", {}), ("cancelled-there", "40", {})),
        ("failed-again", "30", {}),
    ):
        landed.enqueue(f"ended-{name}", digits, **more)
    landed.resend("unsure-resent", unconfirmed=True)  # it will be read
    if CAMPAIGNS:
        campaign_ends(landed)
    landed.submit()
    for age in (0.5, 1.5, 2.5):
        time.sleep(max(0.0, begun + age - time.monotonic()))
        landed.poll(0.01)
    time.sleep(max(0.0, begun + 6.5 - time.monotonic()))
    landed.enqueue("ended-delivered", "10")
    landed.submit()
    time.sleep(2.5)
    landed.poll(3600, read_window=0.0)

    print("-- a group reads, and leaves some unacknowledged")
    events = list(itertools.islice(landed.app.results("crm", "web-1", block=1.0), 100))
    for event in events[:-5]:
        event.ack()
    if CAMPAIGNS:
        pushed(landed)
    time.sleep(1.5)  # acknowledgements may wait a second

    print("-- time runs out")
    time.sleep(max(0.0, begun + 17 - time.monotonic()))
    landed.poll(3600, read_window=0.0)
    landed.send("low")

    watched(landed)
    left_by_workers(landed)
    waiting(landed)


def crashing(landed: Landed) -> None:
    """Before any other lease: none is shorter than one given before."""

    def lapse(lane: str, *lapses: int) -> None:
        (lease,) = [landed.store(lease=0.05).claim(lane, True)]
        assert sorted(message.lapses for message in lease.messages) == sorted(lapses)
        time.sleep(0.1)

    landed.enqueue("failed-crashed")
    for lapses in range(6):
        lapse("high", lapses)
    landed.enqueue("lapsed-to-crash", priority="realtime")
    lapse("realtime", 0)
    landed.enqueue("lapsed-to-alone", priority="realtime")
    for lapses in range(4):
        lapse("realtime", 1 + lapses, lapses)
    landed.courier("pause", "realtime")  # where they wait for another
    landed.send("normal")


def ends_unsent(landed: Landed) -> None:
    landed.fault(kind="drop_after", times=2)
    landed.enqueue("unsure-parked", priority="normal")
    landed.send("normal")
    landed.enqueue("unsure-resent", onUnsure="park", metadata={"n": 1})
    landed.send("normal")
    landed.fault(kind="drop_after", times=1)
    landed.enqueue("unsure-cancelled")
    landed.send("normal")  # it waits for a retry
    landed.app.cancel("unsure-cancelled")
    landed.enqueue("cancelled", sendAt=(datetime.now(UTC) + timedelta(days=3)).isoformat())
    landed.app.cancel("cancelled")
    landed.fault(kind="status", code="error-system", times=1)
    landed.enqueue("failed-attempts", **SMS, ttlSec=7200, onUnsure="resend", metadata={"n": 2})
    landed.send("normal", max_attempts=1)
    (gone,) = landed.campaign("failed-content-gone", [{}], priority="high", comment="gone")
    digest = landed.redis.hget(f"{{{NAMESPACE}}}:m:{gone}", "common")
    landed.redis.delete(f"{{{NAMESPACE}}}:common:{digest}")
    landed.send("normal")
    landed.enqueue("rejected-erased", "50")
    landed.send("normal", content_retention=0.5)
    landed.enqueue("rejected-resent", "51")
    landed.send("normal")
    landed.resend("rejected-resent")
    landed.send("normal")
    taken = landed.jobs["cancelled"]
    jobs = [{"id": "rejected-invalid", "subject": "A subject too long"}, {"id": "cancelled"}]
    take(landed.app, "0b5f2a5e-4a7e-4b3e-9d52-0c3f6e3f9f01", [*jobs, {**taken, "subject": ""}])


def watched(landed: Landed) -> None:
    print("-- watched, at several steps")
    begun = time.monotonic()
    groups = (
        [("sms-sent-3", "22", SMS)],
        [("sms-sent-2", "21", SMS)],
        [("sms-sent-1", "21", SMS), ("fault-old", "20", SMS)],
        [
            *(("delivered", "99", {}), ("delivered-stays", "10", {"metadata": {"a": True}})),
            *(("fault", "20", SMS), ("fault-failed", "31", SMS), ("fault-sms", "21", SMS)),
        ],
        [("sent", "99", {}), ("sent-stays", "70", SHORT), ("sent-cancelled", "40", {})],
        [("submitted", "99", SMS), ("submitted-stays", "71", SHORT), ("submitted-30", "30", {})],
    )
    for age, group in enumerate(groups):
        time.sleep(max(0.0, begun + age - time.monotonic()))
        for name, digits, more in group:
            landed.enqueue(f"watched-{name}", digits, **more)
        landed.submit()
        time.sleep(max(0.0, begun + age + 0.5 - time.monotonic()))
        landed.poll(0.01 if age < len(groups) - 1 else LATER)
    landed.campaign("watched-row", [{}, {"comment": "a"}, SMS], priority="normal")
    if CAMPAIGNS:
        rows = ("watched-sale-0", {}), ("watched-sale-1", {"comment": "a"}), ("watched-sale-2", SMS)
        landed.add("sale", *rows)
    landed.submit(LATER)  # never polled
    for n in range(2):
        landed.enqueue(f"watched-failed-poll-{n}")
    landed.submit()
    landed.fault(kind="status", on="status", code="error-system", times=2)
    time.sleep(0.05)
    for _ in range(2):
        landed.poll(LATER, status_batch_size=1)


def left_by_workers(landed: Landed) -> None:
    print("-- leased, inside a request, waiting for a retry, halved, the gate closed")
    landed.courier("resume", "realtime")
    long = landed.store(lease=5.0)
    landed.enqueue("lapsed", priority="realtime")
    lease = long.claim("realtime", True)
    assert sorted(message.lapses for message in lease.messages) == [0, 4, 5]

    landed.enqueue("inside-park", priority="normal", metadata={"n": 3})
    landed.enqueue("inside-resend", priority="normal", onUnsure="resend")
    landed.enqueue("inside-high-resend")
    landed.enqueue("inside-high-park", onUnsure="park", **SMS)
    landed.campaign("inside-row", [{}, {"comment": "b"}], priority="normal", **SMS)
    if CAMPAIGNS:
        for name in ("sale", "stopped"):
            landed.add(name, (f"inside-{name}-0", {}), (f"inside-{name}-1", {"comment": "b"}))
    while lease := long.claim("normal", True):
        long.begin(lease, lease.messages)
    landed.enqueue("leased", priority="normal")
    if CAMPAIGNS:
        landed.add("sale", ("leased-sale", {}))
    for _ in range(1 + CAMPAIGNS):
        assert landed.store(lease=LATER).claim("normal", True)

    landed.enqueue("retry-entry", "60", priority="normal", metadata={"n": 4})
    if CAMPAIGNS:
        landed.add("sale", ("retry-sale", {"address": landed.address("60")}))
    landed.send("normal", retry_base=LATER)
    landed.fault(kind="drop_after", times=1)
    landed.enqueue("retry-unsure", priority="realtime", **SMS)
    landed.send("realtime", retry_base=LATER)
    landed.fault(kind="status", code="error-syntax", times=1)
    halved = landed.campaign("halved", [{}] * 7 + [{"comment": "c"}], priority="normal")
    assert len(halved) == 8
    landed.send("normal", **ONE_LEASE)

    landed.enqueue("watched-paid", priority="realtime")
    landed.send("realtime", rate_limit=1 / LATER, rate_burst=1.0, poll_delays=(LATER,))
    if CAMPAIGNS:
        landed.add("slow", ("watched-slow", {}), rate=1 / 8, priority="realtime")
        landed.send("realtime", poll_delays=(LATER,))
    landed.fault(kind="status", code="error-system", times=7)
    for n in range(7):
        landed.enqueue(f"retry-request-{n}", priority="realtime", ttlSec=3600)
    for pause in (1.1, 2.1, 0.0):  # closed by five failures, then for longer by each probe's
        landed.send("realtime", batch_size=1, retry_base=LATER)
        time.sleep(pause)


def waiting(landed: Landed) -> None:
    print("-- queued")

    def iso_in(seconds: float) -> str:
        return (datetime.now(UTC) + timedelta(seconds=seconds)).isoformat()

    button = {"text": "Скидка 🎁", "caption": "Открыть", "action": LINK}
    for id, more in {
        "text": {},
        "text-long": {"content": {"text": LONG}, "comment": "n1", "priority": "realtime"},
        "text-sms": {**SMS, "smsValidityPeriodSec": 3600, "validityPeriodSec": 600},
        "text-resend": {"resendSms": True, "priority": "normal"},
        "image": {"contentType": "image", "content": {"imageUrl": LINK}},
        "button": {"contentType": "button", "content": button, "priority": "normal"},
        "button-image": {
            **{"contentType": "button", "content": {**button, "imageUrl": LINK}},
            **{"resendSms": True, "priority": "low"},
        },
        "metadata": {"metadata": {"shop": "Тверь", "order": 12345678901, "vip": True, "x": None}},
        "ttl": {"ttlSec": 3600},
        "ttl-sms": {"ttlSec": 5400, "validityPeriodSec": 7200, **SMS},
        "ttl-soon-over": {"ttlSec": 15, "priority": "low"},
        "park": {"onUnsure": "park"},
        "resend": {"onUnsure": "resend", "priority": "low"},
        "far": {"sendAt": iso_in(86400 * 30), "metadata": {"n": 5}},
        "far-sms": {"sendAt": iso_in(86400), **SMS, "priority": "low"},
        "near": {"sendAt": iso_in(LATER), "priority": "normal"},
        "near-ttl": {"sendAt": iso_in(LATER + 1), "ttlSec": 600},
    }.items():
        landed.enqueue(f"queued-{id}", **more)
    rows = [
        *({}, {}, {"content": {"text": "Анна!"}}, {"comment": "d"}, {"content": {"text": LONG}}),
        *({"smsText": None, "smsSrcAddress": None, "resendSms": False}, {"comment": None}),
        *({"metadata": {"row": 7}}, {"ttlSec": 900}, {"onUnsure": "park", "smsText": "СМС"}),
    ]
    landed.campaign("row", rows, priority="low", comment="autumn", **SMS)
    landed.campaign("row-plain", [{}] * 3, priority="high", metadata={"campaign": 7})
    if CAMPAIGNS:
        campaigns_waiting(landed)
    # Two letters are sent again, the second not at once: one of a status, or all would be.
    done = landed.app.dead.resend_many(status="failed", reason="provider-failed", rate=0.2)
    assert len(done.ids) == 2, done
    landed.jobs |= {new: landed.jobs[old] for old, new in done.ids.items()}
    landed.app.dead.drop("unsure-cancelled")
    time.sleep(2.0)  # until the leases have lapsed
    print("rung:", landed.store().sweep())  # bells that nobody hears
    landed.enqueue("queued-last")


def campaign_ends(landed: Landed) -> None:
    stopped, month, ignored = (landed.address() for _ in range(3))
    landed.app.suppressions.add_many([stopped, ignored], "asked us to stop")
    landed.app.suppressions.add(month, "a month", datetime.now(UTC) + timedelta(days=30))
    far = (datetime.now(UTC) + timedelta(days=3)).isoformat()
    landed.add(
        "sale",
        ("ended-sale-read", {"metadata": {"row": 0}, "source": "shop"}),
        ("ended-sale-rejected", {"address": landed.address("50")}),
        ("ended-sale-sms", {"address": landed.address("21"), **SMS}),
        ("ended-sale-blocked", {"address": landed.address("20")}),
        ("ended-sale-suppressed", {"address": stopped}),
        ("ended-sale-suppressed-month", {"address": month}),
        ("ended-sale-ignored", {"address": ignored, "ignoreSuppression": True}),
        ("ended-sale-cancelled", {"sendAt": far}),
    )
    landed.app.cancel("ended-sale-cancelled")
    landed.add("over", ("ended-over", {}))


def pushed(landed: Landed) -> None:
    """A webhook's group has three events to send, and one that its endpoint would not take."""
    from redis.asyncio import Redis
    from viber_courier.ops.push.outbox import Outbox
    from viber_courier.ops.push.serving import as_json

    events = []
    for event in landed.app.results("hook", "web-1", block=1.0):
        events.append((event.subject, event.id, as_json(event, NAMESPACE)))
        event.ack()

    async def add() -> None:
        client = Redis.from_url(landed.server.url, decode_responses=True)
        outbox = Outbox(client, NAMESPACE, "hook")
        await outbox.add(events[-4:])
        await outbox.put_aside((await outbox.read("0", 1))[0], "410 Gone")
        await client.aclose()

    asyncio.run(add())


def campaigns_waiting(landed: Landed) -> None:
    from viber_courier.store.scripts import Script, shared

    later = (datetime.now(UTC) + timedelta(days=1)).isoformat()
    blocked = landed.address()
    landed.add(
        "sale",
        ("queued-sale-0", {}),
        ("queued-sale-1", {"metadata": {"row": 1}, "comment": "c"}),
        ("queued-sale-sms", SMS),
        ("queued-sale-far", {"sendAt": later}),
        ("queued-sale-suppressed", {"address": blocked}),
    )
    landed.app.suppressions.add(blocked, "while it waited")
    landed.add("sale", ("queued-sale-low", {}), priority="low")
    landed.enqueue("queued-sale-one", campaign="sale")
    hours = {"from": "00:00", "to": "23:59", "zone": "recipient"}
    landed.add("hours", ("queued-hours-0", {}), ("queued-hours-1", {}), sendWindow=hours)
    anna, boris = {"columns": {"name": "Анна"}}, {"columns": {"name": "Борис"}}
    text = {"text": "Здравствуйте, {name}!"}
    landed.add("hello", ("queued-hello-0", anna), ("queued-hello-1", boris), content=text)
    landed.add("slow", ("queued-slow", {}), rate=1 / 8, priority="realtime")
    for priority in ("normal", "low"):
        rows = [(f"queued-paused-{priority}-{n}", {}) for n in range(3)]
        landed.add("paused", *rows, priority=priority)
    landed.app.campaign("paused").pause("wrong price")
    landed.add("paused", ("queued-paused-later", {}))
    landed.app.campaign("early").pause("look first")
    # Cancelled half way: the app died after its first call, and two ended one by one.
    rows = [(f"queued-stopped-{n}", {}) for n in range(5)]
    landed.add("stopped", *rows, ("queued-stopped-far", {"sendAt": later}))
    act = Script(landed.redis, "campaign", shared(landed.settings))
    act(name="stopped", act="cancel", value="")
    for n in range(2):
        assert landed.app.cancel(f"queued-stopped-{n}")


def dump(landed: Landed) -> dict[str, Any]:
    client, prefix = landed.redis, f"{{{NAMESPACE}}}:"
    seconds, micros = client.time()
    keys = {}
    for key in sorted(client.scan_iter(match=f"{prefix}*", count=10_000)):
        kind, ttl = client.type(key), client.pttl(key)
        if ttl == -2:
            continue
        read = {
            "string": client.get,
            "hash": client.hgetall,
            "list": lambda key: client.lrange(key, 0, -1),
            "zset": lambda key: {
                id: int(score) if score < float("inf") else None
                for id, score in client.zrange(key, 0, -1, withscores=True)
            },
            "stream": stream(client),
        }[kind]
        keys[key.removeprefix(prefix)] = [kind, None if ttl == -1 else ttl, read(key)]
    accepted = requests.get(f"{landed.settings.api_url}/admin/accepted", timeout=10).json()
    provider = {
        str(each["providerId"]): [each["message"]["address"][-2:], each["resendSms"], each["at"]]
        for each in accepted
    }
    taken = seconds * 1_000_000 + micros
    whole = {"taken": taken, "jobs": landed.jobs, "provider": provider, "keys": keys}
    if CAMPAIGNS:
        whole["campaigns"] = {
            each.name: [asdict(each), [*map(asdict, landed.app.campaign(each.name).report())]]
            for each in landed.app.campaigns()
        }
    return whole


def stream(client: Any) -> Any:
    def read(key: str) -> Any:
        groups = {}
        for group in client.xinfo_groups(key):
            pending = client.xpending_range(key, group["name"], "-", "+", 1000)
            names = ("message_id", "consumer", "time_since_delivered", "times_delivered")
            rows = [[each[name] for name in names] for each in pending]
            groups[group["name"]] = {"last": group["last-delivered-id"], "pending": rows}
        entries = [
            [entry, fields["event"] if [*fields] == ["event"] else fields]
            for entry, fields in client.xrange(key)
        ]
        return {"entries": entries, "groups": groups}

    return read


def lines(whole: dict[str, Any]) -> str:
    """JSON with a line for each key, job and id: what changes in it can be seen."""

    def text(value: Any) -> str:
        return json.dumps(value, ensure_ascii=False, separators=(",", ":"))

    parts = [f'"taken":{whole["taken"]}']
    for name in [name for name in whole if name != "taken"]:
        rows = ",\n".join(f"{text(key)}:{text(value)}" for key, value in whole[name].items())
        parts.append(f'"{name}":{{\n{rows}\n}}')
    return "{" + ",\n".join(parts) + "}\n"


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        landed = Landed(Path(folder))
        try:
            main_story(landed)
            Path(sys.argv[1]).write_text(lines(dump(landed)), encoding="utf-8")
        finally:
            landed.stop()

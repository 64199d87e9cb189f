"""What landed versions have stored, this version finishes: tests/golden/format_<n>.json, loaded.

Names of keys and fields that stand here as words are theirs (tests/golden/make_dump.py): what they
wrote stays readable, whatever this version calls things. The latest of them is worked off here, the
others in tests/upgrade, where the version before finishes what this one has stored, too.
"""

from __future__ import annotations

import asyncio
import json
import re
import threading
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import redis
from aiohttp import web

from tests.conftest import Courier, Start, Worker, check_events, wait_for
from tests.push import Receiver, pushing, until
from viber_courier import Conflict, ContentGone, NotDead, Producer, Record, Unconfirmed
from viber_courier.ops import simulator as simulator_module
from viber_courier.ops import simulator_rules as rules
from viber_courier.ops.redis_server import RedisServer
from viber_courier.schemas.settings import Settings
from viber_courier.schemas.status import Status
from viber_courier.store.connection import connect

FORMATS = (1, 2, 3)
"""Of landed versions, and of this one, which lands with the last."""
OPTIONS = (
    *("id", "sendAt", "ttlSec", "onUnsure", "metadata", "resendSms"),
    *("campaign", "source", "sendWindow", "ignoreSuppression"),
)
"""Fields of a job that the provider isn't sent."""
VALIDITIES = ("validityPeriodSec", "smsValidityPeriodSec")
KEY = "a key of sixteen or more characters"
UNSURE = {
    **{"inside-resend": 1, "inside-high-resend": 1, "retry-unsure": 1},
    **{"inside-park": 1, "inside-high-park": 1, "inside-row-0": 1, "inside-row-1": 1},
    **dict.fromkeys(("inside-sale-0", "inside-sale-1"), 1),
    **dict.fromkeys(("inside-stopped-0", "inside-stopped-1"), 1),
}
"""Unsure attempts, by message, of those that have any once they end."""
FAR = ("queued-far", "queued-far-sms", "queued-sale-far")
"""Due in a day and in a month."""
UNSENT = {
    "lapsed-to-crash": ("failed", "crashed"),
    **dict.fromkeys(("inside-park", "inside-high-park"), ("unconfirmed", "unsure")),
    **dict.fromkeys(("inside-row-0", "inside-row-1"), ("unconfirmed", "unsure")),
    "queued-ttl-soon-over": ("expired", "ttl"),
    **dict.fromkeys(("inside-sale-0", "inside-sale-1"), ("unconfirmed", "unsure")),
    **dict.fromkeys(("inside-stopped-0", "inside-stopped-1"), ("unconfirmed", "by-request")),
    **{f"queued-stopped-{n}": ("cancelled", "by-request") for n in (2, 3, 4, "far")},
    "queued-sale-suppressed": ("rejected", "suppressed"),
}
"""How those end that waited and aren't sent (again)."""
WATCHED = {
    "watched-delivered-stays": ("delivered", None),
    **dict.fromkeys(("watched-fault", "watched-fault-old"), ("undelivered", "user-blocked")),
    **dict.fromkeys(("watched-fault-failed", "watched-fault-sms"), ("sms_delivered", None)),
    "watched-sent-stays": ("sent", "tracking-ended"),
    "watched-sent-cancelled": ("cancelled", None),
    "watched-submitted-stays": ("lost", "tracking-ended"),
    "watched-submitted-30": ("failed", "provider-failed"),
    **{f"watched-sms-sent-{n}": ("sms_delivered", None) for n in (1, 2, 3)},
    "sms-soon-lost": ("lost", "tracking-ended"),
}
"""How those end that the provider had taken; all others are read."""
FORGOTTEN = ("watched-fault-old", "watched-delivered-stays", "sms-soon-lost")
"""Unknown to the provider by now: all that ends them is what their records say."""
STILL = {"paused": "paused", "early": "paused", "stopped": "cancelled", "sale": "running"}
"""Campaigns that have not ended when all has that can; "early" has no messages yet."""
SENT = {"30": ("failed", "provider-failed")}
"""How those end that are sent, by the address; all others are read."""


def family(key: str) -> str:
    return key.split(":", 1)[0]


class Dump:
    """What tests/golden/make_dump.py has written of one format."""

    def __init__(self, format: int) -> None:
        path = Path(__file__).parent / "golden" / f"format_{format}.json"
        whole = json.loads(path.read_text(encoding="utf-8"))
        self.format = format
        self.taken: int = whole["taken"]
        self.keys: dict[str, Any] = whole["keys"]
        self.provider: dict[str, Any] = whole["provider"]
        self.jobs: dict[str, dict[str, Any]] = whole["jobs"]
        self.records: dict[str, dict[str, str]] = {
            key.removeprefix("m:"): value
            for key, (_, _, value) in self.keys.items()
            if key.startswith("m:")
        }
        self.campaigns: dict[str, tuple[dict[str, Any], list[dict[str, Any]]]] = whole.get(
            "campaigns", {}
        )

    def waiting(self) -> list[str]:
        return [id for id, record in self.records.items() if record["status"] == "queued"]

    def ended(self) -> list[str]:
        return [id for id, record in self.records.items() if "final" in record]

    def watched(self) -> list[str]:
        return [*self.keys["watch"][2]]

    def is_low(self, id: str) -> bool:
        """In the lane that the landed version's operator had paused."""
        known = id in self.jobs and self.jobs[id]["priority"] == "low"
        return known and "final" not in self.records[id]

    def is_paused(self, id: str) -> bool:
        """In the campaign that the landed version's operator had paused."""
        return self.jobs.get(id, {}).get("campaign") == "paused"

    def attempts_before(self, id: str) -> int:
        """Attempts that its record had; of those inside a request, without that one."""
        return int(self.records.get(id, {}).get("attempts", 0))

    def attempts_since(self, id: str) -> int:
        unsent = ("failed", "expired", "cancelled", "rejected")
        if id in self.watched() or UNSENT.get(id, ("", ""))[0] in unsent:
            return 0
        # Twice: it was inside of a request, or this provider refuses it once as the other one did.
        twice = ("inside-resend", "inside-high-resend", "retry-entry", "retry-sale")
        return 2 if id in twice else 1


class Shift:
    """Instants of the dump as if it had been taken just now; of scores, the kind is kept."""

    def __init__(self, client: redis.Redis, taken: int) -> None:
        seconds, micros = client.time()
        shift: int = seconds * 1_000_000 + micros - taken
        self.micros = shift - shift % 4000

    def whole(self, text: str | int) -> int:
        return int(text) + self.micros

    def text(self, text: str) -> str:
        """All instants in it, in microseconds."""
        return re.sub(r"\b[12][0-9]{15}\b", lambda found: str(self.whole(found[0])), text)

    def entry(self, id: str) -> str:
        """A stream entry's id."""
        ms, number = id.split("-")
        return f"{int(ms) + self.micros // 1000}-{number}"

    def string(self, key: str, value: str) -> str:
        if key == "swept":
            return str(int(value) + self.micros // 1000)
        instants = ("fence", "dead", "bucket", "once", "campaign")
        return self.text(value) if family(key) in instants else value

    def hash(self, key: str, value: dict[str, str]) -> dict[str, str]:
        if key == "missed":  # by group; '': events below this one were removed
            return {group: self.entry(id) for group, id in value.items()}
        if key == "suppressed":  # until and since, in ms; until 0: for good
            ms = re.compile(r"\b[12][0-9]{12}\b")

            def moved(found: re.Match[str]) -> str:
                return str(int(found[0]) + self.micros // 1000)

            return {hash: ms.sub(moved, text) for hash, text in value.items()}
        instants = {
            "m": ("until", "submitted", "tracked", "since"),
            "gate": ("until", "opened", "probe"),
            "campaign": ("created", "stopped", "served", "began"),
        }.get(family(key), ())
        if int(value.get("final", 0)) > 1:  # the instant of a campaign's message
            value = {**value, "final": str(self.whole(value["final"]))}
        return {
            name: str(self.whole(each)) if name in instants else each
            for name, each in value.items()
        }


@dataclass
class Landed:
    """The dump as it was loaded. ``provider``: by provider id, digits, resendSms, accepted at."""

    client: redis.Redis
    dump: Dump
    prefix: str
    provider: dict[int, tuple[str, bool, float]]
    entries: list[str]
    pending: list[str]

    def key(self, name: str) -> str:
        return self.prefix + name

    def score(self, set: str, id: str) -> int:
        score: Any = self.client.zscore(self.key(set), id)
        return int(score)

    def events(self) -> dict[str, list[dict[str, Any]]]:
        """All on the stream, by message; ``id`` is the event's own."""
        found = defaultdict[str, list[dict[str, Any]]](list)
        entries: Any = self.client.xrange(self.key("results"))
        for _, fields in entries:
            event = json.loads(fields["event"])
            found[event["subject"]].append({"id": event["id"], **event["data"]})
        return found


def load(client: redis.Redis, dump: Dump, namespace: str) -> Landed:
    shift, prefix, pending = Shift(client, dump.taken), f"{{{namespace}}}:", list[str]()
    with client.pipeline() as pipe:
        for key, (kind, ttl, value) in dump.keys.items():
            name = prefix + key
            if kind == "string":
                pipe.set(name, shift.string(key, value))
            elif kind == "zset":
                scores = {
                    id: shift.whole(score) for id, score in value.items() if score is not None
                }
                never = {id: float("inf") for id, score in value.items() if score is None}
                pipe.zadd(name, scores | never)
            elif kind == "list":
                pipe.rpush(name, *value)
            elif kind == "hash":
                pairs = shift.hash(key, value).items()
                pipe.hset(name, mapping={k.replace("{landed}:", prefix): v for k, v in pairs})
            else:
                for id, event in value["entries"]:
                    fields = {"event": event} if isinstance(event, str) else event
                    pipe.xadd(name, fields, id=shift.entry(id))
                for group, has in value["groups"].items():
                    pipe.xgroup_create(name, group, id=shift.entry(has["last"]))
                    for id, consumer, idle, times in has["pending"]:
                        pending.append(shift.entry(id))
                        how: Any = {"idle": idle, "retrycount": times, "force": True}
                        pipe.xclaim(name, group, consumer, 0, [shift.entry(id)], **how)
            if ttl is not None:
                pipe.pexpire(name, max(1, ttl))
        pipe.execute()
    provider = {
        int(id): (digits, resend, at + shift.micros / 1e6)
        for id, (digits, resend, at) in dump.provider.items()
        if id not in {dump.records[name]["provider"] for name in FORGOTTEN}
    }
    entries = [shift.entry(id) for id, _ in dump.keys["results"][2]["entries"]]
    return Landed(client, dump, prefix, provider, entries, pending)


@pytest.fixture(params=FORMATS)
def dump(request: pytest.FixtureRequest) -> Dump:
    return Dump(request.param)


@pytest.fixture
def landed(redis_server: RedisServer, dump: Dump, namespace: str) -> Iterator[Landed]:
    client = connect(redis_server.url)
    yield load(client, dump, namespace)
    client.close()


class Provider:
    """The simulator in this process: it also knows what the landed version's had accepted.

    ``quotes``: it gives half of the ids as digits in quotes, which versions of format 2 can't read.
    """

    quotes = True

    def __init__(self, landed: Landed) -> None:
        class Memory(simulator_module.Memory):
            def state(self, provider_id: int, now: float, step: float) -> Any:
                if provider_id not in landed.provider:
                    return super().state(provider_id, now, step)
                digits, resend, at = landed.provider[provider_id]
                ending = rules.ENDINGS.get(int(digits), rules.Ending())
                entry = rules.status_entry(provider_id, ending, resend, at, now, step)
                # Each other message's ids come in quotes; they are those that were stored.
                quoted = json.loads(json.dumps(entry), parse_int=str)
                return quoted if provider_id % 2 and provider.quotes else entry

        provider = self
        made = simulator_module.Simulator("tester", "111111", 0.2, 7, True)
        self._memory = made.memory = Memory(made.memory.first_id, True)
        self._loop = asyncio.new_event_loop()
        self._runner = web.AppRunner(made.app(), access_log=None, shutdown_timeout=0.5)
        self._thread = threading.Thread(target=self._loop.run_forever)
        self._thread.start()
        self.url = self._run(self._start())

    def _run(self, doing: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(doing, self._loop).result(20)

    async def _start(self) -> str:
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        return f"http://127.0.0.1:{self._runner.addresses[0][1]}"

    def accepted(self) -> list[dict[str, Any]]:
        """Messages that it has accepted from this version, each with its request's number."""

        async def ask() -> Any:
            return self._memory.accepted(0)

        found: list[dict[str, Any]] = self._run(ask())
        return found

    def stop(self) -> None:
        self._run(self._runner.cleanup())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()


@pytest.fixture
def provider(landed: Landed) -> Iterator[Provider]:
    made = Provider(landed)
    yield made
    made.stop()


def test_a_dump_has_a_message_in_every_kind_of_place(dump: Dump) -> None:
    keys, records = dump.keys, dump.records
    kinds = {
        (family(key), score % 4)
        for key, (kind, _, value) in keys.items()
        if kind == "zset"
        for score in value.values()
        if score and (score <= dump.taken or score % 4 == 1)
    }
    assert {("lane", 0), ("lane", 1), ("lane", 2)} <= kinds
    assert {record["status"] for record in records.values()} == {*Status} - {Status.SENDING}
    assert {records[id]["status"] for id in dump.watched()} == {
        *("submitted", "sent", "delivered", "sms_sent")
    }
    assert {name for record in records.values() for name in record} == {
        *("status", "job", "set", "until", "common", "row", "metadata", "ttl", "onUnsure"),
        *("attempts", "failures", "unsure", "lapses", "within", "n", "reason", "final"),
        *("provider", "providerStatus", "providerCode", "statusAt", "submitted", "tracked"),
        *("polls", "since", "fault", "sms", "resendOf", "resentAs"),
        *(["campaign", "window", "source", "ignoreSuppression"] if dump.format > 2 else []),
    }
    assert {family(key) for key in keys} == {
        *("m", "c", "common", "lane", "watch", "fence", "once", "bell", "gate", "dead", "bucket"),
        *("paused", "swept", "counts", "requests", "results"),
        *(["wake"] if dump.format > 1 else []),
        *(["format", "missed", "audit", "push", "suppressed"] if dump.format > 2 else []),
        *(["campaign", "campaigns", "turns", "held"] if dump.format > 2 else []),
    }
    states = {name: progress["state"] for name, (progress, _) in dump.campaigns.items()}
    plain = {name: "running" for name in ("sale", "hours", "hello", "slow")} | {"over": "ended"}
    assert states == (plain | STILL if dump.format > 2 else {})
    assert int(keys["gate:send"][2]["until"]) > dump.taken
    assert int(keys["gate:send"][2]["row"]) > 5 and keys["gate:poll"][2] == {"row": "2"}
    assert keys["results"][2]["groups"]["crm"]["pending"]
    assert all(len(keys[f"lane:{lane}:{flag}"][2]) for lane in ("high", "low") for flag in (0, 1))


@pytest.mark.slow
@pytest.mark.parametrize("dump", FORMATS[-2:-1], indirect=True)
def test_all_that_the_landed_version_left_is_finished(
    landed: Landed,
    provider: Provider,
    app: Producer,
    courier: Courier,
    start_worker: Start,
    tmp_path: Path,
) -> None:
    finish(landed, provider, app, courier, start_worker, tmp_path)


def finish(
    landed: Landed,
    provider: Provider,
    app: Producer,
    courier: Courier,
    start_worker: Start,
    folder: Path,
    command: Sequence[str] = Worker.COMMAND,
) -> None:
    # Given the dump, of which a dead letter is sent again and a lane is still paused
    again = {app.dead.resend("failed-attempts"): "failed-attempts"}
    dump = landed.dump
    jobs = {**dump.jobs, **{new: dump.jobs[old] for new, old in again.items()}}
    # When workers of this version run, with a rate limit: the landed version's bucket is not full
    env = {"COURIER_API_URL": provider.url, "COURIER_RATE_LIMIT": "200"}
    start_worker(**env, COURIER_SUPPRESSION_KEY=KEY, command=command)
    due = {*dump.waiting(), *dump.watched(), *again} - {*FAR}
    held = {id for id in due if dump.is_low(id) or dump.is_paused(id)}
    wait_for_ends(landed, due - held)
    # Then they keep to the pauses, and go on when these are over
    addresses = {each["message"]["address"] for each in provider.accepted()}
    assert len(held) > 5 and addresses.isdisjoint(jobs[id]["address"] for id in held)
    courier("resume", "low")
    wait_for_ends(landed, {id for id in due if not dump.is_paused(id)})
    if dump.campaigns:
        addresses = {each["message"]["address"] for each in provider.accepted()}
        paused = {id for id in due if dump.is_paused(id)}
        assert len(paused) == 7 and addresses.isdisjoint(jobs[id]["address"] for id in paused)
        assert app.campaign("paused").resume().state == "running"
        wait_for_ends(landed, due)
    # And each that waited is sent once as it was asked for, or parked, or ended by its time
    check_sent(provider, {id: jobs[id] for id in due - {*dump.watched(), *UNSENT}})
    # And each ended as the provider and its policy say, with events that go on where they were
    events = landed.events()
    check_ends(dump, app, events, due, jobs)
    assert not events.keys() & {*FAR}
    # And the counters have gone on with them
    check_counters(landed, events)
    # And the group gets what it hadn't acknowledged first, then what it hadn't got, each once
    check_group(landed, app)
    # And campaigns say what their messages' events say
    check_campaigns(landed, app, events)
    # And a webhook sends what it had to send
    if dump.campaigns:
        asyncio.run(check_pushed(landed, app, folder))


def wait_for_ends(landed: Landed, ids: set[str]) -> None:
    def missing() -> set[str]:
        return ids - {id for id, events in landed.events().items() if events[-1]["final"]}

    try:
        wait_for(lambda: not missing(), 40)
    except AssertionError:
        raise AssertionError(f"not ended: {sorted(missing())}") from None


def check_sent(provider: Provider, jobs: dict[str, dict[str, Any]]) -> None:
    accepted = {each["message"]["address"]: each for each in provider.accepted()}
    assert len(accepted) == len(provider.accepted())  # none twice
    assert sorted(accepted) == sorted(job["address"] for job in jobs.values())
    for id, job in jobs.items():
        sent = accepted[job["address"]]
        wire = {"type": "viber", **{k: v for k, v in job.items() if k not in OPTIONS}}
        assert sent["resendSms"] == job.get("resendSms", "smsText" in job), id
        if "ttlSec" in job:  # what is left of it, at most
            names = VALIDITIES if sent["resendSms"] else VALIDITIES[:1]
            for name in names:
                longest = min(job["ttlSec"], wire.pop(name, 86400))
                assert longest - 300 <= sent["message"].pop(name) <= longest, (id, name)
        assert sent["message"] == wire, id
    # A request that was refused is gone on with in halves; what crashed workers goes alone.
    sizes = Counter(each["request"] for each in accepted.values())
    for id, most in [*((f"halved-{n}", 4) for n in range(8)), ("lapsed-to-alone", 1)]:
        assert sizes[accepted[jobs[id]["address"]]["request"]] <= most, id


def check_ends(
    dump: Dump,
    app: Producer,
    events: dict[str, list[dict[str, Any]]],
    due: set[str],
    jobs: dict[str, dict[str, Any]],
) -> None:
    check_events({id: events[id] for id in {*due, *dump.ended()}})
    for id in due:
        last, n = events[id][-1], int(dump.records.get(id, {}).get("n", 0))
        asked = SENT.get(jobs[id]["address"][-2:], ("read", None))
        status = (UNSENT | WATCHED).get(id) or (("read", None) if id in dump.watched() else asked)
        assert (last["status"], last["reason"]) == status, id
        assert len(events[id]) > n, id
        assert last["metadata"] == jobs[id].get("metadata", {}), id
        assert last["unsure"] == UNSURE.get(id, 0), id
        assert last["attempts"] == dump.attempts_before(id) + dump.attempts_since(id), id
    check_records(app, events)


def check_records(app: Producer, events: dict[str, list[dict[str, Any]]]) -> None:
    """``get`` says of each ended message what its last event says."""
    for id, (*_, last) in events.items():
        if not last["final"]:
            continue
        record = app.get(id)
        assert record is not None and record.final, id
        assert told(record) == {name: last[name] for name in told(record)}, id
        assert record.resend_of == last.get("resendOf"), id


def told(record: Record) -> dict[str, Any]:
    """A record's values by their names in an event."""
    return {
        **{"status": record.status, "final": record.final, "reason": record.reason},
        **{"attempts": record.attempts, "unsure": record.unsure, "providerId": record.provider_id},
        **{"providerStatus": record.provider_status, "metadata": record.metadata},
        "sms": [{"id": s.id, "state": s.state} for s in record.sms],
    }


def check_counters(landed: Landed, events: dict[str, list[dict[str, Any]]]) -> None:
    """The landed version counted a message again that was closed in the status it had."""
    told, entered = Counter[str](), Counter[str]()
    for of_one in events.values():
        for before, event in zip([None, *of_one], of_one, strict=False):
            reason = event["reason"]
            name = event["status"] if reason is None else f"{event['status']}:{reason}"
            told[name] += 1
            entered[name] += before is None or before["status"] != event["status"]
    found: Any = landed.client.hgetall(landed.key("counts"))
    counts = {k: int(v) for k, v in found.items() if k.split(":")[0] in {*Status} - {"queued"}}
    assert counts.keys() <= told.keys()
    assert not {k for k in told if not entered[k] <= counts.get(k, 0) <= told[k]}


def check_group(landed: Landed, app: Producer) -> None:
    entries: Any = landed.client.xrange(landed.key("results"))
    ids = {entry: json.loads(fields["event"])["id"] for entry, fields in entries}
    assert landed.pending and [*ids][: len(landed.entries)] == landed.entries
    got = list(app.results("crm", "web-1", block=0.5))
    last = landed.pending[-1]
    new = [entry for entry in ids if key_of(entry) > key_of(last)]
    assert [event.id for event in got] == [ids[entry] for entry in (*landed.pending, *new)]


def check_campaigns(landed: Landed, app: Producer, events: dict[str, list[dict[str, Any]]]) -> None:
    """Progress and report are exact to the message."""
    for name, (before, listed) in landed.dump.campaigns.items():
        progress = app.campaign(name).progress()
        ids = [row["id"] for row in listed]
        final = [id for id in ids if id in events and events[id][-1]["final"]]
        assert [progress.added, progress.ended] == [before["added"], len(final)], name
        assert (progress.waiting, progress.inside) == (len(ids) - len(final), 0), name
        last = Counter(events[id][-1]["status"] if id in final else "queued" for id in ids)
        assert progress.statuses == last, name
        told = Counter(word(event) for id in ids for event in events.get(id, ()))
        assert progress.entered == told, name
        states = {"paused": "ended", "sale": "running"} | {
            n: s for n, s in STILL.items() if n in ("early", "stopped")
        }
        assert progress.state == states.get(name, "ended"), name
        report = list(app.campaign(name).report())
        assert [(row.row, row.id) for row in report] == [(row["row"], row["id"]) for row in listed]
        for row in report:
            assert row.final is (row.id in final) is (row.ended is not None), row
            if row.final:
                event = events[row.id][-1]
                found = (row.status, row.reason, row.attempts, row.unsure)
                assert found == tuple(event[n] for n in ("status", "reason", "attempts", "unsure"))


def word(event: dict[str, Any]) -> str:
    """An event's counter."""
    status, reason = event["status"], event["reason"]
    return f"{status}:{reason}" if reason else status


async def check_pushed(landed: Landed, app: Producer, folder: Path) -> None:
    """What waited is sent first, then what the group had not got; what was put aside stays so."""
    waiting, aside = (
        (landed.dump.keys[f"push:{n}:hook"][2]["entries"]) for n in ("waiting", "aside")
    )
    before = [fields["id"] for _, fields in waiting]
    last = landed.dump.keys["results"][2]["groups"]["hook"]["last"]
    count = sum(
        key_of(entry) <= key_of(last) for entry, _ in landed.dump.keys["results"][2]["entries"]
    )
    entries: Any = landed.client.xrange(landed.key("results"))
    ids = [json.loads(fields["event"])["id"] for _, fields in entries][count:]
    receiver = Receiver()
    async with receiver.serve() as url, pushing(app, url, folder, group="hook"):
        await until(lambda: len(receiver.taken) >= len(before) + len(ids))
    assert sorted(receiver.taken) == sorted([*before, *ids]) and len(before) == 3
    for message in {id.rpartition(":")[0] for id in receiver.taken}:
        of_one = [id for id in receiver.taken if id.rpartition(":")[0] == message]
        assert of_one == [id for id in [*before, *ids] if id in of_one]
    left: Any = landed.client.xrange(landed.key("push:aside:hook"))
    assert [fields for _, fields in left] == [fields for _, fields in aside]


def key_of(entry: str) -> tuple[int, ...]:
    return tuple(int(part) for part in entry.split("-"))


@pytest.fixture
def app(redis_server: RedisServer, dump: Dump, namespace: str) -> Iterator[Producer]:
    """An app on the day of the dump: some of its jobs are for a certain day."""
    settings = Settings(redis_url=redis_server.url, namespace=namespace, suppression_key=KEY)
    producer = Producer(settings, clock=lambda: dump.taken / 1e6)
    yield producer
    producer.close()


def test_records_are_read_as_they_were(landed: Landed, app: Producer) -> None:
    events = landed.events()
    check_records(app, events)
    assert {id for id, (*_, last) in events.items() if last["final"]} == {*landed.dump.ended()}
    for id, stored in landed.dump.records.items():
        record = app.get(id)
        assert record is not None
        inside = id.startswith("inside-")
        assert record.status == ("sending" if inside else stored["status"]), id
        assert record.attempts == int(stored.get("attempts", 0)) + inside, id
        assert record.final is ("final" in stored), id
        assert record.metadata == json.loads(stored.get("metadata", "{}")), id
        assert record.provider_code == stored.get("providerCode"), id
        assert record.status_at == stored.get("statusAt"), id


def test_campaigns_are_read_as_they_were(landed: Landed, app: Producer) -> None:
    assert {each.name for each in app.campaigns()} == {*landed.dump.campaigns}
    for name, (before, listed) in landed.dump.campaigns.items():
        progress = asdict(app.campaign(name).progress())
        moved = ("created", "seconds_left", "later")  # the last one is new
        assert {k: v for k, v in progress.items() if k not in moved} == {
            k: v for k, v in before.items() if k not in moved
        }
        for row, was in zip(app.campaign(name).report(), listed, strict=True):
            kept = {k: v for k, v in was.items() if k not in ("submitted", "ended")}
            assert asdict(row) == {**kept, "submitted": row.submitted, "ended": row.ended}
            assert [bool(row.submitted), bool(row.ended)] == [
                bool(was["submitted"]),
                bool(was["ended"]),
            ]


@pytest.mark.parametrize("dump", [3], indirect=True)
def test_suppressed_numbers_are_still_so(landed: Landed, app: Producer) -> None:
    jobs, listed = landed.dump.jobs, app.suppressions
    for id, reason in {
        "ended-sale-suppressed": "asked us to stop",
        "ended-sale-suppressed-month": "a month",
        "queued-sale-suppressed": "while it waited",
        "ended-sale-blocked": "user-blocked",
    }.items():
        entry = listed.get(jobs[id]["address"])
        assert entry and entry.reason == reason
        assert (entry.until is not None) == (reason == "a month")
    assert len(list(listed.list())) == len(landed.dump.keys["suppressed"][2]) - 1


def test_an_id_is_still_the_same_message(landed: Landed, app: Producer) -> None:
    before = stored(landed)
    # A cancelled campaign takes none, and the call that finds a number suppressed ends its message.
    taken = ("queued-sale-suppressed", "stopped")
    ids = {
        id: job
        for id, job in landed.dump.jobs.items()
        if id in landed.dump.records and id not in taken and job.get("campaign") not in taken
    }
    assert len(ids) > 100
    for id, job in ids.items():
        assert app.enqueue({**job, "id": id}) == id
        with pytest.raises(Conflict):
            app.enqueue({**job, "id": id, "comment": "another"})
    rows = [{"id": id, **job} for id, job in ids.items()]
    assert app.enqueue_many(rows, common={"subject": "Shop"}) == [*ids]
    assert stored(landed) == before


def stored(landed: Landed) -> dict[str, Any]:
    """All that is kept of messages: records and places."""
    found = dict[str, Any]()
    for key in landed.dump.keys:
        if family(key) == "m":
            found[key] = landed.client.hgetall(landed.key(key))
        elif family(key) in ("lane", "watch", "dead") and key != "dead:pace":
            found[key] = landed.client.zrange(landed.key(key), 0, -1, withscores=True)
    return found


def test_cancel_knows_what_has_left(landed: Landed, app: Producer) -> None:
    never_left = ("queued-text", "row-0", "queued-far", "lapsed", "retry-entry", "halved-3")
    for id in (*never_left, "cancelled"):
        assert app.cancel(id), id
    for id in ("inside-park", "watched-sent", "ended-read", "retry-unsure", "unsure-cancelled"):
        assert not app.cancel(id), id
    events = landed.events()
    for id in never_left:
        (event,) = events[id]
        assert (event["status"], event["reason"]) == ("cancelled", "by-request")
    assert events["retry-unsure"][-1]["status"] == "unconfirmed"
    check_events({id: events[id] for id in (*never_left, "retry-unsure", "cancelled")})
    assert landed.score("lane:normal:0", "inside-park") % 4 == 2


def test_dead_letters_are_listed_resent_and_dropped(landed: Landed, app: Producer) -> None:
    letters, jobs, records = list(app.dead.list()), landed.dump.jobs, landed.dump.records
    by_end = landed.dump.keys["dead"][2]
    assert [letter.id for letter in letters] == sorted(by_end, key=lambda id: int(by_end[id]))
    kept = {id for id in by_end if id in jobs} - {"rejected-erased", "failed-content-gone-0"}
    assert {letter.id for letter in letters if letter.has_content} == kept
    for id in kept:
        job = app.dead.job(id)
        asked = {k: v for k, v in jobs[id].items() if k not in ("id", "sendAt")}
        assert job == {"resendSms": "smsText" in asked, **asked}, id
    # Letters are sent again as today's are, going on where the landed version's pace was
    pace = int(landed.client.get(landed.key("dead:pace")))  # type: ignore[arg-type]
    done = app.dead.resend_many(status="failed", rate=1.0)
    assert {*done.ids} == {"failed-crashed", "failed-attempts"}
    assert {*done.refused} == {"failed-content-gone-0"}
    due = [landed.score("lane:high:0", done.ids["failed-crashed"])]
    due += [landed.score("lane:high:1", done.ids["failed-attempts"])]
    assert pace + 900_000 < due[0] < due[1] < pace + 2_100_000
    # What was sent again, or dropped, by the landed version stays so
    for id in ("unsure-resent", "rejected-resent", "ended-failed-there", "ended-failed-again"):
        new = app.dead.resend(id, unconfirmed=True)
        assert new == records[id]["resentAs"] and records[new]["resendOf"] == id
    with pytest.raises(NotDead):
        app.dead.resend("unsure-cancelled", unconfirmed=True)
    # And what can't be sent again is refused
    for id, refusal in {
        "unsure-parked": Unconfirmed,
        "rejected-erased": ContentGone,
        "failed-content-gone-0": ContentGone,
        "rejected-invalid": ContentGone,
    }.items():
        with pytest.raises(refusal):
            app.dead.resend(id)
    new = app.dead.resend("unsure-parked", unconfirmed=True)
    assert app.dead.resend("unsure-parked") == new
    # And dropped
    app.dead.drop("tracked-out")
    app.dead.drop("tracked-out")
    assert app.dead.drop_many(status="rejected") == (8 if landed.dump.campaigns else 5)
    assert [letter.id for letter in app.dead.list()] == ["failed-content-gone-0"]


def test_the_group_goes_on_where_it_was(landed: Landed, app: Producer) -> None:
    entries: Any = landed.client.xrange(landed.key("results"))
    ids = {entry: json.loads(fields["event"])["id"] for entry, fields in entries}
    reader = app.results("crm", "web-1", block=0.5)
    first = list(islice(reader, len(landed.pending)))
    assert [event.id for event in first] == [ids[entry] for entry in landed.pending]
    for event in first:
        event.ack()
    reader.close()
    pending: Any = landed.client.xpending(landed.key("results"), "crm")
    assert pending["pending"] == 0

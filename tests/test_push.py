"""``courier webhook``: what a receiver gets, in which order, and what each of its answers does."""

from __future__ import annotations

import asyncio
import ipaddress
import os
import random
import signal
import socket
import ssl
import time
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from typing import Any

import pytest
import redis
from aiohttp import web

from tests.conftest import Courier, free_port, log_lines, text_job
from tests.push import (
    OTHER,
    SECRET,
    Receiver,
    cancelled,
    in_order,
    many,
    metric,
    pushing,
    until,
)
from tests.tls import Authority
from viber_courier import AsyncProducer, ConfigError, Producer, Settings
from viber_courier.ops.push import endpoint as endpoint_module
from viber_courier.ops.push import line as line_module
from viber_courier.ops.push import outbox as outbox_module
from viber_courier.ops.push import webhook as webhook_module
from viber_courier.ops.push.endpoint import Secrets, judge, may_reach
from viber_courier.ops.push.line import ASKED_CAP, Failure, Line, Waiting
from viber_courier.ops.redis_server import RedisServer
from viber_courier.store.keys import Keys

PHONE, TEXT = "79255550123", "Kod-40417"


@pytest.fixture
def producer(redis_server: RedisServer, namespace: str) -> Iterator[Producer]:
    with closing(Producer(Settings(redis_url=redis_server.url, namespace=namespace))) as made:
        yield made


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(line_module, "RETRY_BASE", 0.02)
    monkeypatch.setattr(endpoint_module, "REREAD_SECONDS", 0.0)


def left(producer: Producer, group: str = "crm") -> tuple[int, int, int]:
    """Events unacknowledged, waiting, and put aside."""
    keys, client = Keys(producer.settings.namespace), producer.redis
    waiting, aside = (client.xlen(keys.push(name, group)) for name in ("waiting", "aside"))
    try:
        pending: Any = client.xpending(keys.results, group)
    except redis.ResponseError:  # there is no such group yet
        pending = {"pending": -1}
    return pending["pending"], int(waiting), int(aside)  # type: ignore[arg-type]


def failing(status: int, which: Callable[[list[str]], bool], **headers: str) -> Any:
    """An answer for events of these ids, by their first."""

    async def answer(receiver: Receiver, events: list[dict[str, Any]]) -> web.Response | None:
        is_one = which([event["id"] for event in events])
        return web.Response(status=status, headers=headers) if is_one else None

    return answer


# What comes


def test_an_event_comes_signed_as_a_cloudevents_document(
    producer: Producer, tmp_path: Path
) -> None:
    cancelled(producer, "a", metadata={"order": 5}, source="shop")
    expected = next(iter(producer.results("other", "one", block=0.0)))

    async def run() -> None:
        receiver = Receiver()  # which verifies by the library of Standard Webhooks
        async with receiver.serve() as url, pushing(producer, url, tmp_path) as webhook:
            await until(lambda: receiver.taken)
            await until(lambda: left(producer) == (0, 0, 0))
            assert metric(webhook._metrics, "courier_push_events_total", group="crm") == 1
            await until(lambda: metric(webhook._metrics, "courier_push_active") == 1)
        request, body = receiver.requests[0], receiver.bodies[0]
        assert request.headers["Content-Type"] == "application/cloudevents+json"
        assert body == {
            "specversion": "1.0",
            "id": "a:1",
            "source": f"viber-courier/{producer.settings.namespace}",
            "type": "viber.message.cancelled",
            "subject": "a",
            "time": expected.time,
            "datacontenttype": "application/json",
            "data": expected.data,
        }

    asyncio.run(run())
    stream: Any = producer.redis.xrange(Keys(producer.settings.namespace).results)
    assert len(stream) == 1  # which has the same document, as docs/events.md shows it


def test_many_come_in_lists_each_messages_in_order(producer: Producer, tmp_path: Path) -> None:
    many(producer, 50, 4)

    async def run() -> None:
        receiver = Receiver()
        async with receiver.serve() as url, pushing(producer, url, tmp_path, batch=30):
            await until(lambda: len(receiver.taken) == 200)
        kinds = {each.headers["Content-Type"] for each in receiver.requests}
        assert kinds == {"application/cloudevents-batch+json"}
        assert max(len(body) for body in receiver.bodies) == 30
        assert in_order(receiver.taken)
        assert len({each.headers["webhook-id"] for each in receiver.requests}) == len(
            receiver.requests
        )

    asyncio.run(run())
    assert left(producer) == (0, 0, 0)


def test_a_source_gets_its_own_events(producer: Producer, tmp_path: Path) -> None:
    cancelled(producer, "a", source="shop")
    cancelled(producer, "b", source="crm")
    cancelled(producer, "c", source="shop")

    async def run() -> None:
        receiver = Receiver()
        async with receiver.serve() as url, pushing(producer, url, tmp_path, source="shop"):
            await until(lambda: len(receiver.taken) == 2)
        assert sorted(receiver.taken) == ["a:1", "c:1"]

    asyncio.run(run())
    assert left(producer) == (0, 0, 0)


def test_secrets_rotate_without_a_restart(producer: Producer, tmp_path: Path) -> None:
    async def run() -> None:
        receiver = Receiver()
        async with receiver.serve() as url, pushing(producer, url, tmp_path):
            cancelled(producer, "a")
            await until(lambda: "a:1" in receiver.taken)
            # Given both, a receiver may know either
            (tmp_path / "secrets").write_text(f"{OTHER}\r\n{SECRET}\n")
            cancelled(producer, "b")
            await until(lambda: "b:1" in receiver.taken)
            assert receiver.requests[-1].headers["webhook-signature"].count("v1,") == 2
            receiver.know(OTHER)
            cancelled(producer, "c")
            await until(lambda: "c:1" in receiver.taken)
            # A file that can't be right changes nothing
            (tmp_path / "secrets").write_text(SECRET + "x")  # half-written
            cancelled(producer, "d")
            await until(lambda: "d:1" in receiver.taken)

    asyncio.run(run())


@pytest.mark.parametrize(
    "text", ["", "MfKQ9r8G", "whsec_c2hvcnQ=", f"{SECRET}\nx", f"{SECRET}x", "whsec_" + "A" * 100]
)
def test_secrets_that_can_t_be_right_are_refused_unseen(tmp_path: Path, text: str) -> None:
    (tmp_path / "s").write_text(text)
    with pytest.raises(ConfigError, match="must hold a line whsec_") as refused:
        Secrets(tmp_path / "s")
    assert not text or text not in str(refused.value)
    with pytest.raises(ConfigError, match="--secret-file: can't be read: FileNotFoundError"):
        Secrets(tmp_path / "none")


# Order, and what fails


@pytest.mark.slow
@pytest.mark.parametrize("batch", [0, 7])
def test_of_one_message_order_is_kept_whatever_fails(
    producer: Producer, tmp_path: Path, batch: int
) -> None:
    many(producer, 20, 10)
    chance = random.Random(batch)

    async def unlucky(receiver: Receiver, events: list[dict[str, Any]]) -> web.Response | None:
        what = chance.random()
        if what < 0.1:
            await asyncio.sleep(0.5)  # beyond its patience; and it is taken
        elif what < 0.2:
            receiver.taken += [event["id"] for event in events]  # taken, and nobody hears of it
            raise ConnectionResetError
        elif what < 0.3:
            return web.Response(status=chance.choice([500, 502, 429, 503, 404]))
        await asyncio.sleep(chance.random() * 0.02)
        return None

    async def run() -> None:
        receiver = Receiver(unlucky)
        more = {"batch": batch, "seconds": 0.25}
        async with receiver.serve() as url, pushing(producer, url, tmp_path, **more):
            await until(lambda: len(receiver.first) == 200, 60)
            await until(lambda: left(producer) == (0, 0, 0))
        assert in_order(receiver.first)
        assert len(receiver.taken) > 200  # some came twice
        # An event, alone, has the same id each time
        ids = dict[str, set[str]]()
        for request, body in zip(receiver.requests, receiver.bodies, strict=True):
            key = body["id"] if isinstance(body, dict) else str([each["id"] for each in body])
            ids.setdefault(key, set()).add(request.headers["webhook-id"])
        assert {len(each) for each in ids.values()} == {1}
        assert len(set.union(*ids.values())) == len(ids)

    asyncio.run(run())


@pytest.mark.slow
@pytest.mark.parametrize("batch", [0, 10])
def test_what_goes_on_failing_holds_up_its_message_only_and_is_put_aside(
    producer: Producer, tmp_path: Path, courier: Courier, batch: int
) -> None:
    many(producer, 10, 3)
    is_bad = True
    receiver = Receiver(failing(422, lambda ids: is_bad and "m3:2" in ids))

    async def run(give_up: float, enough: int) -> None:
        async with receiver.serve() as url:
            more = {"batch": batch, "give_up": give_up}
            async with pushing(producer, url, tmp_path, **more) as webhook:
                await until(lambda: len(receiver.first) == enough)
                if enough == 29:
                    await until(lambda: left(producer) == (0, 0, 1))
                    series = {"reason": "http-422", "group": "crm"}
                    failures = metric(webhook._metrics, "courier_push_failures_total", **series)
                    assert failures >= line_module.TRIES
                    await until(lambda: metric(webhook._metrics, "courier_push_put_aside") == 1)

    asyncio.run(run(3600, 28))
    assert left(producer) == (0, 2, 0)
    asyncio.run(run(0.01, 29))
    assert "m3:3" in receiver.taken  # a later event waits no longer
    # When it can be taken
    is_bad = False
    group = ["--group", "crm"]
    line = courier("webhook", "failed", "list", *group).stdout.split()
    assert line[1:] == ["m3:2", "http-422"]
    assert courier.json("webhook", "failed", "list", *group)["id"] == "m3:2"
    assert courier("webhook", "failed", "resend", "m3:2", "x", *group, code=1).stdout == (
        "x  was not put aside\n1 resent\n"
    )
    asyncio.run(run(3600, 30))
    assert left(producer) == (0, 0, 0)


@pytest.mark.slow
def test_what_was_put_aside_can_be_dropped(
    producer: Producer, tmp_path: Path, courier: Courier, monkeypatch: pytest.MonkeyPatch
) -> None:
    many(producer, 3)
    monkeypatch.setattr(line_module, "GATE_CAP", 0.05)
    receiver = Receiver(failing(400, lambda ids: True))

    async def run() -> None:
        async with receiver.serve() as url, pushing(producer, url, tmp_path, give_up=0.01):
            await until(lambda: left(producer) == (0, 0, 3))

    asyncio.run(run())
    group = ["--group", "crm"]
    dropped = courier.json("webhook", "failed", "drop", "m1:1", *group)
    assert dropped == {"dropped": ["m1:1"], "unknown": []}
    said = courier("webhook", "failed", "list", "--most", "1", *group)
    assert len(said.stdout.splitlines()) == 1 and "There are more" in said.stderr
    words = ("webhook", "failed", "drop", "--all", *group)
    assert courier.type("n", *words)[::2] == (
        1,
        "Drop 2 events that were put aside? [y/N] Error: not confirmed: nothing was changed\n",
    )
    assert courier(*words).stdout == "2 dropped\n"
    assert courier("webhook", "failed", "list", *group).stdout == ""
    for wrong in (["drop"], ["resend", "--all", "m0:1"]):
        assert "name IDS" in courier("webhook", "failed", *wrong, *group, code=2).stderr


@pytest.mark.parametrize("form", ["seconds", "date"])
@pytest.mark.slow
def test_retry_after_is_obeyed_by_all(producer: Producer, tmp_path: Path, form: str) -> None:
    many(producer, 5)
    date = datetime.now(UTC).replace(microsecond=0) + timedelta(seconds=4)
    headers = {"Retry-After": "2" if form == "seconds" else format_datetime(date, usegmt=True)}
    receiver = Receiver(failing(503, lambda ids: len(receiver.times) == 1, **headers))

    async def run() -> None:
        async with receiver.serve() as url, pushing(producer, url, tmp_path, concurrency=1):
            await until(lambda: len(receiver.taken) == 5)

    asyncio.run(run())
    ago = time.monotonic() - receiver.times[1]
    if form == "seconds":
        assert receiver.times[1] - receiver.times[0] >= 1.8
    else:  # the first may come at any time before it
        assert datetime.now(UTC) - timedelta(seconds=ago) >= date - timedelta(seconds=0.2)
    assert len(receiver.times) == 6


@pytest.mark.slow
def test_an_endpoint_that_is_gone_ends_it_and_nothing_is_lost(
    producer: Producer, tmp_path: Path
) -> None:
    many(producer, 50)
    receiver = Receiver(failing(410, lambda ids: len(receiver.taken) >= 10))

    async def run() -> None:
        async with receiver.serve() as url, pushing(producer, url, tmp_path) as webhook:
            await until(lambda: webhook.is_gone)
        # The next endpoint gets all that this one did not
        other = Receiver()
        async with other.serve() as url, pushing(producer, url, tmp_path):
            await until(lambda: len({*receiver.taken, *other.taken}) == 50)
            await until(lambda: left(producer) == (0, 0, 0))

    asyncio.run(run())


def test_a_status_counts_whatever_becomes_of_its_body(producer: Producer, tmp_path: Path) -> None:
    many(producer, 1)

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"}}")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n")
        await reader.read()
        writer.close()

    async def run() -> None:
        async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
            url = f"http://localhost:{server.sockets[0].getsockname()[1]}"
            async with pushing(producer, url, tmp_path, seconds=0.5) as webhook:
                await until(lambda: metric(webhook._metrics, "courier_push_events_total"))
                assert metric(webhook._metrics, "courier_push_failures_total") == 0

    asyncio.run(run())
    assert left(producer) == (0, 0, 0)


def test_redirects_are_not_followed(producer: Producer, tmp_path: Path) -> None:
    cancelled(producer, "a")
    target = Receiver()

    async def run() -> None:
        async with target.serve() as there:
            receiver = Receiver(failing(307, lambda ids: True, Location=there))
            async with receiver.serve() as url, pushing(producer, url, tmp_path) as webhook:
                name = "courier_push_failures_total"
                await until(lambda: metric(webhook._metrics, name, reason="http-307") >= 3)
                assert metric(webhook._metrics, "courier_push_failing_seconds") > 0
        assert target.requests == []

    asyncio.run(run())
    assert left(producer) == (0, 1, 0)


def test_events_outlive_the_stream_that_they_came_from(producer: Producer, tmp_path: Path) -> None:
    many(producer, 30)

    async def run() -> None:
        port = free_port()
        async with pushing(producer, f"http://localhost:{port}/hook", tmp_path):
            await until(lambda: left(producer) == (0, 30, 0))
            producer.redis.xtrim(Keys(producer.settings.namespace).results, maxlen=0)
            receiver = Receiver()
            async with receiver.serve(port):
                await until(lambda: len(receiver.taken) == 30)

    asyncio.run(run())


@pytest.mark.slow
def test_an_endpoint_that_is_down_delays_its_own_group_only(
    producer: Producer, tmp_path: Path
) -> None:
    async def run() -> None:
        down, receiver = f"http://localhost:{free_port()}/hook", Receiver()
        async with (
            receiver.serve() as url,
            pushing(producer, down, tmp_path, group="down"),
            pushing(producer, url, tmp_path),
        ):
            many(producer, 50)
            await until(lambda: len(receiver.taken) == 50)
            await until(lambda: left(producer, "down") == (0, 50, 0))

    asyncio.run(run())


@pytest.mark.slow
def test_one_of_two_senders_sends_and_the_other_takes_over(
    producer: Producer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(webhook_module, "TICK", 0.05)  # the other asks for the lease as it lapses
    many(producer, 20, 3)

    async def slowly(receiver: Receiver, events: object) -> None:
        await asyncio.sleep(0.02)

    async def run() -> None:
        receiver = Receiver(slowly)
        async with (
            receiver.serve() as url,
            pushing(producer, url, tmp_path) as holder,
            pushing(producer, url, tmp_path) as heir,
        ):
            await until(lambda: len(receiver.taken) >= 10)
            if heir._lease.is_held:
                holder, heir = heir, holder
            await until(lambda: holder._lease.is_held and not heir._lease.is_held)
            # When the one that sends renews its lease no longer, as a process that hangs
            holder._lease.renew = asyncio.Event().wait  # type: ignore[assignment]
            await asyncio.sleep(0.6)  # its reads take a second: one would outlast the lease
            many(producer, 20, 3, start=20)
            await until(lambda: heir._lease.is_held)
            await asyncio.sleep(0.2)  # it has read what was pending
            # None of these goes to a read of the other that is still waiting
            many(producer, 20, 3, start=40)
            await until(lambda: len(receiver.first) == 180)
        assert in_order(receiver.first)

    asyncio.run(run())


@pytest.mark.slow
def test_an_outage_of_redis_is_sat_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    server = RedisServer(tmp_path, free_port())
    server.start()
    producer = Producer(Settings(redis_url=server.url))
    many(producer, 100)

    async def run() -> None:
        receiver = Receiver(failing(503, lambda ids: server.process is None))
        async with receiver.serve() as url, pushing(producer, url, tmp_path, concurrency=2):
            await until(lambda: len(receiver.taken) >= 20)
            await asyncio.to_thread(server.stop)
            await until(lambda: "results not readable" in caplog.text)
            await asyncio.to_thread(server.start)
            await until(lambda: len(receiver.first) == 100, 40)
            await until(lambda: left(producer) == (0, 0, 0))

    asyncio.run(run())
    producer.close()
    server.stop()


@pytest.mark.slow
def test_sending_goes_on_while_redis_does_not_answer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outbox_module, "HELD", 60.0)  # as long as a busy machine takes
    server = RedisServer(tmp_path, free_port())
    server.start()
    producer, receiver = Producer(Settings(redis_url=server.url)), Receiver()
    many(producer, 500)
    pid, stopped = producer.redis.info()["process_id"], False  # type: ignore[index]

    async def stand_still(receiver: Receiver, events: object) -> None:
        nonlocal stopped
        if not stopped and left(producer)[0] == 0:  # all were copied
            stopped = True
            os.kill(pid, signal.SIGSTOP)

    async def run() -> None:
        receiver._answer = stand_still
        async with receiver.serve() as url, pushing(producer, url, tmp_path, concurrency=2):
            await until(lambda: stopped)
            before = len(receiver.taken)
            try:
                await until(lambda: len(receiver.taken) >= before + 50)
            finally:
                os.kill(pid, signal.SIGCONT)
            await until(lambda: len(receiver.first) == 500 and left(producer) == (0, 0, 0))
        assert receiver.first == receiver.taken

    asyncio.run(run())
    producer.close()
    server.stop()


@pytest.mark.slow
def test_after_an_outage_of_redis_nothing_comes_twice_that_was_taken_during_it(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    server = RedisServer(tmp_path, free_port())
    server.start()
    producer, receiver = Producer(Settings(redis_url=server.url)), Receiver()
    many(producer, 1000)

    async def take_time(receiver: Receiver, events: object) -> None:
        await asyncio.sleep(0.05)

    async def run() -> None:
        receiver._answer = take_time
        async with receiver.serve() as url, pushing(producer, url, tmp_path, concurrency=8):
            await until(lambda: len(receiver.taken) > 20 and left(producer)[0] == 0)
            server.stop()
            before = len(receiver.taken)
            await until(lambda: "lease not asked for" in caplog.text)  # its turn is over
            assert before + 50 < len(receiver.taken) < 1000
            server.start()
            await until(lambda: left(producer) == (0, 0, 0), 60)
        assert len(receiver.taken) == len(receiver.first) == 1000

    asyncio.run(run())
    producer.close()
    server.stop()


def test_who_lost_the_lease_is_not_failing(producer: Producer, tmp_path: Path) -> None:
    many(producer, 1)
    receiver = Receiver(failing(503, lambda ids: True))
    lease = Keys(producer.settings.namespace).push("lease", "crm")

    async def run() -> None:
        async with receiver.serve() as url, pushing(producer, url, tmp_path) as webhook:
            name = "courier_push_failing_seconds"
            await until(lambda: metric(webhook._metrics, name) > 0)
            producer.redis.set(lease, "another process", ex=60)
            await until(lambda: metric(webhook._metrics, name) == 0)

    asyncio.run(run())


@pytest.mark.slow
def test_a_full_redis_is_emptied_by_what_is_sent(tmp_path: Path) -> None:
    server = RedisServer(tmp_path, free_port())
    server.start()
    producer = Producer(Settings(redis_url=server.url))
    results = Keys(producer.settings.namespace).results
    producer.redis.config_set("maxmemory-policy", "noeviction")
    is_up = False
    receiver = Receiver(failing(503, lambda ids: not is_up))

    async def run() -> None:
        nonlocal is_up
        async with receiver.serve() as url, pushing(producer, url, tmp_path):
            many(producer, 30)
            await until(lambda: left(producer) == (0, 30, 0))
            with producer.redis.pipeline(transaction=True) as pipe:
                pipe.xgroup_setid(results, "crm", "0")  # so that there are more to copy
                pipe.config_set("maxmemory", 1)
                pipe.execute()
            await until(lambda: left(producer)[0] == 30)
            is_up = True
            await until(lambda: len(receiver.taken) == 30)
            await until(lambda: left(producer) == (30, 0, 0))
            producer.redis.config_set("maxmemory", 0)
            await until(lambda: left(producer) == (0, 0, 0))

    asyncio.run(run())
    producer.close()
    server.stop()


@pytest.mark.slow
def test_one_that_starts_at_a_full_redis_says_so_and_sends_what_waits(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    server = RedisServer(tmp_path, free_port())
    server.start()
    producer = Producer(Settings(redis_url=server.url))
    is_up = False
    receiver = Receiver(failing(503, lambda ids: not is_up))

    async def run() -> None:
        nonlocal is_up
        async with receiver.serve() as url:
            # Given events that have filled Redis, and no sender
            many(producer, 30)
            async with pushing(producer, url, tmp_path):
                await until(lambda: left(producer) == (0, 30, 0))
            producer.redis.config_set("maxmemory", 1)
            is_up = True
            # When one starts, then it sends them, and no more can be copied
            async with pushing(producer, url, tmp_path):
                await until(lambda: len(receiver.taken) == 30)
                await until(lambda: left(producer) == (0, 0, 0))
            # And one of a new group waits, and says why
            async with pushing(producer, url, tmp_path, group="new"):
                full = "Redis has reached its maxmemory: nothing was stored"
                await until(lambda: full in str([vars(each) for each in caplog.records]))
                producer.redis.config_set("maxmemory", 0)
                await until(lambda: len(receiver.taken) == 60)

    asyncio.run(run())
    assert len([each for each in caplog.records if "events not taken" not in each.message]) < 9
    producer.close()
    server.stop()


def test_a_redis_that_becomes_full_takes_all_of_the_events_or_none(tmp_path: Path) -> None:
    server = RedisServer(tmp_path, free_port())
    server.start()
    producer = Producer(Settings(redis_url=server.url))
    client: Any = producer.redis
    client.config_set("maxmemory-policy", "noeviction")
    client.config_set("maxmemory", client.info("memory")["used_memory"] + 2 * 1024**2)

    async def run() -> None:
        async with AsyncProducer(producer.settings) as made:
            outbox = outbox_module.Outbox(made.redis, made.settings.namespace, "crm")
            with suppress(redis.RedisError):
                await outbox.add([("a", f"a:{n}", "x" * 10_000) for n in range(500)])

    asyncio.run(run())
    assert client.xlen(Keys(producer.settings.namespace).push("waiting", "crm")) in (0, 500)
    producer.close()
    server.stop()


@pytest.mark.slow
def test_a_redis_that_refuses_to_write_is_not_asked_in_a_row(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    server = RedisServer(tmp_path, free_port())
    server.start()
    producer = Producer(Settings(redis_url=server.url))
    many(producer, 2000)

    async def refuse(receiver: Receiver, events: object) -> None:
        if len(receiver.requests) == 1:
            await asyncio.to_thread(producer.redis.config_set, "min-replicas-to-write", 1)

    async def run() -> None:
        receiver = Receiver(refuse)
        async with receiver.serve() as url, pushing(producer, url, tmp_path, concurrency=2):
            await until(lambda: "lease not asked for" in caplog.text)
            producer.redis.config_set("min-replicas-to-write", 0)
            # The second thousand may not have been read yet when the first has been sent
            await until(lambda: len(receiver.first) == 2000 and left(producer) == (0, 0, 0), 60)

    asyncio.run(run())
    assert caplog.text.count("waiting events not read") < 20
    producer.close()
    server.stop()


@pytest.mark.slow
def test_no_log_line_holds_anything_of_a_message(
    producer: Producer, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    producer.enqueue(
        text_job(PHONE, id="a", content={"text": TEXT}, metadata={"phone": PHONE, "text": TEXT})
    )
    producer.cancel("a")
    receiver = Receiver(failing(400, lambda ids: True))

    async def run() -> None:
        async with receiver.serve() as url, pushing(producer, url, tmp_path, give_up=0.01):
            await until(lambda: left(producer) == (0, 0, 1))
        async with pushing(producer, "http://localhost:1/hook?key=hidden", tmp_path):
            await asyncio.sleep(0.1)

    asyncio.run(run())
    told = " ".join(str(vars(record)) for record in caplog.records)
    assert "events not taken" in told and "event put aside" in told
    assert PHONE not in told and TEXT not in told and "hidden" not in told


# TLS and addresses


def authority(name: str, folder: Path) -> tuple[str, ssl.SSLContext]:
    """The file of an authority, and what a server with its certificate has."""
    (folder / name).mkdir()
    made = Authority(folder / name)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(made.certificate, made.key)
    return made.ca, context


@pytest.mark.slow
def test_tls_is_verified(producer: Producer, tmp_path: Path) -> None:
    ours, theirs = authority("ours", tmp_path), authority("theirs", tmp_path)
    cancelled(producer, "a")

    async def run() -> None:
        receiver = Receiver()
        async with receiver.serve(ssl_context=ours[1]) as url:
            for wrong in (theirs[0], None):
                async with pushing(producer, url, tmp_path, ca_file=wrong) as webhook:
                    name = "courier_push_failures_total"
                    await until(lambda: metric(webhook._metrics, name, reason="tls"))  # noqa: B023
            assert receiver.requests == []
            async with pushing(producer, url, tmp_path, ca_file=ours[0]):
                await until(lambda: receiver.taken == ["a:1"])

    asyncio.run(run())


@pytest.mark.parametrize(
    "host",
    ["localhost", "127.0.0.1", "[::ffff:127.0.0.1]", "rebound.example", "127.1", "2130706433"],
)
def test_addresses_inside_are_refused_when_the_connection_is_made(
    producer: Producer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, host: str
) -> None:
    cancelled(producer, "a")
    resolve = socket.getaddrinfo

    def rebound(name: Any, port: Any, *more: Any, **given: Any) -> Any:
        return resolve("127.0.0.1" if name == "rebound.example" else name, port, *more, **given)

    monkeypatch.setattr(socket, "getaddrinfo", rebound)

    async def run() -> None:
        receiver = Receiver()
        async with receiver.serve() as url:
            url = url.replace("localhost", host).replace("http:", "https:")
            async with pushing(producer, url, tmp_path, allowed=[]) as webhook:
                name = "courier_push_failures_total"
                await until(lambda: metric(webhook._metrics, name, reason="address-refused") >= 1)
        assert receiver.requests == []

    asyncio.run(run())


def test_a_public_address_is_not_reached_without_tls_and_an_allowed_one_is() -> None:
    assert may_reach("8.8.8.8", [], True) and not may_reach("8.8.8.8", [], False)
    inner = [ipaddress.ip_network("10.1.0.0/16"), ipaddress.ip_network("fd00::/8")]
    for address in ("10.1.2.3", "::ffff:10.1.2.3", "64:ff9b::a01:203", "fd00::1"):
        assert may_reach(address, inner, False), address
    assert not may_reach("10.2.2.3", inner, True)
    assert may_reach("2606:4700:4700::1111", [], True)


@pytest.mark.parametrize(
    "address",
    [
        *("127.0.0.1", "10.0.0.1", "172.16.0.1", "192.168.1.1", "169.254.169.254", "100.64.0.1"),
        *("0.0.0.0", "224.0.0.1", "255.255.255.255", "240.0.0.1", "192.0.2.1", "198.18.0.1"),
        *("::1", "::", "fe80::1%eth0", "fc00::1", "fec0::1", "ff02::1", "2001:db8::1"),
        *("::ffff:127.0.0.1", "::ffff:169.254.169.254", "::127.0.0.1", "64:ff9b::7f00:1"),
        *("2002:7f00:1::", "2001:0:0:0:0:0:80ff:fffe"),
    ],
)
def test_addresses_inside_are_so_in_every_spelling(address: str) -> None:
    assert not may_reach(address, [], True)


# What is sent next, without I/O


def waiting(*ids: str) -> list[Waiting]:
    return [Waiting(f"{n}-0", id.partition(":")[0], id, "{}") for n, id in enumerate(ids)]


def line_of(*ids: str, batch: int = 1, most: int = 2) -> Line:
    made = Line(batch, most, lambda seconds: seconds)
    made.add(waiting(*ids))
    return made


def ids(events: list[Waiting]) -> list[str]:
    return [event.id for event in events]


REFUSED, AWAY = Failure("http-500"), Failure("connection", True)


def test_a_message_has_one_request_at_work_and_others_go_beside_it() -> None:
    line = line_of("a:1", "a:2", "b:1", "c:1")
    first, second = line.take(0.0), line.take(0.0)
    assert (ids(first), ids(second), line.take(0.0)) == (["a:1"], ["b:1"], [])
    line.succeeded(first, 0.0)
    third = line.take(0.0)
    assert ids(third) == ["c:1"]
    line.succeeded(second, 0.0)
    assert ids(line.take(0.0)) == ["a:2"]
    assert line.room == line_module.WINDOW - 2


def test_a_list_is_filled_from_several_messages() -> None:
    line = line_of("a:1", "a:2", "b:1", "c:1", batch=3)
    taken = line.take(0.0)
    assert ids(taken) == ["a:1", "a:2", "b:1"]
    # When it fails, each of its messages is tried alone; what wasn't in it comes as before
    line.failed(taken, REFUSED, 0.0, 1.0)
    other = line.take(1.0)
    assert ids(other) == ["c:1"]
    line.succeeded(other, 0.0)
    assert line.take(1.0) == []
    assert ids(line.take(2.0)) == ["a:1"] and ids(line.take(2.0)) == ["b:1"]


def test_while_all_fails_one_request_is_at_work_after_ever_longer_waits(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(line_module, "RETRY_BASE", 1.0)
    line, now, requests = line_of(*(f"m{n}:1" for n in range(1000)), most=8), 0.0, 0
    begun = [line.take(now) for _ in range(8)]
    for events in begun:  # those that were at work together count once
        line.failed(events, AWAY, 0.0, 1.0)
    assert line.take(1.5) == [] and line.wait(1.5) == pytest.approx(0.5)
    while now < 3600:
        if events := line.take(now):
            assert line.take(now) == []
            requests += 1
            line.failed(events, AWAY, now, now)
        now += max(0.01, line.wait(now))
    assert requests < 70
    # One success opens it
    while not (events := line.take(now)):
        now += 1
    line.succeeded(events, now)
    assert len([line.take(now) for _ in range(8) if line.at_work < 8]) == 8


def test_what_was_at_work_beside_does_not_end_a_wait() -> None:
    line = line_of("a:1", "b:1", "c:1", "d:1")
    limited, other = line.take(0.0), line.take(0.0)
    line.failed(limited, Failure("http-429", True, 10.0), 0.0, 1.0)
    line.succeeded(other, 0.0)
    assert line.take(10.9) == []
    assert ids(line.take(11.0)) == ["c:1"] and line.take(11.0) == []


def test_retry_after_is_bounded() -> None:
    line = line_of("a:1", "b:1")
    line.failed(line.take(0.0), Failure("http-503", True, 1e9), 0.0, 0.0)
    assert line.take(ASKED_CAP - 1) == []
    assert ids(line.take(ASKED_CAP)) == ["b:1"]


def test_what_is_given_up_lets_the_next_of_its_message_go() -> None:
    line = line_of("a:1", "a:2")
    now = 0.0
    for count in range(4):
        events = line.take(now)
        assert ids(events) == ["a:1"] and line.failures(events[0]) == count
        line.failed(events, REFUSED, now, now)
        now += 400
    events = line.take(now)
    line.failed(events, REFUSED, now, now, is_given_up=True)
    assert ids(line.take(now + 400)) == ["a:2"]


@pytest.mark.parametrize(
    ("status", "wait", "meant"),
    [
        (200, None, None),
        (204, "5", None),
        (299, None, None),
        (301, None, Failure("http-301")),
        (400, None, Failure("http-400")),
        (410, None, Failure("http-410")),
        (429, "7", Failure("http-429", True, 7.0)),
        (503, "soon", Failure("http-503", True)),
        (500, "1", Failure("http-500", False, 1.0)),
    ],
)
def test_what_an_answer_means(status: int, wait: str | None, meant: Failure | None) -> None:
    assert judge(status, wait) == meant


# The command


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ([], "--group, --url and --secret-file are needed"),
        (["--url", "ftp://shop"], "must be http(s)://host/..., without a login"),
        (["--url", "https://me:secret@shop"], "must be http(s)://host/..., without a login"),
        (["--url", "https://shop..example"], "must be http(s)://host/..., without a login"),
        (["--url", "https://shop:port"], "must be http(s)://host/..., without a login"),
        (["--allow", "10.0.0.0/33"], "10.0.0.0/33"),
        (["--source", "a b"], "must be 1 to 32 of A-Za-z0-9_.-"),
        (["--url", "https://shop", "--group", "crm", "--secret-file", "none"], "FileNotFoundError"),
    ],
)
def test_what_is_wrong_is_said_before_it_starts(
    courier: Courier, options: list[str], said: str
) -> None:
    output = courier("webhook", *options, code=2).stderr
    assert said in output and "secret@" not in output


def test_the_command_sends_and_ends_with_4_when_the_endpoint_is_gone(
    courier: Courier, producer: Producer, tmp_path: Path
) -> None:
    many(producer, 3)
    (tmp_path / "secrets").write_text(SECRET)
    receiver = Receiver(failing(410, lambda ids: len(receiver.taken) >= 3))

    async def run() -> str:
        async with receiver.serve() as url:
            given = {"URL": url, "GROUP": "crm", "SECRET_FILE": str(tmp_path / "secrets")}
            given |= {"ALLOW": "127.0.0.0/8, ::1/128", "PORT": str(free_port())}
            courier.env |= {f"COURIER_WEBHOOK_{name}": text for name, text in given.items()}
            process = courier.start("webhook")
            await until(lambda: len(receiver.taken) == 3)
            cancelled(producer, "last")
            _, said = await asyncio.to_thread(process.communicate, timeout=30)
            assert process.returncode == 4, said
            return said

    said = asyncio.run(run())
    assert "the endpoint said 410 Gone: what it has not taken waits in Redis" in said
    assert left(producer) == (0, 1, 0)


@pytest.mark.slow
def test_it_serves_health_and_metrics_and_ends_by_term(
    courier: Courier, producer: Producer, tmp_path: Path
) -> None:
    import requests

    (tmp_path / "secrets").write_text(SECRET)
    port, started = free_port(), time.monotonic()

    async def run() -> None:
        receiver = Receiver()
        async with receiver.serve() as url:
            process = courier.start(
                *("webhook", "--group", "crm", "--url", url, "--port", str(port)),
                *("--secret-file", str(tmp_path / "secrets")),
                *("--allow", "127.0.0.1", "--allow", "::1"),
            )
            many(producer, 3)
            await until(lambda: len(receiver.taken) == 3)

            def get(path: str) -> requests.Response:
                return requests.get(f"http://127.0.0.1:{port}{path}", timeout=10)

            assert (await asyncio.to_thread(get, "/healthz")).json() == {"status": "ok"}
            text = (await asyncio.to_thread(get, "/metrics")).text
            assert 'courier_push_events_total{group="crm"} 3.0' in text
            process.terminate()
            _, said = await asyncio.to_thread(process.communicate, timeout=30)
            assert process.returncode == 0, said

    asyncio.run(run())
    assert time.monotonic() - started < 60
    assert left(producer) == (0, 0, 0)
    # And its place is free at once
    assert producer.redis.exists(Keys(producer.settings.namespace).push("lease", "crm")) == 0


@pytest.mark.slow
def test_redis_that_refuses_ends_it_and_one_that_is_away_is_waited_for(
    courier: Courier, tmp_path: Path
) -> None:
    (tmp_path / "secrets").write_text(SECRET)
    options = ["--group", "crm", "--url", "https://shop.example", "--port", str(free_port())]
    options += ["--secret-file", str(tmp_path / "secrets")]
    wrong = courier.env["COURIER_REDIS_URL"].replace("//", "//nobody:wrong@")
    ended = courier("webhook", *options, code=3, COURIER_REDIS_URL=wrong)
    assert "wrong user name or password" in ended.stderr
    courier.env["COURIER_REDIS_URL"] = f"redis://127.0.0.1:{free_port()}"
    process = courier.start("webhook", *options)
    assert process.stderr is not None
    assert log_lines(process.stderr.readline(), "lease not asked for", level="WARNING")
    process.terminate()
    process.communicate(timeout=20)
    assert process.returncode == 0


def test_a_port_in_use_is_said(courier: Courier, tmp_path: Path) -> None:
    (tmp_path / "secrets").write_text(SECRET)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        given = ["--secret-file", str(tmp_path / "secrets"), "--port", str(port)]
        url = "https://shop.example"
        output = courier("webhook", "--group", "crm", "--url", url, *given, code=2).stderr
    assert f"127.0.0.1:{port} can't be listened on" in output

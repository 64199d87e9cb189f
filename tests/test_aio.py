"""AsyncProducer in an event loop: others go on, nothing is left behind, nothing is mixed up.

What it has in common with Producer is in the suites of producer, results, events_missed and dead.
"""

from __future__ import annotations

import asyncio
import gc
import multiprocessing
import os
import random
import signal
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any

import pytest
import redis

from tests.conftest import common_job, free_port, text_job, wait_for
from tests.faults.parts import Proxy
from viber_courier import (
    AsyncProducer,
    Conflict,
    InvalidMessage,
    Producer,
    StoreUnavailable,
)
from viber_courier.ops.redis_server import RedisServer
from viber_courier.producers.rows import CHUNK_ROWS
from viber_courier.schemas.settings import Settings
from viber_courier.store.aio import MOST_CONNECTIONS


@pytest.fixture
def made(redis_server: RedisServer, namespace: str) -> Settings:
    return Settings(redis_url=redis_server.url, namespace=namespace)


def connections(server: RedisServer) -> int:
    """Clients of the server, without the one that asks."""
    with redis.Redis(port=server.port) as client:
        return len(client.client_list()) - 1


class Ping:
    """A coroutine that has nothing to do with Redis: how late it comes each time.

    ``held``: the loop's CPU time until then, which other processes are no part of.
    """

    def __init__(self, every: float = 0.005) -> None:
        self.every, self.late, self.held = every, list[float](), list[float]()

    @asynccontextmanager
    async def running(self) -> AsyncIterator[Ping]:
        async def ping() -> None:
            while True:
                due, used = time.perf_counter() + self.every, time.thread_time()
                await asyncio.sleep(self.every)
                self.late.append(time.perf_counter() - due)
                self.held.append(time.thread_time() - used)

        task = asyncio.create_task(ping())
        try:
            yield self
        finally:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task


async def longest_wait(seconds: float, work: Callable[[], object] = int) -> float:
    """How late the ping came at most, so long after something was begun."""
    async with Ping().running() as ping:
        work()
        await asyncio.sleep(seconds)
    return max(ping.late)


def test_closing_leaves_nothing_behind(own_server: RedisServer) -> None:
    async def main() -> None:
        settings = Settings(redis_url=own_server.url)
        async with AsyncProducer(settings) as producer:
            ids = await asyncio.gather(*(producer.enqueue(text_job()) for _ in range(60)))
            assert len(set(ids)) == 60
            assert all(await asyncio.gather(*(producer.cancel(id) for id in ids)))
            # Two readers that are still open, one of them in a read
            first = await anext(producer.results("crm", "web-1"))
            await first.ack()
            waiting = producer.results("empty", "web-1", start="new")
            reading = asyncio.create_task(anext(waiting))  # type: ignore[arg-type]
            await asyncio.sleep(0.05)
            assert 2 <= connections(own_server) <= MOST_CONNECTIONS
            reading.cancel()
            await asyncio.wait([reading])
        assert asyncio.all_tasks() == {asyncio.current_task()}
        pending: Any = redis.Redis(port=own_server.port).xpending("{courier}:results", "crm")
        assert pending["pending"] == 59  # the acknowledgement was not forgotten

    asyncio.run(main())
    gc.collect()  # an unclosed transport would be an error here
    wait_for(lambda: connections(own_server) == 0, 5)


@pytest.mark.slow
def test_a_call_that_is_cancelled_gives_its_reply_to_nobody(own_server: RedisServer) -> None:
    # Given a server behind a line of unsteady speed, and records that know their number
    proxy, chance = Proxy(own_server.port), random.Random(7)
    url = f"redis://127.0.0.1:{proxy.port}/0"

    async def main() -> None:
        async with AsyncProducer(Settings(redis_url=url)) as producer:
            jobs = [text_job(id=f"m{n}", metadata={"n": n}) for n in range(20)]
            await producer.enqueue_many(jobs)

            async def look(n: int) -> None:
                record = await producer.get(f"m{n}")
                assert record is not None and record.metadata == {"n": n}

            async def give_up(n: int, after: float) -> None:
                with suppress(TimeoutError):
                    async with asyncio.timeout(after):
                        await look(n)
                        await producer.enqueue(jobs[n])

            # When many calls are given up at any moment, and others go on beside them
            cancelled = list[asyncio.Task[None]]()
            for _ in range(25):
                tasks = [
                    asyncio.create_task(give_up(n % 20, chance.uniform(0, 0.02))) for n in range(20)
                ]
                others = [asyncio.create_task(look(n)) for n in range(20)]
                for _ in range(chance.randint(0, 30)):
                    await asyncio.sleep(0)
                cancelled += [task for task in chance.sample(tasks, 10) if task.cancel()]
                await asyncio.gather(*others)
                await asyncio.gather(*tasks, return_exceptions=True)
            # Then each of the others got its own reply, and no connection is lost to the pool
            assert len(cancelled) > 10 and all(task.cancelled() for task in cancelled)
            assert connections(own_server) <= MOST_CONNECTIONS
            slots = producer.redis.connection_pool._slots
            assert slots._value == MOST_CONNECTIONS

    asyncio.run(main())
    proxy.close()


def test_no_cancellation_is_swallowed(made: Settings) -> None:
    async def main() -> None:
        async with AsyncProducer(made) as producer:
            await producer.enqueue(text_job(id="a"))

            async def always() -> None:
                while True:
                    await producer.get("a")

            # Given tasks that ask for ever, cancelled at every moment of an exchange
            for turns in range(200):
                task = asyncio.create_task(always())
                for _ in range(1 + turns % 20):
                    await asyncio.sleep(0)
                task.cancel()
                await asyncio.wait([task], timeout=5)
                assert task.cancelled()

    asyncio.run(main())


def test_with_redis_hung_others_go_on(own_server: RedisServer) -> None:
    async def main() -> None:
        settings = Settings(redis_url=own_server.url)
        async with AsyncProducer(settings) as producer:
            await producer.ping()
            idle = await longest_wait(0.3)
            # Given a Redis that hangs, and 200 requests that want it
            assert own_server.process is not None
            own_server.process.send_signal(signal.SIGSTOP)
            try:
                calls = list[asyncio.Task[str]]()

                def ask() -> None:
                    calls.extend(
                        asyncio.create_task(producer.enqueue(text_job())) for _ in "x" * 70
                    )

                # When they wait, then an unrelated ping doesn't; the best of three times, because
                # other processes make it wait as well
                late = min([await longest_wait(0.3, ask) for _ in range(3)])
                assert late < max(0.05, 10 * idle)
                assert not any(call.done() for call in calls)
                # And who gives up is free at once
                for call in calls:
                    call.cancel()
                begun = time.perf_counter()
                await asyncio.gather(*calls, return_exceptions=True)
                assert time.perf_counter() - begun < 1
            finally:
                own_server.process.send_signal(signal.SIGCONT)
            # And once it is back, so is everything
            await producer.enqueue(text_job())

    asyncio.run(main())


def test_many_requests_hold_the_loop_no_longer_than_one_after_the_other(made: Settings) -> None:
    async def main() -> None:
        async with AsyncProducer(made) as producer:
            many = [text_job() for _ in range(200)]
            await asyncio.gather(*map(producer.enqueue, many))
            # CPU time: other processes don't count
            begun = time.process_time()
            for job in many:
                await producer.enqueue(job)
            one_by_one = time.process_time() - begun
            begun = time.process_time()
            async with Ping().running() as ping:
                await asyncio.gather(*map(producer.enqueue, many))
            assert time.process_time() - begun < 2 * one_by_one
            assert sum(ping.late) / len(ping.late) < max(0.05, one_by_one)

    asyncio.run(main())


def test_rows_are_checked_in_slices(made: Settings) -> None:
    async def main() -> None:
        async with AsyncProducer(made) as producer:
            rows = [{"address": f"7925{n:07}"} for n in range(10_000)]
            await producer.enqueue_many(rows[:10], common=common_job())
            used = time.thread_time()
            async with Ping(every=0).running() as ping:
                await producer.enqueue_many(rows, common=common_job())
            used = time.thread_time() - used
            # Two of the steps may have been the garbage collector's
            assert sorted(ping.held)[-3] < used / 20, (sorted(ping.held)[-5:], used)

    asyncio.run(main())


def test_rows_may_come_from_an_async_iterable(made: Settings) -> None:
    async def rows(count: int, wrong: int = -1, end: Exception | None = None) -> Any:
        for n in range(count):
            await asyncio.sleep(0)
            yield {"address": "none" if n == wrong else f"7925{n:07}", "id": f"m{count}-{n}"}
        if end:
            raise end

    async def main() -> None:
        async with AsyncProducer(made) as producer:
            common = common_job()
            ids = await producer.enqueue_many(rows(1200), common=common)
            assert ids == [f"m1200-{n}" for n in range(1200)]
            with pytest.raises(InvalidMessage) as caught:
                await producer.enqueue_many(rows(700, wrong=600), common=common)
            assert caught.value.row == 600 and len(caught.value.accepted) == CHUNK_ROWS
            told = list[int]()
            ids = await producer.enqueue_many(
                rows(20, wrong=7), common, on_invalid=lambda n, row, error: told.append(n)
            )
            assert (told, len(ids)) == ([7], 19)
            with pytest.raises(ZeroDivisionError):
                await producer.enqueue_many(rows(600, end=ZeroDivisionError()), common=common)
            assert await producer.get("m600-499") and not await producer.get("m600-500")

    asyncio.run(main())


def test_a_blocking_producer_says_who_takes_async_rows(made: Settings) -> None:
    async def rows() -> AsyncIterator[Any]:
        await asyncio.sleep(0)
        yield {}

    with pytest.raises(TypeError, match="AsyncProducer"):
        Producer(made).enqueue_many(rows())  # type: ignore[call-overload]


def test_one_producer_serves_one_loop_after_another_and_a_forked_process(made: Settings) -> None:
    producer = AsyncProducer(made)

    async def use(id: str) -> None:
        assert await producer.enqueue(text_job(id=id)) == id
        with pytest.raises(Conflict):
            await producer.enqueue(text_job(id=id, comment="other"))
        calls = [producer.get(id) for _ in range(2 * MOST_CONNECTIONS)]
        assert all(await asyncio.gather(*calls))
        await producer.close()

    async def forked() -> None:
        await producer.ping()
        child = multiprocessing.get_context("fork").Process(target=_in_child, args=(producer,))
        child.start()
        await use("parent")
        await asyncio.to_thread(child.join, 30)
        assert child.exitcode == 0 and await producer.get("child")
        await producer.close()

    asyncio.run(use("one"))
    asyncio.run(use("two"))
    asyncio.run(forked())


def _in_child(producer: AsyncProducer) -> None:
    async def main() -> bool:
        return await producer.enqueue(text_job(id="child")) == "child"

    os._exit(0 if asyncio.new_event_loop().run_until_complete(main()) else 1)


def test_a_read_that_was_given_up_loses_no_event(made: Settings) -> None:
    async def main() -> None:
        async with AsyncProducer(made) as producer:
            stream = producer.results("crm", "web-1", block=5)
            seen = list[str]()
            for n in range(6):
                with suppress(TimeoutError):  # given up in the read, again and again
                    async with asyncio.timeout(0.05):
                        seen.append((await anext(stream)).subject)
                assert await producer.cancel(await producer.enqueue(text_job(id=f"m{n}")))
                if n % 2:
                    async with asyncio.timeout(5):
                        while f"m{n}" not in seen:
                            event = await anext(stream)
                            seen.append(event.subject)
                            await event.ack()
            assert set(seen) == {f"m{n}" for n in range(6)}

    asyncio.run(main())


def test_an_acknowledgement_alone_is_sent_within_a_second(made: Settings) -> None:
    async def main() -> None:
        async with AsyncProducer(made) as producer:
            assert await producer.cancel(await producer.enqueue(text_job()))
            async for event in producer.results("crm", "web-1"):
                await event.ack()
                break  # and the stream is not closed
            for _ in range(100):
                pending = await producer.redis.xpending(f"{{{made.namespace}}}:results", "crm")
                if not pending["pending"]:
                    return
                await asyncio.sleep(0.05)
            raise AssertionError("still unacknowledged")

    asyncio.run(main())


def test_redis_away_is_said_in_the_system_s_words() -> None:
    async def main() -> None:
        async with AsyncProducer(Settings(redis_url=f"redis://127.0.0.1:{free_port()}")) as away:
            with pytest.raises(StoreUnavailable, match="ConnectionError: Connection refused"):
                await away.ping()
            with pytest.raises(StoreUnavailable):
                async for _ in away.results("crm", "web-1", block=0):
                    pass
            assert "127.0.0.1" not in repr(away.redis.connection_pool)

    asyncio.run(main())


def test_connections_that_broke_are_replaced(made: Settings, redis_server: RedisServer) -> None:
    async def main() -> None:
        async with AsyncProducer(made) as producer:
            with redis.Redis(port=redis_server.port) as operator:
                for _ in range(3):
                    await asyncio.gather(*(producer.enqueue(text_job()) for _ in range(10)))
                    operator.client_kill_filter(_type="normal", skipme=True)
                    operator.script_flush()
            await producer.enqueue(text_job())

    asyncio.run(main())

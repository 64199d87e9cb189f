"""What puts load on: each a process of its own, so that its CPU time is known.

``python -m viber_courier.ops.bench.load WHAT COUNT SHAPE RATE`` prints, as JSON, the seconds it
took and the CPU seconds (user and system) of that time. With a rate (calls per second; 0: as fast
as possible) it also prints when each call began, how long it took, and its CPU time.
Imports, the jobs, connections and the first single call come before the clock starts.
"""

from __future__ import annotations

import gc
import json
import os
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any
from urllib.parse import urlsplit

from viber_courier.ops.bench.figures import BATCH
from viber_courier.ops.bench.shapes import SHAPES, Message, Shape

Emit = Callable[[Message], object]
Work = Callable[[], Any]

SINGLE = ("enqueue", "single", "batched")
"""Loads of one call per message. They send one more message before the clock starts."""


def enqueue_many(count: int, shape: Shape) -> Work:
    """Our ``enqueue_many``, with what the jobs share as ``common``."""
    return partial(_producer().enqueue_many, shape.rows(count), shape.common)


def campaigns(count: int, shape: Shape, names: int = 100) -> Work:
    """The same into a hundred campaigns."""
    producer, rows = _producer(), shape.rows(count // names)

    def work() -> None:
        for number in range(names):
            producer.campaign(f"c{number}", shape.common).add(rows)

    return work


def campaign(count: int, shape: Shape) -> Work:
    """The same into one campaign."""
    return campaigns(count, shape, 1)


def paused_campaign(count: int, shape: Shape) -> Work:
    """The same into one that is paused."""
    _producer().campaign("c0").pause()
    return campaign(count, shape)


def cancel(_: int, __: Shape) -> Work:
    """Cancels the campaign."""
    return partial(_producer().campaign("c0").cancel)


def by_hand(count: int, shape: Shape) -> Work:
    """Celery tasks of 100 messages."""
    from viber_courier.ops.bench.peers import by_hand

    jobs = shape.wire(count)
    batches = [jobs[place : place + BATCH] for place in range(0, count, BATCH)]
    return partial(emit_all, by_hand.delay, batches)


def session(count: int, shape: Shape) -> Work:
    """The bare limit: posts prebuilt batches through a requests.Session."""
    import requests

    made, url, body = requests.Session(), os.environ["BENCH_API_URL"] + "/send", _body(shape)
    made.trust_env = False

    def work() -> None:
        for _ in range(count // BATCH):
            made.post(url, data=body, timeout=30).raise_for_status()

    return work


def ceiling(count: int, shape: Shape, connections: int = 8) -> Work:
    """The double's own limit: prebuilt requests over some sockets; replies are not parsed."""
    url, body = urlsplit(os.environ["BENCH_API_URL"]), _body(shape)
    request = b"POST /send HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(body) + body
    address = (str(url.hostname), int(url.port or 80))
    sockets = [socket.create_connection(address) for _ in range(connections)]

    def work() -> None:
        for made in sockets:
            made.sendall(request)
        for number in range(count // BATCH):
            made, reply = sockets[number % connections], b""
            while not reply.endswith(b"]}"):
                reply += made.recv(65536)
            made.sendall(request)

    return work


def _body(shape: Shape) -> bytes:
    common = {"type": "viber", **shape.common}
    whole = {"resendSms": "false", "commonData": common, "messages": shape.rows(BATCH)}
    return json.dumps(whole, ensure_ascii=False).encode()


def results(count: int, _: Shape) -> Work:
    """Reads and acknowledges result events, in a consumer group of its own."""
    events = _producer().results(f"bench-{os.getpid()}", "one", block=2.0)

    def work() -> None:
        for _ in range(count):
            next(events).ack()
        events.close()

    return work


def _producer() -> Any:
    from viber_courier import Producer

    producer = Producer.from_env()
    producer.redis.ping()
    return producer


def _task(name: str) -> Emit:
    from viber_courier.ops.bench import peers

    task = getattr(peers, name)
    return lambda job: task.apply_async((job,))


def single(what: str, count: int, shape: Shape, rate: float) -> Work:
    """One call per message: our ``enqueue``, or ``apply_async`` of a peer's task."""
    ours = what == "enqueue"
    emit = _producer().enqueue if ours else _task(what)
    first, *jobs = (shape.jobs if ours else shape.wire)(count + 1)
    emit(first)
    return partial(paced, emit, jobs, rate) if rate else partial(emit_all, emit, jobs)


def emit_all(emit: Callable[[Any], object], jobs: Iterable[Any]) -> None:
    for job in jobs:
        emit(job)


def paced(emit: Emit, jobs: list[Message], rate: float) -> dict[str, Any]:
    """Emits at a steady rate. The CPU time is the process's during the calls: waiting for the next
    one takes some, too, and is not counted."""
    begun, seconds, cpu, started = {}, list[float](), list[float](), time.monotonic()
    for number, job in enumerate(jobs):
        time.sleep(max(0.0, started + number / rate - time.monotonic()))
        spent, now = time.process_time(), time.monotonic()
        emit(job)
        seconds.append(time.monotonic() - now)
        cpu.append(time.process_time() - spent)
        begun[job["address"]] = now
    return {"begun": begun, "calls": seconds, "call_cpu": cpu}


WHOLE: dict[str, Callable[[int, Shape], Work]] = {
    load.__name__: load
    for load in (
        enqueue_many,
        campaign,
        campaigns,
        paused_campaign,
        cancel,
        by_hand,
        session,
        ceiling,
        results,
    )
}


def main(what: str, count: int, shape: str, rate: float) -> dict[str, Any]:
    """Runs one load and returns what it measured."""
    form = SHAPES[shape]
    work = single(what, count, form, rate) if what in SINGLE else WHOLE[what](count, form)
    gc.freeze()  # the prepared jobs are not for the measured code's collections to walk through
    started, cpu = time.monotonic(), time.process_time()
    measured = work()
    if rate and threading.active_count() > 1:
        raise RuntimeError("a thread works between the calls, and its CPU time is not counted")
    spent = {"seconds": time.monotonic() - started, "cpu": time.process_time() - cpu}
    return {**spent, **(measured if rate else {})}


if __name__ == "__main__":
    what, count, shape, rate = sys.argv[1:]
    print(json.dumps(main(what, int(count), shape, float(rate))))

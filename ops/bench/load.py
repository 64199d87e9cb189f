"""What puts load on: each a process of its own, so that its CPU time is known.

``python -m viber_courier.ops.bench.load WHAT COUNT [RATE]`` prints, as JSON, the seconds it took
and the CPU seconds (user and system) of that time; with a rate (per second) the instants of each
call, too.
Imports, connections and the first single call come before.
"""

from __future__ import annotations

import json
import os
import socket
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any
from urllib.parse import urlsplit

from viber_courier.ops.bench.figures import BATCH

Message = dict[str, Any]
Emit = Callable[[Message], object]
Work = Callable[[], object]

TEXT = "Здравствуйте! Только до воскресенья скидка 20 % на всё: покажите это сообщение на кассе."
COMMON = {"subject": "Shop", "priority": "low", "contentType": "text", "content": {"text": TEXT}}
WIRE = {"type": "viber", **COMMON}
CODE = {
    **COMMON,
    "priority": "realtime",
    "content": {"text": "Ваш код 1234, никому его не говорите"},
}
FIRST, FIRST_CODE = 79_000_000_000, 78_000_000_000


def rows(count: int, shared: Message | None = None, first: int = FIRST) -> Iterator[Message]:
    """So many messages, each to another address."""
    rest = shared or {}
    return ({**rest, "address": str(address)} for address in range(first, first + count))


def campaign(count: int, text: str = TEXT) -> Work:
    """``enqueue_many`` with ``common``."""
    common = {**COMMON, "content": {"text": text}}
    return partial(_producer().enqueue_many, rows(count), common)


def personal(count: int) -> Work:
    """``enqueue_many`` with a text of its own for each."""
    texts = (
        {**row, "content": {"text": f"{TEXT} {number}"}} for number, row in enumerate(rows(count))
    )
    return partial(_producer().enqueue_many, texts, COMMON)


def by_hand(count: int) -> Work:
    """Celery tasks of 100 messages."""
    from viber_courier.ops.bench.peers import by_hand

    made = list(rows(count, WIRE))

    def work() -> None:
        for place in range(0, count, BATCH):
            by_hand.delay(made[place : place + BATCH])

    return work


def session(count: int) -> Work:
    """The bare limit: prebuilt batches through a requests.Session."""
    import requests

    made, url, body = requests.Session(), os.environ["BENCH_API_URL"] + "/send", _body()
    made.trust_env = False

    def work() -> None:
        for _ in range(count // BATCH):
            made.post(url, data=body, timeout=30).raise_for_status()

    return work


def ceiling(count: int, connections: int = 8) -> Work:
    """The double's own limit: prebuilt requests over some sockets, replies read and not parsed."""
    url, body = urlsplit(os.environ["BENCH_API_URL"]), _body()
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


def _body() -> bytes:
    whole = {
        "resendSms": "false",
        "commonData": WIRE,
        "messages": list(rows(BATCH)),
    }
    return json.dumps(whole, ensure_ascii=False).encode()


def results(count: int) -> Work:
    """The reader of result events, in a group of its own: parsed and acknowledged."""
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
    return lambda message: task.apply_async((message,))


def one_by_one(what: str, count: int) -> tuple[Emit, Iterator[Message]]:
    """What stores or queues a single message, and the messages for it."""
    if what in ("ours", "code"):
        given = (CODE, FIRST_CODE) if what == "code" else (COMMON, FIRST)
        return _producer().enqueue, rows(count, *given)
    return _task(what), rows(count, WIRE)


def paced(emit: Emit, messages: Iterator[Message], rate: float) -> dict[str, float]:
    """Emit at a steady rate (0: as fast as it goes); the instant right before each, by address."""
    begun, started = {}, time.monotonic()
    for number, message in enumerate(messages):
        if rate:
            time.sleep(max(0.0, started + number / rate - time.monotonic()))
            begun[message["address"]] = time.monotonic()
        emit(message)
    return begun


WHOLE: dict[str, Callable[[int], Work]] = {
    "campaign": campaign,
    "long": partial(campaign, text="Ж" * 1000),
    "personal": personal,
    "by_hand": by_hand,
    "session": session,
    "ceiling": ceiling,
    "results": results,
}


def main(what: str, count: int, rate: float = 0.0) -> dict[str, Any]:
    """Do it, and say how long it took."""
    work: Work
    if what in WHOLE:
        work = WHOLE[what](count)
    else:
        emit, messages = one_by_one(what, count + 1)
        emit(next(messages))
        work = partial(paced, emit, messages, rate)
    started, cpu = time.monotonic(), time.process_time()
    begun = work()
    spent = {"seconds": time.monotonic() - started, "cpu": time.process_time() - cpu}
    return {**spent, "begun": begun if rate else {}}


if __name__ == "__main__":
    print(json.dumps(main(sys.argv[1], int(sys.argv[2]), *map(float, sys.argv[3:]))))

"""A fast double of the provider, one process: ``python -m viber_courier.ops.bench.provider``.

The simulator knows all of the API's rules and is too slow to measure against. This double answers
any /send with an id for each message and any /status with one state, both in the API's form, after
``delay`` ms. It counts messages by their "address" keys: a quote inside a text is escaped.

GET /admin/reset?delay=50&status=delivered&record=1 clears the counts and sets how to answer;
``record`` keeps the instant (seconds of the monotonic clock, the same in all processes) at which
each address arrived. GET /admin/counts and /admin/arrivals return what arrived.
"""

from __future__ import annotations

import asyncio
import json
import re
import sys
import time
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import uvloop

FIRST_ID = 3158611117333282816
LENGTH = re.compile(rb"(?im)^content-length: *(\d+)")


class Book:
    """What has arrived so far, and how to answer."""

    def __init__(self) -> None:
        self.next_id = FIRST_ID
        self.reset({})

    def reset(self, options: dict[str, str]) -> None:
        self.delay = float(options.get("delay", 0)) / 1000
        self.state = options.get("status", "sent")
        self.record = options.get("record") == "1"
        self.counts: dict[str, Any] = {"requests": 0, "messages": 0, "statuses": 0}
        self.counts |= {"first": None, "last": None}
        self.arrivals: dict[str, float] = {}

    def send(self, body: bytes) -> bytes:
        now, counts = time.monotonic(), self.counts
        count = body.count(b'"address"')
        counts["first"] = counts["first"] or now
        counts["last"] = now + self.delay
        counts["requests"] += 1
        counts["messages"] += count
        if self.record:
            for message in json.loads(body)["messages"]:
                self.arrivals.setdefault(message["address"], now)
        ids = range(self.next_id, self.next_id + count)
        self.next_id += count
        entries = ",".join([f'{{"providerId":{id},"code":"ok"}}' for id in ids])
        return f'{{"status":"ok","messages":[{entries}]}}'.encode()

    def status(self, body: bytes) -> bytes:
        ids = json.loads(body)["messages"]
        self.counts["statuses"] += len(ids)
        said = f'"code":"ok","status":"{self.state}","statusAt":"2026-11-23 09:59:58"'
        entries = ",".join([f'{{"providerId":{id},{said}}}' for id in ids])
        return f'{{"status":"ok","messages":[{entries}]}}'.encode()

    def admin(self, target: str) -> bytes:
        url = urlsplit(target)
        if url.path == "/admin/reset":
            self.reset(dict(parse_qsl(url.query)))
        return json.dumps(self.arrivals if url.path == "/admin/arrivals" else self.counts).encode()


class Connection(asyncio.Protocol):
    """HTTP/1.1 with keep-alive, one request after the other: all that this bench's clients need."""

    def __init__(self, book: Book) -> None:
        self._book, self._got = book, bytearray()
        self._transport: Any = None

    def connection_made(self, transport: Any) -> None:
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._got += data
        while (head := self._got.find(b"\r\n\r\n")) >= 0:
            line, _, fields = bytes(self._got[:head]).partition(b"\r\n")
            length = LENGTH.search(fields)
            end = head + 4 + (int(length[1]) if length else 0)
            if len(self._got) < end:
                return
            body = bytes(self._got[head + 4 : end])
            del self._got[:end]
            self._answer(line.split()[1].decode(), body)

    def _answer(self, target: str, body: bytes) -> None:
        book = self._book
        call = {"/send": book.send, "/status": book.status}.get(target)
        reply = call(body) if call else book.admin(target)
        head = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"
        answer = head % len(reply) + reply
        if call and book.delay:
            asyncio.get_running_loop().call_later(book.delay, self._transport.write, answer)
        else:
            self._transport.write(answer)


async def _serve() -> None:
    book = Book()
    server = await asyncio.get_running_loop().create_server(
        lambda: Connection(book), "127.0.0.1", 0, backlog=512
    )
    print(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    try:
        uvloop.run(_serve())
    except KeyboardInterrupt:
        sys.exit(0)

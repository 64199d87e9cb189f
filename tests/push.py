"""A webhook's receiver in this process, and what pushes to it."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

from aiohttp import web
from standardwebhooks import Webhook as Signer

from tests.conftest import text_job
from viber_courier import AsyncProducer, Producer
from viber_courier.ops.push.endpoint import Endpoint, Network, Secrets
from viber_courier.ops.push.serving import Metrics
from viber_courier.ops.push.webhook import Options, Webhook
from viber_courier.store.keys import Keys

SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
OTHER = "whsec_" + "c2Vjb25k" * 5


def cancelled(producer: Producer, *ids: str, **more: Any) -> None:
    """Messages that have one event each."""
    for id in ids:
        producer.enqueue(text_job(id=id, **more))
        assert producer.cancel(id)


def many(producer: Producer, messages: int, each: int = 1, start: int = 0) -> None:
    """Events like one that is real: ``each`` of so many messages, by turns."""
    stream = Keys(producer.settings.namespace).results
    if is_first := not producer.get("m0"):
        cancelled(producer, "m0")
    ((entry, fields),) = producer.redis.xrevrange(stream, count=1)  # type: ignore[union-attr, misc]
    if is_first:
        producer.redis.xdel(stream, entry)
    text = re.sub(r"m\d+:\d+", "ID:NUMBER", re.sub(r'"m\d+"', '"ID"', fields["event"]))
    with producer.redis.pipeline(transaction=False) as pipe:
        for number in range(1, each + 1):
            for n in range(start, start + messages):
                event = text.replace("ID", f"m{n}").replace("NUMBER", str(number))
                pipe.xadd(stream, {"event": event})
        pipe.execute()


Answer = Callable[["Receiver", list[dict[str, Any]]], Awaitable[web.Response | None]]


class Receiver:
    """Keeps what comes, if its signature is right; ``answer`` None: 204 for all."""

    def __init__(self, answer: Answer | None = None, secret: str = SECRET) -> None:
        self._answer, self._signer = answer, Signer(secret)
        self.requests = list[web.Request]()
        self.bodies, self.times = list[Any](), list[float]()
        self.taken, self.at_work, self.most = list[str](), 0, 0

    def know(self, secret: str) -> None:
        self._signer = Signer(secret)

    async def hook(self, request: web.Request) -> web.StreamResponse:
        body = await request.read()
        given = self._signer.verify(body, {**request.headers})
        events = given if isinstance(given, list) else [given]
        self.requests.append(request)
        self.bodies.append(given)
        self.times.append(time.monotonic())
        self.at_work += 1
        self.most = max(self.most, self.at_work)
        try:
            said = await self._answer(self, events) if self._answer else None
        finally:
            self.at_work -= 1
        if said is None or said.status < 300:
            self.taken += [event["id"] for event in events]
        return said or web.Response(status=204)

    @property
    def first(self) -> list[str]:
        """What was taken, each event once, in the order of its first copy."""
        return [*dict.fromkeys(self.taken)]

    @asynccontextmanager
    async def serve(self, port: int = 0, **tls: Any) -> AsyncIterator[str]:
        app = web.Application(client_max_size=64 * 1024**2)
        app.router.add_post("/hook", self.hook)
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", port, **tls)
        await site.start()
        try:
            kind = "https" if tls else "http"
            yield f"{kind}://localhost:{runner.addresses[0][1]}/hook"
        finally:
            await runner.cleanup()


def loopback() -> list[Network]:
    import ipaddress

    return [ipaddress.ip_network("127.0.0.0/8"), ipaddress.ip_network("::1")]


@asynccontextmanager
async def pushing(
    producer: Producer, url: str, folder: Path, **more: Any
) -> AsyncIterator[Webhook]:
    """A webhook at work; at the end of the block it is stopped as by SIGTERM."""
    secrets = folder / "secrets"
    secrets.write_text(more.pop("secrets", SECRET))
    ca_file, seconds = more.pop("ca_file", None), more.pop("seconds", 15.0)
    allowed = more.pop("allowed", loopback())
    given: Any = {"source": "", "start": "oldest", "batch": 0, "concurrency": 32}
    options = Options(**{"group": "crm", "give_up": 259200.0, **given, **more})
    endpoint = Endpoint(url, Secrets(secrets), allowed, ca_file, seconds, options.concurrency)
    stop = asyncio.Event()
    async with AsyncProducer(producer.settings) as made:
        webhook = Webhook(made, endpoint, options, Metrics(options.group), stop)
        task = asyncio.create_task(webhook.run())
        try:
            yield webhook
        finally:
            stop.set()
            with suppress(asyncio.CancelledError):
                await asyncio.wait_for(task, 20)


async def until(condition: Callable[[], Any], seconds: float = 20.0) -> None:
    """Wait until the condition holds; AssertionError at the deadline."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "the condition did not hold in time"
        await asyncio.sleep(0.01)


def in_order(ids: Sequence[str]) -> bool:
    """Whether the events of each message are in order, without gaps."""
    last: dict[str, int] = {}
    for id in ids:
        message, _, number = id.rpartition(":")
        if int(number) != last.get(message, 0) + 1:
            return False
        last[message] = int(number)
    return True


def metric(metrics: Metrics, name: str, **labels: str) -> float:
    """The sum of a metric's series."""
    from prometheus_client import generate_latest

    text = generate_latest(metrics.registry).decode()
    wanted = [f'{key}="{value}"' for key, value in labels.items()]
    lines = [line for line in text.splitlines() if re.match(rf"{name}(\{{| )", line)]
    return sum(float(line.split()[-1]) for line in lines if all(w in line for w in wanted))

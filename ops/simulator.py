"""`courier simulator`: serves the provider's API for tests, the demo and the bench.

POST /send and POST /status answer by the rules in `ops.simulator_rules`. The last two digits of an
address choose how its message ends; `--help` prints the table. The provider's document names no
HTTP codes, so every answer of the API is a 200.

The simulator's own endpoints need no login. Instants are Unix seconds, sizes are bytes:

- GET /admin/accepted?since=N: the accepted messages in order, each with `providerId`, `request`
  (the number of its /send request, from 1), `resendSms`, `message` (commonData merged in) and `at`;
- GET /admin/requests: the numbers of `send` and `status` requests, accepted `messages` and
  `refused` entries; `batches` (messages of each /send request, 0 if unreadable), `bytes` of all
  bodies, `log` (sizes of the last 10,000 /send bodies) and `broken` (number, kind of fault and code
  of each /send request whose answer a rule broke);
- GET /admin/bodies: the last 100 bodies with `path` and `headers`, without Authorization;
- GET /admin/endings: the table; POST /admin/reset: forgets messages, numbers and fault rules;
- GET, POST (a rule or a list of them) and DELETE /admin/faults: the rules that break answers. A
  rule has a `kind`, `on` ("send" or "status"), `rate` (0..1), `times` (null: without end) and
  `address` (last digits: it breaks only a /send with such an address). A kind is a set of defaults
  (`FAULTS` in the rules) for fields that every rule may set (`_FIELDS`). The first rule that
  applies to a request wins; `fired` counts how often.

Measured on one core of a 2-core machine, with clients on the other (8 keep-alive connections, 100
messages per request): about 180,000 messages/s (300,000 with --no-record) if commonData holds the
text and rows only an address (3 KB); 70,000 if each row has all its fields and its own text
(19 KB). A recorded message takes about 350 bytes in the first case, 1 KB in the second.
"""

import asyncio
import base64
import json
import socket
import time
from array import array
from collections import deque
from random import Random
from typing import Any

import click
from aiohttp import web

from viber_courier.ops import simulator_rules as rules
from viber_courier.ops.simulator_rules import Json

_ENDINGS = [rules.ENDINGS.get(digits, rules.Ending()) for digits in range(100)]


class Memory:
    """The provider's state: a column for each property of the accepted messages, and counts."""

    def __init__(self, first_id: int, record: bool) -> None:
        self.first_id = first_id  # ids are consecutive, so an id is an index of the columns
        self.digits = bytearray()  # the last two of the address, plus 128 if resend is on
        self.times = array("d")
        self.record = record
        self.messages: list[tuple[int, Json, Json]] = []  # request, common, row: merged when asked
        self.refused_before: set[tuple[str, str]] = set()  # address and content
        self.counts: Json = {"send": 0, "status": 0, "refused": 0, "bytes": 0}
        self.batches: list[int] = []
        self.broken: list[tuple[int, str, str | int]] = []
        self.sizes: deque[int] = deque(maxlen=10_000)
        self.bodies: deque[tuple[str, Any, bytes]] = deque(maxlen=100)

    def record_request(self, path: str, headers: Any, body: bytes) -> rules.Send | list[Any] | None:
        """Counts a request. Returns what it asks for, or None if it can't be read."""
        self.counts[path[1:]] += 1
        self.counts["bytes"] += len(body)
        self.bodies.append((path, headers, body))
        if path == "/status":
            return rules.read_status(body)
        send = rules.read_send(body)
        self.sizes.append(len(body))
        self.batches.append(len(send.rows) if send else 0)
        return send

    def accept(self, send: rules.Send, now: float) -> list[Json]:
        """Returns the reply's entries in the messages' order, and keeps those that are `ok`."""
        common, resend = send.common, send.resend
        common_fault = rules.other_fault(common, resend)
        entries: list[Json] = []
        for row in send.rows:
            address_only = len(row) == 1 and "address" in row  # common_fault covers the rest
            message = row if address_only else common | row
            rest_fault = common_fault if address_only else rules.other_fault(message, resend)
            fault = rules.address_fault(message) or rest_fault
            digits = 0 if fault else int(message["address"][-2:])
            ending = _ENDINGS[digits]
            if ending.refusal:
                fault = self._refusal(ending, common | row)
            if fault:
                self.counts["refused"] += 1
                entries.append({"code": fault})
                continue
            entries.append({"providerId": self.first_id + len(self.digits), "code": "ok"})
            self.digits.append(digits + 128 * resend)
            self.times.append(now)
            if self.record:
                self.messages.append((self.counts["send"], common, row))
        return entries

    def _refusal(self, ending: rules.Ending, message: Json) -> str:
        key = (message["address"], json.dumps(message["content"], sort_keys=True))
        if ending.once and key in self.refused_before:
            return ""
        self.refused_before.add(key)
        return ending.refusal

    def state(self, provider_id: int, now: float, step: float) -> Json:
        """Returns the /status entry of an id."""
        place = provider_id - self.first_id
        if not 0 <= place < len(self.digits):
            return rules.unknown_entry(provider_id)
        resend, ending = self.digits[place] >= 128, _ENDINGS[self.digits[place] % 128]
        return rules.status_entry(provider_id, ending, resend, self.times[place], now, step)

    def accepted(self, since: int) -> list[Json]:
        """Returns the recorded messages from index `since` on, expanded."""
        if not self.record:
            raise web.HTTPConflict(text="the simulator runs with --no-record")
        return [
            {
                "providerId": self.first_id + place,
                "request": request,
                "resendSms": self.digits[place] >= 128,
                "message": common | row,
                "at": self.times[place],
            }
            for place, (request, common, row) in enumerate(self.messages[since:], since)
        ]

    def requests(self) -> Json:
        """Returns counts and sizes."""
        more = {"messages": len(self.digits), "batches": self.batches, "log": [*self.sizes]}
        return self.counts | more | {"broken": self.broken}

    def recent(self) -> list[Json]:
        """Returns the last bodies, without credentials."""
        recent = []
        for path, all_headers, body in self.bodies:
            headers = {k: v for k, v in all_headers.items() if k.lower() != "authorization"}
            recent.append({"path": path, "headers": headers, "body": body.decode(errors="replace")})
        return recent


class Simulator:
    """The HTTP server: answers, breaks answers by the fault rules, and reports to tests."""

    def __init__(self, login: str, password: str, step: float, seed: int, record: bool) -> None:
        self.auth = f"Basic {base64.b64encode(f'{login}:{password}'.encode()).decode()}"
        self.step, self.seed = step, seed  # seconds
        # Above 2^53 like the provider's, and different from those of an earlier process.
        self._forget(Memory(3158611117333282816 + time.time_ns(), record))

    def _forget(self, memory: Memory) -> None:
        self.memory = memory
        self.faults: list[Json] = []
        self.chance = Random(self.seed)  # noqa: S311 - chance, not secrets

    def app(self) -> web.Application:
        """Returns the routes. /send and /status are the provider's, the rest is ours."""
        app = web.Application(client_max_size=64 * 2**20)
        app.router.add_post("/{path:send|status}", self.provider)
        app.router.add_get("/admin/{what:accepted|requests|bodies|endings}", self.report)
        app.router.add_post("/admin/reset", self.reset)
        app.router.add_route("*", "/admin/faults", self.edit_faults)
        return app

    async def provider(self, request: web.Request) -> web.StreamResponse:
        """POST /send and /status. Accepts messages before any pause that a fault rule makes."""
        body = await request.read()
        question = self.memory.record_request(request.path, request.headers, body)
        rule = rules.pick_fault(self.faults, request.path[1:], question, self.chance)
        if rule and rule["on"] == "send":
            number = self.memory.counts["send"]
            self.memory.broken.append((number, rule["kind"], rule["code"]))
        if request.headers.get("Authorization") != self.auth:
            answer: Json = {"status": "error-auth"}
        elif question is None:
            answer = {"status": "error-syntax"}
        else:
            memory = self.memory if not rule or rule["accept"] else Memory(1, record=False)
            answer = {"status": "ok", "messages": self._entries(question, memory)}
        return await self._break(request, rule, answer) if rule else web.json_response(answer)

    def _entries(self, question: rules.Send | list[Any], memory: Memory) -> list[Json]:
        now = time.time()
        if isinstance(question, rules.Send):
            return memory.accept(question, now)
        entries = rules.status_entries(question, lambda asked: memory.state(asked, now, self.step))
        self.chance.shuffle(entries)
        return entries

    async def _break(self, request: web.Request, rule: Json, answer: Json) -> web.StreamResponse:
        http, body = rules.spoil(rule, answer)
        wanted = {"Retry-After": str(rule["retry_after"] or ""), "Location": rule["location"]}
        headers = {name: value for name, value in wanted.items() if value}
        response = web.StreamResponse(status=http, headers=headers)
        for start in range(0, len(body) or 1, rule["piece"]):
            await asyncio.sleep(rule["seconds"])
            if rule["cut"] and request.transport:
                request.transport.abort()
                break  # the response goes nowhere
            await response.prepare(request)  # once
            await response.write(body[start : start + rule["piece"]])
        return response

    async def report(self, request: web.Request) -> web.Response:
        """GET /admin/accepted, /requests, /bodies and /endings"""
        memory, since = self.memory, int(request.query.get("since", 0))
        reports: Json = {"requests": memory.requests, "bodies": memory.recent}
        reports |= {"accepted": lambda: memory.accepted(since), "endings": rules.endings}
        return web.json_response(reports[request.match_info["what"]]())

    async def reset(self, request: web.Request) -> web.Response:
        """POST /admin/reset: as at the start, but ids go on, so that old ones are unknown."""
        memory = self.memory
        self._forget(Memory(memory.first_id + len(memory.digits), memory.record))
        return web.json_response({})

    async def edit_faults(self, request: web.Request) -> web.Response:
        """GET, POST (adds every rule of the body, or none if one is wrong), DELETE /admin/faults"""
        if request.method == "DELETE":
            self.faults.clear()
        elif request.method == "POST":
            posted = await request.json()
            try:
                posted = posted if isinstance(posted, list) else [posted]
                self.faults += [rules.read_fault(each) for each in posted]
            except KeyError as error:
                return web.json_response({"field": error.args[0]}, status=400)
        return web.json_response(self.faults)


_TABLE = "\n".join(f"  {digits:<6} {words}" for digits, words in rules.endings().items())


@click.command(epilog=f"\b\nHow a message ends, by the last two digits of its address:\n{_TABLE}")
@click.option("--host", default="127.0.0.1", show_default=True)
@click.option("--port", default=8044, show_default=True, help="0: any free port.")
@click.option("--login", default="tester", show_default=True, envvar="SIMULATOR_LOGIN")
@click.option("--password", default="111111", show_default=True, envvar="SIMULATOR_PASSWORD")
@click.option("--step", default=1.0, show_default=True, help="Seconds between states.")
@click.option("--seed", type=int, default=lambda: time.time_ns() % 2**32, help="Random seed.")
@click.option("--no-record", is_flag=True, help="Keep no messages; for benchmarks.")
def simulator(host: str, port: int, no_record: bool, **rest: Any) -> None:
    """Serve the provider's API with simulated deliveries."""
    # Not on stdout, where a parent process expects one line.
    click.echo(f"simulator seed {rest['seed']}", err=True)
    app = Simulator(record=not no_record, **rest).app()
    try:
        listener = socket.create_server((host, port))
    except OSError as error:
        raise click.ClickException(str(error)) from error
    url = f"http://{host}:{listener.getsockname()[1]}"
    # Cancels a handler, and so a hanging reply, as soon as its client has gone.
    options: Json = {"handler_cancellation": True, "shutdown_timeout": 0.5, "access_log": None}
    options["print"] = lambda _: click.echo(f"simulator listening on {url}")
    web.run_app(app, sock=listener, backlog=1024, **options)


if __name__ == "__main__":
    simulator()

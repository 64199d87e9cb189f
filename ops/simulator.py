"""A server of the provider's API for tests, the demo and the bench: `courier simulator`.

POST /send and POST /status answer as `provider/viber-http-api.txt` says, by the rules in
`ops.simulator_rules`; the last two digits of an address choose how its message ends (`--help`
prints the table). The document knows no HTTP codes: every answer of the API is a 200.

Its own endpoints need no auth; instants are Unix seconds, sizes bytes:

- GET /admin/accepted?since=N: accepted messages in their order: `providerId`, `request`
  (the number of its /send request, from 1), `resendSms`, `message` (commonData merged in), `at`;
- GET /admin/requests: how many `send` and `status` requests, accepted `messages` and `refused`
  entries; `batches` (messages per /send request, 0 where unreadable), `bytes` of all bodies, `log`
  (the sizes of the last 10,000 /send bodies), `broken` (number, kind of fault and
  code of each /send request whose answer a rule has broken);
- GET /admin/bodies: the last 100 bodies with `path` and `headers`, without Authorization;
- GET /admin/endings: the table; POST /admin/reset: forget all this, and the fault rules;
- GET, POST (a rule or a list of them), DELETE /admin/faults: rules for breaking answers. Each has
  a `kind`, `on` ("send" or "status"), `rate` (0..1), `times` (null: no end) and `address` (last
  digits: it breaks only a /send with a message to such an address); a kind is a set of defaults
  (`FAULTS` in the rules) for fields that any rule may set (`_FIELDS`). The first that applies to a
  request wins, `fired` counts.

Measured: about 180,000 messages/s (300,000 with --no-record) on one core of a 2-core machine, its
clients on the other: 8 keep-alive connections, 100 messages per request, the text in commonData,
rows with an address only (3 KB); 70,000 where each row has all its fields and a text of its own
(19 KB). A recorded message takes some 350 bytes in the first case, 1 KB in the second.
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
    """What the platform knows: a column per property of the accepted messages, and counts."""

    def __init__(self, first_id: int, record: bool) -> None:
        self.first_id = first_id  # ids are consecutive: an id is a place in the columns
        self.digits = bytearray()  # the last two of the address; 128 is added where resend is on
        self.times = array("d")
        self.record = record
        self.messages: list[tuple[int, Json, Json]] = []  # request, common, row: merged when asked
        self.met: set[tuple[str, str]] = set()  # address and content of those refused
        self.counts: Json = {"send": 0, "status": 0, "refused": 0, "bytes": 0}
        self.batches: list[int] = []
        self.broken: list[tuple[int, str, str | int]] = []
        self.sizes: deque[int] = deque(maxlen=10_000)
        self.bodies: deque[tuple[str, Any, bytes]] = deque(maxlen=100)

    def note(self, path: str, headers: Any, body: bytes) -> rules.Send | list[Any] | None:
        """Count a request; what it asks for, or None where it can't be read."""
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
        """The entries of the reply in the order of the messages; what is `ok` is remembered."""
        common, resend = send.common, send.resend
        common_fault = rules.other_fault(common, resend)
        entries: list[Json] = []
        for row in send.rows:
            bulk = len(row) == 1 and "address" in row  # the rest is checked once for all
            message = row if bulk else common | row
            rest_fault = common_fault if bulk else rules.other_fault(message, resend)
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
        if ending.once and key in self.met:
            return ""
        self.met.add(key)
        return ending.refusal

    def state(self, provider_id: int, now: float, step: float) -> Json:
        """The /status entry of an id."""
        place = provider_id - self.first_id
        if not 0 <= place < len(self.digits):
            return rules.unknown_entry(provider_id)
        resend, ending = self.digits[place] >= 128, _ENDINGS[self.digits[place] % 128]
        return rules.status_entry(provider_id, ending, resend, self.times[place], now, step)

    def accepted(self, since: int) -> list[Json]:
        """The recorded messages from place `since` on, expanded."""
        if not self.record:
            raise web.HTTPConflict(text="started with --no-record")
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
        """The counts and sizes."""
        known = {"messages": len(self.digits), "batches": self.batches, "log": [*self.sizes]}
        return self.counts | known | {"broken": self.broken}

    def recent(self) -> list[Json]:
        """The last bodies, without credentials."""
        shown = []
        for path, all_headers, body in self.bodies:
            headers = {k: v for k, v in all_headers.items() if k.lower() != "authorization"}
            shown.append({"path": path, "headers": headers, "body": body.decode(errors="replace")})
        return shown


class Simulator:
    """The HTTP side: answers, breaks its answers where a rule says so, and tells tests about it."""

    def __init__(self, login: str, password: str, step: float, seed: int, record: bool) -> None:
        self.auth = f"Basic {base64.b64encode(f'{login}:{password}'.encode()).decode()}"
        self.step, self.seed = step, seed  # seconds
        # Over 2^53 like the document's, and never again those of an earlier process.
        self._forget(Memory(3158611117333282816 + time.time_ns(), record))

    def _forget(self, memory: Memory) -> None:
        self.memory = memory
        self.faults: list[Json] = []
        self.chance = Random(self.seed)  # noqa: S311 - chance, not secrets

    def app(self) -> web.Application:
        """The routes: /send and /status are the document's, the rest is ours."""
        app = web.Application(client_max_size=64 * 2**20)
        app.router.add_post("/{path:send|status}", self.provider)
        app.router.add_get("/admin/{what:accepted|requests|bodies|endings}", self.tell)
        app.router.add_post("/admin/reset", self.reset)
        app.router.add_route("*", "/admin/faults", self.edit_faults)
        return app

    async def provider(self, request: web.Request) -> web.StreamResponse:
        """POST /send and /status: whatever is accepted is accepted before the first pause."""
        body = await request.read()
        question = self.memory.note(request.path, request.headers, body)
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

    async def tell(self, request: web.Request) -> web.Response:
        """GET /admin/accepted, /requests, /bodies and /endings"""
        memory, since = self.memory, int(request.query.get("since", 0))
        tellers: Json = {"requests": memory.requests, "bodies": memory.recent}
        tellers |= {"accepted": lambda: memory.accepted(since), "endings": rules.endings}
        return web.json_response(tellers[request.match_info["what"]]())

    async def reset(self, request: web.Request) -> web.Response:
        """POST /admin/reset: as at the start, but that ids go on, so that old ones are unknown."""
        memory = self.memory
        self._forget(Memory(memory.first_id + len(memory.digits), memory.record))
        return web.json_response({})

    async def edit_faults(self, request: web.Request) -> web.Response:
        """GET, POST (every rule of the body, or none if one is wrong), DELETE /admin/faults"""
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


@click.command(epilog=f"\b\nThe last two digits of an address, and what comes of it:\n{_TABLE}")
@click.option("--host", default="127.0.0.1", show_default=True)
@click.option("--port", default=8044, show_default=True, help="0: a free one.")
@click.option("--login", default="tester", show_default=True, envvar="SIMULATOR_LOGIN")
@click.option("--password", default="111111", show_default=True, envvar="SIMULATOR_PASSWORD")
@click.option("--step", default=1.0, show_default=True, help="Seconds from state to state.")
@click.option("--seed", type=int, default=lambda: time.time_ns() % 2**32, help="For all chance.")
@click.option("--no-record", is_flag=True, help="Keep no messages, for benches of millions.")
def simulator(host: str, port: int, no_record: bool, **rest: Any) -> None:
    """Serve the provider's API with simulated deliveries."""
    click.echo(f"simulator seed {rest['seed']}", err=True)  # stdout has one line, for a parent
    app = Simulator(record=not no_record, **rest).app()
    try:
        listener = socket.create_server((host, port))
    except OSError as error:
        raise click.ClickException(str(error)) from error
    url = f"http://{host}:{listener.getsockname()[1]}"
    # A handler is cancelled with its client: a hanging reply is nothing once nobody waits for it.
    how: Json = {"handler_cancellation": True, "shutdown_timeout": 0.5, "access_log": None}
    how["print"] = lambda _: click.echo(f"simulator listening on {url}")
    web.run_app(app, sock=listener, backlog=1024, **how)


if __name__ == "__main__":
    simulator()

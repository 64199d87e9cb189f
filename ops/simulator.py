"""A server of the provider's API for tests, the demo and the bench: `python -m ops.simulator`.

POST /send and POST /status answer as `provider/viber-http-api.txt` says, by the rules in
`ops.simulator_rules`; the last two digits of an address choose how its message ends (`--help`
prints the table). The document knows no HTTP codes: every answer of the API is a 200.

Its own endpoints need no auth; instants are Unix seconds, sizes bytes:

- GET /admin/accepted?since=N&limit=M: accepted messages in their order: `providerId`, `request`
  (the number of its /send request, from 1), `resendSms`, `message` (commonData merged in), `at`;
- GET /admin/requests: how many `send` and `status` requests, accepted `messages` and `refused`
  entries; `batches` (messages per /send request, 0 where unreadable), `bytes` of all bodies, `log`
  (the sizes of the last 10,000 /send bodies);
- GET /admin/bodies: the last 100 bodies with `path` and `headers`, without Authorization;
- GET /admin/endings: the table; POST /admin/reset: forget all this, and the fault rules;
- GET, POST (a rule or a list of them), DELETE /admin/faults: rules for breaking answers. Each has
  a `kind` (`FAULTS` in the rules lists their fields), `on` ("send" or "status"), `rate` (0..1) and
  `times` (null: no end); the first that applies to a request wins, `fired` counts.

Measured: about 180,000 messages/s (300,000 with --no-record) on one core of a 2-core machine, its
clients on the other: 8 keep-alive connections, 100 messages per request, the text in commonData,
rows with an address only (3 KB); 70,000 where each row has all its fields and a text of its own
(19 KB). A recorded message takes some 350 bytes in the first case, 1 KB in the second.
"""

import asyncio
import base64
import json
import signal
import time
from array import array
from collections import deque
from contextlib import suppress
from random import Random
from typing import Any

import click
from aiohttp import web

from ops import simulator_rules as rules
from ops.simulator_rules import Json

_NOTHING_ACCEPTED = ("status", "drop_before", "hang_before", "redirect")
_READ = rules.Ending()


def _ending(digits: int) -> rules.Ending:
    return rules.ENDINGS.get(digits, _READ)


class Memory:
    """What the platform knows: a column per property of the accepted messages, and counts."""

    def __init__(self, first_id: int, record: bool) -> None:
        self.first_id = first_id  # ids are consecutive: an id is a place in the columns
        self.digits = bytearray()  # the last two of the address; 128 is added where resend is on
        self.times = array("d")
        self.record = record
        self.messages: list[tuple[int, Json, Json]] = []  # request, common, row: merged when asked
        self.met: set[tuple[str, str]] = set()  # address and content of those refused once
        self.counts = {"send": 0, "status": 0, "refused": 0, "bytes": 0}
        self.batches: list[int] = []
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
            if len(row) == 1 and "address" in row:  # the way of a bulk: the rest is checked once
                fault = rules.address_fault(row) or common_fault
                message = row
            else:
                message = common | row
                fault = rules.address_fault(message) or rules.other_fault(message, resend)
            digits = 0 if fault else int(message["address"][-2:])
            ending = _ending(digits)
            if ending.refusal:
                fault = self._refusal(ending, common | row)
            if fault:
                entries.append({"code": fault})
                continue
            entries.append({"providerId": self.first_id + len(self.digits), "code": "ok"})
            self.digits.append(digits + 128 * resend)
            self.times.append(now)
            if self.record:
                self.messages.append((self.counts["send"], common, row))
        return entries

    def _refusal(self, ending: rules.Ending, message: Json) -> str:
        if not ending.once:
            return ending.refusal
        key = (message["address"], json.dumps(message["content"], sort_keys=True))
        met = key in self.met
        self.met.add(key)
        return "" if met else ending.refusal

    def state(self, provider_id: int, now: float, step: float) -> Json:
        """The /status entry of an id."""
        place = provider_id - self.first_id
        if not 0 <= place < len(self.digits):
            return rules.unknown_entry(provider_id)
        resend, ending = self.digits[place] >= 128, _ending(self.digits[place] % 128)
        return rules.status_entry(provider_id, ending, resend, self.times[place], now, step)

    def accepted(self, since: int, limit: int) -> list[Json]:
        """The recorded messages from place `since` on, expanded."""
        chosen = self.messages[since : since + limit]
        return [
            {
                "providerId": self.first_id + place,
                "request": request,
                "resendSms": self.digits[place] >= 128,
                "message": common | row,
                "at": self.times[place],
            }
            for place, (request, common, row) in enumerate(chosen, since)
        ]


class Simulator:
    """The HTTP side: answers, breaks its answers where a rule says so, and tells tests about it."""

    def __init__(
        self, login: str, password: str, step: float, latency: float, seed: int, record: bool
    ) -> None:
        self.token = base64.b64encode(f"{login}:{password}".encode()).decode()
        self.step, self.latency, self.seed = step, latency, seed  # seconds, seconds
        self.stopping = asyncio.Event()
        # Over 2^53 like the document's, and never again those of an earlier process.
        self._forget(Memory(3158611117333282816 + time.time_ns(), record))

    def _forget(self, memory: Memory) -> None:
        self.memory = memory
        self.faults: list[Json] = []
        self.chance = Random(self.seed)  # noqa: S311 - chance, not secrets

    def app(self) -> web.Application:
        """The routes: /send and /status are the document's, the rest is ours."""
        app = web.Application(client_max_size=64 * 2**20)
        app.router.add_post("/send", self.provider)
        app.router.add_post("/status", self.provider)
        app.router.add_get("/admin/accepted", self.accepted)
        app.router.add_get("/admin/requests", self.requests)
        app.router.add_get("/admin/bodies", self.bodies)
        app.router.add_get("/admin/endings", self.endings)
        app.router.add_post("/admin/reset", self.reset)
        app.router.add_route("*", "/admin/faults", self.edit_faults)
        return app

    async def provider(self, request: web.Request) -> web.StreamResponse:
        """POST /send and /status: whatever is accepted is accepted before the first pause."""
        body = await request.read()
        question = self.memory.note(request.path, request.headers, body)
        rule = rules.pick_fault(self.faults, request.path[1:], self.chance)
        if rule and (rule["kind"] in _NOTHING_ACCEPTED or rule.get("accept") is False):
            await self._pause(self.latency)
            return await self._break(request, rule, {})
        scheme, _, token = request.headers.get("Authorization", "").partition(" ")
        if scheme.lower() != "basic" or token != self.token:
            answer: Json = {"status": "error-auth"}
        elif question is None:
            answer = {"status": "error-syntax"}
        else:
            code = rule["code"] if rule and rule["kind"] == "entry" else ""
            answer = {"status": "ok", "messages": self._entries(question, code)}
        await self._pause(self.latency)
        return await self._break(request, rule, answer) if rule else _reply(answer)

    def _entries(self, question: rules.Send | list[Any], code: str) -> list[Json]:
        now, memory = time.time(), self.memory
        if isinstance(question, rules.Send):
            entries = [{"code": code} for _ in question.rows if code]
            entries = entries or memory.accept(question, now)
            memory.counts["refused"] += sum(entry["code"] != "ok" for entry in entries)
            return entries
        entries = rules.status_entries(question, lambda asked: memory.state(asked, now, self.step))
        if code:
            entries = [{"providerId": entry["providerId"], "code": code} for entry in entries]
        self.chance.shuffle(entries)
        return entries

    async def _break(self, request: web.Request, rule: Json, answer: Json) -> web.StreamResponse:
        match rule["kind"]:
            case "status":
                return _reply({"status": rule["code"]}, rule["http"])
            case "http":
                after = str(rule["retry_after"])
                headers = {"Retry-After": after} if after else {}
                return web.Response(text=rule["body"], status=rule["code"], headers=headers)
            case "redirect":
                return web.Response(status=307, headers={"Location": request.path})
            case "drop_before" | "drop_after" | "hang_before" | "hang_after":
                await self._pause(rule.get("seconds", 0))
                if request.transport:
                    request.transport.abort()
                return web.Response()  # goes nowhere
            case "slow":
                await self._pause(rule["seconds"])
            case "garbled":  # the comma that the document's own example lacks
                return _json(json.dumps(answer).replace(', "messages"', ' "messages"'))
            case "trickle" | "oversized":
                return await self._stream(request, rule, json.dumps(answer).encode())
        return _reply(rules.spoil(rule["kind"], answer))

    async def _stream(self, request: web.Request, rule: Json, body: bytes) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "application/json"})
        await response.prepare(request)
        if rule["kind"] == "trickle":
            for byte in body:
                await response.write(bytes([byte]))
                await self._pause(rule["seconds"])
            return response
        await response.write(body)  # only white space follows: cut short, it is still good JSON
        for left in range(rule["bytes"] - len(body), 0, -(2**16)):
            await response.write(b" " * min(left, 2**16))
        return response

    async def _pause(self, seconds: float) -> None:
        if seconds:
            with suppress(TimeoutError):  # stopping ends every pause
                await asyncio.wait_for(self.stopping.wait(), seconds)

    async def accepted(self, request: web.Request) -> web.Response:
        """GET /admin/accepted"""
        if not self.memory.record:
            return _reply({"error": "started with --no-record"}, 409)
        since, limit = request.query.get("since", "0"), request.query.get("limit", f"{2**31}")
        if not (since.isdecimal() and limit.isdecimal()):
            return _reply({"error": "since and limit are whole numbers"}, 400)
        return _reply(self.memory.accepted(int(since), int(limit)))

    async def requests(self, request: web.Request) -> web.Response:
        """GET /admin/requests"""
        memory = self.memory
        lists = {"batches": memory.batches, "log": [*memory.sizes]}
        return _reply({**memory.counts, "messages": len(memory.digits), **lists})

    async def bodies(self, request: web.Request) -> web.Response:
        """GET /admin/bodies"""
        shown = []
        for path, all_headers, body in self.memory.bodies:
            headers = {k: v for k, v in all_headers.items() if k.lower() != "authorization"}
            text = body.decode(errors="backslashreplace")
            shown.append({"path": path, "headers": headers, "body": text})
        return _reply(shown)

    async def endings(self, request: web.Request) -> web.Response:
        """GET /admin/endings"""
        return _reply(rules.endings())

    async def reset(self, request: web.Request) -> web.Response:
        """POST /admin/reset: as at the start, but that ids go on, so that old ones are unknown."""
        memory = self.memory
        self._forget(Memory(memory.first_id + len(memory.digits), memory.record))
        return _reply({})

    async def edit_faults(self, request: web.Request) -> web.Response:
        """GET, POST (every rule of the body, or none if one is wrong), DELETE /admin/faults"""
        if request.method == "DELETE":
            self.faults.clear()
        elif request.method == "POST":
            try:
                raw = json.loads(await request.read())
                self.faults += [
                    rules.read_fault(one) for one in (raw if type(raw) is list else [raw])
                ]
            except KeyError as error:
                return _reply({"error": "unknown, missing or wrong", "field": error.args[0]}, 400)
            except ValueError:
                return _reply({"error": "not JSON", "field": None}, 400)
        return _reply(self.faults)


def _json(text: str, http: int = 200) -> web.Response:
    return web.Response(text=text, status=http, content_type="application/json")


def _reply(answer: Json | list[Json], http: int = 200) -> web.Response:
    return _json(json.dumps(answer), http)


async def _serve(made: Simulator, host: str, port: int) -> None:
    # A handler is cancelled with its client: a hanging reply is nothing once nobody waits for it.
    runner = web.AppRunner(
        made.app(), access_log=None, handler_cancellation=True, shutdown_timeout=1.0
    )
    await runner.setup()
    try:
        await web.TCPSite(runner, host, port, backlog=1024).start()
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, made.stopping.set)
        click.echo(f"simulator listening on http://{host}:{runner.addresses[0][1]}")
        await made.stopping.wait()
    finally:
        await runner.cleanup()


_TABLE = "\n".join(f"  {digits:<6} {words}" for digits, words in rules.endings().items())


@click.command(epilog=f"\b\nThe last two digits of an address, and what comes of it:\n{_TABLE}")
@click.option("--host", default="127.0.0.1", show_default=True)
@click.option("--port", default=8044, show_default=True, help="0: a free one.")
@click.option("--login", default="tester", show_default=True, envvar="SIMULATOR_LOGIN")
@click.option("--password", default="111111", show_default=True, envvar="SIMULATOR_PASSWORD")
@click.option("--step", default=1.0, show_default=True, help="Seconds from state to state.")
@click.option("--latency", default=0.0, show_default=True, help="Seconds before each API reply.")
@click.option("--seed", type=int, help="For shuffles and fault rates; drawn where not given.")
@click.option("--no-record", is_flag=True, help="Keep no messages, for benches of millions.")
def main(host: str, port: int, seed: int | None, no_record: bool, **rest: Any) -> None:
    """Serve the provider's API with simulated deliveries."""
    seed = time.time_ns() % 2**32 if seed is None else seed
    click.echo(f"simulator seed {seed}", err=True)  # stdout has one line, for a parent to read
    made = Simulator(seed=seed, record=not no_record, **rest)
    try:
        asyncio.run(_serve(made, host, port))
    except OSError as error:
        raise click.ClickException(str(error)) from error


simulator: click.Command = main

if __name__ == "__main__":
    main()

"""Replies as no document has them, from a grammar of spellings; and a server that gives them.

The truth comes first: the server takes or refuses each message, and then spells its answer badly.
It never says that it refused what it took; no client could see through that.
"""

from __future__ import annotations

import gzip
import json
import threading
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NamedTuple

from hypothesis import strategies as st

FIRST_ID = 3158611117333282817
Json = dict[str, Any]

# An id, as JSON text. The good ones spell it, the bad ones don't; None: the field is missing.
GOOD_IDS: tuple[str, ...] = (
    *("%d", '"%d"', '" %d "', '"%d\\n"', '"+%d"', '"00%d"', " %d ", '"\\u00a0%d"', '"\\ufeff%d"'),
)
BAD_IDS: tuple[str | None, ...] = (
    *(None, "null", "0", '"0"', "-%d", '"-%d"', "%d.0", '"%d.0"', "3.158e18", '"3.158E+18"'),
    *("true", "false", '""', '" "', "[%d]", '{"value": %d}', '[[["%d"]]]', "NaN", '"NaN"'),
    *("1e400", "9" * 5000, '"' + "9" * 5000 + '"', "18446744073709551616", '"%d %d"', '"0x%x"'),
    *('"%d,"', '"%d L"', '"id %d"', '"1_000"', '"٣"'),
)
OK_CODES = ('"ok"', '"OK"', '" Ok "', '"ok\\n"', '"\\u006fk"')
ODD_CODES: tuple[str | None, ...] = (
    *(None, "null", "0", "200", "true", '""', '"okay"', '"accepted"', '["ok"]', '{"code": "ok"}'),
)
ERRORS = ("error-system", "ERROR_SYSTEM", " Error-System ", "error-subject-unknown")
STATES: tuple[str | None, ...] = (
    *('"read"', '" READ"', '"Delivered"', '"delivered\\n"', '"enqueued"', '"undelivered"'),
    *(None, "null", "3", "[]", '["read"]', '{"state": "read"}', '"teleported"', '""', "1e5"),
)
SMS: tuple[str | None, ...] = (
    *(None, "null", "[]", "{}", '"delivered"', "7", "[null]", '["delivered"]', "[[]]"),
    *('[{"id": %d, "state": "delivered"}]', '{"id": "%d", "status": "DELIVERED "}'),
    *(
        '[{"id": "+%d", "state": 5}]',
        '[{"id": 5.8e17, "state": {}}]',
        '[{"id": "%d", "state": "lost"}]',
    ),
)
RESULTS = (
    '"ok"',
    '" OK"',
    "null",
    "200",
    "true",
    None,
    '"error-system"',
    "[]",
    '"%s"' % ("x" * 999),
)
CASES: tuple[Callable[[str], str], ...] = (
    str,
    lambda name: name[0].upper() + name[1:],
    str.upper,
    lambda name: "".join("_" + c.lower() if c.isupper() else c for c in name),
)
SHAPES = (
    *("as it is", "as it is", "as it is", "as it is", "short", "long", "empty", "missing", "null"),
    *(
        "one object",
        "twice",
        "twice",
        "nested",
        "bare list",
        "in a string",
        "trailing comma",
        "cut",
    ),
    *("no comma", "nothing", "html", "deep", "junk before", "junk after", "comments", "two lines"),
)
ENCODINGS = ("utf-8", "utf-8", "utf-8-sig", "two BOMs", "utf-16", "utf-16-be", "utf-32", "cp1251")
CARRIERS = (
    *("plain", "plain", "plain", "gzip", "gzip untold", "told gzip", "deflate", "br", "chunked"),
    *("until close", "too short", "too long", "bad chunk", "many headers", "latin"),
)


@dataclass(frozen=True)
class Spelling:
    """How one reply is spelled. What stands in a tuple goes round from entry to entry."""

    truths: tuple[str, ...]  # "" is taken; else the code of its refusal
    ids: tuple[str | None, ...]
    codes: tuple[str | None, ...]
    states: tuple[str | None, ...]
    sms: tuple[str | None, ...]
    result: str | None
    case: Callable[[str], str]
    shape: str
    encoding: str
    carrier: str
    http: int
    text: str


def some(values: Sequence[Any], most: int = 3) -> st.SearchStrategy[tuple[Any, ...]]:
    return st.lists(st.sampled_from(values), min_size=1, max_size=most).map(tuple)


SPELLINGS = st.builds(
    Spelling,
    truths=some(("", "", "", *ERRORS)),
    ids=st.one_of(some(GOOD_IDS), some((*GOOD_IDS, *BAD_IDS)), some(("same", *GOOD_IDS))),
    codes=st.one_of(some(OK_CODES), some((*OK_CODES, *ODD_CODES))),
    states=some(STATES),
    sms=some(SMS),
    result=st.sampled_from(RESULTS),
    case=st.sampled_from(CASES),
    shape=st.sampled_from(SHAPES),
    encoding=st.sampled_from(ENCODINGS),
    carrier=st.sampled_from(CARRIERS),
    http=st.sampled_from((200, 200, 200, 201, 202, 299, 500, 502)),
    text=st.sampled_from(("", "Принято", 'a \\" \\ud800', "\\n" * 3, "x" * 3000)),
)


class Spelled(NamedTuple):
    """``sure``: for each entry, whether the reply says clearly that this message is taken."""

    body: bytes
    sure: list[bool]


def spell(how: Spelling, ids: Sequence[int], refusals: Sequence[str], state: bool) -> Spelled:
    """A reply about these ids, in order; ``state``: a /status reply."""
    entries, sure, case = list[str](), list[bool](), how.case
    for n, (id, refusal) in enumerate(zip(ids, refusals, strict=True)):
        form, code = how.ids[n % len(how.ids)], how.codes[n % len(how.codes)]
        same = form == "same"
        spelled = (
            str(ids[0]) if same else form and form.replace("%d", f"{id}").replace("%x", f"{id:x}")
        )
        if refusal:
            code, spelled = json.dumps(refusal), None
        fields = {"code": code, "providerId": spelled}
        if state:
            fields["status"] = how.states[n % len(how.states)]
            sms = how.sms[n % len(how.sms)]
            fields["smsStates"] = sms and sms.replace("%d", f"{id + 7}")
        pairs = [f'"{case(name)}": {value}' for name, value in fields.items() if value]
        pairs.append(f'"comment": "{how.text}"')
        entries.append("{" + ", ".join(pairs) + "}")
        sure.append(not refusal and code in OK_CODES)
    if "same" in how.ids:
        sure = [False] * len(sure)
    body = _shaped(how, entries)
    if how.shape not in ("as it is", "two lines") or how.encoding == "two BOMs":
        sure = [False] * len(sure)
    return Spelled(_encoded(body, how.encoding), sure)


def _shaped(how: Spelling, entries: list[str]) -> str:
    shape, name = how.shape, how.case
    if shape in ("short", "long"):
        entries = entries[:-1] if shape == "short" else [*entries, '{"code": "ok"}']
    messages: str | None = "[" + ", ".join(entries) + "]"
    if shape == "one object":
        messages = entries[0]
    if shape in ("empty", "missing", "null"):
        messages = {"empty": "[]", "missing": None, "null": "null"}[shape]
    parts = [f'"{name("status")}": {how.result}'] if how.result else []
    if messages:
        parts += [f'"{name("messages")}": {messages}'] * (1 + (shape == "twice"))
    if shape == "twice":
        parts[-1] = f'"{name("messages")}": []'
    body = "{" + ("," if shape != "no comma" else " ").join(parts) + "}"
    made = {
        "nested": '{"result": ' + body + "}",
        "bare list": messages or "",
        "in a string": json.dumps(body),
        "trailing comma": body[:-1] + ",}",
        "cut": body[: len(body) * 2 // 3],
        "nothing": "",
        "html": "<html><body>OK</body></html>",
        "deep": body[:-1] + ', "x": ' + "[" * 5000 + "]" * 5000 + "}",
        "junk before": ")]}'\n" + body,
        "junk after": body + "\0",
        "comments": "/* ok */" + body,
        "two lines": "\r\n" + body + "\r\n\r\n",
    }
    return made.get(shape, body)


def _encoded(body: str, encoding: str) -> bytes:
    if encoding == "two BOMs":
        return ("\ufeff" + body).encode("utf-8-sig")
    return body.encode(encoding, "replace" if encoding == "cp1251" else "strict")


def carry(how: Spelling, body: bytes) -> bytes:
    """The reply as it goes over the connection, which ends after it."""
    headers, sent = [f"HTTP/1.1 {how.http} ", "Connection: close"], body
    match how.carrier:
        case "gzip" | "gzip untold":
            sent = gzip.compress(body)
        case "deflate":
            sent = zlib.compress(body)
    if how.carrier in ("gzip", "told gzip", "deflate", "br"):
        headers.append(f"Content-Encoding: {how.carrier.removeprefix('told ')}")
    if how.carrier in ("chunked", "bad chunk"):
        headers.append("Transfer-Encoding: chunked")
        size = b"%x" % len(sent) if how.carrier == "chunked" else b"+zz"
        sent = size + b"\r\n" + sent + b"\r\n0\r\n\r\n" if sent else b"0\r\n\r\n"
    elif how.carrier != "until close":
        off = {"too short": -3, "too long": 3}.get(how.carrier, 0)
        headers.append(f"Content-Length: {max(0, len(sent) + off)}")
    if how.carrier == "many headers":
        headers += [f"X-{n}: y" for n in range(150)]
    if how.carrier == "latin":
        headers.append("X-Note: \xe9\xff")
    return "\r\n".join([*headers, "", ""]).encode("latin-1") + sent


def is_whole(how: Spelling) -> bool:
    """Whether the carrier brings the body as it is."""
    if how.carrier in ("told gzip", "deflate", "br", "bad chunk", "gzip untold", "many headers"):
        return how.carrier == "deflate"
    return how.carrier not in ("too short", "too long")


@dataclass
class Ledger:
    """What the server took, by address, and what it plainly said; by whom it was asked."""

    spellings: Sequence[Spelling]
    taken: Counter[str] = field(default_factory=Counter)
    sure: set[str] = field(default_factory=set)
    again: list[str] = field(default_factory=list)
    ids: dict[int, str] = field(default_factory=dict)
    requests: int = 0

    def answer(self, path: str, request: Json) -> bytes:
        how = self.spellings[self.requests % len(self.spellings)]
        self.requests += 1
        if path == "/status":
            asked = request["messages"]
            spelled = spell(how, asked, [""] * len(asked), state=True)
            return carry(how, spelled.body)
        rows = [{**request.get("commonData", {}), **row} for row in request["messages"]]
        readable = how.shape in ("as it is", "two lines") and how.encoding != "two BOMs"
        ids, refusals = list[int](), list[str]()
        for n, row in enumerate(rows):
            address = row["address"]
            # What can't be read says nothing, so all of it was taken: that is the worse case.
            truth = how.truths[n % len(how.truths)] if readable and is_whole(how) else ""
            bare = ("empty", "missing", "null", *["short"] * (len(rows) == 1))
            if how.shape in bare and "system" in (how.result or ""):
                truth = "error-system"  # said of the whole request
            ids.append(FIRST_ID + len(self.ids))
            self.ids[ids[-1]] = address
            refusals.append(truth)
            if address in self.sure:
                self.again.append(address)
            if not truth:
                self.taken[address] += 1
        spelled = spell(how, ids, refusals, state=False)
        if is_whole(how):
            pairs = zip(rows, spelled.sure, strict=True)
            self.sure |= {row["address"] for row, sure in pairs if sure}
        return carry(how, spelled.body)


@contextmanager
def odd_server() -> Iterator[tuple[str, Callable[[Sequence[Spelling]], Ledger]]]:
    """The address of a server, and a function that gives it new spellings and an empty ledger."""
    current = [Ledger(())]

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            self.wfile.write(current[0].answer(self.path, json.loads(body)))
            self.close_connection = True

        def log_message(self, *_: Any) -> None:
            pass

    def renew(spellings: Sequence[Spelling]) -> Ledger:
        current[0] = Ledger(spellings)
        return current[0]

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}", renew
        finally:
            server.shutdown()
            thread.join(10)

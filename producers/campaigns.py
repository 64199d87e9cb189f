"""Campaigns: many messages under one name, which can be watched, paused, cancelled and reported."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import AsyncGenerator, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from viber_courier.producers.endings import line_ends
from viber_courier.producers.preview import SHOWN, Preview
from viber_courier.schemas.errors import CampaignCancelled
from viber_courier.schemas.fields import CAMPAIGN
from viber_courier.schemas.instants import SECOND, iso
from viber_courier.schemas.message import MAX_AHEAD
from viber_courier.schemas.settings import Settings
from viber_courier.schemas.status import Status
from viber_courier.store.connection import store_errors
from viber_courier.store.keys import Keys
from viber_courier.store.records import ROW, report_values
from viber_courier.store.replicas import kept
from viber_courier.store.replies import Link, iterate, reply, run
from viber_courier.store.scripts import shared

CHUNK = 40
"""Messages that one script call ends: other calls wait for it a millisecond or two."""
CHUNK_ROWS = 200
"""Messages that one script call reads for a report."""
MINUTE = 60 * SECOND
"""Time constant of the pace that claim.lua keeps."""
LEAST = 1 / MAX_AHEAD.total_seconds()
"""The lowest rate of a campaign: a message a year."""
STATES = frozenset(Status)

State = Literal["unknown", "running", "paused", "cancelled", "ended"]
Add = Callable[..., Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """How far a campaign has come, exact to the message.

    ``state`` is ``ended`` once all that was added has ended, and ``unknown`` if nothing is stored
    of it. ``reason`` is why it is paused. ``rate`` is its own limit in messages/s, if it has one.
    ``waiting`` messages are in line, ``inside`` of these are in a request right now: they may still
    leave although the campaign is paused or cancelled. ``statuses`` says how many messages are in
    each status, ``entered`` how many have come into each ``<status>`` or ``<status>:<reason>``.
    ``later`` of those that wait are due later: by sending hours, ``sendAt`` or a retry.
    ``seconds_left`` is how long the rest will wait at the pace of the last minute; None if it
    stands still, or most of it is due later.
    """

    name: str
    state: State = "unknown"
    reason: str | None = None
    created: str | None = None
    rate: float | None = None
    added: int = 0
    resent: int = 0
    waiting: int = 0
    inside: int = 0
    later: int = 0
    ended: int = 0
    statuses: Mapping[Status, int] = field(default_factory=dict)
    entered: Mapping[str, int] = field(default_factory=dict)
    seconds_left: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportRow:
    """A message of a campaign: where it comes from, and what became of it.

    ``row`` is the number under which it was added, None for one that was not added with others. A
    letter sent again has None, too, and ``resend_of``. ``status`` is None if the record has expired
    (COURIER_RETENTION). Times are ISO 8601: ``submitted`` and ``ended`` by Redis's clock,
    ``status_at`` by the provider's.
    """

    row: int | None
    id: str
    status: Status | None
    final: bool = False
    reason: str | None = None
    attempts: int = 0
    unsure: int = 0
    submitted: str | None = None
    status_at: str | None = None
    ended: str | None = None
    resend_of: str | None = None


def require_campaign(name: str) -> str:
    """Returns a campaign's name. Raises ValueError for one that can't be."""
    if not isinstance(name, str) or not CAMPAIGN.fullmatch(name):
        raise ValueError("campaign must be 1 to 64 of A-Za-z0-9_.-")
    return str.__str__(name)


def read_progress(name: str, fields: Mapping[str, str], now: int) -> Progress:
    """Returns the Progress of a campaign's hash; ``now`` in microseconds by Redis's clock."""
    if "created" not in fields:
        return Progress(name=name)
    numbers = {n: int(fields.get(n, 0)) for n in ("added", "resent", "waiting", "inside", "ended")}
    entered, statuses = dict[str, int](), Counter[Status]({Status.QUEUED: numbers["waiting"]})
    for name_, count in fields.items():
        status, _, more = name_.partition(":")
        if status in STATES:
            entered[name_] = int(count)
            statuses[Status(status)] += int(count)
        elif status == "left":
            statuses[Status(more)] -= int(count)
    later = max(0, int(fields.get("later", 0)) - numbers["inside"])
    over = numbers["added"] == numbers["ended"] > 0
    state: State = "paused" if "paused" in fields else "ended" if over else "running"
    return Progress(
        name=name,
        state="cancelled" if "stopped" in fields else state,
        reason=fields.get("paused"),
        created=iso(int(fields["created"]) / SECOND),
        rate=float(fields["rate"]) if "rate" in fields else None,
        **numbers,
        later=later,
        statuses=dict(+statuses),
        entered=entered,
        seconds_left=_seconds_left(fields, numbers["waiting"], later, now),
    )


def _seconds_left(fields: Mapping[str, str], waiting: int, later: int, now: int) -> float | None:
    if not waiting:
        return 0.0
    if 2 * later > waiting or "served" not in fields or fields.keys() & {"paused", "stopped"}:
        return None
    idle = max(0, now - int(fields["served"])) / MINUTE
    age = max(SECOND, now - int(fields["began"])) / MINUTE
    pace = float(fields["pace"]) * math.exp(-idle) / (1 - math.exp(-age))  # messages a minute
    return waiting / pace * 60 if pace > 0.01 else None


class AsyncCampaign:
    """A campaign for asyncio, and the rules for both; Campaign describes the calls.

    ``add`` stores its rows, ``preview`` looks at some. ``rate`` None: as it is.
    """

    def __init__(
        self,
        name: str,
        add: Add,
        preview: Add,
        rate: float | None,
        link: Link,
        settings: Settings,
        clock: Callable[[], float],
    ) -> None:
        if rate is not None and not (isinstance(rate, int | float) and LEAST <= rate < math.inf):
            raise ValueError(f"rate must be a number of messages per second, at least {LEAST:.2g}")
        self.name, self._add, self._rate, self._clock = name, add, rate, clock
        self._preview = preview
        self._client, given = link.client, shared(settings) | {"name": name}
        self._namespace = settings.namespace
        self._rows = f"{Keys(settings.namespace).campaigns}{name}:rows"
        must = kept(link.client, settings)
        self._act = link.script(link.client, "campaign", given, must)
        self._end_lines = link.script(link.client, "end_lines", given, must)
        names = ("campaign", "rows")
        self._read = {name: link.script(link.client, name, given) for name in names}

    async def add(
        self,
        rows: Any,
        on_invalid: Any = None,
        on_suppressed: Any = None,
        *,
        numbers: Sequence[int] | None = None,
    ) -> list[str]:
        if self._rate is not None:
            await self._change("open", self._rate)
        ids: list[str] = await self._add(rows, on_invalid, on_suppressed, numbers)
        return ids

    async def preview(self, rows: Any, *, limit: int = SHOWN) -> Preview:
        found: Preview = await self._preview(rows, limit)
        return found

    async def progress(self) -> Progress:
        return (await self._call(self._read["campaign"], "read", ""))[0]

    async def pause(self, reason: str = "by hand") -> Progress:
        return await self._change("pause", reason[:200])

    async def resume(self) -> Progress:
        return await self._change("resume")

    async def cancel(self) -> Progress:
        marked = await self._change("cancel")
        if marked.state != "cancelled":  # nobody knows it
            return marked
        while await self._end_some():
            pass  # Redis serves whoever waits between two calls
        return await self.progress()

    async def report(self) -> AsyncGenerator[ReportRow, None]:
        start, skip, found = 0, 0, [None]
        while found:
            with store_errors(self._client):
                more = {"from": start, "skip": skip, "most": CHUNK_ROWS, "fields": ROW}
                call = self._read["rows"](rows=self._rows, **more)
                start, skip, found = await reply(call)
            for row, id, *values in zip(*[iter(found)] * (2 + len(ROW)), strict=True):
                known = report_values(dict(zip(ROW, values, strict=True)))
                yield ReportRow(row=None if row == "-" else int(row), id=id, **known)

    async def _change(self, act: str, value: str | float = "") -> Progress:
        progress, refused = await self._call(self._act, act, value)
        if refused and progress.state == "cancelled":
            raise CampaignCancelled(self.name)
        return progress

    async def _call(self, script: Any, act: str, value: str | float) -> tuple[Progress, bool]:
        with store_errors(self._client):
            now, refused, *pairs = await reply(script(act=act, value=value))
        fields = dict(zip(pairs[::2], pairs[1::2], strict=True))
        return read_progress(self.name, fields, int(now)), bool(refused)

    async def _end_some(self) -> int:
        """Ends messages that are inside no request; returns how many."""
        ends = line_ends(self._namespace, self._clock())
        with store_errors(self._client):
            return int(await reply(self._end_lines(most=CHUNK, **ends)))


class Campaign:
    """Many messages under one name; ``producer.campaign(name)`` returns it, stored or not.

    Its messages wait in a line of their own, and campaigns of one lane take turns.
    """

    def __init__(self, campaign: AsyncCampaign) -> None:
        self._campaign, self.name = campaign, campaign.name

    def add(
        self,
        rows: Any,
        on_invalid: Any = None,
        on_suppressed: Any = None,
        *,
        numbers: Sequence[int] | None = None,
    ) -> list[str]:
        """Stores a message for each row, as ``enqueue_many`` does; returns their ids in row order.

        ``numbers`` are the rows' numbers in the report, by default 0, 1, 2 ... Raises
        CampaignCancelled if the campaign was cancelled, and what ``enqueue_many`` raises.
        """
        return run(self._campaign.add(rows, on_invalid, on_suppressed, numbers=numbers))

    def preview(self, rows: Any, *, limit: int = SHOWN) -> Preview:
        """Returns what ``add`` would make of rows; stores nothing.

        The Preview shows the first ``limit`` messages. Ids are not looked up: whether a row is
        stored already, or a Conflict, is not said. Takes some 100 bytes of memory for each number.
        """
        return run(self._campaign.preview(rows, limit=limit))

    def progress(self) -> Progress:
        """Returns how far it has come."""
        return run(self._campaign.progress())

    def pause(self, reason: str = "by hand") -> Progress:
        """Stops sending, also before the first ``add``. Its messages still expire.

        After this call no message leaves but those that are ``inside`` a request, which the result
        counts. Raises CampaignCancelled.
        """
        return run(self._campaign.pause(reason))

    def resume(self) -> Progress:
        """Goes on sending. Raises CampaignCancelled."""
        return run(self._campaign.resume())

    def cancel(self) -> Progress:
        """Ends all that waits, for good: ``cancelled``, or ``unconfirmed`` if it may have left.

        From its beginning on nothing is added, and no message leaves but those that are ``inside``
        a request. Workers end those that come back, and the rest if this call is interrupted. You
        can repeat it.
        """
        return run(self._campaign.cancel())

    def report(self) -> Iterator[ReportRow]:
        """Yields what became of each message, in the order in which they were stored."""
        return iterate(self._campaign.report())

"""What producers send to Redis, and what the replies mean: once for Producer and AsyncProducer."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterable, Callable, Iterable, Mapping, Sequence
from functools import cache, partial
from typing import TYPE_CHECKING, Any, Literal, TypeVar, overload

from viber_courier.producers.campaigns import AsyncCampaign, Progress, require_campaign
from viber_courier.producers.dead import AsyncDeadLetters, Letter
from viber_courier.producers.endings import Ending, Endings, ending
from viber_courier.producers.namespace import Namespace
from viber_courier.producers.preview import Preview, preview
from viber_courier.producers.results import Reader, Start, require_start
from viber_courier.producers.rows import (
    NOTHING,
    Checks,
    Clashes,
    FetchStored,
    OnInvalid,
    OnSuppressed,
    Row,
    RowStream,
    Stored,
    fresh_id,
    heeded,
)
from viber_courier.producers.suppressions import AsyncSuppressions
from viber_courier.schemas.errors import (
    CampaignCancelled,
    Conflict,
    EnqueueError,
    InvalidMessage,
    QueueFull,
)
from viber_courier.schemas.fields import SOURCE
from viber_courier.schemas.message import Campaign, Job, named, parse_job, require_in_time
from viber_courier.schemas.settings import Settings
from viber_courier.schemas.status import Reason, Status
from viber_courier.schemas.suppression import number_hash
from viber_courier.store.connection import StoreUnavailable, require_name
from viber_courier.store.format import format_fault
from viber_courier.store.records import Record, new_message, record_values
from viber_courier.store.refusals import refusal
from viber_courier.store.replies import Link

if TYPE_CHECKING:
    from viber_courier import types

logger = logging.getLogger(__name__)

T = TypeVar("T")
Rows = Iterable[T] | AsyncIterable[T]


def settings_from(env: Mapping[str, str]) -> Settings:
    """Returns a producer's settings; says once in the log if nobody said where Redis is."""
    settings = Settings.from_env(env)
    if not any(env.get(name) for name in ("COURIER_REDIS_URL", "COURIER_REDIS_URL_FILE")):
        _say_localhost()
    return settings


@cache
def _say_localhost() -> None:
    logger.warning("COURIER_REDIS_URL is not set: Redis on localhost is used")


class Calls:
    """The calls of one namespace, as coroutines (store/replies.py); Producer describes each.

    ``dead`` holds the dead letters, ``suppressions`` the suppressed numbers.
    """

    def __init__(self, link: Link, settings: Settings, clock: Callable[[], float]) -> None:
        self._link, self.settings, self._clock = link, settings, clock
        self._namespace = namespace = Namespace(link, settings, clock)
        self._keys, self._numbers = namespace.keys, number_hash(settings.suppression_key)
        get = namespace.script("get")
        self._scripts = {"enqueue": namespace.script("enqueue"), "get": get}
        self._glance = namespace.script("get", waits=False) if namespace.kept else get
        self._endings = Endings(namespace)
        self.suppressions = AsyncSuppressions(namespace)
        self.dead = AsyncDeadLetters(namespace, self._store_again)

    async def ping(self) -> None:
        client, ask = self._link.client, self._namespace.ask
        await ask(client.ping)
        if fault := await ask(format_fault, client, self.settings.namespace):
            raise StoreUnavailable(fault)

    async def enqueue(self, job: types.Job) -> str:
        parsed = self._parse_job(job, self._clock())
        if parsed.wait < 0:
            await self._require_in_time(parsed)
        id = parsed.id or fresh_id()
        try:
            stored = await (await self._begin_store([Row(None, job, id, parsed)]))()
        except StoreUnavailable as error:
            error.id = id
            if parsed.id is None and not refusal(error):
                error.args = (f"{error}; to repeat it, give the job the id {id}",)
            raise
        for clash in stored.clashes.values():
            raise clash
        return id

    @overload
    async def enqueue_many(
        self,
        rows: Rows[types.Job],
        common: None = None,
        on_invalid: OnInvalid | None = None,
        on_suppressed: OnSuppressed | None = None,
    ) -> list[str]: ...
    @overload
    async def enqueue_many(
        self,
        rows: Rows[types.Row],
        common: types.Common,
        on_invalid: OnInvalid | None = None,
        on_suppressed: OnSuppressed | None = None,
    ) -> list[str]: ...
    @overload
    async def enqueue_many(
        self,
        rows: Rows[Mapping[str, Any]],
        common: types.Common | None = None,
        on_invalid: OnInvalid | None = None,
        on_suppressed: OnSuppressed | None = None,
        *,
        template: Literal[True],
    ) -> list[str]: ...
    async def enqueue_many(
        self,
        rows: Rows[Any],
        common: Any = None,
        on_invalid: OnInvalid | None = None,
        on_suppressed: OnSuppressed | None = None,
        *,
        template: bool = False,
    ) -> list[str]:
        return await self._store_rows(rows, common, on_invalid, on_suppressed, template)

    def campaign(
        self, name: str, common: Any = None, *, template: bool = False, rate: float | None = None
    ) -> AsyncCampaign:
        """Returns a campaign; Producer.campaign describes it."""
        name, shared_part = require_campaign(name), common or {}
        if shared_part.get("campaign", name) != name:
            raise InvalidMessage({"common.campaign": [f"must be {name!r}, or left out"]})
        shared_part = {**shared_part, "campaign": name}

        async def add(rows: Any, on_invalid: Any, on_suppressed: Any, numbers: Any) -> list[str]:
            told = on_invalid, on_suppressed
            return await self._store_rows(rows, shared_part, *told, template, name, numbers)

        async def preview_of(rows: Any, limit: int) -> Preview:
            checks = self._checks(shared_part, template, name)
            return await preview(self._namespace, rows, checks, limit, self.suppressions.among)

        doors = add, preview_of
        return AsyncCampaign(name, *doors, rate, self._link, self.settings, self._clock)

    async def campaigns(self) -> list[Progress]:
        """Returns how far each campaign has come, the newest first."""
        names = await self._namespace.ask(self._link.client.zrevrange, self._keys.registry, 0, -1)
        found = [await self.campaign(name).progress() for name in names]
        stored = (each for each in found if each.created)
        return sorted(stored, key=lambda each: str(each.created), reverse=True)

    async def _store_rows(
        self,
        rows: Rows[Any],
        common: Any,
        on_invalid: OnInvalid | None,
        on_suppressed: OnSuppressed | None,
        template: bool,
        name: str = "",
        numbers: Sequence[int] | None = None,
    ) -> list[str]:
        """Stores rows, of this campaign only if it has a ``name``; its report has their numbers."""
        checks = self._checks(common, template, name)
        begin, told = partial(self._begin_store, numbers=numbers), (on_invalid, on_suppressed)
        stream = RowStream(self._namespace, checks, self._require_in_time, *told, begin)
        try:
            await stream.store(rows)
        except (EnqueueError, StoreUnavailable) as error:
            error.accepted = stream.accepted
            if isinstance(error, StoreUnavailable):
                error.in_doubt = stream.in_doubt
            raise
        return stream.accepted

    async def get(self, id: str) -> Record | None:
        state = await self._state(id, self._glance)
        return None if state is None else Record(**record_values(id, *state))

    async def cancel(self, id: str) -> bool:
        get = self._glance
        while (state := await self._state(id, get)) is not None:
            record = Record(**record_values(id, *state))
            if record.status == Status.CANCELLED and record.provider_id is None:
                if get is self._scripts["get"]:
                    return True
                get = self._scripts["get"]  # an earlier call may have raised: replicas lacked it
                continue
            if record.status != Status.QUEUED:
                return False
            how = ending(state[0], Status.CANCELLED, Reason.BY_REQUEST)
            answer = (await self._endings.end({id: (state[0].get("n", "0"), how)}))[id]
            if answer == "done":
                return record.unsure == 0
            if answer in ("busy", "lost"):
                return False
        return False

    def _checks(self, common: Any, template: bool, name: str) -> Checks:
        common = named(common, self.settings.source)
        return Checks(common, template, self._clock(), name, self._parse_job)

    def _parse_job(self, job: Any, now: float) -> Job:
        return parse_job(named(job, self.settings.source), now)

    def _reader(self, group: str, consumer: str, start: Start, source: str = "") -> Reader:
        """Returns a reader of result events. Raises TypeError and ValueError for wrong values."""
        require_start(start)
        if source and not SOURCE.fullmatch(source):  # no event would be this reader's
            raise ValueError("source must be 1 to 32 of A-Za-z0-9_.-")
        names = require_name("group", group), require_name("consumer", consumer)
        return Reader(self._namespace, *names, start, source)

    async def _store_again(self, letters: list[Letter], gap: int) -> Clashes:
        rows = [Row(None, None, new, job, old) for old, new, job in letters]
        try:
            return (await (await self._begin_store(rows, None, gap))()).clashes
        except QueueFull:
            if not (half := len(letters) // 2):
                raise
        first = await self._store_again(letters[:half], gap)
        return {**first, **await self._store_again(letters[half:], gap)}

    async def _begin_store(
        self,
        rows: list[Row],
        campaign: Campaign | None = None,
        gap: int | None = None,
        numbers: Sequence[int] | None = None,
    ) -> FetchStored:
        """Begins to store rows; an asyncio client's chunk is stored by then.

        ``gap``: for dead letters sent again, microseconds from one due time to the next.
        """
        if not rows:
            return _fetch_nothing
        messages = [
            new_message(r.id, r.job, r.resend_of, numbers[r.number or 0] if numbers else r.number)
            for r in rows
        ]
        width = max(map(len, messages))
        tail = [value for each in messages for value in (*each, *[""] * (width - len(each)))]
        digest = campaign.digest if campaign else ""
        suppression, phones = self._numbers, (heeded(row.job) for row in rows)
        fetch_reply = await self._namespace.ask(
            self._scripts["enqueue"].begin,
            common=self._keys.commons + digest,
            status=Status.QUEUED,
            common_digest=digest,
            common_json=campaign.json if campaign else "",
            hashes=suppression.joined(phones) if suppression else "",
            gap=gap,
            width=width,
            tail=tail,
        )

        async def fetch_stored() -> Stored:
            state, *places = await self._namespace.ask(fetch_reply)
            if state == "full":
                raise QueueFull(self.settings.max_queued)
            if not places:
                return NOTHING
            found = [rows[int(place)] for each in places for place in each]
            if state == "cancelled":
                names = {row.id: row.job.campaign or "" for row in found}
                return Stored({id: CampaignCancelled(name) for id, name in names.items()})
            if state == "conflict":
                return Stored({row.id: Conflict(row.id) for row in found})
            return Stored(suppressed=await self._end_suppressed(found))

        return fetch_stored

    async def _end_suppressed(self, rows: list[Row]) -> set[str]:
        """Ends what was stored for suppressed numbers; returns the ids of what has ended so.

        A worker ends what this call can't, because the app dies before it.
        """
        end = partial(Ending, Status.REJECTED, Reason.SUPPRESSED, "0", 0)
        ends = {row.id: ("0", end(row.job.metadata, row.resend_of)) for row in rows}
        answers = await self._endings.end(ends)
        return {id for id, answer in answers.items() if answer in ("done", "before")}

    async def _require_in_time(self, job: Job) -> None:
        """Raises what require_in_time raises, unless the job was stored in time."""
        state = await self._state(job.id, self._glance) if job.id else None
        if state is None or state[0].get("job") != job.digest:
            require_in_time(job)

    async def _state(self, id: str, get: Any) -> tuple[dict[str, str], float] | None:
        """Returns a record's fields and its score (0: in no lane); None if there is no record."""
        require_name("id", id)
        score, *pairs = await self._namespace.ask(get, record=self._keys.records + id, id=id)
        fields = dict(zip(pairs[::2], pairs[1::2], strict=True))
        return (fields, float(score or 0)) if fields else None


async def _fetch_nothing() -> Stored:
    return NOTHING

"""Previews: what rows would become if they were added now (a dry run). Stores nothing."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from viber_courier.producers.namespace import Namespace
from viber_courier.producers.rows import CHUNK_ROWS, Checks, heeded
from viber_courier.schemas.errors import ConfigError, InvalidMessage
from viber_courier.schemas.message import Job, require_in_time
from viber_courier.store.connection import StoreUnavailable
from viber_courier.store.replies import reply

SHOWN = 3
"""Messages that a preview shows."""
NOWHERE = "ZZ"
"""The country of a number that no country has."""
SEPTETS, UNITS = (160, 153), (70, 67)
"""Room of a lone SMS and of a segment of several, in GSM-7 septets and in UCS-2 units."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sms:
    """What the SMS of a preview's messages are if every one falls back.

    ``messages`` have ``resendSms`` and are not suppressed; ``unicode`` of them have characters that
    GSM-7 lacks. ``segments`` is what the provider charges for.
    """

    messages: int
    unicode: int
    segments: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Preview:
    """What rows would become, were they added now.

    ``messages`` of the ``rows`` would be stored; ``refused`` rows would not, for ``reasons``.
    ``repeated`` rows are valid and have an earlier row's number. ``suppressed`` messages would end
    at once, unsent. ``countries`` counts different numbers by the country's two letters (ZZ: no
    country has it). ``first`` holds the first messages as they would be sent, with masked numbers.
    ``suppressed``, ``countries`` and ``sms`` are None where they can't be known: ``notes`` say why.
    """

    rows: int
    messages: int
    refused: int
    reasons: Mapping[str, int]
    repeated: int
    suppressed: int | None
    countries: Mapping[str, int] | None
    sms: Sms | None
    first: Sequence[Mapping[str, Any]]
    notes: Sequence[str]


def mask(address: str) -> str:
    """Returns a phone number with five digits hidden, fit for every reader."""
    return f"{address[: max(0, min(4, len(address) - 7))]}***{address[-2:]}"


def reason_of(wrong: InvalidMessage) -> str:
    """Returns every fault of a job by field, without its values."""
    faults = sorted(wrong.errors.items())
    return "; ".join(f"{path} {' and '.join(texts)}".lstrip() for path, texts in faults)


class Tally:
    """Counts rows for a preview, which ``result`` returns. ``limit``: most messages shown."""

    def __init__(self, limit: int = SHOWN) -> None:
        self._limit, self._seen = limit, set[int]()
        self.rows = self.messages = self.refused = self.repeated = 0
        self.reasons, self.countries = Counter[str](), Counter[str]()
        self._first, self._unknown = list[Mapping[str, Any]](), dict[str, str]()
        self._sms, self._unsent, self._suppressed = Counter[str](), Counter[str](), 0
        self._pending = list[tuple[str, Mapping[str, int]]]()

    @property
    def numbers(self) -> int:
        """How many different numbers there are."""
        return len(self._seen)

    def refuse(self, reason: str) -> None:
        """Counts a row that is wrong."""
        self.reasons[reason] += 1
        self.refused += 1

    def number(self, digits: str, country_of: Callable[[str], str]) -> bool:
        """Counts a valid row's number; returns whether it is new."""
        if int(digits) in self._seen:
            self.repeated += 1
            return False
        self._seen.add(int(digits))
        if "countries" not in self._unknown:
            try:
                self.countries[country_of(digits)] += 1
            except ImportError as missing:
                self._unknown["countries"] = f"countries are not counted: {missing}"
        return True

    def message(self, checks: Checks, row: Any, job: Job, wire: Mapping[str, Any]) -> None:
        """Counts a row that would be a message."""
        self.messages += 1
        if len(self._first) < self._limit:
            self._first.append({**checks.fields(row), "address": mask(wire["address"])})
        sms = self._sms_of(wire) if job.resend and "sms" not in self._unknown else {}
        self._sms.update(sms)
        if "suppressed" not in self._unknown and (number := heeded(job)):
            self._pending.append((number, sms))

    async def look_up(self, among: Callable[[Collection[str]], Any]) -> None:
        """Counts messages to suppressed numbers; ``among`` is that of the list, of either kind."""
        pending, self._pending = self._pending, []
        if not pending:
            return
        try:
            found = {*(await reply(among([number for number, _ in pending])))}
        except (ConfigError, StoreUnavailable) as error:
            self.skip_suppressed(error)
        else:
            unsent = [sms for number, sms in pending if number in found]
            self._suppressed += len(unsent)
            for sms in unsent:
                self._unsent.update(sms)

    def skip_suppressed(self, error: ConfigError | StoreUnavailable) -> None:
        """Notes why suppressed numbers are not known; all messages count as sent."""
        self._unsent.clear()
        faults = error.faults.items() if isinstance(error, ConfigError) else ()
        why = "; ".join(f"{name} {fault}" for name, fault in faults) or str(error)
        self._unknown["suppressed"] = f"suppressed numbers are not looked up: {why}"

    def result(self) -> Preview:
        """Returns what was counted."""
        sms = {name: self._sms[name] - self._unsent[name] for name in Sms.__slots__}
        found: dict[str, Any] = {
            "suppressed": self._suppressed,
            "countries": dict(self.countries.most_common()),
            "sms": Sms(**sms),
        }
        found |= dict.fromkeys(self._unknown)
        counts = {name: getattr(self, name) for name in ("rows", "messages", "refused", "repeated")}
        reasons, notes = dict(self.reasons.most_common()), [*self._unknown.values()]
        return Preview(**counts, reasons=reasons, **found, first=self._first, notes=notes)

    def _sms_of(self, wire: Mapping[str, Any]) -> Mapping[str, int]:
        try:
            count, is_unicode = segments(wire.get("smsText") or wire["content"]["text"])
        except ImportError as missing:
            self._unknown["sms"] = str(missing)
            return {}
        return {"messages": 1, "segments": count, "unicode": int(is_unicode)}


async def preview(
    namespace: Namespace,
    rows: Any,
    checks: Checks,
    limit: int,
    among: Callable[[Collection[str]], Any],
) -> Preview:
    """Returns what rows, of an iterable of either kind, would become."""
    tally, now, link = Tally(limit), namespace.clock(), namespace.link
    size = link.slice or CHUNK_ROWS
    async for row in _each(rows):
        tally.rows += 1
        try:
            job = require_in_time(checks.parse(row, now))
        except InvalidMessage as wrong:
            tally.refuse(reason_of(wrong))
        else:
            wire = checks.wire(job)
            tally.number(wire["address"], country_of)
            tally.message(checks, row, job, wire)
        if tally.rows % size == 0:
            await tally.look_up(among)
            await reply(link.sleep(0))
    await tally.look_up(among)
    return tally.result()


async def _each(rows: Any) -> AsyncIterator[Any]:
    if hasattr(rows, "__aiter__"):
        async for row in rows:
            yield row
    else:
        for row in rows:
            yield row


def country_of(digits: str) -> str:
    """Returns the two letters of E.164 digits' country. Raises ImportError without phonenumbers."""
    try:
        from phonenumbers import NumberParseException, parse, region_code_for_number
    except ModuleNotFoundError:
        raise ImportError("pip install 'viber-courier[phone]'") from None
    try:
        return region_code_for_number(parse("+" + digits)) or NOWHERE
    except NumberParseException:
        return NOWHERE


@lru_cache(1024)
def segments(text: str) -> tuple[int, bool]:
    """Returns how many SMS segments a text takes, and whether they are UCS-2 (3GPP TS 23.038).

    No segment ends inside an escape sequence or a surrogate pair. Raises ImportError without
    gsm0338.
    """
    try:
        import gsm0338  # noqa: F401 - registers the codec gsm03.38
    except ModuleNotFoundError:
        text = "SMS segments are not counted: pip install 'viber-courier[sms]'"
        raise ImportError(text) from None
    widths, (one, many) = [_septets(char) for char in text], SEPTETS
    if is_unicode := 0 in widths:
        widths, (one, many) = [1 + (char > "\uffff") for char in text], UNITS
    if sum(widths) <= one:
        return 1, is_unicode
    count, room = 1, many
    for width in widths:
        if width > room:
            count, room = count + 1, many
        room -= width
    return count, is_unicode


@lru_cache(4096)
def _septets(char: str) -> int:
    """Returns the septets of a character in GSM-7 with its extension table; 0: it has none."""
    try:
        return len(char.encode("gsm03.38"))
    except UnicodeEncodeError:
        return 0

"""What else must add up after a chaos run: groups' accounts, counters, what is left in Redis.

Pure, and imports nothing of the courier, as the oracle.
"""

from __future__ import annotations

import hashlib
import json
import re
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from tests.faults.chaos.oracle import Act, Json, Ledgers, Verdict, Violation

Entry = tuple[int, int]
NEAR = 5.0
"""Seconds around an act in which a note that was just told may be there again."""
EXCUSED = 90.0
"""Seconds for which an acknowledgement that a broken conversation has lost may be noticed."""


@dataclass(frozen=True)
class Told:
    """EventsMissed: of the events written from ``since`` on and before ``until`` (milliseconds by
    Redis's clock); ``at`` is when the app was told, by the true clock."""

    since: int
    until: int
    at: float


class Seen(NamedTuple):
    """An event: its id, and a digest of its data."""

    id: str
    data: str


def digest(data: Json) -> str:
    return hashlib.sha1(json.dumps(data, sort_keys=True).encode()).hexdigest()[:12]


@dataclass(frozen=True)
class Account:
    """What a group got, in its order, and what it was told of others."""

    name: str
    read: Sequence[tuple[Entry, Seen]]
    told: Sequence[Told]


@dataclass(frozen=True)
class Balance:
    violations: list[Violation]
    figures: Json


def balance(
    account: Account, written: Mapping[Entry, Seen], acts: Sequence[Act], strict: bool
) -> Balance:
    """events read + events told missing = events written, each event in one of them.

    ``written``: the events that stand in the end. ``strict``: Redis may not forget what somebody
    has read, unless the same is told again under the same id. ``acts``: those that may break a
    conversation with Redis; around one, an acknowledgement or the note of what was missed may be
    repeated.
    """
    read, entries = {entry for entry, _ in account.read}, sorted(written)
    unread = [entry for entry in entries if entry not in read]
    tellings = Tellings(account.told, unread, acts)
    stands = set(written.values())
    gone = [seen for entry, seen in account.read if written.get(entry) != seen]
    faults = [
        *tellings.needless(entries),
        *((name, written[entry].id) for name, entry in tellings.amiss(unread)),
        *(("event taken back", seen.id) for seen in gone if strict and seen not in stands),
    ]
    figures = {
        "read": len(read),
        "told missing": sum(1 for entry in unread if tellings.times[entry]),
        "in tellings": len(account.told),
        "told again": sum(1 for entry in unread if tellings.times[entry] > 1),
        "read again": len(account.read) - len(read),
        "forgotten by Redis": len(gone),
    }
    return Balance([Violation(name, id, account.name) for name, id in faults], figures)


class Tellings:
    """How often a group was told of each event that it has not read."""

    def __init__(self, told: Sequence[Told], unread: list[Entry], acts: Sequence[Act]) -> None:
        self.times, self._repeatable, self._acts = Counter[Entry](), set[Entry](), acts
        self._each = [(one, _between(unread, one.since, one.until)) for one in told]
        for _, within in self._each:
            self.times.update(within)
        # An id has more to it than milliseconds: of the last one, some are missed and others read.
        edges = {one.until for one in told}
        self.times.update(each for each in unread if each[0] in edges and not self.times[each])
        for one, within in self._each:
            if any(act.begun - NEAR <= one.at <= act.over + NEAR for act in acts):
                self._repeatable.update(within)

    def needless(self, entries: list[Entry]) -> Iterator[tuple[str, str]]:
        """Of nothing that was missed, or from too early, with no broken conversation before."""
        for one, within in self._each:
            excused = any(act.begun <= one.at <= act.over + EXCUSED for act in self._acts)
            if not within and not (excused and _between(entries, one.since, one.until)):
                yield "told missing, and nothing was", str(one)
            elif within and within[0][0] != one.since and not excused:
                yield "told missing from too early", str(one)

    def amiss(self, unread: list[Entry]) -> Iterator[tuple[str, Entry]]:
        """Never told, or twice."""
        for entry in unread:
            if not self.times[entry]:
                yield "event never read", entry
            elif self.times[entry] > 1 and entry not in self._repeatable:
                yield "told missing twice", entry


def _between(entries: list[Entry], since: int, until: int) -> list[Entry]:
    """Those written from ``since`` on and before ``until``: milliseconds of entries' ids."""
    return entries[bisect_left(entries, (since, 0)) : bisect_left(entries, (until, 0))]


def counted(counts: Mapping[str, str], events: Sequence[Json], known: int) -> Iterator[Violation]:
    """The counters of statuses against the events, and against how many messages are known."""
    entered, last = Counter[str](), dict[str, str]()
    for event in events:
        status = event["data"]["status"]
        entered[status] += last.get(event["subject"]) != status
        last[event["subject"]] = status
    entered["queued"] = known
    told = Counter[str]()
    for field, n in counts.items():
        told[field.partition(":")[0]] += int(n)
    for status in entered:
        if told[status] != entered[status]:
            yield Violation("counter wrong", status, f"{told[status]}, ledger {entered[status]}")


@dataclass(frozen=True)
class Left:
    """A key that a run has left behind; ``expires`` in some time; ``size`` of lists and sets."""

    name: str
    type: str
    expires: bool
    size: int


LASTING = {
    "counts": 1,
    "requests": 1,
    "results": 1,
    "dead": 1,
    "fence": 2,
    "gate": 2,
    "swept": 1,
    "clock": 1,
    "missed": 1,
    "kept": 1,
    "format": 1,
    "campaigns": 1,
    "suppressed": 1,
    "turns": 4,
    "held": 4,
}
"""Keys of the store that stay for ever: the first words of their names, and how many there are."""
PASSING = {"m", "c", "common", "once", "bell", "bucket", "check", "campaign"}
"""Those that expire."""
EMPTY = {"lane", "watch"}
"""Those that are gone when every message has ended."""
SLACK_MS, NODE = 10_000, 200
"""Of trimming: a sweep's delay on a busy machine, and events of one node of a stream."""
TASKS = (".enqueue", ".enqueue.held", ".enqueue.bodies")
"""Ends of the names of what holds ``courier.enqueue`` tasks: there may be none."""
MOST_WORDS, MOST_BELLS, MOST_LINES = 20, 40, 48
"""Words on the wake list, and tasks on a queue, that may be left: wake-ups of nothing. And lines of
24 campaigns: an empty one is looked at when what was cancelled there would have been due."""


def left_behind(keys: Sequence[Left], namespace: str, kept: int) -> Iterator[Violation]:
    """Nothing may stay in Redis but what is told above. ``kept``: most events in the stream."""
    found = Counter[str]()
    for key in keys:
        named = re.fullmatch(rf"\{{{namespace}\}}:([a-z]+)(:.*)?", key.name)
        if named:
            found[named[1]] += 1
        if fault := _why_left(key, named[1] if named else None, kept):
            yield Violation(fault, key.name, f"{key.type} of {key.size}")
    for word, most in LASTING.items():
        if found[word] > most:
            yield Violation("left behind", word, f"{found[word]} keys")


def _why_left(key: Left, word: str | None, kept: int) -> str:
    if word is None:
        is_queue = not key.expires and key.type != "set"
        most_tasks = 0 if key.name.endswith(TASKS) else MOST_BELLS
        return "left behind in the broker" if is_queue and key.size > most_tasks else ""
    if word in PASSING:
        return "" if key.expires else "never expires"
    most = {"results": kept, "wake": MOST_WORDS, **dict.fromkeys(EMPTY, 0)}
    most |= dict.fromkeys(("turns", "held"), MOST_LINES)
    is_known = word in LASTING or word in most
    return "" if is_known and key.size <= most.get(word, key.size) else "left behind"


MEMORY_BASE, MEMORY_EACH = 32 << 20, 3 << 10
"""Bytes that Redis may use at the end: besides messages, and for each message that is known."""


def used(memory: int, messages: int) -> Iterator[Violation]:
    most = MEMORY_BASE + MEMORY_EACH * messages
    if memory > most:
        yield Violation("too much memory", "", f"{memory >> 20} MiB for {messages} messages")


@dataclass(frozen=True)
class Evidence:
    """What a run has found out beside the ledgers. ``breaking``: acts that cut conversations."""

    written: Mapping[Entry, Seen]
    accounts: Sequence[Account]
    counts: Mapping[str, str]
    keys: Sequence[Left]
    memory: int
    namespace: str
    retention: float
    strict: bool
    breaking: Sequence[Act]


def settle_accounts(verdict: Verdict, ledgers: Ledgers, evidence: Evidence) -> None:
    """Adds to the verdict what these accounts say."""
    known = sum(record is not None for record in ledgers.records.values())
    for account in evidence.accounts:
        found = balance(account, evidence.written, evidence.breaking, evidence.strict)
        verdict.violations += found.violations
        verdict.figures[f"group {account.name}"] = found.figures
    verdict.violations += counted(evidence.counts, ledgers.events, known)
    newest = max(evidence.written, default=(0, 0))[0]
    oldest = newest - 1000 * evidence.retention - SLACK_MS
    kept = sum(entry[0] >= oldest for entry in evidence.written) + NODE
    verdict.violations += left_behind(evidence.keys, evidence.namespace, kept)
    verdict.violations += used(evidence.memory, known)
    verdict.figures["events written"] = len(evidence.written)
    verdict.figures["keys left"] = len(evidence.keys)
    verdict.figures["memory"] = f"{evidence.memory >> 20} MiB"

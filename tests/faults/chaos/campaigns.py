"""What must add up of campaigns after a chaos run. Pure, and imports nothing of the courier."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from tests.faults.chaos.oracle import (
    TIME_MATTERS,
    Act,
    Call,
    Conditions,
    Finding,
    Json,
    Ledgers,
    Life,
    Verdict,
    Violation,
    is_stalled,
    join,
)

LINGERING = 10.0
"""Seconds within which a call that was not answered may still do what it asked for."""
OTHER = "other"
"""Reason under which the provider's own codes are counted, but for the known ones."""
ROW = ("status", "final", "reason", "attempts", "unsure")
PROMISES = {"pause": "left a paused campaign", "cancel": "left a cancelled campaign"}
FORGETTABLE = {*PROMISES.values(), "added after cancel", "cancelled campaign goes on"}
"""What a Redis that loses its last writes at kill -9 does by itself."""


@dataclass(frozen=True)
class Kept:
    """A campaign in the end: its progress (a Call's ``answer``), and the rows of its report."""

    progress: Json
    rows: Sequence[Json]


@dataclass(frozen=True)
class Quiet:
    """From ``since`` until ``until`` nothing leaves a campaign but the messages ``inside`` then."""

    act: str
    since: float
    until: float
    inside: int


@dataclass
class History:
    """All that the ledgers know of one campaign."""

    name: str
    lives: list[Life]
    calls: list[Call]
    kept: Kept

    @property
    def cancelled(self) -> Call | None:
        """The first cancel that was answered."""
        held = (c for c in self.calls if c.act == "cancel" and is_done(c))
        return next((c for c in held if c.answer and c.answer["state"] == "cancelled"), None)

    @property
    def known(self) -> list[Life]:
        return [life for life in self.lives if life.record is not None or life.events]


def is_done(call: Call) -> bool:
    """Whether it was answered, and not refused."""
    return call.answer is not None and "refused" not in call.answer


def settle_campaigns(verdict: Verdict, ledgers: Ledgers, kept: dict[str, Kept]) -> None:
    """Adds to the verdict what campaigns say."""
    lives, calls = defaultdict[str, list[Life]](list), defaultdict[str, list[Call]](list)
    for life in join(ledgers)[0]:
        lives[life.asked.campaign or ""].append(life)
    for call in ledgers.calls:
        calls[call.name].append(call)
    conditions, late, stops = ledgers.conditions, 0, list[list[Quiet]]()
    for name, end in kept.items():
        campaign = History(name, lives[name], calls[name], end)
        for check in (_totals, _report, _snapshots, _refusals):
            verdict.violations += [Violation(what, name, more) for what, more in check(campaign)]
        stops.append([*quiets(campaign)])
        late += sum(len(_accepted_in(campaign, quiet)) for quiet in stops[-1])
        for call, what, more in (*_left(campaign, conditions), *_after(campaign)):
            allowed = what in FORGETTABLE and is_forgotten(call, conditions)
            found = verdict.excused if allowed else verdict.violations
            found.append(Violation(what, name, more))
    done = Counter(call.act for call in ledgers.calls if is_done(call))
    verdict.figures["campaigns"] = {
        "campaigns": len(kept),
        "messages": sum(end.progress["added"] for end in kept.values()),
        **{f"{act}s" if act != "progress" else "looks": n for act, n in sorted(done.items())},
        "cancelled": sum(end.progress["state"] == "cancelled" for end in kept.values()),
        "calls not answered": sum(call.answer is None for call in ledgers.calls),
        "adds refused": sum(
            life.asked.refused is not None for all in lives.values() for life in all
        ),
        "inside when stopped": sum(quiet.inside for each in stops for quiet in each),
        "of these accepted later": late,
    }
    verdict.figures["lost by Redis"] = dict(Counter(each.name for each in verdict.excused))


def quiets(campaign: History) -> Iterator[Quiet]:
    """When nothing may leave it. An earlier resume without an answer may still come."""
    resumes = [call for call in campaign.calls if call.act == "resume"]
    for call in campaign.calls:
        if call.act != "pause" or not is_done(call) or call.answered is None or not call.answer:
            continue
        vague = [r for r in resumes if not r.answer and 0 <= call.answered - r.called < LINGERING]
        if not vague:
            until = min((r.called for r in resumes if r.called > call.called), default=float("inf"))
            yield Quiet("pause", call.answered, until, call.answer["inside"])
    call = campaign.cancelled
    if call and call.answered and call.answer:
        yield Quiet("cancel", call.answered, float("inf"), call.answer["inside"])


def _accepted_in(campaign: History, quiet: Quiet) -> list[float]:
    instants = (each["at"] for life in campaign.lives for each in life.accepted)
    return sorted(at for at in instants if quiet.since < at < quiet.until)


def _left(campaign: History, conditions: Conditions) -> Iterator[tuple[float, str, str]]:
    """Of those inside a request then, each may leave once, and soon."""
    for quiet in quiets(campaign):
        found = _accepted_in(campaign, quiet)
        late = [at for at in found if not is_stalled(at, conditions)]
        last = quiet.since + conditions.reach
        if len(late) > quiet.inside or any(at > last for at in late):
            after = ", ".join(f"{at - quiet.since:.2f}" for at in late[:5])
            what = f"{len(late)}, {quiet.inside} inside; after {after} s"
            yield quiet.since, PROMISES[quiet.act], what


def _after(campaign: History) -> Iterator[tuple[float, str, str]]:
    """A cancelled campaign takes no message, and stays so."""
    call, state = campaign.cancelled, campaign.kept.progress["state"]
    if call and call.answered:
        late = [life.id for life in campaign.known if life.asked.called > call.answered]
        if late:
            yield call.answered, "added after cancel", f"{len(late)}: {late[0]}"
        if state != "cancelled":
            yield call.answered, "cancelled campaign goes on", state


def is_forgotten(instant: float, conditions: Conditions) -> bool:
    """Whether a killed Redis may have forgotten what it answered then."""
    return any(_covers(act, instant, conditions) for act in conditions.acts if act.forgets)


def _covers(act: Act, instant: float, conditions: Conditions) -> bool:
    return act.begun - conditions.forgotten <= instant <= act.over + TIME_MATTERS


def _totals(campaign: History) -> Iterator[Finding]:
    told, known = campaign.kept.progress, campaign.known
    last = Counter(life.last.get("status", "queued") for life in known)
    if told["statuses"] != last:
        yield "campaign's statuses wrong", f"{_less(told['statuses'], last)}"
    entered = entries(known, told["entered"])
    if told["entered"] != entered:
        yield "campaign's entries wrong", f"{_less(told['entered'], entered)}"
    ended = sum(bool(life.last.get("final")) for life in known)
    wanted = {"added": len(known), "waiting": 0, "inside": 0, "ended": ended}
    wrong = {n: (told[n], wanted[n]) for n in wanted if told[n] != wanted[n]}
    if wrong:
        yield "campaign's total wrong", f"told, by the ledger: {wrong}"
    cancels = any(call.act == "cancel" for call in campaign.calls)
    states = {"ended" if known else "running", *({"cancelled"} if cancels else ())}
    if told["state"] not in states | ({"unknown"} if not known else set()):
        yield "campaign's state wrong", told["state"]


def entries(lives: Sequence[Life], told: Json) -> Counter[str]:
    """How often messages came into a status, by reason; a code that isn't told is another one."""
    found = Counter[str]()
    for life in lives:
        before = ""
        for event in life.events:
            status, reason = event["data"]["status"], event["data"]["reason"]
            name = f"{status}:{reason}" if reason else status
            if reason and name not in told:
                name = f"{status}:{OTHER}"
            found[name] += status != before
            before = status
    return +found


def _less(told: Json, wanted: Counter[str]) -> Json:
    names = told.keys() | wanted.keys()
    return {n: (told.get(n, 0), wanted[n]) for n in names if told.get(n, 0) != wanted[n]}


def _report(campaign: History) -> Iterator[Finding]:
    """One row for each message, as its last event says."""
    rows = {row["id"]: row for row in campaign.kept.rows}
    if len(rows) != len(campaign.kept.rows):
        yield "reported twice", f"{len(campaign.kept.rows)} rows of {len(rows)} messages"
    known = {life.id: life for life in campaign.known}
    if odd := known.keys() ^ rows.keys():
        yield "report's rows wrong", f"{len(odd)}: {min(odd)}"
    for id in known.keys() & rows.keys():
        row, life = rows[id], known[id]
        wanted = {"row": life.asked.row, **{name: life.last.get(name) for name in ROW}}
        wrong = {n: (row[n], value) for n, value in wanted.items() if row[n] != value}
        if life.events and wrong:
            yield "report at odds with events", f"{id}: {wrong}"


def _snapshots(campaign: History) -> Iterator[Finding]:
    """Each answer is of one instant."""
    for call in campaign.calls:
        told = call.answer
        if told and is_done(call):
            alive = sum(n for status, n in told["statuses"].items())
            fits = told["inside"] <= told["waiting"] == told["statuses"].get("queued", 0)
            if not (fits and alive == told["added"] >= told["ended"] and told["inside"] >= 0):
                yield "progress at odds with itself", f"{call.act}: {told}"


def _refusals(campaign: History) -> Iterator[Finding]:
    """Nothing is refused before somebody has cancelled."""
    first = min((c.called for c in campaign.calls if c.act == "cancel"), default=float("inf"))
    refused = [life.asked.refused for life in campaign.lives if life.asked.refused]
    refused += [c.answered for c in campaign.calls if c.answered and c.answer and not is_done(c)]
    if early := [at for at in refused if at < first]:
        yield "refused without a cancel", f"{len(early)} times"

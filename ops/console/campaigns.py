"""Campaigns and suppressions in the console."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime, timedelta
from itertools import islice
from typing import Any, NamedTuple

from viber_courier import ConfigError, Producer, Progress, ReportRow, normalize_address
from viber_courier.ops.commands.looking import event_fields
from viber_courier.ops.console.actions import Actions
from viber_courier.ops.console.forms import Values, WrongValue, seconds_of
from viber_courier.ops.console.forms import forms as made
from viber_courier.producers.preview import mask

LISTED = 100
"""Campaigns, or suppressed numbers, that a page lists."""
CHUNK = 500
"""Rows of a report that are read and sent together."""
Read = Mapping[str, Any] | Iterator[str] | None


class Page(NamedTuple):
    """A page. ``label``: its link, "" for none. ``read`` returns what ``template`` needs.

    ``read`` may also return the parts of a file, or None if there is no such thing.
    """

    path: str
    label: str
    template: str
    read: Callable[[Any, Mapping[str, str]], Read]


# --- campaigns ------------------------------------------------------------------------------------


def _list(producer: Producer, _: Mapping[str, str]) -> Read:
    found = producer.campaigns()
    return {"campaigns": found[:LISTED], "more": len(found) > LISTED}


def _show(producer: Producer, given: Mapping[str, str]) -> Read:
    progress = _progress(producer, given["name"])
    return progress and _shown(progress)


def _shown(progress: Progress) -> dict[str, Any]:
    return {"it": progress, "left": _duration(progress.seconds_left)}


def with_lists(found: Read, about: Mapping[str, Any], name: str) -> Read:
    """Returns what a campaign's page shows, with what is said of its lists.

    A campaign of which nothing is stored has a page while a list is added to it.
    """
    if found is None and about["adding"]:
        found = _shown(Progress(name=name))
    return {**found, **about} if isinstance(found, Mapping) else found


def _progress(producer: Producer, name: str) -> Any:
    """Returns a campaign's progress; None if nothing is stored of it."""
    try:
        found = producer.campaign(name).progress()
    except ValueError:  # no campaign can be called so
        return None
    return None if found.state == "unknown" else found


def _duration(seconds: float | None) -> str:
    return "" if seconds is None else str(timedelta(seconds=round(seconds)))


def _report(producer: Producer, given: Mapping[str, str]) -> Read:
    known = _progress(producer, given["name"])
    return known and report_lines(producer.campaign(given["name"]).report())


def report_lines(rows: Iterator[ReportRow]) -> Iterator[str]:
    """Yields a report as CSV, some lines at once, under the names that events use."""
    lines: list[list[Any]] = [[*event_fields(ReportRow(row=None, id="", status=None))]]
    while lines:
        text = io.StringIO()
        csv.writer(text).writerows(lines)
        yield text.getvalue()
        lines = [[*event_fields(row).values()] for row in islice(rows, CHUNK)]


def _pause(actions: Actions, given: Values) -> str:
    done = actions.pause_campaign(given["name"], given["reason"] or "by hand")
    return f"Paused.{_inside(done)}"


def _resume(actions: Actions, given: Values) -> str:
    _require_known(actions.resume_campaign(given["name"]))
    return "Resumed."


def _cancel(actions: Actions, given: Values) -> str:
    done = _require_known(actions.cancel_campaign(given["name"]))
    return f"Cancelled: what waited has ended.{_inside(done)}"


def _require_known(done: Progress) -> Progress:
    """Returns it. Raises WrongValue if there was nothing to act on."""
    if done.state == "unknown":
        raise WrongValue("there is no such campaign, or it has expired (COURIER_RETENTION)")
    return done


def _inside(done: Progress) -> str:
    return f" {done.inside:,} are inside a request and may still leave." if done.inside else ""


# --- suppressions ---------------------------------------------------------------------------------


def _suppressed(producer: Producer, _: Mapping[str, str]) -> Read:
    try:
        found = list(islice(producer.suppressions.list(), LISTED + 1))
    except ConfigError as error:
        return {"fault": "; ".join(map(" ".join, error.faults.items())), "found": [], "more": False}
    return {"fault": "", "found": found[:LISTED], "more": len(found) > LISTED}


def _suppress(actions: Actions, given: Values) -> str:
    seconds, reason = seconds_of(given["for"]), given["reason"] or "by hand"
    until = datetime.now(UTC) + timedelta(seconds=seconds) if seconds else None
    phone = normalize_address(given["phone"])
    try:
        new = actions.suppress([phone], reason, until)
    except ValueError as error:
        raise WrongValue(str(error)) from None
    return f"{mask(phone)} is suppressed." if new else f"{mask(phone)} was suppressed already."


def _unsuppress(actions: Actions, given: Values) -> str:
    phone = normalize_address(given["phone"])
    was = actions.unsuppress([phone])
    return f"{mask(phone)} {'is no longer' if was else 'was not'} suppressed."


def _check(actions: Actions, given: Values) -> str:
    phone = normalize_address(given["phone"])
    found = actions.producer.suppressions.get(phone)
    if found is None:
        return f"{mask(phone)} is not suppressed."
    until = f"until {found.until[:10]}" if found.until else "for good"
    return f"{mask(phone)} is suppressed since {found.since[:10]}, {until}: {found.reason}."


PAGES = (
    Page("/campaigns", "Campaigns", "campaigns.html", _list),
    Page("/campaigns/{name}", "", "campaign.html", _show),
    Page("/campaigns/{name}/report.csv", "", "", _report),
    Page("/suppressions", "Suppressions", "suppressions.html", _suppressed),
)
FORMS = made(
    {"pause-campaign": _pause, "resume-campaign": _resume, "cancel-campaign": _cancel}
    | {"suppress": _suppress, "unsuppress": _unsuppress, "check-number": _check}
)

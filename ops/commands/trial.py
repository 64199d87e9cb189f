"""The dry run of ``courier bulk``: what a list would become, counted and shown."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import asdict
from decimal import Decimal, InvalidOperation
from itertools import islice
from pathlib import Path
from typing import Any

import click
import rich.table
from rich.console import Group
from rich.text import Text

from viber_courier import Producer
from viber_courier.ops.commands.terminal import console, emit, grid, plain
from viber_courier.ops.lists.columns import Row
from viber_courier.ops.lists.recipients import Survey
from viber_courier.ops.lists.tables import Table
from viber_courier.producers.client import CHUNK_ROWS
from viber_courier.producers.preview import Sms
from viber_courier.producers.rows import Checks
from viber_courier.schemas.errors import ConfigError
from viber_courier.store.replies import run

REASONS = 10
"""Most reasons that are listed."""


def price_of(ctx: Any, param: Any, text: str | None) -> Decimal | None:
    """Reads the option --sms-price."""
    try:
        price = Decimal(text) if text is not None else None
    except InvalidOperation:
        price = Decimal(-1)
    if price is not None and not (price.is_finite() and 0 <= price < 10**9):
        raise click.BadParameter("must be what one SMS segment costs, such as 4.50")
    return price


def try_out(
    table: Table,
    country: str | None,
    common: Any,
    campaign: str | None,
    template: bool,
    repeat: bool,
    refused: Callable[[Row, str], None] | None,
) -> Survey:
    """Returns what storing a list would find. Raises InvalidMessage if the common part is wrong."""
    among: Any = None
    now = time.time()
    if campaign and (common is None or isinstance(common, Mapping)):
        common = {**(common or {}), "campaign": campaign}
    survey = Survey(Checks(common, template, now, campaign or ""), now, repeat, refused)
    try:
        among = Producer.from_env().suppressions.among
    except ConfigError as error:
        survey.skip_suppressed(error)
    rows = table.rows()
    while chunk := list(islice(rows, CHUNK_ROWS)):
        survey.add(chunk, table.columns, country)
        run(survey.look_up(among))
    return survey


def country_name(code: str) -> str:
    """Returns the English name of a country's two letters."""
    # Loaded only where a country is named: it takes half a second and 90 MB.
    from phonenumbers import example_number
    from phonenumbers.geocoder import country_name_for_number

    example = example_number(code)
    return (example and country_name_for_number(example, "en")) or code


def show(
    survey: Survey, notes: list[str], price: Decimal | None, as_json: bool, kept: Path | None
) -> None:
    """Prints what a dry run found. ``kept``: the file of the refused rows."""
    found = survey.result()
    notes, sms = [*notes, *found.notes], found.sms
    cost = price * sms.segments if price is not None and sms else None
    if as_json:
        values = asdict(found) | {"landlines": survey.landlines, "notes": notes}
        values |= {"lines": survey.lines, "refusedFile": kept and str(kept)}
        values["sms"] = sms and {**asdict(sms), "cost": None if cost is None else str(cost)}
        return emit({"dryRun": True, **values})
    counts = {"rows": found.rows, "refused": found.refused, "repeated": found.repeated}
    counts |= {"messages": found.messages}
    if found.suppressed is not None:
        counts["of them to suppressed numbers"] = found.suppressed
    parts: list[Any] = [Text("Dry run: nothing is stored", "bold"), _counts(counts)]
    countries = [*(found.countries or {}).items()][:REASONS]
    sections: dict[str, dict[str, int]] = {
        "Countries": {country_name(code): count for code, count in countries},
        "Refused because": {
            f"{reason} ({'first in ' if count > 1 else ''}line {survey.lines[reason]})": count
            for reason, count in [*found.reasons.items()][:REASONS]
        },
        "SMS, if all fall back": _sms(sms) if sms and (sms.messages or cost is not None) else {},
    }
    for title, section in sections.items():
        parts += ["", Text(title, "bold"), _counts(section)] if section else []
        parts += [plain(f"See {kept}")] if kept and title == "Refused because" else []
    if cost is not None:
        everywhere = f", the same in {len(countries)} countries" if len(countries) > 1 else ""
        parts.append(f"They cost {cost:,.2f} at {price} a segment{everywhere}")
    if notes:
        parts += ["", Text("Notes", "bold"), *map(plain, notes)]
    for n, message in enumerate(found.first, 1):
        content = message.get("content", {})
        fields = {**message, **{f"content.{k}": v for k, v in content.items()}}
        lines = [(name, plain(value)) for name, value in fields.items() if name != "content"]
        parts += ["", Text(f"Message {n} of {found.messages:,}", "bold"), grid(lines)]
    console().print(Group(*parts))


def _sms(sms: Sms) -> dict[str, int]:
    return {"messages": sms.messages, "of them in Unicode": sms.unicode, "segments": sms.segments}


def _counts(found: Mapping[str, int]) -> rich.table.Table:
    width = max(len(f"{count:,}") for count in found.values())
    return grid([(f"{count:,}".rjust(width), name) for name, count in found.items()])

"""What the console can do: for each action a form, which asks once, and a call of ``Actions``."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import click

from viber_courier.ops.commands.terminal import Duration
from viber_courier.ops.console.actions import Actions
from viber_courier.ops.look import PAUSABLE
from viber_courier.schemas.status import DEAD

MOST_CHARACTERS = 200
"""Of a field's text."""
Values = Mapping[str, str]
Act = Callable[[Actions, Values], str]


class WrongValue(Exception):
    """A field's value can't be used; the text says why."""


class Field(NamedTuple):
    """A field of a form. ``kind``: of the input; "given" stands in the link that led here."""

    name: str
    label: str = ""
    kind: str = "given"
    value: str = ""
    help: str = ""
    pattern: str = ".*"


class Form(NamedTuple):
    """An action. ``title`` and ``back``, the page to go to, are formatted with the values.

    ``act`` returns what it did, for people. It raises WrongValue or CourierError. ``no``: the page
    for those who don't agree, if it is another.
    """

    title: str
    text: str
    button: str
    fields: tuple[Field, ...]
    act: Act
    back: str
    no: str = ""

    def values(self, given: Mapping[str, str], asks: bool = False) -> dict[str, str]:
        """Returns the fields' values among these. Raises WrongValue.

        ``asks``: a person has still to fill the form.
        """
        found = {}
        for field in self.fields:
            text = given.get(field.name, field.value).strip()
            if len(text) > MOST_CHARACTERS or not text.isprintable():
                raise WrongValue(f"{field.label or field.name}: too long, or not printable")
            is_free = asks and field.kind != "given"
            if not is_free and not re.fullmatch(field.pattern, text):
                raise WrongValue(f"{field.label or field.name}: {field.help or 'not allowed'}")
            found[field.name] = text
        return found


_HERE: Any = json.loads((Path(__file__).parent / "forms.json").read_text("utf-8"))
LABELS: dict[str, str] = _HERE["labels"]
"""Of a new campaign's fields, by their names in a job."""
_FIELDS = {
    "lane": Field("lane", pattern="|".join(PAUSABLE)),
    "status": Field("status", pattern="|".join(["", *sorted(DEAD)])),
    **{name: Field(**{"name": name, **field}) for name, field in _HERE["fields"].items()},
}


def forms(acts: Mapping[str, Act]) -> dict[str, Form]:
    """Returns the forms of these actions, by name; ``forms.json`` has their words."""
    found = {}
    for name, act in acts.items():
        said = _HERE["forms"][name]
        fields = tuple(_FIELDS[each] for each in said["fields"])
        found[name] = Form(**{**said, "fields": fields, "act": act})
    return found


def seconds_of(text: str) -> float | None:
    """Returns the seconds of ``90s`` and the like; None for an empty text. Raises WrongValue."""
    if not text:
        return None
    try:
        return Duration().convert(text, None, None)
    except click.UsageError as error:
        raise WrongValue(f"For how long: {error.message}") from None


def _pause(actions: Actions, given: Values) -> str:
    seconds = seconds_of(given["for"])
    actions.pause([given["lane"]], given["reason"] or "by hand", seconds)
    return f"Paused {given['lane']}" + (f" for {seconds:g} s." if seconds else ".")


def _resume(actions: Actions, given: Values) -> str:
    was = actions.resume([given["lane"]])
    return f"Resumed {given['lane']}." if was else f"{given['lane']} was not paused."


def _cancel(actions: Actions, given: Values) -> str:
    status = actions.cancel(given["id"])
    return "Cancelled." if status == "cancelled" else f"Not cancelled: the message is {status}."


def _resend(actions: Actions, given: Values) -> str:
    return f"Sent again as {actions.resend(given['id'], bool(given['unconfirmed']))}."


def _letters(given: Values) -> dict[str, str | None]:
    return {"status": given["status"] or None, "reason": given["reason"] or None}


def _resend_all(actions: Actions, given: Values) -> str:
    if (rate := float(given["rate"])) < 0.01:
        raise WrongValue("Messages a second: from 0.01 on")
    try:
        done = actions.resend_many(rate, bool(given["unconfirmed"]), **_letters(given))
    except ValueError as error:
        raise WrongValue(str(error)) from None
    return f"{len(done.ids):,} sent again, {len(done.refused):,} not: those are still on the list."


def _drop(actions: Actions, given: Values) -> str:
    actions.drop(given["id"])
    return "Dropped: its phone number and texts are erased."


def _drop_all(actions: Actions, given: Values) -> str:
    return f"{actions.drop_many(**_letters(given)):,} dropped."


def _reveal(actions: Actions, given: Values) -> str:
    actions.record("reveal", given["id"])
    return ""


FORMS = forms(
    {
        **{"pause": _pause, "resume": _resume, "cancel": _cancel, "reveal": _reveal},
        **{"resend": _resend, "resend-all": _resend_all, "drop": _drop, "drop-all": _drop_all},
    }
)
"""By the name in their address."""

"""What ``courier bulk`` is given for a form of the console, and what it says, in its words."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from viber_courier.ops.console.forms import LABELS
from viber_courier.ops.lists.recipients import counted

_OPTION = re.compile(r" ?\(--[^)]*\)")
_MAP = re.compile(r"(?:, such as address;content\.text)?; --map COLUMN.*?(?= \(|$)")
_WORDS = {
    "--map names": "Column of phone numbers names",
    "--sheet NAME": "the field Sheet",
    "--sheet": "the field Sheet",
    "Invalid value for '--country'": "Country",
    "as --country RU": "by the field Country",
    "--campaign NAME": "name",
    "name it with --encoding, e.g. cp1251": "save the list as .xlsx",
}
"""What stands in the form for the command's options."""
_PATH = re.compile(r"\b(?:common\.)?(?:content|sendWindow)\.(\w+)|\bcommon\.(\w+)")


def options_of(values: Mapping[str, str]) -> list[str]:
    """Returns the command's options, but for those that name a file."""
    options = ["--json", f"--campaign={values['name']}"]
    options += ["--template"] if values.get("template") else []
    options += [f"--map={values['column']}=address"] if values["column"] else []
    return options + [f"--{n}={values[n]}" for n in ("country", "sheet") if values[n]]


def common_of(values: Mapping[str, str]) -> dict[str, Any]:
    """Returns the common part of a draft's messages, as ``courier bulk --common`` reads it."""
    content = {
        name: values[name] for name in ("text", "caption", "action", "imageUrl") if values[name]
    }
    kinds = {("imageUrl",): "image", ("text",): "text", (): "text"}
    common: dict[str, Any] = {"contentType": kinds.get(tuple(content), "button")}
    common |= {name: values[name] for name in ("subject", "priority")}
    common |= {name: values[name] for name in ("smsText", "smsSrcAddress") if values[name]}
    common |= {"content": content} if content else {}
    if values.get("resendSms") or values["smsText"]:
        common["resendSms"] = True
    if values["hours"]:
        common["ttlSec"] = int(values["hours"]) * 3600
    days = values.get("days", "").split()
    if values["from"] or values["to"] or days:  # days alone are refused, not left out
        window: dict[str, Any] = {name: values[name] for name in ("from", "to") if values[name]}
        common["sendWindow"] = {**window, "zone": values["zone"] or "recipient"}
        common["sendWindow"] |= {"days": days} if days else {}
    return common


def plain(text: str) -> str:
    """Returns what the command said in the words of the console's form, without its options."""
    text = _OPTION.sub("", text).removeprefix("nothing was stored: ")
    text = _MAP.sub("; name that of the phone numbers in the form", text)
    for option, words in _WORDS.items():
        text = text.replace(option, words)
    text = _PATH.sub(lambda found: LABELS.get(found[1] or found[2], found[0]), text)
    return text[:1].upper() + text[1:]


def outcome(found: Mapping[str, Any]) -> str:
    """Returns what an add has done."""
    parts = [f"{counted(found['stored'], 'message')} stored"]
    for name, text in (
        ("storedBefore", "were there before"),
        ("refused", "refused"),
        ("repeated", "repeated"),
        ("suppressed", "to suppressed numbers, not sent"),
    ):
        parts += [f"{found[name]:,} {text}"] if found[name] else []
    return f"The list is added: {', '.join(parts)}."


def error_of(said: list[str]) -> str:
    """Returns the command's error; what else it printed may be a traceback."""
    found = [line.removeprefix("Error: ") for line in said if line.startswith("Error: ")]
    return found[-1] if found else "the list is too large or too odd: it took too much"

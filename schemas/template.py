"""Templates: texts of a job with ``{name}`` in place of a row's columns. Pure.

They are rendered when a row is enqueued, and only then checked: what a dry run shows is sent.
"""

import re
from collections import defaultdict
from collections.abc import Callable, Mapping
from typing import Any, TypeVar
from urllib.parse import quote

from viber_courier.schemas import fields
from viber_courier.schemas.errors import InvalidMessage
from viber_courier.schemas.message import printable

RENDERED = ("subject", "comment", "content", "smsText", "metadata", "sendWindow")
"""Fields that are templates, with all texts inside them."""
LINKS = ("content.action", "content.imageUrl")
"""Texts in which a column's value is percent-encoded, unless it is the whole link."""
_PART = re.compile(r"\{\{|\}\}|\{([^\W\d][\w -]{0,63})\}|[{}]")
_Faults = dict[str, list[str]]
T = TypeVar("T")


class Template:
    """Makes the job fields of rows. A row's keys that are no fields of a job are its columns.

    ``common`` holds those shared fields that are the same in each row. Raises InvalidMessage if a
    shared text is no template.
    """

    def __init__(self, common: Any = None) -> None:
        self.common, self._shared, faults = common, dict[str, Any](), _Faults()
        if not isinstance(common, Mapping):
            return
        self.common = {**common}
        for name in RENDERED:
            columns = defaultdict[str, str](lambda: "x")
            rendered = _render(f"common.{name}", common.get(name), columns, faults)
            if columns:  # at least one is named
                self._shared[name] = self.common.pop(name)
            elif name in common:
                self.common[name] = rendered
        if faults:
            raise InvalidMessage(faults)

    def render(self, row: Any) -> Any:
        """Returns a row without its columns: with its own and the shared texts, rendered.

        Raises InvalidMessage where a text is no template, or its column has no value in this row.
        """
        if not isinstance(row, Mapping):
            return row
        own, columns, faults = {**self._shared}, dict[str, Any](), _Faults()
        for name, value in row.items():
            (own if name in fields.JOB.fields else columns)[name] = value
        for name in RENDERED:
            if name in own:
                own[name] = _render(name, own[name], columns, faults)
        if faults:
            raise InvalidMessage(faults)
        return own

    def parser(self, check: Callable[[Any, float], T]) -> Callable[[Any, float], T]:
        """Returns a function that renders a row before it is checked."""
        return lambda row, now: check(self.render(row), now)


def _render(path: str, value: Any, columns: Mapping[str, Any], faults: _Faults) -> Any:
    """Returns a field with its texts rendered; adds what is wrong with them to ``faults``."""
    if not isinstance(value, Mapping):
        return _fill(path, value, columns, faults)
    inside = ((name, f"{path}.{printable(name)}", each) for name, each in value.items())
    return {name: _fill(where, each, columns, faults) for name, where, each in inside}


def _fill(path: str, text: Any, columns: Mapping[str, Any], faults: _Faults) -> Any:
    if not isinstance(text, str):
        return text
    is_link = path.removeprefix("common.") in LINKS

    def part(found: re.Match[str]) -> str:
        whole, name = found[0], found[1]
        if name is None:
            if len(whole) == 1:
                add("has a brace that is no part of a {column}: write {{ or }} for it")
            return whole[0]
        try:
            value = _written(columns[name])
        except (KeyError, TypeError):
            add(f"has no value for {whole}")
            return ""
        return quote(value, safe="") if is_link and whole != text else value

    def add(fault: str) -> None:
        found = faults.setdefault(path, [])
        found += [fault] if fault not in found else []

    return _PART.sub(part, text)


def _written(value: Any) -> str:
    """Returns a column's value as a text writes it. Raises TypeError if it is none."""
    if isinstance(value, str) and value.strip():
        return str.__str__(value)
    if isinstance(value, int) and not isinstance(value, bool) and value.bit_length() < 64:
        return str(int(value))
    raise TypeError

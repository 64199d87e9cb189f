"""Campaigns and suppressions in the console, where this version of the Producer has them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from viber_courier import Producer
from viber_courier.ops.console.forms import Form


class Page(NamedTuple):
    """A page. ``label``: its link; "" for none. ``read`` returns what ``template`` needs.

    ``read`` may also return the text of a file, or None if there is no such thing.
    """

    path: str
    label: str
    template: str
    read: Callable[[Producer, Mapping[str, str]], dict[str, Any] | str | None]


def pages(producer: Producer) -> list[Page]:
    """Returns the pages that this Producer can fill."""
    return []


def forms(producer: Producer) -> dict[str, Form]:
    """Returns the actions that this Producer knows."""
    return {}

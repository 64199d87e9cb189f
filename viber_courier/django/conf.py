"""``COURIER`` of the project's settings, and the Producer of the process."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import fields
from functools import cache
from typing import Any

from django.conf import settings
from django.core.exceptions import ImproperlyConfigured
from django.core.signals import setting_changed
from django.db import connections

from viber_courier.producers.calls import settings_from
from viber_courier.producers.client import Producer
from viber_courier.schemas.errors import ConfigError
from viber_courier.schemas.settings import FROM_FILE, OF_PROVIDER, PREFIX, Settings

_NAMES = {each.name for each in fields(Settings)} - {*OF_PROVIDER}
NAMES = sorted(name.upper() for name in _NAMES | {f"{n}_file" for n in _NAMES & {*FROM_FILE}})
"""Keys of ``COURIER``. What only workers read is not among them."""


def courier_settings() -> Settings:
    """Returns what ``COURIER`` says, and for what it doesn't say the ``COURIER_*`` variables.

    Raises ImproperlyConfigured with every fault.
    """
    given = getattr(settings, "COURIER", {})
    if not isinstance(given, Mapping):
        raise ImproperlyConfigured("COURIER must be a dict")
    if unknown := sorted(str(name) for name in given if name not in NAMES):
        known = ", ".join(NAMES)
        raise ImproperlyConfigured(f"COURIER: unknown {', '.join(unknown)}; known are {known}")
    env = {PREFIX + name: _text(value) for name, value in given.items() if value is not None}
    said = {name.removesuffix("_FILE") for name in env}
    others = {name: v for name, v in os.environ.items() if name.removesuffix("_FILE") not in said}
    try:
        return settings_from({**others, **env})
    except ConfigError as error:
        raise ImproperlyConfigured(str(error)) from None


def _text(value: object) -> str:
    is_list = isinstance(value, list | tuple | set | frozenset)
    return ",".join(map(str, value)) if is_list else str(value)  # type: ignore[call-overload]


@cache
def producer() -> Producer:
    """Returns the Producer of the process; threads, and processes forked later, share it."""
    return Producer(courier_settings())


def _forget(*, setting: str, **_: Any) -> None:
    """Lets a test's ``override_settings(COURIER=...)`` take effect."""
    if setting == "COURIER":
        producer.cache_clear()


setting_changed.connect(_forget)


def drop_dead_connections() -> None:
    """Closes connections to databases that have failed or are too old; a test keeps its own."""
    for connection in connections.all(initialized_only=True):
        if not connection.in_atomic_block:
            connection.close_if_unusable_or_obsolete()

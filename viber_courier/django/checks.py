"""System checks: ``manage.py check``, and each start of the server or a command."""

from collections.abc import Sequence
from typing import Any

from django.core.checks import CheckMessage, Error
from django.core.exceptions import ImproperlyConfigured
from django.db import connections, router

from viber_courier.django.conf import courier_settings
from viber_courier.django.models import OutboxMessage

CODE = "viber_courier.E00"


def check_settings(**_: Any) -> list[CheckMessage]:
    """Returns what is wrong with ``COURIER``, an address of Redis that can't be used included."""
    try:
        courier_settings()
    except ImproperlyConfigured as wrong:
        return [Error(str(wrong), id=f"{CODE}1")]
    return []


def check_databases(databases: Sequence[str] | None = None, **_: Any) -> list[CheckMessage]:
    """Returns an error for each of these databases that has the outbox, and can't have it."""
    has_outbox = [n for n in databases or () if router.allow_migrate_model(n, OutboxMessage)]
    return [
        Error(f"Database {name!r} must have transactions and AUTOCOMMIT.", id=f"{CODE}2")
        for name in has_outbox
        if not connections[name].features.supports_transactions
        or not connections[name].settings_dict["AUTOCOMMIT"]
    ]

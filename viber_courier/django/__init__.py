"""viber-courier in a Django project: put ``"viber_courier.django"`` into INSTALLED_APPS.

docs/django.md shows a project. The models are in ``viber_courier.django.models``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from django.dispatch import Signal

from viber_courier.django.conf import courier_settings, producer

if TYPE_CHECKING:
    from viber_courier import types

__all__ = ["courier_settings", "enqueue_on_commit", "message_changed", "producer"]

message_changed = Signal()
"""Sent with ``event`` and ``delivery``, inside the transaction that updates the delivery."""


def enqueue_on_commit(job: types.Job, using: str | None = None) -> str:
    """Writes a job into the outbox, in the caller's transaction; returns the message's id.

    It is sent right after the commit or, if Redis is away then, by ``manage.py courier_outbox``.
    After a rollback nothing is sent. ``using`` is the database of the transaction. Raises
    InvalidMessage, and Conflict if the outbox has another job under this id: nothing is written.
    """
    from viber_courier.django.outbox import write  # models can't be loaded with this package

    return write(job, using)

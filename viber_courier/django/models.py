"""What is to be sent, and what has become of what was sent."""

from __future__ import annotations

from datetime import datetime, timedelta

from django.conf import settings
from django.db import models
from django.utils.timezone import get_default_timezone, make_naive

from viber_courier.producers.events import Event

WAITING, SENT, REFUSED = "waiting", "sent", "refused"
"""The statuses of a message in the outbox."""
ANOTHER_AFTER = timedelta(hours=1)
"""An earlier event of the same message is never later than this, however Redis's clock steps."""


class OutboxMessage(models.Model):
    """A job that was written with the app's own rows, and is sent after their commit.

    ``job`` is its JSON with the id, empty once it is sent; ``digest`` is the same for the same job.
    ``expires_at``: it is of no use later (``ttlSec``). ``reason`` says why it was refused: then it
    is not tried again.
    """

    id = models.CharField(max_length=64, primary_key=True)
    job = models.TextField()
    digest = models.CharField(max_length=64)
    status = models.CharField(max_length=8)
    reason = models.TextField(blank=True)
    created_at = models.DateTimeField()
    expires_at = models.DateTimeField()
    ended_at = models.DateTimeField(null=True, db_index=True)

    class Meta:
        """The index finds what waits, oldest first."""

        verbose_name = "outbox message"
        indexes = (models.Index(fields=["status", "created_at"], name="viber_courier_waiting"),)

    def __str__(self) -> str:
        return str(self.id)


class Delivery(models.Model):
    """A message's latest event (docs/events.md), as ``manage.py courier_consume`` has applied it.

    ``sequence`` is the event's number, ``changed_at`` its time, ``provider_at`` the provider's time
    of the status, ``sms`` the SMS segments with their states.
    """

    id = models.CharField(max_length=64, primary_key=True)
    sequence = models.PositiveIntegerField(default=0)
    status = models.CharField(max_length=16, default="queued")
    final = models.BooleanField(default=False)
    reason = models.TextField(blank=True)
    source = models.CharField(max_length=32, blank=True)
    provider_id = models.CharField(max_length=20, blank=True)
    sms = models.JSONField(default=list)
    provider_at = models.DateTimeField(null=True)
    changed_at = models.DateTimeField(db_index=True)

    class Meta:
        """Django would say deliverys."""

        verbose_name_plural = "deliveries"

    def __str__(self) -> str:
        return str(self.id)

    def is_older_than(self, event: Event) -> bool:
        """Returns whether an event is news: the next of its message, or of another with its id.

        An id is free once its record is gone, and then its events count from 1 again.
        """
        since = in_django(datetime.fromisoformat(event.time)) - self.changed_at
        return bool(event.sequence > self.sequence or since > ANOTHER_AFTER)

    def apply(self, event: Event) -> None:
        """Sets the fields to what a newer event says."""
        data, at = event.data, event.data["statusAt"]
        self.sequence, self.status, self.final = event.sequence, event.status.value, event.final
        self.reason, self.source = data["reason"] or "", data.get("source", "")
        self.provider_id, self.sms = data["providerId"] or "", data["sms"]
        self.provider_at = in_django(datetime.fromisoformat(at)) if at else None
        self.changed_at = in_django(datetime.fromisoformat(event.time))


def in_django(instant: datetime) -> datetime:
    """Returns an instant as the project's databases take it (``USE_TZ``)."""
    return instant if settings.USE_TZ else make_naive(instant, get_default_timezone())

"""Applies result events to deliveries, each once and in the order of its message."""

from __future__ import annotations

from collections.abc import Sequence

from django.db import transaction
from django.utils import timezone

from viber_courier.django import message_changed
from viber_courier.django.conf import drop_dead_connections
from viber_courier.django.models import Delivery
from viber_courier.producers.events import Event


def apply(events: Sequence[Event], db: str) -> None:
    """Updates deliveries and sends message_changed for each event, in one transaction.

    An event that comes again is older than its delivery, and changes nothing. If a receiver raises,
    nothing is changed.
    """
    drop_dead_connections()
    ids, rows = sorted({event.subject for event in events}), Delivery.objects.using(db)
    with transaction.atomic(using=db):
        # First, so that SQLite takes its lock now; sorted, so that two consumers can't deadlock.
        new = [Delivery(id=id, changed_at=timezone.now()) for id in ids]
        rows.bulk_create(new, ignore_conflicts=True)
        found = rows.select_for_update().order_by("id").in_bulk(ids)
        for event in events:
            delivery = found[event.subject]
            if delivery.is_older_than(event):
                delivery.apply(event)
                delivery.save(using=db)
                message_changed.send(Delivery, event=event, delivery=delivery)

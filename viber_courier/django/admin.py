"""Deliveries and outbox in the admin: to be read only, and without texts and phone numbers."""

from typing import Any

from django.contrib import admin

from viber_courier.django.models import Delivery, OutboxMessage


class _ReadOnly(admin.ModelAdmin):
    search_fields = ("id__startswith",)
    show_full_result_count = False

    def has_add_permission(self, *_: Any) -> bool:
        return False

    has_change_permission = has_delete_permission = has_add_permission


@admin.register(Delivery)
class DeliveryAdmin(_ReadOnly):
    """What has become of messages."""

    list_display = ("id", "status", "final", "reason", "source", "changed_at")
    list_filter = ("status", "final", "source")
    ordering = ("-changed_at",)


@admin.register(OutboxMessage)
class OutboxMessageAdmin(_ReadOnly):
    """What waits to be sent, what was sent, and what was refused and why."""

    list_display = ("id", "status", "created_at", "ended_at", "reason")
    list_filter = ("status",)
    ordering = ("-created_at",)
    exclude = ("job", "digest")

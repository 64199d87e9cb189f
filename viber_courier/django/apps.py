"""The app, as INSTALLED_APPS names it."""

from django.apps import AppConfig
from django.core.checks import Tags, register


class ViberCourierConfig(AppConfig):
    """Outbox and deliveries of Viber messages."""

    name = "viber_courier.django"
    label = "viber_courier"
    verbose_name = "Viber messages"

    def ready(self) -> None:
        """Registers the system checks."""
        from viber_courier.django import checks

        register(checks.check_settings)
        register(checks.check_databases, Tags.database)

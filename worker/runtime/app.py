"""A Celery app that ignores other Celery settings in the same environment."""

from typing import Any

import click
from celery import Celery
from celery.loaders.app import AppLoader

APP = "viber_courier.worker"
"""The name after ``celery -A``; no other command line is changed."""


class Loader(AppLoader):  # type: ignore[misc]
    """Reads no configuration module: ``CELERY_CONFIG_MODULE`` belongs to another app."""

    def read_configuration(self, env: str = "") -> None:
        """Returns nothing: all settings come from the app's own code."""


class App(Celery):  # type: ignore[misc]
    """Takes its settings from its own code only.

    Celery prefers ``CELERY_BROKER_URL``, ``CELERY_RESULT_BACKEND`` and ``CELERY_LOADER`` to an
    app's own settings, sets Django up if ``DJANGO_SETTINGS_MODULE`` is set, and also reads each
    command-line option from a variable (``CELERY_WORKER_QUEUES``, ``CELERY_BEAT_SCHEDULER`` ...).
    """

    amqp_cls = "viber_courier.worker.runtime.broker:AMQP"
    backend_cls = "disabled"
    builtin_fixups = frozenset[str]()

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **{"loader": Loader, **options})

    def on_init(self) -> None:
        """Switches off the variables for options of the command that is being parsed."""
        context = click.get_current_context(silent=True)
        if context is not None and str(context.params.get("app")).startswith(APP):
            context.auto_envvar_prefix = None

    def connection(self, hostname: Any = None, *args: Any, **options: Any) -> Any:
        """Connects to the broker of the app's settings, not to that of the environment."""
        return super().connection(hostname or self.conf["broker_url"], *args, **options)

    def connection_for_read(self, url: Any = None, **options: Any) -> Any:
        """Connects for reading, as ``connection`` does."""
        return super().connection_for_read(url or self.conf["broker_url"], **options)

    def connection_for_write(self, url: Any = None, **options: Any) -> Any:
        """Connects for writing, as ``connection`` does."""
        return super().connection_for_write(url or self.conf["broker_url"], **options)

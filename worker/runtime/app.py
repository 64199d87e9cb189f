"""A Celery app that another Celery's settings in the same environment don't reach."""

from typing import Any

import click
from celery import Celery
from celery.loaders.app import AppLoader

APP = "viber_courier.worker"
"""What ``celery -A`` names: only that command line's options are ours to protect."""


class Loader(AppLoader):  # type: ignore[misc]
    """Reads no configuration module: ``CELERY_CONFIG_MODULE`` is another app's."""

    def read_configuration(self, env: str = "") -> None:
        """Return nothing: all settings come from the app's own code."""


class App(Celery):  # type: ignore[misc]
    """Takes its settings from its own code only.

    Celery prefers ``CELERY_BROKER_URL``, ``CELERY_RESULT_BACKEND`` and ``CELERY_LOADER`` to what an
    app says, sets Django up where ``DJANGO_SETTINGS_MODULE`` is set, and reads each option of its
    command line from a variable, too (``CELERY_WORKER_QUEUES``, ``CELERY_BEAT_SCHEDULER`` ...).
    """

    amqp_cls = "viber_courier.worker.runtime.broker:AMQP"
    backend_cls = "disabled"
    builtin_fixups = frozenset[str]()

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **{"loader": Loader, **options})

    def on_init(self) -> None:
        """Switch off the variables for the options of the command that is about to be parsed."""
        context = click.get_current_context(silent=True)
        if context is not None and str(context.params.get("app")).startswith(APP):
            context.auto_envvar_prefix = None

    def connection(self, hostname: Any = None, *args: Any, **options: Any) -> Any:
        """Connect to the broker that the code names, not to that of the environment."""
        return super().connection(hostname or self.conf["broker_url"], *args, **options)

    def connection_for_read(self, url: Any = None, **options: Any) -> Any:
        """As ``connection``."""
        return super().connection_for_read(url or self.conf["broker_url"], **options)

    def connection_for_write(self, url: Any = None, **options: Any) -> Any:
        """As ``connection``."""
        return super().connection_for_write(url or self.conf["broker_url"], **options)

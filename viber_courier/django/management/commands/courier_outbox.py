"""``manage.py courier_outbox``: sends what waits in the outbox."""

from __future__ import annotations

import threading
import time
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.db import Error, router
from django.utils import timezone

from viber_courier.django.conf import drop_dead_connections
from viber_courier.django.models import REFUSED, WAITING, OutboxMessage
from viber_courier.django.outbox import prune, send_waiting
from viber_courier.producers.consume import _signals

LOOK_EVERY, RETRY_EVERY, PRUNE_EVERY = 0.5, 0.2, 60.0
"""Seconds between looks at an empty outbox, tries of a Redis that is away, and prunings."""
LATE = 60
"""Age of a waiting message at which ``--status`` fails, in seconds."""
STATUS = f"Print how many messages wait; exit with 1 if one has waited for over {LATE} seconds."


class Command(BaseCommand):
    """Send what could not be sent right after its commit, until SIGTERM or Ctrl-C."""

    help = __doc__

    def add_arguments(self, parser: CommandParser) -> None:
        """Adds the options."""
        parser.add_argument("--database", default=router.db_for_write(OutboxMessage))
        parser.add_argument("--once", action="store_true", help="Send what waits, and end.")
        parser.add_argument("--status", action="store_true", help=STATUS)

    def handle(self, *, database: str, once: bool, status: bool, **_: Any) -> None:
        """Runs the command. With ``once``, raises CommandError if Redis or the database is away."""
        if status:
            self._print_status(database)
            return
        stop, pruned, logged = threading.Event(), float("-inf"), ""
        with _signals(stop):
            while not stop.is_set():
                drop_dead_connections()
                count, wait = 0, None
                try:
                    if time.monotonic() - pruned > PRUNE_EVERY:
                        prune(database)
                        pruned = time.monotonic()
                    count, wait = send_waiting(database)
                except Error as error:
                    wait = error
                if once and wait:
                    raise CommandError(str(wait)) from wait
                if once and not count:
                    break
                if wait and str(wait) != logged:
                    self.stderr.write(f"the outbox waits: {wait}")
                logged = str(wait or "")
                if wait or not count:
                    stop.wait(RETRY_EVERY if wait else LOOK_EVERY)

    def _print_status(self, database: str) -> None:
        rows = OutboxMessage.objects.using(database)
        waiting, refused = rows.filter(status=WAITING), rows.filter(status=REFUSED)
        oldest = waiting.order_by("created_at").first()
        age = (timezone.now() - oldest.created_at).total_seconds() if oldest else 0
        text = f"waiting {waiting.count()}, the oldest for {age:.0f} s; refused {refused.count()}"
        if age > LATE:
            raise CommandError(text)
        self.stdout.write(text)
